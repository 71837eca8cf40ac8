/*
 * A disk that is a namespace of an NVMe drive, spoken to in its own commands (NVM Express Base 2.0
 * and NVM Command Set 1.0) through the kernel's generic character device, /dev/ngXnY: no block
 * layer, no page cache, no partitions. It is a raw disk whose ring carries commands instead of
 * reads and writes (IORING_OP_URING_CMD, Linux 5.19); queue, order and states are those of
 * disk_raw_queue.c and disk_raw_op.c.
 *
 * What the drive is like is asked once, by Identify, on main in stage 2. A command moves whole
 * blocks, and no more than the drive (MDTS) and the kernel's mapping of our memory take: a longer
 * request is cut between its pieces of memory where that is possible.
 *
 * Linux lets a process without rights send such commands since 6.2, which ours is once it is
 * confined: an older one refuses them, and each request is an error.
 *
 * Of one process after the other: each command here may be given twice, and what a process that
 * died has given is waited for like all that its ring holds. There is no reading or writing by
 * append, and no command of the guest's own.
 */
#include "devices/host/disk_nvme.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/nvme_ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { SECTOR = 512 };

/* NVM Command Set §3.2, Base §5.17 */
enum { NVME_FLUSH = 0, NVME_WRITE = 1, NVME_READ = 2, NVME_WRITE_ZEROES = 8, NVME_DSM = 9, NVME_IDENTIFY = 6 };
enum { IDENTIFY_NAMESPACE = 0, IDENTIFY_CONTROLLER = 1, IDENTIFY_BYTES = 4096 };
enum { DSM_DEALLOCATE = 1 << 2, ZEROES_DEALLOCATE = 1 << 25, ZEROES_BLOCKS_MAX = 1 << 16 };

/* Some kernels map at most 127 pieces of memory for a command, and a page may be one. */
enum { TRANSFER_MAX = 256 * KIB };

/* NVM Command Set §3.2.3.1, of `words` */
struct dsm_range {
	uint32_t attributes, blocks;
	uint64_t start;
};
_Static_assert(sizeof(struct dsm_range) == sizeof(((struct disk_request *)NULL)->words), "NVM Command Set §3.2.3.1");

static const struct nvme_disk *nvme_of(const struct raw_disk *d)
{
	return container_of(d, const struct nvme_disk, raw);
}

/* --- commands --- */

/*
 * How much of a transfer one command takes: as many whole pieces of memory as make whole blocks,
 * or else the blocks of the first piece. 0: the guest cut a block into more than a command holds.
 */
static int cut(const struct nvme_disk *n, const struct raw_op *op, uint32_t *ret_bytes)
{
	uint64_t sum = 0;
	int pieces = 0;

	*ret_bytes = 0;
	for (int i = 0; i < op->iovcnt; i++) {
		sum += op->iov[i].iov_len;
		if (sum > n->max_transfer)
			break;
		if (sum % n->block)
			continue;
		*ret_bytes = (uint32_t)sum;
		pieces = i + 1;
	}
	if (pieces)
		return pieces;
	*ret_bytes = (uint32_t)(MIN(op->iov[0].iov_len, (size_t)n->max_transfer) / n->block * n->block);
	return 1;
}

static void place(struct nvme_uring_cmd *c, const struct nvme_disk *n, uint64_t offset, uint32_t bytes)
{
	uint64_t block = offset / n->block;

	c->cdw10 = (uint32_t)block;
	c->cdw11 = (uint32_t)(block >> 32);
	c->cdw12 |= bytes / n->block - 1;
}

static void transfer(struct nvme_uring_cmd *c, const struct nvme_disk *n, struct disk_request *rq,
	const struct raw_op *op, struct io_uring_sqe *sqe)
{
	uint32_t bytes;
	int pieces = cut(n, op, &bytes);

	c->opcode = op->kind == OP_READ ? NVME_READ : NVME_WRITE;
	rq->piece = bytes;
	if (!bytes || op->offset % n->block) {
		/* Does no harm; that nothing moved is the request's error. */
		c->opcode = NVME_FLUSH;
		rq->piece = 0;
		return;
	}
	place(c, n, op->offset, bytes);
	if (pieces > 1) {
		sqe->cmd_op = NVME_URING_CMD_IO_VEC;
		c->addr = (uintptr_t)op->iov;
		c->data_len = (uint32_t)pieces;
	} else {
		c->addr = (uintptr_t)op->iov[0].iov_base;
		c->data_len = bytes;
	}
}

