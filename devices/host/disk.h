/*
 * Where a disk's bytes go: offsets and iovecs in, completions out. A disk cannot tell which device
 * asked and knows nothing of virtio.
 *
 * Open on main in stage 2, and with it one `disk_queue` per owner. On its loop the owner attaches
 * the queue, uses it, and detaches it again. Requests are started in any number and sent to the
 * kernel together by submit(); completions come back through `done`, in any order, several per
 * wake-up, then once `batch_done`. Both may also be called from inside submit() and drain(), for
 * what was finished at once; start() and submit() may be called from inside both. The caller checks
 * ranges against disk_info; start() checks them once more against the size the disk has then.
 */
#ifndef DEVICES_HOST_DISK_H
#define DEVICES_HOST_DISK_H

#include <errno.h>
#include <sys/uio.h>

#include "vmm/error.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"
#include "vmm/util.h"

struct disk;
struct disk_queue;
struct disk_slow;

enum { DISK_SECTOR = 512 };
enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

/* Of a disk whose zones must be written from their beginning on (SMR, ZNS). 0 of a limit: none. */
struct disk_zoned {
	uint64_t zone_size;       /* bytes; 0: the disk has no zones */
	uint32_t max_open, max_active;
	uint32_t write_granularity; /* bytes */
};

struct disk_info {
	/* bytes, a multiple of 512; what resize() changes while queues run: __atomic */
	uint64_t size;
	/* logical: 512 or more; requests are multiples of it when direct */
	uint32_t block_size;
	uint32_t physical_block;  /* preferred */
	bool readonly;
	bool can_discard, can_write_zeroes;
	uint32_t discard_granularity;
	bool can_secure_erase, has_lifetime;
	struct disk_zoned zoned;
	/* bytes that a disk opened as `image` has now; below `size` where writes make it longer */
	uint64_t stored;
};

/* One request; owned by the caller, embedded in its own, untouched from start() until done. */
struct disk_request {
	enum disk_op op;
	bool unmap;               /* WRITE_ZEROES may deallocate */
	/* WRITE, WRITE_ZEROES, DISCARD: done only when on stable storage */
	bool sync;
	uint64_t offset, len;     /* bytes; len is above 0 but for FLUSH */
	/*
	 * READ, WRITE: `len` bytes; the disk advances them, they are the caller's again when done
	 */
	struct iovec *iov;
	int iovcnt;
	/* the disk's own, as are those below: start() sets them, whatever they are before */
	uint64_t done_so_far;
	uint8_t phase, tries;
	bool buffered;
	uint32_t piece;           /* bytes of the command that is out */
	uint32_t words[4];        /* what that command refers to */
	struct disk_request *next;
};

struct disk_events {
	/*
	 * `result` 0, or -errno: -EIO, -ENOSPC, -EROFS ... A short transfer is never reported as 0:
	 * it is continued or is -EIO. -ENOTRECOVERABLE: what must be stable cannot be any more, on
	 * this disk, however often it is tried.
	 */
	void (*done)(void *ctx, struct disk_request *rq, int result);
	void (*batch_done)(void *ctx);
	void *ctx;
};

struct disk_ops {
	void (*info)(const struct disk *d, struct disk_info *ret);
	/*
	 * Main, stage 2: everything that opens or maps. At most `depth` requests will be in flight.
	 */
	int (*queue_create)(struct disk_queue **ret, struct disk *d, unsigned depth,
		const struct disk_events *events, struct error *err);
	/* Main; detached. Takes NULL. */
	void (*queue_destroy)(struct disk_queue *q);
	/*
	 * The calling thread is the owner from now on, always the same one. `loop` NULL: nobody
	 * waits for completions, they are found by submit() and drain() (unit tests, fuzzers).
	 */
	int (*queue_attach)(struct disk_queue *q, struct loop *loop);
	/* Nothing may be in flight. */
	void (*queue_detach)(struct disk_queue *q);
	/*
	 * Never blocks on the disk. On an error nothing was started and `done` will not be called:
	 * -EBUSY when `depth` are in flight, -ERANGE outside of the disk, -EROFS, -EINVAL for a len
	 * of 0 or no multiple of 512, -EIO when its file was cut short.
	 */
	int (*start)(struct disk_queue *q, struct disk_request *rq);
	/*
	 * One io_uring_enter for all that was started. What the kernel does not take now is sent
	 * again later by itself.
	 */
	void (*submit)(struct disk_queue *q);
	/*
	 * Collect what is finished, without waiting: true when something was (its `done` calls are
	 * made). For owners that look again and again; NULL: nothing is ever finished unasked.
	 */
	bool (*poll)(struct disk_queue *q);
	/*
	 * In place of submit() or poll(), for owners that have nothing more to start now: send, and
	 * where many are in flight wait until a part of them is finished, half a millisecond at
	 * most, and not where that was in vain of late (gather.h). True as of poll(). NULL: nothing
	 * is worth waiting for.
	 */
	bool (*gather)(struct disk_queue *q);
	/*
	 * Block until all in flight are done (their `done` calls are made). Owner: so a machine
	 * pauses its devices before it stops their workers.
	 */
	void (*drain)(struct disk_queue *q);
	/*
	 * The host may have changed the size: look, and serve the new one from now on. What is in
	 * flight beyond it fails as a disk that ends there does. Owner of any queue, which need not
	 * be idle. -EINVAL: the new size is no disk's, and the old one stays. NULL: never changes.
	 */
	int (*resize)(struct disk *d, uint64_t *ret_size);
	/*
	 * Work that takes as long as the disk likes (disk_slow.h): blocks until it is done. Any
	 * thread that has the rows of `slow_syscalls`, one at a time. 0, or -errno. NULL: no such
	 * work; so it may be where none of can_secure_erase, has_lifetime and zoned says otherwise.
	 */
	int (*slow)(struct disk *d, struct disk_slow *job);
	/*
	 * For a process of its own (devices/virtio/virtio.h, may_fork); all NULL: the disk cannot.
	 * fds: main. forked: a new process, for the disk and then for each of its queues; `kept`:
	 * DISK_KEPT_MAX bytes that all lives share, zeroed before the first (NULL: nothing is to be
	 * kept of a disk that is only read); `tomb` is registered
	 * with all that may outlive the process.
	 */
	void (*fds)(const struct disk *d, void (*keep)(void *ctx, int fd), void *ctx);
	void (*forked)(struct disk *d, void *kept);
	int (*queue_forked)(struct disk_queue *q, int tomb);
	/* Main; queues destroyed. Takes NULL. */
	void (*close)(struct disk *d);
};

