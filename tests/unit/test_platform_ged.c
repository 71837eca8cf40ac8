#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <unistd.h>

#include "devices/platform/acpi_ged.h"
#include "firmware/acpi.h"
#include "tests/unit/platform.h"

static const struct device_node place = { "ged", true, 0x600, GED_LEN, 9 };

/* The rooms may not include each other; this is where they meet. */
_Static_assert((int)GED_EVENTS == (int)ACPI_GED_EVENTS, "events");
_Static_assert((int)GED_SLEEP_CONTROL == (int)ACPI_GED_SLEEP_CONTROL, "sleep control");
_Static_assert((int)GED_SLEEP_STATUS == (int)ACPI_GED_SLEEP_STATUS, "sleep status");
_Static_assert((int)GED_RESET == (int)ACPI_GED_RESET, "reset");
_Static_assert((int)GED_LEN == (int)ACPI_GED_LEN, "length");
_Static_assert((int)GED_EVENT_POWER_BUTTON == (int)ACPI_GED_EVENT_POWER_BUTTON, "power button");
_Static_assert((int)GED_RESET_VALUE == (int)ACPI_GED_RESET_VALUE, "reset value");
_Static_assert((int)GED_SLEEP_TYPE_S5 == (int)ACPI_GED_SLEEP_TYPE_S5, "sleep type");

/* The line of the device, which is the test's by wiring it. */
struct line {
	int fd;
};

static int keep_fd(void *ctx, int fd, unsigned gsi, bool on)
{
	struct line *line = ctx;

	cr_assert_eq(gsi, 9);
	line->fd = on ? fd : -1;
	return 0;
}

static const struct irq_chip_ops line_ops = { .wire = keep_fd };

static void start(struct platform_world *w, struct line *line, const struct device_node *at)
{
	*w = (struct platform_world){ .place = *at };
	line->fd = -1;
	cr_assert_eq(bus_create(&w->bus, "test", at->pio, at->pio ? 0x10000 : 0), 0);
	cr_assert_eq(irqchip_create(&w->irq, &line_ops, line, 24, 64), 0);
	cr_assert_eq(platform_create(w, &ged_type, at->pio), 0, "%s", w->err.text);
	cr_assert_geq(line->fd, 0);
}

static uint64_t rings(const struct line *line)
{
	struct pollfd p = { .fd = line->fd, .events = POLLIN };
	uint64_t n = 0;

	if (poll(&p, 1, 0) == 1)
		cr_assert_eq(read(line->fd, &n, sizeof(n)), sizeof(n));
	return n;
}

static uint32_t events(struct platform_world *w)
{
	uint32_t v = 0;

	cr_assert(bus_read(w->bus, w->place.base + GED_EVENTS, &v, sizeof(v)));
	return v;
}

Test(ged, the_power_button_rings_and_is_read_once)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	cr_assert_eq(events(&w), 0);
	w.dev->ops->power_button(w.dev);
	cr_assert_eq(rings(&line), 1);
	cr_assert_eq(events(&w), GED_EVENT_POWER_BUTTON);
	cr_assert_eq(events(&w), 0);
	cr_assert_eq(w.nposted, 0, "the guest decides");
	platform_finish(&w);
}

Test(ged, reading_other_bytes_of_the_event_word_keeps_the_event)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	w.dev->ops->power_button(w.dev);
	cr_assert_eq(in8(&w, 0x601), 0);
	cr_assert_eq(in8(&w, 0x605), 0);
	cr_assert_eq(in8(&w, 0x600), 1);
	cr_assert_eq(in8(&w, 0x600), 0);
	platform_finish(&w);
}

Test(ged, only_s5_with_enable_powers_off)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	for (unsigned v = 0; v < 256; v++) {
		bool off = v & 0x20 && (v >> 2 & 7) == 5;

		w.nposted = 0;
		out8(&w, 0x604, (uint8_t)v);
		cr_assert_eq(w.nposted, off, "%#x", v);
		if (off)
			cr_assert_eq(w.posted, VM_EVENT_POWEROFF);
	}
	platform_finish(&w);
}

Test(ged, only_the_reset_value_resets)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	for (unsigned v = 0; v < 256; v++) {
		w.nposted = 0;
		out8(&w, 0x606, (uint8_t)v);
		cr_assert_eq(w.nposted, v == GED_RESET_VALUE);
	}
	cr_assert_eq(w.posted, VM_EVENT_RESET);
	platform_finish(&w);
}

Test(ged, the_sleep_status_never_says_awake)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	out8(&w, 0x605, 0x80);
	cr_assert_eq(in8(&w, 0x605), 0);
	cr_assert_eq(w.nposted, 0);
	platform_finish(&w);
}

