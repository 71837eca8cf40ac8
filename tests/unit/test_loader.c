/* The loader as a whole: what a file is taken for, and the boot data that lies beside the kernel.
 */
#include "firmware/loader.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "firmware/e820.h"
#include "tests/unit/kernel_images.h"

static uint8_t elf[IMG_ELF_SIZE];
static struct fw_machine m;
static struct loader_options opts;
static struct fw_entry entry;
static struct error e;

static void init(void)
{
	img_elf(elf, true);
	m = img_machine(64 * MIB);
	opts = (struct loader_options){ .rsdp = FW_ACPI_BASE };
}

static int load_file(const void *data, size_t len, const struct fw_image *initramfs)
{
	struct fw_image kernel = { .path = "k", .data = data, .len = len };

	e.text[0] = 0;
	return loader_load(&entry, &m, &kernel, initramfs, &opts, &e);
}

static int load(const struct fw_image *initramfs)
{
	return load_file(elf, sizeof(elf), initramfs);
}

static const uint8_t *at(uint64_t gpa)
{
	return fw_ram_at(&m, gpa, PAGE_4K);
}

TestSuite(loader, .init = init, .timeout = 180);
TestSuite(e820, .init = init);

Test(loader, pvh_start_info_names_all_that_the_kernel_needs)
{
	static uint8_t cpio[5000] = { "070701" };
	struct fw_image initramfs = { .path = "i", .data = cpio, .len = sizeof(cpio) };
	const uint8_t *info, *module, *map;

	cr_assert_eq(load(&initramfs), 0, "%s", e.text);
	cr_assert_eq(entry.kind, FW_ENTRY_PVH);
	cr_assert_eq(entry.arg, FW_LOW_START_INFO);
	cr_assert_eq(entry.page_table, 0);
	info = at(entry.arg);
	cr_assert_eq(get_le32(info), 0x336ec578);
	cr_assert_eq(get_le32(info + 4), 1);
	cr_assert_eq(get_le32(info + 12), 1);
	cr_assert_str_eq((const char *)at(get_le64(info + 24)), "console=ttyS0");
	cr_assert_eq(get_le64(info + 32), FW_ACPI_BASE);
	module = at(get_le64(info + 16));
	cr_assert_eq(get_le64(module), 64 * MIB - 2 * PAGE_4K);
	cr_assert_eq(get_le64(module + 8), sizeof(cpio));
	cr_assert_arr_eq(at(get_le64(module)), cpio, PAGE_4K);
	map = at(get_le64(info + 40));
	cr_assert_eq(get_le32(info + 48), 3);
	cr_assert_eq(get_le64(map), 0);
	cr_assert_eq(get_le64(map + 8), FW_LOW_RAM_END);
	cr_assert_eq(get_le32(map + 16), E820_RAM);
	cr_assert_eq(get_le32(map + 24 + 16), E820_RESERVED);
	cr_assert_eq(get_le64(map + 48), MIB);
	cr_assert_eq(get_le64(map + 56), 63 * MIB);
}

Test(loader, pvh_without_an_initramfs_has_no_module)
{
	cr_assert_eq(load(NULL), 0, "%s", e.text);
	cr_assert_eq(get_le32(at(entry.arg) + 12), 0);
	cr_assert_eq(get_le64(at(entry.arg) + 16), 0);
}

Test(loader, boot_params_made_from_scratch_name_all_that_the_kernel_needs)
{
	static uint8_t cpio[PAGE_4K];
	struct fw_image initramfs = { .path = "i", .data = cpio, .len = sizeof(cpio) };
	const uint8_t *bp;

	img_elf(elf, false);
	memset(m.ram[0].host + FW_LOW_BOOT_PARAMS, 0xff, BP_SIZE);
	cr_assert_eq(load(&initramfs), 0, "%s", e.text);
	cr_assert_eq(entry.kind, FW_ENTRY_LINUX64);
	bp = at(entry.arg);
	cr_assert_eq(get_le16(bp + 0x1fe), 0xaa55);
	cr_assert_eq(get_le32(bp + 0x202), 0x53726448);
	cr_assert_eq(bp[0x1ef], 0, "the sentinel says that nobody cleared boot_params");
	cr_assert_eq(bp[0x210], 0xff);
	cr_assert_eq(get_le32(bp + 0x218), entry.initramfs_gpa);
	cr_assert_eq(get_le32(bp + 0x21c), sizeof(cpio));
	cr_assert_str_eq((const char *)at(get_le32(bp + 0x228)), "console=ttyS0");
	cr_assert_eq(get_le64(bp + 0x70), FW_ACPI_BASE);
	cr_assert_eq(bp[0x1e8], 3);
	cr_assert_eq(get_le64(bp + 0x2d0 + 8), FW_LOW_RAM_END);
	cr_assert_eq(get_le64(bp + 0x2d0 + 40), MIB);
	cr_assert_eq(get_le32(bp + 0x2d0 + 56), E820_RAM);
	cr_assert_eq(get_le32(bp + 0x2d0 + 60), 0, "more e820 entries than counted");
}

