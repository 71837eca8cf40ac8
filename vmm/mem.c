/*
 * Guest memory is a short sorted array of regions. Lookups scan it: machines have one to four
 * regions, and the first compare nearly always hits. The scan of each buffer goes over a second
 * array, of three words per region of RAM (struct mem_head), which is remade with every change.
 *
 * The array is written by main while nobody else looks (before the machine runs, or with vCPUs
 * parked and workers drained), so readers take no lock. The dirty log is a bitmap per region that
 * appears and disappears through an atomic pointer.
 */
#include "vmm/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Where RAM begins at address 0 its first 2 MiB hold a few pages of tables for the kernel, and a
 * hole. A huge page there would be cleared on the way to the first KVM_RUN, for nothing: what a
 * guest works in lies above.
 */
#define SPARSE_LOW (2 * MIB)

/* How RAM is aligned in our address space, so that huge pages fit; its guards take as much. */
#define RAM_ALIGN (2 * MIB)

struct region {
	struct mem_region r;
	void *reserved;          /* r.host and its guards; NULL: borrowed */
	size_t reserved_len;
	bool borrowed;
	_Atomic uint64_t *dirty; /* a bit per page; NULL while no log is on */
	uint64_t *dirty_words;   /* the same memory, for freeing */
};

struct guest_mem {
	struct mem_head head; /* first */
	unsigned count;
	struct region regions[MEM_REGIONS_MAX];
	struct mem_listener *listeners;
	bool forked;
};

int mem_create(struct guest_mem **ret, struct error *err)
{
	struct guest_mem *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return error_set(err, ENOMEM, "out of memory for the memory map");
	*ret = mem;
	return 0;
}

void mem_destroy(struct guest_mem *mem)
{
	if (!mem)
		return;
	mem_dirty_stop(mem);
	for (unsigned i = 0; i < mem->count; i++) {
		struct region *r = &mem->regions[i];

		if (r->borrowed)
			continue;
		munmap(r->reserved, r->reserved_len);
		if (r->r.fd >= 0)
			close(r->r.fd);
	}
	free(mem);
}

/* After every change of the array. */
static void changed(struct guest_mem *mem)
{
	struct mem_head *h = &mem->head;

	unsigned n = 0;

	for (unsigned i = 0; i < mem->count; i++) {
		const struct mem_region *r = &mem->regions[i].r;

		if (r->kind == MEM_RAM)
			h->ram[n++] = (struct mem_ram){ r->gpa, r->size, r->host };
	}
	memset(&h->ram[n], 0, sizeof(h->ram[n]));
	h->generation++;
}

static int insert(struct guest_mem *mem, const struct region *new, struct error *err)
{
	unsigned at = 0, slot = 0;
	struct mem_listener *l;
	int r = 0;

	if (mem->count == MEM_REGIONS_MAX)
		return error_set(err, ENOSPC, "too many memory regions (at most %d)", MEM_REGIONS_MAX);
	for (unsigned i = 0; i < mem->count; i++) {
		const struct mem_region *have = &mem->regions[i].r;

		if (ranges_overlap(have->gpa, have->size, new->r.gpa, new->r.size))
			return error_set(err, EINVAL, "memory regions at %#llx and %#llx overlap",
				(unsigned long long)have->gpa, (unsigned long long)new->r.gpa);
		at += have->gpa < new->r.gpa;
		slot = MAX(slot, have->slot + 1);
	}
	memmove(&mem->regions[at + 1], &mem->regions[at], (mem->count - at) * sizeof(*new));
	mem->regions[at] = *new;
	mem->regions[at].r.slot = slot;
	mem->count++;
	changed(mem);
	for (l = mem->listeners; l && r == 0; l = l->next)
		r = l->add(l, &mem->regions[at].r, err);
	if (r < 0) {
		mem->count--;
		memmove(&mem->regions[at], &mem->regions[at + 1], (mem->count - at) * sizeof(*new));
		changed(mem);
	}
	return r;
}

static int memfd_for(const struct mem_config *config, uint64_t size, struct error *err)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd;

	if (config->hugepages && config->hugepage_size && !is_pow2(config->hugepage_size))
		return error_set(err, EINVAL, "--memory hugepage_size=%lluK: is no power of two; 2M and 1G are usual",
			(unsigned long long)(config->hugepage_size / KIB));
	if (config->hugepages) {
		flags |= MFD_HUGETLB;
		if (config->hugepage_size)
			flags |= (unsigned)__builtin_ctzll(config->hugepage_size) << MFD_HUGE_SHIFT;
	}
	fd = memfd_create("guest-ram", flags);
	if (fd < 0)
		return error_set(err, errno, "--memory: cannot make a memfd for guest memory: %s%s", strerror(errno),
			config->hugepages ? "; does the host have huge pages of that size?" : "");
	/* Nobody who gets this fd can shrink it under the guest or us. */
	if (ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int r = error_set(err, errno, "--memory size=%lluM: %s; give less memory",
			(unsigned long long)(size / MIB), strerror(errno));

		close(fd);
		return r;
	}
	return fd;
}

