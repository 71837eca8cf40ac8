/*
 * The address map of an aarch64 machine.
 *
 *   0x0800_0000  GIC distributor; behind it for GICv2 the CPU interface and a v2m frame, for
 *                GICv3 the ITS
 *   0x0900_0000  PL011, PL031, PL061, a page each
 *   0x0A00_0000  our other MMIO devices (virtio-mmio), 16 MiB
 *   0x0C00_0000  GICv3 redistributors, 128 KiB for each of at most 512 vCPUs
 *   0x1000_0000  32-bit window for PCI BARs
 *   0x3F00_0000  ECAM of bus 0 (1 MiB)
 *   0x4000_0000  RAM in one piece, then the 64-bit window for PCI BARs up to the end of the guest's
 *                addresses
 *
 * Lines (GSIs) are shared peripheral interrupts, counted from 0. Messages take the numbers above
 * them; those are only names that KVM and we give to routes, the guest sees its own LPIs.
 */
#include <errno.h>
#include <linux/audit.h>
#include <sys/ioctl.h>

#include "arch/aarch64/arm64.h"

enum {
	LINE_SERIAL = 1,
	LINE_RTC = 2,
	LINE_GPIO = 3,
	LINE_FREE = 8,
	IPA_BITS_DEFAULT = 40,
	PAGE = 0x1000,
};

const char arch_name[] = "aarch64";
const uint32_t arch_audit = AUDIT_ARCH_AARCH64;

const struct arch_cap arch_caps[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "the interrupt controller" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest memory" },
	{ KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL", "the interrupt controller" },
	{ KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG", "the registers of a vCPU" },
	{ KVM_CAP_ARM_PSCI_0_2, "KVM_CAP_ARM_PSCI_0_2", "starting further vCPUs and turning the machine off" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "starting further vCPUs" },
	{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING", "message signalled interrupts" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts from device threads" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "kicks to device threads" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "pausing a vCPU" },
	{ 0, NULL, NULL },
};

const struct device_node arch_platform[] = {
	{ .kind = "pci-root", .base = ARM64_ECAM, .len = MIB, .gsi = UINT32_MAX },
	{ .kind = "rtc-pl031", .base = ARM64_RTC, .len = PAGE, .gsi = LINE_RTC },
	{ .kind = "gpio-pl061", .base = ARM64_GPIO, .len = PAGE, .gsi = LINE_GPIO },
	{ .kind = "serial-pl011", .base = ARM64_SERIAL, .len = PAGE, .gsi = LINE_SERIAL },
	{ .kind = NULL },
};

/*
 * Up to 40 bits KVM translates guest addresses in three steps; a longer walk would cost every TLB
 * miss.
 */
unsigned arch_phys_bits(int dev_fd)
{
	int r = ioctl(dev_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);

	return r > 0 ? MIN((unsigned)r, (unsigned)IPA_BITS_DEFAULT) : IPA_BITS_DEFAULT;
}

unsigned long arch_vm_type(int dev_fd)
{
	int r = ioctl(dev_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);

	/* A kernel that cannot be told the size only takes 0, which means 40 bits. */
	return r > 0 ? KVM_VM_TYPE_ARM_IPA_SIZE(arch_phys_bits(dev_fd)) : 0;
}

int arch_layout_fill(struct arch_layout *ret, uint64_t ram, unsigned phys_bits, struct error *err)
{
	uint64_t top = UINT64_C(1) << phys_bits, window;

	if (!is_aligned(ram, PAGE_4K))
		return error_set(err, EINVAL, "--memory size=%llu: must be a multiple of 4K",
			(unsigned long long)ram);
	if (ram > top - ARM64_RAM)
		return error_set(err, EINVAL,
			"--memory size=%lluG: more than a machine can have here (%u address bits); give at most %lluG",
			(unsigned long long)(ram / GIB), phys_bits, (unsigned long long)((top - ARM64_RAM) / GIB));
	window = align_up(ARM64_RAM + ram, GIB);
	/* Below 4 GiB a guest would take it for one more window of 32-bit BARs. */
	window = MAX(window, 4 * GIB);
	*ret = (struct arch_layout){
		.ram = { { ARM64_RAM, ram } },
		.nram = 1,
		.ecam = { ARM64_ECAM, MIB },
		.pci_mmio32 = { ARM64_PCI_MMIO32, ARM64_ECAM - ARM64_PCI_MMIO32 },
		.resources = { ARM64_DEVICES, ARM64_DEVICES_END, LINE_FREE, ARM64_LINES },
		.first_msi_gsi = ARM64_LINES,
		.max_gsi = 4096,
		.has_pio = false,
	};
	if (window < top)
		ret->pci_mmio64 = (struct arch_range){ window, top - window };
	return 0;
}
