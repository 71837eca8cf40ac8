/*
 * One event loop: file descriptors, timers and messages of one thread.
 *
 * A loop belongs to the thread that runs it (its owner). Everything here is for the owner, or for
 * whoever sets the loop up before loop_run(), except loop_post() and loop_stop(), which any thread
 * may call. There is no lock inside but the one around the message list.
 *
 * Sources and messages come from a store of the loop, filled in stage 2 (loop_reserve): a sealed
 * thread may not ask for memory. When it is empty, adding and posting fail with -ENOMEM once the
 * loop is sealed, and allocate before. A handler may remove any source, its own included, and a
 * removed source is not called again in the same round.
 */
#ifndef VMM_LOOP_H
#define VMM_LOOP_H

#include "vmm/error.h"
#include "vmm/sandbox.h"

struct loop;
struct loop_source;

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 };

/* `events` is a set of LOOP_*; HANGUP (peer gone or error) is reported even when not asked for. */
typedef void loop_fn(void *ctx, unsigned events);
typedef void loop_timer_fn(void *ctx);
typedef void loop_msg_fn(void *ctx);

int loop_create(struct loop **ret, struct error *err) NEEDS_CHECK;
/*
 * Put so many more sources and messages into the store, for who will add and post in sealed
 * threads. A source counts from its addition to the end of the round in which it is removed. Before
 * loop_run().
 */
int loop_reserve(struct loop *loop, unsigned sources, unsigned messages) NEEDS_CHECK;
/* From now on nothing is allocated. Before threads that post are sealed. */
void loop_seal(struct loop *loop);
/*
 * In a child of a fork, where an epoll set would be the parent's: one of its own, without sources.
 * The fds of before are the parent's and closed already. The loop has never run. -errno.
 */
int loop_renew(struct loop *loop) NEEDS_CHECK;
/* Takes NULL. Sources that are left are freed; their fds are not closed. */
void loop_destroy(struct loop *loop);

/*
 * Watch `fd`, level-triggered. The fd stays the caller's. Errors: -EEXIST, -ENOMEM, -EPERM (a
 * regular file).
 */
int loop_add(struct loop *loop, int fd, unsigned events, loop_fn *fn, void *ctx,
	struct loop_source **ret) NEEDS_CHECK;
/* Change what is waited for; 0 mutes the source (a hang-up is then not reported either). */
int loop_modify(struct loop_source *source, unsigned events);
/* Takes NULL. */
void loop_remove(struct loop_source *source);

/*
 * Read the eventfd `fd` before each call of `fn`, so that the handler need not: one read per
 * wake-up.
 */
int loop_add_eventfd(struct loop *loop, int fd, loop_msg_fn *fn, void *ctx,
	struct loop_source **ret) NEEDS_CHECK;

/*
 * The same without the read: epoll tells of each write to an eventfd anew (EPOLLET), so `fn` is
 * called for what was written since its last call began, or before the fd was added. The count
 * goes on, for nobody's use.
 */
int loop_add_bell(struct loop *loop, int fd, loop_msg_fn *fn, void *ctx,
	struct loop_source **ret) NEEDS_CHECK;

/* A timer on CLOCK_MONOTONIC; created stopped. Removed by loop_remove(). */
int loop_timer_add(struct loop *loop, loop_timer_fn *fn, void *ctx, struct loop_source **ret) NEEDS_CHECK;
/* First expiry `ns` from now (0 stops it), then every `period_ns` (0: once). Owner only. */
void loop_timer_set(struct loop_source *timer, uint64_t ns, uint64_t period_ns);

/*
 * Called before the loop sleeps, so at the end of each round, for owners that have more to do or
 * rather look for a while. True: the loop does not sleep, but serves what else is ready and calls
 * again. The struct is the caller's, untouched until removed; not removed from within a call.
 */
struct loop_idle {
	bool (*fn)(void *ctx);
	void *ctx;
	struct loop_idle *next;
};
void loop_add_idle(struct loop *loop, struct loop_idle *idle);
/* One that was not added does nothing. */
void loop_remove_idle(struct loop *loop, struct loop_idle *idle);

/*
 * Run `fn(ctx)` on the owner's thread, in order of posting. Any thread. Returns -ENOMEM, nothing
 * posted. Messages posted before loop_stop() are all delivered before loop_run() returns.
 */
int loop_post(struct loop *loop, loop_msg_fn *fn, void *ctx);
/*
 * Like loop_post, and return once `fn` has run. Not from the owner's thread; never from one worker
 * to another.
 */
int loop_call(struct loop *loop, loop_msg_fn *fn, void *ctx);

/* Dispatch until loop_stop(). Called by the owner. 0 or -errno of epoll_pwait. */
int loop_run(struct loop *loop);
/* Any thread, async-signal-unsafe. */
void loop_stop(struct loop *loop);

/* The system calls loop_run() and its callees make: part of every role that runs a loop. */
extern const struct syscall_row loop_syscalls[];
/* Of owners that set timers. */
extern const struct syscall_row loop_timer_syscalls[];

#endif
