/* Exits that only x86 has. */
#include <errno.h>

#include "arch/x86_64/x86.h"

const struct syscall_row arch_vcpu_syscalls[] = {
	{ SYSCALL(brk, "memory of a small table when the guest programs a device") },
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
