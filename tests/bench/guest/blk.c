/*
 * The load on a virtio disk: OP is read or write (random, aligned to SIZE) or seqread.
 *
 *   verify=1      a read sector must begin with its own number, as the runner writes it
 */
#include "tests/guest/blk.h"

#include "tests/bench/guest/load.h"

enum {
	QUEUES_MAX = 4,
	DEPTH_MAX = 256,
	SEED = 12345,
};

struct slot {
	struct blk_header *header;
	uint8_t *data, *status;
	uint64_t sector;
};

struct load {
	bool write, sequential, verify, calls;
	uint32_t size;
	unsigned depth, queues;
	uint64_t requests;

	struct blk b;
	struct slot slot[QUEUES_MAX][DEPTH_MAX];
	uint64_t blocks, next, random;
	uint64_t started, done, kicks, failed;
};

static struct load load;

/* xorshift64: no pattern that a cache or a disk could follow. */
static uint64_t next_random(struct load *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random;
}

static bool put(struct load *l, unsigned q, struct slot *s)
{
	uint64_t block = l->sequential ? l->next++ : next_random(l);
	const struct vd_seg segs[] = {
		vio_seg(s->header, sizeof(*s->header)),
		vio_seg(s->data, l->size),
		vio_seg(s->status, 1),
	};

	s->sector = block % l->blocks * (l->size / SECTOR);
	*s->header = (struct blk_header){ .type = l->write ? BLK_OUT : BLK_IN, .sector = s->sector };
	*s->status = BLK_NONE;
	l->started++;
	return vd_add(&l->b.v.queue[q].vd, segs, l->write ? 2 : 1, l->write ? 1 : 2, s);
}

static bool right(const struct load *l, const struct slot *s)
{
	if (*(volatile uint8_t *)s->status != BLK_OK)
		return false;
	return !l->verify || l->write || *(volatile uint64_t *)s->data == s->sector;
}

/* Take what is done on a queue and put as much again. How many were done; -1: the ring is broken. */
static int turn(struct load *l, unsigned q)
{
	struct vd_queue *vd = &l->b.v.queue[q].vd;
	uint32_t len;
	void *cookie;
	int n = 0, r;

	while ((r = vd_poll(vd, &cookie, &len)) == 1) {
		n++;
		l->done++;
		l->failed += !right(l, cookie);
		if (l->started < l->requests && !put(l, q, cookie))
			return -1;
	}
	if (r < 0)
		return -1;
	if (n && vd_kick(vd))
		l->kicks++;
	if (n && l->calls)
		vd_enable_call(vd);
	return n;
}

static bool run(struct load *l, uint64_t requests)
{
	uint64_t last = cycles();

	l->requests = requests;
	l->started = l->done = l->kicks = l->failed = 0;
	for (unsigned q = 0; q < l->queues; q++) {
		for (unsigned i = 0; i < l->depth && l->started < requests; i++)
			if (!put(l, q, &l->slot[q][i]))
				return false;
		if (vd_kick(&l->b.v.queue[q].vd))
			l->kicks++;
	}
	while (l->done < l->started) {
		int n = 0;

		for (unsigned q = 0; q < l->queues; q++) {
			int r = turn(l, q);

			if (r < 0)
				return false;
			n += r;
		}
		if (n)
			last = cycles();
		else if (cycles() - last > PATIENCE)
			return false;
		else
			relax();
	}
	return true;
}

static bool prepare(struct load *l)
{
	const uint64_t wanted = vio_ring_features() | BLK_F_MQ | BLK_F_FLUSH;

	l->b.queue_size = (uint16_t)arg_u64("queue_size", DEPTH_MAX);
	if (!blk_start(&l->b, wanted))
		return false;
	if (l->queues > l->b.queues)
		return false;
	l->blocks = l->b.capacity / (l->size / SECTOR);
	l->random = SEED;
	if ((uint64_t)l->queues * l->depth * l->size > LOAD_DATA_END - LOAD_DATA)
		return false;
	for (unsigned q = 0; q < l->queues; q++) {
		for (unsigned i = 0; i < l->depth; i++) {
			struct slot *s = &l->slot[q][i];

			s->header = dma(sizeof(*s->header), 16);
			s->status = dma(1, 1);
			s->data = (uint8_t *)LOAD_DATA + ((uint64_t)q * l->depth + i) * l->size;
			fill(s->data, (uint8_t)i, l->size);
		}
		if (l->calls)
			vd_enable_call(&l->b.v.queue[q].vd);
		else
			vd_disable_call(&l->b.v.queue[q].vd);
	}
	return l->blocks > 0;
}

static void one_case(struct load *l, const char *op, uint64_t requests)
{
	uint64_t before, after;
	bool ok = prepare(l) && run(l, requests / 10 + 1);

	before = cycles();
	ok = ok && run(l, requests);
	after = cycles();
	say("{\"device\":\"blk\",\"op\":\"%s\",\"size\":%u,\"depth\":%u,\"queues\":%u,\"calls\":%u,\"ok\":%u,"
	    "\"requests\":%lu,\"failed\":%lu,\"kicks\":%lu,\"cycles\":%lu}\n",
		op, l->size, l->depth, l->queues, l->calls, ok && !l->failed, l->done, l->failed, l->kicks,
		after - before);
}

void blk_load(void)
{
	struct load *l = &load;
	struct load_case c;

	l->calls = arg_u64("calls", 0);
	l->verify = arg_u64("verify", 0);
	if (!check(vio_find(&l->b.v, VIO_BLK, 0), "a disk is found", "no virtio disk"))
		return;
	l->b.capacity = vio_config(&l->b.v, BLK_CAPACITY, 8);
	for (const char *list = load_list(); load_next(&list, &c);) {
		l->write = same(c.op, "write");
		l->sequential = same(c.op, "seqread");
		l->size = c.size;
		l->depth = c.depth;
		l->queues = c.queues;
		if (!check(c.size >= SECTOR && c.depth && c.depth <= DEPTH_MAX && c.queues && c.queues <= QUEUES_MAX,
			"the case can be run", "%s", c.op))
			return;
		one_case(l, c.op, c.requests);
	}
}
