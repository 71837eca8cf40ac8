/*
 * Stages 1 and 3 of the sandbox (vmm/sandbox.h): the process gives up what it does not need any
 * more.
 *
 * Namespaces come first and Landlock is the second layer. A host that forbids namespaces to us (no
 * user namespaces for ordinary users) leaves Landlock; one that has neither leaves the filters.
 * --sandbox=auto takes what there is and says at info level what there is not; strict refuses to
 * start. sandbox_confine() runs on the only thread, but for the one that made namespaces ahead.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/jail.h"
#include "vmm/landlock.h"
#include "vmm/log.h"
#include "vmm/sandbox.h"

enum { THREAD_FD = O_EXCL /* PIDFD_THREAD of pidfd_open(2): a thread, not its process */ };

int sandbox_early(const int *keep_fds, size_t nkeep, struct error *err)
{
	const struct rlimit none = { 0, 0 };
	unsigned from = STDERR_FILENO + 1;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set(err, errno, "cannot set no_new_privs: %s", strerror(errno));
	setrlimit(RLIMIT_CORE, &none);
	/* A stray fd of the caller's would be a way out of the sandbox. `keep_fds` is ascending. */
	for (size_t i = 0; i < nkeep; i++) {
		if ((unsigned)keep_fds[i] < from)
			continue;
		if ((unsigned)keep_fds[i] > from)
			syscall(SYS_close_range, from, (unsigned)keep_fds[i] - 1, 0);
		from = (unsigned)keep_fds[i] + 1;
	}
	syscall(SYS_close_range, from, ~0u, 0);
	return 0;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* An ordinary user first becomes the only user of a namespace of his own. */
static int own_user_namespace(void)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[64];

	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	write_text("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	if (write_text("/proc/self/uid_map", map) < 0)
		return -EPERM;
	snprintf(map, sizeof(map), "%u %u 1", gid, gid);
	return write_text("/proc/self/gid_map", map);
}

/*
 * The root becomes an empty, read-only file system. Both pivot_root arguments are the new root: the
 * old one then lies on top of it and is unmounted, which needs no directory of ours.
 */
static int empty_root(void)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;

	if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0 ||
		mount("tmpfs", "/tmp", "tmpfs", flags, "nr_inodes=2,nr_blocks=1,mode=555") < 0 ||
		chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
		umount2(".", MNT_DETACH | UMOUNT_NOFOLLOW) < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}

static const struct {
	int flag;
	const char *name, *path;
} kinds[SANDBOX_KINDS] = {
	{ CLONE_NEWNS, "mounts", "/proc/thread-self/ns/mnt" },
	{ CLONE_NEWNET, "network", "/proc/thread-self/ns/net" },
	{ CLONE_NEWIPC, "IPC", "/proc/thread-self/ns/ipc" },
	{ CLONE_NEWUTS, "host name", "/proc/thread-self/ns/uts" },
	{ CLONE_NEWCGROUP, "cgroups", "/proc/thread-self/ns/cgroup" },
};

enum { ALL_KINDS = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP, LIST_MAX = 64 };

/* All at once, or, when the kernel refuses one of them, each by itself. What is still missing. */
static int make_each(int missing)
{
	if (!missing || unshare(missing) == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if ((missing & kinds[i].flag) && unshare(kinds[i].flag) == 0)
			missing &= ~kinds[i].flag;
	return missing;
}

void sandbox_ahead_init(struct sandbox_ahead *ret)
{
	*ret = (struct sandbox_ahead){ .thread_fd = -1 };
	for (size_t i = 0; i < ARRAY_SIZE(ret->fd); i++)
		ret->fd[i] = -1;
}

void sandbox_ahead_others(struct sandbox_ahead *ret)
{
	const int others = ALL_KINDS & ~CLONE_NEWNET;

	/* As main found itself, which nobody has changed yet. */
	if (getauxval(AT_EUID) != 0)
		return;
	ret->made |= others & ~make_each(others);
	ret->thread_fd = (int)syscall(SYS_pidfd_open, syscall(SYS_gettid), THREAD_FD);
	/* Before Linux 6.9: one by one, while there is a /proc. */
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && ret->thread_fd < 0; i++) {
		if (ret->made & kinds[i].flag)
			ret->fd[i] = open(kinds[i].path, O_RDONLY | O_CLOEXEC);
		if (ret->fd[i] < 0)
			ret->made &= ~kinds[i].flag;
	}
	/* A namespace of mounts is worth nothing with the host's files in it. */
	if ((ret->made & CLONE_NEWNS) && empty_root() < 0)
		ret->made &= ~CLONE_NEWNS;
}

void sandbox_ahead_network(struct sandbox_ahead *ret)
{
	/* Left to stage 3 without a descriptor of the thread: /proc has gone with the others. */
	if (ret->thread_fd >= 0)
		ret->made |= CLONE_NEWNET & ~make_each(CLONE_NEWNET);
}

bool sandbox_ahead_complete(const struct sandbox_ahead *ahead)
{
	return ahead->made == ALL_KINDS;
}

void sandbox_ahead_close(struct sandbox_ahead *ahead)
{
	if (ahead->thread_fd >= 0)
		close(ahead->thread_fd);
	for (size_t i = 0; i < ARRAY_SIZE(ahead->fd); i++)
		if (ahead->fd[i] >= 0)
			close(ahead->fd[i]);
	sandbox_ahead_init(ahead);
}

/* What is still to be made, of `all`, once those made ahead were entered. */
static int enter(const struct sandbox_ahead *made, int all)
{
	int these = all & made->made;

	if (made->thread_fd >= 0)
		return these && setns(made->thread_fd, these) == 0 ? all & ~these : all;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if ((these & kinds[i].flag) && setns(made->fd[i], kinds[i].flag) == 0)
			all &= ~kinds[i].flag;
	return all;
}

