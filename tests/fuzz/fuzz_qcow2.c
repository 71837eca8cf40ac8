/*
 * Any bytes as a qcow2 image, and any requests on it. Even inputs: the bytes are the image, patched
 * over a valid small one or all of it; whatever is refused or fails, nothing crashes, hangs or
 * leaks, and every request that was started comes back once. Odd inputs: a valid image, where each
 * sector must read as what was written last. With MICROVM_QEMU_IMG in the environment qemu-img judges that image too: it is
 * whole, without a leak, and its bytes are the same (tests/fuzz/run asks for it when it replays the corpus).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/host/disk_open.h"
#include "devices/host/qcow2.h"
#include "vmm/log.h"

enum { SECTORS = 2048, SIZE = SECTORS * 512, DEPTH = 4, OPS = 64, FILE_MAX = 4 * MIB };

struct fuzz {
	struct disk *disk;
	struct disk_queue *queue;
	struct disk_info info;
	unsigned started, done;
	int result;
	bool valid;
	/* of each sector: the byte it was filled with */
	uint8_t model[SECTORS];
};

static void on_done(void *ctx, struct disk_request *rq, int result)
{
	struct fuzz *f = ctx;

	(void)rq;
	f->done++;
	f->result = result;
}

static void on_batch(void *ctx)
{
	(void)ctx;
}

/* Clusters of 512 bytes to 4 KiB make small files with many tables. */
static void put_image(int fd, uint8_t shape)
{
	uint32_t bits = 9 + shape % 4, order = shape / 4 % 7, v2 = shape >> 7;
	uint64_t cs = UINT64_C(1) << bits, l1_size = (SIZE + (cs * cs / 8) - 1) / (cs * cs / 8);
	uint64_t l1_clusters = (l1_size * 8 + cs - 1) / cs;
	uint8_t h[QCOW2_SECTOR] = "QFI\xfb", block[4096] = { 0 }, entry[8];

	order = v2 ? 4 : order;
	put_be32(h + QCOW2_H_VERSION, v2 ? 2 : 3);
	put_be32(h + QCOW2_H_CLUSTER_BITS, bits);
	put_be64(h + QCOW2_H_SIZE, SIZE);
	put_be32(h + QCOW2_H_L1_SIZE, (uint32_t)l1_size);
	put_be64(h + QCOW2_H_L1, 3 * cs);
	put_be64(h + QCOW2_H_REFTABLE, cs);
	put_be32(h + QCOW2_H_REFTABLE_CLUSTERS, 1);
	if (!v2) {
		put_be32(h + QCOW2_H_REFCOUNT_ORDER, order);
		put_be32(h + QCOW2_H_LENGTH, QCOW2_H_V3_LEN);
	}
	for (uint64_t i = 0; i < 3 + l1_clusters; i++)
		qcow2_refcount_write(block, i, order, 1);
	put_be64(entry, 2 * cs);
	if (pwrite(fd, h, sizeof(h), 0) < 0 || pwrite(fd, entry, 8, (off_t)cs) < 0 ||
		pwrite(fd, block, cs, 2 * (off_t)cs) < 0 || ftruncate(fd, (off_t)((3 + l1_clusters) * cs)))
		abort();
}

static void check_read(struct fuzz *f, const struct disk_request *rq, const uint8_t *buf)
{
	for (uint64_t i = 0; f->valid && i < rq->len; i++)
		if (buf[i] != f->model[(rq->offset + i) / 512])
			abort();
}

/* One request of four bytes: what, where (two), how long. */
static void run_op(struct fuzz *f, const uint8_t *op)
{
	static uint8_t buf[32 * KIB];
	static const enum disk_op kinds[] = { DISK_READ, DISK_WRITE, DISK_WRITE, DISK_FLUSH, DISK_DISCARD,
		DISK_WRITE_ZEROES, DISK_WRITE, DISK_READ };
	struct disk_request rq = { .op = kinds[op[0] & 7], .unmap = op[0] >> 3 & 1, .sync = op[0] >> 4 == 1 };
	struct iovec iov = { buf, 0 };

	rq.offset = (op[1] | (uint64_t)op[2] << 8) % SECTORS * 512;
	rq.len = MIN((op[3] % 64 + UINT64_C(1)) * 512, SIZE - rq.offset);
	if (rq.op == DISK_FLUSH)
		rq.offset = rq.len = 0;
	iov.iov_len = rq.len;
	rq.iov = &iov;
	rq.iovcnt = 1;
	memset(buf, op[3] ^ op[1], rq.len);
	if (f->disk->ops->start(f->queue, &rq)) {
		if (f->valid)
			abort();
		return;
	}
	f->started++;
	f->disk->ops->submit(f->queue);
	f->disk->ops->drain(f->queue);
	if (f->done != f->started || (f->valid && f->result))
		abort();
	if (f->result)
		return;
	if (rq.op == DISK_READ)
		check_read(f, &rq, buf);
	else if (rq.op == DISK_WRITE)
		memset(f->model + rq.offset / 512, op[3] ^ op[1], rq.len / 512);
	else if (rq.op == DISK_WRITE_ZEROES)
		memset(f->model + rq.offset / 512, 0, rq.len / 512);
	for (uint64_t at = rq.offset; rq.op == DISK_DISCARD && f->valid && at < rq.offset + rq.len; at += 512) {
		struct disk_request look = { .op = DISK_READ, .offset = at, .len = 512, .iov = &iov, .iovcnt = 1 };

		iov = (struct iovec){ buf, 512 };
		if (f->disk->ops->start(f->queue, &look))
			abort();
		f->started++;
		f->disk->ops->submit(f->queue);
		f->disk->ops->drain(f->queue);
		if (buf[0] != f->model[at / 512] && buf[0])
			abort();
		f->model[at / 512] = buf[0];
	}
}

