/*
 * Taps opened, or taken over from whoever opened them, on main in stage 2; link_tap.c is what
 * happens to them then.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "devices/host/link_tap.h"
#include "vmm/log.h"

enum { BUSY_TRIES = 25, BUSY_PAUSE_NS = 10000000 };

static int tap_make(struct link **ret, int fd, bool has_header, bool several, struct error *err)
{
	static const unsigned wanted[] = {
		LINK_OFFLOAD_CSUM | LINK_OFFLOAD_SEGMENTS | LINK_OFFLOAD_TSO_ECN,
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
	t->link.ops = &link_tap_ops;
	t->link.syscalls[0] = link_tap_syscalls;
	t->link.syscalls[1] = several ? link_tap_pairs_syscalls : NULL;
	t->link.up = true;
	t->fd = fd;
	t->told_fd = -1;
	t->has_header = has_header && !ioctl(fd, TUNSETVNETHDRSZ, &size);
	t->link.is_tap = true;
	t->link.tap_header = t->has_header;
	t->link.tap_fd = fd;
	if (!t->has_header || tap_ring_create(&t->ring, fd))
		t->ring = NULL;
	t->link.main_syscalls = link_tap_main_syscalls;
	t->link.watch_syscalls = link_tap_watch_syscalls;
	t->link.syscalls[2] = t->ring ? tap_ring_syscalls : tap_plain_syscalls;
	t->link.forked_syscalls = t->ring ? tap_ring_forked_syscalls : NULL;
	if (t->has_header)
		for (size_t i = 0; i < ARRAY_SIZE(wanted) && !t->link.offloads; i++)
			if (!link_tap_ops.set_offload(&t->link, wanted[i]))
				t->link.offloads = wanted[i];
	/* Nothing until a driver says what it can take. */
	if (t->has_header)
		link_tap_ops.set_offload(&t->link, 0);
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

/*
 * 0 or an errno. Where a machine on this tap was killed, the kernel gives it back some milliseconds
 * after the process is gone (link_tap_ring.c).
 */
static int set_interface(int fd, struct ifreq *ifr)
{
	const struct timespec pause = { .tv_nsec = BUSY_PAUSE_NS };

	for (unsigned i = 0; ioctl(fd, TUNSETIFF, ifr); i++) {
		if (errno != EBUSY || i == BUSY_TRIES)
			return errno;
		nanosleep(&pause, NULL);
	}
	return 0;
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
	code = set_interface(fd, ifr);
	if (!code)
		return fd;
	/* An existing tap with several queues can be used with one of them. */
	if (code == EINVAL && !multi) {
		ifr->ifr_flags = (short)(base | IFF_MULTI_QUEUE);
		if (!ioctl(fd, TUNSETIFF, ifr))
			return fd;
	}
	close(fd);
	return attach_failed(code, ifr->ifr_name, multi, err);
}

/* By a socket of that family, as none of another does. */
static int set_address(struct ifreq *ifr, unsigned long request, const char *text, struct error *err)
{
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr->ifr_addr;
	int sock, code;

	*sin = (struct sockaddr_in){ .sin_family = AF_INET };
	if (inet_pton(AF_INET, text, &sin->sin_addr) != 1)
		return error_set(err, EINVAL,
			"%s is not an IPv4 address; write four numbers such as 192.168.249.1",
			text);
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	code = sock < 0 || ioctl(sock, request, ifr) ? errno : 0;
	if (sock >= 0)
		close(sock);
	if (code)
		return error_set(err, code,
			"address %s cannot be set: %s; set it beforehand as root, or leave it out",
			text, strerror(code));
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
		r = set_address(ifr, SIOCSIFADDR, config->ip, err);
	if (!r && config->ip)
		r = set_address(ifr, SIOCSIFNETMASK,
			config->mask ? config->mask : "255.255.255.0", err);
	return r;
}

/* Up, if it is not; what it is goes to *mtu and *up. */
static void look(int sock, struct ifreq *ifr, uint32_t *mtu, bool *up)
{
	if (!ioctl(sock, SIOCGIFFLAGS, ifr)) {
		*up = ifr->ifr_flags & IFF_UP;
		ifr->ifr_flags |= IFF_UP;
		/* Without the right to it frames are dropped until somebody who may sets it up. */
		if (!*up && ioctl(sock, SIOCSIFFLAGS, ifr))
			log_warn("tap %s is down; set it up with: ip link set %s up", ifr->ifr_name,
				ifr->ifr_name);
		else
			*up = true;
	}
	if (!ioctl(sock, SIOCGIFMTU, ifr))
		*mtu = (uint32_t)ifr->ifr_mtu;
}

