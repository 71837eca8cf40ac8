/*
 * PCI as a hostile driver uses it: config space of its function and of functions that are not there, by ports and by ECAM (PCI 3.0
 * §3.2.2.3, PCI Express 4.0 §7.2.2); BARs put where they cannot be (§6.2.5.1); the window of virtio 1.2 §4.1.4.9; MSI-X (PCI 3.0
 * §6.8.2). The frame finds the device where it was, so each case puts back what it moved.
 */
#include "tests/guest/attack.h"
#include "tests/guest/pci.h"
#include "tests/guest/values.h"

enum { LOTS = 32, WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16, MSIX_CONTROL = 2 };
enum { MSIX_ENABLE = 1 << 15, MSIX_MASK_ALL = 1 << 14, MSIX_AT = 0x2000, PBA_AT = 0x3000, BAR_SIZE = 0x4000 };

static bool here(void)
{
	return !is_packed() && !arg_is("transport", "mmio");
}

/* --- BARs --- */

static const struct {
	const char *name;
	uint64_t at;
} bars[] = {
	{ "pc05_at_0", 0 },
	{ "pc06_on_ram", PLACE_RAM + 0x400000 },
	{ "pc06_half_on_ram", PLACE_RAM + (128 << 20) - 0x4000 },
	{ "pc05_in_a_hole", PLACE_HOLE },
	{ "pc06_on_config_space", PLACE_ECAM },
	{ "pc06_on_the_end_of_config_space", PLACE_ECAM + 0xfc000 },
	{ "pc06_on_virtio_mmio", PLACE_VIRTIO },
	{ "pc06_on_an_interrupt_controller", PLACE_CHIP },
	{ "pc06_on_the_target_of_messages", PLACE_MESSAGES },
	{ "pc06_on_the_pages_of_kvm", PLACE_OF_KVM },
	{ "pc05_below_4_gib", 0xffffc000 },
	{ "pc05_at_4_gib", 0x100000000 },
	{ "pc05_at_64_tib", UINT64_C(1) << 46 },
	{ "pc05_at_2_to_51", UINT64_C(1) << 51 },
	{ "pc05_at_2_to_52", UINT64_C(1) << 52 },
	{ "pc05_with_the_sign_bit", UINT64_C(1) << 63 },
	{ "pc05_at_the_top", UINT64_MAX & ~UINT64_C(0x3fff) },
	{ "pc05_not_aligned", PLACE_WINDOW + 0x1234 },
	{ "pc06_on_another_devices_bar", 1 },
	{ "pc06_on_the_host_bridge", 2 },
};

static unsigned other(const struct target *t)
{
	int devfn = pci_find(0x1af4, 0x1042, 1);

	return devfn < 0 ? t->v.devfn : (unsigned)devfn;
}

