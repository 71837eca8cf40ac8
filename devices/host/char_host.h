/*
 * The inside of a character host, shared by char.c (life), char_io.c (bytes) and one file per kind
 * of other end. Nobody else includes it.
 */
#ifndef DEVICES_HOST_CHAR_HOST_H
#define DEVICES_HOST_CHAR_HOST_H

#include <termios.h>

#include "devices/host/char.h"
#include "devices/host/unix_socket.h"

enum {
	CHAR_IN_MAX = 4096,   /* one read; also all the input that is ever held */
	CHAR_PIECE = 32,      /* one write to a terminal that may block, after a poll */
	CHAR_STALL_MS = 500,  /* a pty whose buffer stays full for so long has no reader */
	CHAR_STUCK_MS = 1000, /* an owner who takes no input for so long does not read */
};

/* What the machine's slot points at while the terminal is taken. */
struct char_terminal {
	const char *option;
};

/* The other end of one mode; all members but open may be NULL. */
struct char_kind {
	int (*open)(struct char_host *c, const struct char_config *config, const char *option,
		struct error *err);
	int (*attach)(struct char_host *c);
	void (*tick)(struct char_host *c);
	void (*close)(struct char_host *c);
	const struct syscall_row *syscalls, *main_syscalls;
};

struct char_host {
	enum char_mode mode;	      /* const */
	const struct char_kind *kind; /* const */
	const char *option;	      /* const */
	char *path;		      /* const; pty slave, socket; NULL */

	int in_fd, out_fd; /* io; -1: none. Equal for a pty and a client */
	bool is_socket;	   /* const after open */
	bool regular;	   /* const after open; out_fd is a file, which is always ready */
	bool may_block;	   /* const; out_fd has no O_NONBLOCK: poll first, small pieces */
	bool escapes;	   /* const; ^A is ours: stdin is a terminal */

	struct loop *loop; /* const after attach, as the next */
	struct char_events events;
	struct loop_source *in_src, *out_src; /* io; the same source when the fds are */
	struct loop_source *timer;	      /* io; what for: char_io.c */
	unsigned in_mask, out_mask;	      /* io; what the sources wait for */

	/* io: input. Bytes in[in_pos..in_len) wait for the owner. One byte more for a ^A that was
	 * held back. */
	uint8_t in[CHAR_IN_MAX + 1];
	size_t in_pos, in_len;
	bool in_eof, in_unpollable;
	bool escape; /* a ^A came, the next key decides */
	bool paused, delivering, resumed;
	bool discard; /* the owner is stuck: look for ^A x only */

	/* io: output */
	bool out_wait; /* the kernel was full; output_ready is owed */
	bool dropping; /* pty: nobody reads */
	bool warned;
	bool detached;
	uint64_t limit, written, dropped;

	/* tty */
	struct char_terminal terminal, **slot;
	struct termios saved; /* const after open */
	bool raw;	      /* `saved` is owed to the terminal */
	int winch_fd;
	struct loop_source *winch_src;
	unsigned columns, rows;

	int slave_fd; /* pty: keeps the master from hanging up */

	/* socket: the directory of the path, for its removal after the root has gone */
	int listen_fd;
	struct unix_place place;
	struct loop_source *listen_src;
};

/* One for each enum char_mode that can be opened. */
extern const struct char_kind char_kind_tty, char_kind_pty, char_kind_socket;

/* char_io.c. Sources for in_fd and out_fd (0 or -errno), and none. */
int char_watch(struct char_host *c);
void char_unwatch(struct char_host *c);
int char_io_attach(struct char_host *c);
/* The other end of a socket went away; its fd is closed. `tell`: output_ready is called if it is
 * owed. */
void char_client_gone(struct char_host *c, bool tell);
void char_timer(struct char_host *c, unsigned ms);

#endif
