/*
 * Inside of virtio-net (virtio 1.2 and 1.3 §5.1), shared by its parts:
 *
 *   net.c         the device: features, life, state
 *   net_settings.c what the driver set, and how it takes effect
 *   net_create.c  its options, and the links behind it
 *   net_queue.c   sends frames
 *   net_rx.c      receives them
 *   net_lane.c    one direction of a pair: its chains, its timer, when to interrupt
 *   net_ctrl.c    the control queue
 *   net_stats.c   what was counted
 *   net_filter.c  which received frames are the guest's
 *   net_vhost.c   the pairs handed to the kernel's vhost
 *   net_vhost_user.c instead of all that: another program serves the queues
 *
 * A device has up to 16 pairs of a receive and a transmit queue, each pair with its link on its own
 * worker. What the driver sets through the control queue is one struct net_settings under a lock;
 * each pair works with a copy of its own, which it renews when its eventfd rings. So frames pass
 * without a lock, and a command is acknowledged when every running pair has its copy.
 */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include <pthread.h>

#include "devices/host/capture.h"
#include "devices/host/link.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/vhost_user.h"
#include "devices/virtio/virtio.h"
#include "vmm/rate.h"

enum {
	NET_PAIRS_MAX = 16,
	NET_QUEUES_MAX = 2 * NET_PAIRS_MAX + 1,
	NET_MACS_MAX = 64,       /* of each kind; more, and all of that kind are let in */
	NET_COAL_USECS_MAX = 1000000,
};

/* §5.1.3, bit numbers */
enum {
	NET_F_CSUM = 0,
	NET_F_GUEST_CSUM = 1,
	NET_F_CTRL_GUEST_OFFLOADS = 2,
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
	NET_F_CTRL_VQ = 17,
	NET_F_CTRL_RX = 18,
	NET_F_CTRL_VLAN = 19,
	NET_F_CTRL_RX_EXTRA = 20,
	NET_F_GUEST_ANNOUNCE = 21,
	NET_F_MQ = 22,
	NET_F_CTRL_MAC_ADDR = 23,
	NET_F_VQ_NOTF_COAL = 52,
	NET_F_NOTF_COAL = 53,
	NET_F_GUEST_USO4 = 54,
	NET_F_GUEST_USO6 = 55,
	NET_F_HOST_USO = 56,
	NET_F_STANDBY = 62,
	NET_F_SPEED_DUPLEX = 63,
};

/* §5.1.4, as far as we fill it */
struct net_config {
	uint8_t mac[6];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
	uint32_t speed;          /* Mbit/s */
	uint8_t duplex;
} __attribute__((packed));
_Static_assert(sizeof(struct net_config) == 17, "virtio 1.2 5.1.4");
enum { NET_DUPLEX_FULL = 1, NET_DUPLEX_UNKNOWN = 0xff };
#define NET_SPEED_UNKNOWN UINT32_MAX

enum { NET_S_LINK_UP = 1, NET_S_ANNOUNCE = 2 };

/* §5.1.6 */
struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
	uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_header) == LINK_HEADER_LEN, "virtio 1.2 5.1.6");

enum { NET_HDR_NEEDS_CSUM = 1, NET_HDR_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5,
	NET_GSO_ECN = 0x80 };

/* §5.1.6.5: class and command of a control command, and the answer */
enum { NET_CTRL_RX = 0, NET_CTRL_MAC = 1, NET_CTRL_VLAN = 2, NET_CTRL_ANNOUNCE = 3, NET_CTRL_MQ = 4,
	NET_CTRL_GUEST_OFFLOADS = 5, NET_CTRL_NOTF_COAL = 6 };
enum { NET_RX_PROMISC, NET_RX_ALLMULTI, NET_RX_ALLUNI, NET_RX_NOMULTI, NET_RX_NOUNI, NET_RX_NOBCAST,
	NET_RX_MODES };
