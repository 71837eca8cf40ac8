/* See Documentation/virt/kvm/api.rst of Linux, whose names are used here. */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/log.h"

const struct syscall_row kvm_wiring_syscalls[] = {
	{ SYSCALL(ioctl, "connect an interrupt of a device to the guest", SYSCALL_ARG_EQ(1, KVM_IRQFD)) },
	SYSCALL_END,
};

const struct syscall_row kvm_vcpu_syscalls[] = {
	{ SYSCALL(ioctl, "the message of an interrupt that the guest programs", SYSCALL_ARG_EQ(1, KVM_SET_GSI_ROUTING)) },
	SYSCALL_END,
};

const struct syscall_row kvm_main_syscalls[] = {
	{ SYSCALL(ioctl, "kicks that reach a device's eventfd; they move with its BAR",
		SYSCALL_ARG_EQ(1, KVM_IOEVENTFD)) },
	SYSCALL_END,
};

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && (errno == EINTR || errno == EAGAIN));
	return r < 0 ? -errno : r;
}

static int open_sentence(int e, struct error *err)
{
	if (e == ENOENT || e == ENODEV || e == ENXIO)
		return error_set(err, e, "/dev/kvm: %s; this host offers no KVM: turn on virtualisation in the firmware "
					 "and load kvm_intel or kvm_amd, or, inside a virtual machine, enable nesting",
			strerror(e));
	if (e == EACCES || e == EPERM)
		return error_set(err, e, "/dev/kvm: %s; add yourself to the group that owns it (usermod -aG kvm $USER) "
					 "and log in again",
			strerror(e));
	return error_set(err, e, "/dev/kvm: %s", strerror(e));
}

int kvm_check(const struct kvm *kvm, int cap)
{
	int r = ioctl(kvm->vm_fd >= 0 ? kvm->vm_fd : kvm->dev_fd, KVM_CHECK_EXTENSION, cap);

	return MAX(r, 0);
}

static const struct arch_cap *missing_cap(const struct kvm *kvm)
{
	const struct arch_cap *c = arch_caps;

	while (c[1].name && kvm_check(kvm, c->cap) > 0)
		c++;
	return c;
}

int kvm_open(struct kvm *kvm, struct error *err)
{
	int r;

	*kvm = (struct kvm){ .dev_fd = -1, .vm_fd = -1 };
	kvm->dev_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->dev_fd < 0)
		return open_sentence(errno, err);
	r = ioctl(kvm->dev_fd, KVM_GET_API_VERSION, 0);
	if (r != KVM_API_VERSION) {
		kvm_close(kvm);
		return error_set(err, ENOTSUP, "/dev/kvm speaks version %d of its interface, %d is needed; update the kernel",
			r, KVM_API_VERSION);
	}
	/*
	 * A host has the first only with the hardware for it; the second is younger than all others
	 * (Linux 4.13).
	 */
	if (kvm_check(kvm, KVM_CAP_IRQCHIP) <= 0 || kvm_check(kvm, KVM_CAP_IMMEDIATE_EXIT) <= 0) {
		const struct arch_cap *c = missing_cap(kvm);

		kvm_close(kvm);
		return error_set(err, ENOTSUP, "KVM lacks %s, needed for %s; update the host's kernel", c->name,
			c->why);
	}
	r = ioctl(kvm->dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	kvm->run_size = r > 0 ? (size_t)r : PAGE_4K;
	return 0;
}

int kvm_create_vm(struct kvm *kvm, struct error *err)
{
	int r = kvm_ioctl(kvm->dev_fd, KVM_CREATE_VM, (void *)arch_vm_type(kvm->dev_fd));

	if (r < 0)
		return error_set(err, -r, "KVM cannot make a virtual machine: %s%s", strerror(-r),
			r == -EBUSY ? "; another hypervisor holds the processor's virtualisation" : "");
	kvm->vm_fd = r;
	/*
	 * For the longest table there can be, so that no vCPU thread allocates; untouched pages
	 * cost nothing.
	 */
	kvm->routes = malloc(sizeof(struct kvm_irq_routing) +
		(KVM_ROUTES_MAX + ARCH_WIRED_ROUTES_MAX) * sizeof(struct kvm_irq_routing_entry));
	return kvm->routes ? 0 : error_set(err, ENOMEM, "out of memory for interrupt routes");
}

