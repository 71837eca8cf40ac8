/*
 * virtio-net (virtio 1.2 §5.1): the device, its options and its config space; frames are moved in
 * net_queue.c.
 *
 * One receive and one transmit queue with one link behind them, on one worker: "pairs" are kept
 * apart from the device so that more of them can come. What is offered follows the link: a tap
 * takes frames with checksums and segmentation undone, passt takes whole ones. When the link goes
 * down the guest sees its carrier go (VIRTIO_NET_F_STATUS), and frames are dropped.
 *
 * There is no control queue: addresses are not filtered here, the link gives the guest what is
 * meant for it.
 */
#include "devices/virtio/net.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "devices/virtio/types.h"
#include "vmm/log.h"

enum {
	MTU_MIN = 68,            /* §5.1.4.1 */
	MTU_MAX = 65521,
	FRAME_OVERHEAD = 14 + 4, /* Ethernet header and a VLAN tag */
	RX = 0,                  /* queue indices of the first pair */
};

struct net_options {
	struct virtio_options virtio;
	char *tap, *ip, *mask, *forward;
	struct option_mac mac, host_mac;
	struct option_ints fd;
	bool user;
	uint32_t mtu, num_queues;
};

/* What the link can do, and the features of both directions that come with it. */
static const struct {
	unsigned link;
	unsigned host, guest;    /* bit numbers: the driver may send so, may be given so */
} offload_map[] = {
	{ LINK_OFFLOAD_CSUM, NET_F_CSUM, NET_F_GUEST_CSUM },
	{ LINK_OFFLOAD_TSO4, NET_F_HOST_TSO4, NET_F_GUEST_TSO4 },
	{ LINK_OFFLOAD_TSO6, NET_F_HOST_TSO6, NET_F_GUEST_TSO6 },
	{ LINK_OFFLOAD_TSO_ECN, NET_F_HOST_ECN, NET_F_GUEST_ECN },
};

/* --- worker --- */

static void on_state(void *ctx, bool up)
{
	struct net_pair *p = ctx;
	struct virtio_device *dev = &p->net->dev;
	uint8_t status[2];

	put_le16(status, up ? NET_S_LINK_UP : 0);
	virtio_config_write(&dev->config, offsetof(struct net_config, status), status,
		sizeof(status));
	if (dev->config_changed)
		dev->config_changed(dev);
	if (up)
		return;
	/* What waited for the link to become writable will be dropped by it. */
	net_writable(p);
	if (p->net->told || !dev->events)
		return;
	p->net->told = true;
	snprintf(p->net->event, sizeof(p->net->event), "%s: its network is down", dev->id);
	dev->events->post(dev->events->ctx, VM_EVENT_DEVICE_ERROR, p->net->event);
}

/* What the driver accepted to receive, as far as it makes sense together. */
static unsigned guest_offloads(const struct virtio_device *dev)
{
	unsigned offloads = 0;

	if (!virtio_has(dev, NET_F_GUEST_CSUM))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(offload_map); i++)
		offloads |= virtio_has(dev, offload_map[i].guest) ? offload_map[i].link : 0;
	return offloads;
}

static int start_rx(struct net_pair *p)
{
	unsigned offloads = guest_offloads(&p->net->dev);
	size_t frame = LINK_FRAME_MAX;
	int r = p->link->ops->set_offload(p->link, offloads);

	if (r && offloads)
		return r;
	if (p->link->mtu && !(offloads & (LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6)))
		frame = MIN(frame, (size_t)p->link->mtu + FRAME_OVERHEAD);
	p->rx_want = LINK_HEADER_LEN + frame;
	/* After a load the image still says what create() wrote. */
	virtio_config_write(&p->net->dev.config, offsetof(struct net_config, mac), p->net->mac,
		sizeof(p->net->mac));
	return 0;
}

static int net_queue_start(struct virtio_device *dev, struct queue *q)
{
	struct net_pair *p = &container_of(dev, struct net, dev)->pair;
	const struct link_events events = {
		.readable = net_readable,
		.writable = net_writable,
		.state = on_state,
		.ctx = p,
	};
	int r = 0;

	if (queue_index(q) == RX)
		r = start_rx(p);
	if (!r && !p->attached)
		r = p->link->ops->attach(p->link, queue_loop(q), &events);
	if (r)
		return r;
	p->attached = true;
	*(queue_index(q) == RX ? &p->rx : &p->tx) = q;
	return 0;
}

