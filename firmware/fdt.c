/*
 * The device tree, written front to back by libfdt's sequential interface into guest RAM. Pure;
 * main thread.
 *
 * A libfdt call fails only for want of room or for an order of calls that is ours. So the first
 * failure is kept in the builder, later calls do nothing, and one place at the end makes the
 * sentence.
 *
 * References between nodes (interrupt parent, clocks, MSI controllers) are phandles with fixed
 * numbers.
 */
#include "firmware/fdt.h"

#include <errno.h>
#include <inttypes.h>
#include <libfdt.h>
#include <stdio.h>

enum phandle { PH_GIC = 1, PH_MSI, PH_CLOCK, PH_GPIO, PH_CPU = 0x1000 /* of the first one */ };

/* bindings/interrupt-controller/arm,gic.yaml: the three cells of an interrupt. */
enum { IRQ_SPI, IRQ_PPI };
enum { IRQ_EDGE_RISING = 1, IRQ_LEVEL_HIGH = 4 };
enum { GICV2_PPI_CPUS_SHIFT = 8, GICV2_CPUS_MAX = 8 };

enum { PPI_PMU = 7, PPI_TIMER_HYP = 10, PPI_TIMER_VIRT, PPI_TIMER_SECURE = 13, PPI_TIMER_PHYS };

enum {
	CLOCK_HZ = 24000000,
	KEY_POWER = 116, /* input-event-codes.h */
	NAME_MAX_LEN = 48,
	CELLS_MAX = 32,
	PCI_DEVICES = 0x10000, /* requester ids of one domain */
};

/* IEEE 1275 PCI binding, 2.1.4.1: the space code in phys.hi of `ranges`. */
enum { PCI_SPACE_IO = 0x01000000, PCI_SPACE_MMIO32 = 0x02000000, PCI_SPACE_MMIO64 = 0x03000000 };

struct tree {
	const struct fw_machine *m;
	const struct fdt_options *o;
	void *fdt;
	int error; /* the first one, of libfdt */
};

/* Big-endian cells, as many as a property has. */
struct cells {
	fdt32_t v[CELLS_MAX];
	unsigned n;
};

static void keep(struct tree *t, int r)
{
	if (!t->error)
		t->error = r;
}

static void begin(struct tree *t, const char *name)
{
	if (!t->error)
		keep(t, fdt_begin_node(t->fdt, name));
}

/* A node with an address in its name. */
static void begin_at(struct tree *t, const char *name, uint64_t at)
{
	char full[NAME_MAX_LEN];

	snprintf(full, sizeof(full), "%s@%" PRIx64, name, at);
	begin(t, full);
}

static void end(struct tree *t)
{
	if (!t->error)
		keep(t, fdt_end_node(t->fdt));
}

static void bytes(struct tree *t, const char *name, const void *data, size_t len)
{
	if (!t->error)
		keep(t, fdt_property(t->fdt, name, data, (int)len));
}

static void flag(struct tree *t, const char *name)
{
	bytes(t, name, NULL, 0);
}

static void text(struct tree *t, const char *name, const char *value)
{
	bytes(t, name, value, strlen(value) + 1);
}

static void cell(struct tree *t, const char *name, uint32_t value)
{
	fdt32_t v = cpu_to_fdt32(value);

	bytes(t, name, &v, sizeof(v));
}

static void cell64(struct tree *t, const char *name, uint64_t value)
{
	fdt64_t v = cpu_to_fdt64(value);

	bytes(t, name, &v, sizeof(v));
}

static void put32(struct cells *c, uint32_t v)
{
	c->v[c->n++] = cpu_to_fdt32(v);
}

static void put64(struct cells *c, uint64_t v)
{
	put32(c, (uint32_t)(v >> 32));
	put32(c, (uint32_t)v);
}

static void put_range(struct cells *c, uint64_t base, uint64_t size)
{
	put64(c, base);
	put64(c, size);
}

static void put_cells(struct tree *t, const char *name, const struct cells *c)
{
	bytes(t, name, c->v, c->n * sizeof(c->v[0]));
}

static void reg(struct tree *t, uint64_t base, uint64_t size)
{
	struct cells c = { .n = 0 };

	put_range(&c, base, size);
	put_cells(t, "reg", &c);
}

