/* Character hosts: pty, file, socket, pipes as the terminal. The real terminal is test_char_tty.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "tests/driver/char_end.h"

static char dir[] = "/tmp/test_char.XXXXXX";

static void make_dir(void)
{
	cr_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
	char cmd[64];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	cr_expect_eq(system(cmd), 0);
}

TestSuite(char, .init = make_dir, .fini = remove_dir, .timeout = 300);

static const char *in_dir(const char *name)
{
	static char path[sizeof(dir) + 32];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void must_open(struct char_end *e, const struct char_config *config, size_t allowed)
{
	struct error err = { "" };

	cr_assert_eq(char_end_open(e, config, allowed, &err), 0, "%s", err.text);
}

static int client(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval patience = { 5, 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* Output until it arrives: a client is accepted some time after its connect. */
static void say_until_heard(struct char_end *e, int fd, char byte)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char got = 0;

	for (int i = 0; i < 500 && poll(&p, 1, 10) == 0; i++)
		char_end_output(e, &byte, 1);
	do {
		cr_assert_eq(read(fd, &got, 1), 1);
	} while (got != byte);
}

Test(char, a_line_that_nobody_listens_to_takes_everything)
{
	struct char_end e;

	must_open(&e, &(struct char_config){ .mode = CHAR_NULL }, 0);
	cr_assert_eq(char_end_output(&e, "hello", 5), 5);
	cr_assert_eq(char_end_dropped(&e), 5);
	cr_assert_null(char_path(e.host));
	char_end_close(&e);
}

Test(char, a_file_is_truncated_and_holds_the_output)
{
	struct char_end e;
	char text[16] = "";
	int fd = open(in_dir("out"), O_CREAT | O_RDWR, 0600);

	cr_assert_eq(write(fd, "old old old", 11), 11);
	must_open(&e, &(struct char_config){ .mode = CHAR_FILE, .path = in_dir("out") }, 0);
	cr_assert_eq(char_end_output(&e, "new", 3), 3);
	char_end_close(&e);
	cr_assert_eq(pread(fd, text, sizeof(text), 0), 3);
	cr_assert_str_eq(text, "new");
	close(fd);
}

Test(char, a_file_stops_at_its_limit_and_the_guest_goes_on)
{
	struct char_end e;
	struct stat st;

	must_open(&e, &(struct char_config){ .mode = CHAR_FILE, .path = in_dir("out"), .limit = 5 }, 0);
	cr_assert_eq(char_end_output(&e, "abc", 3), 3);
	cr_assert_eq(char_end_output(&e, "defgh", 5), 5);
	cr_assert_eq(char_end_output(&e, "ij", 2), 2);
	cr_assert_eq(char_end_dropped(&e), 5);
	cr_assert_eq(stat(in_dir("out"), &st), 0);
	cr_assert_eq(st.st_size, 5);
	char_end_close(&e);
}

Test(char, a_full_disk_drops_and_counts)
{
	struct char_end e;

	must_open(&e, &(struct char_config){ .mode = CHAR_FILE, .path = "/dev/full" }, 0);
	cr_assert_eq(char_end_output(&e, "hello", 5), 5);
	cr_assert_eq(char_end_output(&e, "again", 5), 5);
	cr_assert_eq(char_end_dropped(&e), 10);
	char_end_close(&e);
}

Test(char, a_file_that_cannot_be_made_is_named_with_its_option)
{
	struct char_end e;
	struct error err;

	cr_assert_eq(char_end_open(&e, &(struct char_config){ .mode = CHAR_FILE, .path = dir }, 0, &err), -EISDIR);
	cr_assert(strstr(err.text, "--serial file=/tmp/test_char"), "%s", err.text);
	char_end_close(&e);
}

