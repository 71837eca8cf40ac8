/* The PL061 and the power button on it, as a GPIO driver and a key driver see them. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "devices/platform/gpio_pl061.h"
#include "devices/platform/primecell.h"
#include "tests/unit/platform.h"

enum {
	BASE = 0x9030000,
	DIR = 0x400,
	IS = 0x404,
	IBE = 0x408,
	IEV = 0x40c,
	IE = 0x410,
	RIS = 0x414,
	MIS = 0x418,
	IC = 0x41c,
	AFSEL = 0x420,
	POWER = 1 << PL061_POWER_LINE,
	ALL = 0x3fc,              /* the data register, all lines */
	POWER_DATA = POWER << 2,  /* and the one */
};

static const struct device_node place = { "gpio-pl061", false, BASE, PRIMECELL_LEN, 7 };

struct rig {
	struct platform_world w;
	int line;
};

static int wire(void *ctx, int fd, unsigned gsi, bool on)
{
	struct rig *r = ctx;

	cr_assert_eq(gsi, 7);
	r->line = on ? fd : -1;
	return 0;
}

static const struct irq_chip_ops chip_ops = { .wire = wire };

static void start(struct rig *r)
{
	*r = (struct rig){ .w.place = place, .line = -1 };
	cr_assert_eq(bus_create(&r->w.bus, "test", false, 0), 0);
	cr_assert_eq(irqchip_create(&r->w.irq, &chip_ops, r, 24, 64), 0);
	cr_assert_eq(platform_create(&r->w, &gpio_pl061_type, false), 0, "%s", r->w.err.text);
	cr_assert_str_eq(r->w.dev->nodes[0].kind, "gpio-pl061");
}

static void finish(struct rig *r)
{
	platform_finish(&r->w);
}

static uint32_t in(struct rig *r, uint64_t reg)
{
	uint32_t v = 0xa5a5a5a5;

	cr_assert(bus_read(r->w.bus, BASE + reg, &v, 4));
	return v;
}

static void out(struct rig *r, uint64_t reg, uint32_t v)
{
	cr_assert(bus_write(r->w.bus, BASE + reg, &v, 4));
}

static uint64_t rings(const struct rig *r)
{
	struct pollfd p = { .fd = r->line, .events = POLLIN };
	uint64_t n = 0;

	if (poll(&p, 1, 0) == 1)
		cr_assert_eq(read(r->line, &n, sizeof(n)), sizeof(n));
	return n;
}

static void press(struct rig *r)
{
	r->w.dev->ops->power_button(r->w.dev);
}

/* What a key driver asks for: both edges of the one line. */
static void key_driver(struct rig *r)
{
	out(r, DIR, 0);
	out(r, IS, 0);
	out(r, IBE, POWER);
	out(r, IE, POWER);
	cr_assert_eq(rings(r), 0);
}

Test(pl061, a_driver_finds_its_ids_and_all_registers_zero)
{
	static const uint8_t ids[] = { 0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1 };
	struct rig r;

	start(&r);
	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
		cr_assert_eq(in(&r, 0xfe0 + 4 * i), ids[i], "%u", i);
	for (uint64_t reg = ALL; reg <= AFSEL; reg += 4)
		cr_assert_eq(in(&r, reg), 0);
	finish(&r);
}

Test(pl061, a_press_is_a_press_and_a_release_to_a_key_driver)
{
	struct rig r;

	start(&r);
	key_driver(&r);
	for (unsigned i = 0; i < 3; i++) {
		press(&r);
		cr_assert_eq(rings(&r), 1);
		cr_assert_eq(in(&r, MIS), POWER);
		out(&r, IC, POWER);
		cr_assert_eq(in(&r, MIS), 0);
		cr_assert_eq(rings(&r), 0, "held until it was seen");
		press(&r);
		cr_assert_eq(rings(&r), 0, "it is down already");
		cr_assert_eq(in(&r, POWER_DATA), POWER);
		cr_assert_eq(rings(&r), 1, "the release");
		cr_assert_eq(in(&r, MIS), POWER);
		out(&r, IC, POWER);
		cr_assert_eq(in(&r, POWER_DATA), 0);
		cr_assert_eq(rings(&r), 0);
	}
	cr_assert_eq(r.w.nposted, 0, "the guest decides");
	finish(&r);
}

