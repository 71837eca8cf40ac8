/*
 * From the user's words to a disk: the format, and overlays. Main, stage 2.
 *
 * With an overlay the disk's own file is only read, under a shared lock, so that any number of
 * machines can start from one base; the overlay is this machine's alone. An overlay that exists is
 * used again only when the file under it is the one that was asked for: over another base its
 * clusters would be nonsense.
 */
#include "devices/host/disk_open.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/host/disk_nvme.h"
#include "devices/host/qcow2.h"

static const char *const format_names[] = { [DISK_FORMAT_RAW] = "raw", [DISK_FORMAT_QCOW2] = "qcow2" };

static int open_plain(struct disk **ret, const struct disk_config *config, bool readonly, struct error *err)
{
	const struct disk_raw_config raw = { .path = config->path, .readonly = readonly, .direct = config->direct,
		.fixed = config->fixed, .nfixed = config->nfixed, .forks = config->forks };
	const struct disk_qcow2_config qcow2 = { .path = config->path, .readonly = readonly, .direct = config->direct,
		.forks = config->forks, .backing_files = config->backing_files,
		.backing_files_below = config->backing_files };

	if (config->format == DISK_FORMAT_QCOW2)
		return disk_qcow2_open(ret, &qcow2, err);
	/* Not a format that is guessed: what kind of file a path names, the host says. */
	if (!disk_nvme_is(config->path))
		return disk_raw_open(ret, &raw, err);
	if (raw.nfixed)
		return error_set(err, EINVAL, "fixed_buffers=on is not for commands of an NVMe namespace; leave it out");
	return disk_nvme_open(ret, &raw, err);
}

/* What a new overlay must say about the disk under it; also whether that can be opened at all. */
static int learn_base(const struct disk_config *config, char *path, struct qcow2_base *ret, struct error *err)
{
	struct disk_info info;
	struct disk *base;
	int r = open_plain(&base, config, true, err);

	if (r)
		return r;
	base->ops->info(base, &info);
	base->ops->close(base);
	if (!realpath(config->path, path))
		return error_set(err, errno, "cannot be resolved: %s", strerror(errno));
	*ret = (struct qcow2_base){ .path = path, .format = format_names[config->format], .size = info.size };
	return 0;
}

static int check_overlay(const struct disk *overlay, const struct qcow2_base *base, struct error *err)
{
	const char *name, *format;
	struct stat a, b;

	disk_qcow2_backing(overlay, &name, &format);
	if (!name[0])
		return error_set(err, EINVAL, "is no overlay, it has no base; remove it, or give another path");
	if (stat(name, &a) || stat(base->path, &b) || a.st_dev != b.st_dev || a.st_ino != b.st_ino)
		return error_set(err, EINVAL,
			"is an overlay over '%.200s'; remove it, or give the path of that base", name);
	if (strcmp(format, base->format))
		return error_set(err, EINVAL,
			"is an overlay over a base of the format '%s', not %s; remove it, or change format=", format,
			base->format);
	return 0;
}

static int open_overlay(struct disk **ret, const struct disk_config *config, const char *path,
	const struct qcow2_base *base, struct error *err)
{
	const struct disk_qcow2_config qcow2 = { .path = path, .readonly = config->readonly,
		.direct = config->direct, .forks = config->forks,
		.backing_files = true, .backing_files_below = config->backing_files };
	struct disk *d;
	int r = disk_qcow2_open(&d, &qcow2, err);

	if (r)
		return r;
	r = check_overlay(d, base, err);
	if (r) {
		d->ops->close(d);
		return r;
	}
	*ret = d;
	return 0;
}

/* A file without a name in $TMPDIR, or else in /var/tmp, where large files belong. */
static int nameless_file(struct error *err)
{
	const char *folder = getenv("TMPDIR");
	char path[PATH_MAX];
	int fd, n;

	if (!folder || !folder[0])
		folder = "/var/tmp";
	fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	n = snprintf(path, sizeof(path), "%s/microvm-XXXXXX", folder);
	fd = n < (int)sizeof(path) ? mkostemp(path, O_CLOEXEC) : -1;
	if (fd < 0)
		return error_set(err, EACCES,
			"ephemeral=on: no file can be made in %.200s; set TMPDIR to a folder with room", folder);
	unlink(path);
	return fd;
}

static int open_ephemeral(struct disk **ret, const struct disk_config *config, const struct qcow2_base *base,
	struct error *err)
{
	char self[32];
	int fd = nameless_file(err), r;

	if (fd < 0)
		return fd;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	r = qcow2_create_fd(fd, base, err);
	if (r == 0)
		r = open_overlay(ret, config, self, base, err);
	close(fd);
	return r ? error_prefix(err, r, "ephemeral=on") : 0;
}

int disk_open(struct disk **ret, const struct disk_config *config, struct error *err)
{
	char path[PATH_MAX];
	struct qcow2_base base;
	int r;

	if (config->overlay && config->ephemeral)
		return error_set(err, EINVAL, "overlay= keeps what is written and ephemeral=on does not; give one of them");
	if (config->backing_files && config->format == DISK_FORMAT_RAW)
		return error_set(err, EINVAL, "backing_files=on is for format=qcow2; a raw image has no backing file");
	if (config->nfixed && (config->format != DISK_FORMAT_RAW || config->overlay || config->ephemeral))
		return error_set(err, EINVAL, "fixed_buffers=on is for raw disks without overlay; leave it out");
	if (!config->overlay && !config->ephemeral)
		return open_plain(ret, config, config->readonly, err);
	if (config->readonly)
		return error_set(err, EINVAL, "%s needs a disk that may be written; leave out readonly=on",
			config->overlay ? "overlay=" : "ephemeral=on");
	r = learn_base(config, path, &base, err);
	if (r)
		return r;
	if (config->ephemeral)
		return open_ephemeral(ret, config, &base, err);
	if (access(config->overlay, F_OK) && errno == ENOENT)
		r = qcow2_create(config->overlay, &base, err);
	if (r == 0)
		r = open_overlay(ret, config, config->overlay, &base, err);
	return r ? error_prefix(err, r, "overlay=%s", config->overlay) : 0;
}
