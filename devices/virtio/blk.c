/*
 * virtio-blk (virtio 1.2 §5.2): the device, its options and its config space; what it does with
 * requests is in blk_request.c.
 *
 * Each queue has its own worker, its own slots for requests and its own disk queue; queues share
 * nothing but the write-cache switch. A slot exists for every descriptor a queue can have, so that
 * a popped chain always finds one and no memory is allocated while the guest runs. Main makes all
 * of it; from queue_start on it belongs to the worker.
 */
#include "devices/virtio/blk.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "devices/host/disk_open.h"
#include "devices/virtio/types.h"
#include "devices/virtio/vdpa.h"

static int blk_queue_start(struct virtio_device *dev, struct queue *q)
{
	struct blk *blk = container_of(dev, struct blk, dev);
	struct blk_queue *bq = &blk->queues[queue_index(q)];
	int r = blk->disk->ops->queue_attach(bq->disk_queue, queue_loop(q));

	if (r)
		return r;
	r = blk_later_start(bq, q);
	if (r) {
		blk->disk->ops->queue_detach(bq->disk_queue);
		return r;
	}
	bq->queue = q;
	bq->stopping = false;
	bq->send_at = BLK_SEND;
	/* Nothing is held yet. */
	bq->retried = atomic_load_explicit(&virtio_hold(dev)->retries, memory_order_relaxed);
	bq->zoned = blk->info.zoned.zone_size && virtio_has(dev, BLK_F_ZONED);
	/* After a load the image still says what create() wrote. */
	if (queue_index(q) == 0)
		virtio_config_write(&dev->config, offsetof(struct blk_config, writeback),
			&blk->writeback, 1);
	return 0;
}

static void blk_queue_stop(struct virtio_device *dev, struct queue *q)
{
	struct blk *blk = container_of(dev, struct blk, dev);
	struct blk_queue *bq = &blk->queues[queue_index(q)];

	blk_later_stop(bq);
	blk_error_stop(bq);
	blk->disk->ops->drain(bq->disk_queue);
	/* After that: a write that a zone refused is looked at by the slow thread. */
	blk_slow_stop(bq);
	blk->disk->ops->queue_detach(bq->disk_queue);
	blk_push_finished(bq);
	queue_flush(q);
	bq->queue = NULL;
}

bool blk_config_writable(const struct virtio_device *dev, unsigned offset, unsigned len)
{
	return (dev->offered & VIRTIO_BIT(BLK_F_CONFIG_WCE)) && len == 1 &&
		offset == offsetof(struct blk_config, writeback);
}

static void blk_config_written(struct virtio_device *dev, unsigned offset, unsigned len)
{
	struct blk *blk = container_of(dev, struct blk, dev);
	uint8_t v;

	(void)offset;
	(void)len;
	virtio_config_read(&dev->config, offsetof(struct blk_config, writeback), &v, 1);
	__atomic_store_n(&blk->writeback, v ? 1 : 0, __ATOMIC_RELAXED);
}

static void fill_config(struct blk *blk)
{
	const struct disk_info *info = &blk->info;
	struct blk_config c = {
		.capacity = info->size / BLK_SECTOR,
		.seg_max = blk->max_iov - BLK_IOV_EXTRA,
		.blk_size = info->block_size,
		.physical_block_exp =
			(uint8_t)__builtin_ctz(info->physical_block / info->block_size),
		.min_io_size = (uint16_t)(info->physical_block / info->block_size),
		.writeback = blk->writeback,
		.num_queues = blk->dev.nqueues,
	};

	if (info->can_discard) {
		c.max_discard_sectors = BLK_DISCARD_MAX;
		c.max_discard_seg = BLK_RANGES_MAX;
		c.discard_sector_alignment = MAX(info->discard_granularity / BLK_SECTOR, 1u);
	}
	if (info->can_write_zeroes) {
		c.max_write_zeroes_sectors = BLK_ZEROES_MAX;
		c.max_write_zeroes_seg = BLK_RANGES_MAX;
		c.write_zeroes_may_unmap = info->can_discard;
	}
	if (info->can_secure_erase) {
		c.max_secure_erase_sectors = BLK_DISCARD_MAX;
		c.max_secure_erase_seg = BLK_RANGES_MAX;
		c.secure_erase_sector_alignment = info->block_size / BLK_SECTOR;
	}
	if (info->zoned.zone_size)
		blk_zoned_config(blk, &c);
	virtio_config_write(&blk->dev.config, 0, &c, sizeof(c));
}

uint64_t blk_size(const struct blk *blk)
{
	return __atomic_load_n(&blk->info.size, __ATOMIC_RELAXED);
}

