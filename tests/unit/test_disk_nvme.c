/*
 * An NVMe namespace as a disk: the commands that requests become, what is made of their answers, and
 * which drives are taken. With MICROVM_NVME_DISK, a namespace whose contents may go, the same on it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <liburing.h>
#include <linux/nvme_ioctl.h>
#include <stdlib.h>

#include "devices/host/disk_nvme.h"
#include "devices/host/disk_open.h"
#include "tests/unit/blk_rig.h"

static union {
	struct io_uring_sqe sqe;
	uint8_t bytes[128];
} entry;

static const struct nvme_uring_cmd *command(struct nvme_disk *n, struct disk_request *rq)
{
	struct raw_op op = raw_op_next(&n->raw, rq);

	memset(&entry, 0xee, sizeof(entry));
	nvme_to_sqe(&n->raw, rq, &op, &entry.sqe);
	cr_assert_eq(entry.sqe.opcode, IORING_OP_URING_CMD);
	cr_assert(entry.sqe.flags & IOSQE_FIXED_FILE);
	return (const struct nvme_uring_cmd *)entry.sqe.cmd;
}

static void make(struct nvme_disk *n, uint32_t block)
{
	memset(n, 0, sizeof(*n));
	nvme_init(n);
	n->nsid = 7;
	n->block = block;
	n->max_transfer = 128 * KIB;
	n->raw.info.size = GIB;
}

/* Go on as the queue does; true while there is one more command. */
static bool goes_on(struct nvme_disk *n, struct disk_request *rq, ssize_t res, int *result)
{
	*result = 1;
	return nvme_result(&n->raw, rq, &res) || raw_op_result(&n->raw, rq, res, result) == RAW_AGAIN;
}

Test(nvme, a_read_and_a_write_in_one_piece)
{
	struct iovec iov = { (void *)0x10000, 8192 };
	struct disk_request rq = { .op = DISK_READ, .offset = UINT64_C(5) << 42, .len = 8192, .iov = &iov, .iovcnt = 1 };
	const struct nvme_uring_cmd *c;
	struct nvme_disk n;
	int result;

	make(&n, 512);
	raw_op_begin(&n.raw, &rq);
	c = command(&n, &rq);
	cr_assert_eq(entry.sqe.cmd_op, NVME_URING_CMD_IO);
	cr_assert_eq(c->opcode, 2);
	cr_assert_eq(c->nsid, 7);
	cr_assert_eq(c->addr, 0x10000);
	cr_assert_eq(c->data_len, 8192);
	cr_assert_eq(c->cdw10 | (uint64_t)c->cdw11 << 32, UINT64_C(5) << 33);
	cr_assert_eq(c->cdw12, 15);
	cr_assert_eq(c->metadata | c->cdw13 | c->cdw2 | c->flags, 0);
	cr_assert_not(goes_on(&n, &rq, 0, &result));
	cr_assert_eq(result, 0);
	iov = (struct iovec){ (void *)0x10000, 8192 };
	rq = (struct disk_request){ .op = DISK_WRITE, .offset = 4096, .len = 8192, .sync = true, .iov = &iov, .iovcnt = 1 };
	make(&n, 4096);
	raw_op_begin(&n.raw, &rq);
	c = command(&n, &rq);
	cr_assert_eq(c->opcode, 1);
	cr_assert_eq(c->cdw10, 1);
	cr_assert_eq(c->cdw12, 1);
	cr_assert(goes_on(&n, &rq, 0, &result), "and made stable");
	cr_assert_eq(command(&n, &rq)->opcode, 0);
	cr_assert_not(goes_on(&n, &rq, 0, &result));
	cr_assert_eq(result, 0);
}

Test(nvme, many_pieces_are_cut_where_blocks_end)
{
	struct iovec iov[5] = { { (void *)0x1000, 256 }, { (void *)0x3000, 256 }, { (void *)0x5000, 100 * KIB },
		{ (void *)0x40000, 100 * KIB }, { (void *)0x80000, 300 * KIB } };
	struct disk_request rq = { .op = DISK_READ, .len = 512 + 500 * KIB, .iov = iov, .iovcnt = 5 };
	static const struct { unsigned op, pieces; uint64_t bytes; } want[] = {
		{ NVME_URING_CMD_IO_VEC, 3, 512 + 100 * KIB }, { NVME_URING_CMD_IO, 1, 100 * KIB },
		{ NVME_URING_CMD_IO, 1, 128 * KIB }, { NVME_URING_CMD_IO, 1, 128 * KIB }, { NVME_URING_CMD_IO, 1, 44 * KIB } };
	const struct nvme_uring_cmd *c;
	struct nvme_disk n;
	uint64_t at = 0;
	int result;

	make(&n, 512);
	raw_op_begin(&n.raw, &rq);
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		c = command(&n, &rq);
		cr_assert_eq(entry.sqe.cmd_op, want[i].op, "%zu", i);
		cr_assert_eq(c->data_len, want[i].op == NVME_URING_CMD_IO ? want[i].bytes : want[i].pieces, "%zu", i);
		cr_assert_eq(c->cdw10, at / 512, "%zu", i);
		cr_assert_eq(c->cdw12, want[i].bytes / 512 - 1, "%zu", i);
		at += want[i].bytes;
		cr_assert_eq(goes_on(&n, &rq, 0, &result), i + 1 < ARRAY_SIZE(want));
	}
	cr_assert_eq(result, 0);
	cr_assert_eq(at, 512 + 500 * KIB);
}

