#include "devices/virtio/chain.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "tests/driver/harness.h"

/* One chain in flight on a fresh split queue. */
struct fixture {
	struct harness *h;
	struct chain *c;
};

static struct fixture begin(const struct vd_seg *segs, unsigned nin, unsigned nout)
{
	struct fixture f = { .h = harness_new(16, VD_F_INDIRECT) };

	cr_assert(vd_add(&f.h->vd, segs, nin, nout, f.h));
	vd_kick(&f.h->vd);
	cr_assert_eq(queue_pop(f.h->q, &f.c), 1);
	return f;
}

/* Push it and give back what the driver is told. */
static uint32_t end(struct fixture *f)
{
	void *cookie = NULL;
	uint32_t len = 0;

	queue_push(f->h->q, f->c);
	queue_flush(f->h->q);
	cr_assert_eq(vd_poll(&f->h->vd, &cookie, &len), 1);
	cr_assert_eq(cookie, f->h);
	harness_free(f->h);
	return len;
}

static const struct vd_seg three_and_three[] = {
	{ HARNESS_DATA, 3 }, { HARNESS_DATA + 100, 5 }, { HARNESS_DATA + 200, 8 },
	{ HARNESS_DATA + 300, 2 }, { HARNESS_DATA + 400, 6 }, { HARNESS_DATA + 500, 8 },
};

Test(chain, reads_across_descriptors_in_any_cut)
{
	for (size_t step = 1; step <= 16; step++) {
		struct fixture f = begin(three_and_three, 3, 3);
		char got[17] = "";

		memcpy(harness_at(f.h, HARNESS_DATA), "abc", 3);
		memcpy(harness_at(f.h, HARNESS_DATA + 100), "defgh", 5);
		memcpy(harness_at(f.h, HARNESS_DATA + 200), "ijklmnop", 8);
		for (size_t at = 0; at < 16; at += step)
			cr_assert_eq(chain_read(f.c, got + at, MIN(step, 16 - at)), 0);
		cr_assert_str_eq(got, "abcdefghijklmnop");
		cr_assert_eq(chain_in_left(f.c), 0);
		cr_assert_eq(end(&f), 0);
	}
}

Test(chain, writes_across_descriptors_and_counts_what_it_wrote)
{
	for (size_t step = 1; step <= 16; step++) {
		struct fixture f = begin(three_and_three, 3, 3);

		for (size_t at = 0; at < 16; at += step)
			cr_assert_eq(chain_write(f.c, "ABCDEFGHIJKLMNOP" + at, MIN(step, 16 - at)), 0);
		cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 300), "AB\0", 3), 0);
		cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 400), "CDEFGH\0", 7), 0);
		cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 500), "IJKLMNOP\0", 9), 0);
		cr_assert_eq(chain_out_left(f.c), 0);
		cr_assert_eq(end(&f), 16);
	}
}

Test(chain, a_read_past_the_end_moves_nothing)
{
	struct fixture f = begin(three_and_three, 3, 3);
	char buf[32] = "unchanged";

	cr_assert_eq(chain_read(f.c, buf, 17), -ENODATA);
	cr_assert_str_eq(buf, "unchanged");
	cr_assert_eq(chain_skip(f.c, 17), -ENODATA);
	cr_assert_eq(chain_in_left(f.c), 16);
	cr_assert_eq(chain_skip(f.c, 15), 0);
	cr_assert_eq(chain_read(f.c, buf, 2), -ENODATA);
	cr_assert_eq(chain_read(f.c, buf, 1), 0);
	cr_assert_eq(end(&f), 0);
}

Test(chain, a_write_past_the_end_moves_nothing)
{
	struct fixture f = begin(three_and_three, 3, 3);

	cr_assert_eq(chain_write(f.c, "ABCDEFGHIJKLMNOPQ", 17), -ENOSPC);
	cr_assert_eq(*(char *)harness_at(f.h, HARNESS_DATA + 300), 0);
	cr_assert_eq(chain_out_left(f.c), 16);
	cr_assert_eq(end(&f), 0);
}

Test(chain, a_side_that_is_missing_is_empty)
{
	struct fixture f = begin(three_and_three, 3, 0);
	struct iovec iov[4];
	char b = 0;

	cr_assert_eq(chain_out_left(f.c), 0);
	cr_assert_eq(chain_write(f.c, &b, 1), -ENOSPC);
	cr_assert_eq(chain_reserve_tail(f.c, 1), -ENOSPC);
	cr_assert_eq(chain_iov_out(f.c, 0, iov, 4), 0);
	cr_assert_eq(end(&f), 0);
	f = begin(three_and_three, 0, 3);
	cr_assert_eq(chain_in_left(f.c), 0);
	cr_assert_eq(chain_read(f.c, &b, 1), -ENODATA);
	cr_assert_eq(chain_out_left(f.c), 16);
	cr_assert_eq(end(&f), 0);
}

