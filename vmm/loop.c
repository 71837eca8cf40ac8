/*
 * An event loop on epoll. Sources carry their handler; a source removed while events are dispatched
 * is only marked and is freed when the round ends, because the kernel may have handed us its
 * pointer already.
 *
 * Messages are a list under a mutex, announced by one eventfd. A message of loop_call() lives on
 * the caller's stack. Others, and sources, live in a store that stage 2 fills: the filters of the
 * threads that add and post have no row for memory.
 */
#include "vmm/loop.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { EVENTS_PER_ROUND = 32 };
/* What every loop has in store: its own sources, those of a few quiet devices, their messages. */
enum { STORE_SOURCES = 24, STORE_MESSAGES = 16 };

enum source_kind { SOURCE_FD, SOURCE_EVENTFD, SOURCE_BELL, SOURCE_TIMER };

struct loop_source {
	struct loop *loop;
	enum source_kind kind;
	int fd;
	bool dead, muted;
	loop_fn *fn;          /* SOURCE_FD */
	loop_msg_fn *simple;  /* SOURCE_EVENTFD, SOURCE_BELL, SOURCE_TIMER */
	void *ctx;
	struct loop_source *next;
};

struct message {
	loop_msg_fn *fn;
	void *ctx;
	_Atomic uint32_t *done; /* loop_call: on the caller's stack; loop_post: NULL, back to the store */
	struct message *next;
};

/* Sources and messages made together; freed with the loop. */
struct chunk {
	struct chunk *next;
	struct loop_source *sources;
	struct message messages[];
};

struct loop {
	int epoll_fd, wake_fd;
	struct chunk *chunks;        /* const once sealed */
	struct loop_source *spare;   /* owner */
	bool sealed;                 /* const once threads run */
	struct loop_source *wake;
	struct loop_source *sources; /* owner */
	bool any_dead;               /* owner */
	struct loop_idle *idle;      /* owner */
	_Atomic bool stop;
	pthread_mutex_t lock;        /* guards head, tail, spare_messages */
	struct message *head, **tail;
	struct message *spare_messages; /* lock */
};

const struct syscall_row loop_syscalls[] = {
	{ SYSCALL(epoll_pwait, "wait for events; epoll_wait is a system call of old CPUs only") },
	{ SYSCALL(epoll_ctl, "watch and unwatch fds") },
	{ SYSCALL(read, "take an eventfd's or timerfd's count; bytes of the device's own fds") },
	{ SYSCALL(write, "ring eventfds; bytes of the device's own fds; the log") },
	SYSCALL_END,
};

const struct syscall_row loop_timer_syscalls[] = {
	{ SYSCALL(timerfd_settime, "set a timer") },
	{ SYSCALL(close, "a timer that is removed") },
	SYSCALL_END,
};

static uint32_t to_epoll(unsigned events)
{
	return (events & LOOP_READ ? EPOLLIN : 0u) | (events & LOOP_WRITE ? EPOLLOUT : 0u);
}

static unsigned from_epoll(uint32_t events)
{
	return (events & EPOLLIN ? LOOP_READ : 0u) | (events & EPOLLOUT ? LOOP_WRITE : 0u) |
		(events & (EPOLLHUP | EPOLLERR) ? LOOP_HANGUP : 0u);
}

int loop_reserve(struct loop *loop, unsigned sources, unsigned messages)
{
	struct chunk *c = calloc(1, sizeof(*c) + messages * sizeof(c->messages[0]));

	if (c)
		c->sources = calloc(sources, sizeof(*c->sources));
	if (!c || (sources && !c->sources)) {
		free(c);
		return -ENOMEM;
	}
	c->next = loop->chunks;
	loop->chunks = c;
	for (unsigned i = 0; i < sources; i++) {
		c->sources[i].next = loop->spare;
		loop->spare = &c->sources[i];
	}
	for (unsigned i = 0; i < messages; i++) {
		c->messages[i].next = loop->spare_messages;
		loop->spare_messages = &c->messages[i];
	}
	return 0;
}

void loop_seal(struct loop *loop)
{
	loop->sealed = true;
}

/* Under the lock. NULL: none left. */
static struct message *take_message(struct loop *loop)
{
	struct message *m = loop->spare_messages;

	if (m)
		loop->spare_messages = m->next;
	return m;
}

static void give_message(struct loop *loop, struct message *m)
{
	pthread_mutex_lock(&loop->lock);
	m->next = loop->spare_messages;
	loop->spare_messages = m;
	pthread_mutex_unlock(&loop->lock);
}

