/*
 * virtio-net between a driver on its rings and a link that the test plays. Tests named nt_NN answer
 * the rows of the catalogue of hostile inputs for networks. The last ones use a real tap in a
 * network namespace of their own.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum {
	RX = 0, TX = 1,
	QUEUE = 64,
	SENT_MAX = 64,
	BUF = HARNESS_HIGH,       /* receive buffers and frames to send */
};
#define B(n) VIRTIO_BIT(n)
#define CSUM_TSO (B(NET_F_CSUM) | B(NET_F_HOST_TSO4) | B(NET_F_HOST_TSO6))

/* A link whose wire is two arrays. */
struct fake {
	struct link link;
	struct link_events events;
	bool listening, attached;
	unsigned set_to;                  /* last set_offload */
	int send_says;
	unsigned sends, nsent;
	struct {
		size_t total;
		uint8_t header[LINK_HEADER_LEN], first, last;
	} sent[SENT_MAX];
	unsigned nwaiting, taken;         /* frames that wait to be received */
	size_t waiting[SENT_MAX];
};

static int fake_send(struct link *l, struct iovec *iov, int n, size_t total)
{
	struct fake *f = container_of(l, struct fake, link);
	size_t sum = 0;

	f->sends++;
	if (f->send_says)
		return f->send_says;
	cr_assert_eq(iov[0].iov_len, LINK_HEADER_LEN);
	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	cr_assert_eq(sum, total);
	memcpy(f->sent[f->nsent].header, iov[0].iov_base, LINK_HEADER_LEN);
	f->sent[f->nsent].first = *(uint8_t *)iov[1].iov_base;
	f->sent[f->nsent].last = ((uint8_t *)iov[n - 1].iov_base)[iov[n - 1].iov_len - 1];
	f->sent[f->nsent++].total = total;
	iov[0].iov_base = NULL; /* as the contract allows */
	return 0;
}

/* Frame i is filled with i + 1 behind a header of 0x80 bytes. */
static ssize_t fake_recv(struct link *l, struct iovec *iov, int n)
{
	struct fake *f = container_of(l, struct fake, link);
	size_t len, at = 0;

	if (f->taken == f->nwaiting)
		return -EAGAIN;
	len = f->waiting[f->taken++] + LINK_HEADER_LEN;
	for (int i = 0; i < n; i++)
		for (size_t k = 0; k < iov[i].iov_len && at < len; k++, at++)
			((uint8_t *)iov[i].iov_base)[k] = at < LINK_HEADER_LEN ?
				0x80 : (uint8_t)f->taken;
	iov[n].iov_len = 1;
	return at < len ? -EMSGSIZE : (ssize_t)len;
}

static int fake_attach(struct link *l, struct loop *loop, const struct link_events *events)
{
	struct fake *f = container_of(l, struct fake, link);

	(void)loop;
	f->events = *events;
	f->attached = true;
	return 0;
}

static void fake_listen(struct link *l, bool on)
{
	container_of(l, struct fake, link)->listening = on;
}

static void fake_detach(struct link *l)
{
	container_of(l, struct fake, link)->attached = false;
}

static int fake_set_offload(struct link *l, unsigned offloads)
{
	container_of(l, struct fake, link)->set_to = offloads;
	return 0;
}

static void fake_close(struct link *l)
{
	(void)l;
}

static const struct link_ops fake_ops = {
	.send = fake_send,
	.recv = fake_recv,
	.attach = fake_attach,
	.listen = fake_listen,
	.detach = fake_detach,
	.set_offload = fake_set_offload,
	.close = fake_close,
};

static struct fake fake;

static int create_on_fake(struct virtio_device *dev, const struct device_env *env,
	const void *options,
	struct error *err)
{
	struct net *net = container_of(dev, struct net, dev);

	(void)env;
	(void)options;
	fake.link.ops = &fake_ops;
	fake.link.up = true;
	net->pair.link = &fake.link;
	memcpy(net->mac, "\x02\x01\x02\x03\x04\x05", 6);
	return net_init(net, 0, err);
}

struct fixture {
	struct rig *rig;
	struct net *net;
	struct harness *rx, *tx;
};

