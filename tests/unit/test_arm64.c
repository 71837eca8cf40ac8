/* The arm64 loader: what is taken for a kernel, where things lie, and what hostile headers come to. */
#include "firmware/arm64.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <libfdt.h>
#include <zlib.h>
#include <zstd.h>

#include "tests/unit/arm64_images.h"
#include "tests/unit/kernel_images.h"

static uint8_t file[A64_FILE];
static struct fw_machine m;
static struct fdt_options options;
static struct fw_entry64 entry;
static struct error e;

static void init(void)
{
	a64_image(file);
	m = a64_machine(256 * MIB);
	options = a64_gicv3();
	e.text[0] = 0;
}

TestSuite(arm64, .init = init, .timeout = 180);

static int load_file(const void *data, size_t len, const struct fw_image *initramfs)
{
	struct fw_image kernel = { .path = "k", .data = data, .len = len };

	e.text[0] = 0;
	return arm64_load(&entry, &m, &kernel, initramfs, &options, &e);
}

static int load(void)
{
	return load_file(file, sizeof(file), NULL);
}

static void refused(int code, const char *sentence)
{
	struct fw_entry64 before = entry;
	int r = load();

	cr_assert_eq(r, -code, "%d: %s", r, e.text);
	cr_assert(strstr(e.text, sentence), "%s", e.text);
	cr_assert(strstr(e.text, "--kernel k: "), "%s", e.text);
	cr_assert_eq(memcmp(&before, &entry, sizeof(entry)), 0, "the result is untouched");
}

static uint64_t chosen64(const char *name)
{
	const void *fdt = fw_ram_at(&m, entry.x0, entry.dtb_len);
	int len, node = fdt_path_offset(fdt, "/chosen");
	const fdt64_t *v = fdt_getprop(fdt, node, name, &len);

	return v && len == 8 ? fdt64_ld(v) : UINT64_MAX;
}

/* All three in one range of RAM, apart, and where booting.rst wants them. */
static void check_places(void)
{
	const struct fw_ram *ram = &m.ram[0];

	while (!range_inside(entry.pc, 1, ram->gpa, ram->size))
		cr_assert_lt(++ram - m.ram, m.nram);
	cr_assert_eq(entry.pc, entry.kernel_gpa);
	cr_assert(range_inside(entry.kernel_gpa, entry.kernel_len, ram->gpa, ram->size));
	cr_assert(range_inside(entry.x0, FDT_ROOM, ram->gpa, ram->size));
	cr_assert(range_inside(entry.initramfs_gpa, entry.initramfs_len, ram->gpa, ram->size) ||
		  !entry.initramfs_len);
	cr_assert(is_aligned(entry.x0, 2 * MIB));
	cr_assert_not(ranges_overlap(entry.x0, FDT_ROOM, entry.kernel_gpa, entry.kernel_len));
	cr_assert_not(ranges_overlap(entry.x0, FDT_ROOM, entry.initramfs_gpa, entry.initramfs_len));
	cr_assert_not(ranges_overlap(
		entry.kernel_gpa, entry.kernel_len, entry.initramfs_gpa, entry.initramfs_len));
	cr_assert_leq(entry.dtb_len, FDT_ROOM);
	cr_assert_eq(fdt_check_full(fw_ram_at(&m, entry.x0, entry.dtb_len), entry.dtb_len), 0);
}

Test(arm64, an_image_is_entered_at_its_first_byte_at_the_bottom_of_ram)
{
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.pc, A64_RAM);
	cr_assert_eq(entry.kernel_len, 8 * MIB);
	cr_assert_eq(memcmp(fw_ram_at(&m, entry.pc, A64_FILE), file, A64_FILE), 0);
	cr_assert_eq(entry.initramfs_len, 0);
	cr_assert_eq(chosen64("linux,initrd-start"), UINT64_MAX);
	cr_assert_eq(entry.x0, A64_RAM + 254 * MIB);
	check_places();
}

