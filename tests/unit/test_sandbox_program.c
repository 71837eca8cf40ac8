/*
 * What sandbox_program() writes, run by a small interpreter of the BPF that seccomp(2) takes, and held
 * against what libseccomp makes of the same rows: both must answer the same to every call.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/host/link_tap.h"
#include "devices/virtio/queue.h"
#include "vmm/arch.h"
#include "vmm/kvm.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

enum { ROOM = 4096, NUMBERS_TRIED = 600, VALUES_MAX = 512, ROUNDS = 40, X32_BIT = 0x40000000,
	SECCOMP_API = 3 /* SCMP_ACT_LOG, SCMP_ACT_KILL_PROCESS */ };

struct code {
	struct sock_filter at[ROOM];
	size_t len;
};

/* seccomp(2): loads of words of the call, one accumulator, jumps forward. An answer ends it. */
static uint32_t answer(const struct code *c, const struct seccomp_data *call)
{
	uint32_t a = 0, word;

	for (size_t pc = 0; pc < c->len; pc++) {
		const struct sock_filter *f = &c->at[pc];
		bool yes = false;

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			cr_assert(f->k % sizeof(word) == 0 && f->k < sizeof(*call), "load at %u", f->k);
			memcpy(&word, (const char *)call + f->k, sizeof(word));
			a = word;
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= f->k;
			continue;
		case BPF_RET | BPF_K:
			return f->k;
		case BPF_JMP | BPF_JA:
			pc += f->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			yes = a == f->k;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			yes = a >= f->k;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			yes = a > f->k;
			break;
		default:
			cr_assert_fail("instruction %#x", f->code);
		}
		pc += yes ? f->jt : f->jf;
	}
	cr_assert_fail("it runs past its end");
	return 0;
}

/* The two ways to kill are one here. */
static uint32_t said(const struct code *c, const struct seccomp_data *call)
{
	uint32_t a = answer(c, call);

	return a == SECCOMP_RET_KILL_THREAD ? (uint32_t)SECCOMP_RET_KILL_PROCESS : a;
}

static void measure_row(scmp_filter_ctx ctx, const struct syscall_row *row)
{
	struct scmp_arg_cmp cmp[ARRAY_SIZE(row->arg) + 1];
	unsigned n = 0;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(row->arg); i++) {
		const struct syscall_arg *a = &row->arg[i];

		if (a->cmp == SYSCALL_EQ)
			cmp[n++] = SCMP_CMP(a->index, SCMP_CMP_EQ, a->value);
		else if (a->cmp == SYSCALL_MASKED_EQ)
			cmp[n++] = SCMP_CMP(a->index, SCMP_CMP_MASKED_EQ, a->mask, a->value);
		else if (a->cmp == SYSCALL_OWN_PID)
			cmp[n++] = SCMP_CMP(a->index, SCMP_CMP_EQ, (scmp_datum_t)getpid());
	}
	if (row->nr == SYS_mmap || row->nr == SYS_mprotect)
		cmp[n++] = SCMP_CMP(2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
	r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, row->nr, n, cmp);
	cr_assert(r == 0 || r == -EEXIST, "libseccomp refuses %s: %s", row->name, strerror(-r));
}

static void measure(struct code *ret, const struct sandbox_role *role, uint32_t action)
{
	int fd = memfd_create("measure", MFD_CLOEXEC);
	scmp_filter_ctx ctx;
	ssize_t n;

	/* Not what this kernel can do, which an emulator cannot say: nothing is loaded here. */
	seccomp_api_set(SECCOMP_API);
	ctx = seccomp_init(action);
	cr_assert(fd >= 0 && ctx);
	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0; row++)
			measure_row(ctx, row);
	cr_assert_eq(seccomp_export_bpf(ctx, fd), 0);
	n = pread(fd, ret->at, sizeof(ret->at), 0);
	cr_assert_gt(n, 0);
	ret->len = (size_t)n / sizeof(ret->at[0]);
	seccomp_release(ctx);
	close(fd);
}

static void ours(struct code *ret, const struct sandbox_role *role, uint32_t otherwise)
{
	int n = sandbox_program(ret->at, ROOM, role, otherwise);

	cr_assert_gt(n, 0);
	ret->len = (size_t)n;
}

