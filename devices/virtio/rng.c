/*
 * virtio-rng (virtio 1.2 §5.4): the driver gives buffers, the device fills them with random bytes.
 *
 * The bytes come from getrandom(2), or from a file that was opened at set-up when the user names
 * another source. A request is filled straight in the guest's buffers, up to a bound: the device
 * may use less than it was given (§5.4.6.1), and a driver that asks for more asks again. A source
 * that has no more now (a slow device, a file at its end) never makes the guest wait: the kernel's
 * generator gives the rest, and a line says so.
 *
 * A quiet device: it shares a worker with others.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/virtio/chain.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/types.h"
#include "devices/virtio/virtio.h"
#include "vmm/log.h"

enum {
	BYTES_MAX = 64 * KIB,  /* of one request */
	PIECES_MAX = 16,       /* of one request */
};

static const char default_source[] = "/dev/urandom";

struct rng {
	struct virtio_device dev; /* first */
	int fd;                   /* const; -1: getrandom */
};

struct rng_options {
	struct virtio_options virtio;
	char *src;
};

/* One source: bytes, short when it has no more now. */
static size_t take(int fd, uint8_t *to, size_t len)
{
	size_t done = 0;
	ssize_t r;

	while (done < len) {
		r = fd < 0 ? getrandom(to + done, len - done, 0) : read(fd, to + done, len - done);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		done += (size_t)r;
	}
	return done;
}

static size_t random_bytes(const struct rng *rng, uint8_t *to, size_t len)
{
	size_t done = rng->fd < 0 ? 0 : take(rng->fd, to, len);

	if (rng->fd >= 0 && done < len)
		log_guest(LOG_WARN, "%s: its source gave no more; the kernel's generator goes on",
			rng->dev.id);
	return done + take(-1, to + done, len - done);
}

static void serve(const struct rng *rng, struct chain *chain)
{
	struct iovec iov[PIECES_MAX];
	size_t len = MIN(chain_out_left(chain), (size_t)BYTES_MAX), got;
	int n;

	/* A driver that cuts its buffer finer than that is served as far as the pieces go. */
	while ((n = chain_iov_out(chain, len, iov, PIECES_MAX)) == -E2BIG)
		len /= 2;
	for (int i = 0; i < n; i++) {
		got = random_bytes(rng, iov[i].iov_base, iov[i].iov_len);
		chain_wrote(chain, got);
		if (got < iov[i].iov_len)
			return;
	}
}

static int rng_handle(struct virtio_device *dev, struct queue *q)
{
	struct chain *chain;
	int r = 0;

	for (unsigned n = queue_size(q); n; n--) {
		r = queue_pop(q, &chain);
		if (r <= 0)
			break;
		serve(container_of(dev, struct rng, dev), chain);
		queue_push(q, chain);
	}
	return r;
}

static int rng_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	struct rng *rng = container_of(dev, struct rng, dev);
	const struct rng_options *o = options;
	struct stat st;

	(void)env;
	rng->fd = -1;
	if (!o->src || !strcmp(o->src, default_source))
		return 0;
	rng->fd = open(o->src, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (rng->fd < 0)
		return error_set(err, errno,
			"--rng src=%s: %s; check the path, or leave src out for %s", o->src,
			strerror(errno), default_source);
	if (fstat(rng->fd, &st) || S_ISDIR(st.st_mode))
		return error_set(err, EISDIR,
			"--rng src=%s: is a directory; name a device such as %s", o->src,
			default_source);
	return 0;
}

static void rng_fds(const struct virtio_device *dev, void (*keep)(void *ctx, int fd), void *ctx)
{
	keep(ctx, ((const struct rng *)dev)->fd);
}

static void rng_destroy(struct virtio_device *dev)
{
	struct rng *rng = container_of(dev, struct rng, dev);

	/* 0 is an fd of ours only when create() had come that far; it opens none below 3. */
	if (rng->fd > 0)
		close(rng->fd);
}

static const struct option_row rng_rows[] = {
	{ .key = "src", .type = OPTION_PATH, .offset = offsetof(struct rng_options, src),
		.def = "/dev/urandom",
		.help = "where randomness comes from" },
	VIRTIO_OPTION_ROWS("256"),
	OPTION_ROWS_END,
};

static const struct option_group rng_group = {
	.flag = "rng",
	.json = "rng",
	.kind = OPTION_ONE,
	.size = sizeof(struct rng_options),
	.rows = rng_rows,
	.help = "random numbers for the guest",
	.section = "Devices",
};

static const struct syscall_row rng_syscalls[] = {
	{ SYSCALL(getrandom, "the entropy itself") },
	SYSCALL_END,
};

const struct virtio_type virtio_rng_type = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0xff0000, /* unassigned */
	.nqueues = 1,
	.thread_suffix = "q",
	.size = sizeof(struct rng),
	.options = &rng_group,
	.syscalls = rng_syscalls,
	.create = rng_create,
	.handle = rng_handle,
	.may_fork = true,
	.fds = rng_fds,
	.destroy = rng_destroy,
};

static int row_create(struct device **ret, const struct device_env *env, const void *options,
	struct error *err)
{
	return virtio_create(ret, &virtio_rng_row, &virtio_rng_type, env, options, err);
}

const struct device_type virtio_rng_row = {
	.name = "virtio-rng",
	.options = &rng_group,
	.id_prefix = "_rng",
	.always = true,
	.shares_memory = virtio_shares_memory,
	.create = row_create,
};
