/*
 * What queue.c, queue_split.c, queue_packed.c and chain.c share: the two ring formats in memory,
 * the queue, the chain.
 *
 * Ring memory belongs to both sides at once: every access is one of the ring_* loads and stores
 * below, each value is loaded once, and what was loaded is checked in its local. A queue and all
 * its chains are one mapping made at queue_open(); pages of chains that are never in flight are
 * never touched.
 */
#ifndef DEVICES_VIRTIO_QUEUE_PRIVATE_H
#define DEVICES_VIRTIO_QUEUE_PRIVATE_H

#include "devices/virtio/chain.h"
#include "devices/virtio/queue.h"

/* §2.7.5, §2.8.1; the last two in the packed ring only. */
enum vring_desc_flag {
	VRING_DESC_NEXT = 1 << 0,
	VRING_DESC_WRITE = 1 << 1,
	VRING_DESC_INDIRECT = 1 << 2,
	VRING_DESC_AVAIL = 1 << 7,
	VRING_DESC_USED = 1 << 15,
};

/* §2.7.5 */
struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
_Static_assert(sizeof(struct vring_desc) == 16, "2.7.5");

/* §2.7.6; behind ring[size] comes used_event */
struct vring_avail {
	uint16_t flags, idx;
	uint16_t ring[];
};
_Static_assert(sizeof(struct vring_avail) == 4, "2.7.6");
enum { VRING_AVAIL_NO_INTERRUPT = 1 };

/* §2.7.8; behind ring[size] comes avail_event */
struct vring_used_elem {
	uint32_t id, len;
};
struct vring_used {
	uint16_t flags, idx;
	struct vring_used_elem ring[];
};
_Static_assert(sizeof(struct vring_used_elem) == 8 && sizeof(struct vring_used) == 4, "2.7.8");
enum { VRING_USED_NO_NOTIFY = 1 };

/* §2.8.13 */
struct pvring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};
_Static_assert(sizeof(struct pvring_desc) == 16, "2.8.13");

/* §2.8.14: offset and wrap counter in the low half, flags in the high half, read as one word */
union pvring_event {
	struct {
		uint16_t off_wrap, flags;
	};
	uint32_t word;
};
_Static_assert(sizeof(union pvring_event) == 4, "2.8.14");
enum { PVRING_EVENT_ENABLE = 0, PVRING_EVENT_DISABLE = 1, PVRING_EVENT_DESC = 2 };
#define PVRING_WRAP ((uint16_t)0x8000)

#define ring_load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define ring_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ring_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define ring_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
/* Orders an earlier store before a later load, which neither acquire nor release does. */
#define ring_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* Only the owner writes a counter, so load and store need not be one operation. */
#define queue_count(counter, n) ring_store(&(counter), (counter) + (uint64_t)(n))

/*
 * A place in one side of a chain. `off` may stand at the end of *iov when nothing is left or not
 * yet moved on.
 */
struct cursor {
	struct iovec *iov;
	uint32_t off;  /* bytes of *iov that are behind the cursor */
	uint32_t left; /* bytes ahead of it, over all iovecs of the side */
};

struct chain {
	struct guest_mem *mem;
	struct chain *next_free;
	void *user;
	struct cursor in, out;
	struct cursor wrote;    /* first writable byte not yet counted as written; its `left` includes the tail */
	uint32_t total;         /* both sides */
	uint32_t out_total;
	uint32_t tail;          /* cut off the end of `out` */
	bool tail_written;
	bool done;              /* pushed, waits for earlier ones (IN_ORDER) */
	uint16_t head;          /* split: first descriptor; packed: buffer id */
	uint16_t ndesc;         /* ring descriptors it occupies (packed) */
	uint16_t niov, niov_in; /* all; of these readable */
	struct iovec iov[];
};

