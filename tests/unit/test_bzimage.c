/* bzImage: unpacked and entered as ELF, or loaded whole; and what a hostile setup header cannot do.
 */
#include "firmware/bzimage.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <zlib.h>

#include "tests/unit/kernel_images.h"

static uint8_t elf[IMG_ELF_SIZE];
static struct fw_machine m;
static struct fw_image file = { .path = "bzImage" };
static struct loader_options opts;
static struct fw_entry entry;
static struct error e;
static uint8_t *image;

static size_t gzip(uint8_t *out, size_t room, const uint8_t *in, size_t len)
{
	void *lib = dlopen("libz.so.1", RTLD_NOW);
	__typeof__(&deflateInit2_) init = dlsym(lib, "deflateInit2_");
	__typeof__(&deflate) run = dlsym(lib, "deflate");
	__typeof__(&deflateEnd) end = dlsym(lib, "deflateEnd");
	z_stream z = { .next_in = (uint8_t *)in,
		.avail_in = (uInt)len,
		.next_out = out,
		.avail_out = (uInt)room };

	init(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, sizeof(z));
	cr_assert_eq(run(&z, Z_FINISH), Z_STREAM_END);
	end(&z);
	return room - z.avail_out;
}

/* A bzImage around `len` bytes, gzipped; the size at its end is gzip's own. */
static void pack(const uint8_t *in, size_t len)
{
	static uint8_t packed[2 * IMG_ELF_SIZE];

	free(image);
	image = img_bzimage(&file.len, packed, gzip(packed, sizeof(packed), in, len), 0);
	file.data = image;
}

static void init(void)
{
	img_elf(elf, true);
	pack(elf, sizeof(elf));
	m = img_machine(64 * MIB);
	opts = (struct loader_options){ .rsdp = FW_ACPI_BASE };
}

static int load(void)
{
	/* A copy of exactly that size: a sanitizer sees each byte too many. */
	uint8_t *copy = malloc(file.len ? file.len : 1);
	struct fw_image f = { .path = file.path, .data = copy, .len = file.len };
	int r;

	memcpy(copy, file.data, file.len);
	e.text[0] = 0;
	entry = (struct fw_entry){ .ip = 0x5a5a };
	r = loader_load(&entry, &m, &f, NULL, &opts, &e);
	free(copy);
	if (r) {
		cr_assert_eq(entry.ip, 0x5a5a, "an output is touched on failure");
		cr_assert(strstr(e.text, "--kernel bzImage: "), "no sentence: '%s'", e.text);
	}
	return r;
}

static void refused(int code, const char *why)
{
	cr_assert_eq(load(), -code, "%s", e.text);
	cr_assert(strstr(e.text, why), "'%s' does not say '%s'", e.text, why);
}

TestSuite(bzimage, .init = init, .timeout = 180);

Test(bzimage, the_elf_inside_is_entered_by_its_pvh_note)
{
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.kind, FW_ENTRY_PVH);
	cr_assert_eq(entry.ip, IMG_PVH_ENTRY);
	cr_assert_arr_eq(m.ram[0].host + IMG_KERNEL_GPA, elf + IMG_TEXT_OFFSET, IMG_TEXT_SIZE);
}

Test(bzimage, an_elf_inside_without_a_note_is_entered_at_64_bit_with_the_header_of_the_file)
{
	img_elf(elf, false);
	pack(elf, sizeof(elf));
	put_le64(image + BP_SETUP_DATA_64, 0xdead0000);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.kind, FW_ENTRY_LINUX64);
	cr_assert_eq(entry.ip, IMG_ENTRY);
	cr_assert_eq(get_le16(m.ram[0].host + entry.arg + BP_VERSION_16), 0x020f);
	cr_assert_eq(get_le64(m.ram[0].host + entry.arg + BP_SETUP_DATA_64), 0);
}

