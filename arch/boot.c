/*
 * The half of loading a guest that no CPU changes; see boot.h. The kernel's bytes are read into
 * private memory at each boot and dropped when they are in the guest's.
 */
#include "arch/boot.h"

void arch_boot_describe(struct fw_machine *m, const struct arch_boot_config *c)
{
	const struct arch_layout *l = c->layout;

	*m = (struct fw_machine){ .cpus = c->cpus->boot, .cpus_max = c->cpus->max, .cmdline = c->cmdline };
	m->pci = (struct fw_pci){
		.ecam_base = l->ecam.base,
		.buses = 1,
		.mmio32_base = l->pci_mmio32.base,
		.mmio32_size = l->pci_mmio32.size,
		.mmio64_base = l->pci_mmio64.base,
		.mmio64_size = l->pci_mmio64.size,
		.pio_base = l->pci_pio.base,
		.pio_size = l->pci_pio.size,
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

int arch_boot_read(struct arch_boot_files *f, const struct arch_boot_config *c, struct error *err)
{
	int r;

	*f = (struct arch_boot_files){ .has_initramfs = c->initramfs_fd >= 0 };
	r = image_read(&f->images[0], "kernel", c->kernel_path, c->kernel_fd, c->kernel_size, err);
	if (r == 0 && f->has_initramfs)
		r = image_read(&f->images[1], "initramfs", c->initramfs_path, c->initramfs_fd, c->initramfs_size,
			err);
	f->kernel = (struct fw_image){ c->kernel_path, f->images[0].data, f->images[0].len };
	f->initramfs = (struct fw_image){ c->initramfs_path, f->images[1].data, f->images[1].len };
	return r;
}

void arch_boot_drop(struct arch_boot_files *f)
{
	image_drop(&f->images[0]);
	image_drop(&f->images[1]);
}
