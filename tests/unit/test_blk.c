/*
 * virtio-blk, driven through its rings on a real file: what a driver may ask for, and what a
 * hostile one gets. Tests named bk_NN answer the rows of the catalogue of hostile inputs for disks.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/host/disk_raw.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/unit/blk_rig.h"
#include "vmm/log.h"

/* --- what a driver may ask for --- */

Test(blk, what_is_written_is_on_the_disk_and_read_again)
{
	static uint8_t buf[4096];
	struct fixture f;

	setup(&f);
	fill_in(&f, 0x5a, 4096);
	cr_assert_eq(request(&f, BLK_T_OUT, 8, 4096, 0), BLK_S_OK);
	cr_assert_eq(f.used, 1);
	peek(&f, 4096, buf, 4096);
	cr_assert(all(buf, 0x5a, 4096));
	cr_assert_eq(request(&f, BLK_T_IN, 8, 0, 4096), BLK_S_OK);
	cr_assert_eq(f.used, 4097);
	cr_assert(all(harness_at(f.h, OUT), 0x5a, 4096));
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	teardown(&f);
}

Test(blk, the_layout_is_the_drivers_business)
{
	struct fixture f;
	struct vd_seg segs[8];
	uint8_t *data;

	setup(&f);
	/*
	 * Header in three pieces, the last one shared with the data; status behind the data in one
	 * piece with its tail.
	 */
	put_header(&f, BLK_T_OUT, 1);
	memmove(harness_at(f.h, IN - 4), (uint8_t *)harness_at(f.h, HEADER) + 12, 4);
	fill_in(&f, 0x77, 512);
	segs[0] = (struct vd_seg){ HEADER, 5 };
	segs[1] = (struct vd_seg){ HEADER + 5, 7 };
	segs[2] = (struct vd_seg){ IN - 4, 4 + 100 };
	segs[3] = (struct vd_seg){ IN + 100, 412 };
	segs[4] = (struct vd_seg){ STATUS, 1 };
	cr_assert(vd_add(&f.h->vd, segs, 4, 1, &f));
	finish(&f);
	cr_assert_eq(status(&f), BLK_S_OK);

	put_header(&f, BLK_T_IN, 1);
	segs[0] = (struct vd_seg){ HEADER, 16 };
	segs[1] = (struct vd_seg){ OUT, 1 };
	segs[2] = (struct vd_seg){ OUT + 1, 512 };
	data = harness_at(f.h, OUT);
	data[512] = 0xff;
	cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	finish(&f);
	cr_assert_eq(data[512], BLK_S_OK, "the status byte is the last byte");
	cr_assert(all(data, 0x77, 512));
	cr_assert_eq(f.used, 513);
	teardown(&f);
}

Test(blk, a_full_queue_completes_in_one_batch)
{
	struct vd_seg segs[3];
	struct fixture f;
	unsigned n = 0;
	uint32_t used;
	void *cookie;

	setup_with(&f, "", BASIC | VD_F_INDIRECT | VD_F_EVENT_IDX);
	vd_enable_call(&f.h->vd);
	harness_calls(f.h);
	put_header(&f, BLK_T_IN, 0);
	for (unsigned i = 0; i < QUEUE; i++) {
		segs[0] = (struct vd_seg){ HEADER, 16 };
		segs[1] = (struct vd_seg){ OUT + i * 512, 512 };
		segs[2] = (struct vd_seg){ STATUS + i, 1 };
		cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	}
	vd_kick(&f.h->vd);
	cr_assert_geq(rig_kick(f.rig, 0), 0);
	f.blk->disk->ops->drain(f.blk->queues[0].disk_queue);
	while (vd_poll(&f.h->vd, &cookie, &used) > 0)
		n++;
	cr_assert_eq(n, QUEUE);
	cr_assert_eq(harness_calls(f.h), 1, "the driver asked for one interrupt");
	teardown(&f);
}