Test(bzimage, kept_compressed_it_is_entered_512_bytes_into_its_protected_mode_part)
{
	uint8_t *ram = m.ram[0].host;

	opts.keep_compressed = true;
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.kind, FW_ENTRY_LINUX64);
	cr_assert_eq(entry.ip, IMG_KERNEL_GPA + 0x200);
	cr_assert_eq(entry.kernel_len, 8 * MIB, "init_size is not kept free");
	cr_assert_arr_eq(ram + IMG_KERNEL_GPA, image + IMG_SETUP_SIZE, file.len - IMG_SETUP_SIZE);
	cr_assert_eq(get_le32(ram + entry.arg + BP_INIT_SIZE), 8 * MIB, "the header is not copied");
	cr_assert_eq(ram[entry.arg + BP_LOADER_8], 0xff);
}

Test(bzimage, a_kernel_packed_in_an_unknown_way_unpacks_itself)
{
	memcpy(image + IMG_SETUP_SIZE + IMG_PAYLOAD, "BZh9", 4);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.ip, IMG_KERNEL_GPA + 0x200);
}

Test(bzimage, a_payload_that_is_no_elf_unpacks_itself)
{
	memset(elf, 0x90, sizeof(elf));
	pack(elf, sizeof(elf));
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.ip, IMG_KERNEL_GPA + 0x200);
}

Test(bzimage, a_header_without_a_payload_unpacks_itself)
{
	put_le32(image + BP_PAYLOAD_LENGTH, 0);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.ip, IMG_KERNEL_GPA + 0x200);
}

Test(bzimage, a_damaged_payload_is_refused)
{
	image[IMG_SETUP_SIZE + IMG_PAYLOAD + 40] ^= 0xff;
	refused(EBADMSG, "the gzip data is damaged");
}

Test(bzimage, an_absurd_size_of_what_is_inside_is_refused)
{
	uint32_t len = get_le32(image + BP_PAYLOAD_LENGTH);
	uint8_t *size = image + IMG_SETUP_SIZE + IMG_PAYLOAD + len - 4;

	put_le32(size, 0xffffffff);
	refused(EBADMSG, "damaged");
	put_le32(size, 0);
	refused(EBADMSG, "damaged");
	put_le32(size, IMG_ELF_SIZE - 1);
	refused(EBADMSG, "damaged");
}

Test(bzimage, a_damaged_elf_inside_is_refused)
{
	img_phdr(elf, 1)->p_offset = UINT64_MAX;
	pack(elf, sizeof(elf));
	refused(EBADMSG, "truncated");
}

Test(bzimage, no_setup_sectors_mean_four)
{
	image[BP_SETUP_SECTS_8] = 0;
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.ip, IMG_PVH_ENTRY);
}

Test(bzimage, setup_sectors_past_the_end_are_refused)
{
	image[BP_SETUP_SECTS_8] = 255;
	refused(EBADMSG, "truncated");
	opts.keep_compressed = true;
	refused(EBADMSG, "truncated");
}

Test(bzimage, every_truncation_is_refused)
{
	size_t len = file.len;

	for (unsigned keep = 0; keep < 2; keep++) {
		opts.keep_compressed = keep;
		for (file.len = 0; file.len + 16 <= len; file.len += 13)
			cr_assert(load() < 0, "accepted with %zu bytes", file.len);
	}
}

Test(bzimage, a_payload_outside_of_the_file_is_refused)
{
	static const uint32_t lies[][2] = { { 0xffffffff, 0xffffffff }, { 0, 0xffffffff },
		{ 0xfffff000, 0x1000 }, { 0x10000000, 8 } };

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		put_le32(image + BP_PAYLOAD_OFFSET, lies[i][0]);
		put_le32(image + BP_PAYLOAD_LENGTH, lies[i][1]);
		refused(EBADMSG, "truncated");
	}
}

Test(bzimage, a_payload_too_short_for_its_size_is_none)
{
	for (uint32_t len = 1; len <= 4; len++) {
		put_le32(image + BP_PAYLOAD_LENGTH, len);
		cr_assert_eq(load(), 0, "%s", e.text);
		cr_assert_eq(entry.ip, IMG_KERNEL_GPA + 0x200);
	}
}

Test(bzimage, an_absurd_init_size_does_not_fit)
{
	opts.keep_compressed = true;
	put_le32(image + BP_INIT_SIZE, 0xffffffff);
	refused(ENOMEM, "needs 4096 MiB of memory");
	put_le32(image + BP_INIT_SIZE, 0);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(
		entry.kernel_len, file.len - IMG_SETUP_SIZE, "less than the file is kept free");
}

