/*
 * A program that helps a device: started in stage 2, watched by a pidfd, ended with the machine.
 * Main only, but for the fds, which are whoever's that polls and reads them.
 */
#ifndef DEVICES_HOST_CHILD_H
#define DEVICES_HOST_CHILD_H

#include "vmm/error.h"
#include "vmm/sandbox.h"

struct child {
	int pidfd;      /* readable when it has ended; whoever sees that calls waitid(P_PIDFD) */
	int errors_fd;  /* what it writes to stderr, never blocking it; -1: not kept */
};

/*
 * Run argv[0] (found by PATH) with the one fd `keep` open, no input, no output, and SIGTERM to come
 * when this thread ends. Returns once the program runs; -errno of what failed, -ENOENT: no such
 * program. `argv` ends with NULL.
 */
int child_start(struct child *ret, const char *const *argv, int keep) NEEDS_CHECK;
/*
 * SIGTERM, a moment of grace, SIGKILL; takes the exit status and closes the pidfd. -1 does nothing.
 * Never waits for good: what neither ends nor can be killed is left, with a line in the log.
 * Main may be sealed by then, with these rows.
 */
void child_end(int pidfd);
extern const struct syscall_row child_main_syscalls[];

#endif
