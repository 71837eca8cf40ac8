/*
 * What a driver must not do, one property per test, for the split and the packed ring. A chain that is malformed comes back
 * with length 0 and breaks the queue; a ring whose bookkeeping is wrong breaks it at once. Neither crashes, spins or loses
 * a head. Guests' descriptors are written by hand here: no vdriver would make them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/mman.h>

#include "devices/virtio/queue_private.h"
#include "tests/driver/harness.h"

enum { SIZE = 8, HEAD = 3, N = VRING_DESC_NEXT, W = VRING_DESC_WRITE, I = VRING_DESC_INDIRECT };
enum { A1 = VRING_DESC_AVAIL };

static struct vring_desc *desc(struct harness *h)
{
	return harness_at(h, HARNESS_DESC);
}

static struct vring_desc *table(struct harness *h)
{
	return harness_at(h, HARNESS_TABLES);
}

static struct pvring_desc *ring(struct harness *h)
{
	return harness_at(h, HARNESS_DESC);
}

static struct pvring_desc *ptable(struct harness *h)
{
	return harness_at(h, HARNESS_TABLES);
}

static struct vring_avail *avail(struct harness *h)
{
	return harness_at(h, HARNESS_AVAIL);
}

static struct vring_used *used(struct harness *h)
{
	return harness_at(h, HARNESS_USED);
}

static struct harness *split(uint64_t features)
{
	return harness_new(SIZE, features);
}

static struct harness *packed(uint64_t features)
{
	return harness_new(SIZE, VD_F_PACKED | features);
}

static void offer(struct harness *h, uint16_t head)
{
	avail(h)->ring[avail(h)->idx % SIZE] = head;
	avail(h)->idx++;
}

static void expect_accounts(struct harness *h, unsigned malformed)
{
	const struct queue_stats *s = queue_stats(h->q);
	struct chain *c;

	cr_assert(queue_broken(h->q));
	cr_assert_eq(queue_in_flight(h->q), 0);
	cr_assert_eq(s->popped, s->returned);
	cr_assert_eq(s->malformed, malformed);
	/* And so it stays, whatever the driver does. */
	for (int i = 0; i < 3; i++)
		cr_assert_eq(queue_pop(h->q, &c), -EPROTO);
	cr_assert_not(queue_has_avail(h->q));
	cr_assert_not(queue_enable_kick(h->q));
	cr_assert_eq(queue_flush(h->q), 0);
	cr_assert_eq(s->popped, s->returned);
	harness_free(h);
}

/* The chain on offer is malformed: consumed with length 0, interrupt sent. Frees h. */
static void expect_consumed(struct harness *h, unsigned id)
{
	bool is_packed = h->setup.features & VD_F_PACKED;
	struct chain *c;

	cr_assert_eq(queue_pop(h->q, &c), -EPROTO);
	cr_assert_eq(harness_calls(h), 1);
	if (is_packed) {
		cr_assert_eq(ring(h)[0].id, id);
		cr_assert_eq(ring(h)[0].flags, VRING_DESC_AVAIL | VRING_DESC_USED);
		cr_assert_eq(ring(h)[0].len, 0);
	} else {
		cr_assert_eq(used(h)->idx, 1);
		cr_assert_eq(used(h)->ring[0].id, id);
		cr_assert_eq(used(h)->ring[0].len, 0);
	}
	expect_accounts(h, 1);
}

/* The ring is wrong: nothing can be consumed. Frees h. */
static void expect_broken(struct harness *h)
{
	struct chain *c;

	cr_assert_eq(queue_pop(h->q, &c), -EPROTO);
	expect_accounts(h, 0);
}

/* One descriptor, malformed, in each format, direct and in a table. */
static void expect_refused(struct vring_desc d)
{
	struct pvring_desc p = { .addr = d.addr, .len = d.len, .id = HEAD, .flags = d.flags | A1 };
	struct harness *h = split(0);

	desc(h)[HEAD] = d;
	offer(h, HEAD);
	expect_consumed(h, HEAD);

	h = split(VD_F_INDIRECT);
	desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, 16, I, 0 };
	table(h)[0] = d;
	offer(h, HEAD);
	expect_consumed(h, HEAD);

	h = packed(0);
	ring(h)[0] = p;
	expect_consumed(h, HEAD);

	h = packed(VD_F_INDIRECT);
	ptable(h)[0] = p;
	ring(h)[0] = (struct pvring_desc){ HARNESS_TABLES, 16, HEAD, I | A1 };
	expect_consumed(h, HEAD);
}

