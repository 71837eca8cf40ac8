/*
 * The interrupt controller that KVM keeps, saved and loaded: GICv3 with its ITS, or GICv2
 * (Documentation/virt/kvm/devices/arm-vgic-v3.rst, arm-vgic-its.rst, arm-vgic.rst).
 *
 * Its registers are rows of tables, in the order in which they are written when loading; a stream
 * has one object for what all vCPUs share (the distributor), one for each vCPU (redistributor and
 * CPU interface), and one for the ITS. All of them are read and checked before the first register
 * is written.
 *
 * What a GICv3 knows of messages (LPIs) lies in guest memory, where the guest gave it room: saving
 * has KVM write it there, so it comes before memory is saved; loading needs memory and vCPUs. Order
 * of loading (arm-vgic-its.rst, "ITS Restore Sequence"): the distributor, whose revision decides
 * how KVM takes the rest; redistributors and CPU interfaces; of the ITS the command queue, the
 * other registers, the tables out of guest memory, and GITS_CTLR last. MSI routes come after.
 *
 * Main, with vCPUs parked: KVM locks all of them for each access. Only a GIC as after a reset can
 * be loaded, since most registers can only set bits; so a load begins with one.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"

enum { SHARED_WORDS = ARM64_LINES / 32, V2_WORDS = ARM64_GICV2_LINES / 32 };
enum { SGI_FRAME = 0x10000, SGIS = 16, GICV2_TARGETS_PER_WORD = 4 };

enum row_flags {
	WIDE = 1,     /* 64 bits */
	MAY_LACK = 2, /* not on every host: one that is not there is 0 */
	NOT_SGIS = 4, /* the bits of software-generated interrupts are elsewhere */
};

/* `count` registers of a group, `step` from one to the next. */
struct row {
	uint32_t group, first, count;
	uint16_t step;
	uint16_t flags;
};

#define DIST(first, count) { KVM_DEV_ARM_VGIC_GRP_DIST_REGS, first, count, 4, 0 }
#define REDIST(first, count) { KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, first, count, 4, 0 }
#define LEVELS(first, count) { KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, first, count, 32, 0 }
#define ICC(first, count, flags) { KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, first, count, 1, WIDE | (flags) }
#define CPU(first, count) { KVM_DEV_ARM_VGIC_GRP_CPU_REGS, first, count, 4, 0 }
#define ITS(first, count) { KVM_DEV_ARM_VGIC_GRP_ITS_REGS, first, count, 8, WIDE }
#define ROWS_END { 0, 0, 0, 0, 0 }

/*
 * IHI 0069 §12.9, shared interrupts only. The revision first: KVM behaves as that one did. Trigger
 * before level and pending, whose meaning it gives; what can deliver last.
 */
static const struct row v3_shared[] = {
	DIST(0x0008, 1),                /* GICD_IIDR */
	DIST(0x0084, SHARED_WORDS),     /* IGROUPR */
	DIST(0x0c08, ARM64_LINES / 16), /* ICFGR */
	DIST(0x0420, ARM64_LINES / 4),  /* IPRIORITYR */
	DIST(0x6100, ARM64_LINES * 2),  /* IROUTER, two words each */
	LEVELS(32, SHARED_WORDS),
	DIST(0x0204, SHARED_WORDS),     /* ISPENDR: what is latched */
	DIST(0x0304, SHARED_WORDS),     /* ISACTIVER */
	DIST(0x0104, SHARED_WORDS),     /* ISENABLER */
	DIST(0x0000, 1),                /* GICD_CTLR */
	ROWS_END,
};

/* IHI 0069 §12.11 and §12.2. The tables of LPIs before GICR_CTLR, which turns them on. */
static const struct row v3_private[] = {
	REDIST(0x0070, 2),              /* PROPBASER */
	REDIST(0x0078, 2),              /* PENDBASER */
	REDIST(0x0000, 1),              /* GICR_CTLR */
	REDIST(SGI_FRAME + 0x080, 1),   /* IGROUPR0 */
	REDIST(SGI_FRAME + 0xc00, 2),   /* ICFGR0, ICFGR1 */
	REDIST(SGI_FRAME + 0x400, 8),   /* IPRIORITYR */
	LEVELS(0, 1),
	REDIST(SGI_FRAME + 0x200, 1),   /* ISPENDR0 */
	REDIST(SGI_FRAME + 0x300, 1),   /* ISACTIVER0 */
	REDIST(SGI_FRAME + 0x100, 1),   /* ISENABLER0 */
	ICC(ARM64_ICC_SRE, 1, 0),
	ICC(ARM64_ICC_BPR0, 1, 0),
	ICC(ARM64_ICC_BPR1, 1, 0),      /* while CTLR.CBPR is still 0: it would be ignored */
	ICC(ARM64_ICC_CTLR, 1, 0),
	ICC(ARM64_ICC_PMR, 1, 0),
	ICC(ARM64_ICC_AP0R0, 1, 0),
	ICC(ARM64_ICC_AP1R0, 1, 0),
	ICC(ARM64_ICC_AP0R0 + 1, ARM64_AP_REGS - 1, MAY_LACK),
	ICC(ARM64_ICC_AP1R0 + 1, ARM64_AP_REGS - 1, MAY_LACK),
	ICC(ARM64_ICC_IGRPEN0, 1, 0),
	ICC(ARM64_ICC_IGRPEN1, 1, 0),
	ROWS_END,
};

