/*
 * Guest offset → host offset, and its changes (specification, "Cluster mapping").
 *
 * The L1 table is whole in memory; of L2 tables, slices in the cache. Entries are hostile: an
 * offset is used only when it lies at a cluster inside of the file, and a cluster is written in
 * place only when it is not one that holds metadata. What does not make sense is -EIO for the
 * request that came across it, and a line; the rest of the disk keeps working.
 *
 * A table or a cluster without the COPIED bit is shared with a snapshot: a table is copied before
 * it is changed, and the copy counted; what it replaced is counted down after the next commit.
 *
 * Owner of the queue; blocks for tables that are not in the cache.
 */
#include <errno.h>

#include "devices/host/qcow2.h"
#include "vmm/log.h"

static int damaged(const struct qcow2 *img, uint64_t offset, const char *what)
{
	log_guest(LOG_WARN, "a qcow2 image is damaged at byte %llu of its disk (%s); see what qemu-img check says",
		(unsigned long long)offset, what);
	(void)img;
	return -EIO;
}

/* Does a whole cluster of the file start there? */
static bool is_cluster(const struct qcow2 *img, uint64_t offset)
{
	return offset && is_aligned(offset, img->cluster_size) &&
		offset >> img->h.cluster_bits < img->frontier;
}

static uint64_t l2_entries(const struct qcow2 *img)
{
	return img->cluster_size / 8;
}

static uint64_t l1_index(const struct qcow2 *img, uint64_t offset)
{
	return offset >> (2 * img->h.cluster_bits - 3);
}

static uint64_t l2_index(const struct qcow2 *img, uint64_t offset)
{
	return (offset >> img->h.cluster_bits) & (l2_entries(img) - 1);
}

/* Guest clusters from the one at `offset` on whose entries are in the same slice. */
static uint64_t slice_left(const struct qcow2 *img, uint64_t offset)
{
	uint64_t n = img->l2_cache.slice_size / 8;

	return n - (l2_index(img, offset) & (n - 1));
}

/* The entry's place in the cache. NULL: *err, or 0 when there is no table. */
static uint8_t *entry_find(struct qcow2 *img, uint64_t offset, int *err)
{
	uint64_t l1 = qcow2_table_get(&img->l1, l1_index(img, offset)), at = l1 & QCOW2_OFFSET;
	uint64_t i = l2_index(img, offset) * 8;
	uint8_t *slice;

	*err = 0;
	if (!at)
		return NULL;
	if (!is_cluster(img, at)) {
		*err = damaged(img, offset, "an L2 table is not in the file");
		return NULL;
	}
	slice = qcow2_cache_get(img, &img->l2_cache, at + i, err);
	return slice ? slice + (i & (img->l2_cache.slice_size - 1)) : NULL;
}

uint64_t qcow2_map_missing(const struct qcow2 *img, uint64_t offset, uint64_t len)
{
	const uint64_t end = offset + len;

	while (offset < end) {
		uint64_t table = qcow2_table_get(&img->l1, l1_index(img, offset)) & QCOW2_OFFSET;
		uint64_t at = table + align_down(l2_index(img, offset) * 8, img->l2_cache.slice_size);

		if (is_cluster(img, table) && !qcow2_cache_has(&img->l2_cache, at))
			return at;
		offset = align_down(offset, img->cluster_size) + slice_left(img, offset) * img->cluster_size;
	}
	return 0;
}

