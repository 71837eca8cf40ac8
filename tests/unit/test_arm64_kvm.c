/*
 * Real vCPUs and interrupt controllers of KVM on an ARM host: their state in both directions, and streams that are no
 * state. Skipped where there is no KVM.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"
#include "vmm/state.h"

enum { RAM = 4 * MIB, VCPUS_MAX = 4, CODE_AT = 0x10000, NOWHERE = 0x0b800000 };
enum { ITT = 0x100000, DEVICES = 0x110000, COLLECTIONS = 0x120000, QUEUE = 0x130000, PROPERTIES = 0x140000,
	PENDING = 0x150000, LPI = 8192, EVENT = 1, DEVICE_ID = 8 };

struct machine {
	struct kvm kvm;
	struct guest_mem *mem;
	struct arch_cpu_config config;
	struct arch_cpu_model *model;
	int vcpu[VCPUS_MAX];
	uint8_t *ram;
	struct error err;
};

static void need_kvm(void)
{
	struct error err;
	struct kvm kvm;

	if (kvm_open(&kvm, &err) < 0)
		cr_skip_test("no KVM here: %s", err.text);
	kvm_close(&kvm);
}

static void reset_all(struct machine *m)
{
	const struct arch_boot boot = { .entry = ARM64_RAM + CODE_AT, .fdt = 0x1234 };

	for (unsigned i = 0; i < m->config.boot; i++)
		cr_assert_eq(arch_vcpu_reset(m->vcpu[i], i, m->model, &boot, &m->err), 0, "%s", m->err.text);
}

static void start_config(struct machine *m, struct arch_cpu_config config)
{
	const struct mem_config plain = { 0 };

	*m = (struct machine){ .config = config };
	cr_assert_eq(kvm_open(&m->kvm, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(kvm_create_vm(&m->kvm, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(mem_create(&m->mem, &m->err), 0);
	cr_assert_eq(mem_add_ram(m->mem, ARM64_RAM, RAM, &plain, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(kvm_attach_mem(&m->kvm, m->mem, &m->err), 0, "%s", m->err.text);
	m->ram = mem_region(m->mem, 0)->host;
	cr_assert_eq(arch_vm_init(&m->kvm, &m->config, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(arch_cpu_model_create(&m->model, &m->kvm, &m->config, &m->err), 0, "%s", m->err.text);
	for (unsigned i = 0; i < config.boot; i++) {
		m->vcpu[i] = kvm_create_vcpu(&m->kvm, i, arch_cpu_id(m->model, i), &m->err);
		cr_assert_geq(m->vcpu[i], 0, "%s", m->err.text);
		cr_assert_eq(arch_vcpu_init(&m->kvm, m->vcpu[i], i, m->model, &m->err), 0, "%s", m->err.text);
	}
	reset_all(m);
}

static void start(struct machine *m, unsigned vcpus)
{
	start_config(m, (struct arch_cpu_config){ .boot = vcpus, .max = vcpus });
}

static void finish(struct machine *m)
{
	for (unsigned i = 0; i < m->config.boot; i++)
		close(m->vcpu[i]);
	arch_cpu_model_free(m->model);
	arch_vm_free(m->kvm.arch);
	m->kvm.arch = NULL;
	kvm_close(&m->kvm);
	mem_destroy(m->mem);
}

/* ---- streams ---- */

