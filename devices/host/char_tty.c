/*
 * tty: this process's stdin and stdout, which may be a terminal, pipes, files, or nothing.
 *
 * O_NONBLOCK is a property of the open file description, which the shell and other jobs share with
 * us. So a terminal or pipe is opened again through /proc/self/fd to get a description of our own.
 * Where that is refused (a terminal of another user after su, a socket) a duplicate is used, polled
 * before each read and small write. A file is duplicated, to keep the offset.
 *
 * The terminal's settings belong to the terminal itself: they are saved at open and given back at
 * close, also from the background.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/host/char_host.h"
#include "vmm/log.h"

/* A descriptor for `fd` that is ours: *ret is -1 when fd is closed. */
static int own(int *ret, int fd, int access, bool *may_block)
{
	char path[32];
	struct stat st;
	int own_fd = -1;

	if (fstat(fd, &st) < 0)
		return 0;
	if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own_fd = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	}
	if (own_fd < 0) {
		own_fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		if (!S_ISREG(st.st_mode))
			*may_block = true;
	}
	*ret = own_fd;
	return own_fd < 0 ? -errno : 0;
}

/* Keys come one by one and uninterpreted; OPOST stays, so that our own log lines still end at
 * column 1. */
static int make_raw(struct char_host *c)
{
	struct termios t;

	if (tcgetattr(c->in_fd, &c->saved) < 0)
		return -errno;
	t = c->saved;
	t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	if (tcsetattr(c->in_fd, TCSANOW, &t) < 0)
		return -errno;
	c->raw = true;
	return 0;
}

/* Blocked here, before there are threads, so that it is blocked in all of them and stays for the
 * signalfd. */
static int take_sigwinch(struct char_host *c)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL))
		return -EINVAL;
	c->winch_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return c->winch_fd < 0 ? -errno : 0;
}

static int tty_open(struct char_host *c, const struct char_config *config, const char *option,
	struct error *err)
{
	int r;

	if (config->terminal && *config->terminal)
		return error_set(err, EBUSY,
			"%s tty: the terminal is taken by %s; use %s pty, file=, socket= or off",
			option, (*config->terminal)->option, option);
	r = own(&c->in_fd, STDIN_FILENO, O_RDONLY, &c->may_block);
	if (!r)
		r = own(&c->out_fd, STDOUT_FILENO, O_WRONLY, &c->may_block);
	if (!r && c->in_fd >= 0 && isatty(c->in_fd)) {
		c->escapes = true;
		r = make_raw(c);
	}
	if (!r && (c->escapes || (c->out_fd >= 0 && isatty(c->out_fd))))
		r = take_sigwinch(c);
	if (r)
		return error_set(err, -r,
			"%s tty: cannot take over stdin and stdout: %s; use %s pty, file= or "
			"socket=",
			option, strerror(-r), option);
	c->terminal.option = option;
	c->slot = config->terminal;
	if (c->slot)
		*c->slot = &c->terminal;
	return 0;
}

static void on_sigwinch(void *ctx, unsigned events)
{
	struct char_host *c = ctx;
	struct signalfd_siginfo info;

	(void)events;
	while (read(c->winch_fd, &info, sizeof(info)) == sizeof(info))
		;
	char_check_size(c);
}

static int tty_attach(struct char_host *c)
{
	if (c->winch_fd < 0 || !c->events.resized)
		return 0;
	return loop_add(c->loop, c->winch_fd, LOOP_READ, on_sigwinch, c, &c->winch_src);
}

static void tty_close(struct char_host *c)
{
	sigset_t set, was;

	if (!c->raw)
		return;
	/* A process in the background is stopped for setting its terminal, unless SIGTTOU is
	 * blocked. */
	sigemptyset(&set);
	sigaddset(&set, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &set, &was);
	if (tcsetattr(c->in_fd, TCSANOW, &c->saved) < 0)
		log_debug("%s: the terminal could not be restored: %s", c->option, strerror(errno));
	pthread_sigmask(SIG_SETMASK, &was, NULL);
}

void char_check_size(struct char_host *c)
{
	struct winsize w;

	if (c->mode != CHAR_TTY || !c->events.resized)
		return;
	if ((c->out_fd < 0 || ioctl(c->out_fd, TIOCGWINSZ, &w) < 0) &&
		(c->in_fd < 0 || ioctl(c->in_fd, TIOCGWINSZ, &w) < 0))
		return;
	if (w.ws_col == c->columns && w.ws_row == c->rows)
		return;
	c->columns = w.ws_col;
	c->rows = w.ws_row;
	c->events.resized(c->events.ctx, c->columns, c->rows);
}

static const struct syscall_row tty_syscalls[] = {
	{ SYSCALL(ppoll, "has a terminal that may block room") },
	{ SYSCALL(ioctl, "size of the terminal's window", SYSCALL_ARG_EQ(1, TIOCGWINSZ)) },
	SYSCALL_END,
};

static const struct syscall_row tty_main_syscalls[] = {
	{ SYSCALL(ioctl, "give the terminal its settings back", SYSCALL_ARG_EQ(1, TCSETS)) },
	{ SYSCALL(ioctl, "glibc looks whether the terminal took them", SYSCALL_ARG_EQ(1, TCGETS)) },
	{ SYSCALL(rt_sigprocmask, "no SIGTTOU meanwhile") },
	SYSCALL_END,
};

const struct char_kind char_kind_tty = {
	.open = tty_open,
	.attach = tty_attach,
	.close = tty_close,
	.syscalls = tty_syscalls,
	.main_syscalls = tty_main_syscalls,
};