/* Walk the tables as the MMU does (Intel SDM vol. 3, 4.5.4). */
static uint64_t walk(uint64_t cr3, uint64_t va)
{
	uint64_t entry_at = get_le64(at(cr3) + (va >> 39 & 511) * 8);

	cr_assert(entry_at & 1, "PML4 entry of 0x%llx", (unsigned long long)va);
	entry_at = get_le64(at(entry_at & ~0xfffull) + (va >> 30 & 511) * 8);
	cr_assert(entry_at & 1, "PDPT entry of 0x%llx", (unsigned long long)va);
	entry_at = get_le64(at(entry_at & ~0xfffull) + (va >> 21 & 511) * 8);
	cr_assert_eq(entry_at & 0x83, 0x83, "PD entry of 0x%llx", (unsigned long long)va);
	return (entry_at & ~0x1fffffull) | (va & 0x1fffff);
}

Test(loader, page_tables_map_the_first_4_gib_to_themselves)
{
	img_elf(elf, false);
	memset(m.ram[0].host + FW_LOW_PAGE_TABLES, 0xff, 6 * PAGE_4K);
	cr_assert_eq(load(NULL), 0, "%s", e.text);
	for (uint64_t va = 0; va < 4 * GIB; va += 2 * MIB - 1)
		cr_assert_eq(walk(entry.page_table, va), va);
	cr_assert_eq(walk(entry.page_table, 4 * GIB - 1), 4 * GIB - 1);
	cr_assert_eq(get_le64(at(entry.page_table) + 8), 0);
	cr_assert_eq(get_le64(at(entry.page_table + PAGE_4K) + 4 * 8), 0);
}

Test(loader, the_gdt_has_the_segments_that_boot_rst_fixes)
{
	const uint8_t *gdt;

	cr_assert_eq(load(NULL), 0, "%s", e.text);
	gdt = at(entry.gdt);
	cr_assert_eq(get_le64(gdt), 0);
	/* present, code, readable; long, not 32 bit */
	cr_assert_eq(gdt[FW_BOOT_CS + 5] & 0x9a, 0x9a);
	cr_assert_eq(gdt[FW_BOOT_CS + 6] & 0x60, 0x20);
	/* present, data, writable; base 0, limit 4 GiB */
	cr_assert_eq(gdt[FW_BOOT_DS + 5] & 0x9a, 0x92);
	cr_assert_eq(get_le64(gdt + FW_BOOT_DS) & ~(0xffull << 40), 0x00cf00000000ffff);
	cr_assert_eq(gdt[FW_CODE32 + 6] & 0x60, 0x40);
	cr_assert_eq(gdt[FW_TSS + 5], 0x8b);
}

Test(loader, a_second_load_after_a_reset_leaves_the_same_bytes)
{
	enum { INFO = 56 + 32 + 3 * 24 };
	static uint8_t info[INFO], gdt[FW_GDT_SIZE];

	cr_assert_eq(load(NULL), 0, "%s", e.text);
	memcpy(info, at(FW_LOW_START_INFO), INFO);
	memcpy(gdt, at(FW_LOW_GDT), FW_GDT_SIZE);
	memset(m.ram[0].host, 0xa5, 32 * MIB);
	cr_assert_eq(load(NULL), 0, "%s", e.text);
	cr_assert_arr_eq(at(FW_LOW_START_INFO), info, INFO);
	cr_assert_arr_eq(at(FW_LOW_GDT), gdt, FW_GDT_SIZE);
	cr_assert_eq(at(IMG_KERNEL_GPA + IMG_TEXT_SIZE)[IMG_DATA_SIZE], 0, ".bss is not zero");
	cr_assert_str_eq((const char *)at(FW_LOW_CMDLINE), "console=ttyS0");
}

