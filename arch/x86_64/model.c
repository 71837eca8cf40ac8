/*
 * What the guest's CPUID says: what KVM supports on this host, shaped by a table.
 *
 * A row changes one register of one leaf: bits to clear, bits to set. What depends on the vCPU
 * (APIC ids) or the topology is filled by code after the table. Nested virtualisation is off unless
 * asked for: it doubles the attack surface. So are performance counters, by which a guest can watch
 * its neighbours.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

enum { CPUID_ENTRIES = 256 };

enum reg { EAX, EBX, ECX, EDX };

enum when { ALWAYS, UNLESS_NESTED, UNLESS_PMU, IF_SHARED_PACKAGE, IF_TSC_DEADLINE };

struct cpuid_row {
	uint32_t leaf, subleaf;
	uint8_t reg;       /* enum reg */
	uint8_t when;      /* enum when */
	uint32_t clear, set;
	const char *why;
};

#define BIT32(n) (UINT32_C(1) << (n))

static const struct cpuid_row rows[] = {
	{ 0x1, 0, ECX, ALWAYS, 0, BIT32(31), "a hypervisor is present" },
	{ 0x1, 0, ECX, ALWAYS, 0, BIT32(21), "x2APIC: KVM's in-kernel APIC has it on every host" },
	{ 0x1, 0, ECX, IF_TSC_DEADLINE, 0, BIT32(24), "TSC deadline timer of KVM's APIC" },
	{ 0x1, 0, ECX, UNLESS_NESTED, BIT32(5), 0, "VMX" },
	{ 0x1, 0, ECX, ALWAYS, BIT32(3), 0, "MONITOR: KVM would trap it" },
	{ 0x1, 0, ECX, UNLESS_PMU, BIT32(2) | BIT32(15), 0, "no performance counters (DTES64, PDCM)" },
	{ 0x1, 0, EDX, ALWAYS, BIT32(28), 0, "one logical processor in a package" },
	{ 0x1, 0, EDX, IF_SHARED_PACKAGE, 0, BIT32(28), "several logical processors in a package (HTT)" },
	{ 0x6, 0, EAX, ALWAYS, ~BIT32(2), 0, "no thermal or frequency control; the APIC timer always runs (ARAT)" },
	{ 0x6, 0, ECX, ALWAYS, ~0u, 0, "no energy bias" },
	{ 0xa, 0, EAX, UNLESS_PMU, ~0u, 0, "no performance counters" },
	{ 0xa, 0, EBX, UNLESS_PMU, ~0u, 0, "no performance counters" },
	{ 0xa, 0, ECX, UNLESS_PMU, ~0u, 0, "no performance counters" },
	{ 0xa, 0, EDX, UNLESS_PMU, ~0u, 0, "no performance counters" },
	{ 0x23, 0, EAX, UNLESS_PMU, ~0u, 0, "no performance counters" },
	{ 0x80000001, 0, ECX, UNLESS_NESTED, BIT32(2), 0, "SVM" },
	{ 0x80000001, 0, ECX, UNLESS_PMU, BIT32(23) | BIT32(24), 0, "no performance counters (AMD)" },
	{ 0x80000022, 0, EAX, UNLESS_PMU, ~0u, 0, "no performance counters (AMD)" },
	{ 0x8000000a, 0, EAX, UNLESS_NESTED, ~0u, 0, "SVM details" },
	{ 0x8000000a, 0, EBX, UNLESS_NESTED, ~0u, 0, "SVM details" },
	{ 0x8000000a, 0, EDX, UNLESS_NESTED, ~0u, 0, "SVM details" },
};

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, unsigned reg)
{
	uint32_t *const regs[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return regs[reg];
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *c, uint32_t leaf, uint32_t subleaf)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == leaf && c->entries[i].index == subleaf)
			return &c->entries[i];
	return NULL;
}

/* The entry, made when KVM did not list it; NULL when the list is full. */
static struct kvm_cpuid_entry2 *want(struct kvm_cpuid2 *c, uint32_t leaf, uint32_t subleaf, bool indexed)
{
	struct kvm_cpuid_entry2 *e = find(c, leaf, subleaf);

