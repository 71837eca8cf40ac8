/*
 * Frames of virtio-net (virtio 1.2 §5.1.6). Runs on the worker of the queue pair.
 *
 * Both queues are popped until empty, into a fifo each, in flight until the link has taken or
 * filled them. What remains there at a stop goes back to the ring untouched.
 *
 * Transmit: the 12 bytes of header are copied and the copy is checked against what was negotiated;
 * the frame goes to the link straight from the guest's buffers. A frame that is malformed, or that
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
#include "vmm/log.h"

/* --- fifo --- */

static struct net_slot *fifo_at(struct net_fifo *f, unsigned i)
{
	return &f->slot[(f->head + i) & (f->size - 1)];
}

static void fifo_drop_head(struct net_fifo *f)
{
	f->head = (f->head + 1) & (f->size - 1);
	f->count--;
}

/* Pop all there is: 1 when the bound of one call was reached, 0, -EPROTO. */
static int fifo_fill(struct net_fifo *f, struct queue *q)
{
	struct chain *chain;
	int r = 0;

	for (unsigned n = queue_size(q); n && f->count < f->size; n--) {
		r = queue_pop(q, &chain);
		if (r <= 0)
			break;
		*fifo_at(f, f->count++) = (struct net_slot){ .chain = chain };
	}
	return r;
}

void net_return(struct net_pair *p, struct queue *q)
{
	bool rx = q == p->rx;
	struct net_fifo *f = rx ? &p->rx_fifo : &p->tx_fifo;

	/*
	 * A broken ring is at its end: nobody comes back for these, and a chain that broke it may
	 * lie behind them.
	 */
	for (; f->count && queue_broken(q); fifo_drop_head(f))
		queue_push(q, fifo_at(f, 0)->chain);
	while (f->count)
		queue_unpop(q, fifo_at(f, --f->count)->chain);
	f->head = 0;
	if (rx) {
		p->posted = p->rx_iovs = 0;
		p->posted_bytes = 0;
	} else {
		p->tx_ready = p->tx_blocked = false;
	}
}

/* --- transmit --- */

static void tx_drop_head(struct net_pair *p, uint64_t *counter)
{
	queue_push(p->tx, fifo_at(&p->tx_fifo, 0)->chain);
	fifo_drop_head(&p->tx_fifo);
	p->tx_ready = false;
	++*counter;
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
	default:
		return false;
	}
}

/* The first frame of the fifo into tx_header and tx_iov. */
static bool tx_prepare(struct net_pair *p)
{
	struct chain *chain = fifo_at(&p->tx_fifo, 0)->chain;
	struct net_header *h = &p->tx_header;
	size_t frame;
	int n;

	if (chain_read(chain, h, sizeof(*h)))
		return false;
	frame = chain_in_left(chain);
	if (frame < LINK_FRAME_MIN || frame > LINK_FRAME_MAX || !header_is_fair(p, h, frame))
		return false;
	h->flags &= NET_HDR_NEEDS_CSUM;
	h->num_buffers = 0;
	n = chain_iov_in(chain, frame, p->tx_iov + 1, LINK_IOV_MAX - 1);
	if (n < 0)
		return false;
	p->tx_iovs = (unsigned)n + 1;
	p->tx_total = sizeof(*h) + frame;
	p->tx_ready = true;
	return true;
}

void net_tx_run(struct net_pair *p)
{
	int r;

	p->tx_running = true;
	while (p->tx_fifo.count && !p->tx_blocked) {
		if (!p->tx_ready && !tx_prepare(p)) {
			tx_drop_head(p, &p->stats.tx_dropped);
			continue;
		}
		p->tx_iov[0] = (struct iovec){ &p->tx_header, sizeof(p->tx_header) };
		r = p->link->ops->send(p->link, p->tx_iov, (int)p->tx_iovs, p->tx_total);
		if (r == -EAGAIN)
			p->tx_blocked = true;
		else
			tx_drop_head(p, r ? &p->stats.tx_dropped : &p->stats.tx_frames);
	}
	p->tx_running = false;
}

/* --- receive --- */

/* Lay out buffers until the largest frame fits, as far as there are any. */
static void rx_post(struct net_pair *p)
{
	bool merge = virtio_has(&p->net->dev, NET_F_MRG_RXBUF);

	while (p->posted < p->rx_fifo.count && p->posted_bytes < p->rx_want && (merge ||
		!p->posted)) {
		struct net_slot *s = fifo_at(&p->rx_fifo, p->posted);
		size_t len = chain_out_left(s->chain);
		int n = chain_iov_out(s->chain, len, p->rx_iov + p->rx_iovs,
			(int)(LINK_IOV_MAX - p->rx_iovs));

		if (n < 0 && p->posted)
			return; /* the array is full: what is in it must do */
		if (n < 0 || !len) {
			/* Nothing can ever be received into this one. */
			if (p->posted)
				return;
			queue_push(p->rx, s->chain);
			fifo_drop_head(&p->rx_fifo);
			p->stats.rx_dropped++;
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

	for (size_t left = len; left; used++)
		left -= MIN(left, fifo_at(&p->rx_fifo, used)->bytes);
	put_num_buffers(p, (uint16_t)used);
	for (unsigned i = 0; i < used; i++) {
		struct net_slot *s = fifo_at(&p->rx_fifo, 0);
		size_t n = MIN(len, s->bytes);

		chain_wrote(s->chain, n);
		len -= n;
		iovs += s->iovs;
		p->posted_bytes -= s->bytes;
		queue_push(p->rx, s->chain);
		fifo_drop_head(&p->rx_fifo);
	}
	p->posted -= used;
	p->rx_iovs -= iovs;
	memmove(p->rx_iov, p->rx_iov + iovs, p->rx_iovs * sizeof(p->rx_iov[0]));
	p->stats.rx_frames++;
}

void net_rx_run(struct net_pair *p)
{
	ssize_t r;

	/*
	 * Dropped frames count too: who only sends frames that do not fit must not keep the loop.
	 */
	for (unsigned n = p->rx_fifo.size; n; n--) {
		rx_post(p);
		if (!p->posted) {
			p->link->ops->listen(p->link, false);
			return;
		}
		r = p->link->ops->recv(p->link, p->rx_iov, (int)p->rx_iovs);
		if (r >= LINK_HEADER_LEN)
			rx_complete(p, (size_t)r);
		else if (r == -EMSGSIZE)
			p->stats.rx_dropped++;
		else
			break;
	}
	p->link->ops->listen(p->link, true);
}

/* --- calls from outside --- */

void net_readable(void *ctx)
{
	struct net_pair *p = ctx;

	if (!p->rx)
		return;
	net_rx_run(p);
	queue_flush(p->rx);
}

void net_writable(void *ctx)
{
	struct net_pair *p = ctx;

	p->tx_blocked = false;
	/* A link that goes down says so from inside send(): the loop further up goes on. */
	if (!p->tx || p->tx_running)
		return;
	net_tx_run(p);
	queue_flush(p->tx);
}

int net_handle(struct virtio_device *dev, struct queue *q)
{
	struct net_pair *p = &container_of(dev, struct net, dev)->pair;
	bool rx = q == p->rx;
	int r = fifo_fill(rx ? &p->rx_fifo : &p->tx_fifo, q);

	if (rx)
		net_rx_run(p);
	else
		net_tx_run(p);
	return r;
}
