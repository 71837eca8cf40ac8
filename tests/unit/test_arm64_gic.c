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
