/*
 * How many completions of a disk one system call waits for: never of a few requests, never longer than agreed, and where it
 * does not pay, hardly ever.
 */
#include <criterion/criterion.h>

#include "devices/host/gather.h"

/* A chance with n in flight on a disk that ends one each `gap` ns; ns that were waited. */
static uint64_t wait_once(struct gathering *g, unsigned n, uint64_t gap)
{
	unsigned want = gather_want(g, n);
	uint64_t most, took;

	if (!want)
		return 0;
	cr_assert_leq(want, n / GATHER_PART);
	most = gather_patience(g, want);
	cr_assert_leq(most, (uint64_t)GATHER_NS);
	took = MIN(want * gap, most);
	gather_got(g, want, (unsigned)MIN(took / gap, (uint64_t)want), took);
	return took;
}

Test(gather, few_are_not_waited_for)
{
	struct gathering g = { 0 };

	for (unsigned n = 0; n < GATHER_LEAST; n++)
		cr_assert_eq(gather_want(&g, n), 0);
	cr_assert_gt(gather_want(&g, GATHER_LEAST), 1);
}

Test(gather, a_disk_that_keeps_going_is_waited_for_each_time)
{
	for (uint64_t gap = 100; gap < GATHER_NS / 32; gap *= 2) {
		struct gathering g = { 0 };

		for (unsigned i = 0; i < 1000; i++)
			cr_assert_eq(wait_once(&g, 128, gap), 32 * gap, "gap %llu", (unsigned long long)gap);
	}
}

Test(gather, a_slow_disk_is_hardly_waited_for)
{
	struct gathering g = { 0 };
	unsigned waits = 0;

	for (unsigned i = 0; i < 6400; i++)
		waits += wait_once(&g, 128, 5000000) > 0;
	cr_assert_leq(waits, 6400 / 64 + 6);
}

Test(gather, the_rest_of_a_burst_is_not_waited_for_long)
{
	struct gathering g = { 0 };

	for (unsigned i = 0; i < 100; i++)
		wait_once(&g, 128, 1000);
	/* The rest comes with the next burst, much later. */
	cr_assert_leq(wait_once(&g, 64, 1000000), UINT64_C(1000) * 2 * GATHER_USUAL * 16);
}

Test(gather, a_disk_that_became_slower_is_understood)
{
	struct gathering g = { 0 };
	unsigned waits = 0;

	for (unsigned i = 0; i < 100; i++)
		wait_once(&g, 128, 200);
	for (unsigned i = 0; i < 1000; i++)
		wait_once(&g, 128, 10000);
	for (unsigned i = 0; i < 100; i++)
		waits += wait_once(&g, 128, 10000) == 320000;
	cr_assert_eq(waits, 100);
}

Test(gather, no_numbers_lead_beyond_what_is_agreed)
{
	struct gathering g = { 0 };
	uint32_t seed = 1;

	for (unsigned i = 0; i < 100000; i++) {
		unsigned n, want;

		seed = seed * 1664525 + 1013904223;
		n = seed >> 12 & 0x7fff;
		want = gather_want(&g, n);
		cr_assert_leq(want, n / GATHER_PART);
		if (!want)
			continue;
		cr_assert_leq(gather_patience(&g, want), (uint64_t)GATHER_NS);
		cr_assert_geq(gather_patience(&g, want), (uint64_t)GATHER_NS_LEAST);
		gather_got(&g, want, seed % (n + 1), (uint64_t)seed << (seed & 31));
	}
}
