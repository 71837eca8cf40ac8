/* Bytes in and out: virtio-rng, virtio-console and the 16550 (its data sheet, PC16550D). */
#include "tests/guest/tests.h"
#include "tests/guest/vio.h"

enum { RNG_LEN = 64, RNG_BIG = 65536, CONSOLE_RX = 0, CONSOLE_TX = 1, BUFFER = 256, RX_BUFFERS = 4 };

static void rng(void)
{
	static struct vio v;
	uint8_t *a, *b, *big;
	uint32_t len = 0, sum = 0;

	if (!check(vio_find(&v, VIO_RNG, 0), "a source of entropy is found", "no virtio device of this kind"))
		return;
	if (!check(vio_negotiate(&v, vio_ring_features()) && vio_queue(&v, 0, 16), "it starts", "status 0x%x",
			vio_status(&v)))
		return;
	vio_ready(&v);
	a = dma(RNG_LEN, 16);
	b = dma(RNG_LEN, 16);
	big = dma(RNG_BIG, 16);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN) }, 0, 1, &len) && len == RNG_LEN,
		"a buffer is filled", "%u bytes", len);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(b, RNG_LEN) }, 0, 1, &len) && len == RNG_LEN,
		"a second buffer is filled", "%u bytes", len);
	check(!same_bytes(a, b, RNG_LEN), "two buffers differ", "they are equal");
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(big, 100), vio_seg(big + 100, RNG_BIG - 100) }, 0, 2,
			&len) && len > 0 && len <= RNG_BIG, "a large buffer in pieces gets some", "%u bytes", len);
	for (uint32_t i = 0; i < len; i++)
		sum += big[i];
	check(sum / len > 100 && sum / len < 155, "random bytes have the mean of random bytes", "%u", sum / len);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN), vio_seg(b, RNG_LEN) }, 1, 1, &len) ||
			(vio_status(&v) & VIO_NEEDS_RESET), "a buffer the device may not write ends somehow", "no answer");
	check(vio_negotiate(&v, vio_ring_features()) && vio_queue(&v, 0, 16), "it starts again", "status 0x%x",
		vio_status(&v));
	vio_ready(&v);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN) }, 0, 1, &len) && len == RNG_LEN,
		"a buffer is filled after a reset", "%u bytes", len);
}

static void give_rx(struct vio *v, uint8_t *buffer)
{
	const struct vd_seg seg = vio_seg(buffer, BUFFER);

	vd_add(&v->queue[CONSOLE_RX].vd, &seg, 0, 1, buffer);
	vd_kick(&v->queue[CONSOLE_RX].vd);
}

/* Sends count= bytes of the host back to it. */
static void console(void)
{
	static struct vio v;
	uint64_t left = arg_u64("count", 16);
	uint8_t *rx, *tx;
	uint32_t len;
	void *got;

	if (!check(vio_find(&v, VIO_CONSOLE, 0), "a console is found", "no virtio device of this kind"))
		return;
	if (!check(vio_negotiate(&v, vio_ring_features()) && vio_queue(&v, CONSOLE_RX, 16) &&
			vio_queue(&v, CONSOLE_TX, 16), "it starts", "status 0x%x", vio_status(&v)))
		return;
	vio_ready(&v);
	rx = dma(RX_BUFFERS * BUFFER, 16);
	tx = dma(BUFFER, 16);
	for (unsigned i = 0; i < RX_BUFFERS; i++)
		give_rx(&v, rx + i * BUFFER);
	say("listening\n");
	while (left) {
		struct vd_seg out[2];

		if (vio_wait(&v.queue[CONSOLE_RX], &got, &len) != 1 || !len || len > BUFFER)
			break;
		__builtin_memcpy(tx, got, len);
		give_rx(&v, got);
		/* In two descriptors where there is enough for two. */
		out[0] = vio_seg(tx, 1);
		out[1] = vio_seg(tx + 1, len - 1);
		if (!vio_transfer(&v, CONSOLE_TX, out, len > 1 ? 2 : 1, 0, NULL))
			break;
		left -= len < left ? len : left;
	}
	check(!left, "all bytes came and went", "%lu are missing", (unsigned long)left);
}

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

static bool uart_wait(uint8_t bits)
{
	uint64_t start = cycles();

	while ((uart_in(LSR) & bits) != bits)
		if (cycles() - start > PATIENCE)
			return false;
	return true;
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
	say("listening\n");
	for (; left && uart_wait(LSR_DATA); left--) {
		uint8_t c = uart_in(RBR);

		if (!uart_wait(LSR_THRE))
			break;
		uart_out(RBR, c);
	}
	check(!left, "all bytes came and went", "%lu are missing", (unsigned long)left);
}

const struct guest_test char_tests[] = {
	{ "rng", rng },
	{ "console", console },
	{ "serial", serial },
	{ "serial-echo", serial_echo },
	{ NULL, NULL },
};
