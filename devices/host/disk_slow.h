/*
 * What a disk does besides moving bytes, and what takes as long as the hardware likes: erasing for
 * good, managing zones, telling how worn it is. The kernel has no asynchronous way to ask for
 * these, so a queue's owner has them done by a thread that may wait (disk_ops.slow).
 */
#ifndef DEVICES_HOST_DISK_SLOW_H
#define DEVICES_HOST_DISK_SLOW_H

#include "devices/host/disk.h"

/* Types and states have the numbers of the standards, which the kernel and virtio share. */
enum disk_zone_type { DISK_ZONE_CONVENTIONAL = 1, DISK_ZONE_SEQUENTIAL = 2 };
enum disk_zone_state { DISK_ZONE_NO_WP = 0, DISK_ZONE_EMPTY = 1, DISK_ZONE_READONLY = 13, DISK_ZONE_FULL = 14,
	DISK_ZONE_OFFLINE = 15 };

/* Bytes. */
struct disk_zone {
	uint64_t start, capacity, wp;
	uint8_t type, state;
};

/* As eMMC tells it (JESD84-B50): percents in steps of ten; 0: not known. */
struct disk_lifetime {
	uint16_t pre_eol, slc, mlc;
};

enum disk_slow_op {
	DISK_SECURE_ERASE,        /* [offset, offset + len) */
	/* the zone that begins at `offset`; too many open: -ETOOMANYREFS, active: -EOVERFLOW */
	DISK_ZONE_OPEN, DISK_ZONE_CLOSE, DISK_ZONE_FINISH, DISK_ZONE_RESET,
	DISK_ZONE_RESET_ALL,
	DISK_ZONE_REPORT,         /* from the zone on that `offset` lies in */
	DISK_ZONE_WRITE,          /* `iov` to `offset`, in one piece; the iovs are used up */
	DISK_GET_LIFETIME,
};

struct disk_slow {
	enum disk_slow_op op;
	uint64_t offset, len;
	struct iovec *iov;
	int iovcnt;
	struct disk_zone *zones;  /* REPORT: room for `nzones`; how many there were is there after */
	unsigned nzones;
	struct disk_lifetime lifetime;
};

#endif
