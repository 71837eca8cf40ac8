/*
 * A disk in a process of its own, and a driver that keeps it busy and checks all that it reads.
 * Included by one .c of a test program.
 */
#ifndef TESTS_UNIT_PROCESS_DISK_H
#define TESTS_UNIT_PROCESS_DISK_H

#include <fcntl.h>
#include <sys/wait.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/unit/process_rig.h"
#include "tests/unit/sealed.h"

enum { BLOCK = 4096, BLOCKS = 256, SLOT_BYTES = 2 * BLOCK, SLOTS = 24 };
enum { PATIENCE_MS = 400, HANG_S = 30 };

static char path[64];
/* The image that disk() makes at `path`, of BLOCKS blocks of zeroes; NULL: a raw file. */
static void (*make_image)(void);
/* Of a hundred requests, how many are flushes and how many write zeroes. */
static unsigned flushes, zeroes;

/* A request: header, data, status, in a place of its own of guest memory. */
struct slot {
	bool busy;
	uint32_t type;
	unsigned block;
	uint32_t version;
};
static struct slot slots[PRIG_QUEUES][SLOTS];
static uint32_t content[BLOCKS];         /* the version that each block has; 0: zeroes */
static uint32_t latest;                  /* that was ever written */
static bool claimed[BLOCKS];
static uint64_t asked, answered;

RIG void disk(const char *more, unsigned deaths)
{
	char text[256];
	int fd;

	needs_filters();
	strcpy(path, "/tmp/test_back_process.XXXXXX");
	fd = mkstemp(path);
	cr_assert(fd >= 0 && ftruncate(fd, BLOCKS * BLOCK) == 0);
	close(fd);
	if (make_image)
		make_image();
	memset(slots, 0, sizeof(slots));
	memset(content, 0, sizeof(content));
	memset(claimed, 0, sizeof(claimed));
	asked = answered = latest = 0;
	snprintf(text, sizeof(text), "path=%s,queue_size=32,isolation=process%s", path, more);
	prig_make(&virtio_blk_row, text, deaths);
	prig_back()->patience_ms = PATIENCE_MS;
}

RIG void end(void)
{
	prig_end();
	unlink(path);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
}

RIG uint64_t place(unsigned queue, unsigned slot)
{
	return PRIG_DATA + ((uint64_t)queue * SLOTS + slot) * SLOT_BYTES;
}

RIG void fill(uint32_t *words, unsigned block, uint32_t version)
{
	for (unsigned i = 0; i < BLOCK / 4; i++)
		words[i] = version ? version * 2654435761u + block * 40503u + i : 0;
}

RIG bool is_filled(const uint32_t *words, unsigned block, uint32_t version)
{
	static uint32_t want[BLOCK / 4];

	fill(want, block, version);
	return !memcmp(words, want, BLOCK);
}

RIG uint32_t any_type(void)
{
	unsigned of = (unsigned)rand() % 100;

	if (of < flushes)
		return BLK_T_FLUSH;
	if (of < flushes + zeroes)
		return BLK_T_WRITE_ZEROES;
	return rand() % 2 ? BLK_T_OUT : BLK_T_IN;
}

RIG void choose(struct slot *s)
{
	s->type = any_type();
	s->busy = true;
	if (s->type == BLK_T_FLUSH)
		return;
	do
		s->block = (unsigned)rand() % BLOCKS;
	while (claimed[s->block]);
	claimed[s->block] = true;
	s->version = s->type == BLK_T_OUT ? ++latest : s->type == BLK_T_IN ? content[s->block] : 0;
}