	if (e || c->nent == CPUID_ENTRIES)
		return e;
	e = &c->entries[c->nent++];
	*e = (struct kvm_cpuid_entry2){
		.function = leaf,
		.index = subleaf,
		.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
	};
	return e;
}

/*
 * What KVM supports has counters: Intel's by their version (SDM vol. 2, CPUID leaf 0xA), AMD's by
 * the extended ones (APM vol. 3 appendix E.4, 0x80000001 ECX bit 23).
 */
static int check_counters(struct kvm_cpuid2 *c, struct error *err)
{
	const struct kvm_cpuid_entry2 *intel = find(c, 0xa, 0), *amd = find(c, 0x80000001, 0);

	if ((intel && intel->eax & 0xff) || (amd && amd->ecx & BIT32(23)))
		return 0;
	return error_set(err, ENODEV, "--cpus pmu=on: KVM on this host has no performance counters for a guest; leave it off");
}

/* Subleaves of the host's own topology would follow ours. */
static void drop(struct kvm_cpuid2 *c, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function != leaf)
			c->entries[kept++] = c->entries[i];
	c->nent = kept;
}

static bool is_amd(struct kvm_cpuid2 *c)
{
	const struct kvm_cpuid_entry2 *e = find(c, 0, 0);

	/* "AuthenticAMD" and "HygonGenuine" by their EBX. */
	return e && (!memcmp(&e->ebx, "Auth", 4) || !memcmp(&e->ebx, "Hygo", 4));
}

static bool applies(const struct cpuid_row *row, struct kvm *kvm, const struct arch_cpu_config *config)
{
	switch ((enum when)row->when) {
	case UNLESS_NESTED:
		return !config->nested;
	case UNLESS_PMU:
		return !config->pmu;
	case IF_SHARED_PACKAGE:
		return config->threads * config->cores * config->dies > 1;
	case IF_TSC_DEADLINE:
		return kvm_check(kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	case ALWAYS:
		return true;
	}
	return false;
}

static void apply_rows(struct kvm_cpuid2 *c, struct kvm *kvm, const struct arch_cpu_config *config)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kvm_cpuid_entry2 *e = find(c, rows[i].leaf, rows[i].subleaf);
		uint32_t *reg;

		if (!e || !applies(&rows[i], kvm, config))
			continue;
		reg = reg_of(e, rows[i].reg);
		*reg = (*reg & ~rows[i].clear) | rows[i].set;
	}
}

static unsigned bits_for(uint32_t n)
{
	return n > 1 ? 32u - (unsigned)__builtin_clz(n - 1) : 0;
}

/*
 * The APIC id (Intel SDM vol. 3 §9.9.1): a field per level, each as wide as its count needs; a
 * count that is no power of two leaves gaps.
 */
uint32_t arch_cpu_id(const struct arch_cpu_model *m, unsigned index)
{
	uint32_t threads = MAX(m->config.threads, 1u), cores = MAX(m->config.cores, 1u);
	uint32_t dies = MAX(m->config.dies, 1u);
	uint32_t thread = index % threads, core = index / threads % cores;
	uint32_t die = index / threads / cores % dies, package = index / threads / cores / dies;

	return thread | core << m->smt_bits | die << (m->smt_bits + m->core_bits) |
		package << (m->smt_bits + m->core_bits + m->die_bits);
}

static int set_topology(struct arch_cpu_model *m, struct error *err)
{
	struct arch_cpu_config *c = &m->config;
	uint64_t total;

	/* Without a wish every vCPU is a core of one package: what schedulers treat best. */
	if (!c->threads && !c->cores && !c->dies && !c->packages)
		c->cores = c->max;
	c->threads = MAX(c->threads, 1u);
	c->cores = MAX(c->cores, 1u);
	c->dies = MAX(c->dies, 1u);
	c->packages = MAX(c->packages, 1u);
	total = (uint64_t)c->threads * c->cores * c->dies * c->packages;
	if (total != c->max)
		return error_set(err, EINVAL, "--cpus topology=%u:%u:%u:%u describes %llu vCPUs, but there are %u; make them equal",
			c->threads, c->cores, c->dies, c->packages, (unsigned long long)total, c->max);
	m->smt_bits = bits_for(c->threads);
	m->core_bits = bits_for(c->cores);
	m->die_bits = bits_for(c->dies);
	return 0;
}

