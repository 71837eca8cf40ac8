/*
 * Unix sockets with a name, within the sandbox: whoever listens keeps the directory to remove the
 * name at the end, and whoever connects keeps it to connect again when paths lead nowhere any more.
 */
#ifndef DEVICES_HOST_UNIX_SOCKET_H
#define DEVICES_HOST_UNIX_SOCKET_H

#include <sys/types.h>

#include "vmm/error.h"
#include "vmm/sandbox.h"

enum { UNIX_SOCKET_FDS = 8 };

/* A directory and a name in it. All zero but dir_fd -1: none. */
struct unix_place {
	int dir_fd;
	char *name;
};

/*
 * Main, stage 2. -ENAMETOOLONG: more than a socket address holds; or what open(2) says of the
 * directory.
 */
int unix_place_open(struct unix_place *ret, const char *path) NEEDS_CHECK;
/* Takes one that is none. */
void unix_place_close(struct unix_place *p);

/*
 * Listen at `path`, for `backlog` clients, with the rights of the user alone. A socket without
 * listener that is there goes. The fd, not blocking; -EADDRINUSE: somebody listens there;
 * -ENOTSOCK; or what bind(2) says. Main, stage 2.
 */
int unix_socket_listen(const char *path, int backlog) NEEDS_CHECK;
/* Remove the name again; main, at any time. */
void unix_socket_remove(const struct unix_place *p);
/* What a user can do about an error of the two above. */
const char *unix_socket_remedy(int r);

/* Connect by path. The fd, not blocking, or what connect(2) says. Main, stage 2. */
int unix_socket_connect(const char *path) NEEDS_CHECK;
/*
 * The same once there are no paths: by the directory that was kept. The calling thread gets a
 * working directory of its own for that, which it keeps. A sealed worker.
 */
int unix_place_connect(const struct unix_place *p) NEEDS_CHECK;

/*
 * Send all of it at once with `nfds` descriptors. 0; -EAGAIN: the peer does not read, what was sent
 * is torn; or what sendmsg(2) says. Never waits.
 */
int unix_socket_send(int fd, const void *data, size_t len, const int *fds, unsigned nfds) NEEDS_CHECK;
/*
 * Up to `len` bytes and the descriptors that come with them, in fds[*nfds..UNIX_SOCKET_FDS); those
 * that do not fit are closed. Bytes; 0: the peer has closed; -EAGAIN: nothing there.
 */
ssize_t unix_socket_receive(int fd, void *data, size_t len, int *fds, unsigned *nfds) NEEDS_CHECK;

/* Rows for unix_place_connect, for the two of messages, and of main for unix_socket_remove. */
extern const struct syscall_row unix_connect_syscalls[], unix_message_syscalls[], unix_remove_syscalls[];

#endif
