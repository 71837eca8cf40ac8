/* The frame of hostile cases; attack.h says what it promises. */
#include "tests/guest/attack.h"

#include <stdarg.h>

#include "tests/guest/blk.h"
#include "tests/guest/tests.h"

enum { CANARY = 4096, CANARY_BYTE = 0xc5, PAUSE = 60000, SETTLE = 3, WITNESSES = 2, CONTROL_REQUESTS = 64 };

extern const uint64_t program_begin[], program_end[]; /* link.ld: code and constants */

static struct {
	bool failed;
	struct target target;
	struct blk disk;            /* witness: on PCI, never attacked */
	struct vio rng;             /* witness, on the quiet devices' worker */
	bool rng_away;              /* it was the target, and its rings are not the witness's */
	uint8_t *rng_bytes, *sector, *canary[2];
	uint64_t text;
} a;

void fail(const char *format, ...)
{
	va_list ap;

	if (a.failed)
		return;
	a.failed = true;
	say("why ");
	va_start(ap, format);
	say_args(format, ap);
	va_end(ap);
	say("\n");
}

bool is_packed(void)
{
	return arg_u64("packed", 0);
}

uint64_t ram_end(void)
{
	return PLACE_RAM + arg_u64("ram", 128 << 20);
}

void pause_for(uint64_t turns)
{
	while (turns--)
		relax();
}

static uint64_t sum_of_program(void)
{
	uint64_t sum = 0;

	for (const uint64_t *p = program_begin; p < program_end; p++)
		sum = sum * 31 + *p;
	return sum;
}

static bool canaries_live(void)
{
	static uint8_t expected[CANARY];
	const uint8_t *last = (const uint8_t *)(ram_end() - CANARY);

	fill(expected, CANARY_BYTE, CANARY);
	return same_bytes(a.canary[0], expected, CANARY) && same_bytes(a.canary[1], expected, CANARY) &&
		same_bytes(last, expected, CANARY) && sum_of_program() == a.text;
}

/* Witnesses have memory of their own, below what targets are given. */
static bool open_witnesses(void)
{
	a.canary[0] = dma(CANARY, 4096);
	dma_keep();
	a.disk.queue_size = 16;
	if (!vio_find_on(&a.disk.v, true, VIO_BLK, arg_is("transport", "mmio") ? 0 : 1) ||
		!blk_start(&a.disk, VD_F_VERSION_1))
		return check(false, "the second disk is found", "it is not");
	if (!vio_find(&a.rng, VIO_RNG, 0))
		return check(false, "a source of entropy is found", "it is not");
	a.sector = dma(SECTOR, 16);
	a.rng_bytes = dma(64, 16);
	dma_keep();
	return true;
}

static bool start_rng_witness(void)
{
	struct vio_queue *q = &a.rng.queue[0];

	if (!vio_negotiate(&a.rng, VD_F_VERSION_1) || !(q->vio ? vio_queue_again(q) : vio_queue(&a.rng, 0, 16)))
		return false;
	vio_ready(&a.rng);
	return true;
}

static bool rng_serves(void)
{
	uint32_t len = 0;

	return vio_transfer(&a.rng, 0, (struct vd_seg[]){ vio_seg(a.rng_bytes, 64) }, 0, 1, &len) && len == 64;
}

static void witnesses_serve(void)
{
	must(blk_request(&a.disk, 0, BLK_IN, 1, a.sector, SECTOR, NULL) == BLK_OK, "the other disk does not serve");
	must(a.target.kind == TARGET_RNG || rng_serves(), "the source of entropy does not serve");
	must(!(vio_status(&a.disk.v) & VIO_NEEDS_RESET), "the other disk is broken too");
}

static bool find_target(enum target_kind kind)
{
	static const enum vio_id ids[TARGETS] = { VIO_BLK, VIO_RNG, VIO_NET, VIO_NET, VIO_CONSOLE };
	static const uint8_t queues[TARGETS] = { 0, 0, 1, 0, 1 };

	a.target.kind = kind;
	a.target.queue = queues[kind];
	a.target.features = 0;
	return vio_find(&a.target.v, ids[kind], 0);
}

/* What no case may leave behind. */
static void aftermath(struct target *t)
{
	pause_for(PAUSE);
	witnesses_serve();
	must(target_guarded(t), "memory behind the buffers was written");
	must(target_start(t), "the device does not start after a reset: status 0x%x", vio_status(&t->v));
	must(target_serves(t), "the device does not serve after a reset: status 0x%x", vio_status(&t->v));
	must(canaries_live(), "memory has changed that no driver gave away");
}

static void run_case(const struct attack_set *set, unsigned i, unsigned number)
{
	const char *part[2] = { "", "" };
	enum target_kind kind = set->on ? set->on(i) : TARGET_BLK;

	set->title(i, part);
	if (!part[0])
		return;
	say("case %u %s-%s-%s%s %u\n", number, target_name(kind), set->name, part[0], part[1], set->kicks);
	a.failed = false;
	if (a.rng_away && kind != TARGET_RNG)
		must(start_rng_witness(), "the source of entropy does not start again");
	a.rng_away = kind == TARGET_RNG;
	if (!find_target(kind)) {
		say("skip: this machine has no such device\n");
		return;
	}
	must(target_start(&a.target), "the device does not start: status 0x%x", vio_status(&a.target.v));
	if (!a.failed)
		set->run(&a.target, i);
	aftermath(&a.target);
	say(a.failed ? "not ok\n" : "ok\n");
}

/* Good requests and a reset: what the host compares the cost of a case with. */
static void control(void)
{
	for (unsigned round = 0; round < 3; round++) {
		say("case 0 control %u\n", round);
		a.failed = false;
		must(find_target(TARGET_BLK) && target_start(&a.target), "the disk does not start");
		for (unsigned i = 0; i < CONTROL_REQUESTS && !a.failed; i++)
			must(target_serves(&a.target), "the disk does not serve");
		aftermath(&a.target);
		say(a.failed ? "not ok\n" : "ok\n");
	}
}

struct choice {
	uint64_t from, each; /* from this number on, and of each set the first and each so-manieth after it */
	char only[32];       /* one set; "": all */
};

/* Returns the number behind the last. */
static unsigned run_sets(const struct attack_set *const *set, unsigned number, const struct choice *c)
{
	for (; *set; set++)
		for (unsigned i = 0; i < (*set)->count; i++, number++)
			if (number >= c->from && i % c->each == 0 && (!c->only[0] || same(c->only, (*set)->name)))
				run_case(*set, i, number);
	return number;
}

static void attack(void)
{
	struct choice c = { .from = arg_u64("from", 1), .each = arg_u64("each", 1) };
	unsigned number = 1;

	arg_copy("only", c.only, sizeof(c.only));
	if (!open_witnesses() || !start_rng_witness())
		return;
	dma_keep();
	a.canary[1] = dma(CANARY, 4096);
	dma_keep();
	fill(a.canary[0], CANARY_BYTE, CANARY);
	fill(a.canary[1], CANARY_BYTE, CANARY);
	fill((void *)(ram_end() - CANARY), CANARY_BYTE, CANARY);
	a.text = sum_of_program();
	control();
	number = run_sets(attack_sets, number, &c);
	run_sets(cpu_attack_sets, number, &c);
}

const struct guest_test attack_tests[] = {
	{ "attack", attack },
	{ NULL, NULL },
};
