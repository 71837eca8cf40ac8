/*
 * See harness.h. Failures of the harness itself abort: they are never what a test is about.
 */
#include "tests/driver/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "harness: %s\n", what);
	abort();
}

static void on_kick(void *ctx)
{
	struct harness *h = ctx;

	h->kicks++;
}

void *harness_at(struct harness *h, uint64_t addr)
{
	static const uint64_t base[] = { HARNESS_LOW, HARNESS_HIGH, HARNESS_FAR };

	for (size_t i = 0; i < ARRAY_SIZE(base); i++)
		if (range_inside(addr, 1, base[i], HARNESS_REGION))
			return h->host[i] + (addr - base[i]);
	return NULL;
}

static void *make_region(bool shared)
{
	void *at = shared ? mmap(NULL, HARNESS_REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) :
		aligned_alloc(PAGE_4K, HARNESS_REGION);

	must(at && at != MAP_FAILED, "no memory");
	memset(at, 0, HARNESS_REGION);
	return at;
}

static struct harness *make(uint16_t size, uint64_t features, bool shared)
{
	static const uint64_t base[] = { HARNESS_LOW, HARNESS_HIGH, HARNESS_FAR };
	struct harness *h = calloc(1, sizeof(*h));
	bool packed = features & VD_F_PACKED;
	struct vd_config c;

	must(h, "no memory");
	h->shared = shared;
	must(mem_create(&h->mem, NULL) == 0, "mem_create");
	for (size_t i = 0; i < ARRAY_SIZE(base); i++) {
		h->host[i] = make_region(shared);
		must(mem_add_borrowed(h->mem, base[i], HARNESS_REGION, h->host[i]) == 0, "mem_add_borrowed");
	}
	h->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	must(h->call_fd >= 0, "eventfd");
	features |= VD_F_VERSION_1;
	c = (struct vd_config){
		.size = size,
		.features = features,
		.desc = harness_at(h, HARNESS_DESC),
		.avail = harness_at(h, HARNESS_AVAIL),
		.used = harness_at(h, HARNESS_USED),
		.tables = harness_at(h, HARNESS_TABLES),
		.tables_addr = HARNESS_TABLES,
		.table_len = HARNESS_TABLE_LEN,
		.kick = on_kick,
		.kick_ctx = h,
	};
	must(vd_queue_init(&h->vd, &c), "vd_queue_init");
	h->setup = (struct queue_setup){
		.size = size,
		.desc = HARNESS_DESC,
		.avail = HARNESS_AVAIL,
		.used = HARNESS_USED,
		.features = features,
		.kick_fd = -1,
		.call_fd = h->call_fd,
		.next_avail = packed ? 0x8000 : 0,
		.next_used = packed ? 0x8000 : 0,
	};
	return h;
}

struct harness *harness_new_closed(uint16_t size, uint64_t features)
{
	return make(size, features, false);
}

struct harness *harness_new_shared(uint16_t size, uint64_t features)
{
	return make(size, features, true);
}

struct harness *harness_new(uint16_t size, uint64_t features)
{
	struct harness *h = harness_new_closed(size, features);

	must(queue_open(&h->q, h->mem, &h->setup, 64) == 0, "queue_open");
	return h;
}

void harness_free(struct harness *h)
{
	if (!h)
		return;
	queue_close(h->q, NULL);
	mem_destroy(h->mem);
	for (size_t i = 0; i < ARRAY_SIZE(h->host); i++)
		h->shared ? (void)munmap(h->host[i], HARNESS_REGION) : free(h->host[i]);
	close(h->call_fd);
	free(h);
}

unsigned harness_calls(struct harness *h)
{
	uint64_t n = 0;

	return read(h->call_fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

bool harness_add(struct harness *h, unsigned slot, uint32_t in, uint32_t out)
{
	uint64_t at = HARNESS_DATA + (uint64_t)slot * 2 * PAGE_4K;
	struct vd_seg segs[2];
	unsigned n = 0;

	if (in)
		segs[n++] = (struct vd_seg){ at, in };
	if (out)
		segs[n++] = (struct vd_seg){ at + PAGE_4K, out };
	if (!vd_add(&h->vd, segs, !!in, !!out, (void *)(uintptr_t)(slot + 1)))
		return false;
	vd_kick(&h->vd);
	return true;
}

void harness_reopen(struct harness *h)
{
	queue_close(h->q, &h->setup);
	must(queue_open(&h->q, h->mem, &h->setup, 64) == 0, "queue_open again");
}
