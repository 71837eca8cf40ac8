/*
 * The registers behind hardware-reduced ACPI: what happened (ACPI 6.5 §5.6.9, read by the DSDT's
 * _EVT method when the line rings), the sleep control and status registers (§4.8.3.7) and the reset
 * register (§4.8.3.6). The only sleep state is S5, power-off.
 *
 * vCPU threads read and write registers, main presses the button; all they share is one atomic
 * word.
 */
#include "devices/platform/acpi_ged.h"

#include <errno.h>
#include <stdatomic.h>

#include "devices/platform/platform.h"
#include "vmm/log.h"

struct ged {
	struct platform platform;
	_Atomic uint32_t events;
};

/* What of a device is saved. */
struct ged_state {
	uint32_t events;
};

static struct ged *ged_of(struct device *dev)
{
	return container_of(dev, struct ged, platform.device);
}

static void post(struct ged *g, enum vm_event event, const char *what)
{
	g->platform.events->post(g->platform.events->ctx, event, what);
}

/*
 * One byte of the event word, which is cleared. Acquire, with press()'s release: who sees the event
 * sees what was done before it.
 */
static uint8_t take_events(struct ged *g, unsigned byte)
{
	const uint32_t mask = UINT32_C(0xff) << 8 * byte;
	uint32_t was = atomic_fetch_and_explicit(&g->events, ~mask, memory_order_acq_rel);

	return (uint8_t)(was >> 8 * byte);
}

static void ged_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct ged *g = ctx;
	uint8_t *bytes = data;

	/* WAK_STS is never set: nothing wakes from S5. The other registers are write-only. */
	for (unsigned i = 0; i < len; i++)
		bytes[i] = offset + i < sizeof(uint32_t) ? take_events(g, (unsigned)offset + i) : 0;
}

static void write_byte(struct ged *g, uint64_t offset, uint8_t v)
{
	if (offset == GED_RESET && v == GED_RESET_VALUE)
		post(g, VM_EVENT_RESET, "ACPI reset register");
	if (offset != GED_SLEEP_CONTROL || !(v & GED_SLEEP_ENABLE))
		return;
	if ((v >> GED_SLEEP_TYPE_SHIFT & GED_SLEEP_TYPE_MASK) == GED_SLEEP_TYPE_S5)
		post(g, VM_EVENT_POWEROFF, "ACPI power-off");
	else
		log_guest(LOG_DEBUG, "ged: the guest asks for a sleep state that does not exist");
}

static void ged_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	const uint8_t *bytes = data;

	for (unsigned i = 0; i < len; i++)
		write_byte(ctx, offset + i, bytes[i]);
}

static const struct bus_ops ged_bus_ops = { .read = ged_read, .write = ged_write };

static void ged_power_button(struct device *dev)
{
	struct ged *g = ged_of(dev);

	/* Release: the event is there before the line rings; take_events() reads it. */
	atomic_fetch_or_explicit(&g->events, GED_EVENT_POWER_BUTTON, memory_order_release);
	irq_raise(g->platform.irq);
}

/*
 * An event that was saved may have lost its ring on the way. One ring too many costs a method call
 * that finds nothing.
 */
static void ged_resume(struct device *dev)
{
	struct ged *g = ged_of(dev);

	if (atomic_load(&g->events))
		irq_raise(g->platform.irq);
}

static void ged_reset(struct device *dev)
{
	atomic_store(&ged_of(dev)->events, 0);
}

static int ged_check(const void *object, struct error *err)
{
	const struct ged_state *s = object;

	if (s->events & ~(uint32_t)GED_EVENT_POWER_BUTTON)
		return error_set(
			err, EINVAL, "ged: the saved state has unknown events %#x", s->events);
	return 0;
}

static const struct state_field ged_fields[] = {
	STATE_FIELD(struct ged_state, events),
	STATE_END,
};

static const struct state_desc ged_state = {
	.name = "ged",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct ged_state),
	.fields = ged_fields,
	.check = ged_check,
};

static int ged_save(struct device *dev, struct state_writer *w)
{
	const struct ged_state s = { .events = atomic_load(&ged_of(dev)->events) };

	return state_save(w, &ged_state, &s);
}

static int ged_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct ged_state s = { 0 };
	int e = state_load(r, &ged_state, &s, err);

	if (!e)
		atomic_store(&ged_of(dev)->events, s.events);
	return e;
}

static const struct device_ops ged_ops = {
	.resume = ged_resume,
	.reset = ged_reset,
	.save = ged_save,
	.load = ged_load,
	.power_button = ged_power_button,
	.destroy = platform_destroy,
};

static const struct platform_kind ged_kind = {
	.type = &ged_type,
	.ops = &ged_ops,
	.size = sizeof(struct ged),
	.len = GED_LEN,
	.wired = true,
	.range = { { 0, GED_LEN, &ged_bus_ops } },
};

static int ged_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	(void)options;
	return platform_make(ret, &ged_kind, env, err);
}

const struct device_type ged_type = {
	.name = "ged",
	.id_prefix = "_ged",
	.state = &ged_state,
	.create = ged_create,
};
