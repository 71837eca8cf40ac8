/*
 * The back of a device that a vhost-user back end serves (back.h): calls of the front become calls
 * on the worker that owns the connection. Queues behind the back end's, which a device of ours
 * serves itself (the control queue of a network device), go to a back of our own workers beside it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/vhost_user.h"
#include "vmm/log.h"

const char *const vhost_user_modes[] = { "client", "server", NULL };

struct back_vhost_user {
	struct back back;        /* first */
	struct vhost_user *vu;   /* const */
	struct back *own;        /* const; NULL: the back end has all queues */
};

struct call {
	struct back_vhost_user *b;
	const struct queue_setup *setup;
	struct queue_setup *ret;
	unsigned index, len;
	uint64_t features;
	int result;
};

static int on_worker(struct back *back, loop_msg_fn *fn, struct call c)
{
	int r;

	c.b = (struct back_vhost_user *)back;
	r = worker_call(c.b->vu->worker, fn, &c);
	return r < 0 ? r : c.result;
}

static bool is_own(const struct back *back, unsigned index)
{
	const struct vhost_user *vu = ((const struct back_vhost_user *)back)->vu;

	return index >= vu->nrings || (vu->kind->is_own && vu->kind->is_own(back->dev, index));
}

static struct back *own_of(struct back *back)
{
	return ((struct back_vhost_user *)back)->own;
}

static void features_on_worker(void *ctx)
{
	struct call *c = ctx;

	vhost_user_driver(c->b->vu, true, c->features);
}

static int set_features(struct back *back, uint64_t features)
{
	back->dev->features = features;
	return on_worker(back, features_on_worker, (struct call){ .features = features });
}

static void start_on_worker(void *ctx)
{
	struct call *c = ctx;

	c->result = vhost_user_start_ring(c->b->vu, c->setup);
}

static int queue_start(struct back *back, const struct queue_setup *setup)
{
	if (is_own(back, setup->index))
		return own_of(back) ? own_of(back)->ops->queue_start(own_of(back), setup) : 0;
	return on_worker(back, start_on_worker, (struct call){ .setup = setup });
}

static void stop_on_worker(void *ctx)
{
	struct call *c = ctx;

	vhost_user_stop_ring(c->b->vu, c->index, c->ret);
}

static int queue_stop(struct back *back, unsigned index, struct queue_setup *ret)
{
	if (is_own(back, index))
		return own_of(back) ? own_of(back)->ops->queue_stop(own_of(back), index, ret) : 0;
	return on_worker(back, stop_on_worker, (struct call){ .index = index, .ret = ret });
}

static void config_on_worker(void *ctx)
{
	struct call *c = ctx;
	struct vhost_user *vu = c->b->vu;

	vu->config_written = true;
	/* Between question and answer too: it is answered in the order of asking. */
	vhost_user_write_config(vu, c->index, c->len);
}

static void config_written(struct back *back, unsigned offset, unsigned len)
{
	on_worker(back, config_on_worker, (struct call){ .index = offset, .len = len });
}

static void reset_on_worker(void *ctx)
{
	struct call *c = ctx;

	vhost_user_driver(c->b->vu, false, 0);
}

static void reset(struct back *back)
{
	on_worker(back, reset_on_worker, (struct call){ 0 });
	if (own_of(back))
		own_of(back)->ops->reset(own_of(back));
}

static int save(struct back *back, struct state_writer *w)
{
	const struct vhost_user *vu = ((struct back_vhost_user *)back)->vu;

	/*
	 * Which requests are open only the in-flight buffer says, and that is of this process. All
	 * queues are stopped: the worker writes nothing here.
	 */
	for (unsigned i = 0; i < vu->nrings; i++)
		if (vu->ring[i].left)
			return -EBUSY;
	return back->dev->type->state ? state_save(w, back->dev->type->state, back->dev) : 0;
}