Test(loader, a_command_line_that_is_too_long_is_refused)
{
	static char line[2049];

	memset(line, 'x', 2047);
	m.cmdline = line;
	cr_assert_eq(load(NULL), 0, "%s", e.text);
	cr_assert_eq(strlen((const char *)fw_ram_at(&m, FW_LOW_CMDLINE, 4096)), 2047);
	line[2047] = 'x';
	cr_assert_eq(load(NULL), -E2BIG);
	cr_assert(strstr(e.text, "--cmdline: has 2048 characters, this kernel takes 2047;"), "%s",
		e.text);
}

Test(loader, no_command_line_is_an_empty_one)
{
	m.cmdline = NULL;
	m.ram[0].host[FW_LOW_CMDLINE] = 'x';
	cr_assert_eq(load(NULL), 0, "%s", e.text);
	cr_assert_eq(*at(FW_LOW_CMDLINE), 0);
}

/* Bytes that are never looked at before their length is. */
static struct fw_image initramfs_of(size_t len)
{
	return (struct fw_image){
		.path = "initrd.img",
		.len = len,
		.data = mmap(
			NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
	};
}

Test(loader, an_initramfs_lies_page_aligned_at_the_end_of_low_ram)
{
	struct fw_image i = initramfs_of(10 * MIB + 1);

	m.nram = 2;
	m.ram[1] = (struct fw_ram){ .gpa = 4 * GIB, .size = MIB, .host = m.ram[0].host };
	cr_assert_eq(load(&i), 0, "%s", e.text);
	cr_assert_eq(entry.initramfs_gpa, 54 * MIB - PAGE_4K);
	cr_assert_eq(entry.initramfs_len, 10 * MIB + 1);
}

Test(loader, an_initramfs_never_lies_on_the_kernel_nor_on_boot_data)
{
	for (size_t mib = 1; mib < 64; mib++) {
		struct fw_image i = initramfs_of(mib * MIB);

		if (load(&i)) {
			/* 18 MiB and some end the kernel's part of 64. */
			cr_assert_gt(mib, 45);
			continue;
		}
		cr_assert_lt(mib, 46);
		cr_assert_not(ranges_overlap(entry.initramfs_gpa, entry.initramfs_len,
			entry.kernel_gpa, entry.kernel_len));
		cr_assert(range_inside(entry.initramfs_gpa, i.len, MIB, 63 * MIB));
		munmap((void *)i.data, i.len);
	}
}

Test(loader, a_small_guest_gets_the_initramfs_below_the_kernel)
{
	struct fw_image i = initramfs_of(14 * MIB);

	m.ram[0].size = 20 * MIB;
	cr_assert_eq(load(&i), 0, "%s", e.text);
	cr_assert_eq(entry.initramfs_gpa, 2 * MIB);
}

Test(loader, an_initramfs_that_does_not_fit_is_told_with_both_sizes)
{
	struct fw_image i = initramfs_of(300 * MIB);

	cr_assert_eq(load(&i), -ENOMEM);
	cr_assert(strstr(e.text, "--initramfs initrd.img: is 300 MiB and does not fit beside the "
				 "kernel into 64 MiB; give --memory size="),
		"%s", e.text);
	i.len = 5 * GIB;
	cr_assert_eq(load(&i), -ENOMEM);
	cr_assert(strstr(e.text, "make it smaller"), "%s", e.text);
	i.len = SIZE_MAX;
	cr_assert_eq(load(&i), -ENOMEM);
	i.len = 0;
	cr_assert_eq(load(&i), -EINVAL);
	cr_assert(strstr(e.text, "is empty"), "%s", e.text);
}

Test(loader, memory_without_a_first_mib_is_refused)
{
	m.ram[0].size = FW_LOW_RAM_END - 1;
	cr_assert_eq(load(NULL), -ENOMEM);
	cr_assert(strstr(e.text, "--memory: "), "%s", e.text);
}

Test(loader, no_sentence_is_wanted_and_none_is_made)
{
	struct fw_image kernel = { .path = "k", .data = elf, .len = 10 };

	cr_assert_lt(loader_load(&entry, &m, &kernel, NULL, &opts, NULL), 0);
}

static const struct {
	size_t offset;
	const char *bytes;
	size_t len;
	const char *sentence;
} strangers[] = {
	{ 0, "\x1f\x8b\x08", 3, "is a gzip file; unpack it first" },
	{ 0, "\xfd\x37zXZ", 6, "is an xz file" },
	{ 0, "\x28\xb5\x2f\xfd", 4, "is a zstd file" },
	{ 0, "QFI\xfb", 4, "is a qcow2 disk image; give it to --disk" },
	{ 0, "#!/bin/sh\n", 10, "is a script" },
	{ 0, "070701", 6, "is a cpio archive; give it to --initramfs" },
	{ 0, "MZ\x90", 3, "is an EFI program" },
	{ 56, "ARM\x64", 4, "is a kernel for aarch64; this host runs x86_64" },
	{ 4, "zimg", 4, "is a compressed EFI kernel" },
	{ 0x8001, "CD001", 5, "is a CD image" },
	{ 510, "\x55\xaa", 2, "is a boot sector or disk image" },
	{ 0, "hello", 5, "is not a kernel; give a vmlinux or bzImage" },
};

Test(loader, what_is_not_a_kernel_is_named_with_a_remedy)
{
	static uint8_t file[0x9000];

	for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
		size_t end = strangers[i].offset + strangers[i].len;
		uint8_t *cut;

		memset(file, 0, sizeof(file));
		memcpy(file + strangers[i].offset, strangers[i].bytes, strangers[i].len);
		cr_assert_eq(load_file(file, sizeof(file), NULL), -ENOEXEC);
		cr_assert(strstr(e.text, strangers[i].sentence), "%s", e.text);
		/* The same bytes cut short are nothing known, and nothing beyond is read. */
		cut = memcpy(malloc(end), file, end);
		cr_assert_eq(load_file(cut, end - 1, NULL), -ENOEXEC);
		free(cut);
	}
	cr_assert_eq(load_file(file, 0, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "--kernel k: is empty"), "%s", e.text);
}

