/*
 * The life of a character host: what the user asked for, open, attach, close. The bytes are moved
 * by char_io.c, the kinds of other end that need more than an open() have a file each (char_tty.c,
 * char_pty.c, char_socket.c).
 *
 * Open and close run on main; whatever close does later than stage 3 needs no path (the root is
 * gone by then).
 */
#include "devices/host/char.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/host/char_host.h"
#include "vmm/log.h"

const char *const char_mode_choices[] = {
	[CHAR_OFF] = "off",
	[CHAR_NULL] = "null",
	[CHAR_TTY] = "tty",
	[CHAR_PTY] = "pty",
	[CHAR_FILE] = "file",
	[CHAR_SOCKET] = "socket",
	[CHAR_SOCKET + 1] = NULL,
};

static int null_open(struct char_host *c, const struct char_config *config, const char *option,
	struct error *err)
{
	(void)c, (void)config, (void)option, (void)err;
	return 0;
}

static int file_open(struct char_host *c, const struct char_config *config, const char *option,
	struct error *err)
{
	struct stat st;

	/* O_NONBLOCK: a FIFO or a terminal may stand at the path. O_APPEND: what rotates logs may
	 * cut the file, and then no hole is wanted. 0600: a console may print secrets. */
	c->out_fd = open(config->path,
		O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	if (c->out_fd < 0 && errno == ENXIO)
		return error_set(err, ENXIO,
			"%s file=%s: a FIFO or socket that nobody reads; start the reader first",
			option, config->path);
	if (c->out_fd < 0)
		return error_set(err, errno,
			"%s file=%s: cannot open it for writing: %s; give a path that can be "
			"written",
			option, config->path, strerror(errno));
	c->regular = !fstat(c->out_fd, &st) && S_ISREG(st.st_mode);
	/* Only what grows is limited. */
	c->limit = c->regular ? config->limit : 0;
	return 0;
}

static const struct char_kind kind_null = { .open = null_open };
static const struct char_kind kind_file = { .open = file_open };

static const struct char_kind *const kinds[] = {
	[CHAR_NULL] = &kind_null,
	[CHAR_TTY] = &char_kind_tty,
	[CHAR_PTY] = &char_kind_pty,
	[CHAR_FILE] = &kind_file,
	[CHAR_SOCKET] = &char_kind_socket,
};

int char_configure(struct char_config *ret, const struct char_options *options,
	enum char_mode usual, const char *option, struct error *err)
{
	enum char_mode mode = options->mode;

	if (options->file && options->socket)
		return error_set(err, EINVAL,
			"%s: file= and socket= exclude each other; give one of them", option);
	if (mode == usual && options->file)
		mode = CHAR_FILE;
	if (mode == usual && options->socket)
		mode = CHAR_SOCKET;
	if (mode == CHAR_FILE ? !options->file : options->file != NULL)
		return error_set(err, EINVAL, "%s mode=%s: %s", option, char_mode_choices[mode],
			mode == CHAR_FILE ? "no file given; add file=PATH"
					  : "file= needs mode=file; leave one of them out");
	if (mode == CHAR_SOCKET ? !options->socket : options->socket != NULL)
		return error_set(err, EINVAL, "%s mode=%s: %s", option, char_mode_choices[mode],
			mode == CHAR_SOCKET ? "no socket given; add socket=PATH"
					    : "socket= needs mode=socket; leave one of them out");
	*ret = (struct char_config){
		.mode = mode,
		.path = mode == CHAR_FILE ? options->file : options->socket,
		.limit = options->limit,
	};
	return 0;
}

int char_open(struct char_host **ret, const struct char_config *config, const char *option,
	struct error *err)
{
	struct char_host *c;
	int r;

	if (config->mode <= CHAR_OFF || config->mode >= ARRAY_SIZE(kinds))
		return error_set(err, EINVAL,
			"%s: no such mode; use null, tty, pty, file or socket", option);
	c = calloc(1, sizeof(*c));
	if (!c)
		return error_set(err, ENOMEM, "%s: out of memory", option);
	c->mode = config->mode;
	c->kind = kinds[config->mode];
	c->option = option;
	c->in_fd = c->out_fd = c->winch_fd = c->slave_fd = c->listen_fd = c->place.dir_fd = -1;
	r = c->kind->open(c, config, option, err);
	if (r < 0) {
		char_close(c);
		return r;
	}
	*ret = c;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void char_detach(struct char_host *c)
{
	char_unwatch(c);
	loop_remove(c->timer);
	loop_remove(c->winch_src);
	loop_remove(c->listen_src);
	c->timer = c->winch_src = c->listen_src = NULL;
	c->detached = true;
}

void char_close(struct char_host *c)
{
	if (!c)
		return;
	char_detach(c);
	if (c->kind->close)
		c->kind->close(c);
	close_fd(c->in_fd);
	if (c->out_fd != c->in_fd)
		close_fd(c->out_fd);
	close_fd(c->winch_fd);
	close_fd(c->slave_fd);
	close_fd(c->listen_fd);
	unix_place_close(&c->place);
	if (c->slot && *c->slot == &c->terminal)
		*c->slot = NULL;
	free(c->path);
	free(c);
}

const struct syscall_row *char_syscalls(const struct char_host *c, unsigned n)
{
	return n == 0 ? c->kind->syscalls : n == 1 ? loop_timer_syscalls : NULL;
}

const struct syscall_row *char_main_syscalls(const struct char_host *c)
{
	return c->kind->main_syscalls;
}

void char_fds(const struct char_host *c, void (*keep)(void *ctx, int fd), void *ctx)
{
	keep(ctx, c->in_fd);
	keep(ctx, c->out_fd);
	keep(ctx, c->winch_fd);
	keep(ctx, c->slave_fd);
	keep(ctx, c->listen_fd);
}

uint64_t char_written(const struct char_host *c)
{
	return c->written;
}

void char_go_on(struct char_host *c, uint64_t written)
{
	c->written = c->limit ? MIN(written, c->limit) : 0;
}

const struct syscall_row char_attach_syscalls[] = {
	{ SYSCALL(timerfd_create, "timers of a line's loop") },
	SYSCALL_END,
};

const char *char_path(const struct char_host *c)
{
	return c->path;
}

uint64_t char_dropped(const struct char_host *c)
{
	return c->dropped;
}

int char_attach(struct char_host *c, struct loop *loop, const struct char_events *events)
{
	int r;

	c->loop = loop;
	c->events = *events;
	r = char_io_attach(c);
	if (!r && c->kind->attach)
		r = c->kind->attach(c);
	return r;
}
