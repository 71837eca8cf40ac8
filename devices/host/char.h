/*
 * Where a serial line's bytes go: a terminal, a pseudo terminal, a file, a socket, or nowhere.
 *
 * Open on main in stage 2; bytes move on the loop of one owner; closed by main when that loop does
 * not run.
 *
 * - tty: stdin and stdout of this process, through file descriptions of our own, so that O_NONBLOCK
 *   never leaks to the shell. When stdin is a terminal it is raw (output processing stays) from
 *   open to close, ^A x asks for the way out, ^A ^A is one ^A. Whoever ends the process in an
 *   orderly way calls char_close(). Guest bytes reach the terminal as they are, escape sequences
 *   too: show no guest there that the terminal cannot cope with.
 *
 * - pty: a new pseudo terminal; with nobody reading, output is dropped once its buffer is full.
 *
 * - file: truncated at open; at most `limit` bytes are written, the rest is dropped. No input.
 *
 * - socket: a listening unix socket, one client at a time, the next one waits. Without a client
 *   output is dropped. A client that shuts down its sending side has gone.
 *
 * - null: output is dropped, no input.
 *
 * Nothing here grows with what a guest or a peer does: input is read only while the owner takes it,
 * output is handed to the kernel or refused.
 */
#ifndef DEVICES_HOST_CHAR_H
#define DEVICES_HOST_CHAR_H

#include <sys/uio.h>

#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"

struct char_host;
struct char_terminal;

enum char_mode { CHAR_OFF, CHAR_NULL, CHAR_TTY, CHAR_PTY, CHAR_FILE, CHAR_SOCKET };
extern const char *const char_mode_choices[];

/* The most iovecs that char_output_iov() looks at. */
enum { CHAR_IOV_MAX = 16 };

struct char_config {
	enum char_mode mode;
	const char *path; /* FILE, SOCKET */
	uint64_t limit;	  /* FILE: bytes; 0: none */
	/*
	 * TTY: the machine's one slot for "who has the terminal", NULL while it is free; filled at
	 * open, emptied at close. A NULL pointer here: nobody checks.
	 */
	struct char_terminal **terminal;
};

/* What a user says about one line; a member of a device's options struct T. */
struct char_options {
	uint32_t mode; /* enum char_mode */
	char *file, *socket;
	uint64_t limit;
};
/* clang-format off */
#define CHAR_OPTION_ROWS(T, m, default_mode)                                                       \
	{ .key = "mode", .type = OPTION_ENUM, .def = default_mode, .offset = offsetof(T, m.mode),  \
		.choices = char_mode_choices, .help = "where the bytes go" },                      \
	{ .key = "file", .type = OPTION_PATH, .offset = offsetof(T, m.file),                       \
		.help = "file for the output, truncated first; implies mode=file" },               \
	{ .key = "socket", .type = OPTION_PATH, .offset = offsetof(T, m.socket),                   \
		.help = "unix socket to listen on; implies mode=socket" },                         \
	{ .key = "limit", .type = OPTION_SIZE, .def = "1G", .offset = offsetof(T, m.limit),        \
		.unit = "bytes", .help = "largest file=; later output is dropped (0: no limit)" }
/* clang-format on */

struct char_events {
	/* Input from the host; returns how many bytes were taken. Less than len: paused until
	 * char_resume_input(). */
	size_t (*input)(void *ctx, const uint8_t *data, size_t len);
	/* Output has room again after char_output() took less than it was given. */
	void (*output_ready)(void *ctx);
	/* NULL: nobody cares. */
	void (*resized)(void *ctx, unsigned columns, unsigned rows);
	void (*hang_up)(void *ctx); /* ^A x typed */
	void *ctx;
};

/*
 * Options to config: file= and socket= imply their mode when `mode` is `usual` (the default of this
 * line). -EINVAL with a sentence when they contradict each other. `option` is the flag, "--serial".
 * Strings stay the options'. Main.
 */
int char_configure(struct char_config *ret, const struct char_options *options,
	enum char_mode usual, const char *option, struct error *err) NEEDS_CHECK;

/* mode OFF is the caller's to handle: -EINVAL. `option` outlives the host. SIGPIPE has
 * to be ignored: a pipe or client that left is an EPIPE for the owner. Main, stage 2. */
int char_open(struct char_host **ret, const struct char_config *config, const char *option,
	struct error *err) NEEDS_CHECK;
/* Takes no more part in the loop; output is dropped from now on. Owner, or main when the loop does
 * not run. */
void char_detach(struct char_host *c);
/* Takes NULL. Removes the socket, restores the terminal. Main; detached, or the loop does not run.
 */
void char_close(struct char_host *c);
/* Path of the pty slave or socket; NULL. */
const char *char_path(const struct char_host *c);
/* Once, by main before the loop runs or by the owner. */
int char_attach(
	struct char_host *c, struct loop *loop, const struct char_events *events) NEEDS_CHECK;
/*
 * How many bytes were taken, never blocks; with nobody at the other end (no client, null)
 * everything is taken and dropped. After a short count nothing is taken until output_ready. Owner.
 */
size_t char_output(struct char_host *c, const void *data, size_t len);
/* The same from n <= CHAR_IOV_MAX pieces. */
size_t char_output_iov(struct char_host *c, const struct iovec *iov, int n);
/* Cut `done` bytes, and empty pieces after them, off the front; returns the pieces that are left.
 */
int char_iov_advance(struct iovec *iov, int n, size_t done);
void char_resume_input(struct char_host *c);
/*
 * Ask the terminal for its size, and call resized() when it is new. The host calls it itself on
 * SIGWINCH, which it takes by a signalfd of its own (char_open() blocks the signal); the owner
 * calls it once after char_attach().
 */
void char_check_size(struct char_host *c);
/* Bytes that were taken and dropped because nobody was there or the file could not take them.
 * Owner. */
uint64_t char_dropped(const struct char_host *c);

/*
 * For a process that goes on where another one ended: all that this one has to hold to do so, and
 * how much was written, which counts against `limit`. Main; owner.
 */
void char_fds(const struct char_host *c, void (*keep)(void *ctx, int fd), void *ctx);
uint64_t char_written(const struct char_host *c);
void char_go_on(struct char_host *c, uint64_t written);
/* What a new process does before it is sealed, when it attaches. */
extern const struct syscall_row char_attach_syscalls[];

/*
 * What its owner does (n = 0, 1), and main in char_close(), by the kind of the other end; NULL:
 * nothing. Main, after char_open().
 */
const struct syscall_row *char_syscalls(const struct char_host *c, unsigned n);
const struct syscall_row *char_main_syscalls(const struct char_host *c);

#endif
