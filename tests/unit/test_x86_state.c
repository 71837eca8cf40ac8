/* Real vCPUs on /dev/kvm: their CPUID, their values at power-on, and their state in both directions. Skipped where there is no KVM. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"
#include "vmm/state.h"

enum { RAM = 2 * MIB, VCPUS_MAX = 8, ENTRIES = 256, ENTRY_AT = 0x10000 };

struct machine {
	struct kvm kvm;
	struct guest_mem *mem;
	struct arch_cpu_config config;
	struct arch_cpu_model *model;
	int vcpu[VCPUS_MAX];
	struct arch_boot boot;
	struct error err;
};

/* The test ends here where KVM is missing. */
static void need_kvm(void)
{
	struct error err;
	struct kvm kvm;

	if (kvm_open(&kvm, &err) < 0)
		cr_skip_test("%s", err.text);
	kvm_close(&kvm);
}

static void start(struct machine *m, struct arch_cpu_config config)
{
	const struct mem_config plain = { 0 };

	*m = (struct machine){ .config = config };
	m->boot.entry = (struct fw_entry){ .kind = FW_ENTRY_LINUX64, .ip = ENTRY_AT, .arg = 0x7000,
		.gdt = 0x500, .page_table = 0x9000 };
	cr_assert_eq(kvm_open(&m->kvm, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(kvm_create_vm(&m->kvm, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(mem_create(&m->mem, &m->err), 0);
	cr_assert_eq(mem_add_ram(m->mem, 0, RAM, &plain, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(kvm_attach_mem(&m->kvm, m->mem, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(arch_vm_init(&m->kvm, &m->config, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(arch_cpu_model_create(&m->model, &m->kvm, &m->config, &m->err), 0, "%s", m->err.text);
	for (unsigned i = 0; i < config.boot; i++) {
		m->vcpu[i] = kvm_create_vcpu(&m->kvm, i, arch_cpu_id(m->model, i), &m->err);
		cr_assert_geq(m->vcpu[i], 0, "%s", m->err.text);
		cr_assert_eq(arch_vcpu_init(&m->kvm, m->vcpu[i], i, m->model, &m->err), 0, "%s", m->err.text);
	}
}

static void reset(struct machine *m)
{
	for (unsigned i = 0; i < m->config.boot; i++)
		cr_assert_eq(arch_vcpu_reset(m->vcpu[i], i, m->model, &m->boot, &m->err), 0, "%s", m->err.text);
}

static void finish(struct machine *m)
{
	for (unsigned i = 0; i < m->config.boot; i++)
		close(m->vcpu[i]);
	arch_cpu_model_free(m->model);
	kvm_close(&m->kvm);
	mem_destroy(m->mem);
}

static const struct arch_cpu_config one = { .boot = 1, .max = 1 };

/* A crash that KVM had not yet reported when the vCPU was kicked belongs to the life that ends. */
Test(x86_state, a_reset_forgets_a_triple_fault_that_is_pending)
{
	struct kvm_vcpu_events events;
	struct machine m;

	need_kvm();
	start(&m, one);
	if (kvm_check(&m.kvm, KVM_CAP_X86_TRIPLE_FAULT_EVENT) <= 0) {
		finish(&m);
		cr_skip_test("KVM here does not show pending triple faults (Linux 6.1 does)");
	}
	reset(&m);
	cr_assert_eq(kvm_ioctl(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events), 0);
	cr_assert(events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
	events.triple_fault.pending = 1;
	cr_assert_eq(kvm_ioctl(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events), 0);
	reset(&m);
	cr_assert_eq(kvm_ioctl(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events), 0);
	cr_assert_eq(events.triple_fault.pending, 0);
	finish(&m);
}

/* ---- CPUID ---- */

struct cpuid {
	uint32_t nent, padding;
	struct kvm_cpuid_entry2 entries[ENTRIES];
};

static void get_cpuid(struct cpuid *c, int vcpu)
{
	memset(c, 0, sizeof(*c));
	c->nent = ENTRIES;
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_CPUID2, c), 0);
}

static const struct kvm_cpuid_entry2 *leaf(const struct cpuid *c, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

static const struct {
	uint32_t n, threads, cores, dies, packages;
	uint32_t ids[VCPUS_MAX];
	uint32_t smt_shift, package_shift;
} topologies[] = {
	{ 1, 0, 0, 0, 0, { 0 }, 0, 0 },
	{ 4, 0, 0, 0, 0, { 0, 1, 2, 3 }, 0, 2 },
	{ 8, 2, 2, 1, 2, { 0, 1, 2, 3, 4, 5, 6, 7 }, 1, 2 },
	{ 6, 1, 3, 1, 2, { 0, 1, 2, 4, 5, 6 }, 0, 2 },
	{ 6, 3, 1, 1, 2, { 0, 1, 2, 4, 5, 6 }, 2, 2 },
	{ 6, 1, 1, 3, 2, { 0, 1, 2, 4, 5, 6 }, 0, 2 },
	{ 3, 1, 1, 1, 3, { 0, 1, 2 }, 0, 0 },
};

static struct arch_cpu_config config_of(size_t t)
{
	return (struct arch_cpu_config){ .boot = topologies[t].n, .max = topologies[t].n, .threads = topologies[t].threads,
		.cores = topologies[t].cores, .dies = topologies[t].dies, .packages = topologies[t].packages };
}

Test(x86_state, the_apic_id_is_the_same_in_every_leaf)
{
	need_kvm();
	for (size_t t = 0; t < ARRAY_SIZE(topologies); t++) {
		struct machine m;
		struct cpuid c;

		start(&m, config_of(t));
		for (unsigned i = 0; i < topologies[t].n; i++) {
			uint32_t id = topologies[t].ids[i];

			cr_assert_eq(arch_cpu_id(m.model, i), id, "topology %zu, vCPU %u", t, i);
			get_cpuid(&c, m.vcpu[i]);
			cr_assert_eq(leaf(&c, 1, 0)->ebx >> 24, id);
			for (uint32_t n = 0; leaf(&c, 0xb, n); n++)
				cr_assert_eq(leaf(&c, 0xb, n)->edx, id);
			for (uint32_t n = 0; leaf(&c, 0x1f, n); n++)
				cr_assert_eq(leaf(&c, 0x1f, n)->edx, id);
		}
		finish(&m);
	}
}

/* Shifts grow, counts grow, an invalid level ends the list, and the outermost shift separates the packages. */
static void check_levels(const struct cpuid *c, uint32_t function, size_t t)
{
	uint32_t n = 0, shift = 0, count = 0;
	const struct kvm_cpuid_entry2 *e;

	for (; (e = leaf(c, function, n)) && (e->ecx >> 8 & 0xff); n++) {
		cr_assert_eq(e->ecx & 0xff, n);
		cr_assert_geq(e->eax, shift);
		cr_assert_geq(e->ebx, count);
		cr_assert_leq(e->ebx, 1u << e->eax, "as many as the shift has room for");
		shift = e->eax;
		count = e->ebx;
		if (n == 0)
			cr_assert_eq(shift, topologies[t].smt_shift);
	}
	cr_assert(e, "a level of type 0 ends leaf %#x", function);
	cr_assert_geq(n, 2);
	cr_assert_eq(shift, topologies[t].package_shift, "leaf %#x of topology %zu", function, t);
	cr_assert_eq(count, topologies[t].n / MAX(topologies[t].packages, 1u));
	cr_assert(!leaf(c, function, n + 1), "nothing of the host's own levels is left");
}

Test(x86_state, the_levels_of_the_topology_agree_with_the_ids)
{
	need_kvm();
	for (size_t t = 0; t < ARRAY_SIZE(topologies); t++) {
		uint32_t room = 1u << topologies[t].package_shift;
		struct machine m;
		struct cpuid c;

		start(&m, config_of(t));
		get_cpuid(&c, m.vcpu[0]);
		if (leaf(&c, 0xb, 0))
			check_levels(&c, 0xb, t);
		if (leaf(&c, 0x1f, 0))
			check_levels(&c, 0x1f, t);
		cr_assert_eq(leaf(&c, 1, 0)->ebx >> 16 & 0xff, room, "ids in a package");
		/* What we ask for: some KVMs add the bit themselves. */
		cr_assert_eq(leaf((struct cpuid *)m.model->cpuid, 1, 0)->edx >> 28 & 1, room > 1, "HTT of topology %zu", t);
		for (uint32_t n = 0; leaf(&c, 4, n) && leaf(&c, 4, n)->eax & 0x1f; n++) {
			uint32_t eax = leaf(&c, 4, n)->eax, sharing = (eax >> 14 & 0xfff) + 1;

			cr_assert_eq((eax >> 26) + 1, room >> topologies[t].smt_shift, "core ids in a package");
			cr_assert(is_pow2(sharing));
			cr_assert_leq(sharing, room);
			cr_assert_geq(sharing, 1u << topologies[t].smt_shift);
		}
		finish(&m);
	}
}

Test(x86_state, the_amd_leaves_count_within_the_package)
{
	struct machine m;
	struct cpuid c;

	need_kvm();
	start(&m, config_of(2)); /* 2 threads, 2 cores, 2 packages */
	for (unsigned i = 0; i < 8; i++) {
		const struct kvm_cpuid_entry2 *e;

		get_cpuid(&c, m.vcpu[i]);
		e = leaf(&c, 0, 0);
		if (memcmp(&e->ebx, "Auth", 4) && memcmp(&e->ebx, "Hygo", 4)) {
			e = leaf(&c, 0x80000008, 0);
			cr_assert(!e || !e->ecx, "reserved on Intel");
			continue;
		}
		cr_assert_eq(leaf(&c, 0x80000008, 0)->ecx, 2u << 12 | 3);
		cr_assert(!leaf(&c, 0x80000026, 0));
		e = leaf(&c, 0x8000001e, 0);
		if (!e)
			continue;
		cr_assert_eq(e->eax, i);
		cr_assert_eq(e->ebx, 1u << 8 | (i / 2 % 2), "threads of a core, and which core");
		cr_assert_eq(e->ecx, i / 4, "one node for each package");
	}
	finish(&m);
}

Test(x86_state, a_guest_sees_a_hypervisor_but_no_virtualisation_and_no_counters)
{
	const uint32_t vmx = 1u << 5, svm = 1u << 2;
	struct arch_cpu_config nested = one;
	const struct kvm_cpuid_entry2 *e;
	bool host_has;
	struct machine m;
	struct cpuid c;

	need_kvm();
	start(&m, one);
	get_cpuid(&c, m.vcpu[0]);
	e = leaf(&c, 1, 0);
	cr_assert(e->ecx >> 31, "a hypervisor");
	cr_assert_not(e->ecx & (vmx | 1u << 3 | 1u << 15), "no VMX, MONITOR, PDCM");
	e = leaf(&c, 0x80000001, 0);
	cr_assert_not(e->ecx & svm);
	e = leaf(&c, 0x8000000a, 0);
	cr_assert(!e || !(e->eax | e->ebx | e->edx));
	e = leaf(&c, 0x40000000, 0);
	cr_assert(e);
	cr_assert_eq(e->eax, 0x40000001);
	cr_assert_eq(memcmp(&e->ebx, "KVMKVMKVM\0\0\0", 12), 0);
	cr_assert(leaf(&c, e->eax, 0), "the leaf that it announces");
	e = leaf(&c, 0xa, 0);
	cr_assert(!e || !(e->eax | e->ebx | e->ecx | e->edx));
	finish(&m);

	nested.nested = true;
	start(&m, nested);
	host_has = false;
	for (uint32_t i = 0; i < m.model->cpuid->nent; i++) {
		e = &m.model->cpuid->entries[i];
		host_has |= (e->function == 1 && e->ecx & vmx) || (e->function == 0x80000001 && e->ecx & svm);
	}
	cr_assert(host_has == (kvm_check(&m.kvm, KVM_CAP_NESTED_STATE) > 0), "asked for, and the host can");
	finish(&m);
}

Test(x86_state, a_smaller_address_width_is_what_the_guest_sees)
{
	struct arch_cpu_config narrow = one;
	struct machine m;
	struct cpuid c;
	uint32_t eax;

	need_kvm();
	narrow.max_phys_bits = 37;
	start(&m, narrow);
	get_cpuid(&c, m.vcpu[0]);
	eax = leaf(&c, 0x80000008, 0)->eax;
	cr_assert_eq(eax & 0xff, 37);
	cr_assert_leq(eax >> 16 & 0xff, 37);
	cr_assert_geq(eax >> 8 & 0xff, 48, "virtual addresses stay");
	finish(&m);
}

Test(x86_state, a_topology_that_does_not_add_up_is_a_sentence)
{
	struct arch_cpu_config bad = { .boot = 4, .max = 4, .threads = 1, .cores = 3, .dies = 1, .packages = 1 };
	struct arch_cpu_model *model = NULL;
	struct error err = { "" };
	struct kvm kvm;

	need_kvm();
	cr_assert_eq(kvm_open(&kvm, &err), 0);
	cr_assert_eq(arch_cpu_model_create(&model, &kvm, &bad, &err), -EINVAL);
	cr_assert(strstr(err.text, "describes 3 vCPUs"), "%s", err.text);
	kvm_close(&kvm);
}

/* ---- state ---- */

static void set_msr(int vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_MSRS, &m), 1, "MSR %#x", index);
}

static uint64_t get_msr(int vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry.index = index };

	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_MSRS, &m), 1, "MSR %#x", index);
	return m.entry.data;
}

/* A KVM without hardware virtualisation gives its guests the host's TSC, whatever is written. */
static bool has_own_tsc(int vcpu)
{
	uint64_t was = get_msr(vcpu, 0x10), is;

	set_msr(vcpu, 0x10, was + (UINT64_C(1) << 50));
	is = get_msr(vcpu, 0x10);
	set_msr(vcpu, 0x10, was);
	return is >= was + (UINT64_C(1) << 50);
}

/* Something else than after power-on, everywhere. */
static void make_dirty(int vcpu)
{
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp = { KVM_MP_STATE_HALTED };
	struct kvm_xsave *xsave = calloc(1, sizeof(*xsave));
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_xcrs xcrs;

	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cr2 = 0xdead0000;
	sregs.fs.base = 0x123456789000;
	sregs.gs.base = 0xffff888000000000;
	sregs.cr8 = 3;
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	memset(&regs, 0x5a, sizeof(regs));
	regs.rflags = 0x202;
	regs.rip = 0xfffffff0;
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_REGS, &regs), 0);
	if (kvm_ioctl(vcpu, KVM_GET_XCRS, &xcrs) == 0) {
		xcrs.xcrs[0].value = 3;
		cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_XCRS, &xcrs), 0);
	}
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_XSAVE, xsave), 0);
	put_le64(&xsave->region[128], get_le64(&xsave->region[128]) | 3); /* XSTATE_BV */
	memset(&xsave->region[40], 0xa5, 256); /* XMM */
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_XSAVE, xsave), 0);
	free(xsave);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_DEBUGREGS, &debug), 0);
	debug.db[0] = 0x1000;
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_DEBUGREGS, &debug), 0);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_LAPIC, &lapic), 0);
	put_le32(lapic.regs + 0xf0, 0x1ff);
	put_le32(lapic.regs + 0x320, 0x400ec); /* timer: TSC deadline */
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_LAPIC, &lapic), 0);
	set_msr(vcpu, 0x10, UINT64_C(1) << 40);
	set_msr(vcpu, 0x277, 0x0007010600070106);
	set_msr(vcpu, 0x200, 0x80000000);
	set_msr(vcpu, 0x2ff, 0x800);
	set_msr(vcpu, 0xc0000082, 0xffffffff81000000);
	set_msr(vcpu, 0xc0000102, 0x7777000);
	set_msr(vcpu, 0x4b564d01, 0x5000 | 1);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
	events.nmi.masked = 1;
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events), 0);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_SET_MP_STATE, &mp), 0);
}

