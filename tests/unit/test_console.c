/* virtio-console: the driver's end of both queues in this process, a socket or a pty at the other end. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/host/char.h"
#include "devices/virtio/console.h"
#include "tests/driver/harness.h"
#include "tests/unit/sealed.h"

enum { RX, TX, SIZE = 64, PATIENCE_MS = 5000 };

/* As the group's struct begins: the virtio options, then the line's. */
struct options {
	struct virtio_options virtio;
	struct char_options line;
};

struct rig {
	struct worker *worker;
	struct virtio_device *dev;
	struct harness *h[2];
	struct char_terminal *terminal;
	struct vm_events events;
	_Atomic unsigned changes, breaks, hang_ups;
	char path[64];
	struct device_env env;
};

static struct rig rig;

static int give_worker(const struct device_env *env, const char *name, enum worker_share share, struct worker **ret,
	struct error *err)
{
	(void)env, (void)name, (void)err;
	cr_assert_eq(share, WORKER_QUIET);
	*ret = rig.worker;
	return 0;
}

static void post(void *ctx, enum vm_event event, const char *what)
{
	(void)ctx, (void)what;
	if (event == VM_EVENT_HANG_UP)
		rig.hang_ups++;
}

static void on_changed(struct virtio_device *dev)
{
	(void)dev;
	rig.changes++;
}

static void on_broken(struct virtio_device *dev)
{
	(void)dev;
	rig.breaks++;
}

static void set_up(void)
{
	struct error err;

	cr_assert_eq(worker_create(&rig.worker, "_quiet", &err), 0);
	rig.events.post = post;
	rig.env = (struct device_env){
		.id = "_console0", .events = &rig.events, .terminal = &rig.terminal, .worker = give_worker,
	};
	snprintf(rig.path, sizeof(rig.path), "/tmp/test_console.%d", getpid());
}

static void on_stop(void *ctx)
{
	unsigned i = *(unsigned *)ctx;

	virtio_console_type.queue_stop(rig.dev, rig.h[i]->q);
	rig.dev->queues[i] = NULL;
}

static void tear_down(void)
{
	for (unsigned i = 0; rig.dev && i < 2; i++)
		if (rig.dev->queues[i])
			worker_call(rig.worker, on_stop, &i);
	if (rig.dev)
		virtio_console_type.destroy(rig.dev);
	worker_destroy(rig.worker);
	for (unsigned i = 0; i < 2; i++)
		harness_free(rig.h[i]);
	free(rig.dev);
	unlink(rig.path);
}

TestSuite(console, .init = set_up, .fini = tear_down, .timeout = 300);

/* The worker runs under its filter: a system call without a row kills the test. Sanitizers make calls of their own. */
static void make(enum char_mode mode)
{
#ifdef __SANITIZE_ADDRESS__
	const enum sandbox_mode sandbox = SANDBOX_OFF;
#else
	const enum sandbox_mode sandbox = filters_work() ? SANDBOX_KILL : SANDBOX_OFF;
#endif
	struct options o = { .line = { .mode = mode, .socket = mode == CHAR_SOCKET ? rig.path : NULL } };
	struct error err = { "" };

	rig.dev = calloc(1, virtio_console_type.size);
	rig.dev->type = &virtio_console_type;
	strcpy(rig.dev->id, "_console0");
	rig.dev->events = &rig.events;
	rig.dev->nqueues = virtio_console_type.nqueues;
	rig.dev->config.size = virtio_console_type.config_size;
	rig.dev->config_changed = on_changed;
	rig.dev->broken = on_broken;
	cr_assert_eq(virtio_console_type.create(rig.dev, &rig.env, &o, &err), 0, "%s", err.text);
	cr_assert_eq(worker_allow(rig.worker, virtio_console_type.syscalls), 0);
	for (unsigned i = 0; i < VIRTIO_SYSCALL_TABLES; i++)
		cr_assert_eq(worker_allow(rig.worker, rig.dev->syscalls[i]), 0);
	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(worker_run(rig.worker, sandbox, &err), 0, "%s", err.text);
}

static void on_handle(void *ctx)
{
	unsigned i = *(unsigned *)ctx;
	struct queue *q = rig.dev->queues[i];
	int r;

	/* As the back does it: serve, arm, look again. */
	do {
		queue_disable_kick(q);
		r = virtio_console_type.handle(rig.dev, q);
	} while (r == 1);
	queue_flush(q);
	if (r == 0 && queue_enable_kick(q))
		virtio_console_type.handle(rig.dev, q);
}

