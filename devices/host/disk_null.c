/*
 * A disk without a medium: every request is done as soon as it is sent, and nothing is kept. What
 * a guest's I/O costs with it is what the way to a disk costs, and nothing else; so it is for
 * measuring, and for guests that must have a disk and never read back what they wrote.
 *
 * Reads give zeroes, or, when told so, leave the guest's buffer as it is: what the guest then finds
 * is its own memory, so nothing of the host or of another guest can show.
 *
 * It asks nothing of the kernel: its table of system calls is empty. All but create and destroy:
 * the thread that owns the queue.
 */
#include <errno.h>
#include <stdlib.h>

#include "devices/host/disk.h"

enum { SECTOR = 512 };

struct null_disk {
	struct disk disk;                  /* first */
	struct disk_info info;             /* const */
	bool read_zeroes;                  /* const */
};

struct disk_queue {
	const struct null_disk *disk;      /* const */
	struct disk_events events;         /* const */
	unsigned depth;                    /* const */
	unsigned in_flight;                /* owner */
	bool inside;                       /* owner; submit() is on the stack */
	struct disk_request *head, **tail; /* owner; started, not done */
};

static void null_info(const struct disk *disk, struct disk_info *ret)
{
	*ret = ((const struct null_disk *)disk)->info;
}

static int null_queue_create(struct disk_queue **ret, struct disk *disk, unsigned depth,
	const struct disk_events *events, struct error *err)
{
	struct disk_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return error_set(err, ENOMEM, "out of memory");
	q->disk = container_of(disk, struct null_disk, disk);
	q->events = *events;
	q->depth = depth;
	q->tail = &q->head;
	*ret = q;
	return 0;
}

static void null_queue_destroy(struct disk_queue *q)
{
	free(q);
}

static int null_queue_attach(struct disk_queue *q, struct loop *loop)
{
	(void)q;
	(void)loop;
	return 0;
}

static void null_queue_detach(struct disk_queue *q)
{
	(void)q;
}

static int null_start(struct disk_queue *q, struct disk_request *rq)
{
	int r = disk_check(&q->disk->info, rq);

	if (r)
		return r;
	if (q->in_flight == q->depth)
		return -EBUSY;
	q->in_flight++;
	rq->next = NULL;
	*q->tail = rq;
	q->tail = &rq->next;
	return 0;
}

static inline void complete(struct disk_queue *q, struct disk_request *rq, bool read_zeroes)
{
	if (read_zeroes && rq->op == DISK_READ)
		for (int i = 0; i < rq->iovcnt; i++)
			memset(rq->iov[i].iov_base, 0, rq->iov[i].iov_len);
	q->in_flight--;
	q->events.done(q->events.ctx, rq, 0);
}

static void null_submit(struct disk_queue *q)
{
	const bool read_zeroes = q->disk->read_zeroes;
	struct disk_request *rq, *next;

	/* From inside a callback: the loop further up the stack finds what was started. */
	if (q->inside)
		return;
	q->inside = true;
	while (q->head) {
		rq = q->head;
		q->head = NULL;
		q->tail = &q->head;
		for (; rq; rq = next) {
			next = rq->next; /* after done() the request is the caller's */
			complete(q, rq, read_zeroes);
		}
		q->events.batch_done(q->events.ctx);
	}
	q->inside = false;
}

static void null_fds(const struct disk *disk, void (*keep)(void *ctx, int fd), void *ctx)
{
	(void)disk;
	(void)keep;
	(void)ctx;
}

static void null_forked(struct disk *disk, void *kept)
{
	(void)disk;
	(void)kept;
}

static int null_queue_forked(struct disk_queue *q, int tomb)
{
	(void)q;
	(void)tomb;
	return 0;
}

static void null_close(struct disk *disk)
{
	free(disk);
}

static const struct disk_ops null_ops = {
	.info = null_info,
	.queue_create = null_queue_create,
	.queue_destroy = null_queue_destroy,
	.queue_attach = null_queue_attach,
	.queue_detach = null_queue_detach,
	.start = null_start,
	.submit = null_submit,
	.drain = null_submit,
	.fds = null_fds,
	.forked = null_forked,
	.queue_forked = null_queue_forked,
	.close = null_close,
};

int disk_null_open(struct disk **ret, const struct disk_null_config *config, struct error *err)
{
	struct null_disk *d;

	if (!config->size || config->size % SECTOR)
		return error_set(err, EINVAL, "%llu bytes are no multiple of 512 above 0; give a size like 10G",
			(unsigned long long)config->size);
	d = calloc(1, sizeof(*d));
	if (!d)
		return error_set(err, ENOMEM, "out of memory");
	d->disk.ops = &null_ops;
	d->read_zeroes = config->read_zeroes;
	d->info = (struct disk_info){
		.size = config->size,
		.block_size = SECTOR,
		.physical_block = PAGE_4K,
		.readonly = config->readonly,
		.can_discard = !config->readonly,
		.can_write_zeroes = !config->readonly,
		.discard_granularity = PAGE_4K,
	};
	*ret = &d->disk;
	return 0;
}