int blk_resize(struct virtio_device *dev)
{
	struct blk *blk = container_of(dev, struct blk, dev);
	uint64_t size, capacity;
	int r = blk->disk->ops->resize ? blk->disk->ops->resize(blk->disk, &size) : -EOPNOTSUPP;

	if (r || size == blk_size(blk))
		return r;
	__atomic_store_n(&blk->info.size, size, __ATOMIC_RELAXED);
	capacity = size / BLK_SECTOR;
	virtio_config_write(&dev->config, offsetof(struct blk_config, capacity), &capacity, sizeof(capacity));
	dev->config_changed(dev);
	return 0;
}

static uint64_t extra_features(const struct blk *blk)
{
	uint64_t f = 0;

	f |= blk->info.readonly ? VIRTIO_BIT(BLK_F_RO) : VIRTIO_BIT(BLK_F_CONFIG_WCE);
	f |= blk->dev.nqueues > 1 ? VIRTIO_BIT(BLK_F_MQ) : 0;
	f |= blk->info.can_discard ? VIRTIO_BIT(BLK_F_DISCARD) : 0;
	f |= blk->info.can_write_zeroes ? VIRTIO_BIT(BLK_F_WRITE_ZEROES) : 0;
	f |= blk->info.can_secure_erase ? VIRTIO_BIT(BLK_F_SECURE_ERASE) : 0;
	f |= blk->info.has_lifetime ? VIRTIO_BIT(BLK_F_LIFETIME) : 0;
	f |= blk->info.zoned.zone_size ? VIRTIO_BIT(BLK_F_ZONED) : 0;
	return f;
}

static int make_queue(struct blk *blk, struct blk_queue *bq, struct error *err)
{
	const struct disk_events events = {
		.done = blk_on_done,
		.batch_done = blk_on_batch_done,
		.ctx = bq,
	};
	unsigned n = blk->dev.queue_size;

	bq->blk = blk;
	/*
	 * Untouched pages of these cost nothing: slots are written when they are first taken, and
	 * the free list is a stack, so a lightly used queue uses few.
	 */
	bq->requests = malloc(n * sizeof(*bq->requests));
	bq->iov = calloc((size_t)n * blk->max_iov, sizeof(*bq->iov));
	if (!bq->requests || !bq->iov)
		return error_set(err, ENOMEM, "out of memory for %u requests", n);
	return blk->disk->ops->queue_create(&bq->disk_queue, blk->disk, n, &events, err);
}

/* All RAM, by region. */
static unsigned all_ram(const struct guest_mem *mem, struct iovec *ret)
{
	unsigned n = 0;

	for (unsigned i = 0; i < mem_region_count(mem); i++) {
		const struct mem_region *r = mem_region(mem, i);

		if (r->kind == MEM_RAM)
			ret[n++] = (struct iovec){ r->host, r->size };
	}
	return n;
}

/* `path` or `null`, one of them. */
static int open_disk(struct disk **ret, const struct blk_options *o, const struct virtio_device *dev,
	struct error *err)
{
	struct iovec ram[MEM_REGIONS_MAX];
	const struct disk_config config = {
		.fixed = ram,
		.nfixed = o->fixed_buffers ? all_ram(dev->mem, ram) : 0,
		.path = o->path,
		.format = o->format,
		.readonly = o->readonly,
		.direct = o->direct,
		.backing_files = o->backing_files,
		.overlay = o->overlay,
		.ephemeral = o->ephemeral,
		.forks = dev->isolated,
	};
	const struct disk_null_config null = {
		.size = o->null_size,
		.readonly = o->readonly,
		.read_zeroes = o->read_zeroes,
	};
	int r;

	if (o->path && o->null_size)
		return error_set(err, EINVAL,
			"--disk path=%s,null=%llu: a disk is a file or none at all; leave out one of the two",
			o->path, (unsigned long long)o->null_size);
	r = vhost_user_check_options(&o->vhost_user, "disk", err);
	if (r)
		return r;
	if (!o->path && !o->null_size)
		return error_set(err, EINVAL,
			"--disk: what the disk is, is not said; add path=FILE, null=SIZE, socket=PATH or vdpa=PATH");
	if (!o->path && o->fixed_buffers)
		return error_set(err, EINVAL, "--disk null=%llu,fixed_buffers=on: there is no file to read into buffers; leave it out",
			(unsigned long long)o->null_size);
	if (!o->path) {
		r = disk_null_open(ret, &null, err);
		return r ? error_prefix(err, r, "--disk null=%llu", (unsigned long long)o->null_size) : 0;
	}
	r = disk_open(ret, &config, err);
	return r ? error_prefix(err, r, "--disk path=%s", o->path) : 0;
}

