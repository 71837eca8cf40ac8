/*
 * socket: a listening unix socket, for one client at a time; the next ones wait in the backlog.
 *
 * A socket file outlives its process. At start a file at the path is removed when it is a socket
 * that nobody listens on (connect says ECONNREFUSED), and refused when somebody does. At the end
 * ours is removed, through the directory's descriptor since the path no longer leads anywhere in
 * the sandbox.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/host/char_host.h"
#include "vmm/log.h"

enum { BACKLOG = 4, ACCEPT_RETRY_MS = 1000 };

/* Is the socket at this address without a listener, so that it may go? 0, or -EADDRINUSE,
 * -ENOTSOCK. */
static int remove_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd, r;

	if (lstat(addr->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
	close(fd);
	if (r == ENOENT)
		return 0;
	if (r != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(addr->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

/* Directory and name of the path, kept for the removal. */
static int remember_place(struct char_host *c)
{
	char *slash = strrchr(c->path, '/'), *dir;

	c->base = slash ? slash + 1 : c->path;
	if (slash)
		dir = strndup(c->path, MAX((size_t)(slash - c->path), (size_t)1));
	else
		dir = strdup(".");
	if (!dir)
		return -ENOMEM;
	c->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	return c->dir_fd < 0 ? -errno : 0;
}

static int listen_at(struct char_host *c, const struct sockaddr_un *addr)
{
	int r = remember_place(c);

	if (!r)
		r = remove_stale(addr);
	if (r)
		return r;
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* The mode of an unbound socket is the mode of the file that bind makes: nobody else's from
	 * the first moment. */
	if (c->listen_fd < 0 || fchmod(c->listen_fd, 0600) < 0 ||
		bind(c->listen_fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return -errno;
	c->bound = true;
	return listen(c->listen_fd, BACKLOG) < 0 ? -errno : 0;
}

static const char *remedy(int r)
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

static int socket_open(struct char_host *c, const struct char_config *config, const char *option,
	struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int r;

	c->is_socket = true;
	if (strlen(config->path) >= sizeof(addr.sun_path))
		return error_set(err, ENAMETOOLONG,
			"%s socket=%s: the path is longer than the %zu bytes of a socket address; "
			"use a shorter one",
			option, config->path, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, config->path);
	c->path = strdup(config->path);
	if (!c->path)
		return error_set(err, ENOMEM, "%s: out of memory", option);
	r = listen_at(c, &addr);
	if (r)
		return error_set(err, -r, "%s socket=%s: cannot listen: %s; %s", option,
			config->path, strerror(-r), remedy(r));
	log_info("%s listens at %s", option, c->path);
	return 0;
}

static void on_client(void *ctx, unsigned events)
{
	struct char_host *c = ctx;
	int fd;

	(void)events;
	if (c->in_fd >= 0)
		return;
	fd = accept4(c->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
		return;
	if (fd >= 0) {
		c->in_fd = c->out_fd = fd;
		if (!char_watch(c)) {
			loop_modify(c->listen_src, 0);
			if (c->paused)
				char_timer(c, CHAR_STUCK_MS);
			return;
		}
		char_unwatch(c);
		c->in_fd = c->out_fd = -1;
		close(fd);
	}
	/* No descriptor or memory left: the client still waits, and so do we, without spinning. */
	loop_modify(c->listen_src, 0);
	char_timer(c, ACCEPT_RETRY_MS);
}

static int socket_attach(struct char_host *c)
{
	return loop_add(c->loop, c->listen_fd, LOOP_READ, on_client, c, &c->listen_src);
}

static void socket_tick(struct char_host *c)
{
	if (c->in_fd < 0)
		loop_modify(c->listen_src, LOOP_READ);
}

static void socket_close(struct char_host *c)
{
	if (c->bound)
		unlinkat(c->dir_fd, c->base, 0);
}

static const struct syscall_row socket_syscalls[] = {
	{ SYSCALL(accept4, "the next client of a socket") },
	{ SYSCALL(ppoll, "has a client left that is not read") },
	{ SYSCALL(close, "a client that left") },
	SYSCALL_END,
};

static const struct syscall_row socket_main_syscalls[] = {
	{ SYSCALL(unlinkat, "remove a socket that we made", SYSCALL_ARG_EQ(2, 0)) },
	SYSCALL_END,
};

const struct char_kind char_kind_socket = {
	.syscalls = socket_syscalls,
	.main_syscalls = socket_main_syscalls,
	.open = socket_open,
	.attach = socket_attach,
	.tick = socket_tick,
	.close = socket_close,
};
