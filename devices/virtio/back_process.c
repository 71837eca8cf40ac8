/*
 * The machine's side of a device in a process of its own; see back_process.h. Calls come from the
 * front, one at a time; notices and the keeper's end come to main's loop.
 *
 * A call waits, but not for ever: after `patience_ms` the process is taken for hung and started
 * anew, and carries the call out then. That may take long, since the new one begins when the host
 * has given back what the old one asked of it; after PATIENCE_TIMES as much the device is given up.
 * What is gone fails at once from then on: the driver sees DEVICE_NEEDS_RESET, and again after each
 * reset.
 */
#include "devices/virtio/back_process.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "devices/virtio/front.h"
#include "vmm/log.h"
#include "vmm/rate.h"

enum { PATIENCE_MS = 15000, PATIENCE_TIMES = 10, STEP_MS = 100, NOTICES_MAX = 1000, RECORDS_ALIGN = 64 };

static size_t records_at(void)
{
	return align_up(sizeof(struct desk), RECORDS_ALIGN);
}

struct queue_record *back_process_record(const struct back_process *bp, unsigned queue)
{
	uint8_t *base = (uint8_t *)bp->desk;

	return (struct queue_record *)(base + records_at() + queue * queue_record_bytes(bp->back.dev->queue_size));
}

static struct back_process *of(struct back *b)
{
	return (struct back_process *)b;
}

/* --- calls --- */

/* Has it answered? After so long at the most. */
static bool wait_for_answer(struct back_process *bp, unsigned ms)
{
	const struct timespec step = { .tv_nsec = STEP_MS * 1000000L };
	struct desk *d = bp->desk;
	uint32_t seen;

	for (unsigned waited = 0;; waited += STEP_MS) {
		seen = atomic_load_explicit(&d->answered, memory_order_acquire);
		if (seen == bp->asked)
			return true;
		if (waited >= ms || !process_alive(bp->process))
			return false;
		syscall(SYS_futex, &d->answered, FUTEX_WAIT, seen, &step, NULL, 0);
	}
}

static int call(struct back_process *bp, enum desk_call kind)
{
	const uint64_t one = 1;
	int result;

	if (atomic_load(&bp->gone) || !process_forked(bp->process))
		return -EIO;
	bp->desk->kind = kind;
	/* Release: the call is filled in before the process, which acquires, sees its number. */
	atomic_store_explicit(&bp->desk->asked, ++bp->asked, memory_order_release);
	if (write(bp->bell, &one, sizeof(one)) < 0)
		bp->desk->kind = kind; /* the counter is full: it rings as it is */
	if (!wait_for_answer(bp, bp->patience_ms)) {
		log_guest(LOG_WARN, "%s: its process does not answer; starting another", bp->back.dev->id);
		process_restart(bp->process);
		if (!wait_for_answer(bp, PATIENCE_TIMES * bp->patience_ms)) {
			atomic_store(&bp->gone, true);
			process_give_up(bp->process);
			return -EIO;
		}
	}
	result = bp->desk->result;
	return result < 0 && result > -4096 ? result : result ? -EPROTO : 0;
}

static int set_features(struct back *b, uint64_t features)
{
	/* For what the machine's side asks of the device, which is not served here. */
	b->dev->features = features;
	of(b)->desk->features = features;
	return call(of(b), DESK_FEATURES);
}

static int queue_start(struct back *b, const struct queue_setup *setup)
{
	of(b)->desk->setup = *setup;
	return call(of(b), DESK_START);
}

static int queue_stop(struct back *b, unsigned index, struct queue_setup *ret)
{
	struct back_process *bp = of(b);
	int r;

	bp->desk->setup.index = (uint16_t)index;
	r = call(bp, DESK_STOP);
	if (r == 0 && ret) {
		ret->next_avail = bp->desk->setup.next_avail;
		ret->next_used = bp->desk->setup.next_used;
	}
	if (b->dev->type->stopped)
		b->dev->type->stopped(b->dev);
	return r;
}

static void config_written(struct back *b, unsigned offset, unsigned len)
{
	struct back_process *bp = of(b);

	bp->desk->offset = offset;
	bp->desk->len = len;
	call(bp, DESK_CONFIG);
}

static void reset(struct back *b)
{
	struct back_process *bp = of(b);

	call(bp, DESK_RESET);
	/* No queue runs: what it may have said of a broken one is about the driver before. */
	pthread_mutex_lock(&bp->lock);
	atomic_fetch_and(&bp->desk->notices, ~(uint32_t)DESK_BROKEN);
	pthread_mutex_unlock(&bp->lock);
}

