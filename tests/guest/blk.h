/* Requests to a virtio disk (virtio 1.2 §5.2), for the tests that need one. */
#ifndef TESTS_GUEST_BLK_H
#define TESTS_GUEST_BLK_H

#include "tests/guest/vio.h"

enum { SECTOR = 512 };
enum blk_type { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_WRITE_ZEROES = 13 };
enum blk_status { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2, BLK_NONE = 0xff };

/* §5.2.3 */
#define BLK_F_RO (UINT64_C(1) << 5)
#define BLK_F_BLK_SIZE (UINT64_C(1) << 6)
#define BLK_F_FLUSH (UINT64_C(1) << 9)
#define BLK_F_CONFIG_WCE (UINT64_C(1) << 11)
#define BLK_F_MQ (UINT64_C(1) << 12)
#define BLK_F_DISCARD (UINT64_C(1) << 13)
#define BLK_F_WRITE_ZEROES (UINT64_C(1) << 14)

/* §5.2.4, offsets */
enum { BLK_CAPACITY = 0, BLK_BLK_SIZE = 20, BLK_WRITEBACK = 32, BLK_NUM_QUEUES = 34, BLK_MAX_DISCARD = 36 };

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct blk {
	struct vio v;
	uint64_t capacity;
	unsigned queues;
	uint16_t queue_size;
	struct blk_header *header; /* one request's */
	uint8_t *status;
};

/* The n-th disk, all its queues, with the ring features of the command line. false: printed why. */
bool blk_open(struct blk *b, unsigned n);
/* Again after a reset: rings in fresh memory. */
bool blk_start(struct blk *b, uint64_t features);
/* One request on queue `queue` and its status; BLK_NONE: no answer. *used: bytes the device says it wrote. */
enum blk_status blk_request(struct blk *b, unsigned queue, enum blk_type type, uint64_t sector, void *data, size_t len,
	uint32_t *used);
/* Writes, reads back and compares one sector: the device works. */
bool blk_works(struct blk *b, unsigned queue);

#endif
