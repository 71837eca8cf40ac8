/*
 * What a queue of virtio-blk does later than its driver asked: requests beyond a rate limit
 * (vmm/rate.h), those that failed and are tried again (blk_error.c), and the answers of those
 * that took long (blk_slow.c).
 *
 * Requests that must wait stay in the ring. So nothing is held that a reset, a pause or a stop
 * would have to give back, and what waits is bounded by the ring: a queue that is stopped forgets
 * its deadline, and one that is started looks at its ring as ever. A limit is asked before a
 * request is taken and charged after it was started, when its size is known. One without limits
 * pays a test per kick.
 *
 * Each queue has a timer made by main. Who changes something for the queues from outside rings it
 * (blk_wake): first a counter, then the timer. The owner reads the counter before it looks at what
 * may have changed and once more after it has set the timer; so either it sees the change, or the
 * ring comes after its own setting and stands.
 */
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/chain.h"

static void set_timer(const struct blk_queue *bq, uint64_t at)
{
	const uint64_t second = UINT64_C(1000000000);
	const struct itimerspec ts = { .it_value = { (time_t)(at / second), (long)(at % second) } };

	timerfd_settime(bq->timer_fd, TFD_TIMER_ABSTIME, &ts, NULL);
}

/* A time that has passed; 0 would stop the timer. */
enum { AT_ONCE = 1 };

void blk_wake_queue(struct blk_queue *bq)
{
	/* Before the timer: see above. */
	atomic_fetch_add_explicit(&virtio_hold(&bq->blk->dev)->changes, 1, memory_order_seq_cst);
	set_timer(bq, AT_ONCE);
}

void blk_wake(struct blk *blk)
{
	for (unsigned i = 0; i < blk->dev.nqueues; i++)
		blk_wake_queue(&blk->queues[i]);
}

static void on_timer(void *ctx)
{
	struct blk_queue *bq = ctx;
	struct virtio_device *dev = &bq->blk->dev;
	int r;

	bq->armed = 0;
	if (!bq->queue || queue_broken(bq->queue))
		return;
	blk_slow_take(bq);
	blk_retry_if_asked(bq);
	/* What was begun again and what was finished, whether or not the ring has more. */
	bq->blk->disk->ops->submit(bq->disk_queue);
	blk_push_finished(bq);
	r = blk_handle(dev, bq->queue);
	queue_flush(bq->queue);
	/*
	 * What the driver was told about kicks is from before these chains were taken, and it would
	 * send none for the next. What waits for a limit has its deadline.
	 */
	if (r == 0 && queue_enable_kick(bq->queue) && !bq->armed)
		r = 1;
	if (r < 0)
		dev->broken(dev);
	else if (r > 0)
		set_timer(bq, AT_ONCE);
}

bool blk_may_go(struct blk_queue *bq)
{
	struct blk *blk = bq->blk;
	_Atomic uint32_t *changes = &virtio_hold(&blk->dev)->changes;
	uint32_t before = atomic_load_explicit(changes, memory_order_seq_cst);
	uint64_t at = rate_ready(&blk->rate, rate_now());

	if (!at || !queue_has_avail(bq->queue))
		return true;
	if (!bq->armed || at < bq->armed) {
		bq->armed = at;
		set_timer(bq, at);
	}
	/* After the timer: see above. */
	if (atomic_load_explicit(changes, memory_order_seq_cst) != before)
		set_timer(bq, AT_ONCE);
	return false;
}

void blk_charge(struct blk_queue *bq, const struct blk_request *rq)
{
	uint64_t bytes = 0;

	if (rq && (rq->disk.op == DISK_READ || rq->disk.op == DISK_WRITE))
		bytes = rq->disk.len;
	/* Zeroes may be written by hand: then they are bytes like any others. */
	for (unsigned i = 0; rq && rq->disk.op == DISK_WRITE_ZEROES && i < rq->nranges; i++)
		bytes += (uint64_t)rq->ranges[i].num_sectors * BLK_SECTOR;
	rate_charge(&bq->blk->rate, bytes, 1, rate_now());
}

void blk_set_rate(struct blk *blk, enum rate_kind kind, const struct rate_limit *limit)
{
	rate_set(&blk->rate, kind, limit);
	/* A limit of a group may be set at any time, without our knowing. */
	atomic_store_explicit(&blk->limited, blk->rate.parent || rate_active(&blk->rate), memory_order_relaxed);
	blk_wake(blk);
}

int blk_later_start(struct blk_queue *bq, struct queue *q)
{
	bq->armed = 0;
	return loop_add_eventfd(queue_loop(q), bq->timer_fd, on_timer, bq, &bq->timer);
}

void blk_later_stop(struct blk_queue *bq)
{
	loop_remove(bq->timer);
	bq->timer = NULL;
}

static const struct syscall_row main_syscalls[] = {
	{ SYSCALL(timerfd_settime, "wake a disk's queues when a limit was changed") },
	SYSCALL_END,
};

const struct syscall_row blk_syscalls[] = {
	{ SYSCALL(timerfd_settime, "when a limit lets the next request through") },
	SYSCALL_END,
};

int blk_later_create(struct blk *blk, const struct device_env *env, const struct rate_device_options *o,
	struct error *err)
{
	int r = device_rate(&blk->rate, env, o, "disk", err);

	if (r)
		return r;
	blk->dev.group = blk->rate.parent;
	blk->limited = blk->rate.parent || rate_active(&blk->rate);
	for (unsigned i = 0; i < BLK_QUEUES_MAX; i++)
		blk->queues[i].timer_fd = -1;
	for (unsigned i = 0; i < blk->dev.nqueues; i++) {
		struct blk_queue *bq = &blk->queues[i];

		bq->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (bq->timer_fd < 0)
			return error_set(err, errno, "--disk: no timer for a queue: %s; raise ulimit -n", strerror(errno));
	}
	return device_main_calls(env, main_syscalls, err);
}

void blk_later_destroy(struct blk *blk)
{
	for (unsigned i = 0; i < BLK_QUEUES_MAX; i++)
		if (blk->queues[i].timer_fd > 0)
			close(blk->queues[i].timer_fd);
}
