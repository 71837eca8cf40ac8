/*
 * The order in which metadata goes to the file, so that whatever moment the power or the process
 * ends, the file is a consistent image that at worst has clusters counted that nobody uses.
 *
 *   1. refcount blocks, with every count that a new reference needs
 *   2. entries of the refcount table that point to new blocks, behind a barrier
 *   3. a barrier, which also makes data stable that was copied on a write
 *   4. L2 tables; entries of the L1 table that point to new ones, behind a barrier
 *   5. a barrier: no table in the file refers any more to what was dropped
 *   6. only now are the counts of dropped clusters lowered, and these may be used again
 *
 * A barrier is a flush of the file. It happens when the guest flushes and the tables have changed,
 * when a cache is full of changes, and when the queue is drained. Owner of the queue; blocks.
 */
#include "devices/host/qcow2.h"

static bool table_dirty(const struct qcow2_table *t)
{
	return t->lo != t->hi;
}

bool qcow2_commit_needed(const struct qcow2 *img)
{
	return img->l2_cache.ndirty || table_dirty(&img->l1) || table_dirty(&img->reftable);
}

static int barrier(struct qcow2 *img)
{
	return qcow2_io(img, DISK_FLUSH, 0, NULL, 0);
}

static int write_refcounts(struct qcow2 *img)
{
	int r = qcow2_cache_write(img, &img->refcount_cache);

	if (r == 0 && table_dirty(&img->reftable)) {
		r = barrier(img);
		if (r == 0)
			r = qcow2_table_write(img, &img->reftable);
	}
	return r;
}

int qcow2_commit(struct qcow2 *img)
{
	int r = write_refcounts(img);

	if (r == 0)
		r = barrier(img);
	if (r == 0)
		r = qcow2_cache_write(img, &img->l2_cache);
	if (r == 0 && table_dirty(&img->l1)) {
		r = barrier(img);
		if (r == 0)
			r = qcow2_table_write(img, &img->l1);
	}
	/* Also for a process that ends here: what it wrote is in the file, though not stable. */
	if (r == 0)
		qcow2_log_clear(img);
	if (r == 0)
		r = barrier(img);
	if (r == 0)
		qcow2_free_settle(img);
	return r;
}

int qcow2_settle(struct qcow2 *img)
{
	int r = qcow2_commit_needed(img) || img->nfrees ? qcow2_commit(img) : 0;

	if (r == 0 && (img->refcount_cache.ndirty || table_dirty(&img->reftable))) {
		r = write_refcounts(img);
		if (r == 0)
			r = barrier(img);
	}
	return r;
}
