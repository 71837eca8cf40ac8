/*
 * All small platform devices on one port bus and one memory bus, driven by an input of
 * operations: an access of any width anywhere near them, a press of the button, a reset, a save and
 * load, or a load of the input's own bytes. Nothing may crash, and what a device saves it loads to
 * the same state again.
 */
#include <stdlib.h>

#include "devices/platform/platform.h"

enum { DEVICES = 7, PAGE = 0x10000 };

struct world {
	struct bus *pio, *mmio;
	struct irqchip *irq;
	struct device *dev[DEVICES];
	struct vm_events events;
	unsigned posted;
};

static const struct {
	const struct device_type *type;
	struct device_node place;
} devices[DEVICES] = {
	{ &i8042_type, { "i8042", true, 0x60, 5, UINT32_MAX } },
	{ &rtc_cmos_type, { "rtc-cmos", true, 0x70, 2, UINT32_MAX } },
	{ &pvpanic_type, { "pvpanic", true, 0x80, 1, UINT32_MAX } },
	{ &ged_type, { "ged", true, 0x88, 8, 9 } },
	{ &ged_type, { "ged", false, 0x60, 8, 10 } },
	{ &rtc_pl031_type, { "rtc-pl031", false, PAGE, 0x1000, UINT32_MAX } },
	{ &gpio_pl061_type, { "gpio-pl061", false, PAGE + 0x1000, 0x1000, 11 } },
};

static void on_event(void *ctx, enum vm_event event, const char *what)
{
	struct world *w = ctx;

	if (event > VM_EVENT_FAILED || !what || strlen(what) > 64)
		abort();
	w->posted++;
}

static void setup(struct world *w)
{
	struct error err;

	*w = (struct world){ .events = { .post = on_event, .ctx = w } };
	if (bus_create(&w->pio, "pio", true, 0x10000) || bus_create(&w->mmio, "mmio", false, 0) ||
		irqchip_create(&w->irq, NULL, NULL, 24, 32))
		abort();
	for (unsigned i = 0; i < DEVICES; i++) {
		const struct device_env env = {
			.id = "_dev",
			.pio = w->pio,
			.mmio = w->mmio,
			.irq = w->irq,
			.place = &devices[i].place,
			.events = &w->events,
		};

		if (devices[i].type->create(&w->dev[i], &env, NULL, &err))
			abort();
	}
}

static void teardown(struct world *w)
{
	for (unsigned i = 0; i < DEVICES; i++)
		w->dev[i]->ops->destroy(w->dev[i]);
	irqchip_destroy(w->irq);
	bus_destroy(w->pio);
	bus_destroy(w->mmio);
}

/* What one device saves another takes, and saves as the same bytes. */
static void save_and_load(struct device *dev)
{
	struct state_writer first = { 0 }, second = { 0 };
	struct state_reader r;
	struct error err;

	if (!dev->ops->save)
		return;
	if (dev->ops->save(dev, &first))
		abort();
	r = (struct state_reader){ .data = first.data, .len = first.len };
	if (dev->ops->load(dev, &r, &err) || state_reader_finish(&r, &err))
		abort();
	if (dev->ops->save(dev, &second) || first.len != second.len ||
		memcmp(first.data, second.data, first.len))
		abort();
	state_writer_free(&first);
	state_writer_free(&second);
}

/* The bytes as the object itself, so that they get past the stream's checksum. */
static void load_object(struct device *dev, const uint8_t *data, size_t size)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	struct error err;
	uint8_t object[512] = { 0 };

	if (!dev->ops->load)
		return;
	memcpy(object, data, MIN(size, dev->type->state->object_size));
	if (state_save(&w, dev->type->state, object))
		abort();
	r = (struct state_reader){ .data = w.data, .len = w.len };
	(void)!dev->ops->load(dev, &r, &err);
	state_writer_free(&w);
}

/* Anywhere near the devices: a byte is enough below 256; the pages of the others have registers at multiples of 4. */
static uint64_t address(const uint8_t *p)
{
	const uint64_t page = PAGE + (p[0] >> 4 & 1) * 0x1000;

	if (!(p[0] & 0x80) || !(p[0] & 0x40))
		return p[1];
	return page + (p[1] * 4) + (p[0] >> 5 & 1) * 0x400 + (p[2] >> 7);
}

/* One operation; the bytes it took. `size` is at least 12. */
static size_t step(struct world *w, const uint8_t *p, size_t size)
{
	struct bus *bus = p[0] & 0x80 ? w->mmio : w->pio;
	struct device *dev = w->dev[p[1] % DEVICES];
	unsigned len = 1U << (p[2] & 3);
	uint8_t data[8];

	memcpy(data, p + 4, sizeof(data));
	switch (p[0] & 0xf) {
	case 0:
		if (dev->ops->reset)
			dev->ops->reset(dev);
		return 2;
	case 1:
		if (dev->ops->power_button)
			dev->ops->power_button(dev);
		return 2;
	case 2:
		save_and_load(dev);
		return 2;
	case 3:
		load_object(dev, p + 2, size - 2);
		return 12;
	case 4:
	case 5:
	case 6:
	case 7:
		bus_read(bus, address(p), data, len);
		return 3;
	default:
		bus_write(bus, address(p), data, len);
		return 4 + len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w;
	size_t used = 0;

	setup(&w);
	while (size - used >= 12)
		used += step(&w, data + used, size - used);
	teardown(&w);
	return 0;
}
