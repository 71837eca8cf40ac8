/*
 * A virtio device that another program serves: the front end of vhost-user (vhost_user_msg.h).
 *
 * The program (the back end) has guest memory and each queue's kick and call eventfds; requests
 * pass without us. What is ours is to agree on features, to hand over rings, and to get over the
 * end of the program: it may die, hang or talk nonsense at any time, and the guest sees requests
 * that take longer, never an error. We meet it again for as long as the machine runs.
 *
 * Parts: vhost_user.c the connection, vhost_user_steps.c what is agreed on it, with
 * vhost_user_memory.c for the guest's memory, vhost_user_ring.c rings and what is in flight in
 * them, back_vhost_user.c the back (back.h) in front of them; blk_vhost_user.c and net_vhost_user.c
 * are the devices.
 *
 * Threads: main makes it and meets the back end for the first time; from then on all of it belongs
 * to one worker, and the front's calls go there. Nothing there waits but the end of a queue, for
 * which the back end has VHOST_USER_STOP_MS.
 */
#ifndef DEVICES_VIRTIO_VHOST_USER_H
#define DEVICES_VIRTIO_VHOST_USER_H

#include "devices/host/unix_socket.h"
#include "devices/virtio/back.h"
#include "devices/virtio/vhost_user_msg.h"

enum {
	VHOST_USER_REPLY_MS = 5000,      /* to answer one message */
	VHOST_USER_STOP_MS = 15000,      /* to stop a queue, for which requests must end */
	VHOST_USER_AGAIN_MIN_MS = 10,    /* before we look for a back end that is gone; doubles up to */
	VHOST_USER_AGAIN_MAX_MS = 1000,
	VHOST_USER_INFLIGHT_MAX = 64 * MIB,
};

struct vhost_user;

/* Options of every device that can be served so. */
struct vhost_user_options {
	char *socket;
	bool on;
	uint32_t mode; /* enum vhost_user_mode */
};
enum vhost_user_mode { VHOST_USER_CLIENT, VHOST_USER_SERVER };
extern const char *const vhost_user_modes[];
#define VHOST_USER_OPTION_ROWS(T, m)                                                               \
	{ .key = "socket", .json = "vhost_socket", .type = OPTION_PATH, .offset = offsetof(T, m.socket), \
		.help = "served by another program (vhost-user) through this unix socket" },       \
	{ .key = "vhost_user", .type = OPTION_BOOL, .offset = offsetof(T, m.on), .def = "off",      \
		.help = "says so once more; socket alone does" },                                  \
	{ .key = "vhost_mode", .type = OPTION_ENUM, .offset = offsetof(T, m.mode), .def = "client", \
		.choices = vhost_user_modes,                                                       \
		.help = "with socket: connect to it, or (server) listen at it and wait" }

/* What a type of device says of itself; const. */
struct vhost_user_kind {
	const char *flag;      /* "disk" */
	uint64_t known;        /* feature bits of the device that we pass on between driver and back end */
	unsigned mtu_feature;  /* bit with which a driver takes the MTU that it is told; 0: has none */
	bool pairs;            /* its queues are counted in pairs, and a pair may be out of use */
	/*
	 * Requests end in any order, so what is in flight must be written down (GET_INFLIGHT_FD).
	 */
	bool inflight;
	/*
	 * The config space is the back end's: `bytes` of it came, dev->config.size of them. True:
	 * the driver is to hear of it. Main, or the worker. NULL: it is ours.
	 */
	bool (*config_came)(struct virtio_device *dev, uint8_t *bytes);
	/*
	 * Is a queue ours to serve, by the type's handle(), with what the driver has negotiated?
	 * Those behind the back end's are in any case. Pure. NULL: no other.
	 */
	bool (*is_own)(const struct virtio_device *dev, unsigned index);
	/* Its state was loaded. Main, paused. NULL: nothing to do. */
	void (*loaded)(struct virtio_device *dev);
};

