/*
 * Our own workers behind the front. Each queue has one worker, chosen at set-up by the type's
 * queues_per_worker; everything that touches the queue runs there: opened, served on kicks, stopped
 * and closed. The front waits for starts and stops (worker_call), and a stop comes back when
 * nothing is in flight.
 *
 * Serving one queue: kicks off, handle() once (bounded), flush, kicks on and a second look. A queue
 * with more to do goes to the back of the line: the loop does not sleep, but serves what else is
 * ready before it comes back, so that a guest that never stops does not starve the other devices of
 * the worker. When the second look finds chains that handle() did not take, it is asked once more,
 * since they may have come between its look and ours; if it leaves them again they are meant to lie
 * (receive buffers), and it comes for them itself.
 *
 * A device may ask to be polled (poll_ns): then, where the worker would sleep, it looks at the ring
 * and at the host side for a while (poll.h says how long), with kicks off. There are two kinds of
 * waiting, each with its own gaps: for the driver's next chain when all is done, and for the host
 * side, or a further chain, when something is in flight. With many in flight one system call waits
 * for a part of them (gather.h), in place of several for each few. What else lives on the worker
 * waits for POLL_STAY_NS, and one such wait, at most; then the loop looks at its other sources,
 * without sleeping, and comes back.
 *
 * A broken ring is not served any more: its kick fd is unwatched, and main is told (dev->broken).
 */
#include "devices/virtio/back_worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "devices/host/gather.h"
#include "devices/virtio/poll.h"
#include "vmm/log.h"

enum {
	POLL_STAY_NS = 250000,   /* then the other sources of the loop have their turn */
	POLL_STOLEN_NS = 200000, /* between two readings of the clock: another thread had this CPU */
	POLL_ANSWER_NS = 4000,   /* a driver's, to what it was given back */
};

struct served {
	struct back_worker *bw;    /* const */
	struct worker *worker;     /* const */
	struct queue_room room;    /* const */
	struct queue *queue;       /* worker; NULL: not running */
	struct loop_source *kick;  /* worker; NULL: broken or not running */
	int kick_fd;               /* worker */
	struct loop_idle idle;     /* worker */
	enum more { MORE_NOT, MORE_NOW, MORE_NEXT } more; /* worker; to do, when the others had their turn */
	/* worker; of a device that is polled */
	struct poll poll[2];       /* with nothing in flight; with something */
	struct poll *waiting;      /* asleep, in this kind of wait; NULL: not, or not yet */
	uint64_t since, returned;  /* `waiting` began; chains that were returned by then */
	bool armed;                /* the driver will kick */
};

struct back_worker {
	struct back back;          /* first */
	const struct back_watch *watch; /* const once a queue started; NULL: nobody */
	unsigned n;                /* const */
	struct served served[];
};

/* Beyond those of a loop and of its queues. */
static const struct syscall_row poll_syscalls[] = {
	{ SYSCALL(clock_gettime, "the end of polling, where the vDSO cannot tell the time") },
	SYSCALL_END,
};

