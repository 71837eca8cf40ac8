/*
 * The PrimeCell UART PL011 r1p5 (Arm DDI 0183G; sections below are its), with FIFOs of 32 bytes.
 *
 * The line has no speed: a byte is sent as soon as it is in the ring, so the transmit FIFO is empty
 * while the ring has room for a whole one, and full when the ring is. A guest that polls or waits
 * for its interrupt waits exactly while the host cannot keep up. Input stays with the host until
 * the receiver is on and has room: nothing overruns, nothing grows.
 *
 * The transmit interrupt stands while the FIFO is empty. It comes again, with an edge, each time as
 * many bytes were written as lift a FIFO above its trigger level: a driver that writes half a FIFO
 * per interrupt and leaves is called again, at the cost of one edge per half a FIFO. Sending does
 * not need UARTEN: early consoles expect that firmware has set it, and here there is none.
 * Receiving does, so that what is typed before the driver is there waits for it.
 *
 * How the causes ring the line: primecell.h.
 */
#include "devices/platform/uart_pl011.h"

#include <errno.h>

#include "devices/platform/primecell.h"

enum { PL011_ID = 0x00341011 };

/* §3.2, table 3-1. */
enum pl011_reg {
	REG_DR = 0x00,
	REG_RSR_ECR = 0x04,
	REG_FR = 0x18,
	REG_ILPR = 0x20,
	REG_IBRD = 0x24,
	REG_FBRD = 0x28,
	REG_LCR_H = 0x2c,
	REG_CR = 0x30,
	REG_IFLS = 0x34,
	REG_IMSC = 0x38,
	REG_RIS = 0x3c,
	REG_MIS = 0x40,
	REG_ICR = 0x44,
	REG_DMACR = 0x48,
};

enum { /* §3.3.2 */
	RSR_OVERRUN = 0x08,
	DR_ERRORS_SHIFT = 8,
};

enum { /* §3.3.3 */
	FR_CTS = 0x001,
	FR_DSR = 0x002,
	FR_DCD = 0x004,
	FR_BUSY = 0x008,
	FR_RXFE = 0x010,
	FR_TXFF = 0x020,
	FR_RXFF = 0x040,
	FR_TXFE = 0x080,
	FR_RI = 0x100,
};

enum {
	LCR_FEN = 0x10,
	FBRD_MASK = 0x3f,
	IFLS_MASK = 0x3f,
	IFLS_POWER_ON = 0x12,
	IFLS_RX_SHIFT = 3,
	IFLS_LEVEL = 0x7,
	DMACR_MASK = 0x7,
};

enum { /* §3.3.8 */
	CR_UARTEN = 0x0001,
	CR_LBE = 0x0080,
	CR_RXE = 0x0200,
	CR_DTR = 0x0400,
	CR_RTS = 0x0800,
	CR_OUT1 = 0x1000,
	CR_OUT2 = 0x2000,
	CR_MASK = 0xff87,
	CR_POWER_ON = 0x0300,
};

enum { /* §3.3.10 to 3.3.13 */
	INT_RI = 0x001,
	INT_CTS = 0x002,
	INT_DCD = 0x004,
	INT_DSR = 0x008,
	INT_RX = 0x010,
	INT_TX = 0x020,
	INT_RT = 0x040,
	INT_OVERRUN = 0x400,
	INT_MASK = 0x7ff,
	INT_LATCHED = INT_RI | INT_CTS | INT_DCD | INT_DSR | INT_TX | INT_OVERRUN,
};

/* §3.3.9: eighths of a FIFO; the reserved levels are as the highest. */
static const uint8_t level_eighths[] = { 1, 2, 4, 6, 7, 7, 7, 7 };

static size_t fifo_size(const struct pl011_regs *r)
{
	return r->lcr_h & LCR_FEN ? PL011_FIFO : 1;
}