Test(queue_hostile, vq01_a_loop_is_consumed_and_breaks_the_ring)
{
	for (unsigned len = 1; len <= SIZE; len++) {
		struct harness *h = split(0);

		for (unsigned i = 0; i < len; i++)
			desc(h)[i] = (struct vring_desc){ HARNESS_DATA, 1, N, (i + 1) % len };
		offer(h, 0);
		expect_consumed(h, 0);
	}
}

Test(queue_hostile, vq01_a_loop_in_a_table_is_consumed_and_breaks_the_ring)
{
	for (unsigned len = 1; len <= SIZE; len++) {
		struct harness *h = split(VD_F_INDIRECT);

		for (unsigned i = 0; i < len; i++)
			table(h)[i] = (struct vring_desc){ HARNESS_DATA, 1, N, (i + 1) % len };
		desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, len * 16, I, 0 };
		offer(h, HEAD);
		expect_consumed(h, HEAD);
	}
}

Test(queue_hostile, vq01_a_loop_in_order_waits_for_those_before_it)
{
	struct harness *h = split(VD_F_IN_ORDER);
	struct chain *first, *c;

	desc(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	desc(h)[1] = (struct vring_desc){ HARNESS_DATA, 1, N, 1 };
	offer(h, 0);
	offer(h, 1);
	cr_assert_eq(queue_pop(h->q, &first), 1);
	cr_assert_eq(queue_pop(h->q, &c), -EPROTO);
	cr_assert_eq(used(h)->idx, 0);
	queue_push(h->q, first);
	queue_flush(h->q);
	cr_assert_eq(used(h)->idx, 2);
	cr_assert_eq(used(h)->ring[0].id, 0);
	cr_assert_eq(used(h)->ring[1].id, 1);
	expect_accounts(h, 1);
}

Test(queue_hostile, vq01_unpop_after_a_loop_returns_the_chain)
{
	const uint64_t features[] = { 0, VD_F_IN_ORDER };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		struct harness *h = split(features[i]);
		struct chain *first, *c;

		desc(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, W, 0 };
		desc(h)[1] = (struct vring_desc){ HARNESS_DATA, 1, N, 1 };
		offer(h, 0);
		offer(h, 1);
		cr_assert_eq(queue_pop(h->q, &first), 1);
		cr_assert_eq(chain_write(first, "x", 1), 0);
		cr_assert_eq(queue_pop(h->q, &c), -EPROTO);
		queue_unpop(h->q, first);
		queue_flush(h->q);
		cr_assert_eq(used(h)->idx, 2);
		cr_assert_eq(used(h)->ring[0].len + used(h)->ring[1].len, 0);
		expect_accounts(h, 1);
	}
}

Test(queue_hostile, vq02_plain_and_indirect_together_are_no_longer_than_the_queue)
{
	struct harness *h = split(VD_F_INDIRECT);

	desc(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, N, 1 };
	desc(h)[1] = (struct vring_desc){ HARNESS_TABLES, SIZE * 16, I, 0 };
	for (unsigned i = 0; i < SIZE; i++)
		table(h)[i] = (struct vring_desc){ HARNESS_DATA, 1, i + 1 < SIZE ? N : 0, i + 1 };
	offer(h, 0);
	expect_consumed(h, 0);
}

Test(queue_hostile, vq02_a_packed_list_without_end_is_consumed_and_breaks_the_ring)
{
	struct harness *h = packed(0);

	for (unsigned i = 0; i < SIZE; i++)
		ring(h)[i] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, N | A1 };
	expect_consumed(h, HEAD);
}

Test(queue_hostile, vq02_more_region_borders_than_iovecs_are_refused)
{
	/* Each table entry crosses a border, so a chain of 1024 needs 2048 iovecs. */
	struct harness *h = harness_new(1024, VD_F_INDIRECT);

	for (unsigned i = 0; i < 1024; i++)
		table(h)[i] = (struct vring_desc){ HARNESS_HIGH - 1, 2, i + 1 < 1024 ? N : 0, i + 1 };
	desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, 1024 * 16, I, 0 };
	avail(h)->ring[0] = HEAD;
	avail(h)->idx = 1;
	expect_consumed(h, HEAD);
}

