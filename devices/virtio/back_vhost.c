/*
 * vhost-net (linux/vhost.h): each fd is a device of two rings, receive and transmit, which a thread
 * of the kernel serves with the tap that is given to it. A kick goes from the guest to that thread
 * and an interrupt from it to the guest, by the eventfds of the queue: no packet passes us.
 *
 *   set_features   once: owner and memory table; then the features
 *   queue_start    NUM, BASE, ADDR, CALL, KICK, ERR; then the tap, when the device has one for it
 *   queue_stop     the tap taken away, which waits for what is in flight; the index read back
 *
 * The kernel becomes ours (SET_OWNER) at the first set_features and not when it is opened: its
 * thread counts as one of this process, and stage 3 of the sandbox needs a process with one.
 *
 * A ring whose rules the driver breaks is reported by an eventfd. All taps are taken away then, and
 * the device asks for a reset.
 */
#include "devices/virtio/back_vhost.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/vhost.h"
#include "vmm/log.h"

enum {
	RINGS_PER_FD = 2,
	FEATURE_MRG_RXBUF = 15,  /* virtio 1.2 §5.1.3: it changes the length of the header */
	/* Of the device's worker, beyond its queues: per pair, and the error eventfd. */
	SOURCES_PER_FD = 3,
};

/* What the kernel must know of to be offered; other bits are between the driver and the tap. */
static const uint64_t kernels_own = VIRTIO_BIT(FEATURE_MRG_RXBUF) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) |
	VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM) |
	VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(VIRTIO_F_IN_ORDER) | VIRTIO_BIT(VIRTIO_F_RING_RESET);

struct ring {
	struct queue_setup setup;        /* worker */
	bool running;                    /* worker */
	int file;                        /* worker; the tap that the kernel has; -1: none */
};

struct back_vhost {
	struct back back;                /* first */
	struct back *inner;              /* const; our worker, for the other queues */
	struct worker *worker;           /* const */
	const struct back_vhost_hooks *hooks; /* const */
	uint64_t features, also;         /* const */
	int *fds;                        /* const */
	unsigned n;                      /* const; of fds */
	int err_fd;                      /* const; the kernel rings it when a ring is broken */
	struct mem_listener listener;    /* main */
	struct vhost_memory *table;      /* main changes it, by way of the worker */
	struct loop_source *err;         /* worker */
	bool owned, broken;              /* worker */
	struct ring ring[];              /* worker */
};

static const struct syscall_row vhost_net_syscalls[] = {
	VHOST_ROW(VHOST_SET_OWNER, "vhost: let it see the guest's memory"),
	VHOST_ROW(VHOST_SET_MEM_TABLE, "vhost: where the guest's memory lies"),
	VHOST_ROW(VHOST_SET_FEATURES, "vhost: what the driver negotiated"),
	VHOST_RING_ROWS,
	VHOST_ROW(VHOST_SET_VRING_ERR, "vhost: the eventfd for broken rings"),
	VHOST_ROW(VHOST_NET_SET_BACKEND, "vhost: give it a tap, or take it away"),
	SYSCALL_END,
};

static struct back_vhost *to_vhost(struct back *b)
{
	return (struct back_vhost *)b;
}

static int fd_of(const struct back_vhost *v, unsigned queue)
{
	return v->fds[queue / RINGS_PER_FD];
}

static struct ring *ring_of(struct back_vhost *v, unsigned queue)
{
	return queue < v->n * RINGS_PER_FD ? &v->ring[queue] : NULL;
}

/* --- worker --- */

/* The kernel has the tap that the device has for this queue. */
static int sync_file(struct back_vhost *v, unsigned queue)
{
	struct virtio_device *dev = v->back.dev;
	struct ring *ring = &v->ring[queue];
	struct vhost_vring_file backend = { queue % RINGS_PER_FD,
		ring->running && !v->broken ? v->hooks->file(dev, queue) : -1 };
	int r;

	if (backend.fd == ring->file)
		return 0;
	r = vhost_call(fd_of(v, queue), VHOST_NET_SET_BACKEND, &backend);
	/* The kernel lets go in any case. */
	if (r == 0 || backend.fd < 0)
		ring->file = backend.fd;
	return r;
}

static void break_device(struct back_vhost *v, const char *why)
{
	struct virtio_device *dev = v->back.dev;

	if (v->broken)
		return;
	v->broken = true;
	log_guest(LOG_WARN, "%s: %s; the device needs a reset", dev->id, why);
	for (unsigned i = 0; i < v->n * RINGS_PER_FD; i++)
		sync_file(v, i);
	dev->broken(dev);
}

static void on_err(void *ctx)
{
	break_device(ctx, "the driver broke the rules of a queue that the kernel serves");
}

void back_vhost_refresh(struct back *b, unsigned first, unsigned n)
{
	struct back_vhost *v = to_vhost(b);

	for (unsigned i = first; i < first + n && ring_of(v, i); i++)
		if (sync_file(v, i) < 0)
			break_device(v, "the kernel's vhost does not take the tap");
}

