/*
 * The words of virtio (OASIS Virtual I/O Device 1.2, and 1.3 where said), and what one virtio
 * device is.
 *
 *   guest ⇄ transport (PCI | MMIO) ⇄ front ⇄ back ⇄ host side
 *
 * `struct virtio_type` is the const description of a device: from it come its options, its queues,
 * its place in the sandbox and its state. `struct virtio_device` is what the device's own code
 * sees: its queues, its config image, its loop. Device code runs on its worker and touches nothing
 * else; it never sees a descriptor, a register or a vCPU.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_H
#define DEVICES_VIRTIO_VIRTIO_H

#include <stdatomic.h>

#include "vmm/device.h"

enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
};

/* §2.1 */
enum virtio_status {
	VIRTIO_S_ACKNOWLEDGE = 1,
	VIRTIO_S_DRIVER = 2,
	VIRTIO_S_DRIVER_OK = 4,
	VIRTIO_S_FEATURES_OK = 8,
	VIRTIO_S_NEEDS_RESET = 64,
	VIRTIO_S_FAILED = 128,
};

/* §6, bit numbers */
enum virtio_feature {
	VIRTIO_F_INDIRECT_DESC = 28,
	VIRTIO_F_EVENT_IDX = 29,
	VIRTIO_F_VERSION_1 = 32,
	VIRTIO_F_ACCESS_PLATFORM = 33,
	VIRTIO_F_RING_PACKED = 34,
	VIRTIO_F_IN_ORDER = 35,
	VIRTIO_F_RING_RESET = 40,
};
#define VIRTIO_BIT(n) (UINT64_C(1) << (n))

enum { VIRTIO_QUEUES_MAX = 64, VIRTIO_QUEUE_SIZE_MAX = 1024, VIRTIO_CONFIG_MAX = 256, VIRTIO_NO_VECTOR = 0xffff,
	VIRTIO_KEPT_MAX = 64 };

struct virtio_device;
struct back;
struct queue;
struct chain;

/*
 * The config space image (§2.5). Writers are the worker and the front (for guest writes), one at a
 * time; readers are vCPU threads: a sequence counter, even when stable; its upper bits are the
 * config generation of §2.5.1.
 */
struct virtio_image {
	_Atomic uint32_t seq;
	_Atomic uint8_t bytes[VIRTIO_CONFIG_MAX];
};
struct virtio_config {
	uint32_t size;
	struct virtio_image own;
	/* where the image is instead, when a process of its own serves the device; NULL: above */
	struct virtio_image *shared;
};
/*
 * Any thread; a torn read is retried. Bytes past `size` read 0. A shared image may have been left
 * in the middle of a write, or be written without end: it is waited for so long and no longer.
 */
void virtio_config_read(const struct virtio_config *c, unsigned offset, void *data, unsigned len);
void virtio_config_write(struct virtio_config *c, unsigned offset, const void *data, unsigned len);
uint32_t virtio_config_generation(const struct virtio_config *c);

/* Options that every virtio device has; first member of each device's options struct. */
struct virtio_options {
	char *id;
	uint32_t transport; /* enum virtio_transport_kind */
	bool packed;        /* offer VIRTIO_F_RING_PACKED */
	bool in_order;      /* offer VIRTIO_F_IN_ORDER */
	uint32_t isolation; /* enum virtio_isolation */
	uint32_t queue_size;
};
enum virtio_transport_kind { VIRTIO_TRANSPORT_PCI, VIRTIO_TRANSPORT_MMIO };
extern const char *const virtio_transport_choices[];
/* AUTO: as --isolation says, where the device can. */
enum virtio_isolation { VIRTIO_ISOLATION_AUTO, VIRTIO_ISOLATION_THREAD, VIRTIO_ISOLATION_PROCESS };
extern const char *const virtio_isolation_choices[];
/* device_type.shares_memory of what may_fork; `options` begins with a struct virtio_options. */
bool virtio_shares_memory(const void *options);
/*
 * The rows for them; the options struct must begin with a struct virtio_options. Used inside a rows
 * table.
 */
#define VIRTIO_OPTION_ROWS(default_queue_size)                                                     \
	{ .key = "id", .type = OPTION_STRING, .offset = offsetof(struct virtio_options, id),        \
		.help = "name of the device in logs and API" },                                    \
	{ .key = "transport", .type = OPTION_ENUM, .def = "pci",                                    \
		.offset = offsetof(struct virtio_options, transport),                              \
		.choices = virtio_transport_choices, .help = "how the guest finds the device" },    \
	{ .key = "packed", .type = OPTION_BOOL, .offset = offsetof(struct virtio_options, packed),  \
		.def = "on", .help = "offer packed rings; the guest chooses" },                     \
	{ .key = "in_order", .type = OPTION_BOOL, .def = "off",                                     \
		.offset = offsetof(struct virtio_options, in_order),                               \
		.help = "offer in-order completion" },                                             \
	{ .key = "isolation", .type = OPTION_ENUM, .def = "auto",                                   \
		.offset = offsetof(struct virtio_options, isolation),                              \
		.choices = virtio_isolation_choices,                                               \
		.help = "served by threads of this program, or by a process of its own; auto: as " \
			"--isolation says" },                                                      \
	{ .key = "queue_size", .type = OPTION_U32, .def = default_queue_size, .min = 2,             \
		.max = VIRTIO_QUEUE_SIZE_MAX, .unit = "descriptors, a power of two",               \
		.offset = offsetof(struct virtio_options, queue_size),                             \
		.help = "largest size of each queue" }

