/*
 * Inside of the raw disk, shared by its parts: disk_raw.c opens, locks and describes the file;
 * disk_raw_op.c says what a request needs; disk_raw_ring.c makes a ring; disk_raw_queue.c moves
 * bytes; disk_raw_slow.c does what takes long.
 */
#ifndef DEVICES_HOST_DISK_RAW_H
#define DEVICES_HOST_DISK_RAW_H

#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "devices/host/disk.h"

struct raw_disk;
struct raw_op;
struct io_uring_sqe;

/*
 * A disk whose operations are commands of the device, not of a file (disk_nvme.c). Owner of the
 * queue.
 */
struct raw_pass {
	/* `op` as an entry of a ring of 128-byte entries; cleared by then but for its user data. */
	void (*to_sqe)(const struct raw_disk *d, struct disk_request *rq, const struct raw_op *op,
		struct io_uring_sqe *sqe);
	/*
	 * A completion's `res` as that of the system call would be: bytes or -errno. true: a part
	 * of a range is done, go on with the next.
	 */
	bool (*result)(const struct raw_disk *d, struct disk_request *rq, ssize_t *res);
};

/* What outlives a process that serves the disk. */
struct raw_kept {
	_Atomic bool flush_failed;      /* any queue; never cleared */
	uint64_t stored;                /* of an image: owner; the most that `info.stored` was */
};
_Static_assert(sizeof(struct raw_kept) <= DISK_KEPT_MAX, "it is kept");

struct raw_disk {
	struct disk disk;               /* first */
	struct disk_info info;          /* const after open */
	const struct raw_pass *pass;    /* const; NULL: a file or a block device */
	int fd;                         /* const; O_DIRECT when `direct` */
	/* const; the same file through the page cache; == fd unless direct */
	int buffered_fd;
	bool direct, plain, image, forks; /* const; see disk_raw_config */
	bool is_file;                   /* const; not a device */
	uint32_t mem_align, file_align; /* const; what O_DIRECT asks of addresses and of offsets */
	/* const; those less 1; unless direct any address goes, and offsets of whole sectors */
	uint32_t mem_mask, file_mask;
	int life_fd, eol_fd;            /* const; an eMMC's wear, in sysfs; -1: none */
	struct iovec *fixed;            /* const; registered with each ring, by index */
	unsigned nfixed;                /* const */
	uint64_t to_lock;               /* main; bytes, of all queues of processes */
	unsigned ring_level;            /* const; see disk_raw_config */
	/* const; own, or where all lives of a process see it */
	struct raw_kept own_kept, *shared_kept;
	/* any queue; the file cannot zero a range, do not ask again */
	_Atomic bool no_zero_range;
};

static inline struct raw_kept *raw_kept(struct raw_disk *d)
{
	return d->shared_kept ? d->shared_kept : &d->own_kept;
}

enum { RAW_ZERO_BYTES = 64 * KIB }; /* written at a time where a range must be zeroed by hand */
enum { FILE_MAIN, FILE_BUFFERED, FILE_TOMB };

/*
 * The file is as long as it was, or longer. If not, somebody cut it: what was there is lost, and
 * what is read in its place, once writes have made it longer again, would be zeroes. So from then
 * on the disk has no bytes, until resize() finds the new length meant, and no flush succeeds. Owner
 * of any queue; after a flush, so that nothing lost counts as stable, and before a write that makes
 * an image longer. A raw file that grows to its full length between two flushes is not noticed.
 */
bool raw_disk_is_whole(struct raw_disk *d) NEEDS_CHECK;

/* One kernel operation. */
struct raw_op {
	enum { OP_READ, OP_WRITE, OP_ZEROES, OP_FALLOCATE, OP_SYNC } kind;
	int file;                    /* FILE_* */
	int mode;                    /* FALLOC_FL_* */
	uint64_t offset, len;
	const struct iovec *iov;
	int iovcnt;
};