static size_t rx_trigger(const struct pl011_regs *r)
{
	return r->lcr_h & LCR_FEN ? PL011_FIFO / 8 * level_eighths[r->ifls >> IFLS_RX_SHIFT & IFLS_LEVEL] : 1;
}

static size_t tx_trigger(const struct pl011_regs *r)
{
	return r->lcr_h & LCR_FEN ? PL011_FIFO / 8 * level_eighths[r->ifls & IFLS_LEVEL] : 1;
}

static bool transmitter_empty(const struct pl011 *u)
{
	return serial_flow_room(&u->flow) >= PL011_FIFO;
}

/*
 * RIS. No byte is on its way, so the time-out of 32 bit periods has passed whenever there is one in
 * the FIFO; what a write to ICR clears of these two is there again.
 */
static uint32_t raw(const struct pl011_regs *r)
{
	return r->latched | (r->rx_len >= rx_trigger(r) ? INT_RX : 0) | (r->rx_len ? INT_RT : 0);
}

static void update_line(struct pl011 *u, unsigned *todo)
{
	uint32_t now = raw(&u->regs) & u->regs.imsc;

	/* Both mean input: one of them going is no reason to ring. */
	if (now & (INT_RX | INT_RT))
		now |= INT_RX | INT_RT;
	if (primecell_edge(u->pending, now))
		*todo |= SERIAL_RAISE;
	u->pending = now;
}

/* The host may go on with input: the worker sees to it. */
static void rx_has_room(struct pl011 *u, unsigned *todo)
{
	if (u->flow.rx_paused)
		*todo |= SERIAL_INPUT;
}

/*
 * The modem inputs in FR: in loopback the outputs are wired to them (§2.4.5); else a modem is
 * connected and ready.
 */
static uint16_t modem(const struct pl011_regs *r)
{
	if (!(r->cr & CR_LBE))
		return FR_CTS | FR_DSR | FR_DCD;
	return (r->cr & CR_RTS ? FR_CTS : 0) | (r->cr & CR_DTR ? FR_DSR : 0) | (r->cr & CR_OUT1 ? FR_DCD : 0) |
	       (r->cr & CR_OUT2 ? FR_RI : 0);
}

static uint16_t flags(const struct pl011 *u)
{
	const struct pl011_regs *r = &u->regs;

	return modem(r) | (transmitter_empty(u) ? FR_TXFE : FR_BUSY) | (serial_flow_room(&u->flow) ? 0 : FR_TXFF) |
	       (r->rx_len ? 0 : FR_RXFE) | (r->rx_len >= fifo_size(r) ? FR_RXFF : 0);
}

static uint32_t read_data(struct pl011 *u, unsigned *todo)
{
	struct pl011_regs *r = &u->regs;
	uint8_t byte = r->rx[0];

	if (!r->rx_len)
		return 0;
	r->rx_len--;
	memmove(r->rx, r->rx + 1, r->rx_len);
	if (!r->rx_len)
		rx_has_room(u, todo);
	return byte | (uint32_t)(r->errors & RSR_OVERRUN) << DR_ERRORS_SHIFT;
}

static void write_data(struct pl011 *u, uint8_t byte, unsigned *todo)
{
	struct pl011_regs *r = &u->regs;

	if (r->cr & CR_LBE) {
		if (r->rx_len < fifo_size(r)) {
			r->rx[r->rx_len++] = byte;
		} else {
			r->errors |= RSR_OVERRUN;
			r->latched |= INT_OVERRUN;
		}
	} else if (!serial_flow_put(&u->flow, byte, todo)) {
		return; /* written without looking at TXFF: lost, as on the wire */
	}
	if (!transmitter_empty(u)) {
		r->latched &= (uint16_t)~INT_TX;
		return;
	}
	if (r->latched & r->imsc & INT_TX && ++r->tx_burst >= tx_trigger(r)) {
		r->tx_burst = 0;
		*todo |= SERIAL_RAISE;
	}
	r->latched |= INT_TX;
}

