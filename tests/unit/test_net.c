/*
 * Frames of virtio-net. Tests named nt_NN answer the rows of the catalogue of hostile inputs for
 * networks.
 */
#include "tests/unit/net_rig.h"

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
	cr_assert_eq(f.net->pairs[0].tx.stats.frames, 3);
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
	cr_assert_eq(dropped(&f.net->pairs[0].tx), ARRAY_SIZE(bad) + 1);
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
		{ { .flags = 1, .gso_type = NET_GSO_UDP_L4, .gso_size = 1400 }, CSUM_TSO, false },
		{ { .flags = 1, .gso_type = NET_GSO_UDP_L4, .gso_size = 1400 },
			CSUM_TSO | B(NET_F_HOST_USO), true },
		{ { .gso_type = NET_GSO_UDP_L4, .gso_size = 1400 }, CSUM_TSO | B(NET_F_HOST_USO),
			false },
		{ { .flags = 1, .gso_type = NET_GSO_UDP_L4 | NET_GSO_ECN, .gso_size = 1400 },
			CSUM_TSO | B(NET_F_HOST_USO) | B(NET_F_HOST_ECN), false },
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

/* A frame of 72 bytes with header in these pieces, from this address. */
static void transmit_from(struct fixture *f, const uint8_t *mac, const uint32_t *pieces, unsigned n)
{
	struct vd_seg segs[16];
	uint8_t *p = harness_at(f->tx, BUF);
	uint64_t at = BUF;

	for (unsigned i = 0; i < n; i++, at += pieces[i - 1])
		segs[i] = (struct vd_seg){ at, pieces[i] };
	memset(p, 0, 72);
	memset(p + 12, 9, 60);
	memcpy(p + 12 + 6, mac, 6);
	cr_assert(vd_add(&f->tx->vd, segs, n, 0, f));
	kick(f, TX);
}

Test(net, nt_11_frames_from_another_address_than_ours_stay_here)
{
	static const uint8_t ours[] = FAKE_MAC, other[] = { 2, 1, 2, 3, 4, 6 };
	static const uint32_t one[] = { 72 }, two[] = { 12, 60 }, many[] = { 12, 7, 3, 1, 2, 47 },
		ether[] = { 12, 14 };
	struct fixture f;
	uint32_t used;

	fake_anti_spoof = true;
	setup(&f, 0, 0);
	transmit_from(&f, ours, one, 1);
	transmit_from(&f, ours, two, 2);
	transmit_from(&f, ours, many, 6);
	transmit_from(&f, ours, ether, 2);
	cr_assert_eq(fake.nsent, 4);
	cr_assert_eq(fake.sent[2].total, 72);
	cr_assert_eq(fake.sent[3].total, 26);
	cr_assert(fake.sent[2].first == 9 && fake.sent[2].last == 9);
	transmit_from(&f, other, one, 1);
	transmit_from(&f, other, many, 6);
	cr_assert_eq(fake.nsent, 4);
	cr_assert_eq(f.net->pairs[0].tx.stats.dropped[NET_DROP_SPOOF], 2);
	for (int i = 0; i < 6; i++)
		cr_assert_eq(used_of(f.tx, &used), 1);
	rig_free(f.rig);
}

Test(net, counters_tell_what_passed_and_why_not)
{
	static const uint32_t pieces[] = { 12, 60 };
	struct net_stats s;
	struct fixture f;

	setup(&f, 0, 0);
	for (int i = 0; i < 3; i++)
		transmit(&f, &plain, 1, pieces, 2);
	transmit(&f, &plain, 1, pieces, 1);
	fake.send_says = -ENETDOWN;
	transmit(&f, &plain, 1, pieces, 2);
	cr_assert_eq(net_stats_read(f.net, TX, &s), 0);
	cr_assert_eq(s.frames, 3);
	cr_assert_eq(s.bytes, 180);
	cr_assert_eq(s.dropped[NET_DROP_MALFORMED], 1);
	cr_assert_eq(s.dropped[NET_DROP_LINK], 1);
	cr_assert_eq(s.interrupts, harness_calls(f.tx));
	offer(&f, BUF, 2000);
	kick(&f, RX);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(net_stats_read(f.net, RX, &s), 0);
	cr_assert_eq(s.frames, 1);
	cr_assert_eq(s.bytes, 60);
	cr_assert_neq(net_stats_read(f.net, 2, &s), 0);
	cr_assert_neq(net_stats_read(f.net, UINT32_MAX, &s), 0);
	rig_free(f.rig);
}

