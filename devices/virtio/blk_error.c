/*
 * When the host's side of a disk fails: who is told, and what becomes of the request (on_error=).
 *
 * The guest gets an error (VIRTIO_BLK_S_IOERR), or, as the user wishes, the request is held: it
 * stays popped and unanswered, main is asked to pause the machine (VM_EVENT_PAUSE), and when the
 * machine goes on the request is made again from its beginning. That is safe for all that a driver
 * may send: until it is answered a request may have happened wholly, in part or not at all. The
 * chain is read anew, so what the guest changed in it is checked anew.
 *
 * Held requests are chains of the ring, so they are never more than it has. A queue that is stopped
 * (reset, pause by somebody else, end) cannot keep them: they are tried once more and then
 * answered, whatever comes of it.
 *
 * A process of the disk's own that ends while it holds some takes nothing with it: the next one has
 * them from the ring, tries them, and holds what fails again.
 *
 * Never held: what the disk cannot do at all, and a flush that failed. The kernel has forgotten
 * which pages it could not write, so trying again would be a lie (disk.h: -ENOTRECOVERABLE).
 *
 * On the queue's worker, but for blk_retry() and blk_held().
 */
#include <errno.h>
#include <stdio.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/chain.h"
#include "vmm/log.h"

/* A disk that fails for good does not flood whoever watches the machine. */
#define TELL_AGAIN_NS UINT64_C(60000000000)

static const char *const verbs[] = {
	[DISK_READ] = "read", [DISK_WRITE] = "write", [DISK_FLUSH] = "flush",
	[DISK_DISCARD] = "discard", [DISK_WRITE_ZEROES] = "write of zeroes",
};

static void describe(char *text, size_t size, const struct blk *blk, const char *what, int result)
{
	if (result == -ENOTRECOVERABLE)
		snprintf(text, size, "%s: %s failed; later flushes fail too, writes since the last may be lost",
			blk->dev.id, what);
	else
		snprintf(text, size, "%s: %s failed: %.40s", blk->dev.id, what, strerror(-result));
}

static bool tell_now(struct blk *blk)
{
	uint64_t now = rate_now(), again = atomic_load_explicit(&blk->tell_again, memory_order_relaxed);

	return now >= again && atomic_compare_exchange_strong_explicit(&blk->tell_again, &again, now + TELL_AGAIN_NS,
		memory_order_relaxed, memory_order_relaxed);
}

/* The host has no room for us; somebody can make some. */
static bool is_full(int result)
{
	return result == -ENOSPC || result == -EDQUOT;
}

static bool may_hold(const struct blk_queue *bq, int result)
{
	const struct blk *blk = bq->blk;

	if (bq->stopping || !blk->dev.events || result == -ENOTRECOVERABLE || result == -EOPNOTSUPP)
		return false;
	return blk->on_error == BLK_ON_ERROR_PAUSE || (blk->on_error == BLK_ON_ERROR_ENOSPC && is_full(result));
}

static void hold(struct blk_queue *bq, struct blk_request *rq)
{
	rq->next = NULL;
	*(bq->held ? &bq->held_last->next : &bq->held) = rq;
	bq->held_last = rq;
	atomic_fetch_add_explicit(&virtio_hold(&bq->blk->dev)->held, 1, memory_order_relaxed);
}

bool blk_failed(struct blk_queue *bq, struct blk_request *rq, const char *what, int result)
{
	struct blk *blk = bq->blk;
	const struct vm_events *events = blk->dev.events;
	bool held = may_hold(bq, result);
	char text[160];

	what = what ? what : verbs[rq->disk.op];
	log_guest(LOG_WARN, "%s: %s at byte %llu failed: %s", blk->dev.id, what,
		(unsigned long long)rq->disk.offset, strerror(-result));
	describe(text, sizeof(text), blk, what, result);
	if (held) {
		/* Before the event: main asks how many are held. */
		hold(bq, rq);
		events->post(events->ctx, VM_EVENT_PAUSE, text);
	} else if (events && tell_now(blk)) {
		events->post(events->ctx, VM_EVENT_DEVICE_ERROR, text);
	}
	return held;
}

static void retry_all(struct blk_queue *bq)
{
	struct blk_request *rq = bq->held, *next;

	bq->held = NULL;
	for (; rq; rq = next) {
		next = rq->next; /* it may be held again */
		atomic_fetch_sub_explicit(&virtio_hold(&bq->blk->dev)->held, 1, memory_order_relaxed);
		blk_begin_again(bq, rq);
	}
}

void blk_retry_if_asked(struct blk_queue *bq)
{
	uint32_t asked = atomic_load_explicit(&virtio_hold(&bq->blk->dev)->retries, memory_order_acquire);

	if (asked == bq->retried)
		return;
	bq->retried = asked;
	retry_all(bq);
}

void blk_error_stop(struct blk_queue *bq)
{
	bq->stopping = true;
	retry_all(bq);
	bq->blk->disk->ops->submit(bq->disk_queue);
}

void blk_retry(struct virtio_device *dev)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	atomic_fetch_add_explicit(&virtio_hold(dev)->retries, 1, memory_order_release);
	blk_wake(blk);
}

unsigned blk_held(const struct virtio_device *dev)
{
	return atomic_load_explicit(&virtio_hold(dev)->held, memory_order_relaxed);
}
