/*
 * The escape drill: who has taken over a thread of ours tries to get out, by each way that has a
 * name. Each attempt runs in a child that is confined and sealed as that thread is, and must end
 * without effect: killed by its filter, or refused by the kernel. Where the filter is not the only
 * wall the attempt is made once more without one.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/host/char.h"
#include "devices/host/child.h"
#include "devices/host/disk.h"
#include "devices/host/link_stream.h"
#include "devices/host/link_tap.h"
#include "devices/virtio/queue.h"
#include "tests/unit/sealed.h"
#include "vmm/arch.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

/* What the child holds when it is sealed, as a thread of a machine would. */
struct loot {
	pid_t victim;   /* a process of the same user, outside */
	int victim_fd;  /* its pidfd */
	int kvm_fd;     /* -1: no KVM here */
	int tty_fd;     /* a terminal of its own */
	void *page;     /* writable memory */
	int ns_fd;      /* the network namespace that it was in */
	int memfd;
	/* of this test; nothing in it is worth anything */
	const char *directory, *file, *other;
	char host[64];
};

/* Made by the parent. Every attempt is harmless where it succeeds: the host is somebody's machine. */
static struct {
	char directory[64], file[80], other[80];
} scratch;

static char word[64];
static struct iovec here = { word, sizeof(word) };

static long call(long r)
{
	return r;
}

#define ATTEMPT(name) static long name(const struct loot *l)
#define SYS(...) call(syscall(__VA_ARGS__))