static uint32_t crc32c(const uint8_t *p, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (; len--; p++) {
		crc ^= *p;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

/* New checksums for all objects of a changed stream: what is wrong then is what it says, not that it is damaged. */
static void reseal(struct state_writer *w)
{
	static const size_t widths[] = { [STATE_U8] = 1, [STATE_U16] = 2, [STATE_U32] = 4, [STATE_U64] = 8, [STATE_BOOL] = 1 };
	size_t at = 0;

	while (at < w->len) {
		size_t begin = at;

		at += 1u + w->data[at] + 2;
		while (w->data[at]) {
			at += 1u + w->data[at];
			at += 3 + widths[w->data[at]] * get_le16(w->data + at + 1);
		}
		at++;
		put_le32(w->data + at, crc32c(w->data + begin, at - begin));
		at += 4;
	}
	cr_assert_eq(at, w->len);
}

/* The bytes of the nth field of this name in a stream. */
static uint8_t *field(struct state_writer *w, const char *name, unsigned nth)
{
	size_t len = strlen(name);
	uint8_t head[32] = { (uint8_t)len }, *p = w->data;

	memcpy(head + 1, name, len);
	for (;; p++) {
		p = memmem(p, (size_t)(w->data + w->len - p), head, len + 1);
		cr_assert(p, "field %s", name);
		if (!nth--)
			return p + 1 + len + 3;
	}
}

static struct state_reader reader(const struct state_writer *w)
{
	return (struct state_reader){ .data = w->data, .len = w->len };
}

/* Where the value of a register lies among the values of a stream; NULL: the vCPU has it not. */
static uint8_t *register_value(struct state_writer *w, uint64_t id)
{
	const uint8_t *ids = field(w, "id", 0);
	uint8_t *value = field(w, "value", 0);

	for (uint32_t i = 0, n = get_le32(field(w, "nregs", 0)); i < n; i++) {
		uint64_t this = get_le64(ids + 8 * i);

		if (this == id)
			return value;
		value += (size_t)1 << ((this & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
	}
	return NULL;
}

/* The counters go on by themselves. */
static void expect_same_registers(struct state_writer *a, struct state_writer *b)
{
	static const uint64_t running[] = { KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_PTIMER_CNT };
	const uint8_t *ids = field(a, "id", 0);

	cr_assert_eq(a->len, b->len);
	for (size_t i = 0; i < ARRAY_SIZE(running); i++)
		if (register_value(a, running[i])) {
			memset(register_value(a, running[i]), 0, 8);
			memset(register_value(b, running[i]), 0, 8);
		}
	for (uint32_t i = 0, n = get_le32(field(a, "nregs", 0)); i < n; i++) {
		uint64_t id = get_le64(ids + 8 * i);
		size_t size = (size_t)1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);

		cr_expect_eq(memcmp(register_value(a, id), register_value(b, id), size), 0, "register %#llx",
			(unsigned long long)id);
	}
	reseal(a);
	reseal(b);
	cr_expect_eq(memcmp(a->data, b->data, a->len), 0);
}

/* ---- vCPUs ---- */

/* Two stores to where nothing is, and between them an addition to a register and a change of others. */
static const uint32_t code[] = {
	0xd2a17002, /* movz x2, #0xb80, lsl #16 */
	0xd2824685, /* movz x5, #0x1234 */
	0xd51bd045, /* msr tpidr_el0, x5 */
	0x9e6700a0, /* fmov d0, x5: CPACR_EL1 allows it */
	0xb9000045, /* str w5, [x2] */
	0xd53bd045, /* mrs x5, tpidr_el0 */
	0x910004a5, /* add x5, x5, #1 */
	0xb9000045, /* str w5, [x2] */
	0x14000000, /* b . */
};
enum { FPEN = 3 << 20 };

static struct kvm_run *map_run(struct machine *m)
{
	struct kvm_run *run = mmap(NULL, m->kvm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu[0], 0);

	cr_assert_neq((void *)run, MAP_FAILED);
	return run;
}

/* Runs to the next store, completes it, and gives what was stored. */
static uint32_t run_to_store(struct machine *m)
{
	struct kvm_run *run = map_run(m);
	uint32_t stored;

	cr_assert_eq(kvm_ioctl(m->vcpu[0], KVM_RUN, NULL), 0);
	cr_assert_eq(run->exit_reason, KVM_EXIT_MMIO, "exit %u", run->exit_reason);
	cr_assert_eq(run->mmio.phys_addr, NOWHERE);
	cr_assert(run->mmio.is_write);
	memcpy(&stored, run->mmio.data, sizeof(stored));
	run->immediate_exit = 1;
	cr_assert(ioctl(m->vcpu[0], KVM_RUN, 0) < 0 && errno == EINTR);
	run->immediate_exit = 0;
	munmap(run, m->kvm.run_size);
	return stored;
}

static void put_code(struct machine *m)
{
	uint64_t cpacr = FPEN;

	memcpy(m->ram + CODE_AT, code, sizeof(code));
	cr_assert_eq(arm64_set_reg(m->vcpu[0], ARM64_SYS_REG(3, 0, 1, 0, 2), &cpacr), 0);
}

Test(arm64_kvm, a_vcpu_that_ran_goes_on_in_another_machine)
{
	struct state_writer a = { 0 }, b = { 0 };
	struct state_reader r;
	struct machine m;

	need_kvm();
	start(&m, 1);
	put_code(&m);
	cr_assert_eq(run_to_store(&m), 0x1234);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &a), 0);
	finish(&m);

	start(&m, 1);
	memcpy(m.ram + CODE_AT, code, sizeof(code));
	r = reader(&a);
	cr_assert_eq(arch_vcpu_load(m.vcpu[0], m.model, &r, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(state_reader_finish(&r, &m.err), 0);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &b), 0);
	expect_same_registers(&a, &b);
	cr_assert_eq(run_to_store(&m), 0x1235, "tpidr_el0 came over, and the instruction after the store is the next");
	finish(&m);
	state_writer_free(&a);
	state_writer_free(&b);
}

Test(arm64_kvm, a_vcpu_that_is_off_stays_off)
{
	struct state_writer w = { 0 };
	struct kvm_mp_state mp;
	struct state_reader r;
	struct machine m;

	need_kvm();
	start(&m, 2);
	cr_assert_eq(arch_vcpu_save(m.vcpu[1], &w), 0);
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	cr_assert_eq(kvm_ioctl(m.vcpu[1], KVM_SET_MP_STATE, &mp), 0);
	r = reader(&w);
	/* MPIDR_EL1 is its own: to another vCPU it would be a foreign register. */
	cr_assert_eq(arch_vcpu_load(m.vcpu[1], m.model, &r, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(kvm_ioctl(m.vcpu[1], KVM_GET_MP_STATE, &mp), 0);
	cr_expect_eq(mp.mp_state, KVM_MP_STATE_STOPPED);
	finish(&m);
	state_writer_free(&w);
}

enum { LAST = -1, PAST = -2 }; /* the last register of the list, the first unused place behind it */
static const struct {
	const char *what;
	int at, more; /* which id is changed; what is added to the count */
	uint64_t id;
	const char *sentence;
} strange[] = {
	{ "an unknown register", LAST, 0, KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG | 0xfffe, "use a host of the same kind" },
	{ "a register of another size", 0, 0, KVM_REG_ARM64 | KVM_REG_SIZE_U32 | KVM_REG_ARM_CORE, "use a host of the same kind" },
	{ "a register of another CPU", LAST, 0, KVM_REG_X86 | KVM_REG_SIZE_U64, "not a register of this processor" },
	{ "an enormous register", LAST, 0, KVM_REG_ARM64 | KVM_REG_SIZE_U2048 | KVM_REG_SIZE_U16 | KVM_REG_ARM64_SYSREG, "not a register of this processor" },
	{ "one too many", PAST, 1, KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG | 0xfffe, "only the saved vCPU has" },
	{ "one missing", PAST, -1, 0, "only the vCPU of this host has" },
	{ "none", PAST, -100000, 0, "only the vCPU of this host has" },
	{ "more than fit", PAST, 100000, 0, "are more than" },
};

Test(arm64_kvm, registers_that_are_not_the_vcpus_are_refused_and_change_nothing)
{
	struct state_writer before = { 0 };
	struct machine m;

	need_kvm();
	start(&m, 1);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &before), 0);
	for (size_t i = 0; i < ARRAY_SIZE(strange); i++) {
		struct state_writer w = { 0 }, after = { 0 };
		struct state_reader r;
		uint32_t n;

		cr_assert_eq(arch_vcpu_save(m.vcpu[0], &w), 0);
		n = get_le32(field(&w, "nregs", 0));
		if (strange[i].id)
			put_le64(field(&w, "id", 0) + 8 * (strange[i].at == LAST ? n - 1 : strange[i].at == PAST ? n : 0),
				strange[i].id);
		put_le32(field(&w, "nregs", 0), strange[i].more < -1 ? 0 : n + (uint32_t)strange[i].more);
		/* What would be seen if it were taken. */
		memset(field(&w, "value", 0), 0x77, 8);
		reseal(&w);
		r = reader(&w);
		strcpy(m.err.text, "");
		cr_expect_lt(arch_vcpu_load(m.vcpu[0], m.model, &r, &m.err), 0, "%s", strange[i].what);
		cr_expect(strstr(m.err.text, strange[i].sentence), "%s: %s", strange[i].what, m.err.text);
		cr_assert_eq(arch_vcpu_save(m.vcpu[0], &after), 0);
		expect_same_registers(&before, &after);
		state_writer_free(&w);
		state_writer_free(&after);
	}
	finish(&m);
	state_writer_free(&before);
}

Test(arm64_kvm, an_id_register_of_another_processor_is_a_sentence)
{
	const uint64_t midr = ARM64_SYS_REG(3, 0, 0, 0, 0);
	struct state_writer w = { 0 };
	struct state_reader r;
	struct machine m;

	need_kvm();
	start(&m, 1);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &w), 0);
	if (!register_value(&w, midr))
		cr_skip_test("this KVM does not list MIDR_EL1");
	put_le64(register_value(&w, midr), 0xffffffffffffffff);
	reseal(&w);
	r = reader(&w);
	cr_expect_lt(arch_vcpu_load(m.vcpu[0], m.model, &r, &m.err), 0);
	cr_expect(strstr(m.err.text, "does not fit this host's processor"), "%s", m.err.text);
	finish(&m);
	state_writer_free(&w);
}