Test(arm64, text_offset_counts_from_a_2_mib_boundary)
{
	put_le64(file + A64_TEXT_OFFSET, 0x81000);
	m.ram[0].gpa += 0x3000;
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.pc, A64_RAM + 2 * MIB + 0x81000);
	check_places();
}

Test(arm64, a_kernel_before_3_17_has_no_size_and_a_known_offset)
{
	put_le64(file + A64_IMAGE_SIZE, 0);
	put_le64(file + A64_TEXT_OFFSET, UINT64_C(0x0000080000000000)); /* big-endian, as some are */
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.pc, A64_RAM + 0x80000);
	cr_assert_eq(entry.kernel_len, A64_FILE);
	check_places();
}

Test(arm64, the_initramfs_is_where_the_device_tree_says)
{
	static uint8_t cpio[70000] = "070701";
	struct fw_image initramfs = { "i", cpio, sizeof(cpio) };

	cpio[sizeof(cpio) - 1] = 0x77;
	cr_assert_eq(load_file(file, sizeof(file), &initramfs), 0, "%s", e.text);
	check_places();
	cr_assert_eq(entry.initramfs_len, sizeof(cpio));
	cr_assert_eq(memcmp(fw_ram_at(&m, entry.initramfs_gpa, sizeof(cpio)), cpio, sizeof(cpio)), 0);
	cr_assert_eq(chosen64("linux,initrd-start"), entry.initramfs_gpa);
	cr_assert_eq(chosen64("linux,initrd-end"), entry.initramfs_gpa + sizeof(cpio));
	/* A second load without it forgets it. */
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(chosen64("linux,initrd-start"), UINT64_MAX);
}

Test(arm64, with_much_ram_the_device_tree_stays_within_512_mib_of_the_kernel)
{
	m = a64_machine(4 * GIB);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.x0, A64_RAM + 510 * MIB);
	check_places();
}

Test(arm64, a_large_initramfs_pushes_the_device_tree_to_the_end_of_ram)
{
	size_t len = 600 * (size_t)MIB;
	struct fw_image initramfs = { "i",
		mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), len };

	m = a64_machine(GIB);
	cr_assert_eq(load_file(file, sizeof(file), &initramfs), 0, "%s", e.text);
	check_places();
	cr_assert_eq(entry.x0, A64_RAM + GIB - FDT_ROOM);
}

Test(arm64, a_range_without_room_is_passed_over)
{
	m.ram[1] = (struct fw_ram){ A64_RAM + GIB, m.ram[0].size, m.ram[0].host };
	m.ram[0].size = 4 * MIB;
	m.nram = 2;
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.pc, A64_RAM + GIB);
	check_places();
}

Test(arm64, memory_that_is_too_small_is_told_with_what_would_do)
{
	unsigned long enough;
	const char *at;

	m.ram[0].size = 9 * MIB;
	refused(ENOMEM, "takes 8 MiB of memory");
	at = strstr(e.text, "size=");
	cr_assert_not_null(at);
	enough = strtoul(at + 5, NULL, 10);
	m.ram[0].size = enough * MIB;
	cr_assert_eq(load(), 0, "%s", e.text);
	check_places();
	m.ram[0].size = MIB;
	refused(ENOMEM, "takes 8 MiB of memory");
}

Test(arm64, an_initramfs_that_does_not_fit_is_told_with_what_would_do)
{
	size_t len = 32 * (size_t)MIB;
	struct fw_image initramfs = { "i", calloc(1, len), len };
	unsigned long enough;

	m.ram[0].size = 40 * MIB;
	cr_assert_eq(load_file(file, sizeof(file), &initramfs), -ENOMEM);
	cr_assert(strstr(e.text, "--initramfs i: is 32 MiB and does not fit beside the kernel"), "%s", e.text);
	enough = strtoul(strstr(e.text, "size=") + 5, NULL, 10);
	m.ram[0].size = enough * MIB;
	cr_assert_eq(load_file(file, sizeof(file), &initramfs), 0, "%s", e.text);
	check_places();
	initramfs.len = 0;
	cr_assert_eq(load_file(file, sizeof(file), &initramfs), -EINVAL);
	cr_assert(strstr(e.text, "--initramfs i: is empty"), "%s", e.text);
	free((void *)initramfs.data);
}

