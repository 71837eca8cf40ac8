/*
 * What a driver must not do, on a disk, over a real transport: each time the machine lives on and the device works after a reset.
 * What single descriptors can say is tested without a machine; here it is what needs registers, kicks and threads.
 */
#include "tests/guest/blk.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

enum { STORM = 20000, DESC_F_NEXT = 1, DESC_F_WRITE = 2, QUEUE_SIZE = 16, IN_FLIGHT = 4, DATA = 64 * 1024 };

/* §2.7.5 */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static void works_again(struct blk *b, const char *name)
{
	bool good = vio_reset(&b->v) && blk_start(b, b->v.features) && blk_works(b, 0);

	check(good, name, "status 0x%x", vio_status(&b->v));
}

/* Ring addresses that are not RAM, not aligned, or at the edge. */
static void bad_addresses(struct blk *b)
{
	const uint64_t ram = PLACE_RAM + arg_u64("ram", 128 << 20);
	const uint64_t places[] = { ram, ram - 16, UINT64_MAX - 15, UINT64_C(1) << 63, PLACE_MESSAGES, PLACE_VIRTIO, 3, PLACE_WINDOW,
		UINT64_MAX };
	const uint64_t good = (uint64_t)dma(4096, 4096);

	for (unsigned i = 0; i < 3 * ARRAY_SIZE(places); i++) {
		uint64_t bad = places[i / 3];

		if (!vio_negotiate(&b->v, VD_F_VERSION_1))
			break;
		b->v.queue[0].index = 0;
		vio_queue_program(&b->v, 0, QUEUE_SIZE, i % 3 == 0 ? bad : good, i % 3 == 1 ? bad : good + 1024,
			i % 3 == 2 ? bad : good + 2048);
		vio_queue_enable(&b->v, 0);
		vio_ready(&b->v);
		vio_kick(&b->v, 0);
	}
	works_again(b, "the disk works after rings at impossible addresses");
}

static void bad_sizes(struct blk *b)
{
	static const uint16_t sizes[] = { 0, 1, 3, 1000, 0x8000, 0xffff };
	const uint64_t good = (uint64_t)dma(4096, 4096);

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (!vio_negotiate(&b->v, VD_F_VERSION_1))
			break;
		vio_queue_program(&b->v, 0, sizes[i], good, good + 1024, good + 2048);
		vio_queue_enable(&b->v, 0);
		vio_ready(&b->v);
		vio_kick(&b->v, 0);
	}
	works_again(b, "the disk works after rings of impossible sizes");
}

static void early_kicks(struct blk *b)
{
	vio_reset(&b->v);
	vio_kick(&b->v, 0);
	vio_negotiate(&b->v, VD_F_VERSION_1);
	vio_kick(&b->v, 0);
	vio_queue(&b->v, 0, QUEUE_SIZE);
	vio_kick(&b->v, 0);
	if (b->v.pci)
		write16(b->v.queue[0].notify + 4 * 60, 60);
	else
		write32(b->v.mmio + MMIO_QUEUE_NOTIFY, 0xffff);
	vio_reset(&b->v);
	vio_kick(&b->v, 0);
	works_again(b, "the disk works after kicks of queues that do not run");
}

static void storm(struct blk *b)
{
	for (unsigned i = 0; i < STORM; i++)
		vio_kick(&b->v, 0);
	check(blk_works(b, 0), "the disk works after a storm of kicks", "it does not");
}

/* Registers are written while the queue runs: what the device was given at start stays. */
static void rewritten(struct blk *b)
{
	uint64_t features = b->v.features;

	vio_queue_program(&b->v, 0, 4, PLACE_MESSAGES, PLACE_MESSAGES, PLACE_MESSAGES);
	vio_queue_enable(&b->v, 0);
	check(blk_works(b, 0), "a running queue does not see its registers change", "it does");
	vio_set_driver_features(&b->v, 0);
	vio_set_status(&b->v, VIO_ACKNOWLEDGE);
	check(vio_status(&b->v) & VIO_DRIVER_OK, "status bits are not cleared but by 0", "0x%x", vio_status(&b->v));
	b->v.features = features;
	works_again(b, "the disk works after that and a reset");
}

