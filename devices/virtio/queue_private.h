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
#include "devices/virtio/virtio.h"

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

/*
 * §2.8.1: of an available descriptor AVAIL matches the driver's wrap counter and USED does not; of
 * a used one both match the device's.
 */
enum { PVRING_STATE = VRING_DESC_AVAIL | VRING_DESC_USED };
static inline uint16_t pvring_avail(bool wrap)
{
	return wrap ? VRING_DESC_AVAIL : VRING_DESC_USED;
}
static inline uint16_t pvring_used(bool wrap)
{
	return wrap ? PVRING_STATE : 0;
}

#define ring_load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define ring_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ring_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define ring_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
/* Orders an earlier store before a later load, which neither acquire nor release does. */
#define ring_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* Only the owner writes a counter, so load and store need not be one operation. */
#define queue_count(counter, n) ring_store(&(counter), (counter) + (uint64_t)(n))

/*
 * Iovecs of a chain beyond one for each descriptor: a buffer that crosses region borders needs
 * several, and more borders than this is malformed.
 */
enum { IOV_EXTRA = 16 };

/* Owner only, all of it; `stats` may be read by others. */
struct queue {
	/* const after queue_open() */
	struct guest_mem *mem;
	struct loop *loop;
	struct queue_setup setup;
	uint16_t size, mask;     /* mask: split only */
	uint16_t table_max;      /* descriptors of an indirect table; 0: none were negotiated */
	bool packed, event_idx, in_order;
	size_t mapped_bytes;     /* of the one mapping this struct begins */
	bool in_room;
	size_t chain_bytes;      /* distance between chains of the pool */
	uint8_t *pool;
	bool *busy;              /* by head: popped and not yet returned */
	struct chain **order;    /* IN_ORDER: chains in flight as popped, a ring of `size` */
	void *table;             /* private copy of an indirect table, `size` descriptors */
	void *priv;

	const struct mem_ram *ram; /* where the last buffer was: a guess for the next */

	/* the rings, valid for `generation` of the memory map; not mapped: never its own */
	uint32_t generation;
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
	bool unusual;            /* broken, or there are replays: queue_pop() looks twice */
	bool noted;              /* in_order, or there is a record */
	bool kick_off;           /* the driver was told not to kick (no EVENT_IDX) */
	/* packed: AVAIL and USED as they stand in what is next (§2.8.1), by the wrap counters */
	uint16_t avail_state, used_state;
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
	struct chain *free;
	struct queue_stats stats;

	/* queue_record.c; record NULL: nothing is noted, and the rest is not used */
	struct queue_record *record;
	uint64_t noted_pops, noted_puts; /* since the start, puts in ring entries */
	uint16_t *replay;        /* heads to hand out again, in order */
	uint16_t nreplays, replays_done;
	bool replaying;
	uint16_t *free_slot;     /* packed: slots of the record for descriptors, a ring of `size` */
	uint16_t slot_head, slot_tail;
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
bool queue_map_again(struct queue *q);
struct chain *queue_take_fresh(struct queue *q);
/* The chain that was taken is malformed: back with nothing, and -EPROTO, as queue_pop(). */
int queue_refuse(struct queue *q, struct chain *c, const char *why);
/* The region of RAM that holds it all; of size 0: none does. */
const struct mem_ram *queue_find_ram(const struct queue *q, uint64_t addr, uint32_t len);
/* Of a queue that is `noted`: with IN_ORDER its place, and its entry of the record. */
void queue_account_noted(struct queue *q, struct chain *c);

/* queue_record.c; of a queue that has one. */
void queue_note_popped(struct queue *q, const struct chain *c);
/* true: it was a replay, and will be one again. */
bool queue_note_unpopped(struct queue *q, const struct chain *c);
void queue_note_put(struct queue *q, uint16_t head, uint16_t ndesc);
/* Around what makes pushed entries visible. */
void queue_note_publishing(struct queue *q);
void queue_note_published(struct queue *q);
/* The next replay, as queue_pop(); there is one. */
int queue_replay(struct queue *q, struct chain **ret);

/* A chain while its descriptors are collected; begins with .next = c->iov. */
struct gather {
	struct iovec *next;
	uint16_t side;        /* of the last buffer: 0 readable, or VRING_DESC_WRITE */
	struct iovec *border; /* with `side`: the first writable one */
	uint64_t total, in;   /* bytes: of both sides, and how many when the border was reached */
};
/* Any buffer, of which `before` others of the chain were added; NULL or what is wrong with it. */
const char *gather_add(struct queue *q, const struct chain *c, struct gather *g, unsigned before,
	uint64_t addr, uint32_t len, bool writable);
/*
 * An indirect table of `len` bytes: in guest memory, or in a private copy when it cannot be read
 * there. Each descriptor of it must be loaded once. NULL when there is none.
 */
const void *queue_find_table(struct queue *q, uint64_t addr, uint32_t len);
/* Why there is none. */
const char *queue_no_table(const struct queue *q, uint32_t len);
void queue_dirty_ring(struct queue *q, const void *ring, size_t each, unsigned first, unsigned count);

/*
 * Each format: map, pop at most `max`, put used entries and release their chains, publish, whether
 * the driver wants a call for one of the `unrung` entries, kicks, unpop.
 */
bool split_map(struct queue *q);
int split_pop(struct queue *q, struct chain **ret, unsigned max);
int split_replay(struct queue *q, uint16_t head, struct chain **ret);
void split_unpop(struct queue *q);
void split_put(struct queue *q, struct chain **chains, unsigned n);
void split_publish(struct queue *q);
bool split_wants_call(const struct queue *q);
bool split_has_avail(const struct queue *q);
void split_disable_kick(struct queue *q);
void split_disarm_kick(struct queue *q);
void split_enable_kick(struct queue *q);

bool packed_map(struct queue *q);
int packed_pop(struct queue *q, struct chain **ret, unsigned max);
/* The descriptors of an indirect table; NULL or what is wrong with one. */
const char *packed_walk_table(struct queue *q, const struct chain *c, struct gather *g, uint64_t addr, uint32_t len);
void packed_unpop(struct queue *q, const struct chain *c);
void packed_put(struct queue *q, struct chain **chains, unsigned n);
void packed_publish(struct queue *q);
bool packed_wants_call(const struct queue *q);
bool packed_has_avail(const struct queue *q);
void packed_disable_kick(struct queue *q);
void packed_disarm_kick(struct queue *q);
void packed_enable_kick(struct queue *q);

/* Both sides are known, in.at_start, out.iov and first_out are set: the cursors to their starts. */
static inline void chain_start(struct chain *c, uint32_t out_len)
{
	c->user = NULL;
	c->in.iov = c->iov;
	c->out.at_start = c->none_written = c->out_total = out_len;
}

static inline void chain_start_empty(struct chain *c)
{
	c->in.at_start = 0;
	c->out.iov = c->first_out = c->iov;
	chain_start(c, 0);
}

#endif
