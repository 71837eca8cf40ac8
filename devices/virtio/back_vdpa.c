/*
 * A vDPA device behind the front. All it is told it is told by a worker of its own, since some of
 * that waits for hardware or for another program.
 *
 *   RESET ── set_features ──▶ SET_UP ── ready ──▶ RUNNING ── first queue_stop ──▶ STOPPED or RESET
 *                             queue_start: rings described and enabled
 *
 * The device runs and stops as a whole, so the first queue that is stopped stops it: suspended if
 * it can be, and then it is resumed when the same queues come back with the same features.
 * Otherwise a disk is given a second to finish what is in the rings, and the device is reset; a
 * split ring goes on behind what it has returned. A driver that takes one queue back and goes on
 * with the others finds a device that needs a reset.
 *
 * Guest addresses are the device's addresses, one to one: regions of RAM are mapped by messages
 * (IOTLB) when the device is made, before the limit of locked memory falls to 0 with the sandbox. A
 * reset leaves them mapped if the kernel says so (IOTLB_PERSIST), else they are mapped again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "devices/virtio/vdpa.h"
#include "devices/virtio/vhost.h"
#include "vmm/log.h"

/* Of newer kernels than some headers that we are built with. */
#ifndef VHOST_VDPA_RESUME
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif

enum {
	DRAIN_TURNS = 1000,
	TURN_NS = 1000000,
	NS_PER_S = 1000000000,
	SOURCES = 1,             /* the config interrupt */
};

enum phase { RESET, SET_UP, RUNNING, STOPPED };

struct ring {
	struct queue_setup setup;    /* worker */
	bool started;                /* worker; between queue_start and queue_stop */
};

struct back_vdpa {
	struct back back;            /* first */
	struct vdpa *v;              /* const */
	struct worker *worker;       /* const */
	struct mem_listener listener;/* main */
	struct mem_region region[MEM_REGIONS_MAX]; /* main; RAM that the device shall reach */
	unsigned nregions;           /* main */
	bool mapped;                 /* worker; it does */
	int config_fd;               /* const; the device rings it */
	struct loop_source *config;  /* worker */
	enum phase phase;            /* worker */
	uint64_t features;           /* worker; since set_features */
	struct ring ring[VIRTIO_QUEUES_MAX];
};

static const struct syscall_row vdpa_syscalls[] = {
	VHOST_ROW(VHOST_VDPA_SET_STATUS, "vDPA: start and reset the device"),
	VHOST_ROW(VHOST_VDPA_GET_STATUS, "vDPA: did it take that"),
	VHOST_ROW(VHOST_SET_FEATURES, "vDPA: what the driver negotiated"),
	VHOST_RING_ROWS,
	VHOST_ROW(VHOST_VDPA_SET_VRING_ENABLE, "vDPA: a ring is ready"),
	VHOST_ROW(VHOST_VDPA_SET_CONFIG_CALL, "vDPA: the eventfd for changes of its configuration"),
	VHOST_ROW(VHOST_VDPA_GET_CONFIG, "vDPA: its configuration"),
	VHOST_ROW(VHOST_VDPA_SET_CONFIG, "vDPA: the driver writes its configuration"),
	VHOST_ROW(VHOST_VDPA_SUSPEND, "vDPA: a pause"),
	VHOST_ROW(VHOST_VDPA_RESUME, "vDPA: the end of a pause"),
	{ SYSCALL(write, "vDPA: maps of the guest's memory; a first look at the rings") },
	{ SYSCALL(clock_nanosleep, "vDPA: until a device that cannot be suspended has finished") },
	SYSCALL_END,
};

static struct back_vdpa *to_vdpa(struct back *b)
{
	return (struct back_vdpa *)b;
}

/* --- memory; the worker, or main before it runs --- */

