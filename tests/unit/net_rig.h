/*
 * virtio-net between a driver on its rings and links that the test plays. Included by one .c of a
 * test program.
 */
#ifndef TESTS_UNIT_NET_RIG_H
#define TESTS_UNIT_NET_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

#define RIG __attribute__((unused)) static

enum {
	RX = 0, TX = 1,
	QUEUE = 64,
	SENT_MAX = 64,
	BUF = HARNESS_HIGH,       /* receive buffers and frames to send */
};
#define B(n) VIRTIO_BIT(n)
#define FAKE_MAC "\x02\x01\x02\x03\x04\x05"
#define CSUM_TSO (B(NET_F_CSUM) | B(NET_F_HOST_TSO4) | B(NET_F_HOST_TSO6))

/* A link whose wire is two arrays. */
struct fake {
	struct link link;
	struct link_events events;
	bool listening, attached, off;
	unsigned set_to;                  /* last set_offload */
	int send_says;
	unsigned room;                    /* it takes so many more frames */
	unsigned sends, nsent;            /* of frames */
	unsigned send_calls, recv_calls;
	struct {
		size_t total;
		uint8_t header[LINK_HEADER_LEN], first, last;
	} sent[SENT_MAX];
	unsigned nwaiting, taken;         /* frames that wait to be received */
	size_t waiting[SENT_MAX];
};

RIG int fake_send_one(struct fake *f, struct iovec *iov, int n, size_t total)
{
	size_t sum = 0;

	f->sends++;
	if (f->send_says)
		return f->send_says;
	if (!f->room)
		return -EAGAIN;
	f->room--;
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

RIG unsigned fake_send(struct link *l, struct link_frame *frame, unsigned n)
{
	struct fake *f = container_of(l, struct fake, link);
	const struct iovec *next = frame->iov;
	unsigned i = 0;

	cr_assert(n && n <= LINK_BATCH_MAX);
	f->send_calls++;
	for (; i < n; next = frame[i].iov + frame[i].n, i++) {
		cr_assert_eq(frame[i].iov, next, "all in one array");
		frame[i].result = fake_send_one(f, frame[i].iov, frame[i].n, frame[i].total);
		if (frame[i].result == -EAGAIN)
			break;
	}
	return i;
}

/* Frame i is filled with i + 1 behind a header of 0x80 bytes. */
RIG ssize_t fake_recv_one(struct fake *f, struct iovec *iov, int n)
{
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

RIG unsigned fake_recv(struct link *l, struct link_frame *frame, unsigned n)
{
	struct fake *f = container_of(l, struct fake, link);
	unsigned i = 0;

	cr_assert(n && n <= LINK_BATCH_MAX);
	f->recv_calls++;
	for (; i < n; i++) {
		frame[i].result = fake_recv_one(f, frame[i].iov, frame[i].n);
		if (frame[i].result == -EAGAIN)
			break;
	}
	return i;
}

RIG int fake_attach(struct link *l, struct loop *loop, const struct link_events *events)
{
	struct fake *f = container_of(l, struct fake, link);

	(void)loop;
	f->events = *events;
	f->attached = true;
	return 0;
}

RIG void fake_listen(struct link *l, bool on)
{
	container_of(l, struct fake, link)->listening = on;
}

RIG void fake_detach(struct link *l)
{
	container_of(l, struct fake, link)->attached = false;
}

RIG int fake_set_offload(struct link *l, unsigned offloads)
{
	container_of(l, struct fake, link)->set_to = offloads;
	return 0;
}

RIG int fake_enable(struct link *l, bool on)
{
	container_of(l, struct fake, link)->off = !on;
	return 0;
}

RIG void fake_close(struct link *l)
{
	(void)l;
}

RIG const struct link_ops fake_ops = {
	.send = fake_send,
	.recv = fake_recv,
	.attach = fake_attach,
	.listen = fake_listen,
	.detach = fake_detach,
	.set_offload = fake_set_offload,
	.enable = fake_enable,
	.close = fake_close,
};

static struct fake fakes[NET_PAIRS_MAX];
#define fake fakes[0] /* the link of the first pair */

static unsigned fake_pairs = 1;
static bool fake_anti_spoof;

RIG int create_on_fake(struct virtio_device *dev, const struct device_env *env,
	const void *options,
	struct error *err)
{
	struct net *net = container_of(dev, struct net, dev);
	struct link *links[NET_PAIRS_MAX];
	const struct net_setup setup = { .links = links, .npairs = fake_pairs,
		.anti_spoof = fake_anti_spoof };

	(void)env;
	(void)options;
	for (unsigned i = 0; i < fake_pairs; i++) {
		fakes[i].link.ops = &fake_ops;
		fakes[i].link.up = true;
		links[i] = &fakes[i].link;
	}
	memcpy(net->mac, FAKE_MAC, 6);
	return net_init(net, &setup, err);
}

struct fixture {
	struct rig *rig;
	struct net *net;
	struct harness *rx, *tx;
};

RIG void setup(struct fixture *f, unsigned offloads, uint64_t features)
{
	static struct virtio_type type;
	struct error err = { "" };

	log_level = LOG_ERROR;
	type = virtio_net_type;
	type.create = create_on_fake;
	memset(fakes, 0, sizeof(fakes));
	for (unsigned i = 0; i < fake_pairs; i++) {
		fakes[i].link.offloads = offloads;
		fakes[i].room = UINT32_MAX;
	}
	f->rig = rig_new(&type, "user=on", &err);
	cr_assert(f->rig, "%s", err.text);
	f->net = container_of(f->rig->dev, struct net, dev);
	rig_start(f->rig, RX, QUEUE, features);
	rig_start(f->rig, TX, QUEUE, features);
	f->rx = f->rig->h[RX];
	f->tx = f->rig->h[TX];
}

RIG void kick(struct fixture *f, unsigned i)
{
	vd_kick(&f->rig->h[i]->vd);
	cr_assert_geq(rig_kick(f->rig, i), 0);
}

/* A buffer to receive into. */
RIG void offer(struct fixture *f, uint64_t addr, uint32_t len)
{
	struct vd_seg seg = { addr, len };

	cr_assert(vd_add(&f->rx->vd, &seg, 0, 1, f));
}

/* A queue that was stopped goes on where it was; the driver notices nothing. */
RIG void go_on(struct fixture *f, unsigned i)
{
	struct harness *h = f->rig->h[i];

	harness_reopen(h);
	queue_set_loop(h->q, f->rig->loop);
	cr_assert_eq(virtio_net_type.queue_start(f->rig->dev, h->q), 0);
	cr_assert_geq(rig_kick(f->rig, i), 0);
}

RIG int used_of(struct harness *h, uint32_t *len)
{
	void *cookie;

	return vd_poll(&h->vd, &cookie, len);
}

RIG void arrive(size_t frame)
{
	fake.waiting[fake.nwaiting++] = frame;
}

/* Send header and `frame` bytes (of value v) as these pieces. */
RIG void transmit(struct fixture *f, const struct net_header *h, uint8_t v,
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

RIG const struct net_header plain;

/* All drops of a queue, whatever the reason. */
RIG uint64_t dropped(const struct net_lane *lane)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < NET_DROPS; i++)
		sum += lane->stats.dropped[i];
	return sum;
}

RIG void refused(const char *text, const char *want)
{
	struct error err = { "" };

	cr_assert_null(rig_new(&virtio_net_type, text, &err));
	cr_assert(strstr(err.text, want), "%s: %s", text, err.text);
}

#endif
