/*
 * Any setup header and payload, with the magic numbers put right so that the loader goes on: both
 * ways in, unpacked and compressed. RAM is small, so that few inputs spend their time in memset.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "firmware/bootparams.h"
#include "firmware/loader.h"

enum { RAM = 32 * MIB, INPUT_MAX = 64 * KIB };

static void load(uint8_t *file, size_t len, uint8_t *ram, bool keep)
{
	struct fw_machine m = { .nram = 1, .cmdline = "quiet" };
	struct loader_options opts = { .fresh_ram = true, .keep_compressed = keep };
	struct fw_image kernel = { .path = "k", .data = file, .len = len };
	struct fw_entry entry = { 0 };
	struct error e = { "" };
	int r;

	m.ram[0] = (struct fw_ram){ .size = RAM, .host = ram };
	r = loader_load(&entry, &m, &kernel, NULL, &opts, &e);
	if (r && !e.text[0])
		abort();
	if (!r && !fw_ram_at(&m, entry.ip, 1))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t *ram;
	uint8_t *file;

	log_level = LOG_ERROR;
	if (!ram)
		ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (len < BP_HEADER_MAX || len > INPUT_MAX)
		return 0;
	file = malloc(len);
	memcpy(file, data, len);
	put_le16(file + BP_BOOT_FLAG_16, BP_BOOT_FLAG_VALUE);
	put_le32(file + BP_MAGIC, BP_MAGIC_VALUE);
	load(file, len, ram, false);
	load(file, len, ram, true);
	free(file);
	return 0;
}
