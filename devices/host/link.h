/*
 * Where network frames go. A link takes and gives Ethernet frames through iovecs, each with a
 * virtio_net_hdr before it; a link without offloads ignores that header when sending and gives one
 * of zeroes. It knows nothing of queues. Frames move in batches, so that a link needs a system call
 * per batch, not per frame; nothing is left in flight when a call returns.
 *
 * Open on main in stage 2; used on the loop of one owner (per queue pair), between attach and
 * detach. A peer may be hostile or dead: the worst it can do is take its link down.
 */
#ifndef DEVICES_HOST_LINK_H
#define DEVICES_HOST_LINK_H

#include <sys/uio.h>

#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"

struct link;

enum {
	LINK_OFFLOAD_CSUM = 1,
	LINK_OFFLOAD_TSO4 = 2,
	LINK_OFFLOAD_TSO6 = 4,
	LINK_OFFLOAD_TSO_ECN = 8,
	LINK_OFFLOAD_USO = 16,           /* UDP, over IPv4 and IPv6: Linux has both or none */
	/* frames that are larger than the MTU */
	LINK_OFFLOAD_SEGMENTS = LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6 | LINK_OFFLOAD_USO,
};

enum {
	LINK_HEADER_LEN = 12,            /* virtio 1.2 §5.1.6, with num_buffers */
	LINK_FRAME_MIN = 14,             /* an Ethernet header; padding is the wire's business */
	LINK_FRAME_MAX = 65535 + 14 + 4,
	LINK_IOV_MAX = 256,              /* longest iov of a frame */
	LINK_BATCH_MAX = 64,             /* frames of a send or recv */
	LINK_BATCH_IOVS = 512,           /* and their iovecs, together */
};

/* One frame of a batch. */
struct link_frame {
	struct iovec *iov;
	int n;                           /* elements of iov */
	size_t total;                    /* send: bytes, header included */
	ssize_t result;                  /* the link's answer */
};

/* All called on the owner's loop; `state` when `up` of the link changes. */
struct link_events {
	void (*readable)(void *ctx);     /* frames wait, and link_ops.listen(true) was said */
	void (*writable)(void *ctx);     /* after -EAGAIN of send */
	void (*state)(void *ctx, bool up);
	void *ctx;
};

struct link_ops {
	/*
	 * Send frames, in order. iov[0] of each is the header and nothing else; the link may
	 * overwrite that element. The iovecs of a batch lie in one array, frame behind frame.
	 * Returns how many it is done with, from the first on, and their results: 0: taken (sent,
	 * or dropped as a network may); -ENETDOWN: the link is down, frame dropped. Less than n:
	 * not now, send the rest again after `writable`.
	 */
	unsigned (*send)(struct link *l, struct link_frame *f, unsigned n);
	/*
	 * Receive frames in order, with its header before each, into f[].iov[0..n); iov[n] is room
	 * for the link's own use. Returns how many it is done with, from the first on, and their
	 * results: bytes, header included; -EMSGSIZE: iov is too small for the frame, which is
	 * gone, as is one that is malformed; -EAGAIN: seldom, no frame came into this one. Less
	 * than n: there are no more now, or the link is down.
	 */
	unsigned (*recv)(struct link *l, struct link_frame *f, unsigned n);
	/*
	 * Follow on main's loop what the host says of the link (its interface, the peer's process);
	 * the owner hears of it by `state`. Main, stage 2, once, before the first attach; of
	 * several links the first. NULL: there is nothing to follow.
	 */
	int (*watch)(struct link *l, struct loop *main_loop);
	int (*attach)(struct link *l, struct loop *loop, const struct link_events *events);
	/*
	 * Whether `readable` is wanted; off after attach. While it is off a waiting frame costs
	 * nothing.
	 */
	void (*listen)(struct link *l, bool on);
	void (*detach)(struct link *l);
	/*
	 * What the driver can take in frames that it receives (LINK_OFFLOAD_*, a subset of
	 * `offloads`).
	 */
	int (*set_offload)(struct link *l, unsigned offloads);
	/*
	 * One of several links to the same interface: whether frames are steered to it; they are
	 * when it is made. While they are not, nothing is received and what is sent is dropped.
	 * Owner, or main before the first attach. NULL: the only one there is.
	 */
	int (*enable)(struct link *l, bool on);
	/*
	 * For a process of its own (devices/virtio/virtio.h, may_fork); both NULL: the link cannot.
	 * fds: main. forked: a new process, before attach: another may have used the link
	 * meanwhile, and it is to be as main left it.
	 */
	void (*fds)(const struct link *l, void (*keep)(void *ctx, int fd), void *ctx);
	int (*forked)(struct link *l);
	/* Main; detached. Takes NULL. */
	void (*close)(struct link *l);
};

enum { LINK_SYSCALL_TABLES = 3 };

struct link {
	const struct link_ops *ops;
	unsigned offloads;   /* const; LINK_OFFLOAD_* that it can do */
	uint32_t mtu;        /* const; 0: unknown, any frame up to LINK_FRAME_MAX */
	/*
	 * const; a tap that the kernel's vhost can serve instead of send() and recv(), while it is
	 * attached and enabled here; frames have no header of their own when tap_header is false
	 */
	bool is_tap, tap_header;
	int tap_fd;
	/* const; what its owner does once the machine runs, and what main does, in close() too */
	const struct syscall_row *syscalls[LINK_SYSCALL_TABLES], *main_syscalls;
	const struct syscall_row *forked_syscalls; /* const; of forked() */
	const struct syscall_row *watch_syscalls;  /* const; of the loop that watch() was given */
	/* const; main follows it also for a process of its own, which hears as any owner does */
	bool watched_by_main;
	bool up;             /* owner; main before attach */
};

struct link_tap_config {
	const char *name;    /* NULL: the kernel chooses */
	const uint8_t *host_mac;
	const char *ip, *mask; /* of the host's end; NULL: left alone; mask NULL: 255.255.255.0 */
	uint32_t mtu;        /* 0: left alone */
};
/*
 * Link i of n, for n queues of the tap `name` (1, or 2 and more: a multi-queue tap). An existing
 * tap is attached to, else one is made, which needs CAP_NET_ADMIN.
 */
int link_tap_open(struct link **ret, unsigned n, const struct link_tap_config *config,
	struct error *err) NEEDS_CHECK;
/*
 * Fds that are queues of one tap already, handed over: link i of n. Takes them all, also when it
 * fails.
 */
int link_tap_adopt(struct link **ret, const int *fds, unsigned n, struct error *err) NEEDS_CHECK;

struct link_passt_config {
	const char *program;   /* "passt"; found by PATH */
	const char *const *args; /* more arguments (port forwards), NULL ends; may be NULL */
	uint32_t mtu;          /* 0: passt's own choice */
	bool forks;            /* served by one process after the other, which call forked() */
};
/*
 * Starts passt with one end of a socket pair, and watches it: when it dies the link goes down.
 * close() ends it.
 */
int link_passt_open(struct link **ret, const struct link_passt_config *config,
	struct error *err) NEEDS_CHECK;

#endif
