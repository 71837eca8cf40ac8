/*
 * A network interface in a process of its own, on a real tap in a network namespace of ours: killed
 * while frames pass in both directions, and asked what it remembers.
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/unit/pcapng.h"
#include "tests/unit/process_rig.h"
#include "tests/unit/sealed.h"

enum { RX, TX, CTRL };
enum { HEADER = 12, FRAME = 64, SLOTS = 24, SLOT_BYTES = 2048, OUR_TYPE = 0x88b5, HANG_S = 20 };

static const uint8_t mac[6] = { 2, 1, 2, 3, 4, 5 };
static int wire;
static bool busy[2][SLOTS];
static uint32_t sent, answered, on_wire, wire_last, injected, received;
static uint8_t *seen;                    /* of frames sent: on the wire */
enum { FRAMES_MAX = 1 << 20 };

static int wire_of(const char *name)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));
	int size = 8 * MIB;

	at.sll_ifindex = (int)if_nametoindex(name);
	cr_assert(s >= 0 && at.sll_ifindex);
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	cr_assert_eq(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	return s;
}

static void interface(const char *more)
{
	char text[256];

	needs_filters();
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		cr_skip_test("no network namespace");
	if (access("/dev/net/tun", R_OK | W_OK))
		cr_skip_test("no /dev/net/tun");
	memset(busy, 0, sizeof(busy));
	sent = answered = on_wire = wire_last = injected = received = 0;
	seen = calloc(1, FRAMES_MAX);
	snprintf(text, sizeof(text), "tap=mvproc0,ip=10.11.12.1,mac=02:01:02:03:04:05,queue_size=32,isolation=process%s", more);
	prig_make(&virtio_net_row, text, PRIG_DEATHS);
	wire = wire_of("mvproc0");
}

static void end(void)
{
	front_set_status(prig_front(), 0);
	prig_end();
	close(wire);
	free(seen);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
}

static uint64_t place(unsigned lane, unsigned slot)
{
	return PRIG_DATA + ((uint64_t)lane * SLOTS + slot) * SLOT_BYTES;
}

static void make_frame(uint8_t *frame, const uint8_t to[6], uint32_t number)
{
	memset(frame, 0, FRAME);
	memcpy(frame, to, 6);
	memcpy(frame + 6, mac, 6);
	frame[12] = OUR_TYPE >> 8;
	frame[13] = OUR_TYPE & 0xff;
	put_le32(frame + 20, number);
}

static void send_some(void)
{
	static const uint8_t everybody[6] = { 255, 255, 255, 255, 255, 255 };
	uint32_t len;
	void *cookie;
	int r;

	while ((r = vd_poll(&p.vd[TX], &cookie, &len)) == 1) {
		unsigned slot = (unsigned)(uintptr_t)cookie;

		cr_assert(busy[TX][slot], "a frame came back twice");
		busy[TX][slot] = false;
		answered++;
	}
	cr_assert_eq(r, 0);
	for (unsigned i = 0; i < SLOTS && sent + 1 < FRAMES_MAX; i++) {
		const struct vd_seg seg = { place(TX, i), HEADER + FRAME };

		if (busy[TX][i])
			continue;
		memset(prig_at(seg.addr), 0, HEADER);
		make_frame((uint8_t *)prig_at(seg.addr) + HEADER, everybody, ++sent);
		cr_assert(vd_add(&p.vd[TX], &seg, 1, 0, (void *)(uintptr_t)i));
		busy[TX][i] = true;
	}
	vd_kick(&p.vd[TX]);
}

