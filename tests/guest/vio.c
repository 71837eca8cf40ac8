/* Virtio devices over PCI and MMIO; vio.h says how they are used. */
#include "tests/guest/vio.h"

#include "tests/guest/pci.h"

enum {
	VIRTIO_VENDOR = 0x1af4,
	VIRTIO_DEVICE = 0x1040, /* §4.1.2.1: plus the device id */
	MAGIC = 0x74726976,
	DEFAULT_BASE = PLACE_VIRTIO,
	DEFAULT_STRIDE = 0x1000,
	DEFAULT_SLOTS = 64,
	TABLE_LEN = 16,
};

bool vio_find_structures(struct vio *v)
{
	unsigned cap = 0;

	fill(v->cfg, 0, sizeof(v->cfg));
	while ((cap = pci_capability(v->devfn, PCI_CAP_VENDOR, cap)) != 0) {
		unsigned type = pci_read8(v->devfn, cap + 3), bar = pci_read8(v->devfn, cap + 4);

		if (type >= VIO_CFGS || v->cfg[type])
			continue; /* §4.1.4.1: the first of a type is the preferred one */
		v->cfg_bar[type] = (uint8_t)bar;
		v->cfg_offset[type] = pci_read32(v->devfn, cap + 8);
		v->cfg_len[type] = pci_read32(v->devfn, cap + 12);
		v->cfg[type] = type == VIO_CFG_PCI ? cap : pci_bar(v->devfn, bar) + v->cfg_offset[type];
		if (type == VIO_CFG_NOTIFY)
			v->notify_multiplier = pci_read32(v->devfn, cap + 16);
	}
	/* §4.1.4.6: a device without a config space has no structure for it. */
	return v->cfg[VIO_CFG_COMMON] && v->cfg[VIO_CFG_NOTIFY] && v->cfg[VIO_CFG_ISR];
}

