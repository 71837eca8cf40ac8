/* virtio-blk under rate limits: what waits, for how long, and that nothing is lost. */
#include "tests/unit/blk_rig.h"

enum { TINY = 16 };

/* Put n reads of a sector into the ring and kick; their status bytes begin at STATUS. */
static void send_reads(struct fixture *f, unsigned n)
{
	struct vd_seg segs[3] = { { HEADER, 16 }, { OUT, 512 }, { STATUS, 1 } };

	put_header(f, BLK_T_IN, 0);
	for (unsigned i = 0; i < n; i++) {
		segs[1].addr = OUT + i * 512;
		cr_assert(vd_add(&f->h->vd, segs, 1, 2, f));
	}
	vd_kick(&f->h->vd);
	cr_assert_geq(rig_kick(f->rig, 0), 0);
}

/* Let the loop run until so many came back. */
static void come_at_last(struct fixture *f, unsigned want)
{
	unsigned n = answered(f);

	for (int i = 0; i < 60000 && n < want; i++) {
		rig_run(f->rig, 1);
		n += answered(f);
	}
	cr_assert_eq(n, want);
}

#define READS (B(BLK_F_FLUSH) | VD_F_INDIRECT)
static const struct rate_limit no_limit;

Test(blk_rate, requests_beyond_the_operations_wait_in_the_ring)
{
	struct fixture f;

	setup_with(&f, "", READS);
	blk_set_rate(f.blk, RATE_OPS, &(struct rate_limit){ 1, 0, 24 * 3600 * 1000 });
	send_reads(&f, 6);
	cr_assert_eq(answered(&f), 2, "the bucket, and one into debt");
	rig_run(f.rig, 5);
	cr_assert_eq(answered(&f), 0);
	cr_assert_eq(queue_in_flight(f.h->q), 0, "nothing is held but by the ring");
	blk_set_rate(f.blk, RATE_OPS, &no_limit);
	come_at_last(&f, 4);
	cr_assert_eq(status(&f), BLK_S_OK);
	cr_assert_not(f.blk->limited);
	teardown(&f);
}

Test(blk_rate, bytes_are_those_of_the_data)
{
	struct fixture f;

	setup_with(&f, ",bw_size=4096,bw_refill_time=86400000", READS);
	cr_assert(f.blk->limited);
	send_reads(&f, TINY);
	cr_assert_eq(answered(&f), 9, "4096 bytes, and one more");
	blk_set_rate(f.blk, RATE_BYTES, &no_limit);
	come_at_last(&f, TINY - 9);
	/* Zeroes count as the bytes they are. */
	blk_set_rate(f.blk, RATE_BYTES, &(struct rate_limit){ 8192, 0, 24 * 3600 * 1000 });
	rig_stop(f.rig, 0);
	rig_start(f.rig, 0, QUEUE, BASIC);
	f.h = f.rig->h[0];
	*(struct blk_range *)harness_at(f.h, IN) = (struct blk_range){ 0, 64, 0 };
	cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, 16, 0), BLK_S_OK);
	send_reads(&f, 1);
	cr_assert_eq(answered(&f), 0);
	teardown(&f);
}

Test(blk_rate, a_refill_lets_them_pass_by_and_by)
{
	uint64_t start, took;
	struct fixture f;

	setup_with(&f, ",ops_size=5,ops_refill_time=50", READS);
	start = rate_now();
	send_reads(&f, 15);
	come_at_last(&f, 15);
	took = rate_now() - start;
	/* 5 at once, the sixth into debt, 9 more at one in 10 ms. No upper bound: machines are slow. */
	cr_assert_geq(took, UINT64_C(88000000), "%llu ns", (unsigned long long)took);
	teardown(&f);
}

Test(blk_rate, when_none_waits_any_more_the_driver_is_asked_to_kick)
{
	const struct vd_seg segs[] = { { HEADER, 16 }, { OUT, 512 }, { STATUS, 1 } };
	struct fixture f;

	setup_with(&f, ",ops_size=2,ops_refill_time=10", READS | VD_F_EVENT_IDX);
	send_reads(&f, 9);
	come_at_last(&f, 9);
	cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	cr_assert(vd_kick(&f.h->vd), "the device would never hear of it");
	teardown(&f);
}

Test(blk_rate, a_burst_comes_once_on_top)
{
	struct fixture f;

	setup_with(&f, ",ops_size=1,ops_one_time_burst=5,ops_refill_time=86400000", READS);
	send_reads(&f, 10);
	cr_assert_eq(answered(&f), 7);
	teardown(&f);
}

Test(blk_rate, a_queue_that_is_stopped_does_not_wait)
{
	struct fixture f;

	setup_with(&f, ",ops_size=1,ops_refill_time=86400000", READS);
	send_reads(&f, 5);
	cr_assert_eq(answered(&f), 2);
	rig_stop(f.rig, 0); /* aborts when a chain is not returned */
	rig_start(f.rig, 0, QUEUE, READS);
	f.h = f.rig->h[0];
	blk_set_rate(f.blk, RATE_OPS, &no_limit);
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 512), BLK_S_OK);
	teardown(&f);
}

Test(blk_rate, bad_limits_are_refused_with_a_sentence)
{
	static const struct { const char *text, *says; } bad[] = {
		{ "null=1M,bw_size=1M", "bw_refill_time" },
		{ "null=1M,ops_one_time_burst=5", "need ops_size=" },
		{ "null=1M,ops_size=5,ops_refill_time=86400001", "longer than a day" },
		{ "null=1M,rate_group=x", "rate_group=x" },
	};
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_null(rig_new(&virtio_blk_type, bad[i].text, &err));
		cr_assert(strstr(err.text, bad[i].says), "%s", err.text);
		cr_assert(strstr(err.text, "--disk"), "%s", err.text);
		cr_assert_null(strstr(err.text, "--disk: --disk"), "%s", err.text);
	}
}

/* A ring that breaks while a limit lets requests pass one by one. */
Test(blk_rate, a_ring_that_breaks_meanwhile_is_told)
{
	struct fixture f;
	uint16_t *avail;

	setup_with(&f, ",ops_size=1,ops_refill_time=86400000", READS);
	send_reads(&f, 4);
	cr_assert_eq(answered(&f), 2);
	avail = harness_at(f.h, HARNESS_AVAIL);
	avail[2 + 2] = 999; /* §2.7.6: ring[2], a head out of range */
	blk_set_rate(f.blk, RATE_OPS, &no_limit);
	rig_run(f.rig, 20);
	cr_assert(f.rig->broken);
	teardown(&f);
}