/*
 * Map RAM with at least a page on both sides that nobody may touch: a length that was computed
 * wrongly somewhere ends the process there, rather than reading or writing what happens to lie
 * beside it.
 */
static int map_guarded(struct region *ret, int flags, size_t huge)
{
	const size_t align = MAX((size_t)RAM_ALIGN, huge), size = ret->r.size;
	uint8_t *base, *host;

	if (add_overflows(size, 2 * align, &ret->reserved_len))
		return -ENOMEM;
	base = mmap(NULL, ret->reserved_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	host = (uint8_t *)align_up((uintptr_t)base + PAGE_4K, align);
	if (mmap(host, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, ret->r.fd, 0) == MAP_FAILED) {
		int r = -errno;

		munmap(base, ret->reserved_len);
		return r;
	}
	ret->reserved = base;
	ret->r.host = host;
	return 0;
}

int mem_add_ram(struct guest_mem *mem, uint64_t at, uint64_t size, const struct mem_config *config,
	struct error *err)
{
	struct region new = { .r = { .gpa = at, .size = size, .kind = MEM_RAM, .fd = -1 } };
	const uint64_t sparse = at == 0 ? SPARSE_LOW : 0;
	bool as_fd = config->shared || config->hugepages;
	/* Huge pages are reserved: one that is missing later would end the process by SIGBUS. */
	int flags = (config->hugepages ? 0 : MAP_NORESERVE) | (as_fd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
	int r;

	if (!size || !is_aligned(at | size, PAGE_4K))
		return error_set(err, EINVAL, "--memory: size must be a multiple of 4K");
	if (as_fd) {
		new.r.fd = memfd_for(config, size, err);
		if (new.r.fd < 0)
			return new.r.fd;
	}
	if (config->prefault)
		flags |= MAP_POPULATE;
	r = map_guarded(&new, flags, config->hugepages ? config->hugepage_size : 0);
	if (r < 0) {
		r = error_set(err, -r, "--memory: cannot map %llu MiB for the guest: %s; give less memory%s",
			(unsigned long long)(size / MIB), strerror(-r),
			config->hugepages ? ", or the host more huge pages (sysctl vm.nr_hugepages)" : "");
		if (new.r.fd >= 0)
			close(new.r.fd);
		return r;
	}
	/* Advice only: a kernel without one of these runs the machine all the same. */
	madvise(new.r.host, size, MADV_DONTDUMP);
	if (config->thp && !config->hugepages && size > sparse)
		madvise(new.r.host + sparse, size - sparse, MADV_HUGEPAGE);
	if (config->mergeable)
		madvise(new.r.host, size, MADV_MERGEABLE);
	r = insert(mem, &new, err);
	if (r < 0) {
		munmap(new.reserved, new.reserved_len);
		if (new.r.fd >= 0)
			close(new.r.fd);
	}
	return r;
}

int mem_add_borrowed(struct guest_mem *mem, uint64_t at, uint64_t size, void *host)
{
	struct region new = {
		.r = { .gpa = at, .size = size, .kind = MEM_RAM, .fd = -1, .host = host },
		.borrowed = true,
	};

	return insert(mem, &new, NULL);
}

unsigned mem_region_count(const struct guest_mem *mem)
{
	return mem->count;
}

const struct mem_region *mem_region(const struct guest_mem *mem, unsigned i)
{
	return &mem->regions[i].r;
}

uint64_t mem_ram_size(const struct guest_mem *mem)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < mem->count; i++)
		if (mem->regions[i].r.kind == MEM_RAM)
			sum += mem->regions[i].r.size;
	return sum;
}

int mem_listen(struct guest_mem *mem, struct mem_listener *listener, struct error *err)
{
	for (unsigned i = 0; i < mem->count; i++) {
		int r = listener->add(listener, &mem->regions[i].r, err);

		if (r < 0) {
			while (i--)
				if (listener->remove)
					listener->remove(listener, &mem->regions[i].r);
			return r;
		}
	}
	listener->next = mem->listeners;
	mem->listeners = listener;
	return 0;
}

void mem_unlisten(struct guest_mem *mem, struct mem_listener *listener)
{
	struct mem_listener **at = &mem->listeners;

	while (*at && *at != listener)
		at = &(*at)->next;
	if (*at)
		*at = listener->next;
}

