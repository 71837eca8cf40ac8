/*
 * Frames that a network card must drop (virtio 1.2 §5.1.6.2: what the header may ask for), and receive buffers in which nothing
 * has room (§5.1.6.3). None breaks the device: each transmit head comes back, and frames sent afterwards arrive.
 */
#include "tests/guest/attack.h"

enum { HEADER = 12, RX = 0, TX = 1, FLOOD = 300, FAR = PLACE_RAM + (16 << 20), PAUSE = 20000 };
enum { CSUM = 1, GSO_TCPV4 = 1, GSO_UDP = 3, GSO_TCPV6 = 4, GSO_ECN = 0x80 };
#define NET_OFFLOADS (UINT64_C(1) | UINT64_C(1) << 11 | UINT64_C(1) << 12 | UINT64_C(1) << 13)
#define NET_MRG_RXBUF (UINT64_C(1) << 15)

/* §5.1.6 */
struct header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

static const struct {
	const char *name;
	uint32_t len;       /* of header and frame */
	uint16_t piece;     /* bytes of each descriptor; 0: one for all */
	struct header header;
	bool plain;         /* no offload is negotiated */
} frames[] = {
	{ "nt01_1_byte", 1 },
	{ "nt01_header_less_1_byte", HEADER - 1 },
	{ "nt01_header_only", HEADER },
	{ "nt01_frame_of_1_byte", HEADER + 1 },
	{ "nt01_frame_of_13_bytes", HEADER + 13 },
	{ "nt01_frame_of_64_kib", HEADER + 65536 },
	{ "nt01_frame_of_64_kib_and_a_bit", HEADER + 65562 },
	{ "nt01_frame_of_1_mib", 1 << 20 },
	{ "nt01_frame_of_100_mib", 100 << 20 },
	{ "nt01_header_in_12_pieces", HEADER + 42, 1 },
	{ "nt01_frame_in_64_pieces", 64 * 24, 24 },
	{ "nt02_gso_without_checksum", HEADER + 1000, 0, { 0, GSO_TCPV4, 54, 500, 0, 0, 0 } },
	{ "nt02_gso_of_size_0", HEADER + 1000, 0, { CSUM, GSO_TCPV4, 54, 0, 34, 16, 0 } },
	{ "nt02_gso_of_size_1", HEADER + 60000, 0, { CSUM, GSO_TCPV4, 54, 1, 34, 16, 0 } },
	{ "nt02_gso_of_size_65535", HEADER + 1000, 0, { CSUM, GSO_TCPV4, 54, 65535, 34, 16, 0 } },
	{ "nt02_gso_ipv6_on_nothing", HEADER + 1000, 0, { CSUM, GSO_TCPV6, 74, 500, 54, 16, 0 } },
	{ "nt02_gso_of_udp", HEADER + 1000, 0, { CSUM, GSO_UDP, 42, 500, 34, 6, 0 } },
	{ "nt02_gso_of_type_2", HEADER + 1000, 0, { CSUM, 2, 42, 500, 34, 6, 0 } },
	{ "nt02_gso_all_ones", HEADER + 1000, 0, { CSUM, 0xff, 42, 500, 34, 6, 0 } },
	{ "nt02_ecn_alone", HEADER + 1000, 0, { CSUM, GSO_ECN, 42, 500, 34, 6, 0 } },
	{ "nt02_header_length_65535", HEADER + 1000, 0, { CSUM, GSO_TCPV4, 65535, 500, 34, 16, 0 } },
	{ "nt02_checksum_starts_behind_the_frame", HEADER + 60, 0, { CSUM, 0, 0, 0, 61, 0, 0 } },
	{ "nt02_checksum_starts_at_65535", HEADER + 60, 0, { CSUM, 0, 0, 0, 65535, 0, 0 } },
	{ "nt02_checksum_offset_65535", HEADER + 60, 0, { CSUM, 0, 0, 0, 34, 65535, 0 } },
	{ "nt02_checksum_start_and_offset_wrap", HEADER + 60, 0, { CSUM, 0, 0, 0, 65535, 65535, 0 } },
	{ "nt02_checksum_across_the_end", HEADER + 60, 0, { CSUM, 0, 0, 0, 34, 25, 0 } },
	{ "nt02_header_all_ones", HEADER + 60, 0, { 0xff, 0xff, 65535, 65535, 65535, 65535, 65535 } },
	{ "nt02_unknown_flags", HEADER + 60, 0, { 0xfe, 0, 0, 0, 0, 0, 0 } },
	{ "nt02_checksum_not_negotiated", HEADER + 60, 0, { CSUM, 0, 0, 0, 34, 6, 0 }, true },
	{ "nt02_gso_not_negotiated", HEADER + 1000, 0, { CSUM, GSO_TCPV4, 54, 500, 34, 16, 0 }, true },
	{ "cve_2023_6693_num_buffers_65535", HEADER + 60, 0, { 0, 0, 0, 0, 0, 0, 65535 } },
};

