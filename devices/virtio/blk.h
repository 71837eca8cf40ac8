/*
 * Inside of virtio-blk (virtio 1.2 §5.2), shared by its parts: blk.c is the device (options, config
 * space, life), blk_request.c its requests, blk_later.c those that wait, blk_error.c those that
 * failed, blk_slow.c and blk_zoned.c those that take long.
 */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include <semaphore.h>
#include <stdatomic.h>

#include "devices/host/disk.h"
#include "devices/host/disk_slow.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/vhost_user.h"
#include "devices/virtio/virtio.h"
#include "vmm/rate.h"

enum {
	BLK_SECTOR = 512,
	BLK_QUEUES_MAX = 16,
	BLK_RANGES_MAX = 16,          /* segments of one discard or write-zeroes */
	BLK_SEG_MAX = 254,
	/* a buffer may lie across the border of two regions of memory */
	BLK_IOV_EXTRA = 4,
	BLK_SERIAL_LEN = 20,          /* §5.2.6 */
	BLK_POLL_US = 32,             /* what poll= is when it is not given */
	BLK_BATCH = 32,               /* chains that are popped, or pushed, in one go */
	BLK_SEND = 64,                /* requests that are sent to the disk at the latest */
	BLK_SEND_SLOW = 128,          /* and to one that did not do the last ones at once */
	BLK_DISCARD_MAX = 1 << 22,
	/* bounds the time that one of them takes where zeroes are written by hand */
	BLK_ZEROES_MAX = 1 << 17,
	BLK_APPEND_MAX = 1 << 10,
};

/* §5.2.3, bit numbers */
enum {
	BLK_F_SIZE_MAX = 1,
	BLK_F_SEG_MAX = 2,
	BLK_F_GEOMETRY = 4,
	BLK_F_RO = 5,
	BLK_F_BLK_SIZE = 6,
	BLK_F_FLUSH = 9,
	BLK_F_TOPOLOGY = 10,
	BLK_F_CONFIG_WCE = 11,
	BLK_F_MQ = 12,
	BLK_F_DISCARD = 13,
	BLK_F_WRITE_ZEROES = 14,
	BLK_F_LIFETIME = 15,
	BLK_F_SECURE_ERASE = 16,
	BLK_F_ZONED = 17,             /* virtio 1.3, as is all of zones */
};

/* §5.2.6 */
enum { BLK_T_IN = 0, BLK_T_OUT = 1, BLK_T_FLUSH = 4, BLK_T_GET_ID = 8, BLK_T_GET_LIFETIME = 10,
	BLK_T_DISCARD = 11, BLK_T_WRITE_ZEROES = 13, BLK_T_SECURE_ERASE = 14, BLK_T_ZONE_APPEND = 15,
	BLK_T_ZONE_REPORT = 16, BLK_T_ZONE_OPEN = 18, BLK_T_ZONE_CLOSE = 20, BLK_T_ZONE_FINISH = 22,
	BLK_T_ZONE_RESET = 24, BLK_T_ZONE_RESET_ALL = 26 };
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2, BLK_S_ZONE_INVALID_CMD = 3, BLK_S_ZONE_UNALIGNED_WP = 4,
	BLK_S_ZONE_OPEN_RESOURCE = 5, BLK_S_ZONE_ACTIVE_RESOURCE = 6 };
/* What begins a request returns a status, when that is all, or this: the answer comes later. */
enum { STARTED = -1 };
enum { BLK_RANGE_UNMAP = 1 };

struct blk_zoned_config {
	uint32_t zone_sectors, max_open_zones, max_active_zones, max_append_sectors, write_granularity;
	uint8_t model, unused2[3];
} __attribute__((packed));
enum { BLK_Z_HOST_MANAGED = 1 };

/* §5.2.4 */
struct blk_config {
	uint64_t capacity;            /* sectors of 512 bytes, whatever blk_size says */
	uint32_t size_max, seg_max;
	uint16_t cylinders;
	uint8_t heads, sectors;
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
	uint32_t max_secure_erase_sectors, max_secure_erase_seg, secure_erase_sector_alignment;
	struct blk_zoned_config zoned;
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) == 96, "virtio 1.3 §5.2.4");
_Static_assert(offsetof(struct blk_config, writeback) == 32, "virtio 1.2 §5.2.4");

/* §5.2.6 */
struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "virtio 1.2 §5.2.6");

/* §5.2.6 struct virtio_blk_discard_write_zeroes */
struct blk_range {
	uint64_t sector;
	uint32_t num_sectors, flags;
};
_Static_assert(sizeof(struct blk_range) == 16, "virtio 1.2 §5.2.6");

/* §5.2.6 struct virtio_blk_lifetime */
struct blk_lifetime {
	uint16_t pre_eol_info, typ_a, typ_b;
};
_Static_assert(sizeof(struct blk_lifetime) == 6, "virtio 1.2 §5.2.6");

