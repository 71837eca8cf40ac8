/*
 * Requests that a disk must refuse (virtio 1.2 §5.2.6), and shapes of requests that are odd but allowed (§2.7.4: framing is
 * the driver's business). None of them breaks the device; each head comes back once, and the status is the last byte
 * that the device may write.
 */
#include "tests/guest/attack.h"
#include "tests/guest/blk.h"

enum { SECTORS = (4 << 20) / SECTOR, NOTHING = 0xee, ANY = 0xfe, DATA_AT = 4096, STATUS_AT = 60000 };
#define TOP_SECTOR (UINT64_C(1) << 55) /* times 512: 0 */

struct blk_row {
	const char *name;
	uint32_t type;
	uint64_t sector;
	uint32_t header, in, out, status; /* bytes of each part; 0: it is not there */
	uint8_t expected;                 /* NOTHING: no byte was written */
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range;
};

static const struct blk_row rows[] = {
	{ "bk01_read_past_the_end", BLK_IN, SECTORS, 16, 0, 512, 1, BLK_IOERR },
	{ "bk01_read_across_the_end", BLK_IN, SECTORS - 1, 16, 0, 1024, 1, BLK_IOERR },
	{ "bk01_read_at_the_last_number", BLK_IN, UINT64_MAX, 16, 0, 512, 1, BLK_IOERR },
	{ "bk01_read_that_wraps_to_0", BLK_IN, TOP_SECTOR, 16, 0, 512, 1, BLK_IOERR },
	{ "bk01_read_whose_end_wraps", BLK_IN, TOP_SECTOR - 1, 16, 0, 1024, 1, BLK_IOERR },
	{ "bk01_read_with_the_sign_bit", BLK_IN, UINT64_C(1) << 63, 16, 0, 512, 1, BLK_IOERR },
	{ "bk01_write_past_the_end", BLK_OUT, SECTORS, 16, 512, 0, 1, BLK_IOERR },
	{ "bk01_write_across_the_end", BLK_OUT, SECTORS - 1, 16, 1024, 0, 1, BLK_IOERR },
	{ "bk01_write_at_the_last_number", BLK_OUT, UINT64_MAX, 16, 512, 0, 1, BLK_IOERR },
	{ "bk01_write_that_wraps_to_0", BLK_OUT, TOP_SECTOR, 16, 512, 0, 1, BLK_IOERR },
	{ "bk01_write_whose_end_wraps", BLK_OUT, TOP_SECTOR - 1, 16, 1024, 0, 1, BLK_IOERR },
	{ "bk01_write_with_the_sign_bit", BLK_OUT, UINT64_C(1) << 63, 16, 512, 0, 1, BLK_IOERR },
	{ "bk02_zeroes_across_the_end", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_IOERR, { SECTORS - 1, 2, 0 } },
	{ "bk02_zeroes_past_the_end", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_IOERR, { SECTORS, 1, 0 } },
	{ "bk02_zeroes_whose_end_wraps", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_IOERR, { UINT64_MAX, 2, 0 } },
	{ "bk02_zeroes_whose_bytes_wrap", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_IOERR, { TOP_SECTOR, 1, 0 } },
	{ "bk02_zeroes_of_all_sectors", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_IOERR, { 0, 0xffffffff, 0 } },
	{ "bk02_zeroes_with_unknown_flags", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_UNSUPP, { 0, 1, 0x80000000 } },
	{ "bk02_zeroes_of_no_range", BLK_WRITE_ZEROES, 0, 16, 0, 0, 1, BLK_IOERR },
	{ "bk02_zeroes_of_half_a_range", BLK_WRITE_ZEROES, 0, 16, 8, 0, 1, BLK_IOERR },
	{ "bk02_zeroes_of_a_range_and_a_byte", BLK_WRITE_ZEROES, 0, 16, 17, 0, 1, BLK_IOERR },
	{ "bk02_zeroes_of_2000_ranges", BLK_WRITE_ZEROES, 0, 16, 32000, 0, 1, BLK_IOERR },
	{ "bk02_zeroes_of_nothing", BLK_WRITE_ZEROES, 0, 16, 16, 0, 1, BLK_OK, { 0, 0, 0 } },
	{ "bk02_discard_across_the_end", BLK_DISCARD, 0, 16, 16, 0, 1, BLK_IOERR, { SECTORS - 1, 2, 0 } },
	{ "bk02_discard_whose_end_wraps", BLK_DISCARD, 0, 16, 16, 0, 1, BLK_IOERR, { UINT64_MAX, 2, 0 } },
	{ "bk02_discard_with_unmap", BLK_DISCARD, 0, 16, 16, 0, 1, BLK_UNSUPP, { 0, 1, 1 } },
	{ "bk02_discard_of_2000_ranges", BLK_DISCARD, 0, 16, 32000, 0, 1, BLK_IOERR },
	{ "bk04_read_of_1_byte", BLK_IN, 0, 16, 0, 1, 1, BLK_IOERR },
	{ "bk04_read_of_511_bytes", BLK_IN, 0, 16, 0, 511, 1, BLK_IOERR },
	{ "bk04_read_of_513_bytes", BLK_IN, 0, 16, 0, 513, 1, BLK_IOERR },
	{ "bk04_read_of_nothing", BLK_IN, 0, 16, 0, 0, 1, BLK_OK },
	{ "bk04_write_of_1_byte", BLK_OUT, 0, 16, 1, 0, 1, BLK_IOERR },
	{ "bk04_write_of_513_bytes", BLK_OUT, 0, 16, 513, 0, 1, BLK_IOERR },
	{ "bk04_write_of_nothing", BLK_OUT, 0, 16, 0, 0, 1, BLK_OK },
	{ "bk04_read_with_data_to_write", BLK_IN, 0, 16, 512, 512, 1, ANY },
	{ "bk04_write_with_room_to_read", BLK_OUT, 0, 16, 512, 512, 1, ANY },
	{ "bk05_id_of_0_bytes", BLK_GET_ID, 0, 16, 0, 0, 1, BLK_OK },
	{ "bk05_id_of_1_byte", BLK_GET_ID, 0, 16, 0, 1, 1, BLK_OK },
	{ "bk05_id_of_19_bytes", BLK_GET_ID, 0, 16, 0, 19, 1, BLK_OK },
	{ "bk05_id_of_20_bytes", BLK_GET_ID, 0, 16, 0, 20, 1, BLK_OK },
	{ "bk05_id_of_4096_bytes", BLK_GET_ID, 0, 16, 0, 4096, 1, BLK_OK },
	{ "cve_2026_48914_scsi_command", 2, 0, 16, 96, 4096, 1, BLK_UNSUPP },
	{ "cve_2026_48914_scsi_command_out", 3, 0, 16, 512, 96, 1, BLK_UNSUPP },
	{ "bk06_lifetime", 10, 0, 16, 0, 64, 1, BLK_UNSUPP },
	{ "bk06_secure_erase", 14, 0, 16, 16, 0, 1, BLK_UNSUPP },
	{ "bk06_barrier_bit", 0x80000000, 0, 16, 0, 512, 1, BLK_UNSUPP },
	{ "bk06_type_all_ones", 0xffffffff, 0, 16, 0, 512, 1, BLK_UNSUPP },
	{ "bk06_read_plus_2_to_16", 0x10000, 0, 16, 0, 512, 1, BLK_UNSUPP },
	{ "bk10_flush_with_data", BLK_FLUSH, 0, 16, 512, 512, 1, ANY },
	{ "bk10_flush_of_a_sector", BLK_FLUSH, UINT64_MAX, 16, 0, 0, 1, ANY },
	{ "vq24_header_of_15_bytes", BLK_IN, 0, 15, 0, 512, 1, BLK_IOERR },
	{ "vq24_header_of_1_byte", BLK_IN, 0, 1, 0, 512, 1, BLK_IOERR },
	{ "vq24_no_header", BLK_IN, 0, 0, 0, 512, 1, BLK_IOERR },
	{ "vq24_only_a_status", BLK_IN, 0, 0, 0, 0, 1, BLK_IOERR },
	{ "bk09_only_a_header", BLK_IN, 0, 16, 0, 0, 0, NOTHING },
	{ "bk09_write_without_a_status", BLK_OUT, 0, 16, 512, 0, 0, NOTHING },
	{ "bk09_status_in_the_data", BLK_IN, 0, 16, 0, 512, 0, ANY },
	{ "bk09_status_of_100_bytes", BLK_IN, 0, 16, 0, 512, 100, ANY },
};

