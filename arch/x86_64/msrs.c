/*
 * The MSRs that a guest's state consists of, with their values at power-on (Intel SDM vol. 3 table
 * 10-1, AMD APM vol. 2 §14.1, Documentation/virt/kvm/x86/msr.rst). Base addresses of segments, EFER
 * and the APIC base are in KVM's sregs, the x2APIC's registers in its lapic.
 *
 * A host has only some of them (an older KVM, another vendor): KVM's own list says which. One that
 * is refused all the same is said at debug level and the rest is set.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

#define MTRR_ENABLED_WRITE_BACK (UINT64_C(1) << 11 | 6)
#define MISC_ENABLE_FAST_STRING UINT64_C(1)
#define PAT_RESET UINT64_C(0x0007040600070406)
#define POLL_CONTROL_RESET UINT64_C(1)
#define MTRR_VARIABLE(n) { 0x200 + 2 * (n), 0, "MTRR_PHYSBASE" #n }, { 0x201 + 2 * (n), 0, "MTRR_PHYSMASK" #n }

/*
 * In the order in which they are restored: the TSC before its deadline, an interrupt's vector
 * before what raises it.
 */
const struct x86_msr x86_msrs[] = {
	{ 0x10, 0, "TSC" },
	{ 0x3b, 0, "TSC_ADJUST" },
	{ 0x48, 0, "SPEC_CTRL" },
	{ 0xe1, 0, "UMWAIT_CONTROL" },
	{ 0x122, 0, "TSX_CTRL" },
	{ 0x140, 0, "MISC_FEATURES_ENABLES" },
	{ 0x174, 0, "SYSENTER_CS" },
	{ 0x175, 0, "SYSENTER_ESP" },
	{ 0x176, 0, "SYSENTER_EIP" },
	{ 0x17a, 0, "MCG_STATUS" },
	{ 0x1a0, MISC_ENABLE_FAST_STRING, "MISC_ENABLE" },
	{ 0x1c4, 0, "XFD" },
	{ 0x1c5, 0, "XFD_ERR" },
	{ 0x1d9, 0, "DEBUGCTL" },
	MTRR_VARIABLE(0),
	MTRR_VARIABLE(1),
	MTRR_VARIABLE(2),
	MTRR_VARIABLE(3),
	MTRR_VARIABLE(4),
	MTRR_VARIABLE(5),
	MTRR_VARIABLE(6),
	MTRR_VARIABLE(7),
	{ 0x250, 0, "MTRR_FIX64K_00000" },
	{ 0x258, 0, "MTRR_FIX16K_80000" },
	{ 0x259, 0, "MTRR_FIX16K_A0000" },
	{ 0x268, 0, "MTRR_FIX4K_C0000" },
	{ 0x269, 0, "MTRR_FIX4K_C8000" },
	{ 0x26a, 0, "MTRR_FIX4K_D0000" },
	{ 0x26b, 0, "MTRR_FIX4K_D8000" },
	{ 0x26c, 0, "MTRR_FIX4K_E0000" },
	{ 0x26d, 0, "MTRR_FIX4K_E8000" },
	{ 0x26e, 0, "MTRR_FIX4K_F0000" },
	{ 0x26f, 0, "MTRR_FIX4K_F8000" },
	{ 0x277, PAT_RESET, "PAT" },
	/* Firmware would have made all RAM write-back; a guest without firmware expects it done. */
	{ 0x2ff, MTRR_ENABLED_WRITE_BACK, "MTRR_DEF_TYPE" },
	{ 0x6a0, 0, "U_CET" },
	{ 0x6a2, 0, "S_CET" },
	{ 0x6a4, 0, "PL0_SSP" },
	{ 0x6a5, 0, "PL1_SSP" },
	{ 0x6a6, 0, "PL2_SSP" },
	{ 0x6a7, 0, "PL3_SSP" },
	{ 0x6a8, 0, "INTERRUPT_SSP_TABLE" },
	{ 0x6e0, 0, "TSC_DEADLINE" },
	{ 0xda0, 0, "XSS" },
	{ 0xc0000081, 0, "STAR" },
	{ 0xc0000082, 0, "LSTAR" },
	{ 0xc0000083, 0, "CSTAR" },
	{ 0xc0000084, 0, "SFMASK" },
	{ 0xc0000102, 0, "KERNEL_GS_BASE" },
	{ 0xc0000103, 0, "TSC_AUX" },
	{ 0xc001011f, 0, "VIRT_SPEC_CTRL" },
	{ 0x4b564d00, 0, "KVM_WALL_CLOCK" },
	{ 0x4b564d01, 0, "KVM_SYSTEM_TIME" },
	{ 0x4b564d06, 0, "KVM_ASYNC_PF_INT" },
	{ 0x4b564d02, 0, "KVM_ASYNC_PF" },
	{ 0x4b564d03, 0, "KVM_STEAL_TIME" },
	{ 0x4b564d04, 0, "KVM_PV_EOI" },
	{ 0x4b564d05, POLL_CONTROL_RESET, "KVM_POLL_CONTROL" },
	{ 0, 0, NULL },
};
_Static_assert(ARRAY_SIZE(x86_msrs) <= X86_MSRS_MAX, "a set has a bit for each");

