/*
 * A link over a stream socket, on which each frame follows its length in 4 bytes, big-endian: the
 * wire of passt and of QEMU's stream netdev.
 *
 * The owner of the link reads as much as fits in one buffer and hands out the frames in it; a batch
 * of frames to send is one call. A frame that the socket takes only in part is kept and finished
 * before the next one is taken, so the link holds at most one frame to send and one buffer of
 * received ones.
 *
 * The stream has no way to find the next frame after a wrong length. So a length of 0 or above
 * LINK_FRAME_MAX, an end of the stream, an error, or the end of the peer's process takes the link
 * down, once and for good, and its events say so. Nothing that the peer sends can do more.
 *
 * Main watches the peer's process, takes its status, and tells the owner by an eventfd.
 *
 * For a device with a process of its own frames go whole (link_whole.c).
 */
#include "devices/host/link_stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/host/link_stream_private.h"
#include "vmm/log.h"

static const struct syscall_row stream_syscalls[] = {
	{ SYSCALL(sendmsg, "frames to the peer") },
	{ SYSCALL(recvfrom, "frames from the peer") },
	SYSCALL_END,
};

/* --- owner --- */

void link_stream_down(struct stream *p)
{
	if (!p->link.up)
		return;
	p->link.up = false;
	loop_remove(p->source);
	p->source = NULL;
	p->rx_start = p->rx_end = p->tx_start = p->tx_end = 0;
	if (p->events.state)
		p->events.state(p->events.ctx, false);
}

void link_stream_rewatch(struct stream *p)
{
	if (p->source)
		loop_modify(p->source, (p->listening && !link_whole_rests(p) ? LOOP_READ : 0u) |
			(p->blocked ? LOOP_WRITE : 0u));
}

/* Bytes sent, 0 when the socket is full, -ENETDOWN. */
ssize_t link_stream_put(struct stream *p, struct iovec *iov, int n)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t r = sendmsg(p->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (r >= 0)
		return r;
	if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ENOMEM)
		return 0;
	link_stream_down(p);
	return -ENETDOWN;
}

void link_stream_set_blocked(struct stream *p, bool blocked)
{
	if (p->blocked == blocked)
		return;
	p->blocked = blocked;
	link_stream_rewatch(p);
}

/* 0: nothing is left over; -EAGAIN, -ENETDOWN. */
static int flush_tx(struct stream *p)
{
	struct iovec iov = { p->tx + p->tx_start, p->tx_end - p->tx_start };
	ssize_t r;

	if (!iov.iov_len)
		return 0;
	r = link_stream_put(p, &iov, 1);
	if (r < 0)
		return (int)r;
	p->tx_start += (size_t)r;
	return p->tx_start == p->tx_end ? 0 : -EAGAIN;
}

