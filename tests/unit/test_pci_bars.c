/*
 * BARs: sizing, moving, refusing; decoding follows the command register; nothing is ever half
 * moved.
 */
#include <criterion/criterion.h>

#include "tests/unit/virtio_rig.h"

enum { SIZE = 0x4000, MEMORY = 2 };

struct probe {
	struct pci_function fn;
	uint64_t notify_at; /* what bar_moved says */
	unsigned reads, writes, moves;
	uint64_t last;
};

static void probe_read(
	struct pci_function *fn, unsigned bar, uint64_t offset, void *data, unsigned len)
{
	struct probe *p = (struct probe *)fn;

	p->reads++;
	p->last = offset;
	put_le(data, 0x1100 * (uint64_t)(fn->devfn >> 3) + bar, len);
}

static void probe_write(
	struct pci_function *fn, unsigned bar, uint64_t offset, const void *data, unsigned len)
{
	(void)bar, (void)offset, (void)data, (void)len;
	((struct probe *)fn)->writes++;
}

static struct rig rig;

static void probe_moved(struct pci_function *fn, unsigned bar, uint64_t old_base, uint64_t base)
{
	struct probe *p = (struct probe *)fn;

	(void)bar;
	p->moves++;
	cr_assert(old_base == PCI_NOWHERE || base == PCI_NOWHERE, "out before in");
	if (base == PCI_NOWHERE && fn->root == rig.pci)
		cr_assert(!bus_is_free(rig.mmio, old_base, SIZE), "notifies go before the range");
	p->notify_at = base;
}

static const struct pci_function_ops probe_ops = { .bar_read = probe_read, .bar_write = probe_write,
	.bar_moved = probe_moved };
static const struct pci_identity probe_id = { 0x1af4, 0x1234, 0x1af4, 0x1234, 0xff0000, 1 };

static struct probe a, b;

static void setup(void)
{
	rig_init(&rig);
	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	pci_function_init(&a.fn, "a", &probe_ops, &probe_id);
	pci_bar_add(&a.fn, 0, SIZE, false);
	pci_bar_add(&a.fn, 2, 0x1000, true);
	pci_function_init(&b.fn, "b", &probe_ops, &probe_id);
	pci_bar_add(&b.fn, 0, SIZE, false);
	cr_assert_eq(pci_attach(rig.pci, &a.fn, -1, &rig.err), 0);
	cr_assert_eq(pci_attach(rig.pci, &b.fn, -1, &rig.err), 0);
	cr_assert_eq(pci_assign_bars(rig.pci, &rig.err), 0, "%s", rig.err.text);
}

static void teardown(void)
{
	pci_detach(&a.fn);
	pci_detach(&b.fn);
	rig_fini(&rig);
}

TestSuite(pci_bars, .init = setup, .fini = teardown);

static uint32_t get(struct probe *p, unsigned reg)
{
	uint32_t v;

	pci_config_read(rig.pci, p->fn.devfn, reg, &v, 4);
	return v;
}

static void put(struct probe *p, unsigned reg, uint32_t v)
{
	pci_config_write(rig.pci, p->fn.devfn, reg, &v, 4);
}

static void decode(struct probe *p, bool on)
{
	put(p, 4, on ? MEMORY : 0);
}

static void move(struct probe *p, uint64_t base)
{
	put(p, 0x10, (uint32_t)base);
	put(p, 0x14, (uint32_t)(base >> 32));
}

static bool answers(struct probe *p, uint64_t at)
{
	return rig_read(rig.mmio, at, 4) == 0x1100u * (p->fn.devfn >> 3);
}

Test(pci_bars, are_placed_in_the_64_bit_window_aligned_and_apart)
{
	cr_assert(range_inside(a.fn.bar[0].mapped, SIZE, RIG_MMIO64, GIB));
	cr_assert(is_aligned(a.fn.bar[0].mapped, SIZE) && is_aligned(b.fn.bar[0].mapped, SIZE));
	cr_assert(!ranges_overlap(a.fn.bar[0].mapped, SIZE, b.fn.bar[0].mapped, SIZE));
	cr_assert(!ranges_overlap(a.fn.bar[2].mapped, 0x1000, b.fn.bar[0].mapped, SIZE));
	cr_assert(answers(&a, a.fn.bar[0].mapped) && answers(&b, b.fn.bar[0].mapped));
	cr_assert_eq(get(&a, 4) & MEMORY, MEMORY);
	cr_assert_eq(get(&a, 0x10) & 0xf, 4);
	cr_assert_eq(get(&a, 0x18) & 0xf, 0xc, "prefetchable");
}

