/*
 * virtio-blk on a zoned disk, secure erase and lifetime: the protocol, on a fake of the host's side
 * that keeps write pointers as hardware does.
 */
#include "tests/unit/blk_rig.h"

#include <errno.h>

#include "vmm/worker.h"

#define FEATURES (BASIC | B(BLK_F_ZONED) | B(BLK_F_SECURE_ERASE) | B(BLK_F_LIFETIME) | VD_F_INDIRECT)
enum { ZONE = 256 * KIB, ZONES = SIZE / ZONE, CAPACITY = 192 * KIB, S = ZONE / 512, ZONE_TABLE = HARNESS_DATA + 0x8000 };

/* The hardware: zone 0 is conventional. */
static struct {
	struct disk_zone zone[ZONES];
	int change_fails, report_fails;
	bool races;                    /* somebody writes between a look and a write */
	uint64_t erased;
	unsigned calls;
} hw;

static void advance(struct disk_zone *z, uint64_t len)
{
	z->wp += len;
	z->state = z->wp == z->start + z->capacity ? DISK_ZONE_FULL : 2;
}

static int hw_accepts(uint64_t offset, uint64_t len)
{
	struct disk_zone *z = &hw.zone[offset / ZONE];

	if (z->type == DISK_ZONE_CONVENTIONAL)
		return 0;
	if (hw.change_fails)
		return hw.change_fails;
	if (offset != z->wp || z->state > 4 || offset + len > z->start + z->capacity)
		return -EIO;
	advance(z, len);
	return 0;
}

static int refuse(struct disk_request *rq)
{
	return rq->op == DISK_WRITE ? hw_accepts(rq->offset, rq->len) : 0;
}

static int hw_write(const struct disk_slow *job)
{
	if (hw.races)
		advance(&hw.zone[job->offset / ZONE], 4096);
	hw.races = false;
	return hw_accepts(job->offset, job->len);
}

static int hw_change(struct disk_zone *z, enum disk_slow_op op)
{
	if (hw.change_fails)
		return hw.change_fails;
	if (op == DISK_ZONE_OPEN)
		z->state = 3;
	if (op == DISK_ZONE_CLOSE)
		z->state = z->wp == z->start ? 1 : 4;
	if (op == DISK_ZONE_FINISH)
		z->state = DISK_ZONE_FULL;
	if (op == DISK_ZONE_RESET) {
		z->state = DISK_ZONE_EMPTY;
		z->wp = z->start;
	}
	return 0;
}

static int hw_report(struct disk_slow *job)
{
	unsigned first = (unsigned)(job->offset / ZONE), n = MIN(job->nzones, ZONES - first);

	if (hw.report_fails)
		return hw.report_fails;
	n = MIN(n, 3u); /* as a host that takes its own steps */
	memcpy(job->zones, hw.zone + first, n * sizeof(hw.zone[0]));
	job->nzones = n;
	return 0;
}

static int hw_slow(struct disk *disk, struct disk_slow *job)
{
	(void)disk;
	hw.calls++;
	switch (job->op) {
	case DISK_ZONE_REPORT:
		return hw_report(job);
	case DISK_ZONE_WRITE:
		return hw_write(job);
	case DISK_ZONE_RESET_ALL:
		for (unsigned i = 1; i < ZONES; i++)
			hw_change(&hw.zone[i], DISK_ZONE_RESET);
		return 0;
	case DISK_SECURE_ERASE:
		hw.erased += job->len;
		return hw.change_fails;
	case DISK_GET_LIFETIME:
		job->lifetime = (struct disk_lifetime){ 1, 2, 3 };
		return 0;
	default:
		return hw_change(&hw.zone[job->offset / ZONE], job->op);
	}
}

static void setup_zoned(struct fixture *f, const char *more)
{
	memset(&hw, 0, sizeof(hw));
	setup_with(f, more, FEATURES);
	rig_stop(f->rig, 0);
	for (unsigned i = 0; i < ZONES; i++)
		hw.zone[i] = (struct disk_zone){ .start = i * ZONE, .wp = i * ZONE, .capacity = i ? CAPACITY : ZONE,
			.type = i ? DISK_ZONE_SEQUENTIAL : DISK_ZONE_CONVENTIONAL, .state = i ? DISK_ZONE_EMPTY : DISK_ZONE_NO_WP };
	f->blk->info.zoned = (struct disk_zoned){ .zone_size = ZONE, .max_open = 2, .max_active = 3,
		.write_granularity = 512 };
	refuser_put(f, refuse);
	refuser.ops.slow = hw_slow;
	virtio_config_write(&f->rig->dev->config, offsetof(struct blk_config, zoned.max_append_sectors), &(uint32_t){ 128 }, 4);
	rig_start(f->rig, 0, QUEUE, FEATURES);
	f->h = f->rig->h[0];
}