/* ---- the interrupt controller ---- */

static void set32(struct machine *m, uint32_t group, uint64_t cpu, uint32_t offset, uint32_t value)
{
	cr_assert_eq(arm64_set_attr(m->kvm.arch->gic_fd, group, cpu << 32 | offset, &value), 0, "group %u, %#x", group, offset);
}

static uint32_t get32(struct machine *m, uint32_t group, uint64_t cpu, uint32_t offset)
{
	uint32_t value = 0;

	cr_assert_eq(arm64_get_attr(m->kvm.arch->gic_fd, group, cpu << 32 | offset, &value), 0, "group %u, %#x", group, offset);
	return value;
}

static void set_icc(struct machine *m, uint64_t cpu, uint32_t reg, uint64_t value)
{
	cr_assert_eq(arm64_set_attr(m->kvm.arch->gic_fd, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, cpu << 32 | reg, &value), 0);
}

static void set_its(struct machine *m, uint32_t offset, uint64_t value)
{
	cr_assert_eq(arm64_set_attr(m->kvm.arch->its_fd, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset, &value), 0, "%#x", offset);
}

enum { DIST = KVM_DEV_ARM_VGIC_GRP_DIST_REGS, REDIST = KVM_DEV_ARM_VGIC_GRP_REDIST_REGS };

