/*
 * The load on a virtio network card's first queue pair. OP is
 *
 *   send     frames of SIZE bytes that nobody on the other side wants
 *   sendtso  TCP segments of SIZE bytes that the other side may cut (virtio 1.2 §5.1.6.2)
 *   recv     the next REQUESTS frames that come, of SIZE bytes and our kind, with DEPTH buffers laid out
 *   recvtso  the same of TCP segments, which come uncut (§5.1.6.4)
 *
 * coalesce=Q has the interrupts of queue Q gathered, 32 packets or 50 microseconds (virtio 1.3 §5.1.6.5.10).
 */
#include "tests/bench/guest/load.h"

#define NET_F_CSUM (UINT64_C(1) << 0)
#define NET_F_GUEST_CSUM (UINT64_C(1) << 1)
#define NET_F_MAC (UINT64_C(1) << 5)
#define NET_F_GUEST_TSO4 (UINT64_C(1) << 7)
#define NET_F_HOST_TSO4 (UINT64_C(1) << 11)
#define NET_F_MRG_RXBUF (UINT64_C(1) << 15)
#define NET_F_CTRL_VQ (UINT64_C(1) << 17)
#define NET_F_VQ_NOTF_COAL (UINT64_C(1) << 52)

enum { RX = 0, TX = 1, CTRL = 2, HEADER = 12, NUM_BUFFERS = 10, DEPTH_MAX = 1024 };
enum { ETH = 14, IP = 20, TCP = 20, MSS = 1448, HEADERS = ETH + IP + TCP };
enum { NEEDS_CSUM = 1, GSO_TCPV4 = 1, TYPE_IP = 0x0800, TYPE_NONE = 0x88b5 /* IEEE 802, local experiments */ };
/* Bytes of a buffer: what a frame without segmentation takes, and a page where a segment takes several. */
enum { BUFFER = 2048, BUFFER_TSO = 4096 };
enum { LOOK_CYCLES = 300 * 1000 * 1000 };
enum { COAL_CLASS = 6, COAL_VQ_SET = 2, COAL_PACKETS = 32, COAL_USECS = 50 };

struct slot {
	uint8_t *header, *frame;
};

struct load {
	bool calls, tso, receive;
	uint32_t size, buffer;
	unsigned depth, more;      /* more: buffers of a received frame that are still to come */
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
	const struct vd_seg room = vio_seg(s->frame, l->buffer);

	if (l->receive)
		return vd_add(&l->v.queue[RX].vd, &room, 0, 1, s);
	l->started++;
	return vd_add(&l->v.queue[TX].vd, segs, 2, 0, s);
}

/*
 * A buffer that came back. Received frames are of our kind, or do not count: the host's network stack speaks too. Their
 * length is not looked at, since QEMU's packed rings do not say that there is one (§2.8.6, VIRTQ_DESC_F_WRITE).
 */
static void count(struct load *l, const struct slot *s)
{
	const uint8_t *p = s->frame;
	unsigned kind = l->tso ? TYPE_IP : TYPE_NONE;

	if (!l->receive) {
		l->done++;
	} else if (l->more) {
		l->more--;
	} else {
		l->more = p[NUM_BUFFERS] + (unsigned)p[NUM_BUFFERS + 1] * 256 - 1;
		l->done += p[HEADER + 12] == kind >> 8 && p[HEADER + 13] == (kind & 0xff);
	}
}

static bool coalesce(struct load *l, unsigned queue)
{
	const unsigned words[] = { queue, 0, COAL_PACKETS, 0, COAL_USECS, 0 };
	uint8_t *c = dma(32, 16);
	struct vd_seg segs[2] = { vio_seg(c, 2 + 2 * ARRAY_SIZE(words)), vio_seg(c + 31, 1) };
	uint32_t len;

	c[0] = COAL_CLASS;
	c[1] = COAL_VQ_SET;
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		put16le(c + 2 + 2 * i, words[i]);
	c[31] = 0xff;
	return vio_transfer(&l->v, CTRL, segs, 1, 1, &len) && !c[31];
}

