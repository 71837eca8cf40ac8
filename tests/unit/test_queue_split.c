#include <criterion/criterion.h>
#include <errno.h>

#include "devices/virtio/queue_private.h"
#include "tests/driver/harness.h"

/* Pop, write `n` bytes when there is room, push, flush. */
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

static struct vring_avail *avail(struct harness *h)
{
	return harness_at(h, HARNESS_AVAIL);
}

static struct vring_used *used(struct harness *h)
{
	return harness_at(h, HARNESS_USED);
}

Test(queue_split, an_empty_queue_has_nothing)
{
	struct harness *h = harness_new(4, 0);
	struct chain *c = NULL;

	cr_assert_not(queue_has_avail(h->q));
	cr_assert_eq(queue_pop(h->q, &c), 0);
	cr_assert_null(c);
	cr_assert_eq(queue_flush(h->q), 0);
	harness_free(h);
}

Test(queue_split, a_chain_goes_there_and_back)
{
	struct harness *h = harness_new(4, 0);
	struct chain *c;
	char got[5];
	uint32_t len;

	memcpy(harness_at(h, HARNESS_DATA), "hello", 5);
	cr_assert(harness_add(h, 0, 5, 3));
	cr_assert(queue_has_avail(h->q));
	cr_assert_eq(queue_pop(h->q, &c), 1);
	cr_assert_eq(queue_in_flight(h->q), 1);
	cr_assert_eq(chain_read(c, got, 5), 0);
	cr_assert_eq(memcmp(got, "hello", 5), 0);
	cr_assert_eq(chain_write(c, "yes", 3), 0);
	queue_push(h->q, c);
	cr_assert_eq(queue_in_flight(h->q), 0);
	cr_assert_eq(poll_slot(h, &len), 0, "not visible before the flush");
	cr_assert_eq(queue_flush(h->q), 1);
	cr_assert_eq(poll_slot(h, &len), 1);
	cr_assert_eq(len, 3);
	cr_assert_eq(memcmp(harness_at(h, HARNESS_DATA + PAGE_4K), "yes", 3), 0);
	cr_assert_eq(harness_calls(h), 1);
	harness_free(h);
}

Test(queue_split, the_accounts_balance)
{
	struct harness *h = harness_new(8, 0);
	struct chain *c[4];

	for (unsigned i = 0; i < 4; i++)
		cr_assert(harness_add(h, i, 1, 1));
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(queue_pop(h->q, &c[i]), 1);
		cr_assert_eq(queue_stats(h->q)->popped, i + 1);
		cr_assert_eq(queue_in_flight(h->q), i + 1);
	}
	for (unsigned i = 0; i < 4; i++) {
		queue_push(h->q, c[3 - i]);
		cr_assert_eq(queue_stats(h->q)->returned + queue_in_flight(h->q), queue_stats(h->q)->popped);
	}
	queue_kicked(h->q);
	cr_assert_eq(queue_stats(h->q)->kicks, 1);
	cr_assert_eq(queue_flush(h->q), 1);
	cr_assert_eq(queue_stats(h->q)->calls, 1);
	harness_free(h);
}

Test(queue_split, completions_out_of_order_keep_their_heads)
{
	struct harness *h = harness_new(8, 0);
	struct chain *c[4];
	uint32_t len;

	for (unsigned i = 0; i < 4; i++)
		cr_assert(harness_add(h, i, 0, 64));
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(queue_pop(h->q, &c[i]), 1);
	for (unsigned i = 4; i--;) {
		uint8_t fill[4] = { i, i, i, i };

		cr_assert_eq(chain_write(c[i], fill, i + 1), 0);
		queue_push(h->q, c[i]);
	}
	queue_flush(h->q);
	for (unsigned i = 4; i--;) {
		cr_assert_eq(poll_slot(h, &len), i + 1);
		cr_assert_eq(len, i + 1);
		cr_assert_eq(*(uint8_t *)harness_at(h, HARNESS_DATA + i * 2 * PAGE_4K + PAGE_4K), i);
	}
	harness_free(h);
}

