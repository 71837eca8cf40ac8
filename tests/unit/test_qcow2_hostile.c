/*
 * Damaged and malicious qcow2 images, one lie at a time: each is refused with a sentence or is an
 * error for the request that meets it, and no other byte of the image changes. Then hosts that
 * fail: a full disk, a process that is killed.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "tests/unit/qcow2_rig.h"
#include "tests/unit/sealed.h"
#include "vmm/log.h"
#include "vmm/worker.h"

enum { CLUSTER = 64 * KIB, SIZE = 4 * MIB };

/* Where things are in an image of QEMU's with one written cluster. */
enum { AT_REFTABLE = 1 * CLUSTER, AT_BLOCK = 2 * CLUSTER, AT_L1 = 3 * CLUSTER, AT_L2 = 4 * CLUSTER, AT_DATA = 5 * CLUSTER };

static const struct disk_config qcow2 = { .format = DISK_FORMAT_QCOW2 };
static const struct disk_config qcow2_readonly = { .format = DISK_FORMAT_QCOW2, .readonly = true };

static void patch(const struct rig *r, uint64_t at, uint64_t value, int bytes)
{
	uint8_t buf[8];
	int fd = open(r->path, O_RDWR);

	put_be64(buf, value);
	cr_assert_eq(pwrite(fd, buf + 8 - bytes, (size_t)bytes, (off_t)at), bytes);
	close(fd);
}

static void make_image(struct rig *r)
{
	log_level = LOG_ERROR;
	rig_init(r);
	cr_assert_eq(rig_sh(r, "qemu-img create -f qcow2 %s 4M && qemu-io -f qcow2 -c 'write -P 0xaa 0 128k' %s", r->path, r->path), 0);
}

static const struct {
	uint64_t at, value;
	int bytes;
	const char *sentence;         /* of a refusal to write it */
	bool readable;                /* and it may be read all the same */
} lies[] = {
	{ 0, 0x51464900, 4, "is not a qcow2 image" },
	{ QCOW2_H_VERSION, 4, 4, "of version 4" },
	{ QCOW2_H_CLUSTER_BITS, 8, 4, "cluster_bits=8" },
	{ QCOW2_H_CLUSTER_BITS, 22, 4, "cluster_bits=22" },
	{ QCOW2_H_CLUSTER_BITS, 0xffffffff, 4, "cluster_bits=4294967295" },
	{ QCOW2_H_CLUSTER_BITS, 9, 4, "its L1 table is too short" },
	{ QCOW2_H_SIZE, 0, 8, "a size of 0 bytes" },
	{ QCOW2_H_SIZE, 1000, 8, "a size of 1000 bytes" },
	{ QCOW2_H_SIZE, UINT64_MAX - 511, 8, "a size of" },
	{ QCOW2_H_SIZE, UINT64_C(1) << 62, 8, "more than 32 MiB" },
	{ QCOW2_H_CRYPT, 1, 4, "is encrypted" },
	{ QCOW2_H_CRYPT, 2, 4, "is encrypted" },
	{ QCOW2_H_L1_SIZE, 0, 4, "too short for its size" },
	{ QCOW2_H_L1_SIZE, 0xffffffff, 4, "more than 32 MiB" },
	{ QCOW2_H_L1_SIZE, 4 * MIB, 4, "not inside of the file" },
	{ QCOW2_H_L1, AT_L1 + 512, 8, "does not start at a cluster" },
	{ QCOW2_H_L1, 0, 8, "no L1 table" },
	{ QCOW2_H_L1, UINT64_C(1) << 62, 8, "not inside of the file" },
	{ QCOW2_H_L1, AT_REFTABLE, 8, "two tables overlap", true },
	{ QCOW2_H_REFTABLE, 0, 8, "no refcount table" },
	{ QCOW2_H_REFTABLE, 100 * CLUSTER, 8, "not inside of the file", true },
	{ QCOW2_H_REFTABLE, AT_L1, 8, "two tables overlap", true },
	{ QCOW2_H_REFTABLE_CLUSTERS, 0, 4, "no refcount table" },
	{ QCOW2_H_REFTABLE_CLUSTERS, 0xffffffff, 4, "refcount table is larger than 8 MiB" },
	{ QCOW2_H_REFTABLE_CLUSTERS, 3, 4, "two tables overlap", true },
	{ QCOW2_H_NSNAPSHOTS, 0xffffffff, 4, "more than 65536 snapshots" },
	{ QCOW2_H_NSNAPSHOTS, 65536, 4, "", true },
	{ QCOW2_H_REFCOUNT_ORDER, 7, 4, "refcount_order is larger" },
	{ QCOW2_H_LENGTH, 8, 4, "header has an impossible length" },
	{ QCOW2_H_LENGTH, 105, 4, "header has an impossible length" },
	{ QCOW2_H_LENGTH, 0xfffffff8, 4, "header has an impossible length" },
	{ QCOW2_H_INCOMPATIBLE, QCOW2_CORRUPT, 8, "is marked corrupt", true },
	{ QCOW2_H_INCOMPATIBLE, QCOW2_EXTERNAL, 8, "external data file" },
	{ QCOW2_H_INCOMPATIBLE, QCOW2_COMPRESSION, 8, "unknown method" },
	{ QCOW2_H_INCOMPATIBLE, QCOW2_EXTENDED_L2, 8, "extended L2 entries" },
	{ QCOW2_H_INCOMPATIBLE, UINT64_C(1) << 40, 8, "unknown feature (incompatible bit 40)" },
	{ QCOW2_H_COMPRESSION, 1, 1, "without the feature bit" },
	{ QCOW2_H_BACKING, 8, 8, "impossible length" },
	{ QCOW2_H_BACKING, UINT64_C(1) << 63, 8, "impossible length" },
	{ AT_REFTABLE, AT_BLOCK + 512, 8, "not inside of the file", true },
	{ AT_REFTABLE, UINT64_C(1) << 60, 8, "not inside of the file", true },
	{ AT_REFTABLE, AT_L1, 8, "two tables overlap", true },
	{ AT_REFTABLE + 8, AT_BLOCK, 8, "two tables overlap", true },
	{ AT_L1, QCOW2_COPIED | (AT_L2 + 512), 8, "not inside of the file", true },
	{ AT_L1, QCOW2_COPIED | 1000 * CLUSTER, 8, "not inside of the file", true },
	{ AT_L1, QCOW2_COPIED | AT_REFTABLE, 8, "two tables overlap", true },
	{ AT_L1, QCOW2_COPIED | AT_BLOCK, 8, "two tables overlap", true },
};

