/*
 * Watches a monitor from outside, from its exec to its first KVM_RUN, whichever monitor it is.
 *
 *   start time -- PROGRAM ARGUMENT...    nanoseconds between the two, then ends the program
 *   start count -- PROGRAM ARGUMENT...   the system calls between the two by kind: "COUNT NAME" lines
 *
 * Time: the program inherits a seccomp filter that reports ioctl(KVM_RUN) to us (seccomp_unotify(2)) and lets all else pass. So
 * the moment is exact, needs nothing from the guest, and costs each side the same few instructions per system call. Count:
 * ptrace, in a run of its own, since stopping at each call takes longer than the call. Threads are followed; helpers that
 * the program starts (fork, posix_spawn) are not, they count for themselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 20000, KINDS_MAX = 128, SYSCALL_STOP = SIGTRAP | 0x80 };

struct shared {
	struct timespec before_exec;
};

struct kind {
	uint64_t nr, request; /* request: of an ioctl, else 0 */
	unsigned count;
};

static int die(const char *what)
{
	fprintf(stderr, "start: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void quiet(void)
{
	int null = open("/dev/null", O_RDWR);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		die("/dev/null");
	close(null);
}

static int install_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("no_new_privs");
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* One byte and, in `fd`, a file descriptor: sent where *fd >= 0, else received. */
static void pass_fd(int sock, int *fd)
{
	char byte = 0, room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	if (*fd < 0) {
		if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&m))
			die("no listener from the child");
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(*fd));
		return;
	}
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), fd, sizeof(*fd));
	if (sendmsg(sock, &m, 0) != 1)
		die("sendmsg");
}

static void timed_child(struct shared *shared, int sock, char **argv)
{
	int listener = install_filter();

	if (listener < 0)
		die("seccomp listener");
	pass_fd(sock, &listener);
	quiet();
	clock_gettime(CLOCK_MONOTONIC, &shared->before_exec);
	execvp(argv[0], argv);
	die(argv[0]);
}

static int time_start(char **argv)
{
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int sock[2], listener = -1;
	struct pollfd p = { .events = POLLIN };
	struct timespec now;
	pid_t pid;

	if (shared == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) < 0)
		die("set-up");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		timed_child(shared, sock[1], argv);
	close(sock[1]);
	pass_fd(sock[0], &listener);
	p.fd = listener;
	if (poll(&p, 1, PATIENCE_MS) < 0)
		die("poll");
	clock_gettime(CLOCK_MONOTONIC, &now);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (!(p.revents & POLLIN)) {
		fprintf(stderr, "start: %s never came to KVM_RUN\n", argv[0]);
		return 1;
	}
	printf("%lld\n", (now.tv_sec - shared->before_exec.tv_sec) * 1000000000LL + now.tv_nsec -
		shared->before_exec.tv_nsec);
	return 0;
}

static const struct {
	uint32_t request;
	const char *name;
} kvm_names[] = {
#define N(x) { (uint32_t)x, #x }
	N(KVM_GET_API_VERSION), N(KVM_CREATE_VM), N(KVM_CHECK_EXTENSION), N(KVM_GET_VCPU_MMAP_SIZE), N(KVM_CREATE_VCPU),
	N(KVM_SET_USER_MEMORY_REGION), N(KVM_IRQFD), N(KVM_IOEVENTFD), N(KVM_SET_GSI_ROUTING), N(KVM_GET_REGS),
	N(KVM_SET_REGS), N(KVM_GET_MP_STATE), N(KVM_SET_MP_STATE), N(KVM_SET_VCPU_EVENTS), N(KVM_RUN), N(KVM_ENABLE_CAP),
	N(KVM_CREATE_DEVICE), N(KVM_SET_DEVICE_ATTR), N(KVM_HAS_DEVICE_ATTR),
#ifdef __x86_64__
	N(KVM_GET_SUPPORTED_CPUID), N(KVM_GET_MSR_INDEX_LIST), N(KVM_GET_MSR_FEATURE_INDEX_LIST), N(KVM_SET_TSS_ADDR),
	N(KVM_SET_IDENTITY_MAP_ADDR), N(KVM_CREATE_IRQCHIP), N(KVM_CREATE_PIT2), N(KVM_SET_CPUID2), N(KVM_GET_SREGS),
	N(KVM_SET_SREGS), N(KVM_GET_LAPIC), N(KVM_SET_LAPIC), N(KVM_SET_FPU), N(KVM_SET_DEBUGREGS), N(KVM_GET_MSRS),
	N(KVM_SET_MSRS), N(KVM_SET_XCRS), N(KVM_SET_XSAVE), N(KVM_GET_XSAVE), N(KVM_GET_XSAVE2), N(KVM_SET_TSC_KHZ),
	N(KVM_GET_TSC_KHZ), N(KVM_SET_CLOCK), N(KVM_SET_IRQCHIP), N(KVM_SET_PIT2),
#else
	N(KVM_ARM_PREFERRED_TARGET), N(KVM_ARM_VCPU_INIT), N(KVM_ARM_VCPU_FINALIZE), N(KVM_GET_ONE_REG),
	N(KVM_SET_ONE_REG), N(KVM_GET_REG_LIST),
#endif
#undef N
};

