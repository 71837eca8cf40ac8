/* The serial port as a driver sees it, through the port I/O bus; the host's side is a pty, a file or a socket. */
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
#include "tests/unit/sealed.h"

enum { BASE = 0x3f8, DATA = BASE, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct rig {
	struct worker *worker;
	struct bus *pio;
	struct irqchip *irq;
	struct device *dev;
	struct char_terminal *terminal;
	int line;           /* eventfd of the interrupt */
	char path[64];      /* file or socket */
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
	cr_assert_eq(gsi, 4);
	rig.line = on ? fd : -1;
	return 0;
}

static const struct irq_chip_ops irq_ops = { .wire = wire };

static void post(void *ctx, enum vm_event event, const char *what)
{
	(void)ctx, (void)event, (void)what;
}

static void set_up(void)
{
	struct error err = { "" };

	cr_assert_eq(worker_create(&rig.worker, "_serial", &err), 0, "%s", err.text);
	cr_assert_eq(bus_create(&rig.pio, "pio", true, 0x10000), 0);
	cr_assert_eq(irqchip_create(&rig.irq, &irq_ops, NULL, 32, 64), 0);
	rig.place = (struct device_node){ .kind = "serial-16550", .pio = true, .base = BASE, .len = 8, .gsi = 4 };
	rig.events.post = post;
	rig.env = (struct device_env){
		.id = "_serial0", .pio = rig.pio, .irq = rig.irq, .place = &rig.place, .events = &rig.events,
		.terminal = &rig.terminal, .worker = give_worker,
	};
	snprintf(rig.path, sizeof(rig.path), "/tmp/test_serial.%d", getpid());
}

static void tear_down(void)
{
	if (rig.dev)
		rig.dev->ops->destroy(rig.dev);
	worker_destroy(rig.worker);
	bus_destroy(rig.pio);
	irqchip_destroy(rig.irq);
	unlink(rig.path);
}

TestSuite(serial, .init = set_up, .fini = tear_down, .timeout = 300);

static void make(enum char_mode mode)
{
	/* The group's struct begins with (and is) the line's options. */
	struct char_options o = { .mode = mode };
	struct error err = { "" };

	if (mode == CHAR_FILE)
		o.file = rig.path;
	if (mode == CHAR_SOCKET)
		o.socket = rig.path;
	cr_assert_eq(serial_16550_type.create(&rig.dev, &rig.env, &o, &err), 0, "%s", err.text);
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

static uint8_t in(unsigned port)
{
	uint8_t v = 0;

	cr_assert(bus_read(rig.pio, port, &v, 1));
	return v;
}

static void out(unsigned port, uint8_t v)
{
	cr_assert(bus_write(rig.pio, port, &v, 1));
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

static bool bit_comes(unsigned port, uint8_t bit)
{
	for (int i = 0; i < 5000 && !(in(port) & bit); i++)
		poll(NULL, 0, 1);
	return in(port) & bit;
}

Test(serial, off_makes_no_device)
{
	struct char_options o = { .mode = CHAR_OFF };
	struct error err;

	rig.dev = (struct device *)1;
	cr_assert_eq(serial_16550_type.create(&rig.dev, &rig.env, &o, &err), 0);
	cr_assert_null(rig.dev);
	cr_assert(bus_is_free(rig.pio, BASE, 8));
}

Test(serial, it_tells_firmware_where_it_is)
{
	make(CHAR_NULL);
	cr_assert_str_eq(rig.dev->nodes[0].kind, "serial-16550");
	cr_assert_eq(rig.dev->nodes[0].base, BASE);
	cr_assert_eq(rig.dev->nodes[0].gsi, 4);
	cr_assert_str_eq(rig.dev->id, "_serial0");
}

Test(serial, taken_registers_are_an_error_and_leave_nothing_behind)
{
	struct char_options o = { .mode = CHAR_TTY };
	struct error err;
	struct device *second = NULL;

	make(CHAR_NULL);
	cr_assert_eq(serial_16550_type.create(&second, &rig.env, &o, &err), -EEXIST);
	cr_assert_null(rig.terminal, "the terminal was given back");
	cr_assert(strstr(err.text, "0x3f8"), "%s", err.text);
}

Test(serial, a_driver_finds_a_16550A)
{
	make(CHAR_NULL);
	/* Scratch holds what is written, IER has four bits. */
	out(SCR, 0xa5);
	cr_assert_eq(in(SCR), 0xa5);
	out(IER, 0xff);
	cr_assert_eq(in(IER), 0x0f);
	out(IER, 0);
	/* Loopback wires RTS and OUT2 to CTS and DCD. */
	out(MCR, 0x10 | 0x08 | 0x02);
	cr_assert_eq(in(MSR) & 0xf0, 0x90);
	out(MCR, 0);
	/* Working FIFOs; no 64-byte ones. */
	out(FCR, 0x01);
	cr_assert_eq(in(IIR) & 0xc0, 0xc0);
	out(LCR, 0x80);
	out(FCR, 0x21);
	cr_assert_eq(in(IIR) & 0x20, 0);
	/* The divisor has its own place. */
	out(BASE + 0, 0x12);
	out(BASE + 1, 0x34);
	cr_assert_eq(in(BASE + 0), 0x12);
	cr_assert_eq(in(BASE + 1), 0x34);
	out(LCR, 0x03);
	cr_assert_eq(in(IER), 0);
	out(FCR, 0);
	cr_assert_eq(in(IIR), 0x01);
	cr_assert_eq(in(LSR), 0x60);
	cr_assert_eq(in(MSR) & 0xf0, 0xb0, "a modem that is ready");
}

Test(serial, enabling_the_transmitter_interrupt_interrupts_each_time)
{
	make(CHAR_NULL);
	for (int i = 0; i < 3; i++) {
		out(IER, 0x02);
		cr_assert_eq(edges(), 1);
		cr_assert_eq(in(IIR), 0x02);
		cr_assert_eq(in(IIR), 0x01, "reading it clears it");
		out(IER, 0);
		cr_assert_eq(edges(), 0);
	}
}

Test(serial, each_byte_sent_brings_the_transmitter_interrupt_back)
{
	make(CHAR_NULL);
	out(IER, 0x02);
	cr_assert_eq(edges(), 1);
	/* A driver that never reads IIR. */
	out(DATA, 'a');
	cr_assert_eq(edges(), 1);
	out(DATA, 'b');
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(IIR), 0x02);
	cr_assert_eq(edges(), 0);
	out(DATA, 'c');
	cr_assert_eq(edges(), 1);
}

Test(serial, a_second_cause_behind_the_transmitters_gets_its_own_edge)
{
	make(CHAR_NULL);
	out(IER, 0x0a);
	out(MCR, 0x10);
	edges();
	cr_assert_eq(in(IIR), 0x02);
	cr_assert_eq(edges(), 1, "modem status is still pending");
	cr_assert_eq(in(IIR), 0x00);
	in(MSR);
	cr_assert_eq(in(IIR), 0x01);
}

Test(serial, loopback_feeds_the_receiver_and_overruns_it)
{
	make(CHAR_NULL);
	out(FCR, 0x01);
	out(IER, 0x05);
	out(MCR, 0x10);
	for (int i = 0; i < 17; i++)
		out(DATA, (uint8_t)('a' + i));
	cr_assert_eq(in(IIR), 0xc6, "line status first");
	cr_assert_eq(in(LSR), 0x63);
	cr_assert_eq(in(LSR), 0x61, "reading it clears the error");
	cr_assert_eq(in(IIR), 0xc4);
	for (int i = 0; i < 16; i++)
		cr_assert_eq(in(DATA), 'a' + i);
	cr_assert_eq(in(LSR), 0x60);
	cr_assert_eq(in(DATA), 0, "an empty receiver reads 0");
	cr_assert_eq(in(IIR), 0xc1);
}

Test(serial, a_fill_below_the_trigger_is_a_time_out)
{
	make(CHAR_NULL);
	out(FCR, 0x81);
	out(IER, 0x01);
	out(MCR, 0x10);
	out(DATA, 'a');
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(IIR), 0xcc);
	for (int i = 0; i < 7; i++)
		out(DATA, 'a');
	cr_assert_eq(in(IIR), 0xc4);
	out(FCR, 0x83);
	cr_assert_eq(in(IIR), 0xc1, "cleared");
}

Test(serial, wide_accesses_are_bytes)
{
	uint8_t v[4] = { 0 };

	make(CHAR_NULL);
	out(SCR, 0x77);
	cr_assert(bus_read(rig.pio, LSR, v, 2));
	cr_assert_eq(v[0], 0x60);
	cr_assert_eq(v[1] & 0xf0, 0xb0);
	cr_assert(bus_read(rig.pio, BASE + 4, v, 4));
	cr_assert_eq(v[3], 0x77);
}

Test(serial, output_reaches_the_host_in_order)
{
	static char text[200000], got[200000];
	size_t n = 0;
	int fd;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('0' + i % 75);
	make(CHAR_FILE);
	run_worker();
	for (size_t i = 0; i < sizeof(text); i++) {
		if (!(in(LSR) & 0x20))
			cr_assert(bit_comes(LSR, 0x20));
		out(DATA, (uint8_t)text[i]);
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

Test(serial, the_last_words_are_written_although_the_worker_is_gone)
{
	char got[8] = "";
	int fd;

	make(CHAR_FILE);
	for (const char *p = "bye\n"; *p; p++)
		out(DATA, (uint8_t)*p);
	rig.dev->ops->destroy(rig.dev);
	rig.dev = NULL;
	fd = open(rig.path, O_RDONLY);
	cr_assert_eq(read(fd, got, sizeof(got)), 4);
	cr_assert_str_eq(got, "bye\n");
	close(fd);
}

Test(serial, a_host_that_does_not_read_makes_the_guest_wait_and_loses_nothing)
{
	static uint8_t got[8 << 20];
	size_t sent = 0, n = 0;
	int fd;

	make(CHAR_SOCKET);
	run_worker();
	fd = client();
	cr_assert_eq(write(fd, "!", 1), 1);
	cr_assert(bit_comes(LSR, 0x01), "the client is served");
	out(IER, 0x02);
	for (int full = 0; full < 200;) {
		if (in(LSR) & 0x20) {
			out(DATA, (uint8_t)(sent++ % 251));
			full = 0;
		} else {
			full++;
			poll(NULL, 0, 1);
		}
		cr_assert_lt(sent, sizeof(got), "the guest is held back");
	}
	cr_assert_eq(in(IIR), 0x01, "no transmitter interrupt while there is no room");
	edges();
	while (n < sent) {
		ssize_t r = read(fd, got + n, sizeof(got) - n);

		cr_assert_gt(r, 0);
		n += (size_t)r;
	}
	cr_assert(edge_comes());
	cr_assert_eq(in(IIR), 0x02);
	cr_assert_eq(n, sent);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(got[i], i % 251);
	close(fd);
}

Test(serial, input_waits_for_the_guest_and_arrives_in_order)
{
	static uint8_t text[20000];
	int fd;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i % 249);
	make(CHAR_SOCKET);
	run_worker();
	out(FCR, 0xc1);
	out(IER, 0x01);
	fd = client();
	cr_assert_eq(write(fd, text, sizeof(text)), (ssize_t)sizeof(text));
	cr_assert(edge_comes());
	for (size_t i = 0; i < sizeof(text); i++) {
		cr_assert(bit_comes(LSR, 0x01), "byte %zu", i);
		cr_assert_eq(in(DATA), text[i], "byte %zu", i);
	}
	cr_assert_eq(in(LSR), 0x60);
	close(fd);
}

Test(serial, clearing_the_receiver_lets_input_go_on)
{
	static const char text[] = "0123456789abcdefGHIJ";
	int fd;

	make(CHAR_SOCKET);
	run_worker();
	out(FCR, 0x01);
	fd = client();
	cr_assert_eq(write(fd, text, 20), 20);
	cr_assert(bit_comes(LSR, 0x01));
	poll(NULL, 0, 50);
	out(FCR, 0x03);
	cr_assert(bit_comes(LSR, 0x01));
	cr_assert_eq(in(DATA), 'G');
	close(fd);
}

Test(serial, a_paused_port_moves_no_byte)
{
	char got[4];
	int fd;

	make(CHAR_SOCKET);
	run_worker();
	fd = client();
	cr_assert_eq(write(fd, "!", 1), 1);
	cr_assert(bit_comes(LSR, 0x01));
	cr_assert_eq(in(DATA), '!');
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(write(fd, "x", 1), 1);
	out(DATA, 'o');
	poll(NULL, 0, 100);
	cr_assert_eq(in(LSR) & 1, 0);
	cr_assert_eq(recv(fd, got, sizeof(got), MSG_DONTWAIT), -1);
	rig.dev->ops->resume(rig.dev);
	cr_assert(bit_comes(LSR, 0x01));
	cr_assert_eq(in(DATA), 'x');
	cr_assert_eq(read(fd, got, sizeof(got)), 1);
	cr_assert_eq(got[0], 'o');
	close(fd);
}

Test(serial, reset_is_power_on)
{
	make(CHAR_NULL);
	out(FCR, 0x01);
	out(IER, 0x0f);
	out(MCR, 0x10);
	out(DATA, 'a');
	out(LCR, 0x83);
	rig.dev->ops->reset(rig.dev);
	cr_assert_eq(in(LCR), 0);
	cr_assert_eq(in(IER), 0);
	cr_assert_eq(in(IIR), 0x01);
	cr_assert_eq(in(MCR), 0);
	cr_assert_eq(in(LSR), 0x60);
	cr_assert_eq(in(MSR), 0xb0);
}

Test(serial, state_comes_back_from_a_save_and_interrupts_again)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	struct error err = { "" };

	make(CHAR_NULL);
	out(LCR, 0x80);
	out(BASE + 0, 0x0c);
	out(LCR, 0x03);
	out(FCR, 0x41);
	out(MCR, 0x1b);
	out(SCR, 0x5a);
	out(DATA, 'q');
	out(DATA, 'r');
	out(IER, 0x0f);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	rig.dev->ops->reset(rig.dev);
	edges();
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &err), 0, "%s", err.text);
	cr_assert_eq(state_reader_finish(&r, &err), 0);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(IER), 0x0f);
	cr_assert_eq(in(IIR), 0xcc);
	cr_assert_eq(in(LCR), 0x03);
	cr_assert_eq(in(MCR), 0x1b);
	cr_assert_eq(in(SCR), 0x5a);
	cr_assert_eq(in(DATA), 'q');
	cr_assert_eq(in(DATA), 'r');
	out(LCR, 0x80);
	cr_assert_eq(in(BASE + 0), 0x0c);
	state_writer_free(&w);
}

Test(serial, a_state_the_chip_cannot_have_is_refused_and_changes_nothing)
{
	struct { uint8_t ier, fcr, lcr, mcr, scr, dll, dlm, errors, deltas; bool thre; uint8_t rx_len, rx[16]; } bad[] = {
		{ .rx_len = 17 }, { .ier = 0x10 }, { .fcr = 0x02 }, { .mcr = 0x20 }, { .errors = 0x20 }, { .deltas = 0x10 },
	};

	make(CHAR_NULL);
	out(SCR, 0x11);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct state_desc unchecked = *serial_16550_type.state;
		struct state_writer w = { 0 };
		struct state_reader r;
		struct error err = { "" };

		cr_assert_eq(unchecked.object_size, sizeof(bad[i]));
		cr_assert_eq(state_save(&w, &unchecked, &bad[i]), 0);
		r = (struct state_reader){ .data = w.data, .len = w.len };
		cr_assert_lt(rig.dev->ops->load(rig.dev, &r, &err), 0, "row %zu", i);
		cr_assert(strlen(err.text), "row %zu", i);
		cr_assert_eq(in(SCR), 0x11);
		state_writer_free(&w);
	}
}
