/*
 * The PL011 chip itself: registers, interrupt causes, receive FIFO. Pure functions of the struct;
 * see serial.h for who calls them, and with which lock.
 */
#ifndef DEVICES_PLATFORM_UART_PL011_H
#define DEVICES_PLATFORM_UART_PL011_H

#include "devices/platform/serial.h"

enum { PL011_FIFO = 32 };

/* What the guest can know. */
struct pl011_regs {
	uint16_t cr, imsc, ibrd;
	uint16_t latched; /* causes that stay until they are cleared: RIS without RX and RT, which the FIFO tells */
	uint8_t fbrd, lcr_h, ifls, ilpr, dmacr;
	uint8_t errors;   /* RSR: only overrun, in loopback */
	uint8_t tx_burst; /* bytes since the transmit interrupt last rang */
	uint8_t rx_len;
	uint8_t rx[PL011_FIFO]; /* oldest first */
};

struct pl011 {
	struct serial_flow flow; /* first */
	struct pl011_regs regs;
	uint32_t pending; /* the causes that the line was last told of */
};

/* Its functions, which take a struct pl011. */
extern const struct serial_chip uart_pl011;

/* Of struct pl011_regs. */
extern const struct state_desc pl011_state;

#endif
