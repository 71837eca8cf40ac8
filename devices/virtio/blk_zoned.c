/*
 * Zoned disks (virtio 1.3 §5.2.6, host-managed): reports, zone management, appends, and the
 * statuses that a driver of zones expects. Offered where the host's disk is zoned (SMR, ZNS); a
 * driver that does not know zones cannot have the disk.
 *
 * The write pointers are the host's: nothing of them is remembered here, each request that needs
 * one asks. An append is a look at the zone's write pointer and a write to it, by the thread that
 * does all appends of the disk one after the other (blk_slow.c); when somebody else wrote to the
 * zone in between, it looks again. Plain reads and writes take the way of all disks; only when the
 * host refuses a write is the zone looked at, for what to tell the driver, and whether it is the
 * driver's fault or the host's.
 */
#include <errno.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/chain.h"

enum { APPEND_TRIES = 8, REPORT_AT_ONCE = 32 };

/* §5.2.6; sectors */
struct zone_descriptor {
	uint64_t capacity, start, wp;
	uint8_t type, state, reserved[38];
};
_Static_assert(sizeof(struct zone_descriptor) == 64, "virtio 1.3 §5.2.6");

struct report_header {
	uint64_t nr_zones;
	uint8_t reserved[56];
};
_Static_assert(sizeof(struct report_header) == 64, "virtio 1.3 §5.2.6");

void blk_zoned_config(const struct blk *blk, struct blk_config *c)
{
	const struct disk_zoned *z = &blk->info.zoned;

	c->zoned = (struct blk_zoned_config){
		.zone_sectors = (uint32_t)(z->zone_size / BLK_SECTOR),
		.max_open_zones = z->max_open,
		.max_active_zones = z->max_active,
		/* a buffer per segment of a page at least */
		.max_append_sectors = (uint32_t)MIN((uint64_t)BLK_APPEND_MAX,
			MIN(z->zone_size, (uint64_t)c->seg_max * PAGE_4K) / BLK_SECTOR),
		.write_granularity = z->write_granularity,
		.model = BLK_Z_HOST_MANAGED,
	};
}

bool blk_zoned_crosses(const struct blk *blk, uint64_t offset, uint64_t len)
{
	const uint64_t size = blk->info.zoned.zone_size;

	return offset / size != (offset + len - 1) / size;
}

/* The zone that holds `offset`: 0, or what the host said. */
static int look(struct blk *blk, uint64_t offset, struct disk_zone *ret)
{
	struct disk_slow job = { .op = DISK_ZONE_REPORT, .offset = offset, .zones = ret, .nzones = 1 };
	int r = blk_do_slow(blk, &job);

	if (r)
		return r;
	return job.nzones == 1 && ret->start <= offset && offset - ret->start < blk->info.zoned.zone_size ? 0 : -EIO;
}

/* What the kernel says of a zone's change that cannot be (blk_errors in block/blk-core.c). */
static int status_of_change(int r)
{
	switch (r) {
	case 0:
		return BLK_S_OK;
	case -ETOOMANYREFS:
		return BLK_S_ZONE_OPEN_RESOURCE;
	case -EOVERFLOW:
		return BLK_S_ZONE_ACTIVE_RESOURCE;
	default:
		return BLK_S_ZONE_INVALID_CMD;
	}
}

/* --- zone management --- */

static int manage(struct blk *blk, struct blk_request *rq)
{
	struct disk_slow job = { .op = rq->zone_op, .offset = rq->disk.offset };
	struct disk_zone zone;
	int r;

	if (rq->zone_op != DISK_ZONE_RESET_ALL) {
		r = look(blk, rq->disk.offset, &zone);
		if (r)
			return r;
		if (zone.type == DISK_ZONE_CONVENTIONAL || zone.state == DISK_ZONE_OFFLINE)
			return BLK_S_ZONE_INVALID_CMD;
	}
	return status_of_change(blk_do_slow(blk, &job));
}

/* A sector of the disk, as bytes. */
static bool take_sector(const struct blk *blk, uint64_t sector, uint64_t *ret)
{
	return !mul_overflows(sector, BLK_SECTOR, ret) && *ret < blk_size(blk);
}

