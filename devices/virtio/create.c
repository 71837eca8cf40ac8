/*
 * The life of a virtio device: its parts made, paused, saved, loaded and freed. All on main.
 *
 *   front (struct front, the machine's struct device) → virtio_device (the type's struct)
 *         → type->create() → kick eventfds → back → transport
 *
 * Messages from workers ("config changed", "broken") go to main by a post box that main may outlive
 * the device with: a message holds a reference on the box, and main empties the box when it frees
 * the device. Order on the way down, with vCPUs parked or gone: queues stopped (their last calls
 * need the transport's eventfds), transport, back, type->destroy, memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/front.h"
#include "vmm/log.h"

const char *const virtio_transport_choices[] = { "pci", "mmio", NULL };
const char *const virtio_isolation_choices[] = { "auto", "thread", "process", NULL };

bool virtio_shares_memory(const void *options)
{
	return ((const struct virtio_options *)options)->isolation == VIRTIO_ISOLATION_PROCESS;
}

/* One message of each kind is under way at most; both may be posted by any worker of the device. */
struct front_post {
	_Atomic unsigned refs;
	struct loop *loop;         /* const */
	struct front *front;       /* main; NULL: the device is gone */
	_Atomic bool config, broken;
	_Atomic uint32_t epoch;    /* of the break; written before `broken` is posted */
};

static void post_unref(struct front_post *post)
{
	if (post && atomic_fetch_sub(&post->refs, 1) == 1)
		free(post);
}

static void config_on_main(void *ctx)
{
	struct front_post *post = ctx;

	/* Cleared first: a change after this posts again. */
	atomic_store(&post->config, false);
	if (post->front)
		front_config_changed(post->front);
	post_unref(post);
}

static void broken_on_main(void *ctx)
{
	struct front_post *post = ctx;

	atomic_store(&post->broken, false);
	if (post->front)
		front_break(post->front, atomic_load(&post->epoch));
	post_unref(post);
}

static void post(struct front_post *post, _Atomic bool *flag, loop_msg_fn *fn)
{
	if (!post->loop || atomic_exchange(flag, true))
		return;
	atomic_fetch_add(&post->refs, 1);
	if (loop_post(post->loop, fn, post) == 0)
		return;
	/*
	 * Out of memory: the driver is not told; it finds the new bytes, or the silent queue, by
	 * itself.
	 */
	atomic_store(flag, false);
	post_unref(post);
}

static void device_config_changed(struct virtio_device *dev)
{
	struct front *f = dev->front;

	post(f->post, &f->post->config, config_on_main);
}

static void device_broken(struct virtio_device *dev)
{
	struct front *f = dev->front;

	/*
	 * A reset counts up only after it drained this worker, so this is the number of the life
	 * that broke.
	 */
	atomic_store(&f->post->epoch, atomic_load(&f->epoch));
	post(f->post, &f->post->broken, broken_on_main);
}

static const struct state_field front_fields[] = {
	STATE_FIELD(struct front, status),
	STATE_FIELD(struct front, driver_features),
	STATE_FIELD(struct front, config_vector),
	STATE_EACH(struct front, q, size),
	STATE_EACH(struct front, q, vector),
	STATE_EACH(struct front, q, enabled),
	STATE_EACH(struct front, q, desc),
	STATE_EACH(struct front, q, avail),
	STATE_EACH(struct front, q, used),
	STATE_EACH(struct front, q, next_avail),
	STATE_EACH(struct front, q, next_used),
	STATE_END,
};

static int bad_state(const struct front *f, struct error *err, const char *what)
{
	return error_set(err, EINVAL,
		"%s: the saved state has %s; the file is damaged or from a machine with "
		"other options",
		f->device.id, what);
}

/*
 * What the register rules promise must hold for a stream too: it could not have come about
 * otherwise.
 */
static int front_check(const void *object, struct error *err)
{
	const struct front *f = object;
	bool chosen = f->status & VIRTIO_S_FEATURES_OK;
	const uint64_t packed = VIRTIO_BIT(VIRTIO_F_RING_PACKED);

	if (f->status & ~(VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_DRIVER_OK |
		VIRTIO_S_FEATURES_OK | VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED))
		return bad_state(f, err, "an unknown status bit");
	if ((f->status & VIRTIO_S_DRIVER_OK) && !chosen)
		return bad_state(f, err, "a driver without features");
	if (chosen && ((f->driver_features & ~f->dev->offered) ||
		!(f->driver_features & VIRTIO_BIT(VIRTIO_F_VERSION_1))))
		return bad_state(f, err, "features that this device does not offer");
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		const struct front_queue *q = &f->q[i];

		if (!q->enabled)
			continue;
		if (!chosen || i >= f->dev->nqueues)
			return bad_state(f, err, "a queue that cannot be enabled");
		if (!q->size || q->size > f->dev->queue_size ||
			(!is_pow2(q->size) && !(f->driver_features & packed)))
			return bad_state(f, err, "a queue of a bad size");
	}
	return 0;
}

