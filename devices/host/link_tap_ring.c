/*
 * The frames of a tap by io_uring (io_uring_enter(2)): a batch of reads or writes is one system
 * call, straight between guest memory and the kernel.
 *
 * A tap reads and writes without waiting when it is asked to (RWF_NOWAIT; Linux 6.4): each entry is
 * then done, or refused with EAGAIN, before io_uring_enter returns, one after the other. So frames
 * keep their order, nothing is in flight between two calls, and no kernel thread takes one over.
 * O_NONBLOCK alone would not do: io_uring would wait for the tap instead of answering. Frames are
 * read only when the tap said that it has some, or while it has: a read that finds none costs half
 * as much as one that does.
 *
 * The ring is made and enabled by main, in stage 2, and is restricted for good to these two
 * operations on this one file, since the thread's filter does not see what goes through it. It
 * serves one queue of the interface, on the thread of its owner. Main takes the file out of it at
 * the end: the kernel takes rings down at leisure, and a tap would be in use until then.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "devices/host/link_tap.h"
#include "devices/host/ring.h"

struct tap_ring {
	struct io_uring ring;
};

const struct syscall_row tap_ring_syscalls[] = {
	{ SYSCALL(io_uring_enter, "a batch of frames to the tap or from it") },
	SYSCALL_END,
};

/*
 * The kernel took only `sent` of n entries. Those that are left go in with the next batch, when
 * their buffers are others': as operations that the ring may not do, with no frame to answer for.
 */
static void spoil_rest(struct tap_ring *r, unsigned sent, unsigned n)
{
	struct io_uring_sq *sq = &r->ring.sq;

	for (unsigned i = sent; i < n; i++) {
		struct io_uring_sqe *sqe = &sq->sqes[(sq->sqe_tail - (n - i)) & sq->ring_mask];

		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data(sqe, NULL);
	}
}

/* How many frames got their results. All that was sent has come back afterwards. */
static unsigned reap(struct tap_ring *r, unsigned n)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0, done = 0;

	while (io_uring_cq_ready(&r->ring) < n && io_uring_wait_cqe_nr(&r->ring, &cqe, n) == -EINTR)
		;
	io_uring_for_each_cqe(&r->ring, head, cqe) {
		struct link_frame *f = io_uring_cqe_get_data(cqe);

		seen++;
		if (!f)
			continue;
		f->result = cqe->res;
		done++;
	}
	io_uring_cq_advance(&r->ring, seen);
	return done;
}

static unsigned move(struct tap_ring *r, struct link_frame *f, unsigned n, bool out)
{
	unsigned waiting = io_uring_sq_ready(&r->ring);
	int sent;

	/* What was refused once makes way first. */
	if (waiting) {
		sent = io_uring_submit(&r->ring);
		reap(r, (unsigned)MAX(sent, 0));
		if (sent != (int)waiting)
			return 0;
	}
	for (unsigned i = 0; i < n; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

		if (out)
			io_uring_prep_writev2(sqe, 0, f[i].iov, (unsigned)f[i].n, 0, RWF_NOWAIT);
		else
			io_uring_prep_readv2(sqe, 0, f[i].iov, (unsigned)f[i].n + 1, 0, RWF_NOWAIT);
		sqe->flags |= IOSQE_FIXED_FILE;
		io_uring_sqe_set_data(sqe, &f[i]);
	}
	sent = io_uring_submit_and_wait(&r->ring, n);
	sent = MAX(sent, 0);
	if (sent < (int)n)
		spoil_rest(r, (unsigned)sent, n);
	return reap(r, (unsigned)sent);
}

unsigned tap_ring_send(struct tap_ring *r, struct link_frame *f, unsigned n)
{
	return move(r, f, n, true);
}

unsigned tap_ring_recv(struct tap_ring *r, struct link_frame *f, unsigned n)
{
	return move(r, f, n, false);
}

/* --- main --- */

/* One byte is no frame: the kernel refuses it, or the flag before it looks. */
static bool can_answer_at_once(int fd)
{
	char byte = 0;
	const struct iovec iov = { &byte, 1 };

	return pwritev2(fd, &iov, 1, -1, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

const struct syscall_row tap_ring_forked_syscalls[] = {
	{ SYSCALL(io_uring_setup, "a ring for each life of a tap's process") },
	{ SYSCALL(io_uring_register, "the tap of that ring, and what it may do with it") },
	SYSCALL_END,
};

static int make(struct tap_ring *r, int fd, bool inherited)
{
	static const uint8_t ops[] = { IORING_OP_READV, IORING_OP_WRITEV };
	const struct ring_config config = { .depth = LINK_BATCH_MAX, .files = &fd, .nfiles = 1, .at_once = true,
		.inherited = inherited, .ops = ops, .nops = ARRAY_SIZE(ops) };

	return ring_create(&r->ring, &config);
}

int tap_ring_renew(struct tap_ring *r, int fd)
{
	return make(r, fd, true);
}

int tap_ring_create(struct tap_ring **ret, int fd)
{
	struct tap_ring *r;
	int code;

	if (!can_answer_at_once(fd))
		return -EOPNOTSUPP;
	r = calloc(1, sizeof(*r));
	code = r ? make(r, fd, false) : -ENOMEM;
	if (code < 0) {
		free(r);
		return code;
	}
	*ret = r;
	return 0;
}

void tap_ring_destroy(struct tap_ring *r)
{
	if (!r)
		return;
	io_uring_unregister_files(&r->ring);
	io_uring_queue_exit(&r->ring);
	free(r);
}