Test(queue_split, in_order_gives_back_in_the_order_popped)
{
	struct harness *h = harness_new(4, VD_F_IN_ORDER);
	struct chain *c[4];
	uint32_t len;

	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < 4; i++)
			cr_assert(harness_add(h, i, 0, 8));
		for (unsigned i = 0; i < 4; i++) {
			cr_assert_eq(queue_pop(h->q, &c[i]), 1);
			cr_assert_eq(chain_write(c[i], "12345678", i + 1), 0);
		}
		queue_push(h->q, c[2]);
		queue_push(h->q, c[1]);
		cr_assert_eq(queue_in_flight(h->q), 4, "they wait for the first");
		cr_assert_eq(queue_flush(h->q), 0);
		queue_push(h->q, c[0]);
		cr_assert_eq(queue_in_flight(h->q), 1);
		queue_push(h->q, c[3]);
		queue_flush(h->q);
		for (unsigned i = 0; i < 4; i++) {
			/* The ring itself, not only what the driver makes of it. */
			cr_assert_eq(used(h)->ring[i].id, i);
			cr_assert_eq(poll_slot(h, &len), i + 1);
			cr_assert_eq(len, i + 1);
		}
	}
	harness_free(h);
}

Test(queue_split, unpop_gives_the_chain_back_as_if_never_popped)
{
	const uint64_t features[] = { 0, VD_F_IN_ORDER };

	for (size_t k = 0; k < ARRAY_SIZE(features); k++) {
		struct harness *h = harness_new(4, features[k]);
		struct chain *a, *b;
		uint32_t len;

		cr_assert(harness_add(h, 0, 4, 4));
		cr_assert(harness_add(h, 1, 4, 4));
		cr_assert_eq(queue_pop(h->q, &a), 1);
		cr_assert_eq(queue_pop(h->q, &b), 1);
		cr_assert_eq(chain_skip(b, 2), 0);
		queue_unpop(h->q, b);
		cr_assert_eq(queue_in_flight(h->q), 1);
		cr_assert_eq(queue_stats(h->q)->popped, 1);
		cr_assert(queue_has_avail(h->q));
		cr_assert_eq(queue_pop(h->q, &b), 1);
		cr_assert_eq(chain_in_left(b), 4);
		queue_push(h->q, a);
		queue_push(h->q, b);
		queue_flush(h->q);
		cr_assert_eq(poll_slot(h, &len), 1);
		cr_assert_eq(poll_slot(h, &len), 2);
		cr_assert_eq(poll_slot(h, &len), 0);
		harness_free(h);
	}
}

Test(queue_split, the_index_wraps_at_65536)
{
	const uint64_t features[] = { 0, VD_F_EVENT_IDX, VD_F_EVENT_IDX | VD_F_IN_ORDER };

	for (size_t k = 0; k < ARRAY_SIZE(features); k++) {
		struct harness *h = harness_new(8, features[k]);
		unsigned calls = 0;

		for (unsigned i = 0; i < 65536 + 20; i++) {
			uint32_t len;

			cr_assert_not(vd_enable_call(&h->vd));
			cr_assert(harness_add(h, i % 16, 1, 2));
			cr_assert_eq(serve(h, 2), 1);
			cr_assert_eq(poll_slot(h, &len), i % 16 + 1);
			cr_assert_eq(len, 2);
			calls += harness_calls(h);
		}
		cr_assert_eq(calls, 65536 + 20);
		cr_assert_eq(used(h)->idx, 20);
		harness_free(h);
	}
}

Test(queue_split, a_full_queue_is_served_and_no_more)
{
	struct harness *h = harness_new(1024, 0);
	struct vd_seg seg = { HARNESS_DATA, 1 };
	struct chain *c[1024], *more;

	for (unsigned i = 0; i < 1024; i++)
		cr_assert(vd_add(&h->vd, &seg, 1, 0, h));
	cr_assert_not(vd_add(&h->vd, &seg, 1, 0, h));
	vd_kick(&h->vd);
	for (unsigned i = 0; i < 1024; i++)
		cr_assert_eq(queue_pop(h->q, &c[i]), 1);
	cr_assert_eq(queue_pop(h->q, &more), 0);
	cr_assert_eq(queue_in_flight(h->q), 1024);
	for (unsigned i = 0; i < 1024; i++)
		queue_push(h->q, c[i]);
	cr_assert_eq(queue_flush(h->q), 1);
	cr_assert_eq(used(h)->idx, 1024);
	harness_free(h);
}

