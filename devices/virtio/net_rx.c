/*
 * Frames that a virtio-net driver receives (virtio 1.2 §5.1.6.3 and §5.1.6.4). Runs on the worker
 * of the queue pair.
 *
 * The link fills the driver's buffers in place, a batch of frames by one call. How large a frame
 * will be is not known before. With MRG_RXBUF each is given as many chains as one of the usual size
 * needs, and behind them a piece of private memory for what is larger; when large ones were seen of
 * late, one frame at a time gets what the largest needs, or, when all were alike, several get what
 * the last one took. It takes as many of them as it fills. Without MRG_RXBUF each is given one
 * chain.
 *
 * Frames take the first buffers, in order and without a gap, so that what is left can go back to
 * the ring at any time. Mostly they lie there already. When a frame of a batch spilled over, is not
 * for this guest or did not fit, those behind it are moved.
 *
 * A frame too large for what the driver gave is dropped; while the driver has some of its buffers
 * back, the last frame that came waits for them. With no buffer the link is muted until a kick, so
 * a full backlog costs nothing.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/virtio/chain.h"
#include "devices/virtio/net.h"

enum {
	LARGE_FRAMES = 64,       /* a large one makes so many be expected */
	ALIKE_FRAMES = 8,        /* of one size, and the next will be */
	BATCH_FIRST = 4,
	BOUNCE = NET_RX_BATCH,   /* the last pieces of rx_spill: for moving, for a frame that waits */
	WAITER,
	PIECES,
};

/* A frame that came: in which room, how long, and where it shall lie. */
struct arrived {
	unsigned room;
	size_t len;
	struct net_room to;
};

static bool merges(const struct net_pair *p)
{
	return virtio_has(&p->net->dev, NET_F_MRG_RXBUF);
}

/* --- laying out --- */

/* The iovecs of the next chain. False: there is none, or no room for them. */
static bool lay_out(struct net_pair *p)
{
	while (p->posted < p->rx.fifo.count) {
		struct net_slot *s = net_fifo_at(&p->rx.fifo, p->posted);
		unsigned room = MIN(NET_RX_IOVS - p->rx_iovs, (unsigned)LINK_IOV_MAX);
		size_t len = chain_out_left(s->chain);
		int n = chain_iov_out(s->chain, len, p->rx_iov + p->rx_iovs, (int)room);

		if (n >= 0 && len) {
			s->iovs = (uint16_t)n;
			s->bytes = (uint32_t)len;
			p->rx_iovs += (unsigned)n;
			p->posted++;
			return true;
		}
		if (p->posted)
			return false;
		/* Nothing can ever be received into this one. */
		queue_push(p->rx.queue, s->chain);
		net_fifo_drop_head(&p->rx.fifo);
		net_count(p->rx.stats.dropped[NET_DROP_MALFORMED], 1);
	}
	return false;
}

/* Let `r` grow by the next chain behind it. */
static bool grow(struct net_pair *p, struct net_room *r)
{
	const struct net_slot *s;

	if ((unsigned)r->slot + r->slots == p->posted && !lay_out(p))
		return false;
	s = net_fifo_at(&p->rx.fifo, (unsigned)r->slot + r->slots);
	if (r->iovs + s->iovs > LINK_IOV_MAX)
		return false;
	r->slots++;
	r->iovs = (uint16_t)(r->iovs + s->iovs);
	r->bytes += s->bytes;
	return true;
}

/* Buffers for `bytes`, or as near as it gets: one chain unless a frame may take several. */
static struct net_room room_behind(struct net_pair *p, const struct net_room *before, size_t bytes)
{
	struct net_room r = { 0 };

	if (before) {
		r.slot = (uint16_t)(before->slot + before->slots);
		r.iov = (uint16_t)(before->iov + before->iovs);
	}
	while (r.bytes < bytes && (!r.slots || merges(p)) && grow(p, &r))
		;
	return r;
}

