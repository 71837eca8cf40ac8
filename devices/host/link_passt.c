/*
 * A link to the program passt (passt(1)): user-mode networking without any right. Main makes a
 * socket pair, starts passt with one end of it (--fd), and watches it through a pidfd; frames go as
 * link_stream.c says. passt ends by itself when the other end closes (--one-off), by a signal when
 * the machine closes the link, and by another when the machine dies.
 */
#include "devices/host/link.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/host/link_stream.h"

enum { ARGS_MAX = 24 };

static int start_program(struct child *child, const struct link_passt_config *config, int wire,
	struct error *err)
{
	char fd_text[16], mtu_text[16];
	const char *argv[ARGS_MAX] = { config->program, "--foreground", "--quiet", "--one-off",
		"--fd", fd_text };
	unsigned n = 6;
	int r;

	snprintf(fd_text, sizeof(fd_text), "%d", wire);
	if (config->mtu) {
		snprintf(mtu_text, sizeof(mtu_text), "%u", config->mtu);
		argv[n++] = "--mtu";
		argv[n++] = mtu_text;
	}
	for (const char *const *a = config->args; a && *a; a++) {
		if (n == ARGS_MAX - 1)
			return error_set(err, E2BIG, "too many arguments for %s", config->program);
		argv[n++] = *a;
	}
	r = child_start(child, argv, wire);
	if (r == -ENOENT)
		return error_set(err, ENOENT,
			"--net user needs the program %s; install it with: apt install passt",
			config->program);
	return r < 0 ? error_set(err, -r, "cannot start %s: %s", config->program, strerror(-r)) : 0;
}

int link_passt_open(struct link **ret, const struct link_passt_config *config, struct error *err)
{
	struct child child = { .pidfd = -1, .errors_fd = -1 };
	int wire[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire))
		return error_set(err, errno, "no socket for %s: %s", config->program,
			strerror(errno));
	r = start_program(&child, config, wire[1], err);
	close(wire[1]);
	if (!r) {
		r = link_stream_adopt(ret, wire[0], &child, "passt");
		if (!r) {
			(*ret)->mtu = config->mtu;
			r = config->forks ? link_stream_will_fork(*ret) : 0;
			if (r)
				(*ret)->ops->close(*ret);
			return r ? error_set(err, -r, "no link to %s: %s", config->program, strerror(-r)) : 0;
		}
		error_set(err, -r, "no link to %s: %s", config->program, strerror(-r));
		child_end(child.pidfd);
		if (child.errors_fd >= 0)
			close(child.errors_fd);
	}
	close(wire[0]);
	return r;
}