static void write_line_control(struct pl011 *u, uint8_t v, unsigned *todo)
{
	/* §3.3.7: without FIFOs they are one byte deep; turning them on or off empties them. */
	if ((v ^ u->regs.lcr_h) & LCR_FEN) {
		u->regs.rx_len = 0;
		rx_has_room(u, todo);
	}
	u->regs.lcr_h = v;
}

static void write_control(struct pl011 *u, uint16_t v, unsigned *todo)
{
	struct pl011_regs *r = &u->regs;
	uint16_t was = modem(r), changed;

	r->cr = v & CR_MASK;
	changed = was ^ modem(r);
	r->latched |= (changed & FR_CTS ? INT_CTS : 0) | (changed & FR_DSR ? INT_DSR : 0) |
		      (changed & FR_DCD ? INT_DCD : 0) | (changed & FR_RI ? INT_RI : 0);
	rx_has_room(u, todo);
}

static uint32_t reg_read(struct pl011 *u, uint64_t offset, unsigned *todo)
{
	const struct pl011_regs *r = &u->regs;
	uint32_t id;

	if (primecell_id(PL011_ID, offset, &id))
		return id;
	switch (offset) {
	case REG_DR:
		return read_data(u, todo);
	case REG_RSR_ECR:
		return r->errors;
	case REG_FR:
		return flags(u);
	case REG_ILPR:
		return r->ilpr;
	case REG_IBRD:
		return r->ibrd;
	case REG_FBRD:
		return r->fbrd;
	case REG_LCR_H:
		return r->lcr_h;
	case REG_CR:
		return r->cr;
	case REG_IFLS:
		return r->ifls;
	case REG_IMSC:
		return r->imsc;
	case REG_RIS:
		return raw(r);
	case REG_MIS:
		return raw(r) & r->imsc;
	case REG_DMACR:
		return r->dmacr;
	}
	return 0;
}

static void reg_write(struct pl011 *u, uint64_t offset, uint32_t v, unsigned *todo)
{
	struct pl011_regs *r = &u->regs;

	switch (offset) {
	case REG_DR:
		write_data(u, (uint8_t)v, todo);
		break;
	case REG_RSR_ECR:
		r->errors = 0;
		break;
	case REG_ILPR:
		r->ilpr = (uint8_t)v;
		break;
	case REG_IBRD:
		r->ibrd = (uint16_t)v;
		break;
	case REG_FBRD:
		r->fbrd = v & FBRD_MASK;
		break;
	case REG_LCR_H:
		write_line_control(u, (uint8_t)v, todo);
		break;
	case REG_CR:
		write_control(u, (uint16_t)v, todo);
		break;
	case REG_IFLS:
		r->ifls = v & IFLS_MASK;
		break;
	case REG_IMSC:
		r->imsc = v & INT_MASK;
		break;
	case REG_ICR:
		r->latched &= (uint16_t)~v;
		break;
	case REG_DMACR: /* no DMA controller is wired to it */
		r->dmacr = v & DMACR_MASK;
		break;
	}
}

static void pl011_read(void *chip, uint64_t offset, void *data, unsigned len, unsigned *todo)
{
	struct pl011 *u = chip;

	put_le(data, primecell_register(offset) ? reg_read(u, offset, todo) : 0, len);
	update_line(u, todo);
}

static void pl011_write(void *chip, uint64_t offset, const void *data, unsigned len, unsigned *todo)
{
	struct pl011 *u = chip;

	if (!primecell_register(offset))
		return;
	reg_write(u, offset, (uint32_t)get_le(data, len), todo);
	update_line(u, todo);
}

static size_t pl011_receive(void *chip, const uint8_t *data, size_t len, unsigned *todo)
{
	struct pl011 *u = chip;
	struct pl011_regs *r = &u->regs;
	bool on = (r->cr & CR_UARTEN) && (r->cr & CR_RXE) && !(r->cr & CR_LBE);
	size_t n = on ? MIN(fifo_size(r) - MIN((size_t)r->rx_len, fifo_size(r)), len) : 0;

	memcpy(r->rx + r->rx_len, data, n);
	r->rx_len += (uint8_t)n;
	u->flow.rx_paused = n < len;
	update_line(u, todo);
	return n;
}

