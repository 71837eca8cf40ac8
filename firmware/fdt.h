/*
 * The flattened device tree of an aarch64 machine (Devicetree Specification v0.4; the bindings
 * named at each node in fdt.c are those of Linux, Documentation/devicetree/bindings).
 *
 * What is told comes from struct fw_machine (RAM, vCPUs, PCI, nodes, command line) and from struct
 * fdt_options, which has what only aarch64 has. A node of fw_machine.nodes is described when its
 * kind is one of
 *   "serial-pl011" (the first one is the console), "rtc-pl031", "gpio-pl061" (with a power key on
 *   line FDT_POWER_LINE), "virtio-mmio", "pvpanic"
 * and it lies in memory, not among I/O ports; others are passed over. Its gsi is the number of a
 * shared peripheral interrupt, from 0 (INTID 32), and edge-triggered, which is how an irqfd rings.
 * PCI is described when pci.ecam_base is not 0; pci.pio_base is then the address at which the CPU
 * reaches port 0 of the bus.
 */
#ifndef FIRMWARE_FDT_H
#define FIRMWARE_FDT_H

#include "firmware/machine.h"

enum fdt_gic { FDT_GIC_V2 = 2, FDT_GIC_V3 = 3 };

enum {
	FDT_POWER_LINE = 3, /* of the PL061: devices/platform/gpio_pl061.c */
	FDT_SEED_MAX = 64,
	FDT_ROOM = 2 * MIB, /* booting.rst: not larger; what a caller may as well keep free */
};

struct fdt_range {
	uint64_t base, size; /* size 0: there is none */
};

/* Of all vCPUs in this order, the first number changing fastest. All 0: nothing is said. */
struct fdt_topology {
	uint32_t threads, cores, clusters, sockets;
};

/* A GICv2m frame, and the interrupts that its messages raise: `lines` of them from id `first`. */
struct fdt_v2m {
	struct fdt_range frame;
	uint32_t first, lines;
};

struct fdt_options {
	enum fdt_gic gic;
	struct fdt_range dist;      /* GICD */
	struct fdt_range cpu;       /* v2: GICC; v3: all redistributors */
	struct fdt_range its;       /* v3: for MSI */
	struct fdt_v2m v2m;         /* v2: for MSI */
	const uint64_t *mpidr;      /* m->cpus of them: affinity fields of MPIDR_EL1 */
	struct fdt_topology topology;
	bool psci_smc;              /* PSCI by SMC; else by HVC, as KVM has it */
	bool pmu;                   /* vCPUs have PMUv3, its interrupt at PPI 7 (INTID 23) */
	struct fdt_range initramfs;
	uint8_t rng_seed[FDT_SEED_MAX]; /* for the guest's random pool; fresh at each boot */
	size_t rng_seed_len;        /* 0: none */
	uint64_t kaslr_seed;        /* 0: none; fresh at each boot */
};

/*
 * Write the tree to guest RAM at [at, at + room), at most FDT_ROOM of it; *ret_len is what it
 * takes. `at` is a multiple of 8. -EINVAL: the machine contradicts itself; -ENOMEM: not RAM;
 * -ENOSPC: too small. RAM may be partly written then.
 */
int fdt_build(const struct fw_machine *m, const struct fdt_options *o, uint64_t at, uint64_t room, size_t *ret_len,
	struct error *e) NEEDS_CHECK;

#endif
