/*
 * The plumbing of serial ports around a chip; see serial.h. Registers are handled on vCPU threads
 * under one mutex, bytes move on the worker.
 */
#include "devices/platform/serial.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/host/char.h"
#include "devices/platform/platform.h"

enum { PIECE_SIZE = 1024, PIECES_PER_CALL = SERIAL_RING / PIECE_SIZE };

struct serial {
	struct device device;		/* first */
	struct char_host *host;		/* worker */
	struct irq_source *irq;		/* const */
	struct worker *worker;		/* const */
	struct bus *bus;		/* const; NULL: not on it */
	int kick_fd;			/* const */
	struct loop_source *kick;	/* const */
	const struct vm_events *events; /* const */
	bool attached;			/* const; `host` may be used */
	pthread_mutex_t lock;
	const struct serial_chip *ops; /* const */
	struct serial_flow *flow;      /* lock; the chip, of which it is the first member */
	bool held;		       /* lock; paused: no byte moves */
};

struct serial_settings {
	struct char_options line;
};

/* An object of the chip's state. */
union serial_object {
	uint64_t align;
	uint8_t bytes[SERIAL_STATE_MAX];
};

bool serial_flow_put(struct serial_flow *f, uint8_t byte, unsigned *todo)
{
	if (f->ring_len == SERIAL_RING)
		return false;
	if (!f->ring_len)
		*todo |= SERIAL_OUTPUT;
	f->ring[(f->ring_head + f->ring_len++) % SERIAL_RING] = byte;
	return true;
}

size_t serial_flow_peek(const struct serial_flow *f, uint8_t *data, size_t max)
{
	size_t n = MIN((size_t)f->ring_len, max), first = MIN(n, (size_t)(SERIAL_RING - f->ring_head));

	memcpy(data, f->ring + f->ring_head, first);
	memcpy(data + first, f->ring, n - first);
	return n;
}

void serial_flow_drop(struct serial_flow *f, size_t n)
{
	f->ring_head = (f->ring_head + (uint32_t)n) % SERIAL_RING;
	f->ring_len -= (uint32_t)n;
}

