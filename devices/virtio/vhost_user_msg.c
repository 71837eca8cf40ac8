/*
 * Messages of vhost-user, built and judged (vhost_user_msg.h). Pure: no descriptor, no socket, no
 * guest memory is touched here.
 */
#include "devices/virtio/vhost_user_msg.h"

#include <errno.h>

/*
 * Above what any guest address is, so that no ring has the user address 0, which some back ends
 * take for none.
 */
#define USER_BASE (UINT64_C(1) << 46)

enum { PACKED_WRAP = 0x8000, PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15, ONE_FD = 1 };

void vhost_user_begin(struct vhost_user_msg *m, enum vhost_user_request request, uint32_t size)
{
	memset(m, 0, sizeof(*m));
	m->head = (struct vhost_user_header){ .request = request, .flags = VHOST_USER_VERSION, .size = size };
}

size_t vhost_user_length(const struct vhost_user_msg *m)
{
	return sizeof(m->head) + m->head.size;
}

uint64_t vhost_user_address(uint64_t gpa)
{
	return USER_BASE + gpa;
}

struct vhost_user_region vhost_user_region_of(const struct mem_region *r)
{
	return (struct vhost_user_region){
		.guest = r->gpa,
		.size = r->size,
		.user = vhost_user_address(r->gpa),
		.offset = r->fd_offset,
	};
}

/* What replies look like. Those that are not here are acknowledgements (section "REPLY_ACK"). */
static const struct {
	enum vhost_user_request request;
	uint32_t min, max;
	unsigned fds;
} replies[] = {
	{ VHOST_USER_GET_VRING_BASE, sizeof(struct vhost_user_state), sizeof(struct vhost_user_state), 0 },
	{ VHOST_USER_GET_CONFIG, 0, sizeof(struct vhost_user_config), 0 },
	{ VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_INFLIGHT_MIN, sizeof(struct vhost_user_inflight), ONE_FD },
};

static unsigned reply_row(enum vhost_user_request request)
{
	unsigned i = 0;

	while (i < ARRAY_SIZE(replies) && replies[i].request != request)
		i++;
	return i;
}

int vhost_user_reply_header(const struct vhost_user_header *h, enum vhost_user_request request)
{
	unsigned row = reply_row(request);
	uint32_t min = sizeof(uint64_t), max = sizeof(uint64_t);

	if (row < ARRAY_SIZE(replies)) {
		min = replies[row].min;
		max = replies[row].max;
	}
	if (request == VHOST_USER_NONE || h->request != request || h->size < min || h->size > max ||
		(h->flags & (VHOST_USER_VERSION_MASK | VHOST_USER_REPLY)) != (VHOST_USER_VERSION | VHOST_USER_REPLY))
		return -EPROTO;
	return 0;
}

/* Section "GET_CONFIG": as much as was asked for; nothing means no. */
static bool is_config(const struct vhost_user_msg *m, const struct vhost_user_msg *asked)
{
	const struct vhost_user_config *c = &m->body.config;

	return m->head.size == asked->head.size && c->offset == asked->body.config.offset &&
		c->size == asked->body.config.size;
}

static bool is_inflight(const struct vhost_user_msg *m, const struct vhost_user_msg *asked)
{
	const struct vhost_user_inflight *i = &m->body.inflight, *want = &asked->body.inflight;
	uint64_t end;

	/* The smaller of the two layouts: the ring's kind is the caller's to know. */
	return i->num_queues == want->num_queues && i->queue_size == want->queue_size && i->num_queues &&
		!add_overflows(i->offset, i->size, &end) && end <= INT64_MAX &&
		i->size / i->num_queues >= vhost_user_inflight_bytes(i->queue_size, false);
}

int vhost_user_reply(const struct vhost_user_msg *m, const struct vhost_user_msg *asked, unsigned nfds)
{
	enum vhost_user_request request = asked->head.request;
	unsigned row = reply_row(request);
	bool good = nfds == (row < ARRAY_SIZE(replies) ? replies[row].fds : 0);

	if (vhost_user_reply_header(&m->head, request) < 0)
		return -EPROTO;
	if (request == VHOST_USER_GET_VRING_BASE)
		good &= m->body.state.index == asked->body.state.index;
	else if (request == VHOST_USER_GET_CONFIG)
		good &= is_config(m, asked);
	else if (request == VHOST_USER_GET_INFLIGHT_FD)
		good &= is_inflight(m, asked);
	return good ? 0 : -EPROTO;
}

int vhost_user_backend_header(const struct vhost_user_header *h)
{
	bool good = (h->flags & (VHOST_USER_VERSION_MASK | VHOST_USER_REPLY)) == VHOST_USER_VERSION;

	return good && h->request && h->size <= sizeof(((struct vhost_user_msg *)0)->body) ? 0 : -EPROTO;
}