enum { NET_MAC_TABLE_SET = 0, NET_MAC_ADDR_SET = 1 };
enum { NET_VLAN_ADD = 0, NET_VLAN_DEL = 1 };
enum { NET_COAL_TX_SET = 0, NET_COAL_RX_SET = 1, NET_COAL_VQ_SET = 2, NET_COAL_VQ_GET = 3 };
enum { NET_ACK_OK = 0, NET_ACK_ERR = 1 };

struct net_mac_table {
	uint32_t n;              /* more than NET_MACS_MAX: not all are here */
	uint8_t mac[NET_MACS_MAX * 6];
};

/* Which frames the driver wants (§5.1.6.5.1 to 3). */
struct net_filter {
	bool mode[NET_RX_MODES];
	bool by_vlan;            /* VIRTIO_NET_F_CTRL_VLAN */
	uint8_t mac[6];          /* the address of the interface now */
	struct net_mac_table uni, multi;
	uint64_t vlan[4096 / 64];
};

/* What the driver set by commands; a reset brings the defaults back. Saved. */
struct net_settings {
	bool begun;              /* what the negotiated features say is in the rest */
	struct net_filter filter;
	uint16_t pairs;          /* that are in use, §5.1.6.5.5 */
	uint64_t offloads;       /* feature bits of GUEST_*, §5.1.6.5.6 */
	bool announce;           /* the driver has not answered yet, §5.1.6.5.4 */
	uint32_t coal_usecs[2 * NET_PAIRS_MAX]; /* by queue, §5.1.6.5.10 */
	uint32_t coal_packets[2 * NET_PAIRS_MAX];
};

/* A popped chain; once `iovs` were taken from it, its bytes lie in the receiver's iov array. */
struct net_slot {
	struct chain *chain;
	uint32_t bytes;
	uint16_t iovs;
};

enum {
	NET_RX_BATCH = 32,       /* frames received by one call */
	NET_RX_IOVS = 2 * LINK_IOV_MAX, /* iovecs that are laid out for them */
	NET_SPILL = LINK_HEADER_LEN + LINK_FRAME_MAX,
};

/* Buffers for one frame: `slots` of the fifo from `slot` on, `iovs` of rx_iov from `iov` on. */
struct net_room {
	uint16_t slot, slots, iov, iovs;
	size_t bytes;
};

/* Popped chains in order, a ring of as many slots as the queue has descriptors at most. */
struct net_fifo {
	struct net_slot *slot;           /* const */
	unsigned size;                   /* const; a power of two */
	unsigned head, count;            /* owner */
};

enum net_drop {
	NET_DROP_MALFORMED, /* no frame, or a header that was not agreed; a buffer that is none */
	NET_DROP_LINK,      /* the link is down */
	NET_DROP_SPOOF,     /* sent with another source address than ours */
	NET_DROP_SIZE,      /* received, larger than the buffers */
	NET_DROP_FILTER,    /* received, not for this guest */
	NET_DROPS
};

/* Of one queue, since the machine started. Only the owner writes; read by net_stats_read(). */
struct net_stats {
	uint64_t frames, bytes, dropped[NET_DROPS];
	uint64_t kicks, interrupts;
};

struct net;
struct net_pair;

/* One direction of a pair; one owner. */
struct net_lane {
	struct net_pair *pair;           /* const */
	struct queue *queue;             /* owner; NULL while stopped */
	struct net_fifo fifo;            /* owner; buffers to receive into, frames to send */
	struct net_stats stats;          /* owner; read by others, relaxed */
	uint64_t kicks_before, calls_before; /* owner; of the queue's earlier lives */
	int timer_fd;                    /* const */
	struct loop_source *timer;       /* owner */
	uint64_t armed;                  /* owner; when it rings, ns; 0: not */
	/* owner; interrupts are gathered so long, and until so many; 0, 0: they are not */
	uint64_t coal_ns;
	unsigned coal_packets;
	unsigned unrung;                 /* owner; frames since the last call */
	uint64_t call_at;                /* owner; 0: nothing waits to be rung for */
	struct rate *rate;               /* const; what this direction of the device may move */
	uint64_t go_at;                  /* owner; 0: it may go on now */
};

