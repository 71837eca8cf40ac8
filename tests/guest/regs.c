/* Registers of a virtio device, on a disk: the status machine (virtio 1.2 §3.1, §2.1), selectors, feature words. */
#include "tests/guest/blk.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

enum { FEATURE_UNKNOWN = 50 };

static void status_machine(struct vio *v)
{
	uint64_t offered = vio_device_features(v);

	check(vio_reset(v), "status 0 resets", "status 0x%x", vio_status(v));
	vio_set_status(v, VIO_ACKNOWLEDGE);
	check_equal(vio_status(v), VIO_ACKNOWLEDGE, "ACKNOWLEDGE is kept");
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER);
	check_equal(vio_status(v), VIO_ACKNOWLEDGE | VIO_DRIVER, "DRIVER is kept");
	vio_set_driver_features(v, VD_F_VERSION_1 | UINT64_C(1) << FEATURE_UNKNOWN);
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK);
	check(!(vio_status(v) & VIO_FEATURES_OK), "a feature not offered is refused", "status 0x%x", vio_status(v));
	vio_set_driver_features(v, 0);
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK);
	check(!(vio_status(v) & VIO_FEATURES_OK), "a driver without VERSION_1 is refused", "status 0x%x",
		vio_status(v));
	vio_set_driver_features(v, VD_F_VERSION_1);
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK);
	check(vio_status(v) & VIO_FEATURES_OK, "a modest choice is taken", "status 0x%x", vio_status(v));
	vio_set_driver_features(v, offered);
	check_equal(vio_device_features(v), offered, "what is offered does not change with what is chosen");
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK | VIO_FAILED);
	check(vio_status(v) & VIO_FAILED, "FAILED is kept", "status 0x%x", vio_status(v));
	check(vio_reset(v), "a failed device resets", "status 0x%x", vio_status(v));
}

static void features(struct vio *v)
{
	uint64_t offered = vio_device_features(v);

	check(offered & VD_F_VERSION_1, "VERSION_1 is offered", "0x%lx", offered);
	check(offered & VD_F_EVENT_IDX, "EVENT_IDX is offered", "0x%lx", offered);
	check(offered & VD_F_INDIRECT, "INDIRECT_DESC is offered", "0x%lx", offered);
	check_equal(vio_device_feature_word(v, 2), 0, "the third word of features is 0");
	check_equal(vio_device_feature_word(v, 0xffffffff), 0, "the last word of features is 0");
	check_equal(vio_device_features(v), offered, "features read the same again");
}

static void queues(struct vio *v, unsigned n)
{
	unsigned max = vio_queue_max(v, 0);

	check(max && !(max & (max - 1)), "the largest queue size is a power of two", "%u", max);
	check(vio_queue_max(v, n - 1), "the last queue is there", "its size is 0");
	check_equal(vio_queue_max(v, n), 0, "the queue after the last is not there");
	check_equal(vio_queue_max(v, 0xffff), 0, "queue 65535 is not there");
	vio_queue_program(v, 0xffff, 8, 0x1000, 0x2000, 0x3000);
	vio_queue_enable(v, 0xffff);
	check(!vio_queue_enabled(v, 0xffff), "a queue that is not there cannot be enabled", "it is");
	check(!vio_queue_enabled(v, 0), "no queue is enabled at first", "queue 0 is");
}

static void pci_registers(struct vio *v)
{
	uint64_t common = v->cfg[VIO_CFG_COMMON];
	uint16_t size;

	check_equal(pci_read16(v->devfn, PCI_SUBVENDOR) != 0, 1, "there is a subsystem vendor");
	check(pci_read8(v->devfn, PCI_REVISION) >= 1, "the revision is a modern one", "%u",
		pci_read8(v->devfn, PCI_REVISION));
	check_equal(read8(v->cfg[VIO_CFG_ISR]), 0, "the ISR is clear at first");
	write16(common + COMMON_QUEUE_SELECT, 0);
	size = read16(common + COMMON_QUEUE_SIZE);
	write16(common + COMMON_QUEUE_SIZE, (uint16_t)(size / 2));
	check_equal(read16(common + COMMON_QUEUE_SIZE), size / 2u, "a smaller queue size is kept");
	write64(common + COMMON_QUEUE_DESC, 0x1122334455667000);
	check_equal(read32(common + COMMON_QUEUE_DESC), 0x55667000, "an address written at once reads by halves, low");
	check_equal(read32(common + COMMON_QUEUE_DESC + 4), 0x11223344, "and high");
	write32(common + COMMON_DRIVER_SELECT, 9);
	check_equal(read32(common + COMMON_DRIVER_SELECT), 9, "the feature selector keeps any number");
	check_equal(read32(common + COMMON_DRIVER_FEATURE), 0, "features beyond the last word are 0");
	check(vio_reset(v), "the device resets", "status 0x%x", vio_status(v));
	write16(common + COMMON_QUEUE_SELECT, 0);
	check_equal(read16(common + COMMON_QUEUE_SIZE), size, "a reset brings the queue size back");
	check_equal(read32(common + COMMON_QUEUE_DESC), 0, "a reset forgets ring addresses");
}

static void mmio_registers(struct vio *v)
{
	check_equal(read32(v->mmio + MMIO_MAGIC), 0x74726976, "the magic is \"virt\"");
	check_equal(read32(v->mmio + MMIO_VERSION), 2, "the version is 2");
	check_equal(read32(v->mmio + MMIO_DEVICE_ID), VIO_BLK, "the device id is a disk's");
	check(read32(v->mmio + MMIO_VENDOR_ID) != 0, "there is a vendor", "0");
	write32(v->mmio + MMIO_MAGIC, 0);
	check_equal(read32(v->mmio + MMIO_MAGIC), 0x74726976, "the magic takes no write");
	check_equal(read8(v->mmio + MMIO_MAGIC + 1), 0, "registers do not take bytes");
	check_equal(read32(v->mmio + MMIO_INTERRUPT_STATUS), 0, "no interrupt is pending at first");
	write32(v->mmio + MMIO_INTERRUPT_ACK, 0xffffffff);
	check_equal(read32(v->mmio + MMIO_QUEUE_NOTIFY), 0, "the notify register reads 0");
}

static void config_space(struct vio *v, uint64_t capacity)
{
	uint64_t base = v->pci ? v->cfg[VIO_CFG_DEVICE] : v->mmio + MMIO_CONFIG;
	uint8_t generation = vio_generation(v), bytes[8];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = read8(base + i);
	check(same_bytes(bytes, &capacity, sizeof(bytes)), "config space reads by bytes", "0x%x ...", bytes[0]);
	check_equal(read16(base + 1), (uint16_t)(capacity >> 8), "config space reads by words at odd places");
	write32(base, 0xdeadbeef);
	check_equal(read32(base), (uint32_t)capacity, "the capacity takes no write");
	check_equal(read32(base + 0xfc), 0, "config space is 0 beyond its end");
	check_equal(vio_generation(v), generation, "the generation stands while nothing changes");
}

static void regs(void)
{
	static struct blk b;

	if (!blk_open(&b, 0))
		return;
	check(vio_reset(&b.v), "the device resets", "status 0x%x", vio_status(&b.v));
	status_machine(&b.v);
	features(&b.v);
	queues(&b.v, b.queues);
	config_space(&b.v, b.capacity);
	if (b.v.pci)
		pci_registers(&b.v);
	else
		mmio_registers(&b.v);
	check(blk_start(&b, vio_ring_features()) && blk_works(&b, 0), "the disk works after all that", "it does not");
}

const struct guest_test regs_tests[] = {
	{ "regs", regs },
	{ NULL, NULL },
};
