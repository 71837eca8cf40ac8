/*
 * The control queue of virtio-net: what commands do, and what becomes of those that are wrong.
 * Tests named nt_NN answer the rows of the catalogue of hostile inputs for networks.
 */
#include "tests/unit/net_rig.h"

enum { NO_ANSWER = -1, SILENT = 0x55, CMD = HARNESS_HIGH + 0x80000 };

#define CTRL_FEATURES                                                                              \
	(B(NET_F_CTRL_VQ) | B(NET_F_CTRL_RX) | B(NET_F_CTRL_RX_EXTRA) | B(NET_F_CTRL_VLAN) |       \
		B(NET_F_CTRL_MAC_ADDR) | B(NET_F_NOTF_COAL) | B(NET_F_VQ_NOTF_COAL) |              \
		B(NET_F_STATUS) | B(NET_F_GUEST_ANNOUNCE))

/* A device of `pairs` pairs with all its queues and the control queue. */
static void setup_pairs(struct fixture *f, unsigned pairs, unsigned offloads, uint64_t features)
{
	fake_pairs = pairs;
	features |= CTRL_FEATURES | (pairs > 1 ? B(NET_F_MQ) : 0);
	setup(f, offloads, features);
	for (unsigned i = 2; i < 2 * pairs + 1; i++)
		rig_start(f->rig, i, QUEUE, features);
}

static struct harness *ctrl_of(struct fixture *f)
{
	return f->rig->h[2 * fake_pairs];
}

/* Put these bytes into the control queue with `room` bytes for the answer, and kick. */
static void post(struct fixture *f, const void *bytes, uint32_t len, uint32_t room)
{
	struct harness *h = ctrl_of(f);
	struct vd_seg segs[2] = { { CMD, len }, { CMD + 0x4000, room } };

	memcpy(harness_at(h, CMD), bytes, len);
	memset(harness_at(h, CMD + 0x4000), SILENT, 64);
	cr_assert(vd_add(&h->vd, len ? segs : segs + 1, len ? 1 : 0, room ? 1 : 0, f));
	vd_kick(&h->vd);
	cr_assert_geq(rig_kick(f->rig, 2 * fake_pairs), 0);
}

/* The acknowledgement; NO_ANSWER. */
static int answer_to(struct fixture *f, uint32_t *used)
{
	struct harness *h = ctrl_of(f);

	if (used_of(h, used) != 1)
		return NO_ANSWER;
	return *(uint8_t *)harness_at(h, CMD + 0x4000);
}

static int command(struct fixture *f, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
	uint8_t bytes[2048] = { class, cmd };
	uint32_t used;
	int ack;

	if (len)
		memcpy(bytes + 2, data, len);
	post(f, bytes, 2 + len, 1);
	ack = answer_to(f, &used);
	cr_assert(ack == NO_ANSWER || used == 1, "nt_07: the answer is one byte, not %u", used);
	return ack;
}

static int command16(struct fixture *f, uint8_t class, uint8_t cmd, uint16_t v)
{
	return command(f, class, cmd, &v, 2);
}

static int mode(struct fixture *f, uint8_t cmd, uint8_t on)
{
	return command(f, NET_CTRL_RX, cmd, &on, 1);
}

static int coalesce(struct fixture *f, uint8_t cmd, uint32_t usecs, uint32_t packets)
{
	uint32_t v[2] = { packets, usecs };

	return command(f, NET_CTRL_NOTF_COAL, cmd, v, sizeof(v));
}

/* --- multiqueue --- */

Test(net_ctrl, one_pair_is_in_use_until_the_driver_asks_for_more)
{
	struct net_config c;
	struct fixture f;

	setup_pairs(&f, 4, 0, 0);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.max_virtqueue_pairs, 4);
	cr_assert_eq(f.rig->dev->nqueues, 9);
	cr_assert(!fakes[0].off && fakes[1].off && fakes[3].off);
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 3), NET_ACK_OK);
	cr_assert(!fakes[0].off && !fakes[1].off && !fakes[2].off && fakes[3].off);
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 2), NET_ACK_OK);
	cr_assert(!fakes[1].off && fakes[2].off);
	rig_free(f.rig);
}

