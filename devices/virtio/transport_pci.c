/*
 * virtio over PCI (virtio 1.2 §4.1), modern only. All structures lie in one 64-bit BAR of 16 KiB:
 *
 *   0x0000 common config   0x0100 ISR   0x0200 device config
 *   0x1000 notify: 4 bytes per queue, each an ioeventfd while the BAR is decoded
 *   0x2000 MSI-X table     0x3000 MSI-X pending bits, each with a page to itself
 *
 * Vector numbers are the driver's; a queue's call fd is its vector's eventfd, fixed when the queue
 * starts. There is no INTx. The ISR byte (§4.1.4.5) says config changes only: with MSI-X nobody
 * reads it, and without there is no interrupt to ask about.
 *
 * Common config fields take accesses of their own width, 64-bit ones by halves too (§4.1.3.1); all
 * others read 0 and write nothing. The window in config space (§4.1.4.9) does accesses to the BAR
 * and obeys the same rules.
 *
 * vCPU threads; the selectors are single words that only the guest itself can race for.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/pci/pci.h"
#include "devices/virtio/front.h"
#include "vmm/log.h"

enum {
	BAR = 0,
	BAR_SIZE = 0x4000,
	COMMON_AT = 0x0000,
	COMMON_LEN = 0x38,
	ISR_AT = 0x0100,
	ISR_LEN = 1,
	DEVICE_AT = 0x0200,
	NOTIFY_AT = 0x1000,
	NOTIFY_STRIDE = 4,
	MSIX_AT = 0x2000,
	PBA_AT = 0x3000,
	ISR_CONFIG = 2,
	CAP_VENDOR = 0x09,
};

/* §4.1.4, cfg_type */
enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI };

/* §4.1.4.3 */
struct common_cfg {
	uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
	uint16_t config_msix_vector, num_queues;
	uint8_t device_status, config_generation;
	uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
	uint64_t queue_desc, queue_driver, queue_device;
};
_Static_assert(sizeof(struct common_cfg) == COMMON_LEN, "virtio 1.2 §4.1.4.3");

/* §4.1.4, without id and next, which pci_cap_add() writes */
struct cap_body {
	uint8_t cap_len, cfg_type, bar, id, padding[2];
	uint32_t offset, length;
	uint32_t extra; /* notify_off_multiplier or pci_cfg_data */
} __attribute__((packed));
_Static_assert(sizeof(struct cap_body) == 18, "virtio 1.2 §4.1.4: 20 bytes with id and next");

/* Offsets in the capability of the config space window. */
enum { WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16 };