RIG void ask(unsigned queue, unsigned n)
{
	struct slot *s = &slots[queue][n];
	uint64_t at = place(queue, n);
	struct blk_header *h = prig_at(at);
	struct vd_seg segs[] = { { at, sizeof(*h) }, { at + BLOCK, BLOCK }, { at + 64, 1 } };
	unsigned data = 1;

	choose(s);
	*h = (struct blk_header){ .type = s->type, .sector = s->block * (BLOCK / BLK_SECTOR) };
	*(uint8_t *)prig_at(at + 64) = 0xff;
	if (s->type == BLK_T_OUT) {
		fill(prig_at(at + BLOCK), s->block, s->version);
	} else if (s->type == BLK_T_IN) {
		memset(prig_at(at + BLOCK), 0xee, BLOCK);
	} else if (s->type == BLK_T_WRITE_ZEROES) {
		*(struct blk_range *)prig_at(at + BLOCK) = (struct blk_range){ h->sector, BLOCK / BLK_SECTOR, s->version & 1 };
		h->sector = 0;
		segs[1].len = sizeof(struct blk_range);
	} else {
		h->sector = data = 0;
		segs[1] = segs[2];
	}
	cr_assert(vd_add(&p.vd[queue], segs, s->type == BLK_T_IN ? 1 : 1 + data, s->type == BLK_T_IN ? 2 : 1, s));
	asked++;
}

RIG void take(unsigned queue)
{
	uint32_t len;
	void *cookie;
	int r;

	while ((r = vd_poll(&p.vd[queue], &cookie, &len)) == 1) {
		struct slot *s = cookie;
		uint64_t at = place(queue, (unsigned)(s - slots[queue]));

		cr_assert(s->busy, "a request came back twice");
		cr_assert_eq(*(uint8_t *)prig_at(at + 64), BLK_S_OK);
		cr_assert_eq(len, s->type == BLK_T_IN ? 1u + BLOCK : 1u);
		cr_assert(s->type != BLK_T_IN || is_filled(prig_at(at + BLOCK), s->block, s->version), "block %u", s->block);
		s->busy = false;
		answered++;
		if (s->type == BLK_T_FLUSH)
			continue;
		content[s->block] = s->version;
		claimed[s->block] = false;
	}
	cr_assert_eq(r, 0, "the device broke the ring's rules");
}

RIG void load(unsigned queues)
{
	for (unsigned q = 0; q < queues; q++) {
		take(q);
		for (unsigned n = 0; n < SLOTS; n++)
			if (!slots[q][n].busy && p.vd[q].free >= 3)
				ask(q, n);
		vd_kick(&p.vd[q]);
	}
}

RIG void finish(unsigned queues)
{
	double until = prig_now() + HANG_S;

	while (answered < asked && prig_now() < until)
		for (unsigned q = 0; q < queues; q++)
			take(q);
	cr_assert_eq(answered, asked, "%llu of %llu requests were answered", (unsigned long long)answered,
		(unsigned long long)asked);
}

/* What a raw file says in the end. */
RIG void check_content(const char *raw)
{
	static uint32_t words[BLOCK / 4];
	int fd = open(raw, O_RDONLY);

	for (unsigned b = 0; b < BLOCKS; b++) {
		cr_assert_eq(pread(fd, words, BLOCK, (off_t)b * BLOCK), BLOCK);
		cr_assert(is_filled(words, b, content[b]), "block %u of the file", b);
	}
	close(fd);
}

RIG void check_file(void)
{
	check_content(path);
}

RIG void run_for(unsigned queues, double seconds)
{
	double until = prig_now() + seconds;

	while (prig_now() < until)
		load(queues);
}

/* `times` kills under load, each at another moment; the longest time without an answer. */
RIG double kill_under_load(unsigned queues, unsigned times)
{
	const volatile struct desk *desk = prig_back()->desk;
	uint32_t lives;
	double worst = 0;

	for (unsigned i = 0; i < times; i++) {
		uint64_t before;
		double at;

		run_for(queues, 0.001 * (1 + rand() % 8));
		lives = desk->lives;
		kill(prig_worker(), SIGKILL);
		at = prig_now();
		/* Sometimes the next one dies in its first moments. */
		while (i % 4 && desk->lives == lives)
			cr_assert_lt(prig_now() - at, HANG_S, "no life after kill %u", i);
		before = answered;
		while (answered == before) {
			load(queues);
			cr_assert_lt(prig_now() - at, HANG_S, "no answer after kill %u", i);
		}
		worst = MAX(worst, prig_now() - at);
	}
	return worst;
}

#endif
