/*
 * A disk that is a file or a block device, byte for byte: opening, locking and describing it. Runs
 * on main in stage 2; what is known then never changes. The half that moves bytes is
 * disk_raw_queue.c.
 *
 * Two machines that write one file destroy it, so the file is locked as a whole: exclusive for
 * writers, shared for readers. The lock is an OFD lock (fcntl(2)): it belongs to the open file, not
 * to the process, so it lives exactly as long as this disk does, also after a fork or a hand-over
 * of the fd.
 *
 * With direct=on there are two descriptors of the same file. O_DIRECT asks for aligned memory, and
 * a guest may place its buffers at any address; such requests take the second descriptor, through
 * the page cache. The kernel keeps the two coherent for requests that follow each other, which is
 * all that a disk promises.
 */
#include "devices/host/disk_raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/log.h"

enum { SECTOR = 512, DIRECT_ALIGN_DEFAULT = 4096 };
/* No file is as long; a multiple of every block size. */
#define RAW_IMAGE_MAX (UINT64_C(1) << 62)

enum { LOCK_TRIES = 100, LOCK_PAUSE_US = 5000 };

static const struct {
	int code;
	const char *text;
} open_sentences[] = {
	{ ENOENT, "no such file; check the path" },
	{ ENOTDIR, "a part of the path is not a directory; check the path" },
	{ EISDIR, "is a directory; a disk is a file or a block device" },
	{ EACCES, "permission denied; check the rights of the file, or add readonly=on if it may "
		"only be read" },
	{ EPERM, "permission denied; check the rights of the file, or add readonly=on if it may "
		"only be read" },
	{ EROFS, "is on a read-only file system; add readonly=on" },
	{ ELOOP, "too many symbolic links; check the path" },
	{ ENXIO, "no device behind this name; check the path" },
	{ EBUSY, "is in use by the host (mounted?); unmount it first" },
};

int raw_open_failed(int code, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(open_sentences); i++)
		if (open_sentences[i].code == code)
			return error_set(err, code, "%s", open_sentences[i].text);
	return error_set(err, code, "cannot be opened: %s", strerror(code));
}

/*
 * `flags` are all that fcntl(2) can change. When a disk was last read is of use to nobody, and to
 * keep book of it takes a 25th of a read from the page cache; who owns the file may leave it out.
 */
static int set_flags(int fd, int flags)
{
	return fcntl(fd, F_SETFL, flags | O_NOATIME) ? fcntl(fd, F_SETFL, flags) : 0;
}

static int open_file(const struct disk_raw_config *config, struct stat *st, struct error *err)
{
	int flags = (config->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
	int fd;

	/*
	 * O_NONBLOCK: a FIFO in the wrong place must not hang us. It is taken off below: io_uring
	 * would answer EAGAIN.
	 */
	fd = open(config->path, flags | O_NONBLOCK);
	if (fd < 0)
		return raw_open_failed(errno, err);
	if (fstat(fd, st) || set_flags(fd, 0)) {
		int code = errno;

		close(fd);
		return raw_open_failed(code, err);
	}
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return fd;
	close(fd);
	if (S_ISDIR(st->st_mode))
		return raw_open_failed(EISDIR, err);
	return error_set(err, EINVAL, "is neither a file nor a block device; give one of them");
}

int raw_lock(int fd, bool readonly, struct error *err)
{
	struct flock lock = { .l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	struct flock holder = lock;

	/*
	 * The kernel frees a closed io_uring, and with it the files registered there and their
	 * locks, some time later: a machine that is started right after another ended must not be
	 * told that the disk is in use.
	 */
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (!fcntl(fd, F_OFD_SETLK, &lock))
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			break;
		usleep(LOCK_PAUSE_US);
	}
	if (errno != EAGAIN && errno != EACCES) {
		/*
		 * Some network file systems have no locks; that must not make their disks unusable.
		 */
		log_warn("a disk cannot be locked (%s): nothing keeps a second machine away from "
			"it",
			strerror(errno));
		return 0;
	}
	/* Only a lock of the older kind names its process. */
	if (!fcntl(fd, F_OFD_GETLK, &holder) && holder.l_type != F_UNLCK && holder.l_pid > 0)
		return error_set(err, EBUSY,
			"is in use by another machine (process %d); stop that one, or share the "
			"disk with readonly=on in all",
			holder.l_pid);
	return error_set(err, EBUSY,
		"is in use by another machine; stop that one, or share the disk with readonly=on "
		"in all");
}

static int describe_block_device(struct raw_disk *d, struct error *err)
{
	unsigned physical = 0;
	int logical = 0;

	if (ioctl(d->fd, BLKGETSIZE64, &d->info.size) || ioctl(d->fd, BLKSSZGET, &logical) ||
		ioctl(d->fd, BLKPBSZGET, &physical))
		return error_set(err, errno, "the block device does not tell its size: %s",
			strerror(errno));
	if (logical < SECTOR || !is_pow2((uint64_t)logical))
		return error_set(err, EINVAL,
			"the block device has blocks of %d bytes; 512 or 4096 are expected",
			logical);
	d->info.block_size = (uint32_t)logical;
	d->info.physical_block = MAX(physical, (unsigned)logical);
	d->info.discard_granularity = d->info.physical_block;
	d->info.can_discard = true;
	return 0;
}

/*
 * Punching a hole past the end changes nothing, and says whether the file system can punch at all.
 */
static bool can_punch(int fd, uint64_t size)
{
	return !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)size, SECTOR);
}

