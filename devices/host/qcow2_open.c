/*
 * From a file to an image: the tables that stay in memory, and everything that must hold before a
 * byte is written (specification, "Host cluster management", "Cluster mapping", "Snapshots"). Main,
 * stage 2; blocks.
 *
 * An image that is only read needs its L1 table. One that is written also needs to know where all
 * its tables are, so that no write of the guest and no new cluster ever lands on one: header, L1
 * and refcount table, the snapshots and their L1 tables, as sorted runs; refcount blocks and L2
 * tables, which come and go, as a set. Tables that overlap or lie outside of the file are a reason
 * not to write the image. What a crash with lazy refcounts leaves behind is repaired
 * (qcow2_repair.c).
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/host/qcow2.h"

enum { SNAPSHOT_HEAD = 40, SNAPSHOT_L1_SIZE = 8, SNAPSHOT_ID = 12, SNAPSHOT_NAME = 14, SNAPSHOT_EXTRA = 36 };

static int damaged(struct error *err, const char *what)
{
	return error_set(err, EINVAL,
		"the qcow2 image is damaged: %s; repair it with qemu-img check -r all, or add readonly=on",
		what);
}

static int unreadable(struct error *err, int r)
{
	return error_set(err, -r, "the qcow2 image cannot be read: %s", strerror(-r));
}

static int read_header(struct qcow2 *img, struct error *err)
{
	uint8_t sector[QCOW2_SECTOR], *cluster;
	uint32_t bits;
	int r = qcow2_io(img, DISK_READ, 0, sector, sizeof(sector));

	if (r)
		return unreadable(err, r);
	r = qcow2_header_cluster_bits(sector, &bits, err);
	if (r)
		return r;
	cluster = malloc(UINT64_C(1) << bits);
	if (!cluster)
		return error_set(err, ENOMEM, "out of memory");
	r = qcow2_io(img, DISK_READ, 0, cluster, UINT64_C(1) << bits);
	r = r ? unreadable(err, r) :
		qcow2_header_parse(&img->h, cluster, UINT64_C(1) << bits, img->info.readonly, err);
	free(cluster);
	return r;
}

/* A table whole into memory, of at most `capacity` bytes later. */
static int read_table(struct qcow2 *img, struct qcow2_table *t, uint64_t at, uint64_t entries,
	uint64_t capacity, struct error *err)
{
	uint64_t bytes = align_up(entries * 8, QCOW2_SECTOR);
	int r;

	if (at >> img->h.cluster_bits >= img->frontier ||
		bytes > (img->frontier << img->h.cluster_bits) - at)
		return error_set(err, EINVAL,
			"the qcow2 image is damaged: a table is not inside of the file; see what qemu-img check says");
	*t = (struct qcow2_table){ .at = at, .entries = entries, .capacity = capacity };
	t->data = calloc(1, MAX(capacity, bytes));
	if (!t->data)
		return error_set(err, ENOMEM, "out of memory");
	r = qcow2_io(img, DISK_READ, at, t->data, bytes);
	return r ? unreadable(err, r) : 0;
}

static int add_fixed(struct qcow2 *img, uint64_t at, uint64_t bytes, struct error *err)
{
	struct qcow2_run run = { .first = at >> img->h.cluster_bits };

	if (!bytes)
		return 0;
	run.count = ((bytes - 1) >> img->h.cluster_bits) + 1;
	if (!is_aligned(at, img->cluster_size) || !range_inside(run.first, run.count, 0, img->frontier))
		return damaged(err, "a table is not inside of the file");
	img->fixed[img->nfixed++] = run;
	return 0;
}

/* Bytes at any place of the file. */
static int peek(struct qcow2 *img, uint64_t at, uint8_t *buf, size_t len)
{
	uint8_t window[2 * QCOW2_SECTOR];
	uint64_t from = align_down(at, QCOW2_SECTOR);
	int r = qcow2_io(img, DISK_READ, from, window, sizeof(window));

	if (r == 0)
		memcpy(buf, window + (at - from), len);
	return r;
}

/* Their tables are left alone; only where they are is of interest. */
static int find_snapshots(struct qcow2 *img, struct error *err)
{
	uint64_t at = img->h.snapshots, end = img->frontier << img->h.cluster_bits;
	uint8_t head[SNAPSHOT_HEAD];

	for (uint32_t i = 0; i < img->h.nsnapshots; i++) {
		uint64_t len;
		int r;

		if (at >= end)
			return damaged(err, "its snapshot table is not inside of the file");
		r = peek(img, at, head, sizeof(head));
		if (r)
			return unreadable(err, r);
		r = add_fixed(img, get_be64(head), (uint64_t)get_be32(head + SNAPSHOT_L1_SIZE) * 8, err);
		if (r)
			return r;
		len = (uint64_t)SNAPSHOT_HEAD + get_be32(head + SNAPSHOT_EXTRA) + get_be16(head + SNAPSHOT_ID) +
			get_be16(head + SNAPSHOT_NAME);
		at += align_up(len, 8);
	}
	return add_fixed(img, img->h.snapshots, at - img->h.snapshots, err);
}

static int by_first(const void *a, const void *b)
{
	uint64_t x = ((const struct qcow2_run *)a)->first, y = ((const struct qcow2_run *)b)->first;

	return x < y ? -1 : x > y;
}

