/*
 * What the driver set, and how it takes effect (virtio 1.2 and 1.3 §5.1.6.5): one struct for the
 * device, under its lock, of which each pair keeps a copy.
 *
 * Who changes it counts its generation up and rings the eventfds of all pairs that run
 * (net_publish()); each pair then takes it over on its own worker (net_apply()) and rings the
 * control queue's. The config image follows in the same breath: address, carrier, announcement.
 */
#include "devices/virtio/net.h"

#include <errno.h>
#include <unistd.h>

#include "devices/virtio/back_vhost.h"
#include "vmm/log.h"

enum {
	FRAME_OVERHEAD = 14 + 4, /* Ethernet header and a VLAN tag */
	MTU_USUAL = 1500,        /* of a link that does not say */
};

/* What the link can do, and the features of both directions that come with it. */
static const struct {
	unsigned link;
	uint64_t host, guest;    /* the driver may send so; may be given so: all of these bits */
} offload_map[] = {
	{ LINK_OFFLOAD_CSUM, VIRTIO_BIT(NET_F_CSUM), VIRTIO_BIT(NET_F_GUEST_CSUM) },
	{ LINK_OFFLOAD_TSO4, VIRTIO_BIT(NET_F_HOST_TSO4), VIRTIO_BIT(NET_F_GUEST_TSO4) },
	{ LINK_OFFLOAD_TSO6, VIRTIO_BIT(NET_F_HOST_TSO6), VIRTIO_BIT(NET_F_GUEST_TSO6) },
	{ LINK_OFFLOAD_TSO_ECN, VIRTIO_BIT(NET_F_HOST_ECN), VIRTIO_BIT(NET_F_GUEST_ECN) },
	{ LINK_OFFLOAD_USO, VIRTIO_BIT(NET_F_HOST_USO),
		VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6) },
};

uint64_t net_offload_features(unsigned link_offloads)
{
	uint64_t features = 0;

	for (size_t i = 0; i < ARRAY_SIZE(offload_map); i++)
		if (link_offloads & offload_map[i].link)
			features |= offload_map[i].host | offload_map[i].guest |
				VIRTIO_BIT(NET_F_CTRL_GUEST_OFFLOADS);
	return features;
}

void net_put_status(struct net *net)
{
	uint8_t status[2];

	put_le16(status, (uint16_t)((net->link_up ? NET_S_LINK_UP : 0) |
		(net->now.announce ? NET_S_ANNOUNCE : 0)));
	virtio_config_write(&net->dev.config, offsetof(struct net_config, status), status,
		sizeof(status));
}

void net_config_changed(struct net *net)
{
	if (net->dev.config_changed)
		net->dev.config_changed(&net->dev);
}

void net_refresh_config(struct net *net)
{
	pthread_mutex_lock(&net->lock);
	virtio_config_write(&net->dev.config, offsetof(struct net_config, mac), net->now.filter.mac,
		sizeof(net->now.filter.mac));
	net_put_status(net);
	pthread_mutex_unlock(&net->lock);
}

void net_announce(struct net *net)
{
	if (!virtio_has(&net->dev, NET_F_GUEST_ANNOUNCE))
		return;
	pthread_mutex_lock(&net->lock);
	net->now.announce = true;
	net_put_status(net);
	pthread_mutex_unlock(&net->lock);
	net_config_changed(net);
}

void net_reset_settings(struct net *net)
{
	net->now = (struct net_settings){ .pairs = 1 };
	net_filter_reset(&net->now.filter, net->mac);
}

bool net_settled(struct net *net)
{
	bool settled = true;

	pthread_mutex_lock(&net->lock);
	for (unsigned i = 0; i < net->npairs; i++)
		settled = settled && (!net->pairs[i].loop || net->pairs[i].applied == net->generation);
	pthread_mutex_unlock(&net->lock);
	return settled;
}

void net_ring(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it rings all the same */
}

bool net_publish(struct net *net, const struct loop *loop)
{
	unsigned long here = 0;

	pthread_mutex_lock(&net->lock);
	net->generation++;
	for (unsigned i = 0; i < net->npairs; i++)
		if (net->pairs[i].loop == loop)
			here |= 1ul << i;
		else if (net->pairs[i].loop)
			net_ring(net->pairs[i].wake_fd);
	pthread_mutex_unlock(&net->lock);
	for (unsigned i = 0; i < net->npairs; i++)
		if (here >> i & 1)
			net_apply(&net->pairs[i]);
	return net_settled(net);
}

