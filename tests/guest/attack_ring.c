/*
 * What a driver may not do to a ring as a whole (virtio 1.2 §2.7.6, §2.7.8, §2.8.1, §2.8.10): indices, heads and buffer ids,
 * flags and events, on every queue of every device. And what it may do, though none does: then the device serves on.
 */
#include "tests/guest/attack.h"

enum { SPLIT = 1, PACKED = 2, BOTH = 3, ANY = 0xff, STORM = 2000, ROUNDS = 1040, GARBAGE = 0xa6 };

struct ring_row {
	const char *name;
	uint8_t formats;
	enum outcome outcome;
	uint8_t used;     /* heads that came back; ANY */
	void (*run)(struct target *t, const struct ring_row *row);
	uint32_t value;
};

static struct vio_queue *queue_of(struct target *t)
{
	return &t->v.queue[t->queue];
}

static void index_of(struct target *t, const struct ring_row *row)
{
	raw_request(t, 0);
	raw_index(t, (uint16_t)row->value);
	vio_kick(&t->v, t->queue);
}

static void index_and_back(struct target *t, const struct ring_row *row)
{
	index_of(t, row);
	raw_index(t, 0);
	vio_kick(&t->v, t->queue);
}

static void head(struct target *t, const struct ring_row *row)
{
	const uint16_t heads[] = { (uint16_t)row->value };

	raw_request(t, 0);
	raw_expose(t, heads, 1);
}

static void id(struct target *t, const struct ring_row *row)
{
	raw_put(t, 0, (struct raw){ (uint64_t)t->in, 16, 0, (uint16_t)row->value });
	raw_expose(t, NULL, 1);
}

/* Receive buffers stay in flight, so there the second one is a mistake for sure; elsewhere the first may be through. */
static void same_head(struct target *t, const struct ring_row *row)
{
	static const uint16_t heads[RING];

	raw_request(t, 0);
	raw_expose(t, heads, row->value);
	if (t->kind == TARGET_NET_RX)
		target_must(t, BREAKS);
}

static void same_id(struct target *t, const struct ring_row *row)
{
	const bool in = t->kind == TARGET_NET_TX || t->kind == TARGET_CONSOLE_TX;

	for (unsigned i = 0; i < row->value; i++)
		raw_put(t, i, (struct raw){ (uint64_t)(in ? t->in : t->out), 64, in ? 0 : RAW_WRITE, 5 });
	raw_expose(t, NULL, 1);
	if (t->kind == TARGET_NET_RX)
		target_must(t, BREAKS);
}

static void ends_too_early(struct target *t, const struct ring_row *row)
{
	raw_put(t, 0, (struct raw){ (uint64_t)t->in, 16, RAW_NEXT, 0 });
	(void)row;
	raw_expose(t, NULL, 1);
}

static void flags_of(struct target *t, const struct ring_row *row)
{
	volatile uint16_t *flags = (volatile uint16_t *)(queue_of(t)->desc + 14);

	*flags = (uint16_t)row->value;
	vio_kick(&t->v, t->queue);
	pause_for(5000);
	*flags = 0;
}

/* A request after the words of the ring that are the device's, or the driver's wishes, were filled with garbage. */
static void scribbled(struct target *t, const struct ring_row *row)
{
	struct vio_queue *q = queue_of(t);
	static const uint16_t heads[1];

	if (row->value == 0)
		fill(q->used, GARBAGE, is_packed() ? 4 : 6 + 8 * RING);
	else if (row->value == 1 && !is_packed())
		*(volatile uint16_t *)q->avail = 0xfffe;
	else if (row->value == 1)
		*(volatile uint32_t *)q->avail = 0xffffffff;
	else
		*(volatile uint16_t *)(q->avail + 4 + 2 * RING) = 0x7fff;
	raw_request(t, 0);
	raw_expose(t, heads, 1);
	if (t->kind != TARGET_NET_RX)
		must(raw_comes_back(t, 1), "the request does not come back");
}

static void events(struct target *t, const struct ring_row *row)
{
	t->features = VD_F_EVENT_IDX;
	must(target_start(t), "the device does not start with EVENT_IDX");
	t->features = 0;
	scribbled(t, row);
}

static void storm(struct target *t, const struct ring_row *row)
{
	for (unsigned i = 0; i < row->value; i++)
		vio_kick(&t->v, t->queue);
}

/* The device writes into the ring that it reads, where it may write at all. */
static void buffer_is_ring(struct target *t, const struct ring_row *row)
{
	const struct vio_queue *q = queue_of(t);
	const uint8_t *part[] = { q->desc, q->avail, q->used };
	const uint16_t heads[] = { 0, 1 };

	raw_request(t, 2);
	raw_put(t, 0, (struct raw){ (uint64_t)t->in, 16, RAW_NEXT, is_packed() ? 0 : 1 });
	raw_put(t, 1, (struct raw){ (uint64_t)part[row->value], 4 * RING, RAW_WRITE, 0 });
	raw_expose(t, heads, 1);
	pause_for(20000);
	vio_kick(&t->v, t->queue);
}

/* More than 65536 entries, so that the index wraps, and nobody ever looks at what came back. */
static void index_wraps(struct target *t, const struct ring_row *row)
{
	uint16_t heads[RING], index = RING;

	for (unsigned i = 0; i < RING; i++) {
		raw_put(t, i, (struct raw){ (uint64_t)t->out, 1, RAW_WRITE, 0 });
		heads[i] = (uint16_t)i;
	}
	raw_expose(t, heads, RING);
	for (unsigned i = 0; i < row->value; i++) {
		if (!raw_comes_back(t, index)) {
			fail("entry %u does not come back", index);
			return;
		}
		index += RING;
		raw_index(t, index);
		vio_kick(&t->v, t->queue);
	}
	must(raw_comes_back(t, index), "the last entries do not come back");
}