/*
 * What main and a device's workers tell each other of requests that are held until the machine goes
 * on (virtio_type.retry, held).
 */
struct virtio_hold {
	_Atomic uint32_t held;    /* workers; how many, over all queues */
	_Atomic uint32_t retries; /* main; how often they were to be tried again */
	_Atomic uint32_t changes; /* counted up before a queue is woken to look again */
};

/* What a new process of a device is given that belongs to this life, or to all of them. */
struct virtio_life {
	int tomb;   /* to be registered with all that may outlive the process (vmm/process.h) */
	void *kept; /* VIRTIO_KEPT_MAX bytes of the device's own, zeroed before the first life */
};

struct virtio_type {
	const char *name;                   /* "virtio-blk" */
	enum virtio_id id;
	uint32_t pci_class;
	uint64_t features;                  /* beyond the transport's own (VERSION_1, rings, EVENT_IDX, INDIRECT) */
	uint16_t nqueues;                   /* at most; create() may lower dev->nqueues */
	uint16_t queues_per_worker;         /* 1: a worker per queue, 2: per pair; 0: one for all */
	/*
	 * The worker of queue i, counted from 0 and each first named by a lower queue than the
	 * next; NULL: i / queues_per_worker. At set-up, pure.
	 */
	unsigned (*worker_of)(const struct virtio_device *dev, unsigned queue);
	enum worker_share share;            /* of its workers */
	const char *thread_suffix;          /* "q", "qp": threads are "<id>_q0", ... */
	size_t size;                        /* of the device's struct, which begins with struct virtio_device */
	uint32_t config_size;
	const struct option_group *options;
	const struct syscall_row *syscalls;
	const struct state_desc *state;     /* of the device's struct; NULL: the rings are all its state */

	/*
	 * Main, stage 2: open the host side; add to dev->features (0 before; what is offered beyond
	 * `features` above), fill the config image, lower nqueues.
	 */
	int (*create)(struct virtio_device *dev, const struct device_env *env, const void *options,
		struct error *err);
	/*
	 * All below: the worker that owns the queue.
	 * queue_start: `q` is ready to be popped; arm host fds. May be NULL.
	 * handle: the guest kicked, or the queue was just started: pop until empty. Bounded by the
	 * queue's size per call;
	 *   kicks are off meanwhile and queue_flush() comes after it; who pushes at another time
	 *   flushes himself. Returns 1 when there may be more (called again soon), 0, or -EPROTO
	 *   (the ring is broken → NEEDS_RESET). Chains it leaves while it returns 0 are its own to
	 *   fetch later (net rx); it is called again at the next kick.
	 * queue_stop: return only when nothing is in flight; every popped head has been pushed. May
	 * be NULL.
	 */
	int (*queue_start)(struct virtio_device *dev, struct queue *q);
	int (*handle)(struct virtio_device *dev, struct queue *q);
	void (*queue_stop)(struct virtio_device *dev, struct queue *q);
	/*
	 * Collect what the host side has finished, without waiting for it; true when there was
	 * something. Only while a worker polls (poll_ns). May be NULL.
	 */
	bool (*poll)(struct virtio_device *dev, struct queue *q);
	/*
	 * As poll(), but of GATHER_LEAST or more chains that are with the host it waits for a part,
	 * for GATHER_NS at most, where that pays (devices/host/gather.h). May be NULL.
	 */
	bool (*gather)(struct virtio_device *dev, struct queue *q);
	/*
	 * The guest wrote config space; the image has the bytes already when writable said so.
	 * Queue 0's worker. May be NULL.
	 */
	void (*config_written)(struct virtio_device *dev, unsigned offset, unsigned len);
	/* Which config bytes the guest may write; NULL: none. Any thread, pure. */
	bool (*config_writable)(const struct virtio_device *dev, unsigned offset, unsigned len);
	/*
	 * The driver reset the device, or the machine does: what the driver set by other ways than
	 * features and config space is as at the start. No queue runs. Queue 0's worker. May be
	 * NULL.
	 */
	void (*reset)(struct virtio_device *dev);
	/*
	 * Main, without waiting. Requests that failed and were held, and VM_EVENT_PAUSE posted, are
	 * tried again; how many are held now. Both or none.
	 */
	void (*retry)(struct virtio_device *dev);
	unsigned (*held)(const struct virtio_device *dev);
	/*
	 * The device can be served by a process of its own: what is in flight may be begun again
	 * by another one.
	 *   fds: main, after create(): all that it does its work with. May be NULL.
	 *   forked: a new process, before it is sealed: make anew what belongs to one process. May
	 *   be NULL.
	 */
	bool may_fork;
	/*
	 * Its process may post these events beside VM_EVENT_DEVICE_ERROR: a set of 1 << enum
	 * vm_event.
	 */
	unsigned may_post;
	void (*fds)(const struct virtio_device *dev, void (*keep)(void *ctx, int fd), void *ctx);
	int (*forked)(struct virtio_device *dev, const struct virtio_life *life, struct error *err);
	/*
	 * After that, when the loops of its workers are there: watch what is watched whether or not
	 * queues run. `loop` is that of queue 0's worker. May be NULL.
	 */
	int (*begin)(struct virtio_device *dev, struct loop *loop, struct error *err);
	/*
	 * The machine's side, vCPU or main: the process has stopped a queue. Posts, does not wait.
	 * May be NULL.
	 */
	void (*stopped)(struct virtio_device *dev);
	/* Main; host fds are closed here. Half-built devices too. May be NULL. */
	void (*destroy)(struct virtio_device *dev);
};