/* A CPU that this process may not use would only be found when the machine starts. */
static int bind_queues(struct blk *blk, const struct option_ints *list, struct error *err)
{
	cpu_set_t allowed;

	if (list->n > BLK_QUEUES_MAX)
		return error_set(err, EINVAL, "--disk affinity: %u CPUs; at most %d queues can be bound", list->n,
			BLK_QUEUES_MAX);
	if (list->n && sched_getaffinity(0, sizeof(allowed), &allowed))
		return error_set(err, errno, "--disk affinity: the host does not say which CPUs may be used: %s",
			strerror(errno));
	for (uint32_t i = 0; i < list->n; i++) {
		if (list->v[i] >= CPU_SETSIZE || !CPU_ISSET(list->v[i], &allowed))
			return error_set(err, EINVAL,
				"--disk affinity: CPU %u is none that this process may use; see taskset -p $$",
				list->v[i]);
		blk->cpus[i] = list->v[i];
	}
	blk->dev.cpus = blk->cpus;
	blk->dev.ncpus = list->n;
	return 0;
}

static int blk_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	const struct blk_options *o = options;
	struct blk *blk = container_of(dev, struct blk, dev);
	int r;

	if (o->serial && strlen(o->serial) > BLK_SERIAL_LEN)
		return error_set(err, EINVAL, "--disk serial=%s: longer than %d bytes; shorten it",
			o->serial, BLK_SERIAL_LEN);
	/* Not a string for the guest: 20 bytes, with a NUL only when there is room. */
	if (o->serial)
		memcpy(blk->serial, o->serial, strlen(o->serial));
	r = bind_queues(blk, &o->affinity, err);
	if (r)
		return r;
	r = open_disk(&blk->disk, o, dev, err);
	if (r)
		return r;
	blk->disk->ops->info(blk->disk, &blk->info);
	if (dev->isolated && blk->info.zoned.zone_size)
		return error_set(err, EINVAL,
			"--disk path=%s: the zones of a disk are looked after by a thread of this program; say isolation=thread",
			o->path);
	/* They are that thread's too. */
	blk->info.can_secure_erase &= !dev->isolated;
	blk->info.has_lifetime &= !dev->isolated;
	blk->max_iov = MIN(MAX(dev->queue_size, 3u) - 2u, (unsigned)BLK_SEG_MAX) + BLK_IOV_EXTRA;
	blk->writeback = 1;
	dev->locks_memory = o->fixed_buffers;
	blk->on_error = (enum blk_on_error)o->on_error;
	dev->nqueues = (uint16_t)o->num_queues;
	dev->poll_ns = (uint64_t)o->poll_us * 1000;
	dev->features |= extra_features(blk);
	dev->required = blk->info.zoned.zone_size ? VIRTIO_BIT(BLK_F_ZONED) : 0;
	fill_config(blk);
	for (unsigned i = 0; i < dev->nqueues; i++) {
		r = make_queue(blk, &blk->queues[i], err);
		if (r)
			return error_prefix(err, r, "--disk path=%s", o->path);
	}
	r = blk_later_create(blk, env, &o->rate, err);
	if (r == 0)
		r = blk_slow_create(blk, env, err);
	if (r)
		return r;
	memcpy(dev->syscalls, blk->disk->syscalls, sizeof(blk->disk->syscalls));
	dev->forked_syscalls = blk->disk->forked_syscalls;
	dev->pages = blk->disk->pages;
	dev->pages_bytes = blk->disk->pages_bytes;
	return device_main_calls(env, blk->disk->main_syscalls, err);
}

/* --- a process of its own --- */

static void blk_fds(const struct virtio_device *dev, void (*keep)(void *ctx, int fd), void *ctx)
{
	const struct blk *blk = (const struct blk *)dev;

	blk->disk->ops->fds(blk->disk, keep, ctx);
	for (unsigned i = 0; i < dev->nqueues; i++)
		keep(ctx, blk->queues[i].timer_fd);
}

_Static_assert((int)DISK_KEPT_MAX <= (int)VIRTIO_KEPT_MAX, "a disk keeps what its device does");

