/*
 * Requests of a qcow2 disk: their order, reads and flushes. Writes are in qcow2_write.c.
 *
 * A request goes through its range in pieces, each as long as the file's clusters follow each
 * other, one piece at a time; a request on clusters that were written in order is one piece, with
 * the caller's own iovecs. Different requests are in flight together.
 *
 * What changes the map of a range (a write to clusters that are not there or are shared, zeroes, a
 * discard) has the range's clusters to itself: it waits for older requests there, and younger ones
 * wait for it. So no transfer is under way on a cluster when it is dropped, and none sees a half
 * of a copy. Reads and writes in place pass each other freely, as they may on any disk.
 *
 * start() only notes a request; submit() begins what may begin. So `done` is never called from
 * inside start(). All but create and destroy: the owner of the queue.
 */
#include "devices/host/qcow2_request.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/log.h"

enum { ROUNDS_MAX = 16, BOUNCES_MAX = 16 };

/* --- buffers --- */

void qcow2_cursor_take(struct qcow2_cursor *c, uint64_t len, struct disk_request *low)
{
	int i = 0;

	for (; len > c->iov[i].iov_len; i++)
		len -= c->iov[i].iov_len;
	c->rest = (struct iovec){ (char *)c->iov[i].iov_base + len, c->iov[i].iov_len - len };
	c->iov[i].iov_len = len;
	c->taken = i + 1;
	low->iov = c->iov;
	low->iovcnt = c->taken;
}

void qcow2_cursor_resume(struct qcow2_cursor *c)
{
	c->iov += c->taken;
	c->n -= c->taken;
	c->taken = 0;
	if (c->rest.iov_len) {
		*--c->iov = c->rest;
		c->n++;
	}
	c->rest = (struct iovec){ 0 };
}

/* The next `len` bytes by hand: a copy, or zeroes. */
static void cursor_fill(struct qcow2_cursor *c, const uint8_t *from, uint64_t len)
{
	while (len) {
		uint64_t n = MIN(len, (uint64_t)c->iov->iov_len);

		if (from)
			memcpy(c->iov->iov_base, from, n);
		else
			memset(c->iov->iov_base, 0, n);
		from = from ? from + n : NULL;
		c->iov->iov_base = (char *)c->iov->iov_base + n;
		c->iov->iov_len -= n;
		len -= n;
		if (!c->iov->iov_len) {
			c->iov++;
			c->n--;
		}
	}
}

/* --- the end of a request, and of a piece --- */

void qcow2_finish(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	struct disk_request *rq = s->rq;

	/* What was asked to be stable is so with the tables that point to it. */
	if (!result && rq->sync && rq->op != DISK_READ && qcow2_commit_needed(q->img))
		result = qcow2_commit(q->img);
	qcow2_bounce_release(q, s);
	if (q->cursor == s)
		q->cursor = s->next;
	*(s->prev ? &s->prev->next : &q->oldest) = s->next;
	*(s->next ? &s->next->prev : &q->newest) = s->prev;
	q->nexclusive -= s->exclusive;
	s->next = q->free;
	q->free = s;
	q->in_flight--;
	q->finished++;
	q->changed = true;
	q->events.done(q->events.ctx, rq, result);
}

void qcow2_start_low(struct disk_queue *q, struct qcow2_slot *s, struct disk_queue *low, qcow2_step *step)
{
	const struct disk *d = low == q->file ? q->img->file : q->img->backing;
	int r;

	s->step = step;
	q->changed = true;
	r = d->ops->start(low, &s->low);
	if (r)
		step(q, s, r == -ERANGE ? -EIO : r);
}

static void on_low_done(void *ctx, struct disk_request *low, int result)
{
	struct qcow2_slot *s = container_of(low, struct qcow2_slot, low);

	s->step(ctx, s, result);
}

/* --- reading --- */

bool qcow2_reads_zero(const struct qcow2 *img, const struct qcow2_extent *e)
{
	return e->kind == QCOW2_ZEROES || (e->kind == QCOW2_UNALLOCATED && !img->backing);
}

static void read_more(struct disk_queue *q, struct qcow2_slot *s);

static void read_piece_done(struct disk_queue *q, struct qcow2_slot *s, int result)
{
	qcow2_cursor_resume(&s->read_to);
	if (result) {
		s->read_done(q, s, result);
		return;
	}
	s->read_at += s->read_piece;
	s->read_left -= s->read_piece;
	read_more(q, s);
}

