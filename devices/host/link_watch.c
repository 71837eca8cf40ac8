/*
 * A route netlink socket (rtnetlink(7)) that hears of one interface. The kernel filters: a BPF
 * program on the socket lets only messages about our index through, so that a busy host's other
 * interfaces wake nobody.
 *
 * The state is asked for whenever messages were lost (ENOBUFS), so what was told last is always
 * what is. Messages are taken from the kernel only, and bounded like any
 * others.
 */
#include "devices/host/link_watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/log.h"

enum {
	MESSAGES_PER_ROUND = 16,
	MESSAGE_MAX = 8192,              /* as rtnetlink sends them */
	TYPE_AT = 4, INDEX_AT = 20,      /* in a message: nlmsg_type; ifi_index behind 16 bytes */
	LOWER_UP = 1 << 16,              /* IFF_LOWER_UP; <linux/if.h> and <net/if.h> exclude each other */
};
_Static_assert(offsetof(struct nlmsghdr, nlmsg_type) == TYPE_AT, "netlink(7)");
_Static_assert(NLMSG_HDRLEN + offsetof(struct ifinfomsg, ifi_index) == INDEX_AT, "rtnetlink(7)");

struct link_watch {
	int fd;                          /* const */
	unsigned index;                  /* const */
	struct loop_source *source;      /* owner */
	void (*fn)(void *ctx, enum link_watch_state state);
	void *ctx;
};

static int ask(struct link_watch *w)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} m = {
		.head = { .nlmsg_len = sizeof(m), .nlmsg_type = RTM_GETLINK,
			.nlmsg_flags = NLM_F_REQUEST },
		.info = { .ifi_family = AF_UNSPEC, .ifi_index = (int)w->index },
	};

	return send(w->fd, &m, sizeof(m), MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* One message of `len` bytes, its header included. */
static void take(struct link_watch *w, const struct nlmsghdr *h, size_t len)
{
	struct ifinfomsg info;
	struct nlmsgerr error;

	if (h->nlmsg_type == NLMSG_ERROR) {
		if (len < NLMSG_LENGTH(sizeof(error)))
			return;
		memcpy(&error, NLMSG_DATA(h), sizeof(error));
		if (error.error == -ENODEV)
			w->fn(w->ctx, LINK_WATCH_GONE);
		return;
	}
	if (len < NLMSG_LENGTH(sizeof(info)))
		return;
	memcpy(&info, NLMSG_DATA(h), sizeof(info));
	/* The same type comes about bridge ports and the like, with their family. */
	if (info.ifi_index != (int)w->index || info.ifi_family != AF_UNSPEC)
		return;
	if (h->nlmsg_type == RTM_DELLINK)
		w->fn(w->ctx, LINK_WATCH_GONE);
	else if (h->nlmsg_type == RTM_NEWLINK)
		w->fn(w->ctx, (info.ifi_flags & IFF_UP) && (info.ifi_flags & LOWER_UP) ?
			LINK_WATCH_UP : LINK_WATCH_DOWN);
}

/* False when there is nothing more. */
static bool receive(struct link_watch *w)
{
	_Alignas(struct nlmsghdr) uint8_t buf[MESSAGE_MAX];
	struct sockaddr_nl from = { 0 };
	socklen_t from_len = sizeof(from);
	ssize_t n = recvfrom(w->fd, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from,
		&from_len);
	size_t left = (size_t)MAX(n, 0);

	if (n < 0 && errno == ENOBUFS)
		return ask(w) == 0;
	if (n < 0 || from.nl_pid)
		return n >= 0;
	for (const uint8_t *p = buf; left >= sizeof(struct nlmsghdr) && w->source;) {
		const struct nlmsghdr *h = (const struct nlmsghdr *)p;
		size_t step;

		if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > left)
			break;
		take(w, h, h->nlmsg_len);
		step = MIN(left, (size_t)NLMSG_ALIGN(h->nlmsg_len));
		p += step;
		left -= step;
	}
	return true;
}

static void on_event(void *ctx, unsigned events)
{
	struct link_watch *w = ctx;

	(void)events;
	for (unsigned n = MESSAGES_PER_ROUND; n && w->source && receive(w); n--)
		;
}

int link_watch_attach(struct link_watch *w, struct loop *loop,
	void (*fn)(void *ctx, enum link_watch_state state), void *ctx)
{
	w->fn = fn;
	w->ctx = ctx;
	return loop_add(loop, w->fd, LOOP_READ, on_event, w, &w->source);
}

void link_watch_detach(struct link_watch *w)
{
	if (!w)
		return;
	loop_remove(w->source);
	w->source = NULL;
}

/* Numbers of a message are in the host's order, and BPF loads them as if big-endian. */
static int filter(int fd, unsigned index)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, TYPE_AT),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(NLMSG_ERROR), 2, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, INDEX_AT),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(index), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	const struct sock_fprog prog = { ARRAY_SIZE(code), code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

int link_watch_socket(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	return fd < 0 ? -errno : fd;
}

int link_watch_open(struct link_watch **ret, int sock, unsigned index)
{
	const struct sockaddr_nl at = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	struct link_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	if (filter(sock, index) || bind(sock, (const struct sockaddr *)&at, sizeof(at))) {
		r = -errno;
		free(w);
		return r;
	}
	w->index = index;
	w->fd = sock;
	*ret = w;
	return 0;
}

int link_watch_fd(const struct link_watch *w)
{
	return w->fd;
}

void link_watch_close(struct link_watch *w)
{
	if (!w)
		return;
	close(w->fd);
	free(w);
}
