/*
 * virtio-net on a real tap, in a network namespace of our own. Tests named nt_NN answer the rows of
 * the catalogue of hostile inputs for networks.
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <time.h>

#include "tests/unit/net_rig.h"
#include "tests/unit/tap_rig.h"

enum { PATIENCE_TURNS = 60000 };

static bool saw_frame(int wire, uint8_t v)
{
	uint8_t frame[2048];
	ssize_t n;

	for (int i = 0; i < PATIENCE_TURNS; i++) {
		n = recv(wire, frame, sizeof(frame), 0);
		if (n >= 60 && frame[12] == OUR_TYPE >> 8 && frame[13] == (OUR_TYPE & 0xff) &&
			frame[59] == v)
			return true;
		if (n < 0)
			usleep(1000);
	}
	return false;
}

static void send_on(struct fixture *f, unsigned queue, const struct net_header *h, uint8_t v)
{
	struct vd_seg segs[2] = { { BUF, 12 }, { BUF + 12, 60 } };
	uint8_t *p = harness_at(f->rig->h[queue], BUF);

	memset(p, v, 72);
	memcpy(p, h, 12);
	memcpy(p + 12, "\xff\xff\xff\xff\xff\xff\x02\x01\x02\x03\x04\x05\x88\xb5", 14);
	cr_assert(vd_add(&f->rig->h[queue]->vd, segs, 2, 0, f));
	kick(f, queue);
}

static void send_to_tap(struct fixture *f, const struct net_header *h, uint8_t v)
{
	send_on(f, TX, h, v);
}

static void setup_tap(struct fixture *f, const char *text)
{
	struct error err = { "" };

	log_level = LOG_ERROR;
	f->rig = rig_new(&virtio_net_type, text, &err);
	cr_assert(f->rig, "%s", err.text);
	f->net = container_of(f->rig->dev, struct net, dev);
	rig_start(f->rig, RX, QUEUE, f->rig->dev->offered);
	rig_start(f->rig, TX, QUEUE, f->rig->dev->offered);
	f->rx = f->rig->h[RX];
	f->tx = f->rig->h[TX];
}

Test(net_tap, frames_pass_in_both_directions_with_their_headers)
{
	struct net_config c;
	struct fixture f;
	uint8_t frame[60] = "\xff\xff\xff\xff\xff\xff\x02\x09\x09\x09\x09\x09\x88\xb5";
	uint32_t used = 0;
	bool came = false;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f,
		"tap=mvtest0,ip=10.11.12.1,mask=255.255.255.0,mtu=1400,host_mac=02:aa:bb:cc:dd:ee");
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.mtu, 1400);
	cr_assert(f.rig->dev->offered & B(NET_F_HOST_TSO4));
	wire = wire_of("mvtest0", ETH_P_ALL);
	send_to_tap(&f, &plain, 0x42);
	cr_assert(saw_frame(wire, 0x42));

	for (unsigned i = 0; i < 32; i++)
		offer(&f, BUF + i * 4096, 2048);
	kick(&f, RX);
	memset(frame + 14, 0x24, 46);
	cr_assert_eq(send(wire, frame, sizeof(frame), 0), 60);
	/* The host's own frames (neighbour discovery) come between. */
	for (int i = 0; i < PATIENCE_TURNS && !came; i++) {
		rig_run(f.rig, 1);
		while (used_of(f.rx, &used) == 1)
			came |= used == 72;
	}
	cr_assert(came);
	close(wire);
	rig_free(f.rig);
}

/* A tap with two pairs: the second one and the control queue run too. */
static void setup_two_pairs(struct fixture *f, const char *keys)
{
	setup_tap(f, keys);
	for (unsigned i = 2; i < 5; i++)
		rig_start(f->rig, i, QUEUE, f->rig->dev->offered);
}