static bool is_packed(const struct queue_setup *q)
{
	return q->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
}

uint32_t vhost_user_base(const struct queue_setup *q)
{
	return is_packed(q) ? (uint32_t)q->next_used << 16 | q->next_avail : q->next_avail;
}

void vhost_user_set_base(struct queue_setup *q, uint32_t num)
{
	q->next_avail = (uint16_t)num;
	q->next_used = is_packed(q) ? (uint16_t)(num >> 16) : (uint16_t)num;
}

size_t vhost_user_inflight_bytes(unsigned queue_size, bool packed)
{
	return packed ? sizeof(struct vhost_user_packed_region) + queue_size * sizeof(struct vhost_user_packed_desc) :
		sizeof(struct vhost_user_split_region) + queue_size * sizeof(struct vhost_user_split_desc);
}

int vhost_user_look_split(struct queue_setup *q, const void *bytes, size_t len, uint16_t used_idx)
{
	const struct vhost_user_split_region *r = bytes;
	unsigned left = 0, batch, at;

	if (len < vhost_user_inflight_bytes(q->size, false))
		return -EPROTO;
	if (!r->version) { /* nobody has used it yet */
		q->next_avail = q->next_used = used_idx;
		return 0;
	}
	for (unsigned i = 0; i < q->size; i++)
		left += r->desc[i].inflight == 1;
	/* The last batch is used already, and was not taken note of. */
	batch = (uint16_t)(used_idx - r->used_idx);
	at = r->last_batch_head;
	if (batch > q->size)
		return -EPROTO;
	for (; batch; batch--) {
		if (at >= q->size)
			return -EPROTO;
		left -= left && r->desc[at].inflight == 1;
		at = r->desc[at].next;
	}
	/* What is in flight the next one finds in the region, and adds by itself. */
	q->next_avail = q->next_used = used_idx;
	return (int)left;
}

/* Position `at` of a packed ring, `by` descriptors further (virtio 1.2 §2.8.1). */
static uint16_t packed_forward(const struct queue_setup *q, uint16_t at, unsigned by)
{
	unsigned offset = (at & ~(unsigned)PACKED_WRAP) + by;
	bool wrap = at & PACKED_WRAP;

	if (offset >= q->size) {
		offset -= q->size;
		wrap = !wrap;
	}
	return (uint16_t)(offset | (wrap ? PACKED_WRAP : 0));
}

/*
 * What is in flight: how many heads, and how many slots of the ring they and the rest of their
 * chains take.
 */
struct packed_left {
	unsigned heads, slots;
};

/*
 * Entries of the free list are not in flight, whatever they say: the last batch was not finished.
 */
static struct packed_left packed_left(const struct vhost_user_packed_region *r, unsigned size, unsigned free_head)
{
	struct packed_left left = { 0 };
	unsigned at = free_head;

	for (unsigned i = 0; i < size; i++)
		if (r->desc[i].inflight == 1) {
			left.heads++;
			left.slots += r->desc[i].num;
		}
	for (unsigned i = 0; i < size && at < size; i++, at = r->desc[at].next)
		if (r->desc[at].inflight == 1 && left.heads && left.slots >= r->desc[at].num) {
			left.heads--;
			left.slots -= r->desc[at].num;
		}
	return left;
}

int vhost_user_look_packed(struct queue_setup *q, const void *bytes, size_t len,
	uint16_t (*flags_at)(void *ctx, unsigned offset), void *ctx)
{
	const struct vhost_user_packed_region *r = bytes;
	struct packed_left left;
	unsigned offset, free_head;
	bool wrap;

	if (len < vhost_user_inflight_bytes(q->size, true))
		return -EPROTO;
	if (!r->version)
		return 0;
	offset = r->old_used_idx;
	wrap = r->old_used_wrap;
	free_head = r->old_free_head;
	if (offset >= q->size || r->used_idx >= q->size)
		return -EPROTO;
	if (r->used_idx != offset) {
		/* Has the driver been given the last batch? Then it is used, else it never was. */
		unsigned flags = flags_at(ctx, offset) & (PACKED_AVAIL | PACKED_USED);

		if (flags != (unsigned)(wrap ? PACKED_AVAIL : PACKED_USED)) {
			offset = r->used_idx;
			wrap = r->used_wrap;
			free_head = r->free_head;
		}
	}
	left = packed_left(r, q->size, free_head);
	if (left.slots > q->size)
		return -EPROTO;
	q->next_used = (uint16_t)(offset | (wrap ? PACKED_WRAP : 0u));
	q->next_avail = packed_forward(q, q->next_used, left.slots);
	return (int)left.heads;
}
