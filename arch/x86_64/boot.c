/*
 * From the machine's own structures to the description that firmware/ works on, and back to where
 * the vCPU starts.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "firmware/acpi.h"
#include "vmm/image.h"

static void describe(struct fw_machine *m, const struct arch_boot_config *c)
{
	const struct arch_layout *l = c->layout;

	*m = (struct fw_machine){
		.cpus = c->cpus->boot,
		.cpus_max = c->cpus->max,
		.pci = {
			.ecam_base = l->ecam.base,
			.buses = 1,
			.mmio32_base = l->pci_mmio32.base,
			.mmio32_size = l->pci_mmio32.size,
			.mmio64_base = l->pci_mmio64.base,
			.mmio64_size = l->pci_mmio64.size,
			.pio_base = l->pci_pio.base,
			.pio_size = l->pci_pio.size,
		},
		.cmdline = c->cmdline,
	};
	for (unsigned i = 0; i < mem_region_count(c->mem) && m->nram < FW_RAM_MAX; i++) {
		const struct mem_region *r = mem_region(c->mem, i);

		if (r->kind == MEM_RAM)
			m->ram[m->nram++] = (struct fw_ram){ r->gpa, r->size, r->host };
	}
	for (const struct device *d = c->devices; d; d = d->next)
		for (size_t i = 0; i < DEVICE_NODES_MAX && d->nodes[i].kind && m->nnodes < FW_NODES_MAX; i++)
			m->nodes[m->nnodes++] = (struct fw_node){ d->nodes[i].kind, d->nodes[i].pio,
				d->nodes[i].base, d->nodes[i].len, d->nodes[i].gsi };
}

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
	struct image kernel = { 0 }, initramfs = { 0 };
	uint32_t *ids = cpu_ids(c);
	int r = boot && m && ids ? 0 : error_set(err, ENOMEM, "out of memory for the boot tables");

	if (r == 0) {
		describe(m, c);
		m->cpu_ids = ids;
		r = image_read(&kernel, "kernel", c->kernel_path, c->kernel_fd, err);
	}
	if (r == 0 && c->initramfs_fd >= 0)
		r = image_read(&initramfs, "initramfs", c->initramfs_path, c->initramfs_fd, err);
	if (r == 0)
		r = acpi_build(m, FW_ACPI_BASE, FW_ACPI_SIZE, &options.rsdp, err);
	if (r == 0) {
		const struct fw_image k = { c->kernel_path, kernel.data, kernel.len };
		const struct fw_image i = { c->initramfs_path, initramfs.data, initramfs.len };

		put_reset_vector(m);
		r = loader_load(&boot->entry, m, &k, initramfs.data ? &i : NULL, &options, err);
	}
	image_drop(&kernel);
	image_drop(&initramfs);
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