/* One receive and one transmit queue with their link; one owner. */
struct net_pair {
	struct net *net;                 /* const */
	unsigned index;                  /* const */
	struct link *link;               /* const */
	int wake_fd;                     /* const; rings when there are new settings */
	struct loop_source *wake;        /* owner */
	struct loop *loop;               /* net->lock to write; NULL: nobody serves it */
	unsigned applied;                /* net->lock; the settings it has */
	bool attached;                   /* owner; the link is on the loop */
	bool watched;                    /* owner; by itself, in a process of its own */
	bool enabled;                    /* owner; main before; frames may arrive here */
	unsigned in_kernel;              /* owner; which of its two queues the kernel serves, bits */
	bool tx_running;                 /* owner; net_tx_run() is on the stack */
	unsigned offloads;               /* owner; LINK_OFFLOAD_* it was told; of pair 0 */
	struct net_filter filter;        /* owner */
	struct net_lane rx, tx;          /* owner */

	unsigned posted;                 /* the first so many have their iovecs in rx_iov */
	unsigned rx_iovs;
	struct iovec rx_iov[NET_RX_IOVS];
	size_t rx_want, rx_usual;        /* bytes of the largest frame; of one without segmentation */
	unsigned rx_large;               /* so many frames long, large ones are expected */
	unsigned rx_alike, rx_slots;     /* the last so many took this many chains each */
	size_t rx_last;                  /* bytes of the last frame */
	size_t rx_waiting;               /* bytes of a frame that waits for more buffers; 0: none */
	bool rx_held;                    /* no frame was read, until the driver gives buffers */
	unsigned rx_most;                /* chains that were there at one time */
	unsigned rx_batch;               /* frames that are tried next */
	struct net_room rx_room[NET_RX_BATCH];
	struct link_frame rx_frame[NET_RX_BATCH];
	/* behind each frame's, one for what spills over and one that is the link's */
	struct iovec rx_frame_iov[NET_RX_IOVS + 2 * NET_RX_BATCH];
	uint8_t (*rx_spill)[NET_SPILL];  /* const; one for each frame, and two more */

	bool tx_blocked;                 /* the link could not take more */
	bool tx_bad;                     /* the one behind the batch is to be dropped, for this reason */
	enum net_drop tx_why;
	unsigned tx_first, tx_ready;     /* of tx_frame: those not sent yet, and their end */
	unsigned tx_iovs;
	struct link_frame tx_frame[LINK_BATCH_MAX];
	struct net_header tx_header[LINK_BATCH_MAX]; /* private, checked copies */
	uint8_t tx_ether[LINK_BATCH_MAX][LINK_FRAME_MIN]; /* likewise, with anti_spoof */
	struct iovec tx_iov[LINK_BATCH_IOVS];
};

enum { NET_RESULT_MAX = 8 };

/* The control queue; one owner. */
struct net_ctrl {
	struct queue *queue;             /* owner; NULL while stopped */
	struct chain *waiting;           /* owner; its command is carried out, not yet everywhere */
	uint8_t ack, result_len, result[NET_RESULT_MAX]; /* owner; the answer to it */
	int wake_fd;                     /* const; rings when a pair has taken settings over */
	struct loop_source *wake;        /* owner */
	uint64_t commands, refused;      /* owner; read by others, relaxed */
};

enum net_vhost_mode { NET_VHOST_AUTO, NET_VHOST_ON, NET_VHOST_OFF };

