/*
 * The common part of devices that are a handful of registers at a fixed place. Main thread, at
 * set-up and at the end.
 */
#include "devices/platform/platform.h"

#include <errno.h>
#include <inttypes.h>

int platform_init(struct platform *p, const struct device_type *type, const struct device_ops *ops,
	const struct device_env *env, uint64_t len, struct error *err)
{
	const struct device_node *place = env->place;

	p->device.type = type;
	p->device.ops = ops;
	strncpy(p->device.id, env->id, sizeof(p->device.id) - 1);
	p->events = env->events;
	if (!place || place->len < len)
		return error_set(
			err, ENODEV, "%s: this machine has no place for its registers", type->name);
	p->bus = place->pio ? env->pio : env->mmio;
	if (!p->bus)
		return error_set(err, ENODEV, "%s: this machine has no I/O ports", type->name);
	p->device.nodes[0] = *place;
	return 0;
}

int platform_map(struct platform *p, uint64_t offset, uint64_t len, const struct bus_ops *ops,
	struct error *err)
{
	const struct bus_range range = {
		.start = p->device.nodes[0].base + offset,
		.len = len,
		.ops = ops,
		.ctx = p,
		.name = p->device.type->name,
	};
	int r = p->nmapped < PLATFORM_RANGES_MAX ? bus_add(p->bus, &range) : -ENOSPC;

	if (r)
		return error_set(err, -r, "%s: cannot have its registers at %#" PRIx64 ": %s",
			p->device.type->name, range.start, strerror(-r));
	p->mapped[p->nmapped++] = range.start;
	return 0;
}

void platform_unmap(struct platform *p)
{
	while (p->nmapped)
		bus_remove(p->bus, p->mapped[--p->nmapped]);
}

void platform_lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}