/* Every sector of a disk that may make no sense, read and written: results do not matter. */
static void poke(struct rig *r)
{
	static uint8_t buf[128 * KIB];

	for (uint64_t at = 0; at < MIN(r->info.size, (uint64_t)SIZE); at += sizeof(buf)) {
		rig_transfer(r, DISK_READ, at, buf, sizeof(buf));
		if (!r->info.readonly)
			rig_transfer(r, DISK_WRITE, at, buf, sizeof(buf));
	}
}

Test(qcow2_hostile, every_lie_of_a_header_or_table_is_refused_with_a_sentence)
{
	rig_needs_qemu();
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct disk_config config = qcow2;
		struct error err = { "" };
		struct rig r;
		int res;

		make_image(&r);
		patch(&r, lies[i].at, lies[i].value, lies[i].bytes);
		config.path = r.path;
		res = rig_open_config(&r, &config, &err);
		cr_assert_lt(res, 0, "lie %zu", i);
		cr_assert(strstr(err.text, lies[i].sentence), "lie %zu: %s", i, err.text);
		config.readonly = true;
		res = rig_open_config(&r, &config, &err);
		cr_assert_eq(res == 0, lies[i].readable, "lie %zu: %s", i, err.text);
		if (!res)
			poke(&r);
		rig_free(&r);
	}
}

Test(qcow2_hostile, a_feature_that_nobody_knows_is_refused_by_the_name_that_the_image_has_for_it)
{
	struct disk_config config = qcow2;
	struct error err;
	struct rig r;
	int fd;

	rig_needs_qemu();
	make_image(&r);
	patch(&r, QCOW2_H_INCOMPATIBLE, UINT64_C(1) << 9, 8);
	fd = open(r.path, O_RDWR);
	cr_assert_eq(pwrite(fd, "\x68\x03\xf8\x57\0\0\0\x30\0\x09quantum clusters\0\0", 28, 112), 28);
	cr_assert_eq(pwrite(fd, (char[40]){ 0 }, 40, 112 + 28), 40);
	close(fd);
	config.path = r.path;
	cr_assert_lt(rig_open_config(&r, &config, &err), 0);
	cr_assert(strstr(err.text, "the feature 'quantum clusters' (incompatible bit 9)"), "%s", err.text);
	rig_free(&r);
}