static void print_kind(const struct kind *k)
{
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)k->nr);
	const char *kvm = NULL;

	for (size_t i = 0; i < sizeof(kvm_names) / sizeof(kvm_names[0]); i++)
		if (k->nr == SYS_ioctl && kvm_names[i].request == k->request)
			kvm = kvm_names[i].name;
	if (kvm)
		printf("%u ioctl(%s)\n", k->count, kvm);
	else if (k->nr == SYS_ioctl)
		printf("%u ioctl(%#llx)\n", k->count, (unsigned long long)k->request);
	else
		printf("%u %s\n", k->count, name ? name : "unknown");
	free(name);
}

static void add_call(struct kind *kinds, const struct __ptrace_syscall_info *info)
{
	uint64_t request = info->entry.nr == SYS_ioctl ? (uint32_t)info->entry.args[1] : 0;
	struct kind *k = kinds;

	while (k < kinds + KINDS_MAX - 1 && k->count && (k->nr != info->entry.nr || k->request != request))
		k++;
	k->nr = info->entry.nr;
	k->request = request;
	k->count++;
}

/* One stop of one thread. True: it is about to enter its first KVM_RUN. */
static bool on_stop(pid_t tid, int status, bool *after_exec, struct kind *kinds)
{
	struct __ptrace_syscall_info info;
	int signal = WSTOPSIG(status);

	if (signal == SYSCALL_STOP) {
		if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) > 0 && *after_exec &&
			info.op == PTRACE_SYSCALL_INFO_ENTRY) {
			add_call(kinds, &info);
			if (info.entry.nr == SYS_ioctl && (uint32_t)info.entry.args[1] == (uint32_t)KVM_RUN)
				return true;
		}
		signal = 0;
	} else if (status >> 16) {
		*after_exec |= status >> 16 == PTRACE_EVENT_EXEC;
		signal = 0;
	} else if (signal == SIGSTOP) {
		signal = 0; /* a new thread's first stop */
	}
	ptrace(PTRACE_SYSCALL, tid, 0, signal);
	return false;
}

static int count_calls(char **argv)
{
	static struct kind kinds[KINDS_MAX];
	bool after_exec = false, there = false;
	pid_t pid = fork(), tid;
	int status;

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		quiet();
		if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
			die("ptrace");
		raise(SIGSTOP);
		execvp(argv[0], argv);
		die(argv[0]);
	}
	if (waitpid(pid, &status, 0) != pid || ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD |
		PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) < 0)
		die("ptrace");
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	while (!there && (tid = waitpid(-1, &status, __WALL)) > 0)
		if (WIFSTOPPED(status))
			there = on_stop(tid, status, &after_exec, kinds);
	kill(pid, SIGKILL);
	while (waitpid(-1, &status, __WALL) > 0)
		; /* gone, with its locks, when we say so */
	if (!there)
		fprintf(stderr, "start: %s never came to KVM_RUN\n", argv[0]);
	for (struct kind *k = kinds; k < kinds + KINDS_MAX && k->count; k++)
		print_kind(k);
	return there ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[2], "--")) {
		if (!strcmp(argv[1], "time"))
			return time_start(argv + 3);
		if (!strcmp(argv[1], "count"))
			return count_calls(argv + 3);
	}
	fputs("usage: start time|count -- PROGRAM ARGUMENT...\n", stderr);
	return 2;
}