static void read_low(struct disk_queue *q, struct qcow2_slot *s, struct disk_queue *low, uint64_t offset,
	uint64_t len)
{
	s->low = (struct disk_request){ .op = DISK_READ, .offset = offset, .len = len };
	s->read_piece = len;
	qcow2_cursor_take(&s->read_to, len, &s->low);
	qcow2_start_low(q, s, low, read_piece_done);
}

/* Bytes that were had by hand, 0: a transfer was started, or -errno. */
static int64_t read_extent(struct disk_queue *q, struct qcow2_slot *s, const struct qcow2_extent *e)
{
	struct qcow2 *img = q->img;
	const uint8_t *cluster;
	uint64_t inside, n;
	int r;

	switch (e->kind) {
	case QCOW2_DATA:
		read_low(q, s, q->file, e->host, e->len);
		return 0;
	case QCOW2_UNALLOCATED:
		if (!img->backing || s->read_at >= img->backing_size)
			break;
		read_low(q, s, q->backing, s->read_at, MIN(e->len, img->backing_size - s->read_at));
		return 0;
	case QCOW2_PACKED:
		r = qcow2_codec_read(img, e->entry, &cluster);
		if (r)
			return r;
		inside = s->read_at & (img->cluster_size - 1);
		n = MIN(e->len, img->cluster_size - inside);
		cursor_fill(&s->read_to, cluster + inside, n);
		return (int64_t)n;
	case QCOW2_ZEROES:
		break;
	}
	cursor_fill(&s->read_to, NULL, e->len);
	return (int64_t)e->len;
}

static void read_more(struct disk_queue *q, struct qcow2_slot *s)
{
	uint64_t size = q->img->info.size;
	struct qcow2_extent e;
	int64_t n;

	while (s->read_left) {
		if (s->read_at >= size) { /* the last cluster is longer than the disk */
			cursor_fill(&s->read_to, NULL, s->read_left);
			break;
		}
		n = qcow2_map(q->img, s->read_at, MIN(s->read_left, size - s->read_at), &e);
		if (n == 0) {
			n = read_extent(q, s, &e);
			if (n == 0)
				return;
		}
		if (n < 0) {
			s->read_done(q, s, (int)n);
			return;
		}
		s->read_at += (uint64_t)n;
		s->read_left -= (uint64_t)n;
	}
	s->read_done(q, s, 0);
}

void qcow2_read(struct disk_queue *q, struct qcow2_slot *s, uint64_t at, uint64_t len,
	struct qcow2_cursor to, qcow2_step *done)
{
	s->read_at = at;
	s->read_left = len;
	s->read_to = to;
	s->read_done = done;
	read_more(q, s);
}

/* --- beginning --- */

static void flush_begin(struct disk_queue *q, struct qcow2_slot *s)
{
	if (qcow2_commit_needed(q->img)) {
		qcow2_finish(q, s, qcow2_commit(q->img));
		return;
	}
	s->low = (struct disk_request){ .op = DISK_FLUSH };
	qcow2_start_low(q, s, q->file, qcow2_finish);
}

static void begin(struct disk_queue *q, struct qcow2_slot *s)
{
	switch (s->rq->op) {
	case DISK_READ:
		qcow2_read(q, s, s->at, s->left, s->data, qcow2_finish);
		break;
	case DISK_WRITE:
		qcow2_write_begin(q, s, 0);
		break;
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		qcow2_zero_begin(q, s, 0);
		break;
	case DISK_FLUSH:
		flush_begin(q, s);
		break;
	}
}

/* Must it wait for an older request? Younger ones never delay it. */
static bool conflicts(const struct disk_queue *q, const struct qcow2_slot *s)
{
	if (!s->ranged || !q->nexclusive)
		return false;
	for (const struct qcow2_slot *o = s->prev; o; o = o->prev)
		if (o->ranged && (o->exclusive || s->exclusive) && o->first <= s->last && s->first <= o->last)
			return true;
	return false;
}

static void set_exclusive(struct disk_queue *q, struct qcow2_slot *s, bool exclusive)
{
	q->nexclusive += exclusive;
	q->nexclusive -= s->exclusive;
	s->exclusive = exclusive;
}

static void set_running(struct disk_queue *q, struct qcow2_slot *s)
{
	s->running = true;
	q->nwaiting--;
}