static void pl011_sent(void *chip, size_t n, unsigned *todo)
{
	struct pl011 *u = chip;
	bool was_full = !transmitter_empty(u);

	serial_flow_drop(&u->flow, n);
	/* A guest that found the transmitter full hears of the room. */
	if (was_full && transmitter_empty(u)) {
		u->regs.latched |= INT_TX;
		u->regs.tx_burst = 0;
		update_line(u, todo);
	}
}

static void pl011_init(void *chip)
{
	struct pl011 *u = chip;

	u->regs = (struct pl011_regs){ .cr = CR_POWER_ON, .ifls = IFLS_POWER_ON };
}

static void pl011_reset(void *chip, unsigned *todo)
{
	struct pl011 *u = chip;

	pl011_init(u);
	update_line(u, todo);
	rx_has_room(u, todo);
}

static const struct state_field regs_fields[] = {
	STATE_FIELD(struct pl011_regs, cr),
	STATE_FIELD(struct pl011_regs, imsc),
	STATE_FIELD(struct pl011_regs, ibrd),
	STATE_FIELD(struct pl011_regs, latched),
	STATE_FIELD(struct pl011_regs, fbrd),
	STATE_FIELD(struct pl011_regs, lcr_h),
	STATE_FIELD(struct pl011_regs, ifls),
	STATE_FIELD(struct pl011_regs, ilpr),
	STATE_FIELD(struct pl011_regs, dmacr),
	STATE_FIELD(struct pl011_regs, errors),
	STATE_FIELD(struct pl011_regs, tx_burst),
	STATE_FIELD(struct pl011_regs, rx_len),
	STATE_ARRAY(struct pl011_regs, rx),
	STATE_END,
};

static int regs_check(const void *object, struct error *err)
{
	const struct pl011_regs *r = object;

	if (r->rx_len > PL011_FIFO || (r->cr & ~CR_MASK) || (r->imsc & ~INT_MASK) || (r->latched & ~INT_LATCHED) ||
		(r->fbrd & ~FBRD_MASK) || (r->ifls & ~IFLS_MASK) || (r->dmacr & ~DMACR_MASK) ||
		(r->errors & ~RSR_OVERRUN) || r->tx_burst > PL011_FIFO)
		return error_set(err, EINVAL, "serial-pl011: a register has a value that the chip cannot hold");
	return 0;
}

const struct state_desc pl011_state = {
	.name = "serial-pl011",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct pl011_regs),
	.fields = regs_fields,
	.check = regs_check,
};

/* Whoever loads them has an empty ring, so a guest that waits for room is told of it. */
static void pl011_saved(const void *chip, void *object)
{
	const struct pl011 *u = chip;
	struct pl011_regs *regs = object;

	*regs = u->regs;
	if (!transmitter_empty(u))
		regs->latched |= INT_TX;
}

static void pl011_loaded(void *chip, const void *object, unsigned *todo)
{
	struct pl011 *u = chip;

	u->regs = *(const struct pl011_regs *)object;
	/* Whatever edge was given before the save may be lost. */
	u->pending = 0;
	update_line(u, todo);
	rx_has_room(u, todo);
}

_Static_assert(sizeof(struct pl011_regs) <= SERIAL_STATE_MAX, "it is saved through serial.c");
_Static_assert(offsetof(struct pl011, flow) == 0, "serial.c finds it there");

const struct serial_chip uart_pl011 = {
	.size = sizeof(struct pl011),
	.registers = PRIMECELL_LEN,
	.init = pl011_init,
	.read = pl011_read,
	.write = pl011_write,
	.receive = pl011_receive,
	.sent = pl011_sent,
	.reset = pl011_reset,
	.state = &pl011_state,
	.saved = pl011_saved,
	.loaded = pl011_loaded,
};
