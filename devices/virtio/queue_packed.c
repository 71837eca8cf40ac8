/*
 * The packed virtqueue, virtio 1.2 §2.8, from the device's side: one ring of descriptors that the
 * driver makes available and the device overwrites as used. Whose a descriptor is tell its AVAIL
 * and USED flags against a wrap counter, which each side flips when it passes the end of the ring.
 *
 * A buffer is a list of consecutive descriptors; its id stands in the last one. One used descriptor
 * stands for the list, and the next one is written as many places further as the list was long.
 *
 * Owner: the queue's worker. Nothing of the ring is trusted: descriptors are loaded once and
 * checked.
 */
#include <errno.h>

#include "devices/virtio/queue_hot.h"

bool packed_map(struct queue *q)
{
	q->p.desc = mem_map(q->mem, gpa(q->setup.desc), q->size * sizeof(*q->p.desc), 16);
	q->p.driver = mem_map(q->mem, gpa(q->setup.avail), sizeof(*q->p.driver), 4);
	q->p.device = mem_map(q->mem, gpa(q->setup.used), sizeof(*q->p.device), 4);
	return q->p.desc && q->p.driver && q->p.device;
}

static inline bool is_avail(uint16_t flags, uint16_t state)
{
	return (flags & PVRING_STATE) == state;
}

/*
 * §2.8.7: a table is an array; only WRITE has a meaning in it. Other flags are ignored but for the
 * forbidden nesting.
 */
static inline const char *walk_table(struct queue *q, const struct chain *c, struct gather *g, uint64_t addr,
	uint32_t len)
{
	const struct pvring_desc *table = queue_find_table(q, addr, len);
	unsigned count = len / sizeof(*table);
	const char *why = table ? NULL : queue_no_table(q, len);

	for (unsigned i = 0; !why && i < count; i++) {
		uint16_t flags = ring_load(&table[i].flags);

		if (flags & VRING_DESC_INDIRECT)
			return "an indirect descriptor inside an indirect table";
		why = gather_add(q, c, g, i, ring_load(&table[i].addr), ring_load(&table[i].len),
			flags & VRING_DESC_WRITE);
	}
	return why;
}

const char *packed_walk_table(struct queue *q, const struct chain *c, struct gather *g, uint64_t addr, uint32_t len)
{
	return walk_table(q, c, g, addr, len);
}

/*
 * Take the list that begins at next_avail, whose first flags said that it is there. A malformed
 * list is followed to its end all the same, for its id and length. The loop ends: each turn takes
 * one of the descriptors not taken before.
 */
static const char *walk(struct queue *q, struct chain *c, struct gather *g, uint16_t flags)
{
	unsigned pos = q->next_avail, n = 0;
	uint16_t state = q->avail_state;
	const char *why = NULL;

	for (;;) {
		const struct pvring_desc *at = &q->p.desc[pos];
		uint64_t addr = ring_load(&at->addr);
		uint32_t len = ring_load(&at->len);

		if (seldom(why))
			; /* only its end is looked for */
		else if (!(flags & VRING_DESC_INDIRECT))
			why = gather_add(q, c, g, n, addr, len, flags & VRING_DESC_WRITE);
		else if (n || (flags & VRING_DESC_NEXT)) /* §2.8.19 */
			why = "an indirect descriptor in a list";
		else
			why = walk_table(q, c, g, addr, len);
		n++;
		c->head = ring_load(&at->id);
		if (seldom(++pos == q->size)) {
			pos = 0;
			state ^= PVRING_STATE;
		}
		if (!(flags & VRING_DESC_NEXT))
			break;
		if (seldom(q->taken + n >= q->size)) {
			why = why ? why : "a list longer than the queue";
			break;
		}
		/*
		 * The first flags were acquired and the driver wrote them last (§2.8.6), so these
		 * are final.
		 */
		flags = ring_load(&q->p.desc[pos].flags);
		if (seldom(!is_avail(flags, state))) {
			why = why ? why : "a list that is not available to its end";
			break;
		}
	}
	c->ndesc = (uint16_t)n;
	q->next_avail = (uint16_t)pos;
	q->avail_state = state;
	return why;
}

/*
 * The common chain that begins at `d`; see queue_hot.h. Returns how many descriptors of the ring it
 * has, 0 when it is another one; nothing of the queue has changed. No descriptor is visited twice.
 */