/* The TSC runs on by itself: the first MSR of the table, and the checksum that covers it. */
static void mask_clock(struct state_writer *w)
{
	static const uint8_t head[] = { 3, 'm', 's', 'r', STATE_U64 };
	uint8_t *msr = memmem(w->data, w->len, head, sizeof(head));

	cr_assert(msr);
	cr_assert_eq(x86_msrs[0].index, 0x10);
	memset(msr + sizeof(head) + 2, 0, 8);
	memset(w->data + w->len - 4, 0, 4);
}

static void same(struct state_writer *a, struct state_writer *b, const char *what)
{
	mask_clock(a);
	mask_clock(b);
	cr_assert_eq(a->len, b->len);
	for (size_t i = 0; i < a->len; i++)
		cr_assert_eq(a->data[i], b->data[i], "%s: byte %zu is %#x, then %#x", what, i, a->data[i], b->data[i]);
}

Test(x86_state, what_is_saved_on_one_vcpu_is_loaded_on_another)
{
	struct state_writer a = { 0 }, b = { 0 };
	struct state_reader r;
	struct machine m;
	uint64_t tsc;

	need_kvm();
	start(&m, one);
	reset(&m);
	make_dirty(m.vcpu[0]);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &a), 0);
	finish(&m);

	start(&m, one);
	reset(&m);
	r = (struct state_reader){ .data = a.data, .len = a.len };
	cr_assert_eq(arch_vcpu_load(m.vcpu[0], m.model, &r, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(state_reader_finish(&r, &m.err), 0);
	tsc = get_msr(m.vcpu[0], 0x10);
	cr_assert_geq(tsc, UINT64_C(1) << 40, "time goes on where it was");
	if (has_own_tsc(m.vcpu[0]))
		cr_assert_leq(tsc, UINT64_C(1) << 41, "%#lx", (unsigned long)tsc);
	cr_assert_eq(get_msr(m.vcpu[0], 0xc0000082), 0xffffffff81000000);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &b), 0);
	same(&a, &b, "saved again");
	finish(&m);
	state_writer_free(&a);
	state_writer_free(&b);
}

