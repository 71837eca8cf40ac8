/*
 * Who serves the queues: a table with the shape of vhost. Behind it stand our own workers, as
 * threads (back_worker.c) or in a process of their own (back_process.c), the kernel's vhost
 * (back_vhost.c), vhost-user programs (back_vhost_user.c) and vDPA devices (back_vdpa.c). The front
 * speaks to nothing else.
 *
 * Calls come from the front (vCPU thread or main) under the front's lock and may wait for a worker;
 * a worker never calls the front and waits: it posts (dev->broken, dev->config_changed).
 */
#ifndef DEVICES_VIRTIO_BACK_H
#define DEVICES_VIRTIO_BACK_H

#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"

struct back;

struct back_ops {
	/* The driver's choice; before the first queue_start and after the last queue_stop. */
	int (*set_features)(struct back *b, uint64_t features);
	int (*queue_start)(struct back *b, const struct queue_setup *setup);
	/*
	 * Drains what is in flight, then fills next_avail and next_used. The queue may not run:
	 * then 0 and nothing filled.
	 */
	int (*queue_stop)(struct back *b, unsigned index, struct queue_setup *ret);
	/* The guest wrote config bytes (already in the image). */
	void (*config_written)(struct back *b, unsigned offset, unsigned len);
	int (*save)(struct back *b, struct state_writer *w);
	int (*load)(struct back *b, struct state_reader *r, struct error *err);
	void (*destroy)(struct back *b);
	/* All queues are stopped, and the driver begins anew. May be NULL. */
	void (*reset)(struct back *b);
	/*
	 * The queues that the driver has enabled by now were started: for a device that must know
	 * them all before it runs. Again after each later start. May be NULL.
	 */
	int (*ready)(struct back *b);
};

/* Embedded first. */
struct back {
	const struct back_ops *ops;
	struct virtio_device *dev;
};

/*
 * Workers of ours; asks env->worker for as many as the type's queues_per_worker says. Owns the
 * running queues, not the device: the creator calls type->destroy after the back is gone.
 */
int back_worker_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err) NEEDS_CHECK;
/* For a back that leaves some of its queues to one of workers: the worker of queue i. */
struct worker *back_worker_of(struct back *b, unsigned queue);
/*
 * The same workers in a process of their own (back_process.h), which env->process gets ready; where
 * it is NULL the caller forks it.
 */
int back_process_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err) NEEDS_CHECK;

#endif
