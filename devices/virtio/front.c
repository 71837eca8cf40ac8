/*
 * The register state of a virtio device (virtio 1.2 §2.1, §2.2, §3.1, §4.1.4.3) and the rules for
 * changing it.
 *
 *   status   0 → ACKNOWLEDGE → DRIVER → FEATURES_OK → DRIVER_OK; bits are only added, until 0
 *            resets. FEATURES_OK sticks only when the driver's choice is one of ours, and
 *            freezes it. FAILED and NEEDS_RESET end all but the reset.
 *   queue    programmed → enabled (frozen) → running: the back has a copy. It runs while enabled
 *            and DRIVER_OK are both there, in whichever order they came.
 *   indices  belong to the queue while it runs; q.next_* hold them while it does not.
 *
 * Writes come from vCPU threads under the lock, which is held while the back's worker answers; the
 * worker never takes it. Reads of single registers take none: each is one load.
 */
#include "devices/virtio/front.h"

#include <errno.h>
#include <unistd.h>

#include "vmm/log.h"

enum {
	STATUS_DRIVER_BITS = VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK |
		VIRTIO_S_DRIVER_OK | VIRTIO_S_FAILED,
	STATUS_DEAD = VIRTIO_S_FAILED | VIRTIO_S_NEEDS_RESET,
	PACKED_FRESH = 0x8000, /* §2.8.1: wrap counters start at 1 */
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

uint64_t front_offer(const struct virtio_device *dev, const struct virtio_options *options)
{
	uint64_t offer = dev->type->features | dev->features | dev->offered;

	offer |= VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) |
		VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
	if (options->packed)
		offer |= VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	if (options->in_order)
		offer |= VIRTIO_BIT(VIRTIO_F_IN_ORDER);
	return offer;
}

static void add_status(struct front *f, unsigned bits)
{
	/* Ordered after what the bits announce; front_status() and front_kick() acquire. */
	__atomic_store_n(&f->status, (uint8_t)(f->status | bits), __ATOMIC_RELEASE);
}

/* §2.1.1, §2.1.2: the driver hears of it only once it drives the device. Lock held. */
static void needs_reset(struct front *f)
{
	if (f->status & VIRTIO_S_NEEDS_RESET)
		return;
	add_status(f, VIRTIO_S_NEEDS_RESET);
	if (f->status & VIRTIO_S_DRIVER_OK)
		f->tops->config_irq(f->transport);
}

static void start_queue(struct front *f, unsigned i)
{
	struct front_queue *q = &f->q[i];
	const struct queue_setup setup = {
		.index = (uint16_t)i,
		.size = q->size,
		.desc = q->desc,
		.avail = q->avail,
		.used = q->used,
		.features = f->driver_features,
		.kick_fd = q->kick_fd,
		.call_fd = f->tops->call_fd(f->transport, i),
		.next_avail = q->next_avail,
		.next_used = q->next_used,
	};
	int r = f->back->ops->queue_start(f->back, &setup);

	if (r < 0) {
		log_guest(LOG_WARN, "%s: queue %u cannot start (%s); the device needs a reset",
			f->device.id, i, strerror(-r));
		needs_reset(f);
		return;
	}
	q->running = true;
}

static void stop_queue(struct front *f, unsigned i)
{
	struct front_queue *q = &f->q[i];
	struct queue_setup last = { .next_avail = q->next_avail, .next_used = q->next_used };

	if (!q->running)
		return;
	f->back->ops->queue_stop(f->back, i, &last);
	q->running = false;
	q->next_avail = last.next_avail;
	q->next_used = last.next_used;
}

static bool may_run(const struct front *f)
{
	return (f->status & (VIRTIO_S_DRIVER_OK | STATUS_DEAD)) == VIRTIO_S_DRIVER_OK;
}

static void start_enabled(struct front *f)
{
	for (unsigned i = 0; i < f->dev->nqueues && may_run(f); i++)
		if (f->q[i].enabled && !f->q[i].running)
			start_queue(f, i);
}

/* Lock held. What was started may be looked at now. */
static void tell_ready(struct front *f)
{
	if (f->back->ops->ready && may_run(f) && f->back->ops->ready(f->back) < 0)
		needs_reset(f);
}

static void stop_all(struct front *f)
{
	for (unsigned i = 0; i < f->dev->nqueues; i++)
		stop_queue(f, i);
}