static int blk_forked(struct virtio_device *dev, const struct virtio_life *life, struct error *err)
{
	struct blk *blk = container_of(dev, struct blk, dev);
	int r = 0;

	/* What the life before held is in the ring. */
	atomic_store_explicit(&virtio_hold(dev)->held, 0, memory_order_relaxed);
	blk->disk->ops->forked(blk->disk, life->kept);
	for (unsigned i = 0; i < dev->nqueues && !r; i++)
		r = blk->disk->ops->queue_forked(blk->queues[i].disk_queue, life->tomb);
	if (r == -ENOSYS)
		return error_set(err, ENOSYS, "its disk's queues cannot be made; raise ulimit -l");
	return r ? error_set(err, -r, "its disk cannot be taken over: %s", strerror(-r)) : 0;
}

static void blk_destroy(struct virtio_device *dev)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	for (unsigned i = 0; i < BLK_QUEUES_MAX; i++) {
		if (blk->disk)
			blk->disk->ops->queue_destroy(blk->queues[i].disk_queue);
		free(blk->queues[i].requests);
		free(blk->queues[i].iov);
	}
	if (blk->disk)
		blk->disk->ops->close(blk->disk);
	blk_later_destroy(blk);
}

/* In the order of enum disk_format. */
static const char *const blk_formats[] = { "raw", "qcow2", NULL };

/*
 * In the order of enum blk_on_error. A full file system is the one failure that somebody on the
 * host can undo while the guest loses nothing by waiting; told of it, most guests would give up
 * their root. Other errors are news that the guest has its own ways with.
 */
static const char *const blk_on_errors[] = { "enospc", "report", "pause", NULL };

static const struct option_row blk_rows[] = {
	{ .key = "path", .type = OPTION_PATH, .offset = offsetof(struct blk_options, path),
		.help = "image, block device, or NVMe namespace (/dev/ngXnY)" },
	{ .key = "format", .type = OPTION_ENUM, .offset = offsetof(struct blk_options, format),
		.def = "raw", .choices = blk_formats,
		.help = "what the bytes of the image are; never guessed" },
	{ .key = "backing_files", .type = OPTION_BOOL,
		.offset = offsetof(struct blk_options, backing_files), .def = "off",
		.help = "a qcow2 image may have other files opened that it names" },
	{ .key = "overlay", .type = OPTION_PATH, .offset = offsetof(struct blk_options, overlay),
		.help = "qcow2 image that takes all writes, path is only read; made when missing" },
	{ .key = "ephemeral", .type = OPTION_BOOL, .offset = offsetof(struct blk_options, ephemeral),
		.def = "off",
		.help = "writes go to a file without a name in $TMPDIR, gone with the machine" },
	{ .key = "null", .type = OPTION_SIZE, .offset = offsetof(struct blk_options, null_size),
		.min = 512, .max = UINT64_C(1) << 60, .unit = "bytes",
		.help = "instead of path: a disk of that size that keeps nothing, for measuring" },
	{ .key = "vdpa", .type = OPTION_PATH, .offset = offsetof(struct blk_options, vdpa),
		.help = "instead of path: a vDPA device, /dev/vhost-vdpa-N, whose own virtio-blk the guest drives" },
	{ .key = "read_zeroes", .type = OPTION_BOOL, .def = "on",
		.offset = offsetof(struct blk_options, read_zeroes),
		.help = "of null: reads give zeroes; off leaves the guest's buffer as it is" },
	{ .key = "readonly", .type = OPTION_BOOL, .offset = offsetof(struct blk_options, readonly),
		.def = "off",
		.help = "the guest may not write; several machines may share the disk" },
	{ .key = "direct", .type = OPTION_BOOL, .offset = offsetof(struct blk_options, direct),
		.def = "off",
		.help = "past the host's page cache" },
	{ .key = "serial", .type = OPTION_STRING, .offset = offsetof(struct blk_options, serial),
		.help = "serial number the guest sees, at most 20 bytes" },
	{ .key = "num_queues", .type = OPTION_U32,
		.offset = offsetof(struct blk_options, num_queues), .def = "1", .min = 1,
		.max = BLK_QUEUES_MAX, .unit = "queues",
		.help = "queues, each with a thread of its own" },
	{ .key = "poll", .type = OPTION_U32, .offset = offsetof(struct blk_options, poll_us),
		.def = "32" /* BLK_POLL_US */, .max = 10000, .unit = "microseconds",
		.help = "look that long at most, where requests follow closely, before sleeping; 0: never" },
	{ .key = "fixed_buffers", .type = OPTION_BOOL, .offset = offsetof(struct blk_options, fixed_buffers),
		.def = "off",
		.help = "register the guest's memory with io_uring: less work for each request, all of it locked" },
	{ .key = "affinity", .type = OPTION_INTS, .offset = offsetof(struct blk_options, affinity),
		.unit = "CPUs",
		.help = "CPUs of the host for the queues' threads, [2,3]: one each, in turn" },
	{ .key = "on_error", .type = OPTION_ENUM, .offset = offsetof(struct blk_options, on_error),
		.def = "enospc", .choices = blk_on_errors,
		.help = "when the host fails: tell the guest, or pause the machine until SIGUSR2 and "
			"try again; enospc: pause when the host's disk is full, tell of all else" },
	RATE_DEVICE_OPTION_ROWS(struct blk_options, rate),
	VHOST_USER_OPTION_ROWS(struct blk_options, vhost_user),
	VIRTIO_OPTION_ROWS("128"),
	OPTION_ROWS_END,
};