struct net {
	struct virtio_device dev;        /* first */
	uint8_t mac[6];                  /* const after create and load; what a reset goes back to */
	unsigned npairs;                 /* const */
	bool anti_spoof;                 /* const */
	enum net_vhost_mode vhost_mode;  /* const */
	struct back *vhost;              /* const; the kernel moves the frames; NULL: we do */
	bool one_worker;                 /* const; since no frame passes it */
	struct net_pair *pairs;          /* const */
	struct net_ctrl ctrl;
	struct capture *capture;         /* const; NULL: none */
	struct rate rate[2];             /* of receiving and of sending, over all pairs */
	pthread_mutex_t lock;            /* now, generation, link_up, told; loop, applied of pairs */
	struct net_settings now;
	unsigned generation;             /* counts changes of `now` */
	bool link_up, told;              /* told: main has heard of its loss */
	char event[64];
};

struct net_setup {
	struct link **links;             /* one per pair; the device's from then on */
	unsigned npairs;
	uint32_t mtu;                    /* 0: the link's */
	uint32_t speed;                  /* Mbit/s, told to the guest; 0: unknown */
	bool anti_spoof;                 /* frames leave with our address or not at all */
	bool standby;                    /* offer VIRTIO_NET_F_STANDBY */
};
/*
 * net.c; main. Features, config space and queues of a device whose mac is there already. Takes the
 * links also when it fails: then net_destroy() closes them.
 */
int net_init(struct net *net, const struct net_setup *setup, struct error *err) NEEDS_CHECK;
/* Main, at any time: capture from now on, or no more. -ENODEV: there was no capture=. */
int net_set_capture(struct net *net, bool on);
/*
 * Change a limit of sending or receiving while the machine runs; what waits under the old one looks
 * again. Main. -EBUSY: the kernel's vhost moves the frames, past all limits.
 */
int net_set_rate(struct net *net, bool sending, enum rate_kind kind, const struct rate_limit *limit);
/* The driver shall tell its neighbours where it is (§5.1.6.5.4). Any worker of the device. */
void net_announce(struct net *net);
/* net_stats.c. Any thread: the counters of queue i of the pairs as they are now, or -ENOENT. */
int net_stats_read(const struct net *net, unsigned queue, struct net_stats *ret);
/* A line of them all, with -v. Main. */
void net_stats_log(const struct net *net);
/* The lane that queue i is; NULL: the control queue, or none that these features have. */
struct net_lane *net_lane_of(struct net *net, unsigned queue);
bool net_is_ctrl(const struct net *net, unsigned queue);
/* The pair's link on the loop, its settings taken over from now on; off it when no queue runs. */
int net_start_pair(struct net_pair *p, struct loop *loop) NEEDS_CHECK;
void net_stop_pair(struct net_pair *p);

/*
 * net_vhost.c; main, after net_init(). From what the user said (mode) and from what needs each
 * frame to pass us (`not`: the options, NULL for nothing) to who will serve the queues.
 */
int net_vhost_setup(struct net *net, enum net_vhost_mode mode, const char *not,
	struct error *err) NEEDS_CHECK;

/* net_create.c */
enum net_anti_spoof { ANTI_SPOOF_AUTO, ANTI_SPOOF_ON, ANTI_SPOOF_OFF };
struct net_options {
	struct virtio_options virtio;
	char *tap, *ip, *mask, *forward, *vdpa;
	struct option_mac mac, host_mac;
	struct option_ints fd;
	bool user;
	uint32_t mtu, num_queues, speed, anti_spoof, vhost;
	bool standby;
	struct rate_device_options rate;
	char *capture, *capture_filter;
	uint64_t capture_size;
	bool capturing;
	struct vhost_user_options vhost_user;
};

/* The first option that says how we would move the frames; NULL: none was given. */
const char *net_own_option(const struct net_options *o);
/* The one that was given, or a random one. */
int net_choose_mac(uint8_t mac[6], const struct net_options *o, struct error *err) NEEDS_CHECK;
int net_check_standby(const struct net_options *o, struct error *err) NEEDS_CHECK;
int net_check_pairs(const struct net_options *o, struct error *err) NEEDS_CHECK;
int net_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err) NEEDS_CHECK;
extern const struct option_group net_group;
/* Of the row. */
int net_handed_fd(const void *options, unsigned i);
int net_row_create(struct device **ret, const struct device_env *env, const void *options,
	struct error *err) NEEDS_CHECK;