static void two_gib_twice(uint32_t last, int expect)
{
	struct harness *h = split(0);
	size_t size = (size_t)2 * GIB;
	void *big = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct chain *c;

	cr_assert_neq(big, MAP_FAILED);
	cr_assert_eq(mem_add_borrowed(h->mem, 4 * GIB, size, big), 0);
	desc(h)[0] = (struct vring_desc){ 4 * GIB, UINT32_C(1) << 31, N, 1 };
	desc(h)[1] = (struct vring_desc){ 4 * GIB, last, 0, 0 };
	offer(h, 0);
	if (expect < 0) {
		expect_consumed(h, 0);
	} else {
		cr_assert_eq(queue_pop(h->q, &c), 1);
		cr_assert_eq(chain_in_left(c), UINT32_MAX);
		cr_assert_eq(chain_skip(c, UINT32_MAX), 0);
		queue_push(h->q, c);
		harness_free(h);
	}
	munmap(big, size);
}

Test(queue_hostile, vq03_a_chain_of_4_gib_is_refused_and_one_byte_less_is_not)
{
	two_gib_twice(UINT32_C(1) << 31, -EPROTO);
	two_gib_twice(UINT32_MAX, -EPROTO);
	two_gib_twice((UINT32_C(1) << 31) - 1, 1);
}

Test(queue_hostile, vq04_a_next_out_of_range_is_refused)
{
	const uint16_t next[] = { SIZE, SIZE + 1, 0x7fff, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(next); i++) {
		struct harness *h = split(0);

		desc(h)[HEAD] = (struct vring_desc){ HARNESS_DATA, 1, N, next[i] };
		/* What lies behind the table would do. */
		desc(h)[SIZE] = desc(h)[SIZE + 1] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
		offer(h, HEAD);
		expect_consumed(h, HEAD);
	}
}

Test(queue_hostile, vq04_a_next_out_of_an_indirect_table_is_refused)
{
	const uint16_t next[] = { 2, 3, SIZE, SIZE + 1, 0x7fff, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(next); i++) {
		struct harness *h = split(VD_F_INDIRECT);
		struct chain *c;

		/* A long table first, so that more than two entries are known to the device. */
		for (unsigned k = 0; k < SIZE; k++)
			table(h)[k] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
		desc(h)[0] = (struct vring_desc){ HARNESS_TABLES, SIZE * 16, I, 0 };
		offer(h, 0);
		cr_assert_eq(queue_pop(h->q, &c), 1);
		table(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, N, next[i] };
		desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, 32, I, 0 };
		offer(h, HEAD);
		queue_unpop(h->q, c);
		avail(h)->ring[0] = HEAD;
		expect_consumed(h, HEAD);
	}
}

Test(queue_hostile, vq05_a_descriptor_of_length_0_is_refused)
{
	expect_refused((struct vring_desc){ HARNESS_DATA, 0, 0, 0 });
	expect_refused((struct vring_desc){ HARNESS_DATA, 0, W, 0 });
	expect_refused((struct vring_desc){ 0, 0, 0, 0 });
}

Test(queue_hostile, vq06_an_address_that_wraps_is_refused)
{
	expect_refused((struct vring_desc){ UINT64_C(0xffffffffffffff00), 512, 0, 0 });
	expect_refused((struct vring_desc){ UINT64_MAX, 1, W, 0 });
	expect_refused((struct vring_desc){ UINT64_MAX - HARNESS_LOW, UINT32_MAX, W, 0 });
}

Test(queue_hostile, vq07_a_buffer_outside_ram_is_refused)
{
	expect_refused((struct vring_desc){ 0, 1, 0, 0 });
	expect_refused((struct vring_desc){ HARNESS_LOW - 1, 1, 0, 0 });
	expect_refused((struct vring_desc){ HARNESS_LOW - 1, 2, W, 0 });
	expect_refused((struct vring_desc){ HARNESS_FAR + HARNESS_REGION - 1, 2, W, 0 });
	expect_refused((struct vring_desc){ HARNESS_FAR + HARNESS_REGION, 1, 0, 0 });
	expect_refused((struct vring_desc){ HARNESS_DATA, UINT32_MAX, W, 0 });
}

