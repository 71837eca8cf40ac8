/*
 * The stream link and passt behind it. Most tests play the peer themselves on the other end of a
 * socket pair; the last ones start the real program, which speaks to nobody but us.
 */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/host/link_stream.h"
#include "tests/unit/sealed.h"
#include "vmm/log.h"
#include "vmm/worker.h"

struct fixture {
	struct link *link;
	struct loop *loop;
	int peer;
	unsigned readable, writable, downs;
	unsigned frames_per_call;  /* what our reader takes before it stops */
	unsigned frames;
};

static uint8_t buffer[LINK_HEADER_LEN + LINK_FRAME_MAX];

static ssize_t receive(struct fixture *f, size_t room)
{
	struct iovec iov[4] = { { buffer, 5 }, { buffer + 5, 9 }, { buffer + 14, room - 14 } };

	struct link_frame frame = { .iov = iov, .n = 3 };

	memset(buffer, 0xee, room);
	if (f->link->ops->recv(f->link, &frame, 1))
		return frame.result;
	return f->link->up ? -EAGAIN : -ENETDOWN;
}

static void on_readable(void *ctx)
{
	struct fixture *f = ctx;

	f->readable++;
	for (unsigned i = 0; i < f->frames_per_call; i++)
		if (receive(f, sizeof(buffer)) > 0)
			f->frames++;
}

static void on_writable(void *ctx)
{
	((struct fixture *)ctx)->writable++;
}

static void on_state(void *ctx, bool up)
{
	((struct fixture *)ctx)->downs += !up;
}

static void attach(struct fixture *f)
{
	const struct link_events events = { on_readable, on_writable, on_state, f };
	struct error err;

	cr_assert_eq(loop_create(&f->loop, &err), 0);
	cr_assert_eq(f->link->ops->watch(f->link, f->loop), 0);
	cr_assert_eq(f->link->ops->attach(f->link, f->loop, &events), 0);
}

static void setup(struct fixture *f)
{
	int wire[2];

	memset(f, 0, sizeof(*f));
	log_level = LOG_ERROR;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, wire), 0);
	cr_assert_eq(link_stream_adopt(&f->link, wire[0], NULL, "peer"), 0);
	f->peer = wire[1];
	attach(f);
}

static void teardown(struct fixture *f)
{
	f->link->ops->detach(f->link);
	f->link->ops->close(f->link);
	loop_destroy(f->loop);
	if (f->peer >= 0)
		close(f->peer);
}

static void stop_loop(void *ctx)
{
	loop_stop(ctx);
}

static void run(struct fixture *f, unsigned ms)
{
	struct loop_source *timer;

	cr_assert_eq(loop_timer_add(f->loop, stop_loop, f->loop, &timer), 0);
	loop_timer_set(timer, (uint64_t)ms * 1000000, 0);
	cr_assert_eq(loop_run(f->loop), 0);
	loop_remove(timer);
}

static void peer_bytes(struct fixture *f, const void *data, size_t len)
{
	cr_assert_eq(write(f->peer, data, len), (ssize_t)len);
}

static void peer_frame(struct fixture *f, uint8_t fill, uint32_t len)
{
	static uint8_t frame[4 + LINK_FRAME_MAX];
	uint32_t prefix = htonl(len);

	memcpy(frame, &prefix, 4);
	memset(frame + 4, fill, len);
	peer_bytes(f, frame, 4 + len);
}

static int send_frame(struct fixture *f, uint8_t fill, size_t len)
{
	static uint8_t frame[LINK_FRAME_MAX], header[LINK_HEADER_LEN];
	struct iovec iov[3] = { { header, sizeof(header) }, { frame, len / 2 }, { frame + len / 2,
		len - len / 2 } };

	struct link_frame batch = { .iov = iov, .n = 3, .total = LINK_HEADER_LEN + len };

	memset(frame, fill, len);
	return f->link->ops->send(f->link, &batch, 1) ? (int)batch.result : -EAGAIN;
}