static const struct {
	uint64_t entry;               /* of guest cluster 0; 1 is as it was */
	int read, write;
} entries[] = {
	{ QCOW2_COPIED | AT_REFTABLE, -EIO, -EIO },
	{ QCOW2_COPIED | AT_BLOCK, -EIO, -EIO },
	{ QCOW2_COPIED | AT_L1, -EIO, -EIO },
	{ QCOW2_COPIED | AT_L2, -EIO, -EIO },
	{ QCOW2_COPIED | (AT_DATA + 512), -EIO, -EIO },
	{ QCOW2_COPIED | 1000 * CLUSTER, -EIO, -EIO },
	{ QCOW2_COPIED | QCOW2_OFFSET, -EIO, -EIO },
	{ 1000 * CLUSTER, -EIO, -EIO },
	{ QCOW2_COMPRESSED, -EIO, -EIO },
	{ QCOW2_COMPRESSED | 1000 * CLUSTER, -EIO, -EIO },
	{ QCOW2_COMPRESSED | (UINT64_C(1) << 53), -EIO, -EIO },
	{ QCOW2_COMPRESSED | AT_DATA, -EIO, -EIO },
	{ QCOW2_COMPRESSED | (AT_REFTABLE + 77) | UINT64_C(0xff) << 54, -EIO, -EIO },
	{ QCOW2_COMPRESSED | (AT_DATA + 2 * CLUSTER - 300) | UINT64_C(0xff) << 54, -EIO, -EIO },
	{ UINT64_MAX, -EIO, -EIO },
};

Test(qcow2_hostile, an_entry_that_makes_no_sense_is_an_error_where_it_is_and_nowhere_else)
{
	static uint8_t buf[CLUSTER], head[5 * CLUSTER], after[5 * CLUSTER];

	rig_needs_qemu();
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		struct rig r;
		int fd, res;

		make_image(&r);
		patch(&r, AT_L2, entries[i].entry, 8);
		fd = open(r.path, O_RDONLY);
		cr_assert_eq(pread(fd, head, sizeof(head), 0), (ssize_t)sizeof(head));
		rig_open(&r, qcow2);
		res = rig_transfer(&r, DISK_READ, 512, buf, 512);
		cr_assert_eq(res, entries[i].read, "entry %zu: %d", i, res);
		memset(buf, 0x55, sizeof(buf));
		res = rig_transfer(&r, DISK_WRITE, 512, buf, 512);
		cr_assert_eq(res, entries[i].write, "entry %zu: %d", i, res);
		cr_assert_eq(rig_transfer(&r, DISK_READ, CLUSTER, buf, CLUSTER), 0);
		for (int n = 0; n < CLUSTER; n++)
			cr_assert_eq(buf[n], 0xaa);
		rig_close(&r);
		cr_assert_eq(pread(fd, after, sizeof(after), 0), (ssize_t)sizeof(after));
		close(fd);
		/* A cluster that was taken for the failed write is counted no more. */
		cr_assert_eq(memcmp(head, after, sizeof(head)), 0, "entry %zu", i);
		rig_open(&r, qcow2);
		poke(&r);
		rig_range(&r, DISK_DISCARD, 0, SIZE, false);
		poke(&r);
		rig_free(&r);
	}
}

Test(qcow2_hostile, counts_that_say_free_do_not_hand_out_tables)
{
	static uint8_t buf[CLUSTER], zero[CLUSTER];
	struct rig r;
	int fd;

	rig_needs_qemu();
	make_image(&r);
	fd = open(r.path, O_RDWR);
	cr_assert_eq(pwrite(fd, zero, sizeof(zero), AT_BLOCK), (ssize_t)sizeof(zero));
	close(fd);
	rig_open(&r, qcow2);
	memset(buf, 0x55, sizeof(buf));
	for (int i = 2; i < 20; i++)
		cr_assert_eq(rig_transfer(&r, DISK_WRITE, (uint64_t)i * CLUSTER, buf, CLUSTER), 0);
	cr_assert_eq(rig_range(&r, DISK_FLUSH, 0, 0, false), 0);
	rig_close(&r);
	rig_open(&r, qcow2);
	for (int i = 2; i < 20; i++) {
		cr_assert_eq(rig_transfer(&r, DISK_READ, (uint64_t)i * CLUSTER, buf, CLUSTER), 0);
		cr_assert_eq(buf[0], 0x55);
	}
	rig_free(&r);
}

