/*
 * One virtio device of ours without a machine: made from its option text, its queues opened on
 * harnesses (each with its driver), served on the caller's thread. For unit tests and fuzzers.
 */
#ifndef TESTS_DRIVER_DEVICE_H
#define TESTS_DRIVER_DEVICE_H

#include "tests/driver/harness.h"
#include "vmm/options.h"

enum { RIG_QUEUES = 34 };

struct rig {
	struct options *options;
	struct virtio_device *dev;
	struct loop *loop;
	struct harness *h[RIG_QUEUES];  /* of started queues */
	struct vm_events events;
	unsigned nevents;               /* VM_EVENT_DEVICE_ERROR posted */
	unsigned npauses;               /* VM_EVENT_PAUSE posted */
	char event[128];                /* text of the last one */
	unsigned config_changes;
	bool broken;                    /* the device asked for a reset */
};

/*
 * `text` is what follows the type's flag ("path=/x,readonly"); "" for none. NULL with *err, when
 * the device refuses.
 */
struct rig *rig_new(const struct virtio_type *type, const char *text, struct error *err);
/* Stops queues that run. Takes NULL. */
void rig_free(struct rig *r);

/*
 * Open queue i (`size` entries) with these features negotiated; the last call's features count for
 * the device.
 */
void rig_start(struct rig *r, unsigned i, uint16_t size, uint64_t features);
/* What the back does on a kick; handle()'s answer. */
int rig_kick(struct rig *r, unsigned i);
/* What the back does at a stop; nothing is in flight then, or it aborts. */
void rig_stop(struct rig *r, unsigned i);
/* Let the loop run for so many milliseconds. */
void rig_run(struct rig *r, unsigned ms);

/*
 * Any bytes as what a driver does with queue i: chains of any shape over any addresses, kicked at
 * any time. The data they point to is the input too.
 */
void rig_fuzz(struct rig *r, unsigned i, const uint8_t *data, size_t len);

#endif
