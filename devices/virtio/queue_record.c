/* See queue_record.h. Owner of the queue: its worker; no locks. */
#include "devices/virtio/queue_record.h"

#include <errno.h>

#include "devices/virtio/queue_hot.h"

enum { LINE = 64 };

/* By head (split) or buffer id (packed). */
struct record_entry {
	uint64_t taken;          /* when it was popped; 0: not */
	uint64_t done;           /* the count of entries once it is published; 0: not put yet */
	uint16_t first, ndesc;   /* packed: its descriptors in `desc` */
	uint16_t at;             /* packed: where in the ring it was */
};

/* As struct pvring_desc, but for the place of the id. */
struct record_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t next;           /* of `desc`; nothing in the last one of a buffer */
	uint16_t flags;
};
_Static_assert(sizeof(struct record_desc) == sizeof(struct pvring_desc) &&
	offsetof(struct record_desc, flags) == offsetof(struct pvring_desc, flags), "copied whole");

struct queue_record {
	uint64_t published, publishing; /* ring entries since the start */
	uint16_t size;
	uint16_t used, lead;     /* at the start: where used began, and how far avail was ahead */
	struct record_entry entry[];
};

#define note(place, value) ring_store(&(place), value)
/* The stores before it come before those after it, for who looks when this process is gone. */
#define note_fence() __atomic_signal_fence(__ATOMIC_SEQ_CST)

size_t queue_record_bytes(unsigned size)
{
	return align_up(sizeof(struct queue_record) +
		size * (sizeof(struct record_entry) + sizeof(struct record_desc)), LINE);
}

static struct record_desc *descs(const struct queue *q)
{
	return (struct record_desc *)&q->record->entry[q->size];
}

/* Packed positions on a line of two rings' length: first the round with wrap counter 1. */
static unsigned to_line(uint16_t pos, unsigned size)
{
	return (pos & (uint16_t)~PVRING_WRAP) + (pos & PVRING_WRAP ? 0 : size);
}

static void from_line(const struct queue *q, uint64_t line, uint16_t *pos, bool *wrap)
{
	unsigned at = (unsigned)(line % (2u * q->size));

	*wrap = at < q->size;
	*pos = (uint16_t)(at < q->size ? at : at - q->size);
}

void queue_record_begin(struct queue_record *r, const struct queue_setup *s)
{
	bool packed = s->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	unsigned line = 2u * s->size;

	memset(r, 0, sizeof(*r) + s->size * sizeof(r->entry[0]));
	r->size = s->size;
	r->used = s->next_used;
	r->lead = (uint16_t)(s->next_avail - s->next_used);
	if (packed)
		r->lead = (uint16_t)((to_line(s->next_avail, s->size) + line - to_line(s->next_used, s->size)) % line);
}

/* --- noting, on the way of a request --- */

static void next_slot(const struct queue *q, uint16_t *i)
{
	if (++*i == q->size)
		*i = 0;
}

static inline void copy_desc(struct record_desc *to, const struct pvring_desc *from)
{
	const uint64_t *in = (const uint64_t *)from;
	uint64_t *out = (uint64_t *)to;

	out[0] = ring_load(&in[0]);
	out[1] = ring_load(&in[1]);
}

/* There are as many slots as the ring has descriptors, and those go first that are free longest. */
static void note_descs(struct queue *q, const struct chain *c, struct record_entry *e)
{
	bool back = q->next_avail < c->ndesc;
	uint16_t pos = (uint16_t)(q->next_avail - c->ndesc + (back ? q->size : 0));
	struct record_desc *table = descs(q);
	const uint16_t size = q->size;
	uint16_t *link = &e->first, head = q->slot_head;

	e->ndesc = c->ndesc;
	e->at = (uint16_t)(pos + ((q->avail_state == pvring_avail(true)) == !back ? 0 : q->size));
	for (unsigned n = c->ndesc; n; n--) {
		const struct pvring_desc *from = &q->p.desc[pos];
		uint16_t slot = q->free_slot[head];
		struct record_desc *d = &table[slot];

		*link = slot;
		copy_desc(d, from);
		link = &d->next;
		head = head + 1 == size ? 0 : head + 1;
		pos = pos + 1 == size ? 0 : pos + 1;
	}
	q->slot_head = head;
}

