/*
 * Filters: rows of a role become one seccomp program. libseccomp turns them into BPF once, on main,
 * before any thread runs; a thread only loads the finished program, so that its first line costs
 * one system call.
 */
#include "vmm/sandbox.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { SECCOMP_API = 3 /* of libseccomp: SCMP_ACT_LOG and SCMP_ACT_KILL_PROCESS, Linux 4.14 */ };

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

static int add_row(scmp_filter_ctx ctx, const struct syscall_row *row)
{
	struct scmp_arg_cmp cmp[ARRAY_SIZE(row->arg) + 1];
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(row->arg); i++) {
		const struct syscall_arg *a = &row->arg[i];

		if (a->cmp == SYSCALL_EQ)
			cmp[n++] = SCMP_CMP(a->index, SCMP_CMP_EQ, a->value);
		else if (a->cmp == SYSCALL_MASKED_EQ)
			cmp[n++] = SCMP_CMP(a->index, SCMP_CMP_MASKED_EQ, a->mask, a->value);
		else if (a->cmp == SYSCALL_OWN_PID)
			cmp[n++] = SCMP_CMP(a->index, SCMP_CMP_EQ, (scmp_datum_t)getpid());
	}
	/* Nobody maps memory executable, whatever the row says. */
	if (row->nr == SYS_mmap || row->nr == SYS_mprotect)
		cmp[n++] = SCMP_CMP(2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
	return seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, row->nr, n, cmp);
}

/* libseccomp only exports to a file: a memfd, to which it appends, read back. */
static int export(struct sandbox_filter **ret, scmp_filter_ctx ctx, struct sandbox_builder *b)
{
	const size_t most = BPF_MAXINSNS * sizeof(struct sock_filter);
	struct sandbox_filter *f = malloc(sizeof(*f) + most), *shrunk;
	int r = f ? 0 : -ENOMEM;
	ssize_t len = 0;

	if (r == 0 && !b->open) {
		b->fd = memfd_create("filter", MFD_CLOEXEC);
		b->open = b->fd >= 0;
		r = b->open ? 0 : -errno;
	}
	if (r == 0)
		r = seccomp_export_bpf(ctx, b->fd);
	if (r == 0)
		len = pread(b->fd, f->code, most, (off_t)b->used);
	if (r == 0 && (len <= 0 || (size_t)len % sizeof(f->code[0])))
		r = -EIO;
	if (r < 0) {
		free(f);
		return r;
	}
	b->used += (size_t)len;
	shrunk = realloc(f, sizeof(*f) + (size_t)len);
	f = shrunk ? shrunk : f;
	f->program.len = (unsigned short)((size_t)len / sizeof(f->code[0]));
	f->program.filter = f->code;
	*ret = f;
	return 0;
}

void sandbox_builder_end(struct sandbox_builder *b)
{
	if (b->open)
		close(b->fd);
	*b = (struct sandbox_builder){ .mode = b->mode };
}

int sandbox_filter_build(struct sandbox_filter **ret, const struct sandbox_role *role, struct sandbox_builder *builder,
	struct error *err)
{
	enum sandbox_mode mode = builder->mode;
	scmp_filter_ctx ctx;
	int r = 0;

	*ret = NULL;
	if (mode == SANDBOX_OFF)
		return 0;
	/*
	 * What the kernel can do is said by the kernel when a thread loads the filter: no probing,
	 * nine calls less.
	 */
	seccomp_api_set(SECCOMP_API);
	ctx = seccomp_init(mode == SANDBOX_LOG ? SCMP_ACT_LOG : SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return error_set(err, ENOMEM,
			"no filter for %s: out of memory, or a kernel without seccomp; run with --seccomp=false there",
			role->name);
	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0 && r == 0; row++) {
			r = add_row(ctx, row);
			if (r == -EEXIST) /* another table of the role gave the same leave */
				r = 0;
		}
	if (r == 0)
		r = export(ret, ctx, builder);
	seccomp_release(ctx);
	return r < 0 ? error_set(err, -r, "cannot make the filter of %s: %s", role->name, strerror(-r)) : 0;
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
