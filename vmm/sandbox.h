/*
 * What each thread may ask of the kernel, and how the process gives up its rights in named stages.
 *
 *   1. sandbox_early    no_new_privs, stray fds closed, no core dump
 *   2. (main opens everything: kvm, disks, taps, sockets; afterwards only fds are used)
 *   3. sandbox_confine  namespaces, an empty root, Landlock, rlimits, capabilities
 *   4. sandbox_seal     per thread, its first line: the seccomp filter of its role
 *
 * A role is a list of row tables. Each row is one system call with its reason, and stands beside
 * the code that makes the call. Whatever is not listed kills the process (`true`), is logged and
 * allowed (`log`), or nothing is filtered (`false`). No role may map memory executable: mmap and
 * mprotect rows get that test added.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include <sys/syscall.h>

#include "vmm/error.h"

enum sandbox_mode { SANDBOX_OFF, SANDBOX_LOG, SANDBOX_KILL };

enum syscall_cmp { SYSCALL_ANY = 0, SYSCALL_EQ, SYSCALL_MASKED_EQ, SYSCALL_OWN_PID };

/*
 * One argument test: argument `index` == value, or (argument & mask) == value, or == the id of this
 * process.
 */
struct syscall_arg {
	enum syscall_cmp cmp;
	uint8_t index;
	uint64_t mask, value;
};

struct syscall_row {
	int nr;                    /* SYS_*; a table ends with nr = -1 */
	const char *name;          /* "read" */
	const char *why;           /* one clause, shown by --show-sandbox */
	struct syscall_arg arg[2]; /* both must hold; several rows of one nr are alternatives */
};

/* { SYSCALL(getrandom, "the entropy itself") }, with tests after the reason when there are any. */
#define SYSCALL(name_, why_, ...) SYS_##name_, #name_, why_, { __VA_ARGS__ }
#define SYSCALL_ARG_EQ(i, v) { SYSCALL_EQ, i, 0, v }
#define SYSCALL_ARG_MASKED(i, m, v) { SYSCALL_MASKED_EQ, i, m, v }
#define SYSCALL_ARG_PID(i) { SYSCALL_OWN_PID, i, 0, 0 }
#define SYSCALL_END { -1, NULL, NULL, { { SYSCALL_ANY, 0, 0, 0 } } }

enum { SANDBOX_ROLE_TABLES = 24 };

struct sandbox_role {
	const char *name;                                 /* "vcpu", "main", "_disk0_q0" */
	const struct syscall_row *tables[SANDBOX_ROLE_TABLES]; /* NULL ends the list */
};

/* Add a table unless it is there already. -ENOSPC when the role is full (a programming error). */
int sandbox_role_add(struct sandbox_role *role, const struct syscall_row *table);

/*
 * The filter of a role, made in stage 2 so that a new thread only has to load it; *ret is NULL with
 * SANDBOX_OFF. Any thread. Takes NULL in sandbox_filter_free.
 */
struct sandbox_filter;
int sandbox_filter_build(struct sandbox_filter **ret, const struct sandbox_role *role, enum sandbox_mode mode,
	struct error *err) NEEDS_CHECK;
void sandbox_filter_free(struct sandbox_filter *filter);

/*
 * sandbox_program.c. The rows of a role as a program of seccomp(2): SECCOMP_RET_ALLOW for what is
 * listed, `otherwise` for the rest, SECCOMP_RET_KILL_PROCESS for calls in the manner of another
 * CPU. Returns how many instructions it wrote. -E2BIG: more than `room`; -EINVAL: a number that is
 * no system call's. Both are mistakes in a table. Any thread.
 */
struct sock_filter;
int sandbox_program(struct sock_filter *code, size_t room, const struct sandbox_role *role, uint32_t otherwise);

int sandbox_early(const int *keep_fds, size_t nkeep, struct error *err) NEEDS_CHECK;

/*
 * Namespaces made beside stage 2 for sandbox_confine(); that of mounts has an empty root. What is
 * not among them stage 3 makes.
 */
enum { SANDBOX_KINDS = 5 };
struct sandbox_ahead {
	int made;              /* CLONE_NEW* */
	int thread_fd;         /* the thread that is in them, as long as it lives; below 0: they are in fd[] */
	int fd[SANDBOX_KINDS]; /* by kind, as confine.c counts them */
};
/* None so far. */
void sandbox_ahead_init(struct sandbox_ahead *ret);
/*
 * On a thread of its own (vmm/aside.h), which is in those namespaces afterwards. What it cannot
 * have is left to stage 3, as all of it is for ordinary users, who need a user namespace first.
 */
void sandbox_ahead_others(struct sandbox_ahead *ret);
/* After the others. */
void sandbox_ahead_network(struct sandbox_ahead *ret);
/* All were made: sandbox_confine() will need no user namespace, so it may have another thread. */
bool sandbox_ahead_complete(const struct sandbox_ahead *ahead);
/* Takes what sandbox_confine() did not. */
void sandbox_ahead_close(struct sandbox_ahead *ahead);

/* --sandbox: what to do about a host that cannot give all of it. */
enum sandbox_confine_how { SANDBOX_CONFINE_AUTO, SANDBOX_CONFINE_STRICT, SANDBOX_CONFINE_OFF };

struct jail;

struct sandbox_confine_config {
	struct jail *jail;            /* jail_open()'s; NULL: none */
	enum sandbox_mode mode;       /* SANDBOX_OFF: nothing is done */
	enum sandbox_confine_how how;
	const struct sandbox_role *main; /* what main must still be able to do afterwards; NULL: anything */
	struct sandbox_ahead *ahead; /* NULL: none; its fds are closed */
	void (*wait)(void *ctx);     /* until `ahead` may be looked at; NULL: at once */
	void *ctx;                   /* of wait() and fork() */
	uint64_t nofile; /* fds still allowed to exist */
	uint64_t memlock; /* bytes that may still be locked, at most what the host allows */
	/*
	 * Called inside of the namespaces, with all rights left: what is forked there has a
	 * namespace of its own for processes. It hands `config` to its children, NULL when there
	 * is nothing to give up. NULL: nothing is forked.
	 */
	int (*fork)(void *ctx, const struct sandbox_confine_config *config, struct error *err);
};
int sandbox_confine(const struct sandbox_confine_config *config, struct error *err) NEEDS_CHECK;
/* The rest of stage 3, also for who was forked in it: limits, user, capabilities. */
int sandbox_give_up(const struct sandbox_confine_config *config, struct error *err) NEEDS_CHECK;

/* Load `filter` on the calling thread; NULL and SANDBOX_OFF do nothing. Cannot be undone. */
int sandbox_seal(const struct sandbox_filter *filter, struct error *err) NEEDS_CHECK;

/*
 * sandbox_show.c. Print role, system call, what its arguments must be, and the reason, one row a
 * line, to stdout: "vcpu  ioctl  1==0xae80  run the guest". "-": any arguments. tests/sandbox reads
 * it.
 */
void sandbox_show(const struct sandbox_role *role);
bool sandbox_role_has(const struct sandbox_role *role, int nr);
/* How many different system calls the role may make. */
unsigned sandbox_role_count(const struct sandbox_role *role);

/*
 * What every thread needs: futex for joins, exit, madvise of its own stack, write for the log. None
 * of them maps memory: what a sealed thread uses was made in stage 2.
 */
extern const struct syscall_row sandbox_thread_syscalls[];

#endif