static inline unsigned walk_quick(const struct queue *q, struct chain *c, struct quick *k,
	const struct pvring_desc *d, unsigned flags)
{
	const struct pvring_desc *stop = &q->p.desc[q->size], *const first = d;

	unsigned differs;

	quick_begin(k, c, q->avail_state | VRING_DESC_NEXT);
	do {
		while (flags == k->like) {
			if (!quick_piece(k, q, ring_load(&d->addr), ring_load(&d->len)))
				return 0;
			if (seldom(++d == stop)) {
				/* Once: the second time it is where the chain began. */
				if (stop == first || first == q->p.desc)
					return 0;
				d = q->p.desc;
				stop = first;
				k->like ^= PVRING_STATE;
			}
			flags = ring_load(&d->flags);
		}
		differs = quick_turns(k, c, flags);
	} while (!differs);
	if (seldom(differs != VRING_DESC_NEXT) ||
		!quick_piece(k, q, ring_load(&d->addr), ring_load(&d->len)))
		return 0;
	k->id = ring_load(&d->id);
	return (unsigned)(k->last - c->iov) + 1;
}

/* The same for one descriptor with a table behind it. */
static inline unsigned table_quick(const struct queue *q, struct chain *c, struct quick *k,
	const struct pvring_desc *ref, unsigned flags)
{
	const struct pvring_desc *d, *end;
	const uint64_t addr = ring_load(&ref->addr);
	const uint32_t len = ring_load(&ref->len);
	unsigned count = len / sizeof(*d);

	if (seldom(!quick_holds(k, addr, len) || (flags & VRING_DESC_NEXT) ||
		((addr % sizeof(uint64_t)) | (len % sizeof(*d))) || count > q->table_max))
		return 0;
	quick_begin(k, c, 0);
	d = quick_host(k, addr);
	end = d + count;
	do {
		unsigned now = ring_load(&d->flags);

		if ((now != k->like && quick_turns(k, c, now)) ||
			!quick_piece(k, q, ring_load(&d->addr), ring_load(&d->len)))
			return 0;
	} while (++d != end);
	k->id = ring_load(&ref->id);
	return 1;
}

static inline bool bad_id(const struct queue *q, unsigned id)
{
	return seldom(id >= q->size || q->busy[id]);
}

/* There is no id under which it could go back. */
static __attribute__((noinline)) int refuse_id(struct queue *q, struct chain *c)
{
	queue_untake(q, c);
	return queue_break(q, c->head >= q->size ? "a buffer id out of range" : "a buffer id that is in flight already");
}

static __attribute__((noinline)) int pop_unusual(struct queue *q, struct chain *c, struct chain **ret)
{
	struct gather g = { .next = c->iov };
	const char *why;

	if (q->taken >= q->size) {
		queue_untake(q, c);
		return queue_break(q, "more descriptors available than the queue has");
	}
	why = walk(q, c, &g, ring_load(&q->p.desc[q->next_avail].flags));
	if (bad_id(q, c->head))
		return refuse_id(q, c);
	q->busy[c->head] = true;
	q->taken += c->ndesc;
	return why ? queue_refuse(q, c, why) : gather_hand_out(q, c, &g, ret);
}

/* A list of n descriptors that the common walk took; 0: it took none. */
static inline __attribute__((always_inline)) int take_list(struct queue *q, struct chain *c,
	const struct quick *k, unsigned n, struct chain **ret)
{
	unsigned to = q->next_avail + n;

	/* none, or more than there are */
	if (seldom(n - 1 >= (unsigned)q->size - q->taken))
		return pop_unusual(q, c, ret);
	if (seldom(to >= q->size)) {
		to -= q->size;
		q->avail_state ^= PVRING_STATE;
	}
	q->next_avail = (uint16_t)to;
	c->head = k->id;
	c->ndesc = (uint16_t)n;
	if (bad_id(q, k->id))
		return refuse_id(q, c);
	q->busy[k->id] = true;
	q->taken += (uint16_t)n;
	return quick_hand_out(q, c, k, ret);
}

static inline int pop_one(struct queue *q, struct quick *k, struct chain **ret)
{
	/*
	 * Acquire: the rest of the list, and its buffers, are read after the flags that exposed
	 * them; the driver released them.
	 */
	const struct pvring_desc *d = &q->p.desc[q->next_avail];
	const unsigned flags = ring_load_acquire(&d->flags);
	struct chain *c;

	if (!is_avail((uint16_t)flags, q->avail_state))
		return 0;
	c = queue_take(q);
	/* Compiled for each: with a table it is one descriptor. */
	if (flags & VRING_DESC_INDIRECT)
		return take_list(q, c, k, table_quick(q, c, k, d, flags) ? 1 : 0, ret);
	return take_list(q, c, k, walk_quick(q, c, k, d, flags), ret);
}

