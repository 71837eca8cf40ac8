/*
 * The tap link by itself, on a real tap in a network namespace of our own: batches through the ring,
 * and by a system call per frame where there is none.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdlib.h>

#include "devices/host/link_tap.h"
#include "tests/unit/sealed.h"
#include "tests/unit/tap_rig.h"
#include "vmm/log.h"
#include "vmm/worker.h"

enum { FRAME = 100, ROOM = 2000, N = 48, TURNS = 20000 };

struct fixture {
	struct link *link;
	struct loop *loop;
	int wire;
	unsigned writable, downs;
	struct link_frame frame[LINK_BATCH_MAX];
	struct iovec iov[3 * LINK_BATCH_MAX];
	uint8_t header[LINK_HEADER_LEN], bytes[LINK_BATCH_MAX][ROOM];
};

static struct fixture fixture;

static struct tap *tap(struct fixture *f)
{
	return container_of(f->link, struct tap, link);
}

static void on_readable(void *ctx)
{
	(void)ctx;
}

static void on_writable(void *ctx)
{
	((struct fixture *)ctx)->writable++;
}

static void on_state(void *ctx, bool up)
{
	((struct fixture *)ctx)->downs += !up;
}

/* Skips the test where the host has no such thing. */
static struct fixture *open_tap(bool ring)
{
	const struct link_tap_config config = { .name = "mvlink0" };
	struct fixture *f = &fixture;
	struct error err = { "" };

	log_level = LOG_ERROR;
	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	cr_assert_eq(link_tap_open(&f->link, 1, &config, &err), 0, "%s", err.text);
	if (ring && !tap(f)->ring)
		cr_skip_test("no io_uring that reads a tap without waiting");
	if (!ring) {
		tap_ring_destroy(tap(f)->ring);
		tap(f)->ring = NULL;
	}
	f->wire = wire_of("mvlink0", OUR_TYPE);
	return f;
}

static void attach(struct fixture *f)
{
	const struct link_events events = { on_readable, on_writable, on_state, f };

	cr_assert_eq(f->link->ops->attach(f->link, f->loop, &events), 0);
}

static struct fixture *setup(bool ring)
{
	struct fixture *f = open_tap(ring);
	struct error err;

	cr_assert_eq(loop_create(&f->loop, &err), 0);
	attach(f);
	return f;
}

static void teardown(struct fixture *f)
{
	f->link->ops->detach(f->link);
	f->link->ops->close(f->link);
	loop_destroy(f->loop);
	close(f->wire);
}

/* A frame of value `v` in piece i. */
static void fill_frame(uint8_t *p, uint8_t v)
{
	memset(p, v, FRAME);
	memcpy(p, "\xff\xff\xff\xff\xff\xff\x02\x09\x09\x09\x09\x09\x88\xb5", 14);
}

static unsigned send_batch(struct fixture *f, unsigned n, uint8_t first)
{
	for (unsigned i = 0; i < n; i++) {
		struct iovec *iov = f->iov + 2 * i;

		fill_frame(f->bytes[i], (uint8_t)(first + i));
		iov[0] = (struct iovec){ f->header, sizeof(f->header) };
		iov[1] = (struct iovec){ f->bytes[i], FRAME };
		f->frame[i] = (struct link_frame){ .iov = iov, .n = 2, .total = LINK_HEADER_LEN + FRAME, .result = 77 };
	}
	return f->link->ops->send(f->link, f->frame, n);
}

static unsigned recv_batch(struct fixture *f, unsigned n, size_t room)
{
	for (unsigned i = 0; i < n; i++) {
		struct iovec *iov = f->iov + 3 * i;

		iov[0] = (struct iovec){ f->bytes[i], 20 };
		iov[1] = (struct iovec){ f->bytes[i] + 20, room - 20 };
		f->frame[i] = (struct link_frame){ .iov = iov, .n = 2, .result = 77 };
	}
	return f->link->ops->recv(f->link, f->frame, n);
}

