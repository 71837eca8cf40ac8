/*
 * A virtio driver's virtqueue in plain C, written from virtio 1.2 §2.7 and §2.8. It shares no line with the device's
 * side, its structs included: a mistake in one of them is not hidden by the other.
 *
 * Memory shared with the device is touched by the ld and st helpers only.
 */
#include "tests/driver/vdriver.h"

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, F_AVAIL = 1 << 7, F_USED = 1 << 15 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2, WRAP = 1 << 15 };
enum { DESC = 16, ELEM = 8, RING = 4 /* where the ring begins in avail and used */ };

static uint16_t ld16(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

static uint32_t ld32(const void *p)
{
	return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static void st16(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
}

static void st32(void *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
}

static void zero(void *p, size_t len)
{
	for (volatile uint8_t *b = p; len--; b++)
		*b = 0;
}

static uint8_t *desc_at(void *table, unsigned i)
{
	return (uint8_t *)table + (size_t)i * DESC;
}

static uint8_t *avail_at(const struct vd_queue *q, size_t offset)
{
	return (uint8_t *)q->c.avail + offset;
}

static uint8_t *used_at(const struct vd_queue *q, size_t offset)
{
	return (uint8_t *)q->c.used + offset;
}

/* Both formats: addr at 0, len at 8; split: flags at 12, next at 14; packed: id at 12, flags at 14. */
static void put_desc(uint8_t *d, const struct vd_seg *s, uint16_t at12, uint16_t at14)
{
	st32(d, (uint32_t)s->addr);
	st32(d + 4, (uint32_t)(s->addr >> 32));
	st32(d + 8, s->len);
	st16(d + 12, at12);
	st16(d + 14, at14);
}

static bool has(const struct vd_queue *q, uint64_t feature)
{
	return q->c.features & feature;
}

bool vd_queue_init(struct vd_queue *q, const struct vd_config *config)
{
	bool packed = config->features & VD_F_PACKED;

	if (!config->size || config->size > VD_SIZE_MAX || (!packed && (config->size & (config->size - 1))))
		return false;
	zero(q, sizeof(*q));
	q->c = *config;
	if (!has(q, VD_F_INDIRECT))
		q->c.table_len = 0;
	zero(q->c.desc, (size_t)q->c.size * DESC);
	zero(q->c.avail, packed ? 4 : 6 + 2 * (size_t)q->c.size);
	zero(q->c.used, packed ? 4 : 6 + 8 * (size_t)q->c.size);
	q->free = q->c.size;
	q->avail_wrap = q->used_wrap = true;
	for (unsigned i = 0; i < q->c.size; i++)
		q->link[i] = (uint16_t)(i + 1);
	return true;
}

/* Packed ids and split descriptors come from a free list; with IN_ORDER from the ring's own order (§2.7.5). */
static uint16_t take_id(struct vd_queue *q)
{
	uint16_t id = q->free_head;

	q->free_head = q->link[id];
	if (has(q, VD_F_IN_ORDER))
		q->free_head = (uint16_t)((id + 1) % q->c.size);
	return id;
}

static void give_id(struct vd_queue *q, uint16_t id)
{
	if (has(q, VD_F_IN_ORDER))
		return;
	q->link[id] = q->free_head;
	q->free_head = id;
}

/* Fill the indirect table of buffer `id`; returns the segment that describes it. */
static struct vd_seg fill_table(struct vd_queue *q, uint16_t id, const struct vd_seg *segs, unsigned nin, unsigned n)
{
	size_t offset = (size_t)id * q->c.table_len * DESC;
	uint8_t *table = (uint8_t *)q->c.tables + offset;

	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = i >= nin ? F_WRITE : 0;

		if (has(q, VD_F_PACKED))
			put_desc(desc_at(table, i), &segs[i], 0, flags);
		else if (i + 1 < n)
			put_desc(desc_at(table, i), &segs[i], flags | F_NEXT, (uint16_t)(i + 1));
		else
			put_desc(desc_at(table, i), &segs[i], flags, 0);
	}
	return (struct vd_seg){ q->c.tables_addr + offset, n * DESC };
}

static uint16_t split_add(struct vd_queue *q, const struct vd_seg *segs, unsigned nin, unsigned n)
{
	uint16_t slot = (uint16_t)(q->next_avail + q->staged) % q->c.size;
	uint16_t head = q->free_head, i = head;

	for (unsigned k = 0; k < n; k++) {
		uint16_t flags = k >= nin ? F_WRITE : 0;

		i = take_id(q);
		if (k + 1 < n)
			put_desc(desc_at(q->c.desc, i), &segs[k], flags | F_NEXT, q->free_head);
		else
			put_desc(desc_at(q->c.desc, i), &segs[k], flags, 0);
	}
	st16(avail_at(q, RING + 2 * (size_t)slot), head);
	q->staged++;
	return head;
}

static uint16_t split_add_table(struct vd_queue *q, const struct vd_seg *segs, unsigned nin, unsigned n)
{
	struct vd_seg table = fill_table(q, q->free_head, segs, nin, n);
	uint16_t head = split_add(q, &table, 1, 1);

	st16(desc_at(q->c.desc, head) + 12, F_INDIRECT);
	return head;
}

static uint16_t packed_add(struct vd_queue *q, const struct vd_seg *segs, unsigned nin, unsigned n, uint16_t id,
	uint16_t extra)
{
	for (unsigned k = 0; k < n; k++) {
		uint8_t *d = desc_at(q->c.desc, q->next_avail);
		uint16_t flags = extra | (k >= nin ? F_WRITE : 0) | (k + 1 < n ? F_NEXT : 0);

		flags |= q->avail_wrap ? F_AVAIL : F_USED;
		if (q->staged) {
			put_desc(d, &segs[k], id, flags);
		} else {
			/* The flags of the very first descriptor expose all that follow (§2.8.6): written by vd_kick. */
			q->first = q->next_avail;
			q->first_flags = flags;
			put_desc(d, &segs[k], id, ld16(d + 14));
		}
		q->staged++;
		if (++q->next_avail == q->c.size) {
			q->next_avail = 0;
			q->avail_wrap = !q->avail_wrap;
		}
	}
	return id;
}

bool vd_add(struct vd_queue *q, const struct vd_seg *segs, unsigned nin, unsigned nout, void *cookie)
{
	unsigned n = nin + nout;
	bool table = n > 1 && n <= q->c.table_len;
	unsigned ndesc = table ? 1 : n;
	struct vd_buffer b = { .cookie = cookie, .ndesc = (uint16_t)ndesc };
	uint16_t id;

	if (!n || ndesc > q->free)
		return false;
	for (unsigned i = nin; i < n; i++)
		b.out += segs[i].len;
	q->free -= (uint16_t)ndesc;
	if (has(q, VD_F_PACKED)) {
		struct vd_seg one;

		id = take_id(q);
		if (table)
			one = fill_table(q, id, segs, nin, n);
		if (table)
			packed_add(q, &one, 1, 1, id, F_INDIRECT);
		else
			packed_add(q, segs, nin, n, id, 0);
	} else {
		id = table ? split_add_table(q, segs, nin, n) : split_add(q, segs, nin, n);
	}
	q->buffer[id] = b;
	if (has(q, VD_F_IN_ORDER))
		q->fifo[(q->fifo_head + q->fifo_len++) % q->c.size] = id;
	return true;
}

/* §2.7.10: was entry number `event` among those from `old` up to `new`? */
static bool passed(uint16_t event, uint16_t new, uint16_t old)
{
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static bool split_expose(struct vd_queue *q)
{
	uint16_t old = q->next_avail, new = old + q->staged;

	/* Release: descriptors and ring entries before idx; the device acquires idx. */
	__atomic_store_n((uint16_t *)avail_at(q, 2), new, __ATOMIC_RELEASE);
	q->next_avail = new;
	/* idx stored before avail_event or flags loaded; the device stores those, fences, and loads idx. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (has(q, VD_F_EVENT_IDX))
		return passed(ld16(used_at(q, RING + ELEM * (size_t)q->c.size)), new, old);
	return !(ld16(q->c.used) & 1);
}

static bool packed_expose(struct vd_queue *q)
{
	uint16_t old = q->next_avail - q->staged, event, flags;
	uint32_t word;

	/* Release: all that is staged before the first flags; the device acquires those. */
	__atomic_store_n((uint16_t *)(desc_at(q->c.desc, q->first) + 14), q->first_flags, __ATOMIC_RELEASE);
	/* Flags stored before the device's event loaded; the device stores that, fences, and loads the flags. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	word = ld32(q->c.used);
	event = word & (WRAP - 1);
	flags = word >> 16 & 3;
	if (flags != EVENT_DESC || !has(q, VD_F_EVENT_IDX))
		return flags != EVENT_DISABLE;
	if (!!(word & WRAP) != q->avail_wrap)
		event -= q->c.size;
	return passed(event, q->next_avail, old);
}

bool vd_kick(struct vd_queue *q)
{
	bool needed;

	if (!q->staged)
		return false;
	needed = has(q, VD_F_PACKED) ? packed_expose(q) : split_expose(q);
	q->staged = 0;
	if (needed && q->c.kick)
		q->c.kick(q->c.kick_ctx);
	return needed;
}

/* Is there a used entry at next_used? Acquire: its id, its length and the buffer's bytes are read after. */
static bool used_ready(const struct vd_queue *q)
{
	uint16_t v;

	if (!has(q, VD_F_PACKED)) {
		v = __atomic_load_n((uint16_t *)used_at(q, 2), __ATOMIC_ACQUIRE);
		return v != q->next_used;
	}
	v = __atomic_load_n((uint16_t *)(desc_at(q->c.desc, q->next_used) + 14), __ATOMIC_ACQUIRE);
	return !!(v & F_USED) == q->used_wrap && !!(v & F_AVAIL) == q->used_wrap;
}

/* Take the buffer back and move next_used past it. */
static int finish(struct vd_queue *q, uint16_t id, void **cookie)
{
	struct vd_buffer *b = &q->buffer[id];
	uint16_t n = b->ndesc;

	*cookie = b->cookie;
	b->ndesc = 0;
	q->free += n;
	if (has(q, VD_F_PACKED)) {
		unsigned to = (unsigned)q->next_used + n;

		q->used_wrap = to >= q->c.size ? !q->used_wrap : q->used_wrap;
		q->next_used = (uint16_t)(to % q->c.size);
		give_id(q, id);
		return 1;
	}
	q->next_used++;
	/* A run of the free list, taken as a whole: its links still stand, so free it from its last to its first. */
	if (!has(q, VD_F_IN_ORDER)) {
		uint16_t last = id;

		while (--n)
			last = q->link[last];
		q->link[last] = q->free_head;
		q->free_head = id;
	}
	return 1;
}

/* IN_ORDER: one used entry may stand for all buffers up to its own (§2.7.9, §2.8.9). */
static int poll_run(struct vd_queue *q, void **cookie, uint32_t *len)
{
	uint16_t id = q->fifo[q->fifo_head];

	q->fifo_head = (uint16_t)((q->fifo_head + 1) % q->c.size);
	q->fifo_len--;
	q->used_run--;
	/* Those before the last "are assumed to have been used completely". */
	*len = q->used_run ? q->buffer[id].out : q->run_len;
	return finish(q, id, cookie);
}

int vd_poll(struct vd_queue *q, void **cookie, uint32_t *len)
{
	const uint8_t *e;
	uint32_t id;

	if (q->used_run)
		return poll_run(q, cookie, len);
	if (!used_ready(q))
		return 0;
	if (has(q, VD_F_PACKED)) {
		e = desc_at(q->c.desc, q->next_used);
		id = ld16(e + 12);
		*len = ld16(e + 14) & F_WRITE ? ld32(e + 8) : 0;
	} else {
		e = used_at(q, RING + ELEM * (size_t)(q->next_used % q->c.size));
		id = ld32(e);
		*len = ld32(e + 4);
	}
	if (id >= q->c.size || !q->buffer[id].ndesc)
		return -1;
	if (!has(q, VD_F_IN_ORDER))
		return finish(q, (uint16_t)id, cookie);
	q->run_len = *len;
	while (q->fifo[(q->fifo_head + q->used_run++) % q->c.size] != id)
		if (q->used_run == q->fifo_len)
			return q->used_run = 0, -1;
	return poll_run(q, cookie, len);
}

bool vd_enable_call_after(struct vd_queue *q, unsigned n)
{
	bool event_idx = has(q, VD_F_EVENT_IDX);

	if (has(q, VD_F_PACKED)) {
		unsigned at = q->next_used + n;
		bool wrap = at >= q->c.size ? !q->used_wrap : q->used_wrap;
		uint32_t word = event_idx ? at % q->c.size | (wrap ? WRAP : 0) | EVENT_DESC << 16 : EVENT_ENABLE;

		st32(q->c.avail, word);
	} else if (event_idx) {
		st16(avail_at(q, RING + 2 * (size_t)q->c.size), (uint16_t)(q->next_used + n));
	} else {
		st16(q->c.avail, 0);
	}
	/* The wish stored before used entries looked at again; the device stores those, fences, and loads the wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return q->used_run || used_ready(q);
}

bool vd_enable_call(struct vd_queue *q)
{
	return vd_enable_call_after(q, 0);
}

void vd_disable_call(struct vd_queue *q)
{
	if (has(q, VD_F_PACKED))
		st32(q->c.avail, EVENT_DISABLE << 16);
	else if (has(q, VD_F_EVENT_IDX)) /* one behind: passed again after 65536 entries */
		st16(avail_at(q, RING + 2 * (size_t)q->c.size), (uint16_t)(q->next_used - 1));
	else
		st16(q->c.avail, 1);
}
