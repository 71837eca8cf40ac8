/*
 * Inside of the raw disk, shared by its parts: disk_raw.c opens, locks and describes the file;
 * disk_raw_op.c says what a request needs; disk_raw_queue.c moves bytes.
 */
#ifndef DEVICES_HOST_DISK_RAW_H
#define DEVICES_HOST_DISK_RAW_H

#include <stdatomic.h>

#include "devices/host/disk.h"

struct raw_disk {
	struct disk disk;               /* first */
	struct disk_info info;          /* const after open */
	int fd;                         /* const; O_DIRECT when `direct` */
	/* const; the same file through the page cache; == fd unless direct */
	int buffered_fd;
	bool direct, plain, image, forks; /* const; see disk_raw_config */
	uint32_t mem_align, file_align; /* const; what O_DIRECT asks of addresses and of offsets */
	uint32_t mem_mask, file_mask;   /* const; those less 1, and 0 unless direct: all goes */
	_Atomic bool flush_failed;      /* any queue; never cleared */
	/* const; where that is instead, for the processes after this one; NULL: above */
	_Atomic bool *kept_flush_failed;
	/* any queue; the file cannot zero a range, do not ask again */
	_Atomic bool no_zero_range;
};

enum { RAW_ZERO_BYTES = 64 * KIB }; /* written at a time where a range must be zeroed by hand */
enum { FILE_MAIN, FILE_BUFFERED };

/* One kernel operation. */
struct raw_op {
	enum { OP_READ, OP_WRITE, OP_ZEROES, OP_FALLOCATE, OP_SYNC } kind;
	int file;                    /* FILE_* */
	int mode;                    /* FALLOC_FL_* */
	uint64_t offset, len;
	const struct iovec *iov;
	int iovcnt;
};

/*
 * disk_raw_op.c. `begin` when the request starts, then next → (kernel) → result until RAW_DONE.
 * `res`: bytes or -errno.
 */
enum raw_verdict { RAW_DONE, RAW_AGAIN };
void raw_op_begin(const struct raw_disk *d, struct disk_request *rq);
struct raw_op raw_op_next(const struct raw_disk *d, struct disk_request *rq);
enum raw_verdict raw_op_result(struct raw_disk *d, struct disk_request *rq, ssize_t res,
	int *ret_result);

int raw_queue_create(struct disk_queue **ret, struct disk *d, unsigned depth,
	const struct disk_events *events,
	struct error *err) NEEDS_CHECK;
void raw_queue_destroy(struct disk_queue *q);
int raw_queue_attach(struct disk_queue *q, struct loop *loop);
void raw_queue_detach(struct disk_queue *q);
int raw_queue_start(struct disk_queue *q, struct disk_request *rq);
void raw_queue_submit(struct disk_queue *q);
int raw_queue_forked(struct disk_queue *q, int tomb);
bool raw_queue_poll(struct disk_queue *q);
void raw_queue_drain(struct disk_queue *q);

#endif