struct call {
	struct back_vhost *v;
	unsigned queue;
	const struct queue_setup *setup;
	struct queue_setup *ret;
	uint64_t features;
	int result;
};

static void stop_ring(struct back_vhost *v, unsigned queue, struct queue_setup *ret)
{
	struct ring *ring = &v->ring[queue];

	ring->running = false;
	sync_file(v, queue);
	if (ret)
		vhost_ring_base(fd_of(v, queue), queue % RINGS_PER_FD, &ring->setup, v->back.dev->mem, ret);
	vhost_ring_forget(fd_of(v, queue), queue % RINGS_PER_FD);
	v->hooks->stop(v->back.dev, queue);
}

static void start_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct back_vhost *v = c->v;
	struct ring *ring = &v->ring[c->queue];
	const struct vhost_vring_file err = { c->queue % RINGS_PER_FD, v->err_fd };
	int fd = fd_of(v, c->queue);

	c->result = vhost_ring_set(fd, c->queue % RINGS_PER_FD, c->setup, v->back.dev->mem,
		VHOST_HOST_ADDRESSES);
	if (c->result == 0)
		c->result = vhost_call(fd, VHOST_SET_VRING_ERR, &err);
	if (c->result < 0) {
		vhost_ring_forget(fd, c->queue % RINGS_PER_FD);
		return;
	}
	ring->setup = *c->setup;
	ring->running = true;
	c->result = v->hooks->start(v->back.dev, c->queue, worker_loop(v->worker));
	if (c->result == 0)
		c->result = sync_file(v, c->queue);
	if (c->result < 0)
		stop_ring(v, c->queue, NULL);
	else
		vhost_ring_kick(c->setup);
}

static void stop_on_worker(void *ctx)
{
	struct call *c = ctx;

	if (c->v->ring[c->queue].running)
		stop_ring(c->v, c->queue, c->ret);
}

static int push_table(struct back_vhost *v)
{
	int r = 0;

	for (unsigned i = 0; i < v->n && r == 0; i++)
		r = vhost_call(v->fds[i], VHOST_SET_MEM_TABLE, v->table);
	return r;
}

/* Half of it done is nothing done: the next try finds those that are owned already. */
static int own(struct back_vhost *v)
{
	int r = 0;

	for (unsigned i = 0; i < v->n && r == 0; i++) {
		r = vhost_call(v->fds[i], VHOST_SET_OWNER, NULL);
		r = r == -EBUSY ? 0 : r;
	}
	if (r == 0)
		r = push_table(v);
	if (r == 0)
		r = loop_add_eventfd(worker_loop(v->worker), v->err_fd, on_err, v, &v->err);
	v->owned = r == 0;
	return r;
}

static void features_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct back_vhost *v = c->v;
	uint64_t features = (c->features & v->features) | v->also;

	v->broken = false;
	c->result = v->owned ? 0 : own(v);
	for (unsigned i = 0; i < v->n && c->result == 0; i++)
		c->result = vhost_call(v->fds[i], VHOST_SET_FEATURES, &features);
	if (c->result < 0)
		log_guest(LOG_WARN, "%s: the kernel's vhost does not start: %s; the device needs a reset",
			v->back.dev->id, strerror(-c->result));
}

/* --- front --- */

static int set_features(struct back *b, uint64_t features)
{
	struct call c = { .v = to_vhost(b), .features = features };
	int r = c.v->inner->ops->set_features(c.v->inner, features);

	if (r == 0)
		r = worker_call(c.v->worker, features_on_worker, &c);
	return r < 0 ? r : c.result;
}

static int queue_start(struct back *b, const struct queue_setup *setup)
{
	struct call c = { .v = to_vhost(b), .queue = setup->index, .setup = setup };
	int r;

	if (!ring_of(c.v, c.queue) || c.v->hooks->ours(b->dev, c.queue))
		return c.v->inner->ops->queue_start(c.v->inner, setup);
	r = worker_call(c.v->worker, start_on_worker, &c);
	return r < 0 ? r : c.result;
}

static int queue_stop(struct back *b, unsigned index, struct queue_setup *ret)
{
	struct call c = { .v = to_vhost(b), .queue = index, .ret = ret };
	int r = ring_of(c.v, index) ? worker_call(c.v->worker, stop_on_worker, &c) : 0;

	/* Whichever of the two it is that serves it: the other does nothing. */
	return r < 0 ? r : c.v->inner->ops->queue_stop(c.v->inner, index, ret);
}

static void config_written(struct back *b, unsigned offset, unsigned len)
{
	to_vhost(b)->inner->ops->config_written(to_vhost(b)->inner, offset, len);
}

static void reset(struct back *b)
{
	to_vhost(b)->inner->ops->reset(to_vhost(b)->inner);
}