static bool wire_has(struct fixture *f, uint8_t v)
{
	uint8_t got[ROOM];

	for (int i = 0; i < TURNS; i++) {
		ssize_t n = recv(f->wire, got, sizeof(got), 0);

		if (n == FRAME)
			return got[FRAME - 1] == v;
		usleep(500);
	}
	return false;
}

/* The host's own frames come between. */
static bool ours(struct fixture *f, unsigned i)
{
	const uint8_t *p = f->bytes[i] + LINK_HEADER_LEN;

	return f->frame[i].result == LINK_HEADER_LEN + FRAME && p[12] == OUR_TYPE >> 8 && p[13] == (OUR_TYPE & 0xff);
}

static void both_ways(bool ring)
{
	struct fixture *f = setup(ring);
	unsigned next = 1, n;
	uint8_t frame[FRAME];

	for (unsigned round = 0; round < 3; round++) {
		cr_assert_eq(send_batch(f, N, (uint8_t)(1 + round * N)), N);
		for (unsigned i = 0; i < N; i++) {
			cr_assert_eq(f->frame[i].result, 0);
			cr_assert(wire_has(f, (uint8_t)(1 + round * N + i)), "each, in order");
		}
	}
	for (unsigned i = 0; i < 2 * N; i++) {
		fill_frame(frame, (uint8_t)(1 + i));
		cr_assert_eq(send(f->wire, frame, FRAME, 0), FRAME);
	}
	do {
		n = recv_batch(f, LINK_BATCH_MAX, ROOM);
		for (unsigned i = 0; i < n; i++)
			if (ours(f, i))
				cr_assert_eq(f->bytes[i][LINK_HEADER_LEN + FRAME - 1], next++);
	} while (n == LINK_BATCH_MAX);
	cr_assert_eq(next, 2 * N + 1);
	cr_assert_eq(recv_batch(f, 8, ROOM), 0, "an empty tap says so at once");
	cr_assert_eq(recv_batch(f, 8, ROOM), 0);
	teardown(f);
}

Test(link_tap, batches_keep_their_order_in_both_directions)
{
	both_ways(true);
}

Test(link_tap, so_they_do_without_a_ring)
{
	both_ways(false);
}

static void one_is_wrong(bool ring)
{
	struct fixture *f = setup(ring);
	uint8_t frame[FRAME];
	unsigned n, wrong = 0, right = 0;

	/* A header that the kernel refuses: of a segment, with no room for what it says. */
	send_batch(f, 3, 1);
	while (recv(f->wire, frame, sizeof(frame), 0) > 0)
		;
	for (unsigned i = 0; i < 3; i++)
		f->frame[i].iov[0] = (struct iovec){ f->header, sizeof(f->header) };
	f->frame[1].iov[0].iov_base = (uint8_t[LINK_HEADER_LEN]){ 1, 1, 0xff, 0xff, 1, 0, 0xff, 0xff, 0xff, 0xff };
	cr_assert_eq(f->link->ops->send(f->link, f->frame, 3), 3);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(f->frame[i].result, 0, "lost, as networks do");
	cr_assert(wire_has(f, 1) && wire_has(f, 3));
	/* Received into too little room. */
	while (recv_batch(f, LINK_BATCH_MAX, ROOM))
		;
	for (unsigned i = 0; i < 3; i++) {
		fill_frame(frame, (uint8_t)i);
		cr_assert_eq(send(f->wire, frame, FRAME, 0), FRAME);
	}
	n = recv_batch(f, 2, 50);
	for (unsigned i = 0; i < n; i++)
		wrong += f->frame[i].result == -EMSGSIZE;
	cr_assert(n == 2 && wrong == 2);
	n = recv_batch(f, 8, ROOM);
	for (unsigned i = 0; i < n; i++)
		right += ours(f, i);
	cr_assert_eq(right, 1);
	teardown(f);
}

Test(link_tap, one_wrong_frame_of_a_batch_is_lost_alone)
{
	one_is_wrong(true);
}

Test(link_tap, so_it_is_without_a_ring)
{
	one_is_wrong(false);
}

