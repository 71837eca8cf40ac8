/*
 * Tables that a read or write needs and the cache does not have: read by the ring of the file like
 * data, while other requests go on.
 *
 * A request that has not begun yet is the one that waits: it stays where those stay that an older
 * one is in the way of (qcow2_request.c), its own `low` reads the table, and when that is back it
 * is tried again, with all who waited for the same. A table that was read while anything was
 * written to tables may be older than what the file says now, and is not taken. So it can happen
 * that what was fetched is gone from the cache, or was never taken, when its request is tried: then
 * it is fetched once more, and after that waited for on the spot, as all other metadata is
 * (qcow2_cache.c).
 *
 * Owner of the queue, but for create and free.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/host/qcow2_request.h"

static void fetched(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	struct qcow2_fetch *f = s->fetch;

	s->fetch = NULL;
	/* One that failed is met once more where it is told. */
	if (result)
		s->tries = QCOW2_FETCH_TRIES;
	else if (f->meta_writes == q->img->meta_writes)
		qcow2_cache_put(&q->img->l2_cache, f->at, f->buf);
	f->at = 0;
	q->changed = true;
}

bool qcow2_fetch(struct disk_queue *q, struct qcow2_slot *s)
{
	struct qcow2 *img = q->img;
	struct qcow2_fetch *f = NULL;
	uint64_t at;

	if (s->fetch)
		return true;
	if (s->rq->op > DISK_WRITE || s->tries == QCOW2_FETCH_TRIES)
		return false;
	at = qcow2_map_missing(img, s->at, s->left);
	if (!at)
		return false;
	for (unsigned i = 0; i < QCOW2_FETCHES; i++) {
		if (q->fetches[i].at == at)
			return true;
		if (!q->fetches[i].at)
			f = &q->fetches[i];
	}
	if (!f) /* when one is back */
		return true;
	f->at = at;
	f->meta_writes = img->meta_writes;
	f->iov = (struct iovec){ f->buf, img->l2_cache.slice_size };
	s->fetch = f;
	s->tries++;
	s->low = (struct disk_request){ .op = DISK_READ, .offset = at, .len = f->iov.iov_len, .iov = &f->iov,
		.iovcnt = 1 };
	qcow2_start_low(q, s, q->file, fetched);
	return s->fetch;
}

int qcow2_fetch_create(struct disk_queue *q)
{
	uint8_t *all = aligned_alloc(PAGE_4K, QCOW2_FETCHES * QCOW2_SLICE_MAX);

	for (unsigned i = 0; all && i < QCOW2_FETCHES; i++)
		q->fetches[i].buf = all + i * QCOW2_SLICE_MAX;
	return all ? 0 : -ENOMEM;
}

void qcow2_fetch_free(struct disk_queue *q)
{
	free(q->fetches[0].buf);
}
