/*
 * virtio-net (virtio 1.2 and 1.3 §5.1): the device, its config space and its life; net.h says
 * what the other parts are.
 *
 * What is offered follows the link: a tap takes frames with checksums and segmentation undone,
 * passt takes whole ones. When the link goes down the guest sees its carrier go
 * (VIRTIO_NET_F_STATUS), and frames are dropped.
 *
 * Queues are pairs, then the control queue: behind the last pair, or behind the first when the
 * driver did not take VIRTIO_NET_F_MQ (§5.1.2). A reset or a fresh start has one pair in use;
 * the others are detached from their interface until the driver asks for them, so that the host
 * steers no flow to a queue that nobody reads.
 */
#include "devices/virtio/net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/types.h"
#include "vmm/log.h"

enum {
	MTU_MIN = 68,            /* §5.1.4.1 */
};

/* --- queues and lanes --- */

static bool has_pairs(const struct net *net)
{
	return virtio_has(&net->dev, NET_F_MQ);
}

bool net_is_ctrl(const struct net *net, unsigned queue)
{
	return virtio_has(&net->dev, NET_F_CTRL_VQ) && queue == (has_pairs(net) ? 2 * net->npairs : 2);
}

struct net_lane *net_lane_of(struct net *net, unsigned queue)
{
	struct net_pair *p;

	if (queue / 2 >= (has_pairs(net) ? net->npairs : 1))
		return NULL;
	p = &net->pairs[queue / 2];
	return queue % 2 ? &p->tx : &p->rx;
}

/* The control queue is served by the first pair's worker. */
static unsigned worker_of(const struct virtio_device *dev, unsigned queue)
{
	const struct net *net = container_of(dev, const struct net, dev);

	return queue + 1 == dev->nqueues || net->one_worker ? 0 : queue / 2;
}

/* --- worker --- */

static void on_wake(void *ctx)
{
	net_apply(ctx);
}

static void tell_loss(struct net *net, bool tell)
{
	if (!tell || !net->dev.events)
		return;
	snprintf(net->event, sizeof(net->event), "%s: its network is down", net->dev.id);
	net->dev.events->post(net->dev.events->ctx, VM_EVENT_DEVICE_ERROR, net->event);
}

static void on_state(void *ctx, bool up)
{
	struct net_pair *p = ctx;
	struct net *net = p->net;
	bool changed, tell;

	pthread_mutex_lock(&net->lock);
	changed = net->link_up != up;
	net->link_up = up;
	tell = !up && !net->told;
	net->told = !up;
	net_put_status(net);
	pthread_mutex_unlock(&net->lock);
	if (changed)
		net_config_changed(net);
	if (up) {
		net_announce(net);
		net_readable(p);
		return;
	}
	/* What waited for the link to become writable will be dropped by it. */
	net_writable(p);
	tell_loss(net, tell);
}

/* In a process of its own, where main's words do not come: once, for all of its life. */
static int watch_for_oneself(struct net_pair *p, struct loop *loop)
{
	int r;

	if (!p->net->dev.isolated || p->watched || !p->link->ops->watch || p->link->watched_by_main)
		return 0;
	r = p->link->ops->watch(p->link, loop);
	p->watched = !r;
	return r;
}

int net_start_pair(struct net_pair *p, struct loop *loop)
{
	const struct link_events events = {
		.readable = net_readable,
		.writable = net_writable,
		.state = on_state,
		.ctx = p,
	};
	int r;

	if (p->attached)
		return 0;
	r = loop_add_eventfd(loop, p->wake_fd, on_wake, p, &p->wake);
	if (!r)
		r = p->link->ops->attach(p->link, loop, &events);
	if (!r)
		r = watch_for_oneself(p, loop);
	if (r) {
		loop_remove(p->wake);
		p->wake = NULL;
		return r;
	}
	p->attached = true;
	pthread_mutex_lock(&p->net->lock);
	p->loop = loop;
	pthread_mutex_unlock(&p->net->lock);
	return 0;
}