Test(blk, completions_that_come_later_reach_the_driver_through_the_loop)
{
	struct vd_seg segs[2] = { { HEADER, 16 }, { STATUS, 1 } };
	struct fixture f;
	int n = 0;
	uint32_t used;
	void *cookie;

	setup(&f);
	put_header(&f, BLK_T_FLUSH, 0);
	cr_assert(vd_add(&f.h->vd, segs, 1, 1, &f));
	vd_kick(&f.h->vd);
	rig_kick(f.rig, 0);
	for (int ms = 0; ms < 2000 && !n; ms++) {
		rig_run(f.rig, 1);
		n = vd_poll(&f.h->vd, &cookie, &used);
	}
	cr_assert_eq(n, 1);
	cr_assert_eq(status(&f), BLK_S_OK);
	teardown(&f);
}

Test(blk, a_stop_waits_for_what_is_in_flight)
{
	struct vd_seg segs[3] = { { HEADER, 16 }, { OUT, 65536 }, { STATUS, 1 } };
	struct fixture f;

	setup_with(&f, "", BASIC | VD_F_INDIRECT);
	put_header(&f, BLK_T_IN, 0);
	for (unsigned i = 0; i < QUEUE; i++)
		cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	vd_kick(&f.h->vd);
	rig_kick(f.rig, 0);
	rig_stop(f.rig, 0); /* aborts when a chain is not returned */
	rig_start(f.rig, 0, QUEUE, BASIC);
	f.h = f.rig->h[0];
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 512), BLK_S_OK, "and it can be started again");
	teardown(&f);
}

Test(blk, discard_and_write_zeroes_take_several_segments)
{
	struct blk_range range[3] = { { 0, 1, 0 }, { 4, 0, 0 }, { 8, 2, 0 } };
	static uint8_t buf[8192];
	struct fixture f;

	setup(&f);
	fill_in(&f, 0xaa, 8192);
	for (int unmap = 0; unmap < 2; unmap++) {
		cr_assert_eq(request(&f, BLK_T_OUT, 0, 8192, 0), BLK_S_OK);
		range[0].flags = range[2].flags = unmap ? BLK_RANGE_UNMAP : 0;
		memcpy(harness_at(f.h, IN), range, sizeof(range));
		cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, sizeof(range), 0), BLK_S_OK);
		peek(&f, 0, buf, sizeof(buf));
		cr_assert(all(buf, 0, 512) && all(buf + 512, 0xaa, 7 * 512) && all(buf + 4096, 0,
			1024) &&
			all(buf + 5120, 0xaa, 3072), "unmap %d", unmap);
		fill_in(&f, 0xaa, 8192);
	}
	range[0].flags = range[2].flags = 0;
	memcpy(harness_at(f.h, IN), range, sizeof(range));
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, sizeof(range), 0), BLK_S_OK);
	memset(range, 0, sizeof(range));
	memcpy(harness_at(f.h, IN), range, sizeof(range));
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, sizeof(range), 0), BLK_S_OK,
		"nothing to do is done");
	teardown(&f);
}

Test(blk, config_space_describes_the_disk)
{
	struct blk_config c;
	struct fixture f;

	setup_with(&f, ",num_queues=4,queue_size=64", BASIC);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.capacity, SIZE / 512);
	cr_assert_eq(c.blk_size, 512);
	cr_assert_eq(c.seg_max, 62);
	cr_assert_eq(c.num_queues, 4);
	cr_assert_eq(c.writeback, 1);
	cr_assert_eq(512 << c.physical_block_exp, 4096);
	cr_assert(f.rig->dev->offered & B(BLK_F_MQ));
	cr_assert_not(f.rig->dev->offered & B(BLK_F_RO));
	teardown(&f);
}

