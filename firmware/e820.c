/*
 * The e820 map of an x86 guest, made from the machine description alone.
 *
 * RAM comes in ascending order already, so does what is cut out of it. The two reserved ranges are
 * put in by an insertion that keeps the order: Linux sorts the map itself, other guests may not.
 */
#include "firmware/e820.h"

#include "firmware/loader.h"

static void insert(struct e820 *map, uint64_t gpa, uint64_t size, enum e820_type type)
{
	unsigned i = map->n;

	if (!size || map->n == E820_MAX)
		return;
	for (; i && map->entries[i - 1].gpa > gpa; i--)
		map->entries[i] = map->entries[i - 1];
	map->entries[i] = (struct e820_entry){ .gpa = gpa, .size = size, .type = type };
	map->n++;
}

/* RAM, less the hole between low RAM and 1 MiB. */
static void insert_ram(struct e820 *map, uint64_t gpa, uint64_t size)
{
	uint64_t end = gpa + size;

	if (gpa < FW_LOW_RAM_END)
		insert(map, gpa, MIN(end, (uint64_t)FW_LOW_RAM_END) - gpa, E820_RAM);
	if (end > FW_KERNEL_MIN) {
		uint64_t start = MAX(gpa, (uint64_t)FW_KERNEL_MIN);

		insert(map, start, end - start, E820_RAM);
	}
}

void e820_build(struct e820 *ret, const struct fw_machine *m)
{
	ret->n = 0;
	for (unsigned i = 0; i < m->nram; i++)
		insert_ram(ret, m->ram[i].gpa, m->ram[i].size);
	insert(ret, FW_LOW_RAM_END, FW_KERNEL_MIN - FW_LOW_RAM_END, E820_RESERVED);
	/* 1 MiB of configuration space per bus: PCI Firmware Specification 3.3, section 4.1.2. */
	if (m->pci.ecam_base)
		insert(ret, m->pci.ecam_base, (uint64_t)m->pci.buses * MIB, E820_RESERVED);
}
