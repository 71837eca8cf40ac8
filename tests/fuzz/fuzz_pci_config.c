/*
 * A guest against config space of three functions, by ECAM and by ports: BARs go anywhere, masks
 * hold, no two overlap.
 */
#include "tests/fuzz/program.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

enum { DEVICES = 3 };

static void check_functions(
	struct rig *rig, struct pci_function *const fn[DEVICES], const uint8_t *image)
{
	const struct pci_windows *w = &rig->windows;

	for (unsigned i = 0; i < DEVICES; i++) {
		uint64_t base = fn[i]->bar[0].mapped, size = fn[i]->bar[0].size;

		for (unsigned b = 0; b < 256; b++)
			MUST(!((image[256 * i + b] ^ fn[i]->config[b]) & ~fn[i]->mask[b]));
		if (base == PCI_NOWHERE)
			continue;
		MUST(fn[i]->config[4] & 2);
		MUST(base == fn[i]->bar[0].base);
		MUST(range_inside(base, size, w->mmio32_base, w->mmio32_size) ||
			range_inside(base, size, w->mmio64_base, w->mmio64_size));
		MUST(rig_read(rig->mmio, base + 0x12, 2) == ECHO_QUEUES);
		for (unsigned j = 0; j < i; j++)
			MUST(!ranges_overlap(
				     base, size, fn[j]->bar[0].mapped, fn[j]->bar[0].size) ||
				fn[j]->bar[0].mapped == PCI_NOWHERE);
	}
}

static void step(
	struct rig *rig, struct pci_function *const fn[DEVICES], const struct instruction *i)
{
	struct pci_function *f = fn[i->op / 16 % DEVICES];
	uint64_t near = RIG_MMIO64 + (i->value & 0x3ffff) + (i->value & 0xf0000000);
	uint64_t at = RIG_ECAM + (uint64_t)(f->devfn << 12);

	switch (i->op % 8) {
	case 0:
		rig_read(rig->mmio, RIG_ECAM + (i->value & 0xfffff), i->len);
		break;
	case 1:
		rig_write(rig->mmio, RIG_ECAM + (i->value >> 44), i->value, i->len);
		break;
	case 2:
		rig_write(rig->pio, 0xcf8 + i->at % 8u, i->value, i->len);
		break;
	case 3:
		rig_read(rig->pio, 0xcf8 + i->at % 8u, i->len);
		break;
	case 4:
		rig_write(rig->mmio, at + i->at % 0x40u, i->value, i->len);
		break;
	case 5: /* a place that can be right */
		rig_write(rig->mmio, at + 0x10, near, 8);
		break;
	case 6:
		rig_write(rig->mmio, at + 4, i->value, 2);
		break;
	default:
		if (i->value % 16 == 0)
			pci_function_reset(f);
		else
			rig_write(rig->mmio, at + 0x40 + i->at % 0xc0u, i->value, i->len);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig rig;
	struct instruction i;
	struct device *extra[DEVICES - 1];
	struct pci_function *fn[DEVICES];
	uint8_t image[DEVICES * 256];

	log_level = LOG_ERROR;
	rig_init(&rig);
	for (unsigned n = 0; n < DEVICES - 1; n++)
		MUST(virtio_create(&extra[n], &echo_row, &echo_type, &rig.env, &rig.options,
			     &rig.err) == 0);
	MUST(rig_echo(&rig, VIRTIO_TRANSPORT_PCI) == 0);
	for (unsigned n = 0; n < DEVICES; n++) {
		fn[n] = ((struct front *)(n < DEVICES - 1 ? extra[n] : rig.dev))->transport;
		memcpy(image + 256 * n, fn[n]->config, 256);
	}
	for (unsigned n = 0; n < PROGRAM_MAX && program_next(&data, &size, &i); n++) {
		step(&rig, fn, &i);
		check_functions(&rig, fn, image);
	}
	for (unsigned n = 0; n < DEVICES - 1; n++)
		extra[n]->ops->destroy(extra[n]);
	rig_fini(&rig);
	return 0;
}
