/*
 * Stages 1 and 3 of the sandbox (vmm/sandbox.h): the process gives up what it does not need any
 * more.
 *
 * Namespaces come first and Landlock is the second layer. A host that forbids namespaces to us (no
 * user namespaces for ordinary users) leaves Landlock; one that has neither leaves the filters.
 * What could not be had is said at info level. Everything here runs while the process has one
 * thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/sandbox.h"

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

/* A namespace of the calling thread's; the fd, or below 0. */
static int make(int kind, const char *path)
{
	return unshare(kind) < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
}

void sandbox_go_ahead(struct sandbox_ahead *ret)
{
	*ret = (struct sandbox_ahead){ -1, -1 };
	if (geteuid() != 0)
		return;
	ret->net_fd = make(CLONE_NEWNET, "/proc/thread-self/ns/net");
	ret->mount_fd = make(CLONE_NEWNS, "/proc/thread-self/ns/mnt");
	if (ret->mount_fd >= 0 && empty_root() < 0) {
		close(ret->mount_fd);
		ret->mount_fd = -1;
	}
}

void sandbox_ahead_close(struct sandbox_ahead *ahead)
{
	if (ahead->net_fd >= 0)
		close(ahead->net_fd);
	if (ahead->mount_fd >= 0)
		close(ahead->mount_fd);
	*ahead = (struct sandbox_ahead){ -1, -1 };
}

/* What is still to be made, of `all`, once those made ahead were entered. */
static int enter(const struct sandbox_ahead *ahead, int all)
{
	if (ahead->net_fd >= 0 && setns(ahead->net_fd, CLONE_NEWNET) == 0)
		all &= ~CLONE_NEWNET;
	if (ahead->mount_fd >= 0 && setns(ahead->mount_fd, CLONE_NEWNS) == 0)
		all &= ~CLONE_NEWNS;
	return all;
}

static int namespaces(struct sandbox_ahead *ahead)
{
	const int all = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
	int missing = ahead ? enter(ahead, all) : all, r = 0;

	if (ahead)
		sandbox_ahead_close(ahead);
	/* Root in a container often lacks the right; then he is as good as an ordinary user. */
	if (geteuid() != 0 || unshare(missing) < 0) {
		r = own_user_namespace();
		if (r == 0 && unshare(all) < 0)
			r = -errno;
		missing = all;
	}
	return r == 0 && (missing & CLONE_NEWNS) ? empty_root() : r;
}

/*
 * Without a rule nothing under any path may be opened, read or made. Removing files stays possible
 * for sockets we made.
 */
static int landlock(void)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
			LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
			LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
			LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
			LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
			LANDLOCK_ACCESS_FS_MAKE_SYM,
	};
	int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0), r = 0;

	if (fd < 0)
		return -errno;
	if (syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		r = -errno;
	close(fd);
	return r;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

	/* What is ambient goes with what is permitted: capabilities(7). */
	return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

int sandbox_confine(const struct sandbox_confine_config *config, struct error *err)
{
	struct rlimit files = { config->nofile, config->nofile };
	int r;

	if (config->mode == SANDBOX_OFF)
		return 0;
	r = namespaces(config->ahead);
	if (r < 0)
		log_info("sandbox: no namespaces of our own here (%s); Landlock and the filters remain",
			strerror(-r));
	r = landlock();
	if (r < 0)
		log_info("sandbox: no Landlock on this kernel (%s)", strerror(-r));
	setrlimit(RLIMIT_NOFILE, &files);
	r = drop_capabilities();
	if (r < 0)
		return error_set(err, -r, "cannot drop capabilities: %s", strerror(-r));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	return 0;
}