const struct state_desc front_state = {
	.name = "virtio",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct front),
	.fields = front_fields,
	.check = front_check,
};

/*
 * The config image as it was; of these only what the driver may write is taken at a load, the rest
 * is the host's.
 */
struct config_saved {
	uint32_t size;
	uint8_t bytes[VIRTIO_CONFIG_MAX];
};

static const struct state_field config_fields[] = {
	STATE_FIELD(struct config_saved, size),
	STATE_ARRAY(struct config_saved, bytes),
	STATE_END,
};

static const struct state_desc config_state = {
	.name = "virtio-config",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct config_saved),
	.fields = config_fields,
};

static int config_load(struct front *f, struct state_reader *r, struct error *err)
{
	struct virtio_device *dev = f->dev;
	struct config_saved saved = { 0 };
	int ret = state_load(r, &config_state, &saved, err);

	if (ret < 0)
		return ret;
	if (saved.size != dev->config.size)
		return bad_state(f, err, "a config space of another size");
	for (unsigned i = 0; dev->type->config_writable && i < saved.size; i++)
		if (dev->type->config_writable(dev, i, 1))
			virtio_config_write(&dev->config, i, &saved.bytes[i], 1);
	return 0;
}

static struct front *to_front(struct device *dev)
{
	return (struct front *)dev;
}

static void device_pause(struct device *dev)
{
	front_stop(to_front(dev));
}

static void device_resume(struct device *dev)
{
	front_restart(to_front(dev));
}

static void device_reset(struct device *dev)
{
	struct front *f = to_front(dev);

	front_reset(f);
	if (f->tops->power_on)
		f->tops->power_on(f->transport);
}

static int device_save(struct device *dev, struct state_writer *w)
{
	struct front *f = to_front(dev);
	struct config_saved saved = { .size = f->dev->config.size };
	int r;

	for (unsigned i = 0; i < f->dev->nqueues; i++)
		if (f->q[i].running)
			return -EBUSY; /* the indices are with the back: pause first */
	virtio_config_read(&f->dev->config, 0, saved.bytes, saved.size);
	r = state_save(w, &front_state, f);
	if (r == 0)
		r = state_save(w, &config_state, &saved);
	if (r == 0)
		r = f->tops->save(f->transport, w);
	if (r == 0)
		r = f->back->ops->save(f->back, w);
	return r;
}

static int load_parts(struct device *dev, struct state_reader *r, struct error *err)
{
	struct front *f = to_front(dev);
	int ret;

	front_reset(f);
	ret = state_load(r, &front_state, f, err);
	if (ret == 0)
		ret = config_load(f, r, err);
	if (ret == 0)
		ret = f->tops->load(f->transport, r, err);
	if (ret == 0)
		ret = f->back->ops->load(f->back, r, err);
	if (ret < 0)
		front_reset(f);
	return ret;
}

/*
 * Leaves the device paused: device_resume starts the queues where the stream says, and queue_open
 * judges their places.
 */
static int device_load(struct device *dev, struct state_reader *r, struct error *err)
{
	front_stop(to_front(dev));
	return device_load_all(dev, load_parts, r, err);
}

static void device_destroy(struct device *dev)
{
	struct front *f = dev ? to_front(dev) : NULL;

	if (!f)
		return;
	if (f->transport && f->back)
		front_stop(f);
	if (f->transport)
		f->tops->destroy(f->transport);
	if (f->back)
		f->back->ops->destroy(f->back);
	if (f->dev && f->dev->type->destroy)
		f->dev->type->destroy(f->dev);
	if (f->post)
		f->post->front = NULL;
	post_unref(f->post);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		if (f->q[i].kick_fd >= 0)
			close(f->q[i].kick_fd);
	pthread_mutex_destroy(&f->lock);
	free(f->dev);
	free(f);
}

static void device_retry(struct device *dev)
{
	struct virtio_device *v = to_front(dev)->dev;

	if (v->type->retry)
		v->type->retry(v);
}

static unsigned device_held(struct device *dev)
{
	const struct virtio_device *v = to_front(dev)->dev;

	return v->type->held ? v->type->held(v) : 0;
}

static const struct device_ops virtio_device_ops = {
	.pause = device_pause,
	.resume = device_resume,
	.retry = device_retry,
	.held = device_held,
	.reset = device_reset,
	.save = device_save,
	.load = device_load,
	.destroy = device_destroy,
};