static void put_ppi(struct tree *t, struct cells *c, uint32_t ppi)
{
	uint32_t cpus = t->o->gic == FDT_GIC_V2 ? (1U << MIN(t->m->cpus, (unsigned)GICV2_CPUS_MAX)) - 1 : 0;

	put32(c, IRQ_PPI);
	put32(c, ppi);
	put32(c, IRQ_LEVEL_HIGH | cpus << GICV2_PPI_CPUS_SHIFT);
}

static void spi(struct tree *t, const struct fw_node *n)
{
	struct cells c = { .n = 0 };

	if (n->gsi == UINT32_MAX)
		return;
	put32(&c, IRQ_SPI);
	put32(&c, n->gsi);
	put32(&c, IRQ_EDGE_RISING);
	put_cells(t, "interrupts", &c);
}

/*
 * bindings/cpu/cpu-topology.txt. Nodes are open from the first CPU that they hold to the last;
 * where a core has one thread, it is the leaf itself.
 */
static void add_cpu_map(struct tree *t)
{
	const struct fdt_topology *o = &t->o->topology;
	const struct {
		const char *name;
		uint32_t count, cpus; /* within the next larger; each holds */
	} level[] = {
		{ "socket", o->sockets, o->clusters * o->cores * o->threads },
		{ "cluster", o->clusters, o->cores * o->threads },
		{ "core", o->cores, o->threads },
		{ "thread", o->threads, 1 },
	};
	size_t levels = o->threads > 1 ? 4 : 3;
	char name[NAME_MAX_LEN];

	begin(t, "cpu-map");
	for (uint32_t i = 0; i < t->m->cpus; i++) {
		for (size_t k = 0; k < levels; k++) {
			if (i % level[k].cpus)
				continue;
			snprintf(name, sizeof(name), "%s%" PRIu32, level[k].name, i / level[k].cpus % level[k].count);
			begin(t, name);
		}
		cell(t, "cpu", PH_CPU + i);
		for (size_t k = levels; k--;)
			if ((i + 1) % level[k].cpus == 0 || i + 1 == t->m->cpus)
				end(t);
	}
	end(t);
}

/* bindings/arm/cpus.yaml. Two address cells: MPIDR_EL1.Aff3 lies above bit 31. */
static void add_cpus(struct tree *t)
{
	const struct fdt_topology *o = &t->o->topology;

	begin(t, "cpus");
	cell(t, "#address-cells", 2);
	cell(t, "#size-cells", 0);
	for (unsigned i = 0; i < t->m->cpus; i++) {
		begin_at(t, "cpu", t->o->mpidr[i]);
		text(t, "device_type", "cpu");
		text(t, "compatible", "arm,armv8");
		text(t, "enable-method", "psci");
		cell64(t, "reg", t->o->mpidr[i]);
		cell(t, "phandle", PH_CPU + i);
		end(t);
	}
	if (o->threads && o->cores && o->clusters && o->sockets)
		add_cpu_map(t);
	end(t);
}

/* Devicetree Specification 3.4. */
static void add_memory(struct tree *t)
{
	struct cells c = { .n = 0 };

	for (unsigned i = 0; i < t->m->nram; i++)
		put_range(&c, t->m->ram[i].gpa, t->m->ram[i].size);
	begin_at(t, "memory", t->m->ram[0].gpa);
	text(t, "device_type", "memory");
	put_cells(t, "reg", &c);
	end(t);
}

/* bindings/arm/psci.yaml. */
static void add_psci(struct tree *t)
{
	static const char compatible[] = "arm,psci-1.0\0arm,psci-0.2";

	begin(t, "psci");
	bytes(t, "compatible", compatible, sizeof(compatible));
	text(t, "method", t->o->psci_smc ? "smc" : "hvc");
	end(t);
}

/*
 * bindings/timer/arm,arch_timer.yaml: secure, non-secure, virtual, hypervisor. They tick while a
 * vCPU is idle.
 */
static void add_timer(struct tree *t)
{
	struct cells c = { .n = 0 };

	put_ppi(t, &c, PPI_TIMER_SECURE);
	put_ppi(t, &c, PPI_TIMER_PHYS);
	put_ppi(t, &c, PPI_TIMER_VIRT);
	put_ppi(t, &c, PPI_TIMER_HYP);
	begin(t, "timer");
	text(t, "compatible", "arm,armv8-timer");
	put_cells(t, "interrupts", &c);
	flag(t, "always-on");
	end(t);
}