static int message(const struct back_vdpa *b, uint8_t type, const struct mem_region *region)
{
	struct vhost_msg_v2 m = { .type = VHOST_IOTLB_MSG_V2 };

	m.iotlb.type = type;
	if (region) {
		m.iotlb.iova = region->gpa;
		m.iotlb.size = region->size;
		m.iotlb.uaddr = type == VHOST_IOTLB_UPDATE ? (uintptr_t)region->host : 0;
		m.iotlb.perm = VHOST_ACCESS_RW;
	}
	return vhost_message(b->v->fd, &m, sizeof(m));
}

/* All regions, as one change where the kernel knows of such a thing. */
static int message_all(const struct back_vdpa *b, uint8_t type)
{
	bool batch = vdpa_can(b->v, VDPA_BACKEND_F_IOTLB_BATCH);
	int r = batch ? message(b, VHOST_IOTLB_BATCH_BEGIN, NULL) : 0, end;

	for (unsigned i = 0; i < b->nregions && r == 0; i++)
		r = message(b, type, &b->region[i]);
	end = batch ? message(b, VHOST_IOTLB_BATCH_END, NULL) : 0;
	return r < 0 ? r : end;
}

static int map(struct back_vdpa *b)
{
	int r = message_all(b, VHOST_IOTLB_UPDATE);

	b->mapped = r == 0;
	return r;
}

/* --- worker --- */

static int set_status(const struct back_vdpa *b, uint8_t status)
{
	return vhost_call(b->v->fd, VHOST_VDPA_SET_STATUS, &status);
}

static uint8_t get_status(const struct back_vdpa *b)
{
	uint8_t status = 0;

	vhost_call(b->v->fd, VHOST_VDPA_GET_STATUS, &status);
	return status;
}

static int reset_device(struct back_vdpa *b)
{
	int r;

	if (b->phase == RESET)
		return 0;
	r = set_status(b, 0);
	b->phase = RESET;
	if (r == 0 && b->mapped && !vdpa_can(b->v, VDPA_BACKEND_F_IOTLB_PERSIST)) {
		message_all(b, VHOST_IOTLB_INVALIDATE);
		b->mapped = false;
	}
	return r;
}

static void on_config(void *ctx)
{
	struct back_vdpa *b = ctx;
	struct virtio_device *dev = b->back.dev;

	if (b->phase == RUNNING && (get_status(b) & VIRTIO_S_NEEDS_RESET)) {
		log_guest(LOG_WARN, "%s: the device at %s says that it needs a reset", dev->id, b->v->path);
		dev->broken(dev);
		return;
	}
	if (vdpa_read_config(b->v) == 0)
		dev->config_changed(dev);
}

static int negotiate(struct back_vdpa *b, uint64_t features)
{
	const uint8_t driver = VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER;
	/* The kernel translates for it; the guest was not asked. */
	uint64_t all = features | (b->v->features & VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM));
	int r = set_status(b, driver);

	b->phase = SET_UP;
	if (r == 0)
		r = vhost_call(b->v->fd, VHOST_SET_FEATURES, &all);
	if (r == 0)
		r = set_status(b, driver | VIRTIO_S_FEATURES_OK);
	if (r == 0 && !(get_status(b) & VIRTIO_S_FEATURES_OK))
		r = -ENOTSUP;
	if (r == 0)
		r = vhost_call(b->v->fd, VHOST_VDPA_SET_CONFIG_CALL, &b->config_fd);
	/* After a load the image says what another device had. */
	if (r == 0)
		r = vdpa_read_config(b->v);
	if (r < 0)
		reset_device(b);
	return r;
}

struct call {
	struct back_vdpa *b;
	uint64_t features;
	unsigned index, offset, len;
	const struct queue_setup *setup;
	struct queue_setup *ret;
	int result;
};

