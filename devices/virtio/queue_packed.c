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

/* §2.8.1: AVAIL matches the counter and USED does not. */
enum { DESC_STATE = VRING_DESC_AVAIL | VRING_DESC_USED };

static inline uint16_t avail_state(bool wrap)
{
	return wrap ? VRING_DESC_AVAIL : (uint16_t)VRING_DESC_USED;
}

static inline bool is_avail(uint16_t flags, bool wrap)
{
	return (flags & DESC_STATE) == avail_state(wrap);
}

/* Move a position `n` places on, n at most the size. */
static void advance(const struct queue *q, uint16_t *pos, bool *wrap, unsigned n)
{
	unsigned to = *pos + n;

	if (to >= q->size) {
		to -= q->size;
		*wrap = !*wrap;
	}
	*pos = (uint16_t)to;
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
 * Take the list that begins at next_avail, whose first flags were loaded. A malformed list is
 * followed to its end all the same, for its id and length. The loop ends: each turn takes one of
 * the descriptors not taken before.
 */
static const char *walk(struct queue *q, struct chain *c, struct gather *g, uint16_t flags)
{
	unsigned pos = q->next_avail, n = 0;
	bool wrap = q->avail_wrap;
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
			wrap = !wrap;
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
		if (seldom(!is_avail(flags, wrap))) {
			why = why ? why : "a list that is not available to its end";
			break;
		}
	}
	c->ndesc = (uint16_t)n;
	q->next_avail = (uint16_t)pos;
	q->avail_wrap = wrap;
	return why;
}

/* The common chain; see queue_hot.h. On false nothing of the queue has changed. */
static inline bool walk_quick(struct queue *q, struct chain *c, struct gather *g, uint16_t flags)
{
	const struct mem_ram *ram = q->ram;
	const struct pvring_desc *d = &q->p.desc[q->next_avail], *end = &q->p.desc[q->size];
	const struct iovec *limit = g->next + (q->size - q->taken);
	uint16_t state = avail_state(q->avail_wrap);

	for (;;) {
		if (gather_turns(g, flags) || !gather_piece(g, ram, ring_load(&d->addr), ring_load(&d->len)))
			return false;
		c->head = ring_load(&d->id);
		if (seldom(++d == end)) {
			d = q->p.desc;
			state ^= DESC_STATE;
		}
		if (!(flags & VRING_DESC_NEXT))
			break;
		flags = ring_load(&d->flags);
		if (seldom(g->next == limit || (flags & DESC_STATE) != state))
			return false;
	}
	c->ndesc = (uint16_t)(g->next - c->iov);
	q->next_avail = (uint16_t)(d - q->p.desc);
	q->avail_wrap = state == VRING_DESC_AVAIL;
	return true;
}

/* The same for one descriptor with a table behind it. */
static inline bool table_quick(struct queue *q, struct chain *c, struct gather *g, uint16_t flags)
{
	const struct pvring_desc *ref = &q->p.desc[q->next_avail];
	const struct mem_ram *ram = q->ram;
	const uint64_t addr = ring_load(&ref->addr);
	const uint32_t len = ring_load(&ref->len);
	const struct pvring_desc *d = mem_in(ram, gpa(addr), len);
	unsigned count = len / sizeof(*d);

	if (seldom(!d || !q->indirect || (flags & VRING_DESC_NEXT) || addr % sizeof(uint64_t) ||
		len % sizeof(*d) || count > q->size))
		return false;
	for (; count; count--, d++)
		if (gather_turns(g, ring_load(&d->flags)) ||
			!gather_piece(g, ram, ring_load(&d->addr), ring_load(&d->len)))
			return false;
	c->head = ring_load(&ref->id);
	c->ndesc = 1;
	advance(q, &q->next_avail, &q->avail_wrap, 1);
	return true;
}

static inline bool bad_id(const struct queue *q, const struct chain *c)
{
	return seldom(c->head >= q->size || q->busy[c->head]);
}