/* §5.2.6, as a driver reads it. */
static uint64_t word(struct fixture *f, unsigned offset)
{
	uint64_t v;

	memcpy(&v, (uint8_t *)harness_at(f->h, OUT) + offset, 8);
	return v;
}

static uint8_t append(struct fixture *f, uint64_t sector, uint32_t len)
{
	return request(f, BLK_T_ZONE_APPEND, sector, len, 8);
}

Test(blk_zoned, a_report_has_the_zones_from_the_sector_on)
{
	struct fixture f;
	const uint8_t *out;

	setup_zoned(&f, "");
	hw.zone[2].wp += 8192;
	hw.zone[2].state = 2;
	memset(harness_at(f.h, OUT), 0xee, 1024);
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, S + 5, 0, 64 + 64 * 4 + 30), BLK_S_OK);
	cr_assert_eq(f.used, 64 + 64 * 4 + 30 + 1);
	out = harness_at(f.h, OUT);
	cr_assert_eq(word(&f, 0), 4, "as many as there is room for");
	cr_assert(all(out + 8, 0, 56));
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(word(&f, 64 + 64 * i), CAPACITY / 512);
		cr_assert_eq(word(&f, 64 + 64 * i + 8), (i + 1) * S);
		cr_assert_eq(word(&f, 64 + 64 * i + 16), (i + 1) * S + (i == 1 ? 16 : 0));
		cr_assert_eq(out[64 + 64 * i + 24], DISK_ZONE_SEQUENTIAL);
		cr_assert_eq(out[64 + 64 * i + 25], i == 1 ? 2 : DISK_ZONE_EMPTY);
		cr_assert(all(out + 64 + 64 * i + 26, 0, 38));
	}
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, 0, 0, 4096), BLK_S_OK);
	cr_assert_eq(word(&f, 0), ZONES, "all that there are");
	cr_assert_eq(out[64 + 24], DISK_ZONE_CONVENTIONAL);
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, 0, 0, 64), BLK_S_OK);
	cr_assert_eq(word(&f, 0), 0);
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, 0, 0, 63), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, SIZE / 512, 0, 4096), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, UINT64_MAX / 256, 0, 4096), BLK_S_ZONE_INVALID_CMD);
	teardown(&f);
}

Test(blk_zoned, zones_are_opened_closed_finished_and_reset)
{
	struct fixture f;

	setup_zoned(&f, "");
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, S, 0, 0), BLK_S_OK);
	cr_assert_eq(hw.zone[1].state, 3);
	cr_assert_eq(request(&f, BLK_T_ZONE_CLOSE, S, 0, 0), BLK_S_OK);
	cr_assert_eq(hw.zone[1].state, 1);
	cr_assert_eq(request(&f, BLK_T_ZONE_FINISH, 2 * S, 0, 0), BLK_S_OK);
	cr_assert_eq(hw.zone[2].state, DISK_ZONE_FULL);
	cr_assert_eq(request(&f, BLK_T_ZONE_RESET, 2 * S, 0, 0), BLK_S_OK);
	cr_assert_eq(hw.zone[2].state, DISK_ZONE_EMPTY);
	hw.zone[3].state = hw.zone[7].state = DISK_ZONE_FULL;
	cr_assert_eq(request(&f, BLK_T_ZONE_RESET_ALL, 0, 0, 0), BLK_S_OK);
	cr_assert_eq(hw.zone[3].state | hw.zone[7].state, DISK_ZONE_EMPTY);
	teardown(&f);
}