static void features_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct back_vdpa *b = c->b;
	struct virtio_device *dev = b->back.dev;

	dev->features = c->features;
	if (b->phase == STOPPED && vdpa_can(b->v, VDPA_BACKEND_F_RESUME) && c->features == b->features)
		return;
	c->result = reset_device(b);
	if (c->result == 0 && !b->config)
		c->result = loop_add_eventfd(worker_loop(b->worker), b->config_fd, on_config, b, &b->config);
	if (c->result == 0 && !b->mapped)
		c->result = map(b);
	if (c->result == 0)
		c->result = negotiate(b, c->features);
	b->features = c->features;
	if (c->result < 0)
		log_guest(LOG_WARN, "%s: the device at %s does not start: %s; it needs a reset", dev->id, b->v->path,
			strerror(-c->result));
}

/* Of a device that is only suspended nothing may have changed. */
static bool is_same(const struct queue_setup *a, const struct queue_setup *b)
{
	return a->size == b->size && a->desc == b->desc && a->avail == b->avail && a->used == b->used &&
		a->next_avail == b->next_avail && a->next_used == b->next_used && a->call_fd == b->call_fd &&
		a->kick_fd == b->kick_fd;
}

static void start_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct back_vdpa *b = c->b;
	const struct vhost_vring_state on = { c->index, 1 };
	struct ring *ring = &b->ring[c->index];

	if (b->phase == STOPPED && is_same(c->setup, &ring->setup)) {
		ring->started = true;
		return;
	}
	if (b->phase != SET_UP) {
		c->result = -EBUSY;
		return;
	}
	c->result = vhost_ring_set(b->v->fd, c->index, c->setup, b->back.dev->mem, VHOST_GUEST_ADDRESSES);
	if (c->result == 0)
		c->result = vhost_call(b->v->fd, VHOST_VDPA_SET_VRING_ENABLE, &on);
	ring->setup = *c->setup;
	ring->started = c->result == 0;
}

static void ready_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct back_vdpa *b = c->b;

	if (b->phase == SET_UP)
		c->result = set_status(b, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK |
			VIRTIO_S_DRIVER_OK);
	else if (b->phase == STOPPED)
		c->result = vhost_call(b->v->fd, VHOST_VDPA_RESUME, NULL);
	if (c->result < 0)
		return;
	b->phase = RUNNING;
	for (unsigned i = 0; i < b->back.dev->nqueues; i++)
		if (b->ring[i].started)
			vhost_ring_kick(&b->ring[i].setup);
}

/* Has the device returned all that the driver put into this split ring? */
static bool is_drained(const struct back_vdpa *b, const struct queue_setup *s)
{
	struct guest_mem *mem = b->back.dev->mem;
	uint8_t avail[2], used[2];

	return mem_read(mem, gpa(s->avail + 2), avail, 2) < 0 || mem_read(mem, gpa(s->used + 2), used, 2) < 0 ||
		!memcmp(avail, used, 2);
}

/* A disk returns all in the end; other devices keep buffers for what may come. */
static void drain(const struct back_vdpa *b)
{
	struct timespec next;
	bool busy = b->back.dev->type->id == VIRTIO_ID_BLK;

	for (unsigned turns = 0; busy && turns < DRAIN_TURNS; turns++) {
		busy = false;
		for (unsigned i = 0; i < b->back.dev->nqueues; i++)
			busy = busy || (b->ring[i].started && !is_drained(b, &b->ring[i].setup));
		/* Until a time: after a stop in the middle "for so long" is another call. */
		clock_gettime(CLOCK_MONOTONIC, &next);
		next.tv_nsec += TURN_NS;
		next.tv_sec += next.tv_nsec / NS_PER_S;
		next.tv_nsec %= NS_PER_S;
		if (busy)
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}

static void halt(struct back_vdpa *b)
{
	if (vdpa_can(b->v, VDPA_BACKEND_F_SUSPEND) && vhost_call(b->v->fd, VHOST_VDPA_SUSPEND, NULL) == 0) {
		b->phase = STOPPED;
		return;
	}
	drain(b);
	reset_device(b);
}

static void stop_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct back_vdpa *b = c->b;
	struct ring *ring = &b->ring[c->index];
	struct guest_mem *mem = b->back.dev->mem;

	if (!ring->started)
		return;
	if (b->phase == RUNNING)
		halt(b);
	if (b->phase == STOPPED)
		vhost_ring_base(b->v->fd, c->index, &ring->setup, mem, &ring->setup);
	else if (b->phase == RESET)
		vhost_ring_used(&ring->setup, mem, &ring->setup);
	ring->started = false;
	if (!c->ret)
		return;
	c->ret->next_avail = ring->setup.next_avail;
	c->ret->next_used = ring->setup.next_used;
}

