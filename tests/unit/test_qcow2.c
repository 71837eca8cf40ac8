/*
 * The qcow2 disk against a model of its bytes, with QEMU's tools as the judge of the file: images of
 * many shapes, with snapshots, compressed clusters and bases.
 */
#include "devices/host/disk_raw.h"
#include "tests/unit/qcow2_rig.h"

static const struct disk_config qcow2 = { .format = DISK_FORMAT_QCOW2 };
static const struct disk_config qcow2_readonly = { .format = DISK_FORMAT_QCOW2, .readonly = true };

/* A source of bytes that compress, some of it zero. */
static void make_source(struct rig *r, uint64_t size)
{
	char path[96];
	FILE *f;

	r->size = size;
	r->model = calloc(1, size);
	for (uint64_t i = 0; i < size; i++)
		r->model[i] = i / 65536 % 3 == 2 ? 0 : (uint8_t)(i / 97 + (i >> 16));
	snprintf(path, sizeof(path), "%s/source", r->dir);
	f = fopen(path, "w");
	cr_assert_eq(fwrite(r->model, 1, size, f), size);
	fclose(f);
}

static void soak(const char *options, uint64_t size, unsigned n)
{
	struct rig r;

	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -o %s %s %llu", options, r.path, (unsigned long long)size), 0);
	for (int round = 0; round < 3; round++) {
		rig_open(&r, qcow2);
		rig_random_ops(&r, n, 64 * KIB);
		rig_verify(&r);
		rig_close(&r);
		rig_judge(&r, r.path);
	}
	rig_free(&r);
}

Test(qcow2, any_order_of_requests_leaves_the_bytes_of_the_model_in_clusters_of_64k)
{
	rig_needs_qemu();
	soak("cluster_size=64k", 8 * MIB, 400);
}

Test(qcow2, any_order_of_requests_leaves_the_bytes_of_the_model_in_the_smallest_clusters)
{
	rig_needs_qemu();
	soak("cluster_size=512", 4 * MIB + 512, 400);
}

Test(qcow2, any_order_of_requests_leaves_the_bytes_of_the_model_in_the_largest_clusters)
{
	rig_needs_qemu();
	soak("cluster_size=2M", 9 * MIB + 1536, 200);
}

Test(qcow2, any_order_of_requests_leaves_the_bytes_of_the_model_in_version_2)
{
	rig_needs_qemu();
	soak("compat=0.10,cluster_size=4k", 4 * MIB, 400);
}

Test(qcow2, counts_of_every_width_are_kept)
{
	char options[64];

	rig_needs_qemu();
	for (int bits = 1; bits <= 64; bits *= 2) {
		snprintf(options, sizeof(options), "cluster_size=%d,refcount_bits=%d", bits < 16 ? 512 : 1024, bits);
		soak(options, 2 * MIB, 120);
	}
}

Test(qcow2, an_image_that_qemu_filled_is_read_as_it_is)
{
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	make_source(&r, 3 * MIB + 512);
	cr_assert_eq(rig_sh(&r, "qemu-img convert -f raw -O qcow2 %s/source %s", r.dir, r.path), 0);
	rig_open(&r, qcow2_readonly);
	cr_assert_eq(rig_transfer(&r, DISK_WRITE, 0, r.model, 512), -EROFS);
	rig_verify(&r);
	rig_free(&r);
}

static void compressed(const char *options)
{
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	make_source(&r, 3 * MIB + 512);
	cr_assert_eq(rig_sh(&r, "qemu-img convert -c -f raw -O qcow2 -o %s %s/source %s", options, r.dir, r.path), 0);
	rig_open(&r, qcow2_readonly);
	rig_verify(&r);
	rig_close(&r);
	for (int round = 0; round < 2; round++) {
		rig_open(&r, qcow2);
		rig_random_ops(&r, 60, 128 * KIB);
		rig_verify(&r);
		rig_close(&r);
		rig_judge(&r, r.path);
	}
	rig_free(&r);
}

Test(qcow2, clusters_packed_by_zlib_are_read_and_written_over)
{
	compressed("cluster_size=64k");
}

Test(qcow2, clusters_packed_by_zstd_are_read_and_written_over)
{
	compressed("compression_type=zstd");
}

Test(qcow2, small_and_large_packed_clusters_are_read_and_written_over)
{
	compressed("cluster_size=4k");
	compressed("cluster_size=2M,compression_type=zstd");
}

