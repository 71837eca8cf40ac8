/*
 * Frames of virtio-net (virtio 1.2 §5.1.6). Runs on the worker of the queue pair.
 *
 * Both queues are popped until empty, into a fifo each, in flight until the link has taken or
 * filled them. What remains there at a stop goes back to the ring untouched.
 *
 * Transmit: the 12 bytes of header are copied and the copy is checked against what was negotiated;
 * the frame goes to the link straight from the guest's buffers; with anti_spoof its Ethernet header
 * is such a copy too, and has to carry our address. A frame that is malformed, or that
 * the link refuses, is dropped and counted, as a network does. When the link cannot take more, the
 * first frame waits, prepared, for its word.
 *
 * Receive: enough buffers for the largest frame are kept laid out as one array of iovecs, so that
 * one read fills them in place. With MRG_RXBUF that is several chains, and a frame takes as many of
 * them as it needs (§5.1.6.4); without, one. Buffers behind a frame stay laid out for the next. A
 * frame too large for what the driver gave is dropped. With no buffer the link is muted until a
 * kick, so a full backlog costs nothing.
 */
#include "devices/virtio/net.h"

#include <errno.h>

#include "devices/virtio/chain.h"

enum { SOURCE_AT = 6 };                  /* in an Ethernet header */

/* Pop all there is: 1 when the bound of one call was reached, 0, -EPROTO. */
static int fifo_fill(struct net_fifo *f, struct queue *q)
{
	struct chain *chain;
	int r = 0;

	for (unsigned n = queue_size(q); n && f->count < f->size; n--) {
		r = queue_pop(q, &chain);
		if (r <= 0)
			break;
		*net_fifo_at(f, f->count++) = (struct net_slot){ .chain = chain };
	}
	return r;
}

void net_return(struct net_lane *lane)
{
	struct net_pair *p = lane->pair;
	struct net_fifo *f = &lane->fifo;
	struct queue *q = lane->queue;

	/*
	 * A broken ring is at its end: nobody comes back for these, and a chain that broke it may
	 * lie behind them.
	 */
	for (; f->count && queue_broken(q); net_fifo_drop_head(f))
		queue_push(q, net_fifo_at(f, 0)->chain);
	while (f->count)
		queue_unpop(q, net_fifo_at(f, --f->count)->chain);
	f->head = 0;
	if (lane == &p->rx) {
		p->posted = p->rx_iovs = 0;
		p->posted_bytes = 0;
	} else {
		p->tx_ready = p->tx_blocked = false;
	}
}

/* --- transmit --- */

static void tx_drop_head(struct net_pair *p)
{
	queue_push(p->tx.queue, net_fifo_at(&p->tx.fifo, 0)->chain);
	net_fifo_drop_head(&p->tx.fifo);
	p->tx_ready = false;
	p->tx.unrung++;
}

/* §5.1.6.2.1: may this driver ask for this? The rest the kernel checks, and refuses the frame. */
static bool header_is_fair(const struct net_pair *p, const struct net_header *h, size_t frame)
{
	const struct virtio_device *dev = &p->net->dev;
	uint8_t gso = h->gso_type & (uint8_t)~NET_GSO_ECN;
	bool csum = h->flags & NET_HDR_NEEDS_CSUM;

	if (csum && (!virtio_has(dev, NET_F_CSUM) ||
		(size_t)h->csum_start + h->csum_offset + 2 > frame))
		return false;
	if ((h->gso_type & NET_GSO_ECN) && !virtio_has(dev, NET_F_HOST_ECN))
		return false;
	switch (gso) {
	case NET_GSO_NONE:
		return !(h->gso_type & NET_GSO_ECN);
	case NET_GSO_TCPV4:
		return csum && h->gso_size && virtio_has(dev, NET_F_HOST_TSO4);
	case NET_GSO_TCPV6:
		return csum && h->gso_size && virtio_has(dev, NET_F_HOST_TSO6);
	case NET_GSO_UDP_L4:
		return csum && h->gso_size && virtio_has(dev, NET_F_HOST_USO) &&
			!(h->gso_type & NET_GSO_ECN);
	default:
		return false;
	}
}

/* The first frame of the fifo into tx_header and tx_iov: NET_DROPS, or why not. */
static enum net_drop tx_prepare(struct net_pair *p)
{
	struct chain *chain = net_fifo_at(&p->tx.fifo, 0)->chain;
	struct net_header *h = &p->tx_header;
	unsigned first = 1;
	size_t frame, body;
	int n;

