/*
 * A link that is a Linux tap interface (Documentation/networking/tuntap.rst): one read or write per
 * frame, straight between guest memory and the kernel, a batch of them by one system call where the
 * kernel has io_uring (link_tap_ring.c).
 *
 * The tap carries a virtio_net_hdr of 12 bytes (IFF_VNET_HDR, TUNSETVNETHDRSZ), so checksums and
 * segmentation are left undone from one end to the other. The kernel checks the header itself and
 * refuses a wrong one (EINVAL): that frame is dropped. A tap that is set down answers EIO, one that
 * was removed EBADFD: frames are dropped.
 *
 * The first link of an interface follows what the host says about it (link_watch.c): set down, its
 * carrier gone, or removed, it is down; it comes up again when the interface does. Removal is for
 * good. An interface that only went to another network namespace cannot be followed there: it keeps
 * the state that it had. Main listens to the host, and tells the owner by a word and an eventfd.
 *
 * watch, close: main. The rest: the owner of the queue pair. link_tap_open.c makes them.
 */
#include "devices/host/link_tap.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/log.h"

static struct tap *tap_of(struct link *l)
{
	return container_of(l, struct tap, link);
}

const struct syscall_row tap_plain_syscalls[] = {
	{ SYSCALL(readv, "a frame from the tap into the guest's buffers") },
	{ SYSCALL(writev, "a frame from the guest's buffers to the tap") },
	SYSCALL_END,
};

const struct syscall_row link_tap_syscalls[] = {
	{ SYSCALL(ioctl, "tell the tap what the driver takes", SYSCALL_ARG_EQ(1, TUNSETOFFLOAD)) },
	SYSCALL_END,
};

const struct syscall_row link_tap_main_syscalls[] = {
	{ SYSCALL(io_uring_register, "let go of the tap", SYSCALL_ARG_EQ(1, IORING_UNREGISTER_FILES)) },
	SYSCALL_END,
};

const struct syscall_row link_tap_watch_syscalls[] = {
	{ SYSCALL(ioctl, "is the tap still there", SYSCALL_ARG_EQ(1, TUNGETIFF)) },
	{ SYSCALL(recvfrom, "what the host says about the interface", SYSCALL_ARG_EQ(3, MSG_DONTWAIT)) },
	{ SYSCALL(sendto, "ask the host about the interface", SYSCALL_ARG_EQ(3, MSG_DONTWAIT)) },
	SYSCALL_END,
};

const struct syscall_row link_tap_pairs_syscalls[] = {
	{ SYSCALL(ioctl, "steer frames to the queue pairs in use", SYSCALL_ARG_EQ(1, TUNSETQUEUE)) },
	SYSCALL_END,
};

/* --- owner --- */

/* A detached queue looks to the kernel as if its interface were gone: it must not be watched. */
static void rewatch(struct tap *t)
{
	unsigned events = (t->listening ? LOOP_READ : 0u) | (t->blocked ? LOOP_WRITE : 0u);

	if (t->source)
		loop_modify(t->source, t->disabled ? 0 : events);
}

static void set_state(struct tap *t, bool up)
{
	if (t->link.up == up)
		return;
	t->link.up = up;
	if (!up && t->blocked) {
		t->blocked = false;
		rewatch(t);
	}
	if (t->events.state)
		t->events.state(t->events.ctx, up);
}

/* The interface is gone for good: its fd would be ready for ever. */
static void gone(struct tap *t)
{
	if (t->gone)
		return;
	t->gone = true;
	loop_remove(t->source);
	t->source = NULL;
	set_state(t, false);
}

static void on_told(void *ctx)
{
	struct tap *t = ctx;
	int state = atomic_load_explicit(&t->told, memory_order_relaxed);

	if (state == LINK_WATCH_GONE)
		gone(t);
	else if (!t->gone)
		set_state(t, state == LINK_WATCH_UP);
}

/* As tap_ring_send(), but not beyond the first that the tap has no room for. */
static unsigned write_each(struct tap *t, struct link_frame *f, unsigned n)
{
	int skip = t->has_header ? 0 : 1;

	for (unsigned i = 0; i < n; i++) {
		ssize_t r = writev(t->fd, f[i].iov + skip, f[i].n - skip);

		f[i].result = r < 0 ? -errno : r;
		if (f[i].result == -EAGAIN)
			return i;
	}
	return n;
}

