/* virtio-blk: requests, and the test of a disk. */
#include "tests/guest/blk.h"

#include "tests/guest/tests.h"

enum { RANGE_UNMAP = 1, BATCH = 64, CHUNK = 4096, BIG = 256 * 1024, PIECES = 8, ID_LEN = 20 };

/* §5.2.6 */
struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

bool blk_start(struct blk *b, uint64_t features)
{
	struct vio *v = &b->v;

	dma_reset();
	b->header = dma(sizeof(*b->header), 16);
	b->status = dma(1, 1);
	if (!vio_negotiate(v, features))
		return false;
	b->queues = v->features & BLK_F_MQ ? (unsigned)vio_config(v, BLK_NUM_QUEUES, 2) : 1;
	for (unsigned i = 0; i < b->queues && i < VIO_QUEUES; i++)
		if (!vio_queue(v, i, b->queue_size))
			return false;
	vio_ready(v);
	return !(vio_status(v) & (VIO_NEEDS_RESET | VIO_FAILED));
}

bool blk_open(struct blk *b, unsigned n)
{
	const uint64_t disk = BLK_F_RO | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_CONFIG_WCE | BLK_F_MQ | BLK_F_DISCARD |
		BLK_F_WRITE_ZEROES;

	b->queue_size = (uint16_t)arg_u64("queue_size", 128);
	if (!check(vio_find(&b->v, VIO_BLK, n), "a disk is found", "no virtio device of this kind"))
		return false;
	b->capacity = vio_config(&b->v, BLK_CAPACITY, 8);
	return check(blk_start(b, vio_ring_features() | disk), "the disk starts", "status 0x%x", vio_status(&b->v));
}

static bool to_guest(enum blk_type type)
{
	return type == BLK_IN || type == BLK_GET_ID;
}

enum blk_status blk_request(struct blk *b, unsigned queue, enum blk_type type, uint64_t sector, void *data, size_t len,
	uint32_t *used)
{
	struct vd_seg segs[3] = { vio_seg(b->header, sizeof(*b->header)) };
	unsigned n = 1, nin = 1;

	*b->header = (struct blk_header){ .type = type, .sector = sector };
	*b->status = BLK_NONE;
	if (len)
		segs[n++] = vio_seg(data, len);
	nin += len && !to_guest(type);
	segs[n++] = vio_seg(b->status, 1);
	if (!vio_transfer(&b->v, queue, segs, nin, n - nin, used))
		return BLK_NONE;
	return (enum blk_status)*(volatile uint8_t *)b->status;
}

bool blk_works(struct blk *b, unsigned queue)
{
	uint8_t *data = dma(SECTOR, 16);
	uint64_t sector = 1 + queue;

	pattern(data, SECTOR, 77 + queue);
	if (blk_request(b, queue, BLK_OUT, sector, data, SECTOR, NULL) != BLK_OK)
		return false;
	fill(data, 0, SECTOR);
	return blk_request(b, queue, BLK_IN, sector, data, SECTOR, NULL) == BLK_OK &&
		is_pattern(data, SECTOR, 77 + queue);
}

static void test_data(struct blk *b)
{
	uint8_t *data = dma(BIG, 4096);
	uint32_t used = 0;

	pattern(data, BIG, 1);
	check_equal(blk_request(b, 0, BLK_OUT, 8, data, BIG, &used), BLK_OK, "a write succeeds");
	check_equal(used, 1, "a write's used length is the status byte");
	fill(data, 0, BIG);
	check_equal(blk_request(b, 0, BLK_IN, 8, data, BIG, &used), BLK_OK, "a read succeeds");
	check_equal(used, BIG + 1, "a read's used length is data and status");
	check(is_pattern(data, BIG, 1), "what was written is read", "other bytes");
	pattern(data, SECTOR, 2);
	check_equal(blk_request(b, 0, BLK_OUT, b->capacity - 1, data, SECTOR, NULL), BLK_OK,
		"the last sector is written");
	fill(data, 0, SECTOR);
	check_equal(blk_request(b, 0, BLK_IN, b->capacity - 1, data, SECTOR, NULL), BLK_OK, "the last sector is read");
	check(is_pattern(data, SECTOR, 2), "the last sector holds what was written", "other bytes");
}