Test(x86_state, a_reset_leaves_nothing_of_the_life_before)
{
	const struct arch_cpu_config two = { .boot = 2, .max = 2 };
	struct state_writer before[2] = { { 0 } }, after[2] = { { 0 } };
	struct machine m;

	need_kvm();
	start(&m, two);
	reset(&m);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(arch_vcpu_save(m.vcpu[i], &before[i]), 0);
		make_dirty(m.vcpu[i]);
	}
	reset(&m);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(arch_vcpu_save(m.vcpu[i], &after[i]), 0);
		same(&before[i], &after[i], i ? "application processor" : "boot processor");
		state_writer_free(&before[i]);
		state_writer_free(&after[i]);
	}
	finish(&m);
}

Test(x86_state, a_reset_gives_the_values_of_power_on)
{
	const struct arch_cpu_config six = { .boot = 6, .max = 6, .threads = 1, .cores = 3, .dies = 1, .packages = 2 };
	struct machine m;

	need_kvm();
	start(&m, six);
	reset(&m);
	for (unsigned i = 0; i < 6; i++) {
		struct kvm_lapic_state lapic;
		struct kvm_mp_state mp;
		struct kvm_sregs s;
		struct kvm_regs regs;

		cr_assert_eq(kvm_ioctl(m.vcpu[i], KVM_GET_REGS, &regs), 0);
		cr_assert_eq(kvm_ioctl(m.vcpu[i], KVM_GET_SREGS, &s), 0);
		cr_assert_eq(kvm_ioctl(m.vcpu[i], KVM_GET_LAPIC, &lapic), 0);
		cr_assert_eq(kvm_ioctl(m.vcpu[i], KVM_GET_MP_STATE, &mp), 0);
		cr_assert_eq(regs.rflags, 2);
		cr_assert_eq(regs.rip, i ? 0xfff0 : ENTRY_AT);
		cr_assert_eq(regs.rsi, i ? 0 : 0x7000);
		cr_assert_eq(s.apic_base, 0xfee00800 | (i ? 0 : 0x100));
		cr_assert_eq(s.cr0 & 1, !i, "real mode until the SIPI");
		cr_assert_eq(get_le32(lapic.regs + 0x20) >> 24, arch_cpu_id(m.model, i));
		cr_assert_eq(get_le32(lapic.regs + 0xf0), 0xff, "the APIC is off by its spurious vector");
		cr_assert_eq(mp.mp_state, i ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE);
		cr_assert_eq(get_msr(m.vcpu[i], 0x277), 0x0007040600070406);
		cr_assert_eq(get_msr(m.vcpu[i], 0x2ff), 0x806);
		if (has_own_tsc(m.vcpu[i])) {
			cr_assert_eq(arch_vcpu_reset(m.vcpu[i], i, m.model, &m.boot, &m.err), 0);
			cr_assert_lt(get_msr(m.vcpu[i], 0x10), UINT64_C(1) << 40, "the TSC counts from 0");
		}
	}
	finish(&m);
}

