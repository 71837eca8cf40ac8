/*
 * Rings for disks: made on main, in stage 2, disabled, so that nothing is opened, mapped or
 * registered later. The worker that enables a ring becomes the only one that may submit
 * (SINGLE_ISSUER).
 *
 * A ring is a second way into the kernel, which the thread's filter does not see: for good it may
 * do only what a disk needs, and only to the files registered with it (io_uring_register(2),
 * IORING_REGISTER_RESTRICTIONS).
 *
 * Not used, by measurement (Linux 6.18): DEFER_TASKRUN, under which the ring's fd stays silent
 * until its owner asks, so that a lone request takes an eventfd and 4 more system calls, and which
 * moves no more requests at depth 128; and the registered fd of the ring itself, whose gain is lost
 * in the noise.
 */
#include "devices/host/disk_ring.h"

#include <errno.h>

enum { OPS_MAX = 8 };

static int restrict_ring(struct io_uring *ring, const struct disk_ring_config *config)
{
	struct io_uring_restriction allow[OPS_MAX + 2] = { 0 };
	unsigned n = 0;

	for (; n < MIN(config->nops, (unsigned)OPS_MAX); n++) {
		allow[n].opcode = IORING_RESTRICTION_SQE_OP;
		allow[n].sqe_op = config->ops[n];
	}
	allow[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	allow[n++].sqe_flags = IOSQE_FIXED_FILE;
	allow[n].opcode = IORING_RESTRICTION_REGISTER_OP;
	allow[n++].register_op = DISK_RING_ENABLE;
	return io_uring_register_restrictions(ring, allow, n);
}

int disk_ring_create(struct io_uring *ring, const struct disk_ring_config *config)
{
	/* Each set is newer than the next. */
	static const unsigned flags[] = {
		/* 6.0 */
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			IORING_SETUP_SINGLE_ISSUER,
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 5.19 */
		0,
	};
	int r = -ENOSYS;

	for (size_t i = config->level; i < ARRAY_SIZE(flags); i++) {
		r = io_uring_queue_init(config->depth, ring, flags[i] | config->flags | IORING_SETUP_R_DISABLED);
		if (r != -EINVAL)
			break;
	}
	if (r < 0)
		return r;
	if (!config->inherited)
		io_uring_ring_dontfork(ring);
	r = io_uring_register_files(ring, config->files, config->nfiles);
	if (r == 0 && config->nbuffers)
		r = io_uring_register_buffers(ring, config->buffers, config->nbuffers);
	if (r == 0)
		r = restrict_ring(ring, config);
	if (r < 0)
		io_uring_queue_exit(ring);
	return r;
}