static void snapshots(const char *options)
{
	struct rig r;
	uint8_t *first;

	rig_needs_qemu();
	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -o %s %s 4M", options, r.path), 0);
	rig_open(&r, qcow2);
	rig_random_ops(&r, 100, 64 * KIB);
	rig_close(&r);
	first = malloc(r.size);
	memcpy(first, r.model, r.size);
	cr_assert_eq(rig_sh(&r, "qemu-img snapshot -c one %s", r.path), 0);
	rig_open(&r, qcow2);
	rig_random_ops(&r, 150, 64 * KIB);
	rig_close(&r);
	rig_judge(&r, r.path);
	cr_assert_eq(rig_sh(&r, "qemu-img snapshot -c two %s", r.path), 0);
	rig_open(&r, qcow2);
	rig_random_ops(&r, 150, 64 * KIB);
	rig_verify(&r);
	rig_close(&r);
	rig_judge(&r, r.path);
	/* What was there when the snapshot was made is still there. */
	cr_assert_eq(rig_sh(&r, "qemu-img snapshot -a one %s && qemu-img snapshot -d two %s", r.path, r.path), 0);
	memcpy(r.model, first, r.size);
	rig_judge(&r, r.path);
	rig_open(&r, qcow2);
	rig_verify(&r);
	rig_random_ops(&r, 100, 64 * KIB);
	rig_close(&r);
	rig_judge(&r, r.path);
	free(first);
	rig_free(&r);
}

Test(qcow2, a_snapshot_keeps_its_bytes_whatever_is_written_later)
{
	snapshots("cluster_size=64k");
	snapshots("cluster_size=512");
	snapshots("compat=0.10,cluster_size=4k");
}

static void overlays(enum disk_format format, const char *create)
{
	struct disk_config config = { .format = format };
	char overlay[96];
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	make_source(&r, 3 * MIB + 512);
	cr_assert_eq(rig_sh(&r, create, r.dir, r.path), 0);
	snprintf(overlay, sizeof(overlay), "%s/overlay", r.dir);
	config.overlay = overlay;
	for (int round = 0; round < 3; round++) {
		rig_open(&r, config);
		rig_verify(&r);
		rig_random_ops(&r, 80, 128 * KIB);
		rig_verify(&r);
		rig_close(&r);
		rig_judge(&r, overlay);
	}
	cr_assert_eq(rig_sh(&r, "qemu-img compare -F raw -f %s %s %s/source", format ? "qcow2" : "raw", r.path, r.dir), 0,
		"the base is only read");
	rig_free(&r);
}

Test(qcow2, an_overlay_takes_the_writes_and_the_base_stays_as_it_was)
{
	overlays(DISK_FORMAT_RAW, "cp %s/source %s");
	overlays(DISK_FORMAT_QCOW2, "qemu-img convert -f raw -O qcow2 %s/source %s");
	overlays(DISK_FORMAT_QCOW2, "qemu-img convert -c -f raw -O qcow2 %s/source %s");
}

Test(qcow2, an_ephemeral_disk_forgets_and_leaves_no_file)
{
	struct disk_config config = { .ephemeral = true };
	struct rig r;
	uint8_t *before;

	rig_init(&r);
	make_source(&r, 2 * MIB);
	before = malloc(r.size);
	memcpy(before, r.model, r.size);
	snprintf(r.path, sizeof(r.path), "%s/source", r.dir);
	setenv("TMPDIR", r.dir, 1);
	rig_open(&r, config);
	rig_random_ops(&r, 50, 128 * KIB);
	rig_verify(&r);
	rig_close(&r);
	cr_assert_eq(rig_sh(&r, "test \"$(ls %s | sort | tr '\\n' ' ')\" = 'log source '", r.dir), 0);
	memcpy(r.model, before, r.size);
	rig_open(&r, config);
	rig_verify(&r);
	free(before);
	rig_free(&r);
}

Test(qcow2, a_chain_of_backing_files_is_read_through_when_it_is_allowed)
{
	struct disk_config config = { .format = DISK_FORMAT_QCOW2, .backing_files = true };
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	make_source(&r, 3 * MIB);
	cr_assert_eq(rig_sh(&r,
		"cd %s && qemu-img create -f qcow2 -b source -F raw a && qemu-img create -f qcow2 -b a -F qcow2 b 4M && qemu-img create -f qcow2 -b b -F qcow2 -o cluster_size=4k disk",
		r.dir), 0);
	r.model = realloc(r.model, 4 * MIB);
	memset(r.model + r.size, 0, 4 * MIB - r.size);
	r.size = 4 * MIB;
	rig_open(&r, config);
	rig_verify(&r);
	rig_random_ops(&r, 100, 64 * KIB);
	rig_verify(&r);
	rig_close(&r);
	rig_judge(&r, r.path);
	rig_free(&r);
}

