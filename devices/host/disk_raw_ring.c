/*
 * A raw disk's io_uring, and the buffers that may be registered with it.
 *
 * Buffers are registered when the user asks (fixed_buffers=): it spares the kernel looking up and
 * holding the pages of each request, for all of the guest's memory being held all the time.
 */
#include <errno.h>
#include <sys/resource.h>

#include "devices/host/disk_raw.h"
#include "devices/host/ring.h"

enum { FIXED_MAX = GIB }; /* of one registered buffer: io_uring_register(2) */
enum { RINGS_LOCK = 4 * MIB }; /* at most, on kernels that count a ring's own memory */

static uint64_t fixed_bytes(const struct raw_disk *d)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < d->nfixed; i++)
		bytes += d->fixed[i].iov_len;
	return bytes;
}

static int no_buffers(int r, const struct raw_disk *d, struct error *err)
{
	struct rlimit lock = { 0 };

	if (r == -ENOSYS || r == -EPERM)
		return error_set(err, ENOTSUP,
			"fixed_buffers=on needs io_uring, which this host does not give (%s); leave it out, or see "
			"/proc/sys/kernel/io_uring_disabled", strerror(-r));
	getrlimit(RLIMIT_MEMLOCK, &lock);
	if (r != -ENOMEM || lock.rlim_cur == RLIM_INFINITY)
		return error_set(err, -r, "fixed_buffers=on: the guest's memory cannot be registered: %s; leave it out",
			strerror(-r));
	return error_set(err, ENOMEM,
		"fixed_buffers=on: each queue locks the guest's %llu MiB of memory, and %llu MiB may be locked; raise the "
		"limit (ulimit -l, LimitMEMLOCK=), or leave it out",
		(unsigned long long)(fixed_bytes(d) / MIB), (unsigned long long)(lock.rlim_cur / MIB));
}

/* Its processes are started with that right. */
static bool may_raise(const struct rlimit *now)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	return setrlimit(RLIMIT_MEMLOCK, &all) == 0 && setrlimit(RLIMIT_MEMLOCK, now) == 0;
}

int raw_fixed_fit(struct raw_disk *d, struct error *err)
{
	struct rlimit now;

	d->to_lock += fixed_bytes(d);
	if (!d->nfixed || getrlimit(RLIMIT_MEMLOCK, &now) < 0 || now.rlim_max >= d->to_lock + RINGS_LOCK ||
		may_raise(&now))
		return 0;
	return no_buffers(-ENOMEM, d, err);
}

int raw_ring_create(struct io_uring *ring, const struct raw_disk *d, unsigned depth, int tomb, struct error *err)
{
	static const uint8_t file_ops[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV,
		IORING_OP_FALLOCATE, IORING_OP_FSYNC, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED };
	enum { UNFIXED = ARRAY_SIZE(file_ops) - 2 };
	static const uint8_t pass_ops[] = { IORING_OP_URING_CMD };
	const int files[] = { [FILE_MAIN] = d->fd, [FILE_BUFFERED] = d->buffered_fd, [FILE_TOMB] = tomb };
	const struct ring_config config = {
		.depth = depth,
		.flags = d->pass ? IORING_SETUP_SQE128 | IORING_SETUP_CQE32 : 0,
		.level = d->ring_level,
		.files = files,
		.nfiles = tomb < 0 ? FILE_TOMB : ARRAY_SIZE(files),
		.inherited = tomb >= 0,
		.buffers = d->fixed,
		.nbuffers = d->nfixed,
		.ops = d->pass ? pass_ops : file_ops,
		.nops = d->pass ? ARRAY_SIZE(pass_ops) : d->nfixed ? ARRAY_SIZE(file_ops) : UNFIXED,
	};
	int r = d->plain ? -ENOSYS : ring_create(ring, &config);

	if (r == 0)
		return 0;
	if (d->pass)
		return error_set(err, ENOSYS,
			"its commands need io_uring of Linux 5.19; see sysctl kernel.io_uring_disabled, or give the block device");
	if (tomb >= 0)
		return r;
	return d->nfixed ? no_buffers(r, d, err) : 1;
}

int raw_fixed_set(struct raw_disk *d, const struct iovec *buffers, unsigned n, struct error *err)
{
	unsigned pieces = 0;

	for (unsigned i = 0; i < n; i++)
		pieces += (unsigned)((buffers[i].iov_len + FIXED_MAX - 1) / FIXED_MAX);
	d->fixed = pieces ? calloc(pieces, sizeof(*d->fixed)) : NULL;
	if (pieces && !d->fixed)
		return error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < n; i++)
		for (size_t at = 0; at < buffers[i].iov_len; at += FIXED_MAX)
			d->fixed[d->nfixed++] = (struct iovec){ (char *)buffers[i].iov_base + at,
				MIN(buffers[i].iov_len - at, (size_t)FIXED_MAX) };
	return 0;
}

void raw_fixed_use(const struct raw_disk *d, struct io_uring_sqe *sqe)
{
	sqe->buf_index = 0;
	for (unsigned i = 0; i < d->nfixed; i++) {
		const struct iovec *v = &d->fixed[i];
		uint64_t off = sqe->addr - (uintptr_t)v->iov_base;

		if (off >= v->iov_len || sqe->len > v->iov_len - off)
			continue;
		sqe->opcode = sqe->opcode == IORING_OP_READ ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
		sqe->buf_index = (uint16_t)i;
		return;
	}
}