Test(queue_hostile, vq08_a_buffer_across_a_hole_is_refused)
{
	expect_refused((struct vring_desc){ HARNESS_HOLE - 1, 2, W, 0 });
	expect_refused((struct vring_desc){ HARNESS_HOLE - 1, MIB + 2, W, 0 });
	expect_refused((struct vring_desc){ HARNESS_FAR - 1, 2, 0, 0 });
}

/* MMIO and BARs are what is not RAM. */
Test(queue_hostile, vq09_a_buffer_that_is_not_ram_is_refused)
{
	expect_refused((struct vring_desc){ HARNESS_HOLE + PAGE_4K, 64, W, 0 });
	expect_refused((struct vring_desc){ UINT64_C(0xfee00000), 4, W, 0 });
}

static void write_over_ring(struct harness *h, uint64_t at, uint32_t len)
{
	static const uint8_t ones[0x8000] = { [0 ... 0x7fff] = 0xff };
	struct chain *c;

	cr_assert_eq(queue_pop(h->q, &c), 1);
	cr_assert_eq(chain_write(c, ones, len), 0);
	queue_push(h->q, c);
	queue_flush(h->q);
	/* What is in the rings now is nonsense; popping it ends. */
	for (unsigned i = 0; i < 2 * SIZE && queue_pop(h->q, &c) == 1; i++) {
		queue_push(h->q, c);
		queue_flush(h->q);
	}
	cr_assert_eq(queue_in_flight(h->q), 0, "at %#llx", (unsigned long long)at);
	cr_assert_eq(queue_stats(h->q)->popped, queue_stats(h->q)->returned);
	harness_free(h);
}

Test(queue_hostile, vq10_a_buffer_over_the_rings_does_no_harm)
{
	const uint64_t at[] = { HARNESS_DESC, HARNESS_AVAIL, HARNESS_USED };

	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		struct harness *h = split(0);

		desc(h)[HEAD] = (struct vring_desc){ at[i], 1024, W, 0 };
		offer(h, HEAD);
		write_over_ring(h, at[i], 1024);
		h = packed(0);
		ring(h)[0] = (struct pvring_desc){ at[i], 1024, HEAD, W | A1 };
		write_over_ring(h, at[i], 1024);
	}
	/* An indirect table that describes itself. */
	struct harness *h = split(VD_F_INDIRECT);

	desc(h)[0] = (struct vring_desc){ HARNESS_TABLES, 16, I, 0 };
	table(h)[0] = (struct vring_desc){ HARNESS_TABLES, 16, W, 0 };
	offer(h, 0);
	write_over_ring(h, HARNESS_TABLES, 16);
}

static int try_open(uint64_t features, uint16_t size, uint64_t d, uint64_t a, uint64_t u)
{
	struct harness *h = harness_new_closed(SIZE, features);
	struct queue *q = NULL;
	int r;

	h->setup.size = size;
	h->setup.desc = d;
	h->setup.avail = a;
	h->setup.used = u;
	r = queue_open(&q, h->mem, &h->setup, 0);
	if (r < 0)
		cr_assert_null(q);
	queue_close(q, NULL);
	harness_free(h);
	return r;
}

