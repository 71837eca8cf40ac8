/*
 * Chains that no driver may make (virtio 1.2 §2.7.5, §2.7.5.3, §2.8.6 to §2.8.8), on every queue of every device: the ring
 * breaks, the head comes back once with nothing written. Numbers vq… name the classes of
 * mistakes, numbers cve… where another monitor fell for one.
 */
#include "tests/guest/attack.h"
#include "tests/guest/pci.h"

enum place {
	P_IN, P_OUT, P_ZERO, P_END, P_PAST, P_HOLE, P_OWN, P_NOTIFY, P_OTHER, P_ECAM, P_IOAPIC, P_LAPIC, P_FOUR_GIB,
	P_WRAP, P_TOP, P_HIGH, P_RING, P_TABLE
};
enum { SPLIT = 1, PACKED = 2, BOTH = 3 };
enum { N = RAW_NEXT, W = RAW_WRITE, I = RAW_INDIRECT, TABLE_AT = 32768, PIECES = 3, HUGE = 0x6400000 };

struct piece {
	enum place place;
	uint32_t len;
	uint16_t flags, next;
};

struct chain_row {
	const char *name;
	uint8_t formats;
	bool indirect;         /* the feature is negotiated */
	uint8_t repeat;        /* the first piece this often, each with the next place as its next */
	uint8_t n;
	struct piece d[PIECES];
	struct piece t[PIECES]; /* the table at P_TABLE */
};

