/*
 * Double fetch: one vCPU makes requests, another rewrites their bytes all the while. What the device reads twice it reads
 * differently, so each field that is checked and then used is flipped between a good value and a bad one. Whatever the device
 * makes of it (the request fails, or the ring breaks), it must not touch what neither value allows.
 */
#include "tests/guest/attack.h"
#include "tests/guest/blk.h"
#include "tests/guest/pci.h"
#include "tests/guest/smp.h"

enum { SPLIT = 1, PACKED = 2, BOTH = 3, ROUNDS = 100, RESTARTS = 6, WAIT = 1000, LOOKS = 20, TABLE_AT = 32768, DATA_AT = 4096 };
/* Values that depend on the machine. */
enum symbol { V_NUMBER, V_OUT, V_IN, V_PAST, V_OWN, V_HOLE, V_ZERO };
/* What the flipped field is in. */
enum where { DESC0, DESC1, TABLE0, TABLE1, BUFFER, AVAIL, USED };

struct race_row {
	const char *name;
	enum target_kind kind;
	uint8_t formats;
	enum where where;
	uint8_t at, width;
	uint64_t a, b;
	enum symbol as, bs;
};

static const struct race_row rows[] = {
	{ "ring_address_and_past_ram", TARGET_BLK, BOTH, DESC1, 0, 8, 0, 0, V_OUT, V_PAST },
	{ "ring_address_and_registers", TARGET_BLK, BOTH, DESC1, 0, 8, 0, 0, V_OUT, V_OWN },
	{ "ring_address_and_all_ones", TARGET_BLK, BOTH, DESC1, 0, 8, 0, UINT64_MAX - 15, V_OUT, V_NUMBER },
	{ "ring_length_and_all_ones", TARGET_BLK, BOTH, DESC1, 8, 4, 513, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "ring_length_and_0", TARGET_BLK, BOTH, DESC1, 8, 4, 513, 0, V_NUMBER, V_NUMBER },
	{ "ring_length_of_the_header", TARGET_BLK, BOTH, DESC0, 8, 4, 16, 0x7fffffff, V_NUMBER, V_NUMBER },
	{ "ring_flags_writable", TARGET_BLK, SPLIT, DESC1, 12, 2, RAW_WRITE, 0, V_NUMBER, V_NUMBER },
	{ "ring_flags_next", TARGET_BLK, SPLIT, DESC0, 12, 2, RAW_NEXT, 0, V_NUMBER, V_NUMBER },
	{ "ring_flags_indirect", TARGET_BLK, SPLIT, DESC0, 12, 2, RAW_NEXT, RAW_INDIRECT, V_NUMBER, V_NUMBER },
	{ "ring_next_and_itself", TARGET_BLK, SPLIT, DESC0, 14, 2, 1, 0, V_NUMBER, V_NUMBER },
	{ "ring_next_and_65535", TARGET_BLK, SPLIT, DESC0, 14, 2, 1, 0xffff, V_NUMBER, V_NUMBER },
	{ "ring_flags_available", TARGET_BLK, PACKED, DESC0, 14, 2, RAW_AVAIL | RAW_NEXT, RAW_NEXT, V_NUMBER, V_NUMBER },
	{ "ring_flags_next", TARGET_BLK, PACKED, DESC0, 14, 2, RAW_AVAIL | RAW_NEXT, RAW_AVAIL, V_NUMBER, V_NUMBER },
	{ "ring_flags_indirect", TARGET_BLK, PACKED, DESC0, 14, 2, RAW_AVAIL | RAW_NEXT, RAW_AVAIL | RAW_INDIRECT },
	{ "ring_flags_of_the_last", TARGET_BLK, PACKED, DESC1, 14, 2, RAW_AVAIL | RAW_WRITE, RAW_USED | RAW_WRITE },
	{ "ring_id", TARGET_BLK, PACKED, DESC1, 12, 2, 0, 0xffff, V_NUMBER, V_NUMBER },
	{ "avail_index", TARGET_BLK, SPLIT, AVAIL, 2, 2, 1, 0x8000, V_NUMBER, V_NUMBER },
	{ "avail_head", TARGET_BLK, SPLIT, AVAIL, 4, 2, 0, 0xffff, V_NUMBER, V_NUMBER },
	{ "avail_flags", TARGET_BLK, SPLIT, AVAIL, 0, 2, 0, 0xffff, V_NUMBER, V_NUMBER },
	{ "used_flags", TARGET_BLK, BOTH, USED, 0, 2, 0, 0xffff, V_NUMBER, V_NUMBER },
	{ "drivers_event", TARGET_BLK, PACKED, AVAIL, 0, 4, 0, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "table_address_and_past_ram", TARGET_BLK, BOTH, TABLE1, 0, 8, 0, 0, V_OUT, V_PAST },
	{ "table_address_and_hole", TARGET_BLK, BOTH, TABLE1, 0, 8, 0, 0, V_OUT, V_HOLE },
	{ "table_length_and_all_ones", TARGET_BLK, BOTH, TABLE1, 8, 4, 513, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "table_next_and_65535", TARGET_BLK, SPLIT, TABLE0, 14, 2, 1, 0xffff, V_NUMBER, V_NUMBER },
	{ "table_next_and_itself", TARGET_BLK, SPLIT, TABLE0, 14, 2, 1, 0, V_NUMBER, V_NUMBER },
	{ "table_flags_writable", TARGET_BLK, SPLIT, TABLE1, 12, 2, RAW_WRITE, 0, V_NUMBER, V_NUMBER },
	{ "table_flags_nested", TARGET_BLK, SPLIT, TABLE1, 12, 2, RAW_WRITE, RAW_INDIRECT, V_NUMBER, V_NUMBER },
	{ "table_flags_nested", TARGET_BLK, PACKED, TABLE1, 14, 2, RAW_WRITE, RAW_INDIRECT, V_NUMBER, V_NUMBER },
	{ "place_of_the_table", TARGET_BLK, BOTH, TABLE0, 0, 8, 0, 0, V_IN, V_PAST },
	{ "blk_type_read_and_write", TARGET_BLK, BOTH, BUFFER, 0, 4, BLK_IN, BLK_OUT, V_NUMBER, V_NUMBER },
	{ "blk_type_read_and_id", TARGET_BLK, BOTH, BUFFER, 0, 4, BLK_IN, BLK_GET_ID, V_NUMBER, V_NUMBER },
	{ "blk_type_read_and_unknown", TARGET_BLK, BOTH, BUFFER, 0, 4, BLK_IN, 0x10000, V_NUMBER, V_NUMBER },
	{ "blk_sector_and_all_ones", TARGET_BLK, BOTH, BUFFER, 8, 8, 9, UINT64_MAX, V_NUMBER, V_NUMBER },
	{ "blk_sector_and_wrap", TARGET_BLK, BOTH, BUFFER, 8, 8, 9, UINT64_C(1) << 55, V_NUMBER, V_NUMBER },
	{ "net_header_gso_type", TARGET_NET_TX, BOTH, BUFFER, 1, 1, 0, 1, V_NUMBER, V_NUMBER },
	{ "net_header_flags", TARGET_NET_TX, BOTH, BUFFER, 0, 1, 0, 1, V_NUMBER, V_NUMBER },
	{ "net_header_checksum_start", TARGET_NET_TX, BOTH, BUFFER, 6, 2, 0, 0xffff, V_NUMBER, V_NUMBER },
	{ "net_header_gso_size", TARGET_NET_TX, BOTH, BUFFER, 4, 2, 0, 0xffff, V_NUMBER, V_NUMBER },
	{ "net_length_and_all_ones", TARGET_NET_TX, BOTH, DESC0, 8, 4, 54, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "net_length_and_1", TARGET_NET_TX, BOTH, DESC0, 8, 4, 54, 1, V_NUMBER, V_NUMBER },
	{ "net_address_and_past_ram", TARGET_NET_TX, BOTH, DESC0, 0, 8, 0, 0, V_IN, V_PAST },
	{ "net_receive_length", TARGET_NET_RX, BOTH, DESC0, 8, 4, 513, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "net_receive_address", TARGET_NET_RX, BOTH, DESC0, 0, 8, 0, 0, V_OUT, V_PAST },
	{ "console_length_and_all_ones", TARGET_CONSOLE_TX, BOTH, DESC0, 8, 4, 1, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "console_address_and_past_ram", TARGET_CONSOLE_TX, BOTH, DESC0, 0, 8, 0, 0, V_IN, V_PAST },
	{ "rng_length_and_all_ones", TARGET_RNG, BOTH, DESC0, 8, 4, 513, 0xffffffff, V_NUMBER, V_NUMBER },
	{ "rng_address_and_past_ram", TARGET_RNG, BOTH, DESC0, 0, 8, 0, 0, V_OUT, V_PAST },
};