Test(queue_hostile, vq11_rings_outside_ram_or_unaligned_or_overlapping_are_refused)
{
	const uint64_t features[] = { 0, VD_F_PACKED };
	const uint64_t d = HARNESS_DESC, a = HARNESS_AVAIL, u = HARNESS_USED;

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		uint64_t f = features[i];

		cr_assert_eq(try_open(f, SIZE, d, a, u), 0);
		cr_assert_eq(try_open(f, SIZE, d + 8, a, u), -EINVAL);
		cr_assert_eq(try_open(f, SIZE, d, a + 1, u), -EINVAL);
		cr_assert_eq(try_open(f, SIZE, d, a, u + 2), -EINVAL);
		cr_assert_eq(try_open(f, SIZE, 0, a, u), -EFAULT);
		cr_assert_eq(try_open(f, SIZE, d, HARNESS_HOLE, u), -EFAULT);
		cr_assert_eq(try_open(f, SIZE, d, a, UINT64_MAX - 3), -EFAULT);
		cr_assert_eq(try_open(f, SIZE, HARNESS_HOLE - 16, a, u), -EFAULT);
		cr_assert_eq(try_open(f, SIZE, UINT64_MAX - 15, a, u), -EFAULT);
		cr_assert_eq(try_open(f, SIZE, d, d + 16, u), -EINVAL);
		cr_assert_eq(try_open(f, SIZE, d, a, a), -EINVAL);
		cr_assert_eq(try_open(f, SIZE, d, a, d), -EINVAL);
		/* Rings are never linearised, not even over two regions that touch. */
		cr_assert_eq(try_open(f, SIZE, HARNESS_HIGH - 16, a, u), -EFAULT);
	}
	cr_assert_eq(try_open(VD_F_PACKED, SIZE, d, a + 2, u), -EINVAL);
}

Test(queue_hostile, vq12_sizes_that_the_format_does_not_allow_are_refused)
{
	const uint16_t bad[] = { 0, 1025, 2048, 0x8000, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_eq(try_open(0, bad[i], HARNESS_DESC, HARNESS_HIGH, HARNESS_FAR), -EINVAL);
		cr_assert_eq(try_open(VD_F_PACKED, bad[i], HARNESS_DESC, HARNESS_HIGH, HARNESS_FAR), -EINVAL);
	}
	cr_assert_eq(try_open(0, 6, HARNESS_DESC, HARNESS_AVAIL, HARNESS_USED), -EINVAL);
	/* §2.8.10.1: a packed ring need not be a power of two. */
	cr_assert_eq(try_open(VD_F_PACKED, 6, HARNESS_DESC, HARNESS_AVAIL, HARNESS_USED), 0);
}

Test(queue_hostile, vq12_a_saved_position_outside_the_packed_ring_is_refused)
{
	struct harness *h = harness_new_closed(SIZE, VD_F_PACKED);
	struct queue *q = NULL;

	h->setup.next_avail = 0x8000 | SIZE;
	cr_assert_eq(queue_open(&q, h->mem, &h->setup, 0), -EINVAL);
	h->setup.next_avail = 0x8000;
	h->setup.next_used = SIZE;
	cr_assert_eq(queue_open(&q, h->mem, &h->setup, 0), -EINVAL);
	harness_free(h);
}

Test(queue_hostile, vq13_what_was_frozen_at_open_stays)
{
	struct harness *h = split(0);
	struct chain *c;

	h->setup.size = 1024;
	h->setup.desc = h->setup.avail = h->setup.used = 0;
	h->setup.features = VD_F_PACKED | VD_F_INDIRECT;
	cr_assert(harness_add(h, 0, 1, 1));
	cr_assert_eq(queue_pop(h->q, &c), 1);
	queue_push(h->q, c);
	queue_flush(h->q);
	cr_assert_eq(used(h)->idx, 1);
	cr_assert_eq(queue_size(h->q), SIZE);
	harness_free(h);
}

Test(queue_hostile, vq15_an_avail_idx_that_jumps_or_steps_back_breaks_the_ring)
{
	const uint16_t idx[] = { SIZE + 1, 1000, 0x8000, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(idx); i++) {
		struct harness *h = split(VD_F_EVENT_IDX);

		desc(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
		avail(h)->idx = idx[i];
		cr_assert(queue_has_avail(h->q));
		expect_broken(h);
	}
}

Test(queue_hostile, vq15_as_many_as_the_queue_is_long_minus_those_outstanding)
{
	struct harness *h = split(0);
	struct chain *c[SIZE];

	for (unsigned i = 0; i < SIZE; i++) {
		desc(h)[i] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
		offer(h, i);
	}
	for (unsigned i = 0; i < SIZE; i++)
		cr_assert_eq(queue_pop(h->q, &c[i]), 1);
	queue_push(h->q, c[0]);
	/* Given back, but the driver cannot know yet. */
	offer(h, 0);
	cr_assert_eq(queue_pop(h->q, &c[0]), -EPROTO);
	for (unsigned i = 1; i < SIZE; i++)
		queue_push(h->q, c[i]);
	queue_flush(h->q);
	cr_assert_eq(used(h)->idx, SIZE);
	expect_accounts(h, 0);
}

Test(queue_hostile, vq16_a_head_out_of_range_breaks_the_ring)
{
	const uint16_t head[] = { SIZE, 0x100, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(head); i++) {
		struct harness *h = split(0);

		offer(h, head[i]);
		expect_broken(h);
		h = packed(0);
		ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, head[i], A1 };
		expect_broken(h);
	}
}