/* What the process says is its state is parsed into our copy of the device, and saved from it. */
static int save(struct back *b, struct state_writer *w)
{
	struct back_process *bp = of(b);
	const struct desk_state *from;
	struct state_reader r = { .data = bp->copy };
	struct error err;
	int ret;

	if (!b->dev->type->state)
		return 0;
	ret = call(bp, DESK_SAVE);
	if (ret < 0)
		return ret;
	from = &bp->desk->state[bp->desk->state_at & 1];
	r.len = MIN(from->len, (uint32_t)DESK_STATE_MAX);
	memcpy(bp->copy, from->bytes, r.len);
	ret = state_load(&r, b->dev->type->state, b->dev, &err);
	return ret < 0 ? ret : state_save(w, b->dev->type->state, b->dev);
}

static int load(struct back *b, struct state_reader *r, struct error *err)
{
	struct back_process *bp = of(b);
	struct state_writer w = { 0 };
	int ret;

	if (!b->dev->type->state)
		return 0;
	ret = state_load(r, b->dev->type->state, b->dev, err);
	if (ret == 0)
		ret = state_save(&w, b->dev->type->state, b->dev);
	if (ret == 0 && w.len > DESK_STATE_MAX)
		ret = error_set(err, EFBIG, "%s: its state is too long for its process", b->dev->id);
	if (ret == 0) {
		memcpy(bp->desk->load.bytes, w.data, w.len);
		bp->desk->load.len = (uint32_t)w.len;
		ret = call(bp, DESK_LOAD);
		if (ret < 0)
			error_set(err, -ret, "%s: its process does not take the state", b->dev->id);
	}
	state_writer_free(&w);
	return ret;
}

static void destroy(struct back *b)
{
	struct back_process *bp = of(b);

	loop_remove(bp->source);
	/* Its workers are the process's, and have never run a queue here. */
	if (bp->inner)
		bp->inner->ops->destroy(bp->inner);
	b->dev->config.shared = NULL;
	b->dev->shared_hold = NULL;
	process_destroy(bp->process);
	if (bp->bell >= 0)
		close(bp->bell);
	if (bp->notice >= 0)
		close(bp->notice);
	state_writer_free(&bp->writer);
	pthread_mutex_destroy(&bp->lock);
	free(bp);
}

static const struct back_ops back_process_ops = {
	.set_features = set_features,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.config_written = config_written,
	.reset = reset,
	.save = save,
	.load = load,
	.destroy = destroy,
};

/* --- main's loop --- */

/* A process that does nothing but ring would have main do nothing but listen. */
static bool too_often(struct back_process *bp)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (t.tv_sec != bp->second) {
		bp->second = t.tv_sec;
		bp->notices = 0;
	}
	return ++bp->notices > NOTICES_MAX;
}

const enum vm_event desk_events[DESK_EVENTS] = {
	[DESK_EVENT_ERROR] = VM_EVENT_DEVICE_ERROR,
	[DESK_EVENT_PAUSE] = VM_EVENT_PAUSE,
	[DESK_EVENT_HANG_UP] = VM_EVENT_HANG_UP,
};

static void pass_on(struct back_process *bp, unsigned i)
{
	const struct virtio_device *dev = bp->back.dev;
	const unsigned may = dev->type->may_post | 1u << VM_EVENT_DEVICE_ERROR;
	char text[DESK_EVENT_MAX];

	if (!(may & 1u << desk_events[i]))
		return;
	memcpy(text, bp->desk->event[i], sizeof(text));
	text[sizeof(text) - 1] = '\0';
	dev->events->post(dev->events->ctx, desk_events[i], text);
}

static void on_notice(void *ctx)
{
	struct back_process *bp = ctx;
	struct virtio_device *dev = bp->back.dev;
	uint32_t notices;

	if (too_often(bp)) {
		log_warn("%s: its process rings without end; starting another", dev->id);
		process_restart(bp->process);
		bp->notices = 0;
	}
	pthread_mutex_lock(&bp->lock);
	/* Acquire pairs with the release of who set them. */
	notices = atomic_exchange_explicit(&bp->desk->notices, 0, memory_order_acquire);
	if (notices & DESK_CONFIG_CHANGED)
		dev->config_changed(dev);
	if (notices & DESK_BROKEN)
		dev->broken(dev);
	pthread_mutex_unlock(&bp->lock);
	for (unsigned i = 0; i < DESK_EVENTS && dev->events; i++)
		if (notices & (uint32_t)DESK_EVENT << i)
			pass_on(bp, i);
}

static void on_gone(void *ctx)
{
	struct back_process *bp = ctx;
	struct virtio_device *dev = bp->back.dev;
	char text[DESK_EVENT_MAX];

	atomic_store(&bp->gone, true);
	atomic_store(&bp->desk->hold.held, 0);
	snprintf(text, sizeof(text), "%s: its process is gone for good; the device has failed", dev->id);
	if (dev->events)
		dev->events->post(dev->events->ctx, VM_EVENT_DEVICE_ERROR, text);
	dev->broken(dev);
}

/* --- making it --- */

struct keeper_of {
	struct process *process;
	int result;
};

static void keep_fd(void *ctx, int fd)
{
	struct keeper_of *k = ctx;

	if (k->result == 0)
		k->result = process_keep(k->process, fd);
}