struct blk;
struct blk_queue;
struct blk_request;

/*
 * A status, or -errno of a host that failed. On the thread that may wait: touches nothing of the
 * queue's.
 */
typedef int blk_slow_fn(struct blk *blk, struct blk_request *rq);

struct blk_slow {
	blk_slow_fn *run;
	struct blk_queue *bq;
	const char *what;             /* for whoever is told that it failed */
	int result;
	size_t wrote;                 /* bytes of `iov` that hold data now, all or none */
	/* what the chain gets when it went well */
	union {
		uint64_t append_sector;
		struct blk_lifetime lifetime;
	} reply;
	size_t reply_len;
};

struct blk_options {
	struct virtio_options virtio;
	char *path, *serial, *overlay, *vdpa;
	uint64_t null_size;
	bool readonly, direct, read_zeroes, backing_files, ephemeral, fixed_buffers;
	uint32_t num_queues, poll_us, format, on_error;
	struct option_ints affinity;
	struct rate_device_options rate;
	struct vhost_user_options vhost_user;
};

struct blk_request {
	struct disk_request disk;     /* first: what done() gets back */
	struct chain *chain;
	struct iovec *iov;            /* const; max_iov of them */
	struct blk_range ranges[BLK_RANGES_MAX];
	unsigned nranges, range;      /* which are left: [range, nranges) */
	struct blk_request *next;     /* while free, held or back from slow work */
	struct blk_slow slow;
	enum disk_slow_op zone_op;
	int zone_result;              /* of a write to a zone */
};

/* In the order of the choices of on_error=. */
enum blk_on_error { BLK_ON_ERROR_ENOSPC, BLK_ON_ERROR_REPORT, BLK_ON_ERROR_PAUSE };

struct blk_queue {
	struct blk *blk;              /* const */
	const struct disk_ops *ops;   /* owner; the disk's, nearer */
	struct disk_queue *disk_queue;/* const */
	struct blk_request *requests; /* const; as many as the queue has descriptors at most */
	struct iovec *iov;            /* const */
	unsigned used;                /* owner; slots that were ever taken, and only those have contents */
	struct blk_request *free;     /* owner; of those */
	struct queue *queue;          /* owner; NULL while stopped */
	bool stable;                  /* owner; writes of this batch are done when stable */
	bool in_handle;               /* owner; the caller of handle() flushes the queue */
	bool zoned;                   /* owner; the driver knows zones */
	unsigned send_at;             /* owner; BLK_SEND or BLK_SEND_SLOW */
	int timer_fd;                 /* const */
	struct loop_source *timer;    /* owner; NULL while stopped */
	unsigned slow_in_flight;      /* owner */
	_Atomic(struct blk_request *) slow_done; /* pushed by the slow thread, taken by the owner */
	sem_t slow_sem;               /* counts what was pushed */
	/* owner; failed and not answered, in their order, linked by `next` */
	struct blk_request *held, *held_last;
	uint32_t retried;             /* owner; the count of virtio_hold.retries that was obeyed */
	bool stopping;                /* owner; nothing is held any more */
	uint64_t armed;               /* owner; when the timer rings, 0: not set by us */
	unsigned nfinished;           /* owner; of `finished`, those with a status that were not pushed yet */
	struct chain *finished[BLK_BATCH];
};

struct blk {
	struct virtio_device dev;     /* first */
	struct disk *disk;            /* const */
	/* const but for `size`, which blk_resize() changes: __atomic */
	struct disk_info info;
	unsigned max_iov;             /* const */
	uint32_t cpus[BLK_QUEUES_MAX];/* const; those that queues are bound to */
	char serial[BLK_SERIAL_LEN];  /* const */
	uint8_t writeback;            /* written by queue 0's worker, read by all: __atomic */
	struct worker *slow_worker;   /* const; NULL: no slow work, or no threads at all */
	struct rate rate;             /* of all queues together */
	_Atomic bool limited;         /* main; false: rate never holds anything up */
	enum blk_on_error on_error;   /* const */
	_Atomic uint64_t tell_again;  /* workers; ns, before which no event tells of a failure */
	struct blk_queue queues[BLK_QUEUES_MAX];
};

/*
 * blk_request.c; all on the queue's worker. `events` of the disk queue, with the blk_queue as their
 * context.
 */
int blk_handle(struct virtio_device *dev, struct queue *q);
void blk_on_done(void *ctx, struct disk_request *disk_rq, int result);
void blk_on_batch_done(void *ctx);
bool blk_gather(struct virtio_device *dev, struct queue *q);
bool blk_poll(struct virtio_device *dev, struct queue *q);

