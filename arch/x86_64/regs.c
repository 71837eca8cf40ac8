/*
 * A vCPU at power-on. The first one starts at the kernel's entry in the mode that its boot protocol
 * asks for (PVH: 32-bit protected mode; Linux: 64-bit), as if firmware had just jumped there. The
 * others wait for INIT and SIPI.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

enum {
	CR0_PE = 1 << 0,
	CR0_ET = 1 << 4,
	CR4_PAE = 1 << 5,
	EFER_LME = 1 << 8,
	EFER_LMA = 1 << 10,
	RFLAGS_FIXED = 2,
	MXCSR_RESET = 0x1f80,
	FCW_RESET = 0x37f,
	XCR0_RESET = 1,    /* x87 */
	XSAVE_MXCSR = 6,   /* 32-bit word of the legacy region */
	TSS_LIMIT = 0x67,
	APIC_BASE_BSP = 1 << 8,
	APIC_BASE_ENABLE = 1 << 11,
	SEG_CODE = 0xb,   /* execute, read, accessed */
	SEG_DATA = 0x3,   /* read, write, accessed */
	SEG_TSS_BUSY = 0xb,
};
#define CR0_PG (UINT64_C(1) << 31)

/* Local APIC registers (Intel SDM vol. 3 §10.4), offsets into struct kvm_lapic_state. */
enum {
	LAPIC_ID = 0x20,
	LAPIC_VERSION = 0x30,
	LAPIC_DFR = 0xe0,
	LAPIC_SPIV = 0xf0,
	LAPIC_LVT_TIMER = 0x320,
	LAPIC_LVT_THERMAL = 0x330,
	LAPIC_LVT_PC = 0x340,
	LAPIC_LVT0 = 0x350,
	LAPIC_LVT1 = 0x360,
	LAPIC_LVT_ERROR = 0x370,
	LVT_MASKED = 1 << 16,
	LVT_EXTINT = 7 << 8,
	SPIV_RESET = 0xff,
};

static struct kvm_segment segment(uint16_t selector, unsigned type, bool code64)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = (uint8_t)type,
		.present = 1,
		.db = !code64,
		.s = 1,
		.l = code64,
		.g = 1,
	};
}

static void enter_kernel(struct kvm_sregs *s, struct kvm_regs *regs, const struct fw_entry *e)
{
	bool pvh = e->kind == FW_ENTRY_PVH;

	s->cs = segment(pvh ? FW_CODE32 : FW_BOOT_CS, SEG_CODE, !pvh);
	s->ds = s->es = s->fs = s->gs = s->ss = segment(FW_BOOT_DS, SEG_DATA, false);
	s->tr = (struct kvm_segment){ .limit = TSS_LIMIT, .selector = FW_TSS, .type = SEG_TSS_BUSY, .present = 1 };
	s->gdt = (struct kvm_dtable){ .base = e->gdt, .limit = FW_GDT_SIZE - 1 };
	s->idt = (struct kvm_dtable){ .base = 0, .limit = 0 };
	s->cr0 = CR0_PE | CR0_ET | (pvh ? 0 : CR0_PG);
	s->cr3 = e->page_table;
	s->cr4 = pvh ? 0 : CR4_PAE;
	s->efer = pvh ? 0 : EFER_LME | EFER_LMA;
	*regs = (struct kvm_regs){ .rip = e->ip, .rflags = RFLAGS_FIXED };
	if (pvh)
		regs->rbx = e->arg;
	else
		regs->rsi = e->arg;
}

/* INIT's values (Intel SDM vol. 3 table 10-1); a SIPI sets cs:ip. */
static void wait_for_sipi(struct kvm_sregs *s, struct kvm_regs *regs)
{
	const struct kvm_segment real = { .limit = 0xffff, .type = SEG_DATA, .present = 1, .s = 1 };

	s->cs = (struct kvm_segment){
		.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .type = SEG_CODE, .present = 1, .s = 1
	};
	s->ds = s->es = s->fs = s->gs = s->ss = real;
	s->tr = (struct kvm_segment){ .limit = 0xffff, .type = SEG_TSS_BUSY, .present = 1 };
	s->ldt = (struct kvm_segment){ .limit = 0xffff, .type = 2, .present = 1 };
	s->gdt = s->idt = (struct kvm_dtable){ .limit = 0xffff };
	s->cr0 = 0x60000010;
	s->cr3 = s->cr4 = s->efer = 0;
	*regs = (struct kvm_regs){ .rip = 0xfff0, .rflags = RFLAGS_FIXED };
}

static void lapic_put(struct kvm_lapic_state *l, unsigned reg, uint32_t value)
{
	put_le32(l->regs + reg, value);
}

