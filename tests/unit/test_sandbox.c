#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/host/disk.h"
#include "devices/host/link_stream.h"
#include "devices/host/link_tap.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/types.h"
#include "devices/virtio/virtio.h"
#include "tests/unit/sealed.h"
#include "vmm/arch.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"

static const struct syscall_row few[] = {
	{ SYSCALL(getppid, "a test") },
	{ SYSCALL(exit_group, "the end of a test") },
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
	struct sandbox_filter *filter = NULL;
	struct error err = { "" };
	int status;
	pid_t child;

	cr_assert_eq(sandbox_role_add(&role, sandbox_thread_syscalls), 0);
	cr_assert_eq(sandbox_role_add(&role, few), 0);
	cr_assert_eq(sandbox_role_add(&role, few), 0, "twice is once");
	cr_assert_eq(sandbox_filter_build(&filter, &role, mode, &err), 0, "%s", err.text);
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

/* --- namespaces made ahead --- */

struct ahead_rig {
	struct sandbox_ahead ahead;
	pthread_t thread;
	bool dies;
	atomic_bool made, go;
};

static void *make_ahead(void *ctx)
{
	struct ahead_rig *rig = ctx;

	sandbox_ahead_others(&rig->ahead);
	sandbox_ahead_network(&rig->ahead);
	atomic_store(&rig->made, true);
	while (!rig->dies && !atomic_load(&rig->go))
		usleep(100);
	return NULL;
}

static void wait_ahead(void *ctx)
{
	struct ahead_rig *rig = ctx;

	while (!atomic_load(&rig->made))
		usleep(100);
	if (rig->dies)
		pthread_join(rig->thread, NULL);
}

/* In a process of its own, as root: 0 if afterwards main has namespaces that nobody had before. */
static int confine_with_ahead(bool dies)
{
	static const char *const names[] = { "net", "mnt", "ipc", "uts", "cgroup" };
	struct ahead_rig rig = { .dies = dies };
	const struct sandbox_confine_config config = { .mode = SANDBOX_KILL, .nofile = 64, .ahead = &rig.ahead,
		.wait = wait_ahead, .ctx = &rig };
	int ns = open("/proc/self/ns", O_PATH | O_DIRECTORY);
	struct stat before[ARRAY_SIZE(names)], after;
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (fstatat(ns, names[i], &before[i], 0) < 0)
			return 1;
	sandbox_ahead_init(&rig.ahead);
	if (pthread_create(&rig.thread, NULL, make_ahead, &rig) || sandbox_confine(&config, &err) < 0)
		return 2;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (fstatat(ns, names[i], &after, 0) < 0 || after.st_ino == before[i].st_ino)
			return 10 + (int)i;
	/* Landlock lets everybody ask whether something exists. */
	if (access("/etc", F_OK) == 0)
		return 5;
	if (open("/etc/passwd", O_RDONLY) >= 0 || open("/tmp", O_RDONLY) >= 0 || rig.ahead.thread_fd >= 0)
		return 3;
	atomic_store(&rig.go, true);
	return dies ? 0 : pthread_join(rig.thread, NULL);
}

/* As a kernel before Linux 6.9: no descriptor of a thread. */
static bool refuse_pidfd(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(code), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void confined_with_ahead(bool dies, bool old_kernel)
{
	int status;
	pid_t child;

	needs_filters();
	if (geteuid() != 0)
		cr_skip_test("only root makes namespaces ahead");
	child = fork();
	if (child == 0) {
		if (unshare(CLONE_NEWNET) < 0)
			_exit(77);
		_exit(old_kernel && !refuse_pidfd() ? 4 : confine_with_ahead(dies));
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		cr_skip_test("no right to make namespaces here");
	cr_assert_eq(WEXITSTATUS(status), 0);
}

Test(sandbox, all_namespaces_made_ahead_are_entered, .timeout = 600)
{
	confined_with_ahead(false, false);
}

Test(sandbox, those_of_a_thread_that_is_gone_are_made_anew, .timeout = 600)
{
	confined_with_ahead(true, false);
}

/* Its thread may be gone: each namespace has a descriptor of its own. */
Test(sandbox, without_descriptors_of_threads_there_is_one_per_namespace, .timeout = 600)
{
	confined_with_ahead(false, true);
	confined_with_ahead(true, true);
}

/* --- how much each role may do --- */

/* A worker that serves one device and nothing else. */
static unsigned worker_calls(const struct syscall_row *const *device, size_t n)
{
	struct sandbox_role role = { .name = "worker" };

	cr_assert_eq(sandbox_role_add(&role, sandbox_thread_syscalls), 0);
	cr_assert_eq(sandbox_role_add(&role, loop_syscalls), 0);
	cr_assert_eq(sandbox_role_add(&role, queue_syscalls), 0);
	for (size_t i = 0; i < n; i++)
		if (device[i])
			cr_assert_eq(sandbox_role_add(&role, device[i]), 0);
	return sandbox_role_count(&role);
}

static unsigned disk_calls(bool plain)
{
	char path[] = "/tmp/test_sandbox.XXXXXX";
	const struct disk_raw_config config = { .path = path, .plain = plain };
	const struct disk_events events = { 0 };
	struct disk_queue *queue;
	struct disk *disk;
	struct error err;
	int fd = mkstemp(path);
	unsigned n;

	cr_assert(fd >= 0 && ftruncate(fd, 4096) == 0);
	cr_assert_eq(disk_raw_open(&disk, &config, &err), 0, "%s", err.text);
	cr_assert_eq(disk->ops->queue_create(&queue, disk, 4, &events, &err), 0, "%s", err.text);
	n = worker_calls(disk->syscalls, ARRAY_SIZE(disk->syscalls));
	cr_expect(!plain || !disk->syscalls[0], "without io_uring nobody may enter a ring");
	disk->ops->queue_destroy(queue);
	disk->ops->close(disk);
	close(fd);
	unlink(path);
	return n;
}

Test(sandbox, a_vcpu_has_at_most_twelve_calls_and_none_that_opens_or_maps)
{
	const struct syscall_row *const tables[] = { sandbox_thread_syscalls, vcpu_syscalls, kvm_wiring_syscalls,
		kvm_vcpu_syscalls, arch_vcpu_syscalls };
	static const int never[] = { SYS_openat, SYS_mmap, SYS_mprotect, SYS_socket, SYS_execve, SYS_clone, SYS_brk };
	struct sandbox_role role = { .name = "vcpu" };

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		cr_assert_eq(sandbox_role_add(&role, tables[t]), 0);
		for (const struct syscall_row *row = tables[t]; row->nr >= 0; row++)
			for (size_t i = 0; i < ARRAY_SIZE(never); i++)
				cr_expect_neq(row->nr, never[i], "%s", row->name);
	}
	cr_expect_leq(sandbox_role_count(&role), 12);
}

Test(sandbox, a_disk_worker_has_at_most_sixteen_calls)
{
	cr_expect_leq(disk_calls(false), 16);
	cr_expect_leq(disk_calls(true), 16);
}

/* With the call that sets timers, for gathered interrupts and limits. What is watched, main watches. */
Test(sandbox, a_network_worker_has_at_most_twelve_calls)
{
	const struct syscall_row *const tap[] = { link_tap_syscalls, link_tap_pairs_syscalls, tap_ring_syscalls,
		virtio_net_type.syscalls };
	const struct syscall_row *const plain[] = { link_tap_syscalls, link_tap_pairs_syscalls, tap_plain_syscalls,
		virtio_net_type.syscalls };
	const struct syscall_row *passt[LINK_SYSCALL_TABLES + 1] = { NULL };
	struct link *link;
	int wire[2];

	cr_expect_leq(worker_calls(tap, ARRAY_SIZE(tap)), 12);
	/* Without io_uring reading and writing are two calls. */
	cr_expect_leq(worker_calls(plain, ARRAY_SIZE(plain)), 13);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, wire), 0);
	cr_assert_eq(link_stream_adopt(&link, wire[0], NULL, "peer"), 0);
	memcpy(passt, link->syscalls, sizeof(link->syscalls));
	passt[LINK_SYSCALL_TABLES] = virtio_net_type.syscalls;
	cr_expect_leq(worker_calls(passt, ARRAY_SIZE(passt)), 12);
	link->ops->close(link);
	close(wire[1]);
}
