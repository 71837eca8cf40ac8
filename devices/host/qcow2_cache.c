/*
 * Metadata of an image: blocking reads and writes, and a bounded, write-back cache of slices of L2
 * tables and refcount blocks (specification, "Cluster mapping" and "Host cluster management").
 *
 * A slice is a part of a table, 4 KiB or the whole cluster where that is less, so that one miss
 * reads little and a cache of a megabyte covers gigabytes also with clusters of 2 MiB. Four slices
 * to a set, the least recently used clean one gives way. A dirty slice of a refcount block may be
 * written at any time, since counts go up before they are needed and down long after; one of an L2
 * table only in the order of qcow2_commit.c.
 *
 * Owner of the queue; at open and creation: main.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/host/qcow2.h"

enum { WAYS = 4 };

static void on_done(void *ctx, struct disk_request *rq, int result)
{
	(void)rq;
	((struct qcow2 *)ctx)->meta_result = result;
}

static void on_batch_done(void *ctx)
{
	(void)ctx;
}

int qcow2_meta_create(struct qcow2 *img, struct disk_queue **ret, struct error *err)
{
	const struct disk_events events = { .done = on_done, .batch_done = on_batch_done, .ctx = img };

	return img->file->ops->queue_create(ret, img->file, 1, &events, err);
}

int qcow2_io(struct qcow2 *img, enum disk_op op, uint64_t offset, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct disk_request rq = { .op = op, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1 };
	int r = img->file->ops->start(img->meta, &rq);

	img->meta_writes += op != DISK_READ;
	if (r)
		return r == -ERANGE ? -ENOSPC : r;
	img->meta_result = -EIO;
	img->file->ops->submit(img->meta);
	img->file->ops->drain(img->meta);
	return img->meta_result;
}

int qcow2_cache_init(struct qcow2_cache *c, uint64_t bytes, uint64_t cluster_size, bool ordered)
{
	c->slice_size = (uint32_t)MIN(cluster_size, (uint64_t)QCOW2_SLICE_MAX);
	c->sets = (uint32_t)(bytes / c->slice_size / WAYS);
	c->ordered = ordered;
	c->slices = calloc((size_t)c->sets * WAYS, sizeof(*c->slices));
	c->data = aligned_alloc(PAGE_4K, bytes);
	return c->slices && c->data ? 0 : -ENOMEM;
}

void qcow2_cache_free(struct qcow2_cache *c)
{
	free(c->slices);
	free(c->data);
}

static uint8_t *slice_data(const struct qcow2_cache *c, const struct qcow2_slice *s)
{
	return c->data + (size_t)(s - c->slices) * c->slice_size;
}

static struct qcow2_slice *set_of(const struct qcow2_cache *c, uint64_t at)
{
	return c->slices + (at / c->slice_size) % c->sets * WAYS;
}

static int slice_write(struct qcow2 *img, struct qcow2_cache *c, struct qcow2_slice *s)
{
	int r = qcow2_io(img, DISK_WRITE, s->at, slice_data(c, s), c->slice_size);

	if (r)
		return r;
	s->dirty = false;
	c->ndirty--;
	return 0;
}

/* The clean slice of the set that gives way. NULL: all are dirty. */
static struct qcow2_slice *oldest_clean(struct qcow2_slice *set)
{
	struct qcow2_slice *victim = NULL;

	for (int i = 0; i < WAYS; i++)
		if (!set[i].dirty && (!victim || !set[i].at || (victim->at && set[i].used < victim->used)))
			victim = &set[i];
	return victim;
}

/* The slice of the set that gives way, clean. */
static struct qcow2_slice *make_room(struct qcow2 *img, struct qcow2_cache *c,
	struct qcow2_slice *set, int *err)
{
	for (int round = 0; round < 2; round++) {
		struct qcow2_slice *victim = oldest_clean(set);

		if (victim)
			return victim;
		*err = c->ordered ? qcow2_commit(img) : slice_write(img, c, &set[0]);
		if (*err)
			return NULL;
	}
	*err = -EIO;
	return NULL;
}

static struct qcow2_slice *find(const struct qcow2_cache *c, uint64_t at)
{
	struct qcow2_slice *set = set_of(c, at);

	for (int i = 0; i < WAYS; i++)
		if (set[i].at == at)
			return &set[i];
	return NULL;
}

bool qcow2_cache_has(const struct qcow2_cache *c, uint64_t at)
{
	return find(c, at);
}

void qcow2_cache_put(struct qcow2_cache *c, uint64_t at, const uint8_t *data)
{
	struct qcow2_slice *s = find(c, at) ? NULL : oldest_clean(set_of(c, at));

	if (!s)
		return;
	s->at = at;
	s->used = ++c->clock;
	memcpy(slice_data(c, s), data, c->slice_size);
}

uint8_t *qcow2_cache_get(struct qcow2 *img, struct qcow2_cache *c, uint64_t offset, int *err)
{
	uint64_t at = align_down(offset, c->slice_size);
	struct qcow2_slice *s = find(c, at);

	if (s) {
		s->used = ++c->clock;
		return slice_data(c, s);
	}
	s = make_room(img, c, set_of(c, at), err);
	if (!s)
		return NULL;
	s->at = 0;
	*err = qcow2_io(img, DISK_READ, at, slice_data(c, s), c->slice_size);
	if (*err)
		return NULL;
	s->at = at;
	s->used = ++c->clock;
	return slice_data(c, s);
}

void qcow2_cache_touch(struct qcow2_cache *c, const uint8_t *slice)
{
	struct qcow2_slice *s = c->slices + (size_t)(slice - c->data) / c->slice_size;

	c->ndirty += !s->dirty;
	s->dirty = true;
}

int qcow2_cache_write(struct qcow2 *img, struct qcow2_cache *c)
{
	for (uint32_t i = 0; c->ndirty && i < c->sets * WAYS; i++) {
		int r = c->slices[i].dirty ? slice_write(img, c, &c->slices[i]) : 0;

		if (r)
			return r;
	}
	return 0;
}

void qcow2_cache_forget(struct qcow2 *img, struct qcow2_cache *c, uint64_t offset, uint64_t len)
{
	img->meta_writes++;
	for (uint32_t i = 0; i < c->sets * WAYS; i++) {
		struct qcow2_slice *s = &c->slices[i];

		if (!s->at || !range_inside(s->at, c->slice_size, offset, len))
			continue;
		c->ndirty -= s->dirty;
		*s = (struct qcow2_slice){ 0 };
	}
}

void qcow2_table_set(struct qcow2_table *t, uint64_t i, uint64_t v)
{
	put_be64(t->data + i * 8, v);
	if (t->lo == t->hi)
		t->lo = t->hi = i * 8;
	t->lo = MIN(t->lo, i * 8);
	t->hi = MAX(t->hi, i * 8 + 8);
}

int qcow2_table_write(struct qcow2 *img, struct qcow2_table *t)
{
	uint64_t lo = align_down(t->lo, QCOW2_SECTOR), hi = align_up(t->hi, QCOW2_SECTOR);
	int r;

	if (t->lo == t->hi)
		return 0;
	r = qcow2_io(img, DISK_WRITE, t->at + lo, t->data + lo, hi - lo);
	if (r == 0)
		t->lo = t->hi = 0;
	return r;
}