Test(blk, an_overlay_takes_the_writes_and_has_one_queue)
{
	uint8_t base[4096] = { 0 };
	struct fixture f;
	struct error err;
	char text[128];
	int fd;

	setup_with(&f, ",ephemeral=on", BASIC | B(BLK_F_DISCARD) | B(BLK_F_WRITE_ZEROES));
	fill_in(&f, 0x5a, 4096);
	cr_assert_eq(request(&f, BLK_T_OUT, 8, 4096, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_IN, 8, 0, 4096), BLK_S_OK);
	for (int i = 0; i < 4096; i++)
		cr_assert_eq(((uint8_t *)harness_at(f.h, OUT))[i], 0x5a);
	fd = open(f.path, O_RDONLY);
	cr_assert_eq(pread(fd, base, sizeof(base), 4096), (ssize_t)sizeof(base));
	close(fd);
	cr_assert_eq(base[0], 0, "the base is only read");
	snprintf(text, sizeof(text), "path=%s,ephemeral=on,num_queues=2", f.path);
	cr_assert_null(rig_new(&virtio_blk_type, text, &err));
	cr_assert(strstr(err.text, "a qcow2 disk has one queue"), "%s", err.text);
	snprintf(text, sizeof(text), "path=%s,format=vmdk", f.path);
	cr_assert_null(rig_new(&virtio_blk_type, text, &err));
	cr_assert(strstr(err.text, "vmdk"), "%s", err.text);
	teardown(&f);
}

Test(blk, bad_options_are_refused_with_a_sentence)
{
	struct error err;

	cr_assert_null(rig_new(&virtio_blk_type, "path=/nonexistent", &err));
	cr_assert_str_eq(err.text, "--disk path=/nonexistent: no such file; check the path");
	cr_assert_null(rig_new(&virtio_blk_type, "path=/x,serial=123456789012345678901", &err));
	cr_assert(strstr(err.text, "longer than 20 bytes"), "%s", err.text);
	cr_assert_null(rig_new(&virtio_blk_type, "path=/x,num_queues=17", &err));
	cr_assert_null(rig_new(&virtio_blk_type, "readonly=on", &err));
	cr_assert(strstr(err.text, "add path=FILE, null=SIZE, socket=PATH or vdpa=PATH"), "%s", err.text);
	cr_assert_null(rig_new(&virtio_blk_type, "path=/x,null=1M", &err));
	cr_assert(strstr(err.text, "leave out one of the two"), "%s", err.text);
	cr_assert_null(rig_new(&virtio_blk_type, "null=1M,affinity=[1023]", &err));
	cr_assert(strstr(err.text, "CPU 1023 is none that this process may use"), "%s", err.text);
	cr_assert_null(rig_new(&virtio_blk_type, "null=1M,affinity=[5000]", &err));
	cr_assert_null(rig_new(&virtio_blk_type, "null=1000", &err));
	cr_assert(strstr(err.text, "--disk null=1000: 1000 bytes are no multiple of 512"), "%s", err.text);
}

Test(blk, a_null_disk_serves_without_a_file_and_asks_nothing_of_the_kernel)
{
	struct error err = { "" };
	struct fixture f = { .rig = rig_new(&virtio_blk_type, "null=2M", &err) };

	cr_assert(f.rig, "%s", err.text);
	f.blk = container_of(f.rig->dev, struct blk, dev);
	for (size_t i = 0; i < VIRTIO_SYSCALL_TABLES; i++)
		cr_assert_null(f.rig->dev->syscalls[i]);
	rig_start(f.rig, 0, QUEUE, BASIC);
	f.h = f.rig->h[0];
	fill_in(&f, 0xaa, 4096);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 4096, 0), BLK_S_OK);
	memset(harness_at(f.h, OUT), 0xaa, 4096);
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 4096), BLK_S_OK);
	cr_assert(all(harness_at(f.h, OUT), 0, 4096), "nothing was kept");
	cr_assert_eq(request(&f, BLK_T_IN, SIZE / 512, 0, 512), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	rig_free(f.rig);
}

