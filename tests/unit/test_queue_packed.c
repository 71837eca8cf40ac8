#include <criterion/criterion.h>

#include "devices/virtio/queue_private.h"
#include "tests/driver/harness.h"

enum { AVAIL_1 = VRING_DESC_AVAIL, AVAIL_0 = VRING_DESC_USED }; /* available in a round with wrap counter 1, 0 */

static int serve(struct harness *h, uint32_t n)
{
	static const uint8_t bytes[PAGE_4K];
	struct chain *c;
	int r = queue_pop(h->q, &c);

	if (r != 1)
		return r;
	cr_assert_eq(chain_write(c, bytes, MIN(n, chain_out_left(c))), 0);
	queue_push(h->q, c);
	queue_flush(h->q);
	return 1;
}

static uintptr_t poll_slot(struct harness *h, uint32_t *len)
{
	void *cookie = NULL;
	int r = vd_poll(&h->vd, &cookie, len);

	cr_assert_geq(r, 0);
	return r ? (uintptr_t)cookie : 0;
}

static struct pvring_desc *ring(struct harness *h)
{
	return harness_at(h, HARNESS_DESC);
}

static union pvring_event *device_event(struct harness *h)
{
	return harness_at(h, HARNESS_USED);
}

static union pvring_event *driver_event(struct harness *h)
{
	return harness_at(h, HARNESS_AVAIL);
}

Test(queue_packed, a_zeroed_ring_is_empty)
{
	struct harness *h = harness_new(4, VD_F_PACKED);
	struct chain *c;

	cr_assert_not(queue_has_avail(h->q));
	cr_assert_eq(queue_pop(h->q, &c), 0);
	harness_free(h);
}

Test(queue_packed, a_chain_goes_there_and_back)
{
	struct harness *h = harness_new(4, VD_F_PACKED);
	struct chain *c;
	char got[5];
	uint32_t len;

	memcpy(harness_at(h, HARNESS_DATA), "hello", 5);
	cr_assert(harness_add(h, 0, 5, 3));
	cr_assert(queue_has_avail(h->q));
	cr_assert_eq(queue_pop(h->q, &c), 1);
	cr_assert_eq(chain_read(c, got, 5), 0);
	cr_assert_eq(memcmp(got, "hello", 5), 0);
	cr_assert_eq(chain_write(c, "yes", 3), 0);
	queue_push(h->q, c);
	cr_assert_eq(poll_slot(h, &len), 0, "not visible before the flush");
	cr_assert_eq(queue_flush(h->q), 1);
	cr_assert_eq(poll_slot(h, &len), 1);
	cr_assert_eq(len, 3);
	cr_assert_eq(harness_calls(h), 1);
	harness_free(h);
}

/* Lists of 1, 2, 3 descriptors in rings whose size they do not divide: every seam of the wrap counters comes up. */
Test(queue_packed, lists_of_every_length_wrap_at_every_place)
{
	const uint64_t features[] = { 0, VD_F_EVENT_IDX, VD_F_IN_ORDER, VD_F_EVENT_IDX | VD_F_IN_ORDER };

	for (size_t k = 0; k < ARRAY_SIZE(features); k++)
		for (uint16_t size = 3; size <= 9; size++) {
			struct harness *h = harness_new(size, VD_F_PACKED | features[k]);

			for (unsigned i = 0; i < 500; i++) {
				struct vd_seg segs[3];
				unsigned n = i % 3 + 1;
				uint32_t len;

				for (unsigned s = 0; s < n; s++)
					segs[s] = (struct vd_seg){ HARNESS_DATA + 16 * s, s + 1 };
				cr_assert_not(vd_enable_call(&h->vd));
				cr_assert_not(queue_enable_kick(h->q));
				cr_assert(vd_add(&h->vd, segs, n - 1, 1, (void *)(uintptr_t)(i + 1)));
				cr_assert(vd_kick(&h->vd));
				cr_assert_eq(serve(h, n), 1);
				cr_assert_eq(harness_calls(h), 1);
				cr_assert_eq(poll_slot(h, &len), i + 1);
				cr_assert_eq(len, n);
			}
			harness_free(h);
		}
}

