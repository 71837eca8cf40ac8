/*
 * The kernel's side of vhost, played by the test (devices/virtio/vhost.h): it keeps what it was told,
 * refuses what Linux refuses, and fails where it is told to. Included by one .c of a test program,
 * whose functions take the place of vhost_kernel.c.
 */
#ifndef TESTS_UNIT_VHOST_KERNEL_H
#define TESTS_UNIT_VHOST_KERNEL_H

#include "tests/unit/virtio_rig.h"

#include "devices/virtio/vhost.h"

enum { KERNEL_DEVICES = 4, KERNEL_RINGS = 8, KERNEL_MAPS = 8 };

struct kernel_ring {
	unsigned num, base, enabled;
	struct vhost_vring_addr addr;
	int kick, call, err, backend;
	unsigned base_at_stop;           /* what GET_VRING_BASE says; 0xffffffff: what was set */
};

struct kernel_device {
	int fd;
	bool owned;
	uint64_t features, backend_features;
	unsigned nregions;
	struct vhost_memory_region region[MEM_REGIONS_MAX];
	struct kernel_ring ring[KERNEL_RINGS];
	/* vhost-vdpa */
	uint8_t status;
	bool suspended;
	unsigned resumes, suspends, resets, batches;
	int config_call;
	uint8_t config[VIRTIO_CONFIG_MAX];
	unsigned nmaps;
	struct vhost_iotlb_msg map[KERNEL_MAPS];
};

static struct {
	struct kernel_device device[KERNEL_DEVICES];
	unsigned ndevices;
	uint64_t features, backend_features; /* that it offers */
	int open_says;
	unsigned long refuse;            /* this request fails ... */
	int refuse_with;                 /* ... with this, a positive errno ... */
	unsigned refuse_after;           /* ... after so many that went well */
	unsigned max_regions;
	uint32_t id, queues, config_size;
	uint16_t vring_num;
	struct vhost_vdpa_iova_range range;
	uint64_t lock_limit;
	bool keeps_features;             /* a device that does not take FEATURES_OK */
	void (*on_backend)(unsigned device, unsigned ring, int fd);
} kernel;

RIG void kernel_init(void)
{
	memset(&kernel, 0, sizeof(kernel));
	kernel.features = VIRTIO_BIT(15) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX) |
		VIRTIO_BIT(VIRTIO_F_VERSION_1) | UINT64_C(1) << VHOST_NET_F_VIRTIO_NET_HDR | VIRTIO_BIT(26);
	kernel.max_regions = 64;
	kernel.range.last = UINT64_MAX;
	kernel.lock_limit = UINT64_MAX;
}

int vhost_open(const char *path)
{
	struct kernel_device *d = &kernel.device[kernel.ndevices];

	(void)path;
	if (kernel.open_says < 0 || kernel.ndevices == KERNEL_DEVICES)
		return kernel.open_says < 0 ? kernel.open_says : -EMFILE;
	d->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->config_call = -1;
	for (unsigned i = 0; i < KERNEL_RINGS; i++)
		d->ring[i] = (struct kernel_ring){ .kick = -1, .call = -1, .err = -1, .backend = -1,
			.base_at_stop = UINT32_MAX };
	kernel.ndevices++;
	return d->fd;
}

RIG struct kernel_device *kernel_find(int fd)
{
	for (unsigned i = kernel.ndevices; i--;)
		if (kernel.device[i].fd == fd)
			return &kernel.device[i];
	return NULL;
}

RIG int kernel_table(struct kernel_device *d, const struct vhost_memory *t)
{
	if (t->nregions > kernel.max_regions)
		return -E2BIG;
	d->nregions = t->nregions;
	memcpy(d->region, t->regions, t->nregions * sizeof(d->region[0]));
	return 0;
}

/* Requests about one ring; 1: it is none of them. */
RIG int kernel_ring_call(struct kernel_device *d, unsigned long request, void *arg)
{
	const struct vhost_vring_file *file = arg;
	struct vhost_vring_state *state = arg;
	struct kernel_ring *r = &d->ring[state->index % KERNEL_RINGS];
	bool busy = r->backend >= 0 || ((d->status & VIRTIO_S_DRIVER_OK) && !d->suspended);

	switch (request) {
	case VHOST_SET_VRING_NUM:
		r->num = state->num;
		return busy ? -EBUSY : is_pow2(state->num) ? 0 : -EINVAL;
	case VHOST_SET_VRING_BASE:
		r->base = state->num;
		return busy ? -EBUSY : 0;
	case VHOST_GET_VRING_BASE:
		state->num = r->base_at_stop == UINT32_MAX ? r->base : r->base_at_stop;
		return 0;
	case VHOST_SET_VRING_ADDR:
		memcpy(&r->addr, arg, sizeof(r->addr));
		return 0;
	case VHOST_SET_VRING_KICK:
		r->kick = file->fd;
		return 0;
	case VHOST_SET_VRING_CALL:
		r->call = file->fd;
		return 0;
	case VHOST_SET_VRING_ERR:
		r->err = file->fd;
		return 0;
	case VHOST_NET_SET_BACKEND:
		if (kernel.on_backend)
			kernel.on_backend((unsigned)(d - kernel.device), file->index, file->fd);
		r->backend = file->fd;
		return 0;
	case VHOST_VDPA_SET_VRING_ENABLE:
		r->enabled = state->num;
		return d->status & VIRTIO_S_DRIVER_OK ? -EINVAL : 0;
	default:
		return 1;
	}
}