static int reset_lapic(int vcpu_fd, uint32_t id, bool boot)
{
	struct kvm_lapic_state l = { 0 };
	uint32_t version;
	int r = kvm_ioctl(vcpu_fd, KVM_GET_LAPIC, &l);

	if (r < 0)
		return r;
	version = get_le32(l.regs + LAPIC_VERSION);
	memset(&l, 0, sizeof(l));
	lapic_put(&l, LAPIC_ID, id << 24);
	lapic_put(&l, LAPIC_VERSION, version);
	lapic_put(&l, LAPIC_DFR, ~0u);
	lapic_put(&l, LAPIC_SPIV, SPIV_RESET);
	lapic_put(&l, LAPIC_LVT_TIMER, LVT_MASKED);
	lapic_put(&l, LAPIC_LVT_THERMAL, LVT_MASKED);
	lapic_put(&l, LAPIC_LVT_PC, LVT_MASKED);
	lapic_put(&l, LAPIC_LVT_ERROR, LVT_MASKED);
	/* As KVM makes it: the boot processor's LINT0 is the PIC's input. LINT1 has no wire. */
	lapic_put(&l, LAPIC_LVT0, boot ? LVT_EXTINT : LVT_MASKED);
	lapic_put(&l, LAPIC_LVT1, LVT_MASKED);
	return kvm_ioctl(vcpu_fd, KVM_SET_LAPIC, &l);
}

/*
 * Registers wider than SSE's: XSTATE_BV of 0 says that all are as after power-on (Intel SDM vol. 1
 * §13.6). XCR0 comes last: until then what it enables is still to be cleared. A processor without
 * XSAVE has neither.
 */
static int reset_xsave(int vcpu_fd)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = XCR0_RESET } } };
	struct kvm_xsave *xsave = calloc(1, sizeof(*xsave));
	int r = -ENOMEM;

	if (!xsave)
		return r;
	put_le16(xsave->region, FCW_RESET);
	xsave->region[XSAVE_MXCSR] = MXCSR_RESET;
	r = kvm_ioctl(vcpu_fd, KVM_SET_XSAVE, xsave);
	free(xsave);
	if (r == 0 && kvm_ioctl(vcpu_fd, KVM_SET_XCRS, &xcrs) < 0)
		log_debug("KVM has no XCR0 here; left as it is");
	return r;
}

/*
 * A guest hypervisor that is reset has left VMX operation, or SVM's guest mode, with interrupts
 * enabled globally (GIF).
 */
static int leave_nested(int vcpu_fd)
{
	struct kvm_nested_state n = { .size = sizeof(n) };
	int r = kvm_ioctl(vcpu_fd, KVM_GET_NESTED_STATE, &n);

	/*
	 * Larger than the head: there is a guest of the guest to be forgotten. No such call, or
	 * nothing nested: nothing to do.
	 */
	if (r < 0 && r != -E2BIG)
		return 0;
	n.size = sizeof(n);
	if (n.format == KVM_STATE_NESTED_FORMAT_VMX) {
		n.flags = 0;
		n.hdr.vmx = (struct kvm_vmx_nested_state_hdr){ .vmxon_pa = ~UINT64_C(0), .vmcs12_pa = ~UINT64_C(0) };
	} else {
		n.flags = KVM_STATE_NESTED_GIF_SET;
		n.hdr.svm = (struct kvm_svm_nested_state_hdr){ .vmcb_pa = 0 };
	}
	return kvm_ioctl(vcpu_fd, KVM_SET_NESTED_STATE, &n);
}

/*
 * Nothing is pending. A triple fault is among it where KVM shows it, which the flags of a read tell
 * (chip.c).
 */
static int reset_events(int vcpu_fd)
{
	struct kvm_vcpu_events was, events = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING |
						       KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW };
	int r = kvm_ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &was);

	if (r < 0)
		return r;
	events.flags |= was.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	return kvm_ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &events);
}

/* What a guest changes and a new vCPU has as after power-on. */
static int reset_units(int vcpu_fd, unsigned index)
{
	const struct kvm_fpu fpu = { .fcw = FCW_RESET, .mxcsr = MXCSR_RESET };
	struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	struct kvm_mp_state mp = { .mp_state = index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE };
	int r = reset_xsave(vcpu_fd);

	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_FPU, (void *)&fpu);
	if (r == 0)
		r = reset_events(vcpu_fd);
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_DEBUGREGS, &debug);
	return r == 0 ? kvm_ioctl(vcpu_fd, KVM_SET_MP_STATE, &mp) : r;
}

int arch_vcpu_reset(int vcpu_fd, unsigned index, const struct arch_cpu_model *model, const struct arch_boot *boot,
	struct error *err)
{
	struct kvm_sregs s;
	struct kvm_regs regs;
	int r = model->config.nested ? leave_nested(vcpu_fd) : 0;

	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);
	if (index)
		wait_for_sipi(&s, &regs);
	else
		enter_kernel(&s, &regs, &boot->entry);
	s.apic_base = X86_LAPIC | APIC_BASE_ENABLE | (index ? 0 : APIC_BASE_BSP);
	s.cr2 = s.cr8 = 0;
	memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &s);
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
	if (r == 0)
		r = x86_set_msrs(vcpu_fd, model->msrs, NULL);
	/* In the first life too: it makes KVM enter the vCPU among those that can be addressed. */
	if (r == 0)
		r = reset_lapic(vcpu_fd, arch_cpu_id(model, index), index == 0);
	if (r == 0 && !boot->first)
		r = reset_units(vcpu_fd, index);
	return r < 0 ? error_set(err, -r, "KVM refuses the registers of vCPU %u: %s", index, strerror(-r)) : 0;
}