Test(char, a_pty_carries_bytes_both_ways_without_echo)
{
	struct char_end e;
	char text[8] = "";
	int fd;

	must_open(&e, &(struct char_config){ .mode = CHAR_PTY }, SIZE_MAX);
	fd = open(char_path(e.host), O_RDWR | O_NOCTTY);
	cr_assert_geq(fd, 0);
	cr_assert_eq(char_end_output(&e, "out\n", 4), 4);
	cr_assert_eq(read(fd, text, sizeof(text)), 4);
	cr_assert_str_eq(text, "out\n");
	cr_assert_eq(write(fd, "in\r", 3), 3);
	cr_assert(char_end_wait(&e, 3));
	cr_assert_eq(e.ngot, 3);
	cr_assert_eq(memcmp(e.got, "in\r", 3), 0);
	close(fd);
	char_end_close(&e);
}

Test(char, a_pty_without_a_reader_stalls_the_guest_only_for_a_moment)
{
	static const char line[1024];
	struct char_end e;
	size_t taken = 0, n;

	must_open(&e, &(struct char_config){ .mode = CHAR_PTY }, SIZE_MAX);
	while ((n = char_end_output(&e, line, sizeof(line))) == sizeof(line))
		cr_assert_lt(taken += n, 1 << 20, "the kernel's buffer has an end");
	cr_assert_eq(atomic_load(&e.ready), 0);
	cr_assert(char_end_wait_for(&e.ready, 1), "output goes on");
	for (int i = 0; i < 100; i++)
		cr_assert_eq(char_end_output(&e, line, sizeof(line)), sizeof(line));
	cr_assert_eq(char_end_dropped(&e), 100 * sizeof(line));
	char_end_close(&e);
}

Test(char, a_pty_whose_reader_comes_back_is_written_again)
{
	static char line[1024];
	struct char_end e;
	int fd;
	char last = 0;

	must_open(&e, &(struct char_config){ .mode = CHAR_PTY }, SIZE_MAX);
	while (char_end_output(&e, line, sizeof(line)) == sizeof(line))
		;
	cr_assert(char_end_wait_for(&e.ready, 1));
	fd = open(char_path(e.host), O_RDWR | O_NOCTTY | O_NONBLOCK);
	for (int i = 0; i < 500 && last != '!'; i++) {
		while (read(fd, line, sizeof(line)) > 0)
			last = memchr(line, '!', sizeof(line)) ? '!' : last;
		char_end_output(&e, "!", 1);
		poll(NULL, 0, 5);
	}
	cr_assert_eq(last, '!');
	close(fd);
	char_end_close(&e);
}

Test(char, input_waits_at_the_host_until_it_is_taken)
{
	char sent[3000];
	struct char_end e;
	unsigned calls;
	int fd;

	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (char)(i % 251);
	must_open(&e, &(struct char_config){ .mode = CHAR_PTY }, 10);
	fd = open(char_path(e.host), O_RDWR | O_NOCTTY);
	cr_assert_eq(write(fd, sent, sizeof(sent)), (ssize_t)sizeof(sent));
	cr_assert(char_end_wait(&e, 10));
	poll(NULL, 0, 50);
	calls = atomic_load(&e.calls);
	poll(NULL, 0, 100);
	cr_assert_eq(atomic_load(&e.calls), calls, "a paused input does not spin");
	for (size_t n = 10; n < sizeof(sent); n += 230)
		char_end_allow(&e, 230);
	cr_assert(char_end_wait(&e, sizeof(sent)));
	cr_assert_eq(memcmp(e.got, sent, sizeof(sent)), 0);
	close(fd);
	char_end_close(&e);
}

Test(char, a_socket_serves_one_client_after_the_other)
{
	struct char_end e;
	int first, second;
	char c;

	must_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, SIZE_MAX);
	cr_assert_eq(char_end_output(&e, "nobody", 6), 6, "without a client output is dropped");
	first = client(in_dir("s"));
	say_until_heard(&e, first, '1');
	second = client(in_dir("s"));
	cr_assert_eq(write(second, "b", 1), 1);
	cr_assert_eq(write(first, "a", 1), 1);
	cr_assert(char_end_wait(&e, 1));
	poll(NULL, 0, 50);
	cr_assert_eq(char_end_got(&e), 1, "the second waits");
	cr_assert_eq(e.got[0], 'a');
	close(first);
	cr_assert(char_end_wait(&e, 2));
	cr_assert_eq(e.got[1], 'b');
	say_until_heard(&e, second, '2');
	char_end_close(&e);
	cr_assert_eq(read(second, &c, 1), 0);
	close(second);
	cr_assert_eq(access(in_dir("s"), F_OK), -1, "the socket is removed");
}