struct vhost_user_ring {
	struct queue_setup setup; /* the driver's, and the indices where it goes on */
	bool started;             /* the driver wants it served */
	bool enabled;             /* its pair is in use */
	bool sent;                /* the back end of this connection has it */
	bool begun;               /* some back end had it since it was started */
	bool unclear;             /* it was lost with requests open that nobody kept track of */
	unsigned left;            /* requests that a lost back end left unanswered, when it was stopped */
};

/* A message on its way in. */
struct vhost_user_rx {
	struct vhost_user_msg msg;
	size_t got;
	int fds[UNIX_SOCKET_FDS];
	unsigned nfds;
};

/* What is wrong with a reply: a clause with the back end as its subject; NULL: nothing. */
typedef const char *vhost_user_take_fn(struct vhost_user *vu, const struct vhost_user_msg *reply);

/* worker: everything that is not const; main before the machine runs */
struct vhost_user {
	struct virtio_device *dev;           /* const */
	const struct vhost_user_kind *kind;  /* const */
	struct worker *worker;               /* const */
	struct loop *loop;                   /* const */
	struct error *starting;              /* main, while it meets the first back end; else NULL */
	char event[96];                      /* const; for main, when a back end is lost */

	/* the connection: vhost_user.c */
	char *path;                          /* const */
	struct unix_place place;             /* const */
	int listen_fd;                       /* const; -1: client */
	int fd;                              /* -1: nobody there */
	int own_fd;                          /* our end of the back end's own channel; -1: none */
	struct loop_source *source, *own_source, *listen_source, *err_source, *timer;
	uint32_t again_ms;                   /* the next wait before we look for it */
	uint64_t told_at;                    /* when main last heard of a loss, ns */
	bool away;                           /* it was lost, and no other serves yet */
	bool told, told_bad;                 /* meanwhile the log has it that nobody is there, or a bad one */
	struct vhost_user_rx rx, own_rx;
	struct vhost_user_msg asked;         /* waits for its reply; request NONE: nothing does */
	vhost_user_take_fn *take;            /* of that reply */
	uint64_t asked_until;                /* ns */

	/* what is agreed: vhost_user_steps.c */
	uint32_t done;                       /* steps, by bit */
	uint32_t asked_step;                 /* its bit, done with the reply; 0: it is of no step */
	bool met;                            /* the first meeting is over: what it offered is promised */
	uint64_t features;                   /* of this back end */
	uint64_t promised, promised_protocol;/* const when met: what every back end must offer */
	uint64_t protocol;                   /* agreed */
	bool driver;                         /* the driver has chosen */
	uint64_t chosen;                     /* by the driver */
	bool config_stale;                   /* the back end said that its config space changed */
	bool config_written;                 /* the driver wrote to it */
	uint64_t mtu;                        /* const; 0: not said */
	struct mem_region told_regions[MEM_REGIONS_MAX]; /* of memory */
	unsigned ntold;

	/* rings: vhost_user_ring.c */
	unsigned nrings;                     /* const; that the back end serves */
	int err_fd;                          /* const; the back end rings it for trouble with a ring */
	/*
	 * const; what it rings for a driver that polls: not all can do without, and nobody listens
	 */
	int mute_fd;
	int inflight_fd;                     /* -1: none yet */
	struct vhost_user_inflight inflight;
	void *look;                          /* const; room for one queue's region */
	size_t look_len;
	struct vhost_user_ring ring[VIRTIO_QUEUES_MAX];
};

/* First in the struct of a device that is served so. */
struct vhost_user_device {
	struct virtio_device dev;
	struct vhost_user *vu;               /* const; owned */
};

static inline bool vhost_user_agreed(const struct vhost_user *vu, unsigned protocol_bit)
{
	return vu->protocol & VIRTIO_BIT(protocol_bit);
}

/*
 * back_vhost_user.c. Main, stage 2, in a type's create(): meets the back end that `o` names, which
 * must serve `nrings` queues. With client mode it must be there; with server mode it is waited for.
 * Sets dev->features (of the kind's, what it offers), dev->make_back, and the config image where it
 * is the back end's. mtu 0: nothing is said of it.
 */
int vhost_user_open(struct vhost_user **ret, struct virtio_device *dev, const struct device_env *env,
	const struct vhost_user_kind *kind, const struct vhost_user_options *o, unsigned nrings, uint32_t mtu,
	struct error *err) NEEDS_CHECK;