static void setup(struct fixture *f, unsigned offloads, uint64_t features)
{
	static struct virtio_type type;
	struct error err = { "" };

	log_level = LOG_ERROR;
	type = virtio_net_type;
	type.create = create_on_fake;
	memset(&fake, 0, sizeof(fake));
	fake.link.offloads = offloads;
	f->rig = rig_new(&type, "user=on", &err);
	cr_assert(f->rig, "%s", err.text);
	f->net = container_of(f->rig->dev, struct net, dev);
	rig_start(f->rig, RX, QUEUE, features);
	rig_start(f->rig, TX, QUEUE, features);
	f->rx = f->rig->h[RX];
	f->tx = f->rig->h[TX];
}

static void kick(struct fixture *f, unsigned i)
{
	vd_kick(&f->rig->h[i]->vd);
	cr_assert_geq(rig_kick(f->rig, i), 0);
}

/* A buffer to receive into. */
static void offer(struct fixture *f, uint64_t addr, uint32_t len)
{
	struct vd_seg seg = { addr, len };

	cr_assert(vd_add(&f->rx->vd, &seg, 0, 1, f));
}

static int used_of(struct harness *h, uint32_t *len)
{
	void *cookie;

	return vd_poll(&h->vd, &cookie, len);
}

static void arrive(size_t frame)
{
	fake.waiting[fake.nwaiting++] = frame;
}

/* Send header and `frame` bytes (of value v) as these pieces. */
static void transmit(struct fixture *f, const struct net_header *h, uint8_t v,
	const uint32_t *pieces, unsigned n)
{
	struct vd_seg segs[16];
	uint64_t at = BUF;
	uint32_t sum = 0;

	for (unsigned i = 0; i < n; i++) {
		segs[i] = (struct vd_seg){ at, pieces[i] };
		at += pieces[i];
		sum += pieces[i];
	}
	memset(harness_at(f->tx, BUF), v, sum);
	memcpy(harness_at(f->tx, BUF), h, MIN(sum, sizeof(*h)));
	cr_assert(vd_add(&f->tx->vd, segs, n, 0, f));
	kick(f, TX);
}

static const struct net_header plain;

/* --- transmit --- */

Test(net, a_frame_reaches_the_link_whatever_its_layout)
{
	static const uint32_t one[] = { 12 + 60 }, two[] = { 12, 60 }, many[] = { 1, 10, 3, 20,
		38 };
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	transmit(&f, &plain, 1, one, 1);
	transmit(&f, &plain, 2, two, 2);
	transmit(&f, &plain, 3, many, 5);
	cr_assert_eq(fake.nsent, 3);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(fake.sent[i].total, 72);
		cr_assert(fake.sent[i].first == i + 1 && fake.sent[i].last == i + 1);
		cr_assert_eq(used_of(f.tx, &used), 1);
		cr_assert_eq(used, 0);
	}
	cr_assert_eq(f.net->pair.stats.tx_frames, 3);
	rig_free(f.rig);
}

Test(net, nt_01_what_is_no_frame_is_dropped_and_its_head_comes_back)
{
	static const uint32_t bad[][2] = { { 1, 0 }, { 11, 0 }, { 12, 0 }, { 12, 1 }, { 12, 13 }, {
		12, LINK_FRAME_MAX + 1 } };
	struct vd_seg writable = { BUF, 100 };
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		transmit(&f, &plain, 1, bad[i], bad[i][1] ? 2 : 1);
		cr_assert_eq(used_of(f.tx, &used), 1, "%zu", i);
	}
	cr_assert(vd_add(&f.tx->vd, &writable, 0, 1, &f));
	kick(&f, TX);
	cr_assert_eq(used_of(f.tx, &used), 1);
	cr_assert_eq(fake.sends, 0);
	cr_assert_eq(f.net->pair.stats.tx_dropped, ARRAY_SIZE(bad) + 1);
	transmit(&f, &plain, 1, (const uint32_t[]){ 12, LINK_FRAME_MAX }, 2);
	cr_assert_eq(fake.nsent, 1);
	rig_free(f.rig);
}

