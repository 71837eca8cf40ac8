/*
 * The serial ports under a guest that does anything in any order: register accesses of all widths through the bus, pause,
 * reset, state saved and loaded, and states that nobody saved; and the chips alone with bytes from the wire, which must
 * keep what they take.
 *
 * Input: a byte that chooses the chip, then operations of 4 bytes: kind, register, value, more.
 */
#include <stdlib.h>

#include "devices/host/char.h"
#include "devices/platform/serial.h"
#include "devices/platform/uart_16550.h"
#include "devices/platform/uart_pl011.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BASE = 0x1000, OP_LEN = 4, CHIPS = 2 };

/* A chip, and how far apart its registers are. */
static const struct chip {
	const struct device_type *type;
	const struct serial_chip *ops;
	size_t rx_len; /* where in the saved state */
	uint8_t rx_max;
	unsigned apart;
} chips[CHIPS] = {
	{ &serial_16550_type, &uart_16550, offsetof(struct uart_regs, rx_len), UART_FIFO, 1 },
	{ &serial_pl011_type, &uart_pl011, offsetof(struct pl011_regs, rx_len), PL011_FIFO, 4 },
};

struct rig {
	const struct chip *chip;
	struct worker *worker;
	struct bus *pio;
	struct irqchip *irq;
	struct device *dev;
	struct device_node place;
	struct vm_events events;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static int give_worker(const struct device_env *env, const char *name, enum worker_share share, struct worker **ret,
	struct error *err)
{
	(void)name, (void)share, (void)err;
	*ret = ((struct rig *)env->machine)->worker;
	return 0;
}

static struct rig *rig_new(const struct chip *chip)
{
	const struct char_options o = { .mode = CHAR_NULL };
	struct rig *r = calloc(1, sizeof(*r));
	struct error err;

	must(!worker_create(&r->worker, "_serial", &err));
	must(!bus_create(&r->pio, "pio", true, 0x10000));
	must(!irqchip_create(&r->irq, NULL, NULL, 32, 64));
	r->place = (struct device_node){ .kind = "serial", .pio = true, .base = BASE, .len = 0x1000, .gsi = 4 };
	r->chip = chip;
	const struct device_env env = {
		.id = "_serial", .pio = r->pio, .irq = r->irq, .place = &r->place, .events = &r->events,
		.worker = give_worker, .machine = r,
	};
	must(!chip->type->create(&r->dev, &env, &o, &err));
	return r;
}

static void save_and_load(struct rig *r)
{
	struct state_writer w = { 0 };
	struct state_reader rd;
	struct error err;

	must(!r->dev->ops->save(r->dev, &w));
	rd = (struct state_reader){ .data = w.data, .len = w.len };
	must(!r->dev->ops->load(r->dev, &rd, &err));
	state_writer_free(&w);
}

static void operate(struct rig *r, const uint8_t *op, const uint8_t *rest, size_t left)
{
	struct state_reader rd = { .data = rest, .len = left };
	uint64_t v = 0;
	struct error err;
	unsigned len = 1u << (op[3] & 3);

	uint64_t at = BASE + op[1] % (r->chip->ops->registers / r->chip->apart) * r->chip->apart + (op[3] >> 7);

	switch (op[0] % 8) {
	default:
		memset(&v, op[2], sizeof(v));
		bus_write(r->pio, at, &v, len);
		break;
	case 4:
	case 5:
		bus_read(r->pio, at, &v, len);
		break;
	case 6:
		r->dev->ops->pause(r->dev);
		save_and_load(r);
		if (op[1] & 1)
			(void)!r->dev->ops->load(r->dev, &rd, &err);
		r->dev->ops->resume(r->dev);
		break;
	case 7:
		if (op[1] & 1)
			r->dev->ops->reset(r->dev);
		else
			r->dev->ops->pause(r->dev), r->dev->ops->resume(r->dev);
		break;
	}
}

/* The chip between a guest and a wire: room never goes wrong, and what it saves it could hold. */
static void wire(const struct chip *chip, struct serial_flow *f, const uint8_t *op)
{
	const struct serial_chip *ops = chip->ops;
	uint64_t at = op[1] % (ops->registers / chip->apart) * chip->apart;
	uint8_t piece[256], object[SERIAL_STATE_MAX] __attribute__((aligned(8)));
	unsigned todo = 0;
	size_t n;

	switch (op[0] % 4) {
	case 0:
		memset(piece, op[2], sizeof(piece));
		n = ops->receive(f, piece, op[3], &todo);
		must(n <= op[3] && (n == op[3] || f->rx_paused));
		break;
	case 1:
		n = serial_flow_peek(f, piece, op[3]);
		must(n <= op[3] && n <= f->ring_len);
		ops->sent(f, n, &todo);
		break;
	case 2:
		for (unsigned i = 0; i <= op[3]; i++)
			ops->write(f, at, &op[2], 1, &todo);
		break;
	case 3:
		ops->read(f, at, piece, 1, &todo);
		break;
	}
	must(f->ring_len <= SERIAL_RING && f->ring_head < SERIAL_RING);
	ops->saved(f, object);
	must(object[chip->rx_len] <= chip->rx_max && !ops->state->check(object, NULL));
}

static void *power_on(const struct chip *chip)
{
	void *u = calloc(1, chip->ops->size);

	must(u);
	if (chip->ops->init)
		chip->ops->init(u);
	return u;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig *rigs[CHIPS];
	const unsigned which = size ? data[0] % CHIPS : 0;
	struct rig *r = rigs[which];
	void *u = power_on(&chips[which]);

	if (!r)
		r = rigs[which] = rig_new(&chips[which]);
	r->dev->ops->reset(r->dev);
	for (size_t i = 1; i + OP_LEN <= size; i += OP_LEN) {
		operate(r, data + i, data + i + OP_LEN, size - i - OP_LEN);
		wire(r->chip, u, data + i);
	}
	free(u);
	return 0;
}
