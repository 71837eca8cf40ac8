/*
 * The half of chain.h that is compiled into its callers, and the struct that it needs for that.
 * Nobody but chain.c and the queue touches a field; chain.c has what is not on everyone's way.
 *
 * Almost every cursor stands where the next bytes lie in one piece: then a step is a compare and
 * two additions, and with a constant length a copy is two moves. The other case is a loop, never
 * inlined.
 */
#ifndef DEVICES_VIRTIO_CHAIN_INLINE_H
#define DEVICES_VIRTIO_CHAIN_INLINE_H

#include <errno.h>

#include "devices/virtio/chain.h"
#include "vmm/mem.h"

#define seldom(x) __builtin_expect(!!(x), 0)

/*
 * A place in one side of a chain. `off` may stand at the end of *iov when nothing is left or not
 * yet moved on.
 */
struct cursor {
	struct iovec *iov;
	union {
		struct {
			uint32_t left; /* bytes ahead of it, over all iovecs of the side */
			uint32_t off;  /* bytes of *iov that are behind the cursor */
		};
		uint64_t at_start;     /* both: so many left, nothing behind; one store (util.h: little-endian) */
	};
};

/*
 * The writable side counts as written from its start on: `unwritten` bytes are left of it, its
 * trailer among them, so the used length needs no more than that. Where the first of them lies is
 * found from `first_out` by those few who must know.
 */
struct chain {
	struct cursor in, out;
	struct iovec *last;      /* where a trailer ends */
	union {
		struct {
			uint32_t unwritten;
			uint32_t tail;   /* cut off the end of `out` */
		};
		uint64_t none_written;   /* both */
	};
	uint32_t out_total;      /* bytes of the writable side */
	uint16_t head;           /* split: first descriptor; packed: buffer id */
	uint16_t ndesc;          /* ring descriptors it occupies (packed) */
	struct chain *next_free;
	struct guest_mem *mem;
	struct iovec *first_out; /* where the writable side begins */
	void *user;
	bool done;               /* pushed, waits for earlier ones (IN_ORDER) */
	struct iovec iov[];
};

/* chain.c: the same in several pieces. */
void chain_read_pieces(struct chain *c, void *buf, size_t len);
int chain_iov_pieces(struct cursor *k, size_t len, struct iovec *iov, int max);
void chain_wrote_pieces(struct chain *c, size_t len);

/*
 * Do the next `len` bytes lie in one place? If so, cursor_here() is it. Moves on from the end of an
 * iovec, so `len` is not 0 and not more than is left.
 */
static inline bool cursor_at_once(struct cursor *k, size_t len)
{
	if (len > k->iov->iov_len - k->off) {
		if (k->off != k->iov->iov_len || len > k->iov[1].iov_len)
			return false;
		k->iov++;
		k->off = 0;
	}
	return true;
}

static inline void *cursor_here(const struct cursor *k)
{
	return (uint8_t *)k->iov->iov_base + k->off;
}

static inline void cursor_move(struct cursor *k, size_t len)
{
	k->off += (uint32_t)len;
	k->left -= (uint32_t)len;
}

static inline size_t chain_in_left(const struct chain *c)
{
	return c->in.left;
}

static inline size_t chain_out_left(const struct chain *c)
{
	return c->out.left;
}

static inline int chain_read(struct chain *c, void *buf, size_t len)
{
	if (seldom(len > c->in.left))
		return -ENODATA;
	if (seldom(!len || !cursor_at_once(&c->in, len))) {
		chain_read_pieces(c, buf, len);
		return 0;
	}
	memcpy(buf, cursor_here(&c->in), len);
	cursor_move(&c->in, len);
	return 0;
}

/*
 * The next `len` bytes, not 0, when they are one whole buffer of the driver's, as they are nearly
 * always; the cursor moves past it. False: they are not, or there are not as many; nothing moved.
 */
static inline bool cursor_whole(struct cursor *k, size_t len, void **ret)
{
	struct iovec *v = k->iov;

	if (seldom(len > k->left || k->off || v->iov_len != len))
		return false;
	*ret = v->iov_base;
	k->left -= (uint32_t)len;
	k->iov = v + 1;
	return true;
}

static inline bool chain_read_whole(struct chain *c, size_t len, void **ret)
{
	return cursor_whole(&c->in, len, ret);
}

static inline int cursor_iov(struct cursor *k, size_t len, struct iovec *iov, int max)
{
	if (seldom(!len || max < 1 || !cursor_at_once(k, len)))
		return chain_iov_pieces(k, len, iov, max);
	*iov = (struct iovec){ cursor_here(k), len };
	cursor_move(k, len);
	return 1;
}

static inline int chain_iov_in(struct chain *c, size_t len, struct iovec *iov, int max)
{
	return seldom(len > c->in.left) ? -ENODATA : cursor_iov(&c->in, len, iov, max);
}

static inline int chain_iov_out(struct chain *c, size_t len, struct iovec *iov, int max)
{
	return seldom(len > c->out.left) ? -ENOSPC : cursor_iov(&c->out, len, iov, max);
}

static inline bool chain_in_whole(struct chain *c, void **ret)
{
	return cursor_whole(&c->in, c->in.left, ret);
}

static inline bool chain_out_whole(struct chain *c, void **ret)
{
	return cursor_whole(&c->out, c->out.left, ret);
}

static inline void chain_wrote(struct chain *c, size_t len)
{
	uint32_t left = c->out.left + c->tail;

	if (seldom(c->unwritten - len != left || mem_dirty_on(c->mem)))
		chain_wrote_pieces(c, len);
	else /* all that was handed out, and nobody asks which pages */
		c->unwritten = left;
}

static inline int chain_reserve_tail(struct chain *c, size_t len)
{
	if (seldom(len > c->out.left))
		return -ENOSPC;
	c->tail = (uint32_t)len;
	c->out.left -= (uint32_t)len;
	return 0;
}

static inline bool chain_finish_quick(struct chain *c, size_t len, uint8_t status)
{
	if (seldom(c->unwritten - 1 != len || mem_dirty_on(c->mem)))
		return false;
	c->unwritten = 0;
	((uint8_t *)c->last->iov_base)[c->last->iov_len - 1] = status;
	return true;
}

static inline uint32_t chain_written(const struct chain *c)
{
	return c->out_total - c->unwritten;
}

#endif
