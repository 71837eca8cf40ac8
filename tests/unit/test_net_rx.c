/*
 * Batches of frames through virtio-net: what arrives together keeps its order and its bytes,
 * whatever has to be moved, and what the link cannot take waits.
 */
#include "tests/unit/net_rig.h"
#include "tests/unit/rounds.h"

enum { SPACE = 8192, SLOTS = HARNESS_REGION / SPACE };

struct buffer {
	uint64_t addr;
	uint32_t len;
};

static struct buffer buffers[SLOTS];
static unsigned nfreed, freed[4096]; /* that came back since the driver gave some last */

/* Buffer i of the array, `len` bytes. Not kicked. */
static void stage(struct fixture *f, unsigned i, uint32_t len)
{
	struct vd_seg seg = { BUF + i * (uint64_t)SPACE, len };

	buffers[i] = (struct buffer){ seg.addr, len };
	memset(harness_at(f->rx, seg.addr), 0xee, len);
	cr_assert(vd_add(&f->rx->vd, &seg, 0, 1, &buffers[i]));
}

static void poll_link(void)
{
	fake.events.readable(fake.events.ctx);
}

/* The next frame that the driver got: its length and the value it is made of. 0: none. */
static size_t next_frame(struct fixture *f, uint8_t *value)
{
	unsigned left = 1;
	size_t len = 0;

	for (unsigned i = 0; i < left; i++) {
		const uint8_t *p;
		struct buffer *b;
		uint32_t used;
		void *cookie;
		int r = vd_poll(&f->rx->vd, &cookie, &used);

		if (!i && !r)
			return 0;
		cr_assert_eq(r, 1, "%u of %u buffers of a frame", i, left);
		b = cookie;
		p = harness_at(f->rx, b->addr);
		if (!i) {
			left = get_le16(p + 10);
			*value = p[LINK_HEADER_LEN];
		}
		cr_assert(used && used <= b->len);
		freed[nfreed++] = (unsigned)(b - buffers);
		cr_assert(i + 1 == left || used == b->len, "all but the last are full");
		for (uint32_t k = 0; k < used; k++, len++)
			cr_assert(len == 10 || len == 11 || p[k] == (len < LINK_HEADER_LEN ? 0x80 : *value),
				"byte %zu of frame %u is %#x", len, *value, p[k]);
	}
	return len - LINK_HEADER_LEN;
}

static void expect(struct fixture *f, uint8_t value, size_t len)
{
	uint8_t found = 0;

	cr_assert_eq(next_frame(f, &found), len, "frame %u", value);
	cr_assert_eq(found, value);
}

static void expect_none(struct fixture *f)
{
	uint8_t found;

	cr_assert_eq(next_frame(f, &found), 0);
}

/* --- receive --- */

Test(net_rx, many_frames_come_by_few_calls)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < QUEUE; i++)
		stage(&f, i, 2000);
	for (unsigned i = 0; i < QUEUE - 1; i++)
		arrive(60 + i);
	kick(&f, RX);
	cr_assert_leq(fake.recv_calls, 5, "4, 16, 32, and what is left");
	for (unsigned i = 0; i < QUEUE - 1; i++)
		expect(&f, (uint8_t)(i + 1), 60 + i);
	expect_none(&f);
	rig_free(f.rig);
}

Test(net_rx, a_batch_grows_while_there_is_more_and_shrinks_again)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < QUEUE; i++)
		stage(&f, i, 2000);
	kick(&f, RX);
	cr_assert_eq(f.net->pairs[0].rx_batch, 2, "one, and whether there is another");
	for (unsigned i = 0; i < 20; i++)
		arrive(60);
	poll_link();
	cr_assert_gt(f.net->pairs[0].rx_batch, 1);
	fake.recv_calls = 0;
	poll_link();
	arrive(60);
	poll_link();
	cr_assert_eq(f.net->pairs[0].rx_batch, 2);
	cr_assert_eq(fake.recv_calls, 2);
	rig_free(f.rig);
}

