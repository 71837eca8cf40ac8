/*
 * The load of the I/O bench on a virtio disk: a driver in ring 3 that keeps a number of requests in flight on each
 * queue and prints one line of JSON per case. It knows no monitor: over PCI or MMIO, it boots in any that enters PVH kernels.
 *
 *   cases=OP:SIZE:DEPTH:QUEUES:REQUESTS[,...]   OP: read, write (random, aligned to SIZE), seqread
 *   calls=1       ask for interrupts, which nobody takes; otherwise the driver polls and asks for none
 *   verify=1      a read sector must begin with its own number, as the runner writes it
 *
 * Times are of the time stamp counter. What is counted is what the driver sees: requests, and the kicks it made.
 */
#include "tests/guest/blk.h"
#include "tests/guest/tests.h"

enum {
	QUEUES_MAX = 4,
	DEPTH_MAX = 256,
	LIST_MAX = 512,
	SEED = 12345,
	DATA = 64 << 20, /* where the data of requests lie; the machine has RAM up to DATA_END */
	DATA_END = 448 << 20,
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
	if ((uint64_t)l->queues * l->depth * l->size > DATA_END - DATA)
		return false;
	for (unsigned q = 0; q < l->queues; q++) {
		for (unsigned i = 0; i < l->depth; i++) {
			struct slot *s = &l->slot[q][i];

			s->header = dma(sizeof(*s->header), 16);
			s->status = dma(1, 1);
			s->data = (uint8_t *)DATA + ((uint64_t)q * l->depth + i) * l->size;
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

/* The number at *p, up to the next ':' or ','. */
static uint64_t number(const char **p)
{
	uint64_t v = 0;

	while (**p >= '0' && **p <= '9')
		v = v * 10 + (uint64_t)(*(*p)++ - '0');
	if (**p == ':')
		(*p)++;
	return v;
}

static void word(const char **p, char *to, size_t size)
{
	size_t n = 0;

	while (**p && **p != ':' && **p != ',') {
		if (n + 1 < size)
			to[n++] = **p;
		(*p)++;
	}
	to[n] = 0;
	if (**p == ':')
		(*p)++;
}

static void blk_load(void)
{
	static char list[LIST_MAX];
	struct load *l = &load;
	const char *p = list;
	char op[16];

	arg_copy("cases", list, sizeof(list));
	l->calls = arg_u64("calls", 0);
	l->verify = arg_u64("verify", 0);
	if (!check(vio_find(&l->b.v, VIO_BLK, 0), "a disk is found", "no virtio disk"))
		return;
	l->b.capacity = vio_config(&l->b.v, BLK_CAPACITY, 8);
	while (*p) {
		uint64_t requests;

		word(&p, op, sizeof(op));
		l->write = same(op, "write");
		l->sequential = same(op, "seqread");
		l->size = (uint32_t)number(&p);
		l->depth = (unsigned)number(&p);
		l->queues = (unsigned)number(&p);
		requests = number(&p);
		if (*p == ',')
			p++;
		if (!check(l->size >= SECTOR && l->depth && l->depth <= DEPTH_MAX && l->queues && l->queues <= QUEUES_MAX,
			"the case can be run", "%s", op))
			return;
		one_case(l, op, requests);
	}
}

static const struct guest_test bench_tests[] = { { "blk", blk_load }, { 0 } };
const struct guest_test *const guest_tests[] = { bench_tests, NULL };