static int begin_manage(struct blk_queue *bq, struct blk_request *rq, uint64_t sector, enum disk_slow_op op)
{
	const struct blk *blk = bq->blk;

	if (blk->info.readonly)
		return BLK_S_IOERR;
	if (!take_sector(blk, sector, &rq->disk.offset) || rq->disk.offset % blk->info.zoned.zone_size)
		return BLK_S_ZONE_INVALID_CMD;
	rq->zone_op = op;
	rq->disk.op = DISK_FLUSH; /* no bytes, for limits */
	return blk_slow_start(bq, rq, manage, "zone management");
}

int blk_begin_zone_manage(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	static const struct {
		uint32_t type;
		enum disk_slow_op op;
	} ops[] = {
		{ BLK_T_ZONE_OPEN, DISK_ZONE_OPEN },
		{ BLK_T_ZONE_CLOSE, DISK_ZONE_CLOSE },
		{ BLK_T_ZONE_FINISH, DISK_ZONE_FINISH },
		{ BLK_T_ZONE_RESET, DISK_ZONE_RESET },
	};

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		if (ops[i].type == h->type)
			return begin_manage(bq, rq, h->sector, ops[i].op);
	/* Its sector is not used. */
	return begin_manage(bq, rq, 0, DISK_ZONE_RESET_ALL);
}

/* --- append --- */

static bool is_writable(const struct disk_zone *z)
{
	return z->type == DISK_ZONE_SEQUENTIAL && z->state != DISK_ZONE_READONLY && z->state != DISK_ZONE_FULL &&
		z->state != DISK_ZONE_OFFLINE;
}

/* Whether `len` bytes from `offset` on end inside of the zone's capacity. */
static bool has_room(const struct disk_zone *z, uint64_t offset, uint64_t len)
{
	return offset >= z->start && range_inside(offset - z->start, len, 0, z->capacity);
}

static int append(struct blk *blk, struct blk_request *rq)
{
	struct disk_slow job = { .op = DISK_ZONE_WRITE, .len = rq->disk.len, .iov = rq->iov,
		.iovcnt = rq->disk.iovcnt };
	struct disk_zone zone;
	uint64_t before = UINT64_MAX;
	int failed = 0, r;

	for (int i = 0; i < APPEND_TRIES; i++) {
		r = look(blk, rq->disk.offset, &zone);
		if (r)
			return r;
		if (!is_writable(&zone) || !has_room(&zone, zone.wp, rq->disk.len))
			return BLK_S_ZONE_INVALID_CMD;
		/* Nobody else wrote to the zone: then it is the host that fails. */
		if (zone.wp == before)
			return failed;
		before = job.offset = zone.wp;
		failed = blk_do_slow(blk, &job);
		if (failed == -ETOOMANYREFS || failed == -EOVERFLOW)
			return status_of_change(failed);
		if (!failed) {
			rq->slow.reply.append_sector = zone.wp / BLK_SECTOR;
			rq->slow.reply_len = sizeof(rq->slow.reply.append_sector);
			return BLK_S_OK;
		}
	}
	return BLK_S_IOERR;
}

int blk_begin_zone_append(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	const struct blk *blk = bq->blk;
	size_t len = chain_in_left(rq->chain);
	uint32_t max;
	int n;

	virtio_config_read(&blk->dev.config, offsetof(struct blk_config, zoned.max_append_sectors), &max, sizeof(max));
	if (blk->info.readonly || !len || chain_out_left(rq->chain) != sizeof(uint64_t))
		return BLK_S_IOERR;
	if (!take_sector(blk, h->sector, &rq->disk.offset) || rq->disk.offset % blk->info.zoned.zone_size ||
		len / BLK_SECTOR > max)
		return BLK_S_ZONE_INVALID_CMD;
	if (len % blk->info.zoned.write_granularity)
		return BLK_S_ZONE_UNALIGNED_WP;
	n = chain_iov_in(rq->chain, len, rq->iov, (int)blk->max_iov);
	if (n < 0)
		return BLK_S_IOERR;
	rq->disk.op = DISK_WRITE;
	rq->disk.len = len;
	rq->disk.iovcnt = n;
	return blk_slow_start(bq, rq, append, "zone append");
}