enum { KVM_LIST_MAX = 1024 };

int x86_find_msrs(struct arch_cpu_model *model, int kvm_dev_fd)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + KVM_LIST_MAX * sizeof(list->indices[0]));
	int r;

	if (!list)
		return -ENOMEM;
	list->nmsrs = KVM_LIST_MAX;
	r = kvm_ioctl(kvm_dev_fd, KVM_GET_MSR_INDEX_LIST, list);
	for (unsigned i = 0; r == 0 && x86_msrs[i].index; i++)
		for (uint32_t k = 0; k < list->nmsrs; k++)
			if (list->indices[k] == x86_msrs[i].index)
				x86_add_msr(model->msrs, i);
	/* The list leaves out MTRRs and PAT, which every KVM has. */
	for (unsigned i = 0; r == 0 && x86_msrs[i].index; i++)
		if (range_inside(x86_msrs[i].index, 1, 0x200, 0x100))
			x86_add_msr(model->msrs, i);
	free(list);
	return r;
}

/* What one ioctl moves; `row` leads back to the table. */
struct batch {
	unsigned n;
	unsigned row[X86_MSRS_MAX];
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[X86_MSRS_MAX];
	} m;
};

/*
 * KVM stops at the first MSR that it refuses and says how many went: go on behind it. `done` (may
 * be NULL) gets those that went.
 */
static int for_all(int vcpu_fd, unsigned long request, struct batch *b, uint64_t *done)
{
	struct batch part;

	for (unsigned at = 0; at < b->n;) {
		int n;

		part.m.head = (struct kvm_msrs){ .nmsrs = b->n - at };
		memcpy(part.m.entry, b->m.entry + at, (b->n - at) * sizeof(b->m.entry[0]));
		n = kvm_ioctl(vcpu_fd, request, &part.m);
		if (n < 0)
			return n;
		memcpy(b->m.entry + at, part.m.entry, (unsigned)n * sizeof(b->m.entry[0]));
		for (unsigned i = 0; done && i < (unsigned)n; i++)
			x86_add_msr(done, b->row[at + i]);
		at += (unsigned)n;
		if (at < b->n)
			log_debug("KVM refuses MSR %#x (%s); left as it is", b->m.entry[at].index,
				x86_msrs[b->row[at]].name);
		at++;
	}
	return 0;
}

int x86_set_msrs(int vcpu_fd, const uint64_t *have, const uint64_t *values)
{
	struct batch b;

	b.n = 0;
	for (unsigned i = 0; x86_msrs[i].index; i++) {
		if (!x86_has_msr(have, i))
			continue;
		b.row[b.n] = i;
		b.m.entry[b.n++] = (struct kvm_msr_entry){
			.index = x86_msrs[i].index,
			.data = values ? values[i] : x86_msrs[i].reset,
		};
	}
	return for_all(vcpu_fd, KVM_SET_MSRS, &b, NULL);
}

int x86_get_msrs(int vcpu_fd, uint64_t *ret_have, uint64_t *values)
{
	struct batch b;
	int r;

	b.n = 0;
	for (unsigned i = 0; x86_msrs[i].index; i++) {
		b.row[b.n] = i;
		b.m.entry[b.n++] = (struct kvm_msr_entry){ .index = x86_msrs[i].index };
	}
	r = for_all(vcpu_fd, KVM_GET_MSRS, &b, ret_have);
	for (unsigned i = 0; r == 0 && i < b.n; i++)
		values[b.row[i]] = b.m.entry[i].data;
	return r;
}
