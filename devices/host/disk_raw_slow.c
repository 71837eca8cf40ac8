/*
 * The raw disk's slow work, on a block device: secure erase, zones, lifetime. Files have none of
 * it.
 *
 * What the device can do is found out when it is opened, on main in stage 2: limits of zones from
 * sysfs (Documentation/ABI/stable/sysfs-block), secure erase by asking for a range that no disk can
 * have: a kernel that cannot erase says so before it looks at the range. The two files of sysfs
 * from which an eMMC's wear is read stay open.
 *
 * A zoned device is opened with O_DIRECT: the page cache would write in an order of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devices/host/disk_raw.h"
#include "devices/host/disk_slow.h"

enum { SECTOR = 512, REPORT_AT_ONCE = 32 };
_Static_assert(sizeof(struct blk_zone) == 64, "linux/blkzoned.h");

/* A file of the device in sysfs, or of the disk whose partition it is. */
static int open_attribute(const struct stat *st, const char *name)
{
	char path[128];
	int fd = -1;

	for (int part = 0; part < 2 && fd < 0; part++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s%s", major(st->st_rdev), minor(st->st_rdev),
			part ? "../" : "", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	return fd;
}

/* Its text from the beginning, "" when there is none. */
static void read_attribute(int fd, char *text, size_t size)
{
	ssize_t n = fd < 0 ? 0 : pread(fd, text, size - 1, 0);

	text[MAX(n, (ssize_t)0)] = 0;
}

static uint32_t number_of(const struct stat *st, const char *name)
{
	int fd = open_attribute(st, name);
	unsigned long long v;
	char text[32];

	read_attribute(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	v = strtoull(text, NULL, 10);
	return v > UINT32_MAX ? 0 : (uint32_t)v;
}

static bool is_host_managed(const struct stat *st)
{
	int fd = open_attribute(st, "queue/zoned");
	char text[32];

	read_attribute(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	return !strncmp(text, "host-managed", 12);
}

static int describe_zones(struct raw_disk *d, const struct stat *st, struct error *err)
{
	struct disk_zoned *z = &d->info.zoned;
	uint32_t sectors = 0;

	if (!is_host_managed(st))
		return 0;
	if (ioctl(d->fd, BLKGETZONESZ, &sectors) || !sectors)
		return error_set(err, EINVAL, "the zoned device does not tell the size of its zones");
	z->zone_size = (uint64_t)sectors * SECTOR;
	z->max_open = number_of(st, "queue/max_open_zones");
	z->max_active = number_of(st, "queue/max_active_zones");
	z->write_granularity = MAX(number_of(st, "queue/zone_write_granularity"), d->info.block_size);
	/* Zones are reset instead. */
	d->info.can_discard = d->info.can_write_zeroes = false;
	return 0;
}

int raw_slow_describe(struct raw_disk *d, const struct stat *st, struct error *err)
{
	/* No range: neither its beginning nor its length is one of a sector. */
	uint64_t none[2] = { 1, 1 };

	d->life_fd = open_attribute(st, "device/life_time");
	d->eol_fd = open_attribute(st, "device/pre_eol_info");
	d->info.has_lifetime = d->life_fd >= 0;
	d->info.can_secure_erase = !d->info.readonly && ioctl(d->fd, BLKSECDISCARD, none) && errno == EINVAL;
	return describe_zones(d, st, err);
}

void raw_slow_close(struct raw_disk *d)
{
	if (d->life_fd >= 0)
		close(d->life_fd);
	if (d->eol_fd >= 0)
		close(d->eol_fd);
}

static int manage(const struct raw_disk *d, const struct disk_slow *job)
{
	const uint64_t size = __atomic_load_n(&d->info.size, __ATOMIC_RELAXED);
	struct blk_zone_range range = { job->offset / SECTOR, d->info.zoned.zone_size / SECTOR };
	static const unsigned long requests[] = {
		[DISK_ZONE_OPEN] = BLKOPENZONE,
		[DISK_ZONE_CLOSE] = BLKCLOSEZONE,
		[DISK_ZONE_FINISH] = BLKFINISHZONE,
		[DISK_ZONE_RESET] = BLKRESETZONE,
		[DISK_ZONE_RESET_ALL] = BLKRESETZONE,
	};

	if (job->op == DISK_ZONE_RESET_ALL)
		range = (struct blk_zone_range){ 0, size / SECTOR };
	else if (job->offset >= size)
		return -ERANGE;
	/* The last zone may be shorter. */
	range.nr_sectors = MIN(range.nr_sectors, size / SECTOR - range.sector);
	return ioctl(d->fd, requests[job->op], &range) ? -errno : 0;
}

static int report(const struct raw_disk *d, struct disk_slow *job)
{
	struct {
		struct blk_zone_report head;
		struct blk_zone zones[REPORT_AT_ONCE];
	} r;

	memset(&r, 0, sizeof(r));
	r.head.sector = job->offset / SECTOR;
	r.head.nr_zones = MIN(job->nzones, (unsigned)REPORT_AT_ONCE);
	if (ioctl(d->fd, BLKREPORTZONE, &r))
		return -errno;
	job->nzones = MIN(job->nzones, r.head.nr_zones);
	for (unsigned i = 0; i < job->nzones; i++) {
		const struct blk_zone *z = &r.zones[i];
		bool has_capacity = r.head.flags & BLK_ZONE_REP_CAPACITY;

		job->zones[i] = (struct disk_zone){ .start = z->start * SECTOR, .wp = z->wp * SECTOR,
			.capacity = (has_capacity ? z->capacity : z->len) * SECTOR, .type = z->type, .state = z->cond };
	}
	return 0;
}

static int write_there(const struct raw_disk *d, const struct disk_slow *job)
{
	ssize_t n = pwritev(d->fd, job->iov, job->iovcnt, (off_t)job->offset);

	if (n < 0)
		return -errno;
	return (uint64_t)n == job->len ? 0 : -EIO;
}

/* Reserved values must not reach a guest (virtio 1.3 §5.2.6). */
static uint16_t known(unsigned long v, unsigned max)
{
	return v > max ? 0 : (uint16_t)v;
}

static int lifetime(const struct raw_disk *d, struct disk_slow *job)
{
	char text[32], *rest;
	unsigned long slc;

	read_attribute(d->life_fd, text, sizeof(text));
	slc = strtoul(text, &rest, 16);
	job->lifetime.slc = known(slc, 11);
	job->lifetime.mlc = known(strtoul(rest, NULL, 16), 11);
	read_attribute(d->eol_fd, text, sizeof(text));
	job->lifetime.pre_eol = known(strtoul(text, NULL, 16), 3);
	return 0;
}

int raw_slow(struct disk *disk, struct disk_slow *job)
{
	const struct raw_disk *d = container_of(disk, const struct raw_disk, disk);
	uint64_t range[2] = { job->offset, job->len };

	switch (job->op) {
	case DISK_SECURE_ERASE:
		return ioctl(d->fd, BLKSECDISCARD, range) ? -errno : 0;
	case DISK_ZONE_REPORT:
		return report(d, job);
	case DISK_ZONE_WRITE:
		return write_there(d, job);
	case DISK_GET_LIFETIME:
		return lifetime(d, job);
	default:
		return manage(d, job);
	}
}

const struct syscall_row raw_slow_syscalls[] = {
	{ SYSCALL(ioctl, "erase a range for good", SYSCALL_ARG_EQ(1, BLKSECDISCARD)) },
	{ SYSCALL(ioctl, "the state of zones", SYSCALL_ARG_EQ(1, BLKREPORTZONE)) },
	{ SYSCALL(ioctl, "open a zone", SYSCALL_ARG_EQ(1, BLKOPENZONE)) },
	{ SYSCALL(ioctl, "close a zone", SYSCALL_ARG_EQ(1, BLKCLOSEZONE)) },
	{ SYSCALL(ioctl, "finish a zone", SYSCALL_ARG_EQ(1, BLKFINISHZONE)) },
	{ SYSCALL(ioctl, "reset zones", SYSCALL_ARG_EQ(1, BLKRESETZONE)) },
	{ SYSCALL(pwritev, "append to a zone") },
	{ SYSCALL(pread64, "how worn an eMMC is") },
	SYSCALL_END,
};
