/*
 * A guest against an MSI-X table: a vector is wired exactly when enabled and unmasked, and no
 * waiting ring is lost.
 */
#include "tests/fuzz/program.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

enum { TABLE = 0x2000, PBA = 0x3000, VECTORS = ECHO_QUEUES + 1, FDS = 4096 };

static bool wired[FDS];

static int chip_wire(void *ctx, int fd, unsigned gsi, bool on)
{
	(void)ctx, (void)gsi;
	MUST(fd >= 0 && fd < FDS && wired[fd] != on);
	wired[fd] = on;
	return 0;
}

static int chip_routes(void *ctx, const struct irq_msi_route *routes, unsigned n)
{
	(void)ctx, (void)routes;
	MUST(n <= VECTORS);
	return 0;
}

static const struct irq_chip_ops chip_ops = { chip_wire, chip_routes };

static void check_vectors(struct rig *rig, struct pci_function *fn, unsigned cap)
{
	uint64_t bar = fn->bar[0].mapped;
	uint16_t control = get_le16(fn->config + cap + 2);

	for (unsigned i = 0; i < VECTORS; i++) {
		int fd = irq_fd(pci_msix_source(fn, i));
		uint32_t mask = (uint32_t)rig_read(rig->mmio, bar + TABLE + 16 * i + 12, 4);
		struct pollfd p = { .fd = fd, .events = POLLIN };

		MUST(mask <= 1);
		MUST(wired[fd] == (!mask && (control & 0xc000) == 0x8000));
		MUST((rig_read(rig->mmio, bar + PBA, 8) >> i & 1) ==
			(!wired[fd] && poll(&p, 1, 0) == 1));
	}
}

static void step(
	struct rig *rig, struct pci_function *fn, unsigned cap, const struct instruction *i)
{
	uint64_t bar = fn->bar[0].mapped;
	struct state_writer w = { 0 };
	struct state_reader r;
	uint16_t control = (uint16_t)(i->value & 0xc000);

	switch (i->op % 8) {
	case 0:
		rig_read(rig->mmio, bar + TABLE + i->at % 0x2000u, i->len);
		break;
	case 1:
		rig_write(rig->mmio, bar + TABLE + i->at % 0x2000u, i->value, i->len);
		break;
	case 2:
		pci_config_write(rig->pci, fn->devfn, cap + 2, &control, 2);
		break;
	case 3:
		irq_raise(pci_msix_source(fn, i->at % VECTORS));
		break;
	case 4:
		if (i->value % 8)
			break;
		MUST(pci_function_save(fn, &w) == 0 && pci_msix_save(fn, &w) == 0);
		pci_function_reset(fn);
		r = (struct state_reader){ w.data, w.len, 0 };
		MUST(pci_function_load(fn, &r, NULL) == 0 && pci_msix_load(fn, &r, NULL) == 0);
		state_writer_free(&w);
		break;
	case 5:
		if (i->value % 8 == 0)
			pci_function_reset(fn);
		break;
	default:
		rig_write(rig->mmio, bar + TABLE + i->at % (16 * VECTORS) / 4 * 4, i->value, 4);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig rig;
	struct instruction i;
	struct pci_function *fn;
	unsigned cap;

	log_level = LOG_ERROR;
	memset(wired, 0, sizeof(wired));
	rig_init(&rig);
	irqchip_destroy(rig.irq);
	MUST(irqchip_create(&rig.irq, &chip_ops, NULL, 24, 256) == 0);
	rig.env.irq = rig.irq;
	MUST(rig_echo(&rig, VIRTIO_TRANSPORT_PCI) == 0);
	fn = rig_front(&rig)->transport;
	for (cap = fn->config[0x34]; fn->config[cap] != 0x11; cap = fn->config[cap + 1])
		;
	for (unsigned n = 0; n < PROGRAM_MAX && program_next(&data, &size, &i); n++) {
		step(&rig, fn, cap, &i);
		check_vectors(&rig, fn, cap);
	}
	rig_fini(&rig);
	return 0;
}
