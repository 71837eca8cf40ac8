/*
 * The split virtqueue, virtio 1.2 §2.7, from the device's side: a descriptor table, a ring of heads
 * that the driver offers (avail) and a ring of heads that the device gives back (used), each with a
 * free-running 16-bit index.
 *
 * Owner: the queue's worker. Nothing of the rings is trusted: indices and descriptors are loaded
 * once and checked.
 */
#include <errno.h>

#include "devices/virtio/queue_private.h"

enum { AVAIL_FIXED = 6, USED_FIXED = 6 }; /* flags, idx and the event word: §2.7 */

bool split_map(struct queue *q)
{
	size_t n = q->size;

	q->s.desc = mem_map(q->mem, gpa(q->setup.desc), n * sizeof(*q->s.desc), 16);
	q->s.avail = mem_map(q->mem, gpa(q->setup.avail), AVAIL_FIXED + n * sizeof(uint16_t), 2);
	q->s.used = mem_map(q->mem, gpa(q->setup.used), USED_FIXED + n * sizeof(struct vring_used_elem), 4);
	if (!q->s.desc || !q->s.avail || !q->s.used)
		return false;
	q->s.used_event = &q->s.avail->ring[n];
	q->s.avail_event = (uint16_t *)&q->s.used->ring[n];
	return true;
}

static struct vring_desc load_desc(const struct vring_desc *d)
{
	return (struct vring_desc){
		.addr = ring_load(&d->addr),
		.len = ring_load(&d->len),
		.flags = ring_load(&d->flags),
		.next = ring_load(&d->next),
	};
}

/* §2.7.5.3: the table behind a descriptor of the ring, after `before` others of the chain. */
static const char *walk_table(struct queue *q, struct chain *c, const struct vring_desc *ref, unsigned before)
{
	const struct vring_desc *table = q->table;
	unsigned count, i = 0;
	const char *why = queue_fetch_table(q, ref->addr, ref->len, &count);

	if (why)
		return why;
	for (unsigned n = before; n < q->size; n++) {
		const struct vring_desc *d = &table[i];

		if (d->flags & VRING_DESC_INDIRECT)
			return "an indirect descriptor inside an indirect table";
		why = queue_chain_add(q, c, d->addr, d->len, d->flags & VRING_DESC_WRITE);
		if (why || !(d->flags & VRING_DESC_NEXT))
			return why;
		i = d->next;
		if (i >= count)
			return "a next outside its indirect table";
	}
	return "a chain longer than the queue (a loop?)";
}

static const char *walk(struct queue *q, struct chain *c)
{
	unsigned i = c->head;

	for (unsigned n = 0; n < q->size; n++) {
		const struct vring_desc d = load_desc(&q->s.desc[i]);
		const char *why;

		/*
		 * §2.7.5.3.2: WRITE means nothing here; plain descriptors may come before, none
		 * after.
		 */
		if (d.flags & VRING_DESC_INDIRECT)
			return d.flags & VRING_DESC_NEXT ? "an indirect descriptor with a next" :
							   walk_table(q, c, &d, n);
		why = queue_chain_add(q, c, d.addr, d.len, d.flags & VRING_DESC_WRITE);
		if (why || !(d.flags & VRING_DESC_NEXT))
			return why;
		i = d.next;
		if (i >= q->size)
			return "a next outside the descriptor table";
	}
	return "a chain longer than the queue (a loop?)";
}

/* Load the avail idx. 1: there are chains, 0: none, -EPROTO. */
static int look(struct queue *q)
{
	/*
	 * Acquire: ring entries and descriptors are read after the idx that exposed them; the
	 * driver released it.
	 */
	uint16_t idx = ring_load_acquire(&q->s.avail->idx);
	uint16_t published = q->next_used - q->pending;

	/*
	 * Every chain takes a descriptor, so what the driver has outstanding fits the table. A step
	 * back looks like 60000 ahead.
	 */
	if ((uint16_t)(idx - published) > q->size)
		return queue_break(q, "its avail idx is further ahead than the queue is long");
	q->avail_seen = idx;
	return idx != q->next_avail;
}

int split_pop(struct queue *q, struct chain **ret)
{
	struct chain *c;
	uint16_t head;
	int r = 1;

	if (q->next_avail == q->avail_seen)
		r = look(q);
	if (r <= 0)
		return r;
	head = ring_load(&q->s.avail->ring[q->next_avail & q->mask]);
	if (head >= q->size)
		return queue_break(q, "a head outside the descriptor table");
	if (queue_head_busy(q, head))
		return queue_break(q, "a head that is in flight already");
	c = queue_take(q);
	c->head = head;
	q->next_avail++;
	return queue_taken(q, c, walk(q, c), ret);
}

void split_unpop(struct queue *q)
{
	q->next_avail--;
}

void split_put(struct queue *q, const struct chain *c, uint32_t len)
{
	struct vring_used_elem *e = &q->s.used->ring[q->next_used & q->mask];

	ring_store(&e->id, c->head);
	ring_store(&e->len, len);
	q->next_used++;
	q->pending++;
}

void split_publish(struct queue *q)
{
	uint16_t new = q->next_used, old = new - q->pending;

	/*
	 * Release: the used elements and the buffers' bytes before the idx; the driver acquires the
	 * idx.
	 */
	ring_store_release(&q->s.used->idx, new);
	queue_dirty_ring(q, q->s.used->ring, sizeof(struct vring_used_elem), old & q->mask, q->pending);
	mem_dirty_host(q->mem, q->s.used, sizeof(*q->s.used));
	q->unrung += q->pending;
	q->pending = 0;
}

bool split_wants_call(const struct queue *q)
{
	uint16_t new = q->next_used - q->pending, old = new - q->unrung;

	/*
	 * Used idx stored before used_event (or flags) loaded: the driver stores that word, fences,
	 * and loads used idx. So either it sees our entries, or we see that it wants to be called.
	 */
	ring_fence();
	if (q->event_idx)
		return ring_need_event(ring_load(q->s.used_event), new, old);
	return !(ring_load(&q->s.avail->flags) & VRING_AVAIL_NO_INTERRUPT);
}

bool split_has_avail(const struct queue *q)
{
	return q->next_avail != q->avail_seen || q->next_avail != ring_load(&q->s.avail->idx);
}

/*
 * With EVENT_IDX silence costs nothing: an event that lies behind is passed at most once in 65536
 * entries.
 */
void split_disable_kick(struct queue *q)
{
	if (q->event_idx || q->kick_off)
		return;
	q->kick_off = true;
	ring_store(&q->s.used->flags, VRING_USED_NO_NOTIFY);
	mem_dirty_host(q->mem, q->s.used, sizeof(*q->s.used));
}

void split_enable_kick(struct queue *q)
{
	if (q->event_idx) {
		ring_store(q->s.avail_event, q->next_avail);
		mem_dirty_host(q->mem, q->s.avail_event, sizeof(*q->s.avail_event));
	} else {
		q->kick_off = false;
		ring_store(&q->s.used->flags, 0);
		mem_dirty_host(q->mem, q->s.used, sizeof(*q->s.used));
	}
}