Test(net_ctrl, nt_05_nt_07_numbers_of_pairs_that_there_are_not_are_refused)
{
	static const uint16_t bad[] = { 0, 5, 16, 17, 0x7fff, 0x8000, 0xffff };
	struct fixture f;

	setup_pairs(&f, 4, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, bad[i]), NET_ACK_ERR, "%u", bad[i]);
	cr_assert_eq(f.net->now.pairs, 1);
	rig_free(f.rig);
}

Test(net_ctrl, each_pair_moves_its_own_frames)
{
	struct vd_seg in = { BUF, 2000 }, out[2] = { { BUF, 12 }, { BUF + 12, 60 } };
	struct fixture f;
	uint32_t used;

	setup_pairs(&f, 2, 0, 0);
	cr_assert(vd_add(&f.rig->h[2]->vd, &in, 0, 1, &f));
	kick(&f, 2);
	cr_assert_not(fakes[1].listening, "not in use: nothing may come");
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 2), NET_ACK_OK);
	cr_assert(fakes[1].listening);
	fakes[1].waiting[fakes[1].nwaiting++] = 60;
	fakes[1].events.readable(fakes[1].events.ctx);
	cr_assert_eq(used_of(f.rig->h[2], &used), 1);
	cr_assert_eq(used, 72);
	cr_assert(vd_add(&f.rig->h[3]->vd, out, 2, 0, &f));
	kick(&f, 3);
	cr_assert_eq(fakes[1].nsent, 1);
	cr_assert_eq(fakes[0].nsent, 0);
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 1), NET_ACK_OK);
	cr_assert_not(fakes[1].listening);
	rig_free(f.rig);
}

Test(net_ctrl, without_mq_the_control_queue_is_the_third)
{
	struct fixture f;
	uint8_t on = 0;

	fake_pairs = 4;
	setup(&f, 0, CTRL_FEATURES);
	rig_start(f.rig, 2, QUEUE, CTRL_FEATURES);
	rig_start(f.rig, 3, QUEUE, CTRL_FEATURES);
	fake_pairs = 1; /* where command() looks */
	cr_assert_eq(command(&f, NET_CTRL_RX, NET_RX_PROMISC, &on, 1), NET_ACK_OK);
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 2), NET_ACK_ERR, "it was not negotiated");
	cr_assert_eq(rig_kick(f.rig, 3), 0, "a queue that is none is left alone");
	rig_free(f.rig);
}

Test(net_ctrl, an_answer_waits_until_every_pair_has_followed)
{
	struct loop *other, *first;
	struct error err;
	struct fixture f;
	uint32_t used;

	fake_pairs = 2;
	setup(&f, 0, CTRL_FEATURES | B(NET_F_MQ));
	cr_assert_eq(loop_create(&other, &err), 0);
	first = f.rig->loop;
	f.rig->loop = other;
	rig_start(f.rig, 2, QUEUE, CTRL_FEATURES | B(NET_F_MQ));
	rig_start(f.rig, 3, QUEUE, CTRL_FEATURES | B(NET_F_MQ));
	f.rig->loop = first;
	rig_start(f.rig, 4, QUEUE, CTRL_FEATURES | B(NET_F_MQ));

	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 2), NO_ANSWER);
	cr_assert_eq(mode(&f, NET_RX_PROMISC, 0), NO_ANSWER, "the next one waits behind it");
	rig_run(f.rig, 1);
	cr_assert_eq(answer_to(&f, &used), NO_ANSWER);
	for (int i = 0; i < 2; i++) {
		cr_assert(fakes[1].off == !i);
		f.rig->loop = other;
		rig_run(f.rig, 1);
		f.rig->loop = first;
		rig_run(f.rig, 1);
		cr_assert_eq(answer_to(&f, &used), NET_ACK_OK, "%d", i);
	}
	cr_assert_not(f.net->pairs[1].filter.mode[NET_RX_PROMISC]);
	/* A pair that stops is not waited for. */
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 1), NO_ANSWER);
	f.rig->loop = other;
	rig_stop(f.rig, 2);
	rig_stop(f.rig, 3);
	f.rig->loop = first;
	rig_run(f.rig, 1);
	cr_assert_eq(answer_to(&f, &used), NET_ACK_OK);
	rig_free(f.rig);
	loop_destroy(other);
}

