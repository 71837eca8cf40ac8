/*
 * A device in a process of its own: what holds it, and who starts it again when it dies.
 *
 *   main ── clone ──> keeper ── fork ──> worker process, one life after the other
 *
 * The keeper is forked at the end of stage 3, before any guest code runs: in the namespaces and the
 * Landlock domain of main, then in a namespace of its own for processes and in a domain of its own
 * inside main's, without rights. It closes all fds but those that were named for it, so neither it
 * nor what it forks can reach another device, KVM or the machine. It never sees a byte of the
 * guest's, does nothing but fork, wait and fork again, and so main, sealed by then, needs no right
 * to start anything. Each life begins from the memory as it was at the end of stage 3, and from one
 * region that is shared between main and all lives: what must outlive a life lies there.
 *
 * The end of a life is the end of all it asked the kernel for: a process can leave requests of an
 * io_uring behind, which would write into guest memory later. So each life has a `tomb`, the end
 * of a pipe, that it registers with whatever may outlive it, and the next life begins when the
 * pipe says that nobody holds it any more.
 *
 * A process that dies again and again is given up: the keeper ends, and main hears of that. When
 * main ends, the keeper and its worker are killed by the kernel.
 */
#ifndef VMM_PROCESS_H
#define VMM_PROCESS_H

#include "vmm/sandbox.h"
#include "vmm/worker.h"

struct process;

enum { PROCESS_FDS_MAX = 512, PROCESS_WORKERS_MAX = 64, PROCESS_SEEN_MAX = 16 };

struct process_config {
	const char *name;          /* of the keeper: its comm and its role */
	/*
	 * In a new process, one thread, under the keeper's filter: make what belongs to one
	 * process, seal, serve. The process ends when it returns.
	 */
	void (*main)(void *ctx, int tomb);
	/* Main, right before the fork: process_keep() what it shall hold. */
	int (*fds)(void *ctx);
	/* Main's loop: the keeper has ended, and nobody will start the process again. */
	void (*gone)(void *ctx);
	void *ctx;
	size_t shared_bytes;
};

/* Main, stage 2, all of it down to process_make_filters(). */
int process_create(struct process **ret, const struct process_config *config, struct error *err) NEEDS_CHECK;
/* Ends its processes and waits for them. Takes NULL. */
void process_destroy(struct process *p);
/* Given up when it dies more often than that, not counting process_restart(). Before the fork. */
void process_bear(struct process *p, unsigned deaths, unsigned window_s);
/*
 * Its lives lock more memory than rings take: as much as this user may. What a life does by itself
 * is the filters' business as before. Before the fork.
 */
void process_lock_memory(struct process *p);
/* Zeroed memory that main and every life see; nobody else. */
void *process_shared(struct process *p);
/*
 * Whole pages that this process sees as well as main and others that name them, and no other child.
 * They are MADV_DONTFORK. -ENOSPC. Main, before the fork.
 */
int process_see(struct process *p, void *pages, size_t bytes) NEEDS_CHECK;
/* The keeper and its children keep this fd. -1 is none. -ENOSPC. */
int process_keep(struct process *p, int fd);
/*
 * A worker whose loop and thread live in the process: the first on its first thread. Not to be run
 * here; its loop is renewed by loop_renew() in each life.
 */
int process_worker(struct process *p, const char *name, struct worker **ret, struct error *err) NEEDS_CHECK;
unsigned process_workers(const struct process *p);
struct worker *process_worker_at(const struct process *p, unsigned i);
/* What a life does before it seals itself. The table may be NULL. */
int process_allow(struct process *p, const struct syscall_row *table);
/* Its own; its filter also has what the workers do, since they inherit it. */
const struct sandbox_role *process_keeper_role(const struct process *p);
/* The filters of its workers and of its keeper; on main's behalf also beside main. */
int process_make_filters(struct process *p, enum sandbox_mode mode, struct error *err) NEEDS_CHECK;

/*
 * Main, stage 3, while rights are left and there is one thread: the keepers of all in the list,
 * each without the memory that the others share. `confine`: how a child gives up the rest.
 */
int process_fork_all(struct process *const *list, unsigned n, enum sandbox_mode mode,
	const struct sandbox_confine_config *confine, struct error *err) NEEDS_CHECK;
bool process_forked(const struct process *p);

/* Have `gone` called on this loop. Main, once. */
int process_watch(struct process *p, struct loop *loop, struct error *err) NEEDS_CHECK;

/* Any thread, where SIGPIPE is ignored; they write to a socket and do nothing else. */
/* Is the keeper there? */
bool process_alive(struct process *p);
/* Kill the worker process; it is started again. */
void process_restart(struct process *p);
/* Kill it for good: the keeper ends too. */
void process_give_up(struct process *p);

/* What main does to end processes and to hear of their end. */
extern const struct syscall_row process_main_syscalls[];
/*
 * Of main and vCPUs, who wait for an answer on a futex with a deadline: when they are stopped
 * meanwhile (SIGSTOP, a frozen cgroup) the kernel goes on by a system call of its own, futex(2).
 */
extern const struct syscall_row process_caller_syscalls[];

#endif