/* What the rows' tests turn on: each value, off by a bit in either half, and what its mask covers. */
static size_t values_of(const struct sandbox_role *role, uint64_t values[VALUES_MAX])
{
	size_t n = 0;

	values[n++] = 0;
	values[n++] = UINT64_MAX;
	values[n++] = PROT_READ | PROT_WRITE;
	values[n++] = PROT_EXEC;
	values[n++] = (uint64_t)getpid();
	values[n++] = (uint64_t)getpid() | UINT64_C(1) << 32;
	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0; row++)
			for (size_t i = 0; i < ARRAY_SIZE(row->arg) && row->arg[i].cmp != SYSCALL_ANY; i++) {
				uint64_t v = row->arg[i].value, m = row->arg[i].mask;

				cr_assert_leq(n + 6, VALUES_MAX);
				values[n++] = v;
				values[n++] = v ^ 1;
				values[n++] = v | UINT64_C(1) << 32;
				values[n++] = v ^ UINT64_C(1) << 63;
				values[n++] = v | ~m;
				values[n++] = v ^ m;
			}
	return n;
}

static uint64_t random_word(void)
{
	return (uint64_t)rand() << 42 ^ (uint64_t)rand() << 21 ^ (uint64_t)rand();
}

static bool same(const struct code *mine, const struct code *theirs, const struct seccomp_data *call)
{
	uint32_t a = said(mine, call);

	cr_assert_eq(a, said(theirs, call), "call %d, arguments %#llx %#llx %#llx %#llx %#llx", call->nr,
		(unsigned long long)call->args[0], (unsigned long long)call->args[1],
		(unsigned long long)call->args[2], (unsigned long long)call->args[3],
		(unsigned long long)call->args[4]);
	return a == SECCOMP_RET_ALLOW;
}

/* What the row allows, and what is one bit beside it. */
static void same_around(const struct code *mine, const struct code *theirs, const struct syscall_row *row)
{
	struct seccomp_data call = { .nr = row->nr, .arch = arch_audit };

	for (unsigned round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < 6; i++)
			call.args[i] = random_word();
		call.args[2] &= row->nr == SYS_mmap || row->nr == SYS_mprotect ? ~(uint64_t)PROT_EXEC : UINT64_MAX;
		for (size_t i = 0; i < ARRAY_SIZE(row->arg); i++) {
			const struct syscall_arg *a = &row->arg[i];
			uint64_t mask = a->cmp == SYSCALL_MASKED_EQ ? a->mask : UINT64_MAX;

			if (a->cmp != SYSCALL_ANY)
				call.args[a->index] = (call.args[a->index] & ~mask) |
					(a->cmp == SYSCALL_OWN_PID ? (uint64_t)getpid() : a->value);
		}
		cr_assert(same(mine, theirs, &call), "%s: what its row says is allowed", row->name);
		for (unsigned bit = 0; bit < 64; bit++)
			for (size_t i = 0; i < 6; i++) {
				call.args[i] ^= UINT64_C(1) << bit;
				same(mine, theirs, &call);
				call.args[i] ^= UINT64_C(1) << bit;
			}
	}
}

static void same_answers(const struct sandbox_role *role, uint32_t action, uint32_t otherwise)
{
	static struct code mine, theirs;
	static uint64_t values[VALUES_MAX];
	size_t n = values_of(role, values);

	ours(&mine, role, otherwise);
	measure(&theirs, role, action);
	srand(1);
	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0; row++)
			same_around(&mine, &theirs, row);
	for (int nr = 0; nr < NUMBERS_TRIED; nr++)
		for (unsigned round = 0; round < ROUNDS; round++) {
			struct seccomp_data call = { .nr = nr, .arch = arch_audit };

			for (size_t i = 0; i < 6; i++)
				call.args[i] = values[(size_t)rand() % n];
			same(&mine, &theirs, &call);
		}
}

static const struct syscall_row *const vcpu[] = { sandbox_thread_syscalls, vcpu_syscalls, kvm_wiring_syscalls,
	kvm_vcpu_syscalls, arch_vcpu_syscalls, NULL };
static const struct syscall_row *const main_thread[] = { loop_syscalls, loop_timer_syscalls, vm_main_syscalls,
	kvm_wiring_syscalls, kvm_main_syscalls, arch_main_syscalls, NULL };
static const struct syscall_row *const network[] = { sandbox_thread_syscalls, loop_syscalls, queue_syscalls,
	link_tap_syscalls, link_tap_watch_syscalls, link_tap_pairs_syscalls, NULL };