Test(chain, iovecs_begin_at_the_cursor_and_move_it)
{
	struct fixture f = begin(three_and_three, 3, 3);
	struct iovec iov[3];
	char b[4];

	cr_assert_eq(chain_skip(f.c, 4), 0);
	cr_assert_eq(chain_iov_in(f.c, 11, iov, 3), 2);
	cr_assert_eq(iov[0].iov_base, (char *)harness_at(f.h, HARNESS_DATA + 101));
	cr_assert_eq(iov[0].iov_len, 4);
	cr_assert_eq(iov[1].iov_base, harness_at(f.h, HARNESS_DATA + 200));
	cr_assert_eq(iov[1].iov_len, 7);
	cr_assert_eq(chain_in_left(f.c), 1);
	cr_assert_eq(chain_read(f.c, b, 1), 0);
	cr_assert_eq(end(&f), 0);
}

Test(chain, iovecs_that_do_not_fit_move_nothing)
{
	struct fixture f = begin(three_and_three, 3, 3);
	struct iovec iov[2];

	cr_assert_eq(chain_iov_in(f.c, 16, iov, 2), -E2BIG);
	cr_assert_eq(chain_iov_in(f.c, 17, iov, 2), -ENODATA);
	cr_assert_eq(chain_iov_out(f.c, 17, iov, 2), -ENOSPC);
	cr_assert_eq(chain_iov_out(f.c, 16, iov, 2), -E2BIG);
	cr_assert_eq(chain_in_left(f.c), 16);
	cr_assert_eq(chain_out_left(f.c), 16);
	cr_assert_eq(end(&f), 0);
}

Test(chain, bytes_handed_out_count_only_when_said_to_be_written)
{
	struct fixture f = begin(three_and_three, 3, 3);
	struct iovec iov[3];

	cr_assert_eq(chain_iov_out(f.c, 16, iov, 3), 3);
	cr_assert_eq(chain_written(f.c), 0);
	chain_wrote(f.c, 5);
	cr_assert_eq(chain_written(f.c), 5);
	chain_wrote(f.c, 11);
	cr_assert_eq(end(&f), 16);
}

Test(chain, a_write_behind_uncounted_bytes_does_not_count_before_them)
{
	struct fixture f = begin(three_and_three, 3, 3);
	struct iovec iov[3];

	cr_assert_eq(chain_iov_out(f.c, 4, iov, 3), 2);
	cr_assert_eq(chain_write(f.c, "xy", 2), 0);
	cr_assert_eq(chain_written(f.c), 0);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 402), "xy", 2), 0);
	chain_wrote(f.c, 6);
	cr_assert_eq(chain_write(f.c, "z", 1), 0);
	cr_assert_eq(end(&f), 7);
}

/* A block read that worked: data, then the status byte. */
Test(chain, a_tail_ends_the_writable_side)
{
	struct fixture f = begin(three_and_three, 3, 3);
	struct iovec iov[3];

	cr_assert_eq(chain_reserve_tail(f.c, 1), 0);
	cr_assert_eq(chain_out_left(f.c), 15);
	cr_assert_eq(chain_iov_out(f.c, 16, iov, 3), -ENOSPC);
	cr_assert_eq(chain_iov_out(f.c, 15, iov, 3), 3);
	chain_wrote(f.c, 15);
	cr_assert_eq(chain_written(f.c), 15);
	chain_write_tail(f.c, "\x07", 1);
	cr_assert_eq(*(char *)harness_at(f.h, HARNESS_DATA + 507), 7);
	cr_assert_eq(end(&f), 16);
}

Test(chain, a_tail_may_lie_across_descriptors)
{
	struct fixture f = begin(three_and_three, 3, 3);

	cr_assert_eq(chain_reserve_tail(f.c, 15), 0);
	cr_assert_eq(chain_write(f.c, "12", 2), -ENOSPC);
	cr_assert_eq(chain_write(f.c, "1", 1), 0);
	chain_write_tail(f.c, "ABCDEFGHIJKLMNO", 15);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 300), "1A", 2), 0);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 400), "BCDEFG", 6), 0);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 500), "HIJKLMNO", 8), 0);
	cr_assert_eq(end(&f), 16);
}

Test(chain, what_a_failed_request_did_not_write_is_zero_before_the_tail)
{
	struct fixture f = begin(three_and_three, 3, 3);
	struct iovec iov[3];

	memset(harness_at(f.h, HARNESS_DATA + 300), 0xee, 300);
	cr_assert_eq(chain_reserve_tail(f.c, 1), 0);
	cr_assert_eq(chain_iov_out(f.c, 10, iov, 3), 3);
	chain_wrote(f.c, 4);
	chain_write_tail(f.c, "\x01", 1);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 300), "\xee\xee\xee", 3), 0);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 400), "\xee\xee\0\0\0\0\xee", 7), 0);
	cr_assert_eq(memcmp(harness_at(f.h, HARNESS_DATA + 500), "\0\0\0\0\0\0\0\x01\xee", 9), 0);
	cr_assert_eq(end(&f), 16);
}

