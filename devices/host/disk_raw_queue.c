/*
 * The half of the raw disk that moves bytes: one io_uring per queue, or, where the kernel has none
 * to give, the same steps as plain system calls that block.
 *
 * What a request needs next is decided in disk_raw_op.c; here it is executed, by the ring or by a
 * system call: the only difference between the two modes. A transfer of one piece, which nearly all
 * are, goes past both: its entry is written as it comes, and a completion that says that all bytes
 * moved is the end of it.
 *
 * The ring is made by main, in stage 2, disabled (disk_raw_ring.c). Its owner enables it with its
 * first attach. The ring's fd itself sits in the epoll set: no eventfd, no read of it, and
 * completions are taken from shared memory without a call. A request from the page cache is done
 * when io_uring_enter returns: submit() collects it at once, without a wake-up.
 *
 * All but create and destroy: the thread that owns the queue. The ring belongs for good to the
 * thread of the first attach.
 */
#include "devices/host/disk_raw.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "devices/host/gather.h"
#include "devices/host/ring.h"

/* of enter and reap in one submit(), then the loop gets its turn */
enum { ROUNDS_MAX = 8 };

struct disk_queue {
	struct raw_disk *disk;       /* const */
	struct disk_events events;   /* const */
	unsigned depth;              /* const */
	bool has_ring;               /* const */
	bool gathers;                /* const; its kernel can wait for a while (Linux 5.11) */
	unsigned nplain;             /* const; raw_queue_start() takes: 1 reads, 2 writes, too */
	struct io_uring ring;        /* owner */
	unsigned in_flight;          /* owner; started, not done */
	struct gathering gather;     /* owner */
	bool enabled, inside;        /* owner; inside: submit() is on the stack */
	bool finished;               /* owner; done was called since the last batch_done */
	struct disk_request *head, **tail; /* owner; to be executed next, without a ring */
	/* owner; NULL while detached, and for owners that only drain */
	struct loop *loop;
	struct loop_source *source;
	bool retry_posted;           /* owner */
};

/* Among what the program has zeroed, not in its file. */
const uint8_t raw_zeroes[RAW_ZERO_BYTES] __attribute__((aligned(PAGE_4K), section(".bss.zeroes")));

const struct raw_disk *raw_queue_disk(const struct disk_queue *q)
{
	return q->disk;
}

