/*
 * The interrupt controller that KVM keeps: a GICv3 with an ITS for messages, or, on hosts whose
 * hardware offers that alone, a GICv2 with a v2m frame of ours.
 *
 * KVM's devices are fds that live as long as the machine
 * (Documentation/virt/kvm/devices/arm-vgic*.rst). They get their places before the vCPUs are made
 * and are made ready after the last one.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

enum { V2M_SETSPI = 0x40, GICV2_VCPUS_MAX = 8, GICR_VCPUS_MAX = (ARM64_PCI_MMIO32 - ARM64_GICR) / ARM64_GICR_SIZE };

/* KVM_IRQFD wants a GIC that is ready, and that wants all vCPUs. */
const bool arch_vcpus_before_lines = true;

static int device_create(struct kvm *kvm, uint32_t type)
{
	struct kvm_create_device d = { .type = type };
	int r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_DEVICE, &d);

	return r < 0 ? r : (int)d.fd;
}

int arm64_get_attr(int fd, uint32_t group, uint64_t attr, void *ret)
{
	struct kvm_device_attr a = { .group = group, .attr = attr, .addr = (uintptr_t)ret };

	return kvm_ioctl(fd, KVM_GET_DEVICE_ATTR, &a);
}

int arm64_set_attr(int fd, uint32_t group, uint64_t attr, const void *value)
{
	struct kvm_device_attr a = { .group = group, .attr = attr, .addr = (uintptr_t)value };

	return kvm_ioctl(fd, KVM_SET_DEVICE_ATTR, &a);
}

static int place(int fd, uint64_t type, uint64_t addr)
{
	return arm64_set_attr(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, type, &addr);
}

static int make_v3(struct arch_vm *vm, struct kvm *kvm)
{
	int r;

	vm->gic_fd = device_create(kvm, KVM_DEV_TYPE_ARM_VGIC_V3);
	if (vm->gic_fd < 0)
		return vm->gic_fd;
	vm->gic_version = 3;
	r = place(vm->gic_fd, KVM_VGIC_V3_ADDR_TYPE_DIST, ARM64_GICD);
	if (r == 0)
		r = place(vm->gic_fd, KVM_VGIC_V3_ADDR_TYPE_REDIST, ARM64_GICR);
	if (r < 0)
		return r;
	vm->its_fd = device_create(kvm, KVM_DEV_TYPE_ARM_VGIC_ITS);
	return vm->its_fd < 0 ? vm->its_fd : place(vm->its_fd, KVM_VGIC_ITS_ADDR_TYPE, ARM64_ITS);
}

static int make_v2(struct arch_vm *vm, struct kvm *kvm)
{
	int r;

	vm->gic_fd = device_create(kvm, KVM_DEV_TYPE_ARM_VGIC_V2);
	if (vm->gic_fd < 0)
		return vm->gic_fd;
	vm->gic_version = 2;
	r = place(vm->gic_fd, KVM_VGIC_V2_ADDR_TYPE_DIST, ARM64_GICD);
	return r < 0 ? r : place(vm->gic_fd, KVM_VGIC_V2_ADDR_TYPE_CPU, ARM64_GICC);
}

static int check_count(const struct arch_vm *vm, const struct arch_cpu_config *cpus, struct error *err)
{
	unsigned max = vm->gic_version == 2 ? GICV2_VCPUS_MAX : GICR_VCPUS_MAX;

	if (cpus->boot > max)
		return error_set(err, EINVAL,
			"--cpus boot=%u: the interrupt controller of this host (GICv%u) serves at most %u vCPUs", cpus->boot,
			vm->gic_version, max);
	return 0;
}