Test(blk, a_disk_that_the_host_resized_has_its_new_size_and_the_guest_is_told)
{
	struct blk_config c;
	struct fixture f;

	setup(&f);
	cr_assert_eq(blk_resize(f.rig->dev), 0);
	cr_assert_eq(f.rig->config_changes, 0, "nothing changed, nothing told");
	cr_assert_eq(request(&f, BLK_T_IN, SIZE / 512, 0, 512), BLK_S_IOERR);
	cr_assert_eq(truncate(f.path, 2 * SIZE), 0);
	cr_assert_eq(blk_resize(f.rig->dev), 0);
	cr_assert_eq(f.rig->config_changes, 1);
	virtio_config_read(&f.rig->dev->config, 0, &c, sizeof(c));
	cr_assert_eq(c.capacity, 2 * SIZE / 512);
	cr_assert_eq(c.seg_max, f.blk->max_iov - BLK_IOV_EXTRA, "the rest stays");
	cr_assert_eq(request(&f, BLK_T_IN, SIZE / 512, 0, 512), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_OUT, 2 * SIZE / 512 - 1, 512, 0), BLK_S_OK);

	cr_assert_eq(truncate(f.path, SIZE / 2), 0);
	cr_assert_eq(blk_resize(f.rig->dev), 0);
	cr_assert_eq(request(&f, BLK_T_IN, SIZE / 1024, 0, 512), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 0, "beyond the end is the guest's mistake");
	cr_assert_eq(truncate(f.path, 1000), 0);
	cr_assert_eq(blk_resize(f.rig->dev), -EINVAL);
	cr_assert_eq(blk_size(f.blk), SIZE / 2, "what is no disk's size changes nothing");
	cr_assert_eq(f.rig->config_changes, 2);
	teardown(&f);
}

Test(blk, queues_are_bound_to_the_cpus_of_the_list)
{
	struct error err = { "" };
	cpu_set_t set;
	char text[64];
	unsigned cpu = 0;
	struct rig *rig;

	cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	snprintf(text, sizeof(text), "null=1M,num_queues=2,affinity=[%u]", cpu);
	rig = rig_new(&virtio_blk_type, text, &err);
	cr_assert(rig, "%s", err.text);
	cr_assert_eq(rig->dev->ncpus, 1);
	cr_assert_eq(rig->dev->cpus[0], cpu);
	rig_free(rig);
}

Test(blk, a_disk_that_cannot_change_says_so)
{
	struct error err = { "" };
	struct rig *rig = rig_new(&virtio_blk_type, "null=2M", &err);

	cr_assert(rig, "%s", err.text);
	cr_assert_eq(blk_resize(rig->dev), -EOPNOTSUPP);
	rig_free(rig);
}

Test(blk, the_write_cache_switch_is_saved_and_loaded)
{
	const struct state_desc *desc = virtio_blk_type.state;
	struct state_writer w = { 0 };
	struct state_reader r;
	struct fixture f, g;
	struct error err;
	uint8_t off = 0;

	setup(&f);
	setup(&g);
	virtio_config_write(&f.rig->dev->config, offsetof(struct blk_config, writeback), &off, 1);
	virtio_blk_type.config_written(f.rig->dev, offsetof(struct blk_config, writeback), 1);
	cr_assert_eq(state_save(&w, desc, f.rig->dev), 0);
	r = (struct state_reader){ w.data, w.len, 0 };
	rig_stop(g.rig, 0);
	cr_assert_eq(state_load(&r, desc, g.rig->dev, &err), 0, "%s", err.text);
	rig_start(g.rig, 0, QUEUE, BASIC);
	virtio_config_read(&g.rig->dev->config, offsetof(struct blk_config, writeback), &off, 1);
	cr_assert_eq(off, 0);
	cr_assert_eq(g.blk->writeback, 0);
	g.blk->writeback = 2;
	cr_assert_neq(desc->check(g.rig->dev, &err), 0);
	state_writer_free(&w);
	teardown(&f);
	teardown(&g);
}

/* --- what a hostile one gets --- */

