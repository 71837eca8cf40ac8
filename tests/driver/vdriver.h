/*
 * The driver's side of a virtqueue (virtio 1.2 §2.7, §2.8), small enough for bare metal: it needs no libc, allocates
 * nothing, and knows memory only as the pointers it was given. Unit tests, fuzzers and benchmarks run it in process against
 * the device's side; the bare-metal guest runs it for real.
 *
 *   vd_queue_init, then (vd_add*, vd_kick, vd_poll*)*
 *
 * vd_add() fills descriptors that the device cannot see yet; vd_kick() exposes them all at once and notifies if the device asked.
 * Sides are named as the device sees them: `in` is what it reads, `out` is what it writes.
 * One thread at a time.
 */
#ifndef TESTS_DRIVER_VDRIVER_H
#define TESTS_DRIVER_VDRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VD_SIZE_MAX = 1024 };

/* §6: the features this driver knows. */
#define VD_F_INDIRECT (UINT64_C(1) << 28)
#define VD_F_EVENT_IDX (UINT64_C(1) << 29)
#define VD_F_VERSION_1 (UINT64_C(1) << 32)
#define VD_F_PACKED (UINT64_C(1) << 34)
#define VD_F_IN_ORDER (UINT64_C(1) << 35)

/* One physically contiguous piece of a buffer; the address is the device's (guest physical). */
struct vd_seg {
	uint64_t addr;
	uint32_t len;
};

/* The rings as the driver's pointers. vd_queue_init() zeroes them. */
struct vd_config {
	uint16_t size;      /* split: a power of two; at most VD_SIZE_MAX */
	uint64_t features;
	void *desc;         /* 16 * size bytes, aligned 16 */
	void *avail;        /* split: 6 + 2 * size, aligned 2; packed, driver event: 4, aligned 4 */
	void *used;         /* split: 6 + 8 * size, aligned 4; packed, device event: 4, aligned 4 */
	/* Indirect tables, one of `table_len` descriptors for each of `size` buffers; table_len 0: none. */
	void *tables;
	uint64_t tables_addr;
	uint16_t table_len;
	void (*kick)(void *ctx); /* may be NULL */
	void *kick_ctx;
};

struct vd_queue {
	struct vd_config c;
	uint16_t free;                   /* descriptors */
	uint16_t next_avail, next_used;  /* split: free-running; packed: offsets */
	bool avail_wrap, used_wrap;      /* packed */
	uint16_t staged;                 /* added and not exposed; packed: descriptors */
	uint16_t first, first_flags;     /* packed: the flags that expose what is staged */
	uint16_t free_head;              /* split: list through `link`; packed: of ids */
	uint16_t fifo_head, fifo_len;    /* IN_ORDER: ids in the order added */
	uint16_t used_run;               /* IN_ORDER: buffers that the last used entry covers and are not yet polled */
	uint32_t run_len;                /* what the device wrote into the last of them */
	uint16_t link[VD_SIZE_MAX];
	uint16_t fifo[VD_SIZE_MAX];
	struct vd_buffer {
		void *cookie;
		uint32_t out;            /* writable bytes */
		uint16_t ndesc;          /* 0: not in flight */
	} buffer[VD_SIZE_MAX];           /* by head or id */
};

/* false: a configuration that cannot work. */
bool vd_queue_init(struct vd_queue *q, const struct vd_config *config);

/*
 * Stage a buffer of nin readable segments followed by nout writable ones. Indirect when tables were given and it has
 * more than one segment. false: no room now (or never: too many segments).
 */
bool vd_add(struct vd_queue *q, const struct vd_seg *segs, unsigned nin, unsigned nout, void *cookie);
/* Expose what is staged; true when the device had to be notified (then kick was called). */
bool vd_kick(struct vd_queue *q);

/* The next used buffer: 1 with *cookie and *len, 0: none, -1: the device broke the rules (an id not in flight). */
int vd_poll(struct vd_queue *q, void **cookie, uint32_t *len);

/* Ask for an interrupt after the next used buffer; true when one is there already. */
bool vd_enable_call(struct vd_queue *q);
/* The same, once `n` more are used (EVENT_IDX; otherwise after the next). */
bool vd_enable_call_after(struct vd_queue *q, unsigned n);
void vd_disable_call(struct vd_queue *q);

#endif
