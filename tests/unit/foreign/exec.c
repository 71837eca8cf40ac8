/*
 * Criterion runs each test in a process of its own, for which it executes the test program once more. Where the program
 * is one of another CPU, under QEMU's user mode, the kernel does not know it (unless the administrator has registered
 * QEMU): this execve, linked into such test programs only, puts the emulator before it. Programs of the host stay as
 * they are, and so does everything where there is no emulator: then the test runs on its own CPU.
 */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARGS_MAX = 64 };

int execve(const char *path, char *const argv[], char *const envp[])
{
	const char *args[ARGS_MAX] = { "qemu", "-0", argv[0], path };
	int n = 4;

	if (strcmp(argv[0], "boxfort-worker") != 0 || access(FOREIGN_RUN, X_OK) < 0)
		return (int)syscall(SYS_execve, path, argv, envp);
	for (int i = 1; argv[i] && n < ARGS_MAX - 1; i++)
		args[n++] = argv[i];
	return (int)syscall(SYS_execve, FOREIGN_RUN, args, envp);
}
