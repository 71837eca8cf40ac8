/*
 * Sweeps over memory-mapped registers: each structure of each virtio device, and the places around and between devices, at
 * every width and alignment, across the borders of structures and pages, with each class of values. Where nothing is
 * decoded reads give ones, and writes go nowhere.
 *
 * Not swept: the interrupt controllers' own registers, which are KVM's and could only make the guest interrupt itself.
 */
#include "tests/guest/attack.h"
#include "tests/guest/pci.h"
#include "tests/guest/values.h"

/* --- a device's own registers --- */

static const struct {
	const char *name;
	uint16_t pci_from, pci_to, mmio_from, mmio_to; /* from BAR 0, or from the base; to 0: not here */
	uint8_t step;
} parts[] = {
	{ "common", 0, 0x40, 0, 0, 1 },
	{ "interrupt_status", 0xf8, 0x108, 0x58, 0x6c, 1 },
	{ "status_and_queue", 0, 0, 0x28, 0x80, 1 },
	{ "registers", 0, 0, 0, 0x104, 4 },
	{ "config", 0x1f8, 0x24c, 0xf8, 0x14c, 1 },
	{ "cve_2013_2016_behind_the_config", 0x2e0, 0x310, 0x1f0, 0x210, 1 },
	{ "notify", 0xff8, 0x1050, 0x4c, 0x58, 1 },
	{ "msix_table", 0x1ff8, 0x2040, 0, 0, 1 },
	{ "msix_behind_the_table", 0x2040, 0x2080, 0, 0, 4 },
	{ "cve_2015_7549_pending_bits", 0x2ff8, 0x3020, 0, 0, 1 },
	{ "end", 0x3ff0, 0x4000, 0xff0, 0x1000, 1 },
};
static const enum target_kind swept[] = { TARGET_BLK, TARGET_RNG, TARGET_NET_TX, TARGET_CONSOLE_TX };
enum { PER_PART = VALUE_CLASSES * ARRAY_SIZE(swept) };

static void sweep(uint64_t from, uint64_t to, unsigned step, enum value_class class)
{
	for (unsigned width = 1; width <= 8; width *= 2)
		for (uint64_t at = from; at < to; at += step) {
			if (class == ZEROES)
				read_width(at, width);
			write_width(at, width, value_of(class, width, at));
		}
}

static void registers(struct target *t, unsigned i)
{
	unsigned part = i / PER_PART;
	uint64_t base = t->v.pci ? pci_bar(t->v.devfn, 0) : t->v.mmio;

	sweep(base + (t->v.pci ? parts[part].pci_from : parts[part].mmio_from),
		base + (t->v.pci ? parts[part].pci_to : parts[part].mmio_to), parts[part].step,
		(enum value_class)(i % VALUE_CLASSES));
}

static void registers_title(unsigned i, const char *part[2])
{
	unsigned p = i / PER_PART;

	/* The format of rings is nothing to registers. */
	if (is_packed() || !(arg_is("transport", "mmio") ? parts[p].mmio_to : parts[p].pci_to)) {
		part[0] = NULL;
		return;
	}
	part[0] = parts[p].name;
	part[1] = value_class_name(i % VALUE_CLASSES);
}

static enum target_kind registers_on(unsigned i)
{
	return swept[i / VALUE_CLASSES % ARRAY_SIZE(swept)];
}

const struct attack_set attack_registers = { "registers", ARRAY_SIZE(parts) * PER_PART, registers_title, registers, registers_on, 1000 };

/* --- where nothing is --- */

static void place(struct target *t, unsigned i)
{
	unsigned p = i / VALUE_CLASSES;

	(void)t;
	if (cpu_places[p].hole)
		for (uint64_t at = cpu_places[p].from; at + 8 <= cpu_places[p].to; at++)
			must(read_width(at, 4) == 0xffffffff, "0x%lx reads 0x%lx", at, read_width(at, 4));
	sweep(cpu_places[p].from, cpu_places[p].to, 1, (enum value_class)(i % VALUE_CLASSES));
}

static void place_title(unsigned i, const char *part[2])
{
	part[0] = is_packed() ? NULL : cpu_places[i / VALUE_CLASSES].name;
	part[1] = value_class_name(i % VALUE_CLASSES);
}

const struct attack_set attack_places = { "place", PLACES * VALUE_CLASSES, place_title, place, NULL, 100 };
