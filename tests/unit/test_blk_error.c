/*
 * virtio-blk on a disk whose host fails: what the guest is told, what is held, and that nothing is
 * lost or answered twice.
 */
#include "tests/unit/blk_rig.h"

#include <errno.h>

#define FEATURES (BASIC | VD_F_INDIRECT)
/* What each request fails with; 0: it does not. */
static int failure;

static int refuse(struct disk_request *rq)
{
	/* What a disk may do with them before it fails. */
	if (failure && (rq->op == DISK_READ || rq->op == DISK_WRITE)) {
		rq->iov->iov_base = (char *)rq->iov->iov_base + 100;
		rq->iov->iov_len -= 100;
	}
	return failure;
}

static void setup_bad(struct fixture *f, const char *more, int result)
{
	setup_with(f, more, FEATURES);
	refuser_put(f, refuse);
	failure = result;
}

/* Send `n` writes of a sector each, the i-th byte of their data to sector i. */
static void send_writes(struct fixture *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct vd_seg segs[3] = { { HEADER + 0x200 + 16 * i, 16 }, { IN + i * 512, 512 }, { STATUS + i, 1 } };
		struct blk_header h = { .type = BLK_T_OUT, .sector = i };

		memcpy(harness_at(f->h, segs[0].addr), &h, sizeof(h));
		memset(harness_at(f->h, IN + i * 512), (int)(0x40 + i), 512);
		*(uint8_t *)harness_at(f->h, STATUS + i) = 0xff;
		cr_assert(vd_add(&f->h->vd, segs, 2, 1, f));
	}
	vd_kick(&f->h->vd);
	cr_assert_geq(rig_kick(f->rig, 0), 0);
}

/* The machine goes on; how many came back of `want`, with nobody waiting for the disk. */
static unsigned resume(struct fixture *f, unsigned want)
{
	unsigned n = 0, ms = 0;
	uint32_t used;
	void *cookie;

	virtio_blk_type.retry(f->rig->dev);
	do {
		rig_run(f->rig, 5);
		while (vd_poll(&f->h->vd, &cookie, &used) > 0)
			n++;
	} while (n < want && (ms += 5) < 20000);
	return n;
}

static void is_written(struct fixture *f, unsigned n)
{
	uint8_t buf[512];

	for (unsigned i = 0; i < n; i++) {
		peek(f, i * 512, buf, 512);
		cr_assert(all(buf, (uint8_t)(0x40 + i), 512), "sector %u", i);
		cr_assert_eq(*(uint8_t *)harness_at(f->h, STATUS + i), BLK_S_OK, "status %u", i);
	}
}

Test(blk_error, a_full_host_holds_the_writes_and_they_are_done_later)
{
	struct fixture f;

	setup_bad(&f, "", -ENOSPC);
	send_writes(&f, 5);
	cr_assert_eq(answered(&f), 0, "none is answered");
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 5);
	cr_assert_eq(f.rig->npauses, 5);
	cr_assert_eq(f.rig->nevents, 0);
	cr_assert(strstr(f.rig->event, "write failed: No space left"), "%s", f.rig->event);
	cr_assert_eq(resume(&f, 0), 0, "nobody made room");
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 5);
	cr_assert_eq(f.rig->npauses, 10);
	failure = 0;
	refuser.started = 0;
	cr_assert_eq(resume(&f, 5), 5);
	cr_assert_eq(refuser.started, 5, "each once");
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 0);
	is_written(&f, 5);
	cr_assert_eq(resume(&f, 0), 0, "none is answered twice");
	cr_assert_eq(refuser.started, 5);
	teardown(&f);
}

Test(blk_error, a_quota_that_is_used_up_is_a_full_host)
{
	struct fixture f;

	setup_bad(&f, "", -EDQUOT);
	send_writes(&f, 1);
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 1);
	failure = 0;
	cr_assert_eq(resume(&f, 1), 1);
	is_written(&f, 1);
	teardown(&f);
}

Test(blk_error, others_are_told_by_default)
{
	struct fixture f;

	setup_bad(&f, "", -EIO);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 512, 0), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1);
	cr_assert_eq(f.rig->npauses, 0);
	cr_assert(strstr(f.rig->event, "_dev0: write failed: Input/output error"), "%s", f.rig->event);
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 512), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1, "not once for each request");
	teardown(&f);
}