uint8_t blk_status_of(int result);
/* As blk_request.c ends one. Who calls it outside of blk_handle() pushes before he flushes. */
void blk_finish(struct blk_queue *bq, struct blk_request *rq, size_t wrote, uint8_t status);
/* Give back what is finished. */
void blk_push_finished(struct blk_queue *bq);
/* Segments of a discard or its like, all of them good: BLK_S_OK. */
int blk_take_ranges(struct blk_queue *bq, struct blk_request *rq, enum disk_op op);
/* Do a request that was held as if it had just been popped. The caller submits and flushes. */
void blk_begin_again(struct blk_queue *bq, struct blk_request *rq);

/* blk_error.c; on the queue's worker */
/*
 * The host failed, not the guest, at `what` (NULL: see rq->disk.op): tell, and hold the request
 * (true) or let the guest know.
 */
bool blk_failed(struct blk_queue *bq, struct blk_request *rq, const char *what, int result) NEEDS_CHECK;
/* Begin what is held, when blk_retry() was called. The caller submits and flushes. */
void blk_retry_if_asked(struct blk_queue *bq);
/* Nothing is held any more: what was is in flight, and answered when the disk is drained. */
void blk_error_stop(struct blk_queue *bq);

/* blk_error.c; of virtio_type */
void blk_retry(struct virtio_device *dev);
unsigned blk_held(const struct virtio_device *dev);

/* blk_slow.c; on the queue's worker */
/* STARTED, or a status. */
int blk_slow_start(struct blk_queue *bq, struct blk_request *rq, blk_slow_fn *fn, const char *what);
/* Answer what is back. The caller flushes. */
void blk_slow_take(struct blk_queue *bq);
/* Wait for what is away. */
void blk_slow_stop(struct blk_queue *bq);
int blk_begin_secure_erase(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h);
int blk_begin_lifetime(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h);
/* The thread that may wait. */
int blk_do_slow(struct blk *blk, struct disk_slow *job);
/* Main */
int blk_slow_create(struct blk *blk, const struct device_env *env, struct error *err) NEEDS_CHECK;

/* blk_zoned.c; disks with zones only. On the queue's worker */
bool blk_zoned_crosses(const struct blk *blk, uint64_t offset, uint64_t len);
int blk_begin_zone_manage(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h);
int blk_begin_zone_append(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h);
int blk_begin_zone_report(struct blk_queue *bq, struct blk_request *rq, const struct blk_header *h);
/* The host refused a write: answer it by what the zone says. */
void blk_zoned_refused(struct blk_queue *bq, struct blk_request *rq, int result);
/* Main */
void blk_zoned_config(const struct blk *blk, struct blk_config *c);

/* blk_later.c; on the queue's worker. Only of use where blk->limited. */
/* May the next request be taken? If not, the queue is served again by itself when it may. */
bool blk_may_go(struct blk_queue *bq);
/* A request was taken; `rq` NULL: it was answered at once. */
void blk_charge(struct blk_queue *bq, const struct blk_request *rq);
/* With queue_start and queue_stop. */
int blk_later_start(struct blk_queue *bq, struct queue *q) NEEDS_CHECK;
void blk_later_stop(struct blk_queue *bq);
extern const struct syscall_row blk_syscalls[];

/* blk_later.c; main */
int blk_later_create(struct blk *blk, const struct device_env *env, const struct rate_device_options *o,
	struct error *err) NEEDS_CHECK;
void blk_later_destroy(struct blk *blk);
/* Change a limit, at any time; requests that wait go by the new one. */
void blk_set_rate(struct blk *blk, enum rate_kind kind, const struct rate_limit *limit);
/* Something changed that may let queues go on: each looks again, soon, on its worker. */
void blk_wake(struct blk *blk);
/* The same of one queue; any thread that may set its timer. */
void blk_wake_queue(struct blk_queue *bq);

/* blk.c; of the disk, in bytes. Any thread. */
uint64_t blk_size(const struct blk *blk);
/*
 * The host changed the size of the disk: serve the new one, and tell the guest (§5.2.5.2: capacity
 * and a configuration change). 0, also when nothing changed, or what the disk's resize() said; then
 * all is as before. On the worker of queue 0, whether or not its queue runs.
 */
int blk_resize(struct virtio_device *dev);
/* §5.2.4: the cache mode, with VIRTIO_BLK_F_CONFIG_WCE. */
bool blk_config_writable(const struct virtio_device *dev, unsigned offset, unsigned len);
extern const struct option_group blk_group;

/* The first option that says how we would serve the disk; NULL: none was given. */
const char *blk_own_option(const struct blk_options *o);

/* blk_vhost_user.c: the disk is served by another program. */
extern const struct virtio_type virtio_blk_vhost_user_type;
bool blk_shares_memory(const void *options);

#endif