struct transport_pci {
	struct pci_function fn;      /* first */
	struct front *f;             /* const */
	struct bus *bus;             /* const */
	unsigned vectors, window;    /* const; window: capability offset */
	/* Selectors and ISR: vCPU threads and main, by single atomic accesses. */
	uint32_t device_sel, driver_sel;
	uint16_t queue_sel;
	uint8_t isr;
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static uint32_t feature_word(uint64_t features, uint32_t word)
{
	return word < 2 ? (uint32_t)(features >> (32 * word)) : 0;
}

/*
 * Fields by offset and width; a 64-bit field is two rows. `queue` >= 0: the front's queue register.
 */
struct field {
	uint8_t at, len;
	int8_t queue;
};

#define FIELD(m) { offsetof(struct common_cfg, m), sizeof(((struct common_cfg *)0)->m), -1 }
#define QUEUE(m, reg) { offsetof(struct common_cfg, m), 2, reg }
#define HALVES(m, lo, hi)                                                                           \
	{ offsetof(struct common_cfg, m), 4, lo }, { offsetof(struct common_cfg, m) + 4, 4, hi }

static const struct field fields[] = {
	FIELD(device_feature_select),
	FIELD(device_feature),
	FIELD(driver_feature_select),
	FIELD(driver_feature),
	FIELD(config_msix_vector),
	FIELD(num_queues),
	FIELD(device_status),
	FIELD(config_generation),
	FIELD(queue_select),
	QUEUE(queue_size, FRONT_Q_SIZE),
	QUEUE(queue_msix_vector, FRONT_Q_VECTOR),
	QUEUE(queue_enable, FRONT_Q_ENABLE),
	FIELD(queue_notify_off),
	HALVES(queue_desc, FRONT_Q_DESC_LO, FRONT_Q_DESC_HI),
	HALVES(queue_driver, FRONT_Q_AVAIL_LO, FRONT_Q_AVAIL_HI),
	HALVES(queue_device, FRONT_Q_USED_LO, FRONT_Q_USED_HI),
};

static const struct field *field_at(unsigned at, unsigned len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
		if (fields[i].at == at && fields[i].len == len)
			return &fields[i];
	return NULL;
}

static uint32_t field_read(const struct transport_pci *t, const struct field *field)
{
	const struct front *f = t->f;
	unsigned queue = LOAD(t->queue_sel);

	if (field->queue >= 0)
		return front_queue_read(f, queue, (enum front_queue_reg)field->queue);
	switch (field->at) {
	case offsetof(struct common_cfg, device_feature_select):
		return LOAD(t->device_sel);
	case offsetof(struct common_cfg, device_feature):
		return feature_word(front_device_features(f), LOAD(t->device_sel));
	case offsetof(struct common_cfg, driver_feature_select):
		return LOAD(t->driver_sel);
	case offsetof(struct common_cfg, driver_feature):
		return feature_word(front_driver_features(f), LOAD(t->driver_sel));
	case offsetof(struct common_cfg, config_msix_vector):
		return front_config_vector(f);
	case offsetof(struct common_cfg, num_queues):
		return f->dev->nqueues;
	case offsetof(struct common_cfg, device_status):
		return front_status(f);
	case offsetof(struct common_cfg, config_generation):
		return (uint8_t)virtio_config_generation(&f->dev->config);
	case offsetof(struct common_cfg, queue_select):
		return queue;
	case offsetof(struct common_cfg, queue_notify_off):
		return queue < f->dev->nqueues ? queue : 0;
	default:
		return 0;
	}
}

/* §4.1.5.1.2.1: a vector that is not there reads back as NO_VECTOR. */
static uint16_t known_vector(const struct transport_pci *t, uint32_t vector)
{
	return vector < t->vectors ? (uint16_t)vector : VIRTIO_NO_VECTOR;
}

static void queue_write(struct transport_pci *t, enum front_queue_reg reg, uint32_t value)
{
	if (reg == FRONT_Q_VECTOR)
		value = known_vector(t, value);
	/* §4.1.4.3.2: the driver does not write 0, nor anything but 1. */
	if (reg == FRONT_Q_ENABLE && value != 1)
		return;
	front_queue_write(t->f, LOAD(t->queue_sel), reg, value);
}

static void field_write(struct transport_pci *t, const struct field *field, uint32_t value)
{
	if (field->queue >= 0) {
		queue_write(t, (enum front_queue_reg)field->queue, value);
		return;
	}
	switch (field->at) {
	case offsetof(struct common_cfg, device_feature_select):
		STORE(t->device_sel, value);
		break;
	case offsetof(struct common_cfg, driver_feature_select):
		STORE(t->driver_sel, value);
		break;
	case offsetof(struct common_cfg, driver_feature):
		front_set_driver_features(t->f, LOAD(t->driver_sel), value);
		break;
	case offsetof(struct common_cfg, config_msix_vector):
		front_set_config_vector(t->f, known_vector(t, value));
		break;
	case offsetof(struct common_cfg, device_status):
		front_set_status(t->f, (uint8_t)value);
		break;
	case offsetof(struct common_cfg, queue_select):
		STORE(t->queue_sel, (uint16_t)value);
		break;
	default: /* read-only */
		break;
	}
}

/* Eight bytes at once are a whole 64-bit field or nothing; less is one field of that width. */
static const struct field *field_of_access(unsigned at, unsigned i, unsigned len)
{
	const struct field *field = field_at(at + i, MIN(len, 4u));

	return len == 8 && (!is_aligned(at, 8) || !field || field->queue < 0) ? NULL : field;
}

static void common_read(struct transport_pci *t, unsigned at, uint8_t *data, unsigned len)
{
	unsigned step = MIN(len, 4u);

	for (unsigned i = 0; i < len; i += step) {
		const struct field *field = field_of_access(at, i, len);

		if (field)
			put_le(data + i, field_read(t, field), step);
	}
}

static void common_write(struct transport_pci *t, unsigned at, const uint8_t *data, unsigned len)
{
	unsigned step = MIN(len, 4u);

	for (unsigned i = 0; i < len; i += step) {
		const struct field *field = field_of_access(at, i, len);

		if (field)
			field_write(t, field, (uint32_t)get_le(data + i, step));
	}
}

static void pci_bar_read(
	struct pci_function *fn, unsigned bar, uint64_t offset, void *data, unsigned len)
{
	struct transport_pci *t = (struct transport_pci *)fn;

