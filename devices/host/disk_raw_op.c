/*
 * A request of a raw disk as a small state machine, without a system call of its own.
 *
 * raw_op_next() says which kernel operation the request needs now; raw_op_result() takes the answer
 * and says whether the request is done or needs one more: the rest of a short transfer, the other
 * descriptor when O_DIRECT will not have the memory, zeroes by hand when the file cannot zero a
 * range, an fdatasync after a `sync` write. Runs on the owner of the queue.
 */
#include "devices/host/disk_raw.h"

#include <errno.h>
#include <fcntl.h>

enum { TRIES_MAX = 16 }; /* EINTR and EAGAIN without progress */

void raw_op_begin(const struct raw_disk *d, struct disk_request *rq)
{
	raw_transfer_begin(rq);
	switch (rq->op) {
	case DISK_READ:
	case DISK_WRITE:
		break;
	case DISK_FLUSH:
		rq->phase = RAW_PHASE_SYNC;
		break;
	case DISK_DISCARD:
		rq->phase = RAW_PHASE_RANGE;
		break;
	case DISK_WRITE_ZEROES:
		rq->phase = RAW_PHASE_RANGE;
		if (!rq->unmap && atomic_load_explicit(&d->no_zero_range, memory_order_relaxed))
			rq->phase = RAW_PHASE_ZEROES;
		break;
	}
}

static bool direct_takes(const struct raw_disk *d, const struct disk_request *rq)
{
	uint64_t bits = 0;

	if ((rq->offset + rq->done_so_far) % d->file_align ||
		(rq->len - rq->done_so_far) % d->file_align)
		return false;
	for (int i = 0; i < rq->iovcnt; i++)
		bits |= (uintptr_t)rq->iov[i].iov_base | rq->iov[i].iov_len;
	return is_aligned(bits, d->mem_align);
}

struct raw_op raw_op_next(const struct raw_disk *d, struct disk_request *rq)
{
	struct raw_op op = {
		.file = FILE_BUFFERED,
		.offset = rq->offset + rq->done_so_far,
		.len = rq->len - rq->done_so_far,
	};

	switch ((enum raw_phase)rq->phase) {
	case RAW_PHASE_TRANSFER:
		op.kind = rq->op == DISK_READ ? OP_READ : OP_WRITE;
		op.iov = rq->iov;
		op.iovcnt = rq->iovcnt;
		rq->buffered |= d->direct && !direct_takes(d, rq);
		if (!rq->buffered)
			op.file = FILE_MAIN;
		break;
	case RAW_PHASE_RANGE:
		op.kind = OP_FALLOCATE;
		op.mode = FALLOC_FL_KEEP_SIZE;
		op.mode |= rq->op == DISK_DISCARD || rq->unmap ?
			FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
		break;
	case RAW_PHASE_ZEROES:
		op.kind = OP_ZEROES;
		op.len = MIN(op.len, (uint64_t)RAW_ZERO_BYTES);
		break;
	case RAW_PHASE_SYNC:
		op.kind = OP_SYNC;
		break;
	}
	return op;
}

bool raw_op_is_range(const struct disk_request *rq)
{
	return rq->phase == RAW_PHASE_RANGE;
}

static void iov_advance(struct disk_request *rq, size_t n)
{
	while (n && rq->iovcnt) {
		size_t step = MIN(n, rq->iov->iov_len);

		rq->iov->iov_base = (char *)rq->iov->iov_base + step;
		rq->iov->iov_len -= step;
		n -= step;
		if (rq->iov->iov_len)
			break;
		rq->iov++;
		rq->iovcnt--;
	}
}

/* The bytes are where they belong; a `sync` request still has them made stable. */
static enum raw_verdict op_succeeded(struct disk_request *rq)
{
	if (rq->op == DISK_READ || !rq->sync)
		return RAW_DONE;
	rq->phase = RAW_PHASE_SYNC;
	rq->tries = 0;
	return RAW_AGAIN;
}

static enum raw_verdict transfer_result(struct raw_disk *d, struct disk_request *rq,
	ssize_t res, int *result)
{
	if (res == -EINVAL && rq->phase == RAW_PHASE_TRANSFER && d->direct && !rq->buffered) {
		/*
		 * The kernel is stricter about alignment than it said; a guest must not see that.
		 */
		rq->buffered = true;
		return RAW_AGAIN;
	}
	if (!res && d->image && rq->op == DISK_READ) {
		for (; rq->iovcnt; rq->iov++, rq->iovcnt--)
			memset(rq->iov->iov_base, 0, rq->iov->iov_len);
		return RAW_DONE;
	}
	if (res <= 0) {
		/* 0: the file ends before the disk does, somebody cut it. */
		*result = res ? (int)res : -EIO;
		return RAW_DONE;
	}
	rq->tries = 0;
	if (rq->phase == RAW_PHASE_TRANSFER)
		iov_advance(rq, (size_t)res);
	rq->done_so_far += MIN((uint64_t)res, rq->len - rq->done_so_far);
	if (d->image && rq->op != DISK_READ)
		raw_kept(d)->stored = d->info.stored = MAX(d->info.stored, rq->offset + rq->done_so_far);
	return rq->done_so_far < rq->len ? RAW_AGAIN : op_succeeded(rq);
}

static enum raw_verdict range_result(struct raw_disk *d, struct disk_request *rq, ssize_t res,
	int *result)
{
	bool cannot = res == -EOPNOTSUPP || res == -ENOSYS || res == -EINVAL || res == -ENODEV;

	if (!res)
		return op_succeeded(rq);
	if (cannot && rq->op == DISK_DISCARD) /* a hint: nobody may rely on it */
		return RAW_DONE;
	if (cannot && rq->op == DISK_WRITE_ZEROES) {
		if (res == -EOPNOTSUPP && !rq->unmap)
			atomic_store_explicit(&d->no_zero_range, true, memory_order_relaxed);
		rq->phase = RAW_PHASE_ZEROES;
		return RAW_AGAIN;
	}
	*result = (int)res;
	return RAW_DONE;
}

/*
 * After a failed fsync the kernel calls the lost pages clean, and the next fsync would succeed
 * without them: so the first failure is remembered for good.
 */
static enum raw_verdict sync_result(struct raw_disk *d, ssize_t res, int *result)
{
	_Atomic bool *failed = &raw_kept(d)->flush_failed;

	if (res < 0)
		atomic_store_explicit(failed, true, memory_order_relaxed);
	if (atomic_load_explicit(failed, memory_order_relaxed))
		*result = -ENOTRECOVERABLE;
	return RAW_DONE;
}

enum raw_verdict raw_op_result(struct raw_disk *d, struct disk_request *rq, ssize_t res,
	int *result)
{
	*result = 0;
	if ((res == -EINTR || res == -EAGAIN) && ++rq->tries < TRIES_MAX)
		return RAW_AGAIN;
	switch ((enum raw_phase)rq->phase) {
	case RAW_PHASE_TRANSFER:
	case RAW_PHASE_ZEROES:
		return transfer_result(d, rq, res, result);
	case RAW_PHASE_RANGE:
		return range_result(d, rq, res, result);
	case RAW_PHASE_SYNC:
		break;
	}
	return sync_result(d, res, result);
}
