#include "tests/unit/platform.h"

static const struct device_node place = { "i8042", true, 0x60, 5, UINT32_MAX };

Test(i8042, the_reset_pulse_resets_and_other_commands_do_not)
{
	struct platform_world w;
	unsigned expected = 0;

	platform_start(&w, &i8042_type, &place);
	for (unsigned v = 0; v < 256; v++) {
		expected += v >= 0xf0 && v % 2 == 0;
		out8(&w, 0x64, (uint8_t)v);
		cr_assert_eq(w.nposted, expected, "command %#x", v);
	}
	cr_assert_eq(w.posted, VM_EVENT_RESET);
	out8(&w, 0x60, 0xfe);
	cr_assert_eq(w.nposted, expected, "the data port takes no commands");
	platform_finish(&w);
}

/* Linux drains up to 16 bytes and calls the controller absent when there are more. */
Test(i8042, a_driver_that_drains_the_output_finds_no_end)
{
	struct platform_world w;
	unsigned n = 0;

	platform_start(&w, &i8042_type, &place);
	while (in8(&w, 0x64) & 1 && n < 100) {
		cr_assert_eq(in8(&w, 0x60), 0xff);
		n++;
	}
	cr_assert_eq(n, 100);
	platform_finish(&w);
}

Test(i8042, a_command_never_has_to_wait)
{
	struct platform_world w;

	platform_start(&w, &i8042_type, &place);
	out8(&w, 0x64, 0xaa);
	cr_assert_not(in8(&w, 0x64) & 2);
	platform_finish(&w);
}

Test(i8042, the_ports_in_between_are_not_taken)
{
	struct platform_world w;

	platform_start(&w, &i8042_type, &place);
	cr_assert(bus_is_free(w.bus, 0x61, 3));
	cr_assert_eq(in8(&w, 0x61), 0xff);
	platform_finish(&w);
}

Test(i8042, every_access_of_every_width_is_answered)
{
	struct platform_world w;

	platform_start(&w, &i8042_type, &place);
	platform_sweep(&w);
	platform_finish(&w);
}

Test(i8042, a_taken_or_missing_place_is_a_sentence_and_leaves_nothing)
{
	struct platform_world w;
	struct device *first;

	platform_start(&w, &i8042_type, &place);
	first = w.dev;
	w.place.base = 0x5c; /* its data port is free, its command port is our data port */
	cr_assert_lt(platform_create(&w, &i8042_type, true), 0);
	cr_assert_not_null(strstr(w.err.text, "0x60"), "%s", w.err.text);
	cr_assert(bus_is_free(w.bus, 0x5c, 4));
	w.place.len = 4;
	cr_assert_lt(platform_create(&w, &i8042_type, true), 0);
	w.place = place;
	cr_assert_lt(
		platform_create(&w, &i8042_type, false), 0, "a port on a machine without ports");
	w.dev = first;
	platform_finish(&w);
}