/*
 * The first link follows the interface, and has the socket if this is true. Without that its link
 * stays up, whatever becomes of it. Before the interface is looked at: what changes later is told.
 */
static bool watch(int sock, struct link *l, const char *name)
{
	struct tap *t = container_of(l, struct tap, link);
	struct ifreq ifr = { 0 };
	int r;

	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	t->told_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = t->told_fd < 0 || ioctl(sock, SIOCGIFINDEX, &ifr) ? -errno :
		link_watch_open(&t->watch, sock, (unsigned)ifr.ifr_ifindex);
	if (r)
		log_info("tap %s cannot be watched (%s): the guest's link stays up when it goes down",
			name, strerror(-r));
	return !r;
}

/*
 * A tap that was handed over may be in another network namespace than we are: then there may be an
 * interface of that name here, which is not ours.
 */
static void watch_adopted(struct link *l, const char *name)
{
	struct tap *t = container_of(l, struct tap, link);
	struct ifreq here = { 0 }, there = { 0 };
	int sock = link_watch_socket();
	bool has_it = false;

	memcpy(here.ifr_name, name, IFNAMSIZ);
	if (sock >= 0 && !ioctl(sock, SIOCGIFHWADDR, &here) && !ioctl(t->fd, SIOCGIFHWADDR, &there) &&
		!memcmp(here.ifr_hwaddr.sa_data, there.ifr_hwaddr.sa_data, 6)) {
		has_it = watch(sock, l, name);
		if (!ioctl(sock, SIOCGIFFLAGS, &here))
			l->up = here.ifr_flags & IFF_UP;
	} else {
		log_info("tap %s is in another network namespace: the guest's link stays up when it goes down", name);
	}
	if (sock >= 0 && !has_it)
		close(sock);
}

int link_tap_open(struct link **ret, unsigned n, const struct link_tap_config *config,
	struct error *err)
{
	struct ifreq ifr = { 0 };
	uint32_t mtu = 0;
	unsigned made = 0;
	bool up = true, watched;
	int r = 0, sock;

	if (config->name && strlen(config->name) >= sizeof(ifr.ifr_name))
		return error_set(err, ENAMETOOLONG, "longer than %zu characters; shorten it",
			sizeof(ifr.ifr_name) - 1);
	if (config->name)
		memcpy(ifr.ifr_name, config->name, strlen(config->name));
	sock = link_watch_socket();
	if (sock < 0)
		return error_set(err, -sock, "no socket to set it up: %s", strerror(-sock));
	for (; made < n; made++) {
		r = open_queue(&ifr, n > 1, err);
		if (r >= 0)
			r = tap_make(&ret[made], r, true, n > 1, err);
		if (r < 0)
			break;
	}
	if (!r)
		r = set_numbers(sock, &ifr, config, err);
	while (r < 0 && made) {
		link_tap_ops.close(ret[--made]);
		ret[made] = NULL;
	}
	if (r) {
		close(sock);
		return r;
	}
	watched = watch(sock, ret[0], ifr.ifr_name);
	look(sock, &ifr, &mtu, &up);
	for (unsigned i = 0; i < made; i++)
		ret[i]->mtu = mtu;
	ret[0]->up = up;
	if (!watched)
		close(sock);
	return 0;
}

static int adopt_one(struct link **ret, int fd, bool several, char name[IFNAMSIZ], struct error *err)
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
	return tap_make(ret, fd, ifr.ifr_flags & IFF_VNET_HDR, several, err);
}

int link_tap_adopt(struct link **ret, const int *fds, unsigned n, struct error *err)
{
	char name[IFNAMSIZ] = "";
	unsigned made = 0;
	int r = 0;

	for (; made < n; made++) {
		r = adopt_one(&ret[made], fds[made], n > 1, name, err);
		if (r)
			break;
	}
	if (!r) {
		watch_adopted(ret[0], name);
		return 0;
	}
	/* fds[made] is closed, or was none. */
	for (unsigned i = made + 1; i < n; i++)
		close(fds[i]);
	while (made) {
		link_tap_ops.close(ret[--made]);
		ret[made] = NULL;
	}
	return r;
}
