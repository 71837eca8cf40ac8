/*
 * Frames of one device into a pcapng file (IETF draft-ietf-opsawg-pcapng), for tcpdump and
 * Wireshark.
 *
 * Whoever moves frames copies those that the filter lets through into a ring of its own and goes
 * on; a thread that has nothing else to do writes them out. When that falls behind, frames are
 * missing from the file and counted, never from the network.
 */
#ifndef DEVICES_HOST_CAPTURE_H
#define DEVICES_HOST_CAPTURE_H

#include <sys/uio.h>

#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"
#include "vmm/util.h"

struct capture;

struct capture_config {
	const char *path;
	const char *filter;      /* as tcpdump takes it; NULL: everything */
	/*
	 * 0: as large as it gets; else the latest frames, in two files of half as much, `path` and
	 * `path`.1
	 */
	uint64_t size;
	const char *name;        /* of the interface, for readers */
	unsigned lanes;          /* owners that capture at the same time */
	bool on;                 /* from the start */
	bool forks;              /* lanes are of one process after the other; the writer stays here */
};

/* Main, stage 2: opens the files, and compiles the filter with libpcap, loaded for it. */
int capture_open(struct capture **ret, const struct capture_config *config,
	struct error *err) NEEDS_CHECK;
/* Of a capture that forks: whole pages, MADV_DONTFORK, that the owners of lanes see too. */
void *capture_pages(const struct capture *c, size_t *ret_bytes);
/* A new process: its lanes go on where those of the one before ended. Takes NULL. */
void capture_forked(struct capture *c);
void capture_fds(const struct capture *c, void (*keep)(void *ctx, int fd), void *ctx);
/* Main, before the writer's thread runs: write on this loop. */
int capture_attach(struct capture *c, struct loop *loop) NEEDS_CHECK;
/* Any thread, at any time. */
void capture_switch(struct capture *c, bool on);
/*
 * Owner of the lane, one thread: the frame of `len` bytes that begins `skip` bytes into iov. Never
 * waits. Takes NULL, and costs one load while it is off.
 */
void capture_frame(struct capture *c, unsigned lane, bool sent, const struct iovec *iov, int n,
	size_t skip, size_t len);
/* Frames that were not captured for want of room, or of a file to write to. Any thread. */
uint64_t capture_dropped(const struct capture *c);
/*
 * Any thread, when nobody captures: the writer writes what waits, and how many were dropped, before
 * its loop ends. Takes NULL.
 */
void capture_sync(struct capture *c);
/*
 * Main, after capture_sync() and the end of the writer's thread; without capture_attach() it writes
 * the rest itself. Takes NULL.
 */
void capture_close(struct capture *c);

#define CAPTURE_SYSCALL_ROWS                                                                       \
	{ SYSCALL(pwrite64, "captured frames into their file") },                                  \
	{ SYSCALL(ftruncate, "begin a capture file anew when both are full") }

#endif
