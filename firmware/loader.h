/*
 * Kernel loaders of an x86_64 guest: a kernel file, an initramfs and a command line become bytes in
 * guest RAM and the register values of the first instruction.
 *
 * What a kernel file is, is told by its content, never by its name:
 *   ELF64 with a Xen PHYS32_ENTRY note   entered by the PVH protocol (32 bit, no paging)
 *   ELF64 without that note              entered by Linux's 64-bit boot protocol
 *   bzImage                              unpacked on the host, then one of the two above. Its own
 *                                        decompressor runs in the guest instead when the user asks
 *                                        for it, when the payload is of a format we do not know, or
 *                                        when the library that unpacks it is not installed
 *
 * A kernel that is unpacked on the host boots earlier but stays where it was linked: choosing a
 * random address (KASLR) is work of the decompressor inside the bzImage. keep_compressed keeps it.
 *
 * Where things lie below 1 MiB (enum fw_low_map; all else there is free RAM of the guest):
 *   0x01000  GDT                      both protocols
 *   0x02000  boot_params              Linux 64-bit protocol
 *   0x03000  hvm_start_info,          PVH
 *            module list, memory map
 *   0x04000  page tables, 6 pages     Linux 64-bit protocol: 4 GiB identity mapped, 2 MiB pages
 *   0x10000  command line, 64 KiB     both protocols
 *   0xA0000  end of low RAM; from here up to 1 MiB the guest is told "reserved"
 *   0xE0000  ACPI tables, up to the reset vector: written by others (the RSDP too, so that a scan
 *            finds it)
 *   0xFFFF0  reset vector: a kernel that knows no better way to restart jumps to the BIOS here
 *   0x100000 first byte that a kernel or an initramfs may take
 *
 * Specifications: Documentation/arch/x86/boot.rst and zero-page.rst of Linux; docs/misc/pvh.pandoc
 * and public/arch-x86/hvm/start_info.h of Xen; the ELF-64 chapter of the System V ABI.
 */
#ifndef FIRMWARE_LOADER_H
#define FIRMWARE_LOADER_H

#include "firmware/machine.h"

enum fw_low_map {
	FW_LOW_GDT = 0x1000,
	FW_LOW_BOOT_PARAMS = 0x2000,
	FW_LOW_START_INFO = 0x3000,
	FW_LOW_PAGE_TABLES = 0x4000,
	FW_LOW_CMDLINE = 0x10000,
	FW_LOW_CMDLINE_SIZE = 0x10000,
	FW_LOW_RAM_END = 0xa0000,
	FW_ACPI_BASE = 0xe0000,
	FW_ACPI_SIZE = 0x1fff0,
	FW_RESET_VECTOR = 0xffff0,
	FW_RESET_VECTOR_SIZE = 0x10,
	FW_KERNEL_MIN = 0x100000,
};

/* What the identity map covers; nothing of ours is placed above. */
#define FW_IDENTITY_SIZE (4 * GIB)

/* Selectors in the GDT at FW_LOW_GDT; boot.rst, "64-bit Boot Protocol", fixes the two BOOT ones. */
enum fw_selector {
	FW_CODE32 = 0x08,  /* flat 4 GiB, 32 bit: PVH */
	FW_BOOT_CS = 0x10, /* flat, 64 bit, execute and read */
	FW_BOOT_DS = 0x18, /* flat, read and write */
	FW_TSS = 0x20,	   /* base 0, limit 0x67, busy: PVH asks for one */
	FW_GDT_SIZE = 0x30,
};

/* A file as bytes. They are read while loader_load runs, and not kept. */
struct fw_image {
	const char *path; /* for sentences */
	const uint8_t *data;
	size_t len;
};

struct loader_options {
	bool keep_compressed; /* enter a bzImage through its own decompressor */
	bool fresh_ram;	      /* RAM is known to be all zero (first boot): .bss is not written */
	uint64_t rsdp;	      /* guest address of the ACPI RSDP, 0: none */
};

enum fw_entry_kind {
	/*
	 * 32-bit protected mode, paging off: cr0 = PE, cr4 = 0, efer = 0, cs = FW_CODE32,
	 * ds es ss = FW_BOOT_DS, tr = FW_TSS, ebx = arg, interrupts off.
	 */
	FW_ENTRY_PVH,
	/*
	 * 64-bit mode: cr0 = PE | PG, cr4 = PAE, efer = LME | LMA, cr3 = page_table,
	 * cs = FW_BOOT_CS, ds es ss = FW_BOOT_DS, rsi = arg, interrupts off.
	 */
	FW_ENTRY_LINUX64,
};

struct fw_entry {
	enum fw_entry_kind kind;
	uint64_t ip;
	uint64_t arg;			 /* hvm_start_info or boot_params */
	uint64_t page_table;		 /* LINUX64: for cr3; 0 otherwise */
	uint64_t gdt;			 /* base; FW_GDT_SIZE - 1 is the limit */
	uint64_t kernel_gpa, kernel_len; /* RAM the kernel takes, with .bss or init_size */
	uint64_t initramfs_gpa, initramfs_len;
};

/*
 * Load `kernel`, `initramfs` (NULL: none) and m->cmdline into guest RAM and describe the first
 * instruction. No vCPU runs meanwhile. Calling it again after a reset (fresh_ram false) writes
 * everything anew; the library that unpacked a bzImage stays mapped, so that a second call opens
 * no file: it maps, advises and unmaps anonymous memory, nothing else.
 * -ENOEXEC: not a kernel for this machine; -EBADMSG: a damaged one; -ENOMEM: it does not fit;
 * -E2BIG: the command line. Then *ret is untouched, RAM may be partly written, *e says what to do.
 */
int loader_load(struct fw_entry *ret, const struct fw_machine *m, const struct fw_image *kernel,
	const struct fw_image *initramfs, const struct loader_options *opts,
	struct error *e) NEEDS_CHECK;

/*
 * What elf.c and bzimage.c tell of a kernel that lies in RAM, for the boot data made after it.
 * Nobody outside firmware/ needs it.
 */
struct loader_kernel {
	enum fw_entry_kind kind;
	uint64_t ip, gpa, len;
	uint64_t initrd_max;   /* the highest address an initramfs byte may have */
	uint32_t cmdline_max;  /* bytes, without the terminating 0 */
	const uint8_t *header; /* the bzImage whose setup header is to be copied; NULL: none */
	size_t header_len;
};

enum { LOADER_CMDLINE_MAX = 2047 }; /* COMMAND_LINE_SIZE - 1 of Linux on x86 */

/* Bytes as whole MiB, rounded up, for sentences. */
static inline uint64_t loader_mib(uint64_t bytes)
{
	return bytes / MIB + (bytes % MIB != 0);
}

#endif