/* Leaves 0xB and 0x1F: the levels of the topology; the x2APIC id is filled per vCPU. */
static void topology_leaf(struct arch_cpu_model *m, uint32_t leaf, bool with_dies)
{
	enum { LEVEL_SMT = 1, LEVEL_CORE = 2, LEVEL_DIE = 5 };
	const struct arch_cpu_config *c = &m->config;
	uint32_t above_core = with_dies ? 1 : c->dies;
	struct { uint32_t type, shift, count; } level[] = {
		{ LEVEL_SMT, m->smt_bits, c->threads },
		{ LEVEL_CORE, m->smt_bits + m->core_bits + (with_dies ? 0 : m->die_bits),
			c->threads * c->cores * above_core },
		{ LEVEL_DIE, m->smt_bits + m->core_bits + m->die_bits, c->threads * c->cores * c->dies },
		{ 0, 0, 0 },
	};
	uint32_t n = 0;

	drop(m->cpuid, leaf);
	for (size_t i = 0; i < ARRAY_SIZE(level); i++) {
		struct kvm_cpuid_entry2 *e;

		if (level[i].type == LEVEL_DIE && !with_dies)
			continue;
		e = want(m->cpuid, leaf, n, true);
		if (!e)
			return;
		e->eax = level[i].shift;
		e->ebx = level[i].count;
		e->ecx = n | level[i].type << 8;
		n++;
	}
}

/*
 * Leaf 4 (Intel) and 0x8000001D (AMD): who shares each cache. The last level is shared by the die,
 * others by a core.
 */
static void cache_leaf(struct arch_cpu_model *m, uint32_t leaf)
{
	uint32_t cores = MIN(BIT32(m->core_bits + m->die_bits), 64u);

	for (uint32_t i = 0; i < 8; i++) {
		struct kvm_cpuid_entry2 *e = find(m->cpuid, leaf, i);
		uint32_t level, sharing;

		if (!e || !(e->eax & 0x1f))
			return;
		level = e->eax >> 5 & 7;
		sharing = level >= 3 ? BIT32(m->smt_bits + m->core_bits) : BIT32(m->smt_bits);
		e->eax = (e->eax & 0x3fff) | MIN(sharing - 1, 0xfffu) << 14;
		if (leaf == 4)
			e->eax |= (cores - 1) << 26;
	}
}

/* Bits 7:0: of physical addresses; 23:16: of a guest's, 0 means the same. */
static void address_leaf(struct arch_cpu_model *m)
{
	struct kvm_cpuid_entry2 *e = find(m->cpuid, 0x80000008, 0);
	uint32_t bits = m->config.max_phys_bits;

	if (e && bits)
		e->eax = (e->eax & 0xff00ff00) | MIN(e->eax & 0xff, bits) | MIN(e->eax >> 16 & 0xff, bits) << 16;
}

/*
 * AMD APM vol. 3 appendix E.4: 0x80000008 ECX and 0x8000001E; Intel has nothing there. What differs
 * per vCPU is in set_ids().
 */
static void amd_topology(struct arch_cpu_model *m)
{
	const struct arch_cpu_config *c = &m->config;
	struct kvm_cpuid_entry2 *e = find(m->cpuid, 0x80000008, 0);
	unsigned bits = m->smt_bits + m->core_bits + m->die_bits;

	/* A newer form of the host's own topology. */
	drop(m->cpuid, 0x80000026);
	if (!is_amd(m->cpuid))
		return;
	if (e)
		e->ecx = MIN(bits, 15u) << 12 | (MIN(c->threads * c->cores * c->dies, 256u) - 1);
	e = find(m->cpuid, 0x8000001e, 0);
	if (e) {
		e->ebx = (c->threads - 1) << 8;
		e->ecx = (c->dies - 1) << 8;
	}
}

