/*
 * A link that is a Linux tap interface (Documentation/networking/tuntap.rst): one read or write per
 * frame, straight between guest memory and the kernel.
 *
 * The tap carries a virtio_net_hdr of 12 bytes (IFF_VNET_HDR, TUNSETVNETHDRSZ), so checksums and
 * segmentation are left undone from one end to the other. The kernel checks the header itself and
 * refuses a wrong one (EINVAL): that frame is dropped. A tap that is set down answers EIO, one that
 * was removed EBADFD: frames are dropped.
 *
 * The first link of an interface follows what the host says about it (link_watch.c): set down, its
 * carrier gone, or removed, it is down; it comes up again when the interface does. Removal is for
 * good. An interface that only went to another network namespace cannot be followed there: it keeps
 * the state that it had.
 *
 * close: main. The rest: the owner of the queue pair. link_tap_open.c makes them.
 */
#include "devices/host/link_tap.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/log.h"

static struct tap *tap_of(struct link *l)
{
	return container_of(l, struct tap, link);
}

const struct syscall_row link_tap_syscalls[] = {
	{ SYSCALL(readv, "a frame from the tap into the guest's buffers") },
	{ SYSCALL(writev, "a frame from the guest's buffers to the tap") },
	{ SYSCALL(ioctl, "tell the tap what the driver takes", SYSCALL_ARG_EQ(1, TUNSETOFFLOAD)) },
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
	link_watch_detach(t->watch);
	set_state(t, false);
}

static void on_watch(void *ctx, enum link_watch_state state)
{
	struct tap *t = ctx;
	struct ifreq ifr;

	if (state != LINK_WATCH_GONE)
		set_state(t, state == LINK_WATCH_UP);
	else if (ioctl(t->fd, TUNGETIFF, &ifr) && errno == EBADFD)
		gone(t);
}

static int tap_send(struct link *l, struct iovec *iov, int n, size_t total)
{
	struct tap *t = tap_of(l);
	int skip = t->has_header ? 0 : 1;

	(void)total;
	if (!l->up || t->disabled)
		return -ENETDOWN;
	if (writev(t->fd, iov + skip, n - skip) >= 0)
		return 0;
	switch (errno) {
	case EAGAIN:
		if (!t->source)
			return 0;
		t->blocked = true;
		rewatch(t);
		return -EAGAIN;
	case EBADFD:
		gone(t);
		return -ENETDOWN;
	case EIO:
		return -ENETDOWN;
	default: /* a header the kernel refuses, no memory: a network may lose frames */
		return 0;
	}
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

static ssize_t tap_recv(struct link *l, struct iovec *iov, int n)
{
	struct iovec frame[LINK_IOV_MAX + 1];
	struct tap *t = tap_of(l);
	size_t room = 0, header = 0;
	ssize_t r;

	if (!l->up || t->disabled)
		return -ENETDOWN;
	for (int i = 0; i < n; i++)
		room += iov[i].iov_len;
	if (!t->has_header) {
		header = LINK_HEADER_LEN;
		n = zero_header(iov, n, frame);
		iov = frame;
	}
	/*
	 * The kernel cuts a frame that does not fit without a word: one byte more than there is
	 * room tells.
	 */
	iov[n] = (struct iovec){ &t->spill, 1 };
	r = readv(t->fd, iov, n + 1);
	if (r >= 0)
		return (size_t)r + header > room ? -EMSGSIZE : r + (ssize_t)header;
	if (errno == EAGAIN || errno == EINTR)
		return -EAGAIN;
	if (errno == EBADFD)
		gone(t);
	return -ENETDOWN;
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
	t->source = NULL;
	link_watch_detach(t->watch);
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
	if (!r && t->watch)
		r = link_watch_attach(t->watch, loop, on_watch, t);
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

static void tap_forked(struct link *l)
{
	struct ifreq ifr = { .ifr_flags = IFF_DETACH_QUEUE };
	struct tap *t = tap_of(l);

	/* Refused where that is how it is. */
	if (t->disabled && ioctl(t->fd, TUNSETQUEUE, &ifr))
		t->disabled = true;
	if (t->has_header)
		tap_set_offload(l, 0);
}

/* --- main --- */

static void tap_fds(const struct link *l, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct tap *t = (const struct tap *)l;

	keep(ctx, t->fd);
	if (t->watch)
		keep(ctx, link_watch_fd(t->watch));
}

static void tap_close(struct link *l)
{
	if (!l)
		return;
	link_watch_close(tap_of(l)->watch);
	close(tap_of(l)->fd);
	free(tap_of(l));
}

const struct link_ops link_tap_ops = {
	.send = tap_send,
	.recv = tap_recv,
	.attach = tap_attach,
	.listen = tap_listen,
	.detach = tap_detach,
	.set_offload = tap_set_offload,
	.enable = tap_enable,
	.fds = tap_fds,
	.forked = tap_forked,
	.close = tap_close,
};