ATTEMPT(open_host_file) { (void)l; return open("/etc/passwd", O_RDONLY); }
ATTEMPT(open_own_memory) { (void)l; return open("/proc/self/mem", O_RDWR); }
ATTEMPT(open_victims_memory) { char p[64]; snprintf(p, sizeof(p), "/proc/%d/mem", l->victim); return open(p, O_RDWR); }
ATTEMPT(open_kvm) { (void)l; return open("/dev/kvm", O_RDWR); }
ATTEMPT(open_up) { (void)l; return open("../../../../etc/passwd", O_RDONLY); }
ATTEMPT(open_by_how) { uint64_t how[3] = { O_RDONLY }; (void)l; return SYS(SYS_openat2, AT_FDCWD, "/", how, sizeof(how)); }
ATTEMPT(open_by_handle) { uint32_t h[34] = { 128 }; (void)l; return SYS(SYS_open_by_handle_at, AT_FDCWD, h, O_RDONLY); }
ATTEMPT(create_file) { return open(l->other, O_CREAT | O_WRONLY, 0600); }
ATTEMPT(make_directory) { return mkdirat(AT_FDCWD, l->other, 0700); }
ATTEMPT(make_device) { return SYS(SYS_mknodat, AT_FDCWD, l->other, 0020600, 0x101); }
ATTEMPT(make_link) { return symlinkat("/etc", AT_FDCWD, l->other); }
ATTEMPT(remove_file) { return unlinkat(AT_FDCWD, l->file, 0); }
ATTEMPT(remove_directory) { return unlinkat(AT_FDCWD, l->directory, AT_REMOVEDIR); }
ATTEMPT(rename_file) { return renameat(AT_FDCWD, l->file, AT_FDCWD, l->directory); }
ATTEMPT(truncate_file) { return truncate(l->file, 0); }
ATTEMPT(change_mode) { return fchmodat(AT_FDCWD, l->file, 0777, 0); }
ATTEMPT(socket_inet) { (void)l; return socket(AF_INET, SOCK_STREAM, 0); }
ATTEMPT(socket_inet6) { (void)l; return socket(AF_INET6, SOCK_DGRAM, 0); }
ATTEMPT(socket_unix) { (void)l; return socket(AF_UNIX, SOCK_STREAM, 0); }
ATTEMPT(socket_netlink) { (void)l; return socket(AF_NETLINK, SOCK_RAW, 0); }
ATTEMPT(socket_packet) { (void)l; return socket(AF_PACKET, SOCK_RAW, 0); }
ATTEMPT(socket_vsock) { (void)l; return socket(AF_VSOCK, SOCK_STREAM, 0); }
ATTEMPT(socket_alg) { (void)l; return socket(AF_ALG, SOCK_SEQPACKET, 0); }
ATTEMPT(socket_two) { int s[2]; (void)l; return socketpair(AF_UNIX, SOCK_STREAM, 0, s); }
ATTEMPT(ptrace_victim) { return ptrace(PTRACE_SEIZE, l->victim, 0, 0); }
ATTEMPT(read_victim) { return process_vm_readv(l->victim, &here, 1, &here, 1, 0); }
ATTEMPT(write_victim) { return process_vm_writev(l->victim, &here, 1, &here, 1, 0); }
ATTEMPT(kill_victim) { return kill(l->victim, SIGUSR1); }
ATTEMPT(tgkill_victim) { return SYS(SYS_tgkill, l->victim, l->victim, SIGUSR1); }
ATTEMPT(signal_victim_by_fd) { return SYS(SYS_pidfd_send_signal, l->victim_fd, SIGUSR1, NULL, 0); }
ATTEMPT(take_victims_fd) { return SYS(SYS_pidfd_getfd, l->victim_fd, 0, 0); }
ATTEMPT(open_victim) { return SYS(SYS_pidfd_open, l->victim, 0); }
ATTEMPT(slow_victim) { struct sched_param p = { 0 }; return sched_setscheduler(l->victim, SCHED_IDLE, &p); }
ATTEMPT(exec_file) { char sh[] = "sh", *argv[] = { sh, NULL }; (void)l; return execve("/bin/sh", argv, NULL); }
ATTEMPT(exec_memory) { char x[] = "x", *argv[] = { x, NULL }; return SYS(SYS_execveat, l->memfd, "", argv, NULL, AT_EMPTY_PATH); }
ATTEMPT(make_memfd) { (void)l; return memfd_create("x", 0); }
ATTEMPT(fork_child) { long r = SYS(SYS_clone, SIGCHLD, 0, 0, 0, 0); (void)l; if (r == 0) syscall(SYS_exit_group, 0); return r; }
ATTEMPT(clone_thread) { uint64_t a[8] = { CLONE_NEWUSER }; (void)l; return SYS(SYS_clone3, a, sizeof(a)) < 0 ? -1 : 0; }
ATTEMPT(make_vm) { return l->kvm_fd < 0 ? -1 : ioctl(l->kvm_fd, KVM_CREATE_VM, 0); }
ATTEMPT(make_kvm_device) { struct kvm_create_device d = { 0 }; return ioctl(l->kvm_fd, KVM_CREATE_DEVICE, &d); }
ATTEMPT(type_into_terminal) { return ioctl(l->tty_fd, TIOCSTI, "x"); }
ATTEMPT(take_terminal) { return ioctl(l->tty_fd, TIOCSCTTY, 1); }
ATTEMPT(map_executable) { (void)l; return (long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
ATTEMPT(protect_executable) { return mprotect(l->page, 4096, PROT_READ | PROT_EXEC); }
ATTEMPT(protect_executable_by_key) { return SYS(SYS_pkey_mprotect, l->page, 4096, PROT_READ | PROT_EXEC, -1); }
ATTEMPT(map_memory_of_a_file) { return (long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, l->memfd, 0); }
ATTEMPT(remap_memory) { return (long)mremap(l->page, 4096, 8192, MREMAP_MAYMOVE); }
ATTEMPT(lie_about_memory) { return madvise(l->page, 4096, MADV_DODUMP); }
ATTEMPT(io_uring) { char p[120] = { 0 }; (void)l; return SYS(SYS_io_uring_setup, 4, p); }
ATTEMPT(load_bpf) { char a[128] = { 0 }; (void)l; return SYS(SYS_bpf, 0, a, sizeof(a)); }
ATTEMPT(handle_faults) { (void)l; return SYS(SYS_userfaultfd, 1); }
ATTEMPT(add_key) { (void)l; return SYS(SYS_add_key, "user", "x", "y", 1, KEY_SPEC_USER_KEYRING); }
ATTEMPT(read_keys) { (void)l; return SYS(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL); }
ATTEMPT(mount_something) { (void)l; return SYS(SYS_mount, "none", "/", "tmpfs", MS_NODEV, NULL); }
ATTEMPT(new_mount) { (void)l; return SYS(SYS_fsopen, "tmpfs", 0); }
ATTEMPT(enter_namespace) { return SYS(SYS_setns, l->ns_fd, CLONE_NEWNET); }
ATTEMPT(enter_victims_namespace) { return SYS(SYS_setns, l->victim_fd, CLONE_NEWNS); }
ATTEMPT(new_mount_namespace) { (void)l; return SYS(SYS_unshare, CLONE_NEWNS); }
ATTEMPT(new_user_namespace) { (void)l; return SYS(SYS_unshare, CLONE_NEWUSER); }
ATTEMPT(change_root) { (void)l; return SYS(SYS_chroot, "/"); }
ATTEMPT(pivot) { (void)l; return SYS(SYS_pivot_root, ".", "."); }
ATTEMPT(become_root) { (void)l; return SYS(SYS_setresuid, 0, 1, 0); }
ATTEMPT(take_capabilities) { uint32_t h[2] = { 0x20080522 }, d[6] = { 1u << 21, 1u << 21, 0 }; (void)l; return SYS(SYS_capset, h, d); }
ATTEMPT(measure) { uint32_t a[32] = { 0, 128 }; (void)l; return SYS(SYS_perf_event_open, a, l->victim, -1, -1, 0); }
ATTEMPT(dump_memory) { (void)l; return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); }
ATTEMPT(let_be_traced) { return prctl(PR_SET_PTRACER, l->victim, 0, 0, 0); }
ATTEMPT(personality_) { (void)l; return SYS(SYS_personality, 0x0400000); }
ATTEMPT(load_module) { return SYS(SYS_finit_module, l->memfd, "", 0); }
ATTEMPT(set_clock) { struct timeval t; (void)l; gettimeofday(&t, NULL); return settimeofday(&t, NULL); }
ATTEMPT(set_host_name) { return sethostname(l->host, strlen(l->host)); }
ATTEMPT(share_memory) { (void)l; return SYS(SYS_shmget, 0x1234, 4096, 01600); }
ATTEMPT(raise_limit) { uint64_t r[2] = { 1 << 16, 1 << 16 }; (void)l; return SYS(SYS_prlimit64, 0, 7, r, NULL); }
ATTEMPT(duplicate_fd) { return fcntl(l->memfd, F_DUPFD, 100); }
ATTEMPT(steal_output) { return dup2(l->memfd, STDOUT_FILENO); }
ATTEMPT(watch_files) { (void)l; return SYS(SYS_fanotify_init, 0, 0); }

/* `alone`: holds without a filter too, by namespaces, Landlock or the lack of capabilities. */
static const struct {
	const char *name;
	long (*run)(const struct loot *l);
	bool alone;
} attempts[] = {
#define A(f) { #f, f, true }
#define F(f) { #f, f, false }
	A(open_host_file), A(open_own_memory), A(open_victims_memory), A(open_kvm), A(open_up), F(open_by_how),
	F(open_by_handle), A(create_file), A(make_directory), A(make_device), A(make_link), A(remove_file),
	A(remove_directory), A(rename_file), A(truncate_file), A(change_mode), F(socket_inet), F(socket_inet6),
	F(socket_unix), F(socket_netlink), A(socket_packet), F(socket_vsock), F(socket_alg), F(socket_two),
	A(ptrace_victim), A(read_victim), A(write_victim), A(kill_victim), A(tgkill_victim), A(signal_victim_by_fd),
	A(take_victims_fd), F(open_victim), F(slow_victim), A(exec_file), F(exec_memory), F(make_memfd), F(fork_child),
	F(clone_thread), F(make_vm), F(make_kvm_device), F(type_into_terminal), F(take_terminal),
	F(map_executable), F(protect_executable), F(protect_executable_by_key), F(map_memory_of_a_file), F(remap_memory),
	F(lie_about_memory), F(io_uring), F(load_bpf), F(handle_faults), F(add_key), F(read_keys), A(mount_something),
	A(new_mount), A(enter_namespace), A(enter_victims_namespace), A(new_mount_namespace),
	F(new_user_namespace), A(change_root), A(pivot), F(become_root), A(take_capabilities), F(measure),
	F(dump_memory), F(let_be_traced), F(personality_), A(load_module), A(set_clock), A(set_host_name), F(share_memory),
	A(raise_limit), F(duplicate_fd), F(steal_output), F(watch_files),
};

/* --- the roles --- */

enum { TABLES_MAX = 8 };

static void add(struct sandbox_role *role, const struct syscall_row *table)
{
	if (table)
		cr_assert_eq(sandbox_role_add(role, table), 0);
}

static void thread_base(struct sandbox_role *role, const char *name)
{
	*role = (struct sandbox_role){ .name = name };
	add(role, sandbox_thread_syscalls);
	add(role, loop_syscalls);
	add(role, queue_syscalls);
}

static void disk_role(struct sandbox_role *role, bool plain)
{
	char path[] = "/tmp/test_escape.XXXXXX";
	const struct disk_raw_config config = { .path = path, .plain = plain };
	const struct disk_events events = { 0 };
	struct disk_queue *queue;
	struct disk *disk;
	struct error err;
	int fd = mkstemp(path);

	cr_assert(fd >= 0 && ftruncate(fd, 4096) == 0);
	cr_assert_eq(disk_raw_open(&disk, &config, &err), 0, "%s", err.text);
	cr_assert_eq(disk->ops->queue_create(&queue, disk, 4, &events, &err), 0, "%s", err.text);
	thread_base(role, plain ? "disk without io_uring" : "disk");
	add(role, disk->syscalls[0]);
	add(role, disk->syscalls[1]);
	disk->ops->queue_destroy(queue);
	disk->ops->close(disk);
	close(fd);
	unlink(path);
}

static void link_role(struct sandbox_role *role)
{
	struct link *link;
	int wire[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, wire), 0);
	cr_assert_eq(link_stream_adopt(&link, wire[0], NULL, "peer"), 0);
	thread_base(role, "network by a program");
	add(role, link->syscalls[0]);
	link->ops->close(link);
	close(wire[1]);
}

