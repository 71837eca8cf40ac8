/*
 * Work of stage 2 that main needs later, done meanwhile by one more thread: what takes the kernel
 * long and waits for nothing else. The thread works in stage 2 only, and is gone before a vCPU
 * runs, so no thread of a running machine has rights that main gave up.
 *
 * Jobs run one after the other, in the order in which they were added. Where no thread can be had
 * they run on main, when it waits for them: then they are late, and nothing else is different.
 */
#ifndef VMM_ASIDE_H
#define VMM_ASIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/error.h"

/* 0 or -errno, with a sentence. Touches nothing that main touches before it has waited. */
typedef int aside_fn(void *ctx, struct error *err);

enum { ASIDE_JOBS_MAX = 8 };

struct aside {
	struct aside_job {
		aside_fn *fn;
		void *ctx;
		int result;             /* the thread's, until `done` counts it */
		struct error err;       /* likewise */
	} job[ASIDE_JOBS_MAX];
	_Atomic uint32_t added;     /* by main; a futex of the thread's, as is the next */
	_Atomic uint32_t done;      /* by the thread; a futex of main's */
	/* Set by who waits, cleared by who wakes it. */
	_Atomic bool main_waits, thread_waits;
	bool running;               /* main */
	pthread_t thread;
};

/* All are main's. Jobs may be added before the start too. At most ASIDE_JOBS_MAX in all. */
void aside_add(struct aside *a, aside_fn *fn, void *ctx);
void aside_start(struct aside *a);
/* Nothing more will be added: the thread ends by itself when it is through. */
void aside_close(struct aside *a);
/* Waits for the job that was added as number `i` (from 0), and gives its result and sentence. */
int aside_wait(struct aside *a, unsigned i, struct error *err) NEEDS_CHECK;
/* Waits for all that were added, and the thread is gone. One never started is welcome. */
void aside_end(struct aside *a);

#endif
