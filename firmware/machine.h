/*
 * The machine as firmware sees it: everything a loader or a table builder may know. Firmware code
 * is pure functions of this description and of bytes; it opens nothing, allocates only scratch
 * memory, and writes only through `ram`.
 */
#ifndef FIRMWARE_MACHINE_H
#define FIRMWARE_MACHINE_H

#include "vmm/error.h"
#include "vmm/log.h"
#include "vmm/util.h"

/* RAM as host memory; ranges in ascending order of gpa, not overlapping. */
struct fw_ram {
	uint64_t gpa, size;
	uint8_t *host;
};

enum { FW_RAM_MAX = 8, FW_CPUS_MAX = 1024, FW_NODES_MAX = 128 };

/*
 * A device at a fixed place. `kind` is one of: "serial-16550", "rtc-cmos", "i8042", "pvpanic",
 * "virtio-mmio", "ged", ..., and on aarch64 those that fdt.h lists.
 */
struct fw_node {
	const char *kind;
	bool pio;
	uint64_t base, len;
	uint32_t gsi;   /* UINT32_MAX: none */
};

struct fw_pci {
	uint64_t ecam_base;      /* 0: no PCI */
	uint32_t buses;
	uint64_t mmio32_base, mmio32_size;
	uint64_t mmio64_base, mmio64_size;
	uint64_t pio_base, pio_size; /* 0: none; x86_64: the first port, aarch64: the address of port 0 */
};

struct fw_machine {
	struct fw_ram ram[FW_RAM_MAX];
	unsigned nram;
	unsigned cpus, cpus_max;  /* booted, and described as present or pluggable */
	/*
	 * What the CPU calls each of the `cpus_max` ones (x86: its APIC id), ascending; NULL: its
	 * index.
	 */
	const uint32_t *cpu_ids;
	struct fw_pci pci;
	struct fw_node nodes[FW_NODES_MAX];
	unsigned nnodes;
	const char *cmdline;
};

/* The node of that kind, the i-th; NULL when there is none. */
static inline const struct fw_node *fw_node(const struct fw_machine *m, const char *kind, unsigned i)
{
	for (unsigned n = 0; n < m->nnodes; n++)
		if (!strcmp(m->nodes[n].kind, kind) && !i--)
			return &m->nodes[n];
	return NULL;
}

/* Host pointer to [gpa, gpa + len) inside one RAM range; NULL when it is not RAM. */
static inline void *fw_ram_at(const struct fw_machine *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->nram; i++)
		if (range_inside(gpa, len, m->ram[i].gpa, m->ram[i].size))
			return m->ram[i].host + (gpa - m->ram[i].gpa);
	return NULL;
}

#endif