	memset(data, 0, len);
	if (pci_msix_read(fn, bar, offset, data, len))
		return;
	if (range_inside(offset, len, COMMON_AT, COMMON_LEN))
		common_read(t, (unsigned)offset - COMMON_AT, data, len);
	else if (range_inside(offset, len, ISR_AT, ISR_LEN))
		put_le(data, __atomic_exchange_n(&t->isr, 0, __ATOMIC_SEQ_CST), 1);
	else if (range_inside(offset, len, DEVICE_AT, VIRTIO_CONFIG_MAX))
		front_config_read(t->f, (unsigned)offset - DEVICE_AT, data, len);
}

static void pci_bar_write(struct pci_function *fn, unsigned bar, uint64_t offset, const void *data,
	unsigned len)
{
	struct transport_pci *t = (struct transport_pci *)fn;

	if (pci_msix_write(fn, bar, offset, data, len))
		return;
	if (range_inside(offset, len, COMMON_AT, COMMON_LEN))
		common_write(t, (unsigned)offset - COMMON_AT, data, len);
	else if (range_inside(offset, len, DEVICE_AT, VIRTIO_CONFIG_MAX))
		front_config_write(t->f, (unsigned)offset - DEVICE_AT, data, len);
	else if (range_inside(offset, len, NOTIFY_AT, NOTIFY_STRIDE * VIRTIO_QUEUES_MAX) &&
		is_aligned(offset, NOTIFY_STRIDE))
		front_kick(t->f, (unsigned)(offset - NOTIFY_AT) / NOTIFY_STRIDE);
}

static struct bus_notify notify_of(const struct transport_pci *t, unsigned queue, uint64_t base)
{
	return (struct bus_notify){ .addr = base + NOTIFY_AT + NOTIFY_STRIDE * queue,
		.fd = t->f->q[queue].kick_fd };
}

static void pci_bar_moved(struct pci_function *fn, unsigned bar, uint64_t old_base, uint64_t base)
{
	struct transport_pci *t = (struct transport_pci *)fn;

	(void)bar;
	for (unsigned i = 0; i < t->f->dev->nqueues; i++) {
		struct bus_notify old = notify_of(t, i, old_base), new = notify_of(t, i, base);

		if (old_base != PCI_NOWHERE)
			bus_notify_remove(t->bus, &old);
		/*
		 * Without one the write comes to pci_bar_write() and rings there: slower, not
		 * wrong.
		 */
		if (base != PCI_NOWHERE && bus_notify_add(t->bus, &new) < 0)
			log_guest(LOG_WARN, "%s: no ioeventfd for queue %u", t->f->device.id, i);
	}
}

/*
 * The guest's own choice of BAR, offset and length, read once. False: not an access that the BAR
 * would see.
 */
static bool window_access(const struct pci_function *fn, uint64_t *offset, unsigned *len)
{
	const struct transport_pci *t = (const struct transport_pci *)fn;
	const uint8_t *cap = fn->config + t->window;
	uint32_t at = get_le32(cap + WINDOW_OFFSET), width = get_le32(cap + WINDOW_LENGTH);

	if (cap[WINDOW_BAR] != BAR || (width != 1 && width != 2 && width != 4))
		return false;
	if (!is_aligned(at, width) || !range_inside(at, width, 0, BAR_SIZE))
		return false;
	*offset = at;
	*len = width;
	return true;
}

static bool touches_window(const struct pci_function *fn, unsigned offset, unsigned len)
{
	const struct transport_pci *t = (const struct transport_pci *)fn;

	return t->window && ranges_overlap(offset, len, t->window + WINDOW_DATA, 4);
}

static void pci_config_written(struct pci_function *fn, unsigned offset, unsigned len)
{
	const struct transport_pci *t = (const struct transport_pci *)fn;
	uint64_t at;
	unsigned width;

	if (touches_window(fn, offset, len) && window_access(fn, &at, &width))
		pci_bar_write(fn, BAR, at, fn->config + t->window + WINDOW_DATA, width);
}

static void pci_config_reading(struct pci_function *fn, unsigned offset, unsigned len)
{
	const struct transport_pci *t = (const struct transport_pci *)fn;
	uint64_t at;
	unsigned width;

	if (touches_window(fn, offset, len) && window_access(fn, &at, &width))
		pci_bar_read(fn, BAR, at, fn->config + t->window + WINDOW_DATA, width);
}

static const struct pci_function_ops function_ops = {
	.bar_read = pci_bar_read,
	.bar_write = pci_bar_write,
	.bar_moved = pci_bar_moved,
	.config_written = pci_config_written,
	.config_reading = pci_config_reading,
};

static int transport_pci_call_fd(void *transport, unsigned queue)
{
	struct transport_pci *t = transport;
	struct irq_source *source = pci_msix_source(&t->fn, t->f->q[queue].vector);

	return source ? irq_fd(source) : -1;
}

static int transport_pci_irq_fd(void *transport, unsigned i)
{
	struct transport_pci *t = transport;
	struct irq_source *source = pci_msix_source(&t->fn, i);

	return source ? irq_fd(source) : -1;
}

static void transport_pci_config_irq(void *transport)
{
	struct transport_pci *t = transport;
	struct irq_source *source = pci_msix_source(&t->fn, t->f->config_vector);

	__atomic_fetch_or(&t->isr, ISR_CONFIG, __ATOMIC_SEQ_CST);
	if (source)
		irq_raise(source);
}

static void transport_pci_reset(void *transport)
{
	struct transport_pci *t = transport;

	STORE(t->device_sel, 0);
	STORE(t->driver_sel, 0);
	STORE(t->queue_sel, 0);
	STORE(t->isr, 0);
}

static void transport_pci_power_on(void *transport)
{
	struct transport_pci *t = transport;

	pci_function_reset(&t->fn);
}

static const struct state_field pci_fields[] = {
	STATE_FIELD(struct transport_pci, device_sel),
	STATE_FIELD(struct transport_pci, driver_sel),
	STATE_FIELD(struct transport_pci, queue_sel),
	STATE_FIELD(struct transport_pci, isr),
	STATE_END,
};

static int pci_check(const void *object, struct error *err)
{
	const struct transport_pci *t = object;

	if (t->isr & ~ISR_CONFIG)
		return error_set(err, EINVAL,
			"%s: the saved ISR %#x has unknown bits; the file is damaged",
			t->f->device.id, t->isr);
	return 0;
}

static const struct state_desc pci_state = {
	.name = "virtio-pci",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct transport_pci),
	.fields = pci_fields,
	.check = pci_check,
};

