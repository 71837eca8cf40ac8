/*
 * A link that is a Linux tap interface (Documentation/networking/tuntap.rst): one read or write per
 * frame, straight between guest memory and the kernel.
 *
 * The tap carries a virtio_net_hdr of 12 bytes (IFF_VNET_HDR, TUNSETVNETHDRSZ), so checksums and
 * segmentation are left undone from one end to the other. The kernel checks the header itself and
 * refuses a wrong one (EINVAL): that frame is dropped. A tap that is set down answers EIO, one that
 * was removed EBADFD: frames are dropped, nothing else happens.
 *
 * open, adopt, close: main. The rest: the owner of the queue pair.
 */
#include "devices/host/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/log.h"

struct tap {
	struct link link;            /* first */
	int fd;                      /* const */
	bool has_header;             /* const; frames carry a vnet header */
	struct loop_source *source;  /* owner */
	struct link_events events;   /* owner */
	bool listening, blocked;     /* owner */
	bool disabled;               /* owner; this queue of the interface is detached from it */
	uint8_t spill;               /* owner; a frame that reaches here was too long */
};

static struct tap *tap_of(struct link *l)
{
	return container_of(l, struct tap, link);
}

/* --- owner --- */

/* A detached queue looks to the kernel as if its interface were gone: it must not be watched. */
static void rewatch(struct tap *t)
{
	unsigned events = (t->listening ? LOOP_READ : 0u) | (t->blocked ? LOOP_WRITE : 0u);

	if (t->source)
		loop_modify(t->source, t->disabled ? 0 : events);
}