struct units {
	struct kvm_xcrs xcrs;
	struct kvm_fpu fpu;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
};

static void get_units(struct units *u, int vcpu)
{
	memset(u, 0, sizeof(*u));
	kvm_ioctl(vcpu, KVM_GET_XCRS, &u->xcrs);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_FPU, &u->fpu), 0);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &u->events), 0);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_DEBUGREGS, &u->debug), 0);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_MP_STATE, &u->mp), 0);
	cr_assert_eq(kvm_ioctl(vcpu, KVM_GET_LAPIC, &u->lapic), 0);
}

Test(x86_state, the_first_life_begins_as_every_other)
{
	const struct arch_cpu_config six = { .boot = 6, .max = 6, .threads = 1, .cores = 3, .dies = 1, .packages = 2 };
	struct units first, later;
	struct machine m;

	need_kvm();
	start(&m, six);
	m.boot.first = true;
	reset(&m);
	for (unsigned i = 0; i < 6; i++) {
		m.boot.first = true;
		get_units(&first, m.vcpu[i]);
		m.boot.first = false;
		cr_assert_eq(arch_vcpu_reset(m.vcpu[i], i, m.model, &m.boot, &m.err), 0);
		get_units(&later, m.vcpu[i]);
		for (unsigned reg = 0; reg < sizeof(first.lapic); reg += 16)
			cr_assert_eq(get_le32(first.lapic.regs + reg), get_le32(later.lapic.regs + reg),
				"vCPU %u, APIC register %#x: %#x and %#x", i, reg, get_le32(first.lapic.regs + reg),
				get_le32(later.lapic.regs + reg));
		cr_assert_arr_eq(&first, &later, sizeof(first), "vCPU %u", i);
	}
	finish(&m);
}

