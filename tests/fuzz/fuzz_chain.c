/*
 * The cursors of a chain against a model: two flat arrays. The input cuts them into descriptors and then reads, writes,
 * hands out, counts and ends with a tail; bytes and used length must be what the model says.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/driver/harness.h"
#include "vmm/log.h"

enum { SEGS = 8, SPAN = 64, BYTES = SEGS * SPAN };

struct input {
	const uint8_t *at, *end;
};

struct model {
	uint8_t in[BYTES], out[BYTES]; /* `out`: what must stand in memory at the end */
	size_t in_len, in_at;
	size_t out_len, out_at, counted, tail;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t next(struct input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* Segments of 1 to SPAN bytes; the first writable one lies across the border of two regions. */
static unsigned cut(struct input *in, struct vd_seg *segs, unsigned base, size_t *total)
{
	unsigned n = next(in) % (SEGS + 1);

	*total = 0;
	for (unsigned i = 0; i < n; i++) {
		segs[i].len = next(in) % SPAN + 1;
		segs[i].addr = HARNESS_DATA + (base + i) * SPAN;
		if (base && i == 0)
			segs[i].addr = HARNESS_HIGH - segs[i].len / 2;
		*total += segs[i].len;
	}
	return n;
}

static void copy_flat(struct harness *h, const struct vd_seg *segs, unsigned n, uint8_t *flat)
{
	for (unsigned i = 0; i < n; i++) {
		must(mem_read(h->mem, gpa(segs[i].addr), flat, segs[i].len) == 0);
		flat += segs[i].len;
	}
}

static void read_some(struct chain *c, struct model *m, size_t n)
{
	uint8_t buf[256];
	int r = chain_read(c, buf, n);

	must(r == (n > m->in_len - m->in_at ? -ENODATA : 0));
	if (r < 0)
		return;
	must(!memcmp(buf, m->in + m->in_at, n));
	m->in_at += n;
}

static void iov_in_some(struct chain *c, struct model *m, size_t n, int max)
{
	struct iovec iov[8];
	int r = chain_iov_in(c, n, iov, max);

	if (n > m->in_len - m->in_at) {
		must(r == -ENODATA);
		return;
	}
	must(r >= 0 || r == -E2BIG);
	for (int i = 0; i < r; i++) {
		must(!memcmp(iov[i].iov_base, m->in + m->in_at, iov[i].iov_len));
		m->in_at += iov[i].iov_len;
	}
}

static void write_some(struct chain *c, struct model *m, size_t n, uint8_t fill)
{
	uint8_t buf[256];
	int r;

	memset(buf, fill, sizeof(buf));
	r = chain_write(c, buf, n);
	must(r == (n > m->out_len - m->tail - m->out_at ? -ENOSPC : 0));
	if (r < 0)
		return;
	memset(m->out + m->out_at, fill, n);
	if (m->counted == m->out_at)
		m->counted += n;
	m->out_at += n;
}

static void iov_out_some(struct chain *c, struct model *m, size_t n, int max, uint8_t fill)
{
	struct iovec iov[8];
	int r = chain_iov_out(c, n, iov, max);

	if (n > m->out_len - m->tail - m->out_at) {
		must(r == -ENOSPC);
		return;
	}
	must(r >= 0 || r == -E2BIG);
	for (int i = 0; i < r; i++) {
		memset(iov[i].iov_base, fill, iov[i].iov_len);
		memset(m->out + m->out_at, fill, iov[i].iov_len);
		m->out_at += iov[i].iov_len;
	}
}

static void step(struct chain *c, struct model *m, struct input *in)
{
	uint8_t op = next(in), n = next(in);

	switch (op % 7) {
	case 0:
		read_some(c, m, n);
		break;
	case 1:
		iov_in_some(c, m, n, op >> 5);
		break;
	case 2:
		write_some(c, m, n, op);
		break;
	case 3:
		iov_out_some(c, m, n, op >> 5, op);
		break;
	case 4:
		n = (uint8_t)MIN(n, m->out_at - m->counted);
		chain_wrote(c, n);
		m->counted += n;
		break;
	case 5:
		if (m->tail || !n)
			break;
		must(chain_reserve_tail(c, n) == (n > m->out_len - m->out_at ? -ENOSPC : 0));
		m->tail = n > m->out_len - m->out_at ? 0 : n;
		break;
	default:
		must(chain_skip(c, n) == (n > m->in_len - m->in_at ? -ENODATA : 0));
		m->in_at += n > m->in_len - m->in_at ? 0 : n;
		break;
	}
	must(chain_in_left(c) == m->in_len - m->in_at);
	must(chain_out_left(c) == m->out_len - m->tail - m->out_at);
	must(chain_written(c) == m->counted);
}

static void finish(struct chain *c, struct model *m)
{
	uint8_t tail[256];

	if (!m->tail)
		return;
	memset(tail, 0x77, sizeof(tail));
	chain_write_tail(c, tail, m->tail);
	memset(m->out + m->counted, 0, m->out_len - m->tail - m->counted);
	memset(m->out + m->out_len - m->tail, 0x77, m->tail);
	m->counted = m->out_len;
	must(chain_written(c) == m->counted);
}

static void run(struct harness *h, struct input *in)
{
	struct vd_seg segs[2 * SEGS];
	struct model m = { 0 };
	unsigned nin = cut(in, segs, 0, &m.in_len);
	unsigned nout = cut(in, segs + nin, SEGS, &m.out_len);
	uint8_t flat[BYTES];
	struct chain *c;
	uint32_t len;
	void *cookie;

	if (!vd_add(&h->vd, segs, nin, nout, h))
		return;
	vd_kick(&h->vd);
	copy_flat(h, segs, nin, m.in);
	copy_flat(h, segs + nin, nout, m.out);
	must(queue_pop(h->q, &c) == 1);
	for (unsigned i = 0; in->at < in->end && i < 500; i++)
		step(c, &m, in);
	finish(c, &m);
	queue_push(h->q, c);
	queue_flush(h->q);
	must(vd_poll(&h->vd, &cookie, &len) == 1 && len == m.counted);
	copy_flat(h, segs + nin, nout, flat);
	must(!memcmp(flat, m.out, m.out_len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct harness *h[2]; /* split, packed: honest drivers, so they serve any number of inputs */
	struct input in = { data, data + size };

	if (!h[0]) {
		log_level = LOG_ERROR;
		h[0] = harness_new(16, VD_F_INDIRECT);
		h[1] = harness_new(16, VD_F_PACKED);
		for (unsigned i = 0; i < 2; i++)
			for (size_t k = 0; k < HARNESS_REGION / 2; k++)
				h[i]->host[0][HARNESS_REGION / 2 + k] = (uint8_t)(k * 7 + 1);
	}
	run(h[next(&in) & 1], &in);
	return 0;
}
