/*
 * Frames that a virtio-net driver sends (virtio 1.2 §5.1.6.2), and what the two directions have in
 * common; net_rx.c receives. Runs on the worker of the queue pair.
 *
 * Both queues are popped until empty, into a fifo each, in flight until the link has taken or
 * filled them. What remains there at a stop goes back to the ring untouched.
 *
 * Frames go to the link in batches. Of each the 12 bytes of header are copied and the copy is
 * checked against what was negotiated; the frame is sent straight from the guest's buffers; with
 * anti_spoof its Ethernet header is such a copy too, and has to carry our address. A frame that is
 * malformed, or that the link refuses, is dropped and counted, as a network does. When the link
 * cannot take more, the rest of the batch waits, prepared, for its word.
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
		net_rx_clear(p);
	} else {
		p->tx_first = p->tx_ready = 0;
		p->tx_bad = p->tx_blocked = false;
	}
}

/* --- transmit --- */

static void tx_return_head(struct net_pair *p)
{
	queue_push(p->tx.queue, net_fifo_at(&p->tx.fifo, 0)->chain);
	net_fifo_drop_head(&p->tx.fifo);
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

/* A frame into the next place of the batch: NET_DROPS, or why not. */
static enum net_drop tx_prepare(struct net_pair *p, struct chain *chain)
{
	struct net_header *h = &p->tx_header[p->tx_ready];
	struct link_frame *f = &p->tx_frame[p->tx_ready];
	uint8_t *ether = p->tx_ether[p->tx_ready];
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
	f->iov = p->tx_iov + p->tx_iovs;
	f->iov[0] = (struct iovec){ h, sizeof(*h) };
	if (p->net->anti_spoof) {
		/* What is checked is what leaves, so the driver cannot change it in between. */
		if (chain_read(chain, ether, LINK_FRAME_MIN))
			return NET_DROP_MALFORMED;
		if (memcmp(ether + SOURCE_AT, p->net->mac, sizeof(p->net->mac)))
			return NET_DROP_SPOOF;
		f->iov[first++] = (struct iovec){ ether, LINK_FRAME_MIN };
		body -= LINK_FRAME_MIN;
	}
	n = body ? chain_iov_in(chain, body, f->iov + first, (int)(LINK_IOV_MAX - first)) : 0;
	if (n < 0)
		return NET_DROP_MALFORMED;
	f->n = n + (int)first;
	f->total = sizeof(*h) + frame;
	return NET_DROPS;
}
static void tx_drop(struct net_pair *p, enum net_drop why)
{
	net_count(p->tx.stats.dropped[why], 1);
	tx_return_head(p);
}

/*
 * What waits into a new batch, up to the first that is no frame: it goes when it is at the front.
 * False when there is nothing to send, or nothing may be sent now.
 */
static bool tx_gather(struct net_pair *p)
{
	p->tx_first = p->tx_ready = p->tx_iovs = 0;
	while (p->tx_ready < MIN(p->tx.fifo.count, (unsigned)LINK_BATCH_MAX) &&
		p->tx_iovs <= LINK_BATCH_IOVS - LINK_IOV_MAX && !p->tx.go_at && net_lane_may_go(&p->tx)) {
		const struct link_frame *f = &p->tx_frame[p->tx_ready];
		enum net_drop why = tx_prepare(p, net_fifo_at(&p->tx.fifo, p->tx_ready)->chain);

		if (why == NET_DROPS) {
			net_lane_charge(&p->tx, f->total - sizeof(struct net_header));
			p->tx_iovs += (unsigned)f->n;
			p->tx_ready++;
		} else if (p->tx_ready) {
			p->tx_bad = true;
			p->tx_why = why;
			break;
		} else {
			tx_drop(p, why);
		}
	}
	return p->tx_ready > 0;
}

static void tx_done(struct net_pair *p, const struct link_frame *f)
{
	size_t len = f->total - sizeof(struct net_header);

	if (f->result) {
		tx_drop(p, NET_DROP_LINK);
		return;
	}
	capture_frame(p->net->capture, p->index, true, f->iov + 1, f->n - 1, 0, len);
	net_count(p->tx.stats.frames, 1);
	net_count(p->tx.stats.bytes, len);
	tx_return_head(p);
}

void net_tx_run(struct net_pair *p)
{
	p->tx_running = true;
	while (!p->tx_blocked && (p->tx_first < p->tx_ready || tx_gather(p))) {
		struct link_frame *f = &p->tx_frame[p->tx_first];
		unsigned n = p->tx_ready - p->tx_first, done = p->link->ops->send(p->link, f, n);

		for (unsigned i = 0; i < done; i++)
			tx_done(p, &f[i]);
		p->tx_first += done;
		p->tx_blocked = done < n;
		if (done == n && p->tx_bad) {
			p->tx_bad = false;
			tx_drop(p, p->tx_why);
		}
	}
	p->tx_running = false;
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
