/* Config space, BARs and where they may go; on a disk as the function under test. */
#include "tests/guest/blk.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

enum { WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16, VIRTIO_VENDOR = 0x1af4, BAR = 0 };
enum { MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_ENABLE = 1 << 15, MSIX_MASK_ALL = 1 << 14 };

static bool answers(const struct blk *b)
{
	return vio_device_features(&b->v) & VD_F_VERSION_1;
}

static void decoding(struct blk *b)
{
	unsigned devfn = b->v.devfn;
	uint64_t base = pci_bar(devfn, BAR), size = pci_bar_size(devfn, BAR);
	uint16_t command = pci_read16(devfn, PCI_COMMAND);

	check(size >= 4096 && !(size & (size - 1)), "the BAR has a size", "0x%lx", size);
	check(base && !(base & (size - 1)), "the BAR is placed and aligned to its size", "0x%lx", base);
	check(pci_bar(devfn, BAR) == base && answers(b), "the device answers after its BAR was sized", "it does not");
	pci_write16(devfn, PCI_COMMAND, (uint16_t)(command & ~PCI_COMMAND_MEMORY));
	check_equal(read32(b->v.cfg[VIO_CFG_COMMON] + COMMON_DEVICE_FEATURE), 0xffffffff,
		"with decoding off the BAR reads as ones");
	pci_write16(devfn, PCI_COMMAND, command);
	check(answers(b), "with decoding on again the device answers", "it does not");
	/* Sized while decoding is on, as careless firmware does. */
	pci_bar_set(devfn, BAR, UINT64_MAX);
	pci_bar_set(devfn, BAR, base);
	check(answers(b), "the device answers after its BAR was sized with decoding on", "it does not");
}

/* The rings stay; notify addresses follow the BAR. */
static void requeue(struct blk *b)
{
	vio_find_structures(&b->v);
	for (unsigned i = 0; i < b->queues; i++)
		b->v.queue[i].notify = b->v.cfg[VIO_CFG_NOTIFY] + (uint64_t)i * b->v.notify_multiplier;
}

static void move(struct blk *b)
{
	unsigned devfn = b->v.devfn;
	uint64_t base = pci_bar(devfn, BAR), common = b->v.cfg[VIO_CFG_COMMON];
	uint64_t place = base + arg_u64("move", UINT64_C(512) << 20);

	pci_bar_set(devfn, BAR, place);
	requeue(b);
	check_equal(pci_bar(devfn, BAR), place, "the BAR has moved");
	check(answers(b), "the device answers at its new place", "it does not");
	check_equal(read32(common + COMMON_DEVICE_FEATURE), 0xffffffff, "nothing answers at its old place");
	check(blk_works(b, 0), "a running queue is kicked at its new place", "it is not");
	pci_bar_set(devfn, BAR, PLACE_RAM + 0x100000);
	check(read64(PLACE_RAM + 0x100000) != UINT64_MAX &&
		read64(PLACE_RAM + 0x100000) == *(volatile uint64_t *)(PLACE_RAM + 0x100000ul),
		"a BAR on RAM does not hide RAM", "it does");
	pci_bar_set(devfn, BAR, PLACE_MESSAGES);
	pci_bar_set(devfn, BAR, UINT64_C(1) << 51);
	pci_bar_set(devfn, BAR, pci_ecam(0, 0));
	check_equal(pci_read16(devfn, PCI_VENDOR), VIRTIO_VENDOR, "config space outlives a BAR on top of it");
	pci_bar_set(devfn, BAR, base);
	requeue(b);
	check(answers(b), "the device answers where it was before", "it does not");
	check(blk_works(b, 0), "a running queue is kicked where it was before", "it is not");
}

static uint32_t window_read(const struct vio *v, uint32_t offset, uint32_t len)
{
	unsigned cap = (unsigned)v->cfg[VIO_CFG_PCI];

	pci_write8(v->devfn, cap + WINDOW_BAR, v->cfg_bar[VIO_CFG_COMMON]);
	pci_write32(v->devfn, cap + WINDOW_OFFSET, offset);
	pci_write32(v->devfn, cap + WINDOW_LENGTH, len);
	return len == 1 ? pci_read8(v->devfn, cap + WINDOW_DATA) : len == 2 ? pci_read16(v->devfn, cap + WINDOW_DATA) :
		pci_read32(v->devfn, cap + WINDOW_DATA);
}

