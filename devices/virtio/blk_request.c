/*
 * Requests of virtio-blk (virtio 1.2 §5.2.6): a guest's sectors turned into requests of a host
 * disk. Runs on the queue's worker.
 *
 * A request is a chain: 16 bytes of header, data, and one status byte at the very end of the
 * writable side; how that is spread over descriptors is the driver's business (§2.7.4). Everything
 * in it is hostile. The header is copied once and the copy is checked; data goes between guest
 * memory and the kernel without a copy; the status byte is found before anything is done, so a
 * request without one is returned with nothing written and no effect.
 *
 * Flush is a real fdatasync. With the write cache off (§5.2.5: `writeback` 0, or a driver that
 * cannot flush) each write is stable before it completes. A discard that reaches past the disk, or
 * one bad segment among many, has no effect at all.
 */
#include "devices/virtio/blk.h"

#include <errno.h>

#include "devices/virtio/chain.h"
#include "vmm/log.h"

/* --- completing --- */

/* A slot's first use. The queue never has more chains out than there are slots. */
static __attribute__((noinline)) struct blk_request *request_new(struct blk_queue *bq)
{
	struct blk_request *rq = &bq->requests[bq->used];

	*rq = (struct blk_request){ .iov = bq->iov + (size_t)bq->used * bq->blk->max_iov };
	bq->used++;
	return rq;
}

static struct blk_request *request_take(struct blk_queue *bq, struct chain *chain)
{
	struct blk_request *rq = bq->free;

	if (rq)
		bq->free = rq->next;
	else
		rq = request_new(bq);
	rq->chain = chain;
	return rq;
}

/* What is finished goes back in one go; at the latest when the disk says that its batch ends. */
void __attribute__((noinline)) blk_push_finished(struct blk_queue *bq)
{
	queue_push_batch(bq->queue, bq->finished, bq->nfinished);
	bq->nfinished = 0;
}

static inline void chain_finished(struct blk_queue *bq, struct chain *c)
{
	bq->finished[bq->nfinished++] = c;
	if (seldom(bq->nfinished == BLK_BATCH))
		blk_push_finished(bq);
}

static __attribute__((noinline)) void finish_unusual(struct blk_queue *bq, struct chain *c, size_t wrote,
	uint8_t status)
{
	chain_finish(c, wrote, status);
	chain_finished(bq, c);
}

/* `wrote`: bytes of data that a read brought, all or none. */
static inline void request_finish(struct blk_queue *bq, struct blk_request *rq, size_t wrote, uint8_t status)
{
	struct chain *c = rq->chain;

	rq->next = bq->free;
	bq->free = rq;
	if (seldom(!chain_finish_quick(c, wrote, status)))
		finish_unusual(bq, c, wrote, status);
	else
		chain_finished(bq, c);
}

uint8_t blk_status_of(int result)
{
	if (!result)
		return BLK_S_OK;
	return result == -EOPNOTSUPP ? BLK_S_UNSUPP : BLK_S_IOERR;
}

static int start_range(struct blk_queue *bq, struct blk_request *rq);

static __attribute__((noinline)) void done_seldom(struct blk_queue *bq, struct blk_request *rq, int result)
{
	if (seldom(bq->zoned) && result && rq->disk.op == DISK_WRITE) {
		blk_zoned_refused(bq, rq, result);
		return;
	}
	if (result && blk_failed(bq, rq, NULL, result))
		return;
	if (!result && rq->range < rq->nranges) {
		result = start_range(bq, rq);
		if (!result)
			return;
		result = MIN(result, 0);
	}
	request_finish(bq, rq, 0, blk_status_of(result));
}

_Static_assert(DISK_READ == 0 && DISK_WRITE == 1, "disk.h");
void blk_on_done(void *ctx, struct disk_request *disk_rq, int result)
{
	struct blk_request *rq = container_of(disk_rq, struct blk_request, disk);

	if (seldom(result || disk_rq->op > DISK_WRITE)) {
		done_seldom(ctx, rq, result);
		return;
	}
	/* All that was asked for, or nothing: reads are number 0 and writes 1. */
	request_finish(ctx, rq, disk_rq->len & ((size_t)disk_rq->op - 1), BLK_S_OK);
}

