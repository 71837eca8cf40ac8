/* What the files of this folder share; nobody else includes it. */
#ifndef ARCH_X86_64_X86_H
#define ARCH_X86_64_X86_H

#include <linux/kvm.h>

#include "firmware/loader.h"
#include "vmm/arch.h"

/*
 * Fixed places of the PC architecture and ours, all below 4 GiB; layout.c says why each is where it
 * is.
 */
enum x86_map {
	X86_IOAPIC = 0xfec00000,
	X86_LAPIC = 0xfee00000,
};

/*
 * Lines of each PIC that can be level-triggered: all but timer, keyboard, cascade, clock and FPU.
 */
enum { X86_ELCR_MASTER = 0xf8, X86_ELCR_SLAVE = 0xde };
#define X86_LOW_RAM_END UINT64_C(0xc0000000)
#define X86_PCI_MMIO32 UINT64_C(0xc0000000)
#define X86_ECAM UINT64_C(0xe8000000)
#define X86_DEVICES UINT64_C(0xfe000000)
#define X86_DEVICES_END UINT64_C(0xfec00000)
#define X86_TSS UINT64_C(0xfffbd000)
#define X86_IDENTITY_MAP UINT64_C(0xfffbc000)

struct x86_msr {
	uint32_t index;
	uint64_t reset;   /* value at power-on */
	const char *name;
};
/* MSRs that a guest's state consists of, in the order in which they are restored; index 0 ends. */
extern const struct x86_msr x86_msrs[];

struct arch_cpu_model {
	struct kvm_cpuid2 *cpuid; /* of vCPU 0; the others differ in their ids */
	uint64_t msrs[2];         /* bit i: KVM on this host has x86_msrs[i] */
	unsigned smt_bits, core_bits, die_bits; /* widths in the APIC id */
	struct arch_cpu_config config;
};

struct arch_boot {
	struct fw_entry entry;
	bool first; /* the vCPUs are as KVM made them */
};

enum { X86_MSRS_MAX = 128 };

/* Ask KVM which of the table it has. 0 or -errno. */
int x86_find_msrs(struct arch_cpu_model *model, int kvm_dev_fd);
/*
 * Set those MSRs of the table that are in `have` (a set of bits as in the model) from `values`,
 * NULL: their values at power-on. One that KVM refuses all the same is logged at debug level. 0 or
 * -errno.
 */
int x86_set_msrs(int vcpu_fd, const uint64_t *have, const uint64_t *values);
/* Read them all; ret_have: those that KVM gave. */
int x86_get_msrs(int vcpu_fd, uint64_t *ret_have, uint64_t *values);
static inline bool x86_has_msr(const uint64_t *have, unsigned i)
{
	return have[i / 64] >> i % 64 & 1;
}
static inline void x86_add_msr(uint64_t *have, unsigned i)
{
	have[i / 64] |= UINT64_C(1) << i % 64;
}

#endif
