/*
 * A virtio device that is not ours: hardware with virtio rings, or a program behind VDUSE, that the
 * host's kernel hands out as /dev/vhost-vdpa-N (uapi linux/vhost.h, vdpa in the kernel's
 * documentation). Our transports and our front stand before it; its config space is shown as it
 * is; its features are offered as far as rings and transports of ours go along.
 *
 *   vdpa.c       what it is, asked on main: type, queues, features, config space
 *   back_vdpa.c  drives it, on a worker of its own
 */
#ifndef DEVICES_VIRTIO_VDPA_H
#define DEVICES_VIRTIO_VDPA_H

#include "devices/virtio/back.h"

struct vdpa {
	struct virtio_device dev;   /* first */
	int fd;                     /* const */
	const char *flag;           /* const; "disk", for sentences */
	char path[64];              /* const; likewise */
	uint64_t features;          /* const; all that the device has */
	uint64_t backend;           /* const; VHOST_BACKEND_F_* that were taken, bit numbers */
	uint64_t iova_first, iova_last; /* const; addresses that it can reach */
};

static inline bool vdpa_can(const struct vdpa *v, unsigned backend_feature)
{
	return v->backend & UINT64_C(1) << backend_feature;
}

/*
 * For a row's create(): the device at `path`, which has to be a `id`. `virtio` are the options of
 * the flag that said vdpa=.
 */
int vdpa_create(struct device **ret, const struct device_type *row, enum virtio_id id, const char *path,
	const struct virtio_options *virtio, const struct device_env *env, struct error *err) NEEDS_CHECK;

/*
 * For a row's create(): that, when the user gave a path, or a device of `type`. `other` is an
 * option that was given and that such a device has no use for, or NULL.
 */
struct vdpa_choice {
	enum virtio_id id;
	const char *path;         /* NULL: not given */
	const char *other;
	const struct virtio_options *virtio;
	const struct virtio_type *type;
};
int vdpa_create_or(struct device **ret, const struct device_type *row, const struct vdpa_choice *c,
	const struct device_env *env, const void *options, struct error *err) NEEDS_CHECK;

/* The config image is as the device has it now. Main before it runs, or its worker. */
int vdpa_read_config(struct vdpa *v);

/* back_vdpa.c; make_back() of such a device. */
int back_vdpa_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err) NEEDS_CHECK;

/* Bits of newer kernels than some headers that we are built with (linux/vhost_types.h). */
enum {
	VDPA_BACKEND_F_IOTLB_MSG_V2 = 1,
	VDPA_BACKEND_F_IOTLB_BATCH = 2,
	VDPA_BACKEND_F_SUSPEND = 4,
	VDPA_BACKEND_F_RESUME = 5,
	VDPA_BACKEND_F_IOTLB_PERSIST = 8,
};

#endif
