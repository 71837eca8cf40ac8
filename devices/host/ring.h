/*
 * The io_uring of a disk or a link: the best one that this kernel has, and able to do no more than
 * it must.
 */
#ifndef DEVICES_HOST_RING_H
#define DEVICES_HOST_RING_H

#include <liburing.h>

#include "vmm/util.h"

enum { RING_ENABLE = 12 /* io_uring_register(2): IORING_REGISTER_ENABLE_RINGS */ };

struct ring_config {
	unsigned depth;      /* entries */
	unsigned flags;      /* IORING_SETUP_* that its owner cannot do without */
	unsigned level;      /* pass over so many of the newest sets of flags; for tests */
	const int *files;    /* registered; entries name them by index */
	unsigned nfiles;
	bool inherited;      /* false: its memory is not for processes that are forked from this one */
	/*
	 * Enabled when it is made, and bound to no thread: for entries that are done before the
	 * kernel returns. It can let go of its files, and nothing else be registered.
	 */
	bool at_once;
	const struct iovec *buffers; /* registered; none: NULL */
	unsigned nbuffers;
	const uint8_t *ops;  /* IORING_OP_* that it may do */
	unsigned nops;
};

/*
 * Main, stage 2. The ring is disabled unless at_once: the thread that enables it is the only one
 * that may submit. -errno: this kernel has none to give.
 */
int ring_create(struct io_uring *ring, const struct ring_config *config) NEEDS_CHECK;

#endif
