/* See process.h. Everything up to process_fork_all() is main's; keep() and below the keeper's. */
#include "vmm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/landlock.h"
#include "vmm/log.h"

/* What an io_uring takes is locked memory: 100 KiB for one of 1024 entries. */
#define MEMLOCK_MAX (4 * MIB)

enum { DEATHS_MAX = 10, WINDOW_S = 60, END_MS = 5000, NAME_MAX_LEN = 16 };
enum { FORK_TURN_MS = 100, FORK_TURNS = 600 };
enum { RESTART = 'r', GIVE_UP = 'g', PING = 'p' };

struct process {
	char name[NAME_MAX_LEN];
	struct process_config config;
	unsigned deaths_max, window_s;
	bool locks_memory;
	void *shared;
	size_t shared_bytes;
	struct iovec seen[PROCESS_SEEN_MAX];
	unsigned nseen;
	int fds[PROCESS_FDS_MAX];  /* ascending */
	unsigned nfds;
	struct worker *workers[PROCESS_WORKERS_MAX];
	unsigned nworkers;
	struct sandbox_role role;  /* the keeper's */
	struct sandbox_filter *filter;
	int control;               /* main: our end; keeper: its end */
	int pidfd;                 /* main; of the keeper */
	struct loop_source *source;/* main */
};

const struct syscall_row process_main_syscalls[] = {
	{ SYSCALL(ppoll, "wait a moment for the end of a device's process") },
	{ SYSCALL(waitid, "collect a device's process that ended", SYSCALL_ARG_EQ(0, P_PIDFD)) },
	SYSCALL_END,
};

const struct syscall_row process_caller_syscalls[] = {
	{ SYSCALL(restart_syscall, "wait on for a device's process, after a stop in the middle of it") },
	SYSCALL_END,
};

/* Its filter stays on its children, which narrow it by their own. */
static const struct syscall_row keeper_syscalls[] = {
	{ SYSCALL(clone, "fork a device's process, and its threads by a C library without clone3") },
	{ SYSCALL(clone3, "threads of a device with several workers") },
	{ SYSCALL(wait4, "collect a device's process that ended") },
	{ SYSCALL(kill, "end a device's process that does not answer", SYSCALL_ARG_EQ(1, SIGKILL)) },
	{ SYSCALL(pipe2, "the tomb of a life") },
	{ SYSCALL(ppoll, "wait for its child, or for a word of main") },
	{ SYSCALL(close, "ends of pipes, and what the next life makes anew") },
	{ SYSCALL(exit_group, "the process ends") },
	{ SYSCALL(prctl, "a device's process takes its name", SYSCALL_ARG_EQ(0, PR_SET_NAME)) },
	{ SYSCALL(prctl, "it ends with its keeper", SYSCALL_ARG_EQ(0, PR_SET_PDEATHSIG)) },
	{ SYSCALL(prctl, "it seals itself", SYSCALL_ARG_EQ(0, PR_SET_SECCOMP)) },
	{ SYSCALL(getppid, "has its keeper ended meanwhile?") },
	{ SYSCALL(getpid, "what its child compares that with") },
	{ SYSCALL(set_robust_list, "the C library, in a new process or thread") },
	{ SYSCALL(rseq, "the C library, in a new thread") },
	{ SYSCALL(rt_sigprocmask, "the C library, around a fork and a new thread") },
	{ SYSCALL(epoll_create1, "the loops of a life") },
	{ SYSCALL(eventfd2, "the loops of a life") },
	{ SYSCALL(mmap, "rings of an io_uring, stacks of threads; never executable") },
	{ SYSCALL(mprotect, "stacks of threads; never executable") },
	{ SYSCALL(brk, "what a life makes before it seals itself") },
	{ SYSCALL(sched_setaffinity, "a thread on the CPU that affinity= names") },
	SYSCALL_END,
};

int process_create(struct process **ret, const struct process_config *config, struct error *err)
{
	struct process *p = calloc(1, sizeof(*p));

	if (!p)
		return error_set(err, ENOMEM, "%s: out of memory for its process", config->name);
	snprintf(p->name, sizeof(p->name), "%s", config->name);
	p->config = *config;
	process_bear(p, DEATHS_MAX, WINDOW_S);
	p->role = (struct sandbox_role){ .name = p->name, .tables = { keeper_syscalls } };
	p->control = p->pidfd = -1;
	p->shared_bytes = config->shared_bytes;
	p->shared = mmap(NULL, p->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->shared == MAP_FAILED) {
		p->shared = NULL;
		process_destroy(p);
		return error_set(err, ENOMEM, "%s: out of memory for its process", config->name);
	}
	*ret = p;
	return 0;
}

