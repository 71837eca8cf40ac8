/*
 * What a role may do, as text and as a number. One format for people and for the test that joins it
 * with what threads really called (tests/sandbox).
 */
#include <stdio.h>

#include "vmm/sandbox.h"

enum { TEST_TEXT_MAX = 96 };

/* "0==pid,1==0x22", or "-". */
static void write_tests(char text[TEST_TEXT_MAX], const struct syscall_row *row)
{
	int at = 0;

	for (size_t i = 0; i < ARRAY_SIZE(row->arg); i++) {
		const struct syscall_arg *a = &row->arg[i];
		size_t room = TEST_TEXT_MAX - (size_t)at;

		if (a->cmp == SYSCALL_EQ)
			at += snprintf(text + at, room, "%s%u==%#llx", at ? "," : "", a->index,
				(unsigned long long)a->value);
		else if (a->cmp == SYSCALL_MASKED_EQ)
			at += snprintf(text + at, room, "%s%u&%#llx==%#llx", at ? "," : "", a->index,
				(unsigned long long)a->mask, (unsigned long long)a->value);
		else if (a->cmp == SYSCALL_OWN_PID)
			at += snprintf(text + at, room, "%s%u==pid", at ? "," : "", a->index);
	}
	if (!at)
		snprintf(text, TEST_TEXT_MAX, "-");
}

/* Was the system call of this row met in an earlier one? */
static bool met(const struct sandbox_role *role, size_t tables, const struct syscall_row *row)
{
	for (size_t t = 0; t <= tables; t++)
		for (const struct syscall_row *r = role->tables[t]; r->nr >= 0 && r != row; r++)
			if (r->nr == row->nr)
				return true;
	return false;
}

bool sandbox_role_has(const struct sandbox_role *role, int nr)
{
	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0; row++)
			if (row->nr == nr)
				return true;
	return false;
}

unsigned sandbox_role_count(const struct sandbox_role *role)
{
	unsigned n = 0;

	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0; row++)
			n += !met(role, t, row);
	return n;
}

void sandbox_show(const struct sandbox_role *role)
{
	char tests[TEST_TEXT_MAX];

	for (size_t t = 0; t < SANDBOX_ROLE_TABLES && role->tables[t]; t++)
		for (const struct syscall_row *row = role->tables[t]; row->nr >= 0; row++) {
			write_tests(tests, row);
			printf("%-14s %-20s %-22s %s\n", role->name, row->name, tests, row->why);
		}
}