Test(pl061, a_press_before_the_driver_waits_for_it)
{
	struct rig r;

	start(&r);
	press(&r);
	cr_assert_eq(rings(&r), 0);
	cr_assert_eq(in(&r, ALL & ~POWER_DATA), 0, "other lines do not show it");
	key_driver(&r);
	cr_assert_eq(in(&r, POWER_DATA), POWER);
	cr_assert_eq(rings(&r), 1);
	finish(&r);
}

Test(pl061, levels_and_single_edges_interrupt_as_they_are_set)
{
	struct rig r;

	start(&r);
	out(&r, IS, POWER);
	out(&r, IEV, POWER);
	out(&r, IE, POWER);
	cr_assert_eq(rings(&r), 0);
	press(&r);
	cr_assert_eq(rings(&r), 1);
	out(&r, IC, POWER);
	cr_assert_eq(in(&r, MIS), POWER, "a level stays");
	in(&r, POWER_DATA);
	cr_assert_eq(in(&r, MIS), 0, "and goes with its cause");
	out(&r, IEV, 0);
	cr_assert_eq(rings(&r), 1, "a low level");
	out(&r, IE, 0);
	out(&r, IS, 0);
	out(&r, IEV, 0);
	press(&r);
	cr_assert_eq(in(&r, RIS), 0, "only the falling edge counts");
	in(&r, POWER_DATA);
	cr_assert_eq(in(&r, RIS), POWER);
	cr_assert_eq(in(&r, MIS), 0);
	cr_assert_eq(rings(&r), 0);
	out(&r, IE, POWER);
	cr_assert_eq(rings(&r), 1, "unmasking a cause rings");
	finish(&r);
}

Test(pl061, a_cause_that_stays_while_another_goes_rings_again)
{
	struct rig r;

	start(&r);
	out(&r, IS, 0x10 | 0x20); /* two lines that are low, as levels */
	out(&r, IE, 0x10 | 0x20);
	cr_assert_eq(rings(&r), 1);
	out(&r, IEV, 0x10);
	cr_assert_eq(in(&r, MIS), 0x20);
	cr_assert_eq(rings(&r), 1);
	out(&r, IEV, 0x30);
	cr_assert_eq(rings(&r), 0);
	finish(&r);
}

Test(pl061, outputs_are_written_through_the_address_mask)
{
	struct rig r;

	start(&r);
	out(&r, DIR, 0xf0);
	out(&r, ALL, 0xff);
	cr_assert_eq(in(&r, ALL), 0xf0, "inputs are the board's");
	out(&r, 0x50 << 2, 0x00);
	cr_assert_eq(in(&r, ALL), 0xa0);
	cr_assert_eq(in(&r, 0x30 << 2), 0x20);
	out(&r, AFSEL, 0x1ff);
	cr_assert_eq(in(&r, AFSEL), 0xff);
	out(&r, DIR, 0xff);
	press(&r);
	cr_assert_eq(in(&r, POWER_DATA), POWER, "what was driven, not the button");
	out(&r, POWER_DATA, 0);
	cr_assert_eq(in(&r, POWER_DATA), 0);
	out(&r, DIR, 0);
	cr_assert_eq(in(&r, POWER_DATA), POWER, "the button is still down");
	cr_assert_eq(in(&r, POWER_DATA), 0);
	finish(&r);
}

Test(pl061, reset_is_power_on_and_lets_go)
{
	struct rig r;

	start(&r);
	key_driver(&r);
	press(&r);
	rings(&r);
	r.w.dev->ops->reset(r.w.dev);
	for (uint64_t reg = ALL; reg <= AFSEL; reg += 4)
		cr_assert_eq(in(&r, reg), 0);
	key_driver(&r);
	press(&r);
	cr_assert_eq(rings(&r), 1, "and works again");
	finish(&r);
}

