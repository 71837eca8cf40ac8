/* ELF kernels: what is loaded, what is refused, and that hostile headers end in a sentence. */
#include "firmware/elf.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "tests/unit/kernel_images.h"

static uint8_t elf[IMG_ELF_SIZE];
static struct elf_kernel k;
static struct error e;

static int parse(size_t len)
{
	/* A copy of exactly that size: a sanitizer sees each byte too many. */
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, elf, len);
	e.text[0] = 0;
	k = (struct elf_kernel){ .entry = 0x5a5a };
	r = elf_parse(&k, copy, len, "vmlinux", &e);
	free(copy);
	if (r) {
		cr_assert_eq(k.entry, 0x5a5a, "an output is touched on failure");
		cr_assert(strstr(e.text, "--kernel vmlinux: "), "no sentence: '%s'", e.text);
	}
	return r;
}

static void refused(int code, const char *why)
{
	cr_assert_eq(parse(sizeof(elf)), -code, "%s", e.text);
	cr_assert(strstr(e.text, why), "'%s' does not say '%s'", e.text, why);
}

static void make_pvh(void)
{
	img_elf(elf, true);
}

TestSuite(elf, .init = make_pvh, .timeout = 180);

Test(elf, a_pvh_note_is_found_behind_foreign_ones)
{
	cr_assert_eq(parse(sizeof(elf)), 0, "%s", e.text);
	cr_assert(k.pvh);
	cr_assert_eq(k.entry, IMG_PVH_ENTRY);
	cr_assert_eq(k.nsegments, 2);
	cr_assert_eq(k.start, IMG_KERNEL_GPA);
	cr_assert_eq(k.end, IMG_KERNEL_GPA + IMG_TEXT_SIZE + IMG_DATA_MEMSZ);
}

Test(elf, a_pvh_note_of_four_bytes_is_read_as_four)
{
	img_note(elf)->n_descsz = 4;
	put_le32(elf + IMG_NOTE_OFFSET + 40, 0xffffffff);
	cr_assert_eq(parse(sizeof(elf)), 0, "%s", e.text);
	cr_assert_eq(k.entry, IMG_PVH_ENTRY);
}

Test(elf, without_a_note_the_entry_is_that_of_the_header)
{
	img_elf(elf, false);
	cr_assert_eq(parse(sizeof(elf)), 0, "%s", e.text);
	cr_assert_not(k.pvh);
	cr_assert_eq(k.entry, IMG_ENTRY);
}

Test(elf, notes_that_lie_about_their_sizes_are_not_followed)
{
	static const uint32_t lies[] = { 41, 0x1000, 0x7ffffffc, 0xfffffff4, 0xffffffff };

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		for (unsigned field = 0; field < 2; field++) {
			img_elf(elf, true);
			if (field)
				img_note(elf)->n_namesz = lies[i];
			else
				img_note(elf)->n_descsz = lies[i];
			cr_assert_eq(parse(sizeof(elf)), 0, "%s", e.text);
			cr_assert_not(k.pvh);
		}
	}
}

Test(elf, a_note_that_its_segment_cuts_short_is_not_read)
{
	for (uint64_t size = 0; size < IMG_NOTE_SIZE; size++) {
		img_phdr(elf, 2)->p_filesz = size;
		/* The last 8 bytes of the segment are no part of the note. */
		cr_assert_eq(parse(sizeof(elf)), 0, "%s", e.text);
		cr_assert_eq(k.pvh, size >= 44, "%llu bytes", (unsigned long long)size);
	}
}

Test(elf, a_note_segment_outside_of_the_file_is_ignored)
{
	img_phdr(elf, 2)->p_offset = UINT64_MAX - 8;
	cr_assert_eq(parse(sizeof(elf)), 0, "%s", e.text);
	cr_assert_not(k.pvh);
}

Test(elf, a_long_run_of_empty_notes_ends)
{
	enum { LONG = 1 << 20 };
	uint8_t *big = calloc(1, LONG);

	memcpy(big, elf, sizeof(elf));
	img_ehdr(big)->e_phnum = ELF_PHDRS_MAX;
	for (unsigned i = 2; i < ELF_PHDRS_MAX; i++)
		*img_phdr(big, i) = (Elf64_Phdr){
			.p_type = PT_NOTE,
			.p_offset = 0x4000,
			.p_filesz = LONG - 0x4000,
		};
	/* The program headers have grown over the text. */
	cr_assert_eq(elf_parse(&k, big, LONG, "vmlinux", &e), 0, "%s", e.text);
	cr_assert_not(k.pvh);
	free(big);
}

