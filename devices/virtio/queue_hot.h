/*
 * What every descriptor and every chain passes through, as inline functions: queue_split.c and
 * queue_packed.c are compiled each with their own copy, so that a chain is popped or pushed by one
 * function from end to end.
 *
 * How a request is kept cheap: the chain that nearly all are (all buffers in the region of RAM that
 * the last one was in, first readable ones, then writable ones) goes through a loop that fits the
 * registers and knows no reasons: a descriptor is loaded once, checked, and becomes one iovec. When
 * one of its checks fails, what it found is thrown away and the chain is walked again from its head
 * by gather_add(), which knows the other cases and what to call them; only what the second walk
 * loads is used then. Cursors are stored once, at the end; nothing is cleared that will be written.
 */
#ifndef DEVICES_VIRTIO_QUEUE_HOT_H
#define DEVICES_VIRTIO_QUEUE_HOT_H

#include "devices/virtio/queue_private.h"

/* The common chain while it is walked; its border goes into the chain at once. */
struct quick {
	/*
	 * where the last buffer was: the region's end, its size, and how far the host's address of
	 * a byte is from the guest's
	 */
	uint64_t end, size, shift;
	struct iovec *last;
	uint64_t total;
	/*
	 * the flags of a next buffer like the last one, with one more behind it; VRING_DESC_WRITE
	 * in them tells the side
	 */
	unsigned like;
	uint16_t id;         /* packed */
};

static inline void quick_begin(struct quick *k, struct chain *c, unsigned like)
{
	k->last = c->iov - 1;
	k->total = 0;
	k->like = like;
}

static inline void quick_region(struct quick *k, const struct mem_ram *ram)
{
	k->size = ram->size;
	k->end = ram->gpa + ram->size;
	k->shift = (uintptr_t)ram->host - ram->gpa;
}

/* As mem_holds(), of the region that the last buffer was in. */
static inline bool quick_holds(const struct quick *k, uint64_t addr, uint32_t len)
{
	uint64_t room = k->end - addr; /* above its size when addr lies outside */

	/* len - 1 is huge for 0 */
	return room <= k->size && (uint64_t)len - 1 < room;
}

static inline void *quick_host(const struct quick *k, uint64_t addr)
{
	return (void *)(uintptr_t)(addr + k->shift);
}

/* A buffer of the common chain; false when it does not lie in one region of RAM. */
static inline bool quick_piece(struct quick *k, const struct queue *q, uint64_t addr, uint32_t len)
{
	if (seldom(!quick_holds(k, addr, len))) {
		quick_region(k, queue_find_ram(q, addr, len));
		if (!k->size)
			return false;
	}
	k->total += len;
	k->last++;
	k->last->iov_base = quick_host(k, addr);
	k->last->iov_len = len;
	return true;
}

/* From here on the chain is written to. Its bytes so far are bounded at the end, with all. */
static inline void quick_border(const struct quick *k, struct chain *c)
{
	c->in.at_start = (uint32_t)k->total;
	c->out.iov = c->first_out = k->last + 1;
}

/*
 * A buffer with flags that are not those of the last one: the first writable one begins that side.
 * What is still different then: 0; VRING_DESC_NEXT, it is the last one; or more, and the common
 * chain has no such buffer.
 */
static inline unsigned quick_turns(struct quick *k, struct chain *c, unsigned flags)
{
	unsigned differs = flags ^ k->like;

	if (flags & differs & VRING_DESC_WRITE) {
		k->like |= VRING_DESC_WRITE;
		quick_border(k, c);
		differs ^= VRING_DESC_WRITE;
	}
	return differs;
}

/*
 * May the rings be touched? The map changes only with the workers drained, so never under a batch.
 */
static inline bool queue_rings_ready(struct queue *q)
{
	return !seldom(mem_generation(q->mem) != q->generation) || queue_map_again(q);
}

/*
 * There is always one: at most `size` heads are busy, and the formats ask only for a head that is
 * not.
 */
static inline struct chain *queue_take(struct queue *q)
{
	struct chain *c = q->free;

	if (seldom(!c))
		return queue_take_fresh(q);
	q->free = c->next_free;
	return c;
}

static inline void queue_untake(struct queue *q, struct chain *c)
{
	c->next_free = q->free;
	q->free = c;
}

/*
 * The chain is complete, its border known: its cursors to their starts. Its head is busy already;
 * the caller counts what was handed out.
 */
static inline int queue_hand_out(struct queue *q, struct chain *c, struct iovec *last, uint64_t total,
	struct chain **ret)
{
	/* §2.7.5.2: a chain is at most 4 GiB; we stop one short, as a used length is 32 bits. */
	if (seldom(total >> 32))
		return queue_refuse(q, c, "a chain above 4 GiB");
	chain_start(c, (uint32_t)total - c->in.left);
	c->last = last;
	if (seldom(q->noted))
		queue_account_noted(q, c);
	*ret = c;
	return 1;
}

static inline int quick_hand_out(struct queue *q, struct chain *c, const struct quick *k, struct chain **ret)
{
	if (seldom(!(k->like & VRING_DESC_WRITE)))
		quick_border(k, c);
	return queue_hand_out(q, c, k->last, k->total, ret);
}

/* One of the others, which the second walk found good. */
static inline int gather_hand_out(struct queue *q, struct chain *c, const struct gather *g, struct chain **ret)
{
	c->in.at_start = (uint32_t)(g->side ? g->in : g->total);
	c->out.iov = c->first_out = g->side ? g->border : g->next;
	return queue_hand_out(q, c, g->next - 1, g->total, ret);
}

/* The loop of a batch, compiled into each format with its own `pop_one`: as queue_pop(). */
static inline __attribute__((always_inline)) int queue_pop_each(struct queue *q, struct chain **ret, unsigned max,
	int (*pop_one)(struct queue *, struct quick *, struct chain **))
{
	struct quick k;
	struct chain **next = ret, **end = ret + max;
	int r;

	quick_region(&k, q->ram);
	do
		r = pop_one(q, &k, next);
	while (r == 1 && ++next != end);
	queue_count(q->stats.popped, next - ret);
	return next != ret ? (int)(next - ret) : r;
}

/*
 * Its used entry is written: the head may come again, and the chain goes to the pool. The caller
 * counts it, and has `busy` and `free` of the queue in registers.
 */
static inline void queue_release(bool *busy, struct chain **free, struct chain *c)
{
	busy[c->head] = false;
	c->next_free = *free;
	*free = c;
}

#endif
