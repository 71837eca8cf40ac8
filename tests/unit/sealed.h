/*
 * For tests of system call filters: under an emulator of another CPU's programs there are none, and
 * a sanitizer's runtime, or valgrind, makes calls of its own in a sealed thread.
 */
#ifndef TESTS_UNIT_SEALED_H
#define TESTS_UNIT_SEALED_H

#include <criterion/criterion.h>
#include <sys/prctl.h>

/* 0 or 2 from a kernel that filters; an emulator that does not refuses the question. */
static inline bool filters_work(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(TESTS_UNIT_ALONE_CRITERION_H)
	return false;
#else
	return prctl(PR_GET_SECCOMP) >= 0;
#endif
}

/* First line of a test that is about nothing else. */
static inline void needs_filters(void)
{
	if (!filters_work())
		cr_skip_test("no system call filters here, or a sanitizer in the way");
}

#endif
