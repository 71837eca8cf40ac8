/*
 * virtio-net (virtio 1.2 §5.1) whose frames another program moves (vhost_user.h): a software
 * switch, a user-mode network. Address, MTU and link state are ours to tell.
 *
 * A control queue is offered with more than one pair only, and served here, beside the program's
 * queues: programs of this kind do not serve it, also those that know its feature bit. It has one
 * command, how many pairs are in use (§5.1.6.5.5), which the program is told by enabling their
 * queues.
 */
#include "devices/virtio/net.h"

#include <errno.h>

#include "devices/virtio/chain.h"

struct net_vhost_user {
	struct vhost_user_device vud; /* first */
	uint8_t mac[6];               /* const after create and load */
	uint16_t pairs;               /* worker; in use. Saved */
	uint16_t npairs;              /* const */
};

static struct net_vhost_user *of(struct virtio_device *dev)
{
	return container_of(dev, struct net_vhost_user, vud.dev);
}

/* §5.1.2: where the control queue is without VIRTIO_NET_F_MQ. */
static bool is_own(const struct virtio_device *dev, unsigned index)
{
	return index == 2 && virtio_has(dev, NET_F_CTRL_VQ) && !virtio_has(dev, NET_F_MQ);
}

/* The address goes where the machine goes. */
static void loaded(struct virtio_device *dev)
{
	virtio_config_write(&dev->config, offsetof(struct net_config, mac), of(dev)->mac, sizeof(of(dev)->mac));
}

static const struct vhost_user_kind net_kind = {
	.flag = "net",
	.known = VIRTIO_BIT(NET_F_CSUM) | VIRTIO_BIT(NET_F_GUEST_CSUM) | VIRTIO_BIT(NET_F_GUEST_TSO4) |
		VIRTIO_BIT(NET_F_GUEST_TSO6) | VIRTIO_BIT(NET_F_GUEST_ECN) | VIRTIO_BIT(NET_F_HOST_TSO4) |
		VIRTIO_BIT(NET_F_HOST_TSO6) | VIRTIO_BIT(NET_F_HOST_ECN) | VIRTIO_BIT(NET_F_MRG_RXBUF) |
		VIRTIO_BIT(NET_F_GUEST_USO4) | VIRTIO_BIT(NET_F_GUEST_USO6) | VIRTIO_BIT(NET_F_HOST_USO),
	.mtu_feature = NET_F_MTU,
	.pairs = true,
	.is_own = is_own,
	.loaded = loaded,
};

static void fill_config(struct net_vhost_user *net, const struct net_options *o)
{
	struct net_config c = {
		.status = NET_S_LINK_UP,
		.max_virtqueue_pairs = net->npairs,
		.mtu = (uint16_t)o->mtu,
		.speed = o->speed ? o->speed : NET_SPEED_UNKNOWN,
		.duplex = o->speed ? NET_DUPLEX_FULL : NET_DUPLEX_UNKNOWN,
	};

	memcpy(c.mac, net->mac, sizeof(c.mac));
	virtio_config_write(&net->vud.dev.config, 0, &c, sizeof(c));
}

static int check(const struct net_options *o, struct error *err)
{
	const char *ours = net_own_option(o);

	if (ours)
		return error_set(err, EINVAL,
			"--net socket=%s and %s: the program at the socket moves the frames; leave out one of the two",
			o->vhost_user.socket, ours);
	return net_check_pairs(o, err) ? -EINVAL : net_check_standby(o, err);
}

