/*
 * Which received frames are the guest's (virtio 1.2 §5.1.6.5.1 to 3): by address, by kind and by
 * VLAN, as the driver set it through the control queue. A driver that never said anything gets all
 * that the link brings.
 *
 * A service to the driver, which would throw these frames away itself; no wall around a guest: what
 * is filtered has been in its buffers already. Pure functions.
 */
#include "devices/virtio/net.h"

enum { ETHERTYPE_AT = 12, VLAN_AT = 14, ETHERTYPE_VLAN = 0x8100, VLAN_MASK = 0xfff };

void net_filter_reset(struct net_filter *f, const uint8_t mac[6])
{
	*f = (struct net_filter){ .mode[NET_RX_PROMISC] = true };
	memcpy(f->mac, mac, sizeof(f->mac));
}

static bool in_table(const struct net_mac_table *t, const uint8_t *mac)
{
	if (t->n > NET_MACS_MAX)
		return true;
	for (unsigned i = 0; i < t->n; i++)
		if (!memcmp(t->mac + 6 * i, mac, 6))
			return true;
	return false;
}

static bool vlan_passes(const struct net_filter *f, const uint8_t *frame, size_t len)
{
	unsigned id;

	if (!f->by_vlan || len < NET_PEEK ||
		(frame[ETHERTYPE_AT] << 8 | frame[ETHERTYPE_AT + 1]) != ETHERTYPE_VLAN)
		return true;
	id = (unsigned)(frame[VLAN_AT] << 8 | frame[VLAN_AT + 1]) & VLAN_MASK;
	return f->vlan[id / 64] >> (id % 64) & 1;
}

bool net_filter_passes(const struct net_filter *f, const uint8_t *frame, size_t len)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (f->mode[NET_RX_PROMISC] || len < sizeof(all))
		return true;
	if (!vlan_passes(f, frame, len))
		return false;
	if (!memcmp(frame, all, sizeof(all)))
		return !f->mode[NET_RX_NOBCAST];
	if (frame[0] & 1)
		return !f->mode[NET_RX_NOMULTI] &&
			(f->mode[NET_RX_ALLMULTI] || in_table(&f->multi, frame));
	if (f->mode[NET_RX_NOUNI])
		return false;
	return f->mode[NET_RX_ALLUNI] || !memcmp(frame, f->mac, 6) || in_table(&f->uni, frame);
}