Test(blk, bk_01_sectors_that_wrap_or_pass_the_end_are_errors_without_effect)
{
	static const uint64_t sectors[] = { SIZE / 512, SIZE / 512 - 1, UINT64_MAX, UINT64_MAX - 1,
		UINT64_MAX / 512,
		UINT64_MAX / 512 + 1, INT64_MAX, INT64_MAX / 512, UINT64_C(1) << 55 };
	struct fixture f;

	setup(&f);
	for (size_t i = 0; i < ARRAY_SIZE(sectors); i++) {
		cr_assert_eq(request(&f, BLK_T_IN, sectors[i], 0, 1024), BLK_S_IOERR, "%zu", i);
		cr_assert_eq(request(&f, BLK_T_OUT, sectors[i], 1024, 0), BLK_S_IOERR, "%zu", i);
	}
	cr_assert_eq(request(&f, BLK_T_IN, SIZE / 512 - 1, 0, 512), BLK_S_OK);
	cr_assert_eq(f.rig->nevents, 0, "that is the guest's fault, not the host's");
	teardown(&f);
}

Test(blk, bk_02_one_bad_segment_among_many_undoes_all)
{
	static const struct blk_range bad[] = { { SIZE / 512, 1, 0 }, { SIZE / 512 - 1, 2, 0 }, {
		UINT64_MAX, 1, 0 },
		{ UINT64_MAX / 512, 1, 0 }, { 0, UINT32_MAX, 0 }, { UINT64_MAX - 1, 3, 0 } };
	struct blk_range *range;
	static uint8_t buf[512];
	struct fixture f;

	setup(&f);
	fill_in(&f, 0xaa, 512);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 512, 0), BLK_S_OK);
	range = harness_at(f.h, IN);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		range[0] = (struct blk_range){ 0, 1, 0 };
		range[1] = bad[i];
		cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, 32, 0), BLK_S_IOERR, "%zu", i);
		cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 32, 0), BLK_S_IOERR, "%zu", i);
	}
	range[1] = (struct blk_range){ 0, 1, 2 };
	cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, 32, 0), BLK_S_UNSUPP, "unknown flag");
	range[1] = (struct blk_range){ 0, 1, BLK_RANGE_UNMAP };
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 32, 0), BLK_S_UNSUPP,
		"unmap is for write-zeroes");
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 0, 0), BLK_S_IOERR, "no segment");
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 17, 0), BLK_S_IOERR, "not a whole one");
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 17 * 16, 0), BLK_S_IOERR,
		"more than max_discard_seg");
	peek(&f, 0, buf, 512);
	cr_assert(all(buf, 0xaa, 512));
	teardown(&f);
}

Test(blk, bk_03_a_disk_that_shrank_under_the_device_is_safe)
{
	struct raw_disk *raw;
	struct fixture f;

	setup(&f);
	raw = container_of(f.blk->disk, struct raw_disk, disk);
	raw->info.size = 4096;
	cr_assert_eq(request(&f, BLK_T_OUT, 8, 512, 0), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_IN, 7, 0, 1024), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_IN, 7, 0, 512), BLK_S_OK);
	teardown(&f);
}

Test(blk, bk_04_odd_lengths_and_too_many_pieces_are_errors)
{
	struct vd_seg segs[QUEUE];
	struct fixture f;

	setup_with(&f, ",queue_size=4", BASIC);
	rig_stop(f.rig, 0);
	/* larger than the device expects: more pieces than seg_max */
	rig_start(f.rig, 0, QUEUE, BASIC);
	f.h = f.rig->h[0];
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 511), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 513), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 1, 0), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 0, 0), BLK_S_OK, "nothing to write is written");

	put_header(&f, BLK_T_IN, 0);
	segs[0] = (struct vd_seg){ HEADER, 16 };
	for (unsigned i = 1; i <= 8; i++)
		segs[i] = (struct vd_seg){ OUT + i * 1024, 64 };
	segs[9] = (struct vd_seg){ STATUS, 1 };
	cr_assert(vd_add(&f.h->vd, segs, 1, 9, &f));
	finish(&f);
	cr_assert_eq(status(&f), BLK_S_IOERR);
	teardown(&f);
}

