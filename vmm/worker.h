/*
 * A worker is a loop with a thread of its own, and the devices that live on it.
 *
 * Devices are placed on a worker by main before worker_run(); from then on only the worker's thread
 * touches them, and others reach them by worker_call() (main and vCPU threads, which wait) or
 * worker_post() (anyone, who does not). A worker never waits for another thread.
 *
 * The name is an interface: it is the thread's comm ("_disk0_q0", at most 15 bytes) and the sandbox
 * role.
 */
#ifndef VMM_WORKER_H
#define VMM_WORKER_H

#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"

struct worker;

int worker_create(struct worker **ret, const char *name, struct error *err) NEEDS_CHECK;
/* Stop and join the thread if it runs; what is posted later is dropped. Takes NULL. Main only. */
void worker_stop(struct worker *worker);
/* Stops it first. Takes NULL. Main only. */
void worker_destroy(struct worker *worker);

const char *worker_name(const struct worker *worker);
/* Before worker_run(). */
void worker_rename(struct worker *worker, const char *name);
/* Its thread runs on this CPU of the host only. Before worker_run(); the last call counts. */
void worker_pin(struct worker *worker, unsigned cpu);
struct loop *worker_loop(struct worker *worker);
/* Grows the worker's role before worker_run(); the same table twice is kept once. */
int worker_allow(struct worker *worker, const struct syscall_row *table);
const struct sandbox_role *worker_role(const struct worker *worker);

/*
 * The filter of all that was allowed by now; for who is forked later (vmm/process.h). worker_run()
 * makes it where nobody did. On main's behalf also beside main (vmm/aside.h).
 */
int worker_make_filter(struct worker *worker, enum sandbox_mode mode, struct error *err) NEEDS_CHECK;
/* Start the thread; the filter is its first line. Main only, once. */
int worker_run(struct worker *worker, enum sandbox_mode mode, struct error *err) NEEDS_CHECK;

/*
 * The calling thread becomes the worker's: name, filter, loop. Calls to it are still made at once,
 * so they must come from its own loop. For the first worker of a process (vmm/process.h), whose
 * filter was made before the fork. Returns with the loop, or -errno.
 */
int worker_run_here(struct worker *worker, struct error *err) NEEDS_CHECK;

/*
 * Run fn(ctx) on the worker and wait for it. Before worker_run() it runs at once on the caller, so
 * that set-up, unit tests and fuzzers need no thread. Not from a worker.
 */
int worker_call(struct worker *worker, loop_msg_fn *fn, void *ctx);
/* Run fn(ctx) on the worker some time later; any thread. */
int worker_post(struct worker *worker, loop_msg_fn *fn, void *ctx);

#endif
