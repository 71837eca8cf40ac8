/*
 * Writes of a qcow2 disk: in place, to new clusters, zeroes and discards (specification, "Cluster
 * mapping").
 *
 * A write to clusters that are not there, or that a snapshot or a compressed cluster holds, takes
 * new ones. What the guest did not write of the first and the last is read from where it was
 * (copy on write), and old and new bytes go out together, in one write; then the table is
 * changed in memory, and the request is done. A cluster from the end of the file reads as zeroes
 * already, so on a new image nothing but the guest's own bytes is written.
 *
 * When something fails on the way the new clusters are given back and nothing has changed. All on
 * the owner of the queue; see qcow2_request.c for who waits for whom.
 */
#include <errno.h>

#include "devices/host/qcow2_request.h"

static uint64_t inside(const struct qcow2 *img, uint64_t offset)
{
	return offset & (img->cluster_size - 1);
}

int qcow2_write_classify(struct qcow2 *img, struct qcow2_slot *s)
{
	uint64_t at = s->at, left = s->left;
	struct qcow2_extent e;

	s->mapped = false;
	while (left) {
		int r = qcow2_map(img, at, left, &e);

		if (r)
			return r;
		if (at == s->at) {
			s->e = e;
			s->mapped = true;
		}
		if (!e.in_place)
			return 1;
		at += e.len;
		left -= e.len;
	}
	return 0;
}

/* --- memory for what is kept --- */

static void cow_begin(struct disk_queue *q, struct qcow2_slot *s);

void qcow2_bounce_release(struct disk_queue *q, struct qcow2_slot *s)
{
	struct qcow2_bounce *b = s->bounce;
	struct qcow2_slot *next = q->bounce_head;

	s->bounce = NULL;
	if (!b)
		return;
	if (!next) {
		b->next = q->free_bounce;
		q->free_bounce = b;
		return;
	}
	q->bounce_head = next->next_for_bounce;
	if (!q->bounce_head)
		q->bounce_tail = &q->bounce_head;
	next->bounce = b;
	cow_begin(q, next);
}

static void bounce_get(struct disk_queue *q, struct qcow2_slot *s)
{
	if (!s->bounce && !q->free_bounce) {
		s->next_for_bounce = NULL;
		*q->bounce_tail = s;
		q->bounce_tail = &s->next_for_bounce;
		return;
	}
	if (!s->bounce) {
		s->bounce = q->free_bounce;
		q->free_bounce = s->bounce->next;
	}
	cow_begin(q, s);
}

/* --- new clusters --- */

static void next_piece(struct disk_queue *q, struct qcow2_slot *s)
{
	s->at += s->piece;
	s->left -= s->piece;
	s->mapped = false;
	if (s->rq->op == DISK_WRITE)
		qcow2_write_begin(q, s, 0);
	else
		qcow2_zero_begin(q, s, 0);
}

static void new_failed(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	qcow2_free_now(q->img, s->run.first, s->run.count);
	qcow2_finish(q, s, result);
}

static void new_written(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	if (!s->zeroes)
		qcow2_cursor_resume(&s->data);
	if (result) {
		new_failed(q, s, result);
		return;
	}
	result = qcow2_map_link(q->img, s->at - s->head, s->run.first, s->run.count);
	if (result)
		qcow2_finish(q, s, result);
	else
		next_piece(q, s);
}

static void write_new(struct disk_queue *q, struct qcow2_slot *s, uint64_t skip, uint64_t len)
{
	s->low.op = DISK_WRITE;
	s->low.offset = s->run.first * q->img->cluster_size + skip;
	s->low.len = len;
	qcow2_start_low(q, s, q->file, new_written);
}

/* [head][the guest's bytes][tail] */
static void cow_write(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	struct qcow2_bounce *b = s->bounce;
	struct disk_request guest = { 0 };
	int n = 0;

	if (result) {
		new_failed(q, s, result);
		return;
	}
	s->low = (struct disk_request){ .iov = b->iov };
	if (s->zeroes) {
		b->iov[n++] = (struct iovec){ b->buf, q->img->cluster_size };
	} else {
		qcow2_cursor_take(&s->data, s->piece, &guest);
		if (guest.iovcnt > QCOW2_IOV_MAX - 2) {
			qcow2_cursor_resume(&s->data);
			new_failed(q, s, -EINVAL);
			return;
		}
		if (s->head)
			b->iov[n++] = (struct iovec){ b->buf, s->head };
		memcpy(&b->iov[n], guest.iov, (size_t)guest.iovcnt * sizeof(*b->iov));
		n += guest.iovcnt;
		if (s->tail)
			b->iov[n++] = (struct iovec){ b->buf + q->img->cluster_size, s->tail };
	}
	s->low.iovcnt = n;
	write_new(q, s, 0, s->head + s->piece + s->tail);
}

/* A piece of zeroes is one cluster, which is put together as a whole. */
static uint8_t *tail_buf(const struct disk_queue *q, const struct qcow2_slot *s)
{
	return s->bounce->buf + q->img->cluster_size - (s->zeroes ? s->tail : 0);
}