Test(elf, every_truncation_is_refused_without_a_byte_read_beyond)
{
	for (size_t len = 0; len < sizeof(elf); len += len < 0x500 ? 1 : 97)
		cr_assert(parse(len) < 0, "accepted with %zu bytes", len);
}

Test(elf, cve_2022_23523_a_segment_past_the_end_of_the_file_is_refused)
{
	img_phdr(elf, 1)->p_offset = sizeof(elf) - IMG_DATA_SIZE + 1;
	refused(EBADMSG, "truncated");
	img_phdr(elf, 1)->p_offset = UINT64_MAX - IMG_DATA_SIZE + 1;
	refused(EBADMSG, "truncated");
	img_phdr(elf, 1)->p_offset = 0;
	img_phdr(elf, 1)->p_filesz = img_phdr(elf, 1)->p_memsz = UINT64_MAX;
	refused(EBADMSG, "truncated");
}

Test(elf, a_segment_that_is_larger_in_the_file_than_in_memory_is_refused)
{
	img_phdr(elf, 0)->p_filesz = IMG_TEXT_SIZE + 1;
	refused(EBADMSG, "larger in the file");
}

Test(elf, a_segment_over_low_boot_data_or_above_4_gib_is_refused)
{
	static const uint64_t bad[] = { 0, 0x2000, 0xa0000, 0xff001, 0xfffff000, UINT64_C(1) << 32,
		UINT64_MAX - 0xfff, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		img_phdr(elf, 1)->p_paddr = bad[i];
		refused(EBADMSG, "between 1 MiB and 4 GiB");
	}
	img_elf(elf, true);
	img_phdr(elf, 1)->p_memsz = UINT64_MAX;
	refused(EBADMSG, "between 1 MiB and 4 GiB");
}

Test(elf, segments_that_overlap_are_refused)
{
	img_phdr(elf, 1)->p_paddr = IMG_KERNEL_GPA + IMG_TEXT_SIZE - 1;
	refused(EBADMSG, "overlap");
	img_phdr(elf, 1)->p_paddr = IMG_KERNEL_GPA;
	refused(EBADMSG, "overlap");
}

Test(elf, an_entry_outside_of_the_segments_is_refused)
{
	put_le64(elf + IMG_NOTE_OFFSET + 36, IMG_KERNEL_GPA - 1);
	refused(EBADMSG, "entry point");
	put_le64(elf + IMG_NOTE_OFFSET + 36, (UINT64_C(1) << 32) + IMG_PVH_ENTRY);
	refused(EBADMSG, "entry point");
	img_elf(elf, false);
	img_ehdr(elf)->e_entry = UINT64_C(0xffffffff81000000);
	refused(EBADMSG, "entry point");
}

Test(elf, program_headers_that_cannot_be_are_refused)
{
	img_ehdr(elf)->e_phnum = 0xffff;
	refused(EBADMSG, "program headers");
	img_ehdr(elf)->e_phnum = 0;
	refused(EBADMSG, "program headers");
	img_elf(elf, true);
	img_ehdr(elf)->e_phentsize = 8;
	refused(EBADMSG, "program headers");
	img_elf(elf, true);
	img_ehdr(elf)->e_phoff = UINT64_MAX - 10;
	refused(EBADMSG, "truncated");
	img_ehdr(elf)->e_phoff = sizeof(elf) - 2 * sizeof(Elf64_Phdr);
	refused(EBADMSG, "truncated");
}

Test(elf, more_segments_than_there_is_room_for_are_refused)
{
	static uint8_t big[IMG_ELF_SIZE + 0x4000];

	memcpy(big, elf, sizeof(elf));
	img_ehdr(big)->e_phnum = ELF_SEGMENTS_MAX + 1;
	for (unsigned i = 0; i <= ELF_SEGMENTS_MAX; i++)
		*img_phdr(big, i) = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_paddr = IMG_KERNEL_GPA + i * PAGE_4K,
			.p_memsz = 1,
		};
	cr_assert_eq(elf_parse(&k, big, sizeof(big), "vmlinux", &e), -EBADMSG);
	cr_assert(strstr(e.text, "too many segments"), "%s", e.text);
}