Test(pci_bars, fall_back_to_the_32_bit_window_and_fail_with_a_sentence_when_none_is_left)
{
	struct rig small;
	struct probe p = { 0 };

	rig_init(&small);
	small.root->ops->destroy(small.root);
	small.windows = (struct pci_windows){ RIG_MMIO32, SIZE, 0, 0 };
	small.env.place = &small.place;
	cr_assert_eq(pci_root_type.create(&small.root, &small.env, NULL, &small.err), 0);
	pci_function_init(&p.fn, "p", &probe_ops, &probe_id);
	pci_bar_add(&p.fn, 0, SIZE, false);
	cr_assert_eq(pci_attach(small.pci, &p.fn, -1, &small.err), 0);
	cr_assert_eq(pci_assign_bars(small.pci, &small.err), 0);
	cr_assert_eq(p.fn.bar[0].mapped, RIG_MMIO32);
	pci_bar_add(&p.fn, 2, 0x1000, false);
	cr_assert_eq(pci_assign_bars(small.pci, &small.err), -ENOSPC);
	cr_assert(strstr(small.err.text, "transport=mmio"));
	pci_detach(&p.fn);
	rig_fini(&small);
}

Test(pci_bars, sizing_reads_the_mask_with_decoding_off_and_on)
{
	for (unsigned on = 0; on < 2; on++) {
		uint64_t home = a.fn.bar[0].home;

		decode(&a, on);
		put(&a, 0x10, UINT32_MAX);
		cr_assert_eq(get(&a, 0x10), (uint32_t)~(SIZE - 1) | 4);
		put(&a, 0x14, UINT32_MAX);
		cr_assert_eq(get(&a, 0x14), UINT32_MAX);
		cr_assert(!answers(&a, home));
		move(&a, home);
		decode(&a, true);
		cr_assert(answers(&a, home), "back where it was");
	}
}

Test(pci_bars, decoding_follows_the_command_register)
{
	uint64_t at = a.fn.bar[0].mapped;

	decode(&a, false);
	cr_assert(!answers(&a, at));
	cr_assert_eq(a.notify_at, PCI_NOWHERE);
	cr_assert(answers(&b, b.fn.bar[0].mapped), "the other's own");
	decode(&a, true);
	cr_assert(answers(&a, at));
	cr_assert_eq(a.moves, 6, "two BARs: placed, out, in");
}

Test(pci_bars, a_move_takes_range_and_notifies_along)
{
	uint64_t old = a.fn.bar[0].mapped, new = RIG_MMIO64 + 0x100000;

	move(&a, new);
	cr_assert(answers(&a, new) && answers(&a, new + SIZE - 4));
	cr_assert(!answers(&a, old));
	cr_assert(bus_is_free(rig.mmio, old, SIZE));
	cr_assert_eq(a.notify_at, new);
}

Test(pci_bars, out_of_the_windows_nothing_is_decoded)
{
	static const uint64_t bad[] = { 0, 0x1000000, RIG_MMIO32 - SIZE, RIG_MMIO32 + MIB,
		RIG_MMIO64 + GIB, UINT64_C(0xffffffffffffc000), UINT64_C(0x8000000000000000),
		RIG_ECAM, RIG_MMIO };
	uint64_t home = a.fn.bar[0].home;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		move(&a, bad[i]);
		cr_assert_eq(a.fn.bar[0].mapped, PCI_NOWHERE, "%#llx", (unsigned long long)bad[i]);
		cr_assert(!answers(&a, home), "the old place is gone");
		cr_assert_eq(get(&a, 0x14), (uint32_t)(bad[i] >> 32),
			"the register says what was written");
	}
	move(&a, home);
	cr_assert(answers(&a, home));
}