static void net_queue_stop(struct virtio_device *dev, struct queue *q)
{
	struct net_pair *p = &container_of(dev, struct net, dev)->pair;

	net_return(p, q);
	queue_flush(q);
	if (q == p->rx) {
		p->rx = NULL;
		if (p->attached)
			p->link->ops->listen(p->link, false);
	} else {
		p->tx = NULL;
	}
	if (!p->rx && !p->tx && p->attached) {
		p->link->ops->detach(p->link);
		p->attached = false;
	}
}

/* --- main --- */

static int open_user(struct net_pair *p, const struct net_options *o, struct error *err)
{
	const char *args[] = { o->forward ? "--tcp-ports" : NULL, o->forward, NULL };
	const struct link_passt_config config = { .program = "passt", .args = args, .mtu = o->mtu };

	return link_passt_open(&p->link, &config, err);
}

static int open_tap(struct net_pair *p, const struct net_options *o, struct error *err)
{
	const struct link_tap_config config = {
		.name = o->tap,
		.ip = o->ip,
		.mask = o->mask,
		.mtu = o->mtu,
		.host_mac = o->host_mac.set ? o->host_mac.bytes : NULL,
	};
	int r = link_tap_open(&p->link, 1, &config, err);

	return r ? error_prefix(err, r, "--net tap=%s", o->tap) : 0;
}

static int open_fd(struct net_pair *p, const struct net_options *o, struct error *err)
{
	int r;

	if (o->fd.n != 1)
		return error_set(err, EINVAL, "--net fd: one fd is needed, %u are given", o->fd.n);
	r = link_tap_adopt(&p->link, (int)o->fd.v[0], err);
	return r ? error_prefix(err, r, "--net fd=%u", o->fd.v[0]) : 0;
}

static int open_link(struct net_pair *p, const struct net_options *o, struct error *err)
{
	unsigned kinds = (unsigned)o->user + (o->tap != NULL) + (o->fd.n > 0);

	if (!kinds)
		return error_set(err, EINVAL,
			"--net: where to? write --net user for networking without rights (through "
			"passt), or --net tap=NAME for a tap interface");
	if (kinds > 1)
		return error_set(err, EINVAL,
			"--net: user, tap and fd exclude each other; give one of them");
	if (o->forward && !o->user)
		return error_set(err, EINVAL,
			"--net forward=%s: only user networking forwards ports; add user",
			o->forward);
	if ((o->ip || o->mask || o->host_mac.set) && !o->tap)
		return error_set(err, EINVAL,
			"--net: ip, mask and host_mac belong to a tap; add tap=NAME");
	if (o->user)
		return open_user(p, o, err);
	return o->tap ? open_tap(p, o, err) : open_fd(p, o, err);
}

static int choose_mac(struct net *net, const struct net_options *o, struct error *err)
{
	if (o->mac.set) {
		/* no group address: options see to that */
		memcpy(net->mac, o->mac.bytes, sizeof(net->mac));
		return 0;
	}
	if (getrandom(net->mac, sizeof(net->mac), 0) != sizeof(net->mac))
		return error_set(err, EIO,
			"no random numbers for a MAC address; give one with mac=");
	net->mac[0] = (uint8_t)((net->mac[0] & 0xfe) | 2); /* not a group, administered locally */
	return 0;
}

static int make_fifo(struct net_fifo *f, unsigned queue_size)
{
	for (f->size = 1; f->size < queue_size;)
		f->size *= 2;
	f->slot = calloc(f->size, sizeof(*f->slot));
	return f->slot ? 0 : -ENOMEM;
}

int net_init(struct net *net, uint32_t mtu, struct error *err)
{
	struct virtio_device *dev = &net->dev;
	struct net_config config = { .status = NET_S_LINK_UP, .max_virtqueue_pairs = 1 };

	net->pair.net = net;
	if (make_fifo(&net->pair.rx_fifo, dev->queue_size) ||
		make_fifo(&net->pair.tx_fifo, dev->queue_size))
		return error_set(err, ENOMEM, "out of memory for the queues of --net");
	for (size_t i = 0; i < ARRAY_SIZE(offload_map); i++)
		if (net->pair.link->offloads & offload_map[i].link)
			dev->features |= VIRTIO_BIT(offload_map[i].host) |
				VIRTIO_BIT(offload_map[i].guest);
	mtu = mtu ? mtu : net->pair.link->mtu;
	if (mtu >= MTU_MIN && mtu <= UINT16_MAX) {
		dev->features |= VIRTIO_BIT(NET_F_MTU);
		config.mtu = (uint16_t)mtu;
	}
	memcpy(config.mac, net->mac, sizeof(config.mac));
	virtio_config_write(&dev->config, 0, &config, sizeof(config));
	return 0;
}