Test(char, a_client_that_does_not_read_holds_output_back_without_loss)
{
	static uint8_t sent[1 << 20], got[1 << 20];
	struct char_end e;
	size_t out = 0, in = 0;
	int fd;

	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (uint8_t)(i * 7 + i / 256);
	must_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, SIZE_MAX);
	fd = client(in_dir("s"));
	say_until_heard(&e, fd, '.');
	while (recv(fd, got, sizeof(got), MSG_DONTWAIT) > 0)
		;
	while (out < sizeof(sent)) {
		unsigned ready = atomic_load(&e.ready);
		size_t n = char_end_output(&e, sent + out, sizeof(sent) - out);
		ssize_t r;

		out += n;
		if (out == sizeof(sent))
			break;
		cr_assert_eq(char_end_output(&e, sent + out, 1), 0, "not before output_ready");
		while ((r = recv(fd, got + in, sizeof(got) - in, MSG_DONTWAIT)) > 0)
			in += (size_t)r;
		cr_assert(char_end_wait_for(&e.ready, ready + 1));
	}
	while (in < sizeof(got)) {
		ssize_t r = read(fd, got + in, sizeof(got) - in);

		cr_assert_gt(r, 0);
		in += (size_t)r;
	}
	cr_assert_eq(memcmp(sent, got, sizeof(sent)), 0);
	close(fd);
	char_end_close(&e);
}

Test(char, a_client_that_leaves_while_output_waits_frees_the_guest)
{
	static uint8_t sent[1 << 20];
	struct char_end e;
	int fd;

	must_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, SIZE_MAX);
	fd = client(in_dir("s"));
	say_until_heard(&e, fd, '.');
	while (char_end_output(&e, sent, sizeof(sent)) == sizeof(sent))
		;
	close(fd);
	cr_assert(char_end_wait_for(&e.ready, 1));
	cr_assert_eq(char_end_output(&e, sent, sizeof(sent)), sizeof(sent));
	char_end_close(&e);
}

Test(char, a_client_that_left_a_stuck_guest_makes_room_for_the_next)
{
	static uint8_t junk[20000];
	struct char_end e;
	int first, second;

	must_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, 0);
	first = client(in_dir("s"));
	cr_assert_eq(write(first, junk, sizeof(junk)), (ssize_t)sizeof(junk));
	cr_assert(char_end_wait_for(&e.calls, 1));
	close(first);
	second = client(in_dir("s"));
	say_until_heard(&e, second, '2');
	close(second);
	char_end_close(&e);
}

Test(char, a_stale_socket_is_replaced_and_a_live_one_is_not)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct char_end a, b;
	struct error err;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, in_dir("s"));
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	must_open(&a, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, SIZE_MAX);
	cr_assert_eq(char_end_open(&b, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, 0, &err),
		-EADDRINUSE);
	cr_assert(strstr(err.text, "another program listens there"), "%s", err.text);
	char_end_close(&b);
	cr_assert_eq(access(in_dir("s"), F_OK), 0, "the loser leaves the winner's socket alone");
	char_end_close(&a);
}

Test(char, a_file_in_the_place_of_a_socket_is_left_alone)
{
	struct char_end e;
	struct error err;

	close(open(in_dir("s"), O_CREAT | O_WRONLY, 0600));
	cr_assert_eq(char_end_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, 0, &err),
		-ENOTSOCK);
	char_end_close(&e);
	cr_assert_eq(access(in_dir("s"), F_OK), 0);
}