Test(queue_split, a_chain_as_long_as_the_queue_is_legal)
{
	const uint64_t features[] = { 0, VD_F_INDIRECT };

	for (size_t k = 0; k < ARRAY_SIZE(features); k++) {
		struct harness *h = harness_new(16, features[k]);
		struct vd_seg segs[16];
		struct chain *c;

		for (unsigned i = 0; i < 16; i++)
			segs[i] = (struct vd_seg){ HARNESS_DATA + i, 1 };
		cr_assert(vd_add(&h->vd, segs, 8, 8, h));
		vd_kick(&h->vd);
		cr_assert_eq(queue_pop(h->q, &c), 1);
		cr_assert_eq(chain_in_left(c), 8);
		cr_assert_eq(chain_out_left(c), 8);
		queue_push(h->q, c);
		harness_free(h);
	}
}

/* §2.7.5.3.2 */
Test(queue_split, plain_descriptors_may_come_before_an_indirect_one)
{
	struct harness *h = harness_new(8, VD_F_INDIRECT);
	struct vring_desc *desc = harness_at(h, HARNESS_DESC), *table = harness_at(h, HARNESS_TABLES);
	struct chain *c;

	desc[3] = (struct vring_desc){ HARNESS_DATA, 4, VRING_DESC_NEXT, 5 };
	desc[5] = (struct vring_desc){ HARNESS_TABLES, 32, VRING_DESC_INDIRECT, 0 };
	table[0] = (struct vring_desc){ HARNESS_DATA + 8, 2, VRING_DESC_NEXT, 1 };
	table[1] = (struct vring_desc){ HARNESS_DATA + 16, 7, VRING_DESC_WRITE, 0 };
	avail(h)->ring[0] = 3;
	avail(h)->idx = 1;
	cr_assert_eq(queue_pop(h->q, &c), 1);
	cr_assert_eq(chain_in_left(c), 6);
	cr_assert_eq(chain_out_left(c), 7);
	queue_push(h->q, c);
	queue_flush(h->q);
	cr_assert_eq(used(h)->ring[0].id, 3);
	harness_free(h);
}

/* §2.7.5.3.2: the device MUST ignore WRITE in the descriptor that refers to a table. */
Test(queue_split, write_beside_indirect_is_ignored)
{
	struct harness *h = harness_new(8, VD_F_INDIRECT);
	struct vring_desc *desc = harness_at(h, HARNESS_DESC), *table = harness_at(h, HARNESS_TABLES);
	struct chain *c;

	desc[0] = (struct vring_desc){ HARNESS_TABLES, 16, VRING_DESC_INDIRECT | VRING_DESC_WRITE, 0 };
	table[0] = (struct vring_desc){ HARNESS_DATA, 9, 0, 0 };
	avail(h)->idx = 1;
	cr_assert_eq(queue_pop(h->q, &c), 1);
	cr_assert_eq(chain_in_left(c), 9);
	queue_push(h->q, c);
	harness_free(h);
}

Test(queue_split, an_indirect_table_may_lie_anywhere_in_ram)
{
	const uint64_t at[] = { HARNESS_DATA + 1, HARNESS_HIGH - 24, HARNESS_FAR + HARNESS_REGION - 32 };

	for (size_t k = 0; k < ARRAY_SIZE(at); k++) {
		struct harness *h = harness_new(8, VD_F_INDIRECT);
		struct vring_desc *desc = harness_at(h, HARNESS_DESC);
		const struct vring_desc table[] = {
			{ HARNESS_DATA + 64, 3, VRING_DESC_NEXT, 1 },
			{ HARNESS_DATA + 80, 5, VRING_DESC_WRITE, 0 },
		};
		struct chain *c;

		cr_assert_eq(mem_write(h->mem, gpa(at[k]), table, sizeof(table)), 0);
		desc[0] = (struct vring_desc){ at[k], sizeof(table), VRING_DESC_INDIRECT, 0 };
		avail(h)->idx = 1;
		cr_assert_eq(queue_pop(h->q, &c), 1);
		cr_assert_eq(chain_in_left(c), 3);
		cr_assert_eq(chain_out_left(c), 5);
		queue_push(h->q, c);
		harness_free(h);
	}
}

