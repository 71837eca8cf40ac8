/* The PL011 as Linux's driver and others use it, through the MMIO bus; the host's side is a file, a socket or nothing. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/host/char.h"
#include "devices/platform/serial.h"
#include "devices/platform/uart_pl011.h"
#include "tests/unit/sealed.h"

enum {
	BASE = 0x9000000,
	DR = 0x00,
	RSR = 0x04,
	FR = 0x18,
	IBRD = 0x24,
	FBRD = 0x28,
	LCR_H = 0x2c,
	CR = 0x30,
	IFLS = 0x34,
	IMSC = 0x38,
	RIS = 0x3c,
	MIS = 0x40,
	ICR = 0x44,
	DMACR = 0x48,

	FR_BUSY = 0x08,
	FR_RXFE = 0x10,
	FR_TXFF = 0x20,
	FR_TXFE = 0x80,
	FEN = 0x10,
	ON = 0x301,
	LOOP = 0x381,
	INT_RX = 0x10,
	INT_TX = 0x20,
	INT_RT = 0x40,
	INT_OE = 0x400,
};

struct rig {
	struct worker *worker;
	struct bus *mmio;
	struct irqchip *irq;
	struct device *dev;
	struct char_terminal *terminal;
	int line;      /* eventfd of the interrupt */
	char path[64]; /* file or socket */
	struct device_node place;
	struct vm_events events;
	struct device_env env;
};

static struct rig rig;

static int give_worker(const struct device_env *env, const char *name, enum worker_share share, struct worker **ret,
	struct error *err)
{
	(void)env, (void)name, (void)share, (void)err;
	*ret = rig.worker;
	return 0;
}

static int wire(void *ctx, int fd, unsigned gsi, bool on)
{
	(void)ctx;
	cr_assert_eq(gsi, 1);
	rig.line = on ? fd : -1;
	return 0;
}

static const struct irq_chip_ops irq_ops = { .wire = wire };

static void set_up(void)
{
	struct error err = { "" };

	cr_assert_eq(worker_create(&rig.worker, "_serial", &err), 0, "%s", err.text);
	cr_assert_eq(bus_create(&rig.mmio, "mmio", false, 0), 0);
	cr_assert_eq(irqchip_create(&rig.irq, &irq_ops, NULL, 32, 64), 0);
	rig.place = (struct device_node){ .kind = "serial-pl011", .base = BASE, .len = 0x1000, .gsi = 1 };
	rig.env = (struct device_env){
		.id = "_serial0", .mmio = rig.mmio, .irq = rig.irq, .place = &rig.place, .events = &rig.events,
		.terminal = &rig.terminal, .worker = give_worker,
	};
	snprintf(rig.path, sizeof(rig.path), "/tmp/test_pl011.%d", getpid());
}

static void tear_down(void)
{
	if (rig.dev)
		rig.dev->ops->destroy(rig.dev);
	worker_destroy(rig.worker);
	bus_destroy(rig.mmio);
	irqchip_destroy(rig.irq);
	unlink(rig.path);
}

TestSuite(pl011, .init = set_up, .fini = tear_down, .timeout = 300);

static void make(enum char_mode mode)
{
	struct char_options o = { .mode = mode };
	struct error err = { "" };

	if (mode == CHAR_FILE)
		o.file = rig.path;
	if (mode == CHAR_SOCKET)
		o.socket = rig.path;
	cr_assert_eq(serial_pl011_type.create(&rig.dev, &rig.env, &o, &err), 0, "%s", err.text);
	cr_assert_not_null(rig.dev);
}

/* Under its filter: a system call without a row kills the test. Sanitizers make calls of their own. */
static void run_worker(void)
{
#ifdef __SANITIZE_ADDRESS__
	const enum sandbox_mode mode = SANDBOX_OFF;
#else
	const enum sandbox_mode mode = filters_work() ? SANDBOX_KILL : SANDBOX_OFF;
#endif
	struct error err = { "" };

	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(worker_run(rig.worker, mode, &err), 0, "%s", err.text);
}

static uint16_t in(unsigned reg)
{
	uint16_t v = 0;

	cr_assert(bus_read(rig.mmio, BASE + reg, &v, 2));
	return v;
}

static void out(unsigned reg, uint16_t v)
{
	cr_assert(bus_write(rig.mmio, BASE + reg, &v, 2));
}

