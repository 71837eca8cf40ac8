/*
 * Where kernel, initramfs and command line go: an ELF of any shape, with an initramfs of any length
 * and a command line of any length, into RAM of one or two ranges of any size. What is loaded must
 * lie in RAM, apart from each other; what does not fit is a sentence. The input: sizes, then the
 * file.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "firmware/loader.h"
#include "tests/fuzz/program.h"

enum { RAM = 8 * MIB, INPUT_MAX = 32 * KIB, SIZES = 12, CMDLINE = 2200 };
#define HIGH_RAM UINT64_C(0x100000000)

static void judge(const struct fw_machine *m, const struct fw_entry *e, size_t initramfs)
{
	MUST(fw_ram_at(m, e->ip, 1));
	MUST(fw_ram_at(m, e->arg, 1));
	MUST(fw_ram_at(m, e->kernel_gpa, e->kernel_len));
	MUST(e->initramfs_len == initramfs);
	if (!initramfs)
		return;
	MUST(fw_ram_at(m, e->initramfs_gpa, initramfs));
	MUST(!ranges_overlap(e->initramfs_gpa, initramfs, e->kernel_gpa, e->kernel_len));
}

static void load(const uint8_t *sizes, const uint8_t *file, size_t len, uint8_t *ram)
{
	static uint8_t archive[2 * MIB];
	static char cmdline[CMDLINE + 1];
	struct fw_machine m = { .nram = 1 + (sizes[0] & 1), .cmdline = cmdline, .cpus = 1, .cpus_max = 1 };
	struct loader_options opts = { .fresh_ram = sizes[0] & 2, .keep_compressed = sizes[0] & 4 };
	const struct fw_image kernel = { .path = "k", .data = file, .len = len };
	const struct fw_image initramfs = { .path = "i", .data = archive, .len = get_le32(sizes + 4) % sizeof(archive) };
	struct fw_entry entry = { 0 }, untouched = { 0 };
	struct error e = { "" };
	size_t text = get_le16(sizes + 8) % CMDLINE;
	int r;

	memset(cmdline, 'x', text);
	cmdline[text] = 0;
	m.ram[0] = (struct fw_ram){ .size = (get_le16(sizes + 2) % (RAM / PAGE_4K) + 1) * PAGE_4K, .host = ram };
	m.ram[1] = (struct fw_ram){ .gpa = HIGH_RAM, .size = RAM, .host = ram + RAM };
	r = loader_load(&entry, &m, &kernel, initramfs.len ? &initramfs : NULL, &opts, &e);
	if (r == 0) {
		judge(&m, &entry, initramfs.len);
		return;
	}
	MUST(e.text[0]);
	MUST(!memcmp(&entry, &untouched, sizeof(entry)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t *ram;
	uint8_t *file;

	log_level = LOG_ERROR;
	if (!ram)
		ram = mmap(NULL, 2 * (size_t)RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(ram != MAP_FAILED);
	if (len <= SIZES || len > INPUT_MAX)
		return 0;
	file = malloc(len - SIZES);
	MUST(file);
	memcpy(file, data + SIZES, len - SIZES);
	load(data, file, len - SIZES, ram);
	free(file);
	return 0;
}