Test(queue_split, without_event_idx_flags_silence_both_sides)
{
	struct harness *h = harness_new(8, 0);
	uint32_t len;

	cr_assert(harness_add(h, 0, 1, 0));
	cr_assert_eq(h->kicks, 1);
	queue_disable_kick(h->q);
	cr_assert_eq(used(h)->flags, 1);
	cr_assert(harness_add(h, 1, 1, 0));
	cr_assert_eq(h->kicks, 1);
	cr_assert(queue_enable_kick(h->q), "two came meanwhile");
	cr_assert_eq(used(h)->flags, 0);
	vd_disable_call(&h->vd);
	cr_assert_eq(serve(h, 0), 1);
	cr_assert_eq(harness_calls(h), 0);
	cr_assert_eq(queue_stats(h->q)->calls_suppressed, 1);
	cr_assert(vd_enable_call(&h->vd));
	cr_assert_eq(serve(h, 0), 1);
	cr_assert_eq(harness_calls(h), 1);
	cr_assert_eq(poll_slot(h, &len), 1);
	cr_assert_eq(poll_slot(h, &len), 2);
	cr_assert_not(queue_enable_kick(h->q));
	harness_free(h);
}

Test(queue_split, with_event_idx_one_kick_per_arming)
{
	struct harness *h = harness_new(8, VD_F_EVENT_IDX);

	cr_assert_not(queue_enable_kick(h->q));
	cr_assert(harness_add(h, 0, 1, 0));
	cr_assert_eq(h->kicks, 1);
	queue_disable_kick(h->q);
	cr_assert_eq(used(h)->flags, 0, "flags stay 0 with EVENT_IDX");
	cr_assert(harness_add(h, 1, 1, 0));
	cr_assert(harness_add(h, 2, 1, 0));
	cr_assert_eq(h->kicks, 1);
	cr_assert(queue_enable_kick(h->q), "three came meanwhile");
	while (serve(h, 0) == 1)
		;
	cr_assert_not(queue_enable_kick(h->q));
	cr_assert(harness_add(h, 3, 1, 0));
	cr_assert_eq(h->kicks, 2);
	harness_free(h);
}