/* Reset with requests in flight, many times: none may write to memory once status has read 0. */
static void reset_in_flight(struct blk *b)
{
	struct blk_header *header = dma(IN_FLIGHT * sizeof(*header), 16);
	uint8_t *data = dma(IN_FLIGHT * DATA, 4096), *status = dma(IN_FLIGHT, 1);
	bool quiet = true;

	for (unsigned round = 0; round < 30 && quiet; round++) {
		struct vio_queue *q = &b->v.queue[0];

		if (round && !blk_start(b, b->v.features))
			break;
		dma(DATA * IN_FLIGHT + 65536, 4096); /* blk_start took what we had: stay behind it */
		for (unsigned i = 0; i < IN_FLIGHT; i++) {
			const struct vd_seg segs[3] = { vio_seg(&header[i], 16), vio_seg(data + i * DATA, DATA),
				vio_seg(&status[i], 1) };

			header[i] = (struct blk_header){ .type = BLK_IN, .sector = 8 };
			vd_add(&q->vd, segs, 1, 2, &header[i]);
		}
		vd_kick(&q->vd);
		quiet = vio_reset(&b->v);
		fill(data, 0x5a, IN_FLIGHT * DATA);
		for (unsigned i = 0; i < 20000; i++)
			relax();
		for (unsigned i = 0; i < IN_FLIGHT * DATA && quiet; i += 512)
			quiet = *(volatile uint8_t *)(data + i) == 0x5a;
	}
	check(quiet, "after a reset no request writes to memory", "one does");
	works_again(b, "the disk works after resets with requests in flight");
}

/* A chain that bites its tail, an index that jumps, heads that do not exist: the ring breaks, the machine does not. */
static void broken_rings(struct blk *b)
{
	for (unsigned kind = 0; kind < 4; kind++) {
		struct vio_queue *q = &b->v.queue[0];
		struct desc *desc;
		uint16_t *avail;

		if (!vio_reset(&b->v) || !vio_negotiate(&b->v, VD_F_VERSION_1) || !vio_queue(&b->v, 0, QUEUE_SIZE))
			break;
		vio_ready(&b->v);
		desc = (struct desc *)q->desc;
		avail = (uint16_t *)q->avail;
		desc[0] = (struct desc){ (uint64_t)b->header, 16, DESC_F_NEXT, 0 };
		desc[1] = (struct desc){ UINT64_MAX - 8, 4096, DESC_F_WRITE, 0 };
		avail[2] = kind == 1 ? 0xfff0 : kind == 2 ? 1 : 0;
		*(volatile uint16_t *)&avail[1] = kind == 3 ? 0x4000 : 1;
		vio_kick(&b->v, 0);
		for (unsigned i = 0; i < 20000; i++)
			relax();
	}
	works_again(b, "the disk works after broken rings");
}

static void hostile(void)
{
	static struct blk b;

	if (!blk_open(&b, 0))
		return;
	early_kicks(&b);
	storm(&b);
	rewritten(&b);
	bad_sizes(&b);
	bad_addresses(&b);
	broken_rings(&b);
	reset_in_flight(&b);
}

/* Every register of the device at every width, but the queue enables that start rings in the middle of nowhere. */
static void sweep(void)
{
	static struct blk b;
	uint64_t base, size;

	if (!blk_open(&b, 0))
		return;
	base = b.v.pci ? pci_bar(b.v.devfn, 0) : b.v.mmio;
	size = b.v.pci ? pci_bar_size(b.v.devfn, 0) : 0x200;
	for (uint64_t at = base; at < base + size; at++) {
		read8(at);
		write8(at, (uint8_t)at);
	}
	check(true, "all registers take bytes", "-");
	for (uint64_t at = base; at < base + size - 1; at++) {
		read16(at);
		write16(at, (uint16_t)~at);
	}
	check(true, "all registers take words at any place", "-");
	for (uint64_t at = base; at < base + size - 3; at++) {
		read32(at);
		write32(at, (uint32_t)(at * 0x9e3779b1u));
	}
	check(true, "all registers take double words at any place", "-");
	for (uint64_t at = base; at < base + size - 7; at += 4) {
		read64(at);
		write64(at, UINT64_MAX);
	}
	check(true, "all registers take quad words", "-");
	works_again(&b, "the disk works after all that");
}

/* Every byte of config space, but the BARs and the command register last. */
static void config_sweep(void)
{
	static struct blk b;
	uint64_t base;

	if (!blk_open(&b, 0))
		return;
	base = pci_bar(b.v.devfn, 0);
	for (unsigned at = 0; at < 4096; at++) {
		read8(pci_ecam(b.v.devfn, at));
		write8(pci_ecam(b.v.devfn, at), (uint8_t)(at * 7));
	}
	for (unsigned at = 0; at < 4096 - 3; at++) {
		read32(pci_ecam(b.v.devfn, at));
		write32(pci_ecam(b.v.devfn, at), at * 0x9e3779b1u);
	}
	for (unsigned at = 0; at < 256; at += 4)
		pci_write32(b.v.devfn, at, 0xffffffff);
	pci_write16(b.v.devfn, PCI_COMMAND, 0);
	pci_bar_set(b.v.devfn, 0, base);
	pci_write16(b.v.devfn, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	check_equal(pci_bar(b.v.devfn, 0), base, "the BAR is back");
	vio_find_structures(&b.v);
	works_again(&b, "the disk works after writes to all of its config space");
}

const struct guest_test hostile_tests[] = {
	{ "hostile", hostile },
	{ "sweep", sweep },
	{ "config-sweep", config_sweep },
	{ NULL, NULL },
};