Test(pci_bars, over_ram_nothing_is_decoded)
{
	struct rig r;
	struct probe p = { 0 };
	uint32_t zero = 0, at = 0x8004;

	rig_init(&r);
	r.root->ops->destroy(r.root);
	r.windows.mmio32_base =
		0; /* a window that overlaps RAM: a mistake of the machine, not of the guest */
	r.windows.mmio32_size = 16 * MIB;
	r.windows.mmio64_size = 0;
	r.env.place = &r.place;
	cr_assert_eq(pci_root_type.create(&r.root, &r.env, NULL, &r.err), 0);
	pci_function_init(&p.fn, "p", &probe_ops, &probe_id);
	pci_bar_add(&p.fn, 0, SIZE, false);
	cr_assert_eq(pci_attach(r.pci, &p.fn, -1, &r.err), 0);
	pci_config_write(r.pci, p.fn.devfn, 0x14, &zero, 4);
	pci_config_write(r.pci, p.fn.devfn, 0x10, &at, 4);
	at = MEMORY;
	pci_config_write(r.pci, p.fn.devfn, 4, &at, 4);
	cr_assert_eq(p.fn.bar[0].mapped, PCI_NOWHERE);
	at = 2 * MIB;
	pci_config_write(r.pci, p.fn.devfn, 0x10, &at, 4);
	cr_assert_eq(p.fn.bar[0].mapped, 2 * MIB);
	pci_detach(&p.fn);
	rig_fini(&r);
}

Test(pci_bars, over_another_device_the_other_stays_and_this_comes_up_when_it_leaves)
{
	uint64_t place = b.fn.bar[0].mapped;

	move(&a, place);
	cr_assert(answers(&b, place));
	cr_assert_eq(a.fn.bar[0].mapped, PCI_NOWHERE);
	decode(&b, false);
	cr_assert(answers(&a, place));
	decode(&b, true);
	cr_assert(answers(&a, place));
	cr_assert_eq(b.fn.bar[0].mapped, PCI_NOWHERE);
}

Test(pci_bars, two_bars_of_one_function_at_one_base_decode_once)
{
	uint64_t place = a.fn.bar[0].mapped;

	put(&a, 0x1c, (uint32_t)(place >> 32));
	put(&a, 0x18, (uint32_t)place);
	cr_assert_eq(a.fn.bar[0].mapped, place);
	cr_assert_eq(a.fn.bar[2].mapped, PCI_NOWHERE);
	cr_assert(answers(&a, place));
}

Test(pci_bars, two_functions_can_swap_places)
{
	uint64_t pa = a.fn.bar[0].mapped, pb = b.fn.bar[0].mapped;

	move(&a, pb);
	move(&b, pa);
	cr_assert(answers(&a, pb) && answers(&b, pa));
}

Test(pci_bars, an_access_across_the_end_reaches_nobody)
{
	unsigned before = a.reads;

	cr_assert_eq(rig_read(rig.mmio, a.fn.bar[0].mapped + SIZE - 4, 8), UINT64_MAX);
	cr_assert_eq(a.reads, before);
}

Test(pci_bars, reset_puts_all_back_as_firmware_left_it)
{
	uint64_t pa = a.fn.bar[0].home, pb = b.fn.bar[0].home;

	move(&a, RIG_MMIO64 + 0x200000);
	move(&b, pa);
	decode(&a, false);
	pci_function_reset(&a.fn);
	pci_function_reset(&b.fn);
	cr_assert(answers(&a, pa) && answers(&b, pb));
	cr_assert_eq(get(&a, 4) & 0xffff, MEMORY);
}

Test(pci_bars, a_loaded_image_moves_the_bars)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	uint64_t home = a.fn.bar[0].home, there = RIG_MMIO64 + 0x300000;

	move(&a, there);
	cr_assert_eq(pci_function_save(&a.fn, &w), 0);
	pci_function_reset(&a.fn);
	cr_assert(answers(&a, home));
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(pci_function_load(&a.fn, &r, &rig.err), 0, "%s", rig.err.text);
	cr_assert(answers(&a, there) && !answers(&a, home));
	state_writer_free(&w);
}

static unsigned stills;

static int still(void *ctx, int (*fn)(void *arg), void *arg)
{
	(void)ctx;
	stills++;
	return fn(arg);
}

Test(pci_bars, the_world_stands_still_only_when_something_moves)
{
	const struct bus_hooks hooks = { .stop_world = still };

	bus_set_hooks(rig.mmio, &hooks);
	stills = 0;
	put(&a, 0x10, get(&a, 0x10));
	put(&a, 4, MEMORY | 4);
	put(&a, 0x3c, 5);
	cr_assert_eq(stills, 0);
	decode(&a, false);
	cr_assert_eq(stills, 1);
	move(&a, RIG_MMIO64 + 0x100000);
	cr_assert_eq(stills, 1, "decoding is off");
	pci_function_reset(&b.fn);
	cr_assert_eq(stills, 1, "it was where reset puts it");
	pci_function_reset(&a.fn);
	cr_assert_eq(stills, 2);
}