/* 0x40000000: "KVMKVMKVM", and its features (Documentation/virt/kvm/x86/cpuid.rst). */
static void hypervisor_leaf(struct arch_cpu_model *m)
{
	struct kvm_cpuid_entry2 *e = want(m->cpuid, 0x40000000, 0, false);

	if (!e)
		return;
	e->eax = 0x40000001;
	memcpy(&e->ebx, "KVMK", 4);
	memcpy(&e->ecx, "VMKV", 4);
	memcpy(&e->edx, "M\0\0\0", 4);
}

static int get_supported(struct kvm_cpuid2 **ret, struct kvm *kvm, struct error *err)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + CPUID_ENTRIES * sizeof(c->entries[0]));
	int r;

	if (!c)
		return error_set(err, ENOMEM, "out of memory for CPUID");
	c->nent = CPUID_ENTRIES;
	r = kvm_ioctl(kvm->dev_fd, KVM_GET_SUPPORTED_CPUID, c);
	if (r < 0) {
		free(c);
		return error_set(err, -r, "KVM does not tell the CPUID it supports: %s", strerror(-r));
	}
	*ret = c;
	return 0;
}

int arch_cpu_model_create(struct arch_cpu_model **ret, struct kvm *kvm, const struct arch_cpu_config *cpus,
	struct error *err)
{
	struct arch_cpu_model *m = calloc(1, sizeof(*m));
	struct kvm_cpuid_entry2 *e;
	int r;

	if (!m)
		return error_set(err, ENOMEM, "out of memory for the CPU model");
	m->config = *cpus;
	r = set_topology(m, err);
	if (r == 0)
		r = get_supported(&m->cpuid, kvm, err);
	if (r == 0 && cpus->pmu)
		r = check_counters(m->cpuid, err);
	if (r == 0 && (r = x86_find_msrs(m, kvm->dev_fd)) < 0)
		error_set(err, -r, "KVM does not tell the MSRs it has: %s", strerror(-r));
	if (r < 0) {
		arch_cpu_model_free(m);
		return r;
	}
	apply_rows(m->cpuid, kvm, &m->config);
	hypervisor_leaf(m);
	e = find(m->cpuid, 0, 0);
	if (e && e->eax >= 0xb)
		topology_leaf(m, 0xb, false);
	if (e && e->eax >= 0x1f)
		topology_leaf(m, 0x1f, true);
	cache_leaf(m, 4);
	cache_leaf(m, 0x8000001d);
	address_leaf(m);
	amd_topology(m);
	*ret = m;
	return 0;
}

void arch_cpu_model_free(struct arch_cpu_model *m)
{
	if (!m)
		return;
	free(m->cpuid);
	free(m);
}

static void set_ids(struct kvm_cpuid2 *cpuid, const struct arch_cpu_model *m, unsigned index)
{
	uint32_t id = arch_cpu_id(m, index);
	uint32_t logical = BIT32(m->smt_bits + m->core_bits + m->die_bits), cores = logical >> m->smt_bits;
	const struct arch_cpu_config *c = &m->config;
	bool amd = is_amd(cpuid);

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0xffff) | MIN(logical, 255u) << 16 | (id & 0xff) << 24;
		else if (e->function == 0xb || e->function == 0x1f)
			e->edx = id;
		else if (e->function == 0x8000001e && amd) {
			/*
			 * Core and die ("node") are counted within the package and within the
			 * machine.
			 */
			e->eax = id;
			e->ebx = (e->ebx & ~0xffu) | (id >> m->smt_bits & (cores - 1) & 0xff);
			e->ecx = (e->ecx & ~0xffu) | (index / c->threads / c->cores & 0xff);
		}
	}
}

int arch_vcpu_init(struct kvm *kvm, int vcpu_fd, unsigned index, struct arch_cpu_model *m, struct error *err)
{
	int r;

	(void)kvm;
	/*
	 * The list is the machine's own and main makes vCPUs one after the other: ids are written
	 * in place.
	 */
	set_ids(m->cpuid, m, index);
	r = kvm_ioctl(vcpu_fd, KVM_SET_CPUID2, m->cpuid);
	if (r < 0)
		return error_set(err, -r, "KVM refuses the CPUID of vCPU %u: %s", index, strerror(-r));
	return 0;
}