/* Size and what it depends on; the addresses are the back's to judge. §2.7, §2.8.10.1. */
static bool size_is_good(const struct front *f, const struct front_queue *q)
{
	if (!q->size || q->size > f->dev->queue_size)
		return false;
	return is_pow2(q->size) || (f->driver_features & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
}

static bool features_are_good(const struct front *f)
{
	return !(f->driver_features & ~f->dev->offered) && !(f->dev->required & ~f->driver_features) &&
		(f->driver_features & VIRTIO_BIT(VIRTIO_F_VERSION_1));
}

static void clear_queue(struct front *f, struct front_queue *q)
{
	*q = (struct front_queue){
		.size = f->dev->queue_size,
		.vector = VIRTIO_NO_VECTOR,
		.kick_fd = q->kick_fd,
	};
}

static void reset_locked(struct front *f)
{
	stop_all(f);
	if (f->back->ops->reset)
		f->back->ops->reset(f->back);
	for (unsigned i = 0; i < f->dev->nqueues; i++)
		clear_queue(f, &f->q[i]);
	f->driver_features = 0;
	f->config_vector = VIRTIO_NO_VECTOR;
	/*
	 * What a worker posted before is about a device that is no more; workers were drained
	 * above.
	 */
	atomic_fetch_add(&f->epoch, 1);
	f->tops->reset(f->transport);
	/* §2.1.2: 0 is read back only when all the above is done. */
	__atomic_store_n(&f->status, 0, __ATOMIC_RELEASE);
}

void front_reset(struct front *f)
{
	pthread_mutex_lock(&f->lock);
	reset_locked(f);
	pthread_mutex_unlock(&f->lock);
}

void front_stop(struct front *f)
{
	pthread_mutex_lock(&f->lock);
	stop_all(f);
	pthread_mutex_unlock(&f->lock);
}

/* Lock held. The driver's choice goes to the back before any queue does. */
static void run(struct front *f)
{
	int r = f->back->ops->set_features(f->back, f->driver_features);

	if (r < 0) {
		needs_reset(f);
		return;
	}
	start_enabled(f);
	tell_ready(f);
}

void front_restart(struct front *f)
{
	pthread_mutex_lock(&f->lock);
	if (may_run(f))
		run(f);
	pthread_mutex_unlock(&f->lock);
}

void front_break(struct front *f, uint32_t epoch)
{
	pthread_mutex_lock(&f->lock);
	if (atomic_load(&f->epoch) == epoch)
		needs_reset(f);
	pthread_mutex_unlock(&f->lock);
}

void front_config_changed(struct front *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->status & VIRTIO_S_DRIVER_OK)
		f->tops->config_irq(f->transport);
	pthread_mutex_unlock(&f->lock);
}

uint64_t front_device_features(const struct front *f)
{
	return f->dev->offered;
}

uint64_t front_driver_features(const struct front *f)
{
	return LOAD(f->driver_features);
}

void front_set_driver_features(struct front *f, unsigned word, uint32_t value)
{
	unsigned shift = word * 32;

	if (word > 1)
		return; /* bits 64 and up: none is offered, none can be chosen */
	pthread_mutex_lock(&f->lock);
	if (!(f->status & (VIRTIO_S_FEATURES_OK | STATUS_DEAD)))
		STORE(f->driver_features, (f->driver_features & ~(UINT64_C(0xffffffff) << shift)) |
			(uint64_t)value << shift);
	pthread_mutex_unlock(&f->lock);
}

uint16_t front_config_vector(const struct front *f)
{
	return LOAD(f->config_vector);
}

void front_set_config_vector(struct front *f, uint16_t vector)
{
	pthread_mutex_lock(&f->lock);
	STORE(f->config_vector, vector);
	pthread_mutex_unlock(&f->lock);
}

uint8_t front_status(const struct front *f)
{
	return __atomic_load_n(&f->status, __ATOMIC_ACQUIRE);
}

/* Bits that are new in `status` and allowed now, one step of §3.1.1 after the other. */
static void advance(struct front *f, uint8_t status)
{
	unsigned fresh = status & STATUS_DRIVER_BITS & ~f->status;

	add_status(f, fresh & (VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER));
	if (fresh & VIRTIO_S_FAILED) {
		add_status(f, VIRTIO_S_FAILED);
		stop_all(f);
		return;
	}
	if ((fresh & VIRTIO_S_FEATURES_OK) && features_are_good(f))
		add_status(f, VIRTIO_S_FEATURES_OK);
	if ((fresh & VIRTIO_S_DRIVER_OK) && (f->status & VIRTIO_S_FEATURES_OK)) {
		add_status(f, VIRTIO_S_DRIVER_OK);
		run(f);
	}
}

void front_set_status(struct front *f, uint8_t status)
{
	pthread_mutex_lock(&f->lock);
	if (!status)
		reset_locked(f);
	else if (!(f->status & STATUS_DEAD))
		advance(f, status);
	else
		add_status(f, status & VIRTIO_S_FAILED);
	if (f->status & VIRTIO_S_FAILED)
		stop_all(f);
	pthread_mutex_unlock(&f->lock);
}