Test(pl061, a_pressed_button_survives_save_and_load_and_rings_at_resume)
{
	struct rig from, to;
	struct state_writer s;

	start(&from);
	start(&to);
	to.w.dev->ops->resume(to.w.dev);
	cr_assert_eq(rings(&to), 0, "nothing to tell");
	key_driver(&from);
	press(&from);
	s = platform_world_save(&from.w);
	cr_assert_eq(platform_world_load(&to.w, &s), 0, "%s", to.w.err.text);
	cr_assert_eq(rings(&to), 0, "not before the interrupt chip has its state");
	to.w.dev->ops->resume(to.w.dev);
	cr_assert_eq(rings(&to), 1);
	cr_assert_eq(in(&to, MIS), POWER);
	out(&to, IC, POWER);
	cr_assert_eq(in(&to, POWER_DATA), POWER);
	cr_assert_eq(rings(&to), 1);
	state_writer_free(&s);
	finish(&from);
	finish(&to);
}

Test(pl061, states_that_cannot_be_are_refused)
{
	const struct { uint8_t data, input, dir, is, ibe, iev, ie, edges, afsel; } bad[] = {
		{ .input = 1 }, { .input = 0xff }, { .is = 4, .edges = 6 },
	};
	struct rig r;

	start(&r);
	out(&r, AFSEL, 0x5a);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct state_writer s = { 0 };

		cr_assert_eq(gpio_pl061_type.state->object_size, sizeof(bad[i]));
		cr_assert_eq(state_save(&s, gpio_pl061_type.state, &bad[i]), 0);
		cr_assert_eq(platform_world_load(&r.w, &s), -EINVAL, "row %zu", i);
		cr_assert_eq(in(&r, AFSEL), 0x5a);
		state_writer_free(&s);
	}
	/* What the guest can do keeps the rule: edges are forgotten where a line turns to levels. */
	key_driver(&r);
	press(&r);
	out(&r, IS, POWER);
	r.line = -1;
	{
		struct state_writer s = platform_world_save(&r.w);

		cr_assert_eq(platform_world_load(&r.w, &s), 0, "%s", r.w.err.text);
		state_writer_free(&s);
	}
	finish(&r);
}

Test(pl061, a_place_without_a_line_or_too_small_is_refused)
{
	struct rig r = { .w.place = place };

	cr_assert_eq(bus_create(&r.w.bus, "test", false, 0), 0);
	cr_assert_eq(irqchip_create(&r.w.irq, NULL, NULL, 24, 64), 0);
	r.w.place.len = 0x800;
	cr_assert_lt(platform_create(&r.w, &gpio_pl061_type, false), 0);
	r.w.place = place;
	r.w.place.gsi = UINT32_MAX;
	cr_assert_eq(platform_create(&r.w, &gpio_pl061_type, false), -EINVAL);
	cr_assert(strstr(r.w.err.text, "no interrupt line"), "%s", r.w.err.text);
	cr_assert(bus_is_free(r.w.bus, BASE, PRIMECELL_LEN));
	irqchip_destroy(r.w.irq);
	bus_destroy(r.w.bus);
}

static void *presser(void *arg)
{
	for (unsigned i = 0; i < 20000; i++)
		press(arg);
	return NULL;
}

Test(pl061, presses_and_reads_at_the_same_time_end_in_order, .timeout = 300)
{
	struct rig r;
	pthread_t thread;
	unsigned seen = 0;

	start(&r);
	key_driver(&r);
	cr_assert_eq(pthread_create(&thread, NULL, presser, &r), 0);
	while (seen < 100) {
		seen += in(&r, POWER_DATA) == POWER;
		out(&r, IC, POWER);
		press(&r);
	}
	pthread_join(thread, NULL);
	in(&r, POWER_DATA);
	out(&r, IC, POWER);
	rings(&r);
	press(&r);
	cr_assert_eq(rings(&r), 1);
	cr_assert_eq(in(&r, POWER_DATA), POWER);
	cr_assert_eq(in(&r, POWER_DATA), 0);
	finish(&r);
}