void process_bear(struct process *p, unsigned deaths, unsigned window_s)
{
	p->deaths_max = deaths;
	p->window_s = window_s;
}

void process_lock_memory(struct process *p)
{
	p->locks_memory = true;
}

void *process_shared(struct process *p)
{
	return p->shared;
}

static bool sees(const struct process *p, const void *pages)
{
	for (unsigned i = 0; i < p->nseen; i++)
		if (p->seen[i].iov_base == pages)
			return true;
	return false;
}

int process_see(struct process *p, void *pages, size_t bytes)
{
	if (sees(p, pages))
		return 0;
	if (p->nseen == PROCESS_SEEN_MAX)
		return -ENOSPC;
	p->seen[p->nseen++] = (struct iovec){ pages, bytes };
	return 0;
}

int process_keep(struct process *p, int fd)
{
	unsigned i = p->nfds;

	if (fd < 0)
		return 0;
	for (unsigned k = 0; k < p->nfds; k++)
		if (p->fds[k] == fd)
			return 0;
	if (p->nfds == PROCESS_FDS_MAX)
		return -ENOSPC;
	for (; i && p->fds[i - 1] > fd; i--)
		p->fds[i] = p->fds[i - 1];
	p->fds[i] = fd;
	p->nfds++;
	return 0;
}

int process_worker(struct process *p, const char *name, struct worker **ret, struct error *err)
{
	int r;

	if (p->nworkers == PROCESS_WORKERS_MAX)
		return error_set(err, ENOSPC, "%s: at most %d threads in a process", name, PROCESS_WORKERS_MAX);
	r = worker_create(ret, name, err);
	if (r == 0)
		p->workers[p->nworkers++] = *ret;
	return r;
}

unsigned process_workers(const struct process *p)
{
	return p->nworkers;
}

struct worker *process_worker_at(const struct process *p, unsigned i)
{
	return p->workers[i];
}

int process_allow(struct process *p, const struct syscall_row *table)
{
	return table ? sandbox_role_add(&p->role, table) : 0;
}

const struct sandbox_role *process_keeper_role(const struct process *p)
{
	return &p->role;
}

int process_make_filters(struct process *p, enum sandbox_mode mode, struct error *err)
{
	struct sandbox_role all = p->role;
	int r = 0;

	for (unsigned i = 0; i < p->nworkers && r == 0; i++) {
		const struct sandbox_role *w = worker_role(p->workers[i]);

		for (unsigned t = 0; t < SANDBOX_ROLE_TABLES && w->tables[t] && r == 0; t++)
			r = sandbox_role_add(&all, w->tables[t]);
	}
	if (r < 0)
		return error_set(err, ENOSPC, "%s: a sandbox role has too many tables", p->name);
	for (unsigned i = 0; i < p->nworkers && r == 0; i++)
		r = worker_make_filter(p->workers[i], mode, err);
	return r ? r : sandbox_filter_build(&p->filter, &all, mode, err);
}

/* --- the keeper --- */

/* How a life ended, for the log. */
static void describe(char *text, size_t size, int status)
{
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		snprintf(text, size, "made a system call that its filter has no row for");
	else if (WIFSIGNALED(status))
		snprintf(text, size, "was ended by signal %d", WTERMSIG(status));
	else
		snprintf(text, size, "ended with status %d", WEXITSTATUS(status));
}

static void live(struct process *p, int tomb, pid_t keeper)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(p->control);
	if (getppid() == keeper)
		p->config.main(p->config.ctx, tomb);
	_exit(1);
}

/* The end of the last life, or main's wish that there be no more, which does not return. */
struct watch {
	struct process *p;
	int children;            /* signalfd */
	bool wanted;             /* main asked for this end */
};

static void obey(struct watch *w, pid_t pid)
{
	char word = GIVE_UP;

	/* Nothing to read: its end is closed, main is gone. */
	if (read(w->p->control, &word, 1) == 1 && word != GIVE_UP) {
		if (word != RESTART)
			return;
		w->wanted = true;
		if (pid > 0)
			kill(pid, SIGKILL);
		return;
	}
	if (pid > 0) {
		kill(pid, SIGKILL);
		wait4(pid, NULL, 0, NULL);
	}
	_exit(0);
}

/* Until `fd` is ready; words of main meanwhile. */
static void wait_for(struct watch *w, int fd, pid_t pid)
{
	struct pollfd fds[] = { { .fd = fd, .events = POLLIN }, { .fd = w->p->control, .events = POLLIN } };

	do {
		fds[0].revents = fds[1].revents = 0;
		ppoll(fds, 2, NULL, NULL);
		if (fds[1].revents)
			obey(w, pid);
	} while (!fds[0].revents);
}