int arch_vm_init(struct kvm *kvm, const struct arch_cpu_config *cpus, struct error *err)
{
	struct kvm_enable_cap nisv = { .cap = KVM_CAP_ARM_NISV_TO_USER };
	struct arch_vm *vm = malloc(sizeof(*vm));
	uint32_t irqs;
	int r;

	if (!vm)
		return error_set(err, ENOMEM, "out of memory for the interrupt controller");
	*vm = (struct arch_vm){ .gic_fd = -1, .its_fd = -1, .vcpus = cpus->boot };
	kvm->arch = vm;
	r = make_v3(vm, kvm);
	if (r == -ENODEV && vm->gic_fd < 0)
		r = make_v2(vm, kvm);
	if (r == -ENODEV && vm->gic_fd >= 0)
		return error_set(err, ENODEV,
			"KVM on this host has a GICv3 without an ITS, so no messages for devices; use a newer host kernel");
	if (r == -ENODEV)
		return error_set(err, ENODEV,
			"KVM on this host has no interrupt controller (GIC) for a guest; use another host");
	if (r < 0)
		return error_set(err, -r, "KVM cannot make the interrupt controller: %s", strerror(-r));
	irqs = ARM64_PRIVATE_IRQS + arm64_lines(vm);
	r = arm64_set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &irqs);
	if (r < 0)
		return error_set(err, -r, "KVM refuses %u interrupts: %s", irqs, strerror(-r));
	/* Older kernels end KVM_RUN with an error instead, which is as good but says less. */
	r = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &nisv);
	if (r < 0)
		log_debug("KVM tells nothing of loads and stores that it cannot decode");
	return check_count(vm, cpus, err);
}

int arm64_gic_ready(const struct arch_vm *vm, struct error *err)
{
	int r = arm64_set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);

	if (r == 0 && vm->its_fd >= 0)
		r = arm64_set_attr(vm->its_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
	return r < 0 ? error_set(err, -r, "KVM cannot make the interrupt controller ready: %s", strerror(-r)) : 0;
}

void arch_vm_free(struct arch_vm *vm)
{
	if (!vm)
		return;
	if (vm->its_fd >= 0)
		close(vm->its_fd);
	if (vm->gic_fd >= 0)
		close(vm->gic_fd);
	free(vm);
}

/*
 * A GICv2 has no messages. A v2m frame beside it (Arm Server Base System Architecture, appendix E)
 * turns the write of an interrupt's number into that interrupt. Here nobody has to decode such a
 * write: devices ring an eventfd, whose route leads to the line itself.
 */
static int v2m_route(struct kvm_irq_routing_entry *ret, const struct irq_msi_route *route)
{
	if (route->addr != ARM64_V2M + V2M_SETSPI || route->data < ARM64_V2M_INTID ||
		route->data >= ARM64_V2M_INTID + ARM64_V2M_LINES)
		return -EINVAL;
	*ret = (struct kvm_irq_routing_entry){
		.gsi = route->gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { 0, route->data - ARM64_PRIVATE_IRQS },
	};
	return 0;
}

int arch_msi_route(struct kvm_irq_routing_entry *ret, const struct arch_vm *vm, const struct irq_msi_route *route)
{
	if (vm->gic_version == 2)
		return v2m_route(ret, route);
	*ret = (struct kvm_irq_routing_entry){
		.gsi = route->gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.flags = KVM_MSI_VALID_DEVID,
		.u.msi = { .address_lo = (uint32_t)route->addr,
			.address_hi = (uint32_t)(route->addr >> 32),
			.data = route->data,
			.devid = route->devid },
	};
	return 0;
}

unsigned arch_wired_routes(struct kvm_irq_routing_entry *ret)
{
	_Static_assert((int)ARM64_LINES <= (int)ARCH_WIRED_ROUTES_MAX, "room that the caller has");
	for (unsigned i = 0; i < ARM64_LINES; i++)
		ret[i] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { 0, i },
		};
	return ARM64_LINES;
}

int arch_vm_reset(struct kvm *kvm, struct error *err)
{
	int r = arm64_gic_reset(kvm->arch);

	return r < 0 ? error_set(err, -r, "KVM cannot reset the interrupt controller: %s", strerror(-r)) : 0;
}