/* Segmentation without checksums makes no sense. */
static unsigned to_link(uint64_t guest)
{
	unsigned offloads = 0;

	for (size_t i = 0; i < ARRAY_SIZE(offload_map); i++)
		if ((guest & offload_map[i].guest) == offload_map[i].guest)
			offloads |= offload_map[i].link;
	return offloads & LINK_OFFLOAD_CSUM ? offloads : 0;
}

uint64_t net_guest_offloads(const struct net *net)
{
	uint64_t mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(offload_map); i++)
		mask |= offload_map[i].guest;
	return net->dev.features & mask;
}

void net_begin(struct net *net)
{
	pthread_mutex_lock(&net->lock);
	if (!net->now.begun) {
		net->now.begun = true;
		net->now.offloads = net_guest_offloads(net);
		net->now.filter.by_vlan = virtio_has(&net->dev, NET_F_CTRL_VLAN);
		memcpy(net->now.filter.mac, net->mac, sizeof(net->mac));
		net->generation++;
	}
	pthread_mutex_unlock(&net->lock);
}

static void apply_offloads(struct net_pair *p, uint64_t guest)
{
	unsigned offloads = to_link(guest);
	size_t frame = LINK_FRAME_MAX;

	/* One interface, so one link speaks for all. */
	if (!p->index && offloads != p->offloads) {
		if (p->link->ops->set_offload(p->link, offloads))
			log_guest(LOG_WARN, "%s: the tap does not take the guest's offloads",
				p->net->dev.id);
		p->offloads = offloads;
	}
	if (p->link->mtu && !(offloads & LINK_OFFLOAD_SEGMENTS))
		frame = MIN(frame, (size_t)p->link->mtu + FRAME_OVERHEAD);
	p->rx_want = LINK_HEADER_LEN + frame;
	p->rx_usual = LINK_HEADER_LEN + (p->link->mtu ? p->link->mtu : MTU_USUAL) + FRAME_OVERHEAD;
}

void net_apply_enable(struct net_pair *p, bool enabled)
{
	if (p->enabled == enabled)
		return;
	p->enabled = enabled;
	/* The kernel has the tap only while that is attached to its interface. */
	if (!enabled && p->net->vhost)
		back_vhost_refresh(p->net->vhost, 2 * p->index, 2);
	if (p->link->ops->enable && p->link->ops->enable(p->link, enabled))
		log_guest(LOG_WARN, "%s: queue pair %u cannot be %s", p->net->dev.id, p->index,
			enabled ? "taken into use" : "put out of use");
	if (enabled && p->net->vhost)
		back_vhost_refresh(p->net->vhost, 2 * p->index, 2);
	net_lane_resume(&p->rx);
}

int net_set_rate(struct net *net, bool sending, enum rate_kind kind, const struct rate_limit *limit)
{
	if (net->vhost)
		return -EBUSY;
	rate_set(&net->rate[sending], kind, limit);
	for (unsigned i = 0; i < net->npairs; i++)
		net_ring(net->pairs[i].wake_fd);
	return 0;
}

int net_set_capture(struct net *net, bool on)
{
	if (!net->capture)
		return -ENODEV;
	capture_switch(net->capture, on);
	return 0;
}

void net_apply(struct net_pair *p)
{
	struct net *net = p->net;
	uint32_t usecs[2], packets[2];
	unsigned generation;
	uint64_t offloads;
	bool enabled;

	pthread_mutex_lock(&net->lock);
	generation = net->generation;
	p->filter = net->now.filter;
	offloads = net->now.offloads;
	enabled = p->index < net->now.pairs;
	memcpy(usecs, net->now.coal_usecs + 2 * p->index, sizeof(usecs));
	memcpy(packets, net->now.coal_packets + 2 * p->index, sizeof(packets));
	pthread_mutex_unlock(&net->lock);
	apply_offloads(p, offloads);
	/* A rate may have changed too. */
	if (p->rx.go_at)
		net_lane_resume(&p->rx);
	if (p->tx.go_at)
		net_lane_resume(&p->tx);
	net_lane_coalesce(&p->rx, usecs[0], packets[0]);
	net_lane_coalesce(&p->tx, usecs[1], packets[1]);
	net_apply_enable(p, enabled);
	pthread_mutex_lock(&net->lock);
	p->applied = generation;
	pthread_mutex_unlock(&net->lock);
	/* Whether somebody waits for this is for the control queue to know. */
	net_ring(net->ctrl.wake_fd);
}