static void larger_than_usual(uint64_t ring)
{
	static const size_t sizes[] = { 60, 9000, 1514, 60, 5000, 100 };
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF) | ring);
	for (unsigned i = 0; i < 32; i++)
		stage(&f, i, 2000);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(sizes); i++)
		arrive(sizes[i % ARRAY_SIZE(sizes)]);
	f.net->pairs[0].rx_batch = NET_RX_BATCH;
	kick(&f, RX);
	cr_assert_lt(fake.recv_calls, fake.nwaiting);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(sizes); i++)
		expect(&f, (uint8_t)(i + 1), sizes[i % ARRAY_SIZE(sizes)]);
	expect_none(&f);
	cr_assert(f.net->pairs[0].rx_large, "more of that kind are expected");
	cr_assert_eq(dropped(&f.net->pairs[0].rx), 0);
	virtio_net_type.queue_stop(f.rig->dev, f.rx->q);
	arrive(300);
	go_on(&f, RX);
	expect(&f, 13, 300);
	rig_free(f.rig);
}

Test(net_rx, a_frame_larger_than_usual_moves_those_behind_it)
{
	larger_than_usual(0);
	larger_than_usual(VD_F_PACKED);
	larger_than_usual(VD_F_IN_ORDER);
	larger_than_usual(VD_F_PACKED | VD_F_IN_ORDER);
}

Test(net_rx, one_that_spills_beyond_the_last_buffer_is_dropped_alone)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < 3; i++)
		stage(&f, i, 2000);
	arrive(60);
	arrive(30000);
	arrive(61);
	kick(&f, RX);
	expect(&f, 1, 60);
	expect(&f, 3, 61);
	expect_none(&f);
	cr_assert_eq(f.net->pairs[0].rx.stats.dropped[NET_DROP_SIZE], 1);
	rig_free(f.rig);
}

Test(net_rx, large_frames_that_are_alike_come_by_few_calls)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < QUEUE; i++)
		stage(&f, i, 4000);
	for (unsigned i = 0; i < 30; i++)
		arrive(7000);
	kick(&f, RX);
	cr_assert_leq(fake.recv_calls, 14, "some that spill, ones of the largest size, then 2, 8, and what fits");
	for (unsigned i = 0; i < 30; i++)
		expect(&f, (uint8_t)(i + 1), 7000);
	rig_free(f.rig);
}

Test(net_rx, a_large_frame_waits_for_the_buffers_that_the_driver_has_back)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF) | VD_F_PACKED);
	f.net->pairs[0].rx_large = 64;
	for (unsigned i = 0; i < 16; i++)
		stage(&f, i, 4000);
	for (unsigned i = 0; i < 4; i++)
		arrive(20000);
	kick(&f, RX);
	for (unsigned i = 0; i < 2; i++)
		expect(&f, (uint8_t)(i + 1), 20000);
	expect_none(&f);
	cr_assert_eq(fake.taken, 3);
	cr_assert_not(fake.listening, "the next one waits in the link");
	poll_link();
	cr_assert_eq(fake.taken, 3);
	stage(&f, 0, 4000);
	kick(&f, RX);
	expect_none(&f);
	for (unsigned i = 1; i < 12; i++)
		stage(&f, i, 4000);
	kick(&f, RX);
	expect(&f, 3, 20000);
	expect(&f, 4, 20000);
	cr_assert(fake.listening);
	cr_assert_eq(dropped(&f.net->pairs[0].rx), 0);
	rig_free(f.rig);
}

/* Not read, kept and copied; but a driver that gives too little has it read all the same. */
Test(net_rx, a_frame_that_will_not_fit_stays_in_the_link_until_the_driver_gives_something)
{
	enum { TAKES = 3, FIT = QUEUE / TAKES };
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < QUEUE; i++)
		stage(&f, i, 4000);
	for (unsigned i = 0; i < FIT + 2; i++)
		arrive(11000);
	kick(&f, RX);
	for (unsigned i = 0; i < FIT; i++)
		expect(&f, (uint8_t)(i + 1), 11000);
	expect_none(&f);
	cr_assert_eq(fake.taken, FIT, "the next one lies in the link");
	cr_assert_not(fake.listening);
	stage(&f, 0, 4000);
	kick(&f, RX);
	cr_assert_eq(fake.taken, FIT + 1);
	expect_none(&f);
	for (unsigned i = 1; i < 2 * TAKES; i++)
		stage(&f, i, 4000);
	kick(&f, RX);
	expect(&f, FIT + 1, 11000);
	expect(&f, FIT + 2, 11000);
	cr_assert_eq(dropped(&f.net->pairs[0].rx), 0);
	rig_free(f.rig);
}

