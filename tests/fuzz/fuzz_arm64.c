/*
 * Any bytes as the --kernel of an aarch64 machine: as they are, and with the magic numbers of an Image or a zboot put
 * right so that the loader goes on. Loaded or refused with a sentence; what is loaded lies in RAM and apart.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "firmware/arm64.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { RAM = 32 * MIB, RAM_GPA = 0x40000000, INPUT_MAX = 64 * KIB, HEADER = 64 };

static const uint64_t mpidr[] = { 0 };

static void load(const uint8_t *file, size_t len, uint8_t *ram)
{
	const struct fdt_options fdt = {
		.gic = FDT_GIC_V3,
		.dist = { 0x8000000, 0x10000 },
		.cpu = { 0x80a0000, 0x20000 },
		.mpidr = mpidr,
	};
	struct fw_machine m = { .nram = 1, .cpus = 1, .cmdline = "quiet" };
	struct fw_image kernel = { "k", file, len }, initramfs = { "i", file, len };
	struct fw_entry64 entry = { 0 };
	struct error e = { "" };
	int r;

	m.ram[0] = (struct fw_ram){ .gpa = RAM_GPA, .size = RAM, .host = ram };
	r = arm64_load(&entry, &m, &kernel, &initramfs, &fdt, &e);
	if (r) {
		if (!e.text[0])
			abort();
		return;
	}
	if (!range_inside(entry.kernel_gpa, entry.kernel_len, RAM_GPA, RAM) ||
		!range_inside(entry.x0, FDT_ROOM, RAM_GPA, RAM) ||
		!range_inside(entry.initramfs_gpa, entry.initramfs_len, RAM_GPA, RAM) ||
		ranges_overlap(entry.kernel_gpa, entry.kernel_len, entry.x0, FDT_ROOM) ||
		ranges_overlap(entry.kernel_gpa, entry.kernel_len, entry.initramfs_gpa, entry.initramfs_len) ||
		ranges_overlap(entry.x0, FDT_ROOM, entry.initramfs_gpa, entry.initramfs_len) ||
		entry.pc != entry.kernel_gpa)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t *ram;
	uint8_t *file;

	log_level = LOG_ERROR;
	if (!ram)
		ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (len > INPUT_MAX)
		return 0;
	load(data, len, ram);
	if (len < HEADER)
		return 0;
	file = malloc(len);
	memcpy(file, data, len);
	memcpy(file + 56, "ARM\x64", 4);
	load(file, len, ram);
	memcpy(file, data, len);
	memcpy(file, "MZ\0\0zimg", 8);
	file[59] = 0;
	load(file, len, ram);
	free(file);
	return 0;
}