static void cow_tail(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	struct qcow2_bounce *b = s->bounce;

	if (result || !s->tail) {
		cow_write(q, s, result);
		return;
	}
	b->iov[0] = (struct iovec){ tail_buf(q, s), s->tail };
	qcow2_read(q, s, s->at + s->piece, s->tail, (struct qcow2_cursor){ .iov = b->iov, .n = 1 }, cow_write);
}

static void cow_begin(struct disk_queue *q, struct qcow2_slot *s)
{
	struct qcow2_bounce *b = s->bounce;

	if (s->zeroes)
		memset(b->buf, 0, q->img->cluster_size);
	if (qcow2_reads_zero(q->img, &s->e)) {
		memset(b->buf, 0, s->head);
		memset(tail_buf(q, s), 0, s->tail);
		cow_write(q, s, 0);
	} else if (s->head) {
		b->iov[0] = (struct iovec){ b->buf, s->head };
		qcow2_read(q, s, s->at - s->head, s->head, (struct qcow2_cursor){ .iov = b->iov, .n = 1 }, cow_tail);
	} else {
		cow_tail(q, s, 0);
	}
}

/* Write s->piece bytes, or less, of what s->e describes to clusters of its own. */
static void write_to_new(struct disk_queue *q, struct qcow2_slot *s)
{
	struct qcow2 *img = q->img;
	uint64_t cs = img->cluster_size;
	bool copies;
	int r;

	s->head = inside(img, s->at);
	r = qcow2_alloc(img, (s->head + s->piece + cs - 1) >> img->h.cluster_bits, &s->run);
	if (r) {
		qcow2_finish(q, s, r);
		return;
	}
	s->piece = MIN(s->piece, s->run.count * cs - s->head);
	s->tail = s->run.count * cs - s->head - s->piece;
	copies = (s->head || s->tail) && !(s->run.fresh && qcow2_reads_zero(img, &s->e));
	if (copies || s->zeroes) {
		bounce_get(q, s);
		return;
	}
	s->low = (struct disk_request){ 0 };
	qcow2_cursor_take(&s->data, s->piece, &s->low);
	write_new(q, s, s->head, s->piece);
}

/* --- writes --- */

static void in_place_done(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	if (!s->zeroes)
		qcow2_cursor_resume(&s->data);
	if (result)
		qcow2_finish(q, s, result);
	else
		next_piece(q, s);
}

void qcow2_write_begin(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	if (!result && s->left && !s->mapped)
		result = qcow2_map(q->img, s->at, s->left, &s->e);
	if (result || !s->left) {
		qcow2_finish(q, s, result);
		return;
	}
	s->piece = s->e.len;
	if (!s->e.in_place) {
		write_to_new(q, s);
		return;
	}
	s->low = (struct disk_request){ .op = DISK_WRITE, .sync = s->rq->sync, .offset = s->e.host, .len = s->piece };
	qcow2_cursor_take(&s->data, s->piece, &s->low);
	qcow2_start_low(q, s, q->file, in_place_done);
}

/* --- zeroes and discards --- */

/* Bytes of whole clusters by a change of the table; 0 when it must be done otherwise, or -errno. */
static int64_t zero_whole(struct disk_queue *q, struct qcow2_slot *s)
{
	struct qcow2 *img = q->img;
	uint64_t n = s->left >> img->h.cluster_bits, done = 0;
	bool keep = s->rq->op == DISK_WRITE_ZEROES && !s->rq->unmap;
	int r;

	if (inside(img, s->at))
		return 0;
	/* The last cluster is longer than the disk. */
	n += inside(img, s->left) && s->at + s->left == img->info.size;
	if (!n)
		return 0;
	r = qcow2_map_zero(img, s->at, n, keep, &done);
	if (r == -EOPNOTSUPP)
		return s->rq->op == DISK_DISCARD ? (int64_t)MIN(n * img->cluster_size, s->left) : 0;
	return r ? r : (int64_t)MIN(done * img->cluster_size, s->left);
}

/* A part of a cluster, or one that no table can zero: 0 started, 1 nothing to do, or -errno. */
static int zero_part(struct disk_queue *q, struct qcow2_slot *s)
{
	struct qcow2 *img = q->img;
	int r;

	s->piece = MIN(img->cluster_size - inside(img, s->at), s->left);
	if (s->rq->op == DISK_DISCARD)
		return 1;
	r = qcow2_map(img, s->at, s->piece, &s->e);
	if (r)
		return r;
	if (qcow2_reads_zero(img, &s->e) || (s->e.kind == QCOW2_UNALLOCATED && s->at >= img->backing_size))
		return 1;
	s->zeroes = true;
	if (!s->e.in_place) {
		write_to_new(q, s);
		return 0;
	}
	s->low = (struct disk_request){ .op = DISK_WRITE_ZEROES, .sync = s->rq->sync, .offset = s->e.host,
		.len = s->piece };
	qcow2_start_low(q, s, q->file, in_place_done);
	return 0;
}

void qcow2_zero_begin(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	while (!result && s->left) {
		int64_t n = zero_whole(q, s);

		if (n == 0) {
			result = zero_part(q, s);
			if (result == 0)
				return;
			n = (int64_t)s->piece;
		}
		result = MIN(result, 0);
		if (n < 0)
			result = (int)n;
		else if (!result) {
			s->at += (uint64_t)n;
			s->left -= (uint64_t)n;
		}
	}
	qcow2_finish(q, s, result);
}
