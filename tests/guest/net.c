/*
 * virtio-net (virtio 1.2 §5.1) on its first queue pair: ARP and UDP with a host that answers, a DHCP discover, and
 * commands by the control queue.
 * Addresses come from the command line as numbers: ip= ours, peer= the host's.
 */
#include "tests/guest/meet.h"
#include "tests/guest/tests.h"

#define NET_F_MTU (UINT64_C(1) << 3)
#define NET_F_MAC (UINT64_C(1) << 5)
#define NET_F_MRG_RXBUF (UINT64_C(1) << 15)
#define NET_F_STATUS (UINT64_C(1) << 16)
#define NET_F_CTRL_VQ (UINT64_C(1) << 17)
#define NET_F_CTRL_RX (UINT64_C(1) << 18)
#define NET_F_MQ (UINT64_C(1) << 22)
#define NET_F_VQ_NOTF_COAL (UINT64_C(1) << 52)
#define NET_F_NOTF_COAL (UINT64_C(1) << 53)

enum { RX = 0, TX = 1, HEADER = 12, FRAME = 2048, RX_BUFFERS = 32, ETH = 14, IP = 20, UDP = 8 };
enum { TYPE_IP = 0x0800, TYPE_ARP = 0x0806, PROTO_UDP = 17, ARP_REQUEST = 1, ARP_REPLY = 2 };
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_MTU = 10, PORT_ECHO = 7777, DHCP_CLIENT = 68, DHCP_SERVER = 67 };

#define MOMENT UINT64_C(200000000) /* cycles */

struct net {
	struct vio v;
	uint8_t mac[6], peer_mac[6];
	uint32_t ip, peer;
	uint8_t *tx, *rx;
	unsigned header_len;
};

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void give_rx(struct net *n, uint8_t *buffer)
{
	const struct vd_seg seg = vio_seg(buffer, FRAME);

	vd_add(&n->v.queue[RX].vd, &seg, 0, 1, buffer);
	vd_kick(&n->v.queue[RX].vd);
}

/* Queues are there: drive the device, with buffers to receive into. */
static void net_ready(struct net *n)
{
	vio_ready(&n->v);
	for (unsigned i = 0; i < 6; i++)
		n->mac[i] = (uint8_t)vio_config(&n->v, CONFIG_MAC + i, 1);
	n->ip = (uint32_t)arg_u64("ip", 0);
	n->peer = (uint32_t)arg_u64("peer", 0);
	n->tx = dma(FRAME, 64);
	n->rx = dma(RX_BUFFERS * FRAME, 64);
	for (unsigned i = 0; i < RX_BUFFERS; i++)
		give_rx(n, n->rx + i * FRAME);
}

static bool net_open(struct net *n)
{
	uint64_t wanted = vio_ring_features() | NET_F_MAC | NET_F_MTU | NET_F_STATUS;

	wanted |= arg_u64("mergeable", 0) ? NET_F_MRG_RXBUF : 0;
	if (!check(vio_find(&n->v, VIO_NET, 0), "a network card is found", "no virtio device of this kind"))
		return false;
	if (!check(vio_negotiate(&n->v, wanted) && vio_queue(&n->v, RX, 64) && vio_queue(&n->v, TX, 64),
			"it starts", "status 0x%x", vio_status(&n->v)))
		return false;
	net_ready(n);
	return true;
}

/* The Ethernet header of the frame to send; returns where its payload goes. */
static uint8_t *frame_to(struct net *n, const uint8_t *mac, unsigned type)
{
	uint8_t *p = n->tx + HEADER;

	fill(n->tx, 0, FRAME);
	__builtin_memcpy(p, mac, 6);
	__builtin_memcpy(p + 6, n->mac, 6);
	put16(p + 12, type);
	return p + ETH;
}

static bool send(struct net *n, unsigned payload)
{
	const struct vd_seg segs[2] = { vio_seg(n->tx, HEADER), vio_seg(n->tx + HEADER, ETH + payload) };

	return vio_transfer(&n->v, TX, segs, 2, 0, NULL);
}

