/*
 * Rings are made on main, in stage 2, so that nothing is opened, mapped or registered later. The
 * worker that enables a disk's becomes the only one that may submit (SINGLE_ISSUER).
 *
 * A ring is a second way into the kernel, which the thread's filter does not see: for good it may
 * do only what its owner needs, and only to the files registered with it (io_uring_register(2),
 * IORING_REGISTER_RESTRICTIONS).
 *
 * Not used, by measurement (Linux 6.18): DEFER_TASKRUN, under which the ring's fd stays silent
 * until its owner asks, so that a lone request takes an eventfd and 4 more system calls, and which
 * moves no more requests at depth 128; and the registered fd of the ring itself, whose gain is lost
 * in the noise.
 */
#include "devices/host/ring.h"

#include <errno.h>

enum { OPS_MAX = 8 };

static int restrict_ring(struct io_uring *ring, const struct ring_config *config)
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
	allow[n++].register_op = config->at_once ? IORING_UNREGISTER_FILES : RING_ENABLE;
	return io_uring_register_restrictions(ring, allow, n);
}

/* The first set of flags that this kernel knows; each is newer than the next. */
static int queue_init(struct io_uring *ring, const struct ring_config *config)
{
	static const unsigned flags[] = {
		/* 6.0 */
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			IORING_SETUP_SINGLE_ISSUER,
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 5.19 */
		0,
	};
	const unsigned unbound = config->at_once ? ~(unsigned)IORING_SETUP_SINGLE_ISSUER : ~0u;
	int r = -ENOSYS;

	for (size_t i = config->level; i < ARRAY_SIZE(flags); i++) {
		r = io_uring_queue_init(config->depth, ring,
			(flags[i] & unbound) | config->flags | IORING_SETUP_R_DISABLED);
		if (r != -EINVAL)
			break;
	}
	return r;
}

int ring_create(struct io_uring *ring, const struct ring_config *config)
{
	int r = queue_init(ring, config);

	if (r < 0)
		return r;
	if (!config->inherited)
		io_uring_ring_dontfork(ring);
	r = io_uring_register_files(ring, config->files, config->nfiles);
	if (r == 0 && config->nbuffers)
		r = io_uring_register_buffers(ring, config->buffers, config->nbuffers);
	if (r == 0)
		r = restrict_ring(ring, config);
	if (r == 0 && config->at_once)
		r = io_uring_enable_rings(ring);
	/* A process that inherits them is at its end then, and takes them along. */
	if (r < 0 && !config->inherited)
		io_uring_queue_exit(ring);
	return r;
}
