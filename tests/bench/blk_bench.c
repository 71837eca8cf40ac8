/*
 * The whole way of a disk request in one process: the driver adds requests of 4 KiB (header, data, status), and the
 * device serves them as its worker does: kicks off, pop, start, send, complete, push, publish, kicks on.
 *
 *   blk_bench DISK FORMAT LAYOUT OP REQUESTS [BATCH]
 *
 *   DISK    null, or the path of a file of 64 MiB or more
 *   FORMAT  split | packed      LAYOUT  direct | indirect      OP  read | write
 *
 * It prints nothing but mistakes: what it costs is counted from outside, by callgrind with
 * --toggle-collect=device_turn and by strace -c; see tests/bench/instructions. Run it with two numbers of requests and
 * take the difference, and what is paid once cancels out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum { RING = 512, BATCH_MAX = 128, BLOCKS = 64 * MIB / PAGE_4K, RIG_BLOCKS = 64 };

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "blk_bench: %s\n", what);
	exit(1);
}

/*
 * All in one region of memory, as in a guest of less than 3 GiB; the data after the headers, one block for several
 * requests, since nobody looks at it.
 */
static void driver_add(struct harness *h, unsigned i, bool write, unsigned long n)
{
	const uint64_t at = HARNESS_DATA + 64 * (uint64_t)i;
	const struct blk_header header = {
		.type = write ? BLK_T_OUT : BLK_T_IN,
		.sector = n % BLOCKS * (PAGE_4K / BLK_SECTOR),
	};
	const struct vd_seg segs[] = {
		{ at, sizeof(header) },
		{ HARNESS_DATA + 64 * BATCH_MAX + PAGE_4K * (i % RIG_BLOCKS), PAGE_4K },
		{ at + 32, 1 },
	};

	memcpy(harness_at(h, at), &header, sizeof(header));
	*(uint8_t *)harness_at(h, at + 32) = 0xff;
	must(vd_add(&h->vd, segs, write ? 2 : 1, write ? 1 : 2, harness_at(h, at + 32)), "the ring is full");
}

/*
 * What back_worker.c does on a kick. A device that waits for its medium would be woken by its loop; here that is one
 * call that collects all.
 */
__attribute__((noinline)) static void device_turn(struct rig *r)
{
	const struct blk *blk = container_of(r->dev, struct blk, dev);
	struct queue *q = r->h[0]->q;

	queue_disable_kick(q);
	must(r->dev->type->handle(r->dev, q) >= 0, "the queue is broken");
	queue_flush(q);
	must(!queue_enable_kick(q), "more came from nowhere");
	if (queue_in_flight(q))
		blk->disk->ops->drain(blk->queues[0].disk_queue);
	queue_flush(q);
}

static void driver_poll(struct harness *h, unsigned batch, uint32_t expect)
{
	uint32_t len;
	void *status;

	for (unsigned i = 0; i < batch; i++) {
		must(vd_poll(&h->vd, &status, &len) == 1, "a request did not come back");
		must(len == expect && *(uint8_t *)status == BLK_S_OK, "a request failed");
	}
}

static bool is(const char *arg, const char *yes, const char *no)
{
	must(!strcmp(arg, yes) || !strcmp(arg, no), "an argument that is neither of its two choices");
	return !strcmp(arg, yes);
}

int main(int argc, char **argv)
{
	struct error err = { "" };
	char text[512];
	unsigned long requests;
	unsigned batch;
	uint64_t features = VD_F_EVENT_IDX | VIRTIO_BIT(BLK_F_FLUSH);
	bool write;
	struct rig *r;

	must(argc >= 6, "blk_bench DISK split|packed direct|indirect read|write REQUESTS [BATCH]");
	features |= is(argv[2], "packed", "split") ? VD_F_PACKED : 0;
	features |= is(argv[3], "indirect", "direct") ? VD_F_INDIRECT : 0;
	write = is(argv[4], "write", "read");
	requests = strtoul(argv[5], NULL, 10);
	batch = argc > 6 ? (unsigned)strtoul(argv[6], NULL, 10) : BATCH_MAX;
	must(batch >= 1 && batch <= BATCH_MAX, "BATCH is 1 to 128");
	snprintf(text, sizeof(text), "%s%s,queue_size=%u", strcmp(argv[1], "null") ? "path=" : "null=64M,read_zeroes=off",
		strcmp(argv[1], "null") ? argv[1] : "", RING);
	r = rig_new(&virtio_blk_type, text, &err);
	must(r, err.text);
	rig_start(r, 0, RING, features);
	for (unsigned long n = 0; n < requests; n += batch) {
		for (unsigned i = 0; i < batch; i++)
			driver_add(r->h[0], i, write, n + i);
		vd_kick(&r->h[0]->vd);
		device_turn(r);
		driver_poll(r->h[0], batch, write ? 1 : PAGE_4K + 1);
	}
	rig_free(r);
	return 0;
}