/* net_vhost_user.c: the frames are another program's. */
extern const struct virtio_type virtio_net_vhost_user_type;
bool net_shares_memory(const void *options);

/*
 * net_settings.c; the worker of the pair. Take over the settings: filter, offloads, coalescing, in
 * use or not.
 */
void net_apply(struct net_pair *p);
/* The settings changed. Lock not held. True when every pair that runs has them already. */
bool net_publish(struct net *net, const struct loop *loop);
bool net_settled(struct net *net);
/* Ring an eventfd of the device. */
void net_ring(int fd);

void net_reset_settings(struct net *net);
/*
 * The first queue of a driver starts: what it negotiated is how things are before its first command
 * (§5.1.6.5.3, §5.1.6.5.6). Any worker of the device.
 */
void net_begin(struct net *net);
void net_apply_enable(struct net_pair *p, bool enabled);
/* Carrier and announcement into the config image; lock held. */
void net_put_status(struct net *net);
/* And tell the driver; lock not held. */
void net_config_changed(struct net *net);
/* What may differ from the image that create() wrote: after a load, a reset, a new address. */
void net_refresh_config(struct net *net);
/* Feature bits that come with what the link can do. */
uint64_t net_offload_features(unsigned link_offloads);
/* The feature bits of GUEST_* offloads that were negotiated. */
uint64_t net_guest_offloads(const struct net *net);

/* net_queue.c; all on the pair's worker. */
int net_handle_lane(struct net_lane *lane);
/* Give back what was popped and not used, the last one first. */
void net_return(struct net_lane *lane);
void net_tx_run(struct net_pair *p);
/* net_rx.c; the pair's worker, but the first two, which are main's. */
int net_rx_init(struct net_pair *p) NEEDS_CHECK;
void net_rx_fini(struct net_pair *p);
/* Nothing is laid out any more. */
void net_rx_clear(struct net_pair *p);
void net_rx_run(struct net_pair *p);
/* net_queue.c again; events of the link. */
void net_readable(void *ctx);
void net_writable(void *ctx);

/* net_lane.c; on the pair's worker but the first two, which are main's. */
int net_lane_init(struct net_lane *lane, struct net_pair *pair, unsigned queue_size) NEEDS_CHECK;
void net_lane_fini(struct net_lane *lane);
int net_lane_start(struct net_lane *lane, struct queue *q) NEEDS_CHECK;
void net_lane_stop(struct net_lane *lane);
void net_lane_coalesce(struct net_lane *lane, uint32_t usecs, uint32_t packets);
/* Publish what was pushed, and ring or leave it for later. At the end of each batch. */
void net_lane_flush(struct net_lane *lane);
/* Do the rate limits let a frame pass now? If not the lane resumes by itself when they do. */
bool net_lane_may_go(struct net_lane *lane);
void net_lane_charge(struct net_lane *lane, size_t bytes);
/* The limits changed, or time has passed. */
void net_lane_resume(struct net_lane *lane);
struct net_slot *net_fifo_at(const struct net_fifo *f, unsigned i);
void net_fifo_drop_head(struct net_fifo *f);
#define net_count(counter, n)                                                                      \
	__atomic_store_n(&(counter), (counter) + (uint64_t)(n), __ATOMIC_RELAXED)

/* net_ctrl.c; on the control queue's worker. */
int net_ctrl_start(struct net *net, struct queue *q) NEEDS_CHECK;
void net_ctrl_stop(struct net *net);
int net_ctrl_handle(struct net *net);

/* net_filter.c; pure. */
enum { NET_PEEK = 18 };                  /* an Ethernet header with a VLAN tag */
bool net_filter_passes(const struct net_filter *f, const uint8_t *frame, size_t len);
/* What nobody has set: everything passes. */
void net_filter_reset(struct net_filter *f, const uint8_t mac[6]);

#endif
