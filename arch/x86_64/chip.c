/* Interrupt controllers and timer that KVM keeps: PIC, IOAPIC, local APICs, PIT. */
#include <errno.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

enum { PIC_PINS = 16, IOAPIC_PINS = 24, PIC_PINS_EACH = 8, X86_APIC_IDS = 255 };

/*
 * Mode 0 would count from 65536 down and interrupt; KVM's own power-on state is a mode that does
 * not exist.
 */
enum { PIT_MODE_NONE = 0xff, PIT_SPEAKER = 2 };

/*
 * CPUID alone does not hide AMD's oldest counters; this takes their registers away (api.rst 8.35).
 * KVMs without it have only the former.
 */
static void hide_counters(struct kvm *kvm)
{
	struct kvm_enable_cap disable = { .cap = KVM_CAP_PMU_CAPABILITY, .args = { KVM_PMU_CAP_DISABLE } };

	int can = kvm_check(kvm, KVM_CAP_PMU_CAPABILITY);

	if (can > 0 && can & KVM_PMU_CAP_DISABLE && kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &disable) < 0)
		log_debug("KVM does not take the performance counters away");
}

int arch_vm_init(struct kvm *kvm, const struct arch_cpu_config *cpus, struct error *err)
{
	uint64_t identity = X86_IDENTITY_MAP;
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_enable_cap wide_ids = {
		.cap = KVM_CAP_X2APIC_API,
		.args = { KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK },
	};
	struct kvm_enable_cap triple_fault = { .cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = { true } };
	int r;

	/*
	 * Ids past 254 do not fit into the 8 bits of an APIC register or a message; KVM then takes
	 * and gives 32 (api.rst 7.4).
	 */
	if (cpus->max >= X86_APIC_IDS && kvm_check(kvm, KVM_CAP_X2APIC_API) > 0) {
		r = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &wide_ids);
		if (r < 0)
			return error_set(err, -r, "KVM refuses APIC ids past 254: %s", strerror(-r));
	}
	if (!cpus->pmu)
		hide_counters(kvm);
	/*
	 * A triple fault that the kick of a vCPU overtook stays pending in KVM, which would then
	 * report it as the first act of the next life (arch_vcpu_reset()) or forget it (a saved
	 * state). Linux before 6.1 does not show it: there a reset may rarely come twice.
	 */
	r = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &triple_fault);
	if (r < 0 && r != -EINVAL)
		return error_set(err, -r, "KVM refuses to show triple faults: %s", strerror(-r));
	/*
	 * Both only matter on Intel without unrestricted guest mode, and must be set before the
	 * first vCPU.
	 */
	r = kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)X86_TSS);
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0);
	if (r < 0)
		return error_set(err, -r, "KVM cannot make the interrupt controllers: %s", strerror(-r));
	r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit);
	if (r < 0)
		return error_set(err, -r, "KVM cannot make the interval timer: %s", strerror(-r));
	return 0;
}

void arch_vm_free(struct arch_vm *vm)
{
	(void)vm; /* KVM keeps it all */
}

int arch_msi_route(struct kvm_irq_routing_entry *ret, const struct arch_vm *vm, const struct irq_msi_route *route)
{
	(void)vm; /* a message says it all */
	*ret = (struct kvm_irq_routing_entry){
		.gsi = route->gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = (uint32_t)route->addr,
			.address_hi = (uint32_t)(route->addr >> 32),
			.data = route->data },
	};
	return 0;
}

const bool arch_vcpus_before_lines = false;

unsigned arch_wired_routes(struct kvm_irq_routing_entry *ret)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PIC_PINS; i++)
		ret[n++] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { i < PIC_PINS_EACH ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				i % PIC_PINS_EACH },
		};
	/* The timer's line 0 is pin 2 of the IOAPIC on every PC. */
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		ret[n++] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { KVM_IRQCHIP_IOAPIC, i == 0 ? 2 : i },
		};
	return n;
}

static int reset_ioapic(struct kvm *kvm)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	chip.chip.ioapic.base_address = X86_IOAPIC;
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		chip.chip.ioapic.redirtbl[i].fields.mask = 1;
	return kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip);
}

int arch_vm_reset(struct kvm *kvm, struct error *err)
{
	struct kvm_pit_state2 pit = { 0 };
	int r = reset_ioapic(kvm);

	for (unsigned i = KVM_IRQCHIP_PIC_MASTER; i <= KVM_IRQCHIP_PIC_SLAVE && r == 0; i++) {
		/*
		 * Masked, as firmware leaves it: an unmasked one that nobody has set up yet would
		 * deliver vector 0.
		 */
		struct kvm_irqchip chip = { .chip_id = i, .chip.pic.imr = 0xff };

		chip.chip.pic.elcr_mask = i == KVM_IRQCHIP_PIC_MASTER ? X86_ELCR_MASTER : X86_ELCR_SLAVE;
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(pit.channels); i++) {
		pit.channels[i].mode = PIT_MODE_NONE;
		pit.channels[i].gate = i != PIT_SPEAKER;
	}
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &pit);
	return r < 0 ? error_set(err, -r, "KVM cannot reset the interrupt controllers: %s", strerror(-r)) : 0;
}
