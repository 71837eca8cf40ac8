/*
 * What becomes of a machine on hosts whose KVM has this interrupt controller or that one, or none. KVM is played by an
 * ioctl() of this program's own, so that it runs anywhere.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "arch/aarch64/arm64.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"

/* The host that is played: bits of the device types that it can make. */
enum { HAS_V2 = 1 << KVM_DEV_TYPE_ARM_VGIC_V2, HAS_V3 = 1 << KVM_DEV_TYPE_ARM_VGIC_V3, HAS_ITS = 1 << KVM_DEV_TYPE_ARM_VGIC_ITS };
static unsigned host;
static int refuse_place;

int ioctl(int fd, unsigned long request, ...)
{
	struct kvm_create_device *d;
	va_list args;

	(void)fd;
	va_start(args, request);
	d = va_arg(args, struct kvm_create_device *);
	va_end(args);
	switch (request) {
	case KVM_CREATE_DEVICE:
		if (!(host >> d->type & 1)) {
			errno = ENODEV;
			return -1;
		}
		d->fd = (uint32_t)open("/dev/null", O_RDWR);
		return 0;
	case KVM_SET_DEVICE_ATTR:
		errno = refuse_place;
		return refuse_place ? -1 : 0;
	default:
		return 0;
	}
}

/* A machine of so many vCPUs on a host that has these controllers. */
static int make(unsigned has, unsigned vcpus, struct error *err)
{
	struct arch_cpu_config cpus = { .boot = vcpus, .max = vcpus };
	struct kvm kvm = { .vm_fd = 0 };
	int r;

	host = has;
	*err = (struct error){ "" };
	r = arch_vm_init(&kvm, &cpus, err);
	arch_vm_free(kvm.arch);
	return r;
}

Test(arm64_gic, a_host_without_any_is_a_sentence)
{
	struct error err;

	cr_expect_eq(make(0, 1, &err), -ENODEV);
	cr_expect(strstr(err.text, "no interrupt controller (GIC)"), "%s", err.text);
	cr_expect(strstr(err.text, "use another host"), "%s", err.text);
}

Test(arm64_gic, the_older_one_is_taken_where_there_is_no_newer)
{
	struct error err;

	cr_expect_eq(make(HAS_V2, 8, &err), 0, "%s", err.text);
	cr_expect_eq(make(HAS_V2, 9, &err), -EINVAL);
	cr_expect(strstr(err.text, "--cpus boot=9"), "%s", err.text);
	cr_expect(strstr(err.text, "at most 8 vCPUs"), "%s", err.text);
}

Test(arm64_gic, the_newer_one_has_room_for_its_redistributors_and_no_more)
{
	struct error err;

	cr_expect_eq(make(HAS_V2 | HAS_V3 | HAS_ITS, 512, &err), 0, "%s", err.text);
	cr_expect_eq(make(HAS_V2 | HAS_V3 | HAS_ITS, 513, &err), -EINVAL);
	cr_expect(strstr(err.text, "at most 512 vCPUs"), "%s", err.text);
}

Test(arm64_gic, a_newer_one_without_messages_is_named)
{
	struct error err;

	cr_expect_eq(make(HAS_V2 | HAS_V3, 1, &err), -ENODEV);
	cr_expect(strstr(err.text, "ITS"), "%s", err.text);
}

Test(arm64_gic, what_kvm_says_of_a_place_is_passed_on)
{
	struct error err;

	refuse_place = E2BIG;
	cr_expect_eq(make(HAS_V3 | HAS_ITS, 1, &err), -E2BIG);
	cr_expect(strstr(err.text, strerror(E2BIG)), "%s", err.text);
	refuse_place = 0;
}

static const struct arch_vm v2 = { .gic_version = 2 }, v3 = { .gic_version = 3 };

Test(arm64_gic, a_message_to_the_newer_one_says_who_sends_it)
{
	const struct irq_msi_route route = { .gsi = 100, .addr = 0x0000000108090040, .data = 7, .devid = 0x18 };
	struct kvm_irq_routing_entry e;

	cr_assert_eq(arch_msi_route(&e, &v3, &route), 0);
	cr_expect_eq(e.gsi, 100);
	cr_expect_eq(e.type, KVM_IRQ_ROUTING_MSI);
	cr_expect_eq(e.flags, KVM_MSI_VALID_DEVID);
	cr_expect_eq(e.u.msi.address_lo, 0x08090040);
	cr_expect_eq(e.u.msi.address_hi, 1);
	cr_expect_eq(e.u.msi.data, 7);
	cr_expect_eq(e.u.msi.devid, 0x18);
}

Test(arm64_gic, a_message_to_the_older_one_is_a_line)
{
	struct irq_msi_route route = { .gsi = 100, .addr = ARM64_V2M + 0x40, .data = ARM64_V2M_INTID };
	struct kvm_irq_routing_entry e;

	cr_assert_eq(arch_msi_route(&e, &v2, &route), 0);
	cr_expect_eq(e.gsi, 100);
	cr_expect_eq(e.type, KVM_IRQ_ROUTING_IRQCHIP);
	cr_expect_eq(e.u.irqchip.irqchip, 0);
	cr_expect_eq(e.u.irqchip.pin, ARM64_LINES, "behind those of the devices");
	route.data = ARM64_V2M_INTID + ARM64_V2M_LINES - 1;
	cr_assert_eq(arch_msi_route(&e, &v2, &route), 0);
	cr_expect_lt(e.u.irqchip.pin, ARM64_GICV2_LINES);
}

/* Lines of other devices, private interrupts, and addresses that are no frame's. */
Test(arm64_gic, a_guest_cannot_send_itself_other_lines_by_message)
{
	static const struct irq_msi_route bad[] = {
		{ .addr = ARM64_V2M + 0x40, .data = ARM64_V2M_INTID - 1 },
		{ .addr = ARM64_V2M + 0x40, .data = ARM64_V2M_INTID + ARM64_V2M_LINES },
		{ .addr = ARM64_V2M + 0x40, .data = 0 },
		{ .addr = ARM64_V2M + 0x40, .data = UINT32_MAX },
		{ .addr = ARM64_V2M + 0x44, .data = ARM64_V2M_INTID },
		{ .addr = UINT64_C(0x100000000) + ARM64_V2M + 0x40, .data = ARM64_V2M_INTID },
		{ .addr = 0, .data = ARM64_V2M_INTID },
	};
	struct kvm_irq_routing_entry e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_eq(arch_msi_route(&e, &v2, &bad[i]), -EINVAL, "%zu", i);
}
