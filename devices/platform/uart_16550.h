/*
 * The 16550A chip itself: registers, interrupt causes, receive FIFO. Pure functions of the struct;
 * see serial.h for who calls them, and with which lock.
 */
#ifndef DEVICES_PLATFORM_UART_16550_H
#define DEVICES_PLATFORM_UART_16550_H

#include "devices/platform/serial.h"

enum { UART_FIFO = 16, UART_REGS = 8 };

/* What the guest can know. */
struct uart_regs {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t errors; /* LSR bits that reading LSR clears */
	uint8_t deltas; /* MSR bits that reading MSR clears */
	bool thre;	/* the THRE interrupt is latched */
	uint8_t rx_len;
	uint8_t rx[UART_FIFO]; /* oldest first */
};

/* All zero is power-on. */
struct uart {
	struct serial_flow flow; /* first */
	struct uart_regs regs;
	bool line; /* the interrupt output */
};

/* Its functions, which take a struct uart. */
extern const struct serial_chip uart_16550;

/* Of struct uart_regs. */
extern const struct state_desc uart_state;

#endif