static void drain_messages(void *ctx)
{
	struct loop *loop = ctx;
	struct message *m;

	pthread_mutex_lock(&loop->lock);
	m = loop->head;
	loop->head = NULL;
	loop->tail = &loop->head;
	pthread_mutex_unlock(&loop->lock);

	while (m) {
		struct message *next = m->next;
		_Atomic uint32_t *done = m->done;

		m->fn(m->ctx);
		if (done) {
			/*
			 * Everything fn did is ordered before the flag the caller waits for; after
			 * it `m` is gone.
			 */
			atomic_store_explicit(done, 1, memory_order_release);
			syscall(SYS_futex, done, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		} else {
			give_message(loop, m);
		}
		m = next;
	}
}

int loop_create(struct loop **ret, struct error *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	pthread_mutexattr_t attr;
	int r;

	if (!loop)
		return error_set(err, ENOMEM, "out of memory for an event loop");
	/*
	 * Priority inheritance: a vCPU of high priority that posts must not wait behind a
	 * low-priority poster.
	 */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&loop->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	loop->tail = &loop->head;
	loop->wake_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd >= 0)
		loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = loop->wake_fd < 0 ? -errno : loop_reserve(loop, STORE_SOURCES, STORE_MESSAGES);
	if (r == 0)
		r = loop_add_eventfd(loop, loop->wake_fd, drain_messages, loop, &loop->wake);
	if (r < 0) {
		loop_destroy(loop);
		return error_set(err, -r, "cannot make an event loop: %s; raise the limit of open files (ulimit -n)",
			strerror(-r));
	}
	*ret = loop;
	return 0;
}

int loop_renew(struct loop *loop)
{
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = loop->epoll_fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		return -errno;
	while (loop->sources) {
		struct loop_source *s = loop->sources;

		loop->sources = s->next;
		s->next = loop->spare;
		loop->spare = s;
	}
	return loop_add_eventfd(loop, loop->wake_fd, drain_messages, loop, &loop->wake);
}

static void source_free(struct loop *loop, struct loop_source *s)
{
	if (s->kind == SOURCE_TIMER)
		close(s->fd);
	s->next = loop->spare;
	loop->spare = s;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	while (loop->sources) {
		struct loop_source *s = loop->sources;

		loop->sources = s->next;
		source_free(loop, s);
	}
	while (loop->chunks) {
		struct chunk *c = loop->chunks;

		loop->chunks = c->next;
		free(c->sources);
		free(c);
	}
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

static int source_add(struct loop *loop, struct loop_source init, uint32_t events, struct loop_source **ret)
{
	struct loop_source *s;
	struct epoll_event ev = { .events = events };

	if (!loop->spare && (loop->sealed || loop_reserve(loop, STORE_SOURCES, 0) < 0))
		return -ENOMEM;
	s = ev.data.ptr = loop->spare;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, init.fd, &ev) < 0)
		return -errno;
	loop->spare = s->next;
	*s = init;
	s->loop = loop;
	s->next = loop->sources;
	loop->sources = s;
	*ret = s;
	return 0;
}

int loop_add(struct loop *loop, int fd, unsigned events, loop_fn *fn, void *ctx, struct loop_source **ret)
{
	return source_add(loop, (struct loop_source){ .kind = SOURCE_FD, .fd = fd, .fn = fn, .ctx = ctx },
		to_epoll(events), ret);
}

int loop_add_eventfd(struct loop *loop, int fd, loop_msg_fn *fn, void *ctx, struct loop_source **ret)
{
	return source_add(loop,
		(struct loop_source){ .kind = SOURCE_EVENTFD, .fd = fd, .simple = fn, .ctx = ctx }, EPOLLIN,
		ret);
}

int loop_add_bell(struct loop *loop, int fd, loop_msg_fn *fn, void *ctx, struct loop_source **ret)
{
	return source_add(loop,
		(struct loop_source){ .kind = SOURCE_BELL, .fd = fd, .simple = fn, .ctx = ctx },
		EPOLLIN | EPOLLET, ret);
}

int loop_timer_add(struct loop *loop, loop_timer_fn *fn, void *ctx, struct loop_source **ret)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), r;

	if (fd < 0)
		return -errno;
	r = source_add(loop, (struct loop_source){ .kind = SOURCE_TIMER, .fd = fd, .simple = fn, .ctx = ctx },
		EPOLLIN, ret);
	if (r < 0)
		close(fd);
	return r;
}

