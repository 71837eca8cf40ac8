/* A platform device alone on a bus, with the events it posts kept and its line as an eventfd to
 * poll. */
#ifndef TESTS_UNIT_PLATFORM_H
#define TESTS_UNIT_PLATFORM_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/platform/platform.h"

struct platform_world {
	struct bus *bus;
	struct irqchip *irq;
	struct device *dev;
	struct device_node place;
	struct error err;
	unsigned nposted;
	enum vm_event posted; /* the last one */
	char what[64];
};

static inline void platform_post(void *ctx, enum vm_event event, const char *what)
{
	struct platform_world *w = ctx;

	w->nposted++;
	w->posted = event;
	snprintf(w->what, sizeof(w->what), "%s", what ? what : "");
}

static inline int platform_create(
	struct platform_world *w, const struct device_type *type, bool pio)
{
	static struct vm_events events;
	struct device_env env = {
		.id = "_dev0", .irq = w->irq, .place = &w->place, .events = &events
	};

	events = (struct vm_events){ platform_post, w };
	*(pio ? &env.pio : &env.mmio) = w->bus;
	return type->create(&w->dev, &env, NULL, &w->err);
}

static inline void platform_start(
	struct platform_world *w, const struct device_type *type, const struct device_node *place)
{
	*w = (struct platform_world){ .place = *place };
	cr_assert_eq(bus_create(&w->bus, "test", place->pio, place->pio ? 0x10000 : 0), 0);
	cr_assert_eq(irqchip_create(&w->irq, NULL, NULL, 24, 64), 0);
	cr_assert_eq(platform_create(w, type, place->pio), 0, "%s", w->err.text);
	cr_assert_eq(w->dev->type, type);
	cr_assert_str_eq(w->dev->id, "_dev0");
	cr_assert_eq(w->dev->nodes[0].base, place->base);
	cr_assert_str_eq(w->dev->nodes[0].kind, type->name, "firmware knows it by this name");
}

static inline void platform_finish(struct platform_world *w)
{
	uint64_t base = w->place.base, len = w->place.len;
	const struct device_ops *ops = w->dev->ops;

	ops->destroy(w->dev);
	ops->destroy(NULL);
	cr_assert(bus_is_free(w->bus, base, len), "the registers are given back");
	irqchip_destroy(w->irq);
	bus_destroy(w->bus);
}

static inline uint8_t in8(struct platform_world *w, uint64_t addr)
{
	uint8_t v = 0xa5;

	bus_read(w->bus, addr, &v, 1);
	return v;
}

static inline void out8(struct platform_world *w, uint64_t addr, uint8_t v)
{
	bus_write(w->bus, addr, &v, 1);
}

/* Saves the device; the caller frees. */
static inline struct state_writer platform_world_save(struct platform_world *w)
{
	struct state_writer s = { 0 };

	cr_assert_eq(w->dev->ops->save(w->dev, &s), 0);
	return s;
}

static inline int platform_world_load(struct platform_world *w, const struct state_writer *s)
{
	struct state_reader r = { .data = s->data, .len = s->len };
	int e = w->dev->ops->load(w->dev, &r, &w->err);

	return e ? e : state_reader_finish(&r, &w->err);
}

/* Each access of each width around the place, with odd values: nothing but an answer may follow. */
static inline void platform_sweep(struct platform_world *w)
{
	for (uint64_t addr = w->place.base - 8; addr < w->place.base + w->place.len + 8; addr++)
		for (unsigned len = 1; len <= 8; len *= 2)
			for (unsigned v = 0; v < 256; v += 5) {
				uint8_t data[8];

				memset(data, (int)v, sizeof(data));
				bus_write(w->bus, addr, data, len);
				bus_read(w->bus, addr, data, len);
			}
}

#endif