/* There is no id under which it could go back. */
static __attribute__((noinline)) int refuse_id(struct queue *q, struct chain *c)
{
	queue_untake(q, c);
	return queue_break(q, c->head >= q->size ? "a buffer id out of range" : "a buffer id that is in flight already");
}

static __attribute__((noinline)) int pop_unusual(struct queue *q, struct chain *c, uint16_t flags,
	struct chain **ret)
{
	struct gather g = { .next = c->iov };
	const char *why = walk(q, c, &g, flags);

	if (bad_id(q, c))
		return refuse_id(q, c);
	q->taken += c->ndesc;
	return why ? queue_refuse(q, c, why) : queue_hand_out(q, c, &g, ret);
}

int packed_pop(struct queue *q, struct chain **ret)
{
	/*
	 * Acquire: the rest of the list, and its buffers, are read after the flags that exposed
	 * them; the driver released them.
	 */
	uint16_t flags = ring_load_acquire(&q->p.desc[q->next_avail].flags);
	struct chain *c;
	bool quick;

	if (!is_avail(flags, q->avail_wrap))
		return 0;
	if (seldom(q->taken >= q->size))
		return queue_break(q, "more descriptors available than the queue has");
	c = queue_take(q);

	struct gather g = { .next = c->iov };

	quick = flags & VRING_DESC_INDIRECT ? table_quick(q, c, &g, flags) : walk_quick(q, c, &g, flags);
	if (seldom(!quick))
		return pop_unusual(q, c, flags, ret);
	if (bad_id(q, c))
		return refuse_id(q, c);
	q->taken += c->ndesc;
	return queue_hand_out(q, c, &g, ret);
}

void packed_unpop(struct queue *q, const struct chain *c)
{
	q->taken -= c->ndesc;
	if (q->next_avail < c->ndesc) {
		q->next_avail = (uint16_t)(q->next_avail + q->size - c->ndesc);
		q->avail_wrap = !q->avail_wrap;
	} else {
		q->next_avail -= c->ndesc;
	}
}

/*
 * All flags but the first of a batch are written at once; nobody looks at them before the first
 * says so (§2.8.2).
 */
void packed_put(struct queue *q, struct chain *c)
{
	uint32_t len = chain_written(c);
	struct pvring_desc *d = &q->p.desc[q->next_used];
	uint16_t flags = q->used_wrap ? VRING_DESC_AVAIL | VRING_DESC_USED : 0;

	if (len)
		flags |= VRING_DESC_WRITE;
	ring_store(&d->id, c->head);
	ring_store(&d->len, len);
	if (q->pending) {
		ring_store(&d->flags, flags);
	} else {
		q->first = q->next_used;
		q->first_flags = flags;
	}
	advance(q, &q->next_used, &q->used_wrap, c->ndesc);
	q->pending += c->ndesc;
	queue_release(q, c);
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
		if (!!(e.off_wrap & PVRING_WRAP) != q->used_wrap)
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
	return is_avail(ring_load(&q->p.desc[q->next_avail].flags), q->avail_wrap);
}

/*
 * With EVENT_IDX silence costs nothing: a descriptor that lies behind comes up once in two rounds.
 */
void packed_disable_kick(struct queue *q)
{
	if (q->event_idx || q->kick_off)
		return;
	q->kick_off = true;
	ring_store(&q->p.device->flags, PVRING_EVENT_DISABLE);
	mem_dirty_host(q->mem, q->p.device, sizeof(*q->p.device));
}

void packed_enable_kick(struct queue *q)
{
	union pvring_event e = { .flags = PVRING_EVENT_ENABLE };

	q->kick_off = false;
	if (q->event_idx) {
		e.off_wrap = q->next_avail | (q->avail_wrap ? PVRING_WRAP : 0);
		e.flags = PVRING_EVENT_DESC;
	}
	/* One store: the driver never sees the new flags with the old offset. */
	ring_store(&q->p.device->word, e.word);
	mem_dirty_host(q->mem, q->p.device, sizeof(*q->p.device));
}