static void refused(struct rig *r, struct disk_config config, const char *sentence)
{
	struct error err = { "" };

	cr_assert_lt(rig_open_config(r, &config, &err), 0, "%s", sentence);
	cr_assert(strstr(err.text, sentence), "%s", err.text);
}

Test(qcow2_hostile, cve_2024_4467_backing_files_are_opened_only_when_allowed_plain_and_finite)
{
	struct disk_config with = { .format = DISK_FORMAT_QCOW2, .backing_files = true };
	struct disk_config without = qcow2;
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	with.path = without.path = r.path;
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -u -b /etc/shadow -F raw %s 4M", r.path), 0);
	refused(&r, without, "has a backing file, '/etc/shadow'; add backing_files=on");
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -u -b 'json:{\"driver\":\"file\"}' -F raw %s 4M", r.path), 0);
	refused(&r, with, "no plain path");
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -u -b nbd://localhost/x -F raw %s 4M", r.path), 0);
	refused(&r, with, "no plain path");
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -u -b disk -F qcow2 %s 4M", r.path), 0);
	refused(&r, with, "in its own backing chain");
	cr_assert_eq(rig_sh(&r, "cd %s && qemu-img create -f qcow2 -u -b b -F qcow2 disk 4M && qemu-img create -f qcow2 -u -b disk -F qcow2 b 4M", r.dir), 0);
	refused(&r, with, "in its own backing chain");
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -u -b missing -F raw %s 4M", r.path), 0);
	refused(&r, with, "missing: cannot be opened: No such file");
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -u -b x -F vmdk %s 4M", r.path), 0);
	refused(&r, with, "the format 'vmdk'");
	patch(&r, 112, 0x11111111, 4); /* the extension with the format becomes an unknown one */
	refused(&r, with, "does not say which format");
	cr_assert_eq(rig_sh(&r, "cd %s && truncate -s 4M c0 && f=raw; for i in $(seq 1 20); do qemu-img create -f qcow2 -u -b c$((i-1)) -F $f c$i 4M; f=qcow2; done; cp c20 disk", r.dir), 0);
	refused(&r, with, "of a backing chain; 16 are possible");
	rig_free(&r);
}

Test(qcow2_hostile, options_that_contradict_each_other_are_refused)
{
	struct rig r;

	rig_needs_qemu();
	make_image(&r);
	refused(&r, (struct disk_config){ .path = r.path, .format = DISK_FORMAT_QCOW2, .overlay = "/x", .ephemeral = true }, "give one of them");
	refused(&r, (struct disk_config){ .path = r.path, .backing_files = true }, "is for format=qcow2");
	refused(&r, (struct disk_config){ .path = r.path, .format = DISK_FORMAT_QCOW2, .overlay = "/x", .readonly = true }, "leave out readonly=on");
	refused(&r, (struct disk_config){ .path = r.path, .format = DISK_FORMAT_QCOW2, .overlay = "/nowhere/x" }, "overlay=/nowhere/x: cannot be created");
	cr_assert_eq(rig_sh(&r, "cd %s && qemu-img create -f qcow2 plain 4M && truncate -s 4M other && qemu-img create -f qcow2 -b other -F raw wrong", r.dir), 0);
	cr_assert_eq(chdir(r.dir), 0);
	refused(&r, (struct disk_config){ .path = r.path, .format = DISK_FORMAT_QCOW2, .overlay = "plain" }, "is no overlay, it has no base");
	refused(&r, (struct disk_config){ .path = r.path, .format = DISK_FORMAT_QCOW2, .overlay = "wrong" }, "is an overlay over 'other'");
	refused(&r, (struct disk_config){ .path = "other", .format = DISK_FORMAT_QCOW2 }, "is not a qcow2 image");
	cr_assert_eq(chdir("/"), 0);
	rig_free(&r);
}

/* --- hosts that fail --- */