/* What both have at the same places: shared interrupts that are enabled, pending, active, with priority and trigger. */
static void make_shared_dirty(struct machine *m)
{
	set32(m, DIST, 0, 0xc08, 0xaaaaaaaa); /* ICFGR: edges */
	set32(m, DIST, 0, 0x420, 0xa0805020);
	set32(m, DIST, 0, 0x104, 0x00ff00f1);
	set32(m, DIST, 0, 0x204, 0x00000030);
	set32(m, DIST, 0, 0x304, 0x00000040);
	set32(m, DIST, 0, 0x000, m->kvm.arch->gic_version == 3 ? 2 : 1);
}

static void make_v2_dirty(struct machine *m)
{
	make_shared_dirty(m);
	set32(m, DIST, 0, 0x820, 0x02010102);
	set32(m, DIST, 1, 0x100, 0x08000001); /* the timer's, and an SGI */
	set32(m, DIST, 1, 0xf20, 0x01000000); /* SGI 3 for CPU 1, sent by CPU 0 */
	set32(m, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, 1, 0x04, 0xf0);
	set32(m, KVM_DEV_ARM_VGIC_GRP_CPU_REGS, 1, 0x00, 1);
}

/* Message interrupts (IHI 0069 §5.3): room for everything, then MAPD, MAPC, MAPTI and INV by the command queue. */
static void map_message(struct machine *m)
{
	const uint64_t commands[][4] = {
		{ UINT64_C(0x08) | (uint64_t)DEVICE_ID << 32, 4, UINT64_C(1) << 63 | (ARM64_RAM + ITT), 0 },
		{ UINT64_C(0x09), 0, UINT64_C(1) << 63 | UINT64_C(1) << 16, 0 },
		{ UINT64_C(0x0a) | (uint64_t)DEVICE_ID << 32, EVENT | (uint64_t)LPI << 32, 0, 0 },
		{ UINT64_C(0x0c) | (uint64_t)DEVICE_ID << 32, EVENT, 0, 0 },
	};
	uint64_t mpidr = arm64_mpidr(1), valid = UINT64_C(1) << 63;
	const struct { uint32_t offset, value; } redist[] = {
		{ 0x70, (ARM64_RAM + PROPERTIES) | 15 }, { 0x74, 0 }, /* 16 bits of ids */
		{ 0x78, ARM64_RAM + PENDING }, { 0x7c, 0 },
		{ 0x00, 1 },
	};

	m->ram[PROPERTIES] = 0xa0 | 1;
	for (size_t i = 0; i < ARRAY_SIZE(redist); i++)
		set32(m, REDIST, mpidr, redist[i].offset, redist[i].value);
	memcpy(m->ram + QUEUE, commands, sizeof(commands));
	set_its(m, 0x80, valid | (ARM64_RAM + QUEUE));
	set_its(m, 0x100, valid | UINT64_C(1) << 56 | UINT64_C(7) << 48 | (ARM64_RAM + DEVICES) | 2u << 8 | 0);
	set_its(m, 0x108, valid | UINT64_C(4) << 56 | UINT64_C(7) << 48 | (ARM64_RAM + COLLECTIONS) | 2u << 8 | 0);
	set_its(m, 0x00, 1);
	set_its(m, 0x88, sizeof(commands));
}

