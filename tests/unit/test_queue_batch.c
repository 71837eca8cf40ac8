/*
 * Chains popped and pushed several at a time: the same chains, in the same order and with the same used entries as one by one,
 * also around the end of the ring; and of a batch with a bad chain in it the good ones before it are handed out, once each.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "devices/virtio/queue_private.h"
#include "tests/driver/harness.h"

enum { SIZE = 16, ROUNDS = 50 };

static const uint64_t kinds[] = {
	0, VD_F_INDIRECT, VD_F_IN_ORDER, VD_F_PACKED, VD_F_PACKED | VD_F_INDIRECT, VD_F_PACKED | VD_F_IN_ORDER,
};

static void add(struct harness *h, unsigned n, unsigned long tag)
{
	for (unsigned i = 0; i < n; i++) {
		const struct vd_seg segs[] = { { HARNESS_DATA + 64 * i, 8 }, { HARNESS_HIGH + 64 * i, 16 } };

		put_le64(harness_at(h, HARNESS_DATA + 64 * i), tag + i);
		cr_assert(vd_add(&h->vd, segs, 1, 1, (void *)(tag + i)));
	}
	vd_kick(&h->vd);
}

static void expect_used(struct harness *h, unsigned n, const unsigned long *tags)
{
	uint32_t len;
	void *cookie;

	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(vd_poll(&h->vd, &cookie, &len), 1);
		cr_assert_eq((unsigned long)cookie, tags[i]);
		cr_assert_eq(len, 1 + tags[i] % 16);
	}
	cr_assert_eq(vd_poll(&h->vd, &cookie, &len), 0);
}

static unsigned long serve(struct chain *c)
{
	uint8_t tag[8], fill[16] = { 0 };

	cr_assert_eq(chain_in_left(c), 8);
	cr_assert_eq(chain_out_left(c), 16);
	cr_assert_eq(chain_read(c, tag, 8), 0);
	cr_assert_eq(chain_write(c, fill, 1 + get_le64(tag) % 16), 0);
	return get_le64(tag);
}

static void rounds(uint64_t features)
{
	struct harness *h = harness_new(SIZE, features);
	unsigned long tag = 0, tags[SIZE];
	struct chain *c[SIZE];

	for (unsigned round = 0; round < ROUNDS; round++) {
		const unsigned n = 1 + round % 7, max = 1 + round % 3;
		unsigned got = 0;

		add(h, n, tag);
		while (got < n) {
			int r = queue_pop_batch(h->q, &c[got], max);

			cr_assert_eq(r, (int)MIN(max, n - got));
			got += (unsigned)r;
		}
		cr_assert_eq(queue_pop_batch(h->q, &c[got], max), 0);
		cr_assert_eq(queue_in_flight(h->q), n);
		for (unsigned i = 0; i < n; i++) {
			tags[i] = serve(c[i]);
			cr_assert_eq(tags[i], tag + i);
		}
		queue_push_batch(h->q, c, n);
		cr_assert_eq(queue_in_flight(h->q), 0);
		queue_flush(h->q);
		expect_used(h, n, tags);
		tag += n;
	}
	cr_assert_eq(queue_stats(h->q)->popped, tag);
	cr_assert_eq(queue_stats(h->q)->returned, tag);
	harness_free(h);
}

Test(queue_batch, what_is_popped_together_comes_back_together)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		rounds(kinds[i]);
}

Test(queue_batch, a_batch_may_come_back_in_any_order)
{
	static const unsigned long back[] = { 2, 0, 1 };
	static const uint64_t any[] = { 0, VD_F_PACKED };

	for (unsigned i = 0; i < ARRAY_SIZE(any); i++) {
		struct harness *h = harness_new(SIZE, any[i]);
		struct chain *c[3], *turned[3];

		add(h, 3, 0);
		cr_assert_eq(queue_pop_batch(h->q, c, 3), 3);
		for (unsigned k = 0; k < 3; k++) {
			serve(c[k]);
			turned[k] = c[back[k]];
		}
		queue_push_batch(h->q, turned, 3);
		queue_flush(h->q);
		expect_used(h, 3, back);
		harness_free(h);
	}
}

/* The third of five is bad: two come, it is consumed with length 0, and the rest is never looked at. */
static void expect_two(struct harness *h)
{
	struct chain *c[5] = { NULL };

	cr_assert_eq(queue_pop_batch(h->q, c, 5), 2);
	cr_assert(c[0] && c[1] && c[0] != c[1]);
	cr_assert(queue_broken(h->q));
	cr_assert_eq(queue_pop_batch(h->q, &c[2], 3), -EPROTO);
	cr_assert_null(c[2]);
	cr_assert_eq(queue_in_flight(h->q), 2);
	queue_push_batch(h->q, c, 2);
	queue_flush(h->q);
	cr_assert_eq(queue_in_flight(h->q), 0);
	cr_assert_eq(queue_stats(h->q)->popped, 3);
	cr_assert_eq(queue_stats(h->q)->returned, 3);
	cr_assert_eq(queue_stats(h->q)->malformed, 1);
	harness_free(h);
}