static void reset_on_worker(void *ctx)
{
	struct call *c = ctx;

	c->result = reset_device(c->b);
	vdpa_read_config(c->b->v);
}

static void write_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct virtio_device *dev = c->b->back.dev;
	struct {
		struct vhost_vdpa_config head;
		uint8_t bytes[VIRTIO_CONFIG_MAX];
	} config = { .head.off = c->offset, .head.len = c->len };

	virtio_config_read(&dev->config, c->offset, config.bytes, c->len);
	vhost_call(c->b->v->fd, VHOST_VDPA_SET_CONFIG, &config);
	/* Not all that is written is taken. */
	vdpa_read_config(c->b->v);
}

/* --- front --- */

static int call(struct call *c, loop_msg_fn *fn)
{
	int r = worker_call(c->b->worker, fn, c);

	return r < 0 ? r : c->result;
}

static int set_features(struct back *b, uint64_t features)
{
	return call(&(struct call){ .b = to_vdpa(b), .features = features }, features_on_worker);
}

static int queue_start(struct back *b, const struct queue_setup *setup)
{
	return call(&(struct call){ .b = to_vdpa(b), .index = setup->index, .setup = setup }, start_on_worker);
}

static int queue_stop(struct back *b, unsigned index, struct queue_setup *ret)
{
	return call(&(struct call){ .b = to_vdpa(b), .index = index, .ret = ret }, stop_on_worker);
}

static int ready(struct back *b)
{
	return call(&(struct call){ .b = to_vdpa(b) }, ready_on_worker);
}

static void reset(struct back *b)
{
	call(&(struct call){ .b = to_vdpa(b) }, reset_on_worker);
}

static void config_written(struct back *b, unsigned offset, unsigned len)
{
	call(&(struct call){ .b = to_vdpa(b), .offset = offset, .len = len }, write_on_worker);
}

/* What the device keeps for itself cannot be had: rings and registers are the front's. */
static int save(struct back *b, struct state_writer *w)
{
	(void)b;
	(void)w;
	return 0;
}

static int load(struct back *b, struct state_reader *r, struct error *err)
{
	(void)b;
	(void)r;
	(void)err;
	return 0;
}

/* --- main --- */

static void destroy(struct back *back)
{
	struct back_vdpa *b = to_vdpa(back);

	for (unsigned i = 0; b->worker && i < back->dev->nqueues; i++)
		queue_stop(back, i, NULL);
	mem_unlisten(back->dev->mem, &b->listener);
	loop_remove(b->config);
	if (b->config_fd >= 0)
		close(b->config_fd);
	free(b);
}

static const struct back_ops back_vdpa_ops = {
	.set_features = set_features,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.config_written = config_written,
	.reset = reset,
	.ready = ready,
	.save = save,
	.load = load,
	.destroy = destroy,
};

static int map_failed(const struct back_vdpa *b, int code, struct error *err)
{
	const struct vdpa *v = b->v;
	struct rlimit limit = { 0, 0 };

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (code == ENOMEM)
		return error_set(err, code, "--%s vdpa=%s: the guest's %llu MiB cannot be locked for the device, "
			"the limit is %llu KiB; raise it with ulimit -l, or give the guest less memory", v->flag, v->path,
			(unsigned long long)(mem_ram_size(v->dev.mem) / MIB),
			(unsigned long long)(limit.rlim_cur / KIB));
	return error_set(err, code, "--%s vdpa=%s: the guest's memory cannot be mapped for the device: %s", v->flag,
		v->path, strerror(code));
}

