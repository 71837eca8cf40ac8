/*
 * The memory map told to a guest: what is RAM and what it must keep away from. The numbers of the
 * types are those of the ACPI specification 6.5, table 15.6 ("Address Range Types"); the zero page
 * and the PVH start info both use them.
 */
#ifndef FIRMWARE_E820_H
#define FIRMWARE_E820_H

#include "firmware/machine.h"

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };

/* Each RAM range can be cut in two by the hole below 1 MiB; the hole and the ECAM come on top. */
enum { E820_MAX = FW_RAM_MAX * 2 + 2 };

struct e820_entry {
	uint64_t gpa, size;
	uint32_t type;
};

struct e820 {
	struct e820_entry entries[E820_MAX];
	unsigned n;
};

/*
 * Ascending, not overlapping: RAM of `m` without [640 KiB, 1 MiB), which is reserved (ACPI tables
 * lie there), and the ECAM window of PCI, reserved because Linux trusts MCFG only then.
 */
void e820_build(struct e820 *ret, const struct fw_machine *m);

#endif
