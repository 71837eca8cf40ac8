/*
 * Entering places that somebody else made ready, as root, without being led astray (openat2(2),
 * cgroups(7), network_namespaces(7), setresuid(2)).
 *
 * Every path is resolved once, with RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS, and judged by
 * the descriptor that came of it: a cgroup is a directory of a cgroup file system, a network
 * namespace a file of nsfs, a root a directory that only root may write. Later only descriptors are
 * used. Main.
 */
#include "vmm/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

static int open_plain(int dir, const char *path, int flags, uint64_t more)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC),
		.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | more,
	};
	int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

static bool climbs(const char *path)
{
	for (const char *p = path; p; p = strchr(p, '/')) {
		p += *p == '/';
		if (p[0] == '.' && p[1] == '.' && (!p[2] || p[2] == '/'))
			return true;
	}
	return false;
}

static int open_place(const char *key, const char *path, int flags, struct error *err)
{
	int fd;

	if (path[0] != '/' || climbs(path))
		return error_set(err, EINVAL, "--jail %s=%s: give a path from / on, without '..'", key, path);
	fd = open_plain(AT_FDCWD, path, flags, 0);
	if (fd == -ELOOP)
		return error_set(err, ELOOP,
			"--jail %s=%s: a part of it is a symbolic link, which is not followed; name the place itself",
			key, path);
	if (fd < 0)
		return error_set(err, -fd, "--jail %s=%s: %s; check the path", key, path, strerror(-fd));
	return fd;
}

static int open_cgroup(int *ret, const char *path, struct error *err)
{
	int dir = open_place("cgroup", path, O_PATH | O_DIRECTORY, err), fd;
	struct statfs fs;

	if (dir < 0)
		return dir;
	if (fstatfs(dir, &fs) < 0 || (fs.f_type != CGROUP2_SUPER_MAGIC && fs.f_type != CGROUP_SUPER_MAGIC)) {
		close(dir);
		return error_set(err, EINVAL, "--jail cgroup=%s: is no cgroup; name a directory below /sys/fs/cgroup",
			path);
	}
	fd = open_plain(dir, "cgroup.procs", O_WRONLY, RESOLVE_BENEATH);
	close(dir);
	if (fd < 0)
		return error_set(err, -fd, "--jail cgroup=%s: its cgroup.procs: %s", path, strerror(-fd));
	*ret = fd;
	return 0;
}

static int open_netns(int *ret, const char *path, struct error *err)
{
	/* O_NONBLOCK: a FIFO may stand at the path. */
	int fd = open_place("netns", path, O_RDONLY | O_NONBLOCK | O_NOCTTY, err);
	struct statfs fs;

	if (fd < 0)
		return fd;
	if (fstatfs(fd, &fs) < 0 || fs.f_type != NSFS_MAGIC) {
		close(fd);
		return error_set(err, EINVAL,
			"--jail netns=%s: is no namespace; make one with: ip netns add NAME, and give /run/netns/NAME", path);
	}
	*ret = fd;
	return 0;
}

static int open_root(int *ret, const char *path, struct error *err)
{
	int fd = open_place("root", path, O_PATH | O_DIRECTORY, err);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH))) {
		close(fd);
		return error_set(err, EPERM,
			"--jail root=%s: must belong to root and be writable by nobody else; chown root and chmod 755 it", path);
	}
	*ret = fd;
	return 0;
}

void jail_close(struct jail *jail)
{
	int *const fds[] = { &jail->cgroup_fd, &jail->netns_fd, &jail->root_fd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

int jail_open(struct jail *ret, const struct options_jail *o, struct error *err)
{
	struct jail jail = { o->uid, o->gid, -1, -1, -1 };
	int r = 0;

	if (!o->uid && !o->gid && !o->cgroup && !o->netns && !o->root) {
		*ret = jail;
		return 0;
	}
	if (geteuid() != 0)
		return error_set(err, EPERM, "--jail: only root can enter it; start as root, or leave it out");
	if (!o->uid != !o->gid)
		return error_set(err, EINVAL, "--jail uid=%u,gid=%u: a user needs a group, and a group a user; give both",
			o->uid, o->gid);
	if (o->cgroup)
		r = open_cgroup(&jail.cgroup_fd, o->cgroup, err);
	if (r == 0 && o->netns)
		r = open_netns(&jail.netns_fd, o->netns, err);
	if (r == 0 && o->root)
		r = open_root(&jail.root_fd, o->root, err);
	if (r < 0) {
		jail_close(&jail);
		return r;
	}
	*ret = jail;
	return 0;
}

int jail_enter(struct jail *jail, struct error *err)
{
	int r = 0;

	if (jail->cgroup_fd >= 0 && write(jail->cgroup_fd, "0", 1) < 0)
		r = error_set(err, errno, "--jail cgroup=: the kernel refuses us there: %s; a cgroup with children of "
			"its own takes no processes, and pids.max may be reached", strerror(errno));
	if (r == 0 && jail->netns_fd >= 0 && setns(jail->netns_fd, CLONE_NEWNET) < 0)
		r = error_set(err, errno, "--jail netns=: is no network's namespace, or may not be entered: %s",
			strerror(errno));
	if (r == 0 && jail->root_fd >= 0 && (fchdir(jail->root_fd) < 0 || chroot(".") < 0))
		r = error_set(err, errno, "--jail root=: cannot be entered: %s", strerror(errno));
	jail_close(jail);
	return r;
}

int jail_become(const struct jail *jail, struct error *err)
{
	if (!jail->uid)
		return 0;
	/* Groups first: a user may not change them. */
	if (setgroups(0, NULL) < 0 || setresgid(jail->gid, jail->gid, jail->gid) < 0 ||
		setresuid(jail->uid, jail->uid, jail->uid) < 0)
		return error_set(err, errno, "--jail uid=%u,gid=%u: cannot become them: %s", jail->uid, jail->gid,
			strerror(errno));
	/* Nobody comes back from there. */
	return setresuid(0, 0, 0) == 0 ? error_set(err, EPERM, "--jail uid=%u: the kernel lets us be root again",
		jail->uid) : 0;
}