static int transport_pci_save(void *transport, struct state_writer *w)
{
	struct transport_pci *t = transport;
	int r = state_save(w, &pci_state, t);

	if (r == 0)
		r = pci_function_save(&t->fn, w);
	return r < 0 ? r : pci_msix_save(&t->fn, w);
}

static int transport_pci_load(void *transport, struct state_reader *r, struct error *err)
{
	struct transport_pci *t = transport;
	int ret = state_load(r, &pci_state, t, err);

	if (ret == 0)
		ret = pci_function_load(&t->fn, r, err);
	return ret < 0 ? ret : pci_msix_load(&t->fn, r, err);
}

static void transport_pci_destroy(void *transport)
{
	struct transport_pci *t = transport;

	/* Off the bus first: nobody finds the vectors any more when they go. */
	pci_detach(&t->fn);
	pci_msix_destroy(&t->fn);
	free(t);
}

static const struct transport_ops pci_ops = {
	.call_fd = transport_pci_call_fd,
	.irq_fd = transport_pci_irq_fd,
	.config_irq = transport_pci_config_irq,
	.reset = transport_pci_reset,
	.power_on = transport_pci_power_on,
	.save = transport_pci_save,
	.load = transport_pci_load,
	.destroy = transport_pci_destroy,
};

/* §4.1.4: `len` bytes without `extra`, two more fields have it. */
static unsigned add_cap(
	struct transport_pci *t, uint8_t type, uint32_t offset, uint32_t length, uint32_t extra)
{
	bool with_extra = type == CFG_NOTIFY || type == CFG_PCI;
	struct cap_body body = { .cap_len = with_extra ? 20 : 16, .cfg_type = type, .bar = BAR,
		.offset = offset, .length = length, .extra = extra };

