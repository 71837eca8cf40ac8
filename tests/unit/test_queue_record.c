/*
 * A device's process dies: at each instruction of a turn in its own, and the next one must return
 * every chain exactly once. And records and rings that say what cannot be.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/virtio/queue_record.h"
#include "tests/driver/harness.h"

enum { RING = 8, SLOTS = 64, RECORD = 8192 };

static struct harness *h, *twin;
static void *record, *twin_record;
/* How often the driver got each slot back, and how often it gave it. */
static unsigned returned[SLOTS + 1], given;

static void *shared(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	return p;
}

static void begin(uint64_t features)
{
	h = harness_new_shared(RING, features);
	twin = harness_new_closed(RING, features);
	record = shared(RECORD);
	twin_record = malloc(RECORD);
	cr_assert_leq(queue_record_bytes(RING), RECORD);
	queue_record_begin(record, &h->setup);
	memset(returned, 0, sizeof(returned));
	given = 0;
}

static void end(void)
{
	harness_free(h);
	harness_free(twin);
	munmap(record, RECORD);
	free(twin_record);
}

/* As many buffers as there is room for, of one or two descriptors. */
static void give(struct harness *to, unsigned most)
{
	while (most-- && harness_add(to, given % 16, 16, given % 3 ? 1 : 0))
		given++;
}

static void collect(struct harness *from)
{
	uint32_t len;
	void *cookie;
	int r;

	while ((r = vd_poll(&from->vd, &cookie, &len)) == 1)
		returned[(uintptr_t)cookie]++;
	cr_assert_eq(r, 0, "the driver was given what it did not wait for");
}

static struct chain *pop(struct queue *q)
{
	struct chain *c;

	return queue_pop(q, &c) == 1 ? c : NULL;
}

static void push(struct queue *q, struct chain *c)
{
	if (chain_out_left(c) && chain_write(c, "x", 1))
		abort();
	queue_push(q, c);
}

static struct queue *open_again(struct harness *of, void *with)
{
	struct queue *q;

	cr_assert_eq(queue_open(&q, of->mem, &of->setup, 0), 0);
	cr_assert_eq(queue_record_take_up(q, with), 0);
	return q;
}

/* All that is there, and all of it back. */
static void serve_all(struct harness *of, void *with)
{
	struct queue *q = open_again(of, with);
	struct chain *c[RING];
	unsigned n = 0;

	while (n < RING && (c[n] = pop(q)))
		n++;
	cr_assert(!queue_broken(q));
	while (n)
		push(q, c[--n]);
	queue_flush(q);
	queue_close(q, NULL);
}

/* The device in its process: out of order, in several batches, with one left in flight. */
static void turn(void)
{
	struct queue *q;
	struct chain *c[RING] = { NULL };

	if (queue_open(&q, h->mem, &h->setup, 0) || queue_record_take_up(q, record))
		_exit(2);
	raise(SIGSTOP); /* from here on by steps */
	for (unsigned i = 0; i < 4; i++)
		c[i] = pop(q);
	if (c[2])
		push(q, c[2]);
	if (c[0])
		push(q, c[0]);
	queue_flush(q);
	c[4] = pop(q);
	if (c[4])
		queue_unpop(q, c[4]);
	c[4] = pop(q);
	if (c[4])
		push(q, c[4]);
	if (c[1])
		push(q, c[1]);
	queue_flush(q);
	_exit(0);
}

/* What the next process would find now, in the twin's memory; it and the driver go on from there. */
static void judge(unsigned step)
{
	const struct vd_config c = twin->vd.c;
	unsigned before[SLOTS + 1], want = given;

	memcpy(before, returned, sizeof(before));
	memcpy(twin->host[0], h->host[0], HARNESS_TABLES - HARNESS_LOW + RING * HARNESS_TABLE_LEN * 16);
	memcpy(twin_record, record, RECORD);
	twin->vd = h->vd;
	twin->vd.c = c;
	serve_all(twin, twin_record);
	collect(twin);
	for (unsigned i = 0; i < want; i++)
		cr_assert_eq(returned[1 + i], 1,
			"step %u: buffer %u came back %u times", step, i, returned[1 + i]);
	/* And all goes on. */
	give(twin, RING);
	cr_assert_gt(given, want);
	serve_all(twin, twin_record);
	collect(twin);
	given = want;
	memcpy(returned, before, sizeof(returned));
}

