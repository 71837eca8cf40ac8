/*
 * The load on a virtio network card's first transmit queue: frames of SIZE bytes that nobody on the other side wants.
 * OP is send, or sendtso: one TCP segment of SIZE bytes that the other side may cut (virtio 1.2 §5.1.6.2).
 */
#include "tests/bench/guest/load.h"

#define NET_F_CSUM (UINT64_C(1) << 0)
#define NET_F_MAC (UINT64_C(1) << 5)
#define NET_F_HOST_TSO4 (UINT64_C(1) << 11)
#define NET_F_MRG_RXBUF (UINT64_C(1) << 15)

enum { RX = 0, TX = 1, HEADER = 12, DEPTH_MAX = 256, ETH = 14, IP = 20, TCP = 20, MSS = 1448, HEADERS = ETH + IP + TCP };
enum { NEEDS_CSUM = 1, GSO_TCPV4 = 1, TYPE_IP = 0x0800, TYPE_NONE = 0x88b5 /* IEEE 802, local experiments */ };

struct slot {
	uint8_t *header, *frame;
};

struct load {
	bool calls, tso;
	uint32_t size;
	unsigned depth;
	uint64_t requests, started, done, kicks;
	struct vio v;
	struct slot slot[DEPTH_MAX];
};

static struct load load;

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put16le(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

/* To an address that is not the host's own: its network stack looks at the frame and drops it. */
static void make_frame(struct load *l, struct slot *s)
{
	static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 0x11, 2, 0, 0, 0, 0, 0x22 };
	uint8_t *ip = s->frame + ETH;

	fill(s->header, 0, HEADER);
	fill(s->frame, 0, l->size);
	__builtin_memcpy(s->frame, macs, sizeof(macs));
	put16(s->frame + 12, l->tso ? TYPE_IP : TYPE_NONE);
	if (!l->tso)
		return;
	s->header[0] = NEEDS_CSUM;
	s->header[1] = GSO_TCPV4;
	put16le(s->header + 2, HEADERS);
	put16le(s->header + 4, MSS);
	put16le(s->header + 6, ETH + IP);
	put16le(s->header + 8, 16);
	ip[0] = 0x45;
	put16(ip + 2, l->size - ETH);
	ip[8] = 64;
	ip[9] = 6;
	ip[IP + 12] = 5 << 4;
}

static bool put(struct load *l, struct slot *s)
{
	const struct vd_seg segs[] = { vio_seg(s->header, HEADER), vio_seg(s->frame, l->size) };

	l->started++;
	return vd_add(&l->v.queue[TX].vd, segs, 2, 0, s);
}

static bool prepare(struct load *l)
{
	uint64_t wanted = vio_ring_features() | NET_F_MAC | NET_F_MRG_RXBUF | NET_F_CSUM | NET_F_HOST_TSO4;

	dma_reset();
	if (!vio_negotiate(&l->v, wanted) || !vio_queue(&l->v, RX, DEPTH_MAX) || !vio_queue(&l->v, TX, DEPTH_MAX))
		return false;
	if (l->tso && !(l->v.features & NET_F_HOST_TSO4))
		return false;
	vio_ready(&l->v);
	for (unsigned i = 0; i < l->depth; i++) {
		struct slot *s = &l->slot[i];

		s->header = dma(HEADER, 16);
		s->frame = (uint8_t *)LOAD_DATA + (uint64_t)i * (l->size + 64);
		make_frame(l, s);
	}
	if (l->calls)
		vd_enable_call(&l->v.queue[TX].vd);
	else
		vd_disable_call(&l->v.queue[TX].vd);
	return true;
}

static bool run(struct load *l, uint64_t requests)
{
	struct vd_queue *vd = &l->v.queue[TX].vd;
	uint64_t last = cycles();

	l->requests = requests;
	l->started = l->done = l->kicks = 0;
	for (unsigned i = 0; i < l->depth && l->started < requests; i++)
		if (!put(l, &l->slot[i]))
			return false;
	l->kicks += vd_kick(vd);
	while (l->done < requests) {
		uint32_t len;
		void *cookie;
		int n = 0, r;

		while ((r = vd_poll(vd, &cookie, &len)) == 1) {
			n++;
			l->done++;
			if (l->started < l->requests && !put(l, cookie))
				return false;
		}
		if (r < 0 || cycles() - last > PATIENCE)
			return false;
		if (!n) {
			relax();
			continue;
		}
		last = cycles();
		l->kicks += vd_kick(vd);
		if (l->calls)
			vd_enable_call(vd);
	}
	return true;
}

void net_load(void)
{
	struct load *l = &load;
	struct load_case c;

	l->calls = arg_u64("calls", 0);
	if (!check(vio_find(&l->v, VIO_NET, 0), "a network card is found", "no virtio network card"))
		return;
	for (const char *list = load_list(); load_next(&list, &c);) {
		uint64_t before, after;
		bool ok;

		l->size = c.size;
		l->depth = c.depth;
		l->tso = same(c.op, "sendtso");
		if (!check(c.size >= 60 && c.size <= 65535 && c.depth && c.depth <= DEPTH_MAX && c.queues == 1 &&
			(!l->tso || c.size > HEADERS), "the case can be run", "%s", c.op))
			return;
		ok = prepare(l) && run(l, c.requests / 10 + 1);
		before = cycles();
		ok = ok && run(l, c.requests);
		after = cycles();
		say("{\"device\":\"net\",\"op\":\"%s\",\"size\":%u,\"depth\":%u,\"queues\":1,\"calls\":%u,\"ok\":%u,"
		    "\"requests\":%lu,\"kicks\":%lu,\"cycles\":%lu}\n",
			c.op, l->size, l->depth, l->calls, ok, l->done, l->kicks, after - before);
	}
}