Test(chain, a_large_gap_before_the_tail_is_left_alone_and_not_counted)
{
	/* The same megabyte three times: the driver may do that. */
	const struct vd_seg segs[] = {
		{ HARNESS_HIGH, MIB }, { HARNESS_HIGH, MIB }, { HARNESS_HIGH, MIB }, { HARNESS_DATA, 1 },
	};
	struct fixture f = begin(segs, 0, 4);

	memset(harness_at(f.h, HARNESS_HIGH), 0xee, MIB);
	cr_assert_eq(chain_reserve_tail(f.c, 1), 0);
	cr_assert_eq(chain_write(f.c, "abc", 3), 0);
	chain_write_tail(f.c, "\x01", 1);
	cr_assert_eq(*(uint8_t *)harness_at(f.h, HARNESS_HIGH + 3), 0xee);
	cr_assert_eq(*(uint8_t *)harness_at(f.h, HARNESS_DATA), 1);
	cr_assert_eq(end(&f), 3);
}

Test(chain, a_buffer_across_two_regions_is_split_not_linearised)
{
	const struct vd_seg segs[] = { { HARNESS_HIGH - 5, 10 }, { HARNESS_HIGH - 3, 7 } };
	struct fixture f = begin(segs, 1, 1);
	struct iovec iov[4];
	char got[10];

	memcpy(harness_at(f.h, HARNESS_HIGH - 5), "01234", 5);
	memcpy(harness_at(f.h, HARNESS_HIGH), "56789", 5);
	cr_assert_eq(chain_read(f.c, got, 10), 0);
	cr_assert_eq(memcmp(got, "0123456789", 10), 0);
	cr_assert_eq(chain_iov_out(f.c, 7, iov, 4), 2);
	cr_assert_eq(iov[0].iov_base, harness_at(f.h, HARNESS_HIGH - 3));
	cr_assert_eq(iov[0].iov_len, 3);
	cr_assert_eq(iov[1].iov_base, harness_at(f.h, HARNESS_HIGH));
	cr_assert_eq(iov[1].iov_len, 4);
	chain_wrote(f.c, 7);
	cr_assert_eq(end(&f), 7);
}

Test(chain, every_page_written_is_in_the_dirty_log)
{
	const struct vd_seg segs[] = {
		{ HARNESS_HIGH - 1, 2 }, { HARNESS_FAR + 3 * PAGE_4K, PAGE_4K + 1 }, { HARNESS_FAR + 0x10000, 1 },
	};
	struct fixture f = begin(segs, 0, 3);
	uint64_t low[4], high[4], far[4];
	struct iovec iov[2];

	cr_assert_eq(mem_dirty_start(f.h->mem, NULL), 0);
	cr_assert_eq(chain_reserve_tail(f.c, 1), 0);
	cr_assert_eq(chain_write(f.c, "ab", 2), 0);
	cr_assert_eq(chain_iov_out(f.c, PAGE_4K + 1, iov, 2), 1);
	cr_assert_eq(mem_dirty_fetch(f.h->mem, 2, far), 0);
	cr_assert_eq(far[0], 0, "handed out is not yet dirty");
	chain_wrote(f.c, PAGE_4K + 1);
	chain_write_tail(f.c, "", 1);
	cr_assert_eq(mem_dirty_fetch(f.h->mem, 0, low), 0);
	cr_assert_eq(mem_dirty_fetch(f.h->mem, 1, high), 0);
	cr_assert_eq(mem_dirty_fetch(f.h->mem, 2, far), 0);
	cr_assert_eq(low[3], UINT64_C(1) << 63);
	cr_assert_eq(high[0], 1);
	cr_assert_eq(far[0], 1 << 3 | 1 << 4 | 1 << 16);
	mem_dirty_stop(f.h->mem);
	cr_assert_eq(end(&f), PAGE_4K + 4);
}

Test(chain, the_users_word_is_null_after_pop)
{
	struct harness *h = harness_new(4, 0);
	struct chain *c;

	for (int i = 0; i < 3; i++) {
		void *cookie;
		uint32_t len;

		cr_assert(harness_add(h, 0, 1, 1));
		cr_assert_eq(queue_pop(h->q, &c), 1);
		cr_assert_null(chain_user(c));
		chain_set_user(c, h);
		cr_assert_eq(chain_user(c), h);
		queue_push(h->q, c);
		queue_flush(h->q);
		cr_assert_eq(vd_poll(&h->vd, &cookie, &len), 1);
	}
	harness_free(h);
}