static void char_role(struct sandbox_role *role, struct sandbox_role *main)
{
	char path[64];
	const struct char_config config = { .mode = CHAR_SOCKET, .path = path };
	struct char_host *c;
	struct error err;

	snprintf(path, sizeof(path), "/tmp/test_escape.%d", getpid());
	cr_assert_eq(char_open(&c, &config, "--serial", &err), 0, "%s", err.text);
	thread_base(role, "serial port");
	add(role, char_syscalls(c, 0));
	add(role, char_syscalls(c, 1));
	add(main, char_main_syscalls(c));
	char_close(c);
}

enum { ROLES = 7 };

static void make_roles(struct sandbox_role role[ROLES])
{
	const struct syscall_row *const main[] = { loop_syscalls, vm_main_syscalls, kvm_wiring_syscalls,
		kvm_main_syscalls, arch_main_syscalls };
	const struct syscall_row *const vcpu[] = { sandbox_thread_syscalls, vcpu_syscalls, kvm_wiring_syscalls,
		kvm_vcpu_syscalls, arch_vcpu_syscalls };

	role[0] = (struct sandbox_role){ .name = "main" };
	role[1] = (struct sandbox_role){ .name = "vcpu" };
	for (size_t i = 0; i < ARRAY_SIZE(main); i++)
		add(&role[0], main[i]);
	for (size_t i = 0; i < ARRAY_SIZE(vcpu); i++)
		add(&role[1], vcpu[i]);
	disk_role(&role[2], false);
	disk_role(&role[3], true);
	thread_base(&role[4], "network by a tap");
	add(&role[4], link_tap_syscalls);
	link_role(&role[5]);
	char_role(&role[6], &role[0]);
}