/* What the kernel said into what a link says. */
static void judge_sent(struct tap *t, struct link_frame *f, unsigned n)
{
	bool dead = false;

	for (unsigned i = 0; i < n; i++) {
		dead = dead || f[i].result == -EBADFD;
		/*
		 * Lost, as a network may lose frames: those with a header that the kernel refuses,
		 * or without memory, or that a later one of the batch has overtaken.
		 */
		f[i].result = f[i].result == -EBADFD || f[i].result == -EIO ? -ENETDOWN : 0;
	}
	if (dead)
		gone(t);
}

static unsigned tap_send(struct link *l, struct link_frame *f, unsigned n)
{
	struct tap *t = tap_of(l);
	unsigned done = 0;

	if (l->up && !t->disabled) {
		done = t->ring ? tap_ring_send(t->ring, f, n) : write_each(t, f, n);
		while (done && f[done - 1].result == -EAGAIN)
			done--;
		judge_sent(t, f, done);
		if (l->up && done < n && t->source) {
			t->blocked = true;
			rewatch(t);
			return done;
		}
	}
	for (; done < n; done++)
		f[done].result = -ENETDOWN;
	return n;
}

/*
 * Write `len` zeroes, the header, at the start of iov; what follows it is left in out[]. Returns
 * the elements of out.
 */
static int zero_header(const struct iovec *iov, int n, struct iovec *out)
{
	size_t left = LINK_HEADER_LEN;
	int m = 0;

	for (int i = 0; i < n; i++) {
		size_t k = MIN(left, iov[i].iov_len);

		memset(iov[i].iov_base, 0, k);
		left -= k;
		if (iov[i].iov_len > k)
			out[m++] = (struct iovec){ (char *)iov[i].iov_base + k,
				iov[i].iov_len - k };
	}
	return m;
}

static ssize_t read_one(struct tap *t, struct link_frame *f)
{
	struct iovec frame[LINK_IOV_MAX + 1], *iov = f->iov;
	ssize_t r, header = 0;
	int n = f->n + 1;

	if (!t->has_header) {
		header = LINK_HEADER_LEN;
		n = zero_header(iov, f->n, frame);
		iov = frame;
		iov[n++] = (struct iovec){ &t->spill, 1 };
	}
	r = readv(t->fd, iov, n);
	return r < 0 ? -errno : r + header;
}

/* As tap_ring_recv(), but not beyond the first that finds none. */
static unsigned read_each(struct tap *t, struct link_frame *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		f[i].result = read_one(t, &f[i]);
		if (f[i].result < 0)
			return i + 1;
	}
	return n;
}

/* Returns how many count: none behind the last that found something. */
static unsigned judge_received(struct tap *t, struct link_frame *f, unsigned n)
{
	unsigned done = 0;
	bool dead = false;

	for (unsigned i = 0; i < n; i++) {
		ssize_t room = 0;

		dead = dead || f[i].result == -EBADFD;
		if (f[i].result < 0) {
			f[i].result = -EAGAIN;
			continue;
		}
		for (int k = 0; k < f[i].n; k++)
			room += (ssize_t)f[i].iov[k].iov_len;
		if (f[i].result > room)
			f[i].result = -EMSGSIZE;
		done = i + 1;
	}
	if (dead)
		gone(t);
	return done;
}

static unsigned tap_recv(struct link *l, struct link_frame *f, unsigned n)
{
	struct tap *t = tap_of(l);

	if (!l->up || t->disabled)
		return 0;
	/*
	 * The kernel cuts a frame that does not fit without a word: one byte more than there is
	 * room tells.
	 */
	for (unsigned i = 0; i < n; i++)
		f[i].iov[f[i].n] = (struct iovec){ &t->spill, 1 };
	n = t->ring ? tap_ring_recv(t->ring, f, n) : read_each(t, f, n);
	return judge_received(t, f, n);
}

static void on_event(void *ctx, unsigned events)
{
	struct tap *t = ctx;

	if (events & LOOP_HANGUP) {
		gone(t);
		return;
	}
	if ((events & LOOP_WRITE) && t->blocked) {
		t->blocked = false;
		rewatch(t);
		t->events.writable(t->events.ctx);
	}
	if ((events & LOOP_READ) && t->listening)
		t->events.readable(t->events.ctx);
}

static void tap_detach(struct link *l)
{
	struct tap *t = tap_of(l);

	loop_remove(t->source);
	loop_remove(t->told_source);
	t->source = t->told_source = NULL;
	t->listening = t->blocked = false;
}