/* Owner only, all of it; `stats` may be read by others. */
struct queue {
	/* const after queue_open() */
	struct guest_mem *mem;
	struct loop *loop;
	struct queue_setup setup;
	uint16_t size, mask;     /* mask: split only */
	uint16_t iov_max;        /* per chain */
	bool packed, event_idx, indirect, in_order;
	size_t mapped_bytes;     /* of the one mapping this struct begins */
	size_t chain_bytes;      /* distance between chains of the pool */
	uint8_t *pool;
	uint64_t *busy;          /* a bit per head: popped and not yet returned */
	struct chain **order;    /* IN_ORDER: chains in flight as popped, a ring of `size` */
	void *table;             /* private copy of an indirect table, `size` descriptors */
	void *priv;

	/* the rings, valid for `generation` of the memory map */
	uint32_t generation;
	bool mapped;
	union {
		struct {
			struct vring_desc *desc;
			struct vring_avail *avail;
			struct vring_used *used;
			uint16_t *used_event, *avail_event;
		} s;
		struct {
			struct pvring_desc *desc;
			union pvring_event *driver, *device;
		} p;
	};

	bool broken;
	bool kick_off;           /* the driver was told not to kick (no EVENT_IDX) */
	bool avail_wrap, used_wrap; /* packed */
	uint16_t next_avail;     /* split: free-running; packed: offset */
	uint16_t next_used;      /* as above; counts what is pushed, published or not */
	uint16_t avail_seen;     /* split: the avail idx last loaded and found good */
	uint16_t pending;        /* pushed, not yet published: used elements (split), ring descriptors (packed) */
	uint16_t unrung;         /* published, the driver's wish for a call not looked at yet; as pending */
	bool hold_calls;         /* leave those to queue_call() */
	uint16_t taken;          /* packed: ring descriptors popped and not yet published as used */
	uint16_t first, first_flags; /* packed: the used descriptor that publishes the batch */
	uint16_t order_head, order_len;
	uint16_t fresh;          /* chains of the pool that were never handed out begin here */
	unsigned in_flight;
	struct chain *free;
	struct queue_stats stats;
};

/*
 * §2.7.10, §2.8.10: did moving from `old` to `new` pass `event`, in 16-bit arithmetic? "Pass" means
 * that entry number `event` was among those written.
 */
static inline bool ring_need_event(uint16_t event, uint16_t new, uint16_t old)
{
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* queue.c, for the two formats. The reasons are static text for the log; NULL is good. */
int queue_break(struct queue *q, const char *why);
struct chain *queue_take(struct queue *q);
void queue_untake(struct queue *q, struct chain *c);
bool queue_head_busy(const struct queue *q, unsigned head);
/* The chain is complete (or malformed: `why`): account for it. 1 or -EPROTO, as queue_pop(). */
int queue_taken(struct queue *q, struct chain *c, const char *why, struct chain **ret);
const char *queue_chain_add(struct queue *q, struct chain *c, uint64_t addr, uint32_t len, bool writable);
/* Copy an indirect table to q->table; *ret descriptors. */
const char *queue_fetch_table(struct queue *q, uint64_t addr, uint32_t len, unsigned *ret);
void queue_dirty_ring(struct queue *q, const void *ring, size_t each, unsigned first, unsigned count);

/*
 * Each format: map, pop, put a used entry, publish, whether the driver wants a call for one of the
 * `unrung` entries, kicks, unpop.
 */
bool split_map(struct queue *q);
int split_pop(struct queue *q, struct chain **ret);
void split_unpop(struct queue *q);
void split_put(struct queue *q, const struct chain *c, uint32_t len);
void split_publish(struct queue *q);
bool split_wants_call(const struct queue *q);
bool split_has_avail(const struct queue *q);
void split_disable_kick(struct queue *q);
void split_enable_kick(struct queue *q);

bool packed_map(struct queue *q);
int packed_pop(struct queue *q, struct chain **ret);
void packed_unpop(struct queue *q, const struct chain *c);
void packed_put(struct queue *q, const struct chain *c, uint32_t len);
void packed_publish(struct queue *q);
bool packed_wants_call(const struct queue *q);
bool packed_has_avail(const struct queue *q);
void packed_disable_kick(struct queue *q);
void packed_enable_kick(struct queue *q);

/* chain.c */
void chain_reset(struct chain *c);
/* Both sides are filled: cursors to their starts. */
void chain_rewind(struct chain *c);

#endif
