/* The PL031 as a driver sees it. */
#include <errno.h>
#include <time.h>

#include "devices/platform/primecell.h"
#include "tests/unit/platform.h"

enum { BASE = 0x9010000, DR = 0x00, MR = 0x04, LR = 0x08, CR = 0x0c, IMSC = 0x10, RIS = 0x14, MIS = 0x18 };

static const struct device_node place = { "rtc-pl031", false, BASE, PRIMECELL_LEN, 2 };

static uint32_t in(struct platform_world *w, uint64_t reg)
{
	uint32_t v = 0xa5a5a5a5;

	cr_assert(bus_read(w->bus, BASE + reg, &v, 4));
	return v;
}

static void out(struct platform_world *w, uint64_t reg, uint32_t v)
{
	cr_assert(bus_write(w->bus, BASE + reg, &v, 4));
}

/* As the clock may tick between two looks. */
static void about(uint32_t a, uint32_t b)
{
	cr_assert_leq(a - b + 1, 2, "%u and %u", a, b);
}

Test(pl031, a_driver_finds_its_ids)
{
	static const uint8_t ids[] = { 0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1 };
	struct platform_world w;

	platform_start(&w, &rtc_pl031_type, &place);
	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
		cr_assert_eq(in(&w, 0xfe0 + 4 * i), ids[i], "%u", i);
	platform_finish(&w);
}

Test(pl031, firmware_is_told_of_no_line)
{
	struct platform_world w;

	platform_start(&w, &rtc_pl031_type, &place);
	cr_assert_eq(w.dev->nodes[0].gsi, UINT32_MAX);
	platform_finish(&w);
}

Test(pl031, it_shows_the_hosts_seconds_and_runs)
{
	struct platform_world w;

	platform_start(&w, &rtc_pl031_type, &place);
	about(in(&w, DR), (uint32_t)time(NULL));
	cr_assert_eq(in(&w, CR), 1);
	out(&w, CR, 0);
	cr_assert_eq(in(&w, CR), 1, "it cannot be stopped");
	platform_finish(&w);
}

Test(pl031, a_time_that_is_set_goes_on_and_survives_a_reset)
{
	struct platform_world w;

	platform_start(&w, &rtc_pl031_type, &place);
	for (unsigned i = 0; i < 3; i++) {
		static const uint32_t times[] = { 0, 1234567890, UINT32_MAX };

		out(&w, LR, times[i]);
		cr_assert_eq(in(&w, LR), times[i]);
		about(in(&w, DR), times[i]);
	}
	out(&w, LR, 1000000000);
	out(&w, MR, 77);
	out(&w, IMSC, 0xffffffff);
	cr_assert_eq(in(&w, MR), 77);
	cr_assert_eq(in(&w, IMSC), 1);
	cr_assert_eq(in(&w, RIS) | in(&w, MIS), 0);
	w.dev->ops->reset(w.dev);
	about(in(&w, DR), 1000000000);
	cr_assert_eq(in(&w, MR) | in(&w, IMSC) | in(&w, LR), 0);
	platform_finish(&w);
}

Test(pl031, narrow_wide_and_crooked_accesses_are_answered)
{
	struct platform_world w;
	uint64_t wide = UINT64_MAX;
	uint8_t byte = 0;

	platform_start(&w, &rtc_pl031_type, &place);
	out(&w, MR, 0x12345678);
	cr_assert(bus_read(w.bus, BASE + MR, &byte, 1));
	cr_assert_eq(byte, 0x78);
	cr_assert(bus_read(w.bus, BASE + MR, &wide, 8));
	cr_assert_eq(wide, 0x12345678);
	cr_assert(bus_read(w.bus, BASE + MR + 1, &byte, 1));
	cr_assert_eq(byte, 0);
	cr_assert(bus_write(w.bus, BASE + MR + 2, &byte, 1));
	cr_assert_eq(in(&w, MR), 0x12345678);
	for (uint64_t addr = BASE - 8; addr < BASE + PRIMECELL_LEN + 8; addr++)
		for (unsigned len = 1; len <= 8; len *= 2) {
			uint64_t v = addr * 0x9e3779b97f4a7c15;

			bus_write(w.bus, addr, &v, len);
			bus_read(w.bus, addr, &v, len);
		}
	platform_finish(&w);
}

Test(pl031, the_state_comes_back_and_a_bad_one_is_refused)
{
	const struct { uint32_t offset, match, load, imsc; } bad = { .imsc = 2 };
	struct platform_world from, to;
	struct state_writer s;

	platform_start(&from, &rtc_pl031_type, &place);
	platform_start(&to, &rtc_pl031_type, &place);
	out(&from, LR, 5000);
	out(&from, MR, 6000);
	out(&from, IMSC, 1);
	s = platform_world_save(&from);
	cr_assert_eq(platform_world_load(&to, &s), 0, "%s", to.err.text);
	about(in(&to, DR), 5000);
	cr_assert_eq(in(&to, MR), 6000);
	cr_assert_eq(in(&to, LR), 5000);
	cr_assert_eq(in(&to, IMSC), 1);
	state_writer_free(&s);
	s = (struct state_writer){ 0 };
	cr_assert_eq(rtc_pl031_type.state->object_size, sizeof(bad));
	cr_assert_eq(state_save(&s, rtc_pl031_type.state, &bad), 0);
	cr_assert_eq(platform_world_load(&to, &s), -EINVAL);
	cr_assert_eq(in(&to, MR), 6000, "nothing has changed");
	state_writer_free(&s);
	platform_finish(&from);
	platform_finish(&to);
}
