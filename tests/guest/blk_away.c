/*
 * A disk whose other end goes and comes (a vhost-user back end that is killed and started again)
 * under a driver that writes, reads back and compares. What it is not told of must not be seen:
 * requests take longer, that is all.
 *
 * rounds=N of them, two queues in turn; "round N" after every tenth. A device that needs a reset
 * gets one, and the round is done again; resets=0: that is not to happen.
 */
#include "tests/guest/blk.h"
#include "tests/guest/tests.h"

enum { DEPTH = 32, BLOCK = 4096, LOOK = 4096 };

struct one {
	struct blk_header header;
	uint8_t status;
	bool back;
};

enum outcome { DONE, NEEDS_RESET, WRONG };

static bool submit(struct blk *b, unsigned queue, struct one *one, uint8_t *data, enum blk_type type, uint64_t sector)
{
	const struct vd_seg segs[3] = { vio_seg(&one->header, 16), vio_seg(data, BLOCK), vio_seg(&one->status, 1) };

	*one = (struct one){ { .type = type, .sector = sector }, BLK_NONE, false };
	return vd_add(&b->v.queue[queue].vd, segs, type == BLK_OUT ? 2 : 1, type == BLK_OUT ? 1 : 2, one);
}

/* The next answer, however long it takes, unless the device says that it has lost its way. */
static enum outcome collect(struct blk *b, unsigned queue)
{
	struct vio_queue *q = &b->v.queue[queue];
	uint64_t start = cycles();
	void *cookie;
	uint32_t len;
	int r;

	for (unsigned look = 1; !(r = vd_poll(&q->vd, &cookie, &len)); look++) {
		if (look % LOOK)
			continue;
		if (vio_status(&b->v) & VIO_NEEDS_RESET)
			return NEEDS_RESET;
		if (cycles() - start > PATIENCE)
			return WRONG;
	}
	if (r < 0 || ((struct one *)cookie)->back || ((struct one *)cookie)->status != BLK_OK)
		return WRONG;
	((struct one *)cookie)->back = true;
	return DONE;
}

static enum outcome pass(struct blk *b, unsigned queue, struct one *all, uint8_t *data, enum blk_type type)
{
	enum outcome r = DONE;

	for (unsigned i = 0; i < DEPTH; i++)
		if (!submit(b, queue, &all[i], data + i * BLOCK, type, (queue * DEPTH + i) * (BLOCK / SECTOR)))
			return WRONG;
	vd_kick(&b->v.queue[queue].vd);
	for (unsigned i = 0; i < DEPTH && r == DONE; i++)
		r = collect(b, queue);
	return r;
}

static enum outcome round(struct blk *b, unsigned queue, struct one *all, uint8_t *data, uint32_t seed)
{
	enum outcome r;

	pattern(data, DEPTH * BLOCK, seed);
	r = pass(b, queue, all, data, BLK_OUT);
	if (r != DONE)
		return r;
	fill(data, 0, DEPTH * BLOCK);
	r = pass(b, queue, all, data, BLK_IN);
	return r == DONE && !is_pattern(data, DEPTH * BLOCK, seed) ? WRONG : r;
}

static void blk_away(void)
{
	static struct blk b;
	unsigned rounds = (unsigned)arg_u64("rounds", 100), resets = 0;
	struct one *all;
	uint8_t *data;

	if (!blk_open(&b, 0))
		return;
	all = dma(DEPTH * sizeof(*all), 16);
	data = dma(DEPTH * BLOCK, 4096);
	for (unsigned i = 0; i < rounds;) {
		enum outcome r = round(&b, i % b.queues, all, data, i);

		if (r == WRONG) {
			check(false, "everything written is read again", "round %u of queue %u", i, i % b.queues);
			return;
		}
		if (r == NEEDS_RESET) {
			resets++;
			/* Its memory stays where it is: the rings come again, empty. */
			if (!check(vio_reset(&b.v) && blk_start(&b, b.v.features), "it starts again", "it does not"))
				return;
			all = dma(DEPTH * sizeof(*all), 16);
			data = dma(DEPTH * BLOCK, 4096);
			continue;
		}
		i++;
		if (i % 10 == 0)
			say("round %u\n", i);
	}
	check(true, "everything written is read again", "it is not");
	if (arg_given("resets"))
		check_equal(resets, arg_u64("resets", 0), "the driver hears nothing of it");
	say("resets %u\n", resets);
}

const struct guest_test blk_away_tests[] = {
	{ "blk-away", blk_away },
	{ NULL, NULL },
};
