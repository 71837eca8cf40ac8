/*
 * Shapes of buffers for the two devices that take any (virtio 1.2 §5.3.6, §5.4.6): pieces of a byte, wrong directions, and far
 * more than one call may move. A buffer of the wrong direction has room for nothing and comes back empty.
 */
#include "tests/guest/attack.h"

enum { NO_USED = -1, AT_LEAST_1 = -2, FAR = PLACE_RAM + (16 << 20) };

static const struct {
	const char *name;
	enum target_kind kind;
	uint32_t len, in;  /* of each piece; how many of the first pieces are readable */
	uint8_t pieces;
	int32_t used;
} rows[] = {
	{ "readable_buffer", TARGET_RNG, 64, 1, 1, 0 },
	{ "readable_and_writable", TARGET_RNG, 64, 1, 2, 64 },
	{ "64_pieces_of_1_byte", TARGET_RNG, 1, 0, RING, AT_LEAST_1 },
	{ "17_pieces_of_1_byte", TARGET_RNG, 1, 0, 17, AT_LEAST_1 },
	{ "100_mib", TARGET_RNG, 100 << 20, 0, 1, AT_LEAST_1 },
	{ "64_readable_pieces", TARGET_RNG, 1, RING, RING, 0 },
	{ "cve_2016_5403_64_pieces_of_60_mib", TARGET_RNG, 60 << 20, 0, RING, AT_LEAST_1 },
	{ "writable_buffer", TARGET_CONSOLE_TX, 64, 0, 1, 0 },
	{ "readable_and_writable", TARGET_CONSOLE_TX, 64, 1, 2, 0 },
	{ "sr05_64_pieces_of_1_byte", TARGET_CONSOLE_TX, 1, RING, RING, 0 },
	{ "sr05_63_readable_pieces_and_a_writable", TARGET_CONSOLE_TX, 3, RING - 1, RING, 0 },
	{ "sr02_3_mib", TARGET_CONSOLE_TX, 3 << 20, 1, 1, 0 },
	{ "sr02_64_pieces_of_100_kib", TARGET_CONSOLE_TX, 100 << 10, RING, RING, 0 },
};

static void run(struct target *t, unsigned i)
{
	static const uint16_t head;
	uint32_t used;

	for (unsigned k = 0; k < rows[i].pieces; k++) {
		uint64_t at = rows[i].len > ARENA ? FAR : (uint64_t)(k < rows[i].in ? t->in : t->out) + 64 * k;
		uint16_t flags = (uint16_t)((k < rows[i].in ? 0 : RAW_WRITE) | (k + 1 < rows[i].pieces ? RAW_NEXT : 0));

		raw_put(t, k, (struct raw){ at, rows[i].len, flags, (uint16_t)(is_packed() ? 0 : k + 1) });
	}
	raw_expose(t, &head, 1);
	must(raw_comes_back(t, 1), "the buffer does not come back");
	used = raw_used_len(t, 0);
	if (rows[i].used >= 0)
		must(used == (uint32_t)rows[i].used, "%u bytes were written, not %u", used, (unsigned)rows[i].used);
	else
		must(used >= 1, "nothing was written");
	target_must(t, SERVES);
}

static void title(unsigned i, const char *part[2])
{
	part[0] = rows[i].name;
}

static enum target_kind on(unsigned i)
{
	return rows[i].kind;
}

const struct attack_set attack_bytes = { "bytes", ARRAY_SIZE(rows), title, run, on, 500 };