/* The interface is gone for good: its fd would be ready for ever. */
static void gone(struct tap *t)
{
	if (!t->link.up)
		return;
	t->link.up = false;
	loop_remove(t->source);
	t->source = NULL;
	if (t->events.state)
		t->events.state(t->events.ctx, false);
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

static int tap_attach(struct link *l, struct loop *loop, const struct link_events *events)
{
	struct tap *t = tap_of(l);

	t->events = *events;
	t->listening = t->blocked = false;
	return l->up ? loop_add(loop, t->fd, 0, on_event, t, &t->source) : 0;
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

static void tap_detach(struct link *l)
{
	struct tap *t = tap_of(l);

	loop_remove(t->source);
	t->source = NULL;
	t->listening = t->blocked = false;
}

static int tap_set_offload(struct link *l, unsigned offloads)
{
	static const struct {
		unsigned link, tun;
	} map[] = {
		{ LINK_OFFLOAD_CSUM, TUN_F_CSUM },
		{ LINK_OFFLOAD_TSO4, TUN_F_TSO4 },
		{ LINK_OFFLOAD_TSO6, TUN_F_TSO6 },
		{ LINK_OFFLOAD_TSO_ECN, TUN_F_TSO_ECN },
	};
	unsigned long flags = 0;

	/* Segmentation without checksums makes no sense, and the kernel refuses it. */
	if (offloads & LINK_OFFLOAD_CSUM)
		for (size_t i = 0; i < ARRAY_SIZE(map); i++)
			flags |= offloads & map[i].link ? map[i].tun : 0;
	return ioctl(tap_of(l)->fd, TUNSETOFFLOAD, flags) ? -errno : 0;
}

/* --- main --- */

static void tap_close(struct link *l)
{
	if (!l)
		return;
	close(tap_of(l)->fd);
	free(tap_of(l));
}

static const struct link_ops tap_ops = {
	.send = tap_send,
	.recv = tap_recv,
	.attach = tap_attach,
	.listen = tap_listen,
	.detach = tap_detach,
	.set_offload = tap_set_offload,
	.enable = tap_enable,
	.close = tap_close,
};

static int tap_make(struct link **ret, int fd, bool has_header, struct error *err)
{
	static const unsigned wanted[] = {
		LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6 | LINK_OFFLOAD_TSO_ECN,
		LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6,
		LINK_OFFLOAD_CSUM,
	};
	struct tap *t = calloc(1, sizeof(*t));
	int size = LINK_HEADER_LEN;

	if (!t) {
		close(fd);
		return error_set(err, ENOMEM, "out of memory");
	}
	t->link.ops = &tap_ops;
	t->link.up = true;
	t->fd = fd;
	t->has_header = has_header && !ioctl(fd, TUNSETVNETHDRSZ, &size);
	if (t->has_header)
		for (size_t i = 0; i < ARRAY_SIZE(wanted) && !t->link.offloads; i++)
			if (!tap_set_offload(&t->link, wanted[i]))
				t->link.offloads = wanted[i];
	/* Nothing until a driver says what it can take. */
	if (t->has_header)
		tap_set_offload(&t->link, 0);
	*ret = &t->link;
	return 0;
}

static int attach_failed(int code, const char *name, bool multi, struct error *err)
{
	if (code == EINVAL && multi)
		return error_set(err, code,
			"exists and is no tap with several queues; make it with: ip tuntap add %s "
			"mode tap multi_queue vnet_hdr; or leave num_queues out",
			name);

	switch (code) {
	case EPERM:
		return error_set(err, code,
			"no right to create or use it; make it once as root with: ip tuntap add %s "
			"mode tap user $USER; ip link set %s up",
			name, name);
	case EBUSY:
		return error_set(err, code,
			"is in use by another machine or program; stop that one or choose another "
			"tap");
	case EINVAL:
		return error_set(err, code,
			"exists and is no tap that can be attached to; choose another name");
	default:
		return error_set(err, code, "cannot be attached to: %s", strerror(code));
	}
}

static int open_queue(struct ifreq *ifr, bool multi, struct error *err)
{
	static const short base = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), code;

	if (fd < 0 && (errno == ENOENT || errno == ENODEV))
		return error_set(err, errno,
			"there is no /dev/net/tun; load the module with: modprobe tun");
	if (fd < 0)
		return error_set(err, errno, "/dev/net/tun: %s; check its rights", strerror(errno));
	ifr->ifr_flags = (short)(base | (multi ? IFF_MULTI_QUEUE : 0));
	if (!ioctl(fd, TUNSETIFF, ifr))
		return fd;
	code = errno;
	/* An existing tap with several queues can be used with one of them. */
	if (code == EINVAL && !multi) {
		ifr->ifr_flags = (short)(base | IFF_MULTI_QUEUE);
		if (!ioctl(fd, TUNSETIFF, ifr))
			return fd;
	}
	close(fd);
	return attach_failed(code, ifr->ifr_name, multi, err);
}

static int set_address(int sock, struct ifreq *ifr, unsigned long request, const char *text,
	struct error *err)
{
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr->ifr_addr;

	*sin = (struct sockaddr_in){ .sin_family = AF_INET };
	if (inet_pton(AF_INET, text, &sin->sin_addr) != 1)
		return error_set(err, EINVAL,
			"%s is not an IPv4 address; write four numbers such as 192.168.249.1",
			text);
	if (ioctl(sock, request, ifr))
		return error_set(err, errno,
			"address %s cannot be set: %s; set it beforehand as root, or leave it out",
			text, strerror(errno));
	return 0;
}

static int set_numbers(int sock, struct ifreq *ifr, const struct link_tap_config *config,
	struct error *err)
{
	int r = 0;

	if (config->host_mac) {
		ifr->ifr_hwaddr.sa_family = ARPHRD_ETHER;
		memcpy(ifr->ifr_hwaddr.sa_data, config->host_mac, 6);
		if (ioctl(sock, SIOCSIFHWADDR, ifr))
			return error_set(err, errno, "host_mac cannot be set: %s", strerror(errno));
	}
	if (config->mtu) {
		ifr->ifr_mtu = (int)config->mtu;
		if (ioctl(sock, SIOCSIFMTU, ifr))
			return error_set(err, errno, "mtu=%u cannot be set: %s", config->mtu,
				strerror(errno));
	}
	if (config->ip)
		r = set_address(sock, ifr, SIOCSIFADDR, config->ip, err);
	if (!r && config->ip)
		r = set_address(sock, ifr, SIOCSIFNETMASK,
			config->mask ? config->mask : "255.255.255.0", err);
	return r;
}

/* Addresses, then up; the MTU that results goes to *mtu. */
static int configure(struct ifreq *ifr, const struct link_tap_config *config, uint32_t *mtu,
	struct error *err)
{
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r;

	if (sock < 0)
		return error_set(err, errno, "no socket to set it up: %s", strerror(errno));
	r = set_numbers(sock, ifr, config, err);
	if (!r && !ioctl(sock, SIOCGIFFLAGS, ifr) && !(ifr->ifr_flags & IFF_UP)) {
		ifr->ifr_flags |= IFF_UP;
		/* Without the right to it frames are dropped until somebody who may sets it up. */
		if (ioctl(sock, SIOCSIFFLAGS, ifr))
			log_warn("tap %s is down; set it up with: ip link set %s up", ifr->ifr_name,
				ifr->ifr_name);
	}
	if (!r && !ioctl(sock, SIOCGIFMTU, ifr))
		*mtu = (uint32_t)ifr->ifr_mtu;
	close(sock);
	return r;
}

int link_tap_open(struct link **ret, unsigned n, const struct link_tap_config *config,
	struct error *err)
{
	struct ifreq ifr = { 0 };
	uint32_t mtu = 0;
	unsigned made = 0;
	int r = 0;

	if (config->name && strlen(config->name) >= sizeof(ifr.ifr_name))
		return error_set(err, ENAMETOOLONG, "longer than %zu characters; shorten it",
			sizeof(ifr.ifr_name) - 1);
	if (config->name)
		memcpy(ifr.ifr_name, config->name, strlen(config->name));
	for (; made < n; made++) {
		r = open_queue(&ifr, n > 1, err);
		if (r >= 0)
			r = tap_make(&ret[made], r, true, err);
		if (r < 0)
			break;
	}
	if (!r)
		r = configure(&ifr, config, &mtu, err);
	while (r < 0 && made) {
		tap_close(ret[--made]);
		ret[made] = NULL;
	}
	for (unsigned i = 0; i < made; i++)
		ret[i]->mtu = mtu;
	return r;
}

static int adopt_one(struct link **ret, int fd, char name[IFNAMSIZ], struct error *err)
{
	struct ifreq ifr = { 0 };
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return error_set(err, EBADF,
			"there is no such open file; open the tap before, and hand its number "
			"over");
	if (ioctl(fd, TUNGETIFF, &ifr) || !(ifr.ifr_flags & IFF_TAP)) {
		close(fd);
		return error_set(err, EINVAL, "is not a tap (IFF_TAP); hand over the fd of one");
	}
	if (!(ifr.ifr_flags & IFF_NO_PI)) {
		close(fd);
		return error_set(err, EINVAL,
			"is a tap with packet information; open it with IFF_NO_PI");
	}
	if (name[0] && strncmp(name, ifr.ifr_name, IFNAMSIZ)) {
		close(fd);
		return error_set(err, EINVAL,
			"belongs to tap %s, the one before it to %s; all have to be queues of one",
			ifr.ifr_name, name);
	}
	memcpy(name, ifr.ifr_name, IFNAMSIZ);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	return tap_make(ret, fd, ifr.ifr_flags & IFF_VNET_HDR, err);
}

int link_tap_adopt(struct link **ret, const int *fds, unsigned n, struct error *err)
{
	char name[IFNAMSIZ] = "";
	unsigned made = 0;
	int r = 0;

	for (; made < n; made++) {
		r = adopt_one(&ret[made], fds[made], name, err);
		if (r)
			break;
	}
	if (!r)
		return 0;
	/* fds[made] is closed, or was none. */
	for (unsigned i = made + 1; i < n; i++)
		close(fds[i]);
	while (made) {
		tap_close(ret[--made]);
		ret[made] = NULL;
	}
	return r;
}