Test(net, nt_02_headers_that_ask_for_what_was_not_agreed_are_dropped)
{
	static const struct {
		struct net_header h;
		uint64_t features;
		bool fair;
	} cases[] = {
		{ { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 14, .csum_offset = 16 }, 0, false },
		{ { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 14, .csum_offset = 16 }, CSUM_TSO,
			true },
		{ { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 58, .csum_offset = 1 }, CSUM_TSO,
			false },
		{ { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff },
			CSUM_TSO, false },
		{ { .gso_type = NET_GSO_TCPV4, .gso_size = 1448 }, CSUM_TSO, false },
		{ { .flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 1448 }, CSUM_TSO, true },
		{ { .flags = 1, .gso_type = NET_GSO_TCPV4, .gso_size = 0 }, CSUM_TSO, false },
		{ { .flags = 1, .gso_type = NET_GSO_TCPV6, .gso_size = 1448 }, B(NET_F_CSUM),
			false },
		{ { .flags = 1, .gso_type = NET_GSO_TCPV4 | NET_GSO_ECN, .gso_size = 1448 },
			CSUM_TSO, false },
		{ { .gso_type = NET_GSO_ECN }, CSUM_TSO | B(NET_F_HOST_ECN), false },
		{ { .gso_type = 3 }, CSUM_TSO, false },
		{ { .gso_type = 0x7f }, CSUM_TSO, false },
		{ { .flags = 0xfe }, CSUM_TSO, true },
	};
	static const uint32_t pieces[] = { 12, 60 };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fixture f;

		setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6,
			cases[i].features);
		transmit(&f, &cases[i].h, 1, pieces, 2);
		cr_assert_eq(fake.nsent, cases[i].fair, "case %zu", i);
		if (cases[i].fair)
			cr_assert_eq(fake.sent[0].header[0], cases[i].h.flags & 1,
				"only what we know goes on");
		rig_free(f.rig);
	}
}

Test(net, a_full_link_keeps_frames_waiting_in_order)
{
	static const uint32_t pieces[] = { 12, 60 };
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	fake.send_says = -EAGAIN;
	for (uint8_t i = 1; i <= 5; i++)
		transmit(&f, &plain, 7, pieces, 2);
	cr_assert_eq(fake.sends, 1, "one try, then it waits for the link's word");
	cr_assert_eq(used_of(f.tx, &used), 0);
	fake.send_says = 0;
	fake.events.writable(fake.events.ctx);
	cr_assert_eq(fake.nsent, 5);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(used_of(f.tx, &used), 1);
	rig_free(f.rig);
}

Test(net, a_link_that_goes_down_is_seen_by_the_guest_and_drops)
{
	static const uint32_t pieces[] = { 12, 60 };
	struct net_config c;
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	fake.send_says = -EAGAIN;
	transmit(&f, &plain, 1, pieces, 2);
	fake.send_says = -ENETDOWN;
	fake.link.up = false;
	fake.events.state(fake.events.ctx, false);
	cr_assert_eq(used_of(f.tx, &used), 1, "what waited is dropped");
	transmit(&f, &plain, 1, pieces, 2);
	cr_assert_eq(used_of(f.tx, &used), 1);
	cr_assert_eq(f.net->pair.stats.tx_dropped, 2);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.status, 0);
	cr_assert_eq(f.rig->config_changes, 1);
	cr_assert_eq(f.rig->nevents, 1);
	fake.events.state(fake.events.ctx, true);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.status, NET_S_LINK_UP);
	rig_free(f.rig);
}

/* --- receive --- */

static uint16_t num_buffers(struct fixture *f, uint64_t addr)
{
	return get_le16((uint8_t *)harness_at(f->rx, addr) + 10);
}

Test(net, a_frame_arrives_in_the_buffer_of_the_driver)
{
	struct fixture f;
	uint8_t *p;
	uint32_t used;

	setup(&f, 0, 0);
	offer(&f, BUF, 2000);
	offer(&f, BUF + 4096, 2000);
	kick(&f, RX);
	cr_assert(fake.listening);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(used_of(f.rx, &used), 1);
	cr_assert_eq(used, 72);
	p = harness_at(f.rx, BUF);
	cr_assert(p[0] == 0x80 && p[12] == 1 && p[71] == 1 && p[72] == 0);
	cr_assert_eq(num_buffers(&f, BUF), 1);
	arrive(100);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(used_of(f.rx, &used), 1);
	cr_assert_eq(used, 112);
	cr_assert_eq(((uint8_t *)harness_at(f.rx, BUF + 4096))[12], 2);
	rig_free(f.rig);
}