/* Data in many descriptors of odd lengths, the header cut in two (§2.7.4.2: no framing is to be assumed). */
static void test_pieces(struct blk *b)
{
	static const uint16_t lengths[PIECES] = { 1, 511, 3, 509, 1000, 24, 1536, 512 };
	struct vd_seg segs[PIECES + 3] = { vio_seg(b->header, 4), vio_seg((uint8_t *)b->header + 4, 12) };
	uint8_t *data = dma(CHUNK, 16);
	size_t at = 0;
	bool sent;

	pattern(data, CHUNK, 3);
	for (unsigned i = 0; i < PIECES; i++) {
		segs[2 + i] = vio_seg(data + at, lengths[i]);
		at += lengths[i];
	}
	segs[2 + PIECES] = vio_seg(b->status, 1);
	*b->header = (struct blk_header){ .type = BLK_OUT, .sector = 600 };
	*b->status = BLK_NONE;
	sent = vio_transfer(&b->v, 0, segs, 2 + PIECES, 1, NULL);
	check(sent && *b->status == BLK_OK, "a write in odd pieces succeeds", "status %u", *b->status);
	fill(data, 0, CHUNK);
	*b->header = (struct blk_header){ .type = BLK_IN, .sector = 600 };
	*b->status = BLK_NONE;
	sent = vio_transfer(&b->v, 0, segs, 2, PIECES + 1, NULL);
	check(sent && *b->status == BLK_OK, "a read in odd pieces succeeds", "status %u", *b->status);
	check(is_pattern(data, CHUNK, 3), "odd pieces hold what was written", "other bytes");
}

struct batch {
	struct blk_header header;
	uint8_t status;
	bool done;
};

static unsigned send_batch(struct blk *b, unsigned queue, struct batch *batch, uint8_t *data, enum blk_type type)
{
	struct vio_queue *q = &b->v.queue[queue];
	unsigned n;

	for (n = 0; n < BATCH; n++) {
		const struct vd_seg segs[3] = { vio_seg(&batch[n].header, 16), vio_seg(data + n * CHUNK, CHUNK),
			vio_seg(&batch[n].status, 1) };

		batch[n] = (struct batch){ { .type = type, .sector = 1024 + 8u * n }, BLK_NONE, false };
		if (!vd_add(&q->vd, segs, type == BLK_OUT ? 2 : 1, type == BLK_OUT ? 1 : 2, &batch[n]))
			break;
	}
	vd_kick(&q->vd);
	return n;
}

/*
 * Many requests with one kick; how many. 0: one was lost, came twice, failed, or (IN_ORDER) overtook another.
 */
static unsigned run_batch(struct blk *b, unsigned queue, struct batch *batch, uint8_t *data, enum blk_type type)
{
	unsigned n = send_batch(b, queue, batch, data, type);
	bool in_order = b->v.features & VD_F_IN_ORDER;

	for (unsigned i = 0; i < n; i++) {
		struct batch *got;
		void *cookie;
		uint32_t len;

		if (vio_wait(&b->v.queue[queue], &cookie, &len) != 1)
			return 0;
		got = cookie;
		if (got->done || got->status != BLK_OK || (in_order && got != &batch[i]))
			return 0;
		got->done = true;
	}
	return n;
}

static void test_batches(struct blk *b, unsigned queue)
{
	struct batch *batch = dma(BATCH * sizeof(*batch), 16);
	uint8_t *data = dma(BATCH * CHUNK, 4096);
	bool good = true;

	for (unsigned round = 0; round < 20 && good; round++) {
		unsigned n;

		pattern(data, BATCH * CHUNK, round);
		n = run_batch(b, queue, batch, data, BLK_OUT);
		fill(data, 0, BATCH * CHUNK);
		good = n && run_batch(b, queue, batch, data, BLK_IN) == n && is_pattern(data, n * CHUNK, round);
	}
	check(good, "requests in flight together all come back right", "queue %u", queue);
}