/* Of a request, what its next operation is. */
enum raw_phase { RAW_PHASE_TRANSFER, RAW_PHASE_RANGE, RAW_PHASE_ZEROES, RAW_PHASE_SYNC };

/*
 * disk_raw_op.c. `begin` when the request starts, then next → (kernel) → result until RAW_DONE.
 * `res`: bytes or -errno.
 */
enum raw_verdict { RAW_DONE, RAW_AGAIN };
void raw_op_begin(const struct raw_disk *d, struct disk_request *rq);
/* The same for a read or write, whose first step is the transfer. */
static inline void raw_transfer_begin(struct disk_request *rq)
{
	rq->done_so_far = 0;
	rq->phase = RAW_PHASE_TRANSFER;
	rq->tries = 0;
	rq->buffered = false;
}
struct raw_op raw_op_next(const struct raw_disk *d, struct disk_request *rq);
enum raw_verdict raw_op_result(struct raw_disk *d, struct disk_request *rq, ssize_t res,
	int *ret_result);

struct disk_slow;
struct stat;

/*
 * disk_raw.c: the whole file, for as long as it is open; exclusive unless read-only. Main, stage 2.
 */
int raw_lock(int fd, bool readonly, struct error *err) NEEDS_CHECK;
int raw_open_failed(int code, struct error *err);
void raw_info(const struct disk *disk, struct disk_info *ret);
void raw_close(struct disk *disk);
void raw_fds(const struct disk *disk, void (*keep)(void *ctx, int fd), void *ctx);
void raw_forked(struct disk *disk, void *kept);
extern const struct syscall_row raw_main_syscalls[];

/* What a range is zeroed with where it is done by hand: RAW_ZERO_BYTES of them. */
extern const uint8_t raw_zeroes[];

/* disk_raw_slow.c. Main, stage 2, for a block device that is described already. */
int raw_slow_describe(struct raw_disk *d, const struct stat *st, struct error *err) NEEDS_CHECK;
void raw_slow_close(struct raw_disk *d);
int raw_slow(struct disk *disk, struct disk_slow *job);
extern const struct syscall_row raw_slow_syscalls[];

/* Is it a range that is freed or zeroed now, not bytes that move? */
bool raw_op_is_range(const struct disk_request *rq);

const struct raw_disk *raw_queue_disk(const struct disk_queue *q);

/*
 * disk_raw_ring.c. Main, stage 2; or a process of the disk's own, with a tomb (disk.h, else -1)
 * that stays open for as long as the ring lives. 0, 1: there is no io_uring, or an error: what was
 * asked for.
 */
int raw_ring_create(struct io_uring *ret, const struct raw_disk *d, unsigned depth, int tomb,
	struct error *err) NEEDS_CHECK;
/* The buffers, cut as the kernel takes them; freed by the disk. */
int raw_fixed_set(struct raw_disk *d, const struct iovec *buffers, unsigned n, struct error *err) NEEDS_CHECK;
/*
 * A queue more of a process, which will have no more rights than its user: may it lock the buffers
 * then? Main, stage 2.
 */
int raw_fixed_fit(struct raw_disk *d, struct error *err) NEEDS_CHECK;
/* A read or write of one piece: through a registered buffer when it lies in one. Owner. */
void raw_fixed_use(const struct raw_disk *d, struct io_uring_sqe *sqe);

int raw_queue_create(struct disk_queue **ret, struct disk *d, unsigned depth,
	const struct disk_events *events,
	struct error *err) NEEDS_CHECK;
void raw_queue_destroy(struct disk_queue *q);
int raw_queue_attach(struct disk_queue *q, struct loop *loop);
void raw_queue_detach(struct disk_queue *q);
int raw_queue_start(struct disk_queue *q, struct disk_request *rq);
void raw_queue_submit(struct disk_queue *q);
bool raw_queue_gather(struct disk_queue *q);
int raw_queue_forked(struct disk_queue *q, int tomb);
bool raw_queue_poll(struct disk_queue *q);
void raw_queue_drain(struct disk_queue *q);

#endif