static unsigned die_at_each_step(void)
{
	unsigned step = 0;
	int status;
	pid_t child = fork();

	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(3);
		turn();
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
		cr_skip_test("nobody may be traced here");
	while (WIFSTOPPED(status)) {
		judge(step++);
		cr_assert_eq(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
		cr_assert_eq(waitpid(child, &status, 0), child);
	}
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", status);
	return step;
}

static void dies_anywhere(uint64_t features)
{
	begin(features);
	/* Somewhere in the ring, with an earlier life behind it. */
	give(h, 3);
	serve_all(h, record);
	collect(h);
	memset(returned, 0, sizeof(returned));
	given = 0;
	give(h, RING);
	cr_assert_geq(given, 4);
	cr_assert_gt(die_at_each_step(), 500);
	end();
}

Test(queue_record, nothing_is_lost_or_doubled_split, .timeout = 600)
{
	dies_anywhere(VD_F_EVENT_IDX);
}

Test(queue_record, nothing_is_lost_or_doubled_split_indirect, .timeout = 600)
{
	dies_anywhere(VD_F_INDIRECT);
}

Test(queue_record, nothing_is_lost_or_doubled_packed, .timeout = 600)
{
	dies_anywhere(VD_F_PACKED | VD_F_EVENT_IDX);
}

Test(queue_record, nothing_is_lost_or_doubled_packed_indirect, .timeout = 600)
{
	dies_anywhere(VD_F_PACKED | VD_F_INDIRECT);
}

Test(queue_record, nothing_is_lost_or_doubled_in_order, .timeout = 600)
{
	dies_anywhere(VD_F_IN_ORDER);
}

/* Lives of random length, out of order, on one ring and one record. */
static void many_lives(uint64_t features)
{
	unsigned gave[16] = { 0 };

	begin(features);
	srand(1);
	for (unsigned life = 0; life < 2000; life++) {
		struct queue *q = open_again(h, record);
		struct chain *c[RING];
		unsigned n = 0, keep = (unsigned)rand() % RING;

		for (unsigned i = 0; i < 3 && harness_add(h, given % 16, 16, 1); i++)
			gave[given++ % 16]++;
		while (n < RING && rand() % 8 && (c[n] = pop(q)))
			n++;
		while (n > keep) {
			unsigned i = (unsigned)rand() % n;

			push(q, c[i]);
			c[i] = c[--n];
			if (rand() % 2)
				queue_flush(q);
		}
		cr_assert(!queue_broken(q), "life %u", life);
		/* It dies: nothing is closed. */
		collect(h);
		for (unsigned i = 0; i < 16; i++)
			cr_assert_leq(returned[i + 1], gave[i], "life %u", life);
	}
	serve_all(h, record);
	collect(h);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(returned[i + 1], gave[i]);
	cr_assert_gt(given, 500);
	end();
}

Test(queue_record, many_lives_split) { many_lives(0); }
Test(queue_record, many_lives_packed) { many_lives(VD_F_PACKED); }
Test(queue_record, many_lives_packed_indirect) { many_lives(VD_F_PACKED | VD_F_INDIRECT); }

Test(queue_record, what_was_served_in_order_may_be_left_for_later)
{
	struct queue_setup last = { 0 };
	struct queue *q;

	begin(0);
	give(h, 4);
	q = open_again(h, record);
	push(q, pop(q));
	queue_flush(q);
	pop(q);
	pop(q);
	/* dies with two in flight */
	q = open_again(h, record);
	cr_assert_eq(queue_replays_left(q), 0, "they are simply popped again");
	queue_unpop(q, pop(q));
	queue_close(q, &last);
	cr_assert_eq(last.next_avail, 1);
	cr_assert_eq(last.next_used, 1);
	end();
}

Test(queue_record, a_replay_can_be_unpopped)
{
	struct chain *c[3];
	struct queue *q;

	begin(0);
	give(h, 4);
	q = open_again(h, record);
	for (unsigned i = 0; i < 3; i++)
		c[i] = pop(q);
	push(q, c[1]);
	queue_flush(q);
	q = open_again(h, record);
	cr_assert_eq(queue_replays_left(q), 2);
	cr_assert(queue_has_avail(q));
	c[0] = pop(q);
	c[1] = pop(q);
	queue_unpop(q, c[1]);
	cr_assert_eq(queue_replays_left(q), 1);
	push(q, pop(q));
	push(q, c[0]);
	push(q, pop(q));
	cr_assert_null(pop(q));
	queue_flush(q);
	queue_close(q, NULL);
	collect(h);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(returned[i + 1], 1);
	end();
}

/* Any bytes in a record: refused or taken, but never more than a ring in flight, and no harm. */
static void any_record(uint64_t features)
{
	unsigned refused = 0;

	begin(features);
	give(h, RING);
	srand(2);
	for (unsigned round = 0; round < 20000; round++) {
		uint8_t *bytes = record;
		struct queue *q;
		struct chain *c;
		unsigned n = 0;

		queue_record_begin(record, &h->setup);
		for (unsigned i = (unsigned)rand() % 24; i; i--)
			bytes[(size_t)rand() % queue_record_bytes(RING)] = (uint8_t)(rand() % (round % 2 ? 256 : 12));
		cr_assert_eq(queue_open(&q, h->mem, &h->setup, 0), 0);
		if (queue_record_take_up(q, record)) {
			cr_assert(queue_broken(q));
			refused++;
		}
		for (; n <= RING && queue_pop(q, &c) == 1; n++)
			;
		cr_assert_leq(n, RING);
		/* The mapping stays: nothing may be in flight when it is closed. */
	}
	cr_assert_gt(refused, 100);
	end();
}

Test(queue_record, any_bytes_split, .timeout = 300) { any_record(0); }
Test(queue_record, any_bytes_packed, .timeout = 300) { any_record(VD_F_PACKED); }

Test(queue_record, a_used_index_that_the_guest_wrote_is_noticed)
{
	struct queue *q;

	begin(0);
	give(h, 4);
	q = open_again(h, record);
	push(q, pop(q));
	/* dies between the two notes, and the guest writes meanwhile */
	((uint64_t *)record)[1] = 1;
	put_le16((uint8_t *)harness_at(h, HARNESS_USED) + 2, 77);
	cr_assert_eq(queue_open(&q, h->mem, &h->setup, 0), 0);
	cr_assert_eq(queue_record_take_up(q, record), -EPROTO);
	cr_assert(queue_broken(q));
	end();
}