enum { VIRTIO_SYSCALL_TABLES = 4 };

/* First member of a device's struct. */
struct virtio_device {
	const struct virtio_type *type;
	char id[DEVICE_ID_MAX];
	struct guest_mem *mem;             /* const after create */
	const struct vm_events *events;    /* const after create */
	uint64_t offered;                  /* const after create: all feature bits the device offers */
	uint64_t required;                 /* const after create: what a driver must accept to have it at all */
	uint64_t features;                 /* negotiated; set before the first queue_start */
	uint16_t nqueues;                  /* const after create */
	uint16_t queue_size;               /* const after create: the largest */
	bool isolated;                     /* const; in a process of its own; create() may refuse */
	/* const after create: the worker of queue i runs on cpus[i % ncpus]; ncpus 0: anywhere */
	const uint32_t *cpus;
	uint32_t ncpus;
	struct rate *group;                /* const after create; limits that other devices share; NULL */
	/* const after create; whole pages that all lives of its process see, MADV_DONTFORK; NULL */
	void *pages;
	size_t pages_bytes;
	bool locks_memory;                 /* const after create; the guest's, in each life */
	/*
	 * const after create: how long a worker that ran out of work looks for more before it
	 * sleeps; 0: not at all
	 */
	uint64_t poll_ns;
	/* const after create: what its workers do beyond type->syscalls, by what was opened */
	const struct syscall_row *syscalls[VIRTIO_SYSCALL_TABLES];
	const struct syscall_row *forked_syscalls; /* const after create: of type->forked() */
	struct virtio_config config;
	/* as the config image: our own, or where main and all lives of a process see it */
	struct virtio_hold own_hold, *shared_hold;
	struct queue *queues[VIRTIO_QUEUES_MAX]; /* running ones, else NULL; entry i: owner of queue i */
	/*
	 * const after create: who serves the queues (back.h), when it is not a worker of ours.
	 * Main, stage 2, after create(). NULL: back_worker_create.
	 */
	int (*make_back)(struct back **ret, struct virtio_device *dev, const struct device_env *env,
		struct error *err);
	/*
	 * Tell the guest that the config image changed (§2.5). Any worker of the device; posts to
	 * the front.
	 */
	void (*config_changed)(struct virtio_device *dev);
	/*
	 * The ring or device broke: NEEDS_RESET (§2.1.1). Any worker of the device; posts to the
	 * front.
	 */
	void (*broken)(struct virtio_device *dev);
	/*
	 * A command of the driver's changed what type->state saves; called before its answer is
	 * published. Worker of queue 0. NULL: nobody wants to know.
	 */
	void (*state_changed)(struct virtio_device *dev);
	void *front;                       /* for those above only */
};

static inline struct virtio_hold *virtio_hold(const struct virtio_device *dev)
{
	return dev->shared_hold ? dev->shared_hold : (struct virtio_hold *)(uintptr_t)&dev->own_hold;
}

static inline bool virtio_has(const struct virtio_device *dev, unsigned bit)
{
	return dev->features & VIRTIO_BIT(bit);
}

/*
 * front.h: makes a virtio device of this type with its front, back and transport. For a row's
 * create().
 */
int virtio_create(struct device **ret, const struct device_type *row, const struct virtio_type *type,
	const struct device_env *env, const void *options, struct error *err) NEEDS_CHECK;

#endif
