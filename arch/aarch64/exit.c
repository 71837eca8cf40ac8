/*
 * Exits that only ARM has. PSCI (SMCCC calls of the guest) is KVM's work; what it ends in comes
 * here.
 */
#include <errno.h>
#include <stdio.h>

#include "arch/aarch64/arm64.h"

const struct syscall_row arch_vcpu_syscalls[] = {
	SYSCALL_END,
};

const struct syscall_row arch_main_syscalls[] = {
	{ SYSCALL(ioctl, "reset: all registers of a vCPU", SYSCALL_ARG_EQ(1, KVM_ARM_VCPU_INIT)) },
	{ SYSCALL(ioctl, "reset: where the first vCPU begins", SYSCALL_ARG_EQ(1, KVM_SET_ONE_REG)) },
	{ SYSCALL(ioctl, "reset: the interrupt controller", SYSCALL_ARG_EQ(1, KVM_SET_DEVICE_ATTR)) },
	{ SYSCALL(ioctl, "reset: what of the interrupt controller stays", SYSCALL_ARG_EQ(1, KVM_GET_DEVICE_ATTR)) },
	{ SYSCALL(getrandom, "reset: seeds for a guest that boots again") },
	SYSCALL_END,
};

/*
 * An access to an address without a device by an instruction whose syndrome does not say what it
 * reads or writes (a pair, a vector, one with write-back). No driver does that to a register; there
 * is nothing we could answer with.
 */
static void no_syndrome(const struct kvm_run *run, const struct vm_events *events)
{
	char what[96];

	snprintf(what, sizeof(what), "the guest used a load or store that cannot be emulated, at %#llx",
		(unsigned long long)run->arm_nisv.fault_ipa);
	events->post(events->ctx, VM_EVENT_FAILED, what);
}

int arch_vcpu_exit(int vcpu_fd, struct kvm_run *run, const struct vm_events *events)
{
	(void)vcpu_fd;
	switch (run->exit_reason) {
	case KVM_EXIT_SYSTEM_EVENT:
		events->post(events->ctx,
			run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN ? VM_EVENT_POWEROFF :
			run->system_event.type == KVM_SYSTEM_EVENT_CRASH    ? VM_EVENT_TRIPLE_FAULT :
									      VM_EVENT_RESET,
			NULL);
		return 0;
	case KVM_EXIT_ARM_NISV:
		no_syndrome(run, events);
		return 0;
	default:
		return -ENOSYS;
	}
}
