/* The terminal of the process: a pty stands in for it, in a child whose controlling terminal it is. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/driver/char_end.h"

TestSuite(char_tty, .timeout = 300);

struct outside {
	int master;         /* the user's side of the terminal */
	pid_t child;
	struct termios found;
};

/* Run fn with the pty as stdin and stdout, as a session leader; its return value is the exit status. */
static void start(struct outside *o, int (*fn)(struct char_end *e))
{
	static struct char_end e;
	int slave;

	cr_assert_eq(openpty(&o->master, &slave, NULL, NULL, &(struct winsize){ .ws_row = 24, .ws_col = 80 }), 0);
	cr_assert_eq(tcgetattr(slave, &o->found), 0);
	o->child = fork();
	cr_assert_geq(o->child, 0);
	if (!o->child) {
		close(o->master);
		setsid();
		ioctl(slave, TIOCSCTTY, 0);
		dup2(slave, 0);
		dup2(slave, 1);
		close(slave);
		_exit(fn(&e));
	}
	/* `slave` stays open here, so that the settings can be looked at after the child has gone. */
}

static int finish(struct outside *o)
{
	int status = -1;

	cr_assert_eq(waitpid(o->child, &status, 0), o->child);
	close(o->master);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static struct termios settings(const struct outside *o)
{
	struct termios t;

	cr_assert_eq(tcgetattr(o->master, &t), 0);
	return t;
}

static bool wait_for(const struct outside *o, const char *text)
{
	char got[4096] = "";
	size_t n = 0;

	for (int i = 0; i < 500 && !strstr(got, text); i++) {
		struct pollfd p = { .fd = o->master, .events = POLLIN };

		if (poll(&p, 1, 10) > 0) {
			ssize_t r = read(o->master, got + n, sizeof(got) - 1 - n);

			if (r > 0)
				n += (size_t)r;
		}
	}
	return strstr(got, text);
}

static const struct char_config tty = { .mode = CHAR_TTY };

static int hang_up_ends(struct char_end *e)
{
	struct error err;

	if (char_end_open(e, &tty, SIZE_MAX, &err))
		return 1;
	char_end_output(e, "ready\n", 6);
	if (!char_end_wait_for(&e->hang_ups, 1))
		return 2;
	char_end_close(e);
	return e->ngot == 6 && !memcmp(e->got, "\003\001a\001y\r", 6) ? 0 : 3;
}

Test(char_tty, the_terminal_is_raw_while_used_and_restored_after)
{
	struct outside o;
	struct termios t;

	start(&o, hang_up_ends);
	cr_assert(wait_for(&o, "ready\r\n"), "output is processed: the line feed got its carriage return");
	t = settings(&o);
	cr_assert_eq(t.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), 0);
	cr_assert_eq(t.c_iflag & (ICRNL | IXON), 0);
	cr_assert_neq(t.c_oflag & OPOST, 0);
	/* ^C and Return as they are; ^A ^A is one ^A, ^A before another key is both, ^A x is the way out. */
	cr_assert_eq(write(o.master, "\003\001\001a\001y\r\001x", 9), 9);
	cr_assert_eq(finish(&o), 0);
}

static int waits_for_hang_up(struct char_end *e)
{
	struct error err;

	if (char_end_open(e, &tty, 3, &err))
		return 1;
	char_end_output(e, "ready\n", 6);
	if (!char_end_wait_for(&e->hang_ups, 1))
		return 2;
	char_end_close(e);
	return e->ngot == 3 ? 0 : 3;
}

Test(char_tty, the_way_out_works_when_the_guest_reads_nothing)
{
	static char keys[3000];
	struct outside o;

	memset(keys, 'k', sizeof(keys));
	start(&o, waits_for_hang_up);
	cr_assert(wait_for(&o, "ready"));
	cr_assert_eq(write(o.master, keys, sizeof(keys)), (ssize_t)sizeof(keys));
	poll(NULL, 0, 100);
	cr_assert_eq(write(o.master, "\001", 1), 1);
	cr_assert_eq(write(o.master, "x", 1), 1);
	cr_assert_eq(finish(&o), 0);
}

static int close_at_once(struct char_end *e)
{
	struct error err;
	int flags = fcntl(0, F_GETFL), r;

	r = char_end_open(e, &tty, SIZE_MAX, &err);
	if (fcntl(0, F_GETFL) != flags || fcntl(1, F_GETFL) != flags)
		return 4;
	char_end_close(e);
	return r ? 1 : 0;
}

