/*
 * How bytes move: non-blocking, level-triggered, in pieces of at most CHAR_IN_MAX, on the owner's
 * loop.
 *
 * Input is read only when the buffer is empty, and handed to the owner until it takes less than it
 * is offered; then the source is muted until char_resume_input(). So a slow guest slows its peer
 * down and nothing piles up here. Two things must work all the same while a guest reads nothing,
 * and are looked at each CHAR_STUCK_MS: ^A x on a terminal (further keys are searched for it and
 * dropped), and a client that has left (the next one gets its turn).
 *
 * Output is given to the kernel at once or refused; a refusal is followed by one output_ready.
 *
 * The one timer is, by kind: the next read of an input that cannot be polled (a file as stdin); the
 * time a pty may stay full; the look at a stuck owner; the pause after a failed accept.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "devices/host/char_host.h"
#include "vmm/log.h"

enum { KEY_ESCAPE = 0x01 };

static const struct timespec no_wait;

void char_timer(struct char_host *c, unsigned ms)
{
	loop_timer_set(c->timer, ms ? (uint64_t)ms * 1000000 : 1, 0);
}

/* Tell the loop what we wait for now. */
static void set_interest(struct char_host *c)
{
	bool room = c->in_pos == c->in_len && !c->paused;
	unsigned in = !c->in_eof && (room || c->discard) ? LOOP_READ : 0;
	unsigned out = c->out_wait ? LOOP_WRITE : 0;

	if (c->in_src && c->in_src == c->out_src) {
		in = out = in | out;
		if (in != c->in_mask)
			loop_modify(c->in_src, in);
	} else {
		if (c->in_src && in != c->in_mask)
			loop_modify(c->in_src, in);
		if (c->out_src && out != c->out_mask)
			loop_modify(c->out_src, out);
	}
	c->in_mask = in;
	c->out_mask = out;
}

/*
 * Take ^A x and ^A ^A out of buf[0..n); returns how much is left, written from `to`, which lies at
 * or one byte before `buf`: a held back ^A that meant nothing comes out first.
 */
static size_t take_escapes(struct char_host *c, uint8_t *to, const uint8_t *buf, size_t n)
{
	size_t len = 0;
	bool hang_up = false;

	for (size_t i = 0; i < n; i++) {
		uint8_t key = buf[i];

		if (!c->escape && key == KEY_ESCAPE) {
			c->escape = true;
			continue;
		}
		if (c->escape && key == 'x') {
			hang_up = true;
		} else {
			if (c->escape && key != KEY_ESCAPE)
				to[len++] = KEY_ESCAPE;
			to[len++] = key;
		}
		c->escape = false;
	}
	if (hang_up && c->events.hang_up)
		c->events.hang_up(c->events.ctx);
	return len;
}

/* Hand what is there to the owner. resume_input() from inside input() is noted and obeyed here. */
static void deliver(struct char_host *c)
{
	if (c->delivering)
		return;
	c->delivering = true;
	while (c->in_pos < c->in_len && !c->paused) {
		size_t len = c->in_len - c->in_pos, taken;

		c->resumed = false;
		taken = c->events.input(c->events.ctx, c->in + c->in_pos, len);
		c->in_pos += taken;
		c->paused = taken < len && !(c->resumed && taken);
	}
	c->delivering = false;
}

static void input_ended(struct char_host *c)
{
	if (c->is_socket)
		char_client_gone(c, true);
	else
		c->in_eof = true;
}