Test(queue_packed, completions_out_of_order_keep_their_ids)
{
	struct harness *h = harness_new(8, VD_F_PACKED);
	struct chain *c[4];
	uint32_t len;

	for (unsigned round = 0; round < 7; round++) {
		for (unsigned i = 0; i < 4; i++)
			cr_assert(harness_add(h, i, i % 2, 64));
		for (unsigned i = 0; i < 4; i++)
			cr_assert_eq(queue_pop(h->q, &c[i]), 1);
		for (unsigned k = 0; k < 4; k++) {
			unsigned i = (2 * k + 3 + (k > 1)) % 4;

			cr_assert_eq(chain_write(c[i], "abcd", i + 1), 0);
			queue_push(h->q, c[i]);
			if (round % 2)
				queue_flush(h->q);
		}
		queue_flush(h->q);
		for (unsigned k = 0; k < 4; k++) {
			unsigned i = (2 * k + 3 + (k > 1)) % 4;

			cr_assert_eq(poll_slot(h, &len), i + 1);
			cr_assert_eq(len, i + 1);
		}
	}
	harness_free(h);
}

Test(queue_packed, in_order_gives_back_in_the_order_popped)
{
	struct harness *h = harness_new(9, VD_F_PACKED | VD_F_IN_ORDER);
	struct chain *c[4];
	uint32_t len;

	for (unsigned round = 0; round < 11; round++) {
		for (unsigned i = 0; i < 4; i++)
			cr_assert(harness_add(h, i, 1, 8));
		for (unsigned i = 0; i < 4; i++) {
			cr_assert_eq(queue_pop(h->q, &c[i]), 1);
			cr_assert_eq(chain_write(c[i], "12345678", i + 1), 0);
		}
		queue_push(h->q, c[3]);
		queue_push(h->q, c[1]);
		cr_assert_eq(queue_flush(h->q), 0);
		cr_assert_eq(queue_in_flight(h->q), 4);
		queue_push(h->q, c[0]);
		cr_assert_eq(queue_in_flight(h->q), 2);
		queue_push(h->q, c[2]);
		cr_assert_eq(queue_in_flight(h->q), 0);
		queue_flush(h->q);
		for (unsigned i = 0; i < 4; i++) {
			cr_assert_eq(poll_slot(h, &len), i + 1);
			cr_assert_eq(len, i + 1);
		}
	}
	harness_free(h);
}

Test(queue_packed, a_batch_becomes_visible_by_its_first_descriptor)
{
	struct harness *h = harness_new(8, VD_F_PACKED);
	const uint16_t used = VRING_DESC_AVAIL | VRING_DESC_USED;
	struct chain *c[3];

	for (unsigned i = 0; i < 3; i++)
		cr_assert(harness_add(h, i, 1, 1));
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(queue_pop(h->q, &c[i]), 1);
	for (unsigned i = 0; i < 3; i++)
		queue_push(h->q, c[i]);
	cr_assert_eq(ring(h)[0].flags & used, AVAIL_1, "the first still shows as available");
	cr_assert_eq(ring(h)[2].flags & used, used);
	cr_assert_eq(ring(h)[4].flags & used, used);
	cr_assert_eq(queue_flush(h->q), 1);
	cr_assert_eq(ring(h)[0].flags & used, used);
	cr_assert_eq(harness_calls(h), 1);
	harness_free(h);
}

/* §2.8.3: in a used descriptor WRITE says whether anything was written. */
Test(queue_packed, the_write_flag_of_a_used_descriptor_tells_of_data)
{
	struct harness *h = harness_new(4, VD_F_PACKED);
	uint32_t len;

	cr_assert(harness_add(h, 0, 0, 4));
	cr_assert(harness_add(h, 1, 0, 4));
	cr_assert_eq(serve(h, 0), 1);
	cr_assert_eq(serve(h, 4), 1);
	cr_assert_eq(ring(h)[0].flags & VRING_DESC_WRITE, 0);
	cr_assert_eq(ring(h)[1].flags & VRING_DESC_WRITE, VRING_DESC_WRITE);
	cr_assert_eq(poll_slot(h, &len), 1);
	cr_assert_eq(len, 0);
	harness_free(h);
}

Test(queue_packed, unpop_gives_the_list_back_also_across_the_end)
{
	const uint64_t features[] = { 0, VD_F_IN_ORDER };

	for (size_t k = 0; k < ARRAY_SIZE(features); k++) {
		struct harness *h = harness_new(5, VD_F_PACKED | features[k]);
		uint32_t len;

		for (unsigned i = 0; i < 40; i++) {
			struct chain *c;

			cr_assert(harness_add(h, i % 8, 3, 4));
			cr_assert_eq(queue_pop(h->q, &c), 1);
			cr_assert_eq(chain_skip(c, 2), 0);
			queue_unpop(h->q, c);
			cr_assert_eq(queue_in_flight(h->q), 0);
			cr_assert(queue_has_avail(h->q));
			cr_assert_eq(serve(h, 4), 1);
			cr_assert_eq(serve(h, 4), 0);
			cr_assert_eq(poll_slot(h, &len), i % 8 + 1);
		}
		harness_free(h);
	}
}

