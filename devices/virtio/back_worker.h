/*
 * What a process around our own workers (back_process.c) adds to them: what is in flight is noted,
 * so that another life can go on.
 */
#ifndef DEVICES_VIRTIO_BACK_WORKER_H
#define DEVICES_VIRTIO_BACK_WORKER_H

#include "devices/virtio/back.h"
#include "devices/virtio/queue_record.h"

struct back_watch {
	/* Where queue `i` notes what is in flight; what stands there is taken up at its start. */
	struct queue_record *(*record)(void *ctx, unsigned i);
	void *ctx;
};

/* `b` is of back_worker_create(); no queue has started yet. */
void back_worker_watch(struct back *b, const struct back_watch *watch);

#endif