/* Commands through the control queue of a device with two pairs. */
static void set_pairs(struct fixture *f, uint16_t pairs)
{
	struct harness *h = f->rig->h[4];
	struct vd_seg segs[2] = { { HARNESS_DATA, 4 }, { HARNESS_DATA + 64, 1 } };
	uint8_t *p = harness_at(h, HARNESS_DATA);
	uint32_t used;

	p[0] = NET_CTRL_MQ;
	p[1] = 0;
	put_le16(p + 2, pairs);
	p[64] = 0x55;
	cr_assert(vd_add(&h->vd, segs, 1, 1, f));
	kick(f, 4);
	cr_assert_eq(used_of(h, &used), 1);
	cr_assert_eq(p[64], NET_ACK_OK);
}

static uint16_t status_of(struct fixture *f)
{
	struct net_config c;

	virtio_config_read(&f->rig->dev->config, 0, &c, sizeof(c));
	return c.status;
}

static bool becomes(struct fixture *f, uint16_t status)
{
	for (int i = 0; i < 60000 && status_of(f) != status; i++)
		rig_run(f->rig, 1);
	return status_of(f) == status;
}

Test(net_tap, nt_10_a_tap_that_is_down_drops_and_recovers)
{
	struct fixture f;
	uint32_t used;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0");
	wire = wire_of("mvtest0", ETH_P_ALL);
	cr_assert_eq(status_of(&f), NET_S_LINK_UP);
	for (unsigned round = 0; round < 3; round++) {
		unsigned changes = f.rig->config_changes;

		/* The first frames meet the tap before its owner has heard. */
		set_up("mvtest0", false);
		for (int i = 0; i < 10; i++) {
			send_to_tap(&f, &plain, 1);
			cr_assert_eq(used_of(f.tx, &used), 1, "the head comes back");
		}
		/* What was to be announced still is. */
		cr_assert(becomes(&f, round ? NET_S_ANNOUNCE : 0), "the carrier goes with it");
		cr_assert_eq(f.rig->config_changes, changes + 1);
		send_to_tap(&f, &plain, 1);
		cr_assert_eq(used_of(f.tx, &used), 1);
		cr_assert_eq(f.net->pairs[0].tx.stats.dropped[NET_DROP_LINK], 11 * (round + 1));
		set_up("mvtest0", true);
		cr_assert(becomes(&f, NET_S_LINK_UP | NET_S_ANNOUNCE), "and comes back with it");
		send_to_tap(&f, &plain, 0x43);
		cr_assert_eq(used_of(f.tx, &used), 1);
		cr_assert(saw_frame(wire, 0x43));
	}
	cr_assert_eq(f.rig->nevents, 3);
	close(wire);
	rig_free(f.rig);
}

