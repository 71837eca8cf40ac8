/*
 * pty: a new pseudo terminal, whose slave path the user opens with a terminal program.
 *
 * We keep the slave open: otherwise the master reports a hang-up for as long as nobody is
 * connected, and would spin. The price is that nobody can tell us who is there; output that finds
 * the buffer full for CHAR_STALL_MS is dropped (char_io.c). The slave is raw from the start, or the
 * line discipline would echo our output back as input.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/host/char_host.h"
#include "vmm/log.h"

static int pty_make(struct char_host *c)
{
	char path[PATH_MAX];
	struct termios t;
	int r;

	c->in_fd = c->out_fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (c->in_fd < 0 || grantpt(c->in_fd) < 0 || unlockpt(c->in_fd) < 0)
		return -errno;
	r = ptsname_r(c->in_fd, path, sizeof(path));
	if (r)
		return -r;
	c->path = strdup(path);
	if (!c->path)
		return -ENOMEM;
	c->slave_fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (c->slave_fd < 0 || tcgetattr(c->slave_fd, &t) < 0)
		return -errno;
	cfmakeraw(&t);
	return tcsetattr(c->slave_fd, TCSANOW, &t) < 0 ? -errno : 0;
}

static int pty_open(struct char_host *c, const struct char_config *config, const char *option,
	struct error *err)
{
	int r = pty_make(c);

	(void)config;
	if (r)
		return error_set(err, -r,
			"%s pty: cannot make a pseudo terminal: %s; is /dev/pts mounted and not "
			"used up?",
			option, strerror(-r));
	log_notice("%s is at %s", option, c->path);
	return 0;
}

const struct char_kind char_kind_pty = { .open = pty_open };