Test(net_ctrl, a_stop_answers_what_waits)
{
	struct loop *other, *first;
	struct error err;
	struct fixture f;

	fake_pairs = 2;
	setup(&f, 0, CTRL_FEATURES | B(NET_F_MQ));
	cr_assert_eq(loop_create(&other, &err), 0);
	first = f.rig->loop;
	f.rig->loop = other;
	rig_start(f.rig, 2, QUEUE, CTRL_FEATURES | B(NET_F_MQ));
	f.rig->loop = first;
	rig_start(f.rig, 4, QUEUE, CTRL_FEATURES | B(NET_F_MQ));
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 2), NO_ANSWER);
	rig_stop(f.rig, 4); /* aborts when a chain is left */
	rig_free(f.rig);
	loop_destroy(other);
}

/* --- filters --- */

static const uint8_t ours[6] = FAKE_MAC, other[6] = { 2, 9, 9, 9, 9, 9 };
static const uint8_t group[6] = { 1, 0, 0x5e, 0, 0, 1 }, all[6] = { 255, 255, 255, 255, 255, 255 };

static bool passes(const struct fixture *f, const uint8_t *mac)
{
	uint8_t frame[60] = { 0 };

	memcpy(frame, mac, 6);
	return net_filter_passes(&f->net->pairs[0].filter, frame, sizeof(frame));
}

static bool vlan_passes(const struct fixture *f, unsigned id)
{
	uint8_t frame[60] = { 0 };

	memcpy(frame, ours, 6);
	frame[12] = 0x81;
	frame[14] = (uint8_t)(0xe0 | id >> 8); /* with a priority */
	frame[15] = (uint8_t)id;
	return net_filter_passes(&f->net->pairs[0].filter, frame, sizeof(frame));
}

static int set_table(struct fixture *f, uint32_t nuni, uint32_t nmulti)
{
	uint8_t data[1600] = { 0 };
	uint8_t *p = data;

	put_le32(p, nuni);
	for (p += 4; nuni--; p += 6)
		memcpy(p, other, 6);
	put_le32(p, nmulti);
	for (p += 4; nmulti--; p += 6)
		memcpy(p, group, 6);
	return command(f, NET_CTRL_MAC, NET_MAC_TABLE_SET, data, (uint32_t)(p - data));
}

Test(net_ctrl, a_driver_that_says_nothing_gets_everything)
{
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	cr_assert(passes(&f, ours) && passes(&f, other) && passes(&f, group) && passes(&f, all));
	cr_assert(vlan_passes(&f, 7));
	rig_free(f.rig);
}

Test(net_ctrl, frames_are_filtered_as_the_driver_says)
{
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	cr_assert_eq(mode(&f, NET_RX_PROMISC, 0), NET_ACK_OK);
	cr_assert(passes(&f, ours) && passes(&f, all));
	cr_assert(!passes(&f, other) && !passes(&f, group));
	cr_assert_eq(mode(&f, NET_RX_ALLMULTI, 1), NET_ACK_OK);
	cr_assert(passes(&f, group) && !passes(&f, other));
	cr_assert_eq(mode(&f, NET_RX_ALLUNI, 1), NET_ACK_OK);
	cr_assert(passes(&f, other));
	mode(&f, NET_RX_NOMULTI, 1);
	mode(&f, NET_RX_NOUNI, 1);
	mode(&f, NET_RX_NOBCAST, 1);
	cr_assert(!passes(&f, group) && !passes(&f, ours) && !passes(&f, all));
	for (uint8_t i = NET_RX_ALLMULTI; i < NET_RX_MODES; i++)
		cr_assert_eq(mode(&f, i, 0), NET_ACK_OK);
	cr_assert_eq(set_table(&f, 1, 1), NET_ACK_OK);
	cr_assert(passes(&f, other) && passes(&f, group));
	cr_assert_eq(set_table(&f, 0, 0), NET_ACK_OK);
	cr_assert(!passes(&f, other) && !passes(&f, group));
	rig_free(f.rig);
}

Test(net_ctrl, nt_06_a_table_larger_than_ours_lets_all_of_its_kind_in)
{
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	mode(&f, NET_RX_PROMISC, 0);
	cr_assert_eq(set_table(&f, NET_MACS_MAX, 0), NET_ACK_OK);
	cr_assert(passes(&f, other) && !passes(&f, group));
	cr_assert_eq(set_table(&f, 0, 200), NET_ACK_OK);
	cr_assert(!passes(&f, other) && passes(&f, group));
	cr_assert(passes(&f, (const uint8_t *)"\x01\x02\x03\x04\x05\x06"));
	rig_free(f.rig);
}