static void test_more_requests(struct blk *b)
{
	uint8_t *data = dma(BIG, 4096);
	struct range *range = dma(sizeof(*range), 16);
	char serial[ID_LEN + 1] = "";

	check_equal(blk_request(b, 0, BLK_FLUSH, 0, NULL, 0, NULL), BLK_OK, "a flush succeeds");
	if (arg_copy("serial", serial, sizeof(serial))) {
		check_equal(blk_request(b, 0, BLK_GET_ID, 0, data, ID_LEN, NULL), BLK_OK, "GET_ID succeeds");
		check(same_bytes(data, serial, ID_LEN), "GET_ID gives the serial number", "other bytes");
	}
	*range = (struct range){ .sector = 16, .sectors = 64 };
	if (b->v.features & BLK_F_WRITE_ZEROES) {
		check_equal(blk_request(b, 0, BLK_WRITE_ZEROES, 0, range, sizeof(*range), NULL), BLK_OK,
			"write-zeroes succeeds");
		pattern(data, 64 * SECTOR, 9);
		blk_request(b, 0, BLK_IN, 16, data, 64 * SECTOR, NULL);
		fill(data + BIG / 2, 0, 64 * SECTOR);
		check(same_bytes(data, data + BIG / 2, 64 * SECTOR), "write-zeroes leaves zeroes", "other bytes");
	} else {
		skip("write-zeroes succeeds", "not offered for this disk");
	}
	if (b->v.features & BLK_F_DISCARD)
		check_equal(blk_request(b, 0, BLK_DISCARD, 0, range, sizeof(*range), NULL), BLK_OK,
			"a discard succeeds");
	else
		skip("a discard succeeds", "not offered for this disk");
}

/* hostile.md's blk rows that one request can show. */
static void test_bad_requests(struct blk *b)
{
	static const uint64_t sectors[] = { UINT64_MAX, UINT64_MAX / 512, UINT64_C(1) << 55, UINT64_C(1) << 63 };
	uint8_t *data = dma(CHUNK, 4096);
	struct range *range = dma(sizeof(*range), 16);
	bool refused = true;

	check_equal(blk_request(b, 0, BLK_IN, b->capacity, data, SECTOR, NULL), BLK_IOERR, "a read past the end fails");
	check_equal(blk_request(b, 0, BLK_IN, b->capacity - 1, data, 2 * SECTOR, NULL), BLK_IOERR,
		"a read across the end fails");
	check_equal(blk_request(b, 0, BLK_OUT, b->capacity, data, SECTOR, NULL), BLK_IOERR, "a write past the end fails");
	for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
		refused &= blk_request(b, 0, BLK_IN, sectors[i], data, SECTOR, NULL) == BLK_IOERR;
		refused &= blk_request(b, 0, BLK_OUT, sectors[i], data, SECTOR, NULL) == BLK_IOERR;
	}
	check(refused, "sectors that wrap fail", "one did not");
	check_equal(blk_request(b, 0, BLK_IN, 0, data, 100, NULL), BLK_IOERR, "a read of half a sector fails");
	check_equal(blk_request(b, 0, (enum blk_type)99, 0, data, SECTOR, NULL), BLK_UNSUPP,
		"an unknown request is unsupported");
	if (b->v.features & BLK_F_WRITE_ZEROES) {
		*range = (struct range){ .sector = b->capacity - 1, .sectors = 2 };
		check_equal(blk_request(b, 0, BLK_WRITE_ZEROES, 0, range, sizeof(*range), NULL), BLK_IOERR,
			"write-zeroes across the end fails");
		*range = (struct range){ .sector = UINT64_MAX - 1, .sectors = 4 };
		check_equal(blk_request(b, 0, BLK_WRITE_ZEROES, 0, range, sizeof(*range), NULL), BLK_IOERR,
			"write-zeroes of a range that wraps fails");
		*range = (struct range){ .sectors = 1, .flags = 0x80 };
		check_equal(blk_request(b, 0, BLK_WRITE_ZEROES, 0, range, sizeof(*range), NULL), BLK_UNSUPP,
			"write-zeroes with an unknown flag is unsupported");
	}
	check(!(vio_status(&b->v) & VIO_NEEDS_RESET), "bad requests do not break the device", "NEEDS_RESET");
	check(blk_works(b, 0), "the disk works after bad requests", "it does not");
}

