/*
 * Reference counts made anew (specification, Header: the dirty bit of incompatible_features): an
 * image with lazy refcounts that was not closed has clusters in use that no count says are. Main,
 * stage 2, before the first write; blocks for as long as it takes to read all L2 tables. So does a
 * process that goes on where another one ended (qcow2_forked.c).
 *
 * The tables say what is in use. Each cluster is counted as often as they refer to it, and where
 * the file says something else it is corrected; only then is the bit cleared, behind a barrier, so
 * that a second crash finds the image as dirty as before. What is beyond that is for qemu-img:
 * snapshots, and tables that refer to nothing or twice to one thing.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/host/qcow2.h"

/* Bytes of memory for the counts, at one per cluster: 16 TiB of a file with clusters of 64 KiB. */
#define CLUSTERS_MAX (UINT64_C(256) * MIB)

static int beyond(struct error *err, const char *what)
{
	return error_set(err, EINVAL,
		"the qcow2 image was not closed, its reference counts are not up to date, and %s; repair it with qemu-img check -r all",
		what);
}

/* `shared`: compressed clusters may lie side by side in one of the file's. */
static bool count(const struct qcow2 *img, uint8_t *counts, uint64_t end, uint64_t cluster, bool shared)
{
	if (!cluster || cluster >= end || qcow2_is_meta(img, cluster) || counts[cluster] == UINT8_MAX)
		return false;
	return !counts[cluster]++ || shared;
}

static bool count_entry(const struct qcow2 *img, uint8_t *counts, uint64_t end, uint64_t entry)
{
	unsigned bits = img->h.cluster_bits;
	uint64_t at, len, cluster;
	bool ok = true;

	if (entry & QCOW2_COMPRESSED) {
		if (qcow2_map_packed(img, entry, &at, &len))
			return false;
		for (cluster = at >> bits; ok && cluster <= (at + len - 1) >> bits; cluster++)
			ok = count(img, counts, end, cluster, true);
		return ok;
	}
	at = entry & QCOW2_OFFSET;
	return !at || (is_aligned(at, img->cluster_size) &&
		count(img, counts, end, at >> bits, false));
}

static int count_tables(struct qcow2 *img, uint8_t *counts, uint64_t end)
{
	int r = 0;

	for (uint64_t i = 0; i < img->l1.entries; i++) {
		uint64_t at = qcow2_table_get(&img->l1, i) & QCOW2_OFFSET;

		for (uint64_t o = 0; at && o < img->cluster_size; o += img->l2_cache.slice_size) {
			const uint8_t *slice = qcow2_cache_get(img, &img->l2_cache, at + o, &r);

			for (uint32_t n = 0; slice && n < img->l2_cache.slice_size; n += 8)
				if (!count_entry(img, counts, end, get_be64(slice + n)))
					return -EINVAL;
			if (!slice)
				return r;
		}
	}
	return 0;
}

/* The file's counts become those of `counts`; tables of their own have one. */
static int correct(struct qcow2 *img, const uint8_t *counts, uint64_t end)
{
	for (uint64_t c = 0; c < end; c++) {
		uint64_t want = qcow2_is_meta(img, c) ? 1 : counts[c], is;
		int r = qcow2_refcount_get(img, c, &is);

		if (r == 0 && is != want)
			r = qcow2_refcount_cover(img, c);
		if (r == 0 && is != want)
			r = qcow2_refcount_set(img, c, want);
		if (r)
			return r;
	}
	return 0;
}

static int clear_dirty(struct qcow2 *img)
{
	uint8_t sector[QCOW2_SECTOR];
	int r = qcow2_io(img, DISK_READ, 0, sector, sizeof(sector));

	if (r)
		return r;
	put_be64(sector + QCOW2_H_INCOMPATIBLE, img->h.incompatible & ~(uint64_t)QCOW2_DIRTY);
	r = qcow2_io(img, DISK_WRITE, 0, sector, sizeof(sector));
	return r ? r : qcow2_io(img, DISK_FLUSH, 0, NULL, 0);
}

int qcow2_repair(struct qcow2 *img, struct error *err)
{
	uint64_t end = img->frontier; /* new blocks come behind it, and are counted as they come */
	uint8_t *counts;
	int r;

	if (img->h.nsnapshots)
		return beyond(err, "it has snapshots");
	if (end > CLUSTERS_MAX)
		return beyond(err, "it is too large to count");
	counts = calloc(end, 1);
	if (!counts)
		return error_set(err, ENOMEM, "out of memory to repair the qcow2 image");
	r = count_tables(img, counts, end);
	if (r == -EINVAL) {
		free(counts);
		return beyond(err, "its tables make no sense");
	}
	if (r == 0)
		r = correct(img, counts, end);
	free(counts);
	if (r == 0)
		r = qcow2_settle(img);
	if (r == 0 && img->h.incompatible & QCOW2_DIRTY)
		r = clear_dirty(img);
	return r ? error_set(err, -r, "the qcow2 image was not closed and cannot be repaired: %s; try qemu-img check -r all", strerror(-r)) : 0;
}