	return pci_cap_add(&t->fn, CAP_VENDOR, &body, body.cap_len);
}

/* 64 bytes of header, 5 capabilities of 20 at most and MSI-X fit below 256 always. */
static void add_caps(struct transport_pci *t)
{
	static const uint8_t ones[12] = { [0 ... 11] = 0xff };
	const struct virtio_device *dev = t->f->dev;

	add_cap(t, CFG_COMMON, COMMON_AT, COMMON_LEN, 0);
	add_cap(t, CFG_ISR, ISR_AT, ISR_LEN, 0);
	if (dev->config.size)
		add_cap(t, CFG_DEVICE, DEVICE_AT, dev->config.size, 0);
	add_cap(t, CFG_NOTIFY, NOTIFY_AT, NOTIFY_STRIDE * dev->nqueues, NOTIFY_STRIDE);
	t->window = add_cap(t, CFG_PCI, 0, 0, 0);
	pci_config_writable(&t->fn, t->window + WINDOW_BAR, ones, 1);
	pci_config_writable(&t->fn, t->window + WINDOW_OFFSET, ones, 12); /* and length and data */
}

int transport_pci_create(struct front *f, const struct device_env *env, struct error *err)
{
	const struct pci_identity id = {
		.vendor = 0x1af4,
		.device = (uint16_t)(0x1040 + f->dev->type->id), /* §4.1.2 */
		.subvendor = 0x1af4,
		.subdevice = (uint16_t)(0x1040 + f->dev->type->id), /* §4.1.2.1: 0x40 or above */
		.class_code = f->dev->type->pci_class,
		.revision = 1,
	};
	struct transport_pci *t;
	int r;

	if (!env->pci)
		return error_set(err, ENODEV, "%s: this machine has no PCI; use transport=mmio",
			f->device.id);
	t = calloc(1, sizeof(*t));
	if (!t)
		return error_set(err, ENOMEM, "%s: out of memory", f->device.id);
	t->f = f;
	t->bus = env->mmio;
	t->vectors = f->dev->nqueues + 1u;
	pci_function_init(&t->fn, f->device.id, &function_ops, &id);
	pci_bar_add(&t->fn, BAR, BAR_SIZE, false);
	add_caps(t);
	r = pci_attach(env->pci, &t->fn, -1, err);
	if (r == 0)
		r = pci_msix_create(&t->fn, env->irq, t->vectors, BAR, MSIX_AT, PBA_AT, err);
	if (r < 0) {
		transport_pci_destroy(t);
		return r;
	}
	f->tops = &pci_ops;
	f->transport = t;
	return 0;
}