/* IHI 0048 §4.3; the words of interrupts 0 to 31 are banked and belong to each CPU. */
static const struct row v2_shared[] = {
	DIST(0x008, 1),                 /* GICD_IIDR: from then on KVM takes groups */
	DIST(0x084, V2_WORDS),      /* IGROUPR */
	DIST(0xc08, ARM64_GICV2_LINES / 16),  /* ICFGR */
	DIST(0x420, ARM64_GICV2_LINES / 4),   /* IPRIORITYR */
	DIST(0x820, ARM64_GICV2_LINES / GICV2_TARGETS_PER_WORD), /* ITARGETSR */
	DIST(0x204, V2_WORDS),      /* ISPENDR */
	DIST(0x304, V2_WORDS),      /* ISACTIVER */
	DIST(0x104, V2_WORDS),      /* ISENABLER */
	DIST(0x000, 1),                 /* GICD_CTLR */
	ROWS_END,
};

/* IHI 0048 §4.3 and §4.4. A pending SGI has a sender for each bit of SPENDSGIR. */
static const struct row v2_private[] = {
	DIST(0x080, 1),                 /* IGROUPR0 */
	DIST(0xc00, 2),                 /* ICFGR0, ICFGR1 */
	DIST(0x400, 8),                 /* IPRIORITYR */
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0x200, 1, 4, NOT_SGIS }, /* ISPENDR0 */
	DIST(0xf20, SGIS / 4),          /* SPENDSGIR */
	DIST(0x300, 1),                 /* ISACTIVER0 */
	DIST(0x100, 1),                 /* ISENABLER0 */
	CPU(0x04, 2),                   /* GICC_PMR, BPR */
	CPU(0x1c, 1),                   /* ABPR */
	CPU(0xd0, 1),                   /* APR0 */
	CPU(0x00, 1),                   /* GICC_CTLR */
	ROWS_END,
};

/* IHI 0069 §12.19, all as 64 bits. GITS_IIDR says which form the tables in memory have. */
static const struct row its_before_tables[] = {
	ITS(0x0080, 1),                 /* CBASER: it also sets CREADR and CWRITER to 0 */
	ITS(0x0090, 1),                 /* CREADR */
	ITS(0x0088, 1),                 /* CWRITER */
	ITS(0x0100, 8),                 /* BASER */
	ITS(0x0004, 1),                 /* IIDR */
	ROWS_END,
};
static const struct row its_after_tables[] = {
	ITS(0x0000, 1),                 /* CTLR */
	ROWS_END,
};

enum { SHARED_MAX = 256, PRIVATE_MAX = 48, ITS_MAX = 16 };

struct gic_shared {
	uint32_t version, lines, vcpus;
	uint32_t has_its;
	uint32_t reg[SHARED_MAX];
};

struct gic_private {
	uint64_t key; /* what KVM calls the vCPU in register numbers */
	uint64_t reg[PRIVATE_MAX];
};

struct gic_its {
	uint64_t reg[ITS_MAX];
};

static int check_shared(const void *object, struct error *err)
{
	const struct gic_shared *s = object;
	uint32_t lines;

	if (s->version != 2 && s->version != 3)
		return error_set(err, EINVAL, "an interrupt controller GICv%u; the file is damaged", s->version);
	lines = arm64_lines(&(struct arch_vm){ .gic_version = s->version });
	if (s->lines != lines)
		return error_set(err, EINVAL, "an interrupt controller with %u lines, this microvm's has %u; use the one that saved it",
			s->lines, lines);
	if (s->has_its > (s->version == 3))
		return error_set(err, EINVAL, "a GICv%u with %u ITS; the file is damaged", s->version, s->has_its);
	return 0;
}

static const struct state_field shared_fields[] = {
	STATE_FIELD(struct gic_shared, version),
	STATE_FIELD(struct gic_shared, lines),
	STATE_FIELD(struct gic_shared, vcpus),
	STATE_FIELD(struct gic_shared, has_its),
	STATE_ARRAY(struct gic_shared, reg),
	STATE_END,
};
static const struct state_field private_fields[] = {
	STATE_FIELD(struct gic_private, key),
	STATE_ARRAY(struct gic_private, reg),
	STATE_END,
};
static const struct state_field its_fields[] = {
	STATE_ARRAY(struct gic_its, reg),
	STATE_END,
};