static void handle(unsigned i)
{
	worker_call(rig.worker, on_handle, &i);
}

static void on_start(void *ctx)
{
	unsigned i = *(unsigned *)ctx;

	rig.dev->queues[i] = rig.h[i]->q;
}

static void start(unsigned i, uint64_t features)
{
	rig.h[i] = harness_new_closed(SIZE, features);
	rig.h[i]->setup.index = (uint16_t)i;
	cr_assert_eq(queue_open(&rig.h[i]->q, rig.h[i]->mem, &rig.h[i]->setup, 0), 0);
	worker_call(rig.worker, on_start, &i);
	handle(i);
}

static int client(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval patience = { PATIENCE_MS / 1000, 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, rig.path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	/* Accepted by the worker's next round. */
	poll(NULL, 0, 50);
	return fd;
}

static void read_all(int fd, void *data, size_t len)
{
	for (size_t n = 0; n < len;) {
		ssize_t r = read(fd, (char *)data + n, len - n);

		cr_assert_gt(r, 0, "%zu of %zu bytes came", n, len);
		n += (size_t)r;
	}
}

/* The next used buffer; waits for it. */
static uint32_t used(unsigned i)
{
	void *cookie;
	uint32_t len = 0;
	int r = 0;

	for (int ms = 0; ms < PATIENCE_MS && !(r = vd_poll(&rig.h[i]->vd, &cookie, &len)); ms++)
		poll(NULL, 0, 1);
	cr_assert_eq(r, 1);
	return len;
}

/* Offer a chain of `n` pieces of `len` bytes each, `gap` apart. */
static void offer(unsigned i, unsigned slot, unsigned n, uint32_t len, uint32_t gap, bool writable)
{
	struct vd_seg segs[SIZE];

	for (unsigned k = 0; k < n; k++)
		segs[k] = (struct vd_seg){ HARNESS_DATA + slot * 0x2000 + k * gap, len };
	cr_assert(vd_add(&rig.h[i]->vd, segs, writable ? 0 : n, writable ? n : 0, NULL));
	if (vd_kick(&rig.h[i]->vd))
		handle(i);
}

static uint8_t *data_at(unsigned i, unsigned slot, size_t offset)
{
	return (uint8_t *)harness_at(rig.h[i], HARNESS_DATA + slot * 0x2000) + offset;
}

Test(console, off_makes_no_device)
{
	struct options o = { .line = { .mode = CHAR_OFF } };
	struct device *dev = (struct device *)1;
	struct error err;

	cr_assert_eq(virtio_console_row.create(&dev, &rig.env, &o, &err), 0);
	cr_assert_null(dev);
}

Test(console, every_descriptor_of_a_chain_is_written_in_order)
{
	char got[41 * 3];
	int fd;

	make(CHAR_SOCKET);
	start(TX, 0);
	fd = client();
	for (unsigned k = 0; k < 41; k++)
		memcpy(data_at(TX, 0, k * 64), (char[]){ 'a', (char)k, 'z' }, 3);
	offer(TX, 0, 41, 3, 64, false);
	cr_assert_eq(used(TX), 0);
	read_all(fd, got, sizeof(got));
	for (unsigned k = 0; k < 41; k++)
		cr_assert_eq(memcmp(got + 3 * k, (char[]){ 'a', (char)k, 'z' }, 3), 0, "piece %u", k);
	close(fd);
}

Test(console, output_without_a_client_is_taken_and_returned)
{
	make(CHAR_SOCKET);
	start(TX, VD_F_PACKED);
	for (int i = 0; i < 200; i++) {
		offer(TX, 0, 2, 1000, 1024, false);
		cr_assert_eq(used(TX), 0);
	}
}

static void output_is_held_back(uint64_t features)
{
	static uint8_t sent[4096], got[4096];
	unsigned out = 0, returned = 0;
	void *cookie;
	uint32_t len;
	int fd;

	make(CHAR_SOCKET);
	start(TX, features);
	fd = client();
	/* The driver sends until the ring is full of chains that nobody takes. */
	for (int idle = 0; idle < 200;) {
		struct vd_seg seg = { HARNESS_DATA + out % SIZE * 0x2000, sizeof(sent) };

		if (vd_add(&rig.h[TX]->vd, &seg, 1, 0, NULL)) {
			memset(data_at(TX, out % SIZE, 0), (int)(out % 251), sizeof(sent));
			out++;
			idle = 0;
			if (vd_kick(&rig.h[TX]->vd))
				handle(TX);
		} else {
			idle++;
			poll(NULL, 0, 1);
		}
		while (vd_poll(&rig.h[TX]->vd, &cookie, &len) == 1) {
			cr_assert_eq(len, 0);
			returned++;
		}
		cr_assert_lt(out, 10000, "the guest is held back");
	}
	cr_assert_eq(out - returned, SIZE);
	for (unsigned i = 0; i < out; i++) {
		read_all(fd, got, sizeof(got));
		memset(sent, (int)(i % 251), sizeof(sent));
		cr_assert_eq(memcmp(sent, got, sizeof(sent)), 0, "chain %u", i);
	}
	while (returned < out) {
		used(TX);
		returned++;
	}
	/* The driver's kicks are wanted again. */
	memset(data_at(TX, 0, 0), '!', 1);
	offer(TX, 0, 1, 1, 0, false);
	read_all(fd, got, 1);
	cr_assert_eq(got[0], '!');
	close(fd);
}

Test(console, a_host_that_does_not_read_holds_the_guest_back_without_loss)
{
	output_is_held_back(0);
}

Test(console, the_same_on_a_packed_ring_with_event_idx)
{
	output_is_held_back(VD_F_PACKED | VD_F_EVENT_IDX);
}

Test(console, a_stopped_queue_has_nothing_in_flight_and_its_output_arrives_later)
{
	static uint8_t got[4096];
	unsigned out = 0, i = TX;
	void *cookie;
	uint32_t len;
	int fd;

	make(CHAR_SOCKET);
	start(TX, 0);
	fd = client();
	for (int idle = 0; idle < 100;) {
		struct vd_seg seg = { HARNESS_DATA + out % SIZE * 0x2000, 4096 };

		if (vd_add(&rig.h[TX]->vd, &seg, 1, 0, NULL)) {
			memset(data_at(TX, out % SIZE, 0), (int)(out % 251), 4096);
			out++;
			if (vd_kick(&rig.h[TX]->vd))
				handle(TX);
		} else {
			idle++;
			poll(NULL, 0, 1);
		}
		while (vd_poll(&rig.h[TX]->vd, &cookie, &len) == 1)
			;
	}
	cr_assert_eq(queue_in_flight(rig.h[TX]->q), 1);
	worker_call(rig.worker, on_stop, &i);
	cr_assert_eq(queue_in_flight(rig.h[TX]->q), 0);
	harness_reopen(rig.h[TX]);
	worker_call(rig.worker, on_start, &i);
	handle(TX);
	for (unsigned n = 0; n < out; n++) {
		read_all(fd, got, sizeof(got));
		cr_assert_eq(got[0], n % 251, "chain %u", n);
		cr_assert_eq(got[4095], n % 251, "chain %u", n);
	}
	close(fd);
}

Test(console, input_fills_chained_buffers_and_says_how_much)
{
	int fd;

	make(CHAR_SOCKET);
	start(RX, 0);
	offer(RX, 0, 3, 10, 100, true);
	fd = client();
	cr_assert_eq(write(fd, "0123456789abcdefghijABCDE", 25), 25);
	cr_assert_eq(used(RX), 25);
	cr_assert_eq(memcmp(data_at(RX, 0, 0), "0123456789", 10), 0);
	cr_assert_eq(memcmp(data_at(RX, 0, 100), "abcdefghij", 10), 0);
	cr_assert_eq(memcmp(data_at(RX, 0, 200), "ABCDE", 5), 0);
	close(fd);
}

static void input_waits(uint64_t features, uint32_t size)
{
	static uint8_t text[20000], got[20000];
	size_t n = 0;
	int fd;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 31 + i / 256);
	make(CHAR_SOCKET);
	start(RX, features);
	fd = client();
	cr_assert_eq(write(fd, text, sizeof(text)), (ssize_t)sizeof(text));
	poll(NULL, 0, 50);
	/* The driver kicks only when the device asked for it. */
	while (n < sizeof(text)) {
		for (unsigned k = 0; k < SIZE; k++) {
			struct vd_seg seg = { HARNESS_DATA + k * 0x2000, size };

			cr_assert(vd_add(&rig.h[RX]->vd, &seg, 0, 1, (void *)(uintptr_t)k));
		}
		if (vd_kick(&rig.h[RX]->vd))
			handle(RX);
		for (unsigned k = 0; k < SIZE && n < sizeof(text); k++) {
			uint32_t len = used(RX);

			memcpy(got + n, data_at(RX, k, 0), len);
			n += len;
		}
	}
	cr_assert_eq(n, sizeof(text));
	cr_assert_eq(memcmp(got, text, sizeof(text)), 0);
	close(fd);
}