static int save(struct back *b, struct state_writer *w)
{
	return to_vhost(b)->inner->ops->save(to_vhost(b)->inner, w);
}

static int load(struct back *b, struct state_reader *r, struct error *err)
{
	return to_vhost(b)->inner->ops->load(to_vhost(b)->inner, r, err);
}

/* --- main --- */

static void destroy(struct back *b)
{
	struct back_vhost *v = to_vhost(b);

	for (unsigned i = 0; v->worker && i < v->n * RINGS_PER_FD; i++)
		queue_stop(b, i, NULL);
	mem_unlisten(b->dev->mem, &v->listener);
	loop_remove(v->err);
	if (v->inner)
		v->inner->ops->destroy(v->inner);
	for (unsigned i = 0; i < v->n; i++)
		close(v->fds[i]);
	if (v->err_fd >= 0)
		close(v->err_fd);
	free(v->table);
	free(v->fds);
	free(v);
}

static const struct back_ops back_vhost_ops = {
	.set_features = set_features,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.config_written = config_written,
	.reset = reset,
	.save = save,
	.load = load,
	.destroy = destroy,
};

static void table_on_worker(void *ctx)
{
	struct call *c = ctx;

	c->result = c->v->owned ? push_table(c->v) : 0;
}

static int table_changed(struct back_vhost *v)
{
	struct call c = { .v = v };
	int r = worker_call(v->worker, table_on_worker, &c);

	return r < 0 ? r : c.result;
}

static void forget_region(struct mem_listener *self, const struct mem_region *region)
{
	struct back_vhost *v = container_of(self, struct back_vhost, listener);
	struct vhost_memory *t = v->table;

	for (unsigned i = 0; i < t->nregions; i++)
		if (t->regions[i].guest_phys_addr == region->gpa) {
			t->regions[i] = t->regions[--t->nregions];
			break;
		}
	table_changed(v);
}

static int add_region(struct mem_listener *self, const struct mem_region *region, struct error *err)
{
	struct back_vhost *v = container_of(self, struct back_vhost, listener);
	struct vhost_memory *t = v->table;
	int r;

	if (region->kind != MEM_RAM)
		return 0;
	if (t->nregions == MEM_REGIONS_MAX)
		return error_set(err, ENOSPC, "%s: too many regions of memory for vhost", v->back.dev->id);
	t->regions[t->nregions++] = (struct vhost_memory_region){
		.guest_phys_addr = region->gpa,
		.memory_size = region->size,
		.userspace_addr = (uintptr_t)region->host,
	};
	r = table_changed(v);
	if (r == 0)
		return 0;
	t->nregions--;
	return error_set(err, -r, "%s: the kernel's vhost does not take the memory at %#llx: %s; say vhost=off",
		v->back.dev->id, (unsigned long long)region->gpa, strerror(-r));
}

static int fill(struct back_vhost *v, const struct device_env *env, struct error *err)
{
	struct virtio_device *dev = v->back.dev;
	int r;

	v->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	v->table = calloc(1, sizeof(*v->table) + MEM_REGIONS_MAX * sizeof(v->table->regions[0]));
	if (v->err_fd < 0 || !v->table)
		return error_set(err, ENOMEM, "%s: out of memory or files for vhost", dev->id);
	r = back_worker_create(&v->inner, dev, env, err);
	if (r < 0)
		return r;
	v->worker = back_worker_of(v->inner, 0);
	r = worker_allow(v->worker, vhost_net_syscalls);
	if (r == 0)
		r = loop_reserve(worker_loop(v->worker), SOURCES_PER_FD * v->n + 1, 0);
	if (r < 0)
		return error_set(err, -r, "%s: out of memory for vhost", dev->id);
	v->listener = (struct mem_listener){ .add = add_region, .remove = forget_region };
	return mem_listen(dev->mem, &v->listener, err);
}

int back_vhost_create(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	const struct back_vhost_config *config, struct error *err)
{
	unsigned rings = config->n * RINGS_PER_FD;
	struct back_vhost *v = calloc(1, sizeof(*v) + rings * sizeof(v->ring[0]));
	int *fds = calloc(config->n, sizeof(*fds)), r;

	if (!v || !fds) {
		for (unsigned i = 0; i < config->n; i++)
			close(config->fds[i]);
		free(v);
		free(fds);
		return error_set(err, ENOMEM, "%s: out of memory for vhost", dev->id);
	}
	memcpy(fds, config->fds, config->n * sizeof(*fds));
	v->back = (struct back){ .ops = &back_vhost_ops, .dev = dev };
	v->hooks = config->hooks;
	v->features = config->features;
	v->also = config->also;
	v->fds = fds;
	v->n = config->n;
	v->err_fd = -1;
	for (unsigned i = 0; i < rings; i++)
		v->ring[i].file = -1;
	r = fill(v, env, err);
	if (r < 0) {
		destroy(&v->back);
		return r;
	}
	dev->offered &= ~kernels_own | config->features;
	*ret = &v->back;
	return 0;
}