static void break_queue(struct served *s)
{
	struct virtio_device *dev = s->bw->back.dev;

	loop_remove(s->kick);
	s->kick = NULL;
	log_guest(LOG_WARN, "%s: the driver broke the rules of queue %u; the device needs a reset",
		dev->id, queue_index(s->queue));
	dev->broken(dev);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Which kind of wait is next. */
static struct poll *next_wait(struct served *s)
{
	return &s->poll[queue_in_flight(s->queue) > 0];
}

static int handle(struct served *s)
{
	struct virtio_device *dev = s->bw->back.dev;
	int r;

	queue_disable_kick(s->queue);
	s->armed = false;
	r = dev->type->handle(dev, s->queue);
	queue_flush(s->queue);
	return r;
}

/* The driver will kick from now on; true: chains came meanwhile. */
static bool arm(struct served *s)
{
	s->armed = true;
	return queue_enable_kick(s->queue);
}

/* One turn; 1: more to do, 0: armed and waiting, or to be polled, -errno: broken. */
static int turn(struct served *s)
{
	struct queue *q = s->queue;

	for (unsigned look = 0; look < 2; look++) {
		uint64_t before = queue_stats(q)->popped;
		int r = handle(s);

		if (r != 0 || poll_window(next_wait(s)))
			return r;
		if (!arm(s))
			return 0;
		if (queue_stats(q)->popped != before)
			return 1;
	}
	return 0;
}

static void serve(struct served *s)
{
	int r;

	if (!s->kick)
		return;
	s->more = MORE_NOT;
	r = turn(s);
	if (r < 0 || queue_broken(s->queue))
		break_queue(s);
	else if (r > 0)
		s->more = MORE_NOW;
}

/* An event ended the sleep. */
static void woken(struct served *s)
{
	if (s->waiting)
		poll_slept(s->waiting, now() - s->since);
	s->waiting = NULL;
}

static void on_kick(void *ctx)
{
	struct served *s = ctx;

	if (s->queue)
		queue_kicked(s->queue);
	woken(s);
	serve(s);
}

enum found { FOUND_NOTHING, FOUND_CHAIN, FOUND_COMPLETION };

/* Something of the host side is finished and was collected; of many in flight, a part at once. */
static bool collect(struct served *s)
{
	struct virtio_device *dev = s->bw->back.dev;

	if (dev->type->gather && queue_in_flight(s->queue) >= GATHER_LEAST)
		return dev->type->gather(dev, s->queue);
	return dev->type->poll && dev->type->poll(dev, s->queue);
}

/*
 * Look at ring and host side until the window closes. *t is the time, before and after. What the
 * driver of many chains was given back just now it answers with new ones, which go along with the
 * wait for the next part: so for a moment only they are looked for.
 */
static enum found look(struct served *s, struct poll *p, uint64_t *t)
{
	const uint64_t start = *t, window = poll_window(p);
	const uint64_t answer = queue_in_flight(s->queue) >= GATHER_LEAST ? POLL_ANSWER_NS : 0;
	enum found found = FOUND_NOTHING;

	/* What has come by, without looking for it: more of it may. */
	if (!window)
		return answer && collect(s) ? FOUND_COMPLETION : FOUND_NOTHING;
	if (s->armed)
		queue_disarm_kick(s->queue);
	s->armed = false;
	do {
		uint64_t last = *t;

		if (queue_has_avail(s->queue))
			found = FOUND_CHAIN;
		else if (last - start >= answer && collect(s))
			found = FOUND_COMPLETION;
		*t = now();
		if (found) {
			poll_hit(p, *t - start);
			return found;
		}
		if (*t - last > POLL_STOLEN_NS) {
			poll_stolen(p);
			return FOUND_NOTHING;
		}
	} while (*t - start < window);
	poll_miss(p);
	return FOUND_NOTHING;
}

/*
 * Serve what was found. False: the device left it where it lies, and comes for it itself (a disk
 * that must not go on yet); then there is nothing to look for.
 */
static bool serve_found(struct served *s)
{
	uint64_t before = queue_stats(s->queue)->popped;

	serve(s);
	return queue_stats(s->queue)->popped != before;
}

/*
 * Asleep already, it was another one's event; unless something completed. io_uring says so by
 * interrupting the sleep (COOP_TASKRUN): to collect it here spares another round by epoll.
 */
static bool poll_until_idle(struct served *s)
{
	bool goes_on = true;
	enum found found;
	uint64_t begun, t;

	if (s->waiting && queue_stats(s->queue)->returned == s->returned &&
		!(queue_in_flight(s->queue) && collect(s)))
		return false;
	woken(s);
	begun = t = now();
	do {
		found = look(s, next_wait(s), &t);
		if (found == FOUND_CHAIN)
			goes_on = serve_found(s);
		if (!s->kick)
			return false;
		if (found && goes_on && t - begun > POLL_STAY_NS)
			return true;
	} while (found && goes_on);
	if (!s->armed && arm(s) && goes_on)
		s->more = MORE_NEXT;
	s->waiting = next_wait(s);
	s->since = t;
	s->returned = queue_stats(s->queue)->returned;
	return s->more;
}

/* Before the loop sleeps, after any round of its. True: again, when the others had their turn. */
static bool on_idle(void *ctx)
{
	struct served *s = ctx;

	if (s->more == MORE_NEXT)
		serve(s);
	if (!s->kick)
		return false;
	if (s->more) {
		s->more = MORE_NEXT;
		return true;
	}
	return s->bw->back.dev->poll_ns && poll_until_idle(s);
}

struct start_call {
	struct served *s;
	const struct queue_setup *setup;
	int result;
};

static void close_queue(struct served *s, struct queue_setup *ret)
{
	struct virtio_device *dev = s->bw->back.dev;
	unsigned i = queue_index(s->queue);

	loop_remove(s->kick);
	s->kick = NULL;
	loop_remove_idle(worker_loop(s->worker), &s->idle);
	dev->queues[i] = NULL;
	queue_close(s->queue, ret);
	s->queue = NULL;
}

static int take_up(struct served *s, unsigned index)
{
	const struct back_watch *watch = s->bw->watch;

	return watch ? queue_record_take_up(s->queue, watch->record(watch->ctx, index)) : 0;
}

static void start_on_worker(void *ctx)
{
	struct start_call *c = ctx;
	struct served *s = c->s;
	struct virtio_device *dev = s->bw->back.dev;
	struct loop *loop = worker_loop(s->worker);

	c->result = queue_open_in(&s->queue, &s->room, dev->mem, c->setup, 0);
	if (c->result < 0) {
		s->queue = NULL;
		return;
	}
	queue_set_loop(s->queue, loop);
	s->kick_fd = c->setup->kick_fd;
	s->more = MORE_NOT;
	s->poll[0] = s->poll[1] = poll_begin(dev->poll_ns);
	s->waiting = NULL;
	s->idle = (struct loop_idle){ .fn = on_idle, .ctx = s };
	dev->queues[c->setup->index] = s->queue;
	c->result = take_up(s, c->setup->index);
	if (c->result == 0)
		c->result = loop_add_bell(loop, s->kick_fd, on_kick, s, &s->kick);
	if (c->result == 0 && dev->type->queue_start)
		c->result = dev->type->queue_start(dev, s->queue);
	if (c->result < 0) {
		close_queue(s, NULL);
		return;
	}
	loop_add_idle(loop, &s->idle);
	/* Chains may lie there already, from before DRIVER_OK or a pause. */
	serve(s);
}

static int queue_start(struct back *b, const struct queue_setup *setup)
{
	struct back_worker *bw = (struct back_worker *)b;
	struct start_call c = { .s = &bw->served[setup->index], .setup = setup };
	int r = worker_call(c.s->worker, start_on_worker, &c);

	return r < 0 ? r : c.result;
}

struct stop_call {
	struct served *s;
	struct queue_setup *ret;
};

static void stop_on_worker(void *ctx)
{
	struct stop_call *c = ctx;
	struct virtio_device *dev = c->s->bw->back.dev;

	if (!c->s->queue)
		return;
	/* An earlier owner had popped them: their place in the ring is behind the indices. */
	for (unsigned n = queue_replays_left(c->s->queue); n && queue_replays_left(c->s->queue); n--)
		dev->type->handle(dev, c->s->queue);
	if (dev->type->queue_stop)
		dev->type->queue_stop(dev, c->s->queue);
	queue_flush(c->s->queue);
	close_queue(c->s, c->ret);
}

static int queue_stop(struct back *b, unsigned index, struct queue_setup *ret)
{
	struct back_worker *bw = (struct back_worker *)b;
	struct stop_call c = { .s = &bw->served[index], .ret = ret };

	return worker_call(c.s->worker, stop_on_worker, &c);
}

static int set_features(struct back *b, uint64_t features)
{
	/* No queue runs: the next worker_call() orders this before the first look of a worker. */
	b->dev->features = features;
	return 0;
}

struct config_call {
	struct virtio_device *dev;
	unsigned offset, len;
};

static void config_on_worker(void *ctx)
{
	struct config_call *c = ctx;

	c->dev->type->config_written(c->dev, c->offset, c->len);
}

static void config_written(struct back *b, unsigned offset, unsigned len)
{
	struct back_worker *bw = (struct back_worker *)b;
	struct config_call c = { b->dev, offset, len };

	if (b->dev->type->config_written && bw->n)
		worker_call(bw->served[0].worker, config_on_worker, &c);
}

static void reset_on_worker(void *ctx)
{
	struct virtio_device *dev = ctx;

	dev->type->reset(dev);
}

static void reset(struct back *b)
{
	struct back_worker *bw = (struct back_worker *)b;

	if (b->dev->type->reset && bw->n)
		worker_call(bw->served[0].worker, reset_on_worker, b->dev);
}

struct state_call {
	struct virtio_device *dev;
	struct state_writer *w;
	struct state_reader *r;
	struct error *err;
	int result;
};

static void save_on_worker(void *ctx)
{
	struct state_call *c = ctx;

	c->result = state_save(c->w, c->dev->type->state, c->dev);
}

static void load_on_worker(void *ctx)
{
	struct state_call *c = ctx;

	c->result = state_load(c->r, c->dev->type->state, c->dev, c->err);
}

static int state_io(struct back *b, struct state_call c, loop_msg_fn *fn)
{
	struct back_worker *bw = (struct back_worker *)b;
	int r;

	if (!b->dev->type->state || !bw->n)
		return 0;
	r = worker_call(bw->served[0].worker, fn, &c);
	return r < 0 ? r : c.result;
}

static int save(struct back *b, struct state_writer *w)
{
	return state_io(b, (struct state_call){ .dev = b->dev, .w = w }, save_on_worker);
}

static int load(struct back *b, struct state_reader *r, struct error *err)
{
	return state_io(
		b, (struct state_call){ .dev = b->dev, .r = r, .err = err }, load_on_worker);
}

static void destroy(struct back *b)
{
	struct back_worker *bw = (struct back_worker *)b;

	for (unsigned i = 0; i < bw->n; i++)
		if (bw->served[i].worker)
			queue_stop(b, i, NULL);
	if (bw->n)
		queue_room_free(&bw->served[0].room, bw->n);
	free(bw);
}

static const struct back_ops back_worker_ops = {
	.set_features = set_features,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.config_written = config_written,
	.reset = reset,
	.save = save,
	.load = load,
	.destroy = destroy,
};

struct worker *back_worker_of(struct back *b, unsigned queue)
{
	return ((struct back_worker *)b)->served[queue].worker;
}

void back_worker_watch(struct back *b, const struct back_watch *watch)
{
	((struct back_worker *)b)->watch = watch;
}

enum { THREAD_NAME = 16 };

/* "_disk0_q1": the number must survive, so a long id is cut before it. */
static void thread_name(char name[THREAD_NAME], const struct virtio_device *dev, unsigned n)
{
	const char *suffix = dev->type->thread_suffix ? dev->type->thread_suffix : "q";
	char tail[THREAD_NAME];
	int len = snprintf(tail, sizeof(tail), "_%.3s%u", suffix, n % 1000);

	snprintf(name, THREAD_NAME, "%.*s%.*s", THREAD_NAME - 1 - len, dev->id, len, tail);
}

static int find_worker(struct worker **ret, const struct virtio_device *dev,
	const struct device_env *env, unsigned n, struct error *err)
{
	char name[THREAD_NAME];
	int r;

	thread_name(name, dev, n);
	r = env->worker(env, name, dev->type->share, ret, err);
	if (r == 0 && dev->ncpus)
		worker_pin(*ret, dev->cpus[n % dev->ncpus]);
	if (r == 0)
		r = worker_allow(*ret, dev->type->syscalls);
	for (unsigned i = 0; i < VIRTIO_SYSCALL_TABLES && r == 0; i++)
		r = worker_allow(*ret, dev->syscalls[i]);
	if (r == 0 && dev->poll_ns)
		r = worker_allow(*ret, poll_syscalls);
	if (r == 0)
		r = worker_allow(*ret, queue_syscalls);
	if (r == 0) /* a kick for each queue that is served here, at most twice before a round ends */
		r = loop_reserve(worker_loop(*ret), 2u * dev->nqueues, 0);
	return r;
}

static unsigned worker_of(const struct virtio_device *dev, unsigned queue)
{
	const struct virtio_type *t = dev->type;

	if (t->worker_of)
		return t->worker_of(dev, queue);
	return t->queues_per_worker ? queue / t->queues_per_worker : 0;
}

int back_worker_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err)
{
	struct back_worker *bw = calloc(1, sizeof(*bw) + dev->nqueues * sizeof(bw->served[0]));
	struct worker *workers[VIRTIO_QUEUES_MAX] = { NULL };
	struct queue_room rooms[VIRTIO_QUEUES_MAX];

	if (!bw || queue_room_create(rooms, dev->nqueues, dev->queue_size) < 0) {
		free(bw);
		return error_set(err, ENOMEM, "%s: out of memory for its queues", dev->id);
	}
	bw->back = (struct back){ .ops = &back_worker_ops, .dev = dev };
	bw->n = dev->nqueues;
	for (unsigned i = 0; i < bw->n; i++)
		bw->served[i].room = rooms[i];
	for (unsigned i = 0; i < bw->n; i++) {
		struct served *s = &bw->served[i];
		int r = 0;

		s->bw = bw;
		if (!workers[worker_of(dev, i)])
			r = find_worker(&workers[worker_of(dev, i)], dev, env, worker_of(dev, i),
				err);
		s->worker = r < 0 ? NULL : workers[worker_of(dev, i)];
		if (r < 0) {
			destroy(&bw->back);
			return error_prefix(err, r, "%s", dev->id);
		}
	}
	*ret = &bw->back;
	return 0;
}
