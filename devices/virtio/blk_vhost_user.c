/*
 * virtio-blk (virtio 1.2 §5.2) whose requests another program serves (vhost_user.h). Capacity,
 * block size and all the rest of the config space are that program's, but for the number of queues,
 * which is the user's choice within what the program has.
 */
#include "devices/virtio/blk.h"

#include <errno.h>

struct blk_vhost_user {
	struct vhost_user_device vud; /* first */
};

static bool config_came(struct virtio_device *dev, uint8_t *bytes)
{
	uint8_t old[sizeof(struct blk_config)];

	put_le16(bytes + offsetof(struct blk_config, num_queues), dev->nqueues);
	virtio_config_read(&dev->config, 0, old, sizeof(old));
	if (!memcmp(old, bytes, sizeof(old)))
		return false;
	virtio_config_write(&dev->config, 0, bytes, sizeof(old));
	return true;
}

static const struct vhost_user_kind blk_kind = {
	.flag = "disk",
	.known = VIRTIO_BIT(BLK_F_SIZE_MAX) | VIRTIO_BIT(BLK_F_SEG_MAX) | VIRTIO_BIT(BLK_F_GEOMETRY) |
		VIRTIO_BIT(BLK_F_RO) | VIRTIO_BIT(BLK_F_BLK_SIZE) | VIRTIO_BIT(BLK_F_FLUSH) |
		VIRTIO_BIT(BLK_F_TOPOLOGY) | VIRTIO_BIT(BLK_F_CONFIG_WCE) | VIRTIO_BIT(BLK_F_MQ) |
		VIRTIO_BIT(BLK_F_DISCARD) | VIRTIO_BIT(BLK_F_WRITE_ZEROES),
	.inflight = true,
	.config_came = config_came,
};

static int blk_vhost_user_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	struct blk_vhost_user *blk = container_of(dev, struct blk_vhost_user, vud.dev);
	const struct blk_options *o = options;
	const char *ours = blk_own_option(o);
	int r;

	if (ours)
		return error_set(err, EINVAL,
			"--disk socket=%s,%s: the program at the socket decides that; leave out one of the two",
			o->vhost_user.socket, ours);
	dev->nqueues = (uint16_t)o->num_queues;
	r = vhost_user_open(&blk->vud.vu, dev, env, &blk_kind, &o->vhost_user, o->num_queues, 0, err);
	if (r)
		return r;
	if (dev->nqueues > 1 && !(dev->features & VIRTIO_BIT(BLK_F_MQ)))
		return error_set(err, EINVAL,
			"--disk socket=%s,num_queues=%u: the program there serves one queue; leave num_queues out",
			o->vhost_user.socket, o->num_queues);
	if (dev->nqueues == 1)
		dev->features &= ~VIRTIO_BIT(BLK_F_MQ);
	return 0;
}

static void blk_vhost_user_destroy(struct virtio_device *dev)
{
	vhost_user_close(container_of(dev, struct blk_vhost_user, vud.dev)->vud.vu);
}

bool blk_shares_memory(const void *options)
{
	const struct blk_options *o = options;

	return o->vhost_user.socket || o->vdpa || virtio_shares_memory(options);
}

const struct virtio_type virtio_blk_vhost_user_type = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLK,
	.pci_class = 0x018000, /* mass storage, other */
	.nqueues = BLK_QUEUES_MAX,
	.size = sizeof(struct blk_vhost_user),
	.config_size = sizeof(struct blk_config),
	.options = &blk_group,
	.create = blk_vhost_user_create,
	.config_writable = blk_config_writable,
	.destroy = blk_vhost_user_destroy,
};