/* What the link gets to fill: room i, and the piece that takes the rest of a larger frame. */
static void offer(struct net_pair *p, unsigned i, bool spills)
{
	const struct net_room *r = &p->rx_room[i];
	/* Each has its iovecs and two more; the link's own is written by the link. */
	struct iovec *iov = p->rx_frame_iov + r->iov + 2 * i;

	memcpy(iov, p->rx_iov + r->iov, r->iovs * sizeof(*iov));
	p->rx_frame[i].iov = iov;
	p->rx_frame[i].n = r->iovs;
	if (spills)
		iov[p->rx_frame[i].n++] = (struct iovec){ p->rx_spill[i], p->rx_want - r->bytes };
}

/*
 * There are too few buffers for a frame. Is the driver about to give more? Of what it had given at
 * one time it has more than half: that much no driver keeps without being rung for frames.
 */
static bool may_wait(const struct net_pair *p, const struct net_room *room)
{
	return merges(p) && p->rx.fifo.count - room->slot < p->rx_most / 2;
}

/*
 * The next frame will not fit, and the driver is about to give more: to read it now would be to
 * keep it and copy it twice. Only until the driver gives something, however little, since the next
 * frame may be a small one.
 */
static bool holds_off(struct net_pair *p, const struct net_room *r, size_t bytes)
{
	bool again = p->rx_held;

	p->rx_held = !again && r->bytes < bytes && p->rx_large && p->rx_alike >= ALIKE_FRAMES && may_wait(p, r);
	return p->rx_held;
}

/* Rooms for the frames that come next; how many. */
static unsigned prepare(struct net_pair *p)
{
	bool large = p->rx_large && merges(p), alike = p->rx_alike >= ALIKE_FRAMES;
	size_t bytes = MIN(p->rx_want, !large ? p->rx_usual : alike ? p->rx_last : p->rx_want);
	/* Limits hold a frame up, not a batch. */
	unsigned want = (large && !alike) || rate_active(p->rx.rate) ? 1 : p->rx_batch, n = 0;

	for (; n < want; n++) {
		struct net_room r = room_behind(p, n ? &p->rx_room[n - 1] : NULL, bytes);

		if (!r.slots || (n && merges(p) && r.bytes < bytes) || (!n && holds_off(p, &r, bytes)))
			break;
		p->rx_room[n] = r;
		offer(p, n, merges(p) && r.bytes < p->rx_want && r.iovs < LINK_IOV_MAX);
	}
	return n;
}

/* --- what came --- */

/* Is the frame of `len` bytes that lies in these for this guest? */
static bool wanted(const struct net_pair *p, const struct link_frame *f, size_t len)
{
	size_t skip = LINK_HEADER_LEN, n = 0, want = MIN(len - LINK_HEADER_LEN, (size_t)NET_PEEK);
	uint8_t head[NET_PEEK];

	if (p->filter.mode[NET_RX_PROMISC])
		return true;
	for (int i = 0; i < f->n && n < want; i++) {
		const struct iovec *iov = &f->iov[i];
		size_t at = MIN(skip, iov->iov_len), k = MIN(want - n, iov->iov_len - at);

		memcpy(head + n, (const char *)iov->iov_base + at, k);
		skip -= at;
		n += k;
	}
	return net_filter_passes(&p->filter, head, n);
}

/* What to expect of the next frames. `slots` 0: this one found too few, which tells nothing. */
static void learn(struct net_pair *p, ssize_t len, unsigned slots)
{
	if (len > (ssize_t)p->rx_usual || len == -EMSGSIZE)
		p->rx_large = LARGE_FRAMES;
	else if (p->rx_large)
		p->rx_large--;
	if (!slots)
		return;
	p->rx_alike = slots == p->rx_slots ? p->rx_alike + (p->rx_alike < ALIKE_FRAMES) : 0;
	p->rx_slots = slots;
	p->rx_last = (size_t)len;
}