/* The owner does not read: throw keys away, but see ^A x. */
static void discard_input(struct char_host *c)
{
	uint8_t keys[257];
	ssize_t n = read(c->in_fd, keys + 1, sizeof(keys) - 1);

	if (n > 0)
		take_escapes(c, keys, keys + 1, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		input_ended(c);
}

/* May a read of in_fd block? With may_block only a poll can tell. */
static bool input_waits(const struct char_host *c)
{
	struct pollfd p = { .fd = c->in_fd, .events = POLLIN };

	return !c->may_block || c->in_unpollable || ppoll(&p, 1, &no_wait, NULL) > 0;
}

static void read_input(struct char_host *c)
{
	ssize_t n;

	if (c->in_fd < 0 || c->in_eof || !input_waits(c))
		return;
	if (c->discard) {
		discard_input(c);
		set_interest(c);
		return;
	}
	if (c->paused || c->in_pos < c->in_len)
		return;
	n = read(c->in_fd, c->in + 1, CHAR_IN_MAX);
	if (n > 0) {
		if (c->escapes) {
			c->in_pos = 0;
			c->in_len = take_escapes(c, c->in, c->in + 1, (size_t)n);
		} else {
			c->in_pos = 1;
			c->in_len = 1 + (size_t)n;
		}
		deliver(c);
		if (c->in_unpollable ? !c->paused : c->paused && (c->escapes || c->is_socket))
			char_timer(c, c->in_unpollable ? 0 : CHAR_STUCK_MS);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		input_ended(c);
	}
	set_interest(c);
}

static bool client_left(const struct char_host *c)
{
	struct pollfd p = { .fd = c->in_fd, .events = 0 };

	return ppoll(&p, 1, &no_wait, NULL) > 0 && (p.revents & (POLLHUP | POLLERR));
}

static void output_has_room(struct char_host *c)
{
	bool owed = c->out_wait && !c->dropping;

	c->out_wait = c->dropping = false;
	set_interest(c);
	if (owed)
		c->events.output_ready(c->events.ctx);
}

static void on_timer(void *ctx)
{
	struct char_host *c = ctx;

	if (c->in_unpollable) {
		read_input(c);
	} else if (c->mode == CHAR_PTY && c->out_wait && !c->dropping) {
		/* Nobody reads: the guest goes on, its output is dropped until there is room. */
		c->dropping = true;
		c->events.output_ready(c->events.ctx);
	} else if (c->paused && c->escapes) {
		c->discard = true;
		set_interest(c);
	} else if (c->paused && c->is_socket && c->in_fd >= 0) {
		if (client_left(c))
			char_client_gone(c, true);
		else
			char_timer(c, CHAR_STUCK_MS);
	}
	if (c->kind->tick)
		c->kind->tick(c);
}

static void on_input(void *ctx, unsigned events)
{
	if (events & (LOOP_READ | LOOP_HANGUP))
		read_input(ctx);
}

static void on_output(void *ctx, unsigned events)
{
	struct char_host *c = ctx;

	/* After a hang-up the next write says what is wrong. */
	if ((events & (LOOP_WRITE | LOOP_HANGUP)) && c->out_wait)
		output_has_room(c);
}

static void on_both(void *ctx, unsigned events)
{
	struct char_host *c = ctx;

	on_input(ctx, c->in_mask & LOOP_READ ? events : events & ~(unsigned)LOOP_HANGUP);
	on_output(ctx, events);
}

int char_watch(struct char_host *c)
{
	bool both = c->in_fd >= 0 && c->in_fd == c->out_fd;
	int r = 0;

	/* Unknown, so that set_interest() mutes what it does not want: loop_add() with nothing
	 * asked still reports hang-ups. */
	c->in_mask = c->out_mask = UINT_MAX;
	if (c->in_fd >= 0)
		r = loop_add(c->loop, c->in_fd, 0, both ? on_both : on_input, c, &c->in_src);
	if (r == -EPERM) {
		/* A file or /dev/null as stdin: always ready, so read by a timer. */
		c->in_unpollable = true;
		c->in_src = NULL;
		char_timer(c, 0);
		r = 0;
	}
	if (!r && both)
		c->out_src = c->in_src;
	else if (!r && c->out_fd >= 0 && !c->regular)
		r = loop_add(c->loop, c->out_fd, 0, on_output, c, &c->out_src);
	if (r == -EPERM) {
		c->out_src = NULL;
		r = 0;
	}
	if (!r)
		set_interest(c);
	return r;
}

void char_unwatch(struct char_host *c)
{
	loop_remove(c->in_src);
	if (c->out_src != c->in_src)
		loop_remove(c->out_src);
	c->in_src = c->out_src = NULL;
}

int char_io_attach(struct char_host *c)
{
	int r = loop_timer_add(c->loop, on_timer, c, &c->timer);

	return r ? r : char_watch(c);
}

void char_client_gone(struct char_host *c, bool tell)
{
	bool owed = c->out_wait;

	char_unwatch(c);
	close(c->in_fd);
	c->in_fd = c->out_fd = -1;
	c->out_wait = false;
	loop_modify(c->listen_src, LOOP_READ);
	if (owed && tell)
		c->events.output_ready(c->events.ctx);
}

/* Bytes, or -errno. One piece goes by write(), which main may make too: a device's last words, when
 * its worker is gone. */
static ssize_t write_some(struct char_host *c, struct iovec *iov, int n)
{
	struct pollfd p = { .fd = c->out_fd, .events = POLLOUT };
	size_t len = iov[0].iov_len;
	ssize_t r;

	if (c->may_block) {
		if (ppoll(&p, 1, &no_wait, NULL) == 0)
			return -EAGAIN;
		len = MIN(len, (size_t)CHAR_PIECE);
		n = 1;
	}
	r = n == 1 ? write(c->out_fd, iov[0].iov_base, len) : writev(c->out_fd, iov, n);
	return r < 0 ? -errno : r;
}

/* What is left of `total` was not written, for this reason. Returns how much of it counts as taken.
 */
static size_t not_written(struct char_host *c, size_t left, int error)
{
	if (error == -EAGAIN && c->out_src) {
		if (!c->dropping && !c->out_wait) {
			c->out_wait = true;
			set_interest(c);
			if (c->mode == CHAR_PTY)
				char_timer(c, CHAR_STALL_MS);
		}
		if (!c->dropping)
			return 0;
	} else if (c->is_socket) {
		char_client_gone(c, false);
	} else if (!c->warned) {
		c->warned = true;
		log_warn("%s: output is dropped: %s", c->option,
			error == -EFBIG && c->limit ? "the file has reached its limit"
						    : strerror(-error));
	}
	c->dropped += left;
	return left;
}

int char_iov_advance(struct iovec *iov, int n, size_t done)
{
	int first = 0;

	while (first < n && done >= iov[first].iov_len)
		done -= iov[first++].iov_len;
	if (first < n) {
		iov[first].iov_base = (char *)iov[first].iov_base + done;
		iov[first].iov_len -= done;
	}
	memmove(iov, iov + first, (size_t)(n - first) * sizeof(*iov));
	return n - first;
}

/* The first `len` bytes of the pieces; returns how many pieces hold them. */
static int clip(struct iovec *iov, int n, size_t len)
{
	int i = 0;

	for (; i < n && len; i++) {
		iov[i].iov_len = MIN(iov[i].iov_len, len);
		len -= iov[i].iov_len;
	}
	return i;
}

size_t char_output_iov(struct char_host *c, const struct iovec *pieces, int n)
{
	struct iovec iov[CHAR_IOV_MAX];
	size_t total = 0, done = 0, allowed;
	ssize_t r = 0;

	n = MIN(n, CHAR_IOV_MAX);
	for (int i = 0; i < n; i++) {
		iov[i] = pieces[i];
		total += iov[i].iov_len;
	}
	if (c->out_fd < 0 || c->dropping || c->detached) {
		c->dropped += total;
		return total;
	}
	if (c->out_wait || !total)
		return 0;
	allowed = c->limit ? MIN(total, c->limit - c->written) : total;
	n = char_iov_advance(iov, clip(iov, n, allowed), 0);
	while (done < allowed) {
		r = write_some(c, iov, n);
		if (r == -EINTR)
			continue;
		if (r <= 0)
			break;
		done += (size_t)r;
		n = char_iov_advance(iov, n, (size_t)r);
	}
	c->written += done;
	if (done < total)
		done += not_written(c, total - done, done == allowed ? -EFBIG : r ? (int)r : -EIO);
	return done;
}

size_t char_output(struct char_host *c, const void *data, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)data, len };

	return char_output_iov(c, &iov, 1);
}

void char_resume_input(struct char_host *c)
{
	c->resumed = true;
	if (c->delivering || !c->paused)
		return;
	c->paused = c->discard = false;
	deliver(c);
	if (c->in_unpollable && !c->paused && !c->in_eof)
		char_timer(c, 0);
	else if (c->paused && (c->escapes || (c->is_socket && c->in_fd >= 0)))
		char_timer(c, CHAR_STUCK_MS);
	set_interest(c);
}