Test(blk_zoned, what_cannot_be_changed_says_why)
{
	struct fixture f;

	setup_zoned(&f, "");
	cr_assert_eq(request(&f, BLK_T_ZONE_RESET, 0, 0, 0), BLK_S_ZONE_INVALID_CMD, "conventional");
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, S + 1, 0, 0), BLK_S_ZONE_INVALID_CMD, "not where one begins");
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, SIZE / 512, 0, 0), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, UINT64_MAX, 0, 0), BLK_S_ZONE_INVALID_CMD);
	hw.zone[1].state = DISK_ZONE_OFFLINE;
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, S, 0, 0), BLK_S_ZONE_INVALID_CMD);
	hw.change_fails = -ETOOMANYREFS;
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, 2 * S, 0, 0), BLK_S_ZONE_OPEN_RESOURCE);
	hw.change_fails = -EOVERFLOW;
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, 2 * S, 0, 0), BLK_S_ZONE_ACTIVE_RESOURCE);
	cr_assert_eq(append(&f, 2 * S, 512), BLK_S_ZONE_ACTIVE_RESOURCE);
	hw.change_fails = -EIO;
	cr_assert_eq(request(&f, BLK_T_ZONE_FINISH, 2 * S, 0, 0), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(f.rig->nevents, 0);
	hw.report_fails = -EIO;
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, 2 * S, 0, 0), BLK_S_IOERR, "the host failed");
	cr_assert_eq(f.rig->nevents, 1);
	cr_assert(strstr(f.rig->event, "zone management failed"), "%s", f.rig->event);
	teardown(&f);
}

Test(blk_zoned, an_append_says_where_it_went)
{
	struct fixture f;

	setup_zoned(&f, "");
	cr_assert_eq(append(&f, S, 4096), BLK_S_OK);
	cr_assert_eq(word(&f, 0), S);
	cr_assert_eq(f.used, 9);
	cr_assert_eq(append(&f, S, 8192), BLK_S_OK);
	cr_assert_eq(word(&f, 0), S + 8);
	hw.races = true;
	cr_assert_eq(append(&f, S, 512), BLK_S_OK, "it looks again");
	cr_assert_eq(word(&f, 0), S + 8 + 16 + 8);
	teardown(&f);
}

Test(blk_zoned, an_append_that_cannot_be_says_why)
{
	struct fixture f;

	setup_zoned(&f, "");
	cr_assert_eq(append(&f, 0, 512), BLK_S_ZONE_INVALID_CMD, "conventional");
	cr_assert_eq(append(&f, S + 1, 512), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(append(&f, UINT64_MAX, 512), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(append(&f, S, 129 * 512), BLK_S_ZONE_INVALID_CMD, "more than max_append_sectors");
	cr_assert_eq(append(&f, S, 511), BLK_S_ZONE_UNALIGNED_WP);
	cr_assert_eq(request(&f, BLK_T_ZONE_APPEND, S, 512, 7), BLK_S_IOERR, "no room for the sector");
	cr_assert_eq(request(&f, BLK_T_ZONE_APPEND, S, 512, 16), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_ZONE_APPEND, S, 0, 8), BLK_S_IOERR);
	hw.zone[1].wp = hw.zone[1].start + CAPACITY - 512;
	hw.zone[1].state = 2;
	cr_assert_eq(append(&f, S, 1024), BLK_S_ZONE_INVALID_CMD, "beyond the capacity");
	cr_assert_eq(append(&f, S, 512), BLK_S_OK);
	cr_assert_eq(append(&f, S, 512), BLK_S_ZONE_INVALID_CMD, "full");
	cr_assert_eq(f.rig->nevents, 0);
	hw.change_fails = -EIO;
	cr_assert_eq(append(&f, 2 * S, 512), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1, "nobody else wrote: the host failed");
	teardown(&f);
}

Test(blk_zoned, plain_writes_go_to_the_write_pointer)
{
	struct fixture f;

	setup_zoned(&f, "");
	fill_in(&f, 0x5a, 4096);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 4096, 0), BLK_S_OK, "anywhere in a conventional one");
	cr_assert_eq(request(&f, BLK_T_OUT, S, 4096, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_OUT, S + 8, 4096, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_IN, S + 8, 0, 4096), BLK_S_OK);
	cr_assert(all(harness_at(f.h, OUT), 0x5a, 4096));
	cr_assert_eq(request(&f, BLK_T_OUT, S + 8, 4096, 0), BLK_S_ZONE_UNALIGNED_WP);
	cr_assert_eq(request(&f, BLK_T_OUT, 2 * S - 1, 1024, 0), BLK_S_ZONE_INVALID_CMD, "over two zones");
	cr_assert_eq(request(&f, BLK_T_IN, 2 * S - 1, 0, 1024), BLK_S_ZONE_INVALID_CMD);
	hw.zone[1].state = DISK_ZONE_READONLY;
	cr_assert_eq(request(&f, BLK_T_OUT, S + 16, 512, 0), BLK_S_ZONE_INVALID_CMD);
	hw.change_fails = -ETOOMANYREFS;
	cr_assert_eq(request(&f, BLK_T_OUT, 3 * S, 512, 0), BLK_S_ZONE_OPEN_RESOURCE);
	cr_assert_eq(f.rig->nevents, 0, "all of that is the driver's fault");
	hw.change_fails = -EIO;
	cr_assert_eq(request(&f, BLK_T_OUT, 3 * S, 512, 0), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1, "and that is the host's");
	teardown(&f);
}