int mem_iov(const struct guest_mem *mem, gpa_t addr, size_t len, struct iovec *iov, int max)
{
	void *whole = mem_at(mem, addr, len);
	uint64_t at = addr.v, end;
	int n = 0;

	if (!len)
		return 0;
	if (whole) {
		if (max < 1)
			return -E2BIG;
		iov[0] = (struct iovec){ whole, len };
		return 1;
	}
	if (add_overflows(at, len, &end))
		return -EFAULT;
	for (unsigned i = 0; i < mem->count && at < end; i++) {
		const struct mem_region *have = &mem->regions[i].r;
		uint64_t part;

		if (have->kind != MEM_RAM || !range_inside(at, 1, have->gpa, have->size))
			continue;
		part = MIN(end - at, have->size - (at - have->gpa));
		if (n == max)
			return -E2BIG;
		iov[n++] = (struct iovec){ have->host + (at - have->gpa), part };
		at += part;
	}
	return at == end ? n : -EFAULT;
}

int mem_read(const struct guest_mem *mem, gpa_t addr, void *buf, size_t len)
{
	struct iovec iov[MEM_REGIONS_MAX];
	int n = mem_iov(mem, addr, len, iov, MEM_REGIONS_MAX);
	uint8_t *to = buf;

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
		to += iov[i].iov_len;
	}
	return 0;
}

int mem_write(struct guest_mem *mem, gpa_t addr, const void *buf, size_t len)
{
	struct iovec iov[MEM_REGIONS_MAX];
	int n = mem_iov(mem, addr, len, iov, MEM_REGIONS_MAX);
	const uint8_t *from = buf;

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, from, iov[i].iov_len);
		mem_dirty_host(mem, iov[i].iov_base, iov[i].iov_len);
		from += iov[i].iov_len;
	}
	return 0;
}

void *mem_map(const struct guest_mem *mem, gpa_t addr, size_t len, size_t align)
{
	return is_aligned(addr.v, align) ? mem_at(mem, addr, len) : NULL;
}

static size_t region_words(const struct region *r)
{
	return ((r->r.size >> GUEST_PAGE_SHIFT) + 63) / 64;
}

static void mark(struct region *r, const uint8_t *host, size_t len)
{
	uint64_t first = (uint64_t)(host - r->r.host) >> GUEST_PAGE_SHIFT;
	uint64_t last = (uint64_t)(host - r->r.host + len - 1) >> GUEST_PAGE_SHIFT;

	for (uint64_t page = first; page <= last; page++)
		atomic_fetch_or_explicit(&r->dirty[page / 64], UINT64_C(1) << (page % 64),
			memory_order_relaxed);
}

void mem_dirty_mark(struct guest_mem *mem, const void *host, size_t len)
{
	if (!len)
		return;
	for (unsigned i = 0; i < mem->count; i++) {
		struct region *r = &mem->regions[i];

		if (r->dirty && (const uint8_t *)host >= r->r.host &&
			(const uint8_t *)host + len <= r->r.host + r->r.size)
			mark(r, host, len);
	}
}

void mem_forked(struct guest_mem *mem)
{
	mem->forked = true;
}

int mem_dirty_start(struct guest_mem *mem, struct error *err)
{
	if (mem->forked)
		return error_set(err, EOPNOTSUPP,
			"what devices with processes of their own write into memory cannot be followed; say "
			"isolation=thread for them");
	for (unsigned i = 0; i < mem->count; i++) {
		struct region *r = &mem->regions[i];

		if (r->r.kind != MEM_RAM)
			continue;
		if (!r->dirty_words)
			r->dirty_words = malloc(region_words(r) * sizeof(uint64_t));
		if (!r->dirty_words) {
			mem_dirty_stop(mem);
			return error_set(err, ENOMEM, "out of memory for the dirty log");
		}
		memset(r->dirty_words, 0, region_words(r) * sizeof(uint64_t));
		r->dirty = (_Atomic uint64_t *)r->dirty_words;
	}
	atomic_store_explicit(&mem->head.log, true, memory_order_release);
	return 0;
}

void mem_dirty_stop(struct guest_mem *mem)
{
	atomic_store_explicit(&mem->head.log, false, memory_order_release);
	for (unsigned i = 0; i < mem->count; i++) {
		free(mem->regions[i].dirty_words);
		mem->regions[i].dirty_words = NULL;
		mem->regions[i].dirty = NULL;
	}
}

int mem_dirty_fetch(struct guest_mem *mem, unsigned i, uint64_t *bits)
{
	struct region *r = i < mem->count ? &mem->regions[i] : NULL;

	if (!r || !r->dirty)
		return -EINVAL;
	for (size_t w = 0; w < region_words(r); w++)
		bits[w] = atomic_exchange_explicit(&r->dirty[w], 0, memory_order_relaxed);
	return 0;
}