void queue_note_popped(struct queue *q, const struct chain *c)
{
	struct record_entry *e = &q->record->entry[c->head];

	if (q->replaying)
		return;
	if (q->packed)
		note_descs(q, c, e);
	note_fence();
	note(e->taken, ++q->noted_pops);
	note_fence();
	note(e->done, 0);
	/* What the device does with it comes after this. */
	note_fence();
}

bool queue_note_unpopped(struct queue *q, const struct chain *c)
{
	/* Its pop is uncounted already, and the first so many pops were replays. */
	if (q->stats.popped < q->nreplays) {
		q->replays_done--;
		q->unusual = true;
		return true;
	}
	note(q->record->entry[c->head].taken, 0);
	if (q->packed)
		q->slot_head = (uint16_t)(q->slot_head - c->ndesc + (q->slot_head < c->ndesc ? q->size : 0));
	return false;
}

static void free_slots(struct queue *q, uint16_t slot, uint16_t n)
{
	const struct record_desc *table = descs(q);

	for (; n; n--) {
		q->free_slot[q->slot_tail] = slot;
		next_slot(q, &q->slot_tail);
		slot = table[slot].next;
	}
}

void queue_note_put(struct queue *q, uint16_t head, uint16_t ndesc)
{
	struct record_entry *e = &q->record->entry[head];
	uint16_t slot = e->first;

	q->noted_puts += q->packed ? ndesc : 1u;
	note_fence();
	note(e->done, q->noted_puts);
	if (q->packed)
		free_slots(q, slot, ndesc);
}

void queue_note_publishing(struct queue *q)
{
	note(q->record->publishing, q->noted_puts);
	note_fence();
}

void queue_note_published(struct queue *q)
{
	note_fence();
	note(q->record->published, q->noted_puts);
}

/* --- taking up --- */

unsigned queue_replays_left(const struct queue *q)
{
	return q->broken ? 0 : q->nreplays - q->replays_done;
}

static bool packed_was_published(const struct queue *q, uint64_t published)
{
	uint16_t pos, flags;
	bool wrap;

	from_line(q, to_line(q->record->used, q->size) + published, &pos, &wrap);
	flags = ring_load(&q->p.desc[pos].flags) & (VRING_DESC_AVAIL | VRING_DESC_USED);
	/* §2.8.1: used, in this round; the driver had made it available before we could use it. */
	return flags == pvring_used(wrap);
}

/* Was the store that publishes made? NULL or what is wrong. */
static const char *settle(struct queue *q, struct queue_record *r)
{
	uint64_t from = ring_load(&r->published), to = ring_load(&r->publishing);
	uint16_t idx = q->packed ? 0 : ring_load(&q->s.used->idx);

	if (r->size != q->size || to - from > q->size)
		return "the record of what is in flight is damaged";
	if (to != from && q->packed) {
		from = packed_was_published(q, from) ? to : from;
	} else if (to != from) {
		if (idx != (uint16_t)(r->used + from) && idx != (uint16_t)(r->used + to))
			return "its used idx is not what we wrote";
		from = idx == (uint16_t)(r->used + to) ? to : from;
	}
	note(r->published, from);
	note_fence();
	note(r->publishing, from);
	q->noted_puts = from;
	return NULL;
}