Test(queue_packed, a_full_ring_is_served_and_no_more)
{
	struct harness *h = harness_new(1000, VD_F_PACKED);
	struct vd_seg seg = { HARNESS_DATA, 1 };
	struct chain *c[1000], *more;
	uint32_t len;

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 1000; i++)
			cr_assert(vd_add(&h->vd, &seg, 1, 0, h));
		cr_assert_not(vd_add(&h->vd, &seg, 1, 0, h));
		vd_kick(&h->vd);
		for (unsigned i = 0; i < 1000; i++)
			cr_assert_eq(queue_pop(h->q, &c[i]), 1);
		cr_assert_eq(queue_pop(h->q, &more), 0);
		for (unsigned i = 0; i < 1000; i++)
			queue_push(h->q, c[i]);
		cr_assert_eq(queue_flush(h->q), 1);
		for (unsigned i = 0; i < 1000; i++)
			cr_assert_eq(poll_slot(h, &len), (uintptr_t)h);
	}
	harness_free(h);
}

Test(queue_packed, a_list_as_long_as_the_ring_is_legal)
{
	const uint64_t features[] = { 0, VD_F_INDIRECT };

	for (size_t k = 0; k < ARRAY_SIZE(features); k++) {
		struct harness *h = harness_new(16, VD_F_PACKED | features[k]);
		struct vd_seg segs[16];
		uint32_t len;

		for (unsigned i = 0; i < 16; i++)
			segs[i] = (struct vd_seg){ HARNESS_DATA + i, 1 };
		for (unsigned round = 0; round < 5; round++) {
			struct chain *c;

			cr_assert(vd_add(&h->vd, segs, 8, 8, h));
			vd_kick(&h->vd);
			cr_assert_eq(queue_pop(h->q, &c), 1);
			cr_assert_eq(chain_in_left(c), 8);
			cr_assert_eq(chain_out_left(c), 8);
			queue_push(h->q, c);
			queue_flush(h->q);
			cr_assert_eq(poll_slot(h, &len), (uintptr_t)h);
		}
		harness_free(h);
	}
}

/* §2.8.7: ids, NEXT and the ring's flags mean nothing in a table. */
Test(queue_packed, reserved_bits_of_an_indirect_table_are_ignored)
{
	struct harness *h = harness_new(4, VD_F_PACKED | VD_F_INDIRECT);
	struct pvring_desc *table = harness_at(h, HARNESS_TABLES);
	struct chain *c;

	table[0] = (struct pvring_desc){ HARNESS_DATA, 5, 999, VRING_DESC_NEXT | AVAIL_1 };
	table[1] = (struct pvring_desc){ HARNESS_DATA, 7, 0xffff, VRING_DESC_WRITE | VRING_DESC_NEXT };
	ring(h)[0] = (struct pvring_desc){ HARNESS_TABLES, 32, 2,
		VRING_DESC_INDIRECT | VRING_DESC_WRITE | AVAIL_1 };
	cr_assert_eq(queue_pop(h->q, &c), 1);
	cr_assert_eq(chain_in_left(c), 5);
	cr_assert_eq(chain_out_left(c), 7);
	queue_push(h->q, c);
	queue_flush(h->q);
	cr_assert_eq(ring(h)[0].id, 2);
	harness_free(h);
}

Test(queue_packed, without_event_idx_flags_silence_both_sides)
{
	struct harness *h = harness_new(8, VD_F_PACKED);

	cr_assert(harness_add(h, 0, 1, 0));
	cr_assert_eq(h->kicks, 1);
	queue_disable_kick(h->q);
	cr_assert_eq(device_event(h)->flags, PVRING_EVENT_DISABLE);
	cr_assert(harness_add(h, 1, 1, 0));
	cr_assert_eq(h->kicks, 1);
	cr_assert(queue_enable_kick(h->q), "two came meanwhile");
	cr_assert_eq(device_event(h)->flags, PVRING_EVENT_ENABLE);
	vd_disable_call(&h->vd);
	cr_assert_eq(serve(h, 0), 1);
	cr_assert_eq(harness_calls(h), 0);
	cr_assert(vd_enable_call(&h->vd));
	cr_assert_eq(serve(h, 0), 1);
	cr_assert_eq(harness_calls(h), 1);
	cr_assert_not(queue_enable_kick(h->q));
	harness_free(h);
}

Test(queue_packed, with_event_idx_one_kick_per_arming_in_every_place)
{
	struct harness *h = harness_new(7, VD_F_PACKED | VD_F_EVENT_IDX);
	uint32_t len;

	for (unsigned i = 1; i < 60; i++) {
		h->kicks = 0;
		cr_assert_not(queue_enable_kick(h->q));
		queue_disable_kick(h->q);
		for (unsigned k = 0; k < 3; k++)
			cr_assert(harness_add(h, k, 1, i % 2));
		cr_assert_eq(h->kicks, 1);
		cr_assert(queue_enable_kick(h->q));
		while (serve(h, 0) == 1)
			;
		for (unsigned k = 0; k < 3; k++)
			cr_assert_eq(poll_slot(h, &len), k + 1);
	}
	harness_free(h);
}

