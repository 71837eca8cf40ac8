/* Exits that only x86 has. */
#include <errno.h>

#include "arch/x86_64/x86.h"

const struct syscall_row arch_vcpu_syscalls[] = {
	SYSCALL_END,
};

const struct syscall_row arch_main_syscalls[] = {
	{ SYSCALL(ioctl, "reset: segments as they are, of which some stay", SYSCALL_ARG_EQ(1, KVM_GET_SREGS)) },
	{ SYSCALL(ioctl, "reset: segments and control registers", SYSCALL_ARG_EQ(1, KVM_SET_SREGS)) },
	{ SYSCALL(ioctl, "reset: general registers", SYSCALL_ARG_EQ(1, KVM_SET_REGS)) },
	{ SYSCALL(ioctl, "reset: floating point", SYSCALL_ARG_EQ(1, KVM_SET_FPU)) },
	{ SYSCALL(ioctl, "reset: vector registers", SYSCALL_ARG_EQ(1, KVM_SET_XSAVE)) },
	{ SYSCALL(ioctl, "reset: which of them are in use", SYSCALL_ARG_EQ(1, KVM_SET_XCRS)) },
	{ SYSCALL(ioctl, "reset: is a triple fault shown", SYSCALL_ARG_EQ(1, KVM_GET_VCPU_EVENTS)) },
	{ SYSCALL(ioctl, "reset: nothing pending", SYSCALL_ARG_EQ(1, KVM_SET_VCPU_EVENTS)) },
	{ SYSCALL(ioctl, "reset: breakpoints", SYSCALL_ARG_EQ(1, KVM_SET_DEBUGREGS)) },
	{ SYSCALL(ioctl, "reset: model specific registers", SYSCALL_ARG_EQ(1, KVM_SET_MSRS)) },
	{ SYSCALL(ioctl, "reset: the local interrupt controller", SYSCALL_ARG_EQ(1, KVM_GET_LAPIC)) },
	{ SYSCALL(ioctl, "reset: the local interrupt controller", SYSCALL_ARG_EQ(1, KVM_SET_LAPIC)) },
	{ SYSCALL(ioctl, "reset: is the guest running a guest of its own", SYSCALL_ARG_EQ(1, KVM_GET_NESTED_STATE)) },
	{ SYSCALL(ioctl, "reset: end that", SYSCALL_ARG_EQ(1, KVM_SET_NESTED_STATE)) },
	{ SYSCALL(ioctl, "reset: who runs and who waits", SYSCALL_ARG_EQ(1, KVM_SET_MP_STATE)) },
	{ SYSCALL(ioctl, "reset: the interrupt controllers", SYSCALL_ARG_EQ(1, KVM_SET_IRQCHIP)) },
	{ SYSCALL(ioctl, "reset: the interval timer", SYSCALL_ARG_EQ(1, KVM_SET_PIT2)) },
	SYSCALL_END,
};

int arch_vcpu_exit(int vcpu_fd, struct kvm_run *run, const struct vm_events *events)
{
	(void)vcpu_fd;
	switch (run->exit_reason) {
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_IOAPIC_EOI:
		return 1;
	case KVM_EXIT_SYSTEM_EVENT:
		events->post(events->ctx,
			run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN ? VM_EVENT_POWEROFF : VM_EVENT_RESET,
			NULL);
		return 0;
	default:
		return -ENOSYS;
	}
}