static const struct chain_row rows[] = {
	{ "vq01_bites_its_tail", SPLIT, 0, 0, 1, { { P_IN, 16, N, 0 } } },
	{ "vq01_circle_of_two", SPLIT, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_IN, 16, N, 0 } } },
	{ "vq01_writable_circle", SPLIT, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_OUT, 512, N | W, 1 } } },
	{ "vq01_circle_behind_the_status", SPLIT, 0, 0, 3,
		{ { P_IN, 16, N, 1 }, { P_OUT, 512, N | W, 2 }, { P_OUT, 1, N | W, 1 } } },
	{ "vq02_longer_than_the_queue", BOTH, 0, RING, 1, { { P_IN, 16, N, 0 } } },
	{ "vq02_longer_and_writable", BOTH, 0, RING, 1, { { P_OUT, 16, N | W, 0 } } },
	{ "vq03_above_4_gib", BOTH, 0, 44, 1, { { P_ZERO, HUGE, N, 0 } } },
	{ "vq03_above_4_gib_writable", BOTH, 0, 44, 1, { { P_ZERO, HUGE, N | W, 0 } } },
	{ "vq04_next_is_the_size", SPLIT, 0, 0, 1, { { P_IN, 16, N, RING } } },
	{ "vq04_next_is_65535", SPLIT, 0, 0, 1, { { P_IN, 16, N, 0xffff } } },
	{ "vq04_next_with_the_sign_bit", SPLIT, 0, 0, 1, { { P_IN, 16, N, 0x8000 } } },
	{ "cve_2016_6490_zero_length", BOTH, 0, 0, 1, { { P_IN, 0, 0, 0 } } },
	{ "cve_2016_6490_zero_length_writable", BOTH, 0, 0, 1, { { P_OUT, 0, W, 0 } } },
	{ "vq05_zero_length_in_the_middle", BOTH, 0, 0, 3, { { P_IN, 16, N, 1 }, { P_OUT, 0, N | W, 2 }, { P_OUT, 1, W, 0 } } },
	{ "cve_2019_14835_zero_lengths_in_a_row", BOTH, 0, 40, 1, { { P_OUT, 0, N | W, 0 } } },
	{ "vq06_address_wraps", BOTH, 0, 0, 1, { { P_WRAP, 4096, 0, 0 } } },
	{ "vq06_address_wraps_writable", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_WRAP, 4096, W, 0 } } },
	{ "vq06_address_wraps_by_one", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_TOP, 257, W, 0 } } },
	{ "vq06_at_the_top", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_TOP, 256, W, 0 } } },
	{ "vq06_sign_bit", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_HIGH, 512, W, 0 } } },
	{ "vq06_length_all_ones", BOTH, 0, 0, 1, { { P_IN, 0xffffffff, 0, 0 } } },
	{ "vq06_length_all_ones_writable", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_OUT, 0xffffffff, W, 0 } } },
	{ "vq07_past_the_end_of_ram", BOTH, 0, 0, 1, { { P_PAST, 16, 0, 0 } } },
	{ "vq07_past_the_end_of_ram_writable", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_PAST, 512, W, 0 } } },
	{ "cve_2019_18960_across_the_end_of_ram", BOTH, 0, 0, 1, { { P_END, 64, 0, 0 } } },
	{ "cve_2019_18960_across_the_end_writable", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_END, 65536, W, 0 } } },
	{ "vq08_all_of_memory_and_a_byte", BOTH, 0, 0, 1, { { P_ZERO, (128 << 20) + 1, 0, 0 } } },
	{ "vq08_in_a_hole", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_HOLE, 512, W, 0 } } },
	{ "vq08_at_4_gib", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_FOUR_GIB, 512, W, 0 } } },
	{ "cve_2021_3748_in_its_own_registers", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_OWN, 512, W, 0 } } },
	{ "cve_2021_20255_reads_its_own_registers", BOTH, 0, 0, 1, { { P_OWN, 64, 0, 0 } } },
	{ "cve_2024_3446_in_its_own_notify", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_NOTIFY, 4, W, 0 } } },
	{ "vq09_in_another_devices_registers", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_OTHER, 512, W, 0 } } },
	{ "vq09_in_config_space", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_ECAM, 512, W, 0 } } },
	{ "vq09_in_the_ioapic", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_IOAPIC, 16, W, 0 } } },
	{ "vq09_in_the_local_apic", BOTH, 0, 0, 2, { { P_IN, 16, N, 1 }, { P_LAPIC, 1024, W, 0 } } },
	{ "vq23_readable_after_writable", BOTH, 0, 0, 2, { { P_OUT, 512, N | W, 1 }, { P_IN, 16, 0, 0 } } },
	{ "vq23_readable_between_writable", BOTH, 0, 0, 3, { { P_OUT, 1, N | W, 1 }, { P_IN, 16, N, 2 }, { P_OUT, 1, W, 0 } } },
	{ "vq21_indirect_without_the_feature", BOTH, 0, 0, 1, { { P_TABLE, 16, I, 0 } }, { { P_IN, 16, 0, 0 } } },
	{ "vq21_indirect_with_next", BOTH, 1, 0, 2, { { P_TABLE, 16, I | N, 1 }, { P_OUT, 1, W, 0 } }, { { P_IN, 16, 0, 0 } } },
	{ "vq21_nested", BOTH, 1, 0, 1, { { P_TABLE, 16, I, 0 } }, { { P_TABLE, 16, I, 0 } } },
	{ "vq21_nested_behind_another", BOTH, 1, 0, 1, { { P_TABLE, 32, I, 0 } }, { { P_IN, 16, N, 1 }, { P_TABLE, 16, I, 0 } } },
	{ "vq22_table_of_no_length", BOTH, 1, 0, 1, { { P_TABLE, 0, I, 0 } }, { { P_IN, 16, 0, 0 } } },
	{ "vq22_table_of_17_bytes", BOTH, 1, 0, 1, { { P_TABLE, 17, I, 0 } }, { { P_IN, 16, 0, 0 } } },
	{ "vq22_table_of_8_bytes", BOTH, 1, 0, 1, { { P_TABLE, 8, I, 0 } }, { { P_IN, 16, 0, 0 } } },
	{ "vq22_table_longer_than_the_queue", BOTH, 1, 0, 1, { { P_ZERO, 16 * (RING + 1), I, 0 } } },
	{ "vq22_table_of_4_gib", BOTH, 1, 0, 1, { { P_TABLE, 0xfffffff0, I, 0 } }, { { P_IN, 16, 0, 0 } } },
	{ "vq22_table_past_the_end_of_ram", BOTH, 1, 0, 1, { { P_PAST, 16, I, 0 } } },
	{ "vq22_table_across_the_end_of_ram", BOTH, 1, 0, 1, { { P_END, 32, I, 0 } } },
	{ "vq22_table_that_wraps", BOTH, 1, 0, 1, { { P_WRAP, 64, I, 0 } } },
	{ "vq22_table_in_a_hole", BOTH, 1, 0, 1, { { P_HOLE, 64, I, 0 } } },
	{ "vq22_table_in_its_own_registers", BOTH, 1, 0, 1, { { P_OWN, 64, I, 0 } } },
	{ "vq22_table_with_a_far_next", SPLIT, 1, 0, 1, { { P_TABLE, 32, I, 0 } }, { { P_IN, 16, N, 2 } } },
	{ "vq22_table_that_circles", SPLIT, 1, 0, 1, { { P_TABLE, 32, I, 0 } }, { { P_IN, 16, N, 1 }, { P_IN, 16, N, 0 } } },
	{ "vq22_table_with_a_bad_address", BOTH, 1, 0, 1, { { P_TABLE, 32, I, 0 } }, { { P_IN, 16, N, 1 }, { P_PAST, 1, W, 0 } } },
	{ "vq22_table_with_a_zero_length", BOTH, 1, 0, 1, { { P_TABLE, 32, I, 0 } }, { { P_IN, 16, N, 1 }, { P_OUT, 0, W, 0 } } },
	{ "vq22_table_with_readable_after_writable", BOTH, 1, 0, 1, { { P_TABLE, 32, I, 0 } },
		{ { P_OUT, 16, N | W, 1 }, { P_IN, 16, 0, 0 } } },
};