uint32_t front_queue_read(const struct front *f, unsigned queue, enum front_queue_reg reg)
{
	const struct front_queue *q = &f->q[queue < f->dev->nqueues ? queue : 0];

	if (queue >= f->dev->nqueues)
		return 0;
	switch (reg) {
	case FRONT_Q_SIZE:
		return LOAD(q->size);
	case FRONT_Q_DESC_LO:
		return (uint32_t)LOAD(q->desc);
	case FRONT_Q_DESC_HI:
		return (uint32_t)(LOAD(q->desc) >> 32);
	case FRONT_Q_AVAIL_LO:
		return (uint32_t)LOAD(q->avail);
	case FRONT_Q_AVAIL_HI:
		return (uint32_t)(LOAD(q->avail) >> 32);
	case FRONT_Q_USED_LO:
		return (uint32_t)LOAD(q->used);
	case FRONT_Q_USED_HI:
		return (uint32_t)(LOAD(q->used) >> 32);
	case FRONT_Q_ENABLE:
		return LOAD(q->enabled);
	case FRONT_Q_VECTOR:
		return LOAD(q->vector);
	default:
		return 0;
	}
}

static void enable_queue(struct front *f, unsigned i, bool on)
{
	struct front_queue *q = &f->q[i];
	bool packed = f->driver_features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);

	if (!on) {
		stop_queue(f, i);
		STORE(q->enabled, false);
		return;
	}
	if (!(f->status & VIRTIO_S_FEATURES_OK) || !size_is_good(f, q)) {
		log_guest(LOG_WARN, "%s: the guest enabled queue %u %s; refused", f->device.id, i,
			f->status & VIRTIO_S_FEATURES_OK ? "with a bad size"
							 : "before FEATURES_OK");
		return;
	}
	q->next_avail = packed ? PACKED_FRESH : 0;
	q->next_used = q->next_avail;
	STORE(q->enabled, true);
	if (!may_run(f))
		return;
	start_queue(f, i);
	tell_ready(f);
}

static void set_half(uint64_t *field, bool high, uint32_t value)
{
	uint64_t old = *field;

	STORE(*field, high ? (uint64_t)value << 32 | (uint32_t)old : (old >> 32) << 32 | value);
}

static void program_queue(struct front_queue *q, enum front_queue_reg reg, uint32_t value)
{
	switch (reg) {
	case FRONT_Q_SIZE:
		/* A size that does not fit the field is as bad as 0. */
		STORE(q->size, value <= UINT16_MAX ? (uint16_t)value : 0);
		break;
	case FRONT_Q_DESC_LO:
	case FRONT_Q_DESC_HI:
		set_half(&q->desc, reg == FRONT_Q_DESC_HI, value);
		break;
	case FRONT_Q_AVAIL_LO:
	case FRONT_Q_AVAIL_HI:
		set_half(&q->avail, reg == FRONT_Q_AVAIL_HI, value);
		break;
	case FRONT_Q_USED_LO:
	case FRONT_Q_USED_HI:
		set_half(&q->used, reg == FRONT_Q_USED_HI, value);
		break;
	default:
		break;
	}
}

void front_queue_write(struct front *f, unsigned queue, enum front_queue_reg reg, uint32_t value)
{
	struct front_queue *q = &f->q[queue < f->dev->nqueues ? queue : 0];

	if (queue >= f->dev->nqueues)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->status & STATUS_DEAD && !(reg == FRONT_Q_ENABLE && !value))
		; /* only a reset helps, or taking a queue back */
	else if (reg == FRONT_Q_VECTOR && !q->running)
		STORE(q->vector, (uint16_t)value);
	else if (reg == FRONT_Q_ENABLE && q->enabled != !!value)
		enable_queue(f, queue, value);
	else if (!q->enabled)
		program_queue(q, reg, value);
	pthread_mutex_unlock(&f->lock);
}

void front_config_read(const struct front *f, unsigned offset, void *data, unsigned len)
{
	virtio_config_read(&f->dev->config, offset, data, len);
}

void front_config_write(struct front *f, unsigned offset, const void *data, unsigned len)
{
	const struct virtio_type *type = f->dev->type;

	if (!range_inside(offset, len, 0, f->dev->config.size) || !type->config_writable ||
		!type->config_writable(f->dev, offset, len))
		return;
	pthread_mutex_lock(&f->lock);
	if (!(f->status & STATUS_DEAD)) {
		virtio_config_write(&f->dev->config, offset, data, len);
		f->back->ops->config_written(f->back, offset, len);
	}
	pthread_mutex_unlock(&f->lock);
}

void front_kick(struct front *f, unsigned queue)
{
	const uint64_t one = 1;

	if (queue >= f->dev->nqueues || !(front_status(f) & VIRTIO_S_DRIVER_OK))
		return;
	if (write(f->q[queue].kick_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: the kick is pending as it is */
}