static void receive_some(void)
{
	uint32_t len;
	void *cookie;
	int r;

	while ((r = vd_poll(&p.vd[RX], &cookie, &len)) == 1) {
		unsigned slot = (unsigned)(uintptr_t)cookie;
		const uint8_t *frame = (uint8_t *)prig_at(place(RX, slot)) + HEADER;

		cr_assert(busy[RX][slot], "a buffer came back twice");
		busy[RX][slot] = false;
		if (len >= HEADER + FRAME && frame[12] == OUR_TYPE >> 8 && frame[13] == (OUR_TYPE & 0xff))
			received++;
	}
	cr_assert_eq(r, 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct vd_seg seg = { place(RX, i), SLOT_BYTES };

		if (busy[RX][i])
			continue;
		cr_assert(vd_add(&p.vd[RX], &seg, 0, 1, (void *)(uintptr_t)i));
		busy[RX][i] = true;
	}
	vd_kick(&p.vd[RX]);
}

/* What came out on the host's side. */
static void look(void)
{
	uint8_t frame[2048];
	ssize_t n;

	while ((n = recv(wire, frame, sizeof(frame), 0)) > 0) {
		uint32_t number;

		if (n < FRAME || frame[12] != OUR_TYPE >> 8 || frame[13] != (OUR_TYPE & 0xff) || frame[0] != 255)
			continue;
		number = get_le32(frame + 20);
		cr_assert(number && number <= sent);
		on_wire += !seen[number];
		seen[number] = 1;
	}
}

static void inject(const uint8_t to[6], unsigned n)
{
	uint8_t frame[FRAME];

	while (n--) {
		make_frame(frame, to, ++injected);
		if (send(wire, frame, sizeof(frame), 0) < 0)
			break;
	}
}

static void run_for(double seconds)
{
	double until = prig_now() + seconds;

	while (prig_now() < until) {
		send_some();
		inject(mac, 2);
		receive_some();
		look();
	}
}

static void survives(uint64_t features)
{
	const volatile struct desk *desk;
	double worst = 0;

	interface("");
	desk = prig_back()->desk;
	prig_drive(2, features);
	receive_some();
	run_for(0.1);
	cr_assert(answered > 10 && received > 10, "%u sent, %u received", answered, received);
	for (unsigned i = 0; i < 25; i++) {
		uint32_t lives = desk->lives, was_answered, was_received;
		double at;

		kill(prig_worker(), SIGKILL);
		at = prig_now();
		while (desk->lives == lives)
			cr_assert_lt(prig_now() - at, HANG_S);
		was_answered = answered;
		was_received = received;
		while (answered <= was_answered + SLOTS || received <= was_received + SLOTS) {
			run_for(0.001);
			cr_assert_lt(prig_now() - at, HANG_S, "after kill %u: %u answered, %u received", i,
				answered - was_answered, received - was_received);
		}
		worst = MAX(worst, prig_now() - at);
		run_for(0.002);
	}
	cr_log_info("longest stall: %.3f s", worst);
	for (double until = prig_now() + HANG_S; answered < sent && prig_now() < until;) {
		uint32_t len;
		void *cookie;

		if (vd_poll(&p.vd[TX], &cookie, &len) == 1)
			answered++;
	}
	cr_assert_eq(answered, sent);
	usleep(50000);
	look();
	/* Each frame was sent, some twice; a few the socket may have had no room for. */
	cr_assert_geq(on_wire, sent - sent / 100, "%u of %u frames on the wire", on_wire, sent);
	end();
}

Test(back_process_net, kills_lose_no_buffer_and_no_frame_that_is_sent, .timeout = 300)
{
	survives(VD_F_EVENT_IDX);
}

Test(back_process_net, the_same_with_packed_rings, .timeout = 300)
{
	survives(VD_F_PACKED | VD_F_EVENT_IDX);
}

/* One command with `len` bytes behind class and command; the answer. */
static uint8_t command(uint8_t class, uint8_t cmd, const void *data, size_t len)
{
	uint64_t at = PRIG_DATA + 2 * SLOTS * SLOT_BYTES;
	const struct vd_seg segs[] = { { at, (uint32_t)(2 + len) }, { at + 1024, 1 } };
	uint8_t *bytes = prig_at(at);
	double until = prig_now() + HANG_S;
	uint32_t used;
	void *cookie;

	bytes[0] = class;
	bytes[1] = cmd;
	memcpy(bytes + 2, data, len);
	bytes[1024] = 0xff;
	cr_assert(vd_add(&p.vd[CTRL], segs, 1, 1, bytes));
	vd_kick(&p.vd[CTRL]);
	while (vd_poll(&p.vd[CTRL], &cookie, &used) != 1)
		cr_assert_lt(prig_now(), until, "no answer");
	return bytes[1024];
}

