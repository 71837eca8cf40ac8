/*
 * The other side of the network bench: frames for whoever has the tap, as fast as they go, until the time is up or somebody
 * ends it. Out of a packet socket (packet(7)) on the host's end, a batch by one sendmmsg(2).
 *
 *   net_flood TAP SIZE SECONDS [tso|GAP]
 *
 * tso: TCP segments of SIZE bytes, with a header that lets the tap's other side have them uncut (PACKET_VNET_HDR).
 * GAP: a frame every so many microseconds, not batches.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, FRAME_MAX = 65535, IP = 20, TCP = 20, MSS = 1448, TYPE_NONE = 0x88b5, PAUSE_US = 200 };

static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 0x22, 2, 0, 0, 0, 0, 0x11 };

static int wire_to(const char *tap, int vnet)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(tap) };
	int on = 1, s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (s < 0 || !at.sll_ifindex || bind(s, (struct sockaddr *)&at, sizeof(at)) < 0)
		return -1;
	/* Past the queueing discipline: what the tap has no room for is lost there, not here. */
	if (!vnet && setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) < 0)
		return -1;
	return vnet && setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ? -1 : s;
}

static void make_frame(uint8_t *f, size_t size, int tso)
{
	uint8_t *ip = f + ETH_HLEN;
	uint16_t type = htons(tso ? ETH_P_IP : TYPE_NONE), length = htons((uint16_t)(size - ETH_HLEN));

	memcpy(f, macs, sizeof(macs));
	memcpy(f + sizeof(macs), &type, sizeof(type));
	if (!tso)
		return;
	ip[0] = 0x45;
	memcpy(ip + 2, &length, sizeof(length));
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	ip[IP + 12] = 5 << 4;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void one_by_one(int s, struct mmsghdr *m, double end, double gap)
{
	while (now() < end) {
		for (double at = now() + gap; now() < at;)
			;
		if (sendmmsg(s, m, 1, 0) < 0)
			usleep(PAUSE_US);
	}
}

int main(int argc, char **argv)
{
	static uint8_t frame[FRAME_MAX];
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = ETH_HLEN + IP + TCP, .gso_size = MSS, .csum_start = ETH_HLEN + IP, .csum_offset = 16 };
	size_t size = argc > 3 ? strtoul(argv[2], NULL, 10) : 0;
	int tso = argc > 4 && !strcmp(argv[4], "tso"), s;
	double gap = argc > 4 ? strtod(argv[4], NULL) / 1e6 : 0;
	struct iovec iov[2] = { { &h, sizeof(h) }, { frame, size } };
	struct mmsghdr m[BATCH];
	double end;

	if (size < 60 || size > FRAME_MAX) {
		fputs("usage: net_flood TAP SIZE SECONDS [tso|GAP]\n", stderr);
		return 2;
	}
	s = wire_to(argv[1], tso);
	if (s < 0) {
		perror(argv[1]);
		return 1;
	}
	make_frame(frame, size, tso);
	for (int i = 0; i < BATCH; i++)
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = tso ? iov : iov + 1, .msg_iovlen = tso ? 2 : 1 } };
	end = now() + strtod(argv[3], NULL);
	if (gap > 0)
		one_by_one(s, m, end, gap);
	while (now() < end)
		/* Nobody has the tap yet, or it is full. */
		if (sendmmsg(s, m, BATCH, 0) < 0)
			usleep(PAUSE_US);
	return 0;
}
