/*
 * Whole frames on a stream: for links that one process serves after the other.
 *
 * Of a device with a process of its own (isolation=process) one process follows another at the
 * same socket, and the stream must stand where a frame begins at whichever instruction the first
 * one ended. So nothing is ever taken or given but whole frames, each by one system call that does
 * all of it or nothing: received bytes are looked at (MSG_PEEK) and then taken up to the end of
 * the last whole frame; each frame that is sent is a message of its own, and one that the kernel
 * cuts into several buffers waits until there is room for them all. What a process had taken and
 * not handed out is lost with it, as in any network.
 *
 * Linux's AF_UNIX (net/unix/af_unix.c): a message of up to 32 KiB is one buffer and is queued or
 * refused; a larger one is cut, and each buffer is refused when the socket's room is used up before
 * it. A frame of which only a part has come stays in the socket, which epoll would report without
 * end; so it is left alone for a while, for longer each time.
 */
#include <errno.h>
#include <arpa/inet.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "devices/host/link_stream_private.h"
#include "vmm/log.h"

enum {
	ONE_BUFFER = 32 * KIB,
	LARGE_ROOM = 80 * KIB,   /* what all buffers but the last of the largest frame take */
	SNDBUF = 256 * KIB,
	PART_NS = 200000, PART_NS_MAX = 50000000,
};

struct link_whole {
	int timer_fd;            /* const */
	int room;                /* const; of the socket, bytes */
	struct loop_source *timer; /* owner */
	uint64_t part_ns;        /* owner; 0: no frame is there in part; else how long it is left alone */
	bool part_due;           /* owner; that time is over */
	struct mmsghdr msgs[LINK_BATCH_MAX];
	uint8_t taken[RX_BYTES];
};

static const struct syscall_row whole_syscalls[] = {
	{ SYSCALL(sendmsg, "a large frame to the peer") },
	{ SYSCALL(sendmmsg, "frames to the peer, each whole") },
	{ SYSCALL(recvfrom, "frames from the peer") },
	{ SYSCALL(ioctl, "room for a large frame", SYSCALL_ARG_EQ(1, SIOCOUTQ)) },
	SYSCALL_END,
};

/* --- sending --- */

static void torn(struct stream *p)
{
	log_warn("a frame to %s was sent in part only; its link is down now", p->name);
	link_stream_down(p);
}

/* From memory of our own, of which nothing can be missing. 1, or 0: no room, or it is down. */
static unsigned send_large(struct stream *p, struct link_frame *f)
{
	struct iovec iov = { p->tx, 0 };
	int queued = 0;
	ssize_t r;

	if (ioctl(p->fd, SIOCOUTQ, &queued) < 0 || queued + LARGE_ROOM > p->whole->room) {
		link_stream_set_blocked(p, true);
		return 0;
	}
	for (int i = 0; i < f->n; iov.iov_len += f->iov[i++].iov_len)
		memcpy(p->tx + iov.iov_len, f->iov[i].iov_base, f->iov[i].iov_len);
	r = link_stream_put(p, &iov, 1);
	if (r > 0 && (size_t)r < iov.iov_len)
		torn(p);
	if (r == 0)
		link_stream_set_blocked(p, true);
	f->result = 0;
	return r > 0;
}

static unsigned send_each(struct stream *p, struct link_frame *f, unsigned n)
{
	struct mmsghdr *msgs = p->whole->msgs;
	int r;

	for (unsigned i = 0; i < n; i++)
		msgs[i].msg_hdr = (struct msghdr){ .msg_iov = f[i].iov, .msg_iovlen = (size_t)f[i].n };
	r = sendmmsg(p->fd, msgs, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS && errno != ENOMEM)
		link_stream_down(p);
	for (int i = 0; i < r; i++) {
		f[i].result = 0;
		if (p->link.up && msgs[i].msg_len != LENGTH_BYTES + f[i].total - LINK_HEADER_LEN)
			torn(p);
	}
	if (p->link.up && r < (int)n)
		link_stream_set_blocked(p, true);
	return (unsigned)MAX(r, 0);
}

