/*
 * The qcow2 disk: opening an image and, when the user allows it, the files under it. Main, stage 2;
 * what moves bytes is in qcow2_request.c.
 *
 * A backing file is named by the image, thus by whoever made the image: so none is opened unless
 * the user said backing_files=on, its format must be written in the image, never guessed, and it
 * is a plain path: what looks like a URL or JSON is refused rather than taken for a file. Backing
 * files are opened for reading, under a shared lock. A chain has an end: sixteen files, none twice.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "devices/host/disk_open.h"
#include "devices/host/qcow2.h"
#include "vmm/log.h"

static void qcow2_info(const struct disk *disk, struct disk_info *ret)
{
	*ret = container_of(disk, const struct qcow2, disk)->info;
}

static void qcow2_close(struct disk *disk)
{
	struct qcow2 *img = container_of(disk, struct qcow2, disk);

	if (!disk)
		return;
	if (img->backing)
		img->backing->ops->close(img->backing);
	if (img->file)
		img->file->ops->close(img->file);
	qcow2_codec_free(img->codec);
	qcow2_free_tables(img);
	qcow2_log_free(img);
	free(img);
}

static const struct disk_ops qcow2_ops = {
	.info = qcow2_info,
	.queue_create = qcow2_queue_create,
	.queue_destroy = qcow2_queue_destroy,
	.queue_attach = qcow2_queue_attach,
	.queue_detach = qcow2_queue_detach,
	.start = qcow2_queue_start,
	.submit = qcow2_queue_submit,
	.poll = qcow2_queue_poll,
	.gather = qcow2_queue_gather,
	.drain = qcow2_queue_drain,
	.fds = qcow2_fds,
	.forked = qcow2_forked,
	.queue_forked = qcow2_queue_forked,
	.close = qcow2_close,
};

void disk_qcow2_backing(const struct disk *disk, const char **ret_name, const char **ret_format)
{
	const struct qcow2 *img = container_of(disk, const struct qcow2, disk);

	*ret_name = img->h.backing;
	*ret_format = img->h.format;
}

/* Metadata is read on a queue of main's own: a ring belongs to one thread. */
static int take_in(struct qcow2 *img, struct error *err)
{
	const struct disk_ops *ops = img->file->ops;
	int r = qcow2_meta_create(img, &img->meta, err);

	if (r)
		return r;
	r = ops->queue_attach(img->meta, NULL);
	if (r) {
		error_set(err, -r, "the qcow2 image cannot be read: %s", strerror(-r));
	} else {
		r = qcow2_open_tables(img, err);
		ops->queue_detach(img->meta);
	}
	ops->queue_destroy(img->meta);
	img->meta = NULL;
	return r;
}

static void describe(struct qcow2 *img)
{
	struct disk_info file;

	img->file->ops->info(img->file, &file);
	img->info.size = img->h.size;
	img->info.block_size = QCOW2_SECTOR;
	img->info.physical_block = (uint32_t)MIN(img->cluster_size, (uint64_t)PAGE_4K);
	img->info.discard_granularity = (uint32_t)img->cluster_size;
	img->info.can_discard = img->info.can_write_zeroes = !img->info.readonly;
}

/* The path of the backing file: relative to the folder of the image that names it. */
static int backing_path(const struct qcow2 *img, const char *image, char *ret, size_t size, struct error *err)
{
	const char *name = img->h.backing, *colon = strchr(name, ':'), *slash = strchr(name, '/');
	char copy[PATH_MAX];
	int n;

	if (colon && (!slash || colon < slash))
		return error_set(err, ENOTSUP,
			"its backing file is '%.200s', which is no plain path; only files are supported", name);
	if (name[0] == '/') {
		n = snprintf(ret, size, "%s", name);
	} else {
		n = snprintf(copy, sizeof(copy), "%s", image);
		if (n < (int)sizeof(copy))
			n = snprintf(ret, size, "%s/%s", dirname(copy), name);
	}
	if (n < 0 || (size_t)n >= size)
		return error_set(err, ENAMETOOLONG, "the path of its backing file is too long");
	return 0;
}

