#include "tests/driver/queue_fuzz.h"

#include <errno.h>
#include <stdlib.h>

#include "tests/driver/harness.h"
#include "vmm/log.h"

enum { SIZE_MAX_LOG2 = 4, FLIGHT = 1 << SIZE_MAX_LOG2, TABLES_SIZE = 2048, BATCH_MAX = 4 };

struct input {
	const uint8_t *at, *end;
};

struct run {
	struct harness *h;
	struct chain *flight[FLIGHT];
	unsigned n;
	bool last_popped; /* the last one in `flight` may be unpopped */
};

static uint32_t next(struct input *in, unsigned bytes)
{
	uint32_t v = 0;

	while (bytes--)
		v = v << 8 | (in->at < in->end ? *in->at++ : 0);
	return v;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* Most addresses are somewhere in RAM, some at its edges, some anything. */
static uint64_t address(struct input *in)
{
	static const uint64_t base[] = {
		HARNESS_DATA, HARNESS_DATA, HARNESS_TABLES, HARNESS_HIGH, HARNESS_HOLE, HARNESS_FAR,
		HARNESS_FAR + HARNESS_REGION, HARNESS_DESC, HARNESS_AVAIL, HARNESS_USED, 0,
	};
	uint32_t v = next(in, 2);

	return base[(v & 0xff) % ARRAY_SIZE(base)] + (uint64_t)(int64_t)(int8_t)(v >> 8);
}

static void write_desc(struct harness *h, struct input *in, uint64_t table)
{
	uint32_t where = next(in, 1);
	uint8_t *d = harness_at(h, table + (where % FLIGHT) * 16);
	uint32_t len = where & 0x80 ? next(in, 4) : next(in, 1);

	put_le64(d, address(in));
	put_le32(d + 8, len);
	put_le16(d + 12, (uint16_t)next(in, where & 0x40 ? 2 : 1));
	put_le16(d + 14, (uint16_t)next(in, where & 0x20 ? 2 : 1));
	/* Packed: the ring's two flags from one bit, so that descriptors are available more often than never. */
	if (where & 0x10)
		put_le16(d + 14, (get_le16(d + 14) & 7) | (get_le16(d + 14) & 8 ? 1 << 7 : 1 << 15));
}

static void offer(struct harness *h, struct input *in)
{
	uint8_t *avail = harness_at(h, HARNESS_AVAIL);
	uint16_t idx = get_le16(avail + 2);

	put_le16(avail + 4 + 2 * (idx % h->setup.size), (uint16_t)next(in, 1));
	put_le16(avail + 2, idx + 1);
}

static void poke(struct harness *h, struct input *in, uint64_t area)
{
	put_le16(harness_at(h, area + 2 * (next(in, 1) % 80)), (uint16_t)next(in, 2));
}

static void use(struct chain *c, struct input *in)
{
	uint8_t buf[300];
	struct iovec iov[8];
	uint32_t v = next(in, 2), n = v & 0xff;
	int r;

	memset(buf, (int)n, sizeof(buf));
	switch (v >> 8 & 7) {
	case 0:
		r = chain_read(c, buf, n);
		break;
	case 1:
		r = chain_write(c, buf, n);
		break;
	case 2:
		r = chain_skip(c, n);
		break;
	case 3:
		r = chain_iov_in(c, n, iov, (int)(v >> 11 & 7));
		for (int i = 0; i < r; i++)
			for (size_t k = 0; k < iov[i].iov_len; k++)
				buf[0] ^= ((volatile uint8_t *)iov[i].iov_base)[k];
		break;
	default:
		r = chain_iov_out(c, n, iov, (int)(v >> 11 & 7));
		for (int i = 0; i < r; i++)
			memset(iov[i].iov_base, 0x5a, iov[i].iov_len);
		if (r >= 0)
			chain_wrote(c, n);
		break;
	}
	must(chain_written(c) >= (r >= 0 && (v >> 8 & 7) == 1 ? n : 0));
}

/* One, or as many as `max`. */
static void pop(struct run *r, unsigned max)
{
	bool was_broken = queue_broken(r->h->q);
	struct chain *c[BATCH_MAX] = { NULL };
	int got = max > 1 ? queue_pop_batch(r->h->q, c, max) : queue_pop(r->h->q, c);

	must(got == -EPROTO || (got >= 0 && got <= (int)max));
	must(got != -EPROTO || queue_broken(r->h->q));
	must(!was_broken || got == -EPROTO);
	/* Those before a bad one were handed out. */
	must(got > 0 || (got == -EPROTO) == queue_broken(r->h->q));
	for (int i = 0; i < (int)BATCH_MAX; i++)
		must((i < got) == (c[i] != NULL));
	for (int i = 0; i < got; i++) {
		must(r->n < queue_size(r->h->q));
		must(chain_in_left(c[i]) + chain_out_left(c[i]) > 0 && !chain_user(c[i]) && !chain_written(c[i]));
		chain_set_user(c[i], r);
		r->flight[r->n++] = c[i];
		r->last_popped = true;
	}
}

static void push_some(struct run *r, unsigned n)
{
	n = MIN(n, r->n);
	for (unsigned i = 0; i < n; i++)
		must(chain_user(r->flight[i]) == r);
	if (!n)
		return;
	queue_push_batch(r->h->q, r->flight, n);
	memmove(r->flight, r->flight + n, (r->n - n) * sizeof(r->flight[0]));
	r->n -= n;
	r->last_popped = false;
}

static void push(struct run *r, unsigned which)
{
	struct chain *c;

	if (!r->n)
		return;
	which %= r->n;
	c = r->flight[which];
	must(chain_user(c) == r);
	memmove(&r->flight[which], &r->flight[which + 1], (r->n - which - 1) * sizeof(c));
	r->n--;
	r->last_popped = false;
	queue_push(r->h->q, c);
}

static void reopen(struct run *r)
{
	while (r->n)
		push(r, 0);
	must(queue_in_flight(r->h->q) == 0);
	must(queue_stats(r->h->q)->popped == queue_stats(r->h->q)->returned);
	harness_reopen(r->h);
}

/* An honest driver beside the dishonest one gets deep quickly. */
static void honest(struct harness *h, struct input *in)
{
	uint32_t v = next(in, 2);
	struct vd_seg segs[4];
	uint32_t len;
	void *cookie;

	for (unsigned i = 0; i < ARRAY_SIZE(segs); i++)
		segs[i] = (struct vd_seg){ HARNESS_DATA + 64 * i, (v >> 8) + 1 };
	if (vd_add(&h->vd, segs, v & 3, v >> 2 & 1, h))
		vd_kick(&h->vd);
	(void)vd_poll(&h->vd, &cookie, &len);
	if (v & 8 && vd_enable_call(&h->vd))
		(void)vd_poll(&h->vd, &cookie, &len);
}

static void step(struct run *r, struct input *in)
{
	struct queue *q = r->h->q;
	uint32_t op = next(in, 1);

	switch (op & 0xf) {
	case 0: case 1:
		write_desc(r->h, in, HARNESS_DESC);
		break;
	case 2:
		write_desc(r->h, in, HARNESS_TABLES);
		break;
	case 3:
		offer(r->h, in);
		break;
	case 4:
		poke(r->h, in, op & 0x10 ? HARNESS_AVAIL : HARNESS_USED);
		break;
	case 5:
		pop(r, 1);
		break;
	case 6:
		pop(r, 1 + (op >> 4 & 3));
		break;
	case 7:
		if (r->n)
			use(r->flight[(op >> 4) % r->n], in);
		break;
	case 8:
		push(r, op >> 4);
		break;
	case 9:
		if (op & 0x10)
			queue_publish(q);
		else
			must(queue_flush(q) >= 0);
		break;
	case 10:
		if (r->last_popped)
			queue_unpop(q, r->flight[--r->n]);
		r->last_popped = false;
		break;
	case 11:
		if (op & 0x10)
			queue_disable_kick(q);
		else if (op & 0x20)
			queue_disarm_kick(q);
		else if (queue_enable_kick(q))
			must(!queue_broken(q));
		break;
	case 12:
		if (op == 0x1c)
			reopen(r);
		else
			push_some(r, op >> 4 & 7);
		break;
	default:
		honest(r->h, in);
		break;
	}
	must(queue_stats(r->h->q)->popped == queue_stats(r->h->q)->returned + queue_in_flight(r->h->q));
	/* With IN_ORDER pushed ones may still wait. */
	must(queue_in_flight(r->h->q) >= r->n);
}

void queue_fuzz(const uint8_t *data, size_t size, uint64_t features)
{
	static struct harness *h; /* memory is made once; rings and queue are new for each input */
	struct input in = { data, data + size };
	uint32_t choice = next(&in, 1);
	struct run r = { 0 };
	struct vd_config c;

	if (!h) {
		log_level = LOG_ERROR;
		h = harness_new_closed(FLIGHT, 0);
	}
	features |= VD_F_VERSION_1 | (choice & 1 ? VD_F_INDIRECT : 0) | (choice & 2 ? VD_F_EVENT_IDX : 0) |
		    (choice & 4 ? VD_F_IN_ORDER : 0);
	c = h->vd.c;
	c.size = (uint16_t)(1 << (choice >> 4) % (SIZE_MAX_LOG2 + 1));
	c.features = features;
	c.table_len = choice & 8 ? 4 : 0;
	must(vd_queue_init(&h->vd, &c));
	memset(harness_at(h, HARNESS_TABLES), 0, TABLES_SIZE);
	h->setup.size = c.size;
	h->setup.features = features;
	h->setup.next_avail = h->setup.next_used = features & VD_F_PACKED ? 0x8000 : 0;
	must(queue_open(&h->q, h->mem, &h->setup, 8) == 0);
	r.h = h;
	for (unsigned steps = 0; in.at < in.end && steps < 2000; steps++)
		step(&r, &in);
	while (r.n)
		push(&r, 0);
	queue_flush(h->q);
	must(queue_in_flight(h->q) == 0);
	queue_close(h->q, NULL);
	h->q = NULL;
	(void)harness_calls(h);
}