static bool prepare(struct load *l)
{
	uint64_t wanted = vio_ring_features() | NET_F_MAC | NET_F_MRG_RXBUF | NET_F_CSUM | NET_F_HOST_TSO4;
	bool gathers = arg_given("coalesce");
	unsigned queue = l->receive ? RX : TX;

	if (gathers)
		wanted |= NET_F_CTRL_VQ | NET_F_VQ_NOTF_COAL;
	if (l->receive && l->tso)
		wanted |= NET_F_GUEST_CSUM | NET_F_GUEST_TSO4;
	dma_reset();
	if (!vio_negotiate(&l->v, wanted) || !vio_queue(&l->v, RX, DEPTH_MAX) || !vio_queue(&l->v, TX, DEPTH_MAX))
		return false;
	if (l->tso && !(l->v.features & (l->receive ? NET_F_GUEST_TSO4 : NET_F_HOST_TSO4)))
		return false;
	if (gathers && (!(l->v.features & NET_F_VQ_NOTF_COAL) || !vio_queue(&l->v, CTRL, 16)))
		return false;
	vd_disable_call(&l->v.queue[RX].vd);
	vd_disable_call(&l->v.queue[TX].vd);
	vio_ready(&l->v);
	l->more = 0;
	l->buffer = l->tso ? BUFFER_TSO : BUFFER;
	for (unsigned i = 0; i < l->depth; i++) {
		struct slot *s = &l->slot[i];

		s->header = dma(HEADER, 16);
		s->frame = (uint8_t *)LOAD_DATA + (uint64_t)i * (l->size + BUFFER_TSO);
		if (!l->receive)
			make_frame(l, s);
		else if (!put(l, s))
			return false;
	}
	if (l->calls)
		vd_enable_call(&l->v.queue[queue].vd);
	l->kicks += vd_kick(&l->v.queue[queue].vd);
	return !gathers || coalesce(l, (unsigned)arg_u64("coalesce", 0));
}

static bool run(struct load *l, uint64_t requests)
{
	struct vd_queue *vd = &l->v.queue[l->receive ? RX : TX].vd;
	uint64_t last = cycles();

	l->requests = requests;
	l->started = l->done = l->kicks = 0;
	for (unsigned i = 0; !l->receive && i < l->depth && l->started < requests; i++)
		if (!put(l, &l->slot[i]))
			return false;
	l->kicks += vd_kick(vd);
	while (l->done < requests) {
		uint32_t len;
		void *cookie;
		int n = 0, r;

		while ((r = vd_poll(vd, &cookie, &len)) == 1) {
			n++;
			count(l, cookie);
			if ((l->receive || l->started < l->requests) && !put(l, cookie))
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
		l->receive = same(c.op, "recv") || same(c.op, "recvtso");
		l->tso = same(c.op, "sendtso") || same(c.op, "recvtso");
		if (!check(c.size >= 60 && c.size <= 65535 && c.depth && c.depth <= DEPTH_MAX && c.queues == 1 &&
			(!l->tso || c.size > HEADERS), "the case can be run", "%s", c.op))
			return;
		ok = prepare(l) && run(l, c.requests / 10 + 1);
		say("{\"device\":\"net\",\"begin\":1}\n");
		before = cycles();
		ok = ok && run(l, c.requests);
		after = cycles();
		say("{\"device\":\"net\",\"op\":\"%s\",\"size\":%u,\"depth\":%u,\"queues\":1,\"calls\":%u,\"ok\":%u,"
		    "\"requests\":%lu,\"kicks\":%lu,\"cycles\":%lu}\n",
			c.op, l->size, l->depth, l->calls, ok, l->done, l->kicks, after - before);
		/* Whoever reads that line looks at this machine's threads then. */
		while (cycles() - after < LOOK_CYCLES)
			relax();
	}
}