static int load(struct back *back, struct state_reader *r, struct error *err)
{
	const struct vhost_user_kind *kind = ((struct back_vhost_user *)back)->vu->kind;
	int ret = back->dev->type->state ? state_load(r, back->dev->type->state, back->dev, err) : 0;

	if (ret == 0 && kind->loaded)
		kind->loaded(back->dev);
	return ret;
}

static void destroy(struct back *back)
{
	if (own_of(back))
		own_of(back)->ops->destroy(own_of(back));
	free(back);
}

static const struct back_ops back_vhost_user_ops = {
	.set_features = set_features,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.config_written = config_written,
	.save = save,
	.load = load,
	.destroy = destroy,
	.reset = reset,
};

static int same_worker(const struct device_env *env, const char *name, enum worker_share share, struct worker **ret,
	struct error *err)
{
	(void)name;
	(void)share;
	(void)err;
	*ret = env->machine;
	return 0;
}

int vhost_user_make_back(struct back **ret, struct virtio_device *dev, const struct device_env *env,
	struct error *err)
{
	struct vhost_user *vu = container_of(dev, struct vhost_user_device, dev)->vu;
	struct back_vhost_user *b = calloc(1, sizeof(*b));
	struct device_env own = *env;

	if (!b)
		return error_set(err, ENOMEM, "%s: out of memory", dev->id);
	b->back = (struct back){ .ops = &back_vhost_user_ops, .dev = dev };
	b->vu = vu;
	dev->offered = vhost_user_offer(vu, dev->offered);
	vu->promised = dev->offered & vu->features;
	vu->promised_protocol = vu->protocol & (VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD) |
		VIRTIO_BIT(VHOST_USER_PROTOCOL_CONFIG));
	own.worker = same_worker;
	own.machine = vu->worker;
	if (dev->nqueues > vu->nrings) {
		int r = back_worker_create(&b->own, dev, &own, err);

		if (r < 0) {
			free(b);
			return r;
		}
	}
	*ret = &b->back;
	return 0;
}

int vhost_user_check_options(const struct vhost_user_options *o, const char *flag, struct error *err)
{
	if (o->on && !o->socket)
		return error_set(err, EINVAL,
			"--%s vhost_user=on: which program serves it, is not said; add socket=PATH", flag);
	if (o->mode == VHOST_USER_SERVER && !o->socket)
		return error_set(err, EINVAL, "--%s vhost_mode=server: where to listen, is not said; add socket=PATH", flag);
	return 0;
}

static int open_place(struct vhost_user *vu, const struct vhost_user_options *o, struct error *err)
{
	int r = unix_place_open(&vu->place, o->socket);

	if (r == -ENAMETOOLONG)
		return error_set(err, -r, "the path is longer than the 107 bytes of a socket address; use a shorter one");
	if (r < 0)
		return error_set(err, -r, "its directory: %s; check the path", strerror(-r));
	if (o->mode == VHOST_USER_CLIENT)
		return 0;
	r = unix_socket_listen(o->socket, 1);
	if (r < 0)
		return error_set(err, -r, "cannot listen: %s; %s", strerror(-r), unix_socket_remedy(r));
	vu->listen_fd = r;
	return 0;
}

/* All that sealed threads may not make. */
static int make_room(struct vhost_user *vu, struct error *err)
{
	vu->look_len = vhost_user_inflight_bytes(vu->dev->queue_size, true);
	vu->look = calloc(1, vu->look_len);
	vu->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vu->mute_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!vu->look || !vu->path)
		return error_set(err, ENOMEM, "out of memory");
	if (vu->err_fd < 0 || vu->mute_fd < 0)
		return error_set(err, errno, "%s; raise the limit of open files (ulimit -n)", strerror(errno));
	for (unsigned i = 0; i < mem_region_count(vu->dev->mem); i++)
		if (mem_region(vu->dev->mem, i)->fd < 0)
			return error_set(err, EINVAL,
				"guest memory is this process's own; give --memory shared=on, or leave shared out");
	return 0;
}

