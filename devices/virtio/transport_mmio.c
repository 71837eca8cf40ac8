/*
 * virtio over MMIO (virtio 1.2 §4.2.2, version 2): 256 bytes of 32-bit registers, then the config
 * space, in a page of its own, with one interrupt line. The firmware tables name the place (node
 * "virtio-mmio").
 *
 * Registers take aligned 32-bit accesses only (§4.2.2.1); others read 0 and write nothing. Config
 * space takes any width.
 *
 * InterruptStatus: a queue's call eventfd is wired straight to the line, so nobody of ours is there
 * to set bit 0 when it rings. It reads as 1 for as long as the driver runs: "used buffers may be
 * waiting" is then true at worst once too often, and a driver has to look at its rings anyway,
 * since the device may use a buffer between two looks. Bit 1 (config change) is kept exactly.
 *
 * vCPU threads; selectors are single words that only the guest itself can race for.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/virtio/front.h"
#include "vmm/log.h"

/* §4.2.2, table 4.1 */
enum mmio_reg {
	REG_MAGIC = 0x00,
	REG_VERSION = 0x04,
	REG_DEVICE_ID = 0x08,
	REG_VENDOR_ID = 0x0c,
	REG_DEVICE_FEATURES = 0x10,
	REG_DEVICE_FEATURES_SEL = 0x14,
	REG_DRIVER_FEATURES = 0x20,
	REG_DRIVER_FEATURES_SEL = 0x24,
	REG_QUEUE_SEL = 0x30,
	REG_QUEUE_SIZE_MAX = 0x34,
	REG_QUEUE_SIZE = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_QUEUE_NOTIFY = 0x50,
	REG_INTERRUPT_STATUS = 0x60,
	REG_INTERRUPT_ACK = 0x64,
	REG_STATUS = 0x70,
	REG_QUEUE_DESC_LO = 0x80,
	REG_QUEUE_DESC_HI = 0x84,
	REG_QUEUE_DRIVER_LO = 0x90,
	REG_QUEUE_DRIVER_HI = 0x94,
	REG_QUEUE_DEVICE_LO = 0xa0,
	REG_QUEUE_DEVICE_HI = 0xa4,
	REG_SHM_SEL = 0xac,
	REG_SHM_LEN_LO = 0xb0,
	REG_SHM_LEN_HI = 0xb4,
	REG_SHM_BASE_LO = 0xb8,
	REG_SHM_BASE_HI = 0xbc,
	REG_CONFIG_GENERATION = 0xfc,
	REG_CONFIG = 0x100,
};

enum {
	MMIO_MAGIC = 0x74726976, /* "virt" */
	MMIO_VERSION = 2,
	MMIO_VENDOR = 0x1af4,
	MMIO_LEN = REG_CONFIG + VIRTIO_CONFIG_MAX,
	INT_QUEUE = 1,
	INT_CONFIG = 2,
};

