/*
 * What a request costs in the queue alone: pop, look at it as a block device does, push, with requests of a 16 byte
 * header, 4 KiB of data and a status byte, in batches of 32. The driver's side is timed apart.
 *
 *   queue_bench [REQUESTS]            ns per request for each kind of ring
 *   queue_bench REQUESTS KIND         one kind (0 to 7) only, for valgrind --tool=callgrind --toggle-collect=device_turn
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/driver/harness.h"

enum { BATCH = 32, RING = 256 };

static const struct {
	const char *name;
	bool direct;
	uint64_t features;
} kinds[] = {
	{ "split direct", true, VD_F_EVENT_IDX },
	{ "split indirect", false, VD_F_EVENT_IDX | VD_F_INDIRECT },
	{ "split direct in order", true, VD_F_EVENT_IDX | VD_F_IN_ORDER },
	{ "split indirect in order", false, VD_F_EVENT_IDX | VD_F_INDIRECT | VD_F_IN_ORDER },
	{ "packed direct", true, VD_F_PACKED | VD_F_EVENT_IDX },
	{ "packed indirect", false, VD_F_PACKED | VD_F_EVENT_IDX | VD_F_INDIRECT },
	{ "packed direct in order", true, VD_F_PACKED | VD_F_EVENT_IDX | VD_F_IN_ORDER },
	{ "packed indirect in order", false, VD_F_PACKED | VD_F_EVENT_IDX | VD_F_INDIRECT | VD_F_IN_ORDER },
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "queue_bench: %s\n", what);
	exit(1);
}

static void driver_turn(struct harness *h)
{
	uint32_t len;
	void *cookie;

	while (vd_poll(&h->vd, &cookie, &len) == 1)
		must(len == PAGE_4K + 1, "wrong used length");
	for (unsigned i = 0; i < BATCH; i++) {
		const struct vd_seg segs[] = {
			{ HARNESS_DATA + 64 * i, 16 },
			{ HARNESS_HIGH + PAGE_4K * i, PAGE_4K },
			{ HARNESS_DATA + 64 * i + 32, 1 },
		};

		must(vd_add(&h->vd, segs, 1, 2, h), "the ring is full");
	}
	vd_kick(&h->vd);
}

__attribute__((noinline)) static void device_turn(struct harness *h)
{
	struct chain *c[BATCH];
	uint8_t header[16], status = 0;
	struct iovec iov[4];
	unsigned n = 0;

	while (n < BATCH && queue_pop(h->q, &c[n]) == 1) {
		must(chain_read(c[n], header, sizeof(header)) == 0, "no header");
		must(chain_reserve_tail(c[n], 1) == 0, "no status");
		must(chain_iov_out(c[n], chain_out_left(c[n]), iov, 4) == 1, "no data");
		n++;
	}
	for (unsigned i = 0; i < n; i++) {
		chain_wrote(c[i], PAGE_4K);
		chain_write_tail(c[i], &status, 1);
		queue_push(h->q, c[i]);
	}
	queue_flush(h->q);
	must(!queue_enable_kick(h->q), "more came from nowhere");
	must(n == BATCH, "chains are missing");
}

static void run(unsigned kind, unsigned long requests)
{
	struct harness *h = harness_new(RING, kinds[kind].features);
	uint64_t driver = 0, device = 0;

	vd_disable_call(&h->vd);
	if (kinds[kind].direct)
		h->vd.c.table_len = 0;
	for (unsigned long done = 0; done < requests; done += BATCH) {
		uint64_t a = now(), b;

		driver_turn(h);
		b = now();
		device_turn(h);
		driver += b - a;
		device += now() - b;
	}
	printf("%-26s %6.1f ns device %6.1f ns driver, %" PRIu64 " calls\n", kinds[kind].name,
		(double)device / (double)requests, (double)driver / (double)requests, queue_stats(h->q)->calls);
	harness_free(h);
}

int main(int argc, char **argv)
{
	unsigned long requests = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (argc < 3 || strtoul(argv[2], NULL, 10) == i)
			run(i, requests / BATCH * BATCH);
	return 0;
}
