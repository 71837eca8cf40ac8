/* Any bytes as --kernel: loaded or refused with a sentence, never more. */
#include <stdlib.h>
#include <sys/mman.h>

#include "firmware/loader.h"

enum { RAM = 64 * MIB };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t *ram;
	struct fw_machine m = { .nram = 1, .cmdline = "console=ttyS0" };
	struct loader_options opts = { .fresh_ram = len & 1 };
	struct fw_image kernel = { .path = "k", .data = data, .len = len };
	struct fw_image initramfs = { .path = "i", .data = data, .len = len };
	struct fw_entry entry = { 0 };
	struct error e = { "" };
	int r;

	if (!ram)
		ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	m.ram[0] = (struct fw_ram){ .size = RAM, .host = ram };
	r = loader_load(&entry, &m, &kernel, &initramfs, &opts, &e);
	if (r && !e.text[0])
		abort();
	if (!r && !fw_ram_at(&m, entry.ip, 1))
		abort();
	if (!r && ranges_overlap(entry.initramfs_gpa, entry.initramfs_len, entry.kernel_gpa,
			  entry.kernel_len))
		abort();
	return 0;
}