Test(blk_error, report_tells_the_guest_of_everything)
{
	struct fixture f;

	setup_bad(&f, ",on_error=report", -ENOSPC);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 512, 0), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1);
	cr_assert_eq(f.rig->npauses, 0);
	teardown(&f);
}

Test(blk_error, pause_holds_reads_writes_ranges_and_flushes)
{
	struct vd_seg segs[3] = { { HEADER, 16 }, { OUT, 4096 }, { STATUS, 1 } };
	struct vd_seg range[3] = { { HEADER + 0x100, 16 }, { IN, 32 }, { STATUS + 1, 1 } };
	struct vd_seg flush[2] = { { HEADER + 0x200, 16 }, { STATUS + 2, 1 } };
	struct blk_header h[3] = { { .type = BLK_T_IN, .sector = 1 }, { .type = BLK_T_WRITE_ZEROES },
		{ .type = BLK_T_FLUSH } };
	struct fixture f;
	uint8_t buf[512];

	setup_bad(&f, ",on_error=pause", 0);
	fill_in(&f, 0x5a, 8192);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 8192, 0), BLK_S_OK);
	failure = -EIO;
	for (int i = 0; i < 3; i++)
		memcpy(harness_at(f.h, HEADER + 0x100 * (unsigned)i), &h[i], sizeof(h[i]));
	((struct blk_range *)harness_at(f.h, IN))[0] = (struct blk_range){ 10, 1, 0 };
	((struct blk_range *)harness_at(f.h, IN))[1] = (struct blk_range){ 12, 1, 0 };
	cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	cr_assert(vd_add(&f.h->vd, range, 2, 1, &f));
	cr_assert(vd_add(&f.h->vd, flush, 1, 1, &f));
	vd_kick(&f.h->vd);
	rig_kick(f.rig, 0);
	cr_assert_eq(answered(&f), 0);
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 3);
	failure = 0;
	cr_assert_eq(resume(&f, 3), 3);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(*(uint8_t *)harness_at(f.h, STATUS + i), BLK_S_OK, "%u", i);
	cr_assert(all(harness_at(f.h, OUT), 0x5a, 4096));
	peek(&f, 10 * 512, buf, 512);
	cr_assert(all(buf, 0, 512));
	peek(&f, 12 * 512, buf, 512);
	cr_assert(all(buf, 0, 512));
	teardown(&f);
}

Test(blk_error, a_request_that_changed_while_it_was_held_is_judged_anew)
{
	struct fixture f;

	setup_bad(&f, ",on_error=pause", -EIO);
	send_writes(&f, 1);
	cr_assert_eq(answered(&f), 0);
	((struct blk_header *)harness_at(f.h, HEADER + 0x200))->sector = UINT64_MAX - 3;
	failure = 0;
	cr_assert_eq(resume(&f, 1), 1);
	cr_assert_eq(status(&f), BLK_S_IOERR);
	teardown(&f);
}

Test(blk_error, a_stop_tries_once_more_and_answers)
{
	struct fixture f;

	setup_bad(&f, "", -ENOSPC);
	send_writes(&f, 3);
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 3);
	refuser.started = 0;
	rig_stop(f.rig, 0); /* aborts when a chain is not returned */
	cr_assert_eq(refuser.started, 3);
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 0);
	cr_assert_eq(f.rig->nevents, 1);
	failure = 0;
	rig_start(f.rig, 0, QUEUE, FEATURES);
	f.h = f.rig->h[0];
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 512), BLK_S_OK);
	failure = -ENOSPC;
	send_writes(&f, 1);
	cr_assert_eq(virtio_blk_type.held(f.rig->dev), 1, "it holds again");
	teardown(&f);
}

Test(blk_error, a_failed_flush_is_never_held)
{
	struct fixture f;

	setup_bad(&f, ",on_error=pause", -ENOTRECOVERABLE);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_IOERR);
	cr_assert_eq(f.rig->npauses, 0);
	cr_assert_eq(f.rig->nevents, 1);
	cr_assert(strstr(f.rig->event, "flush failed; later flushes fail too"), "%s", f.rig->event);
	teardown(&f);
}

Test(blk_error, a_wish_that_is_none_is_refused)
{
	struct error err;

	cr_assert_null(rig_new(&virtio_blk_type, "null=1M,on_error=panic", &err));
	cr_assert(strstr(err.text, "on_error"), "%s", err.text);
}
