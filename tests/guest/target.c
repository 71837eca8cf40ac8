/*
 * Devices under attack: how each is started and what a good request to it is, and rings written by hand, for what the driver
 * in tests/driver would never write. Rings made by hand begin at place 0, with nothing in flight.
 */
#include "tests/guest/attack.h"
#include "tests/guest/blk.h"

enum { USED_IDX = 2, USED_RING = 4, AVAIL_IDX = 2, AVAIL_RING = 4, STATUS_LOOK = 2000 };
enum { NET_HEADER = 12, ETH = 14, ARP = 28, TYPE_ARP = 0x0806, NET_MAC = 0, FRAME = 2048, GUARD = 8192, GUARD_BYTE = 0x3c };

static const struct {
	const char *name;
	uint8_t queues;
} kinds[TARGETS] = {
	[TARGET_BLK] = { "blk", 1 },
	[TARGET_RNG] = { "rng", 1 },
	[TARGET_NET_TX] = { "net_tx", 2 },
	[TARGET_NET_RX] = { "net_rx", 2 },
	[TARGET_CONSOLE_TX] = { "console_tx", 2 },
};

const char *target_name(enum target_kind kind)
{
	return kinds[kind].name;
}

bool target_negotiate(struct target *t, uint64_t features)
{
	dma_reset();
	t->in = dma(ARENA, 4096);
	t->out = dma(ARENA, 4096);
	t->behind = dma(GUARD, 4096);
	fill(t->behind, GUARD_BYTE, GUARD);
	return vio_negotiate(&t->v, features | (is_packed() ? VD_F_PACKED : 0));
}

bool target_guarded(const struct target *t)
{
	for (unsigned i = 0; i < GUARD; i++)
		if (t->behind[i] != GUARD_BYTE)
			return false;
	return true;
}

bool target_start(struct target *t)
{
	if (!target_negotiate(t, VD_F_VERSION_1 | t->features))
		return false;
	for (unsigned i = 0; i < kinds[t->kind].queues; i++)
		if (!vio_queue(&t->v, i, RING))
			return false;
	vio_ready(&t->v);
	return !(vio_status(&t->v) & (VIO_NEEDS_RESET | VIO_FAILED));
}

static bool blk_serves(struct target *t)
{
	struct blk_header *header = (struct blk_header *)t->in;
	volatile uint8_t *status = t->out + SECTOR;
	uint32_t len = 0;

	*header = (struct blk_header){ .type = BLK_IN, .sector = 9 };
	*status = BLK_NONE;
	return vio_transfer(&t->v, 0, (struct vd_seg[]){ vio_seg(header, 16), vio_seg(t->out, SECTOR + 1) }, 1, 1, &len) &&
		*status == BLK_OK && len == SECTOR + 1;
}

/* RFC 826: who has the host's address? The host's answer comes back on the receive queue. */
unsigned target_arp(struct target *t, uint8_t *p)
{
	static const uint8_t head[] = { 0, 1, 8, 0, 6, 4, 0, 1 };
	uint32_t ip = __builtin_bswap32((uint32_t)arg_u64("ip", 0)), peer = __builtin_bswap32((uint32_t)arg_u64("peer", 0));

	fill(p, 0, NET_HEADER + ETH + ARP);
	p += NET_HEADER;
	fill(p, 0xff, 6);
	for (unsigned i = 0; i < 6; i++)
		p[6 + i] = p[ETH + 8 + i] = (uint8_t)vio_config(&t->v, NET_MAC + i, 1);
	p[12] = TYPE_ARP >> 8;
	p[13] = TYPE_ARP & 0xff;
	__builtin_memcpy(p + ETH, head, sizeof(head));
	__builtin_memcpy(p + ETH + 14, &ip, 4);
	__builtin_memcpy(p + ETH + 24, &peer, 4);
	return NET_HEADER + ETH + ARP;
}

static bool net_serves(struct target *t)
{
	struct vd_seg rx = vio_seg(t->out, FRAME);
	uint32_t len = 0;
	void *cookie;

	target_arp(t, t->in);
	if (!vd_add(&t->v.queue[0].vd, &rx, 0, 1, t))
		return false;
	vd_kick(&t->v.queue[0].vd);
	if (!vio_transfer(&t->v, 1, (struct vd_seg[]){ vio_seg(t->in, NET_HEADER + ETH + ARP) }, 1, 0, NULL))
		return false;
	return vio_wait(&t->v.queue[0], &cookie, &len) == 1 && len >= NET_HEADER + ETH;
}

