/*
 * Cursors over a descriptor chain (virtio 1.2 §2.6): device code reads and writes bytes in order
 * and never sees how the driver cut them into descriptors (§2.7.4.1 forbids to assume anything
 * about that).
 *
 * The used length is computed: two places of the writable side move on. `out` is where the next
 * byte goes; the first byte that is not known to be written lies `unwritten` bytes before the end.
 * They move together except between chain_iov_out(), which only moves `out`, and chain_wrote().
 * Whatever the second one passes is marked dirty here, and nowhere else.
 *
 * Owner: the worker that popped the chain.
 */
#include "devices/virtio/chain.h"

#include <assert.h>
#include <errno.h>

#include "devices/virtio/queue_private.h"

/* A failed request this large keeps its bytes, and its used length ends before them. */
enum { ZERO_MAX = MIB };

/*
 * The next contiguous piece of at most `max` bytes (not 0, nor more than is left); the cursor moves
 * past it.
 */
static size_t take(struct cursor *k, size_t max, void **ret)
{
	size_t n;

	if (k->off == k->iov->iov_len) {
		k->iov++;
		k->off = 0;
	}
	n = MIN(max, k->iov->iov_len - k->off);
	*ret = (uint8_t *)k->iov->iov_base + k->off;
	k->off += (uint32_t)n;
	k->left -= (uint32_t)n;
	return n;
}

/* Copy `len` bytes (zeroes when `from` is NULL) to where the cursor stands. */
static void fill(struct chain *c, struct cursor *k, const void *from, size_t len)
{
	const uint8_t *next = from;
	void *to;

	while (len) {
		size_t n = take(k, len, &to);

		if (next) {
			memcpy(to, next, n);
			next += n;
		} else {
			memset(to, 0, n);
		}
		mem_dirty_host(c->mem, to, n);
		len -= n;
	}
}

int chain_iov_pieces(struct cursor *k, size_t len, struct iovec *iov, int max)
{
	struct cursor ahead = *k;
	int n = 0;

	for (; len; n++) {
		if (n == max)
			return -E2BIG;
		iov[n].iov_len = take(&ahead, len, &iov[n].iov_base);
		len -= iov[n].iov_len;
	}
	*k = ahead;
	return n;
}

void chain_read_pieces(struct chain *c, void *buf, size_t len)
{
	uint8_t *to = buf;
	void *from;

	while (len) {
		size_t n = take(&c->in, len, &from);

		memcpy(to, from, n);
		to += n;
		len -= n;
	}
}

int chain_skip(struct chain *c, size_t len)
{
	void *unused;

	if (len > c->in.left)
		return -ENODATA;
	while (len)
		len -= take(&c->in, len, &unused);
	return 0;
}

int chain_write(struct chain *c, const void *buf, size_t len)
{
	bool in_step = c->unwritten == c->out.left + c->tail;

	if (len > c->out.left)
		return -ENOSPC;
	fill(c, &c->out, buf, len);
	/*
	 * Behind bytes handed out by chain_iov_out(), these count when chain_wrote() has come this
	 * far.
	 */
	if (in_step)
		c->unwritten = c->out.left + c->tail;
	return 0;
}

/* At the first byte that is not known to be written; of `left` bytes that the caller goes on. */
static struct cursor first_unwritten(const struct chain *c, size_t left)
{
	struct cursor k = { .iov = c->first_out, .left = (uint32_t)left };
	size_t before = c->out_total - c->unwritten;

	for (; before > k.iov->iov_len; k.iov++)
		before -= k.iov->iov_len;
	k.off = (uint32_t)before;
	return k;
}

void chain_wrote_pieces(struct chain *c, size_t len)
{
	struct cursor k;
	void *at;

	assert(len <= c->unwritten - c->out.left - c->tail);
	if (!len)
		return;
	k = first_unwritten(c, len);
	c->unwritten -= (uint32_t)len;
	while (len) {
		size_t n = take(&k, len, &at);

		mem_dirty_host(c->mem, at, n);
		len -= n;
	}
}

void chain_write_tail(struct chain *c, const void *buf, size_t len)
{
	struct iovec *v = c->last;
	size_t back = len, gap = c->unwritten - c->tail;
	struct cursor k;

	assert(len && len == c->tail);
	/* §2.7.8.2: what the used length covers was written; of a failed request that is zeroes. */
	if (gap && gap <= ZERO_MAX) {
		k = first_unwritten(c, gap);
		fill(c, &k, NULL, gap);
		gap = 0;
	}
	for (; back > v->iov_len; v--)
		back -= v->iov_len;
	k = (struct cursor){ .iov = v, .off = (uint32_t)(v->iov_len - back), .left = (uint32_t)len };
	fill(c, &k, buf, len);
	if (!gap)
		c->unwritten = 0;
}

void chain_finish(struct chain *c, size_t len, uint8_t status)
{
	chain_wrote_pieces(c, len);
	chain_write_tail(c, &status, 1);
}

void chain_set_user(struct chain *c, void *user)
{
	c->user = user;
}

void *chain_user(const struct chain *c)
{
	return c->user;
}

void chain_rewind(struct chain *c)
{
	uint32_t in = 0;

	assert(c->unwritten == c->out_total);
	for (const struct iovec *v = c->iov; v < c->first_out; v++)
		in += (uint32_t)v->iov_len;
	c->in = (struct cursor){ .iov = c->iov, .left = in };
	c->out = (struct cursor){ .iov = c->first_out, .left = c->out_total - c->tail };
}