int packed_pop(struct queue *q, struct chain **ret, unsigned max)
{
	return queue_pop_each(q, ret, max, pop_one);
}

void packed_unpop(struct queue *q, const struct chain *c)
{
	q->taken -= c->ndesc;
	if (q->next_avail < c->ndesc) {
		q->next_avail = (uint16_t)(q->next_avail + q->size - c->ndesc);
		q->avail_state ^= PVRING_STATE;
	} else {
		q->next_avail -= c->ndesc;
	}
}

/*
 * All flags but the first of a batch are written at once; nobody looks at them before the first
 * says so (§2.8.2).
 */
void packed_put(struct queue *q, struct chain **chains, unsigned n)
{
	struct pvring_desc *ring = q->p.desc;
	const unsigned size = q->size;
	unsigned state = q->used_state, at = q->next_used, pending = q->pending;
	struct chain *free = q->free;
	bool *busy = q->busy;

	for (unsigned i = 0; i < n; i++) {
		struct chain *c = chains[i];
		struct pvring_desc *d = &ring[at];
		uint32_t len = chain_written(c);
		uint16_t flags = (uint16_t)(state | (len ? VRING_DESC_WRITE : 0u));

		ring_store(&d->id, c->head);
		ring_store(&d->len, len);
		if (seldom(!pending)) {
			q->first = (uint16_t)at;
			q->first_flags = flags;
		} else {
			ring_store(&d->flags, flags);
		}
		pending += c->ndesc;
		at += c->ndesc;
		if (seldom(at >= size)) {
			at -= size;
			state ^= PVRING_STATE;
		}
		queue_release(busy, &free, c);
	}
	q->free = free;
	q->next_used = (uint16_t)at;
	q->used_state = (uint16_t)state;
	q->pending = (uint16_t)pending;
	queue_count(q->stats.returned, n);
}

/*
 * §2.8.10: the driver names a descriptor by offset and wrap counter. On one 16-bit line with
 * next_used, a descriptor of the other round lies a ring's length behind.
 */
bool packed_wants_call(const struct queue *q)
{
	/* Of a ring's length and more each descriptor was among them. Below 0 past the end. */
	uint16_t old = q->next_used - MIN(q->unrung, q->size), event;
	union pvring_event e;

	/*
	 * Used flags stored before the driver's event loaded: the driver stores its event, fences,
	 * and loads the flags of its next used descriptor. So either it sees our descriptors, or we
	 * see that it wants to be called.
	 */
	ring_fence();
	e.word = ring_load(&q->p.driver->word);
	event = e.off_wrap & (uint16_t)~PVRING_WRAP;

	switch (e.flags & 3) {
	case PVRING_EVENT_DISABLE:
		return false;
	case PVRING_EVENT_DESC:
		if (!q->event_idx)
			return true;
		if (pvring_used(e.off_wrap & PVRING_WRAP) != q->used_state)
			event -= q->size;
		return ring_need_event(event, q->next_used, old);
	default:
		return true;
	}
}

void packed_publish(struct queue *q)
{
	/*
	 * Release: ids, lengths, later flags of the batch and the buffers' bytes before these
	 * flags; the driver acquires them.
	 */
	ring_store_release(&q->p.desc[q->first].flags, q->first_flags);
	queue_dirty_ring(q, q->p.desc, sizeof(*q->p.desc), q->first, q->pending);
	q->taken -= q->pending;
	q->unrung += q->pending;
	q->pending = 0;
}

bool packed_has_avail(const struct queue *q)
{
	return is_avail(ring_load(&q->p.desc[q->next_avail].flags), q->avail_state);
}

void packed_disarm_kick(struct queue *q)
{
	q->kick_off = true;
	ring_store(&q->p.device->flags, PVRING_EVENT_DISABLE);
	mem_dirty_host(q->mem, q->p.device, sizeof(*q->p.device));
}

/*
 * With EVENT_IDX silence costs nothing: a descriptor that lies behind comes up once in two rounds.
 */
void packed_disable_kick(struct queue *q)
{
	if (!q->event_idx && !q->kick_off)
		packed_disarm_kick(q);
}

void packed_enable_kick(struct queue *q)
{
	union pvring_event e = { .flags = PVRING_EVENT_ENABLE };

	q->kick_off = false;
	if (q->event_idx) {
		e.off_wrap = q->next_avail | (q->avail_state == pvring_avail(true) ? PVRING_WRAP : 0);
		e.flags = PVRING_EVENT_DESC;
	}
	/* One store: the driver never sees the new flags with the old offset. */
	ring_store(&q->p.device->word, e.word);
	mem_dirty_host(q->mem, q->p.device, sizeof(*q->p.device));
}