Test(queue_hostile, vq17_a_head_in_flight_is_not_taken_again)
{
	struct harness *h = split(0);
	struct chain *first, *again = NULL;

	desc(h)[HEAD] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	for (unsigned i = 0; i < SIZE; i++)
		offer(h, HEAD);
	cr_assert_eq(queue_pop(h->q, &first), 1);
	cr_assert_eq(queue_pop(h->q, &again), -EPROTO);
	cr_assert_null(again);
	cr_assert_eq(queue_in_flight(h->q), 1);
	/* The first is untouched and comes back once. */
	cr_assert_eq(chain_in_left(first), 1);
	queue_push(h->q, first);
	queue_flush(h->q);
	cr_assert_eq(used(h)->idx, 1);
	expect_accounts(h, 0);
}

Test(queue_hostile, vq17_a_buffer_id_in_flight_is_not_taken_again)
{
	struct harness *h = packed(0);
	struct chain *first, *again = NULL;

	for (unsigned i = 0; i < SIZE; i++)
		ring(h)[i] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, A1 };
	cr_assert_eq(queue_pop(h->q, &first), 1);
	cr_assert_eq(queue_pop(h->q, &again), -EPROTO);
	cr_assert_null(again);
	queue_push(h->q, first);
	queue_flush(h->q);
	expect_accounts(h, 0);
}

Test(queue_hostile, vq17_a_head_that_came_back_may_go_again)
{
	struct harness *h = split(0);
	struct chain *c;

	desc(h)[HEAD] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	for (unsigned i = 0; i < 100; i++) {
		offer(h, HEAD);
		cr_assert_eq(queue_pop(h->q, &c), 1);
		queue_push(h->q, c);
		queue_flush(h->q);
	}
	cr_assert_eq(used(h)->idx, 100);
	harness_free(h);
}

/* Descriptors share nothing with the chain that was made of them. */
Test(queue_hostile, vq19_a_chain_does_not_change_after_pop)
{
	struct harness *h = split(VD_F_INDIRECT);
	struct chain *c;
	struct iovec iov[2];

	desc(h)[0] = (struct vring_desc){ HARNESS_TABLES, 32, I, 0 };
	table(h)[0] = (struct vring_desc){ HARNESS_DATA, 8, N, 1 };
	table(h)[1] = (struct vring_desc){ HARNESS_DATA + 64, 8, W, 0 };
	offer(h, 0);
	cr_assert_eq(queue_pop(h->q, &c), 1);
	memset(table(h), 0xff, 32);
	memset(desc(h), 0xff, SIZE * 16);
	cr_assert_eq(chain_in_left(c), 8);
	cr_assert_eq(chain_iov_out(c, 8, iov, 2), 1);
	cr_assert_eq(iov[0].iov_base, harness_at(h, HARNESS_DATA + 64));
	queue_push(h->q, c);
	harness_free(h);
}

Test(queue_hostile, vq20_what_the_driver_writes_into_the_used_ring_is_ignored)
{
	struct harness *h = split(0);
	struct chain *c;

	for (unsigned i = 0; i < 4; i++) {
		desc(h)[i] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
		offer(h, i);
	}
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(queue_pop(h->q, &c), 1);
		memset(used(h), 0xa5, 6 + 8 * SIZE);
		queue_push(h->q, c);
		queue_flush(h->q);
		cr_assert_eq(used(h)->idx, i + 1);
		cr_assert_eq(used(h)->ring[i].id, i);
	}
	harness_free(h);
}

Test(queue_hostile, vq21_indirect_needs_the_feature)
{
	struct harness *h = split(0);

	desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, 16, I, 0 };
	table(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	offer(h, HEAD);
	expect_consumed(h, HEAD);
	h = packed(0);
	ring(h)[0] = (struct pvring_desc){ HARNESS_TABLES, 16, HEAD, I | A1 };
	ptable(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 0, 0 };
	expect_consumed(h, HEAD);
}