/* 1: delivered; 0: the guest blocks it; -errno. */
static int signal_message(struct machine *m, uint32_t event)
{
	struct kvm_msi msi = { .address_lo = ARM64_ITS + 0x10040, .data = event, .flags = KVM_MSI_VALID_DEVID, .devid = DEVICE_ID };

	return kvm_ioctl(m->kvm.vm_fd, KVM_SIGNAL_MSI, &msi);
}

static void make_v3_dirty(struct machine *m)
{
	uint64_t mpidr = arm64_mpidr(1);

	make_shared_dirty(m);
	set32(m, DIST, 0, 0x6100, 1); /* IROUTER32: to vCPU 1 */
	set32(m, REDIST, mpidr, 0x10100, 0x08000001);
	set32(m, REDIST, mpidr, 0x10200, 0x00000004);
	set32(m, REDIST, mpidr, 0x10418, 0x50000000);
	set_icc(m, mpidr, ARM64_ICC_PMR, 0xf0);
	set_icc(m, mpidr, ARM64_ICC_BPR1, 3);
	set_icc(m, mpidr, ARM64_ICC_IGRPEN1, 1);
	map_message(m);
	cr_assert_eq(signal_message(m, EVENT), 1);
}

static void make_dirty(struct machine *m)
{
	if (m->kvm.arch->gic_version == 3)
		make_v3_dirty(m);
	else
		make_v2_dirty(m);
}

/* What was written, as the guest would read it. */
static void expect_dirty(struct machine *m)
{
	bool v3 = m->kvm.arch->gic_version == 3;

	cr_expect_eq(get32(m, DIST, 0, 0x104), 0x00ff00f1);
	cr_expect_eq(get32(m, DIST, 0, 0x204), 0x00000030);
	cr_expect_eq(get32(m, DIST, 0, 0x304), 0x00000040);
	cr_expect_eq(get32(m, DIST, 0, 0xc08), 0xaaaaaaaa);
	if (!v3) {
		cr_expect_eq(get32(m, DIST, 1, 0xf20), 0x01000000, "who sent the SGI");
		cr_expect_eq(get32(m, DIST, 0, 0xf20), 0);
		return;
	}
	cr_expect_eq(get32(m, DIST, 0, 0x6100), 1);
	cr_expect_eq(get32(m, REDIST, arm64_mpidr(1), 0x10200) & 4, 4);
	cr_expect_eq(get32(m, REDIST, arm64_mpidr(1), 0x0) & 1, 1, "messages are on");
	cr_expect_eq(signal_message(m, EVENT), 1, "the table of devices and the one of events came over");
	cr_expect_neq(signal_message(m, EVENT + 1), 1, "no more than that");
}