enum { DISK_SYSCALL_TABLES = 3, DISK_KEPT_MAX = 64 };

struct disk {
	const struct disk_ops *ops;
	/* const after the last queue_create(): what owners of queues do, and main in close() */
	const struct syscall_row *syscalls[DISK_SYSCALL_TABLES], *main_syscalls, *slow_syscalls;
	const struct syscall_row *forked_syscalls; /* of queue_forked() */
	/* const after open; whole pages that all lives see too, MADV_DONTFORK; NULL */
	void *pages;
	size_t pages_bytes;
};

/*
 * What start() of every kind of disk checks first: -EROFS, -EINVAL, -ERANGE, or 0. For disks, not
 * for their owners.
 */
static inline int disk_check(const struct disk_info *info, const struct disk_request *rq)
{
	const uint64_t size = __atomic_load_n(&info->size, __ATOMIC_RELAXED);

	if (rq->op != DISK_READ && (rq->op == DISK_FLUSH || info->readonly))
		return rq->op == DISK_FLUSH ? 0 : -EROFS;
	/* len - 1 is huge for 0, and else below what is left of the disk from `offset` on */
	if (!((rq->offset | rq->len) % DISK_SECTOR) && rq->offset < size && rq->len - 1 < size - rq->offset)
		return 0;
	return !rq->len || (rq->offset | rq->len) % DISK_SECTOR ? -EINVAL : -ERANGE;
}

struct disk_raw_config {
	const char *path;
	bool readonly;
	/*
	 * past the page cache; requests that the file cannot take so (alignment) go through it all
	 * the same
	 */
	bool direct;
	/*
	 * where nearly all buffers of requests will lie: the kernel holds these pages for good,
	 * instead of looking them up for each request. Needed until open() returns; 0: none
	 */
	const struct iovec *fixed;
	unsigned nfixed;
	/* an io_uring as a kernel has it that lacks so many of the newer features (unit tests) */
	unsigned ring_level;
	/* system calls that block instead of io_uring; also what a kernel without io_uring gets */
	bool plain;
	/* served by another process, which calls forked() and queue_forked() */
	bool forks;
	/*
	 * what an image format lies in: of any length, longer after a write past its end (a file),
	 * and zeroes past it
	 */
	bool image;
};
/*
 * File or block device; takes an advisory lock (OFD, whole file; exclusive unless read-only). The
 * sentence in `err` does not repeat the path: prefix it with the option. A flush that failed once
 * makes the disk fail all later ones, since the kernel forgets which pages were lost.
 */
int disk_raw_open(struct disk **ret, const struct disk_raw_config *config,
	struct error *err) NEEDS_CHECK;

/*
 * As `forks` of its configuration, from now on: main has read what it needs of an image, and queues
 * that are made next are for another process.
 */
void disk_raw_will_fork(struct disk *disk);

struct disk_null_config {
	uint64_t size;            /* bytes, a multiple of 512 */
	bool readonly;
	/* false: a read leaves the buffer as it is, which saves writing it */
	bool read_zeroes;
};
/* No medium: all is done at once and nothing kept. It makes no system calls. */
int disk_null_open(struct disk **ret, const struct disk_null_config *config,
	struct error *err) NEEDS_CHECK;

#endif
