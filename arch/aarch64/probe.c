/*
 * The probe guest of --check: a loop at EL1, without an MMU, that ends in a store to where no
 * memory is. The loop makes enough instructions that hardware and emulation differ by orders of
 * magnitude.
 */
#include <errno.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"

enum { PROBE_LOOPS = 20000, PROBE_BODY = 18, PROBE_AT = 0x1000 };

/* Little-endian words of A64, whatever the host is. */
#define WORD(w) (w) & 0xff, (w) >> 8 & 0xff, (w) >> 16 & 0xff, (w) >> 24 & 0xff
#define ADD_X1_X0 WORD(0x8b000021) /* add x1, x1, x0 */
#define ADD_X1_X0_FOUR ADD_X1_X0, ADD_X1_X0, ADD_X1_X0, ADD_X1_X0

static const uint8_t code[] = {
	WORD(0xd2800000 | PROBE_LOOPS << 5), /* movz x0, #loops */
	WORD(0xd2800001),                    /* movz x1, #0 */
	WORD(0xd2a20002),                    /* movz x2, #0x1000, lsl #16 */
	/* loop: sixteen additions of x0 to x1 */
	ADD_X1_X0_FOUR, ADD_X1_X0_FOUR, ADD_X1_X0_FOUR, ADD_X1_X0_FOUR, /**/
	WORD(0xf1000400),                    /* subs x0, x0, #1 */
	WORD(0x54fffde1),                    /* b.ne loop */
	WORD(0xb9000040),                    /* str w0, [x2] */
	WORD(0x14000000),                    /* b . */
};

const struct arch_probe arch_probe = {
	.code = code,
	.len = sizeof(code),
	.load_at = PROBE_AT,
	.instructions = (uint64_t)PROBE_LOOPS * PROBE_BODY,
};

int arch_probe_enter(struct kvm *kvm, int vcpu_fd, struct error *err)
{
	struct kvm_vcpu_init init = { 0 };
	int r = kvm_ioctl(kvm->vm_fd, KVM_ARM_PREFERRED_TARGET, &init);

	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init);
	if (r == 0)
		r = arm64_enter(vcpu_fd, PROBE_AT, 0);
	return r < 0 ? error_set(err, -r, "the probe guest cannot be entered: %s", strerror(-r)) : 0;
}