Test(blk_zoned, a_driver_without_zones_has_none_of_it)
{
	static const uint32_t types[] = { BLK_T_ZONE_APPEND, BLK_T_ZONE_REPORT, BLK_T_ZONE_OPEN, BLK_T_ZONE_CLOSE,
		BLK_T_ZONE_FINISH, BLK_T_ZONE_RESET, BLK_T_ZONE_RESET_ALL, BLK_T_SECURE_ERASE, BLK_T_GET_LIFETIME };
	struct fixture f;

	setup_zoned(&f, "");
	rig_stop(f.rig, 0);
	rig_start(f.rig, 0, QUEUE, BASIC);
	f.h = f.rig->h[0];
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		cr_assert_eq(request(&f, types[i], S, 512, 8), BLK_S_UNSUPP, "type %u", types[i]);
	cr_assert_eq(hw.calls, 0);
	teardown(&f);
}

Test(blk_zoned, config_space_describes_the_zones)
{
	struct blk_config c = { .seg_max = 14 };
	struct fixture f;

	setup_zoned(&f, "");
	blk_zoned_config(f.blk, &c);
	cr_assert_eq(c.zoned.zone_sectors, S);
	cr_assert_eq(c.zoned.max_open_zones, 2);
	cr_assert_eq(c.zoned.max_active_zones, 3);
	cr_assert_eq(c.zoned.max_append_sectors, 14 * 8);
	cr_assert_eq(c.zoned.write_granularity, 512);
	cr_assert_eq(c.zoned.model, 1);
	teardown(&f);
}

Test(blk_slow, secure_erase_takes_ranges_like_discard)
{
	struct blk_range *range;
	struct fixture f;

	setup_zoned(&f, "");
	range = harness_at(f.h, IN);
	range[0] = (struct blk_range){ 8, 8, 0 };
	range[1] = (struct blk_range){ 64, 16, 0 };
	cr_assert_eq(request(&f, BLK_T_SECURE_ERASE, 0, 32, 0), BLK_S_OK);
	cr_assert_eq(hw.erased, 24 * 512);
	range[1].sector = SIZE / 512;
	cr_assert_eq(request(&f, BLK_T_SECURE_ERASE, 0, 32, 0), BLK_S_IOERR);
	range[1] = (struct blk_range){ 64, 16, BLK_RANGE_UNMAP };
	cr_assert_eq(request(&f, BLK_T_SECURE_ERASE, 0, 32, 0), BLK_S_UNSUPP);
	cr_assert_eq(hw.erased, 24 * 512, "all or nothing");
	hw.change_fails = -EIO;
	cr_assert_eq(request(&f, BLK_T_SECURE_ERASE, 0, 16, 0), BLK_S_IOERR);
	cr_assert(strstr(f.rig->event, "secure erase failed"), "%s", f.rig->event);
	teardown(&f);
}

Test(blk_slow, the_lifetime_is_three_numbers)
{
	struct fixture f;

	setup_zoned(&f, "");
	cr_assert_eq(request(&f, BLK_T_GET_LIFETIME, 0, 0, 6), BLK_S_OK);
	cr_assert_eq(memcmp(harness_at(f.h, OUT), "\1\0\2\0\3\0", 6), 0);
	cr_assert_eq(f.used, 7);
	cr_assert_eq(request(&f, BLK_T_GET_LIFETIME, 0, 0, 5), BLK_S_IOERR);
	teardown(&f);
}