static int tap_attach(struct link *l, struct loop *loop, const struct link_events *events)
{
	struct tap *t = tap_of(l);

	int r;

	t->events = *events;
	t->listening = t->blocked = false;
	if (t->gone)
		return 0;
	r = loop_add(loop, t->fd, 0, on_event, t, &t->source);
	if (!r)
		rewatch(t);
	if (!r && t->told_fd >= 0)
		r = loop_add_eventfd(loop, t->told_fd, on_told, t, &t->told_source);
	if (r)
		tap_detach(l);
	return r;
}

static void tap_listen(struct link *l, bool on)
{
	struct tap *t = tap_of(l);

	if (t->listening == on)
		return;
	t->listening = on;
	rewatch(t);
}

static int tap_enable(struct link *l, bool on)
{
	struct ifreq ifr = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };
	struct tap *t = tap_of(l);

	if (t->disabled == !on)
		return 0;
	/* Off the loop before it is detached, back on it after. */
	if (!on) {
		t->disabled = true;
		rewatch(t);
	}
	if (ioctl(t->fd, TUNSETQUEUE, &ifr)) {
		int r = -errno;

		t->disabled = on;
		rewatch(t);
		return r;
	}
	t->disabled = !on;
	rewatch(t);
	return 0;
}

/* Of Linux 6.2 and later; one without the other is refused. */
enum { TAP_USO4 = 0x20, TAP_USO6 = 0x40 };

static int tap_set_offload(struct link *l, unsigned offloads)
{
	static const struct {
		unsigned link, tun;
	} map[] = {
		{ LINK_OFFLOAD_CSUM, TUN_F_CSUM },
		{ LINK_OFFLOAD_TSO4, TUN_F_TSO4 },
		{ LINK_OFFLOAD_TSO6, TUN_F_TSO6 },
		{ LINK_OFFLOAD_TSO_ECN, TUN_F_TSO_ECN },
		{ LINK_OFFLOAD_USO, TAP_USO4 | TAP_USO6 },
	};
	unsigned long flags = 0;

	/* Segmentation without checksums makes no sense, and the kernel refuses it. */
	if (offloads & LINK_OFFLOAD_CSUM)
		for (size_t i = 0; i < ARRAY_SIZE(map); i++)
			flags |= offloads & map[i].link ? map[i].tun : 0;
	return ioctl(tap_of(l)->fd, TUNSETOFFLOAD, flags) ? -errno : 0;
}

static int tap_forked(struct link *l)
{
	struct ifreq ifr = { .ifr_flags = IFF_DETACH_QUEUE };
	struct tap *t = tap_of(l);

	/* Refused where that is how it is. */
	if (t->disabled && ioctl(t->fd, TUNSETQUEUE, &ifr))
		t->disabled = true;
	if (t->has_header)
		tap_set_offload(l, 0);
	return t->ring ? tap_ring_renew(t->ring, t->fd) : 0;
}

/* --- main --- */

static void on_watch(void *ctx, enum link_watch_state state)
{
	const uint64_t one = 1;
	struct tap *t = ctx;
	struct ifreq ifr;

	if (state == LINK_WATCH_GONE && (!ioctl(t->fd, TUNGETIFF, &ifr) || errno != EBADFD))
		return;
	/* The write of the eventfd orders this before the owner's read of it, and its look. */
	atomic_store_explicit(&t->told, (int)state, memory_order_relaxed);
	if (write(t->told_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it rings all the same */
}

static int tap_watch(struct link *l, struct loop *main_loop)
{
	struct tap *t = tap_of(l);

	return t->watch ? link_watch_attach(t->watch, main_loop, on_watch, t) : 0;
}

static void tap_fds(const struct link *l, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct tap *t = (const struct tap *)l;

	keep(ctx, t->fd);
	if (t->watch)
		keep(ctx, link_watch_fd(t->watch));
	if (t->told_fd >= 0)
		keep(ctx, t->told_fd);
}

static void tap_close(struct link *l)
{
	if (!l)
		return;
	link_watch_detach(tap_of(l)->watch);
	link_watch_close(tap_of(l)->watch);
	if (tap_of(l)->told_fd >= 0)
		close(tap_of(l)->told_fd);
	tap_ring_destroy(tap_of(l)->ring);
	close(tap_of(l)->fd);
	free(tap_of(l));
}

const struct link_ops link_tap_ops = {
	.send = tap_send,
	.recv = tap_recv,
	.watch = tap_watch,
	.attach = tap_attach,
	.listen = tap_listen,
	.detach = tap_detach,
	.set_offload = tap_set_offload,
	.enable = tap_enable,
	.fds = tap_fds,
	.forked = tap_forked,
	.close = tap_close,
};