/* Takes NULL. Main, when no worker runs any more. */
void vhost_user_close(struct vhost_user *vu);
/* "--disk vhost_user=on" without a socket and the like; also when there is none of it. */
int vhost_user_check_options(const struct vhost_user_options *o, const char *flag, struct error *err) NEEDS_CHECK;
/* For dev->make_back: of a struct vhost_user_device that has its vu. */
int vhost_user_make_back(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err) NEEDS_CHECK;
/* Use so many pairs of queues from now on (kind->pairs). The worker. */
void vhost_user_use_pairs(struct vhost_user *vu, unsigned pairs);

/* vhost_user.c; the worker, or main while nobody else can. */
/* The first meeting, with a sentence when it fails. Main. */
int vhost_user_meet(struct vhost_user *vu, struct error *err) NEEDS_CHECK;
/*
 * Send, and nothing comes back. False: the connection is lost, and everything about it has been
 * done. The descriptors stay the caller's.
 */
bool vhost_user_send(struct vhost_user *vu, struct vhost_user_msg *m, const int *fds, unsigned nfds);
/* The same, and `take` gets the reply. Nothing may be asked already. */
bool vhost_user_ask(struct vhost_user *vu, struct vhost_user_msg *m, const int *fds, unsigned nfds,
	vhost_user_take_fn *take);
/* Wait until nothing is asked any more, or the connection is lost. */
void vhost_user_settle(struct vhost_user *vu);
/* Give up the connection; `why` is a clause: "does not answer". */
void vhost_user_lose(struct vhost_user *vu, const char *why);
/* A channel for the back end's own requests; the caller closes its end, or -errno. */
int vhost_user_own_channel(struct vhost_user *vu, int *ret_theirs) NEEDS_CHECK;
extern const struct syscall_row vhost_user_syscalls[];

/* vhost_user_steps.c; likewise. */
/* A new connection, with nobody met. */
void vhost_user_steps_begin(struct vhost_user *vu);
/* Go on until something must be answered or the driver has to choose. */
void vhost_user_advance(struct vhost_user *vu);
/* Everything is agreed that a back end must have before it gets rings. */
bool vhost_user_ready(const struct vhost_user *vu);
/* The driver chose, or (false) begins anew. */
void vhost_user_driver(struct vhost_user *vu, bool there, uint64_t features);
/* Features that the guest may be offered, of `want`. Main, when met. */
uint64_t vhost_user_offer(const struct vhost_user *vu, uint64_t want);
/* Send, and wait for the reply that says yes or no where there are such (section "REPLY_ACK"). */
bool vhost_user_tell_sure(struct vhost_user *vu, struct vhost_user_msg *m, const int *fds, unsigned nfds);
/*
 * Tell the back end what the driver wrote to its config space; without the protocol feature
 * nothing.
 */
void vhost_user_write_config(struct vhost_user *vu, unsigned offset, unsigned len);

/* vhost_user_memory.c; likewise. */
bool vhost_user_memory_differs(const struct vhost_user *vu);
/* One message of what differs. */
bool vhost_user_tell_memory(struct vhost_user *vu);
void vhost_user_forget_memory(struct vhost_user *vu);

/* vhost_user_ring.c; likewise. */
/* Hand started rings over that the back end does not have yet. */
void vhost_user_send_rings(struct vhost_user *vu);
/* -EFAULT: a ring that is not in RAM. */
int vhost_user_start_ring(struct vhost_user *vu, const struct queue_setup *setup);
/* Fills the indices; nothing when it does not run. `ret` may be NULL. */
void vhost_user_stop_ring(struct vhost_user *vu, unsigned index, struct queue_setup *ret);
/* The back end that had them is lost. */
void vhost_user_lost_rings(struct vhost_user *vu);
/* Steps of in-flight tracking. */
bool vhost_user_get_inflight(struct vhost_user *vu);
bool vhost_user_set_inflight(struct vhost_user *vu);
void vhost_user_drop_inflight(struct vhost_user *vu);

#endif
