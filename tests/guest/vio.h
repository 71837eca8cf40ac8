/*
 * A virtio device as its driver sees it (virtio 1.2 §3, §4.1, §4.2), the same over PCI and MMIO. The rings are
 * tests/driver/vdriver's; this finds the device, brings it up, and kicks.
 *
 *   vio_find, vio_negotiate, vio_queue*, vio_ready, vio_transfer*
 *
 * transport=mmio on the command line looks for devices at 0xfe000000 and up (mmio=, stride= and slots= say otherwise).
 */
#ifndef TESTS_GUEST_VIO_H
#define TESTS_GUEST_VIO_H

#include "tests/driver/vdriver.h"
#include "tests/guest/lib.h"

enum vio_id { VIO_NET = 1, VIO_BLK = 2, VIO_CONSOLE = 3, VIO_RNG = 4 };

enum vio_status {
	VIO_ACKNOWLEDGE = 1,
	VIO_DRIVER = 2,
	VIO_DRIVER_OK = 4,
	VIO_FEATURES_OK = 8,
	VIO_NEEDS_RESET = 64,
	VIO_FAILED = 128,
};

/* §4.1.4.3, offsets */
enum vio_common {
	COMMON_DEVICE_SELECT = 0x00,
	COMMON_DEVICE_FEATURE = 0x04,
	COMMON_DRIVER_SELECT = 0x08,
	COMMON_DRIVER_FEATURE = 0x0c,
	COMMON_CONFIG_VECTOR = 0x10,
	COMMON_NUM_QUEUES = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_VECTOR = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY_OFF = 0x1e,
	COMMON_QUEUE_DESC = 0x20,
	COMMON_QUEUE_DRIVER = 0x28,
	COMMON_QUEUE_DEVICE = 0x30,
};

/* §4.2.2, offsets */
enum vio_mmio {
	MMIO_MAGIC = 0x00,
	MMIO_VERSION = 0x04,
	MMIO_DEVICE_ID = 0x08,
	MMIO_VENDOR_ID = 0x0c,
	MMIO_DEVICE_FEATURES = 0x10,
	MMIO_DEVICE_SELECT = 0x14,
	MMIO_DRIVER_FEATURES = 0x20,
	MMIO_DRIVER_SELECT = 0x24,
	MMIO_QUEUE_SELECT = 0x30,
	MMIO_QUEUE_MAX = 0x34,
	MMIO_QUEUE_SIZE = 0x38,
	MMIO_QUEUE_READY = 0x44,
	MMIO_QUEUE_NOTIFY = 0x50,
	MMIO_INTERRUPT_STATUS = 0x60,
	MMIO_INTERRUPT_ACK = 0x64,
	MMIO_STATUS = 0x70,
	MMIO_QUEUE_DESC = 0x80,
	MMIO_QUEUE_DRIVER = 0x90,
	MMIO_QUEUE_DEVICE = 0xa0,
	MMIO_GENERATION = 0xfc,
	MMIO_CONFIG = 0x100,
};

/* §4.1.4, cfg_type */
enum { VIO_CFG_COMMON = 1, VIO_CFG_NOTIFY, VIO_CFG_ISR, VIO_CFG_DEVICE, VIO_CFG_PCI, VIO_CFGS };

enum { VIO_QUEUES = 16 };

struct vio;

struct vio_queue {
	struct vio *vio;
	unsigned index;
	uint16_t size;
	uint8_t *desc, *avail, *used, *tables;
	uint64_t notify;           /* PCI: address */
	struct vd_queue vd;
};

struct vio {
	bool pci;
	uint64_t mmio;             /* MMIO: registers */
	unsigned devfn;            /* PCI */
	uint64_t cfg[VIO_CFGS];    /* PCI: address of each structure; [VIO_CFG_PCI]: capability offset */
	uint32_t cfg_len[VIO_CFGS];
	uint32_t cfg_offset[VIO_CFGS];
	uint8_t cfg_bar[VIO_CFGS];
	uint32_t notify_multiplier;
	uint64_t features;         /* negotiated */
	struct vio_queue queue[VIO_QUEUES];
};

/* The n-th device of this kind on the transport the command line names. false: none. */
bool vio_find(struct vio *v, enum vio_id id, unsigned n);
/* On this transport, whatever the command line says. */
bool vio_find_on(struct vio *v, bool pci, enum vio_id id, unsigned n);
/* Read the capabilities and BARs again (after a move). false: there is something missing. */
bool vio_find_structures(struct vio *v);

uint8_t vio_status(const struct vio *v);
void vio_set_status(struct vio *v, uint8_t status);
/* Status 0, and wait until it reads 0 (§4.1.4.3.1). */
bool vio_reset(struct vio *v);
uint64_t vio_device_features(const struct vio *v);
uint32_t vio_device_feature_word(const struct vio *v, uint32_t word);
void vio_set_driver_features(struct vio *v, uint64_t features);
uint8_t vio_generation(const struct vio *v);
uint64_t vio_config(const struct vio *v, unsigned at, unsigned len);
void vio_set_config8(struct vio *v, unsigned at, uint8_t value);
unsigned vio_queue_max(const struct vio *v, unsigned index);
bool vio_queue_enabled(const struct vio *v, unsigned index);
void vio_queue_program(struct vio *v, unsigned index, uint16_t size, uint64_t desc, uint64_t driver, uint64_t device);
void vio_queue_enable(struct vio *v, unsigned index);
void vio_kick(const struct vio *v, unsigned index);
/* Features that the command line asks for: packed=, event_idx=, indirect=, in_order= (0 or 1; default 0). */
uint64_t vio_ring_features(void);

/*
 * Reset, acknowledge, offer `wanted` and what the device has of it; VERSION_1 must be among it. false: FEATURES_OK did not
 * stick.
 */
bool vio_negotiate(struct vio *v, uint64_t wanted);
/* Rings of at most `size` entries in fresh DMA memory. false: no such queue. */
bool vio_queue(struct vio *v, unsigned index, uint16_t size);
/* The same rings again, empty, after a reset and a negotiation. */
bool vio_queue_again(struct vio_queue *q);
void vio_ready(struct vio *v);

/* Wait for a used buffer: vd_poll's answer, 0 when patience ends. */
int vio_wait(struct vio_queue *q, void **cookie, uint32_t *len);
/* One buffer there and back. false: no answer, or a wrong one. */
bool vio_transfer(struct vio *v, unsigned index, const struct vd_seg *segs, unsigned nin, unsigned nout, uint32_t *len);

static inline struct vd_seg vio_seg(const void *p, size_t len)
{
	return (struct vd_seg){ (uint64_t)p, (uint32_t)len };
}

#endif