/* How many edges the line had since the last call. */
static uint64_t edges(void)
{
	uint64_t n = 0;

	return read(rig.line, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static bool edge_comes(void)
{
	struct pollfd p = { .fd = rig.line, .events = POLLIN };

	return poll(&p, 1, 5000) == 1 && edges();
}

static int client(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, rig.path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static bool flag_clears(uint16_t bit)
{
	for (int i = 0; i < 5000 && in(FR) & bit; i++)
		poll(NULL, 0, 1);
	return !(in(FR) & bit);
}

Test(pl011, off_or_without_a_place_makes_no_device)
{
	struct char_options o = { .mode = CHAR_OFF };
	struct error err;

	rig.dev = (struct device *)1;
	cr_assert_eq(serial_pl011_type.create(&rig.dev, &rig.env, &o, &err), 0);
	cr_assert_null(rig.dev);
	o.mode = CHAR_TTY;
	rig.env.place = NULL;
	rig.dev = (struct device *)1;
	cr_assert_eq(serial_pl011_type.create(&rig.dev, &rig.env, &o, &err), 0);
	cr_assert_null(rig.dev, "another CPU's port has taken the flag");
	cr_assert_null(rig.terminal);
	cr_assert(bus_is_free(rig.mmio, BASE, 0x1000));
}

Test(pl011, both_ports_answer_the_same_flag)
{
	cr_assert_eq(serial_pl011_type.options, serial_16550_type.options);
	cr_assert_str_eq(serial_pl011_type.options->flag, "serial");
	make(CHAR_NULL);
	cr_assert_str_eq(rig.dev->nodes[0].kind, "serial-pl011");
	cr_assert_eq(rig.dev->nodes[0].base, BASE);
	cr_assert_eq(rig.dev->nodes[0].gsi, 1);
}

Test(pl011, a_driver_finds_an_r1p5_at_power_on)
{
	static const uint8_t ids[] = { 0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1 };

	make(CHAR_NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
		cr_assert_eq(in(0xfe0 + 4 * i), ids[i], "%u", i);
	cr_assert_eq(in(CR), 0x300);
	cr_assert_eq(in(IFLS), 0x12);
	cr_assert_eq(in(FR), FR_TXFE | FR_RXFE | 0x7);
	cr_assert_eq(in(RIS) | in(MIS) | in(IMSC) | in(LCR_H), 0);
	cr_assert_eq(in(DR), 0, "an empty receiver reads 0");
	out(FBRD, 0xffff);
	cr_assert_eq(in(FBRD), 0x3f);
	out(IBRD, 0x1234);
	cr_assert_eq(in(IBRD), 0x1234);
	out(IMSC, 0xffff);
	cr_assert_eq(in(IMSC), 0x7ff);
	out(DMACR, 0xff);
	cr_assert_eq(in(DMACR), 7);
	out(0xfe0, 0);
	cr_assert_eq(in(0xfe0), 0x11);
}

Test(pl011, accesses_of_each_width_and_place_are_answered)
{
	uint64_t v = UINT64_MAX;

	make(CHAR_NULL);
	out(IBRD, 0xabcd);
	cr_assert(bus_read(rig.mmio, BASE + IBRD, &v, 8));
	cr_assert_eq(v, 0xabcd);
	cr_assert(bus_read(rig.mmio, BASE + IBRD + 1, &v, 1));
	cr_assert_eq(v & 0xff, 0);
	for (uint64_t at = 0; at < 0x1000; at++)
		for (unsigned len = 1; len <= 8; len *= 2) {
			v = at * 0x9e3779b97f4a7c15;
			bus_write(rig.mmio, BASE + at, &v, len);
			bus_read(rig.mmio, BASE + at, &v, len);
		}
}

Test(pl011, an_early_console_writes_before_the_port_is_enabled)
{
	char got[8] = "";
	int fd;

	make(CHAR_FILE);
	for (const char *p = "bye\n"; *p; p++) {
		cr_assert_not(in(FR) & FR_TXFF);
		out(DR, (uint8_t)*p);
		cr_assert_not(in(FR) & FR_BUSY);
	}
	/* The last words are written although the worker never ran. */
	rig.dev->ops->destroy(rig.dev);
	rig.dev = NULL;
	fd = open(rig.path, O_RDONLY);
	cr_assert_eq(read(fd, got, sizeof(got)), 4);
	cr_assert_str_eq(got, "bye\n");
	close(fd);
}

Test(pl011, the_transmit_interrupt_comes_once_for_half_a_fifo)
{
	make(CHAR_NULL);
	out(LCR_H, 0x60 | FEN);
	out(CR, ON);
	out(IMSC, INT_TX);
	cr_assert_eq(edges(), 0, "nothing was sent yet");
	out(DR, 'a');
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(MIS), INT_TX);
	for (int i = 0; i < 15; i++)
		out(DR, 'b');
	cr_assert_eq(edges(), 0);
	out(DR, 'c');
	cr_assert_eq(edges(), 1, "a driver that writes half a FIFO and leaves is called again");
	out(IMSC, 0);
	cr_assert_eq(in(RIS), INT_TX);
	out(DR, 'd');
	cr_assert_eq(edges(), 0);
	out(IMSC, INT_TX);
	cr_assert_eq(edges(), 1, "unmasking rings");
	out(ICR, INT_TX);
	cr_assert_eq(in(RIS), 0);
	out(DR, 'e');
	cr_assert_eq(in(RIS), INT_TX);
	cr_assert_eq(edges(), 1);
}

Test(pl011, loopback_feeds_the_receiver_and_overruns_it)
{
	make(CHAR_NULL);
	out(LCR_H, FEN);
	out(CR, LOOP);
	out(IMSC, INT_RX | INT_RT | INT_OE);
	out(DR, 'a');
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(MIS), INT_RT, "below the trigger");
	out(ICR, 0x7ff);
	cr_assert_eq(in(MIS), INT_RT, "the byte is still there");
	for (int i = 1; i < 33; i++)
		out(DR, (uint16_t)('a' + i));
	cr_assert_eq(in(MIS), INT_RX | INT_RT | INT_OE);
	cr_assert_eq(in(RSR), 0x8);
	out(RSR, 0);
	cr_assert_eq(in(RSR), 0);
	out(ICR, INT_OE);
	for (int i = 0; i < 32; i++)
		cr_assert_eq(in(DR), 'a' + i);
	cr_assert_eq(in(MIS), 0);
	cr_assert(in(FR) & FR_RXFE);
	edges();
	out(LCR_H, 0);
	out(DR, 'x');
	cr_assert_eq(in(MIS), INT_RX | INT_RT, "without FIFOs one byte is all");
	cr_assert_eq(edges(), 1);
	out(LCR_H, FEN);
	cr_assert_eq(in(MIS), 0, "turning them on empties them");
}

Test(pl011, loopback_wires_the_modem_lines)
{
	make(CHAR_NULL);
	out(IMSC, 0xf);
	out(CR, LOOP);
	cr_assert_eq(in(FR) & 0x107, 0);
	cr_assert_eq(in(MIS), 0xe, "three lines fell");
	cr_assert_eq(edges(), 1);
	out(ICR, 0xf);
	out(CR, LOOP | 0x3c00);
	cr_assert_eq(in(FR) & 0x107, 0x107);
	cr_assert_eq(in(MIS), 0xf);
	cr_assert_eq(edges(), 1);
	out(ICR, 0x6);
	cr_assert_eq(edges(), 1, "two causes went, two stay");
}

Test(pl011, output_reaches_the_host_in_order)
{
	static char text[100000], got[100000];
	size_t n = 0;
	int fd;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('0' + i % 75);
	make(CHAR_FILE);
	run_worker();
	for (size_t i = 0; i < sizeof(text); i++) {
		if (in(FR) & FR_TXFF)
			cr_assert(flag_clears(FR_TXFF));
		out(DR, (uint8_t)text[i]);
	}
	fd = open(rig.path, O_RDONLY);
	for (int i = 0; i < 5000 && n < sizeof(got); i++) {
		ssize_t r = read(fd, got + n, sizeof(got) - n);

		cr_assert_geq(r, 0);
		n += (size_t)r;
		if (!r)
			poll(NULL, 0, 1);
	}
	cr_assert_eq(n, sizeof(got));
	cr_assert_eq(memcmp(text, got, sizeof(got)), 0);
	close(fd);
}

/* A driver that fills what there is room for, then waits for its interrupt. */
Test(pl011, a_host_that_does_not_read_makes_the_guest_wait_and_loses_nothing)
{
	static uint8_t got[8 << 20];
	size_t sent = 0, n = 0;
	int fd;

	make(CHAR_SOCKET);
	run_worker();
	out(LCR_H, FEN);
	out(CR, ON);
	fd = client();
	cr_assert_eq(write(fd, "!", 1), 1);
	cr_assert(flag_clears(FR_RXFE), "the client is served");
	for (int full = 0; full < 200;) {
		if (!(in(FR) & FR_TXFF)) {
			out(DR, (uint8_t)(sent++ % 251));
			full = 0;
		} else {
			full++;
			poll(NULL, 0, 1);
		}
		cr_assert_lt(sent, sizeof(got), "the guest is held back");
	}
	out(IMSC, INT_TX);
	cr_assert_eq(in(MIS), 0, "no transmit interrupt while there is no room");
	cr_assert(in(FR) & FR_BUSY);
	edges();
	while (n < sent) {
		ssize_t r = read(fd, got + n, sizeof(got) - n);

		cr_assert_gt(r, 0);
		n += (size_t)r;
	}
	cr_assert(edge_comes());
	cr_assert_eq(in(MIS), INT_TX);
	cr_assert_eq(n, sent);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(got[i], i % 251);
	close(fd);
}

Test(pl011, input_waits_for_the_driver_and_arrives_in_order)
{
	static uint8_t text[20000];
	int fd;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i % 249);
	make(CHAR_SOCKET);
	run_worker();
	out(LCR_H, FEN);
	out(IMSC, INT_RX | INT_RT);
	fd = client();
	cr_assert_eq(write(fd, text, sizeof(text)), (ssize_t)sizeof(text));
	poll(NULL, 0, 50);
	cr_assert(in(FR) & FR_RXFE, "the receiver is off");
	out(CR, ON);
	cr_assert(edge_comes());
	for (size_t i = 0; i < sizeof(text); i++) {
		cr_assert(flag_clears(FR_RXFE), "byte %zu", i);
		cr_assert_eq(in(DR), text[i], "byte %zu", i);
	}
	cr_assert(in(FR) & FR_RXFE);
	close(fd);
}

Test(pl011, a_paused_port_moves_no_byte)
{
	char got[4];
	int fd;

	make(CHAR_SOCKET);
	run_worker();
	out(CR, ON);
	fd = client();
	cr_assert_eq(write(fd, "!", 1), 1);
	cr_assert(flag_clears(FR_RXFE));
	cr_assert_eq(in(DR), '!');
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(write(fd, "x", 1), 1);
	out(DR, 'o');
	poll(NULL, 0, 100);
	cr_assert(in(FR) & FR_RXFE);
	cr_assert_eq(recv(fd, got, sizeof(got), MSG_DONTWAIT), -1);
	rig.dev->ops->resume(rig.dev);
	cr_assert(flag_clears(FR_RXFE));
	cr_assert_eq(in(DR), 'x');
	cr_assert_eq(read(fd, got, sizeof(got)), 1);
	cr_assert_eq(got[0], 'o');
	close(fd);
}

Test(pl011, reset_is_power_on)
{
	make(CHAR_NULL);
	out(LCR_H, FEN);
	out(CR, LOOP);
	out(IMSC, 0x7ff);
	out(DR, 'a');
	rig.dev->ops->reset(rig.dev);
	cr_assert_eq(in(CR), 0x300);
	cr_assert_eq(in(IFLS), 0x12);
	cr_assert_eq(in(FR), FR_TXFE | FR_RXFE | 0x7);
	cr_assert_eq(in(RIS) | in(IMSC) | in(LCR_H), 0);
}

Test(pl011, state_comes_back_from_a_save_and_interrupts_again)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	struct error err = { "" };

	make(CHAR_NULL);
	out(IBRD, 13);
	out(FBRD, 1);
	out(LCR_H, 0x60 | FEN);
	out(IFLS, 0x09);
	out(CR, LOOP);
	out(DR, 'q');
	out(DR, 'r');
	out(IMSC, INT_RT);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	rig.dev->ops->reset(rig.dev);
	edges();
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &err), 0, "%s", err.text);
	cr_assert_eq(state_reader_finish(&r, &err), 0);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(MIS), INT_RT);
	cr_assert_eq(in(IBRD), 13);
	cr_assert_eq(in(FBRD), 1);
	cr_assert_eq(in(LCR_H), 0x70);
	cr_assert_eq(in(IFLS), 0x09);
	cr_assert_eq(in(CR), LOOP);
	cr_assert_eq(in(DR), 'q');
	cr_assert_eq(in(DR), 'r');
	state_writer_free(&w);
}

Test(pl011, a_state_the_chip_cannot_have_is_refused_and_changes_nothing)
{
	static const struct pl011_regs bad[] = {
		{ .rx_len = 33 }, { .cr = 0x08 }, { .imsc = 0x800 }, { .latched = INT_RX }, { .fbrd = 0x40 },
		{ .ifls = 0x40 }, { .dmacr = 8 }, { .errors = 1 }, { .tx_burst = 33 },
	};

	make(CHAR_NULL);
	out(IBRD, 0x11);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct state_writer w = { 0 };
		struct state_reader r;
		struct error err = { "" };

		cr_assert_eq(state_save(&w, serial_pl011_type.state, &bad[i]), 0);
		r = (struct state_reader){ .data = w.data, .len = w.len };
		cr_assert_lt(rig.dev->ops->load(rig.dev, &r, &err), 0, "row %zu", i);
		cr_assert(strlen(err.text), "row %zu", i);
		cr_assert_eq(in(IBRD), 0x11);
		state_writer_free(&w);
	}
}