Test(e820, ram_is_cut_by_the_hole_below_1_mib_and_everything_is_in_order)
{
	static const struct e820_entry want[] = {
		{ 0, 0xa0000, E820_RAM },
		{ 0xa0000, 0x60000, E820_RESERVED },
		{ 0x100000, 0xbff00000, E820_RAM },
		{ 0xe0000000, 0x10000000, E820_RESERVED },
		{ 0x100000000, 0x40000000, E820_RAM },
	};
	struct e820 map;

	m.ram[0].size = 3 * GIB;
	m.ram[1] = (struct fw_ram){ .gpa = 4 * GIB, .size = GIB };
	m.nram = 2;
	m.pci = (struct fw_pci){ .ecam_base = 0xe0000000, .buses = 256 };
	e820_build(&map, &m);
	cr_assert_eq(map.n, ARRAY_SIZE(want));
	for (unsigned i = 0; i < map.n; i++) {
		cr_assert_eq(map.entries[i].gpa, want[i].gpa, "%u", i);
		cr_assert_eq(map.entries[i].size, want[i].size, "%u", i);
		cr_assert_eq(map.entries[i].type, want[i].type, "%u", i);
	}
}

Test(e820, ram_inside_the_hole_is_never_told)
{
	struct e820 map;

	m.ram[0].size = 0xc0000;
	m.ram[1] = (struct fw_ram){ .gpa = 0xd0000, .size = 0x1000 };
	m.ram[2] = (struct fw_ram){ .gpa = 0xf0000, .size = 0x20000 };
	m.nram = 3;
	e820_build(&map, &m);
	cr_assert_eq(map.n, 3);
	cr_assert_eq(map.entries[0].size, 0xa0000);
	cr_assert_eq(map.entries[2].gpa, 0x100000);
	cr_assert_eq(map.entries[2].size, 0x10000);
}

Test(e820, the_largest_machine_has_room)
{
	struct e820 map;

	m.nram = FW_RAM_MAX;
	for (unsigned i = 1; i < FW_RAM_MAX; i++)
		m.ram[i] = (struct fw_ram){ .gpa = i * GIB, .size = MIB };
	m.pci = (struct fw_pci){ .ecam_base = 100 * GIB, .buses = 1 };
	e820_build(&map, &m);
	cr_assert_eq(map.n, FW_RAM_MAX + 3);
	cr_assert_eq(map.entries[map.n - 1].gpa, 100 * GIB);
}