Test(arm64, a_big_endian_kernel_is_refused)
{
	put_le64(file + A64_FLAGS, 0xb);
	refused(ENOEXEC, "is a big-endian kernel");
}

Test(arm64, text_offset_games_are_refused)
{
	static const uint64_t offsets[] = { 1, 0x80004, 2 * MIB, 0x80000000, UINT64_MAX, UINT64_MAX - 4095,
		UINT64_C(1) << 63, -(uint64_t)A64_RAM };

	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		put_le64(file + A64_TEXT_OFFSET, offsets[i]);
		refused(EBADMSG, "text_offset is 0x");
	}
}

Test(arm64, an_image_size_that_lies_is_refused)
{
	put_le64(file + A64_IMAGE_SIZE, A64_FILE - 1);
	refused(EBADMSG, "its header says 12287 bytes, it has 12288");
	put_le64(file + A64_IMAGE_SIZE, 1);
	refused(EBADMSG, "its header says 1 bytes");
	put_le64(file + A64_IMAGE_SIZE, UINT64_MAX);
	refused(EBADMSG, "its header asks for");
	put_le64(file + A64_IMAGE_SIZE, UINT64_MAX - A64_RAM + 1);
	refused(EBADMSG, "its header asks for");
	put_le64(file + A64_IMAGE_SIZE, 300 * MIB);
	refused(ENOMEM, "takes 300 MiB");
	put_le64(file + A64_IMAGE_SIZE, A64_FILE);
	cr_assert_eq(load(), 0, "%s", e.text);
}

Test(arm64, a_file_cut_short_is_noticed_by_its_section_table)
{
	uint8_t *cut;

	for (size_t len = IMG_ELF_SIZE; len >= 64; len -= len > 0x300 ? 0x100 : 1) {
		cut = memcpy(malloc(len), file, len);
		cr_assert_eq(load_file(cut, len, NULL), -EBADMSG, "%zu bytes", len);
		cr_assert(strstr(e.text, "is truncated"), "%s", e.text);
		free(cut);
	}
	cut = memcpy(malloc(63), file, 63);
	cr_assert_eq(load_file(cut, 63, NULL), -ENOEXEC);
	free(cut);
	cr_assert_eq(load_file(file, 0, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "--kernel k: is empty"), "%s", e.text);
}

Test(arm64, a_kernel_that_is_no_efi_program_needs_no_section_table)
{
	memset(file, 0, 2);
	put_le32(file + A64_PE, UINT32_MAX);
	cr_assert_eq(load(), 0, "%s", e.text);
	memcpy(file, "MZ", 2);
	refused(EBADMSG, "is truncated");
}

static size_t gzip(uint8_t *out, size_t room, const void *in, size_t len)
{
	void *lib = dlopen("libz.so.1", RTLD_NOW);
	__typeof__(&deflateInit2_) init2 = dlsym(lib, "deflateInit2_");
	__typeof__(&deflate) run = dlsym(lib, "deflate");
	__typeof__(&deflateEnd) finish = dlsym(lib, "deflateEnd");
	z_stream z = { .next_in = (void *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)room };

	init2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, sizeof(z));
	cr_assert_eq(run(&z, Z_FINISH), Z_STREAM_END);
	finish(&z);
	return room - z.avail_out;
}

static size_t zstd(uint8_t *out, size_t room, const void *in, size_t len)
{
	__typeof__(&ZSTD_compress) run = dlsym(dlopen("libzstd.so.1", RTLD_NOW), "ZSTD_compress");

	return run(out, room, in, len, 5);
}

static uint8_t packed[2 * A64_FILE];

