/*
 * socket: a listening unix socket, for one client at a time; the next ones wait in the backlog.
 *
 * At start a file at the path is removed when it is a socket that nobody listens on, and refused
 * when somebody does; at the end ours is removed (unix_socket.h).
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/host/char_host.h"
#include "vmm/log.h"

enum { BACKLOG = 4, ACCEPT_RETRY_MS = 1000 };

static int socket_open(struct char_host *c, const struct char_config *config, const char *option,
	struct error *err)
{
	int r;

	c->is_socket = true;
	c->path = strdup(config->path);
	if (!c->path)
		return error_set(err, ENOMEM, "%s: out of memory", option);
	r = unix_place_open(&c->place, c->path);
	if (r == -ENAMETOOLONG)
		return error_set(err, ENAMETOOLONG,
			"%s socket=%s: the path is longer than the 107 bytes of a socket address; "
			"use a shorter one",
			option, config->path);
	c->listen_fd = r ? r : unix_socket_listen(c->path, BACKLOG);
	if (c->listen_fd < 0)
		return error_set(err, -c->listen_fd, "%s socket=%s: cannot listen: %s; %s", option,
			config->path, strerror(-c->listen_fd), unix_socket_remedy(c->listen_fd));
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
	if (c->listen_fd >= 0)
		unix_socket_remove(&c->place);
}

static const struct syscall_row socket_syscalls[] = {
	{ SYSCALL(accept4, "the next client of a socket") },
	{ SYSCALL(ppoll, "has a client left that is not read") },
	{ SYSCALL(close, "a client that left") },
	SYSCALL_END,
};

const struct char_kind char_kind_socket = {
	.syscalls = socket_syscalls,
	.main_syscalls = unix_remove_syscalls,
	.open = socket_open,
	.attach = socket_attach,
	.tick = socket_tick,
	.close = socket_close,
};
