#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/sandbox.h"
#include "tests/unit/sealed.h"

static const struct syscall_row few[] = {
	{ SYSCALL(getppid, "a test") },
	{ SYSCALL(mmap, "a test") },
	{ SYSCALL(kill, "only signal 0", SYSCALL_ARG_EQ(1, 0)) },
	SYSCALL_END,
};

static void try_getppid(void)
{
	syscall(SYS_getppid);
}

static void try_open(void)
{
	syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
}

static void try_kill_zero(void)
{
	kill(1, 0);
}

static void try_kill_term(void)
{
	kill(0, SIGTERM);
}

static void try_map(void)
{
	mmap(NULL, PAGE_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void try_map_exec(void)
{
	mmap(NULL, PAGE_4K, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* The signal that ended a child that sealed itself and did `try`; 0: it lived. */
static int signal_of(void (*try)(void), enum sandbox_mode mode)
{
	struct sandbox_role role = { .name = "test" };
	struct sandbox_builder builder = { .mode = mode };
	struct sandbox_filter *filter = NULL;
	struct error err = { "" };
	int status;
	pid_t child;

	cr_assert_eq(sandbox_role_add(&role, sandbox_thread_syscalls), 0);
	cr_assert_eq(sandbox_role_add(&role, few), 0);
	cr_assert_eq(sandbox_role_add(&role, few), 0, "twice is once");
	cr_assert_eq(sandbox_filter_build(&filter, &role, &builder, &err), 0, "%s", err.text);
	sandbox_builder_end(&builder);
	child = fork();
	if (child == 0) {
		if (sandbox_early(NULL, 0, &err) == 0 && sandbox_seal(filter, &err) == 0)
			try();
		syscall(SYS_exit_group, 0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	sandbox_filter_free(filter);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

Test(sandbox, what_is_listed_is_allowed_and_all_else_kills)
{
	needs_filters();
	cr_expect_eq(signal_of(try_getppid, SANDBOX_KILL), 0);
	cr_expect_eq(signal_of(try_open, SANDBOX_KILL), SIGSYS);
}

Test(sandbox, arguments_are_tested)
{
	needs_filters();
	cr_expect_eq(signal_of(try_kill_zero, SANDBOX_KILL), 0);
	cr_expect_eq(signal_of(try_kill_term, SANDBOX_KILL), SIGSYS);
}

Test(sandbox, nobody_maps_memory_executable)
{
	needs_filters();
	cr_expect_eq(signal_of(try_map, SANDBOX_KILL), 0);
	cr_expect_eq(signal_of(try_map_exec, SANDBOX_KILL), SIGSYS);
}

Test(sandbox, log_and_off_let_pass)
{
	needs_filters();
	cr_expect_eq(signal_of(try_open, SANDBOX_LOG), 0);
	cr_expect_eq(signal_of(try_open, SANDBOX_OFF), 0);
}

Test(sandbox, early_closes_stray_fds_but_those_named)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		int keep = open("/dev/null", O_RDONLY), stray = open("/dev/null", O_RDONLY), ok;
		struct error err;

		ok = sandbox_early(&keep, 1, &err) == 0 && fcntl(keep, F_GETFD) >= 0 && fcntl(stray, F_GETFD) < 0;
		_exit(!ok);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(sandbox, confined_there_is_no_file_to_open)
{
	const struct sandbox_confine_config config = { .mode = SANDBOX_KILL, .nofile = 64 };
	int status;
	pid_t child;

	needs_filters();
	child = fork();
	if (child == 0) {
		struct error err;
		int ok = sandbox_early(NULL, 0, &err) == 0 && sandbox_confine(&config, &err) == 0;

		ok = ok && open("/etc/passwd", O_RDONLY) < 0 && open("/proc/self/mem", O_RDWR) < 0 &&
			open("/", O_RDONLY | O_DIRECTORY) < 0 && open("/x", O_CREAT | O_WRONLY, 0600) < 0;
		_exit(!ok);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
