/*
 * Packed rings of the back end (virtio 1.2 §2.8), with the in-flight buffer as the only place where it remembers anything:
 * entries of the region are copies of descriptors, since the ring's own are overwritten by what is used.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/driver/vhost_user_end_private.h"

enum { WRAP = 0x8000, AVAIL = 1 << 7, USED = 1 << 15 };

/* §2.8: in a packed ring the last two fields are id and flags. */
struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

static struct packed_desc *at(const struct end_ring *q, uint16_t position)
{
	return (struct packed_desc *)q->desc + (position & ~WRAP);
}

static uint16_t forward(const struct end_ring *q, uint16_t position, unsigned by)
{
	unsigned offset = (position & ~(unsigned)WRAP) + by;

	return (uint16_t)(offset < q->num ? offset | (position & WRAP) : (offset - q->num) | (~(unsigned)position & WRAP));
}

static uint16_t used_position(const struct end_ring *q)
{
	return (uint16_t)(q->packed->used_idx | (q->packed->used_wrap ? WRAP : 0));
}

static bool is_available(const struct end_ring *q, uint16_t position)
{
	uint16_t flags = __atomic_load_n(&at(q, position)->flags, __ATOMIC_SEQ_CST);
	bool wrap = position & WRAP;

	return !!(flags & AVAIL) == wrap && !!(flags & USED) != wrap;
}

bool end_packed_pop(struct end_ring *q)
{
	struct vhost_user_packed_region *r = q->packed;
	struct vhost_user_packed_desc *head = &r->desc[r->old_free_head];
	bool more = true;

	if (!is_available(q, q->packed_avail))
		return false;
	head->num = 0;
	head->counter = ++q->counter;
	__atomic_store_n(&head->inflight, 1, __ATOMIC_SEQ_CST);
	while (more) {
		const struct packed_desc d = *at(q, q->packed_avail);
		struct vhost_user_packed_desc *copy = &r->desc[r->free_head];

		more = d.flags & NEXT;
		if (!more)
			head->last = r->free_head;
		head->num++;
		copy->addr = d.addr;
		copy->len = d.len;
		copy->flags = d.flags;
		copy->id = d.id;
		__atomic_store_n(&r->free_head, copy->next, __ATOMIC_SEQ_CST);
		q->packed_avail = forward(q, q->packed_avail, 1);
	}
	q->pending[q->npending++] = r->old_free_head;
	__atomic_store_n(&r->old_free_head, r->free_head, __ATOMIC_SEQ_CST);
	return true;
}

static unsigned flat(struct end *e, const struct vhost_user_packed_region *r, uint16_t entry, struct end_desc *out)
{
	const struct vhost_user_packed_desc *head = &r->desc[entry];
	unsigned n = 0;

	if (head->flags & INDIRECT) {
		const struct packed_desc *table = end_find(e, head->addr, head->len, false);

		for (; n < head->len / sizeof(*table); n++)
			out[n] = (struct end_desc){ table[n].addr, table[n].len, table[n].flags, 0 };
		return n;
	}
	for (const struct vhost_user_packed_desc *d = head; n < head->num; d = &r->desc[d->next])
		out[n++] = (struct end_desc){ d->addr, d->len, d->flags, 0 };
	return n;
}

void end_packed_complete(struct end *e, struct end_ring *q, unsigned pending)
{
	struct vhost_user_packed_region *r = q->packed;
	uint16_t entry = q->pending[pending], position = used_position(q), next;
	struct vhost_user_packed_desc *head = &r->desc[entry];
	struct packed_desc *d = at(q, position);
	struct end_desc list[PENDING];
	uint32_t written = end_do_disk(e, list, flat(e, r, entry, list));

	q->pending[pending] = q->pending[--q->npending];
	end_die_at(e, END_DIES_DONE);
	next = forward(q, position, head->num);
	r->desc[head->last].next = r->free_head;
	__atomic_store_n(&r->free_head, entry, __ATOMIC_SEQ_CST);
	r->used_wrap = !!(next & WRAP);
	__atomic_store_n(&r->used_idx, (uint16_t)(next & ~WRAP), __ATOMIC_SEQ_CST);
	d->id = r->desc[head->last].id;
	d->len = written;
	__atomic_store_n(&d->flags, (uint16_t)(position & WRAP ? AVAIL | USED : 0), __ATOMIC_SEQ_CST);
	end_die_at(e, END_DIES_USED);
	__atomic_store_n(&head->inflight, 0, __ATOMIC_SEQ_CST);
	r->old_free_head = r->free_head;
	r->old_used_wrap = r->used_wrap;
	__atomic_store_n(&r->old_used_idx, r->used_idx, __ATOMIC_SEQ_CST);
	end_call(q);
}

static void begin(struct end_ring *q, uint16_t size)
{
	struct vhost_user_packed_region *r = q->packed;

	for (uint16_t i = 0; i < size; i++)
		r->desc[i].next = (uint16_t)(i + 1);
	r->desc_num = size;
	r->used_idx = r->old_used_idx = q->packed_used & (uint16_t)~WRAP;
	r->used_wrap = r->old_used_wrap = !!(q->packed_used & WRAP);
	r->version = 1;
}

static void commit_or_roll_back(struct end_ring *q)
{
	struct vhost_user_packed_region *r = q->packed;
	uint16_t old = (uint16_t)(r->old_used_idx | (r->old_used_wrap ? WRAP : 0));

	if (r->used_idx != r->old_used_idx && !is_available(q, old)) {
		r->old_free_head = r->free_head;
		r->old_used_idx = r->used_idx;
		r->old_used_wrap = r->used_wrap;
	}
	r->free_head = r->old_free_head;
	r->used_idx = r->old_used_idx;
	r->used_wrap = r->old_used_wrap;
	for (uint16_t i = r->free_head; i < r->desc_num; i = r->desc[i].next)
		r->desc[i].inflight = 0;
}

void end_packed_recover(struct end_ring *q, void *region, uint16_t size)
{
	struct vhost_user_packed_region *r = q->packed = region;
	unsigned slots = 0;

	if (!r->version) {
		begin(q, size);
		return;
	}
	commit_or_roll_back(q);
	for (uint16_t i = 0; i < size; i++)
		if (r->desc[i].inflight) {
			q->pending[q->npending++] = i;
			slots += r->desc[i].num;
			q->counter = MAX(q->counter, r->desc[i].counter);
		}
	/* The front end knows it, too. */
	end_must(q->packed_used == used_position(q), "the front end says another used position");
	end_must(q->packed_avail == forward(q, used_position(q), slots), "the front end says another available position");
}

void end_packed_set_base(struct end_ring *q, uint32_t num)
{
	q->packed_avail = (uint16_t)num;
	q->packed_used = (uint16_t)(num >> 16);
}

uint32_t end_packed_base(const struct end_ring *q)
{
	return (uint32_t)used_position(q) << 16 | q->packed_avail;
}