/* Let the loop run until the link got so many frames. */
static void sent_at_last(struct fixture *f, unsigned n)
{
	for (int i = 0; i < 60000 && fake.nsent < n; i++)
		rig_run(f->rig, 1);
	cr_assert_eq(fake.nsent, n);
}

Test(net, a_rate_holds_frames_up_and_loses_none)
{
	static const uint32_t pieces[] = { 12, 60 };
	const struct rate_limit day = { 1, 0, 24 * 3600 * 1000 }, fast = { 1000, 0, 1000 }, none = { 0 };
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	net_set_rate(f.net, true, RATE_OPS, &day);
	for (int i = 0; i < 6; i++)
		transmit(&f, &plain, 1, pieces, 2);
	sent_at_last(&f, 2); /* the bucket, and one more into debt */
	rig_run(f.rig, 5);
	cr_assert_eq(fake.nsent, 2);
	net_set_rate(f.net, true, RATE_OPS, &none);
	sent_at_last(&f, 6);
	for (int i = 0; i < 6; i++)
		cr_assert_eq(used_of(f.tx, &used), 1);
	net_set_rate(f.net, true, RATE_OPS, &fast);
	for (int i = 0; i < 20; i++) {
		transmit(&f, &plain, 1, pieces, 2);
		sent_at_last(&f, 7 + (unsigned)i);
	}
	rig_free(f.rig);
}

Test(net, a_rate_mutes_the_link_until_frames_may_come_again)
{
	const struct rate_limit day = { 60, 0, 24 * 3600 * 1000 }, none = { 0 };
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	net_set_rate(f.net, false, RATE_BYTES, &day);
	for (unsigned i = 0; i < 6; i++)
		offer(&f, BUF + i * 4096, 2000);
	kick(&f, RX);
	for (int i = 0; i < 4; i++)
		arrive(600);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(fake.taken, 1, "more than the bucket, so it is in debt");
	cr_assert_not(fake.listening);
	cr_assert_eq(used_of(f.rx, &used), 1, "the frame that came is there at once");
	kick(&f, RX);
	cr_assert_eq(fake.taken, 1, "a kick does not get around it");
	net_set_rate(f.net, false, RATE_BYTES, &none);
	for (int i = 0; i < 60000 && fake.taken < 4; i++)
		rig_run(f.rig, 1);
	cr_assert_eq(fake.taken, 4);
	cr_assert(fake.listening);
	rig_free(f.rig);
}

Test(net, a_stop_while_held_up_gives_everything_back)
{
	static const uint32_t pieces[] = { 12, 60 };
	const struct rate_limit day = { 1, 0, 24 * 3600 * 1000 };
	struct fixture f;

	setup(&f, 0, 0);
	net_set_rate(f.net, true, RATE_OPS, &day);
	for (int i = 0; i < 6; i++)
		transmit(&f, &plain, 1, pieces, 2);
	cr_assert_gt(queue_in_flight(f.tx->q), 0);
	rig_free(f.rig); /* aborts when a chain is left */
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
	cr_assert_eq(dropped(&f.net->pairs[0].tx), 2);
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
	cr_assert_eq(dropped(&f.net->pairs[0].rx), 2);
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
	go_on(&f, RX);
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