static int wait_for_end(struct watch *w, pid_t pid)
{
	struct signalfd_siginfo info;
	int status = 0;

	do {
		wait_for(w, w->children, pid);
		if (read(w->children, &info, sizeof(info)) < 0)
			continue;
	} while (wait4(pid, &status, WNOHANG, NULL) != pid);
	return status;
}

/* A limit of processes, or of memory, may be there for a while only. */
static pid_t fork_patiently(struct watch *w)
{
	const struct timespec turn = { .tv_nsec = FORK_TURN_MS * 1000000L };
	struct pollfd word = { .fd = w->p->control, .events = POLLIN };
	pid_t pid = fork();

	for (unsigned turns = 0; pid < 0 && turns < FORK_TURNS; turns++) {
		if (!turns)
			log_warn("%s: cannot fork: %s; trying again", w->p->name, strerror(errno));
		if (ppoll(&word, 1, &turn, NULL) > 0)
			obey(w, 0);
		pid = fork();
	}
	return pid;
}

/* One life, from the fork until nothing of it is left. */
static int one_life(struct watch *w)
{
	pid_t keeper = getpid(), pid;
	int tomb[2], status;

	if (pipe2(tomb, O_CLOEXEC) < 0)
		_exit(1);
	pid = fork_patiently(w);
	if (pid == 0) {
		close(tomb[0]);
		close(w->children);
		live(w->p, tomb[1], keeper);
	}
	close(tomb[1]);
	if (pid < 0) {
		log_error("%s: cannot fork: %s", w->p->name, strerror(errno));
		_exit(1);
	}
	status = wait_for_end(w, pid);
	/* What it left with the kernel could still write into guest memory. */
	wait_for(w, tomb[0], 0);
	close(tomb[0]);
	return status;
}

static int64_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static void keep(struct process *p, int children)
{
	struct watch w = { .p = p, .children = children };
	int64_t since = seconds();
	unsigned deaths = 0;

	for (;;) {
		char how[64];
		int status;

		w.wanted = false;
		status = one_life(&w);
		describe(how, sizeof(how), status);
		if (w.wanted) {
			log_info("%s: its process was ended on purpose; starting another", p->name);
			continue;
		}
		if (seconds() - since >= (int64_t)p->window_s) {
			since = seconds();
			deaths = 0;
		}
		if (++deaths > p->deaths_max) {
			log_error("%s: its process %s, %u times in %u s; giving up", p->name, how, deaths,
				p->window_s);
			_exit(1);
		}
		log_warn("%s: its process %s; starting another", p->name, how);
	}
}

/* All but those named, our end of the channel, and the log. */
static void close_others(struct process *p)
{
	unsigned from = STDERR_FILENO + 1;

	process_keep(p, p->control);
	dup2(STDERR_FILENO, STDIN_FILENO);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	for (unsigned i = 0; i < p->nfds; i++) {
		unsigned fd = (unsigned)p->fds[i];

		if (fd > from)
			syscall(SYS_close_range, from, fd - 1, 0);
		from = MAX(from, fd + 1);
	}
	syscall(SYS_close_range, from, ~0u, 0);
}

static __attribute__((noreturn)) void keeper(struct process *p, const struct sandbox_confine_config *confine,
	enum sandbox_mode mode)
{
	struct sandbox_confine_config own = { 0 };
	sigset_t all;
	struct error err = { "" };
	int children;

	if (confine)
		own = *confine;
	own.memlock = p->locks_memory ? RLIM_INFINITY : MEMLOCK_MAX;

	prctl(PR_SET_NAME, p->name);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_DFL);
	close_others(p);
	children = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (children < 0 || (confine && sandbox_give_up(&own, &err) < 0)) {
		log_error("%s: its process cannot be confined: %s", p->name, err.text);
		_exit(1);
	}
	/* Now: another user would have it forgotten. Who ended before is noticed by the channel. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* A domain inside main's: what is in it cannot touch who is outside. */
	if (confine)
		landlock_all(false, false);
	if (mode != SANDBOX_OFF && sandbox_seal(p->filter, &err) < 0) {
		log_error("%s: %s", p->name, err.text);
		_exit(1);
	}
	keep(p, children);
	_exit(1);
}

/* --- main --- */

/*
 * As fork(), but in a namespace of its own for processes where we have the right, so that the
 * kernel kills whatever the keeper leaves, and with a pidfd. The C library does not hear of it; the
 * keeper takes no lock that knows its owner, and its own children come from fork().
 */