Test(x86_state, a_stream_that_is_cut_or_flipped_is_refused_and_changes_nothing)
{
	struct state_writer w = { 0 };
	struct kvm_regs before, after;
	struct machine m;
	uint8_t *copy;

	need_kvm();
	start(&m, one);
	reset(&m);
	make_dirty(m.vcpu[0]);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &w), 0);
	reset(&m);
	cr_assert_eq(kvm_ioctl(m.vcpu[0], KVM_GET_REGS, &before), 0);
	for (size_t i = 0; i < w.len; i++) {
		struct state_reader r;

		/* A block of its own, so that a read past its end is seen. */
		copy = malloc(i + 1);
		memcpy(copy, w.data, i);
		r = (struct state_reader){ .data = copy, .len = i };
		strcpy(m.err.text, "");
		cr_assert_lt(arch_vcpu_load(m.vcpu[0], m.model, &r, &m.err), 0, "cut at %zu", i);
		cr_assert_gt(strlen(m.err.text), 20);
		free(copy);
	}
	for (size_t i = 0; i < w.len; i++) {
		struct state_reader r = { .data = w.data, .len = w.len };

		w.data[i] ^= (uint8_t)(1u << i % 8);
		cr_assert_lt(arch_vcpu_load(m.vcpu[0], m.model, &r, &m.err), 0, "byte %zu flipped", i);
		w.data[i] ^= (uint8_t)(1u << i % 8);
	}
	cr_assert_eq(kvm_ioctl(m.vcpu[0], KVM_GET_REGS, &after), 0);
	cr_assert_eq(memcmp(&before, &after, sizeof(before)), 0);
	finish(&m);
	state_writer_free(&w);
}