Test(char, a_socket_is_for_its_owner_only)
{
	struct char_end e;
	struct stat st;

	umask(0);
	must_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = in_dir("s") }, 0);
	cr_assert_eq(stat(in_dir("s"), &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	char_end_close(&e);
}

Test(char, a_socket_path_that_is_too_long_gets_a_sentence)
{
	char path[200];
	struct char_end e;
	struct error err;

	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	cr_assert_eq(char_end_open(&e, &(struct char_config){ .mode = CHAR_SOCKET, .path = path }, 0, &err),
		-ENAMETOOLONG);
	cr_assert(strstr(err.text, "longer than the 107 bytes"), "%s", err.text);
	char_end_close(&e);
}

static void as_stdio(int in, int out)
{
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
}

Test(char, pipes_serve_as_a_terminal_and_their_end_is_the_end_of_input)
{
	int in[2], out[2];
	struct char_end e;
	char text[8] = "";
	unsigned calls;

	cr_assert(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC));
	as_stdio(in[0], out[1]);
	must_open(&e, &(struct char_config){ .mode = CHAR_TTY }, SIZE_MAX);
	cr_assert_eq(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK, 0, "O_NONBLOCK does not leak");
	cr_assert_eq(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK, 0, "O_NONBLOCK does not leak");
	/* In a pipe ^A x is data. */
	cr_assert_eq(write(in[1], "\001x!", 3), 3);
	cr_assert(char_end_wait(&e, 3));
	cr_assert_eq(memcmp(e.got, "\001x!", 3), 0);
	cr_assert_eq(atomic_load(&e.hang_ups), 0);
	cr_assert_eq(char_end_output(&e, "out", 3), 3);
	cr_assert_eq(read(out[0], text, sizeof(text)), 3);
	close(in[1]);
	poll(NULL, 0, 50);
	calls = atomic_load(&e.calls);
	poll(NULL, 0, 100);
	cr_assert_eq(atomic_load(&e.calls), calls);
	cr_assert_eq(char_end_output(&e, "still", 5), 5);
	char_end_close(&e);
}

Test(char, the_end_of_input_costs_no_time)
{
	int in[2], out[2];
	struct char_end e;
	struct rusage a, b;

	cr_assert(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC));
	as_stdio(in[0], out[1]);
	close(in[1]);
	close(out[0]);
	must_open(&e, &(struct char_config){ .mode = CHAR_TTY }, SIZE_MAX);
	poll(NULL, 0, 50);
	getrusage(RUSAGE_SELF, &a);
	poll(NULL, 0, 300);
	getrusage(RUSAGE_SELF, &b);
	cr_assert_lt((b.ru_utime.tv_sec - a.ru_utime.tv_sec + b.ru_stime.tv_sec - a.ru_stime.tv_sec) * 1000000 +
			b.ru_utime.tv_usec - a.ru_utime.tv_usec + b.ru_stime.tv_usec - a.ru_stime.tv_usec,
		100000);
	cr_assert_eq(char_end_output(&e, "x", 1), 1, "a reader that left is no reason to stop");
	char_end_close(&e);
}

Test(char, a_file_as_stdin_is_read_to_its_end_at_the_owners_pace)
{
	static char sent[20000];
	struct char_end e;
	int fd = open(in_dir("in"), O_CREAT | O_RDWR, 0600);
	int null = open("/dev/null", O_RDWR);

	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (char)(i % 253);
	cr_assert_eq(write(fd, sent, sizeof(sent)), (ssize_t)sizeof(sent));
	lseek(fd, 100, SEEK_SET);
	as_stdio(fd, null);
	must_open(&e, &(struct char_config){ .mode = CHAR_TTY }, 5000);
	cr_assert(char_end_wait(&e, 5000));
	cr_assert_eq(char_end_got(&e), 5000);
	char_end_allow(&e, sizeof(sent));
	cr_assert(char_end_wait(&e, sizeof(sent) - 100));
	cr_assert_eq(memcmp(e.got, sent + 100, sizeof(sent) - 100), 0, "the offset is the shell's");
	cr_assert_eq(char_end_output(&e, "x", 1), 1);
	char_end_close(&e);
}