Test(bzimage, an_alignment_that_is_none_is_refused)
{
	static const uint32_t lies[] = { 0, 3, 0xffffffff };

	opts.keep_compressed = true;
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		put_le32(image + BP_KERNEL_ALIGNMENT, lies[i]);
		refused(EBADMSG, "kernel_alignment");
	}
}

Test(bzimage, a_preferred_address_without_ram_is_left_only_by_a_relocatable_kernel)
{
	static const uint64_t nowhere[] = { 0, 0x1000, 0xff000, UINT64_C(1) << 31,
		UINT64_C(1) << 32, UINT64_MAX - 0xfff };

	opts.keep_compressed = true;
	for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
		put_le64(image + BP_PREF_ADDRESS_64, nowhere[i]);
		image[BP_RELOCATABLE_8] = 1;
		cr_assert_eq(load(), 0, "%s", e.text);
		cr_assert_eq(entry.ip, 2 * MIB + 0x200, "not at the lowest aligned address");
		image[BP_RELOCATABLE_8] = 0;
		refused(ENOMEM, "--memory size=");
	}
	put_le64(image + BP_PREF_ADDRESS_64, IMG_KERNEL_GPA + 1);
	refused(EBADMSG, "pref_address");
}

Test(bzimage, a_small_guest_gets_the_kernel_as_low_as_it_may)
{
	m.ram[0].size = 10 * MIB;
	opts.keep_compressed = true;
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.kernel_gpa, 2 * MIB);
	m.ram[0].size = 10 * MIB - 1;
	refused(ENOMEM, "--memory size=10M");
}

Test(bzimage, a_kernel_without_a_64_bit_entry_can_only_be_unpacked_here)
{
	put_le16(image + BP_XLOADFLAGS_16, 0);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.ip, IMG_PVH_ENTRY);
	opts.keep_compressed = true;
	refused(ENOEXEC, "no 64-bit entry");
	opts.keep_compressed = false;
	memcpy(image + IMG_SETUP_SIZE + IMG_PAYLOAD, "BZh9", 4);
	refused(ENOEXEC, "no 64-bit entry and cannot be unpacked here: it is packed in an unknown");
}

Test(bzimage, fields_that_the_protocol_of_the_file_does_not_have_are_not_read)
{
	put_le16(image + BP_VERSION_16, 0x0209);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(entry.ip, IMG_PVH_ENTRY);
	put_le16(image + BP_VERSION_16, 0x0207);
	refused(ENOEXEC, "no 64-bit entry");
	put_le16(image + BP_VERSION_16, 0x0205);
	refused(ENOEXEC, "boot protocol 2.05");
}

Test(bzimage, the_length_of_the_setup_header_is_bounded)
{
	opts.keep_compressed = true;
	image[BP_JUMP_LEN_8] = 0xff;
	memset(image + BP_HEADER_MAX, 0x5a, 0x100);
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(m.ram[0].host[entry.arg + BP_HEADER_MAX], 0, "copied over other fields");
	image[BP_JUMP_LEN_8] = 0;
	cr_assert_eq(load(), 0, "%s", e.text);
	cr_assert_eq(get_le32(m.ram[0].host + entry.arg + BP_INIT_SIZE), 0);
}

Test(bzimage, the_command_line_and_initramfs_limits_of_the_header_count)
{
	static uint8_t page[PAGE_4K];
	struct fw_image initramfs = { .path = "initrd", .data = page, .len = sizeof(page) };

	put_le32(image + BP_CMDLINE_SIZE, 3);
	cr_assert_eq(loader_load(&entry, &m, &file, NULL, &opts, &e), -E2BIG);
	cr_assert(strstr(e.text, "this kernel takes 3;"), "%s", e.text);
	put_le32(image + BP_CMDLINE_SIZE, 0xffffffff);
	put_le32(image + BP_INITRD_MAX, 0x2ffffff);
	cr_assert_eq(loader_load(&entry, &m, &file, &initramfs, &opts, &e), 0, "%s", e.text);
	cr_assert_eq(entry.initramfs_gpa, 0x3000000 - PAGE_4K);
}