static uint64_t registers_of(const struct target *t)
{
	return t->v.pci ? pci_bar(t->v.devfn, 0) : t->v.mmio;
}

static uint64_t address(const struct target *t, enum place place)
{
	switch (place) {
	case P_IN:
		return (uint64_t)t->in;
	case P_OUT:
		return (uint64_t)t->out;
	case P_ZERO:
		return PLACE_RAM;
	case P_END:
		return ram_end() - 16;
	case P_PAST:
		return ram_end();
	case P_HOLE:
		return PLACE_HOLE;
	case P_OWN:
		return registers_of(t);
	case P_NOTIFY:
		return t->v.pci ? t->v.queue[t->queue].notify : t->v.mmio + MMIO_QUEUE_NOTIFY;
	case P_OTHER:
		return registers_of(t) + (t->v.pci ? 0x4000 : 0x1000);
	case P_ECAM:
		return PLACE_ECAM;
	case P_IOAPIC:
		return PLACE_CHIP;
	case P_LAPIC:
		return PLACE_MESSAGES;
	case P_FOUR_GIB:
		return UINT64_C(1) << 32;
	case P_WRAP:
		return UINT64_MAX - 15;
	case P_TOP:
		return UINT64_MAX - 255;
	case P_HIGH:
		return UINT64_C(1) << 63;
	case P_RING:
		return (uint64_t)t->v.queue[t->queue].desc;
	default:
		return (uint64_t)t->in + TABLE_AT;
	}
}

static struct raw raw_of(const struct target *t, const struct piece *p)
{
	return (struct raw){ address(t, p->place), p->len, p->flags, is_packed() ? 0 : p->next };
}

static void put_table(struct target *t, const struct chain_row *row)
{
	struct raw *table = (struct raw *)(t->in + TABLE_AT);

	for (unsigned i = 0; i < PIECES; i++) {
		table[i] = raw_of(t, &row->t[i]);
		if (is_packed())
			table[i] = (struct raw){ table[i].addr, table[i].len, 0, table[i].flags & (W | I) };
	}
}

static void run(struct target *t, unsigned i)
{
	const struct chain_row *row = &rows[i / TARGETS];
	static const uint16_t head;
	unsigned n = row->repeat ? row->repeat : row->n;

	t->features = row->indirect ? VD_F_INDIRECT : 0;
	if (t->features && !target_start(t)) {
		fail("the device does not start with indirect descriptors");
		return;
	}
	put_table(t, row);
	for (unsigned k = 0; k < n; k++) {
		struct raw d = raw_of(t, &row->d[row->repeat ? 0 : k]);

		if (row->repeat && !is_packed())
			d.next = (uint16_t)((k + 1) % RING);
		raw_put(t, k, d);
	}
	raw_expose(t, &head, 1);
	target_must(t, BREAKS);
	must(raw_used(t) == 1, "%u heads came back, not 1", raw_used(t));
	must(raw_used_len(t, 0) == 0, "%u bytes were written", raw_used_len(t, 0));
	t->features = 0;
}

static void title(unsigned i, const char *part[2])
{
	const struct chain_row *row = &rows[i / TARGETS];

	part[0] = row->formats & (is_packed() ? PACKED : SPLIT) ? row->name : NULL;
}

static enum target_kind on(unsigned i)
{
	return (enum target_kind)(i % TARGETS);
}

const struct attack_set attack_chain = { "chain", ARRAY_SIZE(rows) * TARGETS, title, run, on, 0 };