Test(ged, a_wide_write_reaches_each_register_it_covers)
{
	const struct device_node mmio = { "ged", false, 0xfea00000, GED_LEN, 9 };
	const uint8_t both[4] = { 5 << 2 | 0x20, 0, 0, 0 };
	struct platform_world w;
	struct line line;

	start(&w, &line, &mmio);
	cr_assert(bus_write(w.bus, 0xfea00004, both, 4));
	cr_assert_eq(w.nposted, 1);
	cr_assert_eq(w.posted, VM_EVENT_POWEROFF);
	platform_finish(&w);
}

Test(ged, every_access_of_every_width_is_answered)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	platform_sweep(&w);
	platform_finish(&w);
}

Test(ged, reset_forgets_the_button)
{
	struct platform_world w;
	struct line line;

	start(&w, &line, &place);
	w.dev->ops->power_button(w.dev);
	w.dev->ops->reset(w.dev);
	cr_assert_eq(events(&w), 0);
	platform_finish(&w);
}

Test(ged, a_pressed_button_survives_save_and_load_and_rings_at_resume)
{
	struct platform_world from, to;
	struct line from_line, to_line;
	struct state_writer s;

	start(&from, &from_line, &place);
	start(&to, &to_line, &place);
	to.dev->ops->resume(to.dev);
	cr_assert_eq(rings(&to_line), 0, "nothing to tell");
	from.dev->ops->power_button(from.dev);
	s = platform_world_save(&from);
	cr_assert_eq(platform_world_load(&to, &s), 0, "%s", to.err.text);
	cr_assert_eq(rings(&to_line), 0, "not before the interrupt chip has its state");
	to.dev->ops->resume(to.dev);
	cr_assert_eq(rings(&to_line), 1);
	cr_assert_eq(events(&to), GED_EVENT_POWER_BUTTON);
	cr_assert_eq(events(&from), GED_EVENT_POWER_BUTTON, "saving changes nothing");
	state_writer_free(&s);
	platform_finish(&from);
	platform_finish(&to);
}

Test(ged, unknown_events_in_a_saved_state_are_refused)
{
	struct platform_world w;
	struct line line;
	struct state_writer s = { 0 };
	const uint32_t bad = 0x80000001;

	start(&w, &line, &place);
	cr_assert_eq(state_save(&s, ged_type.state, &bad), 0);
	cr_assert_eq(platform_world_load(&w, &s), -EINVAL);
	cr_assert_not_null(strstr(w.err.text, "0x80000001"), "%s", w.err.text);
	cr_assert_eq(events(&w), 0);
	state_writer_free(&s);
	platform_finish(&w);
}

Test(ged, a_place_without_a_line_or_too_small_is_refused)
{
	struct platform_world w = { .place = { "ged", true, 0x600, GED_LEN - 1, 9 } };

	cr_assert_eq(bus_create(&w.bus, "test", true, 0x10000), 0);
	cr_assert_eq(irqchip_create(&w.irq, NULL, NULL, 24, 64), 0);
	cr_assert_lt(platform_create(&w, &ged_type, true), 0);
	w.place = (struct device_node){ "ged", true, 0x600, GED_LEN, UINT32_MAX };
	cr_assert_lt(platform_create(&w, &ged_type, true), 0);
	cr_assert_gt(strlen(w.err.text), 10);
	cr_assert(bus_is_free(w.bus, 0x600, GED_LEN));
	irqchip_destroy(w.irq);
	bus_destroy(w.bus);
}

struct presser {
	struct platform_world *w;
	unsigned n;
};

static void *press(void *arg)
{
	struct presser *p = arg;

	for (unsigned i = 0; i < p->n; i++)
		p->w->dev->ops->power_button(p->w->dev);
	return NULL;
}

Test(ged, a_press_is_never_lost_between_two_readers)
{
	struct platform_world w;
	struct line line;
	struct presser p = { &w, 20000 };
	pthread_t thread;
	unsigned seen = 0;

	start(&w, &line, &place);
	cr_assert_eq(pthread_create(&thread, NULL, press, &p), 0);
	while (seen < 10) {
		seen += events(&w) == GED_EVENT_POWER_BUTTON;
		w.dev->ops->power_button(w.dev);
	}
	pthread_join(thread, NULL);
	events(&w);
	w.dev->ops->power_button(w.dev);
	cr_assert_eq(events(&w), GED_EVENT_POWER_BUTTON);
	cr_assert_eq(events(&w), 0);
	platform_finish(&w);
}