Test(queue_hostile, vq21_a_table_inside_a_table_is_refused)
{
	struct harness *h = split(VD_F_INDIRECT);

	desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, 16, I, 0 };
	table(h)[0] = (struct vring_desc){ HARNESS_TABLES, 16, I, 0 };
	offer(h, HEAD);
	expect_consumed(h, HEAD);
	h = packed(VD_F_INDIRECT);
	ring(h)[0] = (struct pvring_desc){ HARNESS_TABLES, 16, HEAD, I | A1 };
	ptable(h)[0] = (struct pvring_desc){ HARNESS_TABLES, 16, 0, I };
	expect_consumed(h, HEAD);
}

Test(queue_hostile, vq21_a_table_in_the_middle_of_a_chain_is_refused)
{
	struct harness *h = split(VD_F_INDIRECT);

	desc(h)[HEAD] = (struct vring_desc){ HARNESS_TABLES, 16, I | N, 4 };
	desc(h)[4] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	table(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	offer(h, HEAD);
	expect_consumed(h, HEAD);
	/* Packed lists mix the kinds in no order at all. */
	h = packed(VD_F_INDIRECT);
	ring(h)[0] = (struct pvring_desc){ HARNESS_TABLES, 16, 0, I | N | A1 };
	ring(h)[1] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, A1 };
	ptable(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 0, 0 };
	expect_consumed(h, HEAD);
	h = packed(VD_F_INDIRECT);
	ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 0, N | A1 };
	ring(h)[1] = (struct pvring_desc){ HARNESS_TABLES, 16, HEAD, I | A1 };
	ptable(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 0, 0 };
	expect_consumed(h, HEAD);
}

Test(queue_hostile, vq22_a_table_of_a_bad_length_or_place_is_refused)
{
	const struct vring_desc bad[] = {
		{ HARNESS_TABLES, 0, I, 0 },
		{ HARNESS_TABLES, 1, I, 0 },
		{ HARNESS_TABLES, 15, I, 0 },
		{ HARNESS_TABLES, 17, I, 0 },
		{ HARNESS_TABLES, (SIZE + 1) * 16, I, 0 },
		{ HARNESS_TABLES, 0xfffffff0, I, 0 },
		{ 0, 16, I, 0 },
		{ HARNESS_HOLE, 16, I, 0 },
		{ HARNESS_HOLE - 16, 32, I, 0 },
		{ HARNESS_FAR + HARNESS_REGION - 16, 32, I, 0 },
		{ UINT64_MAX - 15, 16, I, 0 },
		{ UINT64_MAX - 7, 16, I, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct harness *h = split(VD_F_INDIRECT);

		for (unsigned k = 0; k <= SIZE; k++)
			table(h)[k] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
		desc(h)[HEAD] = bad[i];
		offer(h, HEAD);
		expect_consumed(h, HEAD);
		h = packed(VD_F_INDIRECT);
		for (unsigned k = 0; k <= SIZE; k++)
			ptable(h)[k] = (struct pvring_desc){ HARNESS_DATA, 1, 0, 0 };
		ring(h)[0] = (struct pvring_desc){ bad[i].addr, bad[i].len, HEAD, I | A1 };
		expect_consumed(h, HEAD);
	}
}

Test(queue_hostile, vq23_readable_after_writable_is_refused)
{
	struct harness *h = split(0);

	desc(h)[HEAD] = (struct vring_desc){ HARNESS_DATA, 1, N | W, 4 };
	desc(h)[4] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	offer(h, HEAD);
	expect_consumed(h, HEAD);
	h = packed(0);
	ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 0, N | W | A1 };
	ring(h)[1] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, A1 };
	expect_consumed(h, HEAD);
}

/* Used idx is what counts: the driver never reads it, the device never waits for that. */
Test(queue_hostile, vq28_a_driver_that_never_collects_costs_nothing)
{
	struct harness *h = split(0);
	struct chain *c;

	desc(h)[0] = (struct vring_desc){ HARNESS_DATA, 1, 0, 0 };
	for (unsigned i = 0; i < 100000; i++) {
		offer(h, 0);
		cr_assert_eq(queue_pop(h->q, &c), 1);
		cr_assert_eq(queue_in_flight(h->q), 1);
		queue_push(h->q, c);
		queue_flush(h->q);
	}
	harness_free(h);
}