static int find_worker(struct vhost_user *vu, const struct device_env *env, struct error *err)
{
	static const struct syscall_row *const tables[] = { vhost_user_syscalls, unix_message_syscalls,
		unix_connect_syscalls, loop_timer_syscalls };
	char name[16];
	int r;

	snprintf(name, sizeof(name), "%.12s_vu", vu->dev->id);
	r = env->worker(env, name, WORKER_ALONE, &vu->worker, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < ARRAY_SIZE(tables) && r == 0; i++)
		r = worker_allow(vu->worker, tables[i]);
	vu->loop = worker_loop(vu->worker);
	/*
	 * The connection, its channel, the listener, the timer, the error; twice what may end in a
	 * round.
	 */
	if (r == 0)
		r = loop_reserve(vu->loop, 8, 0);
	return r < 0 ? error_set(err, -r, "no room for it: %s", strerror(-r)) : 0;
}

static void on_ring_error(void *ctx)
{
	struct vhost_user *vu = ctx;

	log_guest(LOG_WARN, "%s: the program at %s reports an error of a ring", vu->dev->id, vu->path);
}

int vhost_user_open(struct vhost_user **ret, struct virtio_device *dev, const struct device_env *env,
	const struct vhost_user_kind *kind, const struct vhost_user_options *o, unsigned nrings, uint32_t mtu,
	struct error *err)
{
	struct vhost_user *vu = calloc(1, sizeof(*vu));
	int r;

	if (!vu)
		return error_set(err, ENOMEM, "--%s: out of memory", kind->flag);
	*ret = vu; /* the device's from now on, also when this fails */
	vu->dev = dev;
	vu->kind = kind;
	vu->nrings = nrings;
	vu->mtu = mtu;
	vu->path = strdup(o->socket);
	vu->place.dir_fd = vu->listen_fd = vu->fd = vu->own_fd = vu->err_fd = vu->mute_fd = vu->inflight_fd = -1;
	vu->again_ms = VHOST_USER_AGAIN_MIN_MS;
	snprintf(vu->event, sizeof(vu->event), "%s: the program that serves it at %.24s is gone", dev->id, o->socket);
	for (unsigned i = 0; i < nrings; i++)
		vu->ring[i].enabled = !kind->pairs || i < 2;
	r = make_room(vu, err);
	if (r == 0)
		r = open_place(vu, o, err);
	if (r == 0)
		r = find_worker(vu, env, err);
	if (r == 0 && vu->listen_fd >= 0)
		r = device_main_calls(env, unix_remove_syscalls, err);
	if (r == 0 && loop_add_eventfd(vu->loop, vu->err_fd, on_ring_error, vu, &vu->err_source) < 0)
		r = error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = vhost_user_meet(vu, err);
	if (r < 0)
		return error_prefix(err, r, "--%s socket=%s", kind->flag, o->socket);
	if (kind->inflight && !vhost_user_agreed(vu, VHOST_USER_PROTOCOL_INFLIGHT_SHMFD))
		log_notice("%s: the program at %s does not keep track of requests in flight: when it ends with some open, "
			   "the guest has to reset the device", dev->id, vu->path);
	dev->features |= vu->features & kind->known;
	dev->make_back = vhost_user_make_back;
	return 0;
}

static void unwatch(struct loop_source *source, int fd)
{
	loop_remove(source);
	if (fd >= 0)
		close(fd);
}

void vhost_user_close(struct vhost_user *vu)
{
	if (!vu)
		return;
	if (vu->listen_fd >= 0)
		unix_socket_remove(&vu->place);
	unwatch(vu->listen_source, vu->listen_fd);
	unwatch(vu->source, vu->fd);
	unwatch(vu->own_source, vu->own_fd);
	unwatch(vu->err_source, vu->err_fd);
	unwatch(vu->timer, vu->mute_fd);
	vhost_user_drop_inflight(vu);
	unix_place_close(&vu->place);
	free(vu->look);
	free(vu->path);
	free(vu);
}