void blk_on_batch_done(void *ctx)
{
	struct blk_queue *bq = ctx;

	/*
	 * Ranges that were started by done() are sent by the disk, which is above us on the stack.
	 */
	bq->ops->submit(bq->disk_queue);
	if (bq->in_handle)
		return;
	blk_push_finished(bq);
	queue_flush(bq->queue);
}

/* --- starting: each returns a status at once, or STARTED and blk_on_done() will --- */

static bool writes_are_stable(const struct blk *blk)
{
	const struct virtio_device *dev = &blk->dev;

	if (!virtio_has(dev, BLK_F_FLUSH))
		return true;
	return virtio_has(dev, BLK_F_CONFIG_WCE) &&
		!__atomic_load_n(&blk->writeback, __ATOMIC_RELAXED);
}

static int start(struct blk_queue *bq, struct blk_request *rq)
{
	int r = bq->ops->start(bq->disk_queue, &rq->disk);

	return r ? blk_status_of(r) : STARTED;
}

/* No data is no error, in its place. */
static int nothing_to_transfer(const struct blk *blk, enum disk_op op, uint64_t offset)
{
	return offset > blk_size(blk) || (op == DISK_WRITE && blk->info.readonly) ? BLK_S_IOERR : BLK_S_OK;
}

/* Compiled once for each `op`. The disk itself checks the range; it is not asked for nothing. */
static inline __attribute__((always_inline)) int start_transfer(struct blk_queue *bq, struct blk_request *rq,
	struct chain *c, enum disk_op op, uint64_t sector)
{
	const bool in = op == DISK_READ;
	const size_t len = in ? chain_out_left(c) : chain_in_left(c);
	struct iovec *iov = rq->iov;
	uint64_t offset;
	void *at;
	int n;

	if (mul_overflows(sector, BLK_SECTOR, &offset))
		return BLK_S_IOERR;
	if (seldom(!len))
		return nothing_to_transfer(bq->blk, op, offset);
	if (in ? chain_out_whole(c, &at) : chain_in_whole(c, &at)) {
		*iov = (struct iovec){ at, len };
		n = 1;
	} else {
		const int max = (int)bq->blk->max_iov;

		n = in ? chain_iov_out(c, len, iov, max) : chain_iov_in(c, len, iov, max);
		if (n < 0)
			return BLK_S_IOERR;
	}
	if (seldom(bq->zoned) && blk_zoned_crosses(bq->blk, offset, len))
		return BLK_S_ZONE_INVALID_CMD;
	rq->disk.op = op;
	rq->disk.sync = !in && bq->stable;
	rq->disk.offset = offset;
	rq->disk.len = len;
	rq->disk.iov = iov;
	rq->disk.iovcnt = n;
	return start(bq, rq);
}

static int begin_flush(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	(void)h;
	rq->disk.op = DISK_FLUSH;
	rq->disk.sync = false;
	rq->disk.offset = rq->disk.len = 0;
	return start(bq, rq);
}

static int begin_get_id(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	size_t len = MIN(chain_out_left(rq->chain), sizeof(bq->blk->serial));

	(void)h;
	return chain_write(rq->chain, bq->blk->serial, len) ? BLK_S_IOERR : BLK_S_OK;
}

/*
 * Checked before anything is done: either all segments are right or none has an effect (§5.2.6.2).
 */
static int check_range(const struct blk *blk, enum disk_op op, const struct blk_range *range)
{
	uint32_t known = op == DISK_WRITE_ZEROES ? BLK_RANGE_UNMAP : 0;
	uint32_t max = op == DISK_WRITE_ZEROES ? BLK_ZEROES_MAX : BLK_DISCARD_MAX;
	uint64_t offset;

	if (range->flags & ~known)
		return BLK_S_UNSUPP;
	if (range->num_sectors > max || mul_overflows(range->sector, BLK_SECTOR, &offset) ||
		!range_inside(offset, (uint64_t)range->num_sectors * BLK_SECTOR, 0, blk_size(blk)))
		return BLK_S_IOERR;
	return BLK_S_OK;
}

