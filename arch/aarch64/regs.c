/*
 * A vCPU at power-on. KVM_ARM_VCPU_INIT, given again, puts all registers back to their reset
 * values, the timers too. The first vCPU then gets what the arm64 boot protocol asks for
 * (Documentation/arch/arm64/booting.rst §4): EL1, everything masked, MMU off, x0 the address of the
 * device tree, x1 to x3 zero. The others are off until the guest calls PSCI's CPU_ON.
 */
#include <errno.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"

#define CORE_REG(name) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(name))
enum { PMU_INTID = 23 }; /* where the device tree says (firmware/fdt.h) */

#define PSTATE_EL1H UINT64_C(0x5)
#define PSTATE_DAIF UINT64_C(0x3c0)

int arm64_set_reg(int vcpu_fd, uint64_t id, const void *value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)value };

	return kvm_ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg);
}

int arm64_get_reg(int vcpu_fd, uint64_t id, void *value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)value };

	return kvm_ioctl(vcpu_fd, KVM_GET_ONE_REG, &reg);
}

int arm64_enter(int vcpu_fd, uint64_t pc, uint64_t x0)
{
	const struct {
		uint64_t id, value;
	} regs[] = {
		{ CORE_REG(regs.pstate), PSTATE_EL1H | PSTATE_DAIF },
		{ CORE_REG(regs.pc), pc },
		{ CORE_REG(regs.regs[0]), x0 },
		{ CORE_REG(regs.regs[1]), 0 },
		{ CORE_REG(regs.regs[2]), 0 },
		{ CORE_REG(regs.regs[3]), 0 },
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(regs) && r == 0; i++)
		r = arm64_set_reg(vcpu_fd, regs[i].id, &regs[i].value);
	return r;
}

/*
 * Gives the performance counters their interrupt and makes them ready, once for a vCPU's life: a
 * second time KVM says that it is busy (Documentation/virt/kvm/devices/vcpu.rst §1.1, §1.2). The
 * GIC must be ready before, so this is not for arch_vcpu_init().
 */
static int start_counters(int vcpu_fd)
{
	int intid = PMU_INTID;
	struct kvm_device_attr irq = {
		.group = KVM_ARM_VCPU_PMU_V3_CTRL,
		.attr = KVM_ARM_VCPU_PMU_V3_IRQ,
		.addr = (uintptr_t)&intid,
	};
	struct kvm_device_attr init = { .group = KVM_ARM_VCPU_PMU_V3_CTRL, .attr = KVM_ARM_VCPU_PMU_V3_INIT };
	int r = kvm_ioctl(vcpu_fd, KVM_SET_DEVICE_ATTR, &irq);

	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_DEVICE_ATTR, &init);
	return r == -EBUSY ? 0 : r;
}

int arch_vcpu_reset(int vcpu_fd, unsigned index, const struct arch_cpu_model *model, const struct arch_boot *boot,
	struct error *err)
{
	struct kvm_vcpu_init init = model->init;
	int r;

	if (index)
		init.features[0] |= UINT32_C(1) << KVM_ARM_VCPU_POWER_OFF;
	r = kvm_ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init);
	if (r == 0 && model->config.pmu)
		r = start_counters(vcpu_fd);
	if (r == 0 && index == 0)
		r = arm64_enter(vcpu_fd, boot->entry, boot->fdt);
	return r < 0 ? error_set(err, -r, "KVM refuses the registers of vCPU %u: %s", index, strerror(-r)) : 0;
}
