/*
 * The PVH boot protocol (Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h): the
 * kernel starts in 32-bit mode without paging and finds everything else through one structure.
 * Linux copies all of it into its boot_params before it sets up memory, so one page below 1 MiB is
 * enough.
 */
#include "firmware/pvh.h"

#include "firmware/e820.h"

#define HVM_START_MAGIC UINT32_C(0x336ec578)

/* start_info.h, "struct hvm_start_info", version 1 */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};
_Static_assert(sizeof(struct hvm_start_info) == 56, "start_info.h");

/* start_info.h, "struct hvm_modlist_entry" */
struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};
_Static_assert(sizeof(struct hvm_modlist_entry) == 32, "start_info.h");

/* start_info.h, "struct hvm_memmap_table_entry" */
struct hvm_memmap_table_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};
_Static_assert(sizeof(struct hvm_memmap_table_entry) == 24, "start_info.h");

struct page {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_table_entry memmap[E820_MAX];
};
_Static_assert(FW_LOW_START_INFO + sizeof(struct page) <= FW_LOW_PAGE_TABLES, "the low map");

void pvh_write(struct fw_entry *entry, const struct fw_machine *m, uint64_t rsdp)
{
	struct page page = { 0 };
	struct e820 map;

	e820_build(&map, m);
	for (unsigned i = 0; i < map.n; i++)
		page.memmap[i] = (struct hvm_memmap_table_entry){
			.addr = map.entries[i].gpa,
			.size = map.entries[i].size,
			.type = map.entries[i].type,
		};
	page.info = (struct hvm_start_info){
		.magic = HVM_START_MAGIC,
		.version = 1,
		.cmdline_paddr = FW_LOW_CMDLINE,
		.rsdp_paddr = rsdp,
		.memmap_paddr = FW_LOW_START_INFO + offsetof(struct page, memmap),
		.memmap_entries = map.n,
	};
	if (entry->initramfs_len) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = FW_LOW_START_INFO + offsetof(struct page, module);
		page.module.paddr = entry->initramfs_gpa;
		page.module.size = entry->initramfs_len;
	}
	memcpy(fw_ram_at(m, FW_LOW_START_INFO, sizeof(page)), &page, sizeof(page));
	entry->arg = FW_LOW_START_INFO;
}