static uint64_t value(const struct target *t, enum symbol symbol, uint64_t number)
{
	switch (symbol) {
	case V_OUT:
		return (uint64_t)t->out;
	case V_IN:
		return (uint64_t)t->in;
	case V_PAST:
		return ram_end() - 8;
	case V_OWN:
		return t->v.pci ? pci_bar(t->v.devfn, 0) : t->v.mmio;
	case V_HOLE:
		return PLACE_HOLE;
	default:
		return number;
	}
}

static volatile void *field(const struct target *t, const struct race_row *row)
{
	const struct vio_queue *q = &t->v.queue[t->queue];
	const uint8_t *base[] = { q->desc, q->desc + 16, t->in + TABLE_AT, t->in + TABLE_AT + 16, t->in, q->avail, q->used };

	return (volatile void *)(base[row->where] + row->at);
}

static bool by_table(const struct race_row *row)
{
	return row->where == TABLE0 || row->where == TABLE1;
}

/* The good request; its two descriptors in a table when that is what is flipped. */
static void request(struct target *t, const struct race_row *row)
{
	struct raw *ring = (struct raw *)t->v.queue[t->queue].desc, *table = (struct raw *)(t->in + TABLE_AT);

	raw_request(t, 0);
	if (!by_table(row))
		return;
	for (unsigned i = 0; i < 2; i++) {
		table[i] = ring[i];
		if (is_packed())
			table[i].next = i ? RAW_WRITE : 0; /* flags */
	}
	raw_put(t, 0, (struct raw){ (uint64_t)table, 32, RAW_INDIRECT, 0 });
}

