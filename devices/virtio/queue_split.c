/*
 * The split virtqueue, virtio 1.2 §2.7, from the device's side: a descriptor table, a ring of heads
 * that the driver offers (avail) and a ring of heads that the device gives back (used), each with a
 * free-running 16-bit index.
 *
 * Owner: the queue's worker. Nothing of the rings is trusted: indices and descriptors are loaded
 * once and checked.
 */
#include <errno.h>

#include "devices/virtio/queue_hot.h"

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

static const char *bad_next(const struct queue *q, const struct vring_desc *table)
{
	return table == q->s.desc ? "a next outside the descriptor table" : "a next outside its indirect table";
}

/*
 * Follow the chain from its head, in the ring's table and, behind an indirect descriptor, in that
 * one's. At most as many descriptors as the queue is long are looked at, and each is loaded once.
 */
static __attribute__((noinline)) const char *walk(struct queue *q, const struct chain *c, struct gather *g)
{
	const struct vring_desc *table = q->s.desc;
	unsigned count = q->size, i = c->head, n = 0;

	do {
		const struct vring_desc d = load_desc(&table[i]);
		const char *why;

		if (d.flags & VRING_DESC_INDIRECT) {
			/*
			 * §2.7.5.3.2: WRITE means nothing here; plain descriptors may come before,
			 * none after.
			 */
			if (table != q->s.desc)
				return "an indirect descriptor inside an indirect table";
			if (d.flags & VRING_DESC_NEXT)
				return "an indirect descriptor with a next";
			table = queue_find_table(q, d.addr, d.len);
			if (!table)
				return queue_no_table(q, d.len);
			count = d.len / sizeof(*table);
			i = 0;
			continue;
		}
		why = gather_add(q, c, g, n, d.addr, d.len, d.flags & VRING_DESC_WRITE);
		if (why || !(d.flags & VRING_DESC_NEXT))
			return why;
		n++;
		i = d.next;
		if (i >= count)
			return bad_next(q, table);
	} while (n < q->size);
	return "a chain longer than the queue (a loop?)";
}

/* The common chain; see queue_hot.h. */
static inline bool walk_quick(const struct queue *q, struct chain *c, struct quick *k, unsigned i)
{
	const struct vring_desc *table = q->s.desc, *d = &table[i];
	unsigned count = q->size;
	unsigned flags = ring_load(&d->flags), differs;
	const struct iovec *end;

	if (flags == VRING_DESC_INDIRECT) {
		const uint64_t addr = ring_load(&d->addr);
		const uint32_t len = ring_load(&d->len);

		count = len / sizeof(*table);
		if (seldom(!quick_holds(k, addr, len) || ((addr % sizeof(uint64_t)) | (len % sizeof(*table))) ||
			count > q->table_max))
			return false;
		table = d = quick_host(k, addr);
		flags = ring_load(&d->flags);
	}
	quick_begin(k, c, VRING_DESC_NEXT);
	/* As many buffers as a chain may have. */
	end = k->last + count;
	do {
		while (flags == k->like) {
			unsigned next;

			if (!quick_piece(k, q, ring_load(&d->addr), ring_load(&d->len)))
				return false;
			next = ring_load(&d->next);
			if (seldom(next >= count || k->last == end))
				return false;
			d = &table[next];
			flags = ring_load(&d->flags);
		}
		differs = quick_turns(k, c, flags);
	} while (!differs);
	return !seldom(differs != VRING_DESC_NEXT) && quick_piece(k, q, ring_load(&d->addr), ring_load(&d->len));
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

static __attribute__((noinline)) int pop_unusual(struct queue *q, struct chain *c, struct chain **ret)
{
	struct gather g = { .next = c->iov };
	const char *why = walk(q, c, &g);

	return why ? queue_refuse(q, c, why) : gather_hand_out(q, c, &g, ret);
}

static inline int pop_one(struct queue *q, struct quick *k, struct chain **ret)
{
	struct chain *c;
	uint16_t head;

	if (q->next_avail == q->avail_seen) {
		int r = look(q);

		if (r <= 0)
			return r;
	}
	head = ring_load(&q->s.avail->ring[q->next_avail & q->mask]);
	if (seldom(head >= q->size))
		return queue_break(q, "a head outside the descriptor table");
	if (seldom(q->busy[head]))
		return queue_break(q, "a head that is in flight already");
	q->busy[head] = true;
	c = queue_take(q);
	c->head = head;
	q->next_avail++;
	if (!seldom(!walk_quick(q, c, k, head)))
		return quick_hand_out(q, c, k, ret);
	return pop_unusual(q, c, ret);
}

int split_pop(struct queue *q, struct chain **ret, unsigned max)
{
	return queue_pop_each(q, ret, max, pop_one);
}

/* The table is the driver's, and it leaves a chain alone until that is returned. */
int split_replay(struct queue *q, uint16_t head, struct chain **ret)
{
	struct chain *c = queue_take(q);

	q->busy[head] = true;
	c->head = head;
	return pop_unusual(q, c, ret);
}

void split_unpop(struct queue *q)
{
	q->next_avail--;
}

void split_put(struct queue *q, struct chain **chains, unsigned n)
{
	struct vring_used_elem *ring = q->s.used->ring;
	struct chain *free = q->free;
	bool *busy = q->busy;
	uint16_t at = q->next_used, mask = q->mask;

	for (unsigned i = 0; i < n; i++) {
		struct chain *c = chains[i];
		struct vring_used_elem *e = &ring[at++ & mask];

		ring_store(&e->id, c->head);
		ring_store(&e->len, chain_written(c));
		queue_release(busy, &free, c);
	}
	q->free = free;
	q->next_used = at;
	q->pending += (uint16_t)n;
	queue_count(q->stats.returned, n);
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

/* With EVENT_IDX: the event is put where the next entry has passed it already. */
void split_disarm_kick(struct queue *q)
{
	if (!q->event_idx) {
		split_disable_kick(q);
		return;
	}
	ring_store(q->s.avail_event, q->next_avail - 1);
	mem_dirty_host(q->mem, q->s.avail_event, sizeof(*q->s.avail_event));
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
