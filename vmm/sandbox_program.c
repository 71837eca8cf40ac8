/*
 * Rows become BPF (seccomp(2), Documentation/userspace-api/seccomp_filter.rst): the CPU's
 * convention, then a binary search for the number, whose leaves are its rows. A search, because the
 * kernel runs each new program ahead for all numbers there are, to remember those that it always
 * allows (Linux 5.11); with a list that was most of the time that a thread took to seal itself.
 *
 * Arguments have 64 bits and BPF's words 32: a test is made of one for each half that its mask has
 * bits of. A system call of x86's x32 has a bit in its number that none of ours has: it is refused.
 *
 * libseccomp is the measure: tests/unit/test_sandbox_program.c compares what it says.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/sandbox.h"

enum { NUMBERS = 1024, WORD_BITS = 64, JUMP_MAX = 255, LEAF = 2 /* numbers */ };

/* One bit per system call number. */
struct numbers {
	uint64_t word[NUMBERS / WORD_BITS];
};

struct program {
	struct sock_filter *code;
	size_t room, len; /* len goes on counting past room */
	const struct sandbox_role *role;
	uint32_t otherwise;
	struct numbers plain; /* those with a row that has no test: such a row decides */
};

static void number_set(struct numbers *n, unsigned nr)
{
	n->word[nr / WORD_BITS] |= UINT64_C(1) << nr % WORD_BITS;
}

static bool number_has(const struct numbers *n, unsigned nr)
{
	return n->word[nr / WORD_BITS] >> nr % WORD_BITS & 1;
}

static void emit(struct program *p, struct sock_filter instruction)
{
	if (p->len < p->room)
		p->code[p->len] = instruction;
	p->len++;
}

static void load(struct program *p, size_t offset)
{
	emit(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static void result(struct program *p, uint32_t action)
{
	emit(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

static void jump(struct program *p, uint16_t kind, uint32_t value, uint8_t if_true, uint8_t if_false)
{
	emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | kind | BPF_K, value, if_true, if_false));
}

/* A jump to what is written next, at any distance: to be given to leap_end(). */
static size_t leap(struct program *p)
{
	emit(p, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0));
	return p->len - 1;
}

static void leap_end(struct program *p, size_t at)
{
	if (at < p->room)
		p->code[at].k = (uint32_t)(p->len - at - 1);
}

/* (argument & mask) == value. Adds the jumps that leave when it is not to `out`. */
static size_t test(struct program *p, unsigned index, uint64_t mask, uint64_t value, size_t *out)
{
	size_t n = 0;

	for (unsigned half = 0; half < 2; half++) {
		uint32_t m = (uint32_t)(mask >> 32 * half), v = (uint32_t)(value >> 32 * half);

		if (!m && !v)
			continue;
		/* The low half comes first on all CPUs of arch/. */
		load(p, offsetof(struct seccomp_data, args) + index * sizeof(uint64_t) + half * sizeof(uint32_t));
		if (m != UINT32_MAX)
			emit(p, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, m));
		out[n++] = p->len;
		jump(p, BPF_JEQ, v, 0, 0);
	}
	return n;
}

/* Nobody maps memory executable, whatever the row says. */
static bool maps(int nr)
{
	return nr == SYS_mmap || nr == SYS_mprotect;
}

static bool has_tests(const struct syscall_row *row)
{
	return row->arg[0].cmp != SYSCALL_ANY || row->arg[1].cmp != SYSCALL_ANY || maps(row->nr);
}

/* All of its tests and yes; else on to what comes after. */
static void write_row(struct program *p, const struct syscall_row *row)
{
	/* Few enough for the short jumps: a half is three instructions. */
	size_t out[2 * (ARRAY_SIZE(row->arg) + 1)], n = 0;

	_Static_assert(3 * ARRAY_SIZE(out) < JUMP_MAX, "from the first test to the end of the row");
	for (size_t i = 0; i < ARRAY_SIZE(row->arg); i++) {
		const struct syscall_arg *a = &row->arg[i];

		if (a->cmp == SYSCALL_EQ)
			n += test(p, a->index, UINT64_MAX, a->value, out + n);
		else if (a->cmp == SYSCALL_MASKED_EQ)
			n += test(p, a->index, a->mask, a->value, out + n);
		else if (a->cmp == SYSCALL_OWN_PID)
			n += test(p, a->index, UINT64_MAX, (uint64_t)getpid(), out + n);
	}
	if (maps(row->nr))
		n += test(p, 2, PROT_EXEC, 0, out + n);
	result(p, SECCOMP_RET_ALLOW);
	for (size_t i = 0; i < n; i++)
		if (out[i] < p->room)
			p->code[out[i]].jf = (uint8_t)(p->len - out[i] - 1);
}

/* If it is this number, the answer; else on to what comes after. Several rows are alternatives. */
static void write_number(struct program *p, int nr)
{
	size_t at;

	if (number_has(&p->plain, (unsigned)nr)) {
		jump(p, BPF_JEQ, (uint32_t)nr, 0, 1);
		result(p, SECCOMP_RET_ALLOW);
		return;
	}
	jump(p, BPF_JEQ, (uint32_t)nr, 1, 0);
	at = leap(p);
	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && p->role->tables[t]; t++)
		for (const struct syscall_row *row = p->role->tables[t]; row->nr >= 0; row++)
			if (row->nr == nr)
				write_row(p, row);
	result(p, p->otherwise);
	leap_end(p, at);
}

/* nr[] ascends. No deeper than a number has bits. */
static void write_search(struct program *p, const uint16_t *nr, size_t n)
{
	size_t half = n / 2, at;

	if (n <= LEAF) {
		for (size_t i = 0; i < n; i++)
			write_number(p, nr[i]);
		result(p, p->otherwise);
		return;
	}
	jump(p, BPF_JGE, nr[half], 0, 1);
	at = leap(p);
	write_search(p, nr, half);
	leap_end(p, at);
	write_search(p, nr + half, n - half);
}

/* Fills p->plain. Returns how many numbers are listed, ascending. */
static int list_numbers(struct program *p, uint16_t nr[NUMBERS])
{
	struct numbers listed = { { 0 } };
	int n = 0;

	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && p->role->tables[t]; t++)
		for (const struct syscall_row *row = p->role->tables[t]; row->nr >= 0; row++) {
			if (row->nr >= NUMBERS)
				return -EINVAL;
			number_set(&listed, (unsigned)row->nr);
			if (!has_tests(row))
				number_set(&p->plain, (unsigned)row->nr);
		}
	for (unsigned w = 0; w < ARRAY_SIZE(listed.word); w++)
		for (uint64_t left = listed.word[w]; left; left &= left - 1)
			nr[n++] = (uint16_t)(w * WORD_BITS + (unsigned)__builtin_ctzll(left));
	return n;
}

int sandbox_program(struct sock_filter *code, size_t room, const struct sandbox_role *role, uint32_t otherwise)
{
	struct program p = { .code = code, .room = room, .role = role, .otherwise = otherwise };
	uint16_t nr[NUMBERS];
	int n = list_numbers(&p, nr);

	if (n < 0)
		return n;
	load(&p, offsetof(struct seccomp_data, arch));
	jump(&p, BPF_JEQ, arch_audit, 1, 0);
	result(&p, SECCOMP_RET_KILL_PROCESS);
	load(&p, offsetof(struct seccomp_data, nr));
	write_search(&p, nr, (size_t)n);
	return p.len > room ? -E2BIG : (int)p.len;
}