/* Blocks of 4096 bytes in pieces of 1 KiB, more than a command may have. */
Test(nvme, a_block_that_is_cut_too_finely_is_an_error)
{
	struct iovec iov[2] = { { (void *)0x1000, 1024 }, { (void *)0x3000, 256 * KIB - 1024 } };
	struct disk_request rq = { .op = DISK_READ, .len = 256 * KIB, .iov = iov, .iovcnt = 2 };
	struct nvme_disk n;
	int result;

	make(&n, 4096);
	raw_op_begin(&n.raw, &rq);
	cr_assert_eq(command(&n, &rq)->opcode, 0, "a flush, which moves nothing");
	cr_assert_not(goes_on(&n, &rq, 0, &result));
	cr_assert_eq(result, -EIO);
}

Test(nvme, a_discard_is_a_range_to_deallocate)
{
	struct disk_request rq = { .op = DISK_DISCARD, .offset = 8192, .len = 64 * MIB };
	const struct nvme_uring_cmd *c;
	struct nvme_disk n;
	int result;

	make(&n, 512);
	raw_op_begin(&n.raw, &rq);
	c = command(&n, &rq);
	cr_assert_eq(c->opcode, 9);
	cr_assert_eq(c->cdw10, 0, "one range, counted from 0");
	cr_assert_eq(c->cdw11, 4);
	cr_assert_eq(c->addr, (uintptr_t)rq.words);
	cr_assert_eq(c->data_len, 16);
	cr_assert_eq(rq.words[1], 64 * MIB / 512);
	cr_assert_eq(rq.words[2], 16);
	cr_assert_not(goes_on(&n, &rq, 0, &result));
	cr_assert_eq(result, 0);
	raw_op_begin(&n.raw, &rq);
	command(&n, &rq);
	cr_assert_not(goes_on(&n, &rq, 0x4002, &result));
	cr_assert_eq(result, 0, "a hint that the drive does not take");
}

Test(nvme, zeroes_are_written_by_the_drive_and_else_by_hand)
{
	struct disk_request rq = { .op = DISK_WRITE_ZEROES, .unmap = true, .len = 40 * MIB };
	const struct nvme_uring_cmd *c;
	struct nvme_disk n;
	int result, writes = 0;

	make(&n, 512);
	raw_op_begin(&n.raw, &rq);
	c = command(&n, &rq);
	cr_assert_eq(c->opcode, 8);
	cr_assert_eq(c->cdw12, 0xffff | 1 << 25, "65536 blocks, deallocated");
	cr_assert(goes_on(&n, &rq, 0, &result));
	c = command(&n, &rq);
	cr_assert_eq(c->cdw10, 65536);
	cr_assert_eq(c->cdw12, (8 * MIB / 512 - 1) | 1 << 25);
	/* The drive has enough of it: what is left is written. */
	cr_assert(goes_on(&n, &rq, 0x4001, &result));
	do {
		c = command(&n, &rq);
		cr_assert_eq(c->opcode, 1);
		cr_assert_eq(c->addr, (uintptr_t)raw_zeroes);
		cr_assert_eq(c->cdw10, (32 * MIB + (unsigned)writes * 64 * KIB) / 512);
		writes++;
	} while (goes_on(&n, &rq, 0, &result));
	cr_assert_eq(writes, 8 * MIB / (64 * KIB));
	cr_assert_eq(result, 0);
}

Test(nvme, answers_of_the_drive_have_their_meaning)
{
	static const struct { ssize_t res; int result; } cases[] = { { 0x281, -EIO }, { 0x4280, -EIO }, { 0x80, -EIO },
		{ 0x81, -ENOSPC }, { 0x20, -EROFS }, { -ENODEV, -ENODEV }, { 0x200, -EIO }, { 0x7fff, -EIO } };
	struct nvme_disk n;
	int result;

	make(&n, 512);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct iovec iov = { (void *)0x1000, 512 };
		struct disk_request rq = { .op = DISK_WRITE, .len = 512, .iov = &iov, .iovcnt = 1 };

		raw_op_begin(&n.raw, &rq);
		command(&n, &rq);
		cr_assert_not(goes_on(&n, &rq, cases[i].res, &result));
		cr_assert_eq(result, cases[i].result, "%zx: %d", (size_t)cases[i].res, result);
	}
}