Test(link_stream, frames_come_out_whole_behind_a_header_of_zeroes)
{
	struct fixture f;

	setup(&f);
	cr_assert_eq(receive(&f, 2000), -EAGAIN);
	peer_frame(&f, 0x11, 60);
	peer_frame(&f, 0x22, 1514);
	cr_assert_eq(receive(&f, 2000), 72);
	for (int i = 0; i < 12; i++)
		cr_assert_eq(buffer[i], 0);
	cr_assert(buffer[12] == 0x11 && buffer[71] == 0x11 && buffer[72] == 0xee);
	cr_assert_eq(receive(&f, 2000), 1526);
	cr_assert(buffer[12] == 0x22 && buffer[1525] == 0x22 && buffer[1526] == 0xee);
	cr_assert_eq(receive(&f, 2000), -EAGAIN);
	teardown(&f);
}

Test(link_stream, a_frame_in_single_bytes_is_put_together)
{
	uint8_t wire[4 + 20] = { 0, 0, 0, 20 };
	struct fixture f;

	setup(&f);
	memset(wire + 4, 0x33, 20);
	for (size_t i = 0; i < sizeof(wire); i++) {
		cr_assert_eq(receive(&f, 2000), -EAGAIN);
		peer_bytes(&f, wire + i, 1);
	}
	cr_assert_eq(receive(&f, 2000), 32);
	teardown(&f);
}

Test(link_stream, the_largest_frame_fits_and_one_that_does_not_is_dropped_alone)
{
	struct fixture f;

	setup(&f);
	peer_frame(&f, 0x44, LINK_FRAME_MAX);
	cr_assert_eq(receive(&f, sizeof(buffer)), (ssize_t)sizeof(buffer));
	cr_assert(buffer[12] == 0x44 && buffer[sizeof(buffer) - 1] == 0x44);
	peer_frame(&f, 0x55, 3000);
	peer_frame(&f, 0x66, 100);
	cr_assert_eq(receive(&f, 1526), -EMSGSIZE);
	cr_assert_eq(receive(&f, 1526), 112);
	peer_frame(&f, 0x77, 13);
	cr_assert_eq(receive(&f, 1526), -EMSGSIZE, "shorter than an Ethernet header");
	cr_assert(f.link->up);
	teardown(&f);
}

Test(link_stream, a_length_that_cannot_be_takes_the_link_down_once)
{
	static const uint32_t lengths[] = { 0, LINK_FRAME_MAX + 1, 0x7fffffff, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint32_t prefix = htonl(lengths[i]);
		struct fixture f;

		setup(&f);
		log_level = LOG_ERROR;
		peer_frame(&f, 1, 60);
		peer_bytes(&f, &prefix, 4);
		peer_frame(&f, 1, 60);
		cr_assert_eq(receive(&f, 2000), 72);
		cr_assert_eq(receive(&f, 2000), -ENETDOWN);
		cr_assert_eq(receive(&f, 2000), -ENETDOWN);
		cr_assert_eq(send_frame(&f, 1, 60), -ENETDOWN);
		cr_assert_not(f.link->up);
		cr_assert_eq(f.downs, 1);
		run(&f, 5);
		cr_assert_eq(f.readable, 0);
		teardown(&f);
	}
}

Test(link_stream, a_peer_that_hangs_up_takes_the_link_down)
{
	struct fixture f;

	setup(&f);
	f.frames_per_call = 10;
	f.link->ops->listen(f.link, true);
	peer_frame(&f, 1, 60);
	close(f.peer);
	f.peer = -1;
	run(&f, 20);
	cr_assert_eq(f.frames, 1, "what it sent before is still received");
	cr_assert_eq(f.downs, 1);
	cr_assert_eq(send_frame(&f, 1, 60), -ENETDOWN);
	teardown(&f);
}

Test(link_stream, a_muted_link_does_not_wake_its_loop)
{
	struct fixture f;

	setup(&f);
	f.frames_per_call = 1;
	peer_frame(&f, 1, 60);
	run(&f, 10);
	cr_assert_eq(f.readable, 0);
	f.link->ops->listen(f.link, true);
	run(&f, 10);
	cr_assert_eq(f.frames, 1);
	teardown(&f);
}