Test(queue_hostile, vq29_flags_of_the_other_round_are_not_available)
{
	const uint16_t flags[] = { 0, VRING_DESC_USED, VRING_DESC_USED | VRING_DESC_AVAIL };

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		struct harness *h = packed(0);
		struct chain *c;

		ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, flags[i] };
		cr_assert_not(queue_has_avail(h->q));
		cr_assert_eq(queue_pop(h->q, &c), 0);
		harness_free(h);
	}
}

Test(queue_hostile, vq29_a_list_that_is_not_available_to_its_end_is_refused)
{
	struct harness *h = packed(0);

	ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, N | A1 };
	ring(h)[1] = (struct pvring_desc){ HARNESS_DATA, 1, HEAD, VRING_DESC_USED };
	expect_consumed(h, HEAD);
}

Test(queue_hostile, vq29_more_descriptors_than_the_ring_has_break_it)
{
	struct harness *h = packed(0);
	struct chain *c[SIZE], *more = NULL;

	for (unsigned i = 0; i < SIZE; i++)
		ring(h)[i] = (struct pvring_desc){ HARNESS_DATA, 1, i, A1 };
	for (unsigned i = 0; i < SIZE; i++)
		cr_assert_eq(queue_pop(h->q, &c[i]), 1);
	/* One is pushed, not published; the driver makes its place available in the next round all the same. */
	queue_push(h->q, c[5]);
	ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 5, VRING_DESC_USED };
	cr_assert_eq(queue_pop(h->q, &more), -EPROTO);
	cr_assert_null(more);
	for (unsigned i = 0; i < SIZE; i++)
		if (i != 5)
			queue_push(h->q, c[i]);
	queue_flush(h->q);
	expect_accounts(h, 0);
}

Test(queue_hostile, vq29_a_list_over_descriptors_in_flight_is_refused)
{
	struct harness *h = packed(0);
	struct chain *c, *more;

	ring(h)[0] = (struct pvring_desc){ HARNESS_DATA, 1, 0, A1 };
	cr_assert_eq(queue_pop(h->q, &c), 1);
	for (unsigned i = 1; i < SIZE; i++)
		ring(h)[i] = (struct pvring_desc){ HARNESS_DATA, 1, 1, N | A1 };
	ring(h)[0].flags = VRING_DESC_USED;
	ring(h)[0].id = 1;
	cr_assert_eq(queue_pop(h->q, &more), -EPROTO);
	queue_push(h->q, c);
	queue_flush(h->q);
	expect_accounts(h, 1);
}

Test(queue_hostile, vq29_event_offsets_outside_the_ring_do_no_harm)
{
	const uint16_t off[] = { SIZE, 0x7fff, 0xffff, 0x8000 | SIZE };

	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		struct harness *h = packed(VD_F_EVENT_IDX);
		union pvring_event *e = harness_at(h, HARNESS_AVAIL);
		struct chain *c;

		for (unsigned k = 0; k < 3 * SIZE; k++) {
			void *cookie;
			uint32_t len;

			e->off_wrap = off[i];
			e->flags = PVRING_EVENT_DESC;
			cr_assert(harness_add(h, 0, 1, 0));
			cr_assert_eq(queue_pop(h->q, &c), 1);
			queue_push(h->q, c);
			queue_flush(h->q);
			cr_assert_eq(vd_poll(&h->vd, &cookie, &len), 1);
		}
		harness_free(h);
	}
}

/* The memory map changed and the rings are no longer in it. */
Test(queue_hostile, vq30_rings_that_left_ram_break_the_queue)
{
	const uint64_t features[] = { 0, VD_F_PACKED };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		struct harness *h = harness_new(SIZE, features[i]);
		struct chain *c;

		cr_assert(harness_add(h, 0, 1, 1));
		cr_assert_eq(queue_pop(h->q, &c), 1);
		h->q->setup.used = HARNESS_HOLE;
		h->q->generation--;
		queue_push(h->q, c);
		queue_disable_kick(h->q);
		expect_broken(h);
	}
}
