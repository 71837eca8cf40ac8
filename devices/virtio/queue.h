/*
 * The device's end of a virtqueue: split (§2.7) and packed (§2.8) rings behind one set of calls.
 *
 * A queue is made from a frozen copy of what the driver programmed (struct queue_setup): nothing
 * the guest writes to registers later reaches it. It has one owner, a worker; there is no lock.
 * Rings are mapped once at queue_open() and again when the memory map's generation changes.
 *
 *   popped == returned + in_flight, always: every head that queue_pop() took is given back exactly
 *   once, by queue_push(). A chain that is malformed is consumed too (used length 0) before -EPROTO
 *   is reported.
 *
 * Trust: ring indices, flags and descriptors are read once into locals; a driver that breaks the
 * ring's rules (idx further ahead than the size, head out of range or already in flight, loop, too
 * long, readable after writable, indirect without the feature or nested or with NEXT, address not
 * RAM, total above 4 GiB - 1, zero-length) makes the queue `broken`: queue_pop() returns -EPROTO
 * from then on and the device asks for a reset.
 *
 * Notifications: EVENT_IDX (§2.7.10, §2.8.10), flags without it. queue_push() only fills used
 * entries; queue_flush() publishes them and rings the call fd if the driver wants it: once per
 * batch. queue_enable_kick() re-arms and tells whether more came meanwhile.
 */
#ifndef DEVICES_VIRTIO_QUEUE_H
#define DEVICES_VIRTIO_QUEUE_H

#include <sys/uio.h>

#include "vmm/loop.h"
#include "vmm/mem.h"

/*
 * Frozen at enable; also what save and vhost back ends speak. Packed ring: avail = driver event
 * area, used = device's.
 */
struct queue_setup {
	uint16_t index;
	uint16_t size;
	uint64_t desc, avail, used;
	uint64_t features;         /* negotiated */
	int kick_fd, call_fd;      /* call -1: the driver polls */
	/*
	 * Where to go on. Split: next avail index and used index. Packed: bits 0-14 offset, 15 wrap
	 * counter. Fresh start: 0,0 or 0x8000,0x8000.
	 */
	uint16_t next_avail, next_used;
};

struct queue;
struct chain;

/* Counters that only the owner writes; others may read them (relaxed). */
struct queue_stats {
	uint64_t popped, returned, malformed, kicks, calls, calls_suppressed;
};

/*
 * -EINVAL: size or alignment; -EFAULT: a ring is not wholly in RAM. `priv_size` bytes of zeroed
 * queue_priv().
 */
int queue_open(struct queue **ret, struct guest_mem *mem, const struct queue_setup *setup,
	size_t priv_size) NEEDS_CHECK;
/*
 * The same in memory that main mapped in stage 2, because the filter of a worker has no row for
 * mmap: n rooms for queues of up to `size` without private bytes. Untouched pages cost nothing. A
 * room holds one open queue at a time; -ENOMEM: it is too large for the room. Main; free takes
 * rooms of zeroes.
 */
struct queue_room {
	void *base;
	size_t bytes;
};
int queue_room_create(struct queue_room *ret, unsigned n, unsigned size) NEEDS_CHECK;
void queue_room_free(struct queue_room *room, unsigned n);
int queue_open_in(struct queue **ret, const struct queue_room *room, struct guest_mem *mem,
	const struct queue_setup *setup, size_t priv_size) NEEDS_CHECK;
/* Nothing may be in flight. Fills next_avail and next_used when `ret` is not NULL. Takes NULL. */
void queue_close(struct queue *q, struct queue_setup *ret);

unsigned queue_index(const struct queue *q);
unsigned queue_size(const struct queue *q);
unsigned queue_in_flight(const struct queue *q);
bool queue_broken(const struct queue *q);
/* Where the chain that is pushed next goes, in the form of queue_setup.next_used. Owner. */
uint16_t queue_next_used(const struct queue *q);
void *queue_priv(const struct queue *q);
const struct queue_stats *queue_stats(const struct queue *q);

/* The loop of the owner; set by the back before queue_start. */
void queue_set_loop(struct queue *q, struct loop *loop);
struct loop *queue_loop(const struct queue *q);

/*
 * Take the next chain: a private copy that stays valid until queue_push(), also with others in
 * flight. 1 with *ret, 0: empty, -EPROTO: broken. At most queue_size() are ever in flight.
 */
int queue_pop(struct queue *q, struct chain **ret) NEEDS_CHECK;
/*
 * As many as there are, at most `max` (not 0), in the driver's order: how many, or as queue_pop().
 * Those before one that breaks the queue are handed out, and the next call says -EPROTO.
 */
int queue_pop_batch(struct queue *q, struct chain **ret, unsigned max) NEEDS_CHECK;
/*
 * Give the chain back as if it had never been popped; only the last one popped, with nothing pushed
 * since, then the one before it. For net rx. On a queue that broke meanwhile it goes back to the
 * driver with used length 0.
 */
void queue_unpop(struct queue *q, struct chain *chain);
/*
 * Return it; used length = what was written (chain_written). With IN_ORDER the queue itself keeps
 * the order.
 */
void queue_push(struct queue *q, struct chain *chain);
/* The same for several, in this order. */
void queue_push_batch(struct queue *q, struct chain **chains, unsigned n);
/* Publish what was pushed; ring the call fd if the driver asked. Returns 1 when it rang. */
int queue_flush(struct queue *q);
/*
 * Only the first half of it: a driver that looks goes on while its device does, one that waits for
 * its interrupt is rung by the queue_flush() that must follow.
 */
void queue_publish(struct queue *q);
/*
 * For a device that gathers interrupts (§5.1.6.5.10): while `on`, queue_flush() only publishes, and
 * the driver is rung by queue_call(), if it still wants to be; at the latest when half a ring of
 * entries was not rung for, or the queue is closed. Off when opened.
 */
void queue_hold_calls(struct queue *q, bool on);
/* Ring for what was published and not rung for yet. Returns 1 when it rang. */
int queue_call(struct queue *q);

/*
 * While draining, tell the driver not to kick; enable_kick returns true when chains arrived
 * meanwhile (pop again).
 */
void queue_disable_kick(struct queue *q);
bool queue_enable_kick(struct queue *q) NEEDS_CHECK;
/*
 * After queue_enable_kick(), and before a chain came: no kick after all. One may have been sent
 * meanwhile, and does no harm.
 */
void queue_disarm_kick(struct queue *q);
/* Is there a chain to pop, cheaply? (for polling and net rx) */
bool queue_has_avail(struct queue *q);
/* Count a kick that reached the owner. */
void queue_kicked(struct queue *q);

/* What the owner of a queue asks of the kernel. */
extern const struct syscall_row queue_syscalls[];

#endif
