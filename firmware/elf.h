/*
 * ELF64 kernels: what a file says about itself, checked, and then its segments in guest RAM.
 *
 * Parsing looks at the file only and writes nothing, so that a bzImage can try what it unpacked.
 */
#ifndef FIRMWARE_ELF_H
#define FIRMWARE_ELF_H

#include "firmware/loader.h"

enum { ELF_SEGMENTS_MAX = 64, ELF_PHDRS_MAX = 128 };

/* A PT_LOAD that takes memory; offset + filesz lies inside the file, filesz <= memsz. */
struct elf_segment {
	uint64_t offset, filesz, gpa, memsz;
};

struct elf_kernel {
	uint64_t entry; /* physical; of the PVH note when `pvh` */
	bool pvh;
	uint64_t start, end; /* of all segments; at least FW_KERNEL_MIN, at most 4 GiB */
	unsigned nsegments;
	struct elf_segment segments[ELF_SEGMENTS_MAX]; /* do not overlap each other */
};

/* Does the file begin like ELF of any class? */
bool elf_match(const uint8_t *file, size_t len);

/* Check and describe the file. -ENOEXEC: not a kernel of ours; -EBADMSG: damaged or hostile. */
int elf_parse(struct elf_kernel *ret, const uint8_t *file, size_t len, const char *path,
	struct error *e) NEEDS_CHECK;

/* Copy the segments into RAM; `fresh_ram`: what the file does not hold is zero already. -ENOMEM. */
int elf_load(const struct elf_kernel *k, const struct fw_machine *m, const uint8_t *file,
	const char *path, bool fresh_ram, struct error *e) NEEDS_CHECK;

#endif
