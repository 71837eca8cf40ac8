/* The serial line of a PC, a 16550A (National Semiconductor PC16550D data sheet), which also carries the text of this guest. */
#include "tests/guest/lib.h"
#include "tests/guest/tests.h"

enum uart { RBR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { LSR_DATA = 1, LSR_THRE = 0x20, LSR_TEMT = 0x40, LCR_DLAB = 0x80, MCR_LOOP = 0x10, LCR_8N1 = 3 };

static uint8_t uart_in(enum uart reg)
{
	return in8((uint16_t)(PORT_COM1 + reg));
}

static void uart_out(enum uart reg, uint8_t v)
{
	out8((uint16_t)(PORT_COM1 + reg), v);
}

static bool uart_wait_for(uint8_t bits, uint64_t most)
{
	uint64_t start = cycles();

	while ((uart_in(LSR) & bits) != bits)
		if (cycles() - start > most)
			return false;
	return true;
}

static bool uart_wait(uint8_t bits)
{
	return uart_wait_for(bits, PATIENCE);
}

/* Nothing is printed while the line is looped back. */
static void serial_loopback(void)
{
	uint8_t got[3], modem, lsr;
	bool came = true;

	while (uart_in(LSR) & LSR_DATA)
		uart_in(RBR);
	uart_out(MCR, MCR_LOOP);
	for (unsigned i = 0; i < sizeof(got); i++) {
		uart_out(RBR, (uint8_t)(0xa5 + i));
		came = uart_wait(LSR_DATA) && came;
		got[i] = uart_in(RBR);
	}
	lsr = uart_in(LSR);
	uart_out(MCR, MCR_LOOP | 0x0f);
	modem = uart_in(MSR);
	uart_out(MCR, 0x03);
	check(came, "bytes sent in loopback mode arrive", "they do not");
	check(got[0] == 0xa5 && got[1] == 0xa6 && got[2] == 0xa7, "they arrive unchanged", "0x%x 0x%x 0x%x", got[0],
		got[1], got[2]);
	check(!(lsr & LSR_DATA), "nothing more arrives", "LSR 0x%x", lsr);
	check_equal(modem & 0xf0, 0xf0, "modem outputs appear at modem inputs in loopback mode");
}

/* What interrupt identification says; printing would be a part of what is tested, so it comes later. */
static void serial_interrupts(void)
{
	uint8_t none, empty, taken, fifo;

	uart_out(IER, 0);
	none = uart_in(IIR);
	uart_out(IER, 2);
	empty = uart_in(IIR);
	taken = uart_in(IIR);
	uart_out(IER, 0);
	uart_out(FCR, 1);
	fifo = uart_in(IIR);
	check_equal(none & 0x0f, 1, "no interrupt is pending with all of them off");
	check_equal(empty & 0x0f, 2, "an empty transmitter is pending once its interrupt is on");
	check_equal(taken & 0x0f, 1, "reading IIR takes it back");
	check_equal(fifo & 0xc0, 0xc0, "IIR tells that the FIFOs are on");
}

static void serial(void)
{
	uint8_t scratch, low, high;

	check(uart_wait(LSR_THRE | LSR_TEMT), "the transmitter becomes empty", "LSR 0x%x", uart_in(LSR));
	uart_out(SCR, 0x5a);
	scratch = uart_in(SCR);
	check_equal(scratch, 0x5a, "the scratch register keeps its byte");
	uart_out(LCR, LCR_DLAB | LCR_8N1);
	uart_out(RBR, 0x34);
	uart_out(IER, 0x12);
	low = uart_in(RBR);
	high = uart_in(IER);
	uart_out(RBR, 1);
	uart_out(IER, 0);
	uart_out(LCR, LCR_8N1);
	check_equal((uint64_t)high << 8 | low, 0x1234, "the divisor latch keeps its value");
	check_equal(uart_in(LCR), LCR_8N1, "LCR keeps its value");
	serial_interrupts();
	serial_loopback();
	check(uart_wait(LSR_THRE), "the transmitter becomes empty afterwards", "LSR 0x%x", uart_in(LSR));
}

/* Sends count= bytes of the host back to it over the serial line, then goes on in text. */
static void serial_echo(void)
{
	uint64_t left = arg_u64("count", 16);

	uart_out(FCR, 1);
	/* Again and again: nobody may be connected yet. */
	do
		say("listening\n");
	while (left && !uart_wait_for(LSR_DATA, PATIENCE / 400));
	for (; left && uart_wait(LSR_DATA); left--) {
		uint8_t c = uart_in(RBR);

		if (!uart_wait(LSR_THRE))
			break;
		uart_out(RBR, c);
	}
	check(!left, "all bytes came and went", "%lu are missing", (unsigned long)left);
}

const struct guest_test serial_tests[] = {
	{ "serial", serial },
	{ "serial-echo", serial_echo },
	{ NULL, NULL },
};