/* ---- interrupt controllers and timers ---- */

static void get_chip(struct machine *m, unsigned id, struct kvm_irqchip *ret)
{
	*ret = (struct kvm_irqchip){ .chip_id = id };
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_GET_IRQCHIP, ret), 0);
}

/* As a guest leaves them that uses all of them. */
static void make_chips_dirty(struct machine *m)
{
	struct kvm_clock_data clock = { .clock = UINT64_C(1) << 50 };
	struct kvm_pit_state2 pit;
	struct kvm_irqchip chip;

	get_chip(m, KVM_IRQCHIP_IOAPIC, &chip);
	chip.chip.ioapic.ioregsel = 0x12;
	chip.chip.ioapic.id = 3;
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		chip.chip.ioapic.redirtbl[i].bits = UINT64_C(0x0100000000010030) + i;
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
	for (unsigned i = KVM_IRQCHIP_PIC_MASTER; i <= KVM_IRQCHIP_PIC_SLAVE; i++) {
		get_chip(m, i, &chip);
		chip.chip.pic.imr = (uint8_t)(0xfa + i);
		chip.chip.pic.irq_base = (uint8_t)(0x30 + 8 * i);
		chip.chip.pic.elcr = 0x08;
		cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
	}
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_GET_PIT2, &pit), 0);
	pit.channels[2].count = 0x4e20;
	pit.channels[2].mode = 3;
	pit.channels[2].rw_mode = 3;
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_SET_PIT2, &pit), 0);
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_SET_CLOCK, &clock), 0);
}