unsigned link_whole_send(struct stream *p, struct link_frame *f, unsigned n)
{
	unsigned small = 0;

	while (small < n && f[small].total <= ONE_BUFFER)
		small++;
	return small ? send_each(p, f, small) : send_large(p, f);
}

/* --- receiving --- */

bool link_whole_rests(const struct stream *p)
{
	return p->whole && p->whole->part_ns && !p->whole->part_due;
}

/* Bytes of whole frames at the front of `n` looked at; what is no frame goes with them. */
static size_t whole_bytes(const struct stream *p, size_t n)
{
	size_t at = 0;
	uint32_t len;

	while (n - at >= LENGTH_BYTES) {
		memcpy(&len, p->rx + at, sizeof(len));
		len = ntohl(len);
		if (!len || len > LINK_FRAME_MAX)
			return n;
		if (n - at - LENGTH_BYTES < len)
			break;
		at += LENGTH_BYTES + len;
	}
	return at;
}

/* Only a part of a frame is there: epoll would say so again and again. */
static void wait_for_rest(struct stream *p)
{
	struct link_whole *w = p->whole;
	struct itimerspec t = { 0 };

	w->part_ns = MIN(MAX(2 * w->part_ns, (uint64_t)PART_NS), (uint64_t)PART_NS_MAX);
	w->part_due = false;
	t.it_value.tv_nsec = (long)w->part_ns;
	timerfd_settime(w->timer_fd, 0, &t, NULL);
	link_stream_rewatch(p);
}

/* What is looked at is taken before it is handed out. */
int link_whole_fill(struct stream *p)
{
	ssize_t r = recv(p->fd, p->rx, RX_BYTES, MSG_DONTWAIT | MSG_PEEK);
	size_t n;

	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (r <= 0) {
		link_stream_down(p);
		return -ENETDOWN;
	}
	n = whole_bytes(p, (size_t)r);
	if (!n) {
		wait_for_rest(p);
		return -EAGAIN;
	}
	/* They are there, so they come at once and all. */
	if (recv(p->fd, p->whole->taken, n, MSG_DONTWAIT) != (ssize_t)n) {
		link_stream_down(p);
		return -ENETDOWN;
	}
	p->whole->part_ns = 0;
	p->rx_start = 0;
	p->rx_end = n;
	p->drained = (size_t)r < RX_BYTES;
	return 0;
}

static void on_rest(void *ctx)
{
	struct stream *p = ctx;

	p->whole->part_due = true;
	link_stream_rewatch(p);
}

int link_whole_attach(struct stream *p, struct loop *loop)
{
	return loop_add_eventfd(loop, p->whole->timer_fd, on_rest, p, &p->whole->timer);
}

void link_whole_detach(struct stream *p)
{
	loop_remove(p->whole->timer);
	p->whole->timer = NULL;
	p->whole->part_ns = 0;
}

/* --- main --- */

void link_whole_fds(const struct stream *p, void (*keep)(void *ctx, int fd), void *ctx)
{
	keep(ctx, p->whole->timer_fd);
}

void link_whole_free(struct link_whole *w)
{
	if (w && w->timer_fd >= 0)
		close(w->timer_fd);
	free(w);
}

int link_stream_will_fork(struct link *l)
{
	struct stream *p = link_stream_of(l);
	const int want = SNDBUF;
	socklen_t len = sizeof(p->whole->room);

	p->whole = calloc(1, sizeof(*p->whole));
	if (!p->whole)
		return -ENOMEM;
	p->whole->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->whole->timer_fd < 0)
		return -errno;
	/* As much as the host allows; its default would do as well. */
	(void)!setsockopt(p->fd, SOL_SOCKET, SO_SNDBUF, &want, sizeof(want));
	if (getsockopt(p->fd, SOL_SOCKET, SO_SNDBUF, &p->whole->room, &len))
		return -errno;
	l->watched_by_main = true;
	l->syscalls[0] = whole_syscalls;
	return p->whole->room > 2 * LARGE_ROOM ? 0 : -ENOBUFS;
}
