/* The small devices of an ARM machine: PL011 serial line (Arm DDI 0183G), PL031 clock (DDI 0224C), PL061 GPIO (DDI 0190B). */
#include "tests/guest/lib.h"
#include "tests/guest/tests.h"

enum { PL011 = 0x09000000, PL031 = 0x09010000, PL061 = 0x09020000 }; /* arch/aarch64/layout.c */
enum { DR = 0x00, FR = 0x18, IBRD = 0x24, FBRD = 0x28, LCR_H = 0x2c, CR = 0x30, IMSC = 0x38, RIS = 0x3c, MIS = 0x40, ICR = 0x44 };
enum { FR_RXFE = 0x10, FR_TXFF = 0x20, FR_TXFE = 0x80, CR_ON = 0x301, CR_LOOP = 0x80, LCR_FIFO_8N1 = 0x70, INT_TX = 0x20 };
enum { PERIPHERAL_ID = 0xfe0 };

/* Until no bit of `bits` is set in the flags. */
static bool uart_wait_off_for(uint32_t bits, uint64_t most)
{
	uint64_t start = cycles();

	while (read32(PL011 + FR) & bits)
		if (cycles() - start > most)
			return false;
	return true;
}

static bool uart_wait_off(uint32_t bits)
{
	return uart_wait_off_for(bits, PATIENCE);
}

static uint32_t id_of(uint64_t base)
{
	uint32_t id = 0;

	for (unsigned i = 0; i < 4; i++)
		id |= (read32(base + PERIPHERAL_ID + 4 * i) & 0xff) << 8 * i;
	return id & 0xfffff;
}

/* Nothing is printed while the line is looped back. */
static void serial_loopback(void)
{
	uint8_t got[3];
	bool came = true, empty;

	while (!(read32(PL011 + FR) & FR_RXFE))
		read32(PL011 + DR);
	write32(PL011 + CR, CR_ON | CR_LOOP);
	for (unsigned i = 0; i < sizeof(got); i++) {
		write32(PL011 + DR, 0xa5 + i);
		came = uart_wait_off(FR_RXFE) && came;
		got[i] = (uint8_t)read32(PL011 + DR);
	}
	empty = read32(PL011 + FR) & FR_RXFE;
	write32(PL011 + CR, CR_ON);
	check(came, "bytes sent in loopback mode arrive", "they do not");
	check(got[0] == 0xa5 && got[1] == 0xa6 && got[2] == 0xa7, "they arrive unchanged", "0x%x 0x%x 0x%x", got[0],
		got[1], got[2]);
	check(empty, "nothing more arrives", "the receiver has a byte");
}

static void serial(void)
{
	uint32_t masked, unmasked, shown;

	check_equal(id_of(PL011), 0x41011, "the peripheral says that it is a PL011 of Arm's");
	write32(PL011 + LCR_H, LCR_FIFO_8N1);
	write32(PL011 + IBRD, 0x1234);
	write32(PL011 + FBRD, 0x2a);
	check_equal((uint64_t)read32(PL011 + IBRD) << 8 | read32(PL011 + FBRD), 0x12342a, "the divisors keep their values");
	check_equal(read32(PL011 + LCR_H), LCR_FIFO_8N1, "LCR_H keeps its value");
	check(uart_wait_off(FR_TXFF), "the transmitter has room", "FR 0x%x", read32(PL011 + FR));
	write32(PL011 + IMSC, 0);
	masked = read32(PL011 + MIS);
	write32(PL011 + IMSC, INT_TX);
	unmasked = read32(PL011 + IMSC);
	write32(PL011 + IMSC, 0);
	write32(PL011 + ICR, 0x7ff);
	shown = read32(PL011 + RIS);
	check_equal(masked, 0, "no interrupt is shown with all of them masked");
	check_equal(unmasked, INT_TX, "the mask keeps its value");
	check(!(shown & INT_TX), "the transmit interrupt can be cleared", "RIS 0x%x", shown);
	serial_loopback();
}

/* Sends count= bytes of the host back to it over the serial line, then goes on in text. */
static void serial_echo(void)
{
	uint64_t left = arg_u64("count", 16);

	write32(PL011 + CR, CR_ON);
	/* Again and again: nobody may be connected yet. */
	do
		say("listening\n");
	while (left && !uart_wait_off_for(FR_RXFE, PATIENCE / 400));
	for (; left && uart_wait_off(FR_RXFE); left--) {
		uint8_t c = (uint8_t)read32(PL011 + DR);

		if (!uart_wait_off(FR_TXFF))
			break;
		write32(PL011 + DR, c);
	}
	check(!left, "all bytes came and went", "%lu are missing", (unsigned long)left);
}

static void rtc(void)
{
	uint64_t now = arg_u64("now", 0), read = read32(PL031), set;

	check_equal(id_of(PL031), 0x41031, "the peripheral says that it is a PL031 of Arm's");
	check(read - (now - 3600) < 7200, "the clock has the host's time", "%lu, not about %lu", (unsigned long)read,
		(unsigned long)now);
	write32(PL031 + 0x08, 1000);
	set = read32(PL031);
	check(set >= 1000 && set < 8200, "it can be set", "%lu", (unsigned long)set);
	write32(PL031 + 0x08, (uint32_t)now);
}

static void gpio(void)
{
	check_equal(id_of(PL061), 0x41061, "the peripheral says that it is a PL061 of Arm's");
	write8(PL061 + 0x400, 0x0f);
	write8(PL061 + (0x05 << 2), 0xff);
	check_equal(read8(PL061 + 0x400), 0x0f, "directions keep their values");
	check_equal(read8(PL061 + (0x0f << 2)), 0x05, "only the addressed lines are driven");
	write8(PL061 + (0xff << 2), 0);
	write8(PL061 + 0x400, 0);
	check_equal(read8(PL061 + (0x0f << 2)), 0, "lines that are inputs are low");
}

const struct guest_test platform_tests[] = {
	{ "serial", serial },
	{ "serial-echo", serial_echo },
	{ "rtc", rtc },
	{ "gpio", gpio },
	{ NULL, NULL },
};
