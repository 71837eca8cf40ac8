/*
 * The address map of an x86_64 machine.
 *
 *   0x0000_0000  RAM, up to 3 GiB of it
 *   0xC000_0000  32-bit window for PCI BARs
 *   0xE800_0000  ECAM of bus 0 (1 MiB)
 *   0xFE00_0000  our fixed MMIO devices (virtio-mmio), 12 MiB
 *   0xFEC0_0000  IOAPIC, 0xFEE0_0000 local APICs
 *   0xFFFB_C000  identity map page and TSS of KVM on Intel (api.rst 4.36, 4.37)
 *   0x1_0000_0000 the rest of RAM, then the 64-bit window for PCI BARs up to the end of physical
 *   addresses
 *
 * Lines: 4 and 8 are where a PC has them; 9 is the GED's; virtio-mmio devices get 10 to 23 of the
 * IOAPIC.
 */
#include <cpuid.h>
#include <errno.h>
#include <linux/audit.h>

#include "arch/x86_64/x86.h"

enum {
	GSI_SERIAL = 4,
	GSI_RTC = 8,
	GSI_GED = 9,
	GSI_FREE = 10,
	GSI_IOAPIC_END = 24,
	PHYS_BITS_LEAF = 0x80000008,
	PHYS_BITS_DEFAULT = 36,
	WINDOW64_BITS_MAX = 46, /* some guests keep page-table bits above for themselves */
};

const char arch_name[] = "x86_64";
const uint32_t arch_audit = AUDIT_ARCH_X86_64;

const struct arch_cap arch_caps[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "the interrupt controllers" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest memory" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "real mode on Intel processors" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "the guest's CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "starting further vCPUs" },
	{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING", "message signalled interrupts" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts from device threads" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "kicks to device threads" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "pausing a vCPU" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "the registers of a vCPU" },
	{ 0, NULL, NULL },
};

const struct device_node arch_platform[] = {
	{ .kind = "pci-root", .base = X86_ECAM, .len = MIB, .gsi = UINT32_MAX },
	{ .kind = "ged", .pio = true, .base = 0x600, .len = 8, .gsi = GSI_GED },
	{ .kind = "rtc-cmos", .pio = true, .base = 0x70, .len = 2, .gsi = GSI_RTC },
	{ .kind = "i8042", .pio = true, .base = 0x60, .len = 5, .gsi = UINT32_MAX },
	{ .kind = "pvpanic", .pio = true, .base = 0x505, .len = 1, .gsi = UINT32_MAX },
	{ .kind = "serial-16550", .pio = true, .base = 0x3f8, .len = 8, .gsi = GSI_SERIAL },
	{ .kind = NULL },
};

unsigned arch_phys_bits(int dev_fd)
{
	unsigned a, b, c, d;

	(void)dev_fd;
	return __get_cpuid(PHYS_BITS_LEAF, &a, &b, &c, &d) ? a & 0xff : PHYS_BITS_DEFAULT;
}

unsigned long arch_vm_type(int dev_fd)
{
	(void)dev_fd;
	return 0; /* KVM_X86_DEFAULT_VM */
}

int arch_layout_fill(struct arch_layout *ret, uint64_t ram, unsigned phys_bits, struct error *err)
{
	uint64_t low = MIN(ram, X86_LOW_RAM_END), high = ram - low;
	uint64_t top = UINT64_C(1) << MIN(phys_bits, WINDOW64_BITS_MAX);
	uint64_t window = align_up(4 * GIB + high, GIB);

	if (!is_aligned(ram, PAGE_4K))
		return error_set(err, EINVAL, "--memory size=%llu: must be a multiple of 4K",
			(unsigned long long)ram);
	if (top < 4 * GIB)
		return error_set(err, EINVAL, "--cpus max_phys_bits=%u: a PC's devices lie below 4 GiB; give at least 32",
			phys_bits);
	if (high > top - 4 * GIB)
		return error_set(err, EINVAL, "--memory size=%lluG: more than this processor can address (%u bits); give less",
			(unsigned long long)(ram / GIB), phys_bits);
	*ret = (struct arch_layout){
		.ram = { { 0, low }, { 4 * GIB, high } },
		.nram = high ? 2 : 1,
		.ecam = { X86_ECAM, MIB },
		.pci_mmio32 = { X86_PCI_MMIO32, X86_ECAM - X86_PCI_MMIO32 },
		.pci_pio = { 0x1000, 0xf000 },
		.resources = { X86_DEVICES, X86_DEVICES_END, GSI_FREE, GSI_IOAPIC_END },
		.first_msi_gsi = GSI_IOAPIC_END,
		.max_gsi = 4096,
		.has_pio = true,
	};
	if (window < top)
		ret->pci_mmio64 = (struct arch_range){ window, top - window };
	return 0;
}
