/*
 * For tests of system call filters: under an emulator of another CPU's programs there are none, and
 * a sanitizer's runtime, or valgrind, makes calls of its own in a sealed thread.
 */
#ifndef TESTS_UNIT_SEALED_H
#define TESTS_UNIT_SEALED_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/sandbox.h"

/* 0 or 2 from a kernel that filters; an emulator that does not refuses the question. */
static inline bool filters_work(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return false;
#else
	const char *preloaded = getenv("LD_PRELOAD");

	/* valgrind */
	if (preloaded && strstr(preloaded, "vgpreload"))
		return false;
	return prctl(PR_GET_SECCOMP) >= 0;
#endif
}

/* First line of a test that is about nothing else. */
static inline void needs_filters(void)
{
	if (!filters_work())
		cr_skip_test("no system call filters here, or a sanitizer in the way");
}

/* Can this host give all of stage 3? Asked in a child, as it cannot be taken back. */
static inline bool confines(void)
{
	const struct sandbox_confine_config config = { .mode = SANDBOX_KILL, .how = SANDBOX_CONFINE_STRICT, .nofile = 64 };
	pid_t child = fork();
	struct error err;
	int status;

	if (child == 0)
		_exit(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || sandbox_confine(&config, &err) < 0);
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#endif