Test(link_stream, a_reader_that_stops_early_is_called_again_for_what_is_buffered)
{
	struct fixture f;

	setup(&f);
	f.frames_per_call = 1;
	for (int i = 0; i < 10; i++)
		peer_frame(&f, 1, 60);
	f.link->ops->listen(f.link, true);
	for (int i = 0; i < 500 && f.frames < 10; i++)
		run(&f, 20);
	cr_assert_eq(f.frames, 10);
	cr_assert_leq(f.readable, 12);
	teardown(&f);
}

Test(link_stream, a_full_peer_pushes_back_and_loses_nothing)
{
	unsigned sent = 0, got = 0, seen_writable;
	struct fixture f;
	uint32_t prefix;
	int r;

	setup(&f);
	while ((r = send_frame(&f, (uint8_t)sent, 9000)) == 0)
		cr_assert_lt(++sent, 10000);
	cr_assert_eq(r, -EAGAIN);
	cr_assert_gt(sent, 1);
	run(&f, 5);
	cr_assert_eq(f.writable, 0);
	seen_writable = f.writable;
	cr_assert_eq(fcntl(f.peer, F_SETFL, O_NONBLOCK), 0);
	for (int idle = 0; idle < 5;) {
		ssize_t n = recv(f.peer, &prefix, 4, MSG_WAITALL);
		size_t have = 0;

		if (n <= 0) {
			idle++;
			run(&f, 2);
			continue;
		}
		cr_assert_eq(n, 4);
		cr_assert_eq(ntohl(prefix), 9000);
		while (have < 9000) {
			n = recv(f.peer, buffer + have, 9000 - have, 0);
			if (n < 0)
				run(&f, 2);
			else
				have += (size_t)n;
		}
		cr_assert(buffer[0] == (uint8_t)got && buffer[8999] == (uint8_t)got);
		got++;
	}
	cr_assert_eq(got, sent);
	cr_assert_gt(f.writable, seen_writable);
	cr_assert_eq(send_frame(&f, 1, 60), 0);
	teardown(&f);
}

/* --- under a filter --- */

static void attach_sealed(void *ctx)
{
	const struct link_events events = { on_readable, on_writable, on_state, ctx };
	struct fixture *f = ctx;

	cr_assert_eq(f->link->ops->attach(f->link, f->loop, &events), 0);
	f->link->ops->listen(f->link, true);
	send_frame(f, 1, 60);
}

static void detach_sealed(void *ctx)
{
	struct fixture *f = ctx;

	f->link->ops->detach(f->link);
}

static void nothing(void *ctx)
{
	(void)ctx;
}

Test(link_stream, its_system_calls_are_all_that_a_sealed_worker_needs)
{
	static const char *const argv[] = { "sleep", "0.2", NULL };
	struct fixture f = { .frames_per_call = 4 };
	struct loop *main_loop;
	struct worker *worker;
	struct child child;
	struct error err;
	int wire[2];

	needs_filters();
	log_level = LOG_ERROR;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire), 0);
	cr_assert_eq(child_start(&child, argv, wire[1]), 0);
	cr_assert_eq(link_stream_adopt(&f.link, wire[0], &child, "peer"), 0);
	f.peer = wire[1];
	cr_assert_eq(worker_create(&worker, "_net0_qp0", &err), 0);
	for (size_t i = 0; i < LINK_SYSCALL_TABLES; i++)
		cr_assert_eq(worker_allow(worker, f.link->syscalls[i]), 0);
	f.loop = worker_loop(worker);
	cr_assert_eq(loop_create(&main_loop, &err), 0);
	cr_assert_eq(f.link->ops->watch(f.link, main_loop), 0);
	cr_assert_eq(worker_run(worker, SANDBOX_KILL, &err), 0, "%s", err.text);
	peer_frame(&f, 1, 100);
	cr_assert_eq(worker_call(worker, attach_sealed, &f), 0);
	for (int ms = 0; ms < 3000 && !f.downs; ms++) {
		run(&(struct fixture){ .loop = main_loop }, 1);
		worker_call(worker, nothing, NULL); /* orders our reads after its writes */
	}
	cr_assert_eq(f.downs, 1, "the end of the process was seen and its status taken");
	cr_assert_eq(f.frames, 1);
	worker_call(worker, detach_sealed, &f);
	worker_destroy(worker);
	f.link->ops->close(f.link);
	loop_destroy(main_loop);
	close(f.peer);
}