const struct option_group blk_group = {
	.flag = "disk",
	.json = "disks",
	.kind = OPTION_MANY,
	.size = sizeof(struct blk_options),
	.rows = blk_rows,
	.help = "a disk",
	.section = "Devices",
};

static int blk_check(const void *object, struct error *err)
{
	const struct blk *blk = object;

	if (blk->writeback > 1)
		return error_set(err, EINVAL, "virtio-blk: writeback is %u, not 0 or 1",
			blk->writeback);
	return 0;
}

static const struct state_field blk_fields[] = { STATE_FIELD(struct blk, writeback), STATE_END };

static const struct state_desc blk_state = {
	.name = "virtio-blk",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct blk),
	.fields = blk_fields,
	.check = blk_check,
};

const struct virtio_type virtio_blk_type = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLK,
	.pci_class = 0x018000, /* mass storage, other */
	.features = VIRTIO_BIT(BLK_F_SEG_MAX) | VIRTIO_BIT(BLK_F_BLK_SIZE) |
		VIRTIO_BIT(BLK_F_FLUSH) | VIRTIO_BIT(BLK_F_TOPOLOGY),
	.nqueues = BLK_QUEUES_MAX,
	.queues_per_worker = 1,
	.share = WORKER_BUSY,
	.thread_suffix = "q",
	.size = sizeof(struct blk),
	.config_size = sizeof(struct blk_config),
	.options = &blk_group,
	.syscalls = blk_syscalls,
	.state = &blk_state,
	.create = blk_create,
	.queue_start = blk_queue_start,
	.handle = blk_handle,
	.queue_stop = blk_queue_stop,
	.poll = blk_poll,
	.gather = blk_gather,
	.retry = blk_retry,
	.held = blk_held,
	.config_written = blk_config_written,
	.config_writable = blk_config_writable,
	.may_fork = true,
	.may_post = 1u << VM_EVENT_PAUSE,
	.fds = blk_fds,
	.forked = blk_forked,
	.destroy = blk_destroy,
};

const char *blk_own_option(const struct blk_options *o)
{
	const struct {
		bool given;
		const char *key;
	} all[] = {
		{ o->path, "path" },
		{ o->null_size, "null" },
		{ o->overlay, "overlay" },
		{ o->ephemeral, "ephemeral" },
		{ o->backing_files, "backing_files" },
		{ o->format, "format" },
		{ o->serial, "serial" },
		{ o->readonly, "readonly" },
		{ o->direct, "direct" },
		{ o->poll_us != BLK_POLL_US, "poll" },
		{ o->affinity.n, "affinity" },
		{ o->fixed_buffers, "fixed_buffers" },
		{ o->on_error != BLK_ON_ERROR_ENOSPC, "on_error" },
		{ o->rate.group, "rate_group" },
		{ o->rate.own.bw_size, "bw_size" },
		{ o->rate.own.ops_size, "ops_size" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].given)
			return all[i].key;
	return NULL;
}

static int row_create(struct device **ret, const struct device_env *env, const void *options,
	struct error *err)
{
	const struct blk_options *o = options;
	const struct vdpa_choice choice = {
		.id = VIRTIO_ID_BLK,
		.path = o->vdpa,
		.other = o->vhost_user.socket ? "socket" : o->num_queues > 1 ? "num_queues" : blk_own_option(o),
		.virtio = &o->virtio,
		.type = o->vhost_user.socket ? &virtio_blk_vhost_user_type : &virtio_blk_type,
	};
	int r = vdpa_create_or(ret, &virtio_blk_row, &choice, env, options, err);

	if (r == 0)
		(*ret)->cmdline = o->readonly ? "root=/dev/vda ro" : "root=/dev/vda rw";
	return r;
}

const struct device_type virtio_blk_row = {
	.name = "virtio-blk",
	.options = &blk_group,
	.id_prefix = "_disk",
	.state = &blk_state,
	.shares_memory = blk_shares_memory,
	.create = row_create,
};