/* All of them changed: slices give way in the order of a commit. */
Test(qcow2, a_disk_with_more_tables_than_the_cache_holds_loses_nothing)
{
	enum { N = 3000, STEP = 320 * KIB };
	static uint8_t sector[512];
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -o cluster_size=512 %s 1G && qemu-img snapshot -c s %s", r.path, r.path), 0);
	for (int round = 0; round < 2; round++) {
		rig_open(&r, qcow2);
		for (uint64_t i = 0; i < N; i++) {
			struct iovec iov = { sector, 512 };
			struct disk_request rq = { .op = DISK_WRITE, .offset = i * 7919 % N * STEP, .len = 512, .iov = &iov,
				.iovcnt = 1 };

			put_be64(sector, i + (uint64_t)round);
			r.ndone = 0;
			cr_assert_eq(r.disk->ops->start(r.queue, &rq), 0);
			/* Without a drain, which would settle: only the cache's own order counts. */
			for (r.disk->ops->submit(r.queue); !r.ndone;)
				r.disk->ops->drain(r.queue);
			cr_assert_eq(r.result[0], 0);
		}
		for (uint64_t i = 0; i < N; i++) {
			cr_assert_eq(rig_transfer(&r, DISK_READ, i * 7919 % N * STEP, sector, 512), 0);
			cr_assert_eq(get_be64(sector), i + (uint64_t)round);
		}
		rig_close(&r);
		cr_assert_eq(rig_sh(&r, "qemu-img check -f qcow2 %s", r.path), 0);
		cr_assert_eq(rig_sh(&r, "qemu-img snapshot -c s%d %s", round, r.path), 0);
	}
	rig_free(&r);
}

/* What of the file's own disk failed for good fails for the image. */
Test(qcow2, a_failed_flush_is_remembered)
{
	struct disk_request flush = { .op = DISK_FLUSH };
	static uint8_t buf[512];
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 %s 1M", r.path), 0);
	rig_open(&r, (struct disk_config){ .format = DISK_FORMAT_QCOW2 });
	cr_assert_eq(rig_transfer(&r, DISK_WRITE, 0, buf, 512), 0);
	cr_assert_eq(rig_run(&r, &flush), 0);
	atomic_store(&((struct raw_disk *)((struct qcow2 *)r.disk)->file)->own_kept.flush_failed, true);
	cr_assert_eq(rig_run(&r, &flush), -ENOTRECOVERABLE);
	cr_assert_eq(rig_transfer(&r, DISK_WRITE, 512 * KIB, buf, 512), 0);
	cr_assert_eq(rig_run(&r, &flush), -ENOTRECOVERABLE, "also with tables to write");
	cr_assert_eq(rig_transfer(&r, DISK_READ, 0, buf, 512), 0);
	rig_free(&r);
}

/* For who looks again and again, as a worker does that polls: without draining, and without a loop. */
Test(qcow2, what_the_file_has_done_is_found_by_looking, .timeout = 600)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct iovec iov = { buf, sizeof(buf) };
	struct disk_request rq = { .op = DISK_READ, .len = sizeof(buf), .iov = &iov, .iovcnt = 1 };
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 %s 1M", r.path), 0);
	rig_open(&r, (struct disk_config){ .format = DISK_FORMAT_QCOW2, .direct = true });
	memset(buf, 0x5a, sizeof(buf));
	cr_assert_eq(rig_transfer(&r, DISK_WRITE, 0, buf, sizeof(buf)), 0);
	cr_assert(!r.disk->ops->poll(r.queue), "nothing is in flight");
	memset(buf, 0, sizeof(buf));
	r.ndone = 0;
	cr_assert_eq(r.disk->ops->start(r.queue, &rq), 0);
	r.disk->ops->submit(r.queue);
	while (!r.ndone) {
		bool found = r.disk->ops->poll(r.queue);

		cr_assert_eq(found, r.ndone > 0);
	}
	cr_assert_eq(r.result[0], 0);
	cr_assert(buf[0] == 0x5a && buf[sizeof(buf) - 1] == 0x5a);
	rig_free(&r);
}
