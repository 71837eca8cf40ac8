/*
 * Rows of the small platform devices, for devices/table.c, and what they share: a device at the
 * fixed place that the CPU's platform list gives it, with registers and nothing else. They have no
 * worker and no option; their handlers run on vCPU threads, several at a time.
 */
#ifndef DEVICES_PLATFORM_PLATFORM_H
#define DEVICES_PLATFORM_PLATFORM_H

#include <pthread.h>

#include "vmm/device.h"

extern const struct device_type ged_type, gpio_pl061_type, i8042_type, pvpanic_type, rtc_cmos_type,
	rtc_pl031_type;

enum { PLATFORM_RANGES_MAX = 2 };

/* Embedded first. Filled in create(), const afterwards. */
struct platform {
	struct device device;
	const struct vm_events *events;
	struct bus *bus;
	uint64_t mapped[PLATFORM_RANGES_MAX];
	unsigned nmapped;
};

/* Fill a zeroed `p`. -ENODEV when there is no place, or one of less than `len` bytes. */
int platform_init(struct platform *p, const struct device_type *type, const struct device_ops *ops,
	const struct device_env *env, uint64_t len, struct error *err) NEEDS_CHECK;
/* Answer at `len` bytes from `offset` of the place on; the handlers' ctx is `p`. */
int platform_map(struct platform *p, uint64_t offset, uint64_t len, const struct bus_ops *ops,
	struct error *err) NEEDS_CHECK;
/* Take back what was mapped, also when platform_init failed. */
void platform_unmap(struct platform *p);

/*
 * A lock that threads of different priority share: its holder inherits, so that no vCPU waits
 * behind a worker that others keep from running.
 */
void platform_lock_init(pthread_mutex_t *lock);

#endif
