/*
 * What a process that serves an image must leave to the one after it.
 *
 * A write to clusters that were not there is answered when its bytes are in the file and the L2
 * table in memory says where; the table itself goes to the file with the guest's next flush. When
 * the machine or the host ends, so much may be lost: nobody flushed. But a process of the disk's
 * own may end alone, and the guest, which goes on, knows of no end. So each change of the map is
 * noted in memory that outlives the process, before the request is answered, until the tables are
 * in the file. The next process takes the tables in from the file and makes the noted changes once
 * more.
 *
 * That a change is noted which the file has already does no harm: nothing is given back meanwhile,
 * so a cluster that was linked here, dropped there and linked again ends where the last note says,
 * and at worst is counted though nobody uses it. First all noted clusters are counted, so that a
 * table that the replay needs is never put on one of them.
 *
 * A process ends between two stores: an entry is whole before it is counted. The log was written by
 * a process that may have been taken over: what it says is checked like the file.
 *
 * Owner of the queue; blocks.
 */
#include <errno.h>
#include <sys/mman.h>

#include "devices/host/qcow2.h"
#include "vmm/log.h"

enum { LOG_BYTES = 64 * KIB };
enum kind { LINK, ZERO, ZERO_KEEP };

struct entry {
	uint64_t offset, first;  /* of the guest's disk; LINK: cluster of the file */
	uint32_t count, kind;    /* clusters */
};

struct qcow2_log {
	uint32_t n;
	bool begun;
	struct entry entry[];
};

enum { ENTRIES = (LOG_BYTES - sizeof(struct qcow2_log)) / sizeof(struct entry) };

int qcow2_log_create(struct qcow2 *img, struct error *err)
{
	void *pages = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		return error_set(err, ENOMEM, "out of memory for what one process leaves to the next");
	img->log = pages;
	img->disk.pages = pages;
	img->disk.pages_bytes = LOG_BYTES;
	return madvise(pages, LOG_BYTES, MADV_DONTFORK) ? error_set(err, errno, "madvise: %s", strerror(errno)) : 0;
}

void qcow2_log_free(struct qcow2 *img)
{
	if (img->log)
		munmap(img->log, LOG_BYTES);
	img->log = NULL;
}

bool qcow2_log_begin(struct qcow2 *img)
{
	bool first = !img->log->begun;

	img->log->begun = true;
	return first;
}

/* The stores before it come before those after it, for who looks when this process is gone. */
static void fence(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

void qcow2_log_clear(struct qcow2 *img)
{
	fence();
	if (img->log && !img->replaying)
		img->log->n = 0;
}

static bool continues(const struct qcow2 *img, const struct entry *last, const struct entry *e)
{
	return last->kind == e->kind && last->offset + last->count * img->cluster_size == e->offset &&
		(e->kind != LINK || last->first + last->count == e->first) &&
		last->count <= UINT32_MAX - e->count;
}

static int append(struct qcow2 *img, struct entry e)
{
	struct qcow2_log *log = img->log;
	struct entry *last;

	if (!log || img->replaying)
		return 0;
	fence();
	last = log->n && log->n <= ENTRIES ? &log->entry[log->n - 1] : NULL;
	if (last && continues(img, last, &e)) {
		__atomic_store_n(&last->count, last->count + e.count, __ATOMIC_RELAXED);
		return 0;
	}
	/* The tables have it too, and are in the file then. */
	if (log->n >= ENTRIES)
		return qcow2_commit(img);
	log->entry[log->n] = e;
	fence();
	log->n++;
	return 0;
}

int qcow2_log_link(struct qcow2 *img, uint64_t offset, uint64_t first, uint64_t count)
{
	return append(img, (struct entry){ offset, first, (uint32_t)count, LINK });
}

int qcow2_log_zero(struct qcow2 *img, uint64_t offset, uint64_t count, bool keep)
{
	return append(img, (struct entry){ offset, 0, (uint32_t)count, keep ? ZERO_KEEP : ZERO });
}

/* --- the next process --- */

static bool is_sane(const struct qcow2 *img, const struct entry *e)
{
	uint64_t clusters = (img->h.size + img->cluster_size - 1) >> img->h.cluster_bits;

	return e->kind <= ZERO_KEEP && is_aligned(e->offset, img->cluster_size) && e->count &&
		range_inside(e->offset >> img->h.cluster_bits, e->count, 0, clusters) &&
		(e->kind != LINK || (e->first && range_inside(e->first, e->count, 0, img->frontier)));
}

static int count_cluster(struct qcow2 *img, uint64_t cluster)
{
	uint64_t is;
	int r = qcow2_is_meta(img, cluster) ? -EIO : qcow2_refcount_get(img, cluster, &is);

	if (r || is)
		return r;
	r = qcow2_refcount_cover(img, cluster);
	return r ? r : qcow2_refcount_set(img, cluster, 1);
}

static int count_all(struct qcow2 *img, const struct entry *e)
{
	int r = 0;

	for (uint64_t i = 0; e->kind == LINK && i < e->count && r == 0; i++)
		r = count_cluster(img, e->first + i);
	return r;
}

static int link_one(struct qcow2 *img, uint64_t offset, uint64_t cluster)
{
	struct qcow2_extent now;
	int r = qcow2_map(img, offset, img->cluster_size, &now);

	if (r == 0 && now.kind == QCOW2_DATA && now.in_place && now.host == cluster * img->cluster_size)
		return 0;
	return qcow2_map_link(img, offset, cluster, 1);
}

static int do_again(struct qcow2 *img, const struct entry *e)
{
	uint64_t done = 1;
	int r = 0;

	for (uint64_t i = 0; i < e->count && r == 0; i += done) {
		uint64_t offset = e->offset + i * img->cluster_size;

		if (e->kind == LINK)
			r = link_one(img, offset, e->first + i);
		else
			r = qcow2_map_zero(img, offset, e->count - i, e->kind == ZERO_KEEP, &done);
	}
	return r;
}

int qcow2_log_replay(struct qcow2 *img)
{
	static int (*const steps[])(struct qcow2 *img, const struct entry *e) = { count_all, do_again };
	const uint32_t n = MIN(img->log->n, (uint32_t)ENTRIES);
	int r = 0;

	img->replaying = true;
	for (size_t step = 0; step < ARRAY_SIZE(steps); step++)
		for (uint32_t i = 0; i < n && r == 0; i++) {
			const struct entry e = img->log->entry[i];

			r = is_sane(img, &e) ? steps[step](img, &e) : -EIO;
		}
	if (r == 0)
		r = qcow2_settle(img);
	img->replaying = false;
	if (r == 0)
		qcow2_log_clear(img);
	return r;
}
