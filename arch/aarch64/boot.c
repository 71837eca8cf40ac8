/*
 * Kernel, initramfs and device tree into memory, and where the first vCPU starts. Main thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "arch/aarch64/arm64.h"
#include "arch/boot.h"
#include "firmware/arm64.h"

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
		.topology = { c->cpus->threads, c->cpus->cores, c->cpus->dies, c->cpus->packages },
		.pmu = c->cpus->pmu };
	o->dist = (struct fdt_range){ ARM64_GICD, v3 ? ARM64_GICD_SIZE : ARM64_GICD_V2_SIZE };
	o->cpu = v3 ? (struct fdt_range){ ARM64_GICR, (uint64_t)c->cpus->boot * ARM64_GICR_SIZE } :
		      (struct fdt_range){ ARM64_GICC, ARM64_GICC_SIZE };
	if (v3)
		o->its = (struct fdt_range){ ARM64_ITS, ARM64_ITS_SIZE };
	else
		o->v2m = (struct fdt_v2m){ { ARM64_V2M, ARM64_V2M_SIZE }, ARM64_V2M_INTID, ARM64_V2M_LINES };
	seed(o);
}

static int load(struct arch_boot *boot, const struct fw_machine *m, const struct arch_boot_config *c,
	struct error *err)
{
	uint64_t *mpidr = calloc(c->cpus->boot, sizeof(*mpidr));
	struct arch_boot_files files = { .has_initramfs = false };
	struct fdt_options fdt;
	struct fw_entry64 entry;
	int r = mpidr ? arch_boot_read(&files, c, err) : error_set(err, ENOMEM, "out of memory for the boot tables");

	if (r == 0) {
		describe_cpu_side(&fdt, mpidr, c);
		r = arm64_load(&entry, m, &files.kernel, files.has_initramfs ? &files.initramfs : NULL, &fdt, err);
	}
	if (r == 0)
		*boot = (struct arch_boot){ .entry = entry.pc, .fdt = entry.x0 };
	arch_boot_drop(&files);
	free(mpidr);
	return r;
}

int arch_boot_load(struct arch_boot **ret, const struct arch_boot_config *c, struct error *err)
{
	struct arch_boot *boot = calloc(1, sizeof(*boot));
	struct fw_machine *m = malloc(sizeof(*m));
	int r = boot && m ? 0 : error_set(err, ENOMEM, "out of memory for the boot tables");

	if (r == 0) {
		arch_boot_describe(m, c);
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
