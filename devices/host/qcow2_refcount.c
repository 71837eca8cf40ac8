/*
 * Reference counts (specification, "Host cluster management"): a table of blocks, each a cluster of
 * counts of 1 to 64 bits. Counts wider than a byte are big-endian; narrower ones fill a byte from
 * its low end.
 *
 * New blocks are made only at the frontier, the first cluster that nothing can be in: such a block
 * lies in the very stretch that it describes and counts itself, so making one never needs another.
 * When the refcount table is full, a longer one is written there with the blocks for it, and the
 * header is pointed to it in one write. Owner of the queue; blocks.
 */
#include <errno.h>

#include "devices/host/qcow2.h"

uint64_t qcow2_refcount_read(const uint8_t *block, uint64_t i, unsigned order)
{
	unsigned bits = 1u << order;

	switch (order) {
	case 3:
		return block[i];
	case 4:
		return get_be16(block + i * 2);
	case 5:
		return get_be32(block + i * 4);
	case 6:
		return get_be64(block + i * 8);
	}
	return block[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
}

void qcow2_refcount_write(uint8_t *block, uint64_t i, unsigned order, uint64_t v)
{
	unsigned bits = 1u << order, shift = (unsigned)(i * bits % 8), mask;
	uint8_t *byte;

	switch (order) {
	case 3:
		block[i] = (uint8_t)v;
		return;
	case 4:
		put_le16(block + i * 2, __builtin_bswap16((uint16_t)v));
		return;
	case 5:
		put_be32(block + i * 4, (uint32_t)v);
		return;
	case 6:
		put_be64(block + i * 8, v);
		return;
	}
	byte = &block[i * bits / 8];
	mask = ((1u << bits) - 1) << shift;
	*byte = (uint8_t)((*byte & ~mask) | ((unsigned)v << shift & mask));
}

static uint64_t refcount_max(unsigned order)
{
	return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}

/* File offset of the block that counts the cluster; 0: there is none. */
static uint64_t block_of(const struct qcow2 *img, uint64_t cluster)
{
	uint64_t i = cluster / img->per_block;

	return i < img->reftable.entries ? qcow2_table_get(&img->reftable, i) : 0;
}

/* The slice with the cluster's count, and which of the counts in it that is. */
static uint8_t *slice_of(struct qcow2 *img, uint64_t block, uint64_t cluster, uint64_t *ret_index,
	int *err)
{
	uint64_t i = cluster % img->per_block;
	uint64_t in_slice = ((uint64_t)img->refcount_cache.slice_size * 8) >> img->h.refcount_order;

	*ret_index = i % in_slice;
	return qcow2_cache_get(img, &img->refcount_cache,
		block + i / in_slice * img->refcount_cache.slice_size, err);
}

int qcow2_refcount_get(struct qcow2 *img, uint64_t cluster, uint64_t *ret)
{
	uint64_t block = block_of(img, cluster), i;
	uint8_t *slice;
	int r = 0;

	if (!block) {
		*ret = 0;
		return 0;
	}
	slice = slice_of(img, block, cluster, &i, &r);
	if (!slice)
		return r;
	*ret = qcow2_refcount_read(slice, i, img->h.refcount_order);
	return 0;
}

int qcow2_refcount_set(struct qcow2 *img, uint64_t cluster, uint64_t v)
{
	uint64_t block = block_of(img, cluster), i;
	uint8_t *slice;
	int r = 0;

	if (!block || v > refcount_max(img->h.refcount_order))
		return -ERANGE;
	slice = slice_of(img, block, cluster, &i, &r);
	if (!slice)
		return r;
	qcow2_refcount_write(slice, i, img->h.refcount_order, v);
	qcow2_cache_touch(&img->refcount_cache, slice);
	return 0;
}

int qcow2_refcount_add(struct qcow2 *img, uint64_t cluster, int delta)
{
	uint64_t v;
	int r = qcow2_refcount_get(img, cluster, &v);

	if (r)
		return r;
	if (delta > 0 ? v == refcount_max(img->h.refcount_order) : v == 0)
		return -ERANGE;
	return qcow2_refcount_set(img, cluster, delta > 0 ? v + 1 : v - 1);
}

/* Write block `b` of the table at `cluster`, with a count of 1 for those in [first, end). */
static int write_block(struct qcow2 *img, uint64_t b, uint64_t cluster, uint64_t first, uint64_t end)
{
	uint64_t lo = MAX(first, b * img->per_block), hi = MIN(end, (b + 1) * img->per_block);
	uint64_t at = cluster * img->cluster_size;

	memset(img->scratch, 0, img->cluster_size);
	for (uint64_t c = lo; c < hi; c++)
		qcow2_refcount_write(img->scratch, c % img->per_block, img->h.refcount_order, 1);
	qcow2_cache_forget(img, &img->refcount_cache, at, img->cluster_size);
	qcow2_cache_forget(img, &img->l2_cache, at, img->cluster_size);
	return qcow2_io(img, DISK_WRITE, at, img->scratch, img->cluster_size);
}

static int fits(const struct qcow2 *img, uint64_t end)
{
	return end > img->file_end / img->cluster_size ? -ENOSPC : 0;
}

static int add_block(struct qcow2 *img)
{
	uint64_t c = img->frontier;
	int r = fits(img, c + 1);

	if (r == 0)
		r = write_block(img, c / img->per_block, c, c, c + 1);
	if (r == 0)
		r = qcow2_set_add(&img->tables, c);
	if (r)
		return r;
	img->frontier = c + 1;
	qcow2_table_set(&img->reftable, c / img->per_block, c * img->cluster_size);
	return 0;
}

/* Point the header to the table, which is in the file already: 12 bytes of one sector. */
static int switch_header(struct qcow2 *img, uint64_t at, uint64_t clusters)
{
	int r = qcow2_io(img, DISK_FLUSH, 0, NULL, 0);

	if (r == 0)
		r = qcow2_io(img, DISK_READ, 0, img->scratch, QCOW2_SECTOR);
	if (r)
		return r;
	put_be64(img->scratch + QCOW2_H_REFTABLE, at);
	put_be32(img->scratch + QCOW2_H_REFTABLE_CLUSTERS, (uint32_t)clusters);
	r = qcow2_io(img, DISK_WRITE, 0, img->scratch, QCOW2_SECTOR);
	if (r == 0)
		r = qcow2_io(img, DISK_FLUSH, 0, NULL, 0);
	return r;
}

static void move_fixed(struct qcow2 *img, uint64_t from, uint64_t to, uint64_t count)
{
	size_t i = 0;

	while (i < img->nfixed && img->fixed[i].first != from)
		i++;
	/* The new place is behind all others. */
	if (i < img->nfixed) {
		memmove(&img->fixed[i], &img->fixed[i + 1], (img->nfixed - i - 1) * sizeof(*img->fixed));
		img->fixed[img->nfixed - 1] = (struct qcow2_run){ .first = to, .count = count };
	}
}

/* [blocks][table] from the frontier on; the blocks count all of it. */
static int grow_table(struct qcow2 *img)
{
	uint64_t cs = img->cluster_size, first = img->frontier, b0 = first / img->per_block, blocks = 1, n, end;
	uint64_t old = img->h.reftable / cs, old_n = img->h.reftable_clusters;
	int r;

	do {
		uint64_t entries = MAX(b0 + ++blocks, img->reftable.entries * 3 / 2);

		n = (entries * 8 + cs - 1) / cs;
		end = first + blocks + n;
	} while ((end - 1) / img->per_block - b0 + 1 > blocks);
	if (n * cs > img->reftable.capacity || fits(img, end))
		return -ENOSPC;
	/*
	 * The longer table is the old one and zeroes; its new entries are dropped again on failure.
	 */
	memset(img->reftable.data + img->reftable.entries * 8, 0, n * cs - img->reftable.entries * 8);
	r = qcow2_cache_write(img, &img->refcount_cache);
	for (uint64_t i = 0; i < blocks && r == 0; i++) {
		r = write_block(img, b0 + i, first + i, first, end);
		put_be64(img->reftable.data + (b0 + i) * 8, (first + i) * cs);
	}
	if (r == 0)
		r = qcow2_io(img, DISK_WRITE, (first + blocks) * cs, img->reftable.data, n * cs);
	if (r == 0)
		r = switch_header(img, (first + blocks) * cs, n);
	for (uint64_t i = 0; i < blocks && r == 0; i++)
		r = qcow2_set_add(&img->tables, first + i);
	if (r)
		return r;
	move_fixed(img, old, first + blocks, n);
	img->h.reftable = img->reftable.at = (first + blocks) * cs;
	img->h.reftable_clusters = (uint32_t)n;
	img->reftable.entries = n * cs / 8;
	img->reftable.lo = img->reftable.hi = 0;
	img->frontier = end;
	qcow2_free_later(img, old, old_n);
	return 0;
}

int qcow2_refcount_cover(struct qcow2 *img, uint64_t cluster)
{
	uint64_t c;
	int r;

	if (block_of(img, cluster))
		return 0;
	/* The table reaches as far as the frontier's block, thus as far as this one. */
	r = qcow2_refcount_cover_frontier(img);
	if (r || block_of(img, cluster))
		return r;
	c = img->frontier;
	r = fits(img, c + 1);
	if (r == 0)
		r = write_block(img, 0, c, 0, 0);
	if (r == 0)
		r = qcow2_refcount_set(img, c, 1);
	if (r == 0)
		r = qcow2_set_add(&img->tables, c);
	if (r)
		return r;
	img->frontier++;
	qcow2_table_set(&img->reftable, cluster / img->per_block, c * img->cluster_size);
	return 0;
}

int qcow2_refcount_cover_frontier(struct qcow2 *img)
{
	while (!block_of(img, img->frontier)) {
		uint64_t b = img->frontier / img->per_block;
		int r = b < img->reftable.entries ? add_block(img) : grow_table(img);

		if (r)
			return r;
	}
	return 0;
}
