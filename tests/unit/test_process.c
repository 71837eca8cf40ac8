/*
 * A process and its keeper: lives, deaths and ends; and what somebody can reach who has taken over
 * such a process, with all walls around it, without its filter, and in its keeper.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "devices/host/disk.h"
#include "devices/virtio/queue.h"
#include "tests/unit/sealed.h"
#include "vmm/loop.h"
#include "vmm/process.h"

enum { HANG_MS = 10000, WAYS_MAX = 64 };

/* Shared by a test and the lives of its process. */
struct board {
	_Atomic unsigned lives, done, gone;
	_Atomic unsigned order;      /* die after so many lives are counted; 0: stay */
	int status[WAYS_MAX];        /* of each way out: 0 not tried, 1 refused, 2 it is open */
};

static struct process *p;
static struct board *board;
static struct loop *loop;

static void on_gone(void *ctx)
{
	(void)ctx;
	atomic_fetch_add(&board->gone, 1);
	loop_stop(loop);
}

static void make(void (*main)(void *ctx, int tomb), size_t shared)
{
	const struct process_config config = {
		.name = "_test_keep",
		.main = main,
		.gone = on_gone,
		.shared_bytes = shared,
	};
	struct worker *w;
	struct error err;

	needs_filters(); /* nor does an emulator make namespaces */
	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(loop_create(&loop, &err), 0);
	cr_assert_eq(process_create(&p, &config, &err), 0, "%s", err.text);
	cr_assert_eq(process_worker(p, "_test_q0", &w, &err), 0);
	cr_assert_eq(worker_allow(w, queue_syscalls), 0);
	board = process_shared(p);
}

static void start(enum sandbox_mode mode, const struct sandbox_confine_config *confine)
{
	struct error err;

	cr_assert_eq(process_make_filters(p, mode, &err), 0, "%s", err.text);
	cr_assert_eq(process_fork_all(&p, 1, mode, confine, &err), 0, "%s", err.text);
	cr_assert_eq(process_watch(p, loop, &err), 0);
}

static void end(void)
{
	process_destroy(p);
	loop_destroy(loop);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
}

static bool until(_Atomic unsigned *counter, unsigned n)
{
	for (unsigned ms = 0; ms < HANG_MS && atomic_load(counter) < n; ms++)
		usleep(1000);
	return atomic_load(counter) >= n;
}

/* --- lives --- */

static void live(void *ctx, int tomb)
{
	unsigned mine = atomic_fetch_add(&board->lives, 1) + 1;

	(void)ctx;
	(void)tomb;
	while (!atomic_load(&board->order) || mine > atomic_load(&board->order))
		usleep(1000);
}

Test(process, it_is_started_again_until_it_dies_too_often, .timeout = 180)
{
	make(live, 4096);
	process_bear(p, 4, 60);
	start(SANDBOX_OFF, NULL);
	cr_assert(until(&board->lives, 1));
	cr_assert(process_alive(p));
	atomic_store(&board->order, 3);
	cr_assert(until(&board->lives, 4));
	usleep(20000);
	cr_assert_eq(board->lives, 4, "the fourth stays");
	atomic_store(&board->order, 100);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(board->gone, 1);
	cr_assert_eq(board->lives, 5);
	cr_assert(!process_alive(p));
	end();
}

Test(process, what_main_asks_for_does_not_count_as_a_death, .timeout = 180)
{
	make(live, 4096);
	process_bear(p, 1, 60);
	start(SANDBOX_OFF, NULL);
	for (unsigned i = 1; i <= 10; i++) {
		cr_assert(until(&board->lives, i));
		process_restart(p);
	}
	cr_assert(until(&board->lives, 11));
	process_give_up(p);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(board->gone, 1);
	end();
}

/* A grandchild that holds the tomb, as a ring in the kernel does, for a while. */
static void leave_something(void *ctx, int tomb)
{
	(void)ctx;
	(void)tomb;
	if (atomic_fetch_add(&board->lives, 1))
		live(ctx, tomb);
	if (fork() == 0) {
		usleep(300000);
		atomic_store(&board->done, 1);
		_exit(0);
	}
}

Test(process, the_next_life_begins_when_nothing_is_left_of_the_last, .timeout = 180)
{
	make(leave_something, 4096);
	start(SANDBOX_OFF, NULL);
	cr_assert(until(&board->lives, 2));
	cr_assert_eq(atomic_load(&board->done), 1);
	end();
}