static void op_to_sqe(struct io_uring_sqe *sqe, const struct raw_op *op)
{
	switch (op->kind) {
	case OP_READ:
		io_uring_prep_readv(sqe, op->file, op->iov, (unsigned)op->iovcnt, op->offset);
		break;
	case OP_WRITE:
		io_uring_prep_writev(sqe, op->file, op->iov, (unsigned)op->iovcnt, op->offset);
		break;
	case OP_ZEROES:
		io_uring_prep_write(sqe, op->file, raw_zeroes, (unsigned)op->len, op->offset);
		break;
	case OP_FALLOCATE:
		io_uring_prep_fallocate(sqe, op->file, op->mode, (off_t)op->offset, (off_t)op->len);
		break;
	case OP_SYNC:
		io_uring_prep_fsync(sqe, op->file, IORING_FSYNC_DATASYNC);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
}

/* Bytes, or -errno, as a completion would have it. */
static ssize_t op_execute(const struct raw_disk *d, const struct raw_op *op)
{
	int fd = op->file == FILE_MAIN ? d->fd : d->buffered_fd;
	off_t offset = (off_t)op->offset;
	ssize_t r = -1;

	switch (op->kind) {
	case OP_READ:
		r = preadv(fd, op->iov, op->iovcnt, offset);
		break;
	case OP_WRITE:
		r = pwritev(fd, op->iov, op->iovcnt, offset);
		break;
	case OP_ZEROES:
		r = pwritev(fd, &(struct iovec){ (void *)raw_zeroes, op->len }, 1, offset);
		break;
	case OP_FALLOCATE:
		r = fallocate(fd, op->mode, offset, (off_t)op->len);
		break;
	case OP_SYNC:
		r = fdatasync(fd);
		break;
	}
	return r < 0 ? -errno : r;
}

static void finish(struct disk_queue *q, struct disk_request *rq, int result)
{
	q->in_flight--;
	q->finished = true;
	q->events.done(q->events.ctx, rq, result);
}

/*
 * What an entry of the ring says of its request: the pointer, and whether there is more to its end
 * than that all bytes moved.
 */
enum { ENTRY_MORE = 1 };
_Static_assert(_Alignof(struct disk_request) > ENTRY_MORE, "a bit of the pointer that is free");

static inline uint64_t entry_of(struct disk_request *rq, unsigned more)
{
	return (uintptr_t)rq | more;
}

static inline struct disk_request *entry_request(uint64_t entry)
{
	return (struct disk_request *)(uintptr_t)(entry & ~(uint64_t)ENTRY_MORE);
}

/* Give the request's next operation to the ring or to the list. */
static void issue(struct disk_queue *q, struct disk_request *rq)
{
	struct io_uring_sqe *sqe;
	struct raw_op op;

	if (!q->has_ring) {
		rq->next = NULL;
		*q->tail = rq;
		q->tail = &rq->next;
		return;
	}
	/*
	 * There are as many entries as requests in flight, and each has at most one operation out.
	 */
	sqe = io_uring_get_sqe(&q->ring);
	op = raw_op_next(q->disk, rq);
	if (q->disk->pass)
		q->disk->pass->to_sqe(q->disk, rq, &op, sqe);
	else
		op_to_sqe(sqe, &op);
	sqe->user_data = entry_of(rq, ENTRY_MORE);
}

/* The first 8 bytes of a transfer's entry, as one number: opcode, flags, priority, file. */
_Static_assert(offsetof(struct io_uring_sqe, flags) == 1 && offsetof(struct io_uring_sqe, fd) == 4, "io_uring.h");
_Static_assert(offsetof(struct io_uring_sqe, rw_flags) == offsetof(struct io_uring_sqe, len) + 4,
	"io_uring.h");
_Static_assert(IORING_OP_WRITE - IORING_OP_READ == DISK_WRITE - DISK_READ, "io_uring.h");
static inline uint64_t transfer_head(enum disk_op op)
{
	return (uint64_t)FILE_MAIN << 32 | IOSQE_FIXED_FILE << 8 | (IORING_OP_READ - DISK_READ + (unsigned)op);
}

/* A transfer whose buffer is one piece and good for the file: nearly all are. */
static inline bool is_one_piece(const struct raw_disk *d, const struct disk_request *rq)
{
	return rq->iovcnt == 1 && rq->len <= INT_MAX &&
		!(((rq->offset | rq->len) & d->file_mask) | ((uintptr_t)rq->iov->iov_base & d->mem_mask));
}

/*
 * What raw_op_next() and issue() do, for such a transfer that begins.
 *
 * An entry keeps what it was last used for, and what no operation of ours sets stays 0; so only the
 * first 40 bytes are written. There is always one free, see issue().
 */
static inline void put_transfer(struct disk_queue *q, struct disk_request *rq, unsigned more)
{
	const struct raw_disk *d = q->disk;
	const uint64_t offset = rq->offset, len = rq->len, entry = entry_of(rq, more);
	struct io_uring_sq *sq = &q->ring.sq;
	const unsigned tail = sq->sqe_tail;
	struct io_uring_sqe *sqe = &sq->sqes[tail & sq->ring_mask];
	const void *at = rq->iov->iov_base;

	put_le64(sqe, transfer_head(rq->op));
	sq->sqe_tail = tail + 1;
	q->in_flight++;
	sqe->off = offset;
	sqe->addr = (uintptr_t)at;
	put_le64(&sqe->len, len); /* and no rw_flags, which lie behind */
	sqe->user_data = entry;
	if (d->nfixed)
		raw_fixed_use(d, sqe);
}

static bool makes_stable(const struct disk_request *rq)
{
	return rq->op == DISK_FLUSH || rq->sync;
}

static void take_result(struct disk_queue *q, struct disk_request *rq, ssize_t res)
{
	int result;

	if (raw_op_result(q->disk, rq, res, &result) == RAW_AGAIN)
		issue(q, rq);
	else if ((result == -EIO || (!result && makes_stable(rq))) && !raw_disk_is_whole(q->disk))
		finish(q, rq, -EIO);
	else
		finish(q, rq, result);
}

static __attribute__((noinline)) void take_entry(struct disk_queue *q, uint64_t entry, int res)
{
	struct disk_request *rq = entry_request(entry);

	/* raw_queue_start() left that to us. */
	if (!(entry & ENTRY_MORE))
		raw_transfer_begin(rq);
	take_result(q, rq, res);
}

/* In place: what done() starts meanwhile goes to the other ring, and nobody else reaps. */
static void reap(struct disk_queue *q)
{
	struct io_uring_cq *cq = &q->ring.cq;
	const struct io_uring_cqe *cqes = cq->cqes;
	const unsigned mask = cq->ring_mask;
	unsigned head = *cq->khead, tail;

	/* Acquire: the entries before the tail that the kernel released. */
	while (head != (tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE))) {
		q->finished = true;
		for (; head != tail; head++) {
			const struct io_uring_cqe *cqe = &cqes[head & mask];
			const uint64_t entry = cqe->user_data;
			/* Without that bit. */
			struct disk_request *rq = (struct disk_request *)(uintptr_t)entry;

			/* All bytes of a whole transfer; its length is no error's number. */
			if (!(entry & ENTRY_MORE) && (uint64_t)(int64_t)cqe->res == rq->len) {
				q->in_flight--;
				q->events.done(q->events.ctx, rq, 0);
			} else {
				take_entry(q, entry, cqe->res);
			}
		}
		/* Release: the kernel may write over them from here on. */
		__atomic_store_n(cq->khead, head, __ATOMIC_RELEASE);
	}
}