static void describe_file(struct raw_disk *d, const struct stat *st)
{
	d->info.size = (uint64_t)st->st_size;
	d->info.block_size = SECTOR;
	d->info.physical_block = SECTOR;
	if (st->st_blksize > SECTOR && is_pow2((uint64_t)st->st_blksize) &&
		st->st_blksize <= PAGE_4K)
		d->info.physical_block = (uint32_t)st->st_blksize;
	d->info.discard_granularity = d->info.physical_block;
	d->info.can_discard = can_punch(d->fd, d->info.size);
}

static int describe(struct raw_disk *d, const struct disk_raw_config *config, const struct stat *st, struct error *err)
{
	int r;

	d->is_file = S_ISREG(st->st_mode);
	if (S_ISBLK(st->st_mode)) {
		r = describe_block_device(d, err);
		if (r)
			return r;
	} else {
		describe_file(d, st);
	}
	if (config->image) {
		d->info.stored = d->info.size;
		if (!S_ISBLK(st->st_mode))
			d->info.size = RAW_IMAGE_MAX;
	}
	if (!d->info.size)
		return error_set(err, EINVAL,
			"is empty; make it larger first, for example with: truncate -s 10G FILE");
	if (d->info.size % SECTOR)
		return error_set(err, EINVAL,
			"has a size of %llu bytes, which is not a multiple of 512; is this a raw "
			"disk image?",
			(unsigned long long)d->info.size);
	d->info.readonly = config->readonly;
	d->info.can_discard &= !config->readonly;
	d->info.can_write_zeroes = !config->readonly; /* by hand where the file cannot */
	return S_ISBLK(st->st_mode) && !config->image ? raw_slow_describe(d, st, err) : 0;
}

/*
 * statx(2) tells since Linux 6.1 what O_DIRECT asks for; before, a page is right for every disk
 * there is.
 */
static void learn_alignment(struct raw_disk *d)
{
	struct statx stx = { 0 };

	d->mem_align = d->file_align = MAX(d->info.block_size, (uint32_t)DIRECT_ALIGN_DEFAULT);
	if (statx(d->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) ||
		!(stx.stx_mask & STATX_DIOALIGN))
		return;
	if (is_pow2(stx.stx_dio_mem_align) && is_pow2(stx.stx_dio_offset_align)) {
		d->mem_align = stx.stx_dio_mem_align;
		d->file_align = stx.stx_dio_offset_align;
	}
}

static int use_direct(struct raw_disk *d, int fd)
{
	d->fd = fd;
	d->direct = true;
	learn_alignment(d);
	d->mem_mask = d->mem_align - 1;
	d->file_mask |= d->file_align - 1;
	return 0;
}