Test(arm64, packed_images_come_to_the_same_as_the_image)
{
	size_t len = gzip(packed, sizeof(packed), file, sizeof(file)), zlen;
	uint8_t *z;

	cr_assert_eq(load_file(packed, len, NULL), 0, "%s", e.text);
	cr_assert_eq(memcmp(fw_ram_at(&m, entry.pc, A64_FILE), file, A64_FILE), 0);
	memset(fw_ram_at(&m, entry.pc, A64_FILE), 0, A64_FILE);
	len = zstd(packed, sizeof(packed), file, sizeof(file));
	z = a64_zboot(&zlen, packed, len, "zstd");
	cr_assert_eq(load_file(z, zlen, NULL), 0, "%s", e.text);
	cr_assert_eq(memcmp(fw_ram_at(&m, entry.pc, A64_FILE), file, A64_FILE), 0);
	memset(fw_ram_at(&m, entry.pc, A64_FILE), 0, A64_FILE);
	len = gzip(packed, sizeof(packed), z, zlen);
	cr_assert_eq(load_file(packed, len, NULL), 0, "gzip around zboot: %s", e.text);
	cr_assert_eq(memcmp(fw_ram_at(&m, entry.pc, A64_FILE), file, A64_FILE), 0);
	check_places();
	free(z);
}

Test(arm64, packed_in_too_many_layers_or_with_nothing_inside_is_refused)
{
	static uint8_t again[2 * A64_FILE], thrice[2 * A64_FILE];
	size_t len = gzip(packed, sizeof(packed), file, sizeof(file));

	len = gzip(again, sizeof(again), packed, len);
	cr_assert_eq(load_file(again, len, NULL), 0, "%s", e.text);
	len = gzip(thrice, sizeof(thrice), again, len);
	cr_assert_eq(load_file(thrice, len, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "holds a gzip file"), "%s", e.text);
	len = gzip(packed, sizeof(packed), "nothing of interest at all", 26);
	cr_assert_eq(load_file(packed, len, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "is a gzip file without a kernel for aarch64"), "%s", e.text);
	file[A64_FLAGS] = 0xb;
	len = gzip(packed, sizeof(packed), file, sizeof(file));
	cr_assert_eq(load_file(packed, len, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "big-endian"), "%s", e.text);
}

Test(arm64, a_damaged_pack_is_refused)
{
	size_t len = gzip(packed, sizeof(packed), file, sizeof(file)), zlen;
	uint8_t *z = a64_zboot(&zlen, packed, len, "gzip");

	packed[len / 2] ^= 0x55;
	cr_assert_eq(load_file(packed, len, NULL), -EBADMSG);
	cr_assert(strstr(e.text, "--kernel k: cannot be unpacked: the gzip data is damaged"), "%s", e.text);
	put_le32(z + 12, (uint32_t)len + 65);
	cr_assert_eq(load_file(z, zlen, NULL), -EBADMSG);
	cr_assert(strstr(e.text, "is truncated"), "%s", e.text);
	put_le32(z + 12, UINT32_MAX);
	put_le32(z + 8, UINT32_MAX);
	cr_assert_eq(load_file(z, zlen, NULL), -EBADMSG);
	put_le32(z + 8, 0);
	put_le32(z + 12, 64);
	cr_assert_eq(load_file(z, zlen, NULL), -EBADMSG);
	cr_assert(strstr(e.text, "names no payload"), "%s", e.text);
	put_le32(z + 8, A64_ZBOOT_PAYLOAD);
	put_le32(z + 12, 0);
	cr_assert_eq(load_file(z, zlen, NULL), -EBADMSG);
	free(z);
}

/* A copy of its own length, so that a read past its end is seen. */
static void refused_at(const uint8_t *data, size_t len)
{
	uint8_t *cut = memcpy(malloc(len + 1), data, len);

	e = (struct error){ "" };
	cr_assert_lt(load_file(cut, len, NULL), 0, "%zu bytes", len);
	cr_assert(strstr(e.text, "--kernel k: "), "%s", e.text);
	free(cut);
}

