/*
 * The GIC as after power-on. KVM has no call for it (only the ITS has one), so its registers are
 * written one by one from tables, through the interface that is there for migration: a write there
 * means "this is the state", not "do this" (arm-vgic-v3.rst).
 *
 * Order: LPIs off in the redistributors before the ITS forgets its tables; the distributor last.
 * vCPUs are parked, as KVM locks all of them for each access.
 */
#include <errno.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"

enum { GICD_IIDR = 0x8, SGI_FRAME = 0x10000, SHARED_WORDS = ARM64_LINES / 32, V2_WORDS = ARM64_GICV2_LINES / 32 };

/* `count` 32-bit registers from `offset` on, all set to `value`. */
struct gic_row {
	uint32_t offset, count, value;
};

/* IHI 0069 §12.9; shared interrupts only, the private ones are in the redistributors. */
static const struct gic_row dist_v3[] = {
	{ 0x0000, 1, 0 },                     /* GICD_CTLR */
	{ 0x0084, SHARED_WORDS, ~0u },        /* IGROUPR: group 1, as KVM begins */
	{ 0x0184, SHARED_WORDS, ~0u },        /* ICENABLER */
	{ 0x0204, SHARED_WORDS, 0 },          /* ISPENDR: here the pending state itself */
	{ 0x0384, SHARED_WORDS, ~0u },        /* ICACTIVER */
	{ 0x0420, ARM64_LINES / 4, 0 },       /* IPRIORITYR */
	{ 0x0c08, ARM64_LINES / 16, 0 },      /* ICFGR: level */
	{ 0x6100, ARM64_LINES * 2, 0 },       /* IROUTER, two words each */
};

/* IHI 0069 §12.11 */
static const struct gic_row redist[] = {
	{ 0x0000, 1, 0 },                     /* GICR_CTLR: LPIs off, before their tables below */
	{ 0x0070, 2, 0 },                     /* PROPBASER */
	{ 0x0078, 2, 0 },                     /* PENDBASER */
	{ SGI_FRAME + 0x080, 1, ~0u },        /* IGROUPR0 */
	{ SGI_FRAME + 0x180, 1, ~0u },        /* ICENABLER0 */
	{ SGI_FRAME + 0x200, 1, 0 },          /* ISPENDR0 */
	{ SGI_FRAME + 0x380, 1, ~0u },        /* ICACTIVER0 */
	{ SGI_FRAME + 0x400, 8, 0 },          /* IPRIORITYR */
	{ SGI_FRAME + 0xc04, 1, 0 },          /* ICFGR1 */
};

/* IHI 0048 §4.3; for CPU 0 with all, for the others the banked private part is what counts. */
static const struct gic_row dist_v2[] = {
	{ 0x000, 1, 0 },                                   /* GICD_CTLR */
	{ 0x080, 1 + V2_WORDS, 0 },                    /* IGROUPR: group 0, as KVM begins */
	{ 0x180, 1 + V2_WORDS, ~0u },                  /* ICENABLER */
	{ 0x280, 1 + V2_WORDS, ~0u },                  /* ICPENDR */
	{ 0x380, 1 + V2_WORDS, ~0u },                  /* ICACTIVER */
	{ 0x400, 8 + ARM64_GICV2_LINES / 4, 0 },                 /* IPRIORITYR */
	{ 0x820, ARM64_GICV2_LINES / 4, 0 },                     /* ITARGETSR */
	{ 0xc08, ARM64_GICV2_LINES / 16, 0 },                    /* ICFGR */
};

static const struct gic_row cpu_v2[] = {
	{ 0x00, 1, 0 }, /* GICC_CTLR */
	{ 0x04, 1, 0 }, /* PMR */
	{ 0x08, 1, 0 }, /* BPR */
	{ 0xd0, 1, 0 }, /* APR0 */
};

#define ICC_CTLR_WRITABLE UINT64_C(0x3) /* CBPR, EOImode; the rest says what the host is and must stay */

static int set_rows(const struct arch_vm *vm, uint32_t group, uint64_t cpu, const struct gic_row *rows, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < rows[i].count && r == 0; k++) {
			uint32_t value = rows[i].value;

			r = arm64_set_attr(vm->gic_fd, group, cpu << 32 | (rows[i].offset + 4 * k), &value);
		}
	return r;
}

static int set_icc(const struct arch_vm *vm, uint64_t mpidr, uint32_t reg, uint64_t value)
{
	return arm64_set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, mpidr << 32 | reg, &value);
}

static int reset_icc(const struct arch_vm *vm, uint64_t mpidr)
{
	static const uint32_t zeroed[] = { ARM64_ICC_IGRPEN0, ARM64_ICC_IGRPEN1, ARM64_ICC_PMR,
		ARM64_ICC_BPR0, ARM64_ICC_BPR1, ARM64_ICC_AP0R0, ARM64_ICC_AP1R0 };
	uint64_t ctlr = 0;
	int r = arm64_get_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, mpidr << 32 | ARM64_ICC_CTLR, &ctlr);

	if (r == 0)
		r = set_icc(vm, mpidr, ARM64_ICC_CTLR, ctlr & ~ICC_CTLR_WRITABLE);
	for (size_t i = 0; i < ARRAY_SIZE(zeroed) && r == 0; i++)
		r = set_icc(vm, mpidr, zeroed[i], 0);
	/*
	 * Which of the further ones are there depends on the host's number of priorities; the
	 * absent refuse.
	 */
	for (uint32_t i = 1; i < ARM64_AP_REGS && r == 0; i++)
		if (set_icc(vm, mpidr, ARM64_ICC_AP0R0 + i, 0) < 0 || set_icc(vm, mpidr, ARM64_ICC_AP1R0 + i, 0) < 0)
			break;
	return r;
}

static int reset_v3(const struct arch_vm *vm)
{
	int r = 0;

	for (unsigned i = 0; i < vm->vcpus && r == 0; i++) {
		r = set_rows(vm, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, arm64_mpidr(i), redist, ARRAY_SIZE(redist));
		if (r == 0)
			r = reset_icc(vm, arm64_mpidr(i));
	}
	if (r == 0)
		r = arm64_set_attr(vm->its_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_CTRL_RESET, NULL);
	return r == 0 ? set_rows(vm, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, dist_v3, ARRAY_SIZE(dist_v3)) : r;
}

/*
 * KVM lets us write GICv2's groups only after a write of GICD_IIDR, which may just repeat it
 * (arm-vgic.rst).
 */
static int unlock_groups(const struct arch_vm *vm)
{
	uint32_t iidr;
	int r = arm64_get_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IIDR, &iidr);

	return r < 0 ? r : arm64_set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_IIDR, &iidr);
}

static int reset_v2(const struct arch_vm *vm)
{
	int r = unlock_groups(vm);

	for (unsigned i = 0; i < vm->vcpus && r == 0; i++) {
		r = set_rows(vm, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, i, dist_v2, ARRAY_SIZE(dist_v2));
		if (r == 0)
			r = set_rows(vm, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, i, cpu_v2, ARRAY_SIZE(cpu_v2));
	}
	return r;
}

int arm64_gic_reset(const struct arch_vm *vm)
{
	return vm->gic_version == 3 ? reset_v3(vm) : reset_v2(vm);
}
