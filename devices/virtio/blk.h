/*
 * Inside of virtio-blk (virtio 1.2 §5.2), shared by its two parts: blk.c is the device (options,
 * config space, life), blk_request.c its requests.
 */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include <stdatomic.h>

#include "devices/host/disk.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/vhost_user.h"
#include "devices/virtio/virtio.h"

enum {
	BLK_SECTOR = 512,
	BLK_QUEUES_MAX = 16,
	BLK_RANGES_MAX = 16,          /* segments of one discard or write-zeroes */
	BLK_SEG_MAX = 254,
	/* a buffer may lie across the border of two regions of memory */
	BLK_IOV_EXTRA = 4,
	BLK_SERIAL_LEN = 20,          /* §5.2.6 */
	BLK_DISCARD_MAX = 1 << 22,
	/* bounds the time that one of them takes where zeroes are written by hand */
	BLK_ZEROES_MAX = 1 << 17,
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
};

/* §5.2.6 */
enum { BLK_T_IN = 0, BLK_T_OUT = 1, BLK_T_FLUSH = 4, BLK_T_GET_ID = 8, BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13 };
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };
enum { BLK_RANGE_UNMAP = 1 };

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
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) == 60, "virtio 1.2 §5.2.4");
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

struct blk_options {
	struct virtio_options virtio;
	char *path, *serial, *overlay;
	uint64_t null_size;
	bool readonly, direct, read_zeroes, backing_files, ephemeral;
	uint32_t num_queues, poll_us, format;
	struct option_ints affinity;
	struct vhost_user_options vhost_user;
};

struct blk_request {
	struct disk_request disk;     /* first: what done() gets back */
	struct chain *chain;
	struct iovec *iov;            /* const; max_iov of them */
	struct blk_range ranges[BLK_RANGES_MAX];
	unsigned nranges, range;      /* which are left: [range, nranges) */
	struct blk_request *next;     /* while free */
};

struct blk;

struct blk_queue {
	struct blk *blk;              /* const */
	struct disk_queue *disk_queue;/* const */
	struct blk_request *requests; /* const; as many as the queue has descriptors at most */
	struct iovec *iov;            /* const */
	struct blk_request *free;     /* owner */
	struct queue *queue;          /* owner; NULL while stopped */
	bool in_handle;               /* owner; the caller of handle() flushes the queue */
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
	_Atomic bool told;            /* the host's failure was reported */
	char event[96];               /* text of that report, written once */
	struct blk_queue queues[BLK_QUEUES_MAX];
};

/*
 * blk_request.c; all on the queue's worker. `events` of the disk queue, with the blk_queue as their
 * context.
 */
int blk_handle(struct virtio_device *dev, struct queue *q);
void blk_on_done(void *ctx, struct disk_request *disk_rq, int result);
void blk_on_batch_done(void *ctx);
bool blk_poll(struct virtio_device *dev, struct queue *q);

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

/* blk_vhost_user.c: the disk is served by another program. */
extern const struct virtio_type virtio_blk_vhost_user_type;
bool blk_shares_memory(const void *options);

#endif