Test(arm64_kvm, an_interrupt_controller_goes_on_in_another_machine)
{
	struct state_writer a = { 0 }, b = { 0 };
	uint8_t *ram = malloc(RAM);
	struct state_reader r;
	struct machine m;

	need_kvm();
	start(&m, 2);
	make_dirty(&m);
	cr_assert_eq(arch_vm_save(&m.kvm, &a), 0);
	if (m.kvm.arch->gic_version == 3)
		cr_assert_eq(m.ram[PENDING + LPI / 8] >> LPI % 8 & 1, 1, "the pending message is in memory");
	memcpy(ram, m.ram, RAM);
	finish(&m);

	start(&m, 2);
	memcpy(m.ram, ram, RAM);
	r = reader(&a);
	cr_assert_eq(arch_vm_load(&m.kvm, &r, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(state_reader_finish(&r, &m.err), 0);
	cr_assert_eq(arch_vm_save(&m.kvm, &b), 0);
	cr_assert_eq(a.len, b.len);
	cr_expect_eq(memcmp(a.data, b.data, a.len), 0, "saved again it is the same");
	if (m.kvm.arch->gic_version == 3)
		cr_expect_eq(m.ram[PENDING + LPI / 8] >> LPI % 8 & 1, 1, "and it still waits");
	expect_dirty(&m);

	/* Over one that is in use, too, and without a trace of that. */
	r = reader(&a);
	set32(&m, DIST, 0, 0x108, 0x00f00000);
	cr_assert_eq(arch_vm_load(&m.kvm, &r, &m.err), 0, "%s", m.err.text);
	cr_expect_eq(get32(&m, DIST, 0, 0x108), 0);
	expect_dirty(&m);
	finish(&m);
	free(ram);
	state_writer_free(&a);
	state_writer_free(&b);
}

Test(arm64_kvm, a_reset_leaves_nothing_of_the_interrupts_before)
{
	struct state_writer a = { 0 }, b = { 0 };
	const uint8_t *its;
	struct machine m;

	need_kvm();
	start(&m, 2);
	cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(arch_vm_save(&m.kvm, &a), 0);
	make_dirty(&m);
	cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0, "%s", m.err.text);
	cr_assert_eq(arch_vm_save(&m.kvm, &b), 0);
	cr_assert_eq(a.len, b.len);
	/* An ITS keeps the addresses of its tables, which are not valid any more. */
	its = memmem(a.data, a.len, "arm64-its", strlen("arm64-its"));
	for (size_t i = 0; i < (its ? (size_t)(its - a.data) : a.len); i++)
		cr_expect_eq(a.data[i], b.data[i], "byte %zu", i);
	cr_expect_lt(signal_message(&m, EVENT), 1);
	finish(&m);
	state_writer_free(&a);
	state_writer_free(&b);
}

static void refuse(struct machine *m, const struct state_writer *w, const char *sentence)
{
	struct state_writer before = { 0 }, after = { 0 };
	struct state_reader r = reader(w);

	cr_assert_eq(arch_vm_save(&m->kvm, &before), 0);
	strcpy(m->err.text, "");
	cr_expect_lt(arch_vm_load(&m->kvm, &r, &m->err), 0, "%s", sentence);
	cr_expect(strstr(m->err.text, sentence), "%s, not: %s", sentence, m->err.text);
	cr_expect_eq(r.pos, 0);
	cr_assert_eq(arch_vm_save(&m->kvm, &after), 0);
	cr_expect_eq(memcmp(before.data, after.data, before.len), 0, "%s: nothing changed", sentence);
	state_writer_free(&before);
	state_writer_free(&after);
}

static const struct {
	const char *field;
	unsigned nth;
	uint32_t value;
	const char *sentence;
} lies[] = {
	{ "version", 0, 4, "GICv4" },
	{ "version", 0, UINT32_MAX, "GICv4294967295" },
	{ "lines", 0, 1020, "1020 lines" },
	{ "vcpus", 0, 1, "has 1 vCPUs" },
	{ "vcpus", 0, UINT32_MAX, "give --cpus boot=" },
	{ "has_its", 0, 2, "2 ITS" },
	{ "key", 1, 5, "names another vCPU" },
};

Test(arm64_kvm, an_interrupt_controller_of_another_machine_is_refused_and_changes_nothing)
{
	struct machine m;

	need_kvm();
	start(&m, 2);
	make_dirty(&m);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct state_writer w = { 0 };

		cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
		put_le32(field(&w, lies[i].field, lies[i].nth), lies[i].value);
		reseal(&w);
		refuse(&m, &w, lies[i].sentence);
		state_writer_free(&w);
	}
	finish(&m);
}