/* All that the process may hold: its device's, its queues' kicks, its transport's interrupts. */
static int name_fds(void *ctx)
{
	struct back_process *bp = ctx;
	struct virtio_device *dev = bp->back.dev;
	const struct front *f = dev->front;
	struct keeper_of k = { .process = bp->process };
	int fd;

	keep_fd(&k, bp->bell);
	keep_fd(&k, bp->notice);
	for (unsigned i = 0; i < dev->nqueues; i++)
		keep_fd(&k, f->q[i].kick_fd);
	for (unsigned i = 0; (fd = f->tops->irq_fd(f->transport, i)) >= 0; i++)
		keep_fd(&k, fd);
	if (dev->type->fds)
		dev->type->fds(dev, keep_fd, &k);
	return k.result;
}

/* Limits that other devices share, and those above them. */
static int see_limits(struct back_process *bp, struct error *err)
{
	int r = 0;

	for (struct rate *l = bp->back.dev->group; l && r == 0; l = l->parent)
		r = l->shared ? process_see(bp->process, l->shared, PAGE_4K) : -EINVAL;
	return r ? error_set(err, -r, "%s: rate_group=: at most %d groups hold for a device with a process of its own; "
		"say isolation=thread, or nest fewer", bp->back.dev->id, PROCESS_SEEN_MAX) : 0;
}

static int worker_in_process(const struct device_env *env, const char *name, enum worker_share share,
	struct worker **ret, struct error *err)
{
	(void)share;
	return process_worker(env->machine, name, ret, err);
}

static int make_process(struct back_process *bp, const struct device_env *env, struct error *err)
{
	struct virtio_device *dev = bp->back.dev;
	char name[DEVICE_ID_MAX];
	const struct process_config config = {
		.name = name,
		.main = back_process_life,
		.fds = name_fds,
		.gone = on_gone,
		.ctx = bp,
		.shared_bytes = align_up(records_at() + dev->nqueues * queue_record_bytes(dev->queue_size), PAGE_4K),
	};
	struct device_env inside = *env;
	int r;

	snprintf(name, sizeof(name), "%.10s_keep", dev->id);
	r = process_create(&bp->process, &config, err);
	if (r < 0)
		return r;
	bp->desk = process_shared(bp->process);
	/* As create() filled it. */
	memcpy(&bp->desk->config, &dev->config.own, sizeof(bp->desk->config));
	dev->config.shared = &bp->desk->config;
	dev->shared_hold = &bp->desk->hold;
	inside.machine = bp->process;
	inside.worker = worker_in_process;
	r = see_limits(bp, err);
	if (r == 0 && dev->pages && process_see(bp->process, dev->pages, dev->pages_bytes) < 0)
		r = error_set(err, ENOSPC, "%s: its process shares too much", dev->id);
	if (dev->locks_memory)
		process_lock_memory(bp->process);
	if (r == 0)
		r = back_worker_create(&bp->inner, dev, &inside, err);
	if (r == 0 && process_allow(bp->process, dev->forked_syscalls) < 0)
		r = error_set(err, ENOSPC, "%s: too many tables of system calls", dev->id);
	/* Room for what goes from it to the next life: a sealed thread may ask for no memory. */
	bp->writer.data = malloc(DESK_STATE_MAX);
	bp->writer.cap = bp->writer.data ? DESK_STATE_MAX : 0;
	if (r == 0 && dev->type->state && state_save(&bp->writer, dev->type->state, dev) < 0)
		r = error_set(err, ENOMEM, "%s: out of memory for its state", dev->id);
	if (r == 0 && bp->writer.len > DESK_STATE_MAX)
		r = error_set(err, EFBIG, "%s: its state is too long for a process; say isolation=thread", dev->id);
	return r;
}

int back_process_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err)
{
	struct back_process *bp = calloc(1, sizeof(*bp));
	int r;

	if (!bp)
		return error_set(err, ENOMEM, "%s: out of memory", dev->id);
	bp->back = (struct back){ .ops = &back_process_ops, .dev = dev };
	bp->patience_ms = PATIENCE_MS;
	pthread_mutex_init(&bp->lock, NULL);
	bp->notice = -1;
	bp->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (bp->bell >= 0)
		bp->notice = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = bp->notice < 0 ? error_set(err, errno, "%s: no file descriptor for its process: %s; raise ulimit -n",
		dev->id, strerror(errno)) : make_process(bp, env, err);
	if (r == 0 && env->main_loop)
		r = loop_add_eventfd(env->main_loop, bp->notice, on_notice, bp, &bp->source);
	if (r == 0)
		r = device_main_calls(env, process_main_syscalls, err);
	if (r == 0)
		r = device_main_calls(env, process_caller_syscalls, err);
	if (r == 0 && env->process)
		r = env->process(env, bp->process, err);
	if (r < 0) {
		destroy(&bp->back);
		return r;
	}
	*ret = &bp->back;
	return 0;
}
