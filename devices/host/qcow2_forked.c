/*
 * An image that is served by one process after the other. The first goes on with the tables that
 * main has taken in. Each later one takes them in from the file, makes the changes that its
 * predecessor had not written (qcow2_log.c), and counts again what that one had taken and not used:
 * so the image is as one that was closed, and no cluster is lost to it.
 *
 * The predecessor may have been taken over, and could write anything to the file, as it can to any
 * raw disk: so the header must say what it said, and the rest is checked as at the start. The lock
 * is that of the file description, and main's; it holds all the while.
 */
#include <errno.h>

#include "devices/host/qcow2_request.h"
#include "vmm/log.h"

/* Clusters that are counted again; what is lost to a larger file stays so until qemu-img check. */
enum { RECOUNT_MAX = 4 * MIB };

const struct syscall_row qcow2_forked_syscalls[] = {
	{ SYSCALL(io_uring_setup, "a ring for each life of a disk's process") },
	{ SYSCALL(io_uring_register, "the files of that ring, and what it may do with them") },
	{ SYSCALL(munmap, "tables of an image, when they are taken in anew") },
	SYSCALL_END,
};

void qcow2_fds(const struct disk *d, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct qcow2 *img = container_of(d, const struct qcow2, disk);

	img->file->ops->fds(img->file, keep, ctx);
	if (img->backing)
		img->backing->ops->fds(img->backing, keep, ctx);
}

void qcow2_forked(struct disk *d, void *kept)
{
	struct qcow2 *img = container_of(d, struct qcow2, disk);

	img->file->ops->forked(img->file, kept);
	if (img->backing)
		img->backing->ops->forked(img->backing, NULL);
}

static bool is_same(const struct qcow2_header *a, const struct qcow2_header *b)
{
	return a->version == b->version && a->cluster_bits == b->cluster_bits && a->size == b->size &&
		a->refcount_order == b->refcount_order && a->zstd == b->zstd && !strcmp(a->backing, b->backing) &&
		!strcmp(a->format, b->format);
}

static int take_in_anew(struct qcow2 *img, struct error *err)
{
	const struct qcow2_header before = img->h;
	struct error ignored;
	int r;

	qcow2_free_tables(img);
	img->l1 = img->reftable = (struct qcow2_table){ 0 };
	img->l2_cache = img->refcount_cache = (struct qcow2_cache){ 0 };
	img->fixed = NULL;
	img->scratch = NULL;
	img->tables = (struct qcow2_set){ 0 };
	img->nfixed = 0;
	img->nfrees = 0;
	img->scan = 0;
	r = qcow2_open_tables(img, err);
	if (r)
		return r;
	if (!is_same(&before, &img->h))
		return error_set(err, EINVAL, "the header of the qcow2 image is another one");
	r = qcow2_log_replay(img);
	if (r)
		return error_set(err, -r, "what the process before had not written cannot be: %s", strerror(-r));
	/* It need not be, nothing is counted too low. */
	if (!img->h.nsnapshots && img->frontier <= RECOUNT_MAX && qcow2_repair(img, &ignored))
		log_warn("clusters that a process had taken and not used are lost to a qcow2 image until qemu-img check");
	return 0;
}

int qcow2_queue_forked(struct disk_queue *q, int tomb)
{
	struct qcow2 *img = q->img;
	const struct disk_ops *file = img->file->ops;
	struct error err;
	int r = file->queue_forked(img->meta, tomb);

	if (r == 0)
		r = file->queue_forked(q->file, tomb);
	if (r == 0 && q->backing)
		r = img->backing->ops->queue_forked(q->backing, tomb);
	if (r || !img->log || qcow2_log_begin(img))
		return r;
	r = file->queue_attach(img->meta, NULL);
	if (r)
		return r;
	r = take_in_anew(img, &err);
	file->queue_detach(img->meta);
	if (r)
		log_error("%s", err.text);
	return r;
}