Test(net_rx, a_frame_that_waits_is_out_of_the_way_of_those_in_front)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < 16; i++)
		stage(&f, i, 2000);
	for (unsigned i = 0; i < 10; i++)
		arrive(60);
	kick(&f, RX);
	for (unsigned i = 0; i < 10; i++)
		expect(&f, (uint8_t)(i + 1), 60);
	f.net->pairs[0].rx_batch = NET_RX_BATCH;
	arrive(5000);
	arrive(8000);
	poll_link();
	expect(&f, 11, 5000);
	expect_none(&f);
	for (unsigned i = 0; i < 10; i++)
		stage(&f, i, 2000);
	kick(&f, RX);
	expect(&f, 12, 8000);
	cr_assert_eq(dropped(&f.net->pairs[0].rx), 0);
	rig_free(f.rig);
}

Test(net_rx, a_frame_that_waits_is_lost_with_a_stop_and_its_buffers_go_back)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < 16; i++)
		stage(&f, i, 4000);
	for (unsigned i = 0; i < 3; i++)
		arrive(20000);
	kick(&f, RX);
	expect(&f, 1, 20000);
	expect(&f, 2, 20000);
	cr_assert(f.net->pairs[0].rx_waiting);
	rig_free(f.rig); /* aborts when a chain is left */
}

/* Frames of an even value are for another station, those of an odd one for a group. */
static void filter_even(struct fixture *f)
{
	struct net_filter *filter = &f->net->pairs[0].filter;

	filter->mode[NET_RX_PROMISC] = false;
	filter->mode[NET_RX_ALLMULTI] = true;
}

Test(net_rx, frames_for_others_leave_no_gap)
{
	struct fixture f;

	setup(&f, 0, B(NET_F_MRG_RXBUF) | VD_F_PACKED);
	for (unsigned i = 0; i < 32; i++)
		stage(&f, i, i % 2 ? 100 : 2000);
	filter_even(&f);
	f.net->pairs[0].rx_batch = NET_RX_BATCH;
	for (unsigned i = 0; i < 12; i++)
		arrive(60 + 40 * i);
	kick(&f, RX);
	for (unsigned i = 0; i < 12; i += 2)
		expect(&f, (uint8_t)(i + 1), 60 + 40 * i);
	expect_none(&f);
	cr_assert_eq(f.net->pairs[0].rx.stats.dropped[NET_DROP_FILTER], 6);
	rig_free(f.rig); /* aborts when buffers do not go back in order */
}

Test(net_rx, without_merging_a_frame_moves_into_the_buffer_that_another_did_not_fit)
{
	struct fixture f;

	setup(&f, 0, VD_F_PACKED);
	stage(&f, 0, 100);
	stage(&f, 1, 2000);
	stage(&f, 2, 2000);
	stage(&f, 3, 80);
	f.net->pairs[0].rx_batch = NET_RX_BATCH;
	arrive(1000);
	arrive(60);
	arrive(1200);
	arrive(68);
	kick(&f, RX);
	expect(&f, 2, 60);
	expect(&f, 3, 1200);
	expect(&f, 4, 68);
	expect_none(&f);
	rig_free(f.rig);
}

/* --- any mixture --- */

static uint32_t pick(uint64_t *seed, uint32_t n)
{
	*seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)(*seed >> 33) % n;
}

/* What the driver got since: in order, and as long as it was sent. */
static unsigned drain(struct fixture *f, uint8_t *last)
{
	unsigned n = 0;
	uint8_t value;
	size_t len;

	for (; (len = next_frame(f, &value)); n++) {
		cr_assert_gt(value, *last, "frame %u after %u", value, *last);
		cr_assert_eq(len, fake.waiting[value - 1]);
		*last = value;
	}
	return n;
}

/* Some of the buffers that came back, or all. */
static void give_back(struct fixture *f, unsigned n)
{
	while (n-- && nfreed--)
		stage(f, freed[nfreed], buffers[freed[nfreed]].len);
	kick(f, RX);
}