static bool find_pci(struct vio *v, enum vio_id id, unsigned n)
{
	int devfn = pci_find(VIRTIO_VENDOR, (uint16_t)(VIRTIO_DEVICE + id), n);
	uint16_t command;

	if (devfn < 0)
		return false;
	v->pci = true;
	v->devfn = (unsigned)devfn;
	command = pci_read16(v->devfn, PCI_COMMAND);
	pci_write16(v->devfn, PCI_COMMAND, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	return vio_find_structures(v);
}

static bool find_mmio(struct vio *v, enum vio_id id, unsigned n)
{
	uint64_t base = arg_u64("mmio", DEFAULT_BASE), stride = arg_u64("stride", DEFAULT_STRIDE);
	uint64_t slots = arg_u64("slots", DEFAULT_SLOTS);

	for (uint64_t at = base; at < base + stride * slots && read32(at + MMIO_MAGIC) == MAGIC; at += stride) {
		if (read32(at + MMIO_DEVICE_ID) != id || n--)
			continue;
		v->mmio = at;
		return true;
	}
	return false;
}

bool vio_find_on(struct vio *v, bool pci, enum vio_id id, unsigned n)
{
	fill(v, 0, sizeof(*v));
	return pci ? find_pci(v, id, n) : find_mmio(v, id, n);
}

bool vio_find(struct vio *v, enum vio_id id, unsigned n)
{
	return vio_find_on(v, !arg_is("transport", "mmio"), id, n);
}

uint8_t vio_status(const struct vio *v)
{
	return v->pci ? read8(v->cfg[VIO_CFG_COMMON] + COMMON_STATUS) : (uint8_t)read32(v->mmio + MMIO_STATUS);
}

void vio_set_status(struct vio *v, uint8_t status)
{
	if (v->pci)
		write8(v->cfg[VIO_CFG_COMMON] + COMMON_STATUS, status);
	else
		write32(v->mmio + MMIO_STATUS, status);
}

bool vio_reset(struct vio *v)
{
	uint64_t start = cycles();

	vio_set_status(v, 0);
	while (vio_status(v))
		if (cycles() - start > PATIENCE)
			return false;
	return true;
}

uint32_t vio_device_feature_word(const struct vio *v, uint32_t word)
{
	uint64_t common = v->cfg[VIO_CFG_COMMON];

	if (v->pci) {
		write32(common + COMMON_DEVICE_SELECT, word);
		return read32(common + COMMON_DEVICE_FEATURE);
	}
	write32(v->mmio + MMIO_DEVICE_SELECT, word);
	return read32(v->mmio + MMIO_DEVICE_FEATURES);
}

uint64_t vio_device_features(const struct vio *v)
{
	return (uint64_t)vio_device_feature_word(v, 1) << 32 | vio_device_feature_word(v, 0);
}

void vio_set_driver_features(struct vio *v, uint64_t features)
{
	uint64_t common = v->cfg[VIO_CFG_COMMON];

	for (uint32_t word = 0; word < 2; word++) {
		uint32_t bits = (uint32_t)(features >> (32 * word));

		if (v->pci) {
			write32(common + COMMON_DRIVER_SELECT, word);
			write32(common + COMMON_DRIVER_FEATURE, bits);
		} else {
			write32(v->mmio + MMIO_DRIVER_SELECT, word);
			write32(v->mmio + MMIO_DRIVER_FEATURES, bits);
		}
	}
	v->features = features;
}

uint8_t vio_generation(const struct vio *v)
{
	return v->pci ? read8(v->cfg[VIO_CFG_COMMON] + COMMON_GENERATION) :
		(uint8_t)read32(v->mmio + MMIO_GENERATION);
}

/* §2.5.1: fields wider than 32 bits are read until the generation stands still. */
uint64_t vio_config(const struct vio *v, unsigned at, unsigned len)
{
	uint64_t base = (v->pci ? v->cfg[VIO_CFG_DEVICE] : v->mmio + MMIO_CONFIG) + at, value;
	uint8_t generation;

	if (len == 1)
		return read8(base);
	if (len == 2)
		return read16(base);
	if (len == 4)
		return read32(base);
	do {
		generation = vio_generation(v);
		value = (uint64_t)read32(base + 4) << 32 | read32(base);
	} while (vio_generation(v) != generation);
	return value;
}

void vio_set_config8(struct vio *v, unsigned at, uint8_t value)
{
	write8((v->pci ? v->cfg[VIO_CFG_DEVICE] : v->mmio + MMIO_CONFIG) + at, value);
}

static void select_queue(const struct vio *v, unsigned index)
{
	if (v->pci)
		write16(v->cfg[VIO_CFG_COMMON] + COMMON_QUEUE_SELECT, (uint16_t)index);
	else
		write32(v->mmio + MMIO_QUEUE_SELECT, index);
}

unsigned vio_queue_max(const struct vio *v, unsigned index)
{
	select_queue(v, index);
	return v->pci ? read16(v->cfg[VIO_CFG_COMMON] + COMMON_QUEUE_SIZE) : read32(v->mmio + MMIO_QUEUE_MAX);
}

bool vio_queue_enabled(const struct vio *v, unsigned index)
{
	select_queue(v, index);
	return v->pci ? read16(v->cfg[VIO_CFG_COMMON] + COMMON_QUEUE_ENABLE) : read32(v->mmio + MMIO_QUEUE_READY);
}

static void write_address(const struct vio *v, unsigned pci_at, unsigned mmio_at, uint64_t value)
{
	uint64_t at = v->pci ? v->cfg[VIO_CFG_COMMON] + pci_at : v->mmio + mmio_at;

	write32(at, (uint32_t)value);
	write32(at + 4, (uint32_t)(value >> 32));
}

void vio_queue_program(struct vio *v, unsigned index, uint16_t size, uint64_t desc, uint64_t driver, uint64_t device)
{
	select_queue(v, index);
	if (v->pci)
		write16(v->cfg[VIO_CFG_COMMON] + COMMON_QUEUE_SIZE, size);
	else
		write32(v->mmio + MMIO_QUEUE_SIZE, size);
	write_address(v, COMMON_QUEUE_DESC, MMIO_QUEUE_DESC, desc);
	write_address(v, COMMON_QUEUE_DRIVER, MMIO_QUEUE_DRIVER, driver);
	write_address(v, COMMON_QUEUE_DEVICE, MMIO_QUEUE_DEVICE, device);
}

void vio_queue_enable(struct vio *v, unsigned index)
{
	select_queue(v, index);
	if (v->pci)
		write16(v->cfg[VIO_CFG_COMMON] + COMMON_QUEUE_ENABLE, 1);
	else
		write32(v->mmio + MMIO_QUEUE_READY, 1);
}

void vio_kick(const struct vio *v, unsigned index)
{
	const struct vio_queue *q = &v->queue[index];

	if (v->pci)
		write16(q->notify, (uint16_t)index);
	else
		write32(v->mmio + MMIO_QUEUE_NOTIFY, index);
}

static void kick(void *ctx)
{
	const struct vio_queue *q = ctx;

	vio_kick(q->vio, q->index);
}

uint64_t vio_ring_features(void)
{
	uint64_t f = VD_F_VERSION_1;

	f |= arg_u64("packed", 0) ? VD_F_PACKED : 0;
	f |= arg_u64("event_idx", 0) ? VD_F_EVENT_IDX : 0;
	f |= arg_u64("indirect", 0) ? VD_F_INDIRECT : 0;
	f |= arg_u64("in_order", 0) ? VD_F_IN_ORDER : 0;
	return f;
}

bool vio_negotiate(struct vio *v, uint64_t wanted)
{
	uint64_t features;

	if (!vio_reset(v))
		return false;
	vio_set_status(v, VIO_ACKNOWLEDGE);
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER);
	features = vio_device_features(v) & wanted;
	vio_set_driver_features(v, features);
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK);
	return vio_status(v) & VIO_FEATURES_OK;
}

