/*
 * Kernels made up for tests: an ELF with or without a PVH note, a bzImage around any payload, and a
 * machine of some RAM to load them into. No test depends on a kernel that someone built.
 */
#ifndef TESTS_KERNEL_IMAGES_H
#define TESTS_KERNEL_IMAGES_H

#include <elf.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "firmware/bootparams.h"
#include "firmware/loader.h"

enum {
	IMG_KERNEL_GPA = 0x1000000,
	IMG_TEXT_OFFSET = 0x1000,
	IMG_TEXT_SIZE = 0x1000,
	IMG_DATA_OFFSET = 0x2000,
	IMG_DATA_SIZE = 0x800,
	IMG_DATA_MEMSZ = 0x3000,
	IMG_NOTE_OFFSET = 0x400,
	IMG_NOTE_SIZE = 52,
	IMG_ELF_SIZE = 0x2800,
	IMG_PVH_ENTRY = IMG_KERNEL_GPA + 0x40,
	IMG_ENTRY = IMG_KERNEL_GPA + 0x80,
	IMG_SETUP_SIZE = 5 * 512,
	IMG_PAYLOAD = 0x400, /* from the start of the protected-mode part */
};

static inline struct fw_machine img_machine(uint64_t size)
{
	struct fw_machine m = { .nram = 1, .cpus = 1, .cpus_max = 1, .cmdline = "console=ttyS0" };

	m.ram[0].size = size;
	m.ram[0].host = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m.ram[0].host == MAP_FAILED)
		abort();
	return m;
}

static inline Elf64_Ehdr *img_ehdr(uint8_t *elf)
{
	return (Elf64_Ehdr *)elf;
}

static inline Elf64_Phdr *img_phdr(uint8_t *elf, unsigned i)
{
	return (Elf64_Phdr *)(elf + sizeof(Elf64_Ehdr)) + i;
}

static inline Elf64_Nhdr *img_note(uint8_t *elf)
{
	return (Elf64_Nhdr *)(elf + IMG_NOTE_OFFSET + 20);
}

/* Text at 16 MiB, data and .bss behind it, and two notes: a foreign one, then PHYS32_ENTRY. */
static inline void img_elf(uint8_t elf[static IMG_ELF_SIZE], bool pvh)
{
	memset(elf, 0, IMG_ELF_SIZE);
	*img_ehdr(elf) = (Elf64_Ehdr){
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = IMG_ENTRY,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = pvh ? 3 : 2,
	};
	*img_phdr(elf, 0) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = IMG_TEXT_OFFSET,
		.p_vaddr = UINT64_C(0xffffffff81000000),
		.p_paddr = IMG_KERNEL_GPA,
		.p_filesz = IMG_TEXT_SIZE,
		.p_memsz = IMG_TEXT_SIZE,
	};
	*img_phdr(elf, 1) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = IMG_DATA_OFFSET,
		.p_paddr = IMG_KERNEL_GPA + IMG_TEXT_SIZE,
		.p_filesz = IMG_DATA_SIZE,
		.p_memsz = IMG_DATA_MEMSZ,
	};
	*img_phdr(elf, 2) = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = IMG_NOTE_OFFSET,
		.p_filesz = IMG_NOTE_SIZE,
		.p_align = 4,
	};
	/* 12 + 4 + 2 (padded to 4), then 12 + 4 + 8. */
	*(Elf64_Nhdr *)(elf + IMG_NOTE_OFFSET) =
		(Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 2, .n_type = 18 };
	memcpy(elf + IMG_NOTE_OFFSET + 12, "GNU", 4);
	*img_note(elf) = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 8, .n_type = 18 };
	memcpy(elf + IMG_NOTE_OFFSET + 32, "Xen", 4);
	put_le64(elf + IMG_NOTE_OFFSET + 36, IMG_PVH_ENTRY);
	memset(elf + IMG_TEXT_OFFSET, 0x90, IMG_TEXT_SIZE);
	memset(elf + IMG_DATA_OFFSET, 0xda, IMG_DATA_SIZE);
}

/*
 * A bzImage of protocol 2.15 around `payload`, behind which the size of what is in it is put when
 * `unpacked` is not 0. The caller frees it.
 */
static inline uint8_t *img_bzimage(
	size_t *ret_len, const void *payload, size_t len, uint32_t unpacked)
{
	size_t tail = unpacked ? 4 : 0;
	size_t body = align_up(IMG_PAYLOAD + len + tail, 16);
	uint8_t *f = calloc(1, IMG_SETUP_SIZE + body);

	if (!f)
		abort();
	f[BP_SETUP_SECTS_8] = 4;
	put_le32(f + BP_SYSSIZE, (uint32_t)(body / 16));
	put_le16(f + BP_BOOT_FLAG_16, BP_BOOT_FLAG_VALUE);
	f[0x200] = 0xeb;
	f[BP_JUMP_LEN_8] = 0x6a;
	put_le32(f + BP_MAGIC, BP_MAGIC_VALUE);
	put_le16(f + BP_VERSION_16, 0x020f);
	f[BP_LOADFLAGS_8] = 1;
	put_le32(f + BP_INITRD_MAX, 0x7fffffff);
	put_le32(f + BP_KERNEL_ALIGNMENT, 2 * MIB);
	f[BP_RELOCATABLE_8] = 1;
	put_le16(f + BP_XLOADFLAGS_16, BP_XLF_KERNEL_64);
	put_le32(f + BP_CMDLINE_SIZE, 2047);
	put_le32(f + BP_PAYLOAD_OFFSET, IMG_PAYLOAD);
	put_le32(f + BP_PAYLOAD_LENGTH, (uint32_t)(len + tail));
	put_le64(f + BP_PREF_ADDRESS_64, IMG_KERNEL_GPA);
	put_le32(f + BP_INIT_SIZE, 8 * MIB);
	memcpy(f + IMG_SETUP_SIZE + IMG_PAYLOAD, payload, len);
	if (tail)
		put_le32(f + IMG_SETUP_SIZE + IMG_PAYLOAD + len, unpacked);
	*ret_len = IMG_SETUP_SIZE + body;
	return f;
}

#endif
