/*
 * The probe guest of --check: a loop in 16-bit kernel mode that ends in a port write. Twenty
 * instructions of code; the loop makes enough of them that hardware and emulation differ by orders
 * of magnitude.
 */
#include <errno.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"

enum { PROBE_LOOPS = 20000, PROBE_BODY = 18, PROBE_AT = 0x1000 };

static const uint8_t code[] = {
	0xb9, PROBE_LOOPS & 0xff, PROBE_LOOPS >> 8, /* mov cx, loops */
	0x31, 0xc0, /* xor ax, ax */
	/* loop: sixteen additions of cx to ax */
	0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, /**/
	0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, 0x01, 0xc8, /**/
	0x49,       /* dec cx */
	0x75, 0xdd, /* jnz loop */
	0xe6, 0x80, /* out 0x80, al */
	0xf4,       /* hlt */
};

const struct arch_probe arch_probe = {
	.code = code,
	.len = sizeof(code),
	.load_at = PROBE_AT,
	.instructions = (uint64_t)PROBE_LOOPS * PROBE_BODY,
};

int arch_probe_enter(struct kvm *kvm, int vcpu_fd, struct error *err)
{
	struct kvm_regs regs = { .rip = PROBE_AT, .rflags = 2 };
	struct kvm_sregs s;
	int r = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);

	(void)kvm;
	s.cs.base = s.ds.base = s.ss.base = 0;
	s.cs.selector = s.ds.selector = s.ss.selector = 0;
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &s);
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
	return r < 0 ? error_set(err, -r, "the probe guest cannot be entered: %s", strerror(-r)) : 0;
}
