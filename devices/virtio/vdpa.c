/*
 * vDPA devices, as main makes them: opened, asked what they are, and shown to the guest.
 *
 * The guest is offered what the device has, less what our rings and transports do not do, and less
 * VIRTIO_F_ACCESS_PLATFORM: it sees its own addresses, which the kernel translates (back_vdpa.c).
 * A packed ring is offered only when the device can be suspended, since nothing else tells where
 * such a ring stopped.
 */
#include "devices/virtio/vdpa.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/virtio/vhost.h"
#include "vmm/log.h"

enum { FEATURE_ORDER_PLATFORM = 36 };

/* virtio 1.2 §2.2: of the device's own kind; and how memory accesses are ordered. */
static const uint64_t passed_on = ((UINT64_C(1) << 24) - 1) | ~((UINT64_C(1) << 50) - 1) |
	VIRTIO_BIT(FEATURE_ORDER_PLATFORM);

static const uint64_t backend_known = VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_MSG_V2) |
	VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_BATCH) | VIRTIO_BIT(VDPA_BACKEND_F_SUSPEND) |
	VIRTIO_BIT(VDPA_BACKEND_F_RESUME) | VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_PERSIST);

struct vdpa_options {
	struct virtio_options virtio;
	const struct device_type *row;
	const char *path;
};

static int open_failed(int code, struct error *err)
{
	switch (code) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return error_set(err, code,
			"there is no such device; load modules with: modprobe vhost_vdpa; list devices with: vdpa dev; "
			"what is bound to vhost_vdpa is in /sys/bus/vdpa/drivers/vhost_vdpa");
	case EBUSY:
		return error_set(err, code, "is in use by another machine or program; stop that one, or name another");
	case EACCES:
	case EPERM:
		return error_set(err, code, "no right to use it; give its file to your group with chgrp and chmod g+rw");
	default:
		return error_set(err, code, "cannot be opened: %s", strerror(code));
	}
}

static const char *kind_name(uint32_t id)
{
	return id == VIRTIO_ID_NET ? "network" : id == VIRTIO_ID_BLK ? "disk" : "other";
}

static int check_kind(const struct vdpa *v, struct error *err)
{
	const struct virtio_type *type = v->dev.type;
	uint32_t id = 0;
	int r = vhost_call(v->fd, VHOST_VDPA_GET_DEVICE_ID, &id);

	if (r < 0)
		return error_set(err, -r, "is no vhost-vdpa device; name one of /dev/vhost-vdpa-*");
	if (id == type->id)
		return 0;
	return error_set(err, EINVAL, "is a device of virtio type %u (%s), and --%s needs type %u (%s); %s", id,
		kind_name(id), v->flag, type->id, kind_name(type->id),
		id == VIRTIO_ID_NET ? "give it to --net" : id == VIRTIO_ID_BLK ? "give it to --disk" : "name another");
}