static long resident(void)
{
	long size, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (fscanf(f, "%ld %ld", &size, &pages) != 2)
		pages = 0;
	fclose(f);
	return pages;
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(process, a_hundred_of_them_leave_nothing, .timeout = 300)
{
	unsigned fds = 0;
	long pages = 0;

	for (unsigned i = 0; i < 100; i++) {
		make(live, 4096);
		start(SANDBOX_OFF, NULL);
		if (i % 2)
			cr_assert(until(&board->lives, 1));
		if (i % 4 == 3)
			process_restart(p);
		end();
		if (i == 20) {
			fds = open_fds();
			pages = resident();
		}
	}
	cr_assert_eq(open_fds(), fds);
	cr_assert_leq(resident(), pages + 64);
}

/* --- ways out --- */

/* What the machine has and this process must not reach; made before the fork. */
static struct {
	int kvm, vm, other_disk, other_event, kept, channel;
	struct process *other;
	void *other_shared, *hidden;
	pid_t machine, victim;
	char path[64];
} loot;

#define WAY(name) static long name(void)
static char word[8];
static struct iovec here = { word, sizeof(word) };

WAY(kvm_by_its_fd) { return ioctl(loot.kvm, KVM_GET_API_VERSION, 0); }
WAY(vm_by_its_fd) { return ioctl(loot.vm, KVM_CREATE_VCPU, 7); }
WAY(read_other_disk) { return pread(loot.other_disk, word, 1, 0); }
WAY(write_other_disk) { return pwrite(loot.other_disk, word, 1, 0); }
WAY(ring_other_event) { return write(loot.other_event, &(uint64_t){ 1 }, 8); }
WAY(other_channel) { return write(loot.channel, "r", 1); }
WAY(other_devices_desk) { return write(STDERR_FILENO, loot.other_shared, 1) == 1 ? 0 : -1; }
WAY(memory_that_is_hidden) { return write(STDERR_FILENO, loot.hidden, 1) == 1 ? 0 : -1; }
WAY(any_fd_but_its_own)
{
	struct stat st;

	for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
		if (fd != loot.kept && syscall(SYS_fstat, fd, &st) == 0 && S_ISREG(st.st_mode))
			return fd;
	return -1;
}
WAY(open_host_file) { return open("/etc/passwd", O_RDONLY); }
WAY(open_other_disk) { return open(loot.path, O_RDWR); }
WAY(open_kvm) { return open("/dev/kvm", O_RDWR); }
WAY(open_own_memory) { return open("/proc/self/mem", O_RDWR); }
WAY(open_machines_memory) { char s[64]; snprintf(s, sizeof(s), "/proc/%d/mem", loot.machine); return open(s, O_RDWR); }
WAY(read_machine) { return process_vm_readv(loot.machine, &here, 1, &here, 1, 0); }
WAY(write_machine) { return process_vm_writev(loot.machine, &here, 1, &here, 1, 0); }
WAY(trace_machine) { return ptrace(PTRACE_SEIZE, loot.machine, 0, 0); }
WAY(trace_victim) { return ptrace(PTRACE_SEIZE, loot.victim, 0, 0); }
WAY(signal_machine) { return kill(loot.machine, SIGUSR1); }
WAY(signal_all) { return kill(-1, SIGUSR1); }
WAY(signal_keeper) { return kill(getppid(), SIGUSR1); }
WAY(trace_keeper) { return ptrace(PTRACE_SEIZE, getppid(), 0, 0); }
WAY(fd_of_the_machine) { return syscall(SYS_pidfd_open, loot.machine, 0); }
WAY(socket_inet) { return socket(AF_INET, SOCK_STREAM, 0); }
WAY(socket_netlink) { return socket(AF_NETLINK, SOCK_RAW, 0); }
WAY(run_a_program) { char *argv[] = { (char *)"sh", NULL }; return execve("/bin/sh", argv, NULL); }
WAY(another_process) { pid_t c = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); if (c == 0) syscall(SYS_exit_group, 0); return c; }
WAY(executable_memory) { return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0; }
WAY(new_ring) { char params[120] = { 0 }; return syscall(SYS_io_uring_setup, 4, params); }
WAY(new_namespace) { return syscall(SYS_unshare, 0x10000000 /* CLONE_NEWUSER */); }
WAY(more_memory_locked) { uint64_t r[2] = { 1 << 30, 1 << 30 }; return syscall(SYS_prlimit64, 0, 8, r, NULL); }
WAY(be_traced) { return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); }
WAY(outlive_its_keeper) { return prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0); }

/* What holds: with the filter of a worker; `alone` without any filter; `keeper` in the keeper's. */
static const struct {
	const char *name;
	long (*run)(void);
	bool alone, keeper;
} ways[] = {
#define A(f) { #f, f, true, true }   /* by what it does not hold, by namespaces, Landlock or rights */
#define K(f) { #f, f, false, true }  /* by the keeper's filter too */
#define W(f) { #f, f, false, false } /* by the worker's only */
	A(kvm_by_its_fd), A(vm_by_its_fd), A(read_other_disk), A(write_other_disk), A(ring_other_event),
	A(other_channel), A(other_devices_desk), A(memory_that_is_hidden), A(any_fd_but_its_own), A(open_host_file),
	A(open_other_disk), A(open_kvm), A(open_own_memory), A(open_machines_memory), A(read_machine),
	A(write_machine), A(trace_machine), A(trace_victim), A(signal_machine), K(signal_all), K(signal_keeper),
	K(trace_keeper), A(fd_of_the_machine), K(socket_inet), K(socket_netlink), A(run_a_program), W(another_process),
	K(executable_memory), K(new_ring), K(new_namespace), A(more_memory_locked), K(be_traced), W(outlive_its_keeper),
};

