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

/* A buffer of the common chain; false when it is not in the region where the last one was. */
static inline bool gather_piece(struct gather *g, const struct mem_ram *ram, uint64_t addr, uint32_t len)
{
	if (seldom(!mem_holds(ram, gpa(addr), len)))
		return false;
	g->total += len;
	*g->next++ = (struct iovec){ ram->host + (addr - ram->gpa), len };
	return true;
}

/* The writable side begins with the next buffer. */
static inline void gather_border(struct gather *g)
{
	g->side = VRING_DESC_WRITE;
	g->border = g->next;
	g->in = g->total;
}

/* Before a buffer with these flags: is it one that the common chain does not have here? */
static inline bool gather_turns(struct gather *g, uint16_t flags)
{
	if (!((flags ^ g->side) & (VRING_DESC_WRITE | VRING_DESC_INDIRECT)))
		return false;
	if (seldom(g->side || (flags & VRING_DESC_INDIRECT)))
		return true;
	gather_border(g);
	return false;
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

/* The chain is complete: its cursors to their starts, and into the accounts. */
static inline int queue_hand_out(struct queue *q, struct chain *c, const struct gather *g, struct chain **ret)
{
	uint64_t in = g->side ? g->in : g->total;

	/* §2.7.5.2: a chain is at most 4 GiB; we stop one short, as a used length is 32 bits. */
	if (seldom(g->total > UINT32_MAX))
		return queue_refuse(q, c, "a chain above 4 GiB");
	chain_start(c, g->side ? g->border : g->next, (uint32_t)in, (uint32_t)(g->total - in));
	c->last = g->next - 1;
	queue_account(q, c);
	*ret = c;
	return 1;
}

/* Its used entry is written: the head may come again, and the chain goes to the pool. */
static inline void queue_release(struct queue *q, struct chain *c)
{
	q->busy[c->head] = false;
	queue_count(q->stats.returned, 1);
	queue_untake(q, c);
}

#endif