Test(queue_packed, with_event_idx_the_interrupt_comes_at_the_descriptor_asked_for)
{
	for (uint16_t size = 3; size < 9; size++) {
		struct harness *h = harness_new(size, VD_F_PACKED | VD_F_EVENT_IDX);

		for (unsigned round = 0; round < 50; round++) {
			uint32_t len;

			cr_assert_not(vd_enable_call_after(&h->vd, 2));
			for (unsigned i = 0; i < 4; i++) {
				cr_assert(harness_add(h, i, 1, 0));
				cr_assert_eq(serve(h, 0), 1);
				cr_assert_eq(harness_calls(h), i == 2);
				cr_assert_eq(poll_slot(h, &len), i + 1);
			}
		}
		harness_free(h);
	}
}

Test(queue_packed, with_event_idx_a_batch_that_passes_the_descriptor_interrupts)
{
	struct harness *h = harness_new(6, VD_F_PACKED | VD_F_EVENT_IDX);
	uint32_t len;

	/* Batches of 4 in a ring of 6: the descriptor asked for is before, at, and behind the end. */
	for (unsigned round = 0; round < 24; round++) {
		struct chain *c;

		cr_assert_not(vd_enable_call_after(&h->vd, round % 6));
		for (unsigned i = 0; i < 4; i++)
			cr_assert(harness_add(h, i, 1, 0));
		while (queue_pop(h->q, &c) == 1)
			queue_push(h->q, c);
		cr_assert_eq(queue_flush(h->q), round % 6 < 4);
		for (unsigned i = 0; i < 4; i++)
			cr_assert_eq(poll_slot(h, &len), i + 1);
	}
	harness_free(h);
}

/* §2.8.10: descriptor events are only for EVENT_IDX, 3 is reserved: when in doubt, interrupt. */
Test(queue_packed, event_flags_that_mean_nothing_do_not_silence)
{
	const uint16_t flags[] = { PVRING_EVENT_DESC, 3 };

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		struct harness *h = harness_new(4, VD_F_PACKED);

		*driver_event(h) = (union pvring_event){ .off_wrap = 0x7fff, .flags = flags[i] };
		cr_assert(harness_add(h, 0, 1, 1));
		cr_assert_eq(serve(h, 1), 1);
		cr_assert_eq(harness_calls(h), 1);
		harness_free(h);
	}
}

Test(queue_packed, a_queue_closed_and_opened_goes_on_where_it_was)
{
	struct harness *h = harness_new(5, VD_F_PACKED | VD_F_EVENT_IDX);
	unsigned pos = 0, wrap = 1;
	uint32_t len;

	for (unsigned i = 0; i < 200; i++) {
		cr_assert(harness_add(h, i % 8, 1, i % 2));
		harness_reopen(h);
		cr_assert_eq(h->setup.next_avail, pos | wrap << 15);
		cr_assert_eq(h->setup.next_used, pos | wrap << 15);
		cr_assert_eq(serve(h, 1), 1);
		cr_assert_eq(poll_slot(h, &len), i % 8 + 1);
		pos += 1 + i % 2;
		wrap ^= pos >= 5;
		pos %= 5;
	}
	harness_free(h);
}

Test(queue_packed, ring_writes_are_in_the_dirty_log)
{
	struct harness *h = harness_new(1024, VD_F_PACKED);
	struct vd_seg seg = { HARNESS_DATA, 1 };
	struct chain *c;
	uint64_t bits[4];

	for (unsigned i = 0; i < 300; i++)
		cr_assert(vd_add(&h->vd, &seg, 1, 0, h));
	vd_kick(&h->vd);
	cr_assert_eq(mem_dirty_start(h->mem, NULL), 0);
	while (queue_pop(h->q, &c) == 1)
		queue_push(h->q, c);
	queue_flush(h->q);
	cr_assert_eq(mem_dirty_fetch(h->mem, 0, bits), 0);
	cr_assert_eq(bits[0], 3, "300 descriptors of 16 bytes: two pages");
	queue_disable_kick(h->q);
	cr_assert_eq(mem_dirty_fetch(h->mem, 0, bits), 0);
	cr_assert_eq(bits[0], UINT64_C(1) << ((HARNESS_USED - HARNESS_LOW) / PAGE_4K));
	mem_dirty_stop(h->mem);
	harness_free(h);
}