/* The same of a device that has words of its own for what came of a command. */
static void reap_pass(struct disk_queue *q)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&q->ring, head, cqe) {
		struct disk_request *rq = entry_request(cqe->user_data);
		ssize_t res = cqe->res;

		if (q->disk->pass->result(q->disk, rq, &res))
			issue(q, rq);
		else
			take_result(q, rq, res);
		n++;
	}
	io_uring_cq_advance(&q->ring, n);
}

static void execute_list(struct disk_queue *q)
{
	struct disk_request *rq = q->head, *next;

	q->head = NULL;
	q->tail = &q->head;
	for (; rq; rq = next) {
		struct raw_op op = raw_op_next(q->disk, rq);

		next = rq->next; /* issue() may put it on the list again */
		take_result(q, rq, op_execute(q->disk, &op));
	}
}

static bool unsent(struct disk_queue *q)
{
	return q->has_ring ? io_uring_sq_ready(&q->ring) > 0 : q->head != NULL;
}

static void batch_done(struct disk_queue *q)
{
	if (!q->finished)
		return;
	q->finished = false;
	q->events.batch_done(q->events.ctx);
}

/* How long a round waits: not at all, as gather.h says, until all in flight have come back. */
enum patience { WAIT_NOT, WAIT_PART, WAIT_ALL };

static void rounds(struct disk_queue *q, enum patience patience);

static void on_retry(void *ctx)
{
	struct disk_queue *q = ctx;

	q->retry_posted = false;
	if (q->loop) /* else it was drained and detached meanwhile */
		rounds(q, WAIT_NOT);
}

/*
 * Under COOP_TASKRUN a completion becomes visible when this thread next enters the kernel, which
 * one that polls never does; the ring says when it should.
 */
static bool must_enter(const struct disk_queue *q)
{
	return IO_URING_READ_ONCE(*q->ring.sq.kflags) & IORING_SQ_TASKRUN;
}