static int net_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	struct net *net = container_of(dev, struct net, dev);
	const struct net_options *o = options;
	int r = choose_mac(net, o, err);

	(void)env;
	if (!r)
		r = open_link(&net->pair, o, err);
	return r ? r : net_init(net, o->mtu, err);
}

static void net_destroy(struct virtio_device *dev)
{
	struct net *net = container_of(dev, struct net, dev);

	if (net->pair.link)
		net->pair.link->ops->close(net->pair.link);
	free(net->pair.rx_fifo.slot);
	free(net->pair.tx_fifo.slot);
}

#define NET_OPTION(key_, type_, member_, ...)                                                      \
	{ .key = key_, .type = type_, .offset = offsetof(struct net_options, member_), __VA_ARGS__ }

static const struct option_row net_rows[] = {
	NET_OPTION("user", OPTION_BOOL, user, .def = "off",
		.help = "user-mode networking through passt, without rights"),
	NET_OPTION("forward", OPTION_STRING, forward,
		.help = "with user: host TCP ports to forward, as passt -t takes them "
			"(\"2222:22\")"),
	NET_OPTION("tap", OPTION_STRING, tap, .help = "tap interface, used or made"),
	NET_OPTION("fd", OPTION_INTS, fd, .help = "open tap that was handed over"),
	NET_OPTION("mac", OPTION_MAC, mac,
		.help = "address of the guest's end; random when not given"),
	NET_OPTION("host_mac", OPTION_MAC, host_mac, .help = "address of the tap's end"),
	NET_OPTION("ip", OPTION_STRING, ip, .help = "IPv4 address of the tap"),
	NET_OPTION("mask", OPTION_STRING, mask,
		.help = "its netmask; 255.255.255.0 when not given"),
	NET_OPTION("mtu", OPTION_U32, mtu, .min = MTU_MIN, .max = MTU_MAX, .unit = "bytes",
		.help = "largest packet, told to the guest and set on the tap"),
	NET_OPTION("num_queues", OPTION_U32, num_queues, .def = "2", .min = 2, .max = 2,
		.unit = "queues", .help = "queues, counting both directions"),
	VIRTIO_OPTION_ROWS("256"),
	OPTION_ROWS_END,
};

static const struct option_group net_group = {
	.flag = "net",
	.json = "net",
	.kind = OPTION_MANY,
	.size = sizeof(struct net_options),
	.rows = net_rows,
	.help = "a network interface",
	.section = "Devices",
};

static int handed_fd(const void *options)
{
	const struct net_options *o = options;

	return o->fd.n && o->fd.v[0] <= INT_MAX ? (int)o->fd.v[0] : -1;
}

static const struct syscall_row net_syscalls[] = { LINK_TAP_SYSCALL_ROWS, LINK_PASST_SYSCALL_ROWS,
	SYSCALL_END };

static int net_check(const void *object, struct error *err)
{
	const struct net *net = object;

	if (net->mac[0] & 1)
		return error_set(err, EINVAL, "virtio-net: the address is a group's");
	return 0;
}

static const struct state_field net_fields[] = { STATE_ARRAY(struct net, mac), STATE_END };

static const struct state_desc net_state = {
	.name = "virtio-net",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct net),
	.fields = net_fields,
	.check = net_check,
};

const struct virtio_type virtio_net_type = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000, /* Ethernet */
	.features = VIRTIO_BIT(NET_F_MAC) | VIRTIO_BIT(NET_F_STATUS) | VIRTIO_BIT(NET_F_MRG_RXBUF),
	.nqueues = 2,
	.queues_per_worker = 2,
	.busy = true,
	.thread_suffix = "qp",
	.size = sizeof(struct net),
	.config_size = sizeof(struct net_config),
	.options = &net_group,
	.syscalls = net_syscalls,
	.state = &net_state,
	.create = net_create,
	.queue_start = net_queue_start,
	.handle = net_handle,
	.queue_stop = net_queue_stop,
	.destroy = net_destroy,
};

static int row_create(struct device **ret, const struct device_env *env, const void *options,
	struct error *err)
{
	return virtio_create(ret, &virtio_net_row, &virtio_net_type, env, options, err);
}

const struct device_type virtio_net_row = {
	.name = "virtio-net",
	.options = &net_group,
	.id_prefix = "_net",
	.syscalls = net_syscalls,
	.state = &net_state,
	.handed_fd = handed_fd,
	.create = row_create,
};