Test(blk, bk_05_get_id_fits_any_buffer)
{
	struct fixture f;

	setup_with(&f, ",serial=12345678901234567890", BASIC);
	memset(harness_at(f.h, OUT), 0xee, 64);
	cr_assert_eq(request(&f, BLK_T_GET_ID, 0, 0, 20), BLK_S_OK);
	cr_assert_eq(memcmp(harness_at(f.h, OUT), "12345678901234567890\xee", 21), 0);
	memset(harness_at(f.h, OUT), 0xee, 64);
	cr_assert_eq(request(&f, BLK_T_GET_ID, 0, 0, 5), BLK_S_OK);
	cr_assert_eq(memcmp(harness_at(f.h, OUT), "12345\xee", 6), 0);
	cr_assert_eq(request(&f, BLK_T_GET_ID, 0, 0, 0), BLK_S_OK);
	teardown(&f);
}

Test(blk, bk_06_unknown_types_are_unsupported)
{
	static const uint32_t types[] = { 2, 3, 5, 9, 10, 12, 14, 0x80000000, UINT32_MAX };
	struct fixture f;

	setup_with(&f, "", B(BLK_F_FLUSH));
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		cr_assert_eq(request(&f, types[i], 0, 512, 512), BLK_S_UNSUPP, "type %u", types[i]);
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 16, 0), BLK_S_UNSUPP, "not negotiated");
	cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, 16, 0), BLK_S_UNSUPP);
	teardown(&f);
}

Test(blk, bk_07_a_readonly_disk_does_not_change)
{
	struct blk_range *range;
	static uint8_t buf[512];
	struct fixture f;

	setup_with(&f, ",readonly=on", BASIC);
	cr_assert(f.rig->dev->offered & B(BLK_F_RO));
	cr_assert_not(f.rig->dev->offered & (B(BLK_F_DISCARD) | B(BLK_F_WRITE_ZEROES) |
		B(BLK_F_CONFIG_WCE)));
	fill_in(&f, 0xaa, 512);
	cr_assert_eq(request(&f, BLK_T_OUT, 0, 512, 0), BLK_S_IOERR);
	range = harness_at(f.h, IN);
	*range = (struct blk_range){ 0, 1, 0 };
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 16, 0), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, 16, 0), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 512), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	peek(&f, 0, buf, 512);
	cr_assert(all(buf, 0, 512));
	cr_assert_eq(f.rig->nevents, 0);
	teardown(&f);
}

Test(blk, bk_08_a_short_read_is_an_error_and_an_event)
{
	struct fixture f;

	setup(&f);
	cr_assert_eq(truncate(f.path, 4096), 0);
	cr_assert_eq(request(&f, BLK_T_IN, 0, 0, 8192), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_IN, 64, 0, 512), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1, "told once");
	cr_assert(strstr(f.rig->event, "read failed"), "%s", f.rig->event);
	teardown(&f);
}

Test(blk, bk_09_without_a_status_byte_nothing_happens_and_the_head_comes_back)
{
	struct vd_seg segs[2] = { { HEADER, 16 }, { IN, 512 } };
	static uint8_t buf[512];
	struct fixture f;

	setup(&f);
	fill_in(&f, 0xaa, 512);
	put_header(&f, BLK_T_OUT, 0);
	cr_assert(vd_add(&f.h->vd, segs, 2, 0, &f));
	finish(&f);
	cr_assert_eq(f.used, 0);
	peek(&f, 0, buf, 512);
	cr_assert(all(buf, 0, 512), "the write was not done");

	/* Half a header; and the other way round, a status byte alone. */
	put_header(&f, BLK_T_OUT, 0);
	segs[0].len = 15;
	segs[1] = (struct vd_seg){ STATUS, 1 };
	cr_assert(vd_add(&f.h->vd, segs, 1, 1, &f));
	finish(&f);
	cr_assert_eq(status(&f), BLK_S_IOERR);
	cr_assert(vd_add(&f.h->vd, segs + 1, 0, 1, &f));
	finish(&f);
	cr_assert_eq(status(&f), BLK_S_IOERR);
	teardown(&f);
}