void kvm_close(struct kvm *kvm)
{
	arch_vm_free(kvm->arch);
	kvm->arch = NULL;
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->dev_fd >= 0)
		close(kvm->dev_fd);
	kvm->vm_fd = kvm->dev_fd = -1;
	free(kvm->routes);
	kvm->routes = NULL;
}

unsigned kvm_max_vcpus(const struct kvm *kvm)
{
	int r = kvm_check(kvm, KVM_CAP_MAX_VCPUS);

	/*
	 * api.rst 4.1: without MAX_VCPUS the recommended number is the limit, and without that it
	 * is 4.
	 */
	if (!r)
		r = kvm_check(kvm, KVM_CAP_NR_VCPUS);
	return r ? (unsigned)r : 4;
}

static int set_slot(struct kvm *kvm, const struct mem_region *region, uint64_t size)
{
	struct kvm_userspace_memory_region slot = {
		.slot = region->slot,
		.guest_phys_addr = region->gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)region->host,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
}

static int add_slot(struct mem_listener *self, const struct mem_region *region, struct error *err)
{
	int r = set_slot(container_of(self, struct kvm, listener), region, region->size);

	return r < 0 ? error_set(err, -r, "KVM does not take %llu MiB of memory at %#llx: %s",
			       (unsigned long long)(region->size / MIB), (unsigned long long)region->gpa,
			       strerror(-r)) :
		       0;
}

static void remove_slot(struct mem_listener *self, const struct mem_region *region)
{
	set_slot(container_of(self, struct kvm, listener), region, 0);
}

int kvm_attach_mem(struct kvm *kvm, struct guest_mem *mem, struct error *err)
{
	kvm->listener = (struct mem_listener){ .add = add_slot, .remove = remove_slot };
	return mem_listen(mem, &kvm->listener, err);
}

/* api.rst 4.7: without MAX_VCPU_ID ids are limited as the number of vCPUs is. */
static unsigned max_vcpu_id(const struct kvm *kvm)
{
	int r = kvm_check(kvm, KVM_CAP_MAX_VCPU_ID);

	return r ? (unsigned)r : kvm_max_vcpus(kvm);
}

int kvm_create_vcpu(struct kvm *kvm, unsigned index, uint32_t id, struct error *err)
{
	int r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)id);

	if (r == -EINVAL && id >= max_vcpu_id(kvm))
		return error_set(err, EINVAL, "--cpus: with this topology vCPU %u gets id %u, and KVM on this host takes ids "
					      "below %u; give fewer vCPUs, or powers of two in topology=",
			index, id, max_vcpu_id(kvm));
	if (r < 0)
		return error_set(err, -r, "KVM cannot make vCPU %u: %s; give fewer vCPUs with --cpus boot=", index,
			strerror(-r));
	return r;
}

static int wire(void *ctx, int fd, unsigned gsi, bool on)
{
	struct kvm *kvm = ctx;
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd);
}

static int routes(void *ctx, const struct irq_msi_route *route, unsigned n)
{
	struct kvm *kvm = ctx;
	struct kvm_irq_routing *table = kvm->routes;
	struct kvm_irq_routing_entry *entry = table->entries;

	*table = (struct kvm_irq_routing){ 0 };
	entry += arch_wired_routes(entry);
	for (unsigned i = 0; i < n; i++, entry++) {
		int r = arch_msi_route(entry, kvm->arch, &route[i]);

		if (r < 0)
			return r;
	}
	table->nr = (uint32_t)(entry - table->entries);
	return kvm_ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, table);
}

const struct irq_chip_ops kvm_irq_ops = { .wire = wire, .routes = routes };

static struct kvm_ioeventfd ioeventfd_of(bool pio, const struct bus_notify *n, bool on)
{
	return (struct kvm_ioeventfd){
		.addr = n->addr,
		.len = n->len,
		.fd = n->fd,
		.datamatch = n->match ? n->value : 0,
		.flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
			(n->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
			(on ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};
}

int kvm_notify_add(void *ctx, bool pio, const struct bus_notify *notify)
{
	struct kvm *kvm = ctx;
	struct kvm_ioeventfd arg = ioeventfd_of(pio, notify, true);
	int r = kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &arg);

	if (r < 0)
		log_debug("no ioeventfd at %#llx (%s): its writes leave the guest",
			(unsigned long long)notify->addr, strerror(-r));
	return r;
}

void kvm_notify_remove(void *ctx, bool pio, const struct bus_notify *notify)
{
	struct kvm *kvm = ctx;
	struct kvm_ioeventfd arg = ioeventfd_of(pio, notify, false);

	kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &arg);
}
