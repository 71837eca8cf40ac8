/*
 * How long a worker looks before it sleeps: never without a reason, never longer than allowed, and whatever the guest does, a
 * bounded part of the host's time.
 */
#include <criterion/criterion.h>

#include "devices/virtio/poll.h"

enum { MAX_NS = 32000 };

/* What a wait of `gap` ns costs, by the policy's own choice of window. */
static uint64_t wait_for(struct poll *p, uint64_t gap)
{
	const uint64_t window = poll_window(p);

	cr_assert(window <= MAX_NS);
	if (window && gap <= window) {
		poll_hit(p, gap);
		return gap;
	}
	if (window)
		poll_miss(p);
	poll_slept(p, gap);
	return window;
}

Test(poll, who_may_not_look_never_does)
{
	struct poll p = poll_begin(0);

	for (unsigned i = 0; i < 1000; i++) {
		poll_slept(&p, i % 3);
		cr_assert_eq(poll_window(&p), 0);
	}
}

Test(poll, an_idle_queue_is_not_looked_at)
{
	struct poll p = poll_begin(MAX_NS);

	cr_assert_eq(poll_window(&p), 0);
	for (unsigned i = 0; i < 1000; i++)
		cr_assert_eq(wait_for(&p, 1000000), 0);
	/* Also after a busy time: one window, and then nothing. */
	for (unsigned i = 0; i < 100; i++)
		wait_for(&p, 3000);
	cr_assert(wait_for(&p, 1000000) <= MAX_NS);
	for (unsigned i = 0; i < 1000; i++)
		cr_assert_eq(wait_for(&p, 1000000), 0);
}

Test(poll, requests_that_follow_each_other_are_found_by_looking)
{
	struct poll p = poll_begin(MAX_NS);
	unsigned found = 0;

	wait_for(&p, 5000);
	for (unsigned i = 0; i < 1000; i++) {
		found += poll_window(&p) >= 5000;
		cr_assert_eq(wait_for(&p, 5000), 5000);
	}
	cr_assert_eq(found, 1000);
	/* The window is a few gaps, not all that is allowed. */
	cr_assert_eq(poll_window(&p), 20000);
}

Test(poll, a_wake_up_that_takes_longer_than_the_gap_does_not_hide_it)
{
	struct poll p = poll_begin(MAX_NS);

	/* The request was there after 5 us, but the sleeper learnt of it after 80. */
	poll_slept(&p, 80000);
	cr_assert_eq(poll_window(&p), MAX_NS);
}

Test(poll, looking_in_vain_costs_less_and_less)
{
	struct poll p = poll_begin(MAX_NS);
	uint64_t cost = 0;

	/* Each comes just after the window, and soon enough to be hoped for. */
	for (unsigned i = 0; i < 64000; i++)
		cost += wait_for(&p, MAX_NS + 1000);
	cr_assert(cost <= UINT64_C(1010) * MAX_NS, "%llu windows", (unsigned long long)(cost / MAX_NS));
	/* It is tried again all the same, and when it helps, it is done. */
	for (unsigned i = 0; i < 200; i++)
		wait_for(&p, 4000);
	cr_assert_eq(wait_for(&p, 4000), 4000);
}

Test(poll, nobody_makes_it_look_longer_than_it_may_for_each_event)
{
	static const uint64_t gaps[] = { 1, 31000, 32001, 100000, 500, 2000000, 127999, 128004 };
	struct poll p = poll_begin(MAX_NS);
	uint64_t cost = 0, events = 100000, state = 88172645463325252u;

	for (uint64_t i = 0; i < events; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		cost += wait_for(&p, gaps[state % ARRAY_SIZE(gaps)]);
	}
	cr_assert(cost <= events * MAX_NS);
}

Test(poll, a_cpu_that_others_want_is_left_to_them)
{
	struct poll p = poll_begin(MAX_NS);

	for (unsigned i = 0; i < 100; i++)
		wait_for(&p, 3000);
	cr_assert(poll_window(&p) > 0);
	poll_stolen(&p);
	for (unsigned i = 0; i < POLL_SKIP_MAX; i++) {
		cr_assert_eq(poll_window(&p), 0);
		poll_slept(&p, 3000);
	}
	poll_slept(&p, 3000);
	cr_assert_eq(poll_window(&p), MAX_NS);
}