static int check_chain(const struct disk_chain *above, const char *path, struct disk_chain *ret, struct error *err)
{
	struct stat st;

	if (stat(path, &st))
		return error_set(err, errno, "cannot be opened: %s", strerror(errno));
	*ret = (struct disk_chain){ .above = above, .depth = above ? above->depth + 1 : 1, .dev = st.st_dev,
		.ino = st.st_ino };
	if (ret->depth > QCOW2_CHAIN_MAX)
		return error_set(err, ELOOP, "is the %uth file of a backing chain; %d are possible, use qemu-img rebase",
			ret->depth, QCOW2_CHAIN_MAX);
	for (; above; above = above->above)
		if (above->dev == ret->dev && above->ino == ret->ino)
			return error_set(err, ELOOP, "is in its own backing chain; use qemu-img rebase");
	return 0;
}

static int open_backing(struct qcow2 *img, const struct disk_qcow2_config *config, const struct disk_chain *here,
	struct error *err)
{
	char path[PATH_MAX];
	struct disk_info info;
	int r = backing_path(img, config->path, path, sizeof(path), err);

	if (r)
		return r;
	if (!strcmp(img->h.format, "raw")) {
		const struct disk_raw_config raw = { .path = path, .readonly = true, .direct = config->direct,
			.image = true, .forks = config->forks };
		struct disk_chain below;

		r = check_chain(here, path, &below, err);
		if (r == 0)
			r = disk_raw_open(&img->backing, &raw, err);
	} else if (!strcmp(img->h.format, "qcow2")) {
		const struct disk_qcow2_config qcow2 = { .path = path, .readonly = true, .direct = config->direct,
			.forks = config->forks,
			.backing_files = config->backing_files_below,
			.backing_files_below = config->backing_files_below, .above = here };

		r = disk_qcow2_open(&img->backing, &qcow2, err);
	} else if (img->h.format[0]) {
		return error_set(err, ENOTSUP, "its backing file has the format '%s'; raw and qcow2 are supported",
			img->h.format);
	} else {
		return error_set(err, EINVAL,
			"does not say which format its backing file has, and it is not guessed; use qemu-img rebase -u -F FORMAT");
	}
	if (r) /* of a chain, the one that it is about */
		return strncmp(err->text, "backing file /", 14) ? error_prefix(err, r, "backing file %s", path) : r;
	img->backing->ops->info(img->backing, &info);
	img->backing_size = !strcmp(img->h.format, "raw") ? align_up(info.stored, QCOW2_SECTOR) : info.size;
	return 0;
}

static int open_image(struct qcow2 *img, const struct disk_qcow2_config *config, struct error *err)
{
	const struct disk_raw_config raw = { .path = config->path, .readonly = config->readonly,
		.direct = config->direct, .plain = config->plain, .image = true };
	struct disk_chain here;
	struct error missing;
	int r = check_chain(config->above, config->path, &here, err);

	if (r == 0)
		r = disk_raw_open(&img->file, &raw, err);
	if (r == 0)
		r = take_in(img, err);
	if (r)
		return r;
	describe(img);
	if (config->forks) {
		disk_raw_will_fork(img->file);
		r = img->info.readonly ? 0 : qcow2_log_create(img, err);
	}
	if (r)
		return r;
	r = qcow2_codec_create(img, img->h.zstd ? err : &missing);
	if (r && img->h.zstd)
		return r;
	if (r)
		log_info("%s", missing.text);
	if (!img->h.backing[0])
		return 0;
	if (!config->backing_files)
		return error_set(err, EPERM,
			"the qcow2 image has a backing file, '%.200s'; add backing_files=on if you trust the image with opening it",
			img->h.backing);
	return open_backing(img, config, &here, err);
}

int disk_qcow2_open(struct disk **ret, const struct disk_qcow2_config *config, struct error *err)
{
	struct qcow2 *img = calloc(1, sizeof(*img));
	int r;

	if (!img)
		return error_set(err, ENOMEM, "out of memory");
	img->disk.ops = &qcow2_ops;
	img->info.readonly = config->readonly;
	r = open_image(img, config, err);
	if (r) {
		qcow2_close(&img->disk);
		return r;
	}
	*ret = &img->disk;
	return 0;
}
