/*
 * The registers of a vCPU as one object with one table, saved and loaded.
 *
 * KVM's own structs are stable interfaces of the kernel, so their bytes are what the stream holds;
 * MSRs are saved by the list in msrs.c, value by value. Order of loading as api.rst wants it: CPUID
 * was set when the vCPU was made; then sregs, which hold the APIC base, before the local APIC; MSRs
 * before the events.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"

enum { XSAVE_BYTES = 4096 };

struct x86_state {
	uint8_t regs[sizeof(struct kvm_regs)];
	uint8_t sregs[sizeof(struct kvm_sregs)];
	uint8_t xsave[XSAVE_BYTES];
	uint8_t xcrs[sizeof(struct kvm_xcrs)];
	uint8_t lapic[sizeof(struct kvm_lapic_state)];
	uint8_t events[sizeof(struct kvm_vcpu_events)];
	uint8_t debug[sizeof(struct kvm_debugregs)];
	uint32_t mp_state;
	uint32_t msr_index[X86_MSRS_MAX]; /* 0: the host that saved has it not */
	uint64_t msr[X86_MSRS_MAX];
};

_Static_assert(sizeof(struct kvm_xsave) == XSAVE_BYTES, "KVM_GET_XSAVE fills one page");

static unsigned count_msrs(void)
{
	unsigned n = 0;

	while (x86_msrs[n].index)
		n++;
	return n;
}

static int check(const void *object, struct error *err)
{
	const struct x86_state *s = object;

	for (unsigned i = 0, end = count_msrs(); i < X86_MSRS_MAX; i++)
		if (s->msr_index[i] && (i >= end || s->msr_index[i] != x86_msrs[i].index))
			return error_set(err, EINVAL, "vcpu: the saved MSR %u is %#x, which is not expected here; the file is "
						      "damaged or not one of ours",
				i, s->msr_index[i]);
	if (s->mp_state > KVM_MP_STATE_AP_RESET_HOLD)
		return error_set(err, EINVAL, "vcpu: state %u is not one KVM knows", s->mp_state);
	return 0;
}

static const struct state_field fields[] = {
	STATE_ARRAY(struct x86_state, regs),
	STATE_ARRAY(struct x86_state, sregs),
	STATE_ARRAY(struct x86_state, xsave),
	STATE_ARRAY(struct x86_state, xcrs),
	STATE_ARRAY(struct x86_state, lapic),
	STATE_ARRAY(struct x86_state, events),
	STATE_ARRAY(struct x86_state, debug),
	STATE_FIELD(struct x86_state, mp_state),
	STATE_ARRAY(struct x86_state, msr_index),
	STATE_ARRAY(struct x86_state, msr),
	STATE_END,
};

static const struct state_desc desc = {
	.name = "x86-vcpu",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct x86_state),
	.fields = fields,
	.check = check,
};

/* One part of the state: where it lies and the two ioctls that move it. In loading order. */
struct part {
	size_t offset;
	unsigned long get, set;
};

static const struct part parts[] = {
	{ offsetof(struct x86_state, sregs), KVM_GET_SREGS, KVM_SET_SREGS },
	{ offsetof(struct x86_state, regs), KVM_GET_REGS, KVM_SET_REGS },
	{ offsetof(struct x86_state, xcrs), KVM_GET_XCRS, KVM_SET_XCRS },
	{ offsetof(struct x86_state, xsave), KVM_GET_XSAVE, KVM_SET_XSAVE },
	{ offsetof(struct x86_state, lapic), KVM_GET_LAPIC, KVM_SET_LAPIC },
	{ offsetof(struct x86_state, debug), KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS },
	{ offsetof(struct x86_state, events), KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS },
};

/* A host whose KVM does not show triple faults (chip.c) takes a state that has none. */
static void drop_idle_flag(struct x86_state *s)
{
	struct kvm_vcpu_events e;

	memcpy(&e, s->events, sizeof(e));
	if (!e.triple_fault.pending)
		e.flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	memcpy(s->events, &e, sizeof(e));
}

int arch_vcpu_save(int vcpu_fd, struct state_writer *w)
{
	struct x86_state *s = calloc(1, sizeof(*s));
	uint64_t have[2] = { 0 };
	struct kvm_mp_state mp;
	int r = s ? kvm_ioctl(vcpu_fd, KVM_GET_MP_STATE, &mp) : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
		r = kvm_ioctl(vcpu_fd, parts[i].get, (uint8_t *)s + parts[i].offset);
	if (r == 0)
		r = x86_get_msrs(vcpu_fd, have, s->msr);
	if (r == 0) {
		drop_idle_flag(s);
		s->mp_state = mp.mp_state;
		for (unsigned i = 0; x86_msrs[i].index; i++)
			s->msr_index[i] = x86_has_msr(have, i) ? x86_msrs[i].index : 0;
		r = state_save(w, &desc, s);
	}
	free(s);
	return r;
}

int arch_vcpu_load(int vcpu_fd, const struct arch_cpu_model *model, struct state_reader *reader, struct error *err)
{
	struct x86_state *s = calloc(1, sizeof(*s));
	int r = s ? state_load(reader, &desc, s, err) : error_set(err, ENOMEM, "out of memory for a vCPU's state");
	uint64_t have[2] = { 0 };

	if (r < 0) {
		free(s);
		return r;
	}
	for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
		r = kvm_ioctl(vcpu_fd, parts[i].set, (uint8_t *)s + parts[i].offset);
	for (unsigned i = 0; x86_msrs[i].index; i++)
		if (s->msr_index[i] && x86_has_msr(model->msrs, i))
			x86_add_msr(have, i);
	if (r == 0)
		r = x86_set_msrs(vcpu_fd, have, s->msr);
	if (r == 0) {
		struct kvm_mp_state mp = { .mp_state = s->mp_state };

		r = kvm_ioctl(vcpu_fd, KVM_SET_MP_STATE, &mp);
	}
	free(s);
	return r < 0 ? error_set(err, -r, "KVM refuses the saved registers of a vCPU: %s", strerror(-r)) : 0;
}
