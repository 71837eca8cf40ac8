/*
 * Kernel, initramfs and ACPI tables into memory, and where the first vCPU starts. Main thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/boot.h"
#include "arch/x86_64/x86.h"
#include "firmware/acpi.h"

/* Freed by the caller. */
static uint32_t *cpu_ids(const struct arch_boot_config *c)
{
	uint32_t *ids = malloc(c->cpus->max * sizeof(*ids));

	for (unsigned i = 0; ids && i < c->cpus->max; i++)
		ids[i] = arch_cpu_id(c->model, i);
	return ids;
}

/*
 * Linux on hardware-reduced ACPI without EFI restarts by a jump to the BIOS in real mode
 * (F000:FFF0), before it tries ACPI's reset register. There is no BIOS; in its place stands what
 * asks the keyboard controller for a reset.
 */
static void put_reset_vector(const struct fw_machine *m)
{
	static const uint8_t code[] = {
		0xb0, 0xfe, /* mov al, 0xfe */
		0xe6, 0x64, /* out 0x64, al */
		0xf4,       /* hlt */
		0xeb, 0xfd, /* jmp to the hlt */
	};
	void *at = fw_ram_at(m, FW_RESET_VECTOR, FW_RESET_VECTOR_SIZE);

	_Static_assert(sizeof(code) <= FW_RESET_VECTOR_SIZE, "the reset vector has 16 bytes");
	if (at)
		memcpy(at, code, sizeof(code));
}

int arch_boot_load(struct arch_boot **ret, const struct arch_boot_config *c, struct error *err)
{
	struct loader_options options = { .keep_compressed = c->keep_compressed, .fresh_ram = c->fresh_ram };
	struct arch_boot *boot = calloc(1, sizeof(*boot));
	struct fw_machine *m = malloc(sizeof(*m));
	struct arch_boot_files files = { .has_initramfs = false };
	uint32_t *ids = cpu_ids(c);
	int r = boot && m && ids ? 0 : error_set(err, ENOMEM, "out of memory for the boot tables");

	if (r == 0) {
		arch_boot_describe(m, c);
		m->cpu_ids = ids;
		r = arch_boot_read(&files, c, err);
	}
	if (r == 0)
		r = acpi_build(m, FW_ACPI_BASE, FW_ACPI_SIZE, &options.rsdp, err);
	if (r == 0) {
		put_reset_vector(m);
		r = loader_load(&boot->entry, m, &files.kernel, files.has_initramfs ? &files.initramfs : NULL, &options,
			err);
	}
	arch_boot_drop(&files);
	free(ids);
	free(m);
	if (r < 0) {
		free(boot);
		return r;
	}
	boot->first = c->fresh_ram;
	*ret = boot;
	return 0;
}

void arch_boot_free(struct arch_boot *boot)
{
	free(boot);
}