static enum qcow2_kind kind_of(const struct qcow2 *img, uint64_t entry)
{
	if (entry & QCOW2_COMPRESSED)
		return QCOW2_PACKED;
	if (entry & QCOW2_ZERO && img->h.version >= 3)
		return QCOW2_ZEROES;
	return entry & QCOW2_OFFSET ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

/* Does the cluster continue what *e describes so far? */
static bool continues(const struct qcow2 *img, const struct qcow2_extent *e, uint64_t n, uint64_t entry)
{
	enum qcow2_kind kind = kind_of(img, entry);

	if (kind != e->kind || kind == QCOW2_PACKED)
		return false;
	return kind != QCOW2_DATA || (!!(entry & QCOW2_COPIED) == e->in_place &&
		(entry & QCOW2_OFFSET) == e->entry + n * img->cluster_size);
}

static int check_data(const struct qcow2 *img, uint64_t offset, const struct qcow2_extent *e, uint64_t n)
{
	uint64_t first = e->entry >> img->h.cluster_bits;

	if (!is_cluster(img, e->entry) || !is_cluster(img, e->entry + (n - 1) * img->cluster_size))
		return damaged(img, offset, "data is not in the file");
	for (uint64_t i = 0; i < n && e->in_place && !img->info.readonly; i++)
		if (qcow2_is_meta(img, first + i))
			return damaged(img, offset, "data lies on a table");
	return 0;
}

int qcow2_map(struct qcow2 *img, uint64_t offset, uint64_t len, struct qcow2_extent *ret)
{
	uint64_t inside = offset & (img->cluster_size - 1);
	uint64_t most = (inside + len + img->cluster_size - 1) >> img->h.cluster_bits;
	struct qcow2_extent e = { 0 };
	uint64_t n = 1, entry;
	int r = 0;
	const uint8_t *p = entry_find(img, offset, &r);

	if (!p && r)
		return r;
	most = MIN(most, slice_left(img, offset));
	if (!p) {
		e.kind = QCOW2_UNALLOCATED;
		n = most;
	} else {
		entry = get_be64(p);
		e.kind = kind_of(img, entry);
		e.in_place = e.kind == QCOW2_DATA && entry & QCOW2_COPIED;
		e.entry = e.kind == QCOW2_DATA ? entry & QCOW2_OFFSET : entry;
		while (n < most && continues(img, &e, n, get_be64(p + n * 8)))
			n++;
	}
	if (e.kind == QCOW2_DATA) {
		r = check_data(img, offset, &e, n);
		if (r)
			return r;
		e.host = e.entry + inside;
	}
	e.len = MIN(len, n * img->cluster_size - inside);
	*ret = e;
	return 0;
}

int qcow2_map_packed(const struct qcow2 *img, uint64_t entry, uint64_t *offset, uint64_t *len)
{
	unsigned x = 62 - (img->h.cluster_bits - 8);
	uint64_t at = entry & ((UINT64_C(1) << x) - 1);
	uint64_t sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> x) + 1;
	uint64_t end = img->frontier << img->h.cluster_bits;

	if (!at || at >= QCOW2_HOST_END || at >= end)
		return damaged(img, at, "compressed data is not in the file");
	*offset = at;
	/* The last sector may be one that the file does not have any more. */
	*len = MIN(sectors * QCOW2_SECTOR - at % QCOW2_SECTOR, end - at);
	return 0;
}

/* --- changes --- */

/* What the entry referred to is referred to no more. Called when the table says so already. */
static void drop(struct qcow2 *img, uint64_t entry)
{
	uint64_t at, len;

	if (entry & QCOW2_COMPRESSED) {
		if (qcow2_map_packed(img, entry, &at, &len))
			return;
		qcow2_free_later(img, at >> img->h.cluster_bits,
			((at + len - 1) >> img->h.cluster_bits) - (at >> img->h.cluster_bits) + 1);
	} else if (is_cluster(img, entry & QCOW2_OFFSET)) {
		qcow2_free_later(img, (entry & QCOW2_OFFSET) >> img->h.cluster_bits, 1);
	}
}

/* Fill a new table at `to`: from another one, or with zeroes when there is none. */
static int fill_table(struct qcow2 *img, uint64_t to, uint64_t from)
{
	int r = 0;

	memset(img->scratch, 0, img->cluster_size);
	for (uint64_t i = 0; from && i < img->cluster_size; i += img->l2_cache.slice_size) {
		const uint8_t *slice = qcow2_cache_get(img, &img->l2_cache, from + i, &r);

		if (!slice)
			return r;
		memcpy(img->scratch + i, slice, img->l2_cache.slice_size);
	}
	qcow2_cache_forget(img, &img->l2_cache, to, img->cluster_size);
	qcow2_cache_forget(img, &img->refcount_cache, to, img->cluster_size);
	return qcow2_io(img, DISK_WRITE, to, img->scratch, img->cluster_size);
}