void net_stop_pair(struct net_pair *p)
{
	bool last = true;

	if (!p->attached || p->rx.queue || p->tx.queue || p->in_kernel)
		return;
	pthread_mutex_lock(&p->net->lock);
	p->loop = NULL;
	for (unsigned i = 0; i < p->net->npairs; i++)
		last = last && !p->net->pairs[i].loop;
	pthread_mutex_unlock(&p->net->lock);
	if (last)
		capture_sync(p->net->capture);
	p->link->ops->detach(p->link);
	p->attached = false;
	loop_remove(p->wake);
	p->wake = NULL;
	net_ring(p->net->ctrl.wake_fd);
}

static int start_lane(struct net_lane *lane, struct queue *q)
{
	struct net_pair *p = lane->pair;
	int r = net_start_pair(p, queue_loop(q));

	if (!r)
		r = net_lane_start(lane, q);
	if (r) {
		net_stop_pair(p);
		return r;
	}
	if (lane == &p->rx && !p->index)
		net_refresh_config(p->net);
	net_apply(p);
	return 0;
}

static int net_queue_start(struct virtio_device *dev, struct queue *q)
{
	struct net *net = container_of(dev, struct net, dev);
	struct net_lane *lane = net_lane_of(net, queue_index(q));

	net_begin(net);
	if (net_is_ctrl(net, queue_index(q)))
		return net_ctrl_start(net, q);
	/* A queue that these features do not have is never looked at. */
	return lane ? start_lane(lane, q) : 0;
}

static int net_handle(struct virtio_device *dev, struct queue *q)
{
	struct net *net = container_of(dev, struct net, dev);
	struct net_lane *lane = net_lane_of(net, queue_index(q));

	if (net_is_ctrl(net, queue_index(q)))
		return net_ctrl_handle(net);
	return lane ? net_handle_lane(lane) : 0;
}

static void net_queue_stop(struct virtio_device *dev, struct queue *q)
{
	struct net *net = container_of(dev, struct net, dev);
	struct net_lane *lane = net_lane_of(net, queue_index(q));

	if (net_is_ctrl(net, queue_index(q))) {
		net_ctrl_stop(net);
		return;
	}
	if (!lane || !lane->queue)
		return;
	net_return(lane);
	net_lane_stop(lane);
	if (lane == &lane->pair->rx)
		lane->pair->link->ops->listen(lane->pair->link, false);
	net_stop_pair(lane->pair);
}

/* Of all pairs: no queue runs, so their workers have nothing to do with them. */
static void net_reset(struct virtio_device *dev)
{
	struct net *net = container_of(dev, struct net, dev);

	pthread_mutex_lock(&net->lock);
	net_reset_settings(net);
	net->generation++;
	pthread_mutex_unlock(&net->lock);
	for (unsigned i = 0; i < net->npairs; i++)
		net_apply_enable(&net->pairs[i], i < net->now.pairs);
	net_refresh_config(net);
}

/* --- main --- */

static int init_pair(struct net *net, unsigned i, struct link *link)
{
	struct net_pair *p = &net->pairs[i];
	int r;

	p->net = net;
	p->index = i;
	p->link = link;
	p->enabled = true;
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = p->wake_fd < 0 ? -errno : 0;
	if (!r)
		r = net_lane_init(&p->rx, p, net->dev.queue_size);
	if (!r)
		r = net_lane_init(&p->tx, p, net->dev.queue_size);
	if (!r)
		r = net_rx_init(p);
	p->rx.rate = &net->rate[0];
	p->tx.rate = &net->rate[1];
	if (!r && i) {
		p->enabled = false;
		r = link->ops->enable ? link->ops->enable(link, false) : 0;
	}
	return r;
}

