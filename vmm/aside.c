/*
 * One thread, one list, two counts that are futexes. `added` is stored with release and read with
 * acquire, so that the thread sees the job; `done` likewise the other way, so that main sees what
 * the job wrote. The top bit of `added` says that nothing more will come.
 *
 * The thread is born with all signals blocked: they are main's.
 */
#include "vmm/aside.h"

#include <assert.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NO_MORE UINT32_C(0x80000000)

enum { ASIDE_STACK = 128 * KIB };

/* Until the word is no longer `value`, or for no reason. */
static void wait_for_change(_Atomic uint32_t *word, uint32_t value, _Atomic bool *waits)
{
	/* With the fence of tell_change(): we see the change, or are seen to wait. */
	atomic_store_explicit(waits, true, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(word, memory_order_relaxed) == value)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void tell_change(_Atomic uint32_t *word, _Atomic bool *waits)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_exchange_explicit(waits, false, memory_order_relaxed))
		syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void run_job(struct aside *a, uint32_t i)
{
	struct aside_job *job = &a->job[i];

	job->result = job->fn(job->ctx, &job->err);
	/* Release pairs with the acquire in aside_wait(). */
	atomic_store_explicit(&a->done, i + 1, memory_order_release);
	tell_change(&a->done, &a->main_waits);
}

static void *aside_main(void *arg)
{
	struct aside *a = arg;
	uint32_t next = 0, added;

	for (;;) {
		added = atomic_load_explicit(&a->added, memory_order_acquire);
		if (next < (added & ~NO_MORE))
			run_job(a, next++);
		else if (added & NO_MORE)
			return NULL;
		else
			wait_for_change(&a->added, added, &a->thread_waits);
	}
}

void aside_add(struct aside *a, aside_fn *fn, void *ctx)
{
	uint32_t i = atomic_load_explicit(&a->added, memory_order_relaxed);

	assert(i < ASIDE_JOBS_MAX);
	a->job[i] = (struct aside_job){ .fn = fn, .ctx = ctx };
	/* Release pairs with the acquire in aside_main(). */
	atomic_store_explicit(&a->added, i + 1, memory_order_release);
	tell_change(&a->added, &a->thread_waits);
}

/*
 * The kernel likes to start a thread on its maker's processor, where ours would begin only when
 * main sleeps.
 */
static void elsewhere(pthread_attr_t *attr)
{
	cpu_set_t set;
	int here = sched_getcpu();

	if (here < 0 || sched_getaffinity(0, sizeof(set), &set) < 0 || CPU_COUNT(&set) < 2)
		return;
	CPU_CLR((unsigned)here, &set);
	pthread_attr_setaffinity_np(attr, sizeof(set), &set);
}

void aside_start(struct aside *a)
{
	sigset_t all;
	pthread_attr_t attr;

	sigfillset(&all);
	pthread_attr_init(&attr);
	elsewhere(&attr);
	pthread_attr_setsigmask_np(&attr, &all);
	pthread_attr_setstacksize(&attr, ASIDE_STACK);
	a->running = pthread_create(&a->thread, &attr, aside_main, a) == 0;
	pthread_attr_destroy(&attr);
}

int aside_wait(struct aside *a, unsigned i, struct error *err)
{
	uint32_t done;

	while ((done = atomic_load_explicit(&a->done, memory_order_acquire)) <= i) {
		if (a->running)
			wait_for_change(&a->done, done, &a->main_waits);
		else
			run_job(a, done);
	}
	if (a->job[i].result < 0 && err)
		*err = a->job[i].err;
	return a->job[i].result;
}

void aside_close(struct aside *a)
{
	if (!a->running || atomic_load_explicit(&a->added, memory_order_relaxed) & NO_MORE)
		return;
	atomic_fetch_or_explicit(&a->added, NO_MORE, memory_order_relaxed);
	tell_change(&a->added, &a->thread_waits);
}

void aside_end(struct aside *a)
{
	if (!a->running)
		return;
	aside_close(a);
	pthread_join(a->thread, NULL);
	a->running = false;
}