bool vio_queue(struct vio *v, unsigned index, uint16_t size)
{
	struct vio_queue *q = &v->queue[index];
	unsigned max = vio_queue_max(v, index);
	struct vd_config c = { .features = v->features, .table_len = TABLE_LEN, .kick = kick, .kick_ctx = q };

	if (!max || index >= VIO_QUEUES)
		return false;
	q->vio = v;
	q->index = index;
	q->size = c.size = (uint16_t)(size < max ? size : max);
	if (v->pci) {
		unsigned off = read16(v->cfg[VIO_CFG_COMMON] + COMMON_QUEUE_NOTIFY_OFF);

		q->notify = v->cfg[VIO_CFG_NOTIFY] + (uint64_t)off * v->notify_multiplier;
	}
	c.desc = q->desc = dma(16u * q->size, 4096);
	c.avail = q->avail = dma(6 + 2u * q->size, 64);
	c.used = q->used = dma(6 + 8u * q->size, 64);
	c.tables = q->tables = dma(16u * TABLE_LEN * q->size, 64);
	c.tables_addr = (uint64_t)c.tables;
	q->vd.c = c;
	return vio_queue_again(q);
}

bool vio_queue_again(struct vio_queue *q)
{
	struct vd_config c = q->vd.c;

	c.features = q->vio->features;
	if (!vd_queue_init(&q->vd, &c))
		return false;
	vio_queue_program(q->vio, q->index, q->size, (uint64_t)c.desc, (uint64_t)c.avail, (uint64_t)c.used);
	vio_queue_enable(q->vio, q->index);
	return vio_queue_enabled(q->vio, q->index);
}

void vio_ready(struct vio *v)
{
	vio_set_status(v, VIO_ACKNOWLEDGE | VIO_DRIVER | VIO_FEATURES_OK | VIO_DRIVER_OK);
}

int vio_wait(struct vio_queue *q, void **cookie, uint32_t *len)
{
	static uint64_t patience;
	uint64_t start = cycles();
	int r;

	/* patience=: so many times as long, for hosts that are slow on purpose. */
	if (!patience)
		patience = PATIENCE * arg_u64("patience", 1);

	while ((r = vd_poll(&q->vd, cookie, len)) == 0 && cycles() - start < patience)
		relax();
	return r;
}

bool vio_transfer(struct vio *v, unsigned index, const struct vd_seg *segs, unsigned nin, unsigned nout, uint32_t *len)
{
	struct vio_queue *q = &v->queue[index];
	uint32_t unused;
	void *cookie;

	if (!vd_add(&q->vd, segs, nin, nout, q))
		return false;
	vd_kick(&q->vd);
	return vio_wait(q, &cookie, len ? len : &unused) == 1 && cookie == q;
}