/* `len` bytes between an array of iovecs and a piece of memory. */
static void copy(const struct iovec *iov, uint8_t *piece, size_t len, bool into_piece)
{
	for (; len; iov++) {
		size_t k = MIN(len, iov->iov_len);

		if (into_piece)
			memcpy(piece, iov->iov_base, k);
		else
			memcpy(iov->iov_base, piece, k);
		piece += k;
		len -= k;
	}
}

/* Those of the batch that stay, with the place of each. How many. */
static unsigned sift(struct net_pair *p, unsigned n, struct arrived *a)
{
	const struct net_room *last = NULL;
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		ssize_t len = p->rx_frame[i].result;

		if (len == -EMSGSIZE)
			learn(p, len, 0);
		if (len < LINK_HEADER_LEN) {
			net_count(p->rx.stats.dropped[NET_DROP_SIZE], len == -EMSGSIZE);
			continue;
		}
		net_lane_charge(&p->rx, (size_t)len - LINK_HEADER_LEN);
		if (!wanted(p, &p->rx_frame[i], (size_t)len)) {
			net_count(p->rx.stats.dropped[NET_DROP_FILTER], 1);
			continue;
		}
		a[kept] = (struct arrived){ i, (size_t)len, room_behind(p, last, (size_t)len) };
		learn(p, len, a[kept].to.bytes >= (size_t)len ? a[kept].to.slots : 0);
		if (a[kept].to.bytes >= (size_t)len) {
			last = &a[kept++].to;
		} else if (i + 1 == n && may_wait(p, &a[kept].to)) {
			/* Out of the way of those in front that move back. */
			copy(p->rx_frame[i].iov, p->rx_spill[WAITER], (size_t)len, true);
			p->rx_waiting = (size_t)len;
		} else {
			net_count(p->rx.stats.dropped[NET_DROP_SIZE], 1);
		}
	}
	return kept;
}

/* --- moving --- */

/* -1, 0, 1: it is to lie further to the front, where it is, further back. */
static int direction(const struct net_pair *p, const struct arrived *a)
{
	const struct net_room *from = &p->rx_room[a->room];

	if (a->to.slot != from->slot)
		return a->to.slot < from->slot ? -1 : 1;
	return a->len > from->bytes;
}

static void move(struct net_pair *p, const struct arrived *a)
{
	copy(p->rx_frame[a->room].iov, p->rx_spill[BOUNCE], a->len, true);
	copy(p->rx_iov + a->to.iov, p->rx_spill[BOUNCE], a->len, false);
}

/*
 * All to their places. First those that move back, the last one first: each goes where the one
 * behind it was, or where nobody was. Then those that move forward, the first one first; in front
 * of them nothing moves any more.
 */
static void settle(struct net_pair *p, const struct arrived *a, unsigned n)
{
	for (unsigned i = n; i--;)
		if (direction(p, &a[i]) > 0)
			move(p, &a[i]);
	for (unsigned i = 0; i < n; i++)
		if (direction(p, &a[i]) < 0)
			move(p, &a[i]);
}

/* --- returning --- */

/*
 * Two bytes at offset 10 of the header, wherever the driver's descriptors put them. Marked dirty
 * with the frame.
 */
static void put_num_buffers(const struct iovec *iov, uint16_t v)
{
	size_t at = offsetof(struct net_header, num_buffers);
	uint8_t bytes[2];

	put_le16(bytes, v);
	for (unsigned done = 0; done < sizeof(bytes); iov++) {
		for (; at < iov->iov_len && done < sizeof(bytes); at++)
			((uint8_t *)iov->iov_base)[at] = bytes[done++];
		at -= MIN(at, iov->iov_len);
	}
}

