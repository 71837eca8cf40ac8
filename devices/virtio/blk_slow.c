/*
 * Requests that take as long as the host's disk likes and that the kernel does only while somebody
 * waits (devices/host/disk_slow.h): secure erase, lifetime, and what blk_zoned.c makes of zones.
 *
 * They are done, one after the other, by a thread that all queues of the disk share and that exists
 * only where the disk has such work. A queue's worker posts the request to it, and gets it back on
 * a list that anybody may push to and only it takes from, with a ring of the queue's timer
 * (blk_later.c). A stop waits for them on a semaphore, as drain() waits for the kernel: the thread
 * never waits for anybody but the kernel. Without workers (unit tests) all is done at once.
 */
#include <errno.h>
#include <stdio.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/chain.h"
#include "vmm/log.h"

/* Back on the queue's worker. */
static void finish(struct blk_queue *bq, struct blk_request *rq)
{
	int r = rq->slow.result;
	size_t wrote = 0;

	if (r < 0) {
		if (blk_failed(bq, rq, rq->slow.what, r))
			return;
		r = blk_status_of(r);
	} else if (r == BLK_S_OK) {
		wrote = rq->slow.wrote;
		/* Its length was checked when the request began. */
		if (rq->slow.reply_len && chain_write(rq->chain, &rq->slow.reply, rq->slow.reply_len))
			r = BLK_S_IOERR;
	}
	blk_finish(bq, rq, wrote, (uint8_t)r);
}

/* The thread that may wait. */
static void run(void *ctx)
{
	struct blk_request *rq = ctx;
	struct blk_queue *bq = rq->slow.bq;

	rq->slow.result = rq->slow.run(bq->blk, rq);
	rq->next = atomic_load_explicit(&bq->slow_done, memory_order_relaxed);
	/* Release: what was done with the request, before the worker takes it. */
	while (!atomic_compare_exchange_weak_explicit(&bq->slow_done, &rq->next, rq, memory_order_release,
		memory_order_relaxed))
		;
	sem_post(&bq->slow_sem);
	blk_wake_queue(bq);
}

int blk_slow_start(struct blk_queue *bq, struct blk_request *rq, blk_slow_fn *fn, const char *what)
{
	rq->slow = (struct blk_slow){ .run = fn, .bq = bq, .what = what };
	if (!bq->blk->slow_worker) {
		rq->slow.result = fn(bq->blk, rq);
		finish(bq, rq);
		return STARTED;
	}
	bq->slow_in_flight++;
	if (worker_post(bq->blk->slow_worker, run, rq)) {
		bq->slow_in_flight--;
		return BLK_S_IOERR;
	}
	return STARTED;
}

void blk_slow_take(struct blk_queue *bq)
{
	/* Acquire: see run(). */
	struct blk_request *rq = atomic_exchange_explicit(&bq->slow_done, NULL, memory_order_acquire), *next;

	for (; rq; rq = next) {
		next = rq->next;
		bq->slow_in_flight--;
		finish(bq, rq);
	}
}

void blk_slow_stop(struct blk_queue *bq)
{
	while (bq->slow_in_flight) {
		/* Rings of requests that were taken already only mean one more look. */
		if (sem_wait(&bq->slow_sem))
			continue;
		blk_slow_take(bq);
	}
}

int blk_do_slow(struct blk *blk, struct disk_slow *job)
{
	return blk->disk->ops->slow(blk->disk, job);
}

/* --- secure erase (virtio 1.3 §5.2.6) --- */

static int erase(struct blk *blk, struct blk_request *rq)
{
	for (unsigned i = 0; i < rq->nranges; i++) {
		struct disk_slow job = { .op = DISK_SECURE_ERASE, .offset = rq->ranges[i].sector * BLK_SECTOR,
			.len = (uint64_t)rq->ranges[i].num_sectors * BLK_SECTOR };
		int r;

		if (!job.len)
			continue;
		if ((job.offset | job.len) % blk->info.block_size)
			return BLK_S_IOERR;
		r = blk_do_slow(blk, &job);
		if (r)
			return r;
	}
	return BLK_S_OK;
}

int blk_begin_secure_erase(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	int r = blk_take_ranges(bq, rq, DISK_DISCARD);

	(void)h;
	rq->disk.offset = r == BLK_S_OK ? rq->ranges[0].sector * BLK_SECTOR : 0;
	return r == BLK_S_OK ? blk_slow_start(bq, rq, erase, "secure erase") : r;
}

/* --- lifetime --- */

static int lifetime(struct blk *blk, struct blk_request *rq)
{
	struct disk_slow job = { .op = DISK_GET_LIFETIME };
	int r = blk_do_slow(blk, &job);

	rq->slow.reply.lifetime = (struct blk_lifetime){ job.lifetime.pre_eol, job.lifetime.slc, job.lifetime.mlc };
	rq->slow.reply_len = sizeof(rq->slow.reply.lifetime);
	return r ? r : BLK_S_OK;
}

int blk_begin_lifetime(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h)
{
	(void)h;
	rq->disk.op = DISK_FLUSH; /* no bytes, for limits */
	rq->disk.offset = 0;
	if (chain_out_left(rq->chain) != sizeof(struct blk_lifetime))
		return BLK_S_IOERR;
	return blk_slow_start(bq, rq, lifetime, "look at the lifetime");
}

/* --- set-up --- */

static const struct syscall_row slow_syscalls[] = {
	{ SYSCALL(timerfd_settime, "tell a disk's queue that its request is done") },
	SYSCALL_END,
};

static int make_worker(struct blk *blk, const struct device_env *env, struct error *err)
{
	char name[16];
	int r;

	if (!env->worker)
		return 0;
	snprintf(name, sizeof(name), "%.10s_slow", blk->dev.id);
	r = env->worker(env, name, WORKER_ALONE, &blk->slow_worker, err);
	if (r == 0)
		r = worker_allow(blk->slow_worker, slow_syscalls);
	if (r == 0)
		r = worker_allow(blk->slow_worker, blk->disk->slow_syscalls);
	/* Each request that there can be, at once. */
	if (r == 0)
		r = loop_reserve(worker_loop(blk->slow_worker), 0, (unsigned)blk->dev.nqueues * blk->dev.queue_size);
	return r;
}

int blk_slow_create(struct blk *blk, const struct device_env *env, struct error *err)
{
	const struct disk_info *info = &blk->info;

	for (unsigned i = 0; i < blk->dev.nqueues; i++)
		sem_init(&blk->queues[i].slow_sem, 0, 0);
	if (!info->can_secure_erase && !info->has_lifetime && !info->zoned.zone_size)
		return 0;
	return make_worker(blk, env, err);
}