struct transport_mmio {
	struct front *f;             /* const */
	struct bus *bus;             /* const */
	uint64_t base;               /* const */
	struct irq_source *irq;      /* const */
	bool mapped;                 /* main */
	unsigned nnotify;            /* main */
	/* Selectors and pending config change: vCPU threads and main, by single atomic accesses. */
	uint32_t device_sel, driver_sel, queue_sel, pending;
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static const struct {
	uint16_t reg;
	enum front_queue_reg queue_reg;
} queue_regs[] = {
	{ REG_QUEUE_SIZE, FRONT_Q_SIZE },
	{ REG_QUEUE_READY, FRONT_Q_ENABLE },
	{ REG_QUEUE_DESC_LO, FRONT_Q_DESC_LO },
	{ REG_QUEUE_DESC_HI, FRONT_Q_DESC_HI },
	{ REG_QUEUE_DRIVER_LO, FRONT_Q_AVAIL_LO },
	{ REG_QUEUE_DRIVER_HI, FRONT_Q_AVAIL_HI },
	{ REG_QUEUE_DEVICE_LO, FRONT_Q_USED_LO },
	{ REG_QUEUE_DEVICE_HI, FRONT_Q_USED_HI },
};

static uint32_t interrupt_status(const struct transport_mmio *t)
{
	return LOAD(t->pending) | (front_status(t->f) & VIRTIO_S_DRIVER_OK ? INT_QUEUE : 0u);
}

static uint32_t device_features(const struct transport_mmio *t)
{
	uint32_t word = LOAD(t->device_sel);

	return word < 2 ? (uint32_t)(front_device_features(t->f) >> (32 * word)) : 0;
}

static uint32_t reg_read(const struct transport_mmio *t, uint64_t reg)
{
	switch (reg) {
	case REG_MAGIC:
		return MMIO_MAGIC;
	case REG_VERSION:
		return MMIO_VERSION;
	case REG_DEVICE_ID:
		return t->f->dev->type->id;
	case REG_VENDOR_ID:
		return MMIO_VENDOR;
	case REG_DEVICE_FEATURES:
		return device_features(t);
	case REG_QUEUE_SIZE_MAX:
		return LOAD(t->queue_sel) < t->f->dev->nqueues ? t->f->dev->queue_size : 0;
	case REG_QUEUE_READY: /* the only queue register that is not write-only */
		return front_queue_read(t->f, LOAD(t->queue_sel), FRONT_Q_ENABLE);
	case REG_INTERRUPT_STATUS:
		return interrupt_status(t);
	case REG_STATUS:
		return front_status(t->f);
	case REG_SHM_LEN_LO: /* §4.2.2: no such region */
	case REG_SHM_LEN_HI:
	case REG_SHM_BASE_LO:
	case REG_SHM_BASE_HI:
		return UINT32_MAX;
	case REG_CONFIG_GENERATION:
		return virtio_config_generation(&t->f->dev->config);
	default:
		return 0;
	}
}

static void queue_write(struct transport_mmio *t, uint64_t reg, uint32_t value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(queue_regs); i++)
		if (queue_regs[i].reg == reg)
			front_queue_write(t->f, LOAD(t->queue_sel), queue_regs[i].queue_reg, value);
}

static void reg_write(struct transport_mmio *t, uint64_t reg, uint32_t value)
{
	switch (reg) {
	case REG_DEVICE_FEATURES_SEL:
		STORE(t->device_sel, value);
		break;
	case REG_DRIVER_FEATURES_SEL:
		STORE(t->driver_sel, value);
		break;
	case REG_DRIVER_FEATURES:
		front_set_driver_features(t->f, LOAD(t->driver_sel), value);
		break;
	case REG_QUEUE_SEL:
		STORE(t->queue_sel, value);
		break;
	case REG_QUEUE_NOTIFY:
		front_kick(t->f, value);
		break;
	case REG_INTERRUPT_ACK:
		__atomic_fetch_and(&t->pending, ~value, __ATOMIC_SEQ_CST);
		break;
	case REG_STATUS:
		front_set_status(t->f, (uint8_t)value);
		break;
	default:
		queue_write(t, reg, value);
		break;
	}
}

static void mmio_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct transport_mmio *t = ctx;

	memset(data, 0, len);
	if (offset >= REG_CONFIG)
		front_config_read(t->f, (unsigned)offset - REG_CONFIG, data, len);
	else if (len == 4 && is_aligned(offset, 4))
		put_le32(data, reg_read(t, offset));
}

static void mmio_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct transport_mmio *t = ctx;

	if (offset >= REG_CONFIG)
		front_config_write(t->f, (unsigned)offset - REG_CONFIG, data, len);
	else if (len == 4 && is_aligned(offset, 4))
		reg_write(t, offset, get_le32(data));
}

static const struct bus_ops mmio_bus_ops = { .read = mmio_read, .write = mmio_write };

static int mmio_call_fd(void *transport, unsigned queue)
{
	struct transport_mmio *t = transport;

	(void)queue;
	return irq_fd(t->irq);
}

static int mmio_irq_fd(void *transport, unsigned i)
{
	return i ? -1 : mmio_call_fd(transport, 0);
}

static void mmio_config_irq(void *transport)
{
	struct transport_mmio *t = transport;

	/* Ordered before the interrupt: the driver's handler reads it. */
	__atomic_fetch_or(&t->pending, INT_CONFIG, __ATOMIC_SEQ_CST);
	irq_raise(t->irq);
}

