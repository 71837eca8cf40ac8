/* What the files of this folder share; nobody else includes it. */
#ifndef ARCH_AARCH64_ARM64_H
#define ARCH_AARCH64_ARM64_H

#include <linux/kvm.h>

#include "vmm/arch.h"

/* Fixed places, all below RAM; layout.c says why each is where it is. */
enum arm64_map {
	ARM64_GICD = 0x08000000,
	ARM64_GICC = 0x08010000,
	ARM64_V2M = 0x08020000,
	ARM64_ITS = 0x08080000,
	ARM64_SERIAL = 0x09000000,
	ARM64_RTC = 0x09010000,
	ARM64_GPIO = 0x09020000,
	ARM64_DEVICES = 0x0a000000,
	ARM64_DEVICES_END = 0x0b000000,
	ARM64_GICR = 0x0c000000,
	ARM64_PCI_MMIO32 = 0x10000000,
	ARM64_ECAM = 0x3f000000,
	ARM64_RAM = 0x40000000,
};

/*
 * Sizes of the GIC's register frames (GIC architecture specification, IHI 0069, §12.1; KVM's for
 * GICv2).
 */
enum {
	ARM64_GICD_SIZE = 0x10000,
	ARM64_GICD_V2_SIZE = 0x1000,
	ARM64_GICC_SIZE = 0x2000,
	ARM64_GICR_SIZE = 0x20000, /* of one vCPU */
	ARM64_ITS_SIZE = 0x20000,
	ARM64_V2M_SIZE = 0x1000,
};

/* Interrupt ids below 32 are private to a CPU; a line (GSI) n is the shared one 32 + n. */
enum {
	ARM64_PRIVATE_IRQS = 32,
	ARM64_LINES = 96,
	/* Of a GICv2 the lines behind them are for messages, which name them by id. */
	ARM64_V2M_LINES = 128,
	ARM64_V2M_INTID = ARM64_PRIVATE_IRQS + ARM64_LINES,
	ARM64_GICV2_LINES = ARM64_LINES + ARM64_V2M_LINES,
};

struct arch_vm {
	int gic_fd, its_fd;       /* -1: none */
	unsigned gic_version;     /* 2, 3 */
	unsigned vcpus;
};

static inline uint32_t arm64_lines(const struct arch_vm *vm)
{
	return vm->gic_version == 2 ? ARM64_GICV2_LINES : ARM64_LINES;
}

struct arch_cpu_model {
	struct kvm_vcpu_init init; /* of vCPU 0; the others begin powered off */
	bool finalize_sve;
	struct arch_cpu_config config;
};

struct arch_boot {
	uint64_t entry, fdt;
};

/*
 * One register of a vCPU by its id (api.rst 4.68); `value` has the size that the id says. 0 or
 * -errno.
 */
int arm64_set_reg(int vcpu_fd, uint64_t id, const void *value);
int arm64_get_reg(int vcpu_fd, uint64_t id, void *value);
/* pc, x0 and a processor state with everything masked: what a kernel's entry asks for. */
int arm64_enter(int vcpu_fd, uint64_t pc, uint64_t x0);

/* The affinity that KVM gives to vCPU `index`: sixteen to a cluster, as GICv3's SGIs reach them. */
static inline uint64_t arm64_mpidr(unsigned index)
{
	return (index & 0xf) | (uint64_t)(index >> 4 & 0xff) << 8 | (uint64_t)(index >> 12 & 0xff) << 16;
}

/* Attribute `attr` of group `group` of one of KVM's devices. 0 or -errno. */
int arm64_get_attr(int fd, uint32_t group, uint64_t attr, void *ret);
int arm64_set_attr(int fd, uint32_t group, uint64_t attr, const void *value);

/*
 * ICC_ registers of GICv3's CPU interface (IHI 0069 §12.2); the encoding is that of an MRS (op0 op1
 * CRn CRm op2).
 */
#define ARM64_ICC_REG(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
enum arm64_icc {
	ARM64_ICC_PMR = ARM64_ICC_REG(3, 0, 4, 6, 0),
	ARM64_ICC_BPR0 = ARM64_ICC_REG(3, 0, 12, 8, 3),
	ARM64_ICC_AP0R0 = ARM64_ICC_REG(3, 0, 12, 8, 4),
	ARM64_ICC_AP1R0 = ARM64_ICC_REG(3, 0, 12, 9, 0),
	ARM64_ICC_BPR1 = ARM64_ICC_REG(3, 0, 12, 12, 3),
	ARM64_ICC_CTLR = ARM64_ICC_REG(3, 0, 12, 12, 4),
	ARM64_ICC_SRE = ARM64_ICC_REG(3, 0, 12, 12, 5),
	ARM64_ICC_IGRPEN0 = ARM64_ICC_REG(3, 0, 12, 12, 6),
	ARM64_ICC_IGRPEN1 = ARM64_ICC_REG(3, 0, 12, 12, 7),
	ARM64_AP_REGS = 4, /* of each group; how many are there depends on the number of priorities */
};

/* chip_reset.c: the registers of a GIC as after power-on; vCPUs parked. */
int arm64_gic_reset(const struct arch_vm *vm);
/* All vCPUs are there: the GIC can be made ready. */
int arm64_gic_ready(const struct arch_vm *vm, struct error *err) NEEDS_CHECK;

#endif
