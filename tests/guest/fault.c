/*
 * A writer that knows what it was told, for hosts that go wrong (tests/fault). Its first disk is the one that suffers; by
 * its second it meets the host (meet.h). Between two meetings it writes, flushes and reads back. A block may hold what was last acknowledged, or,
 * sector by sector, what a later write that failed would have put there; anything else is corrupt.
 *
 * blocks= how many it overwrites, and as many again in new places; keep=1: every second one is left as it is after the
 * first round. rounds= how often. chatter=1: a line for each write.
 */
#include "tests/guest/meet.h"
#include "tests/guest/tests.h"

enum { BLOCK = 4096, PER_BLOCK = BLOCK / SECTOR, FIRST = 64, BLOCKS_MAX = 512 };

/* As tests/fault/cell.py unpacks it. */
struct counts {
	uint32_t round, written, write_errors, flush, read, read_errors, corrupt, lost;
};

struct writer {
	struct meeting meeting;
	struct blk victim;
	uint8_t *block;
	unsigned n;
	bool keep, chatter;
	uint8_t good[BLOCKS_MAX], tried[BLOCKS_MAX];	/* seeds; 0: never */
	struct counts counts;
};

static uint32_t seed_of(unsigned block, uint8_t round)
{
	return round ? block * 256 + round : 0;
}

static uint64_t place(unsigned block)
{
	return FIRST + (uint64_t)block * PER_BLOCK;
}

static void write_all(struct writer *w, uint8_t round)
{
	for (unsigned i = 0; i < (round > 1 ? 2 * w->n : w->n); i++) {
		enum blk_status status;

		if (w->keep && round > 1 && i < w->n && i % 2)
			continue;
		pattern(w->block, BLOCK, seed_of(i, round));
		status = blk_request(&w->victim, 0, BLK_OUT, place(i), w->block, BLOCK, NULL);
		w->tried[i] = round;
		if (w->chatter)
			say("round %u block %u\n", round, i);
		w->counts.written += status == BLK_OK;
		w->counts.write_errors += status == BLK_IOERR;
		w->counts.lost += status == BLK_NONE;
		if (status == BLK_OK)
			w->good[i] = round;
	}
}

/* Blocks that were never written are zeroes. */
static bool sector_is(const uint8_t *at, size_t offset, unsigned block, uint8_t round)
{
	static uint8_t whole[BLOCK];

	if (round)
		pattern(whole, BLOCK, seed_of(block, round));
	else
		fill(whole, 0, BLOCK);
	return same_bytes(at + offset, whole + offset, SECTOR);
}

static void read_all(struct writer *w)
{
	for (unsigned i = 0; i < 2 * w->n; i++) {
		enum blk_status status = blk_request(&w->victim, 0, BLK_IN, place(i), w->block, BLOCK, NULL);
		bool whole = true;

		w->counts.read += status == BLK_OK;
		w->counts.read_errors += status == BLK_IOERR;
		w->counts.lost += status == BLK_NONE;
		for (size_t at = 0; status == BLK_OK && at < BLOCK; at += SECTOR)
			whole &= sector_is(w->block, at, i, w->good[i]) ||
				(w->tried[i] != w->good[i] && sector_is(w->block, at, i, w->tried[i]));
		w->counts.corrupt += !whole;
		if (!whole)
			say("block %u is neither round %u nor round %u\n", i, w->good[i], w->tried[i]);
	}
}

static void fault(void)
{
	static struct writer w;
	unsigned rounds = (unsigned)arg_u64("rounds", 3);

	if (!meet_open(&w.meeting, 1))
		return;
	w.block = dma(BLOCK, BLOCK);
	dma_keep();
	if (!blk_open(&w.victim, 0))
		return;
	w.n = (unsigned)arg_u64("blocks", 64);
	w.n = w.n > BLOCKS_MAX / 2 ? BLOCKS_MAX / 2 : w.n;
	w.keep = arg_u64("keep", 0);
	w.chatter = arg_u64("chatter", 0);
	for (unsigned round = 1; round <= rounds; round++) {
		w.counts = (struct counts){ .round = round };
		write_all(&w, (uint8_t)round);
		w.counts.flush = blk_request(&w.victim, 0, BLK_FLUSH, 0, NULL, 0, NULL);
		read_all(&w);
		meet_host(&w.meeting, round, &w.counts, sizeof(w.counts));
	}
	check(!w.counts.corrupt, "no block holds what nobody wrote", "%u do", w.counts.corrupt);
	check(!w.counts.lost, "every request is answered", "%u are not", w.counts.lost);
}

const struct guest_test fault_tests[] = {
	{ "fault", fault },
	{ NULL, NULL },
};