/* With decoding on all the while, as a careless driver does it; and once more with decoding off in between. */
static void bar(struct target *t, unsigned i)
{
	uint64_t home = pci_bar(t->v.devfn, 0), at = bars[i].at;

	at = at == 1 ? pci_bar(other(t), 0) : at == 2 ? pci_bar(0, 0) : at;
	for (unsigned k = 0; k < 2; k++) {
		if (k)
			pci_write16(t->v.devfn, PCI_COMMAND, 0);
		pci_bar_set(t->v.devfn, 0, at);
		pci_write16(t->v.devfn, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
		raw_request(t, 0);
		vio_kick(&t->v, 0);
		pci_read32(t->v.devfn, PCI_BAR0);
		pci_bar_set(t->v.devfn, 0, home);
		must(pci_bar(t->v.devfn, 0) == home, "the BAR does not come back");
	}
	must(target_serves(t), "the device does not serve when its BAR is back");
}

static void bar_title(unsigned i, const char *part[2])
{
	part[0] = here() ? bars[i].name : NULL;
}

const struct attack_set attack_bars = { "bar", ARRAY_SIZE(bars), bar_title, bar, NULL, 100 };

/* --- BARs and decoding in motion --- */

static void sized_while_decoding(struct target *t)
{
	uint64_t home = pci_bar(t->v.devfn, 0);

	for (unsigned i = 0; i < LOTS; i++) {
		raw_request(t, 0);
		vio_kick(&t->v, 0);
		pci_bar_set(t->v.devfn, 0, UINT64_MAX);
		pci_bar_set(t->v.devfn, 0, home);
	}
}

static void command_toggles(struct target *t)
{
	for (unsigned i = 0; i < LOTS; i++) {
		vio_kick(&t->v, 0);
		pci_write16(t->v.devfn, PCI_COMMAND, (uint16_t)(i * 0x1111));
	}
	pci_write16(t->v.devfn, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void moved_in_flight(struct target *t)
{
	uint64_t home = pci_bar(t->v.devfn, 0);

	for (unsigned i = 0; i < LOTS; i++) {
		pci_bar_set(t->v.devfn, 0, PLACE_WINDOW + i * BAR_SIZE);
		pci_bar_set(t->v.devfn, 0, home);
		must(target_serves(t), "the device does not serve after move %u", i);
	}
}

static void one_on_the_other(struct target *t)
{
	uint64_t home = pci_bar(t->v.devfn, 0), theirs = pci_bar(other(t), 0);

	for (unsigned i = 0; i < LOTS / 4; i++) {
		pci_bar_set(t->v.devfn, 0, theirs);
		pci_bar_set(other(t), 0, home);
		pci_bar_set(t->v.devfn, 0, home);
		pci_bar_set(other(t), 0, theirs);
	}
	must(target_serves(t), "the device does not serve");
}

static void half_a_bar(struct target *t)
{
	uint64_t home = pci_bar(t->v.devfn, 0);

	for (unsigned width = 1; width <= 4; width *= 2)
		for (unsigned at = PCI_BAR0; at < PCI_BAR0 + 8; at += width)
			write_width(pci_ecam(t->v.devfn, at), width, 0xa5a5a5a5);
	pci_bar_set(t->v.devfn, 0, home);
}

static void vectors(struct target *t)
{
	uint64_t common = t->v.cfg[VIO_CFG_COMMON];

	for (uint32_t vector = 0; vector <= 0xffff; vector = vector * 2 + 1) {
		write16(common + COMMON_CONFIG_VECTOR, (uint16_t)vector);
		must(read16(common + COMMON_CONFIG_VECTOR) == (vector < 2 ? vector : 0xffff), "vector %u is taken", vector);
		write16(common + COMMON_QUEUE_VECTOR, (uint16_t)vector);
	}
}

static unsigned msix(const struct target *t)
{
	return pci_capability(t->v.devfn, PCI_CAP_MSIX, 0);
}

/* Messages to anywhere: RAM, devices, addresses that are no interrupt's. Delivered or not, nothing else may be. */
static void messages(struct target *t)
{
	static const uint64_t to[] = { 0, PLACE_RAM + 0x100000, PLACE_MESSAGES, PLACE_MESSAGES + 0xffffc, PLACE_MESSAGES + 0x100000, PLACE_ECAM, PLACE_VIRTIO, PLACE_MESSAGES + 1,
		0xffffffff00000000, (uint64_t)PLACE_MESSAGES | UINT64_C(1) << 32, UINT64_MAX };
	uint64_t table = pci_bar(t->v.devfn, 0) + MSIX_AT;

	for (unsigned i = 0; i < ARRAY_SIZE(to); i++) {
		pci_write16(t->v.devfn, msix(t) + MSIX_CONTROL, MSIX_ENABLE);
		for (unsigned vector = 0; vector < 2; vector++) {
			write32(table + 16 * vector, (uint32_t)to[i]);
			write32(table + 16 * vector + 4, (uint32_t)(to[i] >> 32));
			write32(table + 16 * vector + 8, 0x30 + i); /* fixed delivery: the guest has interrupts off */
			write32(table + 16 * vector + 12, 0);
		}
		if (!target_negotiate(t, VD_F_VERSION_1))
			break;
		write16(t->v.cfg[VIO_CFG_COMMON] + COMMON_QUEUE_SELECT, 0);
		write16(t->v.cfg[VIO_CFG_COMMON] + COMMON_QUEUE_VECTOR, 1);
		must(vio_queue(&t->v, 0, RING), "no queue");
		vio_ready(&t->v);
		must(target_serves(t), "the device does not serve");
	}
	pci_write16(t->v.devfn, msix(t) + MSIX_CONTROL, 0);
}

static void masks_toggle(struct target *t)
{
	uint64_t table = pci_bar(t->v.devfn, 0) + MSIX_AT;

	for (unsigned i = 0; i < LOTS; i++) {
		pci_write16(t->v.devfn, msix(t) + MSIX_CONTROL, (uint16_t)(i % 2 ? MSIX_ENABLE : MSIX_ENABLE | MSIX_MASK_ALL));
		write32(table + 12, i / 2 % 2);
		write32(table + 8, 0x40 + i);
		must(target_serves(t), "the device does not serve");
	}
	pci_write16(t->v.devfn, msix(t) + MSIX_CONTROL, 0);
}

static void pending_bits(struct target *t)
{
	uint64_t pba = pci_bar(t->v.devfn, 0) + PBA_AT;

	pci_write16(t->v.devfn, msix(t) + MSIX_CONTROL, MSIX_ENABLE);
	for (unsigned width = 1; width <= 8; width *= 2)
		for (unsigned at = 0; at < 16; at++)
			write_width(pba + at, width, UINT64_MAX);
	must(read32(pba) == 0, "pending bits take writes");
	pci_write16(t->v.devfn, msix(t) + MSIX_CONTROL, 0);
}

static const struct {
	const char *name;
	void (*run)(struct target *t);
} motions[] = {
	{ "pc07_sized_while_decoding", sized_while_decoding },
	{ "pc07_command_toggles", command_toggles },
	{ "pc11_moved_in_flight", moved_in_flight },
	{ "pc06_two_bars_change_places", one_on_the_other },
	{ "pc05_bar_written_by_pieces", half_a_bar },
	{ "pc03_vectors_that_are_not_there", vectors },
	{ "pc04_messages_to_anywhere", messages },
	{ "pc04_masks_toggle_in_flight", masks_toggle },
	{ "cve_2015_7549_pending_bits", pending_bits },
};

static void motion(struct target *t, unsigned i)
{
	uint64_t home = pci_bar(t->v.devfn, 0);

	motions[i].run(t);
	pci_bar_set(t->v.devfn, 0, home);
}

static void motion_title(unsigned i, const char *part[2])
{
	part[0] = here() ? motions[i].name : NULL;
}

const struct attack_set attack_motion = { "pci", ARRAY_SIZE(motions), motion_title, motion, NULL, 1000 };

/* --- the window in config space --- */

static const struct {
	const char *name;
	uint32_t bar, offset, length;
} windows[] = {
	{ "pc02_length_0", 0, 0, 0 }, { "pc02_length_3", 0, 0, 3 }, { "pc02_length_8", 0, 0, 8 },
	{ "pc02_length_all_ones", 0, 0, 0xffffffff }, { "pc02_length_2_to_16_plus_4", 0, 0, 0x10004 },
	{ "pc02_bar_1", 1, 0, 4 }, { "pc02_bar_6", 6, 0, 4 }, { "pc02_bar_255", 255, 0, 4 },
	{ "pc02_offset_at_the_end", 0, BAR_SIZE, 4 }, { "pc02_offset_across_the_end", 0, BAR_SIZE - 2, 4 },
	{ "pc02_offset_all_ones", 0, 0xffffffff, 1 }, { "pc02_offset_that_wraps", 0, 0xfffffffc, 4 },
	{ "pc02_offset_sign_bit", 0, 0x80000000, 4 }, { "pc02_not_aligned", 0, 0x15, 4 }, { "pc02_notify_by_bytes", 0, 0x1001, 1 },
	{ "pc02_msix_table", 0, MSIX_AT, 4 }, { "pc02_msix_by_bytes", 0, MSIX_AT + 1, 1 }, { "pc02_pending_bits", 0, PBA_AT, 4 },
	{ "pc02_queue_enable", 0, 0x1c, 2 },
};

static void window(struct target *t, unsigned i)
{
	unsigned cap = (unsigned)t->v.cfg[VIO_CFG_PCI], devfn = t->v.devfn;

	pci_write8(devfn, cap + WINDOW_BAR, (uint8_t)windows[i].bar);
	pci_write32(devfn, cap + WINDOW_OFFSET, windows[i].offset);
	pci_write32(devfn, cap + WINDOW_LENGTH, windows[i].length);
	for (unsigned class = 0; class < VALUE_CLASSES; class++)
		for (unsigned width = 1; width <= 8; width *= 2)
			for (unsigned at = WINDOW_DATA - 4; at < WINDOW_DATA + 4; at++) {
				read_width(pci_ecam(devfn, cap + at), width);
				/* Behind the window's own fields, which stay as they are. */
				if (at >= WINDOW_DATA)
					write_width(pci_ecam(devfn, cap + at), width, value_of((enum value_class)class, width, at));
			}
}

static void window_title(unsigned i, const char *part[2])
{
	part[0] = here() ? windows[i].name : NULL;
}

const struct attack_set attack_window = { "window", ARRAY_SIZE(windows), window_title, window, NULL, 100 };

/* --- config space --- */

static const struct {
	const char *name;
	uint16_t from, to;
	uint8_t step;
} spaces[] = {
	{ "header", 0, 0x40, 1 },
	{ "capabilities", 0x40, 0x100, 2 },
	{ "extended", 0xf8, 0x110, 1 },
	{ "end", 0xff0, 0x1000, 1 },
};
enum { BY_ECAM, BY_PORTS, DOORS };
enum { PER_SPACE = VALUE_CLASSES * DOORS };

static void by_ports(unsigned devfn, unsigned at, unsigned width, uint64_t v)
{
	if (width == 1)
		pci_write8(devfn, at, (uint8_t)v);
	else if (width == 2)
		pci_write16(devfn, at, (uint16_t)v);
	else
		pci_write32(devfn, at, (uint32_t)v);
}

static void space(struct target *t, unsigned i)
{
	unsigned s = i / PER_SPACE, devfn = t->v.devfn;
	enum value_class class = (enum value_class)(i % VALUE_CLASSES);
	bool ports = i / VALUE_CLASSES % DOORS == BY_PORTS;
	uint64_t home = pci_bar(devfn, 0);

	for (unsigned width = 1; width <= (ports ? 4 : 8); width *= 2)
		for (unsigned at = spaces[s].from; at < spaces[s].to; at += spaces[s].step)
			if (ports) {
				by_ports(devfn, at, width, value_of(class, width, at));
			} else {
				read_width(pci_ecam(devfn, at), width);
				write_width(pci_ecam(devfn, at), width, value_of(class, width, at));
			}
	must(pci_read32(devfn, PCI_VENDOR) == (0x1042u << 16 | 0x1af4), "the device's ids have changed");
	pci_write16(devfn, PCI_COMMAND, 0);
	pci_write16(devfn, msix(t) + MSIX_CONTROL, 0);
	pci_bar_set(devfn, 0, home);
	pci_write16(devfn, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void space_title(unsigned i, const char *part[2])
{
	static const char *const by[VALUE_CLASSES * DOORS] = {
		"_by_ecam_zeroes", "_by_ecam_one", "_by_ecam_ones", "_by_ecam_sign_bits", "_by_ecam_largest_signed",
		"_by_ecam_pattern", "_by_ports_zeroes", "_by_ports_one", "_by_ports_ones", "_by_ports_sign_bits",
		"_by_ports_largest_signed", "_by_ports_pattern",
	};
	bool ports = i / VALUE_CLASSES % DOORS == BY_PORTS;

	/* The ports reach 256 bytes only. */
	part[0] = here() && !(ports && (!CONFIG_PORTS || i / PER_SPACE >= 2)) ? spaces[i / PER_SPACE].name : NULL;
	part[1] = by[i % PER_SPACE];
}

const struct attack_set attack_space = { "config", ARRAY_SIZE(spaces) * PER_SPACE, space_title, space, NULL, 100 };