RIG int kernel_status(struct kernel_device *d, uint8_t status)
{
	if (status && (d->status & ~status))
		return -EINVAL;
	d->resets += !status;
	if (!status)
		for (unsigned i = 0; i < KERNEL_RINGS; i++)
			d->ring[i].enabled = 0;
	d->suspended = d->suspended && status;
	d->status = kernel.keeps_features ? status & ~VIRTIO_S_FEATURES_OK : status;
	return 0;
}

/* Requests of vhost-vdpa; 1: it is none of them. */
RIG int kernel_vdpa_call(struct kernel_device *d, unsigned long request, void *arg)
{
	struct vhost_vdpa_config *c = arg;

	switch (request) {
	case VHOST_VDPA_GET_DEVICE_ID:
		*(uint32_t *)arg = kernel.id;
		return kernel.id ? 0 : -ENOTTY;
	case VHOST_GET_BACKEND_FEATURES:
		*(uint64_t *)arg = kernel.backend_features;
		return 0;
	case VHOST_SET_BACKEND_FEATURES:
		d->backend_features = *(uint64_t *)arg;
		return d->backend_features & ~kernel.backend_features ? -EOPNOTSUPP : 0;
	case VHOST_VDPA_GET_VQS_COUNT:
		*(uint32_t *)arg = kernel.queues;
		return 0;
	case VHOST_VDPA_GET_VRING_NUM:
		*(uint16_t *)arg = kernel.vring_num;
		return 0;
	case VHOST_VDPA_GET_CONFIG_SIZE:
		*(uint32_t *)arg = kernel.config_size;
		return 0;
	case VHOST_VDPA_GET_CONFIG:
		memcpy(c->buf, d->config + c->off, c->len);
		return c->off + c->len > kernel.config_size ? -E2BIG : 0;
	case VHOST_VDPA_SET_CONFIG:
		memcpy(d->config + c->off, c->buf, c->len);
		return 0;
	case VHOST_VDPA_GET_IOVA_RANGE:
		*(struct vhost_vdpa_iova_range *)arg = kernel.range;
		return 0;
	case VHOST_VDPA_SET_CONFIG_CALL:
		d->config_call = *(int *)arg;
		return 0;
	case VHOST_VDPA_GET_STATUS:
		*(uint8_t *)arg = d->status;
		return 0;
	case VHOST_VDPA_SET_STATUS:
		return kernel_status(d, *(uint8_t *)arg);
	case VHOST_VDPA_SUSPEND:
		d->suspends++;
		d->suspended = true;
		return 0;
	case _IO(VHOST_VIRTIO, 0x7E): /* VHOST_VDPA_RESUME */
		d->resumes++;
		d->suspended = false;
		return 0;
	default:
		return 1;
	}
}

int vhost_call(int fd, unsigned long request, const void *const_arg)
{
	struct kernel_device *d = kernel_find(fd);
	void *arg = (void *)(uintptr_t)const_arg;
	int r;

	if (!d)
		return -EBADF;
	/* Linux always lets go of a tap. */
	if (request == VHOST_NET_SET_BACKEND && ((const struct vhost_vring_file *)arg)->fd < 0)
		return kernel_ring_call(d, request, arg);
	if (request == kernel.refuse && !kernel.refuse_after--) {
		kernel.refuse_after = 0;
		return -kernel.refuse_with;
	}
	switch (request) {
	case VHOST_GET_FEATURES:
		*(uint64_t *)arg = kernel.features;
		return 0;
	case VHOST_SET_OWNER:
		r = d->owned ? -EBUSY : 0;
		d->owned = true;
		return r;
	case VHOST_SET_FEATURES:
		d->features = *(uint64_t *)arg;
		return d->features & ~kernel.features ? -EOPNOTSUPP : 0;
	case VHOST_SET_MEM_TABLE:
		return d->owned ? kernel_table(d, arg) : -EPERM;
	}
	r = kernel_vdpa_call(d, request, arg);
	if (r == 1)
		r = d->owned ? kernel_ring_call(d, request, arg) : -EPERM;
	cr_assert_neq(r, 1, "request %#lx", request);
	return r;
}

int vhost_message(int fd, const void *msg, size_t len)
{
	const struct vhost_msg_v2 *m = msg;
	struct kernel_device *d = kernel_find(fd);
	uint64_t sum = m->iotlb.size;

	cr_assert_eq(len, sizeof(*m));
	cr_assert_eq(m->type, VHOST_IOTLB_MSG_V2);
	if (!d->owned)
		return -EPERM;
	switch (m->iotlb.type) {
	case VHOST_IOTLB_UPDATE:
		for (unsigned i = 0; i < d->nmaps; i++) {
			if (d->map[i].iova == m->iotlb.iova)
				return -EEXIST;
			sum += d->map[i].size;
		}
		if (sum > kernel.lock_limit)
			return -ENOMEM;
		d->map[d->nmaps++] = m->iotlb;
		return 0;
	case VHOST_IOTLB_INVALIDATE:
		for (unsigned i = 0; i < d->nmaps; i++)
			if (d->map[i].iova == m->iotlb.iova)
				d->map[i] = d->map[--d->nmaps];
		return 0;
	case VHOST_IOTLB_BATCH_BEGIN:
		d->batches++;
		return 0;
	case VHOST_IOTLB_BATCH_END:
		return 0;
	default:
		return -EINVAL;
	}
}

#endif