Test(arm64, a_pack_that_is_cut_short_anywhere_or_lies_about_its_size_is_refused)
{
	static const uint32_t lies[] = { 0, 1, A64_FILE - 1, A64_FILE + 1, UINT32_MAX };
	size_t len = gzip(packed, sizeof(packed), file, sizeof(file)), zlen;
	uint8_t *z = a64_zboot(&zlen, packed, len, "gzip");

	for (size_t cut = 1; cut < len; cut++)
		refused_at(packed, cut);
	for (size_t cut = 1; cut < A64_ZBOOT_PAYLOAD + len; cut++)
		refused_at(z, cut);
	/* The file is whole, its header names less of the payload than there is. */
	for (uint32_t shorter = 1; shorter < len; shorter += 3) {
		put_le32(z + 12, (uint32_t)len - shorter);
		refused_at(z, zlen);
	}
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		put_le32(packed + len - 4, lies[i]);
		refused_at(packed, len);
	}
	free(z);
}

Test(arm64, an_unknown_method_of_zboot_is_named_in_harmless_letters)
{
	size_t len;
	uint8_t *z = a64_zboot(&len, "\x89LZO payload", 12, "lzo\x1b[2J");

	cr_assert_eq(load_file(z, len, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "is packed with \"lzo\", which is not known here"), "%s", e.text);
	free(z);
}

static const struct {
	size_t offset;
	const char *bytes;
	size_t len;
	const char *sentence;
} strangers[] = {
	{ 0, "\x7f" "ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\x3e\0", 20, "is an ELF file for x86_64; this host runs aarch64" },
	{ 0, "\x7f" "ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\xb7\0", 20,
		"is an ELF file for aarch64, which cannot be loaded as it is; give an arm64 Image" },
	{ 56, "RSC\x05", 4, "is a kernel for riscv64; this host runs aarch64" },
	{ 0, "MZ\x90", 3, "is an EFI program" },
	{ 0, "070701", 6, "is a cpio archive; give it to --initramfs" },
	{ 0, "QFI\xfb", 4, "is a qcow2 disk image; give it to --disk" },
	{ 0, "hello", 5, "is not a kernel; give an arm64 Image" },
};

Test(arm64, what_is_not_a_kernel_is_named_with_a_remedy)
{
	static uint8_t bytes[0x9000];
	size_t len;
	uint8_t *bz = img_bzimage(&len, "payload", 7, 0);

	cr_assert_eq(load_file(bz, len, NULL), -ENOEXEC);
	cr_assert(strstr(e.text, "is a bzImage, a kernel for x86_64; this host runs aarch64"), "%s", e.text);
	free(bz);
	for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
		memset(bytes, 0, sizeof(bytes));
		memcpy(bytes + strangers[i].offset, strangers[i].bytes, strangers[i].len);
		cr_assert_eq(load_file(bytes, sizeof(bytes), NULL), -ENOEXEC);
		cr_assert(strstr(e.text, strangers[i].sentence), "%s", e.text);
	}
}

Test(arm64, the_x86_loader_refuses_an_arm64_kernel_in_the_same_words)
{
	struct fw_machine x86 = img_machine(64 * MIB);
	const struct loader_options none = { .fresh_ram = true };
	struct fw_image kernel = { "k", file, sizeof(file) };
	struct fw_entry x86_entry;

	cr_assert_eq(loader_load(&x86_entry, &x86, &kernel, NULL, &none, &e), -ENOEXEC);
	cr_assert_str_eq(e.text, "--kernel k: is a kernel for aarch64; this host runs x86_64");
	memset(file, 0, sizeof(file));
	memcpy(file + 0x202, "HdrS", 4);
	cr_assert_eq(loader_load(&x86_entry, &x86, &kernel, NULL, &none, &e), -ENOEXEC);
	cr_assert(strstr(e.text, "which cannot be loaded as it is"), "%s", e.text);
}

Test(arm64, an_error_of_the_device_tree_is_the_loaders)
{
	options.gic = 0;
	cr_assert_eq(load(), -EINVAL);
	cr_assert(strstr(e.text, "interrupt controller"), "%s", e.text);
}
