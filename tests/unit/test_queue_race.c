/*
 * A vCPU that rewrites everything while the device works. Each chain that comes through was checked in a private copy, so
 * whatever the race, its iovecs are in RAM; AddressSanitizer watches the edges of the regions.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "devices/virtio/queue_private.h"
#include "tests/driver/harness.h"
#include "tests/unit/rounds.h"

enum { SIZE = 8, ENOUGH = 2000 };

struct racer {
	struct harness *h;
	bool packed;
	_Atomic bool stop;
};

/* A guest's stores are in no order with ours, and meant to be: ThreadSanitizer does not look at them. */
__attribute__((no_sanitize("thread"))) static void *rewrite(void *arg)
{
	static const uint64_t addr[] = {
		HARNESS_DATA, HARNESS_HIGH - 8, HARNESS_HOLE - 16, HARNESS_FAR + HARNESS_REGION - 16,
		HARNESS_HOLE, HARNESS_TABLES, UINT64_MAX - 7, HARNESS_FAR,
	};
	static const uint32_t len[] = { 1, 16, 32, 48, 0x10000, 0xffffffff, 16, 16 };
	struct racer *r = arg;
	struct vring_avail *a = harness_at(r->h, HARNESS_AVAIL);
	unsigned seed = 12345;

	while (!atomic_load(&r->stop)) {
		unsigned v = (unsigned)rand_r(&seed);
		struct vring_desc *t = harness_at(r->h, v & 1 ? HARNESS_DESC : HARNESS_TABLES);
		struct vring_desc *d = &t[(v >> 1) % SIZE];
		uint16_t i = (v >> 16) % SIZE;
		uint16_t flags = v >> 20 & VRING_DESC_WRITE;

		/* Mostly short and plain, so that many come through; now and then anything. */
		if (v & 1 << 4)
			flags |= v >> 21 & VRING_DESC_NEXT;
		if ((v >> 8 & 7) == 7)
			flags = v >> 20 & 7;

		ring_store(&d->addr, addr[(v >> 4) % 8]);
		ring_store(&d->len, len[(v >> 11) % 8]);
		if (r->packed) {
			ring_store(&d->flags, i);
			ring_store(&d->next, flags | (v >> 24 & 1 ? VRING_DESC_AVAIL : VRING_DESC_USED));
			continue;
		}
		ring_store(&d->flags, flags);
		ring_store(&d->next, i);
		ring_store(&a->ring[i], (uint16_t)(v >> 5) % SIZE);
	}
	return NULL;
}

static uint64_t read_and_write_all(struct chain *c)
{
	uint8_t buf[4096];
	uint64_t n = 0;

	while (chain_in_left(c)) {
		size_t part = MIN(sizeof(buf), chain_in_left(c));

		cr_assert_eq(chain_read(c, buf, part), 0);
		n += part;
	}
	memset(buf, 0, sizeof(buf));
	while (chain_out_left(c)) {
		size_t part = MIN(sizeof(buf), chain_out_left(c));

		cr_assert_eq(chain_write(c, buf, part), 0);
		n += part;
	}
	return n;
}

static void race(bool is_packed)
{
	uint64_t features = VD_F_INDIRECT | (is_packed ? VD_F_PACKED : 0);
	struct racer r = { .h = harness_new(SIZE, features), .packed = is_packed };
	unsigned good = 0, broken = 0, enough = rounds(ENOUGH);
	struct vring_avail *a = harness_at(r.h, HARNESS_AVAIL);
	uint64_t bytes = 0;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, rewrite, &r), 0);
	/* The timeout ends a test in which one of them never comes. */
	while (good < enough || broken < enough) {
		struct chain *c;
		int got;

		/* Always one on offer, whatever it is by now. */
		if (!is_packed && !queue_has_avail(r.h->q))
			ring_store(&a->idx, a->idx + 1);
		got = queue_pop(r.h->q, &c);

		if (got == 1) {
			bytes += read_and_write_all(c);
			good++;
			queue_push(r.h->q, c);
			queue_flush(r.h->q);
		} else if (got < 0) {
			broken++;
			cr_assert_eq(queue_stats(r.h->q)->popped, queue_stats(r.h->q)->returned);
			queue_close(r.h->q, NULL);
			/* As after a reset, with the idx as it is. */
			r.h->setup.next_avail = is_packed ? 0x8000 : a->idx;
			r.h->setup.next_used = r.h->setup.next_avail;
			cr_assert_eq(queue_open(&r.h->q, r.h->mem, &r.h->setup, 0), 0);
		} else {
			/* There will be more when the writer has had a processor. */
			sched_yield();
		}
	}
	atomic_store(&r.stop, true);
	pthread_join(thread, NULL);
	harness_free(r.h);
	cr_assert_gt(bytes, 0);
}

Test(queue_race, vq19_a_racing_writer_never_gets_a_chain_outside_ram, .timeout = 900)
{
	race(false);
}

Test(queue_race, vq19_a_racing_writer_never_gets_a_packed_chain_outside_ram, .timeout = 900)
{
	race(true);
}