static int front_new(struct front **ret, const struct device_type *row,
	const struct device_env *env, struct error *err)
{
	struct front *f = calloc(1, sizeof(*f));
	pthread_mutexattr_t attr;

	if (!f)
		return error_set(err, ENOMEM, "%s: out of memory", env->id);
	f->device.type = row;
	f->device.ops = &virtio_device_ops;
	strncpy(f->device.id, env->id, DEVICE_ID_MAX - 1);
	for (unsigned i = 0; i < DEVICE_NODES_MAX; i++)
		f->device.nodes[i].gsi = UINT32_MAX;
	f->main_loop = env->main_loop;
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		f->q[i] = (struct front_queue){ .vector = VIRTIO_NO_VECTOR, .kick_fd = -1 };
	f->config_vector = VIRTIO_NO_VECTOR;
	/*
	 * Main takes it for messages: a vCPU of high priority must not wait behind others of low
	 * priority.
	 */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&f->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	*ret = f;
	return 0;
}

static int make_post(struct front *f, struct error *err)
{
	f->post = calloc(1, sizeof(*f->post));
	if (!f->post)
		return error_set(err, ENOMEM, "%s: out of memory", f->device.id);
	atomic_init(&f->post->refs, 1);
	f->post->loop = f->main_loop;
	/* Its two messages, for workers that may not allocate. */
	if (f->main_loop && loop_reserve(f->main_loop, 0, 2) < 0)
		return error_set(err, ENOMEM, "%s: out of memory", f->device.id);
	f->post->front = f;
	return 0;
}

static int make_device(struct front *f, const struct virtio_type *type,
	const struct device_env *env, const struct virtio_options *options, struct error *err)
{
	struct virtio_device *dev = calloc(1, type->size);
	int r = 0;

	if (!dev)
		return error_set(err, ENOMEM, "%s: out of memory", f->device.id);
	f->dev = dev;
	dev->type = type;
	memcpy(dev->id, f->device.id, sizeof(dev->id));
	dev->mem = env->mem;
	dev->events = env->events;
	dev->nqueues = type->nqueues;
	dev->queue_size = (uint16_t)options->queue_size;
	dev->config.size = type->config_size;
	dev->isolated = options->isolation == VIRTIO_ISOLATION_PROCESS ||
		(options->isolation == VIRTIO_ISOLATION_AUTO && env->isolate && type->may_fork);
	if (dev->isolated && !type->may_fork)
		return error_set(err, EINVAL,
			"%s: isolation=process: %s is only served by threads; leave isolation out", dev->id,
			type->name);
	dev->config_changed = device_config_changed;
	dev->broken = device_broken;
	dev->front = f;
	if (type->create)
		r = type->create(dev, env, options, err);
	if (r < 0)
		return r;
	dev->offered = front_offer(dev, options);
	dev->features = 0;
	return 0;
}

static int make_kicks(struct front *f, struct error *err)
{
	for (unsigned i = 0; i < f->dev->nqueues; i++) {
		struct front_queue *q = &f->q[i];

		q->size = f->dev->queue_size;
		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->kick_fd < 0)
			return error_set(err, errno,
				"%s: no file descriptor for queue %u: %s; raise the limit of "
				"open files (ulimit -n)",
				f->device.id, i, strerror(errno));
	}
	return 0;
}

static int make_back(struct front *f, const struct device_env *env, struct error *err)
{
	struct virtio_device *dev = f->dev;

	if (dev->make_back)
		return dev->make_back(&f->back, dev, env, err);
	return dev->isolated ? back_process_create(&f->back, dev, env, err) :
		back_worker_create(&f->back, dev, env, err);
}

int virtio_create(struct device **ret, const struct device_type *row,
	const struct virtio_type *type, const struct device_env *env, const void *options,
	struct error *err)
{
	const struct virtio_options *o = options;
	struct front *f = NULL;
	int r;

	if (!is_pow2(o->queue_size) || o->queue_size < 2 || o->queue_size > VIRTIO_QUEUE_SIZE_MAX)
		return error_set(err, EINVAL,
			"%s: queue_size=%u is not a power of two from 2 to %d; say 256", env->id,
			o->queue_size, VIRTIO_QUEUE_SIZE_MAX);
	r = front_new(&f, row, env, err);
	if (r == 0)
		r = make_post(f, err);
	if (r == 0)
		r = make_device(f, type, env, o, err);
	if (r == 0)
		r = make_kicks(f, err);
	if (r == 0)
		r = make_back(f, env, err);
	if (r == 0)
		r = o->transport == VIRTIO_TRANSPORT_MMIO ? transport_mmio_create(f, env, err) :
			transport_pci_create(f, env, err);
	if (r < 0) {
		device_destroy(f ? &f->device : NULL);
		return r;
	}
	*ret = &f->device;
	return 0;
}