Test(net_ctrl, cve_2014_0150_a_table_whose_count_is_not_its_length_is_refused)
{
	static const uint32_t counts[] = { 1, 2, 0x10000000, 0x2aaaaaab, 0x7fffffff, 0xffffffff };
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	mode(&f, NET_RX_PROMISC, 0);
	cr_assert_eq(set_table(&f, 1, 0), NET_ACK_OK);
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		uint32_t data[3] = { counts[i], 0, 0 }, swapped[3] = { 0, counts[i], 0 };

		cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_TABLE_SET, data, 8), NET_ACK_ERR);
		cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_TABLE_SET, swapped, 8), NET_ACK_ERR);
	}
	cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_TABLE_SET, "\0\0\0\0\0\0\0\0\0", 9),
		NET_ACK_ERR, "bytes behind the tables");
	cr_assert(passes(&f, other), "what was set before is still there");
	rig_free(f.rig);
}

Test(net_ctrl, vlans_pass_when_they_were_added)
{
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	mode(&f, NET_RX_PROMISC, 0);
	cr_assert(!vlan_passes(&f, 5) && passes(&f, ours));
	cr_assert_eq(command16(&f, NET_CTRL_VLAN, NET_VLAN_ADD, 5), NET_ACK_OK);
	cr_assert_eq(command16(&f, NET_CTRL_VLAN, NET_VLAN_ADD, 4095), NET_ACK_OK);
	cr_assert(vlan_passes(&f, 5) && vlan_passes(&f, 4095) && !vlan_passes(&f, 6));
	cr_assert_eq(command16(&f, NET_CTRL_VLAN, NET_VLAN_DEL, 5), NET_ACK_OK);
	cr_assert(!vlan_passes(&f, 5));
	cr_assert_eq(command16(&f, NET_CTRL_VLAN, NET_VLAN_ADD, 4096), NET_ACK_ERR);
	cr_assert_eq(command16(&f, NET_CTRL_VLAN, NET_VLAN_ADD, 0xffff), NET_ACK_ERR);
	rig_free(f.rig);
}

Test(net_ctrl, what_is_filtered_takes_no_buffer_and_is_counted)
{
	struct fixture f;
	uint32_t used;

	setup_pairs(&f, 1, 0, 0);
	cr_assert_eq(mode(&f, NET_RX_PROMISC, 0), NET_ACK_OK);
	mode(&f, NET_RX_NOUNI, 1);
	offer(&f, BUF, 2000);
	kick(&f, RX);
	arrive(60); /* to 01:01:01:01:01:01, a group */
	arrive(60); /* to 02:02:.. */
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(used_of(f.rx, &used), 0);
	cr_assert_eq(f.net->pairs[0].rx.stats.dropped[NET_DROP_FILTER], 2);
	mode(&f, NET_RX_PROMISC, 1);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(used_of(f.rx, &used), 1);
	rig_free(f.rig);
}

Test(net_ctrl, the_address_can_be_changed_and_a_reset_brings_it_back)
{
	struct net_config c;
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	mode(&f, NET_RX_PROMISC, 0);
	cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_ADDR_SET, other, 6), NET_ACK_OK);
	cr_assert(passes(&f, other) && !passes(&f, ours));
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(memcmp(c.mac, other, 6), 0);
	cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_ADDR_SET, group, 6), NET_ACK_ERR);
	for (unsigned i = 0; i < 3; i++)
		rig_stop(f.rig, i);
	virtio_net_type.reset(f.rig->dev);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(memcmp(c.mac, ours, 6), 0);
	rig_free(f.rig);
}

Test(net_ctrl, nt_11_an_address_that_may_not_be_sent_from_cannot_be_set)
{
	struct fixture f;

	fake_anti_spoof = true;
	setup_pairs(&f, 1, 0, 0);
	cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_ADDR_SET, other, 6), NET_ACK_ERR);
	cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_ADDR_SET, ours, 6), NET_ACK_OK);
	rig_free(f.rig);
}

/* --- announcement, offloads --- */

