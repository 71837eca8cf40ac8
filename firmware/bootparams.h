/* The Linux 64-bit boot protocol: boot_params ("zero page"), GDT and identity page tables. */
#ifndef FIRMWARE_BOOTPARAMS_H
#define FIRMWARE_BOOTPARAMS_H

#include "firmware/loader.h"

/*
 * Offsets in a bzImage file and in boot_params alike (boot.rst, "The Real-Mode Kernel Header";
 * zero-page.rst). Widths follow the name where they are not 4 bytes.
 */
enum boot_field {
	BP_ACPI_RSDP_64 = 0x070,
	BP_E820_ENTRIES_8 = 0x1e8,
	BP_HEADER = 0x1f1, /* the setup header begins */
	BP_SETUP_SECTS_8 = 0x1f1,
	BP_SYSSIZE = 0x1f4,
	BP_BOOT_FLAG_16 = 0x1fe,
	BP_JUMP_LEN_8 = 0x201, /* from 0x202: where the setup header ends */
	BP_MAGIC = 0x202,
	BP_VERSION_16 = 0x206,
	BP_LOADER_8 = 0x210,
	BP_LOADFLAGS_8 = 0x211,
	BP_RAMDISK_IMAGE = 0x218,
	BP_RAMDISK_SIZE = 0x21c,
	BP_CMDLINE = 0x228,
	BP_INITRD_MAX = 0x22c,
	BP_KERNEL_ALIGNMENT = 0x230,
	BP_RELOCATABLE_8 = 0x234,
	BP_XLOADFLAGS_16 = 0x236,
	BP_CMDLINE_SIZE = 0x238,
	BP_PAYLOAD_OFFSET = 0x248,
	BP_PAYLOAD_LENGTH = 0x24c,
	BP_SETUP_DATA_64 = 0x250,
	BP_PREF_ADDRESS_64 = 0x258,
	BP_INIT_SIZE = 0x260,
	BP_HEADER_MAX = 0x290, /* where boot_params goes on with other things */
	BP_E820_TABLE = 0x2d0, /* 20 bytes each, 128 at most */
	BP_SIZE = 0x1000,
};

enum {
	BP_BOOT_FLAG_VALUE = 0xaa55,
	BP_MAGIC_VALUE = 0x53726448, /* "HdrS" */
	BP_XLF_KERNEL_64 = 1,
};

/*
 * Write boot_params at FW_LOW_BOOT_PARAMS; the command line lies at FW_LOW_CMDLINE, the initramfs
 * where `entry` says (length 0: none). k->header NULL: a header made from scratch. Low RAM has been
 * checked by the caller. Fills entry->arg.
 */
void bootparams_write(struct fw_entry *entry, const struct fw_machine *m,
	const struct loader_kernel *k, uint64_t rsdp);

/* Write the GDT (both protocols); fills entry->gdt. */
void bootparams_write_gdt(struct fw_entry *entry, const struct fw_machine *m);

/* Write page tables that map the first 4 GiB to themselves; fills entry->page_table. */
void bootparams_write_page_tables(struct fw_entry *entry, const struct fw_machine *m);

#endif