/* Start the next segment that is not empty. 0: started, 1: none is left, or what start() said. */
static int start_range(struct blk_queue *bq, struct blk_request *rq)
{
	while (rq->range < rq->nranges) {
		const struct blk_range *range = &rq->ranges[rq->range++];

		if (!range->num_sectors)
			continue;
		rq->disk.offset = range->sector * BLK_SECTOR;
		rq->disk.len = (uint64_t)range->num_sectors * BLK_SECTOR;
		rq->disk.unmap = range->flags & BLK_RANGE_UNMAP;
		return bq->ops->start(bq->disk_queue, &rq->disk);
	}
	return 1;
}

int blk_take_ranges(struct blk_queue *bq, struct blk_request *rq, enum disk_op op)
{
	size_t len = chain_in_left(rq->chain);
	int r;

	if (bq->blk->info.readonly || !len || len % sizeof(struct blk_range) ||
		len > sizeof(rq->ranges) ||
		chain_read(rq->chain, rq->ranges, len))
		return BLK_S_IOERR;
	rq->nranges = (unsigned)(len / sizeof(struct blk_range));
	for (unsigned i = 0; i < rq->nranges; i++) {
		r = check_range(bq->blk, op, &rq->ranges[i]);
		if (r != BLK_S_OK)
			return r;
	}
	rq->disk.op = op;
	return BLK_S_OK;
}

static int begin_ranges(struct blk_queue *bq, struct blk_request *rq, enum disk_op op)
{
	int r = blk_take_ranges(bq, rq, op);

	if (r != BLK_S_OK)
		return r;
	rq->disk.sync = writes_are_stable(bq->blk);
	r = start_range(bq, rq);
	return r ? blk_status_of(MIN(r, 0)) : STARTED;
}

static int begin_discard(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	(void)h;
	return begin_ranges(bq, rq, DISK_DISCARD);
}

static int begin_write_zeroes(struct blk_queue *bq, struct blk_request *rq,
	const struct blk_header *h)
{
	(void)h;
	return begin_ranges(bq, rq, DISK_WRITE_ZEROES);
}

/*
 * What a driver may send besides reads and writes, and the feature it must have negotiated for it.
 * Anything else is unsupported: no SCSI, ever.
 */
static const struct {
	uint32_t type;
	unsigned feature;             /* bit number; 0: always */
	int (*begin)(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h);
} kinds[] = {
	{ BLK_T_FLUSH, BLK_F_FLUSH, begin_flush },
	{ BLK_T_GET_ID, 0, begin_get_id },
	{ BLK_T_DISCARD, BLK_F_DISCARD, begin_discard },
	{ BLK_T_WRITE_ZEROES, BLK_F_WRITE_ZEROES, begin_write_zeroes },
	{ BLK_T_SECURE_ERASE, BLK_F_SECURE_ERASE, blk_begin_secure_erase },
	{ BLK_T_GET_LIFETIME, BLK_F_LIFETIME, blk_begin_lifetime },
	{ BLK_T_ZONE_APPEND, BLK_F_ZONED, blk_begin_zone_append },
	{ BLK_T_ZONE_REPORT, BLK_F_ZONED, blk_begin_zone_report },
	{ BLK_T_ZONE_OPEN, BLK_F_ZONED, blk_begin_zone_manage },
	{ BLK_T_ZONE_CLOSE, BLK_F_ZONED, blk_begin_zone_manage },
	{ BLK_T_ZONE_FINISH, BLK_F_ZONED, blk_begin_zone_manage },
	{ BLK_T_ZONE_RESET, BLK_F_ZONED, blk_begin_zone_manage },
	{ BLK_T_ZONE_RESET_ALL, BLK_F_ZONED, blk_begin_zone_manage },
};

static __attribute__((noinline)) int begin_seldom(struct blk_queue *bq, struct blk_request *rq,
	struct blk_header h)
{
	rq->nranges = rq->range = 0;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i].type != h.type)
			continue;
		if (kinds[i].feature && !virtio_has(&bq->blk->dev, kinds[i].feature))
			break;
		return kinds[i].begin(bq, rq, &h);
	}
	return BLK_S_UNSUPP;
}

static inline __attribute__((always_inline)) int begin_kind(struct blk_queue *bq, struct blk_request *rq,
	struct chain *c, struct blk_header h)
{
	switch (h.type) {
	case BLK_T_IN:
		return start_transfer(bq, rq, c, DISK_READ, h.sector);
	case BLK_T_OUT:
		return start_transfer(bq, rq, c, DISK_WRITE, h.sector);
	default:
		return begin_seldom(bq, rq, h);
	}
}

