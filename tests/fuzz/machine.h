/* A fuzz input read as the description of a machine, for those who make tables of it. */
#ifndef TESTS_FUZZ_MACHINE_H
#define TESTS_FUZZ_MACHINE_H

#include "firmware/machine.h"
#include "tests/fuzz/program.h"

struct input {
	const uint8_t *data;
	size_t left;
};

/* The next number of 1, 2, 4 or 8 bytes; 0 when there are no more. */
static inline uint64_t take(struct input *in, unsigned len)
{
	uint8_t bytes[8] = { 0 };
	unsigned n = (unsigned)MIN(len, in->left);

	if (n)
		memcpy(bytes, in->data, n);
	in->data += n;
	in->left -= n;
	return get_le64(bytes);
}

/* A place: mostly one that a device could have, now and then anything. */
static inline uint64_t take_place(struct input *in)
{
	uint8_t how = (uint8_t)take(in, 1);

	return how & 0x80 ? take(in, 8) : (uint64_t)how << 32 | (take(in, 2) << 12);
}

static inline struct fw_node take_node(struct input *in, const char *const *kinds, size_t n)
{
	struct fw_node node = { .kind = kinds[take(in, 1) % n] };
	uint8_t how = (uint8_t)take(in, 1);

	node.pio = how & 1;
	node.base = node.pio && !(how & 2) ? take(in, 2) : take_place(in);
	node.len = how & 4 ? take(in, 8) : take(in, 2);
	node.gsi = how & 8 ? UINT32_MAX : (uint32_t)take(in, how & 16 ? 4 : 1);
	return node;
}

/* All but RAM and the command line, which are the caller's. */
static inline void take_machine(struct input *in, struct fw_machine *m, const char *const *kinds, size_t n)
{
	m->cpus = (unsigned)take(in, 2) % FW_CPUS_MAX + 1;
	m->cpus_max = m->cpus + (unsigned)take(in, 1);
	m->cpus_max = MIN(m->cpus_max, (unsigned)FW_CPUS_MAX);
	if (take(in, 1) & 1) {
		m->pci.ecam_base = take_place(in);
		m->pci.buses = (uint32_t)take(in, 2);
		m->pci.mmio32_base = take(in, 4);
		m->pci.mmio32_size = take(in, 4);
		m->pci.mmio64_base = take_place(in);
		m->pci.mmio64_size = take_place(in);
		m->pci.pio_base = take_place(in);
		m->pci.pio_size = take(in, 4);
	}
	m->nnodes = (unsigned)take(in, 1) % (FW_NODES_MAX + 1);
	for (unsigned i = 0; i < m->nnodes; i++)
		m->nodes[i] = take_node(in, kinds, n);
}

#endif