/* Those in flight, in the order popped. Returns how many ring entries they take. */
static uint64_t collect(struct queue *q, struct queue_record *r)
{
	uint64_t sum = 0;

	for (unsigned head = 0; head < q->size; head++) {
		struct record_entry *e = &r->entry[head];
		uint64_t taken = ring_load(&e->taken), done = ring_load(&e->done);
		unsigned at = q->nreplays;

		if (!taken || (done && done <= q->noted_puts))
			continue;
		note(e->done, 0);
		for (; at && r->entry[q->replay[at - 1]].taken > taken; at--)
			q->replay[at] = q->replay[at - 1];
		q->replay[at] = (uint16_t)head;
		q->nreplays++;
		q->noted_pops = MAX(q->noted_pops, taken);
		sum += q->packed ? ring_load(&e->ndesc) : 1u;
	}
	return sum;
}

/* Which slots are taken, marked in `busy` for the time being. */
static bool mark_slots(struct queue *q)
{
	for (unsigned i = 0; i < q->nreplays; i++) {
		const struct record_entry *e = &q->record->entry[q->replay[i]];
		uint16_t slot = ring_load(&e->first), n = ring_load(&e->ndesc);

		for (; n; n--) {
			if (slot >= q->size || q->busy[slot])
				return false;
			q->busy[slot] = true;
			slot = ring_load(&descs(q)[slot].next);
		}
	}
	return true;
}

static void clear_marks(struct queue *q)
{
	memset(q->busy, 0, q->size * sizeof(q->busy[0]));
}

/* Those of chains in flight were found to be good. */
static void find_slots(struct queue *q)
{
	mark_slots(q);
	q->slot_head = q->slot_tail = 0;
	for (uint16_t i = 0; i < q->size; i++)
		if (!q->busy[i])
			q->free_slot[q->slot_tail++] = i;
	if (q->slot_tail == q->size)
		q->slot_tail = 0;
	clear_marks(q);
}

/*
 * Do they lie in the ring as they were popped, one behind the other from where used stands? So they
 * do in all queues that are served in order; then they are simply popped again, and may be unpopped
 * and left for later.
 */
static bool in_line(const struct queue *q, uint64_t avail)
{
	for (unsigned i = 0; i < q->nreplays; i++) {
		const struct record_entry *e = &q->record->entry[q->replay[i]];

		if (!q->packed && ring_load(&q->s.avail->ring[(avail + i) & q->mask]) != q->replay[i])
			return false;
		if (q->packed && e->at != avail % (2u * q->size))
			return false;
		avail += q->packed ? e->ndesc : 0u;
	}
	return true;
}

/*
 * Of a batch that was not published all used descriptors but the first have their flags, and the
 * driver would take them when it comes there. From used to avail the ring is ours: none is used.
 */
static void hide_unpublished(struct queue *q, uint64_t used, uint64_t avail)
{
	for (; used < avail; used++) {
		uint16_t pos;
		bool wrap;

		from_line(q, used, &pos, &wrap);
		ring_store(&q->p.desc[pos].flags, pvring_avail(wrap));
		mem_dirty_host(q->mem, &q->p.desc[pos], sizeof(q->p.desc[pos]));
	}
}

/*
 * A used descriptor that was not published lies over one of a chain that now is in flight again.
 * They are ours until then: put back what the driver had written.
 */
static void restore_descs(struct queue *q)
{
	for (unsigned i = 0; i < q->nreplays; i++) {
		const struct record_entry *e = &q->record->entry[q->replay[i]];
		uint16_t slot = e->first, pos = (uint16_t)(e->at % q->size);

		for (unsigned n = 0; n < e->ndesc; n++) {
			const struct record_desc *d = &descs(q)[slot];
			struct pvring_desc *to = &q->p.desc[pos];

			ring_store(&to->addr, d->addr);
			ring_store(&to->len, d->len);
			ring_store(&to->id, q->replay[i]);
			ring_store(&to->flags, d->flags);
			mem_dirty_host(q->mem, to, sizeof(*to));
			next_slot(q, &pos);
			slot = d->next;
		}
	}
}