static void map_on_worker(void *ctx)
{
	struct call *c = ctx;

	/* Else it is mapped with the rest. */
	if (c->b->mapped)
		c->result = message(c->b, VHOST_IOTLB_UPDATE, &c->b->region[c->index]);
}

static void unmap_on_worker(void *ctx)
{
	struct call *c = ctx;

	if (c->b->mapped)
		c->result = message(c->b, VHOST_IOTLB_INVALIDATE, &c->b->region[c->index]);
}

static void remove_region(struct mem_listener *self, const struct mem_region *region)
{
	struct back_vdpa *b = container_of(self, struct back_vdpa, listener);
	unsigned i = 0;

	while (i < b->nregions && b->region[i].gpa != region->gpa)
		i++;
	if (i == b->nregions)
		return;
	call(&(struct call){ .b = b, .index = i }, unmap_on_worker);
	b->region[i] = b->region[--b->nregions];
}

static int add_region(struct mem_listener *self, const struct mem_region *region, struct error *err)
{
	struct back_vdpa *b = container_of(self, struct back_vdpa, listener);
	const struct vdpa *v = b->v;
	int r;

	if (region->kind != MEM_RAM)
		return 0;
	if (region->gpa < v->iova_first || region->gpa + (region->size - 1) > v->iova_last)
		return error_set(err, ERANGE, "--%s vdpa=%s: the device reaches addresses from %#llx to %#llx, and the "
			"guest has memory at %#llx; give the guest less memory", v->flag, v->path,
			(unsigned long long)v->iova_first, (unsigned long long)v->iova_last,
			(unsigned long long)(region->gpa + (region->size - 1)));
	if (b->nregions == MEM_REGIONS_MAX)
		return error_set(err, ENOSPC, "--%s vdpa=%s: too many regions of memory", v->flag, v->path);
	b->region[b->nregions] = *region;
	r = call(&(struct call){ .b = b, .index = b->nregions }, map_on_worker);
	if (r < 0)
		return map_failed(b, -r, err);
	b->nregions++;
	return 0;
}

static int find_worker(struct back_vdpa *b, const struct device_env *env, struct error *err)
{
	char name[16];
	int r;

	snprintf(name, sizeof(name), "%.10s_vdpa", b->back.dev->id);
	r = env->worker(env, name, WORKER_ALONE, &b->worker, err);
	if (r < 0)
		return r;
	r = worker_allow(b->worker, vdpa_syscalls);
	if (r == 0)
		r = loop_reserve(worker_loop(b->worker), SOURCES, 0);
	return r == 0 ? 0 : error_set(err, -r, "%s: out of memory", b->back.dev->id);
}

int back_vdpa_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err)
{
	struct back_vdpa *b = calloc(1, sizeof(*b));
	int r = 0;

	if (!b)
		return error_set(err, ENOMEM, "%s: out of memory", dev->id);
	b->back = (struct back){ .ops = &back_vdpa_ops, .dev = dev };
	b->v = container_of(dev, struct vdpa, dev);
	b->config_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	b->listener = (struct mem_listener){ .add = add_region, .remove = remove_region };
	if (b->config_fd < 0)
		r = error_set(err, errno, "%s: no file descriptor: %s", dev->id, strerror(errno));
	if (r == 0)
		r = find_worker(b, env, err);
	if (r == 0)
		r = mem_listen(dev->mem, &b->listener, err);
	if (r == 0) {
		r = map(b);
		r = r < 0 ? map_failed(b, -r, err) : 0;
	}
	if (r < 0) {
		destroy(&b->back);
		return r;
	}
	dev->offered &= b->v->features;
	if (!vdpa_can(b->v, VDPA_BACKEND_F_SUSPEND))
		dev->offered &= ~VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	*ret = &b->back;
	return 0;
}