Test(net_tap, a_tap_that_was_down_at_the_start_comes_up_later)
{
	struct ifreq ifr = { .ifr_name = "mvtest0",
		.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	struct fixture f;
	char text[32];
	int fd;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	fd = open("/dev/net/tun", O_RDWR);
	cr_assert_eq(ioctl(fd, TUNSETIFF, &ifr), 0);
	snprintf(text, sizeof(text), "fd=%d", fd);
	setup_tap(&f, text);
	cr_assert_eq(status_of(&f), 0);
	set_up("mvtest0", true);
	cr_assert(becomes(&f, NET_S_LINK_UP | NET_S_ANNOUNCE));
	rig_free(f.rig);
}

Test(net_tap, a_tap_that_is_removed_is_a_link_that_is_down_and_nothing_spins)
{
	struct fixture f;
	uint32_t used;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_two_pairs(&f, "tap=mvtest0,num_queues=4");
	set_pairs(&f, 2);
	offer(&f, BUF, 2000);
	kick(&f, RX);
	cr_assert_eq(system("ip link del mvtest0"), 0);
	cr_assert(becomes(&f, 0));
	send_to_tap(&f, &plain, 1);
	cr_assert_eq(used_of(f.tx, &used), 1);
	send_on(&f, 3, &plain, 1);
	cr_assert_eq(used_of(f.rig->h[3], &used), 1);
	rig_run(f.rig, 20);
	cr_assert_eq(f.rig->nevents, 1);
	/* An interface that takes its name is another one. */
	cr_assert_eq(system("ip tuntap add mvtest0 mode tap && ip link set mvtest0 up"), 0);
	rig_run(f.rig, 20);
	cr_assert_eq(status_of(&f), 0);
	rig_free(f.rig);
}

static double cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* A loop that spins takes all there is; one that waits takes next to nothing, on any machine. */
static void rests(struct fixture *f)
{
	double before = cpu_ms();

	rig_run(f->rig, 300);
	cr_assert_lt(cpu_ms() - before, 100);
}

Test(net_tap, a_loop_rests_while_its_tap_is_down_removed_or_has_more_than_there_are_buffers)
{
	uint8_t frame[60] = "\xff\xff\xff\xff\xff\xff\x02\x09\x09\x09\x09\x09\x88\xb5";
	struct fixture f;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0");
	wire = wire_of("mvtest0", OUR_TYPE);
	offer(&f, BUF, 2000);
	kick(&f, RX);
	for (int i = 0; i < 100; i++)
		cr_assert_eq(send(wire, frame, sizeof(frame), 0), 60);
	rests(&f);
	for (unsigned i = 0; i < 32; i++)
		offer(&f, BUF + i * 4096, 2000);
	kick(&f, RX);
	rests(&f);
	set_up("mvtest0", false);
	cr_assert(becomes(&f, 0));
	rests(&f);
	set_up("mvtest0", true);
	cr_assert(becomes(&f, NET_S_LINK_UP | NET_S_ANNOUNCE));
	send_to_tap(&f, &plain, 0x46);
	cr_assert_eq(system("ip link del mvtest0"), 0);
	rests(&f);
	send_to_tap(&f, &plain, 0x47);
	rests(&f);
	close(wire);
	rig_free(f.rig);
}

Test(net_tap, other_interfaces_wake_nobody)
{
	struct fixture f;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0");
	cr_assert(becomes(&f, NET_S_LINK_UP));
	rig_run(f.rig, 5);
	cr_assert_eq(system("for i in 1 2 3; do ip link set lo up; ip link set lo down; done"), 0);
	rig_run(f.rig, 5);
	cr_assert_eq(f.rig->config_changes, 0);
	cr_assert_eq(status_of(&f), NET_S_LINK_UP);
	rig_free(f.rig);
}

Test(net_tap, nt_02_a_header_the_kernel_refuses_drops_one_frame)
{
	struct net_header h = { .flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 1,
		.hdr_len = 0xffff,
		.csum_start = 14, .csum_offset = 16 };
	struct fixture f;
	uint32_t used;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0");
	wire = wire_of("mvtest0", ETH_P_ALL);
	send_to_tap(&f, &h, 1);
	cr_assert_eq(used_of(f.tx, &used), 1);
	send_to_tap(&f, &plain, 0x44);
	cr_assert_eq(used_of(f.tx, &used), 1);
	cr_assert(saw_frame(wire, 0x44));
	close(wire);
	rig_free(f.rig);
}

Test(net_tap, a_busy_tap_and_one_that_is_none_are_refused)
{
	struct fixture f;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0");
	refused("tap=mvtest0", "--net tap=mvtest0: is in use by another machine");
	refused("tap=lo", "--net tap=lo: exists and is no tap");
	refused("tap=mvtest1,ip=10.0.0", "is not an IPv4 address");
	rig_free(f.rig);
}

Test(net_tap, a_tap_that_was_handed_over_works)
{
	struct ifreq ifr = { .ifr_name = "mvtest0", .ifr_flags = IFF_TAP | IFF_NO_PI };
	struct fixture f;
	char text[32];
	int fd, wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	fd = open("/dev/net/tun", O_RDWR);
	cr_assert_eq(ioctl(fd, TUNSETIFF, &ifr), 0);
	set_up("mvtest0", true);
	snprintf(text, sizeof(text), "fd=%d", fd);
	setup_tap(&f, text);
	cr_assert_not(f.rig->dev->offered & B(NET_F_CSUM), "it was made without IFF_VNET_HDR");
	wire = wire_of("mvtest0", ETH_P_ALL);
	send_to_tap(&f, &plain, 0x45);
	cr_assert(saw_frame(wire, 0x45));
	close(wire);
	rig_free(f.rig);
	cr_assert_eq(fcntl(fd, F_GETFD), -1, "the fd was the device's");
}

static bool pair_sends(struct fixture *f, unsigned pair, int wire, uint8_t v)
{
	send_on(f, 2 * pair + 1, &plain, v);
	return saw_frame(wire, v);
}

Test(net_tap, several_queues_of_one_tap_are_taken_into_use_and_out_again)
{
	struct fixture f;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_two_pairs(&f, "tap=mvtest0,num_queues=4");
	wire = wire_of("mvtest0", ETH_P_ALL);
	for (int round = 0; round < 3; round++) {
		cr_assert(pair_sends(&f, 0, wire, (uint8_t)(0x50 + round)));
		set_pairs(&f, 2);
		cr_assert(pair_sends(&f, 1, wire, (uint8_t)(0x60 + round)));
		cr_assert(pair_sends(&f, 0, wire, (uint8_t)(0x70 + round)));
		set_pairs(&f, 1);
		rig_run(f.rig, 1);
	}
	cr_assert(f.net->link_up, "a queue out of use is not a link that is down");
	close(wire);
	rig_free(f.rig);
}

Test(net_tap, frames_of_flows_reach_the_pairs_in_use_only)
{
	uint8_t frame[60] = "\xff\xff\xff\xff\xff\xff\x02\x09\x09\x09\x09\x09\x88\xb5";
	unsigned got = 0, sent = 0;
	struct fixture f;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0,num_queues=8");
	for (unsigned i = 2; i < 9; i++)
		rig_start(f.rig, i, QUEUE, f.rig->dev->offered);
	wire = wire_of("mvtest0", ETH_P_ALL);
	for (unsigned i = 0; i < 32; i++)
		offer(&f, BUF + i * 4096, 2048);
	kick(&f, RX);
	for (uint8_t v = 0; v < 16; v++) {
		memset(frame + 14, v, 46); /* other bytes, maybe another flow */
		sent += send(wire, frame, sizeof(frame), 0) == 60;
	}
	for (int i = 0; i < 3000 && got < sent; i++) {
		uint32_t used;

		rig_run(f.rig, 1);
		while (used_of(f.rx, &used) == 1)
			got += used == 72;
	}
	cr_assert_eq(got, sent, "%u of %u: the others went to queues that nobody reads", got, sent);
	close(wire);
	rig_free(f.rig);
}

Test(net_tap, a_tap_with_one_queue_is_not_taken_for_several)
{
	struct ifreq ifr = { .ifr_name = "mvtest0", .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd, on = 1;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	fd = open("/dev/net/tun", O_RDWR);
	cr_assert_eq(ioctl(fd, TUNSETIFF, &ifr), 0);
	cr_assert_eq(ioctl(fd, TUNSETPERSIST, on), 0);
	close(fd);
	refused("tap=mvtest0,num_queues=4", "multi_queue");
}

Test(net_tap, several_queues_can_be_handed_over)
{
	struct ifreq ifr = { .ifr_name = "mvtest0",
		.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE };
	struct ifreq odd = { .ifr_name = "mvtest1", .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd[2], strange, wire;
	struct fixture f;
	char text[64];

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	for (int i = 0; i < 2; i++) {
		fd[i] = open("/dev/net/tun", O_RDWR);
		cr_assert_eq(ioctl(fd[i], TUNSETIFF, &ifr), 0);
	}
	strange = open("/dev/net/tun", O_RDWR);
	cr_assert_eq(ioctl(strange, TUNSETIFF, &odd), 0);
	set_up("mvtest0", true);
	snprintf(text, sizeof(text), "fd=[%d,%d],num_queues=4", dup(fd[0]), strange);
	refused(text, "all have to be queues of one");
	snprintf(text, sizeof(text), "fd=[%d,%d],num_queues=4", fd[0], fd[1]);
	setup_two_pairs(&f, text);
	wire = wire_of("mvtest0", ETH_P_ALL);
	set_pairs(&f, 2);
	cr_assert(pair_sends(&f, 1, wire, 0x71));
	close(wire);
	rig_free(f.rig);
}
