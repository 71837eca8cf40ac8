/*
 * The control queue of virtio-net (virtio 1.2 and 1.3 §5.1.6.5): one command per chain, class
 * and command byte and data to read, an acknowledgement and at times a result to write.
 *
 * Commands are rows of a table: which feature allows them, how long their data is, who carries
 * them out. Whatever is unknown, not negotiated, of another length or out of range is answered
 * with VIRTIO_NET_ERR and changes nothing; a chain with no room for the answer comes back empty
 * and is not carried out.
 *
 * A command changes the settings and is answered when all pairs that run have taken them over,
 * as §5.1.6.5.5 demands: no frame arrives on a pair any more when the driver has read that it is
 * out of use. Until then the next command lies in the ring.
 *
 * Runs on the first pair's worker (on the second's for a driver without VIRTIO_NET_F_MQ).
 * NEEDS_RESET is for broken rings only.
 */
#include "devices/virtio/net.h"

#include <errno.h>

#include "devices/virtio/chain.h"

/* What a command works with. */
struct request {
	struct net *net;
	struct chain *chain;             /* at the data */
	uint8_t command;
	uint8_t *result;                 /* NET_RESULT_MAX bytes */
	uint8_t result_len;
};

/* §5.1.6.5.10, as it lies on the wire; of VQ_SET and VQ_GET the queue's number is before it */
struct coal_wire {
	uint32_t max_packets, max_usecs;
};
_Static_assert(sizeof(struct coal_wire) == NET_RESULT_MAX, "virtio 1.3 5.1.6.5.10");
struct coal_vq_wire {
	uint16_t queue, reserved;
	struct coal_wire coal;
};
_Static_assert(sizeof(struct coal_vq_wire) == 12, "virtio 1.3 5.1.6.5.10");

/* --- the commands; the lock is held, a return of 0 is VIRTIO_NET_OK --- */

static int set_mode(struct request *rq)
{
	uint8_t on;

	if (chain_read(rq->chain, &on, 1) || on > 1)
		return -EINVAL;
	rq->net->now.filter.mode[rq->command] = on;
	return 0;
}

/* Any count is bounded by the bytes that are there. */
static int read_macs(struct chain *c, struct net_mac_table *t)
{
	uint64_t bytes;
	uint32_t n;

	if (chain_read(c, &n, sizeof(n)) || mul_overflows(n, 6, &bytes) ||
		bytes > chain_in_left(c))
		return -EINVAL;
	t->n = MIN(n, NET_MACS_MAX + 1u);
	if (n > NET_MACS_MAX)
		return chain_skip(c, (size_t)bytes);
	return chain_read(c, t->mac, (size_t)bytes);
}

static int set_macs(struct request *rq)
{
	struct net_filter *f = &rq->net->now.filter;
	struct net_mac_table uni = { 0 }, multi = { 0 };

	if (read_macs(rq->chain, &uni) || read_macs(rq->chain, &multi) || chain_in_left(rq->chain))
		return -EINVAL;
	f->uni = uni;
	f->multi = multi;
	return 0;
}

static int set_address(struct request *rq)
{
	struct net *net = rq->net;
	uint8_t mac[6];

	if (chain_read(rq->chain, mac, sizeof(mac)) || (mac[0] & 1))
		return -EINVAL;
	if (net->anti_spoof && memcmp(mac, net->mac, sizeof(mac)))
		return -EPERM;
	memcpy(net->now.filter.mac, mac, sizeof(mac));
	virtio_config_write(&net->dev.config, offsetof(struct net_config, mac), mac, sizeof(mac));
	return 0;
}

static int change_vlan(struct request *rq)
{
	uint64_t *bits, one = 1;
	uint16_t id;

	if (chain_read(rq->chain, &id, sizeof(id)) || id >= 4096)
		return -EINVAL;
	bits = &rq->net->now.filter.vlan[id / 64];
	one <<= id % 64;
	*bits = rq->command == NET_VLAN_ADD ? *bits | one : *bits & ~one;
	return 0;
}

static int announced(struct request *rq)
{
	struct net *net = rq->net;

	net->now.announce = false;
	net_put_status(net);
	return 0;
}