/* With the thread that a machine has for it. */
Test(blk_slow, a_thread_does_it_and_a_stop_waits_for_it)
{
	struct vd_seg segs[3] = { { HEADER, 16 }, { OUT, 64 + ZONES * 64 }, { STATUS, 1 } };
	struct error err;
	struct fixture f;
	unsigned n = 0;
	uint32_t used;
	void *cookie;

	setup_zoned(&f, "");
	cr_assert_eq(worker_create(&f.blk->slow_worker, "slow", &err), 0);
	cr_assert_eq(worker_run(f.blk->slow_worker, SANDBOX_OFF, &err), 0);
	put_header(&f, BLK_T_ZONE_REPORT, 0);
	for (int i = 0; i < 7; i++)
		cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	vd_kick(&f.h->vd);
	cr_assert_geq(rig_kick(f.rig, 0), 0);
	for (int i = 0; i < 60000 && n < 7; i++) {
		rig_run(f.rig, 1);
		while (vd_poll(&f.h->vd, &cookie, &used) > 0)
			n++;
	}
	cr_assert_eq(n, 7);
	cr_assert_eq(status(&f), BLK_S_OK);
	cr_assert_eq(word(&f, 0), ZONES);
	put_header(&f, BLK_T_ZONE_REPORT, 0);
	for (int i = 0; i < 8; i++)
		cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	vd_kick(&f.h->vd);
	rig_kick(f.rig, 0);
	rig_stop(f.rig, 0); /* aborts when a chain is not returned */
	worker_destroy(f.blk->slow_worker);
	teardown(&f);
}

/*
 * The same on a disk of the host's, of which nothing is left afterwards: MICROVM_ZONED_DISK, with
 * zone 0 conventional and a capacity like the size. The rig makes one.
 */
Test(blk_zoned, a_disk_of_the_hosts)
{
	const char *path = getenv("MICROVM_ZONED_DISK");
	struct fixture f = { .path = "" };
	struct blk_config c;
	struct error err = { "" };
	char text[128];

	if (!path)
		cr_skip_test("MICROVM_ZONED_DISK names no zoned disk; the system tests have one");
	snprintf(text, sizeof(text), "path=%s", path);
	f.rig = rig_new(&virtio_blk_type, text, &err);
	cr_assert(f.rig, "%s", err.text);
	f.blk = container_of(f.rig->dev, struct blk, dev);
	cr_assert_eq(f.rig->dev->required, B(BLK_F_ZONED));
	rig_start(f.rig, 0, QUEUE, FEATURES);
	f.h = f.rig->h[0];
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(request(&f, BLK_T_ZONE_RESET_ALL, 0, 0, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_ZONE_REPORT, 0, 0, 4096), BLK_S_OK);
	cr_assert_eq(word(&f, 0), MIN((c.capacity + c.zoned.zone_sectors - 1) / c.zoned.zone_sectors, UINT64_C(63)));
	cr_assert_eq(((uint8_t *)harness_at(f.h, OUT))[64 + 24], DISK_ZONE_CONVENTIONAL);
	cr_assert_eq(((uint8_t *)harness_at(f.h, OUT))[128 + 24], DISK_ZONE_SEQUENTIAL);
	fill_in(&f, 0x5a, 8192);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(append(&f, c.zoned.zone_sectors, 4096), BLK_S_OK);
		cr_assert_eq(word(&f, 0), c.zoned.zone_sectors + i * 8);
	}
	cr_assert_eq(request(&f, BLK_T_OUT, c.zoned.zone_sectors + 24, 4096, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_OUT, c.zoned.zone_sectors + 24, 4096, 0), BLK_S_ZONE_UNALIGNED_WP);
	cr_assert_eq(request(&f, BLK_T_IN, c.zoned.zone_sectors + 24, 0, 4096), BLK_S_OK);
	cr_assert(all(harness_at(f.h, OUT), 0x5a, 4096));
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, 0, 0, 0), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(request(&f, BLK_T_ZONE_OPEN, c.zoned.zone_sectors, 0, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_ZONE_CLOSE, c.zoned.zone_sectors, 0, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_ZONE_FINISH, c.zoned.zone_sectors, 0, 0), BLK_S_OK);
	cr_assert_eq(append(&f, c.zoned.zone_sectors, 4096), BLK_S_ZONE_INVALID_CMD);
	cr_assert_eq(request(&f, BLK_T_ZONE_RESET, c.zoned.zone_sectors, 0, 0), BLK_S_OK);
	cr_assert_eq(f.rig->nevents, 0, "%s", f.rig->event);
	rig_free(f.rig);
}