struct chips {
	struct kvm_irqchip chip[KVM_NR_IRQCHIPS];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
};

static void look(struct machine *m, struct chips *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i < KVM_NR_IRQCHIPS; i++)
		get_chip(m, i, &ret->chip[i]);
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_GET_PIT2, &ret->pit), 0);
	cr_assert_eq(kvm_ioctl(m->kvm.vm_fd, KVM_GET_CLOCK, &ret->clock), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(ret->pit.channels); i++)
		ret->pit.channels[i].count_load_time = 0; /* the host's clock at the last load */
}

static void expect_same_chips(const struct chips *a, const struct chips *b)
{
	for (unsigned i = 0; i < KVM_NR_IRQCHIPS; i++)
		cr_expect_eq(memcmp(&a->chip[i], &b->chip[i], sizeof(a->chip[i])), 0, "chip %u", i);
	cr_expect_eq(memcmp(&a->pit, &b->pit, sizeof(a->pit)), 0);
}

Test(x86_state, chips_saved_in_one_machine_go_on_in_another)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	struct chips a, b;
	struct machine m;

	need_kvm();
	start(&m, one);
	cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0);
	make_chips_dirty(&m);
	look(&m, &a);
	cr_assert_eq(a.chip[KVM_IRQCHIP_PIC_MASTER].chip.pic.irq_base, 0x30);
	cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
	finish(&m);

	start(&m, one);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(arch_vm_load(&m.kvm, &r, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(state_reader_finish(&r, &m.err), 0);
	look(&m, &b);
	expect_same_chips(&a, &b);
	cr_expect_geq(b.clock.clock, UINT64_C(1) << 50, "the guest's clock goes on");
	cr_expect_lt(b.clock.clock, UINT64_C(1) << 51);
	finish(&m);
	state_writer_free(&w);
}

Test(x86_state, a_reset_keeps_which_lines_of_a_pic_can_be_level_triggered)
{
	struct kvm_irqchip before, after;
	struct machine m;

	need_kvm();
	start(&m, one);
	for (unsigned i = KVM_IRQCHIP_PIC_MASTER; i <= KVM_IRQCHIP_PIC_SLAVE; i++) {
		get_chip(&m, i, &before);
		cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0);
		get_chip(&m, i, &after);
		cr_expect_eq(before.chip.pic.elcr_mask, after.chip.pic.elcr_mask);
	}
	finish(&m);
}