	if (chain_read(chain, h, sizeof(*h)))
		return NET_DROP_MALFORMED;
	frame = body = chain_in_left(chain);
	if (frame < LINK_FRAME_MIN || frame > LINK_FRAME_MAX || !header_is_fair(p, h, frame))
		return NET_DROP_MALFORMED;
	h->flags &= NET_HDR_NEEDS_CSUM;
	h->num_buffers = 0;
	if (p->net->anti_spoof) {
		/* What is checked is what leaves, so the driver cannot change it in between. */
		if (chain_read(chain, p->tx_ether, sizeof(p->tx_ether)))
			return NET_DROP_MALFORMED;
		if (memcmp(p->tx_ether + SOURCE_AT, p->net->mac, sizeof(p->net->mac)))
			return NET_DROP_SPOOF;
		p->tx_iov[first++] = (struct iovec){ p->tx_ether, sizeof(p->tx_ether) };
		body -= sizeof(p->tx_ether);
	}
	n = body ? chain_iov_in(chain, body, p->tx_iov + first, (int)(LINK_IOV_MAX - first)) : 0;
	if (n < 0)
		return NET_DROP_MALFORMED;
	p->tx_iovs = (unsigned)n + first;
	p->tx_total = sizeof(*h) + frame;
	p->tx_ready = true;
	return NET_DROPS;
}

static void tx_sent(struct net_pair *p)
{
	capture_frame(p->net->capture, p->index, true, p->tx_iov + 1, (int)p->tx_iovs - 1, 0,
		p->tx_total - sizeof(p->tx_header));
	net_count(p->tx.stats.frames, 1);
	net_count(p->tx.stats.bytes, p->tx_total - sizeof(p->tx_header));
}

void net_tx_run(struct net_pair *p)
{
	enum net_drop why;
	int r;

	p->tx_running = true;
	while (p->tx.fifo.count && !p->tx_blocked && !p->tx.go_at && net_lane_may_go(&p->tx)) {
		why = p->tx_ready ? NET_DROPS : tx_prepare(p);
		if (why != NET_DROPS) {
			net_count(p->tx.stats.dropped[why], 1);
			tx_drop_head(p);
			continue;
		}
		p->tx_iov[0] = (struct iovec){ &p->tx_header, sizeof(p->tx_header) };
		r = p->link->ops->send(p->link, p->tx_iov, (int)p->tx_iovs, p->tx_total);
		if (r == -EAGAIN) {
			p->tx_blocked = true;
			break;
		}
		net_lane_charge(&p->tx, p->tx_total - sizeof(p->tx_header));
		if (r)
			net_count(p->tx.stats.dropped[NET_DROP_LINK], 1);
		else
			tx_sent(p);
		tx_drop_head(p);
	}
	p->tx_running = false;
}

/* --- receive --- */

/* Lay out buffers until the largest frame fits, as far as there are any. */
static void rx_post(struct net_pair *p)
{
	bool merge = virtio_has(&p->net->dev, NET_F_MRG_RXBUF);

	while (p->posted < p->rx.fifo.count && p->posted_bytes < p->rx_want && (merge ||
		!p->posted)) {
		struct net_slot *s = net_fifo_at(&p->rx.fifo, p->posted);
		size_t len = chain_out_left(s->chain);
		int n = chain_iov_out(s->chain, len, p->rx_iov + p->rx_iovs,
			(int)(LINK_IOV_MAX - p->rx_iovs));

		if (n < 0 && p->posted)
			return; /* the array is full: what is in it must do */
		if (n < 0 || !len) {
			/* Nothing can ever be received into this one. */
			if (p->posted)
				return;
			queue_push(p->rx.queue, s->chain);
			net_fifo_drop_head(&p->rx.fifo);
			net_count(p->rx.stats.dropped[NET_DROP_MALFORMED], 1);
			continue;
		}
		s->iovs = (uint16_t)n;
		s->bytes = (uint32_t)len;
		p->rx_iovs += (unsigned)n;
		p->posted_bytes += len;
		p->posted++;
	}
}

/*
 * Two bytes at offset 10 of the header, wherever the driver's descriptors put them. Marked dirty
 * with the frame.
 */
static void put_num_buffers(const struct net_pair *p, uint16_t v)
{
	size_t at = offsetof(struct net_header, num_buffers);
	uint8_t bytes[2];
	unsigned done = 0;

	put_le16(bytes, v);
	for (unsigned i = 0; i < p->rx_iovs && done < sizeof(bytes); i++) {
		for (; at < p->rx_iov[i].iov_len && done < sizeof(bytes); at++)
			((uint8_t *)p->rx_iov[i].iov_base)[at] = bytes[done++];
		at -= MIN(at, p->rx_iov[i].iov_len);
	}
}

