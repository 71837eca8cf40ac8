/*
 * The kernel's vhost-net behind the front: it moves what is in some of a device's queues, and a
 * worker of ours serves the rest (back_worker.c, which this back owns). The same worker makes all
 * calls to the kernel, so that neither a vCPU thread nor main needs the right to.
 *
 * The device's code says which queues those are and what happens around them.
 */
#ifndef DEVICES_VIRTIO_BACK_VHOST_H
#define DEVICES_VIRTIO_BACK_VHOST_H

#include "devices/virtio/back.h"

struct back_vhost_hooks {
	/* With the features that were negotiated a worker of ours serves it. Any thread. */
	bool (*ours)(struct virtio_device *dev, unsigned queue);
	/*
	 * The worker, for the others: the queue is about to run in the kernel; it does no longer,
	 * also after a start that failed.
	 */
	int (*start)(struct virtio_device *dev, unsigned queue, struct loop *loop);
	void (*stop)(struct virtio_device *dev, unsigned queue);
	/* The worker: the tap that this queue's frames pass now; -1: none for the moment. */
	int (*file)(struct virtio_device *dev, unsigned queue);
};

struct back_vhost_config {
	const int *fds;         /* open vhost-net devices, for two queues each */
	unsigned n;
	uint64_t features;      /* that all of them have */
	uint64_t also;          /* bits for the kernel alone, that no driver negotiates */
	const struct back_vhost_hooks *hooks;
};

/*
 * Takes the fds, also when it fails, and takes from dev->offered what the kernel does not know of
 * rings. dev->type->worker_of must give all queues the same worker. Main, in make_back().
 */
int back_vhost_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	const struct back_vhost_config *config, struct error *err) NEEDS_CHECK;
/*
 * What hooks->file() says of these queues is not what it said before. The worker. A tap that the
 * kernel refuses breaks the device.
 */
void back_vhost_refresh(struct back *b, unsigned first, unsigned n);

#endif