/* §4.1.4.9 */
static void window(struct blk *b)
{
	const struct vio *v = &b->v;
	unsigned cap = (unsigned)v->cfg[VIO_CFG_PCI];
	uint32_t common = v->cfg_offset[VIO_CFG_COMMON];

	if (!check(cap, "there is a window in config space", "no such capability"))
		return;
	check_equal(window_read(v, common + COMMON_STATUS, 1), vio_status(v), "the window reads a byte of the BAR");
	check_equal(window_read(v, common + COMMON_NUM_QUEUES, 2), read16(v->cfg[VIO_CFG_COMMON] + COMMON_NUM_QUEUES),
		"the window reads a word of the BAR");
	check_equal(window_read(v, v->cfg_offset[VIO_CFG_DEVICE], 4), (uint32_t)b->capacity,
		"the window reads a double word of the BAR");
	window_read(v, common + COMMON_DEVICE_SELECT, 4);
	pci_write32(v->devfn, cap + WINDOW_DATA, 1);
	check_equal(read32(v->cfg[VIO_CFG_COMMON] + COMMON_DEVICE_SELECT), 1, "the window writes to the BAR");
	window_read(v, 0xfffffffc, 4);
	window_read(v, 0, 0xffffffff);
	window_read(v, 3, 2);
	window_read(v, 0xffffffff, 1);
	pci_write8(v->devfn, cap + WINDOW_BAR, 7);
	pci_read32(v->devfn, cap + WINDOW_DATA);
	pci_write32(v->devfn, cap + WINDOW_DATA, 0xffffffff);
	check(answers(b), "windows to nowhere do nothing", "the device is gone");
}

static void msix(struct blk *b)
{
	unsigned devfn = b->v.devfn, cap = pci_capability(devfn, PCI_CAP_MSIX, 0);
	uint64_t common = b->v.cfg[VIO_CFG_COMMON], table, pba;
	uint16_t control, vectors;

	if (!check(cap, "there is MSI-X", "no such capability"))
		return;
	control = pci_read16(devfn, cap + MSIX_CONTROL);
	vectors = (control & 0x7ff) + 1;
	check(vectors > b->queues, "there is a vector for each queue and one for the config", "%u", vectors);
	pci_write16(devfn, cap + MSIX_CONTROL, MSIX_ENABLE | MSIX_MASK_ALL);
	check_equal(pci_read16(devfn, cap + MSIX_CONTROL), (control & 0x7ff) | MSIX_ENABLE | MSIX_MASK_ALL,
		"MSI-X control takes its two bits and no more");
	table = pci_bar(devfn, pci_read32(devfn, cap + MSIX_TABLE) & 7) + (pci_read32(devfn, cap + MSIX_TABLE) & ~7u);
	check_equal(read32(table + 12) & 1, 1, "vectors are masked at first");
	write32(table, PLACE_MESSAGES);
	write32(table + 8, 0x41);
	check(read32(table) == PLACE_MESSAGES && read32(table + 8) == 0x41, "a table entry keeps what is written", "0x%x",
		read32(table));
	write16(common + COMMON_CONFIG_VECTOR, (uint16_t)(vectors - 1));
	check_equal(read16(common + COMMON_CONFIG_VECTOR), vectors - 1u, "a vector that exists is taken");
	write16(common + COMMON_CONFIG_VECTOR, vectors);
	check_equal(read16(common + COMMON_CONFIG_VECTOR), 0xffff, "a vector that does not exist is refused");
	pba = pci_bar(devfn, pci_read32(devfn, cap + MSIX_PBA) & 7) + (pci_read32(devfn, cap + MSIX_PBA) & ~7u);
	check_equal(read32(pba), 0, "nothing is pending behind the masks");
	/* A masked vector gets its message, then its mask goes: the host routes and wires it. */
	write32(table + 12, 0);
	pci_write16(devfn, cap + MSIX_CONTROL, MSIX_ENABLE);
	check_equal(pci_read16(devfn, cap + MSIX_CONTROL), (control & 0x7ff) | MSIX_ENABLE, "the mask of all vectors goes");
	check_equal(read32(table + 12) & 1, 0, "a vector that is not masked says so");
	pci_write16(devfn, cap + MSIX_CONTROL, 0);
}

static void pci(void)
{
	static struct blk b;

	if (!blk_open(&b, 0))
		return;
	pci_check_doors(b.v.devfn);
	decoding(&b);
	window(&b);
	msix(&b);
	move(&b);
}

/* As many functions as the command line says there are disks. */
static void pci_many(void)
{
	uint64_t count = arg_u64("count", 1);
	static struct blk b;
	bool good = true;

	for (unsigned i = 0; i < count && good; i++)
		good = vio_find(&b.v, VIO_BLK, i) && vio_config(&b.v, BLK_CAPACITY, 8) == 2048u + i;
	check(good, "all disks are there, in the order they were given", "one is not");
	check(!vio_find(&b.v, VIO_BLK, (unsigned)count), "there are no more", "there is one more");
}

const struct guest_test pci_tests[] = {
	{ "pci", pci },
	{ "many", pci_many },
	{ NULL, NULL },
};
