/*
 * A life of a device's process; see back_process.h. It begins from the memory of the machine as it
 * was before the guest ran, with one thread, and takes from the desk what has changed since. The
 * process's first thread is the first worker's, so calls for that one are made at once; a device
 * with several workers has a thread for each more, since its queues share the device's memory.
 */
#include "devices/virtio/back_process.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices/virtio/back_worker.h"
#include "vmm/log.h"

static void ring(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is heard as it is */
}

/* The device finds its back_process by what main uses for its front. */
static struct back_process *self(struct virtio_device *dev)
{
	return dev->front;
}

/* `what`: a set of enum desk_notice. */
static void notify(struct back_process *bp, uint32_t what)
{
	/* Release: what it is about is on the desk before main, which acquires, takes it. */
	atomic_fetch_or_explicit(&bp->desk->notices, what, memory_order_release);
	ring(bp->notice);
}

static void life_config_changed(struct virtio_device *dev)
{
	notify(self(dev), DESK_CONFIG_CHANGED);
}

static void life_broken(struct virtio_device *dev)
{
	notify(self(dev), DESK_BROKEN);
}

static void life_event(void *ctx, enum vm_event event, const char *what)
{
	struct back_process *bp = ctx;

	for (unsigned i = 0; i < DESK_EVENTS; i++)
		if (desk_events[i] == event) {
			strncpy(bp->desk->event[i], what ? what : "", DESK_EVENT_MAX - 1);
			notify(bp, DESK_EVENT << i);
		}
}

/* --- the device's own state --- */

/* Into the one that is not whole, which then is: a life may end half-way. */
static void keep_state(struct back_process *bp)
{
	const struct state_desc *desc = bp->back.dev->type->state;
	struct desk_state *to = &bp->desk->state[~bp->desk->state_at & 1];

	if (!desc)
		return;
	bp->writer.len = 0;
	if (state_save(&bp->writer, desc, bp->back.dev) < 0 || bp->writer.len > DESK_STATE_MAX)
		return;
	memcpy(to->bytes, bp->writer.data, bp->writer.len);
	to->len = (uint32_t)bp->writer.len;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	bp->desk->state_at = ~bp->desk->state_at & 1;
}

static void life_state_changed(struct virtio_device *dev)
{
	keep_state(self(dev));
}

static int take_state(struct back_process *bp, const struct desk_state *from, struct error *err)
{
	struct state_reader r = { .data = from->bytes, .len = from->len };

	if (!r.len || !bp->back.dev->type->state)
		return 0;
	if (r.len > DESK_STATE_MAX)
		return error_set(err, EPROTO, "its state is too long");
	return state_load(&r, bp->back.dev->type->state, bp->back.dev, err);
}

/* --- calls --- */

static int call_features(struct back_process *bp)
{
	struct desk *d = bp->desk;

	d->chosen = d->features;
	return bp->inner->ops->set_features(bp->inner, d->chosen);
}

static int call_start(struct back_process *bp)
{
	struct desk *d = bp->desk;
	const struct queue_setup setup = d->setup;
	struct desk_queue *q = &d->queue[setup.index % VIRTIO_QUEUES_MAX];
	int r;

	if (setup.index >= bp->back.dev->nqueues || setup.size > bp->back.dev->queue_size)
		return -EINVAL;
	if (q->running)
		return 0; /* the life before this one started it, and it was resumed */
	q->setup = setup;
	queue_record_begin(back_process_record(bp, setup.index), &setup);
	/* From here on the next life resumes it, so the record is good by now. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	q->running = 1;
	r = bp->inner->ops->queue_start(bp->inner, &setup);
	if (r < 0)
		q->running = 0;
	return r;
}

static int call_stop(struct back_process *bp)
{
	struct desk *d = bp->desk;
	struct desk_queue *q = &d->queue[d->setup.index % VIRTIO_QUEUES_MAX];

	if (d->setup.index >= bp->back.dev->nqueues)
		return -EINVAL;
	if (q->running) {
		struct queue_setup last = q->setup;

		bp->inner->ops->queue_stop(bp->inner, d->setup.index, &last);
		q->setup.next_avail = last.next_avail;
		q->setup.next_used = last.next_used;
		/* Who finds it not running finds where it stopped. */
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		q->running = 0;
	}
	d->setup.next_avail = q->setup.next_avail;
	d->setup.next_used = q->setup.next_used;
	return 0;
}

static int call_config(struct back_process *bp)
{
	const uint32_t offset = bp->desk->offset, len = bp->desk->len;
	struct virtio_device *dev = bp->back.dev;

	if (!range_inside(offset, len, 0, dev->config.size))
		return -EINVAL;
	bp->inner->ops->config_written(bp->inner, offset, len);
	keep_state(bp);
	return 0;
}

static int call_reset(struct back_process *bp)
{
	bp->inner->ops->reset(bp->inner);
	keep_state(bp);
	return 0;
}