/* --- the drill --- */

static void gather(struct loot *l, pid_t victim)
{
	char path[64];
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	grantpt(master);
	unlockpt(master);
	ptsname_r(master, path, sizeof(path));
	setsid();
	l->directory = scratch.directory;
	l->file = scratch.file;
	l->other = scratch.other;
	gethostname(l->host, sizeof(l->host) - 1);
	l->victim = victim;
	l->tty_fd = open(path, O_RDWR);
	l->victim_fd = (int)syscall(SYS_pidfd_open, victim, 0);
	l->kvm_fd = open("/dev/kvm", O_RDWR);
	l->ns_fd = open("/proc/self/ns/net", O_RDONLY);
	l->memfd = memfd_create("program", 0);
	l->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* In the child. Exit status: 0 refused, 1 escaped, 2 the drill itself failed. */
static void try(size_t i, const struct sandbox_filter *filter, const struct sandbox_role *main, pid_t victim)
{
	const struct sandbox_confine_config config = { .mode = SANDBOX_KILL, .main = main, .nofile = 1024 };
	struct loot l = { 0 };
	struct error err;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(2);
	gather(&l, victim);
	if (sandbox_confine(&config, &err) < 0 || sandbox_seal(filter, &err) < 0)
		_exit(2);
	/* Who has no walls around him does not begin. */
	if (!filter && (open(scratch.file, O_RDONLY) >= 0 || open("/", O_RDONLY | O_DIRECTORY) >= 0))
		_exit(2);
	syscall(SYS_exit, attempts[i].run(&l) < 0 ? 0 : 1);
}

static bool refused(size_t i, const struct sandbox_filter *filter, const struct sandbox_role *main, pid_t victim)
{
	pid_t child = fork();
	int status;

	/* A way out that was found must not let it run on. */
	if (child == 0)
		try(i, filter, main, victim);
	cr_assert_eq(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == SIGSYS;
	cr_assert_neq(WEXITSTATUS(status), 2, "%s: the drill cannot be set up", attempts[i].name);
	return WEXITSTATUS(status) == 0;
}

/* Somebody else of the same user, whom no attempt may reach. */
static pid_t start_victim(void)
{
	pid_t victim = fork();

	if (victim == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGUSR1, SIG_IGN);
		for (;;)
			pause();
	}
	cr_assert_gt(victim, 0);
	return victim;
}

static void make_scratch(void)
{
	strcpy(scratch.directory, "/tmp/test_escape.XXXXXX");
	cr_assert_not_null(mkdtemp(scratch.directory));
	snprintf(scratch.file, sizeof(scratch.file), "%s/file", scratch.directory);
	snprintf(scratch.other, sizeof(scratch.other), "%s/other", scratch.directory);
	close(open(scratch.file, O_CREAT | O_WRONLY, 0600));
}

static void end(pid_t victim)
{
	unlink(scratch.file);
	unlink(scratch.other);
	rmdir(scratch.directory);
	kill(victim, SIGKILL);
	waitpid(victim, NULL, 0);
}

Test(escape, no_sealed_thread_gets_out, .timeout = 600)
{
	struct sandbox_role role[ROLES];
	pid_t victim;

	needs_filters();
	make_roles(role);
	make_scratch();
	victim = start_victim();
	cr_assert_geq(ARRAY_SIZE(attempts), 30);
	for (size_t r = 0; r < ROLES; r++) {
		struct sandbox_filter *filter;
		struct error err;

		cr_assert_eq(sandbox_filter_build(&filter, &role[r], SANDBOX_KILL, &err), 0, "%s", err.text);
		for (size_t i = 0; i < ARRAY_SIZE(attempts); i++)
			cr_expect(refused(i, filter, &role[0], victim), "%s: %s", role[r].name, attempts[i].name);
		sandbox_filter_free(filter);
	}
	end(victim);
}

Test(escape, confinement_alone_holds_what_it_is_there_for, .timeout = 600)
{
	const struct sandbox_role none = { .name = "main" };
	pid_t victim;

	if (!filters_work() || !confines())
		cr_skip_test("this host has no namespaces, or an old Landlock or none");
	make_scratch();
	victim = start_victim();
	for (size_t i = 0; i < ARRAY_SIZE(attempts); i++)
		if (attempts[i].alone)
			cr_expect(refused(i, NULL, &none, victim), "%s", attempts[i].name);
	end(victim);
}