Test(net_ctrl, a_link_that_returns_is_announced_until_the_driver_answers)
{
	struct net_config c;
	struct fixture f;

	setup_pairs(&f, 1, 0, 0);
	fake.events.state(fake.events.ctx, false);
	fake.events.state(fake.events.ctx, true);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.status, NET_S_LINK_UP | NET_S_ANNOUNCE);
	cr_assert_eq(command(&f, NET_CTRL_ANNOUNCE, 0, NULL, 0), NET_ACK_OK);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.status, NET_S_LINK_UP);
	rig_free(f.rig);
}

Test(net_ctrl, offloads_can_be_switched_within_what_was_negotiated)
{
	const uint64_t tso = B(NET_F_GUEST_CSUM) | B(NET_F_GUEST_TSO4);
	uint64_t v = 0;
	struct fixture f;

	setup_pairs(&f, 1, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 | LINK_OFFLOAD_TSO6,
		tso | B(NET_F_CTRL_GUEST_OFFLOADS));
	cr_assert_eq(fake.set_to, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4);
	cr_assert_eq(command(&f, NET_CTRL_GUEST_OFFLOADS, 0, &v, 8), NET_ACK_OK);
	cr_assert_eq(fake.set_to, 0);
	v = tso | B(NET_F_GUEST_TSO6);
	cr_assert_eq(command(&f, NET_CTRL_GUEST_OFFLOADS, 0, &v, 8), NET_ACK_ERR);
	v = UINT64_MAX;
	cr_assert_eq(command(&f, NET_CTRL_GUEST_OFFLOADS, 0, &v, 8), NET_ACK_ERR);
	cr_assert_eq(fake.set_to, 0);
	v = tso;
	cr_assert_eq(command(&f, NET_CTRL_GUEST_OFFLOADS, 0, &v, 8), NET_ACK_OK);
	cr_assert_eq(fake.set_to, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4);
	rig_free(f.rig);
}

/* --- coalescing --- */

Test(net_ctrl, interrupts_are_gathered_up_to_a_number_of_frames)
{
	struct fixture f;
	unsigned calls = 0, got = 0;
	uint32_t used;

	setup_pairs(&f, 1, 0, 0);
	/* So long that only the number counts, however slow this machine is. */
	cr_assert_eq(coalesce(&f, NET_COAL_RX_SET, NET_COAL_USECS_MAX, 32), NET_ACK_OK);
	harness_calls(f.rx);
	for (unsigned round = 0; round < 20; round++) {
		fake.nwaiting = fake.taken = 0;
		for (unsigned i = 0; i < 32; i++)
			offer(&f, BUF + i * 2048, 2048);
		kick(&f, RX);
		for (unsigned i = 0; i < 32; i++) {
			arrive(60);
			fake.events.readable(fake.events.ctx);
		}
		while (used_of(f.rx, &used) == 1)
			got++;
		calls += harness_calls(f.rx);
	}
	cr_assert_eq(got, 640);
	cr_assert_leq(calls * 16, got, "%u interrupts for %u frames", calls, got);
	cr_assert_geq(calls, 640 / 32 - 1);
	cr_assert_eq(f.net->pairs[0].rx.stats.interrupts, calls);
	rig_free(f.rig);
}

Test(net_ctrl, interrupts_come_after_the_time_though_nothing_follows)
{
	struct fixture f;
	uint32_t used;

	setup_pairs(&f, 1, 0, 0);
	cr_assert_eq(coalesce(&f, NET_COAL_RX_SET, 50, 32), NET_ACK_OK);
	for (unsigned i = 0; i < 4; i++)
		offer(&f, BUF + i * 4096, 2000);
	kick(&f, RX);
	harness_calls(f.rx);
	for (int round = 0; round < 3; round++) {
		unsigned calls = 0;

		arrive(60);
		fake.events.readable(fake.events.ctx);
		cr_assert_eq(used_of(f.rx, &used), 1, "the frame is there at once");
		for (int i = 0; i < 60000 && !calls; i++) {
			rig_run(f.rig, 1);
			calls = harness_calls(f.rx);
		}
		cr_assert_eq(calls, 1, "round %d", round);
	}
	rig_free(f.rig);
}