static void any_mixture(uint64_t seed)
{
	static const uint64_t rings[] = { 0, VD_F_PACKED, VD_F_IN_ORDER, VD_F_PACKED | VD_F_IN_ORDER };
	bool merge = pick(&seed, 4);
	struct net_pair *p;
	struct fixture f;
	unsigned got = 0;
	uint8_t last = 0;

	nfreed = 0;
	setup(&f, 0, rings[pick(&seed, 4)] | (merge ? B(NET_F_MRG_RXBUF) : 0));
	p = &f.net->pairs[0];
	p->rx_batch = 1 + pick(&seed, NET_RX_BATCH);
	if (pick(&seed, 2))
		filter_even(&f);
	for (unsigned i = 0; i < QUEUE; i++)
		stage(&f, i, pick(&seed, 3) ? 1600 : 16 + pick(&seed, 4000));
	kick(&f, RX);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = round < 4 ? pick(&seed, SENT_MAX / 4) : 0; i; i--)
			arrive(LINK_FRAME_MIN + (pick(&seed, 5) ? pick(&seed, 1500) : pick(&seed, 20000)));
		poll_link();
		got += drain(&f, &last);
		give_back(&f, round == 4 ? nfreed : pick(&seed, nfreed + 1));
		got += drain(&f, &last);
		cr_assert_eq(got + dropped(&p->rx) + (p->rx_waiting > 0), fake.taken, "each is there, waits, or was counted");
	}
	cr_assert_not(p->rx_waiting, "with all buffers there again it is there or was dropped");
	rig_free(f.rig);
}

Test(net_rx, any_mixture_of_buffers_and_frames_keeps_order_and_bytes)
{
	for (uint64_t seed = 1; seed <= rounds(2000); seed++)
		any_mixture(seed);
}

/* --- transmit --- */

/* Frame i, of 60 bytes of value i, its pieces staged and not kicked. `short_by` bytes are missing. */
static void stage_frame(struct fixture *f, unsigned i, uint32_t short_by)
{
	struct vd_seg seg = { BUF + i * (uint64_t)SPACE, LINK_HEADER_LEN + 60 - short_by };
	uint8_t *p = harness_at(f->tx, seg.addr);

	memset(p, 0, LINK_HEADER_LEN);
	memset(p + LINK_HEADER_LEN, (int)i, 60);
	cr_assert(vd_add(&f->tx->vd, &seg, 1, 0, f));
}

Test(net_tx, many_frames_leave_by_one_call_around_one_that_is_none)
{
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	for (unsigned i = 0; i < 40; i++)
		stage_frame(&f, i, i == 20 ? 50 : 0);
	kick(&f, TX);
	cr_assert_eq(fake.send_calls, 2);
	cr_assert_eq(fake.nsent, 39);
	for (unsigned i = 0; i < 39; i++)
		cr_assert_eq(fake.sent[i].first, i + (i >= 20));
	for (unsigned i = 0; i < 40; i++)
		cr_assert_eq(used_of(f.tx, &used), 1);
	cr_assert_eq(dropped(&f.net->pairs[0].tx), 1);
	rig_free(f.rig);
}

Test(net_tx, what_a_link_cannot_take_of_a_batch_waits_and_keeps_its_place)
{
	struct fixture f;
	uint32_t used;

	setup(&f, 0, 0);
	fake.room = 3;
	for (unsigned i = 0; i < 10; i++)
		stage_frame(&f, i, i == 7 ? 50 : 0);
	kick(&f, TX);
	cr_assert_eq(fake.nsent, 3);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(used_of(f.tx, &used), 1);
	cr_assert_eq(used_of(f.tx, &used), 0);
	stage_frame(&f, 10, 0);
	kick(&f, TX);
	cr_assert_eq(fake.nsent, 3, "none overtakes");
	fake.room = 5;
	fake.events.writable(fake.events.ctx);
	cr_assert_eq(fake.nsent, 8);
	fake.room = SENT_MAX;
	fake.events.writable(fake.events.ctx);
	cr_assert_eq(fake.nsent, 10);
	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(fake.sent[i].first, i + (i >= 7));
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(used_of(f.tx, &used), 1);
	rig_free(f.rig);
}

Test(net_tx, a_stop_in_the_middle_of_a_batch_gives_the_rest_back)
{
	struct fixture f;

	setup(&f, 0, VD_F_PACKED);
	fake.room = 3;
	for (unsigned i = 0; i < 10; i++)
		stage_frame(&f, i, i == 7 ? 50 : 0);
	kick(&f, TX);
	cr_assert_eq(queue_in_flight(f.tx->q), 7);
	virtio_net_type.queue_stop(f.rig->dev, f.tx->q);
	cr_assert_eq(queue_in_flight(f.tx->q), 0);
	fake.room = SENT_MAX;
	go_on(&f, TX);
	cr_assert_eq(fake.nsent, 9);
	for (unsigned i = 0; i < 9; i++)
		cr_assert_eq(fake.sent[i].first, i + (i >= 7));
	rig_free(f.rig);
}