/* The disk is about to end requests: who waits for a part of them does not wait for the disk. */
static bool some_came(const struct disk_queue *q)
{
	return q->gathers && q->in_flight >= GATHER_LEAST && (must_enter(q) || io_uring_cq_ready(&q->ring));
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Send, and wait for so many, but not longer than is agreed. */
static int ring_gather(struct disk_queue *q, unsigned want)
{
	struct __kernel_timespec most = { .tv_nsec = (long long)gather_patience(&q->gather, want) };
	const uint64_t begun = now();
	struct io_uring_cqe *cqe;
	int r = io_uring_submit_and_wait_timeout(&q->ring, &cqe, want, &most, NULL);

	gather_got(&q->gather, want, io_uring_cq_ready(&q->ring), now() - begun);
	return r;
}

/* 0 or more, or -errno of io_uring_enter. */
static int ring_send(struct disk_queue *q, enum patience patience)
{
	unsigned part;

	if (patience == WAIT_ALL && io_uring_cq_ready(&q->ring) < q->in_flight)
		return io_uring_submit_and_wait(&q->ring, q->in_flight);
	part = patience == WAIT_PART && some_came(q) ? gather_want(&q->gather, q->in_flight) : 0;
	if (part)
		return ring_gather(q, part);
	return io_uring_sq_ready(&q->ring) ? io_uring_submit(&q->ring) : 0;
}

/*
 * Send and collect, a bounded number of rounds: a guest that always has one more request must not
 * keep the loop from its other work. WAIT_ALL is one call: each request has one operation out;
 * WAIT_PART is for the first round only, since what follows in others is less than that.
 */
static void rounds(struct disk_queue *q, enum patience patience)
{
	int r = 0;

	q->inside = true;
	for (int i = 0; i < ROUNDS_MAX; i++) {
		if (!q->has_ring) {
			execute_list(q);
		} else {
			r = ring_send(q, patience);
			patience = patience == WAIT_ALL ? WAIT_ALL : WAIT_NOT;
			if (q->disk->pass)
				reap_pass(q);
			else
				reap(q);
		}
		batch_done(q);
		if (!unsent(q) || r == -EAGAIN || r == -EBUSY)
			break;
	}
	q->inside = false;
	/*
	 * What is left goes out when the others of this loop had their turn, or when the kernel has
	 * memory again.
	 */
	if (unsent(q) && q->loop && !q->retry_posted)
		q->retry_posted = !loop_post(q->loop, on_retry, q);
}

static void on_ring(void *ctx, unsigned events)
{
	(void)events;
	rounds(ctx, WAIT_PART);
}

static __attribute__((noinline)) int start_other(struct disk_queue *q, struct disk_request *rq)
{
	int r = disk_check(&q->disk->info, rq);

	if (r)
		return r;
	if (q->in_flight == q->depth)
		return -EBUSY;
	/* Before an image grows over what somebody cut off. */
	if (q->disk->image && rq->op != DISK_READ &&
		rq->offset + rq->len > q->disk->info.stored && !raw_disk_is_whole(q->disk))
		return -EIO;
	raw_op_begin(q->disk, rq);
	if (q->has_ring && rq->op <= DISK_WRITE && is_one_piece(q->disk, rq)) {
		put_transfer(q, rq, ENTRY_MORE);
		return 0;
	}
	q->in_flight++;
	issue(q, rq);
	return 0;
}

/* A transfer that the disk has nothing against, as disk_check() has it, and that fits an entry. */
int raw_queue_start(struct disk_queue *q, struct disk_request *rq)
{
	const struct raw_disk *d = q->disk;
	const uint64_t size = __atomic_load_n(&d->info.size, __ATOMIC_RELAXED);
	const uint64_t offset = rq->offset;

	/* len - 1 is huge for 0 */
	if (__builtin_expect(rq->op >= q->nplain || offset >= size || rq->len - 1 >= size - offset ||
		!is_one_piece(d, rq) || q->in_flight == q->depth, 0))
		return start_other(q, rq);
	put_transfer(q, rq, rq->sync);
	return 0;
}

void raw_queue_submit(struct disk_queue *q)
{
	/* From inside a callback: the rounds further up the stack send it. */
	if (!q->inside && unsent(q))
		rounds(q, WAIT_NOT);
}

bool raw_queue_poll(struct disk_queue *q)
{
	unsigned before = q->in_flight;

	if (!before || !q->has_ring || q->inside)
		return false;
	if (must_enter(q))
		io_uring_get_events(&q->ring);
	if (!io_uring_cq_ready(&q->ring))
		return false;
	rounds(q, WAIT_NOT);
	return q->in_flight < before;
}

bool raw_queue_gather(struct disk_queue *q)
{
	unsigned before = q->in_flight;

	if (!q->inside && (unsent(q) || some_came(q)))
		rounds(q, WAIT_PART);
	return q->in_flight < before || raw_queue_poll(q);
}

void raw_queue_drain(struct disk_queue *q)
{
	/*
	 * The kernel holds each request for a time of its own choosing, but it gives every one
	 * back.
	 */
	while (q->in_flight && !q->inside)
		rounds(q, WAIT_ALL);
}

int raw_queue_attach(struct disk_queue *q, struct loop *loop)
{
	int r;

	if (q->has_ring && !q->enabled) {
		r = io_uring_enable_rings(&q->ring);
		if (r < 0)
			return r;
		q->enabled = true;
	}
	if (!loop)
		return 0;
	q->loop = loop;
	r = q->has_ring ? loop_add(loop, q->ring.ring_fd, LOOP_READ, on_ring, q, &q->source) : 0;
	if (r)
		raw_queue_detach(q);
	return r;
}

void raw_queue_detach(struct disk_queue *q)
{
	loop_remove(q->source);
	q->source = NULL;
	q->loop = NULL;
}

static const struct syscall_row ring_syscalls[] = {
	{ SYSCALL(io_uring_enter, "send a batch of disk requests, collect completions") },
	{ SYSCALL(io_uring_register, "enable the ring that main made; binds it to this thread",
		SYSCALL_ARG_EQ(1, RING_ENABLE)) },
	{ SYSCALL(clock_gettime, "how fast the disk ends requests, where the vDSO cannot tell the time") },
	SYSCALL_END,
};

static const struct syscall_row forked_syscalls[] = {
	{ SYSCALL(io_uring_setup, "a ring for each life of a disk's process") },
	{ SYSCALL(io_uring_register, "the files of that ring, and what it may do with them") },
	SYSCALL_END,
};

static const struct syscall_row plain_syscalls[] = {
	{ SYSCALL(preadv, "read a disk without io_uring") },
	{ SYSCALL(pwritev, "write a disk without io_uring") },
	{ SYSCALL(fdatasync, "flush a disk without io_uring") },
	{ SYSCALL(fallocate, "discard and zero on a disk without io_uring") },
	SYSCALL_END,
};

int raw_queue_create(struct disk_queue **ret, struct disk *disk, unsigned depth,
	const struct disk_events *events,
	struct error *err)
{
	struct disk_queue *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return error_set(err, ENOMEM, "out of memory");
	q->disk = container_of(disk, struct raw_disk, disk);
	q->events = *events;
	q->depth = depth;
	q->tail = &q->head;
	/*
	 * No io_uring (switched off by sysctl, a container's filter, no memory to lock): system
	 * calls do the same.
	 */
	r = q->disk->forks ? raw_fixed_fit(q->disk, err) : 0;
	if (r == 0)
		r = raw_ring_create(&q->ring, q->disk, depth, -1, err);
	if (r < 0) {
		free(q);
		return r;
	}
	q->has_ring = r == 0;
	q->gathers = q->has_ring && q->ring.features & IORING_FEAT_EXT_ARG;
	if (q->has_ring && !q->disk->pass)
		q->nplain = q->disk->info.readonly || q->disk->image ? DISK_READ + 1 : DISK_WRITE + 1;
	disk->syscalls[q->has_ring ? 0 : 1] = q->has_ring ? ring_syscalls : plain_syscalls;
	/* That was to see whether there are any: a ring belongs to one process. */
	if (q->has_ring && q->disk->forks) {
		/* Now: the end of the ring comes later, and what it locked counts until then. */
		if (q->disk->nfixed)
			io_uring_unregister_buffers(&q->ring);
		io_uring_queue_exit(&q->ring);
		disk->forked_syscalls = forked_syscalls;
	}
	*ret = q;
	return 0;
}

int raw_queue_forked(struct disk_queue *q, int tomb)
{
	struct error err;

	return q->has_ring && raw_ring_create(&q->ring, q->disk, q->depth, tomb, &err) ? -ENOSYS : 0;
}

void raw_queue_destroy(struct disk_queue *q)
{
	if (!q)
		return;
	if (q->has_ring && !q->disk->forks)
		io_uring_queue_exit(&q->ring);
	free(q);
}