Test(nvme, which_drives_are_taken)
{
	static uint8_t ns[4096], ctrl[4096];
	struct error err = { "" };
	struct nvme_disk n;

	ns[0] = 0x10;                  /* blocks */
	ns[26] = 1;                    /* format 1 */
	ns[128 + 4 + 2] = 12;
	ctrl[77] = 2;                  /* MDTS: 4 pages */
	ctrl[520] = 4 | 8;
	make(&n, 0);
	cr_assert_eq(nvme_describe(&n, ns, ctrl, false, &err), 0, "%s", err.text);
	cr_assert_eq(n.raw.info.size, 65536);
	cr_assert_eq(n.block, 4096);
	cr_assert_eq(n.max_transfer, 16384);
	cr_assert(n.raw.info.can_discard && n.raw.info.can_write_zeroes);
	cr_assert_eq(nvme_describe(&n, ns, ctrl, true, &err), 0);
	cr_assert_not(n.raw.info.can_discard || n.raw.info.can_write_zeroes);
	ctrl[77] = 255;
	cr_assert_eq(nvme_describe(&n, ns, ctrl, false, &err), 0);
	cr_assert_eq(n.max_transfer, 256 * KIB);
	ns[128 + 4] = 8;
	cr_assert_eq(nvme_describe(&n, ns, ctrl, false, &err), -ENOTSUP);
	cr_assert(strstr(err.text, "8 bytes of metadata"), "%s", err.text);
	ns[128 + 4] = 0;
	ns[128 + 4 + 2] = 64;
	cr_assert_eq(nvme_describe(&n, ns, ctrl, false, &err), -EINVAL);
	ns[128 + 4 + 2] = 12;
	memset(ns, 0xff, 8);
	cr_assert_eq(nvme_describe(&n, ns, ctrl, false, &err), -EINVAL);
	memset(ns, 0, 8);
	cr_assert_eq(nvme_describe(&n, ns, ctrl, false, &err), -EINVAL);
}

Test(nvme, other_character_devices_are_none)
{
	const struct disk_raw_config config = { .path = "/dev/null" };
	struct disk_config plain = { .path = "/dev/null" };
	struct error err;
	struct disk *d;

	cr_assert_not(disk_nvme_is("/dev/null"));
	cr_assert_not(disk_nvme_is("/nonexistent"));
	cr_assert_eq(disk_open(&d, &plain, &err), -EINVAL);
	cr_assert(strstr(err.text, "neither a file nor a block device"), "%s", err.text);
	cr_assert_lt(disk_nvme_open(&d, &config, &err), 0);
	cr_assert(strstr(err.text, "is no NVMe namespace; give /dev/ngXnY"), "%s", err.text);
}

Test(nvme, a_namespace_of_the_hosts)
{
	const char *path = getenv("MICROVM_NVME_DISK");
	struct fixture f = { .path = "" };
	struct error err = { "" };
	char text[128];

	if (!path)
		cr_skip_test("MICROVM_NVME_DISK names no namespace; the system tests have one");
	snprintf(text, sizeof(text), "path=%s", path);
	f.rig = rig_new(&virtio_blk_type, text, &err);
	cr_assert(f.rig, "%s", err.text);
	f.blk = container_of(f.rig->dev, struct blk, dev);
	rig_start(f.rig, 0, QUEUE, BASIC);
	f.h = f.rig->h[0];
	fill_in(&f, 0x5a, 16384);
	cr_assert_eq(request(&f, BLK_T_OUT, 8, 16384, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_IN, 8, 0, 16384), BLK_S_OK);
	cr_assert(all(harness_at(f.h, OUT), 0x5a, 16384));
	*(struct blk_range *)harness_at(f.h, IN) = (struct blk_range){ 16, 8, 0 };
	cr_assert_eq(request(&f, BLK_T_WRITE_ZEROES, 0, 16, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_IN, 16, 0, 4096), BLK_S_OK);
	cr_assert(all(harness_at(f.h, OUT), 0, 4096));
	cr_assert_eq(request(&f, BLK_T_IN, 24, 0, 4096), BLK_S_OK);
	cr_assert(all(harness_at(f.h, OUT), 0x5a, 4096));
	cr_assert_eq(request(&f, BLK_T_DISCARD, 0, 16, 0), BLK_S_OK);
	cr_assert_eq(request(&f, BLK_T_IN, blk_size(f.blk) / 512 - 1, 0, 1024), BLK_S_IOERR, "past the end");
	cr_assert_eq(f.rig->nevents, 0, "%s", f.rig->event);
	rig_free(f.rig);
}