/* How many of some frames to `to` arrive. */
static uint32_t arrive(const uint8_t to[6])
{
	uint32_t before = received;

	inject(to, 10);
	for (unsigned i = 0; i < 200 && received < before + 10; i++) {
		receive_some();
		usleep(1000);
	}
	return received - before;
}

Test(back_process_net, what_commands_set_survives_a_death, .timeout = 300)
{
	static const uint8_t other[6] = { 2, 9, 9, 9, 9, 9 }, third[6] = { 2, 8, 8, 8, 8, 8 };
	const volatile struct desk *desk;
	struct state_writer w = { 0 };
	struct net_config c;
	uint32_t lives;

	interface(",anti_spoof=off");
	desk = prig_back()->desk;
	prig_drive(3, VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_CTRL_RX) | VIRTIO_BIT(NET_F_CTRL_MAC_ADDR) |
		VIRTIO_BIT(NET_F_MAC));
	receive_some();
	cr_assert_eq(command(NET_CTRL_RX, NET_RX_PROMISC, &(uint8_t){ 0 }, 1), NET_ACK_OK);
	cr_assert_eq(command(NET_CTRL_MAC, NET_MAC_ADDR_SET, other, 6), NET_ACK_OK);
	front_config_read(prig_front(), 0, &c, sizeof(c));
	cr_assert(!memcmp(c.mac, other, 6), "it stands in config space when the command is answered");
	for (unsigned i = 0; i < 3; i++) {
		lives = desk->lives;
		cr_assert_eq(kill(prig_worker(), SIGKILL), 0);
		for (double until = prig_now() + HANG_S; desk->lives == lives;)
			cr_assert_lt(prig_now(), until);
		usleep(100000);
		cr_assert_eq(arrive(other), 10);
		cr_assert_eq(arrive(third), 0, "it is filtered");
	}
	front_config_read(prig_front(), 0, &c, sizeof(c));
	cr_assert(!memcmp(c.mac, other, 6));
	p.rig.dev->ops->pause(p.rig.dev);
	cr_assert_eq(p.rig.dev->ops->save(p.rig.dev, &w), 0);
	cr_assert(!memcmp(((struct net *)prig_front()->dev)->now.filter.mac, other, 6));
	state_writer_free(&w);
	end();
}

Test(back_process_net, what_passes_any_life_is_captured, .timeout = 300)
{
	const volatile struct desk *desk;
	char path[] = "/tmp/test_capture.XXXXXX", more[64];
	struct seen in_file;

	close(mkstemp(path));
	snprintf(more, sizeof(more), ",capture=%s", path);
	interface(more);
	rig_run_workers(&p.rig);
	desk = prig_back()->desk;
	prig_drive(2, VD_F_EVENT_IDX);
	run_for(0.02);
	for (unsigned i = 0; i < 5; i++) {
		uint32_t lives = desk->lives, was_answered;

		kill(prig_worker(), SIGKILL);
		for (double until = prig_now() + HANG_S; desk->lives == lives;)
			cr_assert_lt(prig_now(), until);
		was_answered = answered;
		for (double until = prig_now() + HANG_S; answered < was_answered + SLOTS; run_for(0.001))
			cr_assert_lt(prig_now(), until);
	}
	end();
	in_file = read_back(path);
	unlink(path);
	cr_assert_geq(in_file.packets + in_file.dropped, answered + received, "%u and %llu of %u and %u", in_file.packets,
		(unsigned long long)in_file.dropped, answered, received);
	cr_assert_geq(in_file.statistics, 1);
}
