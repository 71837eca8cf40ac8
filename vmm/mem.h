/*
 * Guest memory: the only place where a guest address becomes a pointer.
 *
 * A guest address is a `gpa_t`, a struct that cannot be dereferenced or added to by accident.
 * Accessors take a length, check with overflow-safe arithmetic that the whole range is RAM (never
 * MMIO, never a hole; a range may span two adjacent regions), and copy. Bulk data gets iovecs, one
 * per region touched.
 *
 * Regions are added by main before the machine runs, or with all vCPUs parked and workers drained;
 * then `generation` moves on, and rings that were mapped are mapped again. All other calls: any
 * thread, no lock.
 *
 * The bytes behind a pointer change under us at any time (the guest runs): read once, check the
 * copy.
 */
#ifndef VMM_MEM_H
#define VMM_MEM_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "vmm/error.h"
#include "vmm/util.h"

typedef struct {
	uint64_t v;
} gpa_t;

static inline gpa_t gpa(uint64_t v)
{
	return (gpa_t){ v };
}

enum mem_kind {
	MEM_RAM,    /* DMA target, saved, migrated */
	MEM_WINDOW, /* shared-memory window of a device (DAX, blobs): mapped into the guest, never a DMA target */
};

enum { MEM_REGIONS_MAX = 32 };

/* One region as listeners see it: KVM slots, vhost tables, VFIO maps, dirty logs. */
struct mem_region {
	uint64_t gpa, size; /* page aligned */
	uint8_t *host;
	enum mem_kind kind;
	int fd;             /* memfd behind it, or -1 (anonymous) */
	uint64_t fd_offset;
	unsigned slot;
};

struct guest_mem;

/*
 * What is asked for each buffer of a guest, in front of struct guest_mem, so that the answer costs
 * no call: the RAM regions by address, and the two words that say whether anything is out of the
 * ordinary. Written by mem.c alone, as the map is.
 */
struct mem_head {
	uint32_t generation;
	_Atomic bool log; /* a dirty log is on */
	struct mem_ram {
		uint64_t gpa, size;
		uint8_t *host;
	} ram[MEM_REGIONS_MAX + 1]; /* size 0 ends them */
};

static inline const struct mem_head *mem_head(const struct guest_mem *mem)
{
	return (const struct mem_head *)mem;
}

struct mem_config {
	bool shared;    /* a sealed memfd instead of anonymous memory */
	bool hugepages; /* hugetlb, with hugepage_size (0: the host's default) */
	uint64_t hugepage_size;
	bool thp;       /* transparent huge pages */
	bool prefault;
	bool mergeable;
};

int mem_create(struct guest_mem **ret, struct error *err) NEEDS_CHECK;
/* Takes NULL. */
void mem_destroy(struct guest_mem *mem);

/*
 * Allocate and add RAM at [gpa, gpa + size), between pages without access. Main only. -EINVAL
 * overlap or alignment, -ENOMEM, -ENOSPC.
 */
int mem_add_ram(struct guest_mem *mem, uint64_t gpa, uint64_t size, const struct mem_config *config,
	struct error *err) NEEDS_CHECK;
/* Tests: RAM over memory that the caller owns and outlives `mem`. */
int mem_add_borrowed(struct guest_mem *mem, uint64_t gpa, uint64_t size, void *host);

unsigned mem_region_count(const struct guest_mem *mem);
const struct mem_region *mem_region(const struct guest_mem *mem, unsigned i);
uint64_t mem_ram_size(const struct guest_mem *mem);
static inline uint32_t mem_generation(const struct guest_mem *mem)
{
	return mem_head(mem)->generation;
}

/*
 * Listeners hear of each region: those that are there now at once, later ones as they come. Main
 * only.
 */
struct mem_listener {
	int (*add)(struct mem_listener *self, const struct mem_region *region, struct error *err);
	void (*remove)(struct mem_listener *self, const struct mem_region *region);
	struct mem_listener *next;
};
int mem_listen(struct guest_mem *mem, struct mem_listener *listener, struct error *err) NEEDS_CHECK;
/* Hears no more, and is not told of what is there now. One that never listened: nothing. Main. */
void mem_unlisten(struct guest_mem *mem, struct mem_listener *listener);

/*
 * Copy out of / into RAM. 0, or -EFAULT when any byte of the range is not RAM (then nothing was
 * copied).
 */
int mem_read(const struct guest_mem *mem, gpa_t addr, void *buf, size_t len) NEEDS_CHECK;
int mem_write(struct guest_mem *mem, gpa_t addr, const void *buf, size_t len) NEEDS_CHECK;

/*
 * The range as iovecs, one per region. Returns how many were filled, -EFAULT (not RAM), -E2BIG
 * (more than `max`). len 0 gives 0. Who writes through them calls mem_dirty_host() when the bytes
 * are there.
 */
int mem_iov(const struct guest_mem *mem, gpa_t addr, size_t len, struct iovec *iov, int max) NEEDS_CHECK;

/*
 * The host's pointer to [addr, addr + len) when one region of RAM holds it all: this one, or any.
 * Else NULL, also for a len of 0, and mem_iov() knows whether it is several regions or none. An
 * entry of `ram` may be remembered as a guess for the next lookup: what it says is checked each
 * time.
 */
static inline bool mem_holds(const struct mem_ram *r, gpa_t addr, size_t len)
{
	uint64_t off = addr.v - r->gpa; /* huge when addr lies before the region */

	/* len - 1 is huge for 0, and else below what is left of the region from `off` on */
	return off < r->size && len - 1 < r->size - off;
}

static inline void *mem_in(const struct mem_ram *r, gpa_t addr, size_t len)
{
	return mem_holds(r, addr, len) ? r->host + (addr.v - r->gpa) : NULL;
}

static inline void *mem_at(const struct guest_mem *mem, gpa_t addr, size_t len)
{
	const struct mem_ram *r = mem_head(mem)->ram;
	void *at;

	do
		at = mem_in(r, addr, len);
	while (!at && (++r)->size);
	return at;
}

/*
 * A pointer to [addr, addr + len) inside one region, valid until the generation changes; NULL when
 * it is not RAM, spans regions, or addr is not a multiple of `align` (a power of two). For rings
 * only.
 */
void *mem_map(const struct guest_mem *mem, gpa_t addr, size_t len, size_t align);

/*
 * Somebody of ours wrote [host, host + len), a range that mem_iov or mem_map gave. Cheap while no
 * log is on.
 */
static inline bool mem_dirty_on(const struct guest_mem *mem)
{
	/*
	 * Acquire pairs with the release in mem_dirty_start: with the flag seen, the bitmaps are
	 * there.
	 */
	return atomic_load_explicit(&mem_head(mem)->log, memory_order_acquire);
}
void mem_dirty_mark(struct guest_mem *mem, const void *host, size_t len);
static inline void mem_dirty_host(struct guest_mem *mem, const void *host, size_t len)
{
	if (mem_dirty_on(mem))
		mem_dirty_mark(mem, host, len);
}
/*
 * Dirty log: a bit per 4 KiB page of RAM, in region order. Start clears it. mem_dirty_fetch moves
 * region `i`'s bits to `bits` ((pages + 63) / 64 words) and clears them. Main or migrate thread.
 */
int mem_dirty_start(struct guest_mem *mem, struct error *err) NEEDS_CHECK;
/* Processes that were forked write guest memory and mark their own copies of the log: no log. */
void mem_forked(struct guest_mem *mem);
void mem_dirty_stop(struct guest_mem *mem);
int mem_dirty_fetch(struct guest_mem *mem, unsigned i, uint64_t *bits);

#endif