static int set_pairs(struct request *rq)
{
	uint16_t pairs;

	if (chain_read(rq->chain, &pairs, sizeof(pairs)) || !pairs || pairs > rq->net->npairs)
		return -EINVAL;
	rq->net->now.pairs = pairs;
	return 0;
}

/* §5.1.6.5.6.2: only what was negotiated may be switched. */
static int set_offloads(struct request *rq)
{
	struct net *net = rq->net;
	uint64_t offloads;

	if (chain_read(rq->chain, &offloads, sizeof(offloads)) ||
		(offloads & ~net_guest_offloads(net)))
		return -EINVAL;
	net->now.offloads = offloads;
	return 0;
}

static void put_coal(struct net *net, unsigned queue, const struct coal_wire *c)
{
	net->now.coal_usecs[queue] = MIN(c->max_usecs, (uint32_t)NET_COAL_USECS_MAX);
	net->now.coal_packets[queue] = c->max_packets;
}

static int set_coal(struct request *rq)
{
	struct coal_wire c;

	if (chain_read(rq->chain, &c, sizeof(c)))
		return -EINVAL;
	for (unsigned i = rq->command == NET_COAL_TX_SET; i < 2 * rq->net->npairs; i += 2)
		put_coal(rq->net, i, &c);
	return 0;
}

static int set_coal_of_queue(struct request *rq)
{
	struct coal_vq_wire c;

	if (chain_read(rq->chain, &c, sizeof(c)) || !net_lane_of(rq->net, c.queue))
		return -EINVAL;
	put_coal(rq->net, c.queue, &c.coal);
	return 0;
}

static int get_coal_of_queue(struct request *rq)
{
	struct coal_wire c;
	uint16_t queue;

	if (chain_read(rq->chain, &queue, sizeof(queue)) || !net_lane_of(rq->net, queue))
		return -EINVAL;
	c.max_packets = rq->net->now.coal_packets[queue];
	c.max_usecs = rq->net->now.coal_usecs[queue];
	memcpy(rq->result, &c, sizeof(c));
	rq->result_len = sizeof(c);
	return 0;
}

static const struct command {
	uint8_t class, command;
	uint8_t feature;
	uint16_t min, max;               /* bytes of data; max 0: any number from min on */
	int (*run)(struct request *rq);
} commands[] = {
	{ NET_CTRL_RX, NET_RX_PROMISC, NET_F_CTRL_RX, 1, 1, set_mode },
	{ NET_CTRL_RX, NET_RX_ALLMULTI, NET_F_CTRL_RX, 1, 1, set_mode },
	{ NET_CTRL_RX, NET_RX_ALLUNI, NET_F_CTRL_RX_EXTRA, 1, 1, set_mode },
	{ NET_CTRL_RX, NET_RX_NOMULTI, NET_F_CTRL_RX_EXTRA, 1, 1, set_mode },
	{ NET_CTRL_RX, NET_RX_NOUNI, NET_F_CTRL_RX_EXTRA, 1, 1, set_mode },
	{ NET_CTRL_RX, NET_RX_NOBCAST, NET_F_CTRL_RX_EXTRA, 1, 1, set_mode },
	{ NET_CTRL_MAC, NET_MAC_TABLE_SET, NET_F_CTRL_RX, 8, 0, set_macs },
	{ NET_CTRL_MAC, NET_MAC_ADDR_SET, NET_F_CTRL_MAC_ADDR, 6, 6, set_address },
	{ NET_CTRL_VLAN, NET_VLAN_ADD, NET_F_CTRL_VLAN, 2, 2, change_vlan },
	{ NET_CTRL_VLAN, NET_VLAN_DEL, NET_F_CTRL_VLAN, 2, 2, change_vlan },
	{ NET_CTRL_ANNOUNCE, 0, NET_F_GUEST_ANNOUNCE, 0, 0, announced },
	{ NET_CTRL_MQ, 0, NET_F_MQ, 2, 2, set_pairs },
	{ NET_CTRL_GUEST_OFFLOADS, 0, NET_F_CTRL_GUEST_OFFLOADS, 8, 8, set_offloads },
	{ NET_CTRL_NOTF_COAL, NET_COAL_TX_SET, NET_F_NOTF_COAL, 8, 8, set_coal },
	{ NET_CTRL_NOTF_COAL, NET_COAL_RX_SET, NET_F_NOTF_COAL, 8, 8, set_coal },
	{ NET_CTRL_NOTF_COAL, NET_COAL_VQ_SET, NET_F_VQ_NOTF_COAL, 12, 12, set_coal_of_queue },
	{ NET_CTRL_NOTF_COAL, NET_COAL_VQ_GET, NET_F_VQ_NOTF_COAL, 2, 12, get_coal_of_queue },
};