/* The whole ring, and at once the whole ring again, as if it had been used. */
static void second_round(struct target *t, const struct ring_row *row)
{
	uint16_t heads[RING];

	for (unsigned i = 0; i + 2 <= RING; i += raw_request(t, i))
		;
	for (unsigned i = 0; i < RING; i++)
		heads[i] = (uint16_t)i;
	raw_expose(t, heads, RING);
	if (is_packed())
		for (unsigned i = 0; i < RING; i++)
			*(volatile uint16_t *)(queue_of(t)->desc + 16 * i + 14) = RAW_USED;
	else
		raw_index(t, (uint16_t)row->value);
	vio_kick(&t->v, t->queue);
}

static const struct ring_row rows[] = {
	{ "vq15_index_one_too_far", SPLIT, BREAKS, 0, index_of, RING + 1 },
	{ "vq15_index_half_a_round", SPLIT, BREAKS, 0, index_of, 0x8000 },
	{ "vq15_index_steps_back", SPLIT, BREAKS, 0, index_of, 0xffff },
	{ "vq15_index_there_and_back", SPLIT, EITHER, ANY, index_and_back, 0x4000 },
	{ "vq16_head_is_the_size", SPLIT, BREAKS, 0, head, RING },
	{ "vq16_head_is_65535", SPLIT, BREAKS, 0, head, 0xffff },
	{ "vq16_head_with_the_sign_bit", SPLIT, BREAKS, 0, head, 0x8000 },
	{ "vq16_id_is_the_size", PACKED, BREAKS, 0, id, RING },
	{ "vq16_id_is_65535", PACKED, BREAKS, 0, id, 0xffff },
	{ "vq16_id_with_the_sign_bit", PACKED, BREAKS, 0, id, 0x8000 },
	{ "cve_2026_45782_same_head_twice", SPLIT, EITHER, ANY, same_head, 2 },
	{ "vq16_all_heads_the_same", SPLIT, EITHER, ANY, same_head, RING },
	{ "cve_2026_45782_same_id_twice", PACKED, EITHER, ANY, same_id, 2 },
	{ "vq16_all_ids_the_same", PACKED, EITHER, ANY, same_id, RING },
	{ "vq29_list_ends_too_early", PACKED, BREAKS, 1, ends_too_early, 0 },
	{ "vq29_flags_of_the_other_round", PACKED, SERVES, ANY, flags_of, RAW_USED },
	{ "vq29_flags_available_and_used", PACKED, SERVES, ANY, flags_of, RAW_USED | RAW_AVAIL },
	{ "vq29_flags_all_but_available", PACKED, SERVES, ANY, flags_of, 0xff7f },
	{ "cve_2016_5403_second_round_at_once", BOTH, EITHER, ANY, second_round, 2 * RING },
	{ "vq20_devices_words_scribbled", BOTH, SERVES, ANY, scribbled, 0 },
	{ "vq20_drivers_flags_are_garbage", BOTH, SERVES, ANY, scribbled, 1 },
	{ "vq20_events_and_devices_words_scribbled", BOTH, SERVES, ANY, events, 0 },
	{ "vq20_events_and_flags_are_garbage", BOTH, SERVES, ANY, events, 1 },
	{ "vq20_event_far_away", SPLIT, SERVES, ANY, events, 2 },
	{ "vq31_storm_of_kicks", BOTH, SERVES, ANY, storm, STORM },
	{ "vq10_buffer_in_the_descriptors", BOTH, EITHER, ANY, buffer_is_ring, 0 },
	{ "vq10_buffer_in_the_drivers_ring", BOTH, EITHER, ANY, buffer_is_ring, 1 },
	{ "vq10_buffer_in_the_used_ring", BOTH, EITHER, ANY, buffer_is_ring, 2 },
};

static void run(struct target *t, unsigned i)
{
	const struct ring_row *row = &rows[i / TARGETS];

	row->run(t, row);
	target_must(t, row->outcome);
	if (row->used != ANY)
		must(raw_used(t) == row->used, "%u heads came back, not %u", raw_used(t), row->used);
}

static void title(unsigned i, const char *part[2])
{
	const struct ring_row *row = &rows[i / TARGETS];

	part[0] = row->formats & (is_packed() ? PACKED : SPLIT) ? row->name : NULL;
}

static enum target_kind on(unsigned i)
{
	return (enum target_kind)(i % TARGETS);
}

const struct attack_set attack_ring = { "ring", ARRAY_SIZE(rows) * TARGETS, title, run, on, STORM };

static const struct ring_row wraps = { "vq18_index_wraps_and_nobody_collects", SPLIT, SERVES, ANY, index_wraps, ROUNDS };

static void run_wraps(struct target *t, unsigned i)
{
	(void)i;
	wraps.run(t, &wraps);
	target_must(t, SERVES);
}

static void title_wraps(unsigned i, const char *part[2])
{
	(void)i;
	part[0] = is_packed() ? NULL : wraps.name;
}

static enum target_kind on_rng(unsigned i)
{
	(void)i;
	return TARGET_RNG;
}

const struct attack_set attack_wrap = { "ring", 1, title_wraps, run_wraps, on_rng, 100000 };
