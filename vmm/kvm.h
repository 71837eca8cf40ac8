/*
 * The KVM device: thin wrappers of its ioctls, with sentences for what commonly goes wrong.
 *
 * /dev/kvm and the VM stay open for the machine's life. Main thread, except kvm_wire and
 * kvm_routes, which come from whoever changes an interrupt (vCPU threads too).
 */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include "vmm/bus.h"
#include "vmm/error.h"
#include "vmm/irq.h"
#include "vmm/mem.h"
#include "vmm/sandbox.h"

enum { KVM_ROUTES_MAX = 4096 };

struct kvm_irq_routing;
struct arch_vm;

struct kvm {
	int dev_fd, vm_fd;            /* -1: not open */
	size_t run_size;              /* of a vCPU's shared page(s) */
	struct mem_listener listener; /* memory slots */
	struct arch_vm *arch;         /* the CPU code's own */
	struct kvm_irq_routing *routes; /* scratch of kvm_irq_ops.routes, under the irqchip's lock */
};

/* Open /dev/kvm, check its version and the capabilities the CPU code needs. */
int kvm_open(struct kvm *kvm, struct error *err) NEEDS_CHECK;
int kvm_create_vm(struct kvm *kvm, struct error *err) NEEDS_CHECK;
/* Any state of `kvm` that kvm_open left, or all fds -1. */
void kvm_close(struct kvm *kvm);

/* KVM_CHECK_EXTENSION on the device, or on the VM once there is one. */
int kvm_check(const struct kvm *kvm, int cap);
unsigned kvm_max_vcpus(const struct kvm *kvm);

/* Regions of `mem` become memory slots, now and later. */
int kvm_attach_mem(struct kvm *kvm, struct guest_mem *mem, struct error *err) NEEDS_CHECK;

/* A vCPU's fd, or -errno with a sentence. `id` comes from arch_cpu_id(). */
int kvm_create_vcpu(struct kvm *kvm, unsigned index, uint32_t id, struct error *err) NEEDS_CHECK;

extern const struct irq_chip_ops kvm_irq_ops;          /* ctx: struct kvm * */
int kvm_notify_add(void *kvm, bool pio, const struct bus_notify *notify);
void kvm_notify_remove(void *kvm, bool pio, const struct bus_notify *notify);

/*
 * What is asked of KVM once the machine runs: on main and vCPUs, on vCPUs, on main. The CPU's own
 * is arch_main_syscalls.
 */
extern const struct syscall_row kvm_wiring_syscalls[], kvm_vcpu_syscalls[], kvm_main_syscalls[];
/* ioctl that is tried again when a signal interrupts it; -errno. `arg` as ioctl(2). */
int kvm_ioctl(int fd, unsigned long request, void *arg);

#endif
