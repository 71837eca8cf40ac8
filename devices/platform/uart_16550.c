/*
 * The 16550A UART (National Semiconductor PC16550D data sheet, June 1995; sections below are its).
 *
 * The line has no speed: a byte is sent as soon as it is in the ring, so the transmitter is empty
 * while the ring has room for a whole 16-byte FIFO, and a guest that polls or waits for its
 * interrupt waits exactly while the host cannot keep up. Input stays with the host until the guest
 * has taken what is in the receive FIFO: nothing overruns, nothing grows.
 *
 * The interrupt output is a level inside the chip and an edge outside (ISA): the line gets an edge
 * each time the output goes up, each time a cause is served by a write to THR and comes back, and
 * each time reading IIR clears one cause while another stays. An edge too many finds "no interrupt"
 * in IIR, which drivers expect; one too few hangs them. The OUT2 pin, which PCs wire as a gate
 * before the line, is no gate here, as other boards have none.
 */
#include "devices/platform/uart_16550.h"

#include <errno.h>

/* §8, table II: offsets; 0 and 1 are the divisor while LCR.DLAB is set, 2 is IIR for reads and FCR
 * for writes. */
enum uart_reg { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum { /* §8.7 */
	IER_RX = 0x01,
	IER_THRE = 0x02,
	IER_LINE = 0x04,
	IER_MODEM = 0x08,
	IER_MASK = 0x0f,
};

enum { /* §8.5, table IV: bit 0 is "none pending" */
	IIR_NONE = 0x01,
	IIR_LINE = 0x06,
	IIR_RX = 0x04,
	IIR_RX_TIMEOUT = 0x0c,
	IIR_THRE = 0x02,
	IIR_MODEM = 0x00,
	IIR_FIFOS = 0xc0,
};

enum { /* §8.4 */
	FCR_ENABLE = 0x01,
	FCR_CLEAR_RX = 0x02,
	FCR_TRIGGER_SHIFT = 6,
	FCR_KEPT = 0xc9,
};

enum { LCR_DLAB = 0x80 };

enum { /* §8.6 */
	MCR_DTR = 0x01,
	MCR_RTS = 0x02,
	MCR_OUT1 = 0x04,
	MCR_OUT2 = 0x08,
	MCR_LOOP = 0x10,
	MCR_MASK = 0x1f,
};

enum { /* §8.2 */
	LSR_DATA = 0x01,
	LSR_OVERRUN = 0x02,
	LSR_ERRORS = 0x1e,
	LSR_THRE = 0x20,
	LSR_TEMT = 0x40,
};

enum { /* §8.8: bits 0-3 say which of 4-7 changed */
	MSR_DELTAS = 0x0f,
	MSR_RI_ENDED = 0x04,
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
	MSR_LINES_SHIFT = 4,
};

static const uint8_t rx_trigger[] = { 1, 4, 8, 14 };

static bool transmitter_empty(const struct uart *u)
{
	return serial_flow_room(&u->flow) >= UART_FIFO;
}

/* §8.5: the pending cause of highest priority, IIR bits 0-3. */
static uint8_t pending(const struct uart_regs *r)
{
	if ((r->ier & IER_LINE) && r->errors)
		return IIR_LINE;
	if ((r->ier & IER_RX) && r->rx_len) {
		if (!(r->fcr & FCR_ENABLE) || r->rx_len >= rx_trigger[r->fcr >> FCR_TRIGGER_SHIFT])
			return IIR_RX;
		/* No byte is on its way, so the time-out of four characters has always passed. */
		return IIR_RX_TIMEOUT;
	}
	if ((r->ier & IER_THRE) && r->thre)
		return IIR_THRE;
	if ((r->ier & IER_MODEM) && r->deltas)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_line(struct uart *u, unsigned *todo)
{
	bool was = u->line;

	u->line = pending(&u->regs) != IIR_NONE;
	if (u->line && !was)
		*todo |= SERIAL_RAISE;
}

/* The host may go on with input: the worker sees to it. */
static void rx_has_room(struct uart *u, unsigned *todo)
{
	if (u->flow.rx_paused)
		*todo |= SERIAL_INPUT;
}

static size_t rx_capacity(const struct uart_regs *r)
{
	return r->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static uint8_t read_data(struct uart *u, unsigned *todo)
{
	struct uart_regs *r = &u->regs;
	uint8_t byte = r->rx[0];

	if (!r->rx_len)
		return 0;
	r->rx_len--;
	memmove(r->rx, r->rx + 1, r->rx_len);
	if (!r->rx_len)
		rx_has_room(u, todo);
	return byte;
}

static uint8_t read_iir(struct uart *u, unsigned *todo)
{
	struct uart_regs *r = &u->regs;
	uint8_t id = pending(r);

	/* §8.5: reading IIR while it names THRE clears that cause. */
	if (id == IIR_THRE) {
		r->thre = false;
		if (pending(r) != IIR_NONE)
			*todo |= SERIAL_RAISE;
	}
	return id | (r->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct uart *u)
{
	struct uart_regs *r = &u->regs;
	uint8_t v = r->errors | (r->rx_len ? LSR_DATA : 0) |
		    (transmitter_empty(u) ? LSR_THRE | LSR_TEMT : 0);

	r->errors = 0;
	return v;
}

/* §8.6.4: in loopback the modem outputs are wired to the inputs; else a modem is connected and
 * ready. */
static uint8_t modem_lines(const struct uart_regs *r)
{
	if (!(r->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (r->mcr & MCR_RTS ? MSR_CTS : 0) | (r->mcr & MCR_DTR ? MSR_DSR : 0) |
	       (r->mcr & MCR_OUT1 ? MSR_RI : 0) | (r->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static uint8_t read_msr(struct uart *u)
{
	uint8_t v = modem_lines(&u->regs) | u->regs.deltas;

	u->regs.deltas = 0;
	return v;
}

static uint8_t reg_read(struct uart *u, enum uart_reg reg, unsigned *todo)
{
	const struct uart_regs *r = &u->regs;
	bool divisor = r->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		return divisor ? r->dll : read_data(u, todo);
	case REG_IER:
		return divisor ? r->dlm : r->ier;
	case REG_IIR_FCR:
		return read_iir(u, todo);
	case REG_LCR:
		return r->lcr;
	case REG_MCR:
		return r->mcr;
	case REG_LSR:
		return read_lsr(u);
	case REG_MSR:
		return read_msr(u);
	case REG_SCR:
		return r->scr;
	}
	return 0xff;
}

static void write_data(struct uart *u, uint8_t byte, unsigned *todo)
{
	struct uart_regs *r = &u->regs;

	r->thre = false;
	if (r->mcr & MCR_LOOP) {
		if (r->rx_len < rx_capacity(r))
			r->rx[r->rx_len++] = byte;
		else
			r->errors |= LSR_OVERRUN;
	} else {
		/* When it is full the guest wrote without looking at LSR: lost, as on the wire. */
		(void)serial_flow_put(&u->flow, byte, todo);
	}
	update_line(u, todo);
	r->thre = transmitter_empty(u);
}

static void write_ier(struct uart *u, uint8_t v)
{
	/* §8.7: enabling THRE with an empty transmitter interrupts at once. */
	if ((v & IER_THRE) && !(u->regs.ier & IER_THRE) && transmitter_empty(u))
		u->regs.thre = true;
	u->regs.ier = v & IER_MASK;
}

static void write_fcr(struct uart *u, uint8_t v, unsigned *todo)
{
	struct uart_regs *r = &u->regs;

	/*
	 * §8.4: turning the FIFOs on or off clears them. Transmitted bytes have left the FIFO as
	 * far as the guest can tell, so clearing it does not touch the ring.
	 */
	if (((v ^ r->fcr) & FCR_ENABLE) || ((v & FCR_ENABLE) && (v & FCR_CLEAR_RX))) {
		r->rx_len = 0;
		rx_has_room(u, todo);
	}
	r->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
}

static void write_mcr(struct uart *u, uint8_t v, unsigned *todo)
{
	struct uart_regs *r = &u->regs;
	uint8_t was = modem_lines(r), changed;

	r->mcr = v & MCR_MASK;
	changed = was ^ modem_lines(r);
	/* §8.8: the ring indicator counts only when it ends. */
	if (!(was & MSR_RI))
		changed &= (uint8_t)~MSR_RI;
	r->deltas |= changed >> MSR_LINES_SHIFT;
	if (!(r->mcr & MCR_LOOP))
		rx_has_room(u, todo);
}

static void reg_write(struct uart *u, enum uart_reg reg, uint8_t v, unsigned *todo)
{
	struct uart_regs *r = &u->regs;
	bool divisor = r->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (divisor)
			r->dll = v;
		else
			write_data(u, v, todo);
		break;
	case REG_IER:
		if (divisor)
			r->dlm = v;
		else
			write_ier(u, v);
		break;
	case REG_IIR_FCR:
		write_fcr(u, v, todo);
		break;
	case REG_LCR:
		r->lcr = v;
		break;
	case REG_MCR:
		write_mcr(u, v, todo);
		break;
	case REG_LSR:
	case REG_MSR:
		break; /* read only; the factory's test writes have no meaning here */
	case REG_SCR:
		r->scr = v;
		break;
	}
}

/* A wider access is as many byte accesses, as the ISA bus makes of it. */
static void uart_read(void *chip, uint64_t offset, void *data, unsigned len, unsigned *todo)
{
	struct uart *u = chip;
	uint8_t *bytes = data;

	for (unsigned i = 0; i < len; i++) {
		bytes[i] = reg_read(u, (offset + i) % UART_REGS, todo);
		update_line(u, todo);
	}
}

static void uart_write(void *chip, uint64_t offset, const void *data, unsigned len, unsigned *todo)
{
	struct uart *u = chip;
	const uint8_t *bytes = data;

	for (unsigned i = 0; i < len; i++) {
		reg_write(u, (offset + i) % UART_REGS, bytes[i], todo);
		update_line(u, todo);
	}
}

static size_t uart_receive(void *chip, const uint8_t *data, size_t len, unsigned *todo)
{
	struct uart *u = chip;
	struct uart_regs *r = &u->regs;
	size_t capacity = rx_capacity(r), room;

	/* In loopback the receiver is cut off from the wire. */
	room = r->mcr & MCR_LOOP ? 0 : capacity - MIN((size_t)r->rx_len, capacity);
	room = MIN(room, len);
	memcpy(r->rx + r->rx_len, data, room);
	r->rx_len += (uint8_t)room;
	u->flow.rx_paused = room < len;
	update_line(u, todo);
	return room;
}

static void uart_sent(void *chip, size_t n, unsigned *todo)
{
	struct uart *u = chip;
	bool was_full = !transmitter_empty(u);

	serial_flow_drop(&u->flow, n);
	/* A guest that found the transmitter full hears of the room. */
	if (was_full && transmitter_empty(u)) {
		u->regs.thre = true;
		update_line(u, todo);
	}
}

/* §8.1, table I. */
static void uart_reset(void *chip, unsigned *todo)
{
	struct uart *u = chip;

	u->regs = (struct uart_regs){ 0 };
	update_line(u, todo);
	rx_has_room(u, todo);
}

static const struct state_field regs_fields[] = {
	STATE_FIELD(struct uart_regs, ier),
	STATE_FIELD(struct uart_regs, fcr),
	STATE_FIELD(struct uart_regs, lcr),
	STATE_FIELD(struct uart_regs, mcr),
	STATE_FIELD(struct uart_regs, scr),
	STATE_FIELD(struct uart_regs, dll),
	STATE_FIELD(struct uart_regs, dlm),
	STATE_FIELD(struct uart_regs, errors),
	STATE_FIELD(struct uart_regs, deltas),
	STATE_FIELD(struct uart_regs, thre),
	STATE_FIELD(struct uart_regs, rx_len),
	STATE_ARRAY(struct uart_regs, rx),
	STATE_END,
};

static int regs_check(const void *object, struct error *err)
{
	const struct uart_regs *r = object;

	if (r->rx_len > UART_FIFO || (r->ier & ~IER_MASK) || (r->fcr & ~FCR_KEPT) ||
		(r->mcr & ~MCR_MASK) || (r->errors & ~LSR_ERRORS) || (r->deltas & ~MSR_DELTAS))
		return error_set(err, EINVAL,
			"serial-16550: a register has a value that the chip cannot hold");
	return 0;
}

const struct state_desc uart_state = {
	.name = "serial-16550",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct uart_regs),
	.fields = regs_fields,
	.check = regs_check,
};

/* Whoever loads them has an empty ring, so a guest that waits for room is told of it. */
static void uart_saved(const void *chip, void *object)
{
	const struct uart *u = chip;
	struct uart_regs *regs = object;

	*regs = u->regs;
	if (!transmitter_empty(u))
		regs->thre = true;
}

static void uart_loaded(void *chip, const void *object, unsigned *todo)
{
	struct uart *u = chip;

	u->regs = *(const struct uart_regs *)object;
	/* Whatever edge was given before the save may be lost. */
	u->line = false;
	update_line(u, todo);
	rx_has_room(u, todo);
}

_Static_assert(sizeof(struct uart_regs) <= SERIAL_STATE_MAX, "it is saved through serial.c");
_Static_assert(offsetof(struct uart, flow) == 0, "serial.c finds it there");

const struct serial_chip uart_16550 = {
	.size = sizeof(struct uart),
	.registers = UART_REGS,
	.read = uart_read,
	.write = uart_write,
	.receive = uart_receive,
	.sent = uart_sent,
	.reset = uart_reset,
	.state = &uart_state,
	.saved = uart_saved,
	.loaded = uart_loaded,
};
