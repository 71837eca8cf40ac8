/*
 * Starting and ending a helper program. The child gets nothing of ours but one fd: all others are
 * close-on-exec, its signals are unblocked, its stderr is a pipe whose end it can never wait for. A
 * second pipe, closed by a successful exec, carries the errno of a failed one.
 */
#include "devices/host/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/log.h"

enum { GRACE_MS = 500 }; /* from SIGTERM to SIGKILL */

const struct syscall_row child_main_syscalls[] = {
	{ SYSCALL(pidfd_send_signal, "end a helper that we started") },
	{ SYSCALL(ppoll, "wait a moment for a helper's end") },
	{ SYSCALL(waitid, "collect a helper that ended", SYSCALL_ARG_EQ(0, P_PIDFD)) },
	SYSCALL_END,
};

/*
 * The child, between fork and exec: only calls that are safe there. Reports a failed exec through
 * `report`.
 */
static void become(const char *const *argv, int keep, int errors, int report, pid_t parent)
{
	sigset_t none;
	int code, null = open("/dev/null", O_RDWR);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	if (errors >= 0)
		dup2(errors, STDERR_FILENO);
	if (!fcntl(keep, F_SETFD, 0))
		execvp(argv[0], (char *const *)argv);
	code = errno;
	if (write(report, &code, sizeof(code)) < 0)
		_exit(2);
	_exit(1);
}

/* The pid, once it runs the program; or the errno of the exec. */
static pid_t spawn(const char *const *argv, int keep, int errors)
{
	int report[2], code = 0;
	pid_t pid, self = getpid();

	if (pipe2(report, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid == 0)
		become(argv, keep, errors, report[1], self);
	if (pid < 0)
		code = errno;
	close(report[1]);
	/* A successful exec closes the pipe: nothing to read. */
	if (pid > 0 && read(report[0], &code, sizeof(code)) == sizeof(code))
		waitpid(pid, NULL, 0);
	close(report[0]);
	return code ? -code : pid;
}

int child_start(struct child *ret, const char *const *argv, int keep)
{
	int errors[2] = { -1, -1 };
	pid_t pid;

	/* O_NONBLOCK on its end too: it must never wait for a reader of its complaints. */
	if (pipe2(errors, O_CLOEXEC | O_NONBLOCK))
		errors[0] = errors[1] = -1;
	pid = spawn(argv, keep, errors[1]);
	if (errors[1] >= 0)
		close(errors[1]);
	ret->errors_fd = errors[0];
	ret->pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
	if (ret->pidfd >= 0)
		return 0;
	if (pid > 0) {
		int code = errno;

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		pid = -code;
	}
	if (errors[0] >= 0)
		close(errors[0]);
	return pid;
}

void child_end(int pidfd)
{
	struct pollfd poll_fd = { .fd = pidfd, .events = POLLIN };
	const struct timespec grace = { .tv_nsec = GRACE_MS * 1000000L };
	siginfo_t info;

	if (pidfd < 0)
		return;
	pidfd_send_signal(pidfd, SIGTERM, NULL, 0);
	if (ppoll(&poll_fd, 1, &grace, NULL) <= 0)
		pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	/*
	 * A program that became another user is not ours to kill any more. It sees by itself that
	 * we have gone, unless somebody stopped it; that must not keep us.
	 */
	if (poll_fd.revents || ppoll(&poll_fd, 1, &grace, NULL) > 0)
		waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
	else
		log_warn("a program that was started for this machine does not end, and is not ours to kill");
	close(pidfd);
}