void loop_timer_set(struct loop_source *timer, uint64_t ns, uint64_t period_ns)
{
	const uint64_t second = UINT64_C(1000000000);
	struct itimerspec ts = {
		.it_value = { (time_t)(ns / second), (long)(ns % second) },
		.it_interval = { (time_t)(period_ns / second), (long)(period_ns % second) },
	};

	timerfd_settime(timer->fd, 0, &ts, NULL);
}

int loop_modify(struct loop_source *s, unsigned events)
{
	struct epoll_event ev = { .events = to_epoll(events), .data.ptr = s };
	int op = !events ? EPOLL_CTL_DEL : s->muted ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	/* epoll reports hang-ups of all it watches: a mute source must not be watched. */
	if (!events && s->muted)
		return 0;
	if (epoll_ctl(s->loop->epoll_fd, op, s->fd, &ev) < 0)
		return -errno;
	s->muted = !events;
	return 0;
}

void loop_remove(struct loop_source *s)
{
	if (!s || s->dead)
		return;
	if (!s->muted)
		epoll_ctl(s->loop->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	s->dead = true;
	s->loop->any_dead = true;
}

/* Under the lock. */
static void append(struct loop *loop, struct message *m)
{
	m->next = NULL;
	*loop->tail = m;
	loop->tail = &m->next;
}

static int wake(struct loop *loop)
{
	const uint64_t one = 1;

	return write(loop->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN ? -errno : 0;
}

int loop_post(struct loop *loop, loop_msg_fn *fn, void *ctx)
{
	struct message *m;

	pthread_mutex_lock(&loop->lock);
	m = take_message(loop);
	if (!m && !loop->sealed && loop_reserve(loop, 0, STORE_MESSAGES) == 0)
		m = take_message(loop);
	if (m) {
		*m = (struct message){ .fn = fn, .ctx = ctx };
		append(loop, m);
	}
	pthread_mutex_unlock(&loop->lock);
	return m ? wake(loop) : -ENOMEM;
}

int loop_call(struct loop *loop, loop_msg_fn *fn, void *ctx)
{
	_Atomic uint32_t done = 0;
	struct message m = { .fn = fn, .ctx = ctx, .done = &done };
	int r;

	pthread_mutex_lock(&loop->lock);
	append(loop, &m);
	pthread_mutex_unlock(&loop->lock);
	r = wake(loop);

	/* Pairs with the release in drain_messages: what fn wrote is seen after this. */
	while (r == 0 && !atomic_load_explicit(&done, memory_order_acquire))
		syscall(SYS_futex, &done, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return r;
}

static void bury(struct loop *loop)
{
	struct loop_source **p = &loop->sources;

	while (*p) {
		struct loop_source *s = *p;

		if (s->dead) {
			*p = s->next;
			source_free(loop, s);
		} else {
			p = &s->next;
		}
	}
	loop->any_dead = false;
}

static void dispatch(struct loop_source *s, uint32_t events)
{
	uint64_t count;

	if (s->dead || s->muted)
		return;
	if (s->kind == SOURCE_FD)
		s->fn(s->ctx, from_epoll(events));
	else if (s->kind == SOURCE_BELL || read(s->fd, &count, sizeof(count)) == sizeof(count))
		s->simple(s->ctx);
}

void loop_add_idle(struct loop *loop, struct loop_idle *idle)
{
	idle->next = loop->idle;
	loop->idle = idle;
}

void loop_remove_idle(struct loop *loop, struct loop_idle *idle)
{
	for (struct loop_idle **p = &loop->idle; *p; p = &(*p)->next) {
		if (*p == idle) {
			*p = idle->next;
			return;
		}
	}
}

/* True: one of them has more to do. */
static bool call_idle(const struct loop *loop)
{
	bool more = false;

	for (const struct loop_idle *i = loop->idle; i; i = i->next)
		more |= i->fn(i->ctx);
	return more;
}

int loop_run(struct loop *loop)
{
	struct epoll_event ev[EVENTS_PER_ROUND];
	bool more = call_idle(loop);

	while (!atomic_load_explicit(&loop->stop, memory_order_acquire)) {
		int n = epoll_pwait(loop->epoll_fd, ev, EVENTS_PER_ROUND, more ? 0 : -1, NULL);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n; i++)
			dispatch(ev[i].data.ptr, ev[i].events);
		if (loop->any_dead)
			bury(loop);
		more = call_idle(loop);
	}
	drain_messages(loop);
	/* The stop is used up: the loop may be run again. */
	atomic_store_explicit(&loop->stop, false, memory_order_relaxed);
	return 0;
}

void loop_stop(struct loop *loop)
{
	uint64_t one = 1;

	atomic_store_explicit(&loop->stop, true, memory_order_release);
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it wakes the loop all the same */
}