static void mmio_reset(void *transport)
{
	struct transport_mmio *t = transport;

	STORE(t->device_sel, 0);
	STORE(t->driver_sel, 0);
	STORE(t->queue_sel, 0);
	STORE(t->pending, 0);
}

static const struct state_field mmio_fields[] = {
	STATE_FIELD(struct transport_mmio, device_sel),
	STATE_FIELD(struct transport_mmio, driver_sel),
	STATE_FIELD(struct transport_mmio, queue_sel),
	STATE_FIELD(struct transport_mmio, pending),
	STATE_END,
};

static int mmio_check(const void *object, struct error *err)
{
	const struct transport_mmio *t = object;

	if (t->pending & ~(uint32_t)INT_CONFIG)
		return error_set(err, EINVAL,
			"%s: the saved interrupt status %#x has unknown bits; the file is "
			"damaged",
			t->f->device.id, t->pending);
	return 0;
}

static const struct state_desc mmio_state = {
	.name = "virtio-mmio",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct transport_mmio),
	.fields = mmio_fields,
	.check = mmio_check,
};

static int mmio_save(void *transport, struct state_writer *w)
{
	return state_save(w, &mmio_state, transport);
}

static int mmio_load(void *transport, struct state_reader *r, struct error *err)
{
	return state_load(r, &mmio_state, transport, err);
}

static struct bus_notify notify_of(const struct transport_mmio *t, unsigned queue)
{
	return (struct bus_notify){ t->base + REG_QUEUE_NOTIFY, 4, true, queue,
		t->f->q[queue].kick_fd };
}

static void mmio_destroy(void *transport)
{
	struct transport_mmio *t = transport;

	for (unsigned i = 0; i < t->nnotify; i++) {
		struct bus_notify n = notify_of(t, i);

		bus_notify_remove(t->bus, &n);
	}
	if (t->mapped)
		bus_remove(t->bus, t->base);
	irq_destroy(t->irq);
	free(t);
}

static const struct transport_ops mmio_ops = {
	.call_fd = mmio_call_fd,
	.irq_fd = mmio_irq_fd,
	.config_irq = mmio_config_irq,
	.reset = mmio_reset,
	.save = mmio_save,
	.load = mmio_load,
	.destroy = mmio_destroy,
};

static int mmio_register(struct transport_mmio *t, struct error *err)
{
	const struct bus_range range = { t->base, MMIO_LEN, &mmio_bus_ops, t, t->f->device.id };
	int r = bus_add(t->bus, &range);

	t->mapped = r == 0;
	for (unsigned i = 0; r == 0 && i < t->f->dev->nqueues; i++) {
		struct bus_notify n = notify_of(t, i);

		r = bus_notify_add(t->bus, &n);
		if (r == 0)
			t->nnotify++;
	}
	return r < 0 ? error_set(err, -r, "%s: cannot place its registers at %#llx: %s",
			       t->f->device.id, (unsigned long long)t->base, strerror(-r))
		     : 0;
}

int transport_mmio_create(struct front *f, const struct device_env *env, struct error *err)
{
	struct transport_mmio *t = calloc(1, sizeof(*t));
	uint32_t gsi;
	int r;

	if (!t)
		return error_set(err, ENOMEM, "%s: out of memory", f->device.id);
	t->f = f;
	t->bus = env->mmio;
	r = device_take_mmio(env->resources, PAGE_4K, PAGE_4K, &t->base);
	if (r == 0)
		r = device_take_gsi(env->resources, &gsi);
	if (r < 0) {
		mmio_destroy(t);
		return error_set(err, -r,
			"%s: no address or interrupt line is left for transport=mmio; use "
			"transport=pci",
			f->device.id);
	}
	f->device.nodes[0] = (struct device_node){ "virtio-mmio", false, t->base, MMIO_LEN, gsi };
	r = irq_line_create(&t->irq, env->irq, gsi, err);
	if (r == 0)
		r = mmio_register(t, err);
	if (r < 0) {
		mmio_destroy(t);
		return r;
	}
	f->tops = &mmio_ops;
	f->transport = t;
	return 0;
}