static const struct state_desc shared_desc = {
	.name = "arm64-gic",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct gic_shared),
	.fields = shared_fields,
	.check = check_shared,
};
static const struct state_desc private_desc = {
	.name = "arm64-gic-cpu",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct gic_private),
	.fields = private_fields,
};
static const struct state_desc its_desc = {
	.name = "arm64-its",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct gic_its),
	.fields = its_fields,
};

/* The whole of it, between stream and KVM. */
struct gic {
	struct gic_shared shared;
	struct gic_its its;
	struct gic_private cpu[]; /* as many as the machine has */
};

static const struct row *shared_rows(const struct arch_vm *vm)
{
	return vm->gic_version == 3 ? v3_shared : v2_shared;
}

static const struct row *private_rows(const struct arch_vm *vm)
{
	return vm->gic_version == 3 ? v3_private : v2_private;
}

/* KVM tells GICv3's vCPUs apart by affinity, GICv2's by number. */
static uint64_t key_of(const struct arch_vm *vm, unsigned index)
{
	return (vm->gic_version == 3 ? arm64_mpidr(index) : index) << KVM_DEV_ARM_VGIC_CPUID_SHIFT;
}

static int get_one(int fd, const struct row *row, uint64_t attr, uint64_t *ret)
{
	uint64_t wide = 0;
	uint32_t word = 0;
	int r = arm64_get_attr(fd, row->group, attr, row->flags & WIDE ? (void *)&wide : &word);

	if (r < 0)
		return row->flags & MAY_LACK ? (*ret = 0, 0) : r;
	*ret = row->flags & WIDE ? wide : word;
	if (row->flags & NOT_SGIS)
		*ret &= ~UINT64_C(0) << SGIS;
	return 0;
}

static int set_one(int fd, const struct row *row, uint64_t attr, uint64_t value)
{
	uint32_t word = (uint32_t)value;

	if (row->flags & MAY_LACK && !value)
		return 0; /* so after a reset, if it is there at all */
	if (row->flags & NOT_SGIS)
		word &= ~0u << SGIS;
	return arm64_set_attr(fd, row->group, attr, row->flags & WIDE ? (void *)&value : &word);
}

/* Reads the registers of the rows into `ret`, in order; how many, or -errno. */
static int get_rows(int fd, const struct row *rows, uint64_t key, uint64_t *ret, int max)
{
	int n = 0;

	for (; rows->count; rows++)
		for (uint32_t i = 0; i < rows->count; i++, n++) {
			int r = n < max ? get_one(fd, rows, key | (rows->first + i * rows->step), &ret[n]) : -E2BIG;

			if (r < 0)
				return r;
		}
	return n;
}

static int refused(const struct row *row, uint32_t offset, int r, struct error *err)
{
	return error_set(err, -r,
		"the saved interrupt controller does not fit this host's (register %#x of group %u: %s); "
		"use a host of the same kind and kernel",
		offset, row->group, strerror(-r));
}

/* The other way; how many. */
static int set_rows(int fd, const struct row *rows, uint64_t key, const uint64_t *values, struct error *err)
{
	int n = 0;

	for (; rows->count; rows++)
		for (uint32_t i = 0; i < rows->count; i++, n++) {
			uint32_t offset = rows->first + i * rows->step;
			int r = set_one(fd, rows, key | offset, values[n]);

			if (r < 0)
				return refused(rows, offset, r, err);
		}
	return n;
}

static int get_shared(const struct arch_vm *vm, struct gic_shared *s)
{
	uint64_t reg[SHARED_MAX] = { 0 };
	int n = get_rows(vm->gic_fd, shared_rows(vm), 0, reg, SHARED_MAX);

	s->version = vm->gic_version;
	s->lines = arm64_lines(vm);
	s->vcpus = vm->vcpus;
	s->has_its = vm->its_fd >= 0;
	for (int i = 0; i < n; i++)
		s->reg[i] = (uint32_t)reg[i];
	return n < 0 ? n : 0;
}

static int set_shared(const struct arch_vm *vm, const struct gic_shared *s, struct error *err)
{
	uint64_t reg[SHARED_MAX];

	for (int i = 0; i < SHARED_MAX; i++)
		reg[i] = s->reg[i];
	return set_rows(vm->gic_fd, shared_rows(vm), 0, reg, err);
}

static int control(int fd, uint64_t what)
{
	return arm64_set_attr(fd, KVM_DEV_ARM_VGIC_GRP_CTRL, what, NULL);
}