static int find_fixed(struct qcow2 *img, struct error *err)
{
	const struct qcow2_header *h = &img->h;
	int r;

	img->fixed = calloc((size_t)h->nsnapshots + 4, sizeof(*img->fixed));
	if (!img->fixed)
		return error_set(err, ENOMEM, "out of memory");
	r = add_fixed(img, 0, 1, err);
	if (r == 0)
		r = add_fixed(img, h->l1, (uint64_t)h->l1_size * 8, err);
	if (r == 0)
		r = add_fixed(img, h->reftable, (uint64_t)h->reftable_clusters << h->cluster_bits, err);
	if (r == 0 && h->nsnapshots)
		r = find_snapshots(img, err);
	if (r)
		return r;
	qsort(img->fixed, img->nfixed, sizeof(*img->fixed), by_first);
	for (size_t i = 1; i < img->nfixed; i++)
		if (img->fixed[i - 1].first + img->fixed[i - 1].count > img->fixed[i].first)
			return damaged(err, "two tables overlap");
	return 0;
}

/* The clusters that the table's entries point to, each of them a table of its own. */
static int find_tables(struct qcow2 *img, const struct qcow2_table *t, uint64_t mask, struct error *err)
{
	for (uint64_t i = 0; i < t->entries; i++) {
		uint64_t at = qcow2_table_get(t, i) & mask, cluster = at >> img->h.cluster_bits;

		if (!at)
			continue;
		if (!is_aligned(at, img->cluster_size) || cluster >= img->frontier)
			return damaged(err, "a table is not inside of the file");
		if (qcow2_is_meta(img, cluster) || qcow2_set_add(&img->tables, cluster))
			return damaged(err, "two tables overlap");
	}
	return 0;
}

static int prepare_writing(struct qcow2 *img, struct error *err)
{
	const struct qcow2_header *h = &img->h;
	/* As many tables as there can be, or nearly: blocks for twice the disk and all there is. */
	uint64_t blocks = ((h->size >> h->cluster_bits) * 2 + img->frontier) / img->per_block + 64;
	uint64_t tables = h->l1_size + MIN(blocks, (uint64_t)QCOW2_REFTABLE_MAX / 8) * 2;
	int r = find_fixed(img, err);

	if (r)
		return r;
	for (img->tables.capacity = 1024; img->tables.capacity < tables * 2;)
		img->tables.capacity *= 2;
	img->tables.slots = calloc(img->tables.capacity, sizeof(*img->tables.slots));
	img->scratch = aligned_alloc(PAGE_4K, align_up(img->cluster_size, PAGE_4K));
	if (!img->tables.slots || !img->scratch ||
		qcow2_cache_init(&img->refcount_cache, QCOW2_REFCOUNT_CACHE, img->cluster_size, false))
		return error_set(err, ENOMEM, "out of memory for the tables of the qcow2 image");
	r = read_table(img, &img->reftable, h->reftable, (uint64_t)h->reftable_clusters * img->cluster_size / 8,
		QCOW2_REFTABLE_MAX, err);
	if (r == 0)
		r = find_tables(img, &img->reftable, ~UINT64_C(511), err);
	if (r == 0)
		r = find_tables(img, &img->l1, QCOW2_OFFSET, err);
	return r;
}

/* Features that say what we would not keep true (specification, Header: autoclear_features). */
static int clear_autoclear(struct qcow2 *img, struct error *err)
{
	uint8_t sector[QCOW2_SECTOR];
	int r;

	if (!img->h.autoclear)
		return 0;
	r = qcow2_io(img, DISK_READ, 0, sector, sizeof(sector));
	put_be64(sector + QCOW2_H_AUTOCLEAR, 0);
	if (r == 0)
		r = qcow2_io(img, DISK_WRITE, 0, sector, sizeof(sector));
	if (r == 0)
		r = qcow2_io(img, DISK_FLUSH, 0, NULL, 0);
	return r ? error_set(err, -r, "the qcow2 image cannot be written: %s", strerror(-r)) : 0;
}

int qcow2_open_tables(struct qcow2 *img, struct error *err)
{
	struct disk_info file;
	int r = read_header(img, err);

	if (r)
		return r;
	img->file->ops->info(img->file, &file);
	img->cluster_size = UINT64_C(1) << img->h.cluster_bits;
	img->per_block = img->cluster_size * 8 >> img->h.refcount_order;
	img->grows = file.size > file.stored;
	img->file_end = img->grows ? QCOW2_HOST_END : MIN(file.size, QCOW2_HOST_END);
	img->frontier = MIN((file.stored + img->cluster_size - 1) >> img->h.cluster_bits,
		img->file_end >> img->h.cluster_bits);
	if (qcow2_cache_init(&img->l2_cache, QCOW2_L2_CACHE, img->cluster_size, true))
		return error_set(err, ENOMEM, "out of memory");
	r = read_table(img, &img->l1, img->h.l1, img->h.l1_size, 0, err);
	if (r == 0 && !img->info.readonly)
		r = prepare_writing(img, err);
	/* Before the repair, which frees what only such features know of. */
	if (r == 0 && !img->info.readonly)
		r = clear_autoclear(img, err);
	if (r == 0 && !img->info.readonly && img->h.incompatible & QCOW2_DIRTY)
		r = qcow2_repair(img, err);
	return r;
}

void qcow2_free_tables(struct qcow2 *img)
{
	qcow2_cache_free(&img->l2_cache);
	qcow2_cache_free(&img->refcount_cache);
	free(img->l1.data);
	free(img->reftable.data);
	free(img->fixed);
	free(img->tables.slots);
	free(img->scratch);
}