static bool arp_answer(struct net *n, const uint8_t *p)
{
	if (get16(p + 12) != TYPE_ARP || get16(p + ETH + 6) != ARP_REPLY || get32(p + ETH + 14) != n->peer)
		return false;
	__builtin_memcpy(n->peer_mac, p + ETH + 8, 6);
	return true;
}

static bool udp_from(const uint8_t *p, unsigned port)
{
	return get16(p + 12) == TYPE_IP && p[ETH + 9] == PROTO_UDP && get16(p + ETH + IP) == port;
}

/* The next frame; it has to be given back with give_rx(buffer). NULL: patience ended. */
static uint8_t *receive(struct net *n, uint8_t **buffer, uint32_t *len)
{
	void *cookie;

	if (vio_wait(&n->v.queue[RX], &cookie, len) != 1 || *len < HEADER + ETH)
		return NULL;
	*buffer = cookie;
	*len -= HEADER;
	return *buffer + HEADER;
}

/* Whoever asks is also remembered. */
static bool ask_arp(struct net *n)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint8_t *p = frame_to(n, all, TYPE_ARP);

	put16(p, 1);
	put16(p + 2, TYPE_IP);
	p[4] = 6;
	p[5] = 4;
	put16(p + 6, ARP_REQUEST);
	__builtin_memcpy(p + 8, n->mac, 6);
	put32(p + 14, n->ip);
	put32(p + 24, n->peer);
	return send(n, 28);
}

static bool resolve(struct net *n)
{
	uint8_t *p, *buffer;
	bool found = false;
	uint32_t len;

	if (!check(ask_arp(n), "a frame is sent", "no answer from the device"))
		return false;
	while (!found && (p = receive(n, &buffer, &len))) {
		found = arp_answer(n, p);
		give_rx(n, buffer);
	}
	return check(found, "the peer answers an ARP request", "it does not");
}

static void put_ip(uint8_t *p, uint32_t from, uint32_t to, unsigned payload)
{
	uint32_t sum = 0;

	p[0] = 0x45;
	put16(p + 2, IP + payload);
	p[8] = 64;
	p[9] = PROTO_UDP;
	put32(p + 12, from);
	put32(p + 16, to);
	for (unsigned i = 0; i < IP; i += 2)
		sum += get16(p + i);
	sum = (sum & 0xffff) + (sum >> 16);
	put16(p + 10, ~(sum + (sum >> 16)) & 0xffff);
}

/* A datagram of `len` bytes that the peer sends back. */
static bool echo(struct net *n, unsigned len, uint32_t seed)
{
	uint8_t *p = frame_to(n, n->peer_mac, TYPE_IP), *buffer;
	bool found = false;
	uint32_t got;

	put_ip(p, n->ip, n->peer, UDP + len);
	put16(p + IP, 1000);
	put16(p + IP + 2, PORT_ECHO);
	put16(p + IP + 4, UDP + len);
	pattern(p + IP + UDP, len, seed);
	if (!send(n, IP + UDP + len))
		return false;
	while (!found && (p = receive(n, &buffer, &got))) {
		found = udp_from(p, PORT_ECHO) && get16(p + ETH + IP + 4) == UDP + len && got >= ETH + IP + UDP + len &&
			is_pattern(p + ETH + IP + UDP, len, seed);
		give_rx(n, buffer);
	}
	return found;
}

/* Told only when it does not hold. */
static bool check_quiet(bool holds, const char *name)
{
	return holds || check(false, name, "it does not");
}

/* The same where a network may lose a frame: sent again after a moment. */
static bool insist(struct net *n, unsigned len, uint32_t seed)
{
	uint8_t *buffer;
	uint32_t got;
	void *cookie;

	for (unsigned tries = 0; tries < 100; tries++) {
		uint64_t start;
		uint8_t *p;

		/* We answer no ARP requests, and the peer forgets us after half a minute. */
		if (!check_quiet(!tries || ask_arp(n), "an ARP request comes back once"))
			return false;
		p = frame_to(n, n->peer_mac, TYPE_IP);
		put_ip(p, n->ip, n->peer, UDP + len);
		put16(p + IP, 1000);
		put16(p + IP + 2, PORT_ECHO);
		put16(p + IP + 4, UDP + len);
		pattern(p + IP + UDP, len, seed);
		if (!check_quiet(send(n, IP + UDP + len), "a frame that is sent comes back once"))
			return false;
		for (start = cycles(); cycles() - start < MOMENT;) {
			int r = vd_poll(&n->v.queue[RX].vd, &cookie, &got);
			bool found;

			if (!check_quiet(r >= 0, "a buffer comes back once"))
				return false;
			if (r != 1)
				continue;
			buffer = cookie;
			p = buffer + HEADER;
			found = udp_from(p, PORT_ECHO) && get16(p + ETH + IP + 4) == UDP + len &&
				is_pattern(p + ETH + IP + UDP, len, seed);
			give_rx(n, buffer);
			if (found)
				return true;
		}
	}
	return false;
}

