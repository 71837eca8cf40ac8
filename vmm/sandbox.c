/*
 * Filters: rows of a role become one seccomp program (sandbox_program.c) before the thread is
 * started, which only loads it, so that its first line costs one system call.
 */
#include "vmm/sandbox.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { PROGRAM_MAX = 1024 };

struct sandbox_filter {
	struct sock_fprog program;
	struct sock_filter code[];
};

const struct syscall_row sandbox_thread_syscalls[] = {
	{ SYSCALL(futex, "locks, and waiting for another thread's reply") },
	{ SYSCALL(write, "a line of the log; ringing an eventfd") },
	{ SYSCALL(clock_gettime, "limit the rate of log lines, where the vDSO cannot") },
	{ SYSCALL(rt_sigprocmask, "glibc blocks signals while a thread ends") },
	{ SYSCALL(madvise, "glibc gives an ending thread's stack back", SYSCALL_ARG_EQ(2, MADV_DONTNEED)) },
	{ SYSCALL(exit, "a thread ends") },
	SYSCALL_END,
};

int sandbox_role_add(struct sandbox_role *role, const struct syscall_row *table)
{
	for (size_t i = 0; i < SANDBOX_ROLE_TABLES; i++) {
		if (role->tables[i] == table)
			return 0;
		if (!role->tables[i]) {
			role->tables[i] = table;
			return 0;
		}
	}
	return -ENOSPC;
}

int sandbox_filter_build(struct sandbox_filter **ret, const struct sandbox_role *role, enum sandbox_mode mode,
	struct error *err)
{
	uint32_t otherwise = mode == SANDBOX_LOG ? SECCOMP_RET_LOG : SECCOMP_RET_KILL_PROCESS;
	struct sandbox_filter *f, *shrunk;
	int n;

	*ret = NULL;
	if (mode == SANDBOX_OFF)
		return 0;
	f = malloc(sizeof(*f) + PROGRAM_MAX * sizeof(f->code[0]));
	if (!f)
		return error_set(err, ENOMEM, "out of memory for the filter of %s", role->name);
	n = sandbox_program(f->code, PROGRAM_MAX, role, otherwise);
	if (n < 0) {
		free(f);
		return error_set(err, -n, "cannot make the filter of %s: %s", role->name, strerror(-n));
	}
	shrunk = realloc(f, sizeof(*f) + (size_t)n * sizeof(f->code[0]));
	f = shrunk ? shrunk : f;
	f->program = (struct sock_fprog){ (unsigned short)n, f->code };
	*ret = f;
	return 0;
}

void sandbox_filter_free(struct sandbox_filter *filter)
{
	free(filter);
}

int sandbox_seal(const struct sandbox_filter *filter, struct error *err)
{
	if (!filter)
		return 0;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter->program) < 0)
		return error_set(err, errno, "the kernel refuses the system call filter: %s; run with --seccomp=false "
					     "where the kernel has none",
			strerror(errno));
	return 0;
}