static void frame(struct target *t, unsigned i)
{
	const uint32_t len = frames[i].len, piece = frames[i].piece ? frames[i].piece : len;
	uint8_t *at = len > ARENA ? (uint8_t *)FAR : t->in;
	static const uint16_t head;
	unsigned n = 0;

	t->features = frames[i].plain ? 0 : NET_OFFLOADS;
	must(target_start(t), "the card does not start");
	t->features = 0;
	__builtin_memcpy(at, &frames[i].header, HEADER);
	if (len > HEADER + 14)
		fill(at + HEADER, 0xff, 14); /* to everybody, of an unknown kind */
	for (uint32_t done = 0; done < len && n < RING; done += piece, n++) {
		uint32_t bytes = len - done < piece ? len - done : piece;
		bool more = done + bytes < len;

		raw_put(t, n, (struct raw){ (uint64_t)at + done, bytes, more ? RAW_NEXT : 0,
			(uint16_t)(is_packed() ? 0 : n + 1) });
	}
	raw_expose(t, &head, 1);
	must(raw_comes_back(t, 1), "the frame does not come back");
	must(raw_used_len(t, 0) == 0, "%u bytes were written to a frame to send", raw_used_len(t, 0));
	target_must(t, SERVES);
}

static void frame_title(unsigned i, const char *part[2])
{
	part[0] = frames[i].name;
}

static enum target_kind on_tx(unsigned i)
{
	(void)i;
	return TARGET_NET_TX;
}

const struct attack_set attack_frame = { "frame", ARRAY_SIZE(frames), frame_title, frame, on_tx, 0 };

/* --- receive --- */

static const struct {
	const char *name;
	uint32_t len;
	uint8_t count;     /* buffers of this length */
	bool merge;
	bool flood;        /* many answers, not one */
} buffers[] = {
	{ "nt03_1_byte", 1, 1, false },
	{ "nt03_header_less_1_byte", HEADER - 1, 1, false },
	{ "nt03_header_only", HEADER, 1, false },
	{ "nt03_a_byte_of_frame", HEADER + 1, 1, false },
	{ "nt03_many_of_1_byte", 1, 60, false },
	{ "nt03_100_mib", 100 << 20, 1, false },
	{ "cve_2021_3748_mergeable_1_byte", 1, 1, true },
	{ "cve_2021_3748_mergeable_many_of_1_byte", 1, 60, true },
	{ "cve_2022_26353_mergeable_10_bytes", 10, 3, true },
	{ "cve_2022_26353_mergeable_11_bytes", 11, 60, true },
	{ "nt03_mergeable_too_few", 16, 2, true },
	{ "nt03_mergeable_100_mib", 100 << 20, 4, true },
	{ "cve_2020_16843_full_ring_and_a_backlog", 64, 60, false, true },
	{ "cve_2020_16843_full_ring_and_a_backlog_mergeable", 64, 60, true, true },
	{ "nt09_no_buffer_and_a_backlog", 0, 0, false, true },
	{ "nt09_no_buffer_and_a_backlog_mergeable", 0, 0, true, true },
};

/* Asks the host's address `n` times; each answer wants a buffer. */
static bool ask(struct target *t, unsigned n)
{
	uint8_t *tx = t->in;
	unsigned len = target_arp(t, tx);

	while (n--)
		if (!vio_transfer(&t->v, TX, (struct vd_seg[]){ vio_seg(tx, len) }, 1, 0, NULL))
			return false;
	return true;
}

static void buffer(struct target *t, unsigned i)
{
	uint16_t heads[RING];

	t->features = buffers[i].merge ? NET_MRG_RXBUF : 0;
	must(target_start(t), "the card does not start");
	t->features = 0;
	for (unsigned k = 0; k < buffers[i].count; k++) {
		raw_put(t, k, (struct raw){ buffers[i].len > ARENA ? FAR : (uint64_t)t->out + 256 * k, buffers[i].len,
			RAW_WRITE, (uint16_t)k });
		heads[k] = (uint16_t)k;
	}
	if (buffers[i].count)
		raw_expose(t, heads, buffers[i].count);
	must(ask(t, buffers[i].flood ? FLOOD : 1), "a good frame is not sent");
	pause_for(PAUSE);
	must(ask(t, 1), "a good frame is not sent afterwards");
	target_must(t, SERVES);
}

static void buffer_title(unsigned i, const char *part[2])
{
	part[0] = buffers[i].name;
}

static enum target_kind on_rx(unsigned i)
{
	(void)i;
	return TARGET_NET_RX;
}

const struct attack_set attack_buffer = { "buffer", ARRAY_SIZE(buffers), buffer_title, buffer, on_rx, FLOOD };