/* --- the program --- */

static int open_program(struct fixture *f, const char *program, const char *const *args,
	struct error *err)
{
	const struct link_passt_config config = { .program = program, .args = args };

	memset(f, 0, sizeof(*f));
	f->peer = -1;
	log_level = LOG_ERROR;
	return link_passt_open(&f->link, &config, err);
}

Test(link_passt, a_missing_program_is_named_with_its_package)
{
	struct error err;
	struct fixture f;

	cr_assert_eq(open_program(&f, "passt-that-is-not-here", NULL, &err), -ENOENT);
	cr_assert(strstr(err.text, "needs the program passt-that-is-not-here; install it with: apt "
		"install passt"),
		"%s", err.text);
}

Test(link_passt, a_program_that_ends_takes_the_link_down)
{
	struct error err;
	struct fixture f;

	cr_assert_eq(open_program(&f, "true", NULL, &err), 0, "%s", err.text);
	attach(&f);
	for (int i = 0; i < 200 && !f.downs; i++)
		run(&f, 5);
	cr_assert_eq(f.downs, 1);
	cr_assert_eq(send_frame(&f, 1, 60), -ENETDOWN);
	teardown(&f);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "no zombie stays");
}

Test(link_passt, close_ends_a_program_that_does_not_want_to)
{
	static const char *const args[] = { NULL };
	struct error err;
	struct fixture f;
	char script[] = "/tmp/test-passt-XXXXXX";
	int fd = mkstemp(script);

	dprintf(fd, "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.05; done\n");
	fchmod(fd, 0700);
	close(fd);
	cr_assert_eq(open_program(&f, script, args, &err), 0, "%s", err.text);
	usleep(50 * 1000);
	f.link->ops->close(f.link);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
	unlink(script);
}

/* An ARP request for the gateway is answered by passt itself, whatever the host's network is. */
Test(link_passt, the_real_program_answers_arp, .timeout = 180)
{
	static const char *const args[] = { "--address", "10.9.8.2", "--netmask", "24", "--gateway",
		"10.9.8.1",
		"--ipv4-only", NULL };
	uint8_t arp[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 1, 0x08, 0x06, 0,
		1, 8, 0, 6, 4, 0, 1,
		0x02, 0, 0, 0, 0, 1, 10, 9, 8, 2, 0, 0, 0, 0, 0, 0, 10, 9, 8, 1 };
	uint8_t header[LINK_HEADER_LEN] = { 0 };
	struct error err;
	struct fixture f;
	ssize_t n = -EAGAIN;

	if (access("/usr/bin/passt", X_OK))
		cr_skip_test("passt is not installed");
	cr_assert_eq(open_program(&f, "passt", args, &err), 0, "%s", err.text);
	attach(&f);
	for (int i = 0; i < 100 && n == -EAGAIN && f.link->up; i++) {
		struct iovec iov[2] = { { header, sizeof(header) }, { arp, sizeof(arp) } };

		struct link_frame frame = { .iov = iov, .n = 2, .total = sizeof(header) + sizeof(arp) };

		if (i % 20 == 0)
			cr_assert(f.link->ops->send(f.link, &frame, 1) == 1 && !frame.result);
		run(&f, 20);
		n = receive(&f, 2000);
	}
	if (!f.link->up) {
		teardown(&f);
		cr_skip_test("passt ends at once here; it wants an interface with a default route");
	}
	cr_assert_geq(n, 12 + 42, "%zd", n);
	cr_assert(buffer[12 + 12] == 0x08 && buffer[12 + 13] == 0x06 && buffer[12 + 21] == 2,
		"an ARP reply");
	teardown(&f);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
}