/* Keep what follows the first `sent` bytes of iov. */
static void keep_rest(struct stream *p, const struct iovec *iov, int n, size_t sent)
{
	p->tx_start = p->tx_end = 0;
	for (int i = 0; i < n; i++) {
		size_t skip = MIN(sent, iov[i].iov_len);

		memcpy(p->tx + p->tx_end, (char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
		p->tx_end += iov[i].iov_len - skip;
		sent -= skip;
	}
}

static bool fair(const struct link_frame *f)
{
	return f->total >= LINK_HEADER_LEN + LINK_FRAME_MIN && f->total <= LINK_HEADER_LEN + LINK_FRAME_MAX;
}

/* The frames that `sent` bytes are, the last perhaps in part: then its rest is kept. */
static unsigned count_sent(struct stream *p, struct link_frame *f, size_t sent)
{
	unsigned done = 0;

	for (; sent; done++) {
		size_t bytes = LENGTH_BYTES + f[done].total - LINK_HEADER_LEN;

		if (sent < bytes)
			keep_rest(p, f[done].iov, f[done].n, sent);
		f[done].result = 0;
		sent -= MIN(sent, bytes);
	}
	return done;
}

/* As many as one call takes, of frames that a stream can carry. 0: none now, or it is down. */
static unsigned send_some(struct stream *p, struct link_frame *f, unsigned n)
{
	unsigned k = 0, iovs = 0, done;
	size_t bytes = 0;
	ssize_t sent;

	for (; k < n && fair(&f[k]); k++) {
		p->prefix[k] = htonl((uint32_t)(f[k].total - LINK_HEADER_LEN));
		f[k].iov[0] = (struct iovec){ &p->prefix[k], LENGTH_BYTES };
		bytes += LENGTH_BYTES + f[k].total - LINK_HEADER_LEN;
		iovs += (unsigned)f[k].n;
	}
	if (!k) {
		f[0].result = 0;
		return 1;
	}
	if (p->whole)
		return link_whole_send(p, f, k);
	sent = link_stream_put(p, f[0].iov, (int)iovs);
	if (sent < 0)
		return 0;
	done = count_sent(p, f, (size_t)sent);
	if ((size_t)sent < bytes)
		link_stream_set_blocked(p, true);
	return done;
}

static unsigned stream_send(struct link *l, struct link_frame *f, unsigned n)
{
	struct stream *p = link_stream_of(l);
	unsigned done = 0;

	if (l->up)
		link_stream_set_blocked(p, flush_tx(p) == -EAGAIN);
	while (l->up && done < n && !p->blocked)
		done += send_some(p, f + done, n - done);
	if (l->up)
		return done;
	for (; done < n; done++)
		f[done].result = -ENETDOWN;
	return n;
}

/* More bytes into the buffer: 0, -EAGAIN, -ENETDOWN. Less than it has room for is all there was. */
static int fill(struct stream *p)
{
	size_t room;
	ssize_t r;

	if (p->drained)
		return -EAGAIN;
	if (p->whole)
		return link_whole_fill(p);
	memmove(p->rx, p->rx + p->rx_start, p->rx_end - p->rx_start);
	p->rx_end -= p->rx_start;
	p->rx_start = 0;
	room = RX_BYTES - p->rx_end;
	r = recv(p->fd, p->rx + p->rx_end, room, MSG_DONTWAIT);
	if (r > 0) {
		p->rx_end += (size_t)r;
		p->drained = (size_t)r < room;
		return 0;
	}
	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	link_stream_down(p);
	return -ENETDOWN;
}

/*
 * Length of the frame at the front of the buffer, 0 when it is not there in full, or down with
 * -ENETDOWN.
 */
static ssize_t whole_frame(struct stream *p)
{
	size_t have = p->rx_end - p->rx_start;
	uint32_t len;

	if (have < LENGTH_BYTES)
		return 0;
	memcpy(&len, p->rx + p->rx_start, sizeof(len));
	len = ntohl(len);
	if (!len || len > LINK_FRAME_MAX) {
		log_guest(LOG_WARN, "%s sent a frame of %u bytes; its link is down now", p->name,
			len);
		link_stream_down(p);
		return -ENETDOWN;
	}
	return have - LENGTH_BYTES >= len ? (ssize_t)len : 0;
}

/* A header of zeroes, then the frame. False when there is not room for both. */
static bool scatter(const struct iovec *iov, int n, const uint8_t *frame, size_t len)
{
	size_t room = 0, header = LINK_HEADER_LEN;

	for (int i = 0; i < n; i++)
		room += iov[i].iov_len;
	if (room < header + len)
		return false;
	for (int i = 0; i < n && (header || len); i++) {
		uint8_t *to = iov[i].iov_base;
		size_t k = MIN(header, iov[i].iov_len), m = MIN(len, iov[i].iov_len - k);

		memset(to, 0, k);
		memcpy(to + k, frame, m);
		header -= k;
		frame += m;
		len -= m;
	}
	return true;
}

static ssize_t receive(struct stream *p, const struct iovec *iov, int n)
{
	const uint8_t *frame;
	ssize_t len;
	int r;

	while (!(len = whole_frame(p))) {
		r = fill(p);
		if (r)
			return r;
	}
	if (len < 0)
		return len;
	frame = p->rx + p->rx_start + LENGTH_BYTES;
	p->rx_start += LENGTH_BYTES + (size_t)len;
	if (len < LINK_FRAME_MIN || !scatter(iov, n, frame, (size_t)len))
		return -EMSGSIZE;
	return len + LINK_HEADER_LEN;
}

static unsigned stream_recv(struct link *l, struct link_frame *f, unsigned n)
{
	unsigned done = 0;

	link_stream_of(l)->drained = false;
	for (; l->up && done < n; done++) {
		f[done].result = receive(link_stream_of(l), f[done].iov, f[done].n);
		if (f[done].result < 0 && f[done].result != -EMSGSIZE)
			break;
	}
	return done;
}

static void tell_readable(struct stream *p);

static void on_again(void *ctx)
{
	struct stream *p = ctx;

	p->again_posted = false;
	if (p->loop)
		tell_readable(p);
}

/*
 * The socket says nothing about frames that are in our buffer already: when the reader stopped
 * before the end, come back.
 */
static void tell_readable(struct stream *p)
{
	if (!p->link.up || !p->listening)
		return;
	p->events.readable(p->events.ctx);
	if (p->link.up && p->listening && p->loop && !p->again_posted && whole_frame(p) > 0)
		p->again_posted = !loop_post(p->loop, on_again, p);
}

static void on_event(void *ctx, unsigned events)
{
	struct stream *p = ctx;

	if ((events & LOOP_WRITE) && p->blocked) {
		if (flush_tx(p) == 0) {
			link_stream_set_blocked(p, false);
			p->events.writable(p->events.ctx);
		}
	}
	if (events & LOOP_READ)
		tell_readable(p);
	/*
	 * What was sent before the hang-up is read first; with nobody reading there is no point in
	 * waiting.
	 */
	if ((events & LOOP_HANGUP) && !(events & LOOP_READ))
		link_stream_down(p);
}

static void on_ended(void *ctx)
{
	link_stream_down(ctx);
}

static void stream_detach(struct link *l)
{
	struct stream *p = link_stream_of(l);

	loop_remove(p->source);
	loop_remove(p->ended);
	if (p->whole)
		link_whole_detach(p);
	p->source = p->ended = NULL;
	p->loop = NULL;
	p->listening = p->blocked = false;
}

static int stream_attach(struct link *l, struct loop *loop, const struct link_events *events)
{
	struct stream *p = link_stream_of(l);
	int r;

	p->events = *events;
	p->loop = loop;
	p->listening = false;
	if (!l->up)
		return 0;
	/* A frame in part from before is finished as soon as there is room. */
	p->blocked = p->tx_start < p->tx_end;
	r = loop_add(loop, p->fd, p->blocked ? LOOP_WRITE : 0, on_event, p, &p->source);
	if (!r && p->ended_fd >= 0)
		r = loop_add_eventfd(loop, p->ended_fd, on_ended, p, &p->ended);
	if (!r && p->whole)
		r = link_whole_attach(p, loop);
	if (r)
		stream_detach(l);
	return r;
}

static void stream_listen(struct link *l, bool on)
{
	struct stream *p = link_stream_of(l);

	if (p->listening == on)
		return;
	p->listening = on;
	link_stream_rewatch(p);
}

static int stream_set_offload(struct link *l, unsigned offloads)
{
	(void)l;
	return offloads ? -EOPNOTSUPP : 0;
}

/* --- main --- */

/* What it said last, without its complaints about a missing syslog. `text` is changed. */
static const char *last_words(char *text)
{
	const char *last = "";
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (strncmp(line, "Failed to send", 14))
			last = line;
	return last;
}

static void on_exit_of_peer(void *ctx, unsigned events)
{
	const uint64_t one = 1;
	struct stream *p = ctx;
	siginfo_t info = { 0 };
	char text[1024];
	ssize_t n;

	(void)events;
	loop_remove(p->watch);
	p->watch = NULL;
	waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG);
	n = p->errors_fd >= 0 ? read(p->errors_fd, text, sizeof(text) - 1) : 0;
	text[MAX(n, 0)] = '\0';
	log_warn("%s ended (%s %d), its network is down: %s", p->name,
		info.si_code == CLD_EXITED ? "status" : "signal", info.si_status, last_words(text));
	if (write(p->ended_fd, &one, sizeof(one)) < 0)
		return; /* never: it is rung once */
}

static int stream_watch(struct link *l, struct loop *main_loop)
{
	struct stream *p = link_stream_of(l);

	return p->pidfd < 0 ? 0 : loop_add(main_loop, p->pidfd, LOOP_READ, on_exit_of_peer, p, &p->watch);
}

static void stream_close(struct link *l)
{
	struct stream *p = l ? link_stream_of(l) : NULL;

	if (!p)
		return;
	loop_remove(p->watch);
	if (p->ended_fd >= 0)
		close(p->ended_fd);
	link_whole_free(p->whole);
	close(p->fd);
	child_end(p->pidfd);
	if (p->errors_fd >= 0)
		close(p->errors_fd);
	free(p);
}

/* --- a process of its own --- */

static void stream_fds(const struct link *l, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct stream *p = (const struct stream *)l;

	keep(ctx, p->fd);
	keep(ctx, p->ended_fd);
	if (p->whole)
		link_whole_fds(p, keep, ctx);
}

/* As main left it: nothing was sent or taken there. */
static int stream_forked(struct link *l)
{
	(void)l;
	return 0;
}

static const struct link_ops stream_ops = {
	.send = stream_send,
	.recv = stream_recv,
	.watch = stream_watch,
	.attach = stream_attach,
	.listen = stream_listen,
	.detach = stream_detach,
	.set_offload = stream_set_offload,
	.fds = stream_fds,
	.forked = stream_forked,
	.close = stream_close,
};

int link_stream_adopt(struct link **ret, int fd, const struct child *child, const char *name)
{
	struct stream *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->ended_fd = child ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	if (child && p->ended_fd < 0) {
		int r = -errno;

		free(p);
		return r;
	}
	p->link.ops = &stream_ops;
	p->link.syscalls[0] = stream_syscalls;
	p->link.main_syscalls = child ? child_main_syscalls : NULL;
	p->link.up = true;
	p->fd = fd;
	p->pidfd = child ? child->pidfd : -1;
	p->errors_fd = child ? child->errors_fd : -1;
	p->name = name;
	*ret = &p->link;
	return 0;
}