/* The frame in the first buffers goes to the driver. */
static void complete(struct net_pair *p, const struct arrived *a)
{
	const struct iovec *iov = p->rx_iov + a->to.iov;
	size_t len = a->len;

	capture_frame(p->net->capture, p->index, false, iov, a->to.iovs, LINK_HEADER_LEN, len - LINK_HEADER_LEN);
	net_count(p->rx.stats.frames, 1);
	net_count(p->rx.stats.bytes, len - LINK_HEADER_LEN);
	p->rx.unrung++;
	put_num_buffers(iov, a->to.slots);
	for (unsigned i = 0; i < a->to.slots; i++) {
		struct net_slot *s = net_fifo_at(&p->rx.fifo, 0);
		size_t n = MIN(len, s->bytes);

		chain_wrote(s->chain, n);
		len -= n;
		queue_push(p->rx.queue, s->chain);
		net_fifo_drop_head(&p->rx.fifo);
	}
}

/* Frames that lie in the first buffers. */
static void complete_all(struct net_pair *p, const struct arrived *a, unsigned n)
{
	const struct net_room *last = &a[n - 1].to;
	unsigned iovs = last->iov + last->iovs;

	for (unsigned i = 0; i < n; i++)
		complete(p, &a[i]);
	p->posted -= last->slot + last->slots;
	p->rx_iovs -= iovs;
	memmove(p->rx_iov, p->rx_iov + iovs, p->rx_iovs * sizeof(p->rx_iov[0]));
}

static void take(struct net_pair *p, unsigned n)
{
	struct arrived a[NET_RX_BATCH];
	unsigned kept = sift(p, n, a);

	if (!kept)
		return;
	settle(p, a, kept);
	complete_all(p, a, kept);
}

/* The frame that waits for buffers, if one does. False: it still does. */
static bool take_waiting(struct net_pair *p)
{
	struct arrived a = { .len = p->rx_waiting };

	if (!a.len)
		return true;
	a.to = room_behind(p, NULL, a.len);
	if (a.to.bytes < a.len && may_wait(p, &a.to))
		return false;
	p->rx_waiting = 0;
	if (a.to.bytes < a.len) {
		net_count(p->rx.stats.dropped[NET_DROP_SIZE], 1);
		return true;
	}
	copy(p->rx_iov + a.to.iov, p->rx_spill[WAITER], a.len, false);
	complete_all(p, &a, 1);
	return true;
}

/* --- calls from outside --- */

void net_rx_clear(struct net_pair *p)
{
	p->posted = p->rx_iovs = p->rx_most = 0;
	p->rx_waiting = 0;
	p->rx_held = false;
}

void net_rx_run(struct net_pair *p)
{
	unsigned n, got;

	p->rx_most = MAX(p->rx_most, p->rx.fifo.count);
	if (!p->enabled || p->rx.go_at || !take_waiting(p)) {
		p->link->ops->listen(p->link, false);
		return;
	}
	/*
	 * Dropped frames count too: who only sends frames that do not fit must not keep the loop.
	 */
	for (unsigned left = p->rx.fifo.size; left; left -= MIN(left, got)) {
		n = prepare(p);
		if (!n || !net_lane_may_go(&p->rx)) {
			p->link->ops->listen(p->link, false);
			return;
		}
		got = p->link->ops->recv(p->link, p->rx_frame, n);
		take(p, got);
		if (p->rx_waiting) {
			p->link->ops->listen(p->link, false);
			return;
		}
		/* All came: more. Else one more than came, to see that it was the last. */
		p->rx_batch = MIN(got < n ? MAX(got + 1, 2u) : 4 * MAX(n, p->rx_batch), (unsigned)NET_RX_BATCH);
		if (got < n)
			break;
	}
	p->link->ops->listen(p->link, true);
}

/* --- main --- */

int net_rx_init(struct net_pair *p)
{
	p->rx_batch = BATCH_FIRST;
	/* Touched only by frames that spill over or are moved. */
	p->rx_spill = calloc(PIECES, sizeof(*p->rx_spill));
	return p->rx_spill ? 0 : -ENOMEM;
}

void net_rx_fini(struct net_pair *p)
{
	free(p->rx_spill);
}