static void test_config(struct blk *b)
{
	uint64_t asked = vio_ring_features();

	check_equal(b->v.features & asked, asked, "the ring features asked for are there");
	check_equal(b->capacity, arg_u64("capacity", b->capacity), "the capacity is the file's size");
	if (b->v.features & BLK_F_BLK_SIZE)
		check(vio_config(&b->v, BLK_BLK_SIZE, 4) >= SECTOR, "the block size is one", "%lu",
			(unsigned long)vio_config(&b->v, BLK_BLK_SIZE, 4));
	check_equal(b->queues, arg_u64("queues", b->queues), "there are as many queues as asked");
	if (b->v.features & BLK_F_CONFIG_WCE) {
		vio_set_config8(&b->v, BLK_WRITEBACK, 0);
		check_equal(vio_config(&b->v, BLK_WRITEBACK, 1), 0, "the write cache can be turned off");
		check(blk_works(b, 0), "the disk works with its write cache off", "it does not");
		vio_set_config8(&b->v, BLK_WRITEBACK, 1);
		check_equal(vio_config(&b->v, BLK_WRITEBACK, 1), 1, "the write cache can be turned on");
	}
}

static void test_blk(void)
{
	static struct blk b;
	bool good = true;

	if (!blk_open(&b, 0))
		return;
	test_config(&b);
	test_data(&b);
	test_pieces(&b);
	for (unsigned i = 0; i < b.queues; i++)
		good &= blk_works(&b, i);
	check(good, "each queue works", "one of %u does not", b.queues);
	test_batches(&b, b.queues - 1);
	test_more_requests(&b);
	test_bad_requests(&b);
	check(vio_reset(&b.v), "the disk resets", "its status does not become 0");
	check(blk_start(&b, b.v.features) && blk_works(&b, 0), "the disk works after a reset", "it does not");
}

/* Requests that are checked, for so many rounds; what serves them may come and go meanwhile. */
static void test_steady(void)
{
	static struct blk b;
	uint64_t rounds = arg_u64("rounds", 1000), done = 0;
	struct batch *batch;
	uint8_t *data;
	bool good = true;

	if (!blk_open(&b, 0))
		return;
	batch = dma(BATCH * sizeof(*batch), 16);
	data = dma(BATCH * CHUNK, 4096);
	say("steady\n");
	for (; good && done < rounds; done++) {
		unsigned queue = (unsigned)(done % b.queues), n;

		pattern(data, BATCH * CHUNK, (uint32_t)done);
		n = run_batch(&b, queue, batch, data, BLK_OUT);
		fill(data, 0, BATCH * CHUNK);
		good = n && run_batch(&b, queue, batch, data, BLK_IN) == n && is_pattern(data, n * CHUNK, (uint32_t)done);
	}
	check(good, "every request comes back once and right", "round %lu", (unsigned long)done);
	check(!(vio_status(&b.v) & VIO_NEEDS_RESET), "the device does not ask for a reset", "status 0x%x",
		vio_status(&b.v));
	check(vio_reset(&b.v), "the disk resets", "its status does not become 0");
	check(blk_start(&b, b.v.features) && blk_works(&b, 0), "the disk works after a reset", "it does not");
}

/* Until the machine is ended. */
static void test_resets(void)
{
	static struct blk b;

	if (!blk_open(&b, 0))
		return;
	say("resetting\n");
	while (vio_reset(&b.v) && blk_start(&b, b.v.features) && blk_works(&b, 0))
		;
	check(false, "the disk works after each reset", "status 0x%x", vio_status(&b.v));
}

static void test_readonly(void)
{
	static struct blk b;
	uint8_t *data;

	if (!blk_open(&b, 0))
		return;
	data = dma(SECTOR, 16);
	check(b.v.features & BLK_F_RO, "the disk says that it is read-only", "features 0x%lx", b.v.features);
	check_equal(blk_request(&b, 0, BLK_IN, 0, data, SECTOR, NULL), BLK_OK, "a read succeeds");
	check_equal(blk_request(&b, 0, BLK_OUT, 0, data, SECTOR, NULL), BLK_IOERR, "a write fails");
	check(blk_request(&b, 0, BLK_WRITE_ZEROES, 0, data, 16, NULL) != BLK_OK, "write-zeroes fails", "it succeeds");
	check(blk_request(&b, 0, BLK_DISCARD, 0, data, 16, NULL) != BLK_OK, "a discard fails", "it succeeds");
	check_equal(blk_request(&b, 0, BLK_IN, 0, data, SECTOR, NULL), BLK_OK, "a read succeeds afterwards");
}

const struct guest_test blk_tests[] = {
	{ "blk", test_blk },
	{ "blk-steady", test_steady },
	{ "blk-resets", test_resets },
	{ "readonly", test_readonly },
	{ NULL, NULL },
};
