/*
 * What a kernel entered by the Linux 64-bit boot protocol wants to find (boot.rst, "64-bit Boot
 * Protocol"): boot_params with the setup header of its file, or one that says enough when the file
 * is an ELF without a header; a GDT with flat segments at two fixed selectors; and page tables that
 * map itself, boot_params, command line and initramfs to themselves. All of it lies below 1 MiB.
 */
#include "firmware/bootparams.h"

#include "firmware/e820.h"

enum {
	LOADER_UNKNOWN = 0xff, /* type_of_loader of those without a number of their own */
	LOADED_HIGH = 1,
	VERSION_SCRATCH = 0x020c, /* the first with xloadflags, so with a 64-bit entry */
	E820_SIZE = 20,
	/* Intel SDM vol. 3, 4.5: present, writable; bit 7 makes a directory entry a 2 MiB page. */
	PAGE_TABLE = 0x03,
	PAGE_LARGE = 0x83,
	PAGE_LARGE_SIZE = 2 * MIB,
	DIRECTORIES = FW_IDENTITY_SIZE / GIB,
	TABLE_ENTRIES = 512,
};

_Static_assert(FW_LOW_BOOT_PARAMS + BP_SIZE <= FW_LOW_START_INFO, "the low map");
_Static_assert(FW_LOW_PAGE_TABLES + (2 + DIRECTORIES) * PAGE_4K <= FW_LOW_CMDLINE, "the low map");
_Static_assert(E820_MAX <= 128, "zero-page.rst: e820_table");

/* The header of the file, whose own length byte is trusted no further than boot_params has room. */
static void copy_header(uint8_t *bp, const struct loader_kernel *k)
{
	size_t end = MIN((size_t)BP_MAGIC + k->header[BP_JUMP_LEN_8], (size_t)BP_HEADER_MAX);

	end = MIN(end, k->header_len);
	if (end > BP_HEADER)
		memcpy(bp + BP_HEADER, k->header + BP_HEADER, end - BP_HEADER);
	put_le64(bp + BP_SETUP_DATA_64, 0); /* ours to fill, not the file's */
}

static void make_header(uint8_t *bp)
{
	put_le16(bp + BP_BOOT_FLAG_16, BP_BOOT_FLAG_VALUE);
	put_le32(bp + BP_MAGIC, BP_MAGIC_VALUE);
	put_le16(bp + BP_VERSION_16, VERSION_SCRATCH);
	bp[BP_LOADFLAGS_8] = LOADED_HIGH;
	put_le32(bp + BP_KERNEL_ALIGNMENT, 2 * MIB);
	put_le32(bp + BP_CMDLINE_SIZE, LOADER_CMDLINE_MAX);
}

static void put_e820(uint8_t *bp, const struct fw_machine *m)
{
	struct e820 map;

	e820_build(&map, m);
	bp[BP_E820_ENTRIES_8] = (uint8_t)map.n;
	for (unsigned i = 0; i < map.n; i++) {
		uint8_t *p = bp + BP_E820_TABLE + (size_t)i * E820_SIZE;

		put_le64(p, map.entries[i].gpa);
		put_le64(p + 8, map.entries[i].size);
		put_le32(p + 16, map.entries[i].type);
	}
}

void bootparams_write(struct fw_entry *entry, const struct fw_machine *m,
	const struct loader_kernel *k, uint64_t rsdp)
{
	uint8_t *bp = fw_ram_at(m, FW_LOW_BOOT_PARAMS, BP_SIZE);

	memset(bp, 0, BP_SIZE);
	if (k->header)
		copy_header(bp, k);
	else
		make_header(bp);
	bp[BP_LOADER_8] = LOADER_UNKNOWN;
	put_le32(bp + BP_CMDLINE, FW_LOW_CMDLINE);
	put_le32(bp + BP_RAMDISK_IMAGE, (uint32_t)entry->initramfs_gpa);
	put_le32(bp + BP_RAMDISK_SIZE, (uint32_t)entry->initramfs_len);
	put_le64(bp + BP_ACPI_RSDP_64, rsdp);
	put_e820(bp, m);
	entry->arg = FW_LOW_BOOT_PARAMS;
}

/* Intel SDM vol. 3, 3.4.5 and 7.2.3; accessed bits are set, so that the CPU never writes here. */
void bootparams_write_gdt(struct fw_entry *entry, const struct fw_machine *m)
{
	static const uint64_t gdt[FW_GDT_SIZE / 8] = {
		[FW_CODE32 / 8] = UINT64_C(0x00cf9b000000ffff),
		[FW_BOOT_CS / 8] = UINT64_C(0x00af9b000000ffff),
		[FW_BOOT_DS / 8] = UINT64_C(0x00cf93000000ffff),
		[FW_TSS / 8] = UINT64_C(0x00008b0000000067),
	};

	memcpy(fw_ram_at(m, FW_LOW_GDT, sizeof(gdt)), gdt, sizeof(gdt));
	entry->gdt = FW_LOW_GDT;
}

void bootparams_write_page_tables(struct fw_entry *entry, const struct fw_machine *m)
{
	size_t size = (2 + DIRECTORIES) * PAGE_4K;
	uint64_t pdpt = FW_LOW_PAGE_TABLES + PAGE_4K, pd = pdpt + PAGE_4K;
	uint8_t *p = fw_ram_at(m, FW_LOW_PAGE_TABLES, size);

	memset(p, 0, 2 * PAGE_4K);
	put_le64(p, pdpt | PAGE_TABLE);
	for (unsigned i = 0; i < DIRECTORIES; i++)
		put_le64(p + PAGE_4K + i * 8, (pd + i * PAGE_4K) | PAGE_TABLE);
	for (uint64_t i = 0; i < DIRECTORIES * TABLE_ENTRIES; i++)
		put_le64(p + 2 * PAGE_4K + i * 8, i * PAGE_LARGE_SIZE | PAGE_LARGE);
	entry->page_table = FW_LOW_PAGE_TABLES;
}