Test(char, closed_standard_descriptors_are_a_line_without_ends)
{
	struct char_host *c;
	struct error err = { "" };

	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	cr_assert_eq(char_open(&c, &(struct char_config){ .mode = CHAR_TTY }, "--serial", &err), 0, "%s", err.text);
	cr_assert_eq(char_output(c, "x", 1), 1);
	cr_assert_eq(char_dropped(c), 1);
	char_close(c);
}

Test(char, a_socket_as_stdout_cannot_be_opened_again_and_still_never_blocks)
{
	static uint8_t sent[1 << 20];
	int pair[2], off = 0;
	struct char_end e;
	size_t n;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	as_stdio(pair[0], pair[0]);
	must_open(&e, &(struct char_config){ .mode = CHAR_TTY }, SIZE_MAX);
	n = char_end_output(&e, sent, sizeof(sent));
	cr_assert_gt(n, 0);
	cr_assert_lt(n, sizeof(sent), "it stops where the peer does");
	cr_assert_eq(ioctl(pair[0], FIONBIO, &off), 0);
	cr_assert_eq(fcntl(pair[0], F_GETFL) & O_NONBLOCK, 0);
	cr_assert_eq(write(pair[1], "in", 2), 2);
	cr_assert(char_end_wait(&e, 2));
	char_end_close(&e);
}

Test(char, the_terminal_has_one_user)
{
	struct char_terminal *slot = NULL;
	struct char_config config = { .mode = CHAR_TTY, .terminal = &slot };
	struct char_host *first, *second;
	struct error err;

	cr_assert_eq(char_open(&first, &config, "--serial", &err), 0);
	cr_assert_not_null(slot);
	cr_assert_eq(char_open(&second, &config, "--console", &err), -EBUSY);
	cr_assert_str_eq(err.text,
		"--console tty: the terminal is taken by --serial; use --console pty, file=, socket= or off");
	char_close(first);
	cr_assert_null(slot);
	cr_assert_eq(char_open(&second, &config, "--console", &err), 0, "free again");
	char_close(second);
}

Test(char, paths_imply_their_mode_and_contradictions_get_a_sentence)
{
	char a[] = "a", b[] = "b";
	const struct {
		struct char_options o;
		int r;
		enum char_mode mode;
		const char *path;
	} rows[] = {
		{ { .mode = CHAR_TTY }, 0, CHAR_TTY, NULL },
		{ { .mode = CHAR_TTY, .file = a }, 0, CHAR_FILE, "a" },
		{ { .mode = CHAR_TTY, .socket = b }, 0, CHAR_SOCKET, "b" },
		{ { .mode = CHAR_FILE, .file = a }, 0, CHAR_FILE, "a" },
		{ { .mode = CHAR_TTY, .file = a, .socket = b }, -EINVAL, 0, NULL },
		{ { .mode = CHAR_PTY, .file = a }, -EINVAL, 0, NULL },
		{ { .mode = CHAR_FILE, .socket = b }, -EINVAL, 0, NULL },
		{ { .mode = CHAR_FILE }, -EINVAL, 0, NULL },
		{ { .mode = CHAR_SOCKET }, -EINVAL, 0, NULL },
		{ { .mode = CHAR_OFF, .socket = b }, -EINVAL, 0, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct char_config config = { 0 };
		struct error err = { "" };

		cr_assert_eq(char_configure(&config, &rows[i].o, CHAR_TTY, "--serial", &err), rows[i].r, "row %zu", i);
		if (rows[i].r) {
			cr_assert(!strncmp(err.text, "--serial", 8), "%s", err.text);
			continue;
		}
		cr_assert_eq(config.mode, rows[i].mode, "row %zu", i);
		cr_assert(rows[i].path ? !strcmp(config.path, rows[i].path) : !config.path, "row %zu", i);
	}
}