static void try_begin(struct disk_queue *q, struct qcow2_slot *s)
{
	int r = 0;

	/* Until it runs nobody knows what it will have to change. */
	if (qcow2_fetch(q, s)) {
		set_exclusive(q, s, s->rq->op != DISK_READ);
		return;
	}
	if (s->rq->op == DISK_WRITE)
		r = qcow2_write_classify(q->img, s);
	if (r < 0) {
		set_running(q, s);
		qcow2_finish(q, s, r);
		return;
	}
	if (s->ranged && s->rq->op != DISK_READ)
		set_exclusive(q, s, r || s->rq->op != DISK_WRITE);
	if (conflicts(q, s)) {
		if (s->rq->op != DISK_READ)
			set_exclusive(q, s, true);
		return;
	}
	set_running(q, s);
	begin(q, s);
}

/*
 * In order of arrival. What begins may be done at once, and what is done may end others or bring
 * new ones: so the place in the list is kept where qcow2_finish() can move it on.
 */
static void begin_waiting(struct disk_queue *q)
{
	struct qcow2_slot *s = q->waiting;

	while (s && q->nwaiting) {
		q->cursor = s->next;
		if (!s->running)
			try_begin(q, s);
		s = q->cursor;
	}
	q->cursor = q->waiting = NULL;
	for (s = q->oldest; s && q->nwaiting && !q->waiting; s = s->next)
		if (!s->running)
			q->waiting = s;
}

static void on_retry(void *ctx)
{
	struct disk_queue *q = ctx;

	q->retry_posted = false;
	if (q->loop)
		qcow2_queue_submit(q);
}

/*
 * Begin what can begin, send, report; a bounded number of rounds, then the loop has its turn.
 * `gather`: the first time the file may wait, see gather() of disk_ops.
 */
static void rounds(struct disk_queue *q, bool gather)
{
	const struct disk *file = q->img->file, *backing = q->img->backing;

	q->inside = true;
	for (int i = 0; i < ROUNDS_MAX && q->changed; i++) {
		q->changed = false;
		if (q->waiting)
			begin_waiting(q);
		if (backing)
			backing->ops->submit(q->backing);
		if (gather && file->ops->gather)
			file->ops->gather(q->file);
		else
			file->ops->submit(q->file);
		gather = false;
		if (q->finished) {
			q->finished = 0;
			q->events.batch_done(q->events.ctx);
		}
	}
	q->inside = false;
	if (q->changed && q->loop && !q->retry_posted)
		q->retry_posted = !loop_post(q->loop, on_retry, q);
}

static void on_low_batch_done(void *ctx)
{
	struct disk_queue *q = ctx;

	if (!q->inside)
		rounds(q, false);
}

int qcow2_queue_start(struct disk_queue *q, struct disk_request *rq)
{
	const struct qcow2 *img = q->img;
	struct qcow2_slot *s = q->free;
	int r = disk_check(&img->info, rq);

	if (r)
		return r;
	if (!s)
		return -EBUSY;
	q->free = s->next;
	*s = (struct qcow2_slot){ .rq = rq, .at = rq->offset, .left = rq->len, .prev = q->newest,
		.data = { .iov = rq->iov, .n = rq->iovcnt } };
	s->ranged = rq->op != DISK_FLUSH;
	if (s->ranged) {
		s->first = rq->offset >> img->h.cluster_bits;
		s->last = (rq->offset + rq->len - 1) >> img->h.cluster_bits;
	}
	*(s->prev ? &s->prev->next : &q->oldest) = s;
	q->newest = s;
	if (!q->waiting)
		q->waiting = s;
	q->in_flight++;
	q->nwaiting++;
	q->changed = true;
	return 0;
}

void qcow2_queue_submit(struct disk_queue *q)
{
	if (!q->inside && q->changed)
		rounds(q, false);
}

static void poll_low(const struct disk *d, struct disk_queue *low)
{
	if (low && d->ops->poll)
		d->ops->poll(low);
}

/* What the files have done ends requests by on_low_batch_done(). */
bool qcow2_queue_poll(struct disk_queue *q)
{
	unsigned before = q->in_flight;

	if (!before || q->inside)
		return false;
	poll_low(q->img->file, q->file);
	poll_low(q->img->backing, q->backing);
	return q->in_flight < before;
}

bool qcow2_queue_gather(struct disk_queue *q)
{
	const struct disk *file = q->img->file;
	unsigned before = q->in_flight;

	if (!q->inside && q->changed)
		rounds(q, true);
	else if (!q->inside && before && file->ops->gather)
		file->ops->gather(q->file);
	return q->in_flight < before || qcow2_queue_poll(q);
}

void qcow2_queue_drain(struct disk_queue *q)
{
	const struct disk *file = q->img->file, *backing = q->img->backing;

	if (q->inside)
		return;
	while (q->in_flight) {
		rounds(q, false);
		file->ops->drain(q->file);
		if (backing)
			backing->ops->drain(q->backing);
	}
	if (!q->img->info.readonly && qcow2_settle(q->img))
		log_error("the tables of a qcow2 image cannot be written; see what qemu-img check says about it");
}

