/*
 * Requests of a qcow2 disk, shared by qcow2_request.c (order, reads, flushes) and qcow2_write.c.
 */
#ifndef DEVICES_HOST_QCOW2_REQUEST_H
#define DEVICES_HOST_QCOW2_REQUEST_H

#include "devices/host/qcow2.h"

/*
 * How far a request's buffers are used. A piece of a request borrows the caller's own iovecs: the
 * last one is cut where the piece ends, and its rest is put back when the piece is done.
 */
struct qcow2_cursor {
	struct iovec *iov;
	int n, taken;
	struct iovec rest;
};

/* Memory for the parts of clusters that a write does not cover. */
struct qcow2_bounce {
	uint8_t *buf;                 /* two clusters */
	struct iovec *iov;            /* QCOW2_IOV_MAX */
	struct qcow2_bounce *next;    /* while free */
};

/* A part of a table on its way into the cache (qcow2_fetch.c). */
enum { QCOW2_FETCHES = 16, QCOW2_FETCH_TRIES = 2 };
struct qcow2_fetch {
	uint8_t *buf;                 /* const; QCOW2_SLICE_MAX bytes */
	struct iovec iov;
	uint64_t at;                  /* file offset; 0: free, since the header is there */
	uint64_t meta_writes;         /* of the image, when it began */
};

struct qcow2_slot;
/* Goes on with a request when what it waited for is done. */
typedef void qcow2_step(struct disk_queue *q, struct qcow2_slot *s, int result);

struct qcow2_slot {
	struct disk_request low;      /* first: what done() of the file or the backing file gets */
	struct disk_request *rq;
	struct qcow2_slot *prev, *next; /* in order of arrival; `next` also while free */
	uint64_t first, last;         /* guest clusters */
	bool ranged, exclusive, running, mapped;
	uint8_t tries;                /* fetches that were begun for it */
	struct qcow2_fetch *fetch;    /* which its `low` is out for; NULL: none */
	uint64_t at, left;            /* bytes of the guest's disk that are still to do */
	struct qcow2_cursor data;
	struct qcow2_extent e;        /* at `at`, when `mapped` */
	qcow2_step *step;             /* when `low` is done */
	/* a read on the way: the request itself, or what a write must keep */
	uint64_t read_at, read_left, read_piece;
	struct qcow2_cursor read_to;
	qcow2_step *read_done;
	/* a write of new clusters on the way */
	struct qcow2_run run;
	uint64_t piece, head, tail;
	bool zeroes;
	struct qcow2_bounce *bounce;
	struct qcow2_slot *next_for_bounce;
};

struct disk_queue {
	struct qcow2 *img;            /* const */
	struct disk_events events;    /* const */
	struct disk_queue *file, *backing; /* const; of the disks below */
	struct qcow2_slot *slots;     /* const; `depth` of them */
	unsigned depth;               /* const */
	struct qcow2_bounce *bounces; /* const; `nbounces` of them */
	unsigned nbounces;            /* const */
	struct qcow2_fetch fetches[QCOW2_FETCHES]; /* owner, but for what is const */
	/* all below: owner */
	struct qcow2_slot *free, *oldest, *newest, *waiting; /* waiting: the oldest that does not run */
	struct qcow2_bounce *free_bounce;
	struct qcow2_slot *bounce_head, **bounce_tail;
	struct qcow2_slot *cursor;    /* the next one that begin_waiting() looks at */
	unsigned in_flight, finished, nexclusive, nwaiting;
	bool inside, changed, retry_posted;
	struct loop *loop;
};

/* qcow2_request.c */
void qcow2_finish(struct disk_queue *q, struct qcow2_slot *s, int result);
/* `s->low` is filled but for what is the same for all; `step` goes on. */
void qcow2_start_low(struct disk_queue *q, struct qcow2_slot *s, struct disk_queue *low, qcow2_step *step);
/* Read [at, at + len) of the guest's disk to `to`, then `done`; perhaps at once. */
void qcow2_read(struct disk_queue *q, struct qcow2_slot *s, uint64_t at, uint64_t len,
	struct qcow2_cursor to, qcow2_step *done);
void qcow2_cursor_take(struct qcow2_cursor *c, uint64_t len, struct disk_request *low);
void qcow2_cursor_resume(struct qcow2_cursor *c);
bool qcow2_reads_zero(const struct qcow2 *img, const struct qcow2_extent *e);

/*
 * qcow2_fetch.c. Of a request that has not begun: true when a table that it needs is being read,
 * by it or another one; it is to be tried again after that.
 */
bool qcow2_fetch(struct disk_queue *q, struct qcow2_slot *s);
int qcow2_fetch_create(struct disk_queue *q) NEEDS_CHECK; /* main */
void qcow2_fetch_free(struct disk_queue *q);

/* qcow2_write.c */
/* Would the write change the map? 0, 1 or -errno; leaves the first extent in s->e. */
int qcow2_write_classify(struct qcow2 *img, struct qcow2_slot *s);
qcow2_step qcow2_write_begin, qcow2_zero_begin;
void qcow2_bounce_release(struct disk_queue *q, struct qcow2_slot *s);

#endif