Test(x86_state, a_chip_stream_that_is_cut_or_flipped_is_refused_and_changes_nothing)
{
	struct state_writer w = { 0 };
	struct chips before, after;
	struct machine m;

	need_kvm();
	start(&m, one);
	make_chips_dirty(&m);
	cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
	cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0);
	look(&m, &before);
	for (size_t i = 0; i < w.len; i++) {
		uint8_t *copy = malloc(i + 1);
		struct state_reader cut = { .data = copy, .len = i }, flipped = { .data = w.data, .len = w.len };

		memcpy(copy, w.data, i);
		strcpy(m.err.text, "");
		cr_assert_lt(arch_vm_load(&m.kvm, &cut, &m.err), 0, "cut at %zu", i);
		cr_assert_gt(strlen(m.err.text), 20);
		free(copy);
		w.data[i] ^= (uint8_t)(1u << i % 8);
		cr_assert_lt(arch_vm_load(&m.kvm, &flipped, &m.err), 0, "byte %zu flipped", i);
		w.data[i] ^= (uint8_t)(1u << i % 8);
	}
	look(&m, &after);
	expect_same_chips(&before, &after);
	finish(&m);
	state_writer_free(&w);
}

/* A whole stream, with a good checksum, of chips that no guest can make. */
static const struct {
	unsigned chip;
	size_t offset;
	uint8_t value;
	const char *sentence;
} impossible[] = {
	{ KVM_IRQCHIP_IOAPIC, offsetof(struct kvm_ioapic_state, base_address) + 1, 0x10, "IOAPIC is at" },
	{ KVM_IRQCHIP_PIC_MASTER, offsetof(struct kvm_pic_state, elcr_mask), 0xff, "level lines" },
	{ KVM_IRQCHIP_PIC_SLAVE, offsetof(struct kvm_pic_state, elcr), 0xff, "level lines" },
	{ KVM_IRQCHIP_PIC_SLAVE, offsetof(struct kvm_pic_state, init_state), 9, "state 9" },
};

Test(x86_state, chips_that_no_guest_can_make_are_a_sentence)
{
	need_kvm();
	for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
		struct state_writer w = { 0 };
		struct state_reader r;
		struct kvm_irqchip chip;
		struct machine m;

		start(&m, one);
		get_chip(&m, impossible[i].chip, &chip);
		((uint8_t *)&chip.chip)[impossible[i].offset] = impossible[i].value;
		cr_assert_eq(kvm_ioctl(m.kvm.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
		cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
		r = (struct state_reader){ .data = w.data, .len = w.len };
		cr_expect_eq(arch_vm_load(&m.kvm, &r, &m.err), -EINVAL);
		cr_expect(strstr(m.err.text, impossible[i].sentence), "%s", m.err.text);
		finish(&m);
		state_writer_free(&w);
	}
}

/* ---- performance counters ---- */

Test(x86_state, performance_counters_are_there_when_asked_for_or_there_is_a_sentence)
{
	struct arch_cpu_config config = one;
	struct arch_cpu_model *model = NULL;
	struct error err = { "" };
	struct kvm kvm;
	int r;

	need_kvm();
	config.pmu = true;
	cr_assert_eq(kvm_open(&kvm, &err), 0);
	r = arch_cpu_model_create(&model, &kvm, &config, &err);
	if (r < 0) {
		cr_expect_eq(r, -ENODEV);
		cr_expect(strstr(err.text, "--cpus pmu=on: KVM on this host has no performance counters"), "%s", err.text);
	} else {
		const struct kvm_cpuid_entry2 *intel = leaf((struct cpuid *)model->cpuid, 0xa, 0);
		const struct kvm_cpuid_entry2 *amd = leaf((struct cpuid *)model->cpuid, 0x80000001, 0);

		cr_expect((intel && intel->eax & 0xff) || (amd && amd->ecx & 1u << 23));
	}
	arch_cpu_model_free(model);
	kvm_close(&kvm);
}