/* Datagrams there and back for so many rounds; what serves the device may come and go meanwhile. */
static void steady(void)
{
	static struct net n;
	uint64_t rounds = arg_u64("rounds", 1000), done = 0;

	if (!net_open(&n) || !resolve(&n))
		return;
	say("steady\n");
	while (done < rounds && insist(&n, (unsigned)(done * 7 % 1400), (uint32_t)done))
		done++;
	check_equal(done, rounds, "datagrams go on coming back");
	check(!(vio_status(&n.v) & VIO_NEEDS_RESET), "the device does not ask for a reset", "status 0x%x",
		vio_status(&n.v));
}

static void net(void)
{
	static struct net n;
	unsigned done = 0;
	uint64_t mac = 0;

	if (!net_open(&n))
		return;
	for (unsigned i = 0; i < 6; i++)
		mac = mac << 8 | n.mac[i];
	check_equal(mac, arg_u64("mac", mac), "the address is the one asked for");
	check(!(n.mac[0] & 1), "the address is not a group's", "first byte 0x%x", n.mac[0]);
	if (n.v.features & NET_F_STATUS)
		check(vio_config(&n.v, CONFIG_STATUS, 2) & 1, "the link is up", "it is down");
	if (arg_given("mtu") && check(n.v.features & NET_F_MTU, "the MTU is announced", "it is not"))
		check_equal(vio_config(&n.v, CONFIG_MTU, 2), arg_u64("mtu", 0), "the MTU is the one asked for");
	if (!resolve(&n))
		return;
	/* More than the rings have entries, so that they wrap. */
	while (done < 200 && echo(&n, done * 7 % 1400, done))
		done++;
	check(done == 200, "datagrams come back unchanged", "number %u does not", done);
	check(echo(&n, 1472, 5), "a datagram of full size comes back", "it does not");
}

/* RFC 2131: a discover, broadcast, and the offer that answers it. */
static void dhcp(void)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	static const uint8_t options[] = { 0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 2, 1, 3, 255 };
	static struct net n;
	enum { BOOTP = 236, LEN = 300, XID = 0x12345678 };
	uint8_t *p, *buffer;
	bool found = false;
	uint32_t len;

	if (!net_open(&n))
		return;
	p = frame_to(&n, all, TYPE_IP);
	put_ip(p, 0, 0xffffffff, UDP + LEN);
	put16(p + IP, DHCP_CLIENT);
	put16(p + IP + 2, DHCP_SERVER);
	put16(p + IP + 4, UDP + LEN);
	p += IP + UDP;
	p[0] = p[1] = 1;
	p[2] = 6;
	put32(p + 4, XID);
	__builtin_memcpy(p + 28, n.mac, 6);
	__builtin_memcpy(p + BOOTP, options, sizeof(options));
	if (!check(send(&n, IP + UDP + LEN), "a discover is sent", "no answer from the device"))
		return;
	while (!found && (p = receive(&n, &buffer, &len))) {
		p += ETH + IP + UDP;
		found = udp_from(p - ETH - IP - UDP, DHCP_SERVER) && p[0] == 2 && get32(p + 4) == XID;
		if (found)
			check(get32(p + 16), "an address is offered", "0.0.0.0");
		give_rx(&n, buffer);
	}
	check(found, "an offer comes", "none does");
}