static pid_t clone_keeper(int *pidfd)
{
	const unsigned long flags = CLONE_PIDFD | SIGCHLD;
	long r = syscall(SYS_clone, flags | CLONE_NEWPID, NULL, pidfd, NULL, NULL);

	if (r < 0 && (errno == EPERM || errno == EINVAL || errno == ENOSPC))
		r = syscall(SYS_clone, flags, NULL, pidfd, NULL, NULL);
	return (pid_t)r;
}

/* What the others share with main, or among them, is not for this one. */
static void forget_others(const struct process *p, struct process *const *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct process *other = list[i];

		if (other == p)
			continue;
		munmap(other->shared, other->shared_bytes);
		for (unsigned k = 0; k < other->nseen; k++)
			if (!sees(p, other->seen[k].iov_base))
				munmap(other->seen[k].iov_base, other->seen[k].iov_len);
	}
}

/* What any of them sees goes to all children, who forget what is not theirs. */
static int let_see(const struct process *p, int advice)
{
	int r = 0;

	for (unsigned i = 0; i < p->nseen && r == 0; i++)
		r = madvise(p->seen[i].iov_base, p->seen[i].iov_len, advice);
	return r < 0 ? -errno : 0;
}

static int fork_one(struct process *p, struct process *const *list, unsigned n, enum sandbox_mode mode,
	const struct sandbox_confine_config *confine, struct error *err)
{
	int ends[2], pidfd = -1;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return error_set(err, errno, "%s: no channel to its process: %s; raise ulimit -n", p->name,
			strerror(errno));
	pid = clone_keeper(&pidfd);
	if (pid == 0) {
		forget_others(p, list, n);
		p->control = ends[1];
		keeper(p, confine, mode);
	}
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return error_set(err, errno, "%s: cannot start its process: %s; raise the limit of processes "
			"(ulimit -u)", p->name, strerror(errno));
	}
	p->control = ends[0];
	p->pidfd = pidfd;
	return 0;
}

int process_fork_all(struct process *const *list, unsigned n, enum sandbox_mode mode,
	const struct sandbox_confine_config *confine, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; i < n && r == 0; i++)
		if (list[i]->config.fds && list[i]->config.fds(list[i]->config.ctx) < 0)
			r = error_set(err, EMFILE, "%s: more than %d file descriptors for its process", list[i]->name,
				PROCESS_FDS_MAX);
	for (unsigned i = 0; i < n && r == 0; i++)
		if (let_see(list[i], MADV_DOFORK) < 0)
			r = error_set(err, ENOMEM, "%s: what it shares with others cannot be given to its process",
				list[i]->name);
	for (unsigned i = 0; i < n && r == 0; i++)
		r = fork_one(list[i], list, n, mode, confine, err);
	for (unsigned i = 0; i < n; i++)
		(void)!let_see(list[i], MADV_DONTFORK);
	return r;
}

bool process_forked(const struct process *p)
{
	return p->pidfd >= 0;
}

static void on_gone(void *ctx, unsigned events)
{
	struct process *p = ctx;
	siginfo_t info;

	(void)events;
	loop_remove(p->source);
	p->source = NULL;
	waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED);
	p->config.gone(p->config.ctx);
}

int process_watch(struct process *p, struct loop *loop, struct error *err)
{
	int r = p->config.gone ? loop_add(loop, p->pidfd, LOOP_READ, on_gone, p, &p->source) : 0;

	return r < 0 ? error_set(err, -r, "%s: its process cannot be watched: %s", p->name, strerror(-r)) : 0;
}

/* false: nobody is there to hear it. */
static bool say(struct process *p, char word)
{
	/* A full channel: it was told often enough. */
	return p->control >= 0 && (write(p->control, &word, 1) == 1 || errno == EAGAIN);
}

bool process_alive(struct process *p)
{
	return say(p, PING);
}

void process_restart(struct process *p)
{
	say(p, RESTART);
}

void process_give_up(struct process *p)
{
	say(p, GIVE_UP);
}

static void end_keeper(struct process *p)
{
	struct pollfd fd = { .fd = p->pidfd, .events = POLLIN };
	const struct timespec most = { .tv_sec = END_MS / 1000 };
	siginfo_t info;

	close(p->control);
	/* A disk that hangs in the kernel holds its process, but need not hold us. */
	if (ppoll(&fd, 1, &most, NULL) > 0)
		waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED);
	close(p->pidfd);
}

void process_destroy(struct process *p)
{
	if (!p)
		return;
	loop_remove(p->source);
	if (p->pidfd >= 0)
		end_keeper(p);
	for (unsigned i = 0; i < p->nworkers; i++)
		worker_destroy(p->workers[i]);
	if (p->shared)
		munmap(p->shared, p->shared_bytes);
	sandbox_filter_free(p->filter);
	free(p);
}
