/*
 * A virtio-blk device on a real file, and a driver that sends it requests. Included by one .c of a
 * test program.
 */
#ifndef TESTS_UNIT_BLK_RIG_H
#define TESTS_UNIT_BLK_RIG_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

#define BLK_RIG __attribute__((unused)) static

enum {
	SIZE = 2 * MIB,
	HEADER = HARNESS_DATA,
	STATUS = HARNESS_DATA + 0x100,
	IN = HARNESS_DATA + 0x1000,
	OUT = HARNESS_HIGH,
	QUEUE = 16,
};
#define B(n) VIRTIO_BIT(n)
#define BASIC (B(BLK_F_FLUSH) | B(BLK_F_DISCARD) | B(BLK_F_WRITE_ZEROES) | B(BLK_F_CONFIG_WCE))

struct fixture {
	char path[64];
	struct rig *rig;
	struct harness *h;
	struct blk *blk;
	uint32_t used; /* length of the last used buffer */
};

BLK_RIG void setup_with(struct fixture *f, const char *more, uint64_t features)
{
	struct error err = { "" };
	char text[128];
	int fd;

	memset(f, 0, sizeof(*f));
	log_level = LOG_ERROR;
	snprintf(f->path, sizeof(f->path), "/var/tmp/test-blk-XXXXXX");
	fd = mkstemp(f->path);
	cr_assert(fd >= 0 && !ftruncate(fd, SIZE));
	close(fd);
	snprintf(text, sizeof(text), "path=%s%s", f->path, more);
	f->rig = rig_new(&virtio_blk_type, text, &err);
	cr_assert(f->rig, "%s", err.text);
	f->blk = container_of(f->rig->dev, struct blk, dev);
	rig_start(f->rig, 0, QUEUE, features);
	f->h = f->rig->h[0];
}

BLK_RIG void setup(struct fixture *f)
{
	setup_with(f, "", BASIC);
}

BLK_RIG void teardown(struct fixture *f)
{
	rig_free(f->rig);
	unlink(f->path);
}

/* Kick, wait, and take the one used buffer. */
BLK_RIG void finish(struct fixture *f)
{
	void *cookie;

	vd_kick(&f->h->vd);
	cr_assert_geq(rig_kick(f->rig, 0), 0);
	f->blk->disk->ops->drain(f->blk->queues[0].disk_queue);
	cr_assert_eq(vd_poll(&f->h->vd, &cookie, &f->used), 1, "the head comes back");
	cr_assert_eq(vd_poll(&f->h->vd, &cookie, &f->used), 0, "once");
}

BLK_RIG void put_header(struct fixture *f, uint32_t type, uint64_t sector)
{
	struct blk_header h = { .type = type, .sector = sector };

	memcpy(harness_at(f->h, HEADER), &h, sizeof(h));
	*(uint8_t *)harness_at(f->h, STATUS) = 0xff;
}

BLK_RIG uint8_t status(struct fixture *f)
{
	return *(uint8_t *)harness_at(f->h, STATUS);
}

/* One request in the usual layout; `in` bytes at IN, `out` bytes at OUT. */
BLK_RIG uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t in, uint32_t out)
{
	struct vd_seg segs[4] = { { HEADER, 16 } };
	unsigned n = 1;

	put_header(f, type, sector);
	if (in)
		segs[n++] = (struct vd_seg){ IN, in };
	if (out)
		segs[n++] = (struct vd_seg){ OUT, out };
	segs[n++] = (struct vd_seg){ STATUS, 1 };
	cr_assert(vd_add(&f->h->vd, segs, in ? 2 : 1, out ? 2 : 1, f));
	finish(f);
	return status(f);
}

BLK_RIG void fill_in(struct fixture *f, uint8_t v, size_t len)
{
	memset(harness_at(f->h, IN), v, len);
}

/* The file's bytes, behind the device's back. */
BLK_RIG void peek(struct fixture *f, uint64_t offset, void *buf, size_t len)
{
	int fd = open(f->path, O_RDONLY);

	cr_assert_eq(pread(fd, buf, len, (off_t)offset), (ssize_t)len);
	close(fd);
}

BLK_RIG bool all(const uint8_t *p, uint8_t v, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != v)
			return false;
	return true;
}

/* How many requests came back by now. */
BLK_RIG unsigned answered(struct fixture *f)
{
	unsigned n = 0;
	uint32_t used;
	void *cookie;

	f->blk->disk->ops->drain(f->blk->queues[0].disk_queue);
	while (vd_poll(&f->h->vd, &cookie, &used) > 0)
		n++;
	return n;
}

/*
 * Stands before the real disk: a request for which `refuse` has an error fails with it, once it was
 * sent.
 */
BLK_RIG struct refuser {
	const struct disk_ops *real;
	struct disk_ops ops;
	struct blk_queue *bq;
	int (*refuse)(struct disk_request *rq);
	struct disk_request *refused[QUEUE];
	int result[QUEUE];
	unsigned nrefused, started;
} refuser;

BLK_RIG int refuser_start(struct disk_queue *q, struct disk_request *rq)
{
	int r = refuser.refuse(rq);

	refuser.started++;
	if (!r)
		return refuser.real->start(q, rq);
	cr_assert_lt(refuser.nrefused, (unsigned)QUEUE);
	refuser.result[refuser.nrefused] = r;
	refuser.refused[refuser.nrefused++] = rq;
	return 0;
}

BLK_RIG void refuser_submit(struct disk_queue *q)
{
	unsigned n = refuser.nrefused;

	refuser.nrefused = 0;
	for (unsigned i = 0; i < n; i++)
		blk_on_done(refuser.bq, refuser.refused[i], refuser.result[i]);
	if (n)
		blk_on_batch_done(refuser.bq);
	refuser.real->submit(q);
}

BLK_RIG void refuser_drain(struct disk_queue *q)
{
	refuser_submit(q);
	refuser.real->drain(q);
}

BLK_RIG void refuser_put(struct fixture *f, int (*refuse)(struct disk_request *rq))
{
	refuser = (struct refuser){ .real = f->blk->disk->ops, .ops = *f->blk->disk->ops, .bq = &f->blk->queues[0],
		.refuse = refuse };
	refuser.ops.start = refuser_start;
	refuser.ops.submit = refuser_submit;
	refuser.ops.gather = NULL;
	refuser.ops.drain = refuser_drain;
	f->blk->disk->ops = &refuser.ops;
}

#endif
