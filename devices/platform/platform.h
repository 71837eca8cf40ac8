/*
 * Rows of the small platform devices, for devices/table.c, and what they share: a device at the
 * fixed place that the CPU's platform list gives it, with registers, perhaps a line, and nothing
 * else. They have no worker and no option; their handlers run on vCPU threads, several at a time.
 *
 * Such a device is its handlers and a const `platform_kind`; making, saving, loading and destroying
 * it are written here.
 */
#ifndef DEVICES_PLATFORM_PLATFORM_H
#define DEVICES_PLATFORM_PLATFORM_H

#include <pthread.h>

#include "vmm/device.h"

extern const struct device_type ged_type, gpio_pl061_type, i8042_type, pvpanic_type, rtc_cmos_type,
	rtc_pl031_type;

enum { PLATFORM_RANGES_MAX = 2 };

struct platform;

struct platform_range {
	uint64_t offset, len; /* from the place on; len 0: none */
	const struct bus_ops *ops; /* their ctx is the struct platform */
};

struct platform_kind {
	const struct device_type *type;
	const struct device_ops *ops;
	size_t size;      /* of the device's struct, whose first member is the struct platform */
	uint64_t len;     /* what the place must have */
	bool wired;       /* has an interrupt line */
	struct platform_range range[PLATFORM_RANGES_MAX];
	void (*power_on)(struct platform *p); /* on a zeroed struct; NULL: that is it */
	/*
	 * For platform_save() and platform_load(): where in the struct the object of type->state
	 * lies, under `lock`, and what follows a load, with the lock held (NULL: nothing).
	 */
	size_t regs;
	void (*loaded)(struct platform *p);
};

/* Embedded first. Filled when it is made, const afterwards but for the lock. */
struct platform {
	struct device device;
	const struct platform_kind *kind;
	const struct vm_events *events;
	struct bus *bus;
	struct irq_source *irq; /* NULL: not wired */
	uint64_t mapped[PLATFORM_RANGES_MAX];
	unsigned nmapped;
	pthread_mutex_t lock; /* the device's registers, where they are more than an atomic word */
};

static inline struct platform *platform_of(struct device *dev)
{
	return container_of(dev, struct platform, device);
}

/*
 * For create(). -ENODEV when there is no place, or one that is too small; -EINVAL without a line.
 */
int platform_make(struct device **ret, const struct platform_kind *kind, const struct device_env *env,
	struct error *err) NEEDS_CHECK;
/* For struct device_ops. */
int platform_save(struct device *dev, struct state_writer *w);
int platform_load(struct device *dev, struct state_reader *r, struct error *err);
void platform_destroy(struct device *dev);

/*
 * A lock that threads of different priority share: its holder inherits, so that no vCPU waits
 * behind a worker that others keep from running.
 */
void platform_lock_init(pthread_mutex_t *lock);

#endif