Test(net_ctrl, queues_without_coalescing_ring_as_ever)
{
	struct fixture f;
	uint32_t v[3] = { 0, 16, NET_COAL_USECS_MAX }, used;

	setup_pairs(&f, 1, 0, 0);
	put_le16(v, 1); /* the transmit queue only */
	cr_assert_eq(command(&f, NET_CTRL_NOTF_COAL, NET_COAL_VQ_SET, v, 12), NET_ACK_OK);
	offer(&f, BUF, 2000);
	kick(&f, RX);
	harness_calls(f.rx);
	arrive(60);
	fake.events.readable(fake.events.ctx);
	cr_assert_eq(harness_calls(f.rx), 1);
	transmit(&f, &plain, 1, (const uint32_t[]){ 12, 60 }, 2);
	cr_assert_eq(harness_calls(f.tx), 0);
	cr_assert_eq(used_of(f.tx, &used), 1);
	cr_assert_eq(coalesce(&f, NET_COAL_TX_SET, 0, 0), NET_ACK_OK);
	cr_assert_eq(harness_calls(f.tx), 1, "what waited is rung for");
	rig_free(f.rig);
}

Test(net_ctrl, coalescing_is_told_per_queue_and_gone_after_a_reset)
{
	uint32_t set[3] = { 0, 7, 100 }, got[2], used;
	uint8_t ask[4] = { NET_CTRL_NOTF_COAL, NET_COAL_VQ_GET, 2, 0 };
	struct fixture f;

	setup_pairs(&f, 2, 0, 0);
	put_le16(set, 2);
	cr_assert_eq(command(&f, NET_CTRL_NOTF_COAL, NET_COAL_VQ_SET, set, 12), NET_ACK_OK);
	for (uint8_t q = 0; q < 4; q++) {
		ask[2] = q;
		post(&f, ask, sizeof(ask), 9);
		cr_assert_eq(answer_to(&f, &used), NET_ACK_OK);
		cr_assert_eq(used, 9);
		memcpy(got, (uint8_t *)harness_at(ctrl_of(&f), CMD + 0x4000) + 1, 8);
		cr_assert_eq(got[0], q == 2 ? 7 : 0);
		cr_assert_eq(got[1], q == 2 ? 100 : 0);
	}
	put_le16(set, 4); /* the control queue itself, and none at all */
	cr_assert_eq(command(&f, NET_CTRL_NOTF_COAL, NET_COAL_VQ_SET, set, 12), NET_ACK_ERR);
	put_le16(set, 0xffff);
	cr_assert_eq(command(&f, NET_CTRL_NOTF_COAL, NET_COAL_VQ_SET, set, 12), NET_ACK_ERR);
	for (unsigned i = 0; i < 5; i++)
		rig_stop(f.rig, i);
	virtio_net_type.reset(f.rig->dev);
	cr_assert_eq(f.net->now.coal_usecs[2], 0);
	rig_free(f.rig);
}

/* --- hostile --- */

Test(net_ctrl, nt_07_whatever_is_no_command_is_answered_and_changes_nothing)
{
	struct net_settings before;
	struct fixture f;
	uint8_t data[16] = { 0 };

	setup_pairs(&f, 2, 0, 0);
	before = f.net->now;
	for (unsigned class = 0; class < 256; class++)
		for (unsigned cmd = 0; cmd < 256; cmd += class < 8 ? 1 : 85)
			if (class > 6 || cmd > 5)
				cr_assert_eq(command(&f, (uint8_t)class, (uint8_t)cmd, data, 8),
					NET_ACK_ERR, "class %u command %u", class, cmd);
	/* Every command with every wrong length. */
	for (uint8_t class = 0; class <= 6; class++)
		for (uint8_t cmd = 0; cmd < 6; cmd++)
			for (uint32_t len = 13; len < 16; len++)
				if (class != NET_CTRL_ANNOUNCE)
					cr_assert_eq(command(&f, class, cmd, data, len),
						NET_ACK_ERR);
	cr_assert_eq(mode(&f, NET_RX_PROMISC, 2), NET_ACK_ERR);
	cr_assert_eq(memcmp(&before, &f.net->now, sizeof(before)), 0);
	cr_assert_eq(f.net->ctrl.refused, f.net->ctrl.commands);
	rig_free(f.rig);
}