static void range(struct nvme_uring_cmd *c, const struct nvme_disk *n, struct disk_request *rq, const struct raw_op *op)
{
	struct dsm_range r = { .start = op->offset / n->block };

	if (rq->op == DISK_DISCARD) {
		/* Whole blocks of it: a hint. */
		rq->piece = (uint32_t)MIN(op->len, (uint64_t)UINT32_MAX / n->block * n->block);
		r.blocks = rq->piece / n->block;
		memcpy(rq->words, &r, sizeof(r));
		c->opcode = NVME_DSM;
		c->addr = (uintptr_t)rq->words;
		c->data_len = sizeof(r);
		c->cdw11 = DSM_DEALLOCATE;
		return;
	}
	c->opcode = NVME_WRITE_ZEROES;
	rq->piece = (uint32_t)MIN(op->len, (uint64_t)ZEROES_BLOCKS_MAX * n->block);
	place(c, n, op->offset, rq->piece);
	if (rq->unmap)
		c->cdw12 |= ZEROES_DEALLOCATE;
}

void nvme_to_sqe(const struct raw_disk *d, struct disk_request *rq, const struct raw_op *op, struct io_uring_sqe *sqe)
{
	const struct nvme_disk *n = nvme_of(d);
	struct nvme_uring_cmd *c = (struct nvme_uring_cmd *)sqe->cmd;

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, op->file, NULL, 0, 0);
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->cmd_op = NVME_URING_CMD_IO;
	memset(c, 0, sizeof(*c));
	c->nsid = n->nsid;
	switch (op->kind) {
	case OP_READ:
	case OP_WRITE:
		transfer(c, n, rq, op, sqe);
		break;
	case OP_ZEROES:
		rq->piece = (uint32_t)MIN(op->len, (uint64_t)n->max_transfer);
		c->opcode = NVME_WRITE;
		c->addr = (uintptr_t)raw_zeroes;
		c->data_len = rq->piece;
		place(c, n, op->offset, rq->piece);
		break;
	case OP_FALLOCATE:
		range(c, n, rq, op);
		break;
	case OP_SYNC:
		c->opcode = NVME_FLUSH;
		rq->piece = 0;
		break;
	}
}

/* Base §4.2.3: status code type and code. What is not here is an I/O error. */
static const struct {
	uint16_t status;
	int code;
} meanings[] = {
	{ 0x001, EOPNOTSUPP }, /* invalid opcode */
	{ 0x002, EINVAL },     /* invalid field */
	{ 0x020, EROFS },      /* namespace is write protected */
	{ 0x081, ENOSPC },     /* capacity exceeded */
	{ 0x182, EROFS },      /* attempted write to read only range */
};

bool nvme_result(const struct raw_disk *d, struct disk_request *rq, ssize_t *res)
{
	const uint16_t status = (uint16_t)*res & 0x7ff;

	(void)d;
	if (*res < 0)
		return false;
	if (*res > 0) {
		*res = -EIO;
		for (size_t i = 0; i < ARRAY_SIZE(meanings); i++)
			if (meanings[i].status == status)
				*res = -meanings[i].code;
		return false;
	}
	if (!raw_op_is_range(rq)) {
		*res = rq->piece;
		return false;
	}
	/* It may have been only the beginning of the range. */
	if (rq->piece >= rq->len - rq->done_so_far)
		return false;
	rq->done_so_far += rq->piece;
	return true;
}

static const struct raw_pass nvme_pass = { .to_sqe = nvme_to_sqe, .result = nvme_result };

/* --- opening --- */

bool disk_nvme_is(const char *path)
{
	char link[64], target[256];
	struct stat st;
	ssize_t n;

	if (stat(path, &st) || !S_ISCHR(st.st_mode))
		return false;
	/* Not by opening it: that alone has effects on some devices. */
	snprintf(link, sizeof(link), "/sys/dev/char/%u:%u/subsystem", major(st.st_rdev), minor(st.st_rdev));
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = 0;
	return strlen(target) >= 12 && !strcmp(target + strlen(target) - 12, "nvme-generic");
}

static int identify(const struct nvme_disk *n, uint32_t what, uint8_t *data, struct error *err)
{
	struct nvme_passthru_cmd c = { .opcode = NVME_IDENTIFY, .addr = (uintptr_t)data, .data_len = IDENTIFY_BYTES,
		.cdw10 = what, .nsid = what == IDENTIFY_NAMESPACE ? n->nsid : 0 };
	int r = ioctl(n->raw.fd, NVME_IOCTL_ADMIN_CMD, &c);

	if (r < 0)
		return error_set(err, errno, "the NVMe drive does not say what it is: %s; are we allowed to ask?",
			strerror(errno));
	return r ? error_set(err, EIO, "the NVMe drive does not say what it is: status 0x%x", (unsigned)r) : 0;
}

