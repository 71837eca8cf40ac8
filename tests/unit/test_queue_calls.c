/*
 * Interrupts that are gathered (queue_hold_calls): nothing is lost, whatever the driver says it
 * wants to hear, and what it has seen already is not rung for.
 */
#include <criterion/criterion.h>

#include "tests/driver/harness.h"

static const uint64_t rings[] = { 0, VD_F_EVENT_IDX, VD_F_PACKED, VD_F_PACKED | VD_F_EVENT_IDX };

enum { SIZE = 32 };

/* One buffer goes round: added, popped, pushed, flushed. */
static void round_trip(struct harness *h)
{
	struct chain *c;

	cr_assert(harness_add(h, 0, 0, 16));
	cr_assert_eq(queue_pop(h->q, &c), 1);
	queue_push(h->q, c);
	queue_flush(h->q);
}

static unsigned taken(struct harness *h)
{
	unsigned n = 0;
	uint32_t len;
	void *cookie;

	while (vd_poll(&h->vd, &cookie, &len) == 1)
		n++;
	return n;
}

/* Does the driver kick for one more chain? */
static bool add_kicks(struct harness *h)
{
	const struct vd_seg seg = { HARNESS_DATA, 16 };

	cr_assert(vd_add(&h->vd, &seg, 0, 1, h));
	return vd_kick(&h->vd);
}

static void serve_one(struct harness *h)
{
	struct chain *c;

	queue_disable_kick(h->q);
	cr_assert_eq(queue_pop(h->q, &c), 1);
	queue_push(h->q, c);
	queue_flush(h->q);
	cr_assert_eq(taken(h), 1);
}

Test(queue_calls, held_calls_come_once_and_the_entries_at_once)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);

		cr_assert_not(vd_enable_call(&h->vd));
		queue_hold_calls(h->q, true);
		for (int k = 0; k < 8; k++)
			round_trip(h);
		cr_assert_eq(harness_calls(h), 0, "ring %zu", i);
		cr_assert_eq(queue_call(h->q), 1);
		cr_assert_eq(queue_call(h->q), 0, "only once");
		cr_assert_eq(harness_calls(h), 1);
		cr_assert_eq(taken(h), 8);
		harness_free(h);
	}
}

/* The driver finds the entries while it looks; its interrupt comes with the flush, once, also when nothing was added. */
Test(queue_calls, what_is_published_early_is_rung_for_by_the_flush)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);
		struct chain *c[4];

		for (int round = 0; round < 20; round++) {
			cr_assert_not(vd_enable_call(&h->vd));
			for (unsigned k = 0; k < ARRAY_SIZE(c); k++)
				cr_assert(harness_add(h, k, 0, 16));
			cr_assert_eq(queue_pop_batch(h->q, c, ARRAY_SIZE(c)), 4);
			queue_push_batch(h->q, c, 2);
			queue_publish(h->q);
			queue_push_batch(h->q, c + 2, 2);
			queue_publish(h->q);
			queue_publish(h->q);
			cr_assert_eq(harness_calls(h), 0, "ring %zu", i);
			cr_assert_eq(queue_flush(h->q), 1, "ring %zu", i);
			cr_assert_eq(queue_flush(h->q), 0);
			cr_assert_eq(harness_calls(h), 1);
			cr_assert_eq(taken(h), 4);
		}
		harness_free(h);
	}
}

Test(queue_calls, what_the_driver_saw_is_not_rung_for)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);

		if (!(rings[i] & VD_F_EVENT_IDX)) {
			harness_free(h);
			continue;
		}
		cr_assert_not(vd_enable_call(&h->vd));
		queue_hold_calls(h->q, true);
		round_trip(h);
		cr_assert_eq(taken(h), 1, "visible without a call");
		cr_assert_not(vd_enable_call(&h->vd));
		cr_assert_eq(queue_call(h->q), 0, "ring %zu", i);
		round_trip(h);
		cr_assert_eq(queue_call(h->q), 1);
		harness_free(h);
	}
}

Test(queue_calls, half_a_ring_is_rung_for_by_itself)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);
		unsigned rounds = 0;

		cr_assert_not(vd_enable_call(&h->vd));
		queue_hold_calls(h->q, true);
		while (!harness_calls(h) && rounds < SIZE) {
			round_trip(h);
			rounds++;
		}
		cr_assert_eq(rounds, SIZE / 2 + 1,
			"ring %zu: %u", i, rounds);
		harness_free(h);
	}
}

Test(queue_calls, letting_go_rings_and_so_does_closing)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);

		cr_assert_not(vd_enable_call(&h->vd));
		queue_hold_calls(h->q, true);
		round_trip(h);
		queue_hold_calls(h->q, false);
		cr_assert_eq(harness_calls(h), 1);
		taken(h);
		cr_assert_not(vd_enable_call(&h->vd));
		queue_hold_calls(h->q, true);
		round_trip(h);
		harness_reopen(h);
		cr_assert_eq(harness_calls(h), 1, "ring %zu", i);
		harness_free(h);
	}
}

Test(queue_calls, the_ring_may_wrap_many_times_while_held)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);
		unsigned seen = 0, calls = 0;

		queue_hold_calls(h->q, true);
		for (int k = 0; k < 5000; k++) {
			if (!vd_enable_call(&h->vd))
				round_trip(h);
			if (k % 5 == 0)
				queue_call(h->q);
			if (harness_calls(h)) {
				calls++;
				seen += taken(h);
			}
		}
		queue_call(h->q);
		seen += taken(h);
		cr_assert_gt(calls, 0);
		cr_assert_eq(seen, queue_stats(h->q)->returned);
		harness_free(h);
	}
}

/* Who armed the ring and goes on looking: no kick; and it can be armed again, also without a chain in between. */
Test(queue_calls, a_ring_that_was_disarmed_is_not_kicked)
{
	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct harness *h = harness_new(SIZE, rings[i]);

		for (unsigned round = 0; round < 3 * SIZE; round++) {
			cr_assert_not(queue_enable_kick(h->q));
			queue_disarm_kick(h->q);
			cr_assert_not(add_kicks(h), "ring %zu, round %u", i, round);
			serve_one(h);
			cr_assert_not(queue_enable_kick(h->q));
			queue_disarm_kick(h->q);
			cr_assert_not(queue_enable_kick(h->q));
			cr_assert(add_kicks(h), "ring %zu, round %u", i, round);
			serve_one(h);
		}
		harness_free(h);
	}
}