static int call_save(struct back_process *bp)
{
	keep_state(bp);
	return 0;
}

static int call_load(struct back_process *bp)
{
	struct error err;
	int r = take_state(bp, &bp->desk->load, &err);

	if (r == 0)
		keep_state(bp);
	return r;
}

static int (*const calls[])(struct back_process *bp) = {
	[DESK_FEATURES] = call_features,
	[DESK_START] = call_start,
	[DESK_STOP] = call_stop,
	[DESK_CONFIG] = call_config,
	[DESK_RESET] = call_reset,
	[DESK_SAVE] = call_save,
	[DESK_LOAD] = call_load,
};

static void on_bell(void *ctx)
{
	struct back_process *bp = ctx;
	struct desk *d = bp->desk;
	/* Acquire: the call was filled in before it was numbered. */
	uint32_t number = atomic_load_explicit(&d->asked, memory_order_acquire);
	uint32_t kind = d->kind;

	if (!bp->resumed || number == atomic_load_explicit(&d->answered, memory_order_relaxed))
		return;
	d->result = kind < ARRAY_SIZE(calls) && calls[kind] ? calls[kind](bp) : -EPROTO;
	/* Release: the caller, which acquires, finds the result. */
	atomic_store_explicit(&d->answered, number, memory_order_release);
	syscall(SYS_futex, &d->answered, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* --- the beginning of a life --- */

static struct queue_record *record_of(void *ctx, unsigned queue)
{
	return back_process_record(ctx, queue);
}

/*
 * The first thing that the sealed process does: the queues of the life before it, then the call
 * that it left, if any. An interrupt may have been lost with it between a used entry and the ring
 * of the eventfd; one too many does no harm.
 */
static void resume(void *ctx)
{
	struct back_process *bp = ctx;

	for (unsigned i = 0; i < bp->back.dev->nqueues; i++) {
		struct desk_queue *q = &bp->desk->queue[i];
		struct queue_setup setup = q->setup;
		int r;

		if (!q->running)
			continue;
		setup.index = (uint16_t)i;
		r = setup.size > bp->back.dev->queue_size ? -EINVAL : bp->inner->ops->queue_start(bp->inner, &setup);
		if (r < 0) {
			q->running = 0;
			life_broken(bp->back.dev);
		} else if (setup.call_fd >= 0) {
			ring(setup.call_fd);
		}
	}
	bp->resumed = true;
	on_bell(bp);
}

static int inherit(struct back_process *bp, int tomb, struct error *err)
{
	struct virtio_device *dev = bp->back.dev;
	const struct virtio_life life = { .tomb = tomb, .kept = bp->desk->kept };
	int r = 0;

	dev->front = bp;
	dev->config_changed = life_config_changed;
	dev->broken = life_broken;
	dev->state_changed = life_state_changed;
	bp->events = (struct vm_events){ .post = life_event, .ctx = bp };
	dev->events = &bp->events;
	dev->features = bp->desk->chosen;
	bp->desk->lives++;
	if (dev->type->forked)
		r = dev->type->forked(dev, &life, err);
	return r < 0 ? r : take_state(bp, &bp->desk->state[bp->desk->state_at & 1], err);
}

static int make_workers(struct back_process *bp, struct error *err)
{
	struct loop *first = worker_loop(process_worker_at(bp->process, 0));
	struct loop_source *source;
	int r = 0;

	for (unsigned i = 0; i < process_workers(bp->process) && r == 0; i++)
		r = loop_renew(worker_loop(process_worker_at(bp->process, i)));
	if (r == 0)
		r = loop_add_eventfd(first, bp->bell, on_bell, bp, &source);
	if (r == 0)
		r = loop_post(first, resume, bp);
	if (r < 0)
		return error_set(err, -r, "cannot make its loops: %s", strerror(-r));
	if (r == 0 && bp->back.dev->type->begin)
		r = bp->back.dev->type->begin(bp->back.dev, first, err);
	/* Their filters were made with the machine's; where there are none, none is wanted. */
	for (unsigned i = 1; i < process_workers(bp->process) && r == 0; i++)
		r = worker_run(process_worker_at(bp->process, i), SANDBOX_OFF, err);
	loop_seal(first);
	return r;
}

void back_process_life(void *ctx, int tomb)
{
	struct back_process *bp = ctx;
	const struct back_watch watch = { .record = record_of, .ctx = bp };
	struct error err;
	int r = inherit(bp, tomb, &err);

	if (r == 0)
		r = make_workers(bp, &err);
	if (r == 0) {
		back_worker_watch(bp->inner, &watch);
		close(tomb); /* what outlives us has its own hold on it */
		r = worker_run_here(process_worker_at(bp->process, 0), &err);
	}
	if (r < 0)
		log_error("%s: its process: %s", bp->back.dev->id, err.text);
}
