/*
 * After a mistake there is nothing to do, so nothing may be done: between the lines "quiet" and "quiet over" the guest makes no request,
 * and the host (hostile.py) sees to it that no thread of the monitor spins: on a ring that is broken, on a chain that was
 * never taken, on a link that has frames for a driver without buffers.
 */
#include "tests/guest/attack.h"

enum { KICKS = 50, FRAMES = 100 };
#define QUIET (UINT64_C(300) * 1000 * 1000) /* cycles */

static void nothing(struct target *t)
{
	vio_kick(&t->v, t->queue);
}

static void broken(struct target *t)
{
	static const uint16_t heads[] = { 0xffff };

	raw_put(t, 0, (struct raw){ (uint64_t)t->in, 16, 0, 0xffff });
	raw_expose(t, heads, 1);
	target_must(t, BREAKS);
	for (unsigned i = 0; i < KICKS; i++)
		vio_kick(&t->v, t->queue);
}

static void too_long(struct target *t)
{
	static const uint16_t head;

	for (unsigned i = 0; i < RING; i++)
		raw_put(t, i, (struct raw){ (uint64_t)t->in, 16, RAW_NEXT, (uint16_t)(is_packed() ? 0 : (i + 1) % RING) });
	raw_expose(t, &head, 1);
	target_must(t, BREAKS);
	for (unsigned i = 0; i < KICKS; i++)
		vio_kick(&t->v, t->queue);
}

static void failed(struct target *t)
{
	static const uint16_t head;

	raw_request(t, 0);
	raw_expose(t, &head, 1);
	vio_set_status(&t->v, 0x8f);
	for (unsigned i = 0; i < KICKS; i++)
		vio_kick(&t->v, t->queue);
}

static void no_buffers(struct target *t)
{
	unsigned len;

	if (t->kind != TARGET_NET_RX)
		return;
	len = target_arp(t, t->in);
	for (unsigned i = 0; i < FRAMES; i++)
		must(vio_transfer(&t->v, 1, (struct vd_seg[]){ vio_seg(t->in, len) }, 1, 0, NULL), "a frame is not sent");
}

static const struct {
	const char *name;
	void (*run)(struct target *t);
} rows[] = {
	{ "nothing_asked", nothing },
	{ "vq15_ring_broken_and_kicked", broken },
	{ "vq02_chain_too_long_and_kicked", too_long },
	{ "vq26_failed_and_kicked", failed },
	{ "nt09_frames_and_no_buffers", no_buffers },
};
static const enum target_kind kinds[] = { TARGET_BLK, TARGET_RNG, TARGET_NET_RX };

static void run(struct target *t, unsigned i)
{
	uint64_t start;

	rows[i / ARRAY_SIZE(kinds)].run(t);
	say("quiet\n");
	start = cycles();
	while (cycles() - start < QUIET)
		relax();
	say("quiet over\n");
}

static enum target_kind on(unsigned i)
{
	return kinds[i % ARRAY_SIZE(kinds)];
}

static void title(unsigned i, const char *part[2])
{
	bool net_only = rows[i / ARRAY_SIZE(kinds)].run == no_buffers;

	part[0] = net_only && on(i) != TARGET_NET_RX ? NULL : rows[i / ARRAY_SIZE(kinds)].name;
}

const struct attack_set attack_quiet = { "quiet", ARRAY_SIZE(rows) * ARRAY_SIZE(kinds), title, run, on, KICKS };