/* From the last one on: also half of it leaves a line. */
static void forget_all(struct queue *q)
{
	while (q->nreplays) {
		note(q->record->entry[q->replay[--q->nreplays]].taken, 0);
		note_fence();
	}
}

static void go_on_at(struct queue *q, uint64_t used, uint64_t avail)
{
	bool wrap;

	if (q->packed) {
		from_line(q, used, &q->next_used, &wrap);
		q->used_state = pvring_used(wrap);
		from_line(q, avail, &q->next_avail, &wrap);
		q->avail_state = pvring_avail(wrap);
		return;
	}
	q->next_used = (uint16_t)used;
	q->next_avail = q->avail_seen = (uint16_t)avail;
}

int queue_record_take_up(struct queue *q, struct queue_record *r)
{
	uint64_t used, sum;
	const char *why;

	q->record = r;
	q->noted = true;
	why = settle(q, r);
	if (why)
		return queue_break(q, why);
	sum = collect(q, r);
	used = (q->packed ? to_line(r->used, q->size) : r->used) + q->noted_puts;
	if (sum > q->size || (q->packed && (sum < q->nreplays || !mark_slots(q))))
		return queue_break(q, "the record of what is in flight is damaged");
	clear_marks(q);
	if (q->packed)
		hide_unpublished(q, used, used + sum);
	if (in_line(q, used + r->lead)) {
		if (q->packed)
			restore_descs(q);
		forget_all(q);
		sum = 0;
	}
	if (q->packed)
		find_slots(q);
	go_on_at(q, used, used + r->lead + sum);
	q->taken = q->packed ? (uint16_t)sum : 0;
	q->unusual = q->nreplays > 0;
	return 0;
}

/* The n-th descriptor noted of a buffer, n counted up from 0; false behind the last. */
static bool noted_desc(const struct queue *q, uint16_t head, unsigned n, uint16_t *slot, struct vring_desc *ret)
{
	const struct record_entry *e = &q->record->entry[head];
	const struct record_desc *d;

	if (!n)
		*slot = ring_load(&e->first);
	if (n >= ring_load(&e->ndesc) || *slot >= q->size)
		return false;
	d = &descs(q)[*slot];
	*ret = (struct vring_desc){ .addr = ring_load(&d->addr), .len = ring_load(&d->len),
		.flags = ring_load(&d->flags) };
	*slot = ring_load(&d->next);
	return true;
}

/* As packed_pop(), but of what was noted when it was popped, and known to end. */
static const char *walk_noted(struct queue *q, const struct chain *c, struct gather *g)
{
	const char *why = NULL;
	struct vring_desc d;
	uint16_t slot = 0;

	for (unsigned n = 0; !why && noted_desc(q, c->head, n, &slot, &d); n++) {
		if (!(d.flags & VRING_DESC_INDIRECT))
			why = gather_add(q, c, g, n, d.addr, d.len, d.flags & VRING_DESC_WRITE);
		else if (n || (d.flags & VRING_DESC_NEXT))
			why = "an indirect descriptor in a list";
		else
			why = packed_walk_table(q, c, g, d.addr, d.len);
	}
	return why;
}

static int packed_replay(struct queue *q, uint16_t id, struct chain **ret)
{
	struct chain *c = queue_take(q);
	struct gather g = { .next = c->iov };
	const char *why;

	q->busy[id] = true;
	c->head = id;
	c->ndesc = ring_load(&q->record->entry[id].ndesc);
	why = walk_noted(q, c, &g);
	return why ? queue_refuse(q, c, why) : gather_hand_out(q, c, &g, ret);
}

int queue_replay(struct queue *q, struct chain **ret)
{
	uint16_t head = q->replay[q->replays_done++];
	int r;

	q->unusual = q->replays_done < q->nreplays;
	q->replaying = true;
	r = q->packed ? packed_replay(q, head, ret) : split_replay(q, head, ret);
	q->replaying = false;
	if (r == 1)
		queue_count(q->stats.popped, 1);
	return r;
}