Test(arm64_kvm, a_chip_stream_that_is_cut_or_flipped_is_refused)
{
	struct state_writer w = { 0 };
	struct machine m;

	need_kvm();
	start(&m, 1);
	cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
	for (size_t i = 0; i < w.len; i++) {
		struct state_reader r = { .data = w.data, .len = i };

		cr_assert_lt(arch_vm_load(&m.kvm, &r, &m.err), 0, "cut at %zu", i);
		w.data[i] ^= (uint8_t)(1u << i % 8);
		r = reader(&w);
		cr_assert_lt(arch_vm_load(&m.kvm, &r, &m.err), 0, "byte %zu flipped", i);
		w.data[i] ^= (uint8_t)(1u << i % 8);
	}
	finish(&m);
	state_writer_free(&w);
}

Test(arm64_kvm, registers_and_tables_that_kvm_refuses_are_a_sentence)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	struct machine m;

	need_kvm();
	start(&m, 2);
	make_dirty(&m);
	cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
	put_le32(field(&w, "reg", 0), 0xffffffff); /* GICD_IIDR */
	reseal(&w);
	r = reader(&w);
	cr_expect_lt(arch_vm_load(&m.kvm, &r, &m.err), 0);
	cr_expect(strstr(m.err.text, "does not fit this host's"), "%s", m.err.text);
	state_writer_free(&w);
	w = (struct state_writer){ 0 };
	cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0);
	if (m.kvm.arch->gic_version == 3) {
		make_dirty(&m);
		cr_assert_eq(arch_vm_save(&m.kvm, &w), 0);
		memset(m.ram + ITT, 0xff, 64); /* events that lead to no interrupt */
		r = reader(&w);
		cr_expect_lt(arch_vm_load(&m.kvm, &r, &m.err), 0);
		cr_expect(strstr(m.err.text, "make no sense"), "%s", m.err.text);
		cr_assert_eq(arch_vm_reset(&m.kvm, &m.err), 0, "a reset makes it whole: %s", m.err.text);
		state_writer_free(&w);
	}
	finish(&m);
}

/* ---- what the user asks of the processor ---- */

static int make_model(struct machine *m, struct arch_cpu_config config)
{
	int r;

	*m = (struct machine){ .config = config };
	cr_assert_eq(kvm_open(&m->kvm, &m->err), 0, "%s", m->err.text);
	cr_assert_eq(kvm_create_vm(&m->kvm, &m->err), 0, "%s", m->err.text);
	r = arch_cpu_model_create(&m->model, &m->kvm, &m->config, &m->err);
	arch_cpu_model_free(m->model);
	kvm_close(&m->kvm);
	return r;
}

Test(arm64_kvm, virtual_machines_inside_are_refused_with_a_sentence)
{
	struct machine m;

	need_kvm();
	cr_expect_eq(make_model(&m, (struct arch_cpu_config){ .boot = 1, .max = 1, .nested = true }), -EINVAL);
	cr_expect(strstr(m.err.text, "--cpus nested=on"), "%s", m.err.text);
}

Test(arm64_kvm, performance_counters_are_there_when_asked_for_or_there_is_a_sentence)
{
	const uint64_t pmcr = ARM64_SYS_REG(3, 3, 9, 12, 0);
	const struct arch_cpu_config counting = { .boot = 2, .max = 2, .pmu = true };
	struct state_writer w = { 0 };
	struct machine m;

	need_kvm();
	start(&m, 1);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &w), 0);
	cr_expect_null(register_value(&w, pmcr), "not asked for");
	finish(&m);
	state_writer_free(&w);
	if (make_model(&m, counting) < 0) {
		cr_expect(strstr(m.err.text, "--cpus pmu=on"), "%s", m.err.text);
		return;
	}
	w = (struct state_writer){ 0 };
	start_config(&m, counting);
	cr_assert_eq(arch_vcpu_save(m.vcpu[0], &w), 0);
	cr_expect(register_value(&w, pmcr));
	put_code(&m);
	cr_expect_eq(run_to_store(&m), 0x1234, "KVM runs it: the counters are ready");
	reset_all(&m);
	put_code(&m); /* CPACR_EL1 */
	cr_expect_eq(run_to_store(&m), 0x1234, "after a reset too");
	finish(&m);
	state_writer_free(&w);
}