static bool open_disk(struct fuzz *f, int fd, bool readonly)
{
	const struct disk_events events = { .done = on_done, .batch_done = on_batch, .ctx = f };
	char path[64];
	const struct disk_qcow2_config config = { .path = path, .readonly = readonly, .plain = true };
	struct error err;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (disk_qcow2_open(&f->disk, &config, &err))
		return false;
	f->disk->ops->info(f->disk, &f->info);
	if (f->disk->ops->queue_create(&f->queue, f->disk, DEPTH, &events, &err) ||
		f->disk->ops->queue_attach(f->queue, NULL))
		abort();
	return true;
}

static void close_disk(struct fuzz *f)
{
	f->disk->ops->drain(f->queue);
	f->disk->ops->queue_detach(f->queue);
	f->disk->ops->queue_destroy(f->queue);
	f->disk->ops->close(f->disk);
}

/* Patches of eleven bytes: place (two, in units of eight), how many, eight bytes. */
static size_t patch_image(int fd, const uint8_t *data, size_t len, unsigned n)
{
	size_t at = 0;

	for (; n-- && len - at >= 11; at += 11) {
		off_t where = (off_t)(data[at] | data[at + 1] << 8) * 8;

		if (pwrite(fd, data + at + 3, data[at + 2] % 8 + 1u, where) < 0)
			abort();
	}
	return at;
}

/* The same file by another program: whole, and every byte as the model has it. */
static void judge_by_qemu(const struct fuzz *f, int fd)
{
	static uint8_t raw[SIZE];
	char path[] = "/dev/shm/fuzz_qcow2.XXXXXX", command[256];
	int copy = mkstemp(path);

	snprintf(command, sizeof(command), "exec 2>&1; I=/proc/%d/fd/%d; qemu-img check -q -f qcow2 $I && "
		"qemu-img convert -f qcow2 -O raw $I %s", (int)getpid(), fd, path);
	if (copy < 0 || system(command))
		abort();
	close(copy);
	copy = open(path, O_RDONLY);
	if (copy < 0 || pread(copy, raw, SIZE, 0) != SIZE)
		abort();
	for (uint64_t i = 0; i < SIZE; i++)
		if (raw[i] != f->model[i / 512])
			abort();
	close(copy);
	unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fuzz f = { 0 };
	size_t used = 3;
	int fd;

	log_level = LOG_ERROR - 1;
	if (len < 3)
		return 0;
	fd = memfd_create("disk", MFD_CLOEXEC);
	if (fd < 0)
		abort();
	f.valid = data[0] & 1;
	if (data[0] & 2 && !f.valid) {
		/* The input itself is the file. */
		if (pwrite(fd, data + 3, MIN(len - 3, (size_t)FILE_MAX), 0) < 0)
			abort();
	} else {
		put_image(fd, data[1]);
		if (!f.valid)
			used += patch_image(fd, data + 3, len - 3, data[2] % 32);
	}
	if (open_disk(&f, fd, data[0] & 4 && !f.valid)) {
		for (unsigned i = 0; i < OPS && len - used >= 4; i++, used += 4)
			run_op(&f, data + used);
		close_disk(&f);
		/* What was written is there again. */
		if (f.valid) {
			if (!open_disk(&f, fd, false))
				abort();
			for (unsigned i = 0; i < SECTORS; i += 64)
				run_op(&f, (const uint8_t[4]){ 0, (uint8_t)i, (uint8_t)(i >> 8), 63 });
			close_disk(&f);
			if (getenv("MICROVM_QEMU_IMG"))
				judge_by_qemu(&f, fd);
		}
	} else if (f.valid) {
		abort();
	}
	close(fd);
	return 0;
}