static int init_pairs(struct net *net, const struct net_setup *setup)
{
	pthread_mutexattr_t attr;
	int r = 0;

	net->npairs = setup->npairs;
	net->pairs = calloc(net->npairs, sizeof(*net->pairs));
	if (!net->pairs) {
		for (unsigned i = 0; i < setup->npairs; i++)
			setup->links[i]->ops->close(setup->links[i]);
		return -ENOMEM;
	}
	/* Held for a few stores; a worker of high priority must not wait for one of low. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&net->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	net->ctrl.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned i = 0; i < net->npairs; i++) {
		net->pairs[i].link = setup->links[i];
		net->pairs[i].wake_fd = net->pairs[i].rx.timer_fd = net->pairs[i].tx.timer_fd = -1;
	}
	r = net->ctrl.wake_fd < 0 ? -errno : 0;
	for (unsigned i = 0; i < net->npairs && !r; i++)
		r = init_pair(net, i, setup->links[i]);
	return r;
}

static void fill_config(struct net *net, uint32_t mtu, uint32_t speed)
{
	struct net_config config = {
		.status = net->link_up ? NET_S_LINK_UP : 0,
		.max_virtqueue_pairs = (uint16_t)net->npairs,
		.speed = speed ? speed : NET_SPEED_UNKNOWN,
		.duplex = speed ? NET_DUPLEX_FULL : NET_DUPLEX_UNKNOWN,
	};

	if (mtu >= MTU_MIN && mtu <= UINT16_MAX) {
		net->dev.features |= VIRTIO_BIT(NET_F_MTU);
		config.mtu = (uint16_t)mtu;
	}
	memcpy(config.mac, net->mac, sizeof(config.mac));
	virtio_config_write(&net->dev.config, 0, &config, sizeof(config));
}

int net_init(struct net *net, const struct net_setup *setup, struct error *err)
{
	struct virtio_device *dev = &net->dev;
	const struct link *link = setup->links[0];
	int r = init_pairs(net, setup);

	if (r)
		return error_set(err, -r, "the queues of --net cannot be made: %s", strerror(-r));
	net->link_up = link->up;
	net_reset_settings(net);
	dev->nqueues = (uint16_t)(2 * net->npairs + 1);
	if (net->npairs > 1)
		dev->features |= VIRTIO_BIT(NET_F_MQ);
	dev->features |= net_offload_features(link->offloads);
	if (setup->standby)
		dev->features |= VIRTIO_BIT(NET_F_STANDBY);
	net->anti_spoof = setup->anti_spoof;
	fill_config(net, setup->mtu ? setup->mtu : link->mtu, setup->speed);
	return 0;
}

/* --- a process of its own --- */

static void net_fds(const struct virtio_device *dev, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct net *net = (const struct net *)dev;

	keep(ctx, net->ctrl.wake_fd);
	capture_fds(net->capture, keep, ctx);
	for (unsigned i = 0; i < net->npairs; i++) {
		const struct net_pair *p = &net->pairs[i];

		keep(ctx, p->wake_fd);
		keep(ctx, p->rx.timer_fd);
		keep(ctx, p->tx.timer_fd);
		p->link->ops->fds(p->link, keep, ctx);
	}
}

static int net_forked(struct virtio_device *dev, const struct virtio_life *life, struct error *err)
{
	struct net *net = container_of(dev, struct net, dev);

	int r = 0;

	(void)life;
	capture_forked(net->capture);
	for (unsigned i = 0; i < net->npairs && !r; i++)
		r = net->pairs[i].link->ops->forked(net->pairs[i].link);
	return r ? error_set(err, -r, "its tap's ring cannot be made: %s; say isolation=thread", strerror(-r)) : 0;
}

static void net_stopped(struct virtio_device *dev)
{
	capture_sync(container_of(dev, struct net, dev)->capture);
}

static void net_destroy(struct virtio_device *dev)
{
	struct net *net = container_of(dev, struct net, dev);

	capture_close(net->capture);
	if (!net->pairs)
		return;
	if (!dev->isolated) /* its process counted */
		net_stats_log(net);
	for (unsigned i = 0; i < net->npairs; i++) {
		struct net_pair *p = &net->pairs[i];

		p->link->ops->close(p->link);
		net_lane_fini(&p->rx);
		net_lane_fini(&p->tx);
		net_rx_fini(p);
		if (p->wake_fd >= 0)
			close(p->wake_fd);
	}
	if (net->ctrl.wake_fd >= 0)
		close(net->ctrl.wake_fd);
	pthread_mutex_destroy(&net->lock);
	free(net->pairs);
}

static const struct syscall_row net_syscalls[] = {
	{ SYSCALL(timerfd_settime, "gathered interrupts; a limit lets the next frame through; the rest of one may have come") },
	SYSCALL_END,
};

/* Any state that commands could not have made. */
static int net_check(const void *object, struct error *err)
{
	const struct net *net = object;

	if ((net->mac[0] & 1) || (net->now.filter.mac[0] & 1))
		return error_set(err, EINVAL, "virtio-net: the address is a group's");
	if (!net->now.pairs || net->now.pairs > net->npairs)
		return error_set(err, EINVAL,
			"virtio-net: %u queue pairs are in use, and this machine's has %u; give it the "
			"same num_queues", net->now.pairs, net->npairs);
	for (unsigned i = 0; i < 2 * NET_PAIRS_MAX; i++)
		if (net->now.coal_usecs[i] > NET_COAL_USECS_MAX)
			return error_set(err, EINVAL, "virtio-net: interrupts are held back for ever");
	return 0;
}

#define NOW(m) .offset = offsetof(struct net, now.m), .since = 2, .name = #m
#define NOW_ONE(m)                                                                                 \
	{ NOW(m), .count = 1, .type = STATE_TYPE(STATE_MEMBER(struct net, now.m)),                 \
		.stride = sizeof(STATE_MEMBER(struct net, now.m)) }
#define NOW_ARRAY(m)                                                                               \
	{ NOW(m), .count = ARRAY_SIZE(STATE_MEMBER(struct net, now.m)),                            \
		.type = STATE_TYPE(STATE_MEMBER(struct net, now.m)[0]),                            \
		.stride = sizeof(STATE_MEMBER(struct net, now.m)[0]) }

static const struct state_field net_fields[] = {
	STATE_ARRAY(struct net, mac),
	NOW_ONE(begun),
	NOW_ARRAY(filter.mode),
	NOW_ONE(filter.by_vlan),
	NOW_ARRAY(filter.mac),
	NOW_ONE(filter.uni.n),
	NOW_ARRAY(filter.uni.mac),
	NOW_ONE(filter.multi.n),
	NOW_ARRAY(filter.multi.mac),
	NOW_ARRAY(filter.vlan),
	NOW_ONE(pairs),
	NOW_ONE(offloads),
	NOW_ONE(announce),
	NOW_ARRAY(coal_usecs),
	NOW_ARRAY(coal_packets),
	STATE_END,
};

static const struct state_desc net_state = {
	.name = "virtio-net",
	.version = 2,
	.oldest = 1,
	.object_size = sizeof(struct net),
	.fields = net_fields,
	.check = net_check,
};

const struct virtio_type virtio_net_type = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000, /* Ethernet */
	.features = VIRTIO_BIT(NET_F_MAC) | VIRTIO_BIT(NET_F_STATUS) | VIRTIO_BIT(NET_F_MRG_RXBUF) |
		VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_CTRL_RX) |
		VIRTIO_BIT(NET_F_CTRL_RX_EXTRA) | VIRTIO_BIT(NET_F_CTRL_VLAN) |
		VIRTIO_BIT(NET_F_CTRL_MAC_ADDR) | VIRTIO_BIT(NET_F_GUEST_ANNOUNCE) |
		VIRTIO_BIT(NET_F_NOTF_COAL) | VIRTIO_BIT(NET_F_VQ_NOTF_COAL) |
		VIRTIO_BIT(NET_F_SPEED_DUPLEX),
	.nqueues = NET_QUEUES_MAX,
	.worker_of = worker_of,
	.share = WORKER_ALONE,
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
	.reset = net_reset,
	.may_fork = true,
	.fds = net_fds,
	.forked = net_forked,
	.stopped = net_stopped,
	.destroy = net_destroy,
};

const struct device_type virtio_net_row = {
	.name = "virtio-net",
	.options = &net_group,
	.id_prefix = "_net",
	.state = &net_state,
	.handed_fd = net_handed_fd,
	.shares_memory = net_shares_memory,
	.create = net_row_create,
};