Test(queue_split, with_event_idx_the_interrupt_comes_at_the_entry_asked_for)
{
	struct harness *h = harness_new(8, VD_F_EVENT_IDX);

	/* Also across the wrap of the index. */
	for (unsigned round = 0; round < 65536 / 4 + 3; round++) {
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

Test(queue_split, with_event_idx_the_no_interrupt_flag_is_ignored)
{
	struct harness *h = harness_new(8, VD_F_EVENT_IDX);

	avail(h)->flags = 1;
	cr_assert(harness_add(h, 0, 1, 0));
	cr_assert_eq(serve(h, 0), 1);
	cr_assert_eq(harness_calls(h), 1);
	harness_free(h);
}

Test(queue_split, a_batch_rings_once)
{
	struct harness *h = harness_new(8, 0);
	struct chain *c;

	for (unsigned i = 0; i < 4; i++)
		cr_assert(harness_add(h, i, 1, 1));
	while (queue_pop(h->q, &c) == 1)
		queue_push(h->q, c);
	cr_assert_eq(queue_flush(h->q), 1);
	cr_assert_eq(queue_flush(h->q), 0);
	cr_assert_eq(harness_calls(h), 1);
	harness_free(h);
}

Test(queue_split, without_a_call_fd_the_driver_polls)
{
	struct harness *h = harness_new_closed(8, 0);
	uint32_t len;

	h->setup.call_fd = -1;
	cr_assert_eq(queue_open(&h->q, h->mem, &h->setup, 0), 0);
	cr_assert(harness_add(h, 0, 1, 1));
	cr_assert_eq(serve(h, 1), 1);
	cr_assert_eq(poll_slot(h, &len), 1);
	cr_assert_eq(queue_stats(h->q)->calls, 0);
	harness_free(h);
}

Test(queue_split, a_queue_closed_and_opened_goes_on_where_it_was)
{
	struct harness *h = harness_new(4, VD_F_EVENT_IDX);
	uint32_t len;

	for (unsigned i = 0; i < 65536 + 50; i++) {
		cr_assert(harness_add(h, i % 8, 1, 1));
		if (i % 997 == 0)
			harness_reopen(h);
		cr_assert_eq(serve(h, 1), 1);
		cr_assert_eq(poll_slot(h, &len), i % 8 + 1);
	}
	queue_close(h->q, &h->setup);
	h->q = NULL;
	cr_assert_eq(h->setup.next_avail, 50);
	cr_assert_eq(h->setup.next_used, 50);
	harness_free(h);
}

Test(queue_split, rings_are_mapped_again_when_the_map_changes)
{
	struct harness *h = harness_new(4, 0);
	uint8_t *moved = aligned_alloc(PAGE_4K, HARNESS_REGION);
	uint32_t len;

	/* A region more moves the generation on; the rings are still there. */
	cr_assert_eq(mem_add_borrowed(h->mem, 16 * MIB, HARNESS_REGION, moved), 0);
	cr_assert(harness_add(h, 0, 1, 1));
	cr_assert_eq(serve(h, 1), 1);
	cr_assert_eq(poll_slot(h, &len), 1);
	harness_free(h);
	free(moved);
}

Test(queue_split, ring_writes_are_in_the_dirty_log)
{
	struct harness *h = harness_new(1024, VD_F_EVENT_IDX);
	const unsigned used_page = (HARNESS_USED - HARNESS_LOW) / PAGE_4K;
	const uint64_t first = UINT64_C(1) << used_page;
	uint64_t bits[4];
	uint32_t len;

	cr_assert_eq(mem_dirty_start(h->mem, NULL), 0);
	for (unsigned i = 0; i < 1025; i++) {
		cr_assert(harness_add(h, 0, 1, 0));
		cr_assert_eq(serve(h, 0), 1);
		cr_assert_eq(poll_slot(h, &len), 1);
		cr_assert_eq(mem_dirty_fetch(h->mem, 0, bits), 0);
		/* The idx on the first page, and the page of the entry, 8 bytes each behind the first 4. */
		cr_assert_eq(bits[0], first | first << ((4 + i % 1024 * 8 + 7) / PAGE_4K) |
					      first << ((4 + i % 1024 * 8) / PAGE_4K));
	}
	cr_assert_not(queue_enable_kick(h->q));
	cr_assert_eq(mem_dirty_fetch(h->mem, 0, bits), 0);
	cr_assert_eq(bits[0], first << 2, "avail_event lies behind 8 KiB of ring");
	mem_dirty_stop(h->mem);
	harness_free(h);
}

Test(queue_split, the_device_has_zeroed_bytes_of_its_own)
{
	struct harness *h = harness_new_closed(4, 0);
	uint8_t *priv;

	h->setup.index = 7;
	cr_assert_eq(queue_open(&h->q, h->mem, &h->setup, 1000), 0);
	priv = queue_priv(h->q);
	for (size_t i = 0; i < 1000; i++)
		cr_assert_eq(priv[i], 0);
	memset(priv, 0xff, 1000);
	cr_assert(is_aligned((uintptr_t)priv, 16));
	cr_assert_eq(queue_index(h->q), 7);
	cr_assert_eq(queue_size(h->q), 4);
	queue_set_loop(h->q, (struct loop *)h);
	cr_assert_eq(queue_loop(h->q), (struct loop *)h);
	harness_free(h);
	queue_close(NULL, NULL);
}