Test(console, input_without_buffers_waits_at_the_host)
{
	input_waits(0, 100);
}

Test(console, tiny_buffers_and_suppressed_kicks_lose_no_wake_up)
{
	input_waits(VD_F_EVENT_IDX, 1);
}

Test(console, tiny_buffers_on_a_packed_ring)
{
	input_waits(VD_F_PACKED | VD_F_EVENT_IDX, 3);
}

Test(console, a_receive_buffer_without_room_goes_back_empty_and_costs_no_input)
{
	int fd;

	make(CHAR_SOCKET);
	start(RX, 0);
	offer(RX, 0, 1, 16, 0, false);
	offer(RX, 1, 1, 16, 0, true);
	fd = client();
	cr_assert_eq(write(fd, "hi", 2), 2);
	cr_assert_eq(used(RX), 0);
	cr_assert_eq(used(RX), 2);
	cr_assert_eq(memcmp(data_at(RX, 1, 0), "hi", 2), 0);
	close(fd);
}

Test(console, a_ring_found_broken_by_input_asks_for_a_reset)
{
	struct vd_seg seg = { HARNESS_HOLE, 16 };
	int fd;

	make(CHAR_SOCKET);
	start(RX, 0);
	cr_assert(vd_add(&rig.h[RX]->vd, &seg, 0, 1, NULL));
	vd_kick(&rig.h[RX]->vd);
	fd = client();
	cr_assert_eq(write(fd, "hi", 2), 2);
	for (int ms = 0; ms < PATIENCE_MS && !rig.breaks; ms++)
		poll(NULL, 0, 1);
	cr_assert_eq(rig.breaks, 1);
	close(fd);
}