/* bindings/arm/pmu.yaml. */
static void add_pmu(struct tree *t)
{
	struct cells c = { .n = 0 };

	if (!t->o->pmu)
		return;
	put_ppi(t, &c, PPI_PMU);
	begin(t, "pmu");
	text(t, "compatible", "arm,armv8-pmuv3");
	put_cells(t, "interrupts", &c);
	end(t);
}

static bool has_msi(const struct tree *t)
{
	return t->o->gic == FDT_GIC_V3 ? t->o->its.size : t->o->v2m.frame.size;
}

/* bindings/interrupt-controller/arm,gic-v3.yaml (ITS) and arm,gic.yaml (v2m frame). */
static void add_msi(struct tree *t)
{
	const bool v3 = t->o->gic == FDT_GIC_V3;
	const struct fdt_range *r = v3 ? &t->o->its : &t->o->v2m.frame;

	if (!has_msi(t))
		return;
	begin_at(t, v3 ? "msi-controller" : "v2m", r->base);
	text(t, "compatible", v3 ? "arm,gic-v3-its" : "arm,gic-v2m-frame");
	flag(t, "msi-controller");
	if (v3)
		cell(t, "#msi-cells", 1);
	reg(t, r->base, r->size);
	if (!v3) {
		/* The frame's own registers are not asked then, and so need not be there. */
		cell(t, "arm,msi-base-spi", t->o->v2m.first);
		cell(t, "arm,msi-num-spis", t->o->v2m.lines);
	}
	cell(t, "phandle", PH_MSI);
	end(t);
}

static void add_gic(struct tree *t)
{
	struct cells c = { .n = 0 };

	put_range(&c, t->o->dist.base, t->o->dist.size);
	put_range(&c, t->o->cpu.base, t->o->cpu.size);
	begin_at(t, "interrupt-controller", t->o->dist.base);
	text(t, "compatible", t->o->gic == FDT_GIC_V3 ? "arm,gic-v3" : "arm,cortex-a15-gic");
	cell(t, "#interrupt-cells", 3);
	flag(t, "interrupt-controller");
	put_cells(t, "reg", &c);
	cell(t, "#address-cells", 2);
	cell(t, "#size-cells", 2);
	flag(t, "ranges");
	cell(t, "phandle", PH_GIC);
	add_msi(t);
	end(t);
}

/* bindings/clock/fixed-clock.yaml: PrimeCell drivers want to see a clock. */
static void add_clock(struct tree *t)
{
	begin(t, "apb-pclk");
	text(t, "compatible", "fixed-clock");
	cell(t, "#clock-cells", 0);
	cell(t, "clock-frequency", CLOCK_HZ);
	text(t, "clock-output-names", "clk24mhz");
	cell(t, "phandle", PH_CLOCK);
	end(t);
}

static void put_clocks(struct tree *t, unsigned n)
{
	struct cells c = { .n = 0 };

	while (n--)
		put32(&c, PH_CLOCK);
	put_cells(t, "clocks", &c);
}

/* bindings/serial/pl011.yaml. */
static void add_serial(struct tree *t, const struct fw_node *n)
{
	static const char compatible[] = "arm,pl011\0arm,primecell", clocks[] = "uartclk\0apb_pclk";

	begin_at(t, "serial", n->base);
	bytes(t, "compatible", compatible, sizeof(compatible));
	reg(t, n->base, n->len);
	spi(t, n);
	put_clocks(t, 2);
	bytes(t, "clock-names", clocks, sizeof(clocks));
	end(t);
}

/* bindings/rtc/arm,pl031.yaml. */
static void add_rtc(struct tree *t, const struct fw_node *n)
{
	static const char compatible[] = "arm,pl031\0arm,primecell";

	begin_at(t, "rtc", n->base);
	bytes(t, "compatible", compatible, sizeof(compatible));
	reg(t, n->base, n->len);
	spi(t, n);
	put_clocks(t, 1);
	text(t, "clock-names", "apb_pclk");
	end(t);
}