/* Parts that are there, in order; the second readable one holds the range. */
static unsigned lay_out(struct target *t, const struct blk_row *row)
{
	const struct raw parts[] = {
		{ (uint64_t)t->in, row->header, 0, 0 },
		{ (uint64_t)t->in + DATA_AT, row->in, 0, 0 },
		{ (uint64_t)t->out, row->out, RAW_WRITE, 0 },
		{ (uint64_t)t->out + STATUS_AT, row->status, RAW_WRITE, 0 },
	};
	struct raw chain[ARRAY_SIZE(parts)];
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
		if (parts[i].len)
			chain[n++] = parts[i];
	for (unsigned i = 0; i < n; i++) {
		chain[i].flags |= i + 1 < n ? RAW_NEXT : 0;
		chain[i].next = (uint16_t)(is_packed() ? 0 : i + 1);
		raw_put(t, i, chain[i]);
	}
	return n;
}

static void run(struct target *t, unsigned i)
{
	const uint64_t disk = BLK_F_FLUSH | BLK_F_DISCARD | BLK_F_WRITE_ZEROES | BLK_F_CONFIG_WCE;
	const struct blk_row *row = &rows[i];
	static const uint16_t head;
	uint8_t *last;

	t->features = disk;
	must(target_start(t), "the disk does not start");
	t->features = 0;
	*(struct blk_header *)t->in = (struct blk_header){ .type = row->type, .sector = row->sector };
	__builtin_memcpy(t->in + DATA_AT, &row->range, sizeof(row->range));
	fill(t->out, NOTHING, ARENA);
	last = row->status ? t->out + STATUS_AT + row->status - 1 : t->out + row->out - 1;
	lay_out(t, row);
	raw_expose(t, &head, 1);
	must(raw_comes_back(t, 1), "the head does not come back");
	target_must(t, SERVES);
	if (row->status && row->expected != ANY)
		must(*(volatile uint8_t *)last == row->expected, "status %u, not %u", *last, row->expected);
	/* §2.7.8.2: the used length covers what was written, so a request that failed writes zeroes. */
	must(raw_used_len(t, 0) == row->out + row->status, "%u bytes were written, not %u", raw_used_len(t, 0),
		row->out + row->status);
	for (uint8_t *p = t->out; p < t->out + row->out && row->expected != ANY && row->expected != BLK_OK; p++)
		must(*p == 0, "a request that failed left 0x%x in its buffer", *p);
	for (uint8_t *p = t->out + row->out; p < t->out + STATUS_AT; p++)
		must(*p == NOTHING, "a byte behind the buffer was written");
	for (uint8_t *p = t->out + STATUS_AT + row->status; p < t->out + ARENA; p++)
		must(*p == NOTHING, "a byte behind the status was written");
}

static void title(unsigned i, const char *part[2])
{
	part[0] = rows[i].name;
}

const struct attack_set attack_blk = { "request", ARRAY_SIZE(rows), title, run, NULL, 0 };
