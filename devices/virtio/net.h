/*
 * Inside of virtio-net (virtio 1.2 §5.1), shared by its two parts: net.c is the device (options,
 * config space, life), net_queue.c moves frames.
 */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include "devices/host/link.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"

/* §5.1.3, bit numbers */
enum {
	NET_F_CSUM = 0,
	NET_F_GUEST_CSUM = 1,
	NET_F_MTU = 3,
	NET_F_MAC = 5,
	NET_F_GUEST_TSO4 = 7,
	NET_F_GUEST_TSO6 = 8,
	NET_F_GUEST_ECN = 9,
	NET_F_HOST_TSO4 = 11,
	NET_F_HOST_TSO6 = 12,
	NET_F_HOST_ECN = 13,
	NET_F_MRG_RXBUF = 15,
	NET_F_STATUS = 16,
};

/* §5.1.4, as far as we fill it */
struct net_config {
	uint8_t mac[6];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "virtio 1.2 5.1.4");

enum { NET_S_LINK_UP = 1 };

/* §5.1.6 */
struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
	uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_header) == LINK_HEADER_LEN, "virtio 1.2 5.1.6");

enum { NET_HDR_NEEDS_CSUM = 1, NET_HDR_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_ECN = 0x80 };

/* A popped chain; once `iovs` were taken from it, its bytes lie in the receiver's iov array. */
struct net_slot {
	struct chain *chain;
	uint32_t bytes;
	uint16_t iovs;
};

/* Popped chains in order, a ring of as many slots as the queue has descriptors at most. */
struct net_fifo {
	struct net_slot *slot;           /* const */
	unsigned size;                   /* const; a power of two */
	unsigned head, count;            /* owner */
};

struct net_stats {
	uint64_t tx_frames, tx_dropped, rx_frames, rx_dropped;
};

struct net;

/* One receive and one transmit queue with their link; one owner. */
struct net_pair {
	struct net *net;                 /* const */
	struct link *link;               /* const */
	struct queue *rx, *tx;           /* owner; NULL while stopped */
	bool attached;                   /* owner; the link is on the loop */
	bool tx_running;                 /* owner; net_tx_run() is on the stack */
	struct net_stats stats;          /* owner */

	struct net_fifo rx_fifo;         /* owner; buffers of the guest to receive into */
	unsigned posted;                 /* the first so many have their iovecs in rx_iov */
	/* how many bytes they hold; what the largest frame takes */
	size_t posted_bytes, rx_want;
	unsigned rx_iovs;
	struct iovec rx_iov[LINK_IOV_MAX + 1]; /* one more is the link's */

	struct net_fifo tx_fifo;         /* owner; frames to be sent */
	bool tx_ready, tx_blocked;       /* the first is in tx_iov; the link said -EAGAIN */
	unsigned tx_iovs;
	size_t tx_total;
	struct net_header tx_header;     /* a private, checked copy */
	struct iovec tx_iov[LINK_IOV_MAX];
};

struct net {
	struct virtio_device dev;        /* first */
	uint8_t mac[6];                  /* const after create and load */
	bool told;                       /* worker; the loss of the link was reported */
	char event[64];
	struct net_pair pair;            /* more of them with multi-queue */
};

/*
 * net.c; main. Features, config space and queues of a device whose link and mac are there already.
 * mtu 0: the link's.
 */
int net_init(struct net *net, uint32_t mtu, struct error *err) NEEDS_CHECK;

/* net_queue.c; all on the pair's worker. */
int net_handle(struct virtio_device *dev, struct queue *q);
/* Give back what was popped and not used, the last one first. */
void net_return(struct net_pair *p, struct queue *q);
void net_rx_run(struct net_pair *p);
void net_tx_run(struct net_pair *p);
void net_readable(void *ctx);
void net_writable(void *ctx);

#endif
