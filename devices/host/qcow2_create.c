/*
 * A new, empty image over a base (specification, "Header", "Header extensions"): version 3,
 * clusters of 64 KiB, counts of 16 bits. Main, stage 2; blocks.
 *
 * Its clusters are header, refcount table, one refcount block and the L1 table, in this order. The
 * header is written last, behind a barrier: a file without one is no image, so a start that was cut
 * short leaves nothing that could be taken for a disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/host/qcow2.h"

enum { CLUSTER_BITS = 16, CLUSTER = 1 << CLUSTER_BITS, ORDER = 4 };
enum { AT_REFTABLE = 1, AT_BLOCK = 2, AT_L1 = 3 }; /* clusters */

static int write_all(int fd, const uint8_t *buf, size_t len, off_t at)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* The backing file's format, then its name. */
static void put_base(uint8_t *cluster, const struct qcow2_base *base)
{
	size_t at = QCOW2_H_V3_LEN, format = strlen(base->format), name = strlen(base->path);

	put_be32(cluster + at, QCOW2_EXT_FORMAT);
	put_be32(cluster + at + 4, (uint32_t)format);
	memcpy(cluster + at + 8, base->format, format);
	at += 8 + align_up(format, 8);
	at += 8; /* type and length 0: the end of the extensions */
	put_be64(cluster + QCOW2_H_BACKING, at);
	put_be32(cluster + QCOW2_H_BACKING_LEN, (uint32_t)name);
	memcpy(cluster + at, base->path, name);
}

static void put_header(uint8_t *cluster, const struct qcow2_base *base, uint32_t l1_size)
{
	memcpy(cluster, "QFI\xfb", 4);
	put_be32(cluster + QCOW2_H_VERSION, 3);
	put_be32(cluster + QCOW2_H_CLUSTER_BITS, CLUSTER_BITS);
	put_be64(cluster + QCOW2_H_SIZE, base->size);
	put_be32(cluster + QCOW2_H_L1_SIZE, l1_size);
	put_be64(cluster + QCOW2_H_L1, (uint64_t)AT_L1 * CLUSTER);
	put_be64(cluster + QCOW2_H_REFTABLE, (uint64_t)AT_REFTABLE * CLUSTER);
	put_be32(cluster + QCOW2_H_REFTABLE_CLUSTERS, 1);
	put_be32(cluster + QCOW2_H_REFCOUNT_ORDER, ORDER);
	put_be32(cluster + QCOW2_H_LENGTH, QCOW2_H_V3_LEN);
	put_base(cluster, base);
}

int qcow2_create_fd(int fd, const struct qcow2_base *base, struct error *err)
{
	uint64_t span = (uint64_t)CLUSTER * CLUSTER / 8, l1_size = (base->size + span - 1) / span;
	uint64_t l1_clusters = (l1_size * 8 + CLUSTER - 1) / CLUSTER;
	uint8_t *cluster = calloc(1, CLUSTER);
	int r;

	if (!cluster)
		return error_set(err, ENOMEM, "out of memory");
	if (l1_size > QCOW2_L1_MAX / 8 || strlen(base->path) > QCOW2_NAME_MAX) {
		free(cluster);
		return error_set(err, EINVAL, "the base is too large, or its path is longer than 1023 bytes");
	}
	put_be64(cluster, (uint64_t)AT_BLOCK * CLUSTER);
	r = write_all(fd, cluster, 8, (off_t)AT_REFTABLE * CLUSTER);
	memset(cluster, 0, CLUSTER);
	for (uint64_t i = 0; i < AT_L1 + l1_clusters; i++)
		qcow2_refcount_write(cluster, i, ORDER, 1);
	if (r == 0)
		r = write_all(fd, cluster, CLUSTER, (off_t)AT_BLOCK * CLUSTER);
	if (r == 0 && ftruncate(fd, (off_t)(AT_L1 + l1_clusters) * CLUSTER))
		r = -errno;
	if (r == 0 && fdatasync(fd))
		r = -errno;
	memset(cluster, 0, CLUSTER);
	put_header(cluster, base, (uint32_t)l1_size);
	if (r == 0)
		r = write_all(fd, cluster, CLUSTER, 0);
	if (r == 0 && fdatasync(fd))
		r = -errno;
	free(cluster);
	return r ? error_set(err, -r, "cannot be written: %s", strerror(-r)) : 0;
}

int qcow2_create(const char *path, const struct qcow2_base *base, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600), r;

	if (fd < 0)
		return error_set(err, errno, "cannot be created: %s", strerror(errno));
	r = qcow2_create_fd(fd, base, err);
	if (r)
		unlink(path);
	close(fd);
	return r;
}