/* A disk whose requests are seen, and can be made to fail. */
static struct {
	const struct disk_ops *real;
	unsigned sync, starts;
} spy;

static int spy_start(struct disk_queue *q, struct disk_request *rq)
{
	spy.starts++;
	spy.sync += rq->sync;
	return spy.real->start(q, rq);
}

static bool write_is_sync(struct fixture *f)
{
	static struct disk_ops ops;

	spy.real = spy.real ? spy.real : f->blk->disk->ops;
	ops = *spy.real;
	ops.start = spy_start;
	f->blk->disk->ops = &ops;
	spy.sync = spy.starts = 0;
	cr_assert_eq(request(f, BLK_T_OUT, 0, 512, 0), BLK_S_OK);
	cr_assert_eq(spy.starts, 1);
	return spy.sync;
}

static void write_cache(struct fixture *f, uint8_t v)
{
	unsigned at = offsetof(struct blk_config, writeback);

	cr_assert(virtio_blk_type.config_writable(f->rig->dev, at, 1));
	virtio_config_write(&f->rig->dev->config, at, &v, 1);
	virtio_blk_type.config_written(f->rig->dev, at, 1);
}

Test(blk, bk_10_with_the_write_cache_off_each_write_is_stable)
{
	struct fixture f;

	setup(&f);
	cr_assert_not(write_is_sync(&f));
	write_cache(&f, 0);
	cr_assert(write_is_sync(&f));
	write_cache(&f, 1);
	cr_assert_not(write_is_sync(&f));
	write_cache(&f, 0xff);
	cr_assert_not(write_is_sync(&f));
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK, "a flush is one in either mode");
	for (unsigned at = 0; at < sizeof(struct blk_config); at++)
		for (unsigned len = 1; len <= 8; len *= 2)
			cr_assert_eq(virtio_blk_type.config_writable(f.rig->dev, at, len),
				at == 32 && len == 1);
	rig_stop(f.rig, 0);
	rig_start(f.rig, 0, QUEUE, 0);
	f.h = f.rig->h[0];
	cr_assert(write_is_sync(&f), "a driver that cannot flush gets stable writes");
	teardown(&f);
}

Test(blk, a_failed_flush_is_told_and_stays)
{
	struct raw_disk *raw;
	struct fixture f;

	setup(&f);
	raw = container_of(f.blk->disk, struct raw_disk, disk);
	atomic_store(&raw->own_kept.flush_failed, true);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_IOERR);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_IOERR);
	cr_assert_eq(f.rig->nevents, 1);
	teardown(&f);
}

Test(blk, a_broken_ring_ends_handle_and_what_came_before_is_served)
{
	struct vd_seg segs[3] = { { HEADER, 16 }, { OUT, 512 }, { STATUS, 1 } };
	struct fixture f;
	uint16_t *avail;
	uint32_t used;
	void *cookie;

	setup(&f);
	put_header(&f, BLK_T_IN, 0);
	cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	cr_assert(vd_add(&f.h->vd, segs, 1, 2, &f));
	vd_kick(&f.h->vd);
	avail = harness_at(f.h, HARNESS_AVAIL);
	avail[2 + 1] = 999; /* §2.7.6: ring[1], a head out of range */
	cr_assert_eq(rig_kick(f.rig, 0), -EPROTO);
	f.blk->disk->ops->drain(f.blk->queues[0].disk_queue);
	cr_assert_eq(vd_poll(&f.h->vd, &cookie, &used), 1);
	cr_assert_eq(status(&f), BLK_S_OK);
	teardown(&f);
}