/* `len` bytes arrived in the buffers that are laid out: return those that have some. */
static void rx_complete(struct net_pair *p, size_t len)
{
	unsigned used = 0, iovs = 0;

	capture_frame(p->net->capture, p->index, false, p->rx_iov, (int)p->rx_iovs,
		LINK_HEADER_LEN, len - LINK_HEADER_LEN);
	net_count(p->rx.stats.frames, 1);
	net_count(p->rx.stats.bytes, len - LINK_HEADER_LEN);
	p->rx.unrung++;
	for (size_t left = len; left; used++)
		left -= MIN(left, net_fifo_at(&p->rx.fifo, used)->bytes);
	put_num_buffers(p, (uint16_t)used);
	for (unsigned i = 0; i < used; i++) {
		struct net_slot *s = net_fifo_at(&p->rx.fifo, 0);
		size_t n = MIN(len, s->bytes);

		chain_wrote(s->chain, n);
		len -= n;
		iovs += s->iovs;
		p->posted_bytes -= s->bytes;
		queue_push(p->rx.queue, s->chain);
		net_fifo_drop_head(&p->rx.fifo);
	}
	p->posted -= used;
	p->rx_iovs -= iovs;
	memmove(p->rx_iov, p->rx_iov + iovs, p->rx_iovs * sizeof(p->rx_iov[0]));
}

/* Is the frame of `len` bytes that lies in the buffers for this guest? */
static bool rx_wanted(const struct net_pair *p, size_t len)
{
	size_t skip = LINK_HEADER_LEN, n = 0, want = MIN(len - LINK_HEADER_LEN, (size_t)NET_PEEK);
	uint8_t head[NET_PEEK];

	if (p->filter.mode[NET_RX_PROMISC])
		return true;
	for (unsigned i = 0; i < p->rx_iovs && n < want; i++) {
		const struct iovec *iov = &p->rx_iov[i];
		size_t at = MIN(skip, iov->iov_len), k = MIN(want - n, iov->iov_len - at);

		memcpy(head + n, (const char *)iov->iov_base + at, k);
		skip -= at;
		n += k;
	}
	return net_filter_passes(&p->filter, head, n);
}

void net_rx_run(struct net_pair *p)
{
	ssize_t r;

	if (!p->enabled || p->rx.go_at) {
		p->link->ops->listen(p->link, false);
		return;
	}
	/*
	 * Dropped frames count too: who only sends frames that do not fit must not keep the loop.
	 */
	for (unsigned n = p->rx.fifo.size; n; n--) {
		rx_post(p);
		if (!p->posted || !net_lane_may_go(&p->rx)) {
			p->link->ops->listen(p->link, false);
			return;
		}
		r = p->link->ops->recv(p->link, p->rx_iov, (int)p->rx_iovs);
		if (r >= LINK_HEADER_LEN)
			net_lane_charge(&p->rx, (size_t)r - LINK_HEADER_LEN);
		if (r >= LINK_HEADER_LEN && rx_wanted(p, (size_t)r))
			rx_complete(p, (size_t)r);
		else if (r >= LINK_HEADER_LEN)
			net_count(p->rx.stats.dropped[NET_DROP_FILTER], 1);
		else if (r == -EMSGSIZE)
			net_count(p->rx.stats.dropped[NET_DROP_SIZE], 1);
		else
			break;
	}
	p->link->ops->listen(p->link, true);
}

/* --- calls from outside --- */

void net_readable(void *ctx)
{
	struct net_pair *p = ctx;

	if (!p->rx.queue)
		return;
	net_rx_run(p);
	net_lane_flush(&p->rx);
}

void net_writable(void *ctx)
{
	struct net_pair *p = ctx;

	p->tx_blocked = false;
	/* A link that goes down says so from inside send(): the loop further up goes on. */
	if (!p->tx.queue || p->tx_running)
		return;
	net_tx_run(p);
	net_lane_flush(&p->tx);
}

int net_handle_lane(struct net_lane *lane)
{
	struct net_pair *p = lane->pair;
	int r = fifo_fill(&lane->fifo, lane->queue);

	if (lane == &p->rx)
		net_rx_run(p);
	else
		net_tx_run(p);
	/* Before the back does: interrupts that are gathered wait for more than its flush. */
	net_lane_flush(lane);
	return r;
}
