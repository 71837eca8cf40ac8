/*
 * One byte by which a guest says that its kernel has panicked (QEMU docs/specs/pvpanic). A read
 * tells which events are understood, a write reports one. The machine decides what follows.
 *
 * No state; vCPU threads.
 */
#include "devices/platform/platform.h"
#include "vmm/log.h"

enum {
	PANICKED = 1 << 0,
	CRASH_LOADED = 1 << 1, /* panicked, and a crash kernel takes over */
	PLACE_LEN = 1,
};

static void events_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	(void)ctx, (void)offset;
	memset(data, 0, len);
	*(uint8_t *)data = PANICKED | CRASH_LOADED;
}

static void events_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct platform *p = ctx;
	uint8_t v = *(const uint8_t *)data;

	(void)offset, (void)len;
	if (v & PANICKED)
		p->events->post(p->events->ctx, VM_EVENT_PANIC, "panicked");
	else if (v & CRASH_LOADED)
		p->events->post(p->events->ctx, VM_EVENT_PANIC, "crash-loaded");
	else
		log_guest(LOG_DEBUG, "pvpanic: the guest reports an unknown event %#x", v);
}

static const struct bus_ops pvpanic_bus_ops = { .read = events_read, .write = events_write };

static const struct device_ops pvpanic_ops = { .destroy = platform_destroy };

static const struct platform_kind pvpanic_kind = {
	.type = &pvpanic_type,
	.ops = &pvpanic_ops,
	.size = sizeof(struct platform),
	.len = PLACE_LEN,
	.range = { { 0, PLACE_LEN, &pvpanic_bus_ops } },
};

static int pvpanic_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	(void)options;
	return platform_make(ret, &pvpanic_kind, env, err);
}

const struct device_type pvpanic_type = {
	.name = "pvpanic",
	.id_prefix = "_pvpanic",
	.create = pvpanic_create,
};