/* Nobody tells the link: it meets the tap as it is. */
static void gone_meanwhile(bool ring)
{
	struct fixture *f = setup(ring);

	cr_assert_eq(send_batch(f, N, 1), N);
	set_up("mvlink0", false);
	cr_assert_eq(send_batch(f, N, 1), N);
	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(f->frame[i].result, -ENETDOWN);
	cr_assert_eq(f->downs, 0);
	set_up("mvlink0", true);
	while (recv(f->wire, f->bytes[0], ROOM, 0) > 0)
		;
	cr_assert_eq(send_batch(f, N, 1), N);
	cr_assert(wire_has(f, 1));
	cr_assert_eq(system("ip link del mvlink0"), 0);
	cr_assert_eq(recv_batch(f, N, ROOM), 0);
	cr_assert_eq(send_batch(f, N, 1), N);
	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(f->frame[i].result, -ENETDOWN);
	cr_assert_eq(f->downs, 1, "once, and for good");
	cr_assert_not(f->link->up);
	teardown(f);
}

Test(link_tap, nt_10_a_tap_that_goes_in_the_middle_drops_every_frame_once)
{
	gone_meanwhile(true);
}

Test(link_tap, nt_10_so_it_does_without_a_ring)
{
	gone_meanwhile(false);
}

Test(link_tap, a_tap_is_free_as_soon_as_its_link_is_closed)
{
	struct ifreq ifr = { .ifr_name = "mvlink0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	struct fixture *f = setup(true);
	int fd = tap(f)->fd, other;

	cr_assert_eq(ioctl(fd, TUNSETPERSIST, 1), 0);
	cr_assert_eq(send_batch(f, N, 1), N);
	teardown(f);
	other = open("/dev/net/tun", O_RDWR);
	cr_assert_eq(ioctl(other, TUNSETIFF, &ifr), 0, "a ring that is gone keeps nothing in use");
	close(other);
}

/* --- under a filter --- */

static void attach_sealed(void *ctx)
{
	attach(ctx);
}

static void work_sealed(void *ctx)
{
	struct fixture *f = ctx;

	f->link->ops->listen(f->link, true);
	send_batch(f, N, 1);
	f->link->ops->set_offload(f->link, 0);
	f->downs += recv_batch(f, N, ROOM) == N;
	f->link->ops->listen(f->link, false);
}

static void detach_sealed(void *ctx)
{
	struct fixture *f = ctx;

	f->link->ops->detach(f->link);
}

static void sealed(bool ring)
{
	struct fixture *f = open_tap(ring);
	struct worker *worker;
	uint8_t frame[FRAME];
	struct error err;

	cr_assert_eq(worker_create(&worker, "_net0_qp0", &err), 0);
	f->loop = worker_loop(worker);
	for (size_t i = 0; i < LINK_SYSCALL_TABLES; i++)
		cr_assert_eq(worker_allow(worker, i == 2 && !ring ? tap_plain_syscalls : f->link->syscalls[i]), 0);
	cr_assert_eq(worker_run(worker, SANDBOX_KILL, &err), 0, "%s", err.text);
	cr_assert_eq(worker_call(worker, attach_sealed, f), 0);
	for (unsigned i = 0; i < N; i++) {
		fill_frame(frame, (uint8_t)(1 + i));
		cr_assert_eq(send(f->wire, frame, FRAME, 0), FRAME);
	}
	cr_assert_eq(worker_call(worker, work_sealed, f), 0);
	cr_assert_eq(f->downs, 1, "a whole batch came");
	cr_assert(wire_has(f, 1));
	cr_assert_eq(worker_call(worker, detach_sealed, f), 0);
	worker_destroy(worker);
	f->link->ops->close(f->link);
	close(f->wire);
}

Test(link_tap, its_system_calls_are_all_that_a_sealed_worker_needs)
{
	needs_filters();
	sealed(true);
}

Test(link_tap, so_they_are_without_a_ring)
{
	needs_filters();
	sealed(false);
}