Test(net, a_large_frame_is_spread_over_as_many_buffers_as_it_needs)
{
	struct fixture f;
	uint32_t used;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < 6; i++)
		offer(&f, BUF + i * 4096, 1000);
	kick(&f, RX);
	arrive(2500);
	arrive(60);
	arrive(988);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(num_buffers(&f, BUF), 3);
	cr_assert(used_of(f.rx, &used) == 1 && used == 1000);
	cr_assert(used_of(f.rx, &used) == 1 && used == 1000);
	cr_assert(used_of(f.rx, &used) == 1 && used == 512);
	cr_assert(used_of(f.rx, &used) == 1 && used == 72);
	cr_assert_eq(num_buffers(&f, BUF + 3 * 4096), 1);
	cr_assert(used_of(f.rx, &used) == 1 && used == 1000);
	cr_assert_eq(num_buffers(&f, BUF + 4 * 4096), 1,
		"a frame that ends with its buffer takes one");
	cr_assert_eq(used_of(f.rx, &used), 0);
	rig_free(f.rig);
}

Test(net, the_header_may_be_in_crumbs)
{
	struct fixture f;
	uint32_t used;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < 16; i++)
		offer(&f, BUF + i * 64, i < 14 ? 1 : 60);
	kick(&f, RX);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(*(uint8_t *)harness_at(f.rx, BUF + 10 * 64), 15,
		"2 bytes in 14 single ones, 58 in the next");
	cr_assert_eq(*(uint8_t *)harness_at(f.rx, BUF + 11 * 64), 0);
	for (int i = 0; i < 14; i++)
		cr_assert(used_of(f.rx, &used) == 1 && used == 1);
	cr_assert(used_of(f.rx, &used) == 1 && used == 58);
	rig_free(f.rig);
}

Test(net, nt_03_a_frame_too_large_for_its_buffers_is_dropped_alone)
{
	struct vd_seg readable = { BUF, 100 };
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	cr_assert(vd_add(&f.rx->vd, &readable, 1, 0, &f));
	offer(&f, BUF, 100);
	kick(&f, RX);
	cr_assert(used_of(f.rx, &used) == 1 && used == 0,
		"a buffer that cannot be written comes back");
	arrive(1514);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert(used_of(f.rx, &used) == 1 && used == 72);
	cr_assert_eq(((uint8_t *)harness_at(f.rx, BUF))[12], 2);
	cr_assert_eq(f.net->pair.stats.rx_dropped, 2);
	rig_free(f.rig);
}

Test(net, nt_08_nt_09_without_buffers_the_link_is_muted_until_a_kick)
{
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	offer(&f, BUF, 2000);
	kick(&f, RX);
	for (int i = 0; i < 3; i++)
		arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert(used_of(f.rx, &used) == 1);
	cr_assert_eq(fake.taken, 1);
	cr_assert_not(fake.listening);
	offer(&f, BUF, 2000);
	offer(&f, BUF + 4096, 2000);
	offer(&f, BUF + 8192, 2000);
	kick(&f, RX);
	cr_assert_eq(fake.taken, 3, "the backlog comes with the kick");
	cr_assert(fake.listening);
	rig_free(f.rig);
}

Test(net, frames_that_never_fit_do_not_keep_the_loop)
{
	struct fixture f;

	setup(&f, 0, 0);
	offer(&f, BUF, 20);
	kick(&f, RX);
	for (int i = 0; i < SENT_MAX; i++)
		arrive(1500);
	fake.events.readable(fake.events.ctx);
	cr_assert_leq(fake.taken, 256);
	cr_assert(fake.listening, "the loop comes back for the rest");
	rig_free(f.rig);
}