/* bindings/input/gpio-keys.yaml. */
static void add_power_key(struct tree *t)
{
	struct cells c = { .n = 0 };

	put32(&c, PH_GPIO);
	put32(&c, FDT_POWER_LINE);
	put32(&c, 0); /* active high */
	begin(t, "gpio-keys");
	text(t, "compatible", "gpio-keys");
	begin(t, "power-button");
	text(t, "label", "Power Button");
	cell(t, "linux,code", KEY_POWER);
	put_cells(t, "gpios", &c);
	end(t);
	end(t);
}

/* bindings/gpio/pl061-gpio.yaml. */
static void add_gpio(struct tree *t, const struct fw_node *n)
{
	static const char compatible[] = "arm,pl061\0arm,primecell";

	begin_at(t, "gpio", n->base);
	bytes(t, "compatible", compatible, sizeof(compatible));
	reg(t, n->base, n->len);
	spi(t, n);
	flag(t, "gpio-controller");
	cell(t, "#gpio-cells", 2);
	flag(t, "interrupt-controller");
	cell(t, "#interrupt-cells", 2);
	cell(t, "#address-cells", 0); /* dtc wants it of every interrupt controller */
	put_clocks(t, 1);
	text(t, "clock-names", "apb_pclk");
	cell(t, "phandle", PH_GPIO);
	end(t);
	add_power_key(t);
}

/* bindings/virtio/mmio.yaml. */
static void add_virtio(struct tree *t, const struct fw_node *n)
{
	begin_at(t, "virtio_mmio", n->base);
	text(t, "compatible", "virtio,mmio");
	reg(t, n->base, n->len);
	spi(t, n);
	flag(t, "dma-coherent");
	end(t);
}

/* Linux, drivers/misc/pvpanic/pvpanic-mmio.c. */
static void add_pvpanic(struct tree *t, const struct fw_node *n)
{
	begin_at(t, "pvpanic", n->base);
	text(t, "compatible", "qemu,pvpanic-mmio");
	reg(t, n->base, n->len);
	end(t);
}

static const struct {
	const char *kind;
	void (*add)(struct tree *t, const struct fw_node *n);
} kinds[] = {
	{ "serial-pl011", add_serial },
	{ "rtc-pl031", add_rtc },
	{ "gpio-pl061", add_gpio },
	{ "virtio-mmio", add_virtio },
	{ "pvpanic", add_pvpanic },
};

static void add_nodes(struct tree *t)
{
	for (unsigned i = 0; i < t->m->nnodes; i++)
		for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
			if (!t->m->nodes[i].pio && !strcmp(t->m->nodes[i].kind, kinds[k].kind))
				kinds[k].add(t, &t->m->nodes[i]);
}

/* One row of `ranges`: space and PCI address, CPU address, size. */
static void put_window(struct cells *c, uint32_t space, uint64_t pci, uint64_t cpu, uint64_t size)
{
	if (!size)
		return;
	put32(c, space);
	put64(c, pci);
	put_range(c, cpu, size);
}

/* bindings/pci/pci-msi.txt: an ITS tells functions by their requester id, a v2m frame does not. */
static void put_msi(struct tree *t)
{
	struct cells c = { .n = 0 };

	if (!has_msi(t))
		return;
	if (t->o->gic == FDT_GIC_V2) {
		cell(t, "msi-parent", PH_MSI);
		return;
	}
	put32(&c, 0);
	put32(&c, PH_MSI);
	put32(&c, 0);
	put32(&c, PCI_DEVICES);
	put_cells(t, "msi-map", &c);
}

/* bindings/pci/host-generic-pci.yaml. No INTx: functions have MSI-X. */
static void add_pci(struct tree *t)
{
	const struct fw_pci *p = &t->m->pci;
	struct cells buses = { .n = 0 }, windows = { .n = 0 };

	if (!p->ecam_base)
		return;
	put32(&buses, 0);
	put32(&buses, p->buses - 1);
	put_window(&windows, PCI_SPACE_IO, 0, p->pio_base, p->pio_size);
	put_window(&windows, PCI_SPACE_MMIO32, p->mmio32_base, p->mmio32_base, p->mmio32_size);
	put_window(&windows, PCI_SPACE_MMIO64, p->mmio64_base, p->mmio64_base, p->mmio64_size);
	begin_at(t, "pcie", p->ecam_base);
	text(t, "compatible", "pci-host-ecam-generic");
	text(t, "device_type", "pci");
	cell(t, "#address-cells", 3);
	cell(t, "#size-cells", 2);
	put_cells(t, "bus-range", &buses);
	cell(t, "linux,pci-domain", 0);
	reg(t, p->ecam_base, p->buses * (uint64_t)MIB);
	put_cells(t, "ranges", &windows);
	put_msi(t);
	flag(t, "dma-coherent");
	end(t);
}