Test(elf, a_file_with_nothing_to_load_is_refused)
{
	img_phdr(elf, 0)->p_type = PT_NULL;
	img_phdr(elf, 1)->p_type = PT_NULL;
	refused(EBADMSG, "nothing to load");
}

Test(elf, what_is_not_a_kernel_of_this_machine_is_named)
{
	img_ehdr(elf)->e_machine = EM_AARCH64;
	refused(ENOEXEC, "is a kernel for aarch64; this host runs x86_64");
	img_ehdr(elf)->e_machine = 4711;
	refused(ENOEXEC, "ELF machine 4711");
	img_elf(elf, true);
	img_ehdr(elf)->e_ident[EI_CLASS] = ELFCLASS32;
	refused(ENOEXEC, "32-bit");
	img_elf(elf, true);
	img_ehdr(elf)->e_ident[EI_DATA] = ELFDATA2MSB;
	refused(ENOEXEC, "big-endian");
	img_elf(elf, true);
	img_ehdr(elf)->e_type = ET_REL;
	refused(ENOEXEC, "module");
	img_ehdr(elf)->e_type = ET_CORE;
	refused(ENOEXEC, "type 4");
	img_elf(elf, true);
	img_phdr(elf, 2)->p_type = PT_INTERP;
	refused(ENOEXEC, "is a program");
}

Test(elf, segments_are_copied_and_bss_is_zeroed_after_a_reset)
{
	struct fw_machine m = img_machine(32 * MIB);
	uint8_t *text = m.ram[0].host + IMG_KERNEL_GPA, *data = text + IMG_TEXT_SIZE;

	memset(text, 0x5a, IMG_TEXT_SIZE + IMG_DATA_MEMSZ + 1);
	cr_assert_eq(parse(sizeof(elf)), 0);
	cr_assert_eq(elf_load(&k, &m, elf, "vmlinux", false, &e), 0, "%s", e.text);
	cr_assert_arr_eq(text, elf + IMG_TEXT_OFFSET, IMG_TEXT_SIZE);
	cr_assert_arr_eq(data, elf + IMG_DATA_OFFSET, IMG_DATA_SIZE);
	for (unsigned i = IMG_DATA_SIZE; i < IMG_DATA_MEMSZ; i++)
		cr_assert_eq(data[i], 0, "at %u", i);
	cr_assert_eq(data[IMG_DATA_MEMSZ], 0x5a, "a byte behind the segment is written");
}

Test(elf, fresh_ram_is_not_zeroed_again)
{
	struct fw_machine m = img_machine(32 * MIB);
	uint8_t *bss = m.ram[0].host + IMG_KERNEL_GPA + IMG_TEXT_SIZE + IMG_DATA_SIZE;

	*bss = 0x5a;
	cr_assert_eq(parse(sizeof(elf)), 0);
	cr_assert_eq(elf_load(&k, &m, elf, "vmlinux", true, &e), 0, "%s", e.text);
	cr_assert_eq(*bss, 0x5a);
}

Test(elf, a_kernel_that_memory_has_no_room_for_is_refused_before_a_write)
{
	struct fw_machine m = img_machine(IMG_KERNEL_GPA + IMG_TEXT_SIZE + IMG_DATA_MEMSZ - 1);

	cr_assert_eq(parse(sizeof(elf)), 0);
	cr_assert_eq(elf_load(&k, &m, elf, "vmlinux", false, &e), -ENOMEM);
	cr_assert(strstr(e.text, "--memory size=17M"), "%s", e.text);
	cr_assert_eq(m.ram[0].host[IMG_KERNEL_GPA], 0);
}

Test(elf, a_segment_across_two_ranges_of_ram_is_refused)
{
	struct fw_machine m = img_machine(32 * MIB);

	m.nram = 2;
	m.ram[0].size = IMG_KERNEL_GPA + 0x800;
	m.ram[1] = (struct fw_ram){
		.gpa = m.ram[0].size, .size = MIB, .host = m.ram[0].host + m.ram[0].size
	};
	cr_assert_eq(parse(sizeof(elf)), 0);
	cr_assert_eq(elf_load(&k, &m, elf, "vmlinux", false, &e), -ENOMEM);
}