static void a_stop_gives_back(uint64_t ring)
{
	struct fixture f;
	uint32_t used;

	setup(&f, 0, B(NET_F_MRG_RXBUF) | ring);
	for (unsigned i = 0; i < 4; i++)
		offer(&f, BUF + i * 4096, 2000);
	kick(&f, RX);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(used_of(f.rx, &used), 1);
	cr_assert_eq(queue_in_flight(f.rx->q), 3);
	virtio_net_type.queue_stop(f.rig->dev, f.rx->q);
	cr_assert_eq(queue_in_flight(f.rx->q), 0);
	cr_assert_eq(used_of(f.rx, &used), 0, "the driver notices nothing");
	harness_reopen(f.rx);
	cr_assert_eq(virtio_net_type.queue_start(f.rig->dev, f.rx->q), 0);
	cr_assert_geq(rig_kick(f.rig, RX), 0);
	arrive(100);
	fake.events.readable(fake.events.ctx);
	cr_assert(used_of(f.rx, &used) == 1 && used == 112);
	cr_assert_eq(((uint8_t *)harness_at(f.rx, BUF + 4096))[12], 2,
		"the next buffer, not another");
	rig_free(f.rig);
	cr_assert_not(fake.attached);
}

Test(net, a_stop_gives_unused_buffers_back_untouched)
{
	a_stop_gives_back(0);
	a_stop_gives_back(VD_F_PACKED);
	a_stop_gives_back(VD_F_IN_ORDER);
}

/* --- the device --- */

Test(net, what_is_offered_follows_the_link)
{
	const uint64_t tso = CSUM_TSO | B(NET_F_GUEST_CSUM) | B(NET_F_GUEST_TSO4) |
		B(NET_F_GUEST_TSO6);
	const uint64_t base = B(NET_F_MAC) | B(NET_F_STATUS) | B(NET_F_MRG_RXBUF);
	struct fixture f;

	setup(&f, 0, 0);
	cr_assert_eq(f.rig->dev->offered, base);
	rig_free(f.rig);
	setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6, B(NET_F_GUEST_TSO4));
	cr_assert_eq(f.rig->dev->offered, base | tso);
	cr_assert_eq(fake.set_to, 0, "segmentation without checksums is not given");
	rig_free(f.rig);
	setup(&f, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4, B(NET_F_GUEST_TSO4) | B(NET_F_GUEST_CSUM));
	cr_assert_eq(fake.set_to, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4);
	rig_free(f.rig);
}

static void refused(const char *text, const char *want)
{
	struct error err = { "" };

	cr_assert_null(rig_new(&virtio_net_type, text, &err));
	cr_assert(strstr(err.text, want), "%s: %s", text, err.text);
}

Test(net, bad_options_are_refused_with_a_sentence)
{
	refused("mtu=1500", "write --net user");
	refused("user,tap=x", "exclude each other");
	refused("user,mac=01:00:00:00:00:01", "must be even");
	refused("tap=x,forward=22", "add user");
	refused("user,ip=10.0.0.1", "add tap=NAME");
	refused("tap=a_name_that_is_too_long", "longer than 15 characters");
	refused("fd=199", "no such open file");
	refused("fd=[3-4]", "one fd is needed");
	refused("user,mtu=67", "mtu");
}

Test(net, the_address_is_saved_and_loaded)
{
	const struct state_desc *desc = virtio_net_type.state;
	struct state_writer w = { 0 };
	struct state_reader r;
	struct net_config c;
	struct fixture f;
	struct error err;

	setup(&f, 0, 0);
	cr_assert_eq(state_save(&w, desc, f.rig->dev), 0);
	memset(f.net->mac, 0x22, 6);
	r = (struct state_reader){ w.data, w.len, 0 };
	rig_stop(f.rig, RX);
	cr_assert_eq(state_load(&r, desc, f.rig->dev, &err), 0, "%s", err.text);
	rig_start(f.rig, RX, QUEUE, 0);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(memcmp(c.mac, "\x02\x01\x02\x03\x04\x05", 6), 0);
	f.net->mac[0] = 1;
	cr_assert_neq(desc->check(f.rig->dev, &err), 0);
	state_writer_free(&w);
	rig_free(f.rig);
}

