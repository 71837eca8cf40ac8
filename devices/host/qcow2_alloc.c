/*
 * Host clusters: taking them, giving them back, and knowing which hold metadata.
 *
 * Two cursors. One looks below the frontier for clusters that became free, a bounded number at a
 * time; what it does not find at once comes from the frontier, the end of all that was ever used.
 * So neither a full image nor a hostile one can hold up a request, and nothing is handed out that
 * the image says is a table, whatever its counts say.
 *
 * A dropped cluster waits in `frees` until the tables that no longer refer to it are in the file
 * (qcow2_commit.c); its data goes back to the file system too. When the list is full and a commit
 * fails, what does not fit is forgotten: counted for ever, harmless. Owner of the queue; blocks.
 */
#include <errno.h>

#include "devices/host/qcow2.h"
#include "vmm/log.h"

enum {
	SCAN_MAX = 4096,     /* clusters looked at per allocation */
	FRONTIER_MAX = 65536,/* counted ones past the end of the file, in a damaged image */
};

/* Fibonacci hashing: neighbours spread. */
static uint64_t slot_of(const struct qcow2_set *s, uint64_t cluster)
{
	return (cluster * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (s->capacity - 1);
}

static bool set_has(const struct qcow2_set *s, uint64_t cluster)
{
	for (uint64_t i = slot_of(s, cluster); s->slots[i]; i = (i + 1) & (s->capacity - 1))
		if (s->slots[i] == cluster)
			return true;
	return false;
}

int qcow2_set_add(struct qcow2_set *s, uint64_t cluster)
{
	uint64_t i = slot_of(s, cluster);

	for (; s->slots[i]; i = (i + 1) & (s->capacity - 1))
		if (s->slots[i] == cluster)
			return -EEXIST;
	if (s->n >= s->capacity / 2)
		return -ENOSPC;
	s->slots[i] = cluster;
	s->n++;
	return 0;
}

bool qcow2_is_meta(const struct qcow2 *img, uint64_t cluster)
{
	size_t lo = 0, hi = img->nfixed;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (img->fixed[mid].first + img->fixed[mid].count <= cluster)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < img->nfixed && img->fixed[lo].first <= cluster)
		return true;
	return set_has(&img->tables, cluster);
}

static int is_free(struct qcow2 *img, uint64_t cluster, bool *ret)
{
	uint64_t count;
	int r = qcow2_refcount_get(img, cluster, &count);

	*ret = r == 0 && !count && !qcow2_is_meta(img, cluster);
	return r;
}

static bool has_block(const struct qcow2 *img, uint64_t cluster)
{
	uint64_t b = cluster / img->per_block;

	return b < img->reftable.entries && qcow2_table_get(&img->reftable, b);
}

/* Free clusters below the frontier; ret->count is 0 when a bounded look found none. */
static int scan(struct qcow2 *img, uint64_t want, struct qcow2_run *ret)
{
	*ret = (struct qcow2_run){ 0 };
	for (int n = 0; n < SCAN_MAX && img->scan < img->frontier; n++) {
		bool is;
		int r;

		if (!has_block(img, img->scan)) {
			if (ret->count)
				break;
			img->scan = (img->scan / img->per_block + 1) * img->per_block;
			continue;
		}
		r = is_free(img, img->scan, &is);
		if (r)
			return r;
		if (!is && ret->count)
			break;
		if (is && !ret->count++)
			ret->first = img->scan;
		img->scan++;
		if (ret->count == want)
			break;
	}
	return 0;
}

static int take_frontier(struct qcow2 *img, uint64_t want, struct qcow2_run *ret)
{
	uint64_t end = img->file_end / img->cluster_size;
	bool is = false;
	int r = 0;

	for (int n = 0; !is && n < FRONTIER_MAX; n++) {
		r = qcow2_refcount_cover_frontier(img);
		if (r == 0)
			r = is_free(img, img->frontier, &is);
		if (r)
			return r;
		if (img->frontier >= end)
			return -ENOSPC;
		if (!is)
			img->frontier++;
	}
	if (!is)
		return -ENOSPC;
	*ret = (struct qcow2_run){ .first = img->frontier, .fresh = img->grows };
	/* Up to the end of the block, whose counts the next cluster may not have. */
	for (; ret->count < want && img->frontier < end && has_block(img, img->frontier); img->frontier++) {
		r = is_free(img, img->frontier, &is);
		if (r || !is)
			break;
		ret->count++;
	}
	return ret->count ? 0 : r;
}

int qcow2_alloc(struct qcow2 *img, uint64_t want, struct qcow2_run *ret)
{
	struct qcow2_run run;
	int r = scan(img, want, &run);

	if (r == 0 && !run.count)
		r = take_frontier(img, want, &run);
	for (uint64_t i = 0; i < run.count && r == 0; i++) {
		r = qcow2_refcount_add(img, run.first + i, 1);
		if (r)
			qcow2_free_now(img, run.first, i);
	}
	if (r == 0)
		*ret = run;
	return r;
}

void qcow2_free_now(struct qcow2 *img, uint64_t first, uint64_t count)
{
	if (img->replaying)
		return;
	for (uint64_t i = first; i < first + count; i++) {
		if (qcow2_refcount_add(img, i, -1))
			log_guest(LOG_WARN, "a qcow2 image is damaged: a count of cluster %llu is wrong",
				(unsigned long long)i);
		else
			img->scan = MIN(img->scan, i);
	}
}

void qcow2_free_later(struct qcow2 *img, uint64_t first, uint64_t count)
{
	struct qcow2_run *last = img->nfrees ? &img->frees[img->nfrees - 1] : NULL;

	if (img->replaying)
		return;
	if (last && last->first + last->count == first) {
		last->count += count;
		return;
	}
	if (img->nfrees == QCOW2_FREES && (qcow2_commit(img) || img->nfrees == QCOW2_FREES))
		return;
	img->frees[img->nfrees++] = (struct qcow2_run){ .first = first, .count = count };
}

/* Those of [first, first + count) that nobody uses any more go back to the file system. */
static void give_back(struct qcow2 *img, uint64_t first, uint64_t count)
{
	uint64_t run = 0, left;

	for (uint64_t i = first; i <= first + count; i++) {
		bool is = i < first + count && !qcow2_refcount_get(img, i, &left) && !left;

		if (is) {
			run++;
			continue;
		}
		if (run) /* a hint: what becomes of it does not matter */
			qcow2_io(img, DISK_DISCARD, (i - run) * img->cluster_size, NULL,
				run * img->cluster_size);
		run = 0;
	}
}

void qcow2_free_settle(struct qcow2 *img)
{
	for (unsigned i = 0; i < img->nfrees; i++) {
		qcow2_free_now(img, img->frees[i].first, img->frees[i].count);
		give_back(img, img->frees[i].first, img->frees[i].count);
	}
	img->nfrees = 0;
}
