#include "tests/unit/platform.h"

static const struct device_node place = { "pvpanic", true, 0x505, 1, UINT32_MAX };

Test(pvpanic, a_read_tells_the_events_that_are_understood)
{
	struct platform_world w;

	platform_start(&w, &pvpanic_type, &place);
	cr_assert_eq(in8(&w, 0x505), 3);
	cr_assert_eq(w.nposted, 0);
	platform_finish(&w);
}

Test(pvpanic, a_panic_is_told_with_its_kind)
{
	struct platform_world w;

	platform_start(&w, &pvpanic_type, &place);
	out8(&w, 0x505, 1);
	cr_assert_eq(w.nposted, 1);
	cr_assert_eq(w.posted, VM_EVENT_PANIC);
	cr_assert_str_eq(w.what, "panicked");
	out8(&w, 0x505, 2);
	cr_assert_eq(w.nposted, 2);
	cr_assert_str_eq(w.what, "crash-loaded");
	out8(&w, 0x505, 3);
	cr_assert_eq(w.nposted, 3, "one write, one event");
	cr_assert_str_eq(w.what, "panicked");
	platform_finish(&w);
}

Test(pvpanic, unknown_bits_alone_are_nothing)
{
	struct platform_world w;

	platform_start(&w, &pvpanic_type, &place);
	for (unsigned v = 0; v < 256; v += 4)
		out8(&w, 0x505, (uint8_t)v);
	cr_assert_eq(w.nposted, 0);
	platform_finish(&w);
}

Test(pvpanic, every_access_of_every_width_is_answered)
{
	struct platform_world w;

	platform_start(&w, &pvpanic_type, &place);
	platform_sweep(&w);
	cr_assert_gt(w.nposted, 0);
	platform_finish(&w);
}

Test(pvpanic, a_memory_mapped_place_serves_as_well)
{
	const struct device_node mmio = { "pvpanic", false, 0xfea00000, 1, UINT32_MAX };
	struct platform_world w;

	platform_start(&w, &pvpanic_type, &mmio);
	cr_assert_eq(in8(&w, 0xfea00000), 3);
	platform_finish(&w);
}