/* Have an L2 table for the offset that may be changed. */
static int own_table(struct qcow2 *img, uint64_t offset)
{
	uint64_t i = l1_index(img, offset), l1 = qcow2_table_get(&img->l1, i), old = l1 & QCOW2_OFFSET, at;
	struct qcow2_run run;
	int r;

	if (l1 & QCOW2_COPIED)
		return 0;
	if (old && !is_cluster(img, old))
		return damaged(img, offset, "an L2 table is not in the file");
	r = qcow2_alloc(img, 1, &run);
	if (r)
		return r;
	at = run.first * img->cluster_size;
	r = fill_table(img, at, old);
	if (r == 0)
		r = qcow2_set_add(&img->tables, run.first);
	if (r == -EEXIST)
		r = 0;
	if (r) {
		qcow2_free_now(img, run.first, 1);
		return r;
	}
	qcow2_table_set(&img->l1, i, at | QCOW2_COPIED);
	if (old)
		qcow2_free_later(img, old >> img->h.cluster_bits, 1);
	return 0;
}

static uint8_t *entry_own(struct qcow2 *img, uint64_t offset, int *err)
{
	*err = own_table(img, offset);
	return *err ? NULL : entry_find(img, offset, err);
}

int qcow2_map_link(struct qcow2 *img, uint64_t offset, uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t old;
		int r = 0;
		uint8_t *p = entry_own(img, offset + i * img->cluster_size, &r);

		if (!p) {
			qcow2_free_now(img, first + i, count - i);
			return r ? r : -EIO;
		}
		old = get_be64(p);
		put_be64(p, (first + i) * img->cluster_size | QCOW2_COPIED);
		qcow2_cache_touch(&img->l2_cache, p);
		drop(img, old);
	}
	return qcow2_log_link(img, offset, first, count);
}

/* What the entry becomes. -EOPNOTSUPP: it cannot. */
static int zero_entry(const struct qcow2 *img, uint64_t old, bool keep, uint64_t *ret)
{
	enum qcow2_kind kind = kind_of(img, old);

	if (img->h.version < 3) {
		if (kind == QCOW2_UNALLOCATED && !img->backing)
			*ret = old;
		else if (keep || img->backing)
			return -EOPNOTSUPP;
		else
			*ret = 0;
		return 0;
	}
	if (kind == QCOW2_UNALLOCATED && !img->backing)
		*ret = old;
	else if (keep && kind != QCOW2_PACKED)
		*ret = old | QCOW2_ZERO;
	else
		*ret = QCOW2_ZERO;
	return 0;
}

int qcow2_map_zero(struct qcow2 *img, uint64_t offset, uint64_t count, bool keep, uint64_t *ret)
{
	uint64_t n = MIN(count, slice_left(img, offset)), done = 0;
	int r = 0;
	uint8_t *p = entry_find(img, offset, &r);

	if (!p && r)
		return r;
	if (!p && !img->backing) {
		*ret = n;
		return 0;
	}
	if (img->h.version < 3 && img->backing)
		return -EOPNOTSUPP;
	p = entry_own(img, offset, &r);
	if (!p)
		return r ? r : -EIO;
	for (; done < n; done++, p += 8) {
		uint64_t old = get_be64(p), new;

		r = zero_entry(img, old, keep, &new);
		if (r)
			break;
		if (old == new)
			continue;
		put_be64(p, new);
		qcow2_cache_touch(&img->l2_cache, p);
		if (!(new & QCOW2_OFFSET))
			drop(img, old);
	}
	*ret = done;
	if (done)
		r = qcow2_log_zero(img, offset, done, keep);
	return r;
}