static int open_direct(struct raw_disk *d, const struct disk_raw_config *config, struct error *err)
{
	char self[32];
	int fd;

	/* Zones are written in order, so nothing of them goes through the page cache. */
	if (d->info.zoned.zone_size) {
		fd = set_flags(d->fd, O_DIRECT) ? -1 : d->fd;
		return fd < 0 ? raw_open_failed(errno, err) : use_direct(d, fd);
	}
	/* The same file again, whatever the path names by now. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", d->buffered_fd);
	fd = open(self, (config->readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 && (errno == EINVAL || errno == EOPNOTSUPP))
		return error_set(err, EINVAL,
			"its file system has no direct I/O; leave out direct=on or move the file");
	if (fd < 0)
		return raw_open_failed(errno, err);
	(void)set_flags(fd, O_DIRECT);
	return use_direct(d, fd);
}

/*
 * Of a file or a block device. Nothing of ours goes by the file's position, so it may be moved; one
 * system call that all versions of the C library name alike.
 */
static int64_t length_now(const struct raw_disk *d)
{
	off_t end = lseek(d->buffered_fd, 0, SEEK_END);

	return end < 0 ? -errno : end;
}

static const struct syscall_row length_syscalls[] = {
	{ SYSCALL(lseek, "the size of a disk that the host resized, or cut", SYSCALL_ARG_EQ(2, SEEK_END)) },
	SYSCALL_END,
};

const struct syscall_row raw_main_syscalls[] = {
	{ SYSCALL(fcntl, "let go of a disk's lock", SYSCALL_ARG_EQ(1, F_OFD_SETLK)) },
	SYSCALL_END,
};

void raw_close(struct disk *disk)
{
	struct raw_disk *d = container_of(disk, struct raw_disk, disk);

	if (!disk)
		return;
	/*
	 * By hand: the kernel may keep the file, and with it the lock, for as long as it takes the
	 * rings apart.
	 */
	if (d->buffered_fd >= 0)
		fcntl(d->buffered_fd, F_OFD_SETLK, &(struct flock){ .l_type = F_UNLCK, .l_whence = SEEK_SET });
	if (d->fd >= 0 && d->fd != d->buffered_fd)
		close(d->fd);
	if (d->buffered_fd >= 0)
		close(d->buffered_fd);
	raw_slow_close(d);
	free(d->fixed);
	free(d);
}

bool raw_disk_is_whole(struct raw_disk *d)
{
	uint64_t expected = d->image ? d->info.stored : __atomic_load_n(&d->info.size, __ATOMIC_RELAXED);
	int64_t length = d->is_file ? length_now(d) : -ENOTSUP;

	if (length < 0 || (uint64_t)length >= expected)
		return true;
	if (!atomic_exchange_explicit(&raw_kept(d)->flush_failed, true, memory_order_relaxed))
		log_error("a disk's file was cut short, to %llu bytes where %llu were: the disk fails from now on",
			(unsigned long long)length, (unsigned long long)expected);
	__atomic_store_n(&d->info.size, 0, __ATOMIC_RELAXED);
	return false;
}

/* A size is a size also when it shrank: the guest is told, and its requests beyond it fail. */
static int raw_resize(struct disk *disk, uint64_t *ret_size)
{
	struct raw_disk *d = container_of(disk, struct raw_disk, disk);
	int64_t size = length_now(d);

	if (size < 0)
		return (int)size;
	if (!size || size % SECTOR)
		return -EINVAL;
	__atomic_store_n(&d->info.size, (uint64_t)size, __ATOMIC_RELAXED);
	*ret_size = (uint64_t)size;
	return 0;
}

void raw_info(const struct disk *disk, struct disk_info *ret)
{
	*ret = ((const struct raw_disk *)disk)->info;
}

void raw_fds(const struct disk *disk, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct raw_disk *d = (const struct raw_disk *)disk;

	keep(ctx, d->fd);
	keep(ctx, d->buffered_fd);
}

/* What the kernel has lost stays lost, also for the process that comes after. */
void raw_forked(struct disk *disk, void *kept)
{
	struct raw_disk *d = container_of(disk, struct raw_disk, disk);
	int64_t length = d->image && d->is_file ? length_now(d) : 0;

	d->shared_kept = kept;
	if (d->image)
		d->info.stored = MAX(MAX(d->info.stored, raw_kept(d)->stored), (uint64_t)MAX(length, (int64_t)0));
}

void disk_raw_will_fork(struct disk *disk)
{
	container_of(disk, struct raw_disk, disk)->forks = true;
}

static const struct disk_ops raw_ops = {
	.info = raw_info,
	.queue_create = raw_queue_create,
	.queue_destroy = raw_queue_destroy,
	.queue_attach = raw_queue_attach,
	.queue_detach = raw_queue_detach,
	.start = raw_queue_start,
	.submit = raw_queue_submit,
	.poll = raw_queue_poll,
	.gather = raw_queue_gather,
	.drain = raw_queue_drain,
	.resize = raw_resize,
	.slow = raw_slow,
	.fds = raw_fds,
	.forked = raw_forked,
	.queue_forked = raw_queue_forked,
	.close = raw_close,
};

int disk_raw_open(struct disk **ret, const struct disk_raw_config *config, struct error *err)
{
	struct raw_disk *d = calloc(1, sizeof(*d));
	struct stat st;
	int r;

	if (!d)
		return error_set(err, ENOMEM, "out of memory");
	d->disk.ops = &raw_ops;
	d->disk.main_syscalls = raw_main_syscalls;
	d->disk.syscalls[2] = length_syscalls;
	d->plain = config->plain;
	d->ring_level = config->ring_level;
	d->forks = config->forks;
	d->image = config->image;
	d->disk.slow_syscalls = raw_slow_syscalls;
	d->fd = d->buffered_fd = d->life_fd = d->eol_fd = -1;
	d->file_mask = DISK_SECTOR - 1;
	r = open_file(config, &st, err);
	if (r < 0)
		goto fail;
	d->fd = d->buffered_fd = r;
	r = raw_lock(d->fd, config->readonly, err);
	if (r)
		goto fail;
	r = describe(d, config, &st, err);
	if (r)
		goto fail;
	if (config->direct || d->info.zoned.zone_size) {
		r = open_direct(d, config, err);
		if (r)
			goto fail;
	}
	r = raw_fixed_set(d, config->fixed, config->nfixed, err);
	if (r)
		goto fail;
	*ret = &d->disk;
	return 0;
fail:
	raw_close(&d->disk);
	return r;
}