/* However the driver cut it. */
static __attribute__((noinline)) int begin_pieces(struct blk_queue *bq, struct blk_request *rq, struct chain *c)
{
	struct blk_header h;

	return chain_read(c, &h, sizeof(h)) ? BLK_S_IOERR : begin_kind(bq, rq, c, h);
}

/* A header in a buffer of its own: what is needed of it goes into registers. */
static inline __attribute__((always_inline)) int begin(struct blk_queue *bq, struct blk_request *rq,
	struct chain *c)
{
	void *at;

	if (seldom(!chain_read_whole(c, sizeof(struct blk_header), &at)))
		return begin_pieces(bq, rq, c);
	return begin_kind(bq, rq, c, (struct blk_header){
		.type = load_u32((uint8_t *)at + offsetof(struct blk_header, type)),
		.sector = load_u64((uint8_t *)at + offsetof(struct blk_header, sector)),
	});
}

void blk_finish(struct blk_queue *bq, struct blk_request *rq, size_t wrote, uint8_t status)
{
	request_finish(bq, rq, wrote, status);
}

void blk_begin_again(struct blk_queue *bq, struct blk_request *rq)
{
	int r;

	chain_rewind(rq->chain);
	r = begin_pieces(bq, rq, rq->chain);
	if (r != STARTED)
		request_finish(bq, rq, 0, (uint8_t)r);
}

static inline __attribute__((always_inline)) void serve(struct blk_queue *bq, struct chain *chain, bool limited)
{
	struct blk_request *rq;
	int r;

	if (seldom(chain_reserve_tail(chain, 1))) {
		log_guest(LOG_WARN, "%s: a request without room for its status", bq->blk->dev.id);
		queue_push(bq->queue, chain);
		return;
	}
	rq = request_take(bq, chain);
	r = begin(bq, rq, chain);
	if (seldom(limited))
		blk_charge(bq, r == STARTED ? rq : NULL);
	if (r != STARTED)
		request_finish(bq, rq, 0, (uint8_t)r);
}

/*
 * What was done at once goes back to the driver, which so has work while we have the rest. A disk
 * that does nothing at once takes more by one call.
 */
static void send(struct blk_queue *bq, bool more)
{
	if (!more && bq->ops->gather)
		bq->ops->gather(bq->disk_queue);
	else
		bq->ops->submit(bq->disk_queue);
	blk_push_finished(bq);
	queue_publish(bq->queue);
	bq->send_at = queue_in_flight(bq->queue) ? BLK_SEND_SLOW : BLK_SEND;
}

int blk_handle(struct virtio_device *dev, struct queue *q)
{
	struct blk_queue *bq = &container_of(dev, struct blk, dev)->queues[queue_index(q)];
	const bool limited = atomic_load_explicit(&bq->blk->limited, memory_order_relaxed);
	struct chain *chains[BLK_BATCH];
	unsigned unsent = 0;
	int n = 1;

	bq->ops = bq->blk->disk->ops;
	bq->in_handle = true;
	for (unsigned left = queue_size(q); left; left -= (unsigned)n) {
		/* One by one: what the limit does not let through stays in the ring. */
		if (seldom(limited) && !blk_may_go(bq)) {
			n = 0;
			break;
		}
		n = queue_pop_batch(q, chains, limited ? 1 : MIN(left, BLK_BATCH));
		if (n <= 0)
			break;
		/* After the pop: who changes it and then makes requests available has it. */
		bq->stable = writes_are_stable(bq->blk);
		for (int i = 0; i < n; i++)
			serve(bq, chains[i], limited);
		unsent += (unsigned)n;
		if (unsent < bq->send_at)
			continue;
		send(bq, true);
		unsent = 0;
	}
	if (unsent)
		send(bq, false);
	bq->in_handle = false;
	return MIN(n, 1);
}

bool blk_gather(struct virtio_device *dev, struct queue *q)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	return blk->disk->ops->gather && blk->disk->ops->gather(blk->queues[queue_index(q)].disk_queue);
}

bool blk_poll(struct virtio_device *dev, struct queue *q)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	return blk->disk->ops->poll && blk->disk->ops->poll(blk->queues[queue_index(q)].disk_queue);
}