static int net_vhost_user_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	const struct net_options *o = options;
	struct net_vhost_user *net = of(dev);
	int r = check(o, err);

	net->npairs = (uint16_t)(o->num_queues / 2);
	net->pairs = 1;
	if (!r)
		r = net_choose_mac(net->mac, o, err);
	if (!r)
		r = vhost_user_open(&net->vud.vu, dev, env, &net_kind, &o->vhost_user, o->num_queues, o->mtu, err);
	if (r)
		return r;
	if (net->npairs > 1 && !vhost_user_agreed(net->vud.vu, VHOST_USER_PROTOCOL_MQ))
		return error_set(err, EINVAL,
			"--net socket=%s,num_queues=%u: the program there serves one pair; leave num_queues out",
			o->vhost_user.socket, o->num_queues);
	dev->nqueues = (uint16_t)(o->num_queues + (net->npairs > 1));
	dev->features |= VIRTIO_BIT(NET_F_MAC) | VIRTIO_BIT(NET_F_STATUS);
	dev->features |= o->mtu ? VIRTIO_BIT(NET_F_MTU) : 0;
	dev->features |= o->speed ? VIRTIO_BIT(NET_F_SPEED_DUPLEX) : 0;
	dev->features |= o->standby ? VIRTIO_BIT(NET_F_STANDBY) : 0;
	dev->features |= net->npairs > 1 ? VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_MQ) : 0;
	fill_config(net, o);
	return 0;
}

static void net_vhost_user_destroy(struct virtio_device *dev)
{
	vhost_user_close(of(dev)->vud.vu);
}

/* --- the control queue; all on the worker --- */

static int queue_start(struct virtio_device *dev, struct queue *q)
{
	(void)q;
	vhost_user_use_pairs(of(dev)->vud.vu, of(dev)->pairs);
	return 0;
}

static void reset(struct virtio_device *dev)
{
	of(dev)->pairs = 1;
	vhost_user_use_pairs(of(dev)->vud.vu, 1);
}

/* §5.1.6.5: class, command, and how many pairs. */
static bool carry_out(struct net_vhost_user *net, struct chain *c)
{
	uint8_t head[2], pairs[2];

	if (chain_read(c, head, sizeof(head)) || head[0] != NET_CTRL_MQ || head[1] != 0 ||
		!virtio_has(&net->vud.dev, NET_F_MQ) || chain_in_left(c) != sizeof(pairs) ||
		chain_read(c, pairs, sizeof(pairs)))
		return false;
	if (!get_le16(pairs) || get_le16(pairs) > net->npairs)
		return false;
	net->pairs = get_le16(pairs);
	vhost_user_use_pairs(net->vud.vu, net->pairs);
	return true;
}

static int handle(struct virtio_device *dev, struct queue *q)
{
	struct chain *c;

	for (unsigned i = 0; i < queue_size(q); i++) {
		uint8_t ack;
		int r = queue_pop(q, &c);

		if (r <= 0)
			return r;
		/* Without room for the answer it is not carried out. */
		if (chain_out_left(c)) {
			ack = carry_out(of(dev), c) ? NET_ACK_OK : NET_ACK_ERR;
			(void)!chain_write(c, &ack, 1);
		}
		queue_push(q, c);
	}
	return 1;
}

/* --- state --- */

static int check_state(const void *object, struct error *err)
{
	const struct net_vhost_user *net = object;

	if (net->mac[0] & 1)
		return error_set(err, EINVAL, "virtio-net: the address is a group's");
	if (!net->pairs || net->pairs > net->npairs)
		return error_set(err, EINVAL,
			"virtio-net: %u queue pairs are in use, and this machine's has %u; give it the same num_queues",
			net->pairs, net->npairs);
	return 0;
}

static const struct state_field fields[] = {
	STATE_ARRAY(struct net_vhost_user, mac),
	STATE_FIELD(struct net_vhost_user, pairs),
	STATE_END,
};

static const struct state_desc state = {
	.name = "virtio-net-vhost-user",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct net_vhost_user),
	.fields = fields,
	.check = check_state,
};

bool net_shares_memory(const void *options)
{
	const struct net_options *o = options;

	return o->vhost_user.socket || o->vdpa || virtio_shares_memory(options);
}

const struct virtio_type virtio_net_vhost_user_type = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000, /* Ethernet */
	.nqueues = NET_QUEUES_MAX,
	.size = sizeof(struct net_vhost_user),
	.config_size = sizeof(struct net_config),
	.options = &net_group,
	.state = &state,
	.create = net_vhost_user_create,
	.queue_start = queue_start,
	.handle = handle,
	.reset = reset,
	.destroy = net_vhost_user_destroy,
};