/* --- report --- */

/* Copies into the request's pieces of guest memory, as the kernel would for a read. */
static void put(struct blk_request *rq, size_t offset, const void *data, size_t len)
{
	const uint8_t *from = data;

	for (int i = 0; i < rq->disk.iovcnt && len; i++) {
		const struct iovec *v = &rq->iov[i];
		size_t n;

		if (offset >= v->iov_len) {
			offset -= v->iov_len;
			continue;
		}
		n = MIN(len, v->iov_len - offset);
		memcpy((uint8_t *)v->iov_base + offset, from, n);
		from += n;
		len -= n;
		offset = 0;
	}
}

static void put_zone(struct blk_request *rq, size_t index, const struct disk_zone *z)
{
	struct zone_descriptor d = { .capacity = z->capacity / BLK_SECTOR, .start = z->start / BLK_SECTOR,
		.wp = z->wp / BLK_SECTOR, .type = z->type, .state = z->state };

	put(rq, sizeof(struct report_header) + index * sizeof(d), &d, sizeof(d));
}

static int report(struct blk *blk, struct blk_request *rq)
{
	const size_t room = (rq->disk.len - sizeof(struct report_header)) / sizeof(struct zone_descriptor);
	struct disk_zone zones[REPORT_AT_ONCE];
	uint64_t next = rq->disk.offset;
	struct report_header head = { 0 };

	for (int i = 0; i < rq->disk.iovcnt; i++)
		memset(rq->iov[i].iov_base, 0, rq->iov[i].iov_len);
	while (head.nr_zones < room && next < blk_size(blk)) {
		struct disk_slow job = { .op = DISK_ZONE_REPORT, .offset = next, .zones = zones,
			.nzones = (unsigned)MIN(room - head.nr_zones, (size_t)REPORT_AT_ONCE) };
		int r = blk_do_slow(blk, &job);

		if (r)
			return r;
		if (!job.nzones)
			break;
		for (unsigned i = 0; i < job.nzones; i++)
			put_zone(rq, head.nr_zones++, &zones[i]);
		next = zones[job.nzones - 1].start + blk->info.zoned.zone_size;
	}
	put(rq, 0, &head, sizeof(head));
	rq->slow.wrote = rq->disk.len;
	return BLK_S_OK;
}

int blk_begin_zone_report(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	size_t len = chain_out_left(rq->chain);
	int n;

	if (len < sizeof(struct report_header))
		return BLK_S_IOERR;
	if (!take_sector(bq->blk, h->sector, &rq->disk.offset))
		return BLK_S_ZONE_INVALID_CMD;
	n = chain_iov_out(rq->chain, len, rq->iov, (int)bq->blk->max_iov);
	if (n < 0)
		return BLK_S_IOERR;
	rq->disk.op = DISK_READ;
	rq->disk.len = len;
	rq->disk.iovcnt = n;
	return blk_slow_start(bq, rq, report, "zone report");
}

/* --- a write that the host refused --- */

static int judge(struct blk *blk, struct blk_request *rq)
{
	int refused = rq->zone_result, r;
	struct disk_zone zone;

	if (refused == -ETOOMANYREFS || refused == -EOVERFLOW)
		return status_of_change(refused);
	r = look(blk, rq->disk.offset, &zone);
	if (r || zone.type != DISK_ZONE_SEQUENTIAL)
		return refused;
	if (!is_writable(&zone) || !has_room(&zone, rq->disk.offset, rq->disk.len))
		return BLK_S_ZONE_INVALID_CMD;
	if (rq->disk.offset != zone.wp || (rq->disk.offset + rq->disk.len) % blk->info.zoned.write_granularity)
		return BLK_S_ZONE_UNALIGNED_WP;
	return refused;
}

void blk_zoned_refused(struct blk_queue *bq, struct blk_request *rq, int result)
{
	int r;

	rq->zone_result = result;
	r = blk_slow_start(bq, rq, judge, "write");
	if (r != STARTED)
		blk_finish(bq, rq, 0, (uint8_t)r);
}