/* One command; the answer's byte, or 0x100 when none came. */
static unsigned command(struct net *n, unsigned queue, const uint8_t *bytes, unsigned len)
{
	static uint8_t *page;
	struct vd_seg segs[2];
	uint32_t used;

	page = page ? page : dma(4096, 64);
	__builtin_memcpy(page, bytes, len);
	page[2048] = 0x55;
	segs[0] = vio_seg(page, len);
	segs[1] = vio_seg(page + 2048, 1);
	return vio_transfer(&n->v, queue, segs, 1, 1, &used) && used == 1 ? page[2048] : 0x100;
}

/* Commands that are carried out and such that are not; frames go on passing. */
static void control(void)
{
	static const struct {
		uint8_t bytes[12];
		unsigned len, answer;
		const char *what;
	} commands[] = {
		{ { 0, 0, 0 }, 3, 0, "promiscuous mode off" },
		{ { 4, 0, 2, 0 }, 4, 0, "two queue pairs" },
		{ { 4, 0, 3, 0 }, 4, 1, "more queue pairs than there are" },
		{ { 4, 0, 0, 0 }, 4, 1, "no queue pairs" },
		{ { 6, 1, 16, 0, 0, 0, 50, 0, 0, 0 }, 10, 0, "gathered interrupts" },
		{ { 6, 1, 16, 0, 0, 0, 50, 0, 0 }, 9, 1, "a command that is too short" },
		{ { 99, 0 }, 2, 1, "a class that there is not" },
		{ { 4 }, 1, 1, "half a head" },
		{ { 4, 0, 1, 0 }, 4, 0, "one queue pair" },
	};
	static struct net n;
	unsigned done = 0;

	if (!check(vio_find(&n.v, VIO_NET, 0), "a network card is found", "no virtio device of this kind"))
		return;
	if (!check(vio_negotiate(&n.v, vio_ring_features() | NET_F_MAC | NET_F_CTRL_VQ | NET_F_CTRL_RX | NET_F_MQ |
			NET_F_NOTF_COAL | NET_F_VQ_NOTF_COAL) && vio_queue(&n.v, 0, 64) && vio_queue(&n.v, 1, 64) &&
			vio_queue(&n.v, 2, 64) && vio_queue(&n.v, 3, 64) && vio_queue(&n.v, 4, 16),
			"it starts with two pairs", "status 0x%x", vio_status(&n.v)))
		return;
	net_ready(&n);
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		check_equal(command(&n, 4, commands[i].bytes, commands[i].len), commands[i].answer, commands[i].what);
	if (!resolve(&n))
		return;
	while (done < 100 && echo(&n, done * 11 % 1400, done))
		done++;
	check(done == 100, "datagrams come back unchanged", "number %u does not", done);
}

/* As tests/fault/cell.py unpacks it. */
struct stage {
	uint32_t number, sent, up, answered;
};

/*
 * Three stages around what a host does to a link: frames are sent in each, also into nothing, and the device has to give
 * each back. answers= in which of them, a bit each, a peer is expected to answer. Disk 0 is where host and guest meet.
 */
static void net_fault(void)
{
	static struct meeting m;
	static struct net n;
	enum { STAGES = 3, FRAMES = 100, PAYLOAD = 1000 };

	if (!meet_open(&m, 0) || !net_open(&n))
		return;
	for (uint32_t stage = 1; stage <= STAGES; stage++) {
		struct stage s = { .number = stage };

		frame_to(&n, n.mac, TYPE_IP);
		while (s.sent < FRAMES && send(&n, PAYLOAD))
			s.sent++;
		if (arg_u64("answers", 0) >> stage & 1)
			for (s.answered = resolve(&n); s.answered && s.answered < 20 && echo(&n, 100, s.answered);)
				s.answered++;
		s.up = n.v.features & NET_F_STATUS ? vio_config(&n.v, CONFIG_STATUS, 2) & 1 : 1;
		meet_host(&m, stage, &s, sizeof(s));
	}
	check(!(vio_status(&n.v) & VIO_NEEDS_RESET), "the device does not ask for a reset", "it does");
}

const struct guest_test net_tests[] = {
	{ "net-fault", net_fault },
	{ "netctrl", control },
	{ "net", net },
	{ "net-steady", steady },
	{ "dhcp", dhcp },
	{ NULL, NULL },
};