Test(char_tty, settings_and_flags_are_those_that_were_found)
{
	struct outside o;
	struct termios t;
	int status = -1;

	start(&o, close_at_once);
	cr_assert_eq(waitpid(o.child, &status, 0), o.child);
	cr_assert_eq(status, 0);
	t = settings(&o);
	cr_assert_eq(t.c_iflag, o.found.c_iflag);
	cr_assert_eq(t.c_oflag, o.found.c_oflag);
	cr_assert_eq(t.c_lflag, o.found.c_lflag);
	cr_assert_eq(t.c_cflag, o.found.c_cflag);
	cr_assert_eq(memcmp(t.c_cc, o.found.c_cc, sizeof(t.c_cc)), 0);
	close(o.master);
}

/* The child's child closes the line after it has lost the foreground. */
static int close_in_background(struct char_end *e)
{
	struct error err;
	pid_t pid;
	int status = -1;

	signal(SIGTTOU, SIG_IGN);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		tcsetpgrp(0, getpid());
		signal(SIGTTOU, SIG_DFL);
		if (char_end_open(e, &tty, SIZE_MAX, &err))
			_exit(1);
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(0, getppid());
		signal(SIGTTOU, SIG_DFL);
		char_end_close(e);
		_exit(0);
	}
	waitpid(pid, &status, WUNTRACED);
	return status ? 5 : 0;
}

Test(char_tty, the_terminal_is_restored_from_the_background_too)
{
	struct outside o;
	int status = -1;

	start(&o, close_in_background);
	cr_assert_eq(waitpid(o.child, &status, 0), o.child);
	cr_assert_eq(status, 0);
	cr_assert_eq(settings(&o).c_lflag, o.found.c_lflag);
	close(o.master);
}

static int tells_size(struct char_end *e)
{
	struct error err;

	if (char_end_open(e, &tty, SIZE_MAX, &err))
		return 1;
	if (atomic_load(&e->sizes) != 1 || e->columns != 80 || e->rows != 24)
		return 2;
	char_end_output(e, "ready\n", 6);
	if (!char_end_wait_for(&e->sizes, 2) || e->columns != 132 || e->rows != 50)
		return 3;
	char_end_close(e);
	return 0;
}

Test(char_tty, a_new_window_size_is_told_once)
{
	struct outside o;

	start(&o, tells_size);
	cr_assert(wait_for(&o, "ready"));
	cr_assert_eq(ioctl(o.master, TIOCSWINSZ, &(struct winsize){ .ws_row = 50, .ws_col = 132 }), 0);
	cr_assert_eq(finish(&o), 0);
}

static int sees_hang_up(struct char_end *e)
{
	struct error err;

	signal(SIGHUP, SIG_IGN);
	if (char_end_open(e, &tty, SIZE_MAX, &err))
		return 1;
	char_end_output(e, "ready\n", 6);
	for (int i = 0; i < 5000 && char_end_output(e, "x", 1) == 1 && !char_end_dropped(e); i++)
		poll(NULL, 0, 1);
	if (!char_end_dropped(e))
		return 2;
	char_end_close(e);
	return 0;
}

Test(char_tty, a_terminal_that_goes_away_is_no_reason_to_stop)
{
	struct outside o;
	int status = -1;

	start(&o, sees_hang_up);
	cr_assert(wait_for(&o, "ready"));
	close(o.master);
	cr_assert_eq(waitpid(o.child, &status, 0), o.child);
	cr_assert_eq(status, 0);
}

static int stalls(struct char_end *e)
{
	static char line[1 << 18];
	struct error err;
	size_t n, all = 0;

	memset(line, 'l', sizeof(line));
	if (char_end_open(e, &tty, SIZE_MAX, &err))
		return 1;
	while (all < sizeof(line)) {
		unsigned ready = atomic_load(&e->ready);

		n = char_end_output(e, line + all, sizeof(line) - all);
		all += n;
		if (all < sizeof(line) && !char_end_wait_for(&e->ready, ready + 1))
			return 2;
	}
	char_end_output(e, "END", 3);
	if (!char_end_wait_for(&e->hang_ups, 1))
		return 3;
	char_end_close(e);
	return 0;
}

Test(char_tty, a_slow_terminal_loses_nothing)
{
	struct outside o;
	char got[4096];
	size_t n = 0;
	bool end = false;

	start(&o, stalls);
	poll(NULL, 0, 100);
	while (!end) {
		struct pollfd p = { .fd = o.master, .events = POLLIN };
		ssize_t r;

		cr_assert_eq(poll(&p, 1, 5000), 1);
		r = read(o.master, got, sizeof(got));
		cr_assert_gt(r, 0);
		for (ssize_t i = 0; i < r; i++)
			n += got[i] == 'l';
		end = memchr(got, 'D', (size_t)r);
	}
	cr_assert_eq(n, 1 << 18);
	cr_assert_eq(write(o.master, "\001x", 2), 2);
	cr_assert_eq(finish(&o), 0);
}