static int ask_features(struct vdpa *v, struct error *err)
{
	uint64_t backend = 0;
	int r = vhost_call(v->fd, VHOST_GET_FEATURES, &v->features);

	if (r == 0)
		r = vhost_call(v->fd, VHOST_GET_BACKEND_FEATURES, &backend);
	if (r == 0 && !(v->features & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
		return error_set(err, ENOTSUP, "is older than virtio 1; name another device");
	v->backend = backend & backend_known;
	if (r == 0 && !vdpa_can(v, VDPA_BACKEND_F_IOTLB_MSG_V2))
		return error_set(err, ENOTSUP, "this kernel's vhost-vdpa cannot map memory; use Linux 5.19 or later");
	if (r == 0)
		r = vhost_call(v->fd, VHOST_SET_BACKEND_FEATURES, &v->backend);
	if (r == 0)
		r = vhost_call(v->fd, VHOST_SET_OWNER, NULL);
	return r == 0 ? 0 : error_set(err, -r, "does not say what it can do: %s", strerror(-r));
}

/* How many queues of which size. */
static int ask_queues(struct vdpa *v, struct error *err)
{
	uint32_t queues = 0;
	uint16_t size = 0;
	int r = vhost_call(v->fd, VHOST_VDPA_GET_VQS_COUNT, &queues);

	if (r == 0)
		r = vhost_call(v->fd, VHOST_VDPA_GET_VRING_NUM, &size);
	if (r < 0)
		return error_set(err, -r, "does not say how many queues it has: %s; use Linux 5.19 or later",
			strerror(-r));
	if (!queues || queues > VIRTIO_QUEUES_MAX || size < 2)
		return error_set(err, EINVAL, "has %u queues of %u entries, and from 1 to %d of at least 2 are possible; "
			"make it with fewer", queues, size, VIRTIO_QUEUES_MAX);
	v->dev.nqueues = (uint16_t)queues;
	while (v->dev.queue_size > size)
		v->dev.queue_size /= 2;
	return 0;
}

int vdpa_read_config(struct vdpa *v)
{
	struct {
		struct vhost_vdpa_config head;
		uint8_t bytes[VIRTIO_CONFIG_MAX];
	} c = { .head.len = v->dev.config.size };
	int r = c.head.len ? vhost_call(v->fd, VHOST_VDPA_GET_CONFIG, &c) : 0;

	if (r == 0)
		virtio_config_write(&v->dev.config, 0, c.bytes, v->dev.config.size);
	return r;
}

static int ask_config(struct vdpa *v, struct error *err)
{
	uint32_t size = 0;
	int r = vhost_call(v->fd, VHOST_VDPA_GET_CONFIG_SIZE, &size);

	if (r == 0) {
		v->dev.config.size = MIN(size, (uint32_t)VIRTIO_CONFIG_MAX);
		r = vdpa_read_config(v);
	}
	return r == 0 ? 0 : error_set(err, -r, "its configuration cannot be read: %s", strerror(-r));
}

static void ask_addresses(struct vdpa *v)
{
	struct vhost_vdpa_iova_range range = { 0, UINT64_MAX };

	/* Kernels before 5.12 do not say, and then have no limits. */
	if (vhost_call(v->fd, VHOST_VDPA_GET_IOVA_RANGE, &range) < 0)
		range = (struct vhost_vdpa_iova_range){ 0, UINT64_MAX };
	v->iova_first = range.first;
	v->iova_last = range.last;
}

static int make(struct virtio_device *dev, const struct device_env *env, const void *options, struct error *err)
{
	struct vdpa *v = container_of(dev, struct vdpa, dev);
	const struct vdpa_options *o = options;
	int r;

	(void)env;
	v->flag = o->row->options->flag;
	strncpy(v->path, o->path, sizeof(v->path) - 1);
	v->fd = -1;
	r = vhost_open(o->path);
	if (r >= 0)
		v->fd = r;
	else
		r = open_failed(-r, err);
	if (r >= 0)
		r = check_kind(v, err);
	if (r == 0)
		r = ask_features(v, err);
	if (r == 0)
		r = ask_queues(v, err);
	if (r == 0)
		r = ask_config(v, err);
	if (r < 0)
		return error_prefix(err, r, "--%s vdpa=%s", v->flag, o->path);
	ask_addresses(v);
	dev->features = v->features & passed_on;
	dev->make_back = back_vdpa_create;
	log_info("%s: %s, %u queues of up to %u, features %#llx%s", dev->id, o->path, dev->nqueues, dev->queue_size,
		(unsigned long long)v->features,
		vdpa_can(v, VDPA_BACKEND_F_SUSPEND) ? "" : "; it cannot be suspended, only reset");
	return 0;
}

/* What the device makes of a byte is its business. */
static bool config_writable(const struct virtio_device *dev, unsigned offset, unsigned len)
{
	return range_inside(offset, len, 0, dev->config.size);
}

static void destroy(struct virtio_device *dev)
{
	struct vdpa *v = container_of(dev, struct vdpa, dev);

	if (v->fd > 0)
		close(v->fd);
}

#define VDPA_TYPE(name_, id_, class_)                                                              \
	{ .name = name_, .id = id_, .pci_class = class_, .nqueues = VIRTIO_QUEUES_MAX,             \
		.size = sizeof(struct vdpa), .config_size = VIRTIO_CONFIG_MAX, .create = make,     \
		.config_writable = config_writable, .destroy = destroy }

/* Classes: Ethernet; mass storage, other. */
static const struct virtio_type vdpa_net_type = VDPA_TYPE("vdpa-net", VIRTIO_ID_NET, 0x020000);
static const struct virtio_type vdpa_blk_type = VDPA_TYPE("vdpa-blk", VIRTIO_ID_BLK, 0x018000);

int vdpa_create(struct device **ret, const struct device_type *row, enum virtio_id id, const char *path,
	const struct virtio_options *virtio, const struct device_env *env, struct error *err)
{
	const struct vdpa_options o = { .virtio = *virtio, .row = row, .path = path };

	return virtio_create(ret, row, id == VIRTIO_ID_NET ? &vdpa_net_type : &vdpa_blk_type, env, &o, err);
}

int vdpa_create_or(struct device **ret, const struct device_type *row, const struct vdpa_choice *c,
	const struct device_env *env, const void *options, struct error *err)
{
	if (!c->path)
		return virtio_create(ret, row, c->type, env, options, err);
	/* What is not ours has all its properties from elsewhere. */
	if (c->other)
		return error_set(err, EINVAL,
			"--%s vdpa=%s: %s is the device's own business; leave it out, or leave vdpa out",
			row->options->flag, c->path, c->other);
	return vdpa_create(ret, row, c->id, c->path, c->virtio, env, err);
}