/* --- one command --- */

static const struct command *find(const struct net *net, const uint8_t head[2])
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].class == head[0] && commands[i].command == head[1] &&
			virtio_has(&net->dev, commands[i].feature))
			return &commands[i];
	return NULL;
}

/* 0: carried out. */
static int run(struct request *rq)
{
	const struct command *c;
	uint8_t head[2];
	size_t len;
	int r;

	if (chain_read(rq->chain, head, sizeof(head)))
		return -EINVAL;
	c = find(rq->net, head);
	len = chain_in_left(rq->chain);
	if (!c || len < c->min || (c->max && len > c->max))
		return -EINVAL;
	rq->command = head[1];
	pthread_mutex_lock(&rq->net->lock);
	r = c->run(rq);
	pthread_mutex_unlock(&rq->net->lock);
	if (!r && rq->net->dev.state_changed)
		rq->net->dev.state_changed(&rq->net->dev);
	return r;
}

/* §5.1.6.5: the answer, then the result. */
static void answer(struct net_ctrl *ctrl, struct chain *chain)
{
	if (chain_write(chain, &ctrl->ack, 1) == 0 && ctrl->result_len &&
		chain_write(chain, ctrl->result, ctrl->result_len))
		ctrl->result_len = 0; /* no room for all of it: none was written */
	queue_push(ctrl->queue, chain);
}

static void carry_out(struct net *net, struct chain *chain)
{
	struct net_ctrl *ctrl = &net->ctrl;
	struct request rq = { .net = net, .chain = chain, .result = ctrl->result };
	int r = chain_out_left(chain) ? run(&rq) : -ENOSPC;

	net_count(ctrl->commands, 1);
	net_count(ctrl->refused, r != 0);
	ctrl->ack = r ? NET_ACK_ERR : NET_ACK_OK;
	ctrl->result_len = rq.result_len;
	if (r || rq.result_len || net_publish(net, queue_loop(ctrl->queue)))
		answer(ctrl, chain);
	else
		ctrl->waiting = chain;
}

int net_ctrl_handle(struct net *net)
{
	struct net_ctrl *ctrl = &net->ctrl;
	struct chain *chain;

	for (unsigned n = queue_size(ctrl->queue); n && !ctrl->waiting; n--) {
		int r = queue_pop(ctrl->queue, &chain);

		if (r <= 0)
			return r;
		carry_out(net, chain);
	}
	return ctrl->waiting ? 0 : 1;
}

/* A pair has taken the settings over, or stopped. */
static void on_wake(void *ctx)
{
	struct net *net = ctx;
	struct net_ctrl *ctrl = &net->ctrl;

	if (!ctrl->queue || (ctrl->waiting && !net_settled(net)))
		return;
	if (ctrl->waiting)
		answer(ctrl, ctrl->waiting);
	ctrl->waiting = NULL;
	/* A ring that breaks here is found at the next kick. */
	if (net_ctrl_handle(net) == 1)
		net_ring(ctrl->wake_fd);
	queue_flush(ctrl->queue);
}

int net_ctrl_start(struct net *net, struct queue *q)
{
	int r = loop_add_eventfd(queue_loop(q), net->ctrl.wake_fd, on_wake, net, &net->ctrl.wake);

	if (!r)
		net->ctrl.queue = q;
	return r;
}

void net_ctrl_stop(struct net *net)
{
	struct net_ctrl *ctrl = &net->ctrl;

	if (!ctrl->queue)
		return;
	/* The pairs take it over before they move another frame. */
	if (ctrl->waiting)
		answer(ctrl, ctrl->waiting);
	ctrl->waiting = NULL;
	loop_remove(ctrl->wake);
	ctrl->wake = NULL;
	ctrl->queue = NULL;
}