Test(qcow2_hostile, a_full_host_is_an_error_and_the_image_stays_whole)
{
	static uint8_t buf[256 * KIB];
	struct rlimit limit;
	unsigned failed = 0;
	struct rig r;

	rig_needs_qemu();
	rig_init(&r);
	log_level = LOG_ERROR;
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -o cluster_size=4k %s 8M", r.path), 0);
	rig_open(&r, qcow2);
	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = MIB + 3 * KIB;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (uint64_t at = 0; at < r.size; at += sizeof(buf)) {
		rig_fill(&r, buf, sizeof(buf));
		if (rig_transfer(&r, DISK_WRITE, at, buf, sizeof(buf))) {
			failed++;
			limit.rlim_cur = limit.rlim_max;
			cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
			cr_assert_eq(rig_transfer(&r, DISK_READ, at, r.model + at, sizeof(buf)), 0);
			limit.rlim_cur = MIB + 3 * KIB;
			cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
		} else {
			memcpy(r.model + at, buf, sizeof(buf));
		}
	}
	cr_assert_gt(failed, 0);
	limit.rlim_cur = limit.rlim_max;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	rig_verify(&r);
	rig_random_ops(&r, 50, 64 * KIB);
	rig_close(&r);
	rig_judge(&r, r.path);
	rig_free(&r);
}

/* Writes and flushes for ever; tells of each flush that is done. */
static void victim(struct rig *r, int tell, uint32_t seed)
{
	static uint8_t buf[64 * KIB];

	r->seed = seed;
	for (uint32_t n = 1;; n++) {
		uint64_t at = (uint64_t)rig_random(r, (uint32_t)(r->size / 512 - 128)) * 512;

		for (int i = 0; i < 20; i++) {
			at = (uint64_t)rig_random(r, (uint32_t)(r->size / 512 - 128)) * 512;
			rig_fill(r, buf, sizeof(buf));
			rig_transfer(r, DISK_WRITE, MAX(at, (uint64_t)PAGE_4K), buf, 512 + at % (32 * KIB) / 512 * 512);
			if (i % 5 == 0)
				rig_range(r, DISK_DISCARD, MAX(at, (uint64_t)PAGE_4K), 64 * KIB, false);
		}
		memset(buf, 0, 512);
		put_be32(buf, n);
		if (rig_transfer(r, DISK_WRITE, 0, buf, 512) || rig_range(r, DISK_FLUSH, 0, 0, false) ||
			write(tell, &n, sizeof(n)) != sizeof(n))
			_exit(1);
	}
}

Test(qcow2_hostile, a_killed_machine_leaves_leaks_at_most_and_loses_nothing_flushed)
{
	rig_needs_qemu();
	for (int round = 0; round < 12; round++) {
		uint32_t flushed = 0, n;
		int tell[2], res;
		uint8_t sector[512];
		struct rig r;
		pid_t child;

		rig_init(&r);
		cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -o cluster_size=%s %s 16M && qemu-img snapshot -c s %s",
			round % 2 ? "512" : "4k", r.path, r.path), 0);
		cr_assert_eq(pipe(tell), 0);
		child = fork();
		if (!child) {
			rig_open(&r, qcow2);
			victim(&r, tell[1], (uint32_t)round + 1);
		}
		close(tell[1]);
		while (flushed < 2 + (uint32_t)round % 4 && read(tell[0], &n, sizeof(n)) == sizeof(n))
			flushed = n;
		usleep((useconds_t)(round * 997 % 5000));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		while (read(tell[0], &n, sizeof(n)) == sizeof(n))
			flushed = n;
		close(tell[0]);
		/* The kernel lets go of the lock of a killed process some time later. */
		for (int i = 0; i < 600; i++) {
			res = rig_sh(&r, "qemu-img check -f qcow2 %s", r.path);
			if (res != 1)
				break;
			usleep(100000);
		}
		cr_assert(res == 0 || res == 3, "round %d: qemu-img check says %d", round, res);
		rig_open(&r, qcow2);
		cr_assert_eq(rig_transfer(&r, DISK_READ, 0, sector, 512), 0);
		cr_assert_geq(get_be32(sector), flushed);
		rig_close(&r);
		cr_assert_eq(rig_sh(&r, "qemu-img check -r leaks -f qcow2 %s && qemu-img check -f qcow2 %s", r.path, r.path), 0);
		rig_free(&r);
	}
}