/* Identify Namespace (NVM Command Set §4.1.5.1) and Controller (Base §5.17.2.1), by offsets. */
int nvme_describe(struct nvme_disk *n, const uint8_t *ns, const uint8_t *ctrl, bool readonly, struct error *err)
{
	unsigned format = (ns[26] & 15) | (ns[26] >> 1 & 0x30), shift = ns[128 + 4 * format + 2];
	unsigned metadata = get_le16(ns + 128 + 4 * format), mdts = ctrl[77], oncs = get_le16(ctrl + 520);
	uint64_t blocks = get_le64(ns);
	struct disk_info *info = &n->raw.info;

	if (shift < 9 || shift > 16 || !blocks || blocks > (UINT64_MAX >> 1) >> shift)
		return error_set(err, EINVAL, "the NVMe namespace has %llu blocks of 2^%u bytes; 512 to 65536 bytes are "
			"supported", (unsigned long long)blocks, shift);
	if (metadata)
		return error_set(err, ENOTSUP, "the NVMe namespace has %u bytes of metadata with each block; format it "
			"without (nvme format)", metadata);
	n->block = 1u << shift;
	/* In pages of the controller, which are 4 KiB at least. */
	n->max_transfer = mdts && mdts < 7 ? MIN((uint32_t)PAGE_4K << mdts, (uint32_t)TRANSFER_MAX) : TRANSFER_MAX;
	info->size = blocks << shift;
	info->block_size = n->block;
	info->physical_block = info->discard_granularity = MAX(n->block, (uint32_t)PAGE_4K);
	info->readonly = readonly;
	info->can_discard = !readonly && (oncs & 4);
	info->can_write_zeroes = !readonly;
	atomic_store(&n->raw.no_zero_range, !(oncs & 8));
	return n->max_transfer < n->block ? error_set(err, ENOTSUP, "the NVMe drive moves less than a block at a time") : 0;
}

static int open_namespace(struct nvme_disk *n, const struct disk_raw_config *config, struct error *err)
{
	uint8_t *data = calloc(2, IDENTIFY_BYTES);
	int r = data ? 0 : error_set(err, ENOMEM, "out of memory");

	if (r == 0) {
		n->raw.fd = open(config->path, (config->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY);
		n->raw.buffered_fd = n->raw.fd;
		r = n->raw.fd < 0 ? raw_open_failed(errno, err) : 0;
	}
	if (r == 0) {
		int id = ioctl(n->raw.fd, NVME_IOCTL_ID);

		n->nsid = (uint32_t)id;
		r = id > 0 ? 0 : error_set(err, EINVAL, "is no NVMe namespace; give /dev/ngXnY");
	}
	if (r == 0)
		r = raw_lock(n->raw.fd, config->readonly, err);
	if (r == 0)
		r = identify(n, IDENTIFY_NAMESPACE, data, err);
	if (r == 0)
		r = identify(n, IDENTIFY_CONTROLLER, data + IDENTIFY_BYTES, err);
	if (r == 0)
		r = nvme_describe(n, data, data + IDENTIFY_BYTES, config->readonly, err);
	free(data);
	return r;
}

static void nvme_close(struct disk *disk)
{
	/* The raw disk is the first member, and freed as the whole. */
	raw_close(disk);
}

/* The drive knows no parts of blocks, and whoever asks for one was told how large they are. */
static int nvme_start(struct disk_queue *q, struct disk_request *rq)
{
	const struct nvme_disk *n = nvme_of(raw_queue_disk(q));

	if (rq->op != DISK_FLUSH && (rq->offset | rq->len) & (n->block - 1))
		return -EINVAL;
	return raw_queue_start(q, rq);
}

static const struct disk_ops nvme_ops = {
	.info = raw_info,
	.queue_create = raw_queue_create,
	.queue_destroy = raw_queue_destroy,
	.queue_attach = raw_queue_attach,
	.queue_detach = raw_queue_detach,
	.start = nvme_start,
	.submit = raw_queue_submit,
	.poll = raw_queue_poll,
	.gather = raw_queue_gather,
	.drain = raw_queue_drain,
	.fds = raw_fds,
	.forked = raw_forked,
	.queue_forked = raw_queue_forked,
	.close = nvme_close,
};

void nvme_init(struct nvme_disk *n)
{
	n->raw.disk.ops = &nvme_ops;
	n->raw.disk.main_syscalls = raw_main_syscalls;
	n->raw.pass = &nvme_pass;
	n->raw.fd = n->raw.buffered_fd = n->raw.life_fd = n->raw.eol_fd = -1;
	/* No transfer is one that the kernel knows. */
	n->raw.mem_mask = n->raw.file_mask = UINT32_MAX;
}

int disk_nvme_open(struct disk **ret, const struct disk_raw_config *config, struct error *err)
{
	struct nvme_disk *n = calloc(1, sizeof(*n));
	int r;

	if (!n)
		return error_set(err, ENOMEM, "out of memory");
	nvme_init(n);
	n->raw.forks = config->forks;
	r = open_namespace(n, config, err);
	if (r) {
		nvme_close(&n->raw.disk);
		return r;
	}
	*ret = &n->raw.disk;
	return 0;
}