/* What KVM remembers of messages goes into guest memory. */
static int write_tables(const struct arch_vm *vm)
{
	int r = vm->its_fd >= 0 ? control(vm->its_fd, KVM_DEV_ARM_ITS_SAVE_TABLES) : 0;

	return r == 0 && vm->gic_version == 3 ? control(vm->gic_fd, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES) : r;
}

static int get_its(const struct arch_vm *vm, struct gic_its *its)
{
	int n = get_rows(vm->its_fd, its_before_tables, 0, its->reg, ITS_MAX);

	return n < 0 ? n : get_rows(vm->its_fd, its_after_tables, 0, its->reg + n, ITS_MAX - n);
}

static int set_its(const struct arch_vm *vm, const struct gic_its *its, struct error *err)
{
	int n = set_rows(vm->its_fd, its_before_tables, 0, its->reg, err), r;

	if (n < 0)
		return n;
	r = control(vm->its_fd, KVM_DEV_ARM_ITS_RESTORE_TABLES);
	if (r < 0)
		return error_set(err, -r,
			"the tables of message interrupts in the saved guest memory make no sense (%s); the file is damaged",
			strerror(-r));
	return set_rows(vm->its_fd, its_after_tables, 0, its->reg + n, err);
}

int arch_vm_save(struct kvm *kvm, struct state_writer *w)
{
	const struct arch_vm *vm = kvm->arch;
	struct gic *g = calloc(1, sizeof(*g) + vm->vcpus * sizeof(g->cpu[0]));
	int r = g ? write_tables(vm) : -ENOMEM;

	if (r == 0)
		r = get_shared(vm, &g->shared);
	for (unsigned i = 0; r >= 0 && i < vm->vcpus; i++) {
		g->cpu[i].key = key_of(vm, i);
		r = get_rows(vm->gic_fd, private_rows(vm), g->cpu[i].key, g->cpu[i].reg, PRIVATE_MAX);
	}
	if (r >= 0 && g->shared.has_its)
		r = get_its(vm, &g->its);
	if (r >= 0)
		r = state_save(w, &shared_desc, &g->shared);
	for (unsigned i = 0; r == 0 && i < vm->vcpus; i++)
		r = state_save(w, &private_desc, &g->cpu[i]);
	if (r == 0 && g->shared.has_its)
		r = state_save(w, &its_desc, &g->its);
	free(g);
	return r;
}

/* Does the stream describe this machine? */
static int check_machine(const struct gic_shared *s, const struct arch_vm *vm, struct error *err)
{
	bool has_its = vm->its_fd >= 0;

	if (s->version != vm->gic_version || s->has_its != has_its)
		return error_set(err, ENODEV,
			"the saved interrupt controller is a GICv%u%s, this host gives a GICv%u%s; use a host of the same kind",
			s->version, s->has_its ? " with an ITS" : "", vm->gic_version, has_its ? " with an ITS" : "");
	if (s->vcpus != vm->vcpus)
		return error_set(err, EINVAL, "the saved machine has %u vCPUs, this one %u; give --cpus boot=%u", s->vcpus,
			vm->vcpus, s->vcpus);
	return 0;
}

/* All of the stream, before KVM hears of any of it. */
static int parse(struct gic *g, const struct arch_vm *vm, struct state_reader *reader, struct error *err)
{
	int r = state_load(reader, &shared_desc, &g->shared, err);

	if (r == 0)
		r = check_machine(&g->shared, vm, err);
	for (unsigned i = 0; r == 0 && i < vm->vcpus; i++) {
		r = state_load(reader, &private_desc, &g->cpu[i], err);
		if (r == 0 && g->cpu[i].key != key_of(vm, i))
			r = error_set(err, EINVAL,
				"the state of vCPU %u's interrupts names another vCPU (%#llx); the file is damaged", i,
				(unsigned long long)g->cpu[i].key);
	}
	if (r == 0 && g->shared.has_its)
		r = state_load(reader, &its_desc, &g->its, err);
	return r;
}

int arch_vm_load(struct kvm *kvm, struct state_reader *reader, struct error *err)
{
	const struct arch_vm *vm = kvm->arch;
	struct gic *g = calloc(1, sizeof(*g) + vm->vcpus * sizeof(g->cpu[0]));
	struct state_reader at = *reader;
	int r = g ? parse(g, vm, &at, err) : error_set(err, ENOMEM, "out of memory for the interrupt controller's state");

	if (r == 0)
		r = arch_vm_reset(kvm, err);
	if (r == 0)
		r = set_shared(vm, &g->shared, err);
	for (unsigned i = 0; r >= 0 && i < vm->vcpus; i++)
		r = set_rows(vm->gic_fd, private_rows(vm), key_of(vm, i), g->cpu[i].reg, err);
	if (r >= 0 && g->shared.has_its)
		r = set_its(vm, &g->its, err);
	free(g);
	if (r < 0)
		return r;
	*reader = at;
	return 0;
}