/* Without lock. */
static void act(struct serial *s, unsigned todo)
{
	const uint64_t one = 1;

	if (todo & SERIAL_RAISE)
		irq_raise(s->irq);
	if ((todo & (SERIAL_OUTPUT | SERIAL_INPUT)) && write(s->kick_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: the worker wakes all the same */
}

/* vCPU threads. */
static void bus_read_regs(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct serial *s = ctx;
	unsigned todo = 0;

	pthread_mutex_lock(&s->lock);
	s->ops->read(s->flow, offset, data, len, &todo);
	pthread_mutex_unlock(&s->lock);
	act(s, todo);
}

static void bus_write_regs(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct serial *s = ctx;
	unsigned todo = 0;

	pthread_mutex_lock(&s->lock);
	s->ops->write(s->flow, offset, data, len, &todo);
	pthread_mutex_unlock(&s->lock);
	act(s, todo);
}

static const struct bus_ops serial_bus_ops = { .read = bus_read_regs, .write = bus_write_regs };

/* Worker. Copy the front of the ring. */
static size_t ring_peek(struct serial *s, uint8_t *piece)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	if (!s->held)
		n = serial_flow_peek(s->flow, piece, PIECE_SIZE);
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* Worker. The first n bytes are out; are there more? */
static bool ring_sent(struct serial *s, size_t n)
{
	unsigned todo = 0;
	bool more;

	pthread_mutex_lock(&s->lock);
	s->ops->sent(s->flow, n, &todo);
	more = s->flow->ring_len;
	pthread_mutex_unlock(&s->lock);
	act(s, todo);
	return more;
}

/* Worker. What does not fit waits for output_ready; what would hold up other devices for long waits
 * for the next round. */
static void drain(void *ctx)
{
	struct serial *s = ctx;
	uint8_t piece[PIECE_SIZE];
	bool more = true;

	for (unsigned i = 0; more && i < PIECES_PER_CALL; i++) {
		size_t n = ring_peek(s, piece), taken;

		if (!n)
			return;
		taken = char_output(s->host, piece, n);
		more = ring_sent(s, taken);
		if (taken < n)
			return;
	}
	if (more)
		act(s, SERIAL_OUTPUT);
}

/* Worker: the ring is no longer empty, or the guest can take input again. */
static void on_kick(void *ctx)
{
	struct serial *s = ctx;
	bool resume;

	pthread_mutex_lock(&s->lock);
	resume = s->flow->rx_paused && !s->held;
	if (resume)
		s->flow->rx_paused = false;
	pthread_mutex_unlock(&s->lock);
	if (resume)
		char_resume_input(s->host);
	drain(s);
}

/* Worker. */
static size_t on_input(void *ctx, const uint8_t *data, size_t len)
{
	struct serial *s = ctx;
	unsigned todo = 0;
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	if (s->held)
		s->flow->rx_paused = true;
	else
		n = s->ops->receive(s->flow, data, len, &todo);
	pthread_mutex_unlock(&s->lock);
	act(s, todo);
	return n;
}

static void on_hang_up(void *ctx)
{
	struct serial *s = ctx;

	s->events->post(s->events->ctx, VM_EVENT_HANG_UP, s->device.id);
}

static void hold(void *ctx)
{
	struct serial *s = ctx;

	/* What the host takes now is out before the state is read; the rest is kept for the resume.
	 */
	drain(s);
	pthread_mutex_lock(&s->lock);
	s->held = true;
	pthread_mutex_unlock(&s->lock);
}

static void serial_pause(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, device);

	worker_call(s->worker, hold, s);
}

static void serial_resume(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, device);

	pthread_mutex_lock(&s->lock);
	s->held = false;
	pthread_mutex_unlock(&s->lock);
	act(s, SERIAL_OUTPUT);
}

static void serial_reset(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, device);
	unsigned todo = 0;

	pthread_mutex_lock(&s->lock);
	s->ops->reset(s->flow, &todo);
	pthread_mutex_unlock(&s->lock);
	act(s, todo);
}

static int serial_save(struct device *dev, struct state_writer *w)
{
	struct serial *s = container_of(dev, struct serial, device);
	union serial_object object = { 0 };

	pthread_mutex_lock(&s->lock);
	s->ops->saved(s->flow, &object);
	pthread_mutex_unlock(&s->lock);
	return state_save(w, s->ops->state, &object);
}

static int serial_load(struct device *dev, struct state_reader *rd, struct error *err)
{
	struct serial *s = container_of(dev, struct serial, device);
	union serial_object object = { 0 };
	unsigned todo = 0;
	int r = state_load(rd, s->ops->state, &object, err);

	if (r)
		return r;
	pthread_mutex_lock(&s->lock);
	s->ops->loaded(s->flow, &object, &todo);
	pthread_mutex_unlock(&s->lock);
	act(s, todo);
	return 0;
}

static void leave_loop(void *ctx)
{
	struct serial *s = ctx;

	/* The guest's last words may be in the ring still. */
	s->held = false;
	if (s->attached)
		drain(s);
	loop_remove(s->kick);
	s->kick = NULL;
	if (s->host)
		char_detach(s->host);
}

static void serial_destroy(struct device *dev)
{
	struct serial *s = container_of(dev, struct serial, device);

	if (s->bus)
		bus_remove(s->bus, s->device.nodes[0].base);
	if (s->worker)
		worker_call(s->worker, leave_loop, s);
	char_close(s->host);
	irq_destroy(s->irq);
	if (s->kick_fd >= 0)
		close(s->kick_fd);
	pthread_mutex_destroy(&s->lock);
	free(s->flow);
	free(s);
}

static const struct device_ops serial_ops = {
	.pause = serial_pause,
	.resume = serial_resume,
	.reset = serial_reset,
	.save = serial_save,
	.load = serial_load,
	.destroy = serial_destroy,
};

