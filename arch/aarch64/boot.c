/*
 * From the machine's own structures to the description that firmware/ works on, and back to where
 * the vCPU starts.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "arch/aarch64/arm64.h"
#include "firmware/arm64.h"
#include "vmm/image.h"

static void describe(struct fw_machine *m, const struct arch_boot_config *c)
{
	const struct arch_layout *l = c->layout;

	*m = (struct fw_machine){
		.cpus = c->cpus->boot,
		.cpus_max = c->cpus->max,
		.cmdline = c->cmdline,
	};
	/* Without messages PCI devices are deaf: there is no bus then. */
	if (arch_vm_has_msi(c->vm))
		m->pci = (struct fw_pci){
			.ecam_base = l->ecam.base,
			.buses = 1,
			.mmio32_base = l->pci_mmio32.base,
			.mmio32_size = l->pci_mmio32.size,
			.mmio64_base = l->pci_mmio64.base,
			.mmio64_size = l->pci_mmio64.size,
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

/*
 * Fresh for each boot: a guest has no entropy of its own so early. A host that has none either
 * gives none.
 */
static void seed(struct fdt_options *o)
{
	ssize_t n = getrandom(o->rng_seed, sizeof(o->rng_seed), GRND_NONBLOCK);

	o->rng_seed_len = n > 0 ? (size_t)n : 0;
	if (getrandom(&o->kaslr_seed, sizeof(o->kaslr_seed), GRND_NONBLOCK) != sizeof(o->kaslr_seed))
		o->kaslr_seed = 0;
}

static void describe_cpu_side(struct fdt_options *o, uint64_t *mpidr, const struct arch_boot_config *c)
{
	bool v3 = c->vm->gic_version == 3;

	for (uint32_t i = 0; i < c->cpus->boot; i++)
		mpidr[i] = arm64_mpidr(i);
	*o = (struct fdt_options){ .gic = v3 ? FDT_GIC_V3 : FDT_GIC_V2, .mpidr = mpidr,
		.pmu = c->cpus->pmu };
	o->dist = (struct fdt_range){ ARM64_GICD, v3 ? ARM64_GICD_SIZE : ARM64_GICD_V2_SIZE };
	o->cpu = v3 ? (struct fdt_range){ ARM64_GICR, (uint64_t)c->cpus->boot * ARM64_GICR_SIZE } :
		      (struct fdt_range){ ARM64_GICC, ARM64_GICC_SIZE };
	if (v3)
		o->its = (struct fdt_range){ ARM64_ITS, ARM64_ITS_SIZE };
	seed(o);
}

static int load(struct arch_boot *boot, const struct fw_machine *m, const struct arch_boot_config *c,
	struct error *err)
{
	uint64_t *mpidr = calloc(c->cpus->boot, sizeof(*mpidr));
	struct image kernel = { 0 }, initramfs = { 0 };
	struct fdt_options fdt;
	struct fw_entry64 entry;
	int r = mpidr ? 0 : error_set(err, ENOMEM, "out of memory for the boot tables");

	if (r == 0)
		r = image_read(&kernel, "kernel", c->kernel_path, c->kernel_fd, err);
	if (r == 0 && c->initramfs_fd >= 0)
		r = image_read(&initramfs, "initramfs", c->initramfs_path, c->initramfs_fd, err);
	if (r == 0) {
		const struct fw_image k = { c->kernel_path, kernel.data, kernel.len };
		const struct fw_image i = { c->initramfs_path, initramfs.data, initramfs.len };

		describe_cpu_side(&fdt, mpidr, c);
		r = arm64_load(&entry, m, &k, initramfs.data ? &i : NULL, &fdt, err);
	}
	if (r == 0)
		*boot = (struct arch_boot){ .entry = entry.pc, .fdt = entry.x0 };
	image_drop(&kernel);
	image_drop(&initramfs);
	free(mpidr);
	return r;
}

int arch_boot_load(struct arch_boot **ret, const struct arch_boot_config *c, struct error *err)
{
	struct arch_boot *boot = calloc(1, sizeof(*boot));
	struct fw_machine *m = malloc(sizeof(*m));
	int r = boot && m ? 0 : error_set(err, ENOMEM, "out of memory for the boot tables");

	if (r == 0) {
		describe(m, c);
		r = load(boot, m, c, err);
	}
	free(m);
	if (r < 0) {
		free(boot);
		return r;
	}
	*ret = boot;
	return 0;
}

void arch_boot_free(struct arch_boot *boot)
{
	free(boot);
}