static void size_is(uint16_t columns, uint16_t rows)
{
	uint16_t size[2];

	virtio_config_read(&rig.dev->config, 0, size, sizeof(size));
	cr_assert_eq(size[0], columns);
	cr_assert_eq(size[1], rows);
}

Test(console, the_size_of_the_window_is_in_the_config_and_changes_are_told)
{
	int master, slave;

	cr_assert_eq(openpty(&master, &slave, NULL, NULL, &(struct winsize){ .ws_row = 24, .ws_col = 80 }), 0);
	dup2(slave, 0);
	dup2(slave, 1);
	make(CHAR_TTY);
	size_is(80, 24);
	cr_assert_eq(rig.changes, 0);
	cr_assert_eq(ioctl(master, TIOCSWINSZ, &(struct winsize){ .ws_row = 50, .ws_col = 132 }), 0);
	kill(getpid(), SIGWINCH);
	for (int ms = 0; ms < PATIENCE_MS && !rig.changes; ms++)
		poll(NULL, 0, 1);
	cr_assert_eq(rig.changes, 1);
	size_is(132, 50);
	/* And the way out is an event. */
	cr_assert_eq(write(master, "\001x", 2), 2);
	for (int ms = 0; ms < PATIENCE_MS && !rig.hang_ups; ms++)
		poll(NULL, 0, 1);
	cr_assert_eq(rig.hang_ups, 1);
}

Test(console, a_second_user_of_the_terminal_is_refused)
{
	struct options o = { .line = { .mode = CHAR_TTY } };
	struct char_terminal *other = NULL;
	struct char_host *serial;
	struct error err;

	cr_assert_eq(char_open(&serial, &(struct char_config){ .mode = CHAR_TTY, .terminal = &rig.terminal },
		"--serial", &err), 0);
	rig.dev = calloc(1, virtio_console_type.size);
	cr_assert_eq(virtio_console_type.create(rig.dev, &rig.env, &o, &err), -EBUSY);
	cr_assert(strstr(err.text, "taken by --serial"), "%s", err.text);
	char_close(serial);
	cr_assert_eq(rig.terminal, other);
}