Test(net_ctrl, nt_07_short_commands_and_missing_answers_come_back)
{
	struct fixture f;
	uint8_t head[2] = { NET_CTRL_RX, NET_RX_PROMISC }, on[3] = { 0, 0, 0 };
	uint32_t used;

	setup_pairs(&f, 1, 0, 0);
	post(&f, head, 0, 1);
	cr_assert_eq(answer_to(&f, &used), NET_ACK_ERR, "nothing to read");
	post(&f, head, 1, 1);
	cr_assert_eq(answer_to(&f, &used), NET_ACK_ERR);
	post(&f, head, 2, 1);
	cr_assert_eq(answer_to(&f, &used), NET_ACK_ERR);
	post(&f, on, 3, 0);
	cr_assert_eq(answer_to(&f, &used), SILENT, "no room to answer");
	cr_assert_eq(used, 0);
	cr_assert(f.net->now.filter.mode[NET_RX_PROMISC], "and so it was not carried out");
	post(&f, on, 3, 1);
	cr_assert_eq(answer_to(&f, &used), NET_ACK_OK);
	rig_free(f.rig);
}

Test(net_ctrl, a_result_without_room_for_it_is_left_out)
{
	uint8_t ask[4] = { NET_CTRL_NOTF_COAL, NET_COAL_VQ_GET, 0, 0 };
	struct fixture f;
	uint32_t used;

	setup_pairs(&f, 1, 0, 0);
	for (uint32_t room = 1; room < 9; room++) {
		post(&f, ask, sizeof(ask), room);
		cr_assert_eq(answer_to(&f, &used), NET_ACK_OK);
		cr_assert_eq(used, 1);
	}
	rig_free(f.rig);
}

Test(net_ctrl, commands_are_refused_that_were_not_negotiated)
{
	struct fixture f;
	uint8_t on = 0;

	fake_pairs = 1;
	setup(&f, 0, B(NET_F_CTRL_VQ));
	rig_start(f.rig, 2, QUEUE, B(NET_F_CTRL_VQ));
	cr_assert_eq(mode(&f, NET_RX_PROMISC, on), NET_ACK_ERR);
	cr_assert_eq(set_table(&f, 0, 0), NET_ACK_ERR);
	cr_assert_eq(command(&f, NET_CTRL_MAC, NET_MAC_ADDR_SET, other, 6), NET_ACK_ERR);
	cr_assert_eq(command16(&f, NET_CTRL_VLAN, NET_VLAN_ADD, 1), NET_ACK_ERR);
	cr_assert_eq(command(&f, NET_CTRL_ANNOUNCE, 0, NULL, 0), NET_ACK_ERR);
	cr_assert_eq(coalesce(&f, NET_COAL_RX_SET, 1, 1), NET_ACK_ERR);
	rig_free(f.rig);
}

/* --- state --- */

Test(net_ctrl, settings_are_saved_and_loaded)
{
	const struct state_desc *desc = virtio_net_type.state;
	struct state_writer w = { 0 };
	struct state_reader r;
	struct fixture f;
	struct error err;

	setup_pairs(&f, 2, 0, 0);
	cr_assert_eq(command16(&f, NET_CTRL_MQ, 0, 2), NET_ACK_OK);
	mode(&f, NET_RX_PROMISC, 0);
	set_table(&f, 1, 0);
	coalesce(&f, NET_COAL_RX_SET, 50, 32);
	command(&f, NET_CTRL_MAC, NET_MAC_ADDR_SET, other, 6);
	cr_assert_eq(state_save(&w, desc, f.rig->dev), 0);
	rig_free(f.rig);

	fake_pairs = 2;
	setup(&f, 0, CTRL_FEATURES | B(NET_F_MQ));
	rig_stop(f.rig, RX);
	rig_stop(f.rig, TX);
	virtio_net_type.reset(f.rig->dev);
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(state_load(&r, desc, f.rig->dev, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < 5; i++)
		rig_start(f.rig, i, QUEUE, CTRL_FEATURES | B(NET_F_MQ));
	cr_assert_not(fakes[1].off, "the second pair is in use again");
	cr_assert(passes(&f, other) && !passes(&f, ours) && !passes(&f, group));
	cr_assert_eq(f.net->pairs[1].rx.coal_ns, 50000);
	rig_free(f.rig);

	fake_pairs = 1;
	setup(&f, 0, CTRL_FEATURES);
	r = (struct state_reader){ w.data, w.len, 0 };
	rig_stop(f.rig, RX);
	rig_stop(f.rig, TX);
	cr_assert_neq(state_load(&r, desc, f.rig->dev, &err), 0);
	cr_assert(strstr(err.text, "num_queues"), "%s", err.text);
	rig_free(f.rig);
	state_writer_free(&w);
}