/* --- a real tap --- */

/* A network namespace of our own; false when this host does not allow it. */
static bool own_network(void)
{
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	return !access("/dev/net/tun", R_OK | W_OK);
}

/* A socket that sees and sends what passes through the interface on the host's side. */
static int wire_of(const char *name)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));

	at.sll_ifindex = (int)if_nametoindex(name);
	cr_assert(s >= 0 && at.sll_ifindex);
	cr_assert_eq(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	return s;
}

static void set_up(const char *name, bool up)
{
	struct ifreq ifr = { .ifr_flags = up ? IFF_UP : 0 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	cr_assert_eq(ioctl(s, SIOCSIFFLAGS, &ifr), 0);
	close(s);
}

/* Frames of our own kind only: the kernel sends neighbour discovery as it likes. */
enum { OUR_TYPE = 0x88b5 };

static bool saw_frame(int wire, uint8_t v)
{
	uint8_t frame[2048];
	ssize_t n;

	for (int i = 0; i < 200; i++) {
		n = recv(wire, frame, sizeof(frame), 0);
		if (n >= 60 && frame[12] == OUR_TYPE >> 8 && frame[13] == (OUR_TYPE & 0xff) &&
			frame[59] == v)
			return true;
		if (n < 0)
			usleep(1000);
	}
	return false;
}

static void send_to_tap(struct fixture *f, const struct net_header *h, uint8_t v)
{
	struct vd_seg segs[2] = { { BUF, 12 }, { BUF + 12, 60 } };
	uint8_t *p = harness_at(f->tx, BUF);

	memset(p, v, 72);
	memcpy(p, h, 12);
	memcpy(p + 12, "\xff\xff\xff\xff\xff\xff\x02\x01\x02\x03\x04\x05\x88\xb5", 14);
	cr_assert(vd_add(&f->tx->vd, segs, 2, 0, f));
	kick(f, TX);
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
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f,
		"tap=mvtest0,ip=10.11.12.1,mask=255.255.255.0,mtu=1400,host_mac=02:aa:bb:cc:dd:ee");
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.mtu, 1400);
	cr_assert(f.rig->dev->offered & B(NET_F_HOST_TSO4));
	wire = wire_of("mvtest0");
	send_to_tap(&f, &plain, 0x42);
	cr_assert(saw_frame(wire, 0x42));

	for (unsigned i = 0; i < 32; i++)
		offer(&f, BUF + i * 4096, 2048);
	kick(&f, RX);
	memset(frame + 14, 0x24, 46);
	cr_assert_eq(send(wire, frame, sizeof(frame), 0), 60);
	for (int i = 0; i < 200; i++) {
		rig_run(f.rig, 1);
		while (used_of(f.rx, &used) == 1)
			if (used == 72 && harness_at(f.rx, BUF))
				i = 1000;
	}
	cr_assert_eq(used, 72);
	close(wire);
	rig_free(f.rig);
}

Test(net_tap, nt_10_a_tap_that_is_down_drops_and_recovers)
{
	struct fixture f;
	uint32_t used;
	int wire;

	if (!own_network())
		cr_skip_test("no network namespace or no /dev/net/tun");
	setup_tap(&f, "tap=mvtest0");
	wire = wire_of("mvtest0");
	set_up("mvtest0", false);
	for (int i = 0; i < 10; i++) {
		send_to_tap(&f, &plain, 1);
		rig_run(f.rig, 1);
		cr_assert_eq(used_of(f.tx, &used), 1, "the head comes back");
	}
	cr_assert_eq(f.net->pair.stats.tx_dropped, 10);
	cr_assert_eq(f.rig->nevents, 0);
	set_up("mvtest0", true);
	send_to_tap(&f, &plain, 0x43);
	cr_assert(saw_frame(wire, 0x43));
	close(wire);
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
	wire = wire_of("mvtest0");
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
	wire = wire_of("mvtest0");
	send_to_tap(&f, &plain, 0x45);
	cr_assert(saw_frame(wire, 0x45));
	close(wire);
	rig_free(f.rig);
	cr_assert_eq(fcntl(fd, F_GETFD), -1, "the fd was the device's");
}
