/*
 * A loop with its thread. Before the thread runs, calls are made at once on the caller: set-up
 * code, unit tests and fuzzers use devices without any thread, and the device's code cannot tell.
 */
#include "vmm/worker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "vmm/log.h"

enum { THREAD_NAME_MAX = 16, WORKER_STACK = 256 * KIB };

struct worker {
	char name[THREAD_NAME_MAX];
	struct loop *loop;
	struct sandbox_role role;
	struct sandbox_filter *filter;
	bool running; /* main */
	bool pinned;  /* to `cpu` */
	unsigned cpu;
	pthread_t thread;
};

int worker_create(struct worker **ret, const char *name, struct error *err)
{
	struct worker *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return error_set(err, ENOMEM, "out of memory for worker %s", name);
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->role.name = w->name;
	r = loop_create(&w->loop, err);
	if (r == 0)
		r = sandbox_role_add(&w->role, sandbox_thread_syscalls);
	if (r == 0)
		r = sandbox_role_add(&w->role, loop_syscalls);
	if (r < 0) {
		worker_destroy(w);
		return r;
	}
	*ret = w;
	return 0;
}

void worker_stop(struct worker *w)
{
	if (!w || !w->running)
		return;
	loop_stop(w->loop);
	pthread_join(w->thread, NULL);
	w->running = false;
}

void worker_destroy(struct worker *w)
{
	if (!w)
		return;
	worker_stop(w);
	loop_destroy(w->loop);
	sandbox_filter_free(w->filter);
	free(w);
}

const char *worker_name(const struct worker *w)
{
	return w->name;
}

void worker_rename(struct worker *w, const char *name)
{
	snprintf(w->name, sizeof(w->name), "%s", name);
}

void worker_pin(struct worker *w, unsigned cpu)
{
	w->pinned = true;
	w->cpu = cpu;
}

struct loop *worker_loop(struct worker *w)
{
	return w->loop;
}

int worker_allow(struct worker *w, const struct syscall_row *table)
{
	return table ? sandbox_role_add(&w->role, table) : 0;
}

const struct sandbox_role *worker_role(const struct worker *w)
{
	return &w->role;
}

static void pin_here(const struct worker *w)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (w->cpu < CPU_SETSIZE)
		CPU_SET(w->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static int live(struct worker *w, struct error *err)
{
	int r;

	/* By itself: from outside it would need /proc, which is gone after confinement. */
	prctl(PR_SET_NAME, w->name);
	r = sandbox_seal(w->filter, err);
	if (r < 0)
		return r;
	r = loop_run(w->loop);
	if (r < 0)
		log_error("%s: the event loop ended: %s", w->name, strerror(-r));
	return 0;
}

int worker_run_here(struct worker *w, struct error *err)
{
	if (w->pinned)
		pin_here(w);
	return live(w, err);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct error err;

	if (live(w, &err) < 0) {
		/*
		 * A thread that cannot be confined must not serve a guest; main sees it by the
		 * missing reply.
		 */
		log_error("%s: %s", w->name, err.text);
		abort();
	}
	return NULL;
}

int worker_make_filter(struct worker *w, enum sandbox_mode mode, struct error *err)
{
	return sandbox_filter_build(&w->filter, &w->role, mode, err);
}

int worker_run(struct worker *w, enum sandbox_mode mode, struct error *err)
{
	sigset_t all;
	pthread_attr_t attr;
	int r = w->filter ? 0 : worker_make_filter(w, mode, err);

	if (r < 0)
		return r;
	loop_seal(w->loop);
	/* Signals are main's (signalfd): a thread is born with all of them blocked. */
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setsigmask_np(&attr, &all);
	pthread_attr_setstacksize(&attr, WORKER_STACK);
	/* As it is born: its filter has no call for that. */
	if (w->pinned && w->cpu < CPU_SETSIZE) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(w->cpu, &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	r = pthread_create(&w->thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	if (r)
		return error_set(err, r, "cannot start thread %s: %s; raise the limit of processes (ulimit -u)",
			w->name, strerror(r));
	w->running = true;
	return 0;
}

int worker_call(struct worker *w, loop_msg_fn *fn, void *ctx)
{
	if (w->running)
		return loop_call(w->loop, fn, ctx);
	fn(ctx);
	return 0;
}

int worker_post(struct worker *w, loop_msg_fn *fn, void *ctx)
{
	return loop_post(w->loop, fn, ctx);
}