/* Devicetree Specification 3.6; dtschema chosen.yaml for what is Linux's. */
static void add_chosen(struct tree *t)
{
	const struct fw_node *serial = fw_node(t->m, "serial-pl011", 0);
	const struct fdt_options *o = t->o;
	char path[NAME_MAX_LEN];

	begin(t, "chosen");
	text(t, "bootargs", t->m->cmdline ? t->m->cmdline : "");
	if (serial) {
		snprintf(path, sizeof(path), "/serial@%" PRIx64, serial->base);
		text(t, "stdout-path", path);
	}
	if (o->initramfs.size) {
		cell64(t, "linux,initrd-start", o->initramfs.base);
		cell64(t, "linux,initrd-end", o->initramfs.base + o->initramfs.size);
	}
	if (o->rng_seed_len)
		bytes(t, "rng-seed", o->rng_seed, o->rng_seed_len);
	if (o->kaslr_seed)
		cell64(t, "kaslr-seed", o->kaslr_seed);
	end(t);
}

static void add_root(struct tree *t)
{
	begin(t, "");
	text(t, "compatible", "linux,dummy-virt");
	text(t, "model", "microvm");
	cell(t, "#address-cells", 2);
	cell(t, "#size-cells", 2);
	cell(t, "interrupt-parent", PH_GIC);
	add_chosen(t);
	add_memory(t);
	add_cpus(t);
	add_psci(t);
	add_timer(t);
	add_pmu(t);
	add_gic(t);
	add_clock(t);
	add_nodes(t);
	add_pci(t);
	end(t);
}

static int check(const struct fw_machine *m, const struct fdt_options *o, struct error *e)
{
	if (!m->nram || m->nram > FW_RAM_MAX)
		return error_set(e, EINVAL, "the device tree cannot describe %u ranges of memory", m->nram);
	if (!m->cpus || m->cpus > FW_CPUS_MAX || !o->mpidr)
		return error_set(e, EINVAL, "--cpus boot=%u: the device tree takes 1 to %u", m->cpus, FW_CPUS_MAX);
	if (o->gic == FDT_GIC_V2 && m->cpus > GICV2_CPUS_MAX)
		return error_set(e, EINVAL, "--cpus boot=%u: this host's interrupt controller (GICv2) takes %u at most",
			m->cpus, GICV2_CPUS_MAX);
	if ((o->gic != FDT_GIC_V2 && o->gic != FDT_GIC_V3) || !o->dist.size || !o->cpu.size)
		return error_set(e, EINVAL, "the device tree needs an interrupt controller");
	if (m->pci.ecam_base && !m->pci.buses)
		return error_set(e, EINVAL, "the device tree needs the number of PCI buses");
	if (o->rng_seed_len > FDT_SEED_MAX)
		return error_set(e, EINVAL, "the device tree takes %u bytes of random seed at most", FDT_SEED_MAX);
	return 0;
}

int fdt_build(const struct fw_machine *m, const struct fdt_options *o, uint64_t at, uint64_t room, size_t *ret_len,
	struct error *e)
{
	struct tree t = { .m = m, .o = o };
	int r = check(m, o, e);

	if (r)
		return r;
	room = MIN(room, (uint64_t)FDT_ROOM);
	t.fdt = is_aligned(at, sizeof(uint64_t)) ? fw_ram_at(m, at, room) : NULL;
	if (!t.fdt)
		return error_set(e, ENOMEM, "there is no memory for the device tree at 0x%" PRIx64, at);
	keep(&t, fdt_create(t.fdt, (int)room));
	if (!t.error)
		keep(&t, fdt_finish_reservemap(t.fdt));
	add_root(&t);
	if (!t.error)
		keep(&t, fdt_finish(t.fdt));
	if (t.error)
		return error_set(e, ENOSPC, "the device tree does not fit into %" PRIu64 " KiB (%s); give fewer vCPUs or devices",
			room / KIB, fdt_strerror(t.error));
	*ret_len = fdt_totalsize(t.fdt);
	return 0;
}