/* All that there is in the ways of rows: overlapping, twice, tests on both halves, and far apart. */
static const struct syscall_row odd[] = {
	{ SYSCALL(ioctl, "low", SYSCALL_ARG_EQ(1, 7)) },
	{ SYSCALL(ioctl, "both halves", SYSCALL_ARG_EQ(1, 0x500000007)) },
	{ SYSCALL(ioctl, "two tests", SYSCALL_ARG_EQ(1, 9), SYSCALL_ARG_MASKED(2, 0xf0, 0x20)) },
	{ SYSCALL(write, "only to 2", SYSCALL_ARG_EQ(0, 2)) },
	{ SYSCALL(write, "to all: the test above is void") },
	{ SYSCALL(mmap, "no file", SYSCALL_ARG_MASKED(4, UINT32_MAX, UINT32_MAX)) },
	{ SYSCALL(mprotect, "never executable") },
	{ SYSCALL(kill, "only itself", SYSCALL_ARG_PID(0), SYSCALL_ARG_EQ(1, 0)) },
	{ SYSCALL(read, "the lowest, here or there") },
	{ SYSCALL(openat2, "high, a mask in the upper half", SYSCALL_ARG_MASKED(3, UINT64_C(0xff) << 40, UINT64_C(3) << 40)) },
	SYSCALL_END,
};
static const struct syscall_row *const all_ways[] = { odd, NULL };

static const struct {
	const char *name;
	const struct syscall_row *const *tables;
} roles[] = { { "vcpu", vcpu }, { "main", main_thread }, { "network", network }, { "odd", all_ways } };

static struct sandbox_role role_of(size_t i)
{
	struct sandbox_role role = { .name = roles[i].name };

	for (size_t t = 0; roles[i].tables[t]; t++)
		cr_assert_eq(sandbox_role_add(&role, roles[i].tables[t]), 0);
	return role;
}

Test(sandbox_program, it_answers_as_libseccomp_does, .timeout = 600)
{
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
		struct sandbox_role role = role_of(i);

		same_answers(&role, SCMP_ACT_KILL_PROCESS, SECCOMP_RET_KILL_PROCESS);
		same_answers(&role, SCMP_ACT_LOG, SECCOMP_RET_LOG);
	}
}

/* The kernel looks at the number and the convention together; a number alone says nothing. */
Test(sandbox_program, calls_in_another_manner_are_refused)
{
	static struct code mine;
	struct sandbox_role role = role_of(3);
	struct seccomp_data call = { .nr = SYS_read, .arch = arch_audit };

	ours(&mine, &role, SECCOMP_RET_KILL_PROCESS);
	cr_expect_eq(answer(&mine, &call), SECCOMP_RET_ALLOW);
	call.arch ^= 1;
	cr_expect_eq(answer(&mine, &call), SECCOMP_RET_KILL_PROCESS);
	call.arch = arch_audit;
	call.nr |= X32_BIT;
	cr_expect_eq(answer(&mine, &call), SECCOMP_RET_KILL_PROCESS);
	call.nr = -1;
	cr_expect_eq(answer(&mine, &call), SECCOMP_RET_KILL_PROCESS);
}

/* Each row is the way through for something: a program that says no to all is as wrong as the other. */
Test(sandbox_program, an_empty_role_may_do_nothing)
{
	static struct code mine;
	struct sandbox_role role = { .name = "empty" };

	ours(&mine, &role, SECCOMP_RET_KILL_PROCESS);
	for (int nr = 0; nr < NUMBERS_TRIED; nr++) {
		struct seccomp_data call = { .nr = nr, .arch = arch_audit };

		cr_assert_eq(answer(&mine, &call), SECCOMP_RET_KILL_PROCESS);
	}
}

Test(sandbox_program, too_little_room_and_wrong_numbers_are_errors)
{
	static const struct syscall_row wrong[] = { { 100000, "wrong", "no such number", { { SYSCALL_ANY, 0, 0, 0 } } },
		SYSCALL_END };
	struct sandbox_role role = role_of(0), bad = { .name = "bad", .tables = { wrong } };
	static struct code mine, guard;
	size_t len;

	ours(&mine, &role, SECCOMP_RET_LOG);
	len = mine.len;
	memset(&mine, 0xa5, sizeof(mine));
	memset(&guard, 0xa5, sizeof(guard));
	for (size_t room = 0; room < len; room++)
		cr_assert_eq(sandbox_program(mine.at, room, &role, SECCOMP_RET_LOG), -E2BIG);
	cr_expect_arr_eq(mine.at + len - 1, guard.at, sizeof(mine.at[0]), "nothing is written past the room");
	cr_expect_eq(sandbox_program(mine.at, len, &role, SECCOMP_RET_LOG), (int)len);
	cr_expect_eq(sandbox_program(mine.at, ROOM, &bad, SECCOMP_RET_LOG), -EINVAL);
}