/* The bytes' side: worker, host, kick. */
static int connect_host(struct serial *s, const struct device_env *env,
	const struct char_config *config, struct error *err)
{
	const struct char_events events = {
		.input = on_input,
		.output_ready = drain,
		.hang_up = on_hang_up,
		.ctx = s,
	};
	int r = env->worker(env, "_serial", WORKER_QUIET, &s->worker, err);

	if (r)
		return r;
	r = char_open(&s->host, config, "--serial", err);
	if (r)
		return r;
	s->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	r = s->kick_fd < 0
		    ? -errno
		    : loop_add_eventfd(worker_loop(s->worker), s->kick_fd, on_kick, s, &s->kick);
	if (!r)
		r = char_attach(s->host, worker_loop(s->worker), &events);
	for (unsigned i = 0; i < 2 && !r; i++)
		r = worker_allow(s->worker, char_syscalls(s->host, i));
	s->attached = !r;
	if (!r)
		return device_main_calls(env, char_main_syscalls(s->host), err);
	return r ? error_set(err, -r, "--serial: cannot watch its descriptors: %s", strerror(-r))
		 : 0;
}

/* The guest's side: registers and line. Last, so that the guest's accesses find everything there.
 */
static int connect_guest(struct serial *s, const struct device_env *env, struct error *err)
{
	const struct device_node *place = env->place;
	const struct bus_range range = {
		.start = place->base,
		.len = s->ops->registers,
		.ops = &serial_bus_ops,
		.ctx = s,
		.name = s->device.type->name,
	};
	struct bus *bus = place->pio ? env->pio : env->mmio;
	int r = irq_line_create(&s->irq, env->irq, place->gsi, err);

	if (r)
		return r;
	s->device.nodes[0] = *place;
	r = bus_add(bus, &range);
	if (r)
		return error_set(err, -r, "--serial: its registers at 0x%llx are taken",
			(unsigned long long)place->base);
	s->bus = bus;
	return 0;
}

/* A port that serial_destroy() takes; NULL: no memory. */
static struct serial *serial_new(
	const struct device_type *type, const struct serial_chip *chip, const struct device_env *env)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->flow = calloc(1, chip->size);
	if (!s->flow) {
		free(s);
		return NULL;
	}
	s->device.type = type;
	s->device.ops = &serial_ops;
	strncpy(s->device.id, env->id, sizeof(s->device.id) - 1);
	s->events = env->events;
	s->kick_fd = -1;
	s->ops = chip;
	platform_lock_init(&s->lock);
	if (chip->init)
		chip->init(s->flow);
	return s;
}

int serial_create(struct device **ret, const struct device_type *type, const struct serial_chip *chip,
	const struct device_env *env, const void *options, struct error *err)
{
	const struct serial_settings *o = options;
	struct char_config config;
	struct serial *s;
	int r = char_configure(&config, &o->line, CHAR_TTY, "--serial", err);

	if (r)
		return r;
	*ret = NULL;
	/* Without a place it is the port of another CPU's machines. */
	if (config.mode == CHAR_OFF || !env->place)
		return 0;
	config.terminal = env->terminal;
	s = serial_new(type, chip, env);
	if (!s)
		return error_set(err, ENOMEM, "--serial: out of memory");
	r = connect_host(s, env, &config, err);
	if (!r)
		r = connect_guest(s, env, err);
	if (r) {
		serial_destroy(&s->device);
		return r;
	}
	*ret = &s->device;
	return 0;
}

static const struct option_row serial_rows[] = {
	CHAR_OPTION_ROWS(struct serial_settings, line, "tty"),
	OPTION_ROWS_END,
};

const struct option_group serial_options = {
	.flag = "serial",
	.json = "serial",
	.kind = OPTION_ONE,
	.size = sizeof(struct serial_settings),
	.rows = serial_rows,
	.bare = "mode",
	.help = "serial port (ttyS0; ttyAMA0 on aarch64)",
	.section = "Devices",
};
