/*
 * The common part of devices that are a handful of registers at a fixed place. Main thread: at
 * set-up, at the end, and with vCPUs parked to save and load.
 */
#include "devices/platform/platform.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static int find_place(struct platform *p, const struct device_env *env, struct error *err)
{
	const struct device_node *place = env->place;
	const char *name = p->kind->type->name;

	if (!place || place->len < p->kind->len)
		return error_set(err, ENODEV, "%s: this machine has no place for its registers", name);
	p->bus = place->pio ? env->pio : env->mmio;
	if (!p->bus)
		return error_set(err, ENODEV, "%s: this machine has no I/O ports", name);
	p->device.nodes[0] = *place;
	if (!p->kind->wired)
		return 0;
	if (place->gsi == UINT32_MAX)
		return error_set(err, EINVAL, "%s: its place has no interrupt line", name);
	return irq_line_create(&p->irq, env->irq, place->gsi, err);
}

static int map(struct platform *p, const struct platform_range *at, struct error *err)
{
	const struct bus_range range = {
		.start = p->device.nodes[0].base + at->offset,
		.len = at->len,
		.ops = at->ops,
		.ctx = p,
		.name = p->device.type->name,
	};
	int r = bus_add(p->bus, &range);

	if (r)
		return error_set(err, -r, "%s: cannot have its registers at %#" PRIx64 ": %s",
			p->device.type->name, range.start, strerror(-r));
	p->mapped[p->nmapped++] = range.start;
	return 0;
}

int platform_make(struct device **ret, const struct platform_kind *kind, const struct device_env *env,
	struct error *err)
{
	struct platform *p = calloc(1, kind->size);
	int r;

	if (!p)
		return error_set(err, ENOMEM, "%s: out of memory", kind->type->name);
	p->kind = kind;
	p->device.type = kind->type;
	p->device.ops = kind->ops;
	strncpy(p->device.id, env->id, sizeof(p->device.id) - 1);
	p->events = env->events;
	platform_lock_init(&p->lock);
	if (kind->power_on)
		kind->power_on(p);
	r = find_place(p, env, err);
	/* Last, so that the guest's accesses find everything there. */
	for (size_t i = 0; i < PLATFORM_RANGES_MAX && kind->range[i].len && r == 0; i++)
		r = map(p, &kind->range[i], err);
	if (r) {
		platform_destroy(&p->device);
		return r;
	}
	*ret = &p->device;
	return 0;
}

void platform_destroy(struct device *dev)
{
	struct platform *p;

	if (!dev)
		return;
	p = platform_of(dev);
	while (p->nmapped)
		bus_remove(p->bus, p->mapped[--p->nmapped]);
	irq_destroy(p->irq);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int platform_save(struct device *dev, struct state_writer *w)
{
	struct platform *p = platform_of(dev);
	int r;

	pthread_mutex_lock(&p->lock);
	r = state_save(w, dev->type->state, (const uint8_t *)p + p->kind->regs);
	pthread_mutex_unlock(&p->lock);
	return r;
}

int platform_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct platform *p = platform_of(dev);
	int ret;

	pthread_mutex_lock(&p->lock);
	ret = state_load(r, dev->type->state, (uint8_t *)p + p->kind->regs, err);
	if (ret == 0 && p->kind->loaded)
		p->kind->loaded(p);
	pthread_mutex_unlock(&p->lock);
	return ret;
}

void platform_lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}
