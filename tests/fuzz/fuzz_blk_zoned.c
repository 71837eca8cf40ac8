/*
 * Any driver against virtio-blk on a zoned disk that refuses some of what it is asked, and with
 * requests that are held and tried again. Every head comes back once (the rig aborts otherwise).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum { SIZE = 1 * MIB, ZONE = 64 * KIB, QUEUE = 16, RESULTS = 8 };

/* What the host answers, in turn. */
static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	struct blk_queue *bq;
	const uint8_t *answers;
	size_t nanswers, next;
	struct disk_request *failed[QUEUE];
	int result[QUEUE];
	unsigned nfailed;
} host;

static int answer(void)
{
	static const int results[RESULTS] = { 0, 0, 0, -EIO, -ENOSPC, -ETOOMANYREFS, -EOVERFLOW, -EOPNOTSUPP };

	return host.nanswers ? results[host.answers[host.next++ % host.nanswers] % RESULTS] : 0;
}

static int start(struct disk_queue *q, struct disk_request *rq)
{
	int r = answer();

	if (!r)
		return host.real->start(q, rq);
	host.result[host.nfailed] = r;
	host.failed[host.nfailed++] = rq;
	return 0;
}

static void submit(struct disk_queue *q)
{
	unsigned n = host.nfailed;

	host.nfailed = 0;
	for (unsigned i = 0; i < n; i++)
		blk_on_done(host.bq, host.failed[i], host.result[i]);
	if (n)
		blk_on_batch_done(host.bq);
	host.real->submit(q);
}

/* Whatever a hostile drive might say of its zones. */
static int slow(struct disk *disk, struct disk_slow *job)
{
	int r = answer();

	(void)disk;
	if (r || job->op != DISK_ZONE_REPORT)
		return r;
	job->nzones = MIN(job->nzones, 3u);
	for (unsigned i = 0; i < job->nzones; i++)
		job->zones[i] = (struct disk_zone){ .start = job->offset / ZONE * ZONE + i * ZONE, .capacity = ZONE,
			.wp = job->offset, .type = 1 + (uint8_t)(host.next % 3), .state = (uint8_t)(host.next % 16) };
	return 0;
}

static void make_zoned(struct blk *blk)
{
	host.real = blk->disk->ops;
	host.ops = *host.real;
	host.ops.start = start;
	host.ops.submit = host.ops.drain = submit;
	host.ops.slow = slow;
	host.bq = &blk->queues[0];
	host.next = host.nfailed = 0;
	blk->disk->ops = &host.ops;
	blk->info.zoned = (struct disk_zoned){ .zone_size = ZONE, .write_granularity = 512 };
	virtio_config_write(&blk->dev.config, offsetof(struct blk_config, zoned.max_append_sectors), &(uint32_t){ 64 }, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const char *const wishes[] = { "enospc", "report", "pause", "pause,ops_size=4,ops_refill_time=1" };
	struct error err = { "" };
	struct rig *r;
	char text[96];

	log_level = LOG_ERROR;
	if (len < 16)
		return 0;
	snprintf(text, sizeof(text), "null=%u,queue_size=%u,on_error=%s", SIZE, QUEUE, wishes[data[0] & 3]);
	r = rig_new(&virtio_blk_type, text, &err);
	if (!r) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	make_zoned(container_of(r->dev, struct blk, dev));
	host.answers = data + 1;
	host.nanswers = data[0] >> 4;
	rig_start(r, 0, QUEUE, r->dev->offered | VIRTIO_BIT(BLK_F_ZONED) | VIRTIO_BIT(BLK_F_SECURE_ERASE) |
		VIRTIO_BIT(BLK_F_LIFETIME) | (data[0] & 4 ? VD_F_PACKED : 0) | (data[0] & 8 ? VD_F_IN_ORDER : 0));
	rig_fuzz(r, 0, data + 16, len - 16);
	host.nanswers = MIN(host.nanswers, (size_t)(data[15] & 15));
	virtio_blk_type.retry(r->dev);
	rig_run(r, 1);
	rig_free(r);
	return 0;
}
