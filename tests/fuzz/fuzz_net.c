/*
 * Any driver and any peer: the input plays both a virtio-net driver on its queues, the control queue
 * among them, and the other end of a stream link. Every head comes back once (the rig aborts otherwise), and the loop gets
 * its turn.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/host/link_stream.h"
#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum { QUEUE = 32, RX = 0, TX = 1, CTRL = 2 };
#define CTRL_FEATURES                                                                              \
	(VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_CTRL_RX) | VIRTIO_BIT(NET_F_CTRL_RX_EXTRA) | \
		VIRTIO_BIT(NET_F_CTRL_VLAN) | VIRTIO_BIT(NET_F_CTRL_MAC_ADDR) |                    \
		VIRTIO_BIT(NET_F_NOTF_COAL) | VIRTIO_BIT(NET_F_VQ_NOTF_COAL) |                     \
		VIRTIO_BIT(NET_F_GUEST_ANNOUNCE) | VIRTIO_BIT(NET_F_CTRL_GUEST_OFFLOADS))

static int wire[2];
static bool anti_spoof, limited;

static int create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	struct net *net = container_of(dev, struct net, dev);
	struct link *link = NULL;
	const struct net_setup setup = { .links = &link, .npairs = 1, .anti_spoof = anti_spoof };
	const struct rate_limit limit = { 4, 0, 1 };
	int r = link_stream_adopt(&link, wire[0], NULL, "peer");

	(void)env;
	(void)options;
	if (limited)
		rate_set(&net->rate[1], RATE_OPS, &limit);
	return r ? r : net_init(net, &setup, err);
}

/* What the device sent goes nowhere; what the peer says comes from the input. */
static void peer(const uint8_t *data, size_t len)
{
	uint8_t sink[4096];

	while (recv(wire[1], sink, sizeof(sink), MSG_DONTWAIT) > 0)
		;
	if (send(wire[1], data, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint64_t rings[] = { 0, VD_F_PACKED, VD_F_INDIRECT | VD_F_EVENT_IDX,
		VD_F_PACKED | VD_F_IN_ORDER };
	struct virtio_type type = virtio_net_type;
	uint64_t features;
	struct rig *r;
	size_t part;

	log_level = LOG_ERROR;
	if (len < 4 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire))
		return 0;
	type.create = create;
	anti_spoof = data[0] & 32;
	limited = data[0] & 64;
	r = rig_new(&type, "user", NULL);
	if (!r)
		abort();
	features = rings[data[0] & 3] | (data[0] & 4 ? VIRTIO_BIT(NET_F_MRG_RXBUF) : 0);
	if (data[0] & 8) /* as if the link could: headers are looked at */
		features |= VIRTIO_BIT(NET_F_CSUM) | VIRTIO_BIT(NET_F_HOST_TSO4);
	if (data[0] & 16)
		features |= CTRL_FEATURES;
	rig_start(r, RX, QUEUE, features);
	rig_start(r, TX, QUEUE, features);
	if (features & VIRTIO_BIT(NET_F_CTRL_VQ))
		rig_start(r, CTRL, QUEUE, features);
	part = (len - 1) / 4;
	data++;
	if (r->h[CTRL])
		rig_fuzz(r, CTRL, data + 3 * part, part);
	rig_fuzz(r, RX, data, part);
	peer(data + part, part);
	rig_run(r, 0);
	rig_fuzz(r, TX, data + 2 * part, part);
	rig_run(r, 0);
	if (r->h[CTRL])
		rig_fuzz(r, CTRL, data + 3 * part, part);
	rig_run(r, 0);
	rig_free(r);
	close(wire[1]);
	return 0;
}
