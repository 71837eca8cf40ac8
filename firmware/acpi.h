/*
 * ACPI tables of the machine (ACPI 6.5): RSDP, XSDT, FADT, MADT, MCFG and DSDT.
 *
 * The hardware-reduced model (§4.1): no PM timer, no SCI, no fixed buttons, no legacy PIC or PIT
 * behind the tables. Power-off, reset and the power button are the "ged" node of the machine, a
 * generic event device (§5.6.9) whose registers are below.
 */
#ifndef FIRMWARE_ACPI_H
#define FIRMWARE_ACPI_H

#include "firmware/machine.h"

/*
 * Registers of a "ged" node, as offsets from its base. devices/platform/acpi_ged.h says the same of
 * the device; the rooms may not include each other, so a unit test holds the two together.
 */
enum {
	ACPI_GED_EVENTS = 0,	    /* 32 bits; reading clears */
	ACPI_GED_SLEEP_CONTROL = 4, /* 8 bits, §4.8.3.7 */
	ACPI_GED_SLEEP_STATUS = 5,  /* 8 bits, §4.8.3.7 */
	ACPI_GED_RESET = 6,	    /* 8 bits */
	ACPI_GED_LEN = 8,

	ACPI_GED_EVENT_POWER_BUTTON = 1,
	ACPI_GED_RESET_VALUE = 'R',
	ACPI_GED_SLEEP_TYPE_S5 = 5,
};

enum { ACPI_ALIGN = 64 };

/*
 * Write all tables to [at, at + room) of guest RAM, the RSDP first, so that *ret_rsdp == at. `at`
 * is a multiple of ACPI_ALIGN, below 4 GiB; the whole room lies in one RAM range. What the tables
 * do not fill of the room is not touched. The APIC id of vCPU i is m->cpu_ids[i]. -ENOSPC with a
 * sentence when the room is too small, -EINVAL when the description contradicts itself. Main
 * thread; nothing runs yet.
 */
int acpi_build(const struct fw_machine *m, uint64_t at, uint64_t room, uint64_t *ret_rsdp,
	struct error *err) NEEDS_CHECK;

/*
 * The DSDT's definition block, what follows its header, into `buf`. 0 with *ret_len; -ENOSPC when
 * it does not fit, -EINVAL when a node or window is empty or wraps. For acpi_build() and tests.
 */
int acpi_dsdt_write(
	const struct fw_machine *m, void *buf, size_t room, size_t *ret_len) NEEDS_CHECK;

#endif