static void unclean(const char *options)
{
	struct error err;
	struct rig r;
	uint64_t bits;
	int fd;

	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "qemu-img create -f qcow2 -o lazy_refcounts=on,%s %s 8M", options, r.path), 0);
	r.model = calloc(1, 8 * MIB);
	r.size = 8 * MIB;
	/* QEMU dies after a flush: tables are there, counts are not. */
	rig_sh(&r, "ulimit -c 0; qemu-io -f qcow2 -c 'write -P 0x11 100k 3M' -c 'write -P 0x22 5M 64k' -c flush -c abort %s", r.path);
	memset(r.model + 100 * KIB, 0x11, 3 * MIB);
	memset(r.model + 5 * MIB, 0x22, 64 * KIB);
	fd = open(r.path, O_RDONLY);
	cr_assert_eq(pread(fd, &bits, 8, QCOW2_H_INCOMPATIBLE), 8);
	cr_assert(get_be64(&bits) & QCOW2_DIRTY, "the image is dirty");
	rig_open(&r, qcow2_readonly);
	rig_verify(&r);
	rig_close(&r);
	rig_open(&r, qcow2);
	cr_assert_eq(pread(fd, &bits, 8, QCOW2_H_INCOMPATIBLE), 8);
	cr_assert_not(get_be64(&bits) & QCOW2_DIRTY);
	rig_verify(&r);
	rig_random_ops(&r, 40, 64 * KIB);
	rig_close(&r);
	rig_judge(&r, r.path);
	close(fd);
	/* With snapshots it is not ours to repair. */
	cr_assert_eq(rig_sh(&r, "qemu-img snapshot -c s %s", r.path), 0);
	patch(&r, QCOW2_H_INCOMPATIBLE, QCOW2_DIRTY, 8);
	cr_assert_lt(rig_open_config(&r, &(struct disk_config){ .path = r.path, .format = DISK_FORMAT_QCOW2 }, &err), 0);
	cr_assert(strstr(err.text, "it has snapshots; repair it with qemu-img check -r all"), "%s", err.text);
	rig_free(&r);
}

Test(qcow2_hostile, an_image_with_lazy_counts_that_was_not_closed_is_counted_again)
{
	rig_needs_qemu();
	unclean("cluster_size=64k");
	unclean("cluster_size=512");
	unclean("cluster_size=1k,refcount_bits=64");
}

/* In a sealed thread, as in life: no call that has no row. */

struct sealed {
	struct rig *r;
	pthread_t thread;
};

static void on_worker(void *ctx)
{
	struct rig *r = ((struct sealed *)ctx)->r;

	cr_assert_eq(r->disk->ops->queue_attach(r->queue, NULL), 0);
	rig_random_ops(r, 100, 64 * KIB);
	r->disk->ops->drain(r->queue);
	r->disk->ops->queue_detach(r->queue);
}

Test(qcow2_hostile, a_sealed_worker_makes_no_call_that_has_no_row)
{
	struct sealed s;
	struct worker *w;
	struct error err;
	struct rig r;

	needs_filters();
	rig_needs_qemu();
	rig_init(&r);
	cr_assert_eq(rig_sh(&r, "head -c 4M /dev/urandom >%s/source && qemu-img convert -c -f raw -O qcow2 %s/source %s && qemu-img snapshot -c s %s",
		r.dir, r.dir, r.path, r.path), 0);
	rig_open(&r, qcow2_readonly);
	for (uint64_t at = 0; at < r.size; at += 64 * KIB)
		cr_assert_eq(rig_transfer(&r, DISK_READ, at, r.model + at, 64 * KIB), 0);
	rig_close(&r);
	{
		const struct disk_events events = { .done = rig_on_done, .batch_done = rig_on_batch, .ctx = &r };
		struct disk_config config = qcow2;

		config.path = r.path;
		cr_assert_eq(disk_open(&r.disk, &config, &err), 0, "%s", err.text);
		cr_assert_eq(r.disk->ops->queue_create(&r.queue, r.disk, RIG_DEPTH, &events, &err), 0, "%s", err.text);
	}
	s.r = &r;
	cr_assert_eq(worker_create(&w, "_disk0_q0", &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(r.disk->syscalls); i++)
		cr_assert_eq(worker_allow(w, r.disk->syscalls[i]), 0);
	cr_assert_eq(worker_run(w, SANDBOX_KILL, &err), 0, "%s", err.text);
	cr_assert_eq(worker_call(w, on_worker, &s), 0);
	worker_destroy(w);
	r.disk->ops->queue_destroy(r.queue);
	r.queue = NULL;
	r.disk->ops->close(r.disk);
	r.disk = NULL;
	rig_judge(&r, r.path);
	rig_free(&r);
}