static bool has_filter, is_worker;

/* Life n tries way n; who is killed for it, or refused, has not got out. */
static void try(void *ctx, int tomb)
{
	unsigned n = atomic_fetch_add(&board->lives, 1);
	struct error err;

	(void)ctx;
	(void)tomb;
	if (n >= ARRAY_SIZE(ways)) {
		atomic_store(&board->done, 1);
		live(ctx, tomb);
	}
	board->status[n] = 1;
	if (has_filter && is_worker && loop_renew(worker_loop(process_worker_at(p, 0))) == 0) {
		/* The filter as worker_run_here() loads it, and then the attempt. */
		loop_stop(worker_loop(process_worker_at(p, 0)));
		if (worker_run_here(process_worker_at(p, 0), &err) < 0)
			board->status[n] = 2;
	}
	if (ways[n].run() >= 0)
		board->status[n] = 2;
	for (;;)
		syscall(SYS_exit, 0);
}

static int in_stage_3(void *ctx, const struct sandbox_confine_config *config, struct error *err)
{
	struct process *both[] = { p, loot.other };

	(void)ctx;
	return process_fork_all(both, 2, has_filter ? SANDBOX_KILL : SANDBOX_OFF, config, err);
}

static void stay(void *ctx, int tomb)
{
	(void)ctx;
	(void)tomb;
	for (;;)
		pause();
}

static void make_loot(void)
{
	const struct process_config config = { .name = "_other_keep", .main = stay, .shared_bytes = 4096 };
	struct error err;
	int fd;

	loot.machine = getpid();
	loot.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	loot.vm = loot.kvm < 0 ? -1 : ioctl(loot.kvm, KVM_CREATE_VM, 0);
	strcpy(loot.path, "/tmp/test_process.XXXXXX");
	loot.other_disk = mkstemp(loot.path);
	loot.other_event = eventfd(0, 0);
	loot.hidden = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	madvise(loot.hidden, 4096, MADV_DONTFORK);
	fd = memfd_create("kept", 0);
	loot.kept = fd;
	loot.channel = 900;
	cr_assert_eq(process_create(&loot.other, &config, &err), 0);
	loot.other_shared = process_shared(loot.other);
	cr_assert_eq(process_keep(p, loot.kept), 0);
	cr_assert_geq(ARRAY_SIZE(ways), 30);
	cr_assert_leq(ARRAY_SIZE(ways), (size_t)WAYS_MAX);
}

/* The machine: stages 2 to 4 as main goes through them. Its exit status: how many ways are open. */
static void machine(pid_t victim)
{
	struct sandbox_confine_config confine = { .mode = SANDBOX_KILL, .nofile = 1024, .fork = in_stage_3 };
	struct error err;
	int bad = 0;

	signal(SIGUSR1, SIG_IGN);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(100);
	make(try, sizeof(struct board));
	process_bear(p, 1000, 60);
	loot.victim = victim;
	make_loot();
	if (process_make_filters(p, SANDBOX_KILL, &err) < 0 || process_make_filters(loot.other, SANDBOX_KILL, &err) < 0 ||
		sandbox_confine(&confine, &err) < 0)
		_exit(101);
	if (!until(&board->done, 1))
		_exit(102);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		bool counts = !has_filter ? ways[i].alone : is_worker || ways[i].keeper;

		if (counts && board->status[i] != 1) {
			fprintf(stderr, "%s: %s\n", ways[i].name, board->status[i] ? "open" : "not tried");
			bad++;
		}
	}
	process_destroy(p);
	process_destroy(loot.other);
	_exit(bad);
}

static void drill(bool filter, bool worker)
{
	pid_t victim = fork(), child;
	int status;

	if (victim == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGUSR1, SIG_IGN);
		for (;;)
			pause();
	}
	has_filter = filter;
	is_worker = worker;
	child = fork();
	if (child == 0)
		machine(victim);
	cr_assert_eq(waitpid(child, &status, 0), child);
	kill(victim, SIGKILL);
	waitpid(victim, NULL, 0);
	cr_assert(WIFEXITED(status), "%x", status);
	cr_assert_eq(WEXITSTATUS(status), 0, "%d", WEXITSTATUS(status));
}

Test(process, nobody_gets_out_of_a_worker, .timeout = 300)
{
	needs_filters();
	drill(true, true);
}

Test(process, nobody_gets_out_of_a_keeper, .timeout = 300)
{
	needs_filters();
	drill(true, false);
}

Test(process, its_walls_hold_without_a_filter, .timeout = 300)
{
	if (!filters_work() || !confines())
		cr_skip_test("this host has no namespaces, or an old Landlock or none");
	drill(false, false);
}
