/* A disk's io_uring: the best one that this kernel has, and able to do no more than it must. */
#ifndef DEVICES_HOST_DISK_RING_H
#define DEVICES_HOST_DISK_RING_H

#include <liburing.h>

#include "vmm/util.h"

enum { DISK_RING_ENABLE = 12 /* io_uring_register(2): IORING_REGISTER_ENABLE_RINGS */ };

struct disk_ring_config {
	unsigned depth;      /* entries */
	unsigned flags;      /* IORING_SETUP_* that the disk cannot do without */
	unsigned level;      /* pass over so many of the newest sets of flags; for tests */
	const int *files;    /* registered; entries name them by index */
	unsigned nfiles;
	bool inherited;      /* false: its memory is not for processes that are forked from this one */
	const struct iovec *buffers; /* registered; none: NULL */
	unsigned nbuffers;
	const uint8_t *ops;  /* IORING_OP_* that it may do */
	unsigned nops;
};

/*
 * Main, stage 2. The ring is disabled: the thread that enables it is the only one that may submit.
 * -errno: this kernel has none to give.
 */
int disk_ring_create(struct io_uring *ring, const struct disk_ring_config *config) NEEDS_CHECK;

#endif