int qcow2_queue_attach(struct disk_queue *q, struct loop *loop)
{
	struct qcow2 *img = q->img;
	int r = img->file->ops->queue_attach(img->meta, NULL);

	if (r)
		return r;
	r = img->file->ops->queue_attach(q->file, loop);
	if (r == 0 && q->backing) {
		r = img->backing->ops->queue_attach(q->backing, loop);
		if (r)
			img->file->ops->queue_detach(q->file);
	}
	if (r)
		img->file->ops->queue_detach(img->meta);
	else
		q->loop = loop;
	return r;
}

void qcow2_queue_detach(struct disk_queue *q)
{
	struct qcow2 *img = q->img;

	if (q->backing)
		img->backing->ops->queue_detach(q->backing);
	img->file->ops->queue_detach(q->file);
	img->file->ops->queue_detach(img->meta);
	q->loop = NULL;
}

/* --- life --- */

static int make_bounces(struct disk_queue *q)
{
	uint64_t size = 2 * q->img->cluster_size;

	q->bounce_tail = &q->bounce_head;
	if (q->img->info.readonly)
		return 0;
	q->nbounces = (unsigned)MAX(MIN(MIB / size, (uint64_t)BOUNCES_MAX), 1u);
	q->bounces = calloc(q->nbounces, sizeof(*q->bounces));
	for (unsigned i = 0; q->bounces && i < q->nbounces; i++) {
		struct qcow2_bounce *b = &q->bounces[i];

		b->buf = aligned_alloc(PAGE_4K, align_up(size, PAGE_4K));
		b->iov = calloc(QCOW2_IOV_MAX, sizeof(*b->iov));
		if (!b->buf || !b->iov)
			return -ENOMEM;
		b->next = q->free_bounce;
		q->free_bounce = b;
	}
	return q->bounces ? 0 : -ENOMEM;
}

int qcow2_queue_create(struct disk_queue **ret, struct disk *d, unsigned depth,
	const struct disk_events *events, struct error *err)
{
	struct qcow2 *img = container_of(d, struct qcow2, disk);
	struct disk_queue *q;
	int r = 0;

	if (img->queues)
		return error_set(err, EINVAL,
			"a qcow2 disk has one queue, since its tables have one owner; leave out num_queues");
	q = calloc(1, sizeof(*q));
	if (!q)
		return error_set(err, ENOMEM, "out of memory");
	const struct disk_events low = { .done = on_low_done, .batch_done = on_low_batch_done, .ctx = q };

	img->queues++;
	q->img = img;
	q->events = *events;
	q->depth = depth;
	q->slots = calloc(depth, sizeof(*q->slots));
	if (!q->slots || make_bounces(q) || qcow2_fetch_create(q))
		r = error_set(err, ENOMEM, "out of memory for %u requests", depth);
	for (unsigned i = depth; q->slots && i--;) {
		q->slots[i].next = q->free;
		q->free = &q->slots[i];
	}
	if (r == 0)
		r = qcow2_meta_create(img, &img->meta, err);
	if (r == 0)
		r = img->file->ops->queue_create(&q->file, img->file, depth, &low, err);
	if (r == 0 && img->backing)
		r = img->backing->ops->queue_create(&q->backing, img->backing, depth, &low, err);
	if (r) {
		qcow2_queue_destroy(q);
		return r;
	}
	/* What the files that the image lies in do. */
	for (unsigned i = 0; i < DISK_SYSCALL_TABLES; i++)
		d->syscalls[i] = img->file->syscalls[i] ? img->file->syscalls[i] :
			img->backing ? img->backing->syscalls[i] : NULL;
	d->main_syscalls = img->file->main_syscalls;
	d->forked_syscalls = qcow2_forked_syscalls;
	*ret = q;
	return 0;
}

void qcow2_queue_destroy(struct disk_queue *q)
{
	struct qcow2 *img;

	if (!q)
		return;
	img = q->img;
	if (q->backing)
		img->backing->ops->queue_destroy(q->backing);
	img->file->ops->queue_destroy(q->file);
	img->file->ops->queue_destroy(img->meta);
	img->meta = NULL;
	img->queues--;
	for (unsigned i = 0; q->bounces && i < q->nbounces; i++) {
		free(q->bounces[i].buf);
		free(q->bounces[i].iov);
	}
	free(q->bounces);
	qcow2_fetch_free(q);
	free(q->slots);
	free(q);
}
