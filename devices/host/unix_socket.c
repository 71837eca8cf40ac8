/*
 * Unix sockets with a name (unix(7)). A socket file outlives its process: a file that is a socket
 * nobody listens on (connect says ECONNREFUSED) is removed, one with a listener is not.
 *
 * Connecting in the sandbox: connect(2) takes a path, and in the empty root no path leads anywhere.
 * But a relative path begins at the working directory, and that may be a directory whose descriptor
 * was opened before. Landlock has no right that concerns it. The working directory is shared by the
 * threads of a process, so the thread first gets one of its own.
 */
#include "devices/host/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { SOCKET_TYPE = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC };

const struct syscall_row unix_connect_syscalls[] = {
	{ SYSCALL(unshare, "a working directory of this thread's own", SYSCALL_ARG_EQ(0, CLONE_FS)) },
	{ SYSCALL(fchdir, "to the directory of the socket, which was opened before") },
	{ SYSCALL(socket, "for a new connection", SYSCALL_ARG_EQ(0, AF_UNIX), SYSCALL_ARG_EQ(1, SOCKET_TYPE)) },
	{ SYSCALL(connect, "to the program that serves the device, when it is there again") },
	{ SYSCALL(close, "a connection that ended") },
	SYSCALL_END,
};

const struct syscall_row unix_message_syscalls[] = {
	{ SYSCALL(sendmsg, "messages to the program that serves the device",
		SYSCALL_ARG_EQ(2, MSG_DONTWAIT | MSG_NOSIGNAL)) },
	{ SYSCALL(recvmsg, "its answers", SYSCALL_ARG_EQ(2, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) },
	SYSCALL_END,
};

const struct syscall_row unix_remove_syscalls[] = {
	{ SYSCALL(unlinkat, "remove a socket that we made", SYSCALL_ARG_EQ(2, 0)) },
	SYSCALL_END,
};

static int address_of(struct sockaddr_un *ret, const char *path)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!path[0] || strlen(path) >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	strcpy(ret->sun_path, path);
	return 0;
}

int unix_place_open(struct unix_place *ret, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, MAX((size_t)(slash - path), (size_t)1)) : strdup(".");
	struct unix_place p = { .dir_fd = -1, .name = strdup(slash ? slash + 1 : path) };
	struct sockaddr_un addr;
	int r = dir && p.name ? address_of(&addr, path) : -ENOMEM;

	if (!r) {
		p.dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = p.dir_fd < 0 ? -errno : 0;
	}
	free(dir);
	if (r)
		unix_place_close(&p);
	else
		*ret = p;
	return r;
}

void unix_place_close(struct unix_place *p)
{
	if (p->dir_fd >= 0)
		close(p->dir_fd);
	free(p->name);
	*p = (struct unix_place){ .dir_fd = -1 };
}

/* The fd, or -errno. */
static int connect_to(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCKET_TYPE, 0), r;

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

/* Is the socket at this address without a listener, so that it may go? */
static int remove_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	int r;

	if (lstat(addr->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	r = connect_to(addr);
	if (r >= 0)
		close(r);
	if (r == -ENOENT)
		return 0;
	if (r != -ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(addr->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

int unix_socket_listen(const char *path, int backlog)
{
	struct sockaddr_un addr;
	int r = address_of(&addr, path), fd;
	bool bound = false;

	if (!r)
		r = remove_stale(&addr);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCKET_TYPE, 0);
	if (fd < 0)
		return -errno;
	/* The mode of an unbound socket is the mode of the file that bind makes: nobody else's from
	 * the first moment. */
	if (fchmod(fd, 0600) == 0)
		bound = bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0;
	if (bound && listen(fd, backlog) == 0)
		return fd;
	r = -errno;
	if (bound)
		unlink(path);
	close(fd);
	return r;
}

void unix_socket_remove(const struct unix_place *p)
{
	if (p->name)
		unlinkat(p->dir_fd, p->name, 0);
}

const char *unix_socket_remedy(int r)
{
	switch (r) {
	case -EADDRINUSE:
		return "another program listens there; choose another path or end that program";
	case -ENOTSOCK:
		return "something that is no socket is there; choose another path or remove it";
	default:
		return "give a path in a directory that can be written";
	}
}

int unix_socket_connect(const char *path)
{
	struct sockaddr_un addr;
	int r = address_of(&addr, path);

	return r ? r : connect_to(&addr);
}

int unix_place_connect(const struct unix_place *p)
{
	struct sockaddr_un addr;
	int r = address_of(&addr, p->name);

	if (!r && (unshare(CLONE_FS) < 0 || fchdir(p->dir_fd) < 0))
		r = -errno;
	return r ? r : connect_to(&addr);
}

union control {
	char bytes[CMSG_SPACE(UNIX_SOCKET_FDS * sizeof(int))];
	struct cmsghdr align;
};

int unix_socket_send(int fd, const void *data, size_t len, const int *fds, unsigned nfds)
{
	union control control = { { 0 } };
	struct iovec iov = { (void *)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nfds > UNIX_SOCKET_FDS)
		return -E2BIG;
	if (nfds) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ CMSG_LEN(nfds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, nfds * sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EAGAIN;
}

static void take_fds(struct msghdr *msg, int *fds, unsigned *nfds)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int one;

			memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
			if (*nfds < UNIX_SOCKET_FDS)
				fds[(*nfds)++] = one;
			else
				close(one);
		}
	}
}

ssize_t unix_socket_receive(int fd, void *data, size_t len, int *fds, unsigned *nfds)
{
	union control control;
	struct iovec iov = { data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control) };
	ssize_t n;

	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_fds(&msg, fds, nfds);
	return n;
}