/* Those made ahead, once they are; NULL: none. */
static struct sandbox_ahead *ahead(const struct sandbox_confine_config *config)
{
	if (config->ahead && config->wait)
		config->wait(config->ctx);
	return config->ahead;
}

/*
 * No namespace for processes: unshare(2) puts only children into it, and after it a process cannot
 * start threads. That nobody can be seen or signalled is the filters' and Landlock's business.
 */
static int namespaces(const struct sandbox_confine_config *config, int wanted, bool own_root, int *ret_why)
{
	int missing = wanted, left;

	*ret_why = 0;
	if (ahead(config)) {
		missing = enter(config->ahead, wanted);
		sandbox_ahead_close(config->ahead);
	}
	left = missing && geteuid() == 0 ? make_each(missing) : missing;
	/* Root in a container often lacks the right; then he is as good as an ordinary user. */
	if (left == ALL_KINDS) {
		*ret_why = -own_user_namespace();
		left = *ret_why ? ALL_KINDS : make_each(ALL_KINDS);
	}
	if (left && !*ret_why)
		*ret_why = errno;
	if ((missing & ~left & CLONE_NEWNS) && !own_root && empty_root() < 0) {
		*ret_why = errno;
		left |= CLONE_NEWNS;
	}
	return left;
}

/* In auto the machine goes without it; strict refuses. */
static int cannot(const struct sandbox_confine_config *config, int code, const char *sentence, struct error *err)
{
	if (config->how == SANDBOX_CONFINE_STRICT)
		return error_set(err, code ? code : EPERM, "--sandbox=strict: %s; say --sandbox=auto to go without",
			sentence);
	log_info("sandbox: %s", sentence);
	return 0;
}

static int own_namespaces(const struct sandbox_confine_config *config, struct error *err)
{
	char list[LIST_MAX] = "", sentence[2 * LIST_MAX + 64];
	int why, missing, wanted = ALL_KINDS;
	bool own_root = false;
	size_t at = 0;

	if (config->jail) {
		/* Before this thread has another root, which the one beside it may share. */
		struct sandbox_ahead *made = ahead(config);

		own_root = config->jail->root_fd >= 0;
		/* A root of its own would be left for the one that was made ahead. */
		if (own_root && made)
			sandbox_ahead_close(made);
		wanted &= config->jail->netns_fd >= 0 ? ~CLONE_NEWNET : ALL_KINDS;
		if (jail_enter(config->jail, err) < 0)
			return -EPERM;
	}
	missing = namespaces(config, wanted, own_root, &why);
	if (!missing)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (missing & kinds[i].flag)
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", kinds[i].name);
	snprintf(sentence, sizeof(sentence), "this host gives no namespace of its own for %s (%s)", list,
		strerror(why));
	return cannot(config, why, sentence, err);
}

static int second_layer(const struct sandbox_confine_config *config, struct error *err)
{
	const struct sandbox_role *main = config->main;
	int abi = landlock_all(!main || sandbox_role_has(main, SYS_unlinkat),
		!main || sandbox_role_has(main, SYS_pidfd_send_signal));

	if (abi < 0)
		return cannot(config, -abi, "this kernel has no Landlock, or it is not among lsm= on its command line",
			err);
	if (abi < LANDLOCK_ABI_TRUNCATE)
		return cannot(config, 0, "this kernel's Landlock does not stop files from being truncated (Linux 6.2)",
			err);
	if (abi < LANDLOCK_ABI_NET)
		return cannot(config, 0, "this kernel's Landlock does not know of TCP (Linux 6.7)", err);
	if (abi < LANDLOCK_ABI_SCOPES)
		return cannot(config, 0, "this kernel's Landlock does not stop signals and abstract sockets (Linux 6.12)",
			err);
	return 0;
}

/*
 * With no_new_privs an exec gives nothing back, so the bounding set only matters to those who look
 * at it; that is 41 calls. While there is the right to.
 */
static void drop_bounding_set(void)
{
	for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

	/* What is ambient goes with what is permitted: capabilities(7). */
	return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

int sandbox_give_up(const struct sandbox_confine_config *config, struct error *err)
{
	const struct rlimit files = { config->nofile, config->nofile };
	struct rlimit locked = { config->memlock, config->memlock };
	int r;

	/*
	 * Not RLIMIT_NPROC: io_uring and KVM start kernel threads in our name, which it would
	 * refuse. No role of a thread may clone.
	 */
	setrlimit(RLIMIT_NOFILE, &files);
	if (setrlimit(RLIMIT_MEMLOCK, &locked) < 0 && getrlimit(RLIMIT_MEMLOCK, &locked) == 0) {
		locked.rlim_cur = locked.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &locked);
	}
	if (config->how == SANDBOX_CONFINE_STRICT || config->jail)
		drop_bounding_set();
	if (config->jail && jail_become(config->jail, err) < 0)
		return -EPERM;
	r = drop_capabilities();
	if (r < 0)
		return error_set(err, -r, "cannot drop capabilities: %s", strerror(-r));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return 0;
}

int sandbox_confine(const struct sandbox_confine_config *config, struct error *err)
{
	int r;

	if (config->mode == SANDBOX_OFF || config->how == SANDBOX_CONFINE_OFF)
		return config->fork ? config->fork(config->ctx, NULL, err) : 0;
	r = own_namespaces(config, err);
	if (r == 0)
		r = second_layer(config, err);
	if (r == 0 && config->fork)
		r = config->fork(config->ctx, config, err);
	return r < 0 ? r : sandbox_give_up(config, err);
}