bool target_serves(struct target *t)
{
	uint32_t len = 0;

	switch (t->kind) {
	case TARGET_BLK:
		return blk_serves(t);
	case TARGET_RNG:
		return vio_transfer(&t->v, 0, (struct vd_seg[]){ vio_seg(t->out, 64) }, 0, 1, &len) && len == 64;
	case TARGET_CONSOLE_TX:
		return vio_transfer(&t->v, 1, (struct vd_seg[]){ vio_seg("good\n", 5) }, 1, 0, &len);
	default:
		return net_serves(t);
	}
}

void target_must(struct target *t, enum outcome outcome)
{
	uint64_t start = cycles();

	if (outcome == SERVES) {
		must(!(vio_status(&t->v) & VIO_NEEDS_RESET), "the device wants a reset");
		return;
	}
	if (outcome == EITHER) {
		pause_for(STATUS_LOOK);
		return;
	}
	while (!(vio_status(&t->v) & VIO_NEEDS_RESET)) {
		if (cycles() - start > PATIENCE / 4) {
			fail("the device does not ask for a reset: status 0x%x", vio_status(&t->v));
			return;
		}
		pause_for(STATUS_LOOK);
	}
}

static struct raw *ring_of(const struct target *t)
{
	return (struct raw *)t->v.queue[t->queue].desc;
}

void raw_put(struct target *t, unsigned i, struct raw d)
{
	if (is_packed()) {
		/* id before flags, in the opposite places */
		uint16_t id = d.next, flags = (uint16_t)(d.flags | (i ? RAW_AVAIL : 0));

		d.flags = id;
		d.next = flags;
	}
	ring_of(t)[i] = d;
}

void raw_index(struct target *t, uint16_t index)
{
	uint8_t *avail = t->v.queue[t->queue].avail;

	__atomic_store_n((uint16_t *)(avail + AVAIL_IDX), index, __ATOMIC_RELEASE);
}

void raw_expose(struct target *t, const uint16_t *heads, unsigned n)
{
	struct vio_queue *q = &t->v.queue[t->queue];
	uint16_t *flags = &ring_of(t)[0].next;

	if (is_packed()) {
		__atomic_store_n(flags, (uint16_t)(*flags | RAW_AVAIL), __ATOMIC_RELEASE);
	} else {
		for (unsigned i = 0; i < n; i++)
			((uint16_t *)(q->avail + AVAIL_RING))[i % RING] = heads[i];
		raw_index(t, (uint16_t)n);
	}
	vio_kick(&t->v, t->queue);
}

unsigned raw_used(const struct target *t)
{
	const struct vio_queue *q = &t->v.queue[t->queue];
	unsigned n = 0;

	if (!is_packed())
		return __atomic_load_n((uint16_t *)(q->used + USED_IDX), __ATOMIC_ACQUIRE);
	while (n < RING && (__atomic_load_n(&ring_of(t)[n].next, __ATOMIC_ACQUIRE) & (RAW_AVAIL | RAW_USED)) ==
			(RAW_AVAIL | RAW_USED))
		n++;
	return n;
}

uint32_t raw_used_len(const struct target *t, unsigned i)
{
	const struct vio_queue *q = &t->v.queue[t->queue];

	return is_packed() ? ring_of(t)[i].len : ((volatile uint32_t *)(q->used + USED_RING))[2 * i + 1];
}

unsigned raw_request(struct target *t, unsigned at)
{
	struct raw d[2] = { { (uint64_t)t->in, 16, 0, (uint16_t)at }, { (uint64_t)t->out, SECTOR + 1, RAW_WRITE, (uint16_t)at } };
	unsigned n = 1;

	switch (t->kind) {
	case TARGET_BLK:
		*(struct blk_header *)t->in = (struct blk_header){ .type = BLK_IN, .sector = 9 };
		d[0].flags = RAW_NEXT;
		d[0].next = (uint16_t)(is_packed() ? at : at + 1);
		n = 2;
		break;
	case TARGET_NET_TX:
		d[0].len = target_arp(t, t->in);
		break;
	case TARGET_CONSOLE_TX:
		d[0].len = 1;
		t->in[0] = '.';
		break;
	default:
		d[0] = d[1];
		break;
	}
	for (unsigned i = 0; i < n; i++)
		raw_put(t, at + i, d[i]);
	return n;
}

bool raw_comes_back(struct target *t, unsigned n)
{
	uint64_t start = cycles();

	while (raw_used(t) != n)
		if (cycles() - start > PATIENCE / 4)
			return false;
		else
			relax();
	return true;
}