Test(queue_batch, a_split_batch_ends_before_a_bad_chain)
{
	struct harness *h = harness_new(SIZE, 0);
	struct vring_desc *desc = harness_at(h, HARNESS_DESC);
	struct vring_avail *avail = harness_at(h, HARNESS_AVAIL);

	for (unsigned i = 0; i < 5; i++) {
		desc[i] = (struct vring_desc){ HARNESS_DATA, i == 2 ? 0 : 8, 0, 0 };
		avail->ring[i] = (uint16_t)i;
	}
	avail->idx = 5;
	expect_two(h);
}

Test(queue_batch, a_packed_batch_ends_before_a_bad_chain)
{
	struct harness *h = harness_new(SIZE, VD_F_PACKED);
	struct pvring_desc *ring = harness_at(h, HARNESS_DESC);

	for (unsigned i = 0; i < 5; i++)
		ring[i] = (struct pvring_desc){ HARNESS_DATA, i == 2 ? 0 : 8, (uint16_t)i, VRING_DESC_AVAIL };
	expect_two(h);
}

/* One head twice in a batch: the second is no chain at all. */
Test(queue_batch, a_head_is_not_taken_twice_in_a_batch)
{
	struct harness *h = harness_new(SIZE, 0);
	struct vring_desc *desc = harness_at(h, HARNESS_DESC);
	struct vring_avail *avail = harness_at(h, HARNESS_AVAIL);
	struct chain *c[2] = { NULL };

	desc[3] = (struct vring_desc){ HARNESS_DATA, 8, 0, 0 };
	avail->ring[0] = avail->ring[1] = 3;
	avail->idx = 2;
	cr_assert_eq(queue_pop_batch(h->q, c, 2), 1);
	cr_assert_null(c[1]);
	cr_assert(queue_broken(h->q));
	queue_push_batch(h->q, c, 1);
	cr_assert_eq(queue_in_flight(h->q), 0);
	harness_free(h);
}

Test(queue_batch, the_last_ones_popped_can_be_given_back)
{
	static const uint64_t any[] = { 0, VD_F_IN_ORDER, VD_F_PACKED, VD_F_PACKED | VD_F_IN_ORDER };

	for (unsigned i = 0; i < ARRAY_SIZE(any); i++) {
		struct harness *h = harness_new(SIZE, any[i]);
		struct chain *c[4];

		add(h, 4, 0);
		cr_assert_eq(queue_pop_batch(h->q, c, 4), 4);
		queue_unpop(h->q, c[3]);
		queue_unpop(h->q, c[2]);
		cr_assert_eq(queue_in_flight(h->q), 2);
		cr_assert_eq(queue_pop_batch(h->q, &c[2], 4), 2);
		for (unsigned k = 0; k < 4; k++)
			cr_assert_eq(serve(c[k]), k);
		queue_push_batch(h->q, c, 4);
		queue_flush(h->q);
		expect_used(h, 4, (const unsigned long[]){ 0, 1, 2, 3 });
		harness_free(h);
	}
}
