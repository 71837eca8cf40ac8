/*
 * A queue and its driver in one process: guest memory over borrowed buffers, rings in it, the device's end opened on
 * them and a vdriver at the other.
 *
 *   LOW   [1 MiB, 2 MiB)  rings, indirect tables, and data from HARNESS_DATA on
 *   HIGH  [2 MiB, 3 MiB)  adjacent in the guest, elsewhere in the host
 *   -     [3 MiB, 4 MiB)  a hole
 *   FAR   [4 MiB, 5 MiB)
 *
 * Each region is a heap block of its own, so that AddressSanitizer sees a step over its edge.
 */
#ifndef TESTS_DRIVER_HARNESS_H
#define TESTS_DRIVER_HARNESS_H

#include "devices/virtio/chain.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"
#include "tests/driver/vdriver.h"

enum {
	HARNESS_REGION = MIB,
	HARNESS_LOW = 1 * MIB,
	HARNESS_HIGH = 2 * MIB,
	HARNESS_HOLE = 3 * MIB,
	HARNESS_FAR = 4 * MIB,
	HARNESS_DESC = HARNESS_LOW,
	HARNESS_AVAIL = HARNESS_LOW + 0x5000,
	HARNESS_USED = HARNESS_LOW + 0x6000,
	HARNESS_TABLES = HARNESS_LOW + 0x10000,
	HARNESS_TABLE_LEN = 16,
	HARNESS_DATA = HARNESS_LOW + 0x80000, /* half of LOW */
};

struct harness {
	struct guest_mem *mem;
	uint8_t *host[3];     /* LOW, HIGH, FAR */
	struct queue_setup setup;
	struct queue *q;      /* the device */
	struct vd_queue vd;   /* the driver */
	int call_fd;
	unsigned kicks;       /* notifications the driver sent */
	bool shared;          /* memory is shared with processes forked later */
};

/* Rings of `size` entries with these features (VERSION_1 is added), driver and device ready. Aborts when it cannot. */
struct harness *harness_new(uint16_t size, uint64_t features);
/* The same without queue_open(): h->q is NULL and h->setup is filled. */
struct harness *harness_new_closed(uint16_t size, uint64_t features);
/* And in memory that is shared with processes forked later. */
struct harness *harness_new_shared(uint16_t size, uint64_t features);
/* Takes NULL. Closes the queue when it is open; then nothing may be in flight. */
void harness_free(struct harness *h);

/* The host's pointer to a guest address; NULL in the hole. */
void *harness_at(struct harness *h, uint64_t addr);
/* Interrupts since the last call of this. */
unsigned harness_calls(struct harness *h);

/* Add one buffer of readable and writable bytes at HARNESS_DATA + slot * 8 KiB (in and out 4 KiB at most) and kick. */
bool harness_add(struct harness *h, unsigned slot, uint32_t in, uint32_t out);
/* Close and open the device's end again where it stopped; the driver notices nothing. */
void harness_reopen(struct harness *h);

#endif