static bool wants_reset(const struct target *t)
{
	return vio_status(&t->v) & VIO_NEEDS_RESET;
}

/* Waits until `n` came back; false: the ring broke, or nothing comes (a head that nobody sees any more). */
static bool settled(const struct target *t, unsigned n)
{
	for (unsigned look = 0; look < LOOKS; look++) {
		for (unsigned i = 0; i < WAIT; i++)
			if (raw_used(t) == n)
				return true;
			else
				relax();
		if (wants_reset(t))
			return false;
	}
	return false;
}

/* Split: one after the other in the same ring, until it breaks. */
static void run_split(struct target *t, const struct race_row *row)
{
	struct vio_queue *q = &t->v.queue[t->queue];
	uint16_t *avail = (uint16_t *)q->avail;

	request(t, row);
	for (unsigned r = 0; r < ROUNDS; r++) {
		avail[2 + r % RING] = 0;
		raw_index(t, (uint16_t)(r + 1));
		vio_kick(&t->v, t->queue);
		if (!settled(t, r + 1))
			return;
	}
}

static void run_packed(struct target *t, const struct race_row *row)
{
	request(t, row);
	raw_expose(t, NULL, 1);
	settled(t, 1);
}

static void run(struct target *t, unsigned i)
{
	const struct race_row *row = &rows[i];
	const struct flip flip = { field(t, row), row->width, value(t, row->as, row->a), value(t, row->bs, row->b) };

	if (!smp_start()) {
		fail("the second vCPU does not start");
		return;
	}
	t->features = by_table(row) ? VD_F_INDIRECT : 0;
	for (unsigned r = 0; r < RESTARTS; r++) {
		if (!target_start(t)) {
			fail("the device does not start, round %u: status 0x%x", r, vio_status(&t->v));
			break;
		}
		request(t, row);
		flip_begin(&flip, 1);
		if (is_packed())
			run_packed(t, row);
		else
			run_split(t, row);
		flip_end();
		must(target_guarded(t), "memory behind the buffers was written");
		if (!wants_reset(t) && !is_packed() && r > 2)
			break;
	}
	t->features = 0;
}

static void title(unsigned i, const char *part[2])
{
	part[0] = rows[i].formats & (is_packed() ? PACKED : SPLIT) ? "vq19_" : NULL;
	part[1] = rows[i].name;
}

static enum target_kind on(unsigned i)
{
	return rows[i].kind;
}

const struct attack_set attack_race = { "race", ARRAY_SIZE(rows), title, run, on, ROUNDS * 3 };
