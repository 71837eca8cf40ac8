/*
 * virtio-console, one port (virtio 1.2 §5.3): queue 0 brings input to the guest, queue 1 takes its
 * output. VIRTIO_CONSOLE_F_SIZE tells the guest the size of the terminal's window; 0 by 0 where
 * there is none. No multiport, so no control queues.
 *
 * All of it runs on one worker. Output goes from guest memory to the kernel in pieces; what the
 * host does not take now stays in its chain, which stays in flight, and the guest sees a full
 * queue. Input that finds no buffer stays with the host until the guest gives one. A chain is used
 * whole, however many descriptors it has.
 *
 * In a process of its own (isolation=process) each life watches anew; the terminal's settings and
 * the socket's path stay main's. How far the chain in flight was written is kept, so that the next
 * life goes on behind it: what is printed once more is at most what was written in the moment of
 * death. Input that was read and not given to the guest is lost with a life, and so is a socket's
 * client, who may come again.
 */
#include "devices/virtio/console.h"

#include <errno.h>

#include "devices/host/char.h"
#include "devices/virtio/chain.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"
#include "vmm/log.h"

enum { VIRTIO_CONSOLE_F_SIZE = 0 }; /* §5.3.3 */

enum { QUEUE_RX, QUEUE_TX, QUEUES }; /* §5.3.2 */

enum {
	PIECE_MAX = 64 * KIB, /* one write */
	BYTES_PER_CALL = MIB, /* before other devices of the worker have their turn */
	REST_MAX = 64 * KIB,
};

/* §5.3.4 */
struct console_config {
	uint16_t cols, rows;
	uint32_t max_nr_ports;
	uint32_t emerg_wr;
};
_Static_assert(sizeof(struct console_config) == 12, "virtio 1.2 §5.3.4");

/* What a life leaves to the next. It may be nonsense: each number is bounded where it is used. */
struct console_kept {
	uint64_t written;   /* bytes of the chain that goes to `at`, as queue_next_used() says */
	uint64_t total;     /* char_written() */
	uint16_t at;
};
_Static_assert(sizeof(struct console_kept) <= VIRTIO_KEPT_MAX, "it is kept");

struct console {
	struct virtio_device dev;	/* first */
	struct worker *worker;		/* const */
	struct char_host *host;		/* worker, as all below */
	struct loop_source *again;	/* more is left than one call may move */
	bool live;			/* const; create() is over */
	bool in_handle;			/* who reports a broken ring */
	struct chain *tx;		/* in flight, not wholly written; NULL */
	struct iovec iov[CHAR_IOV_MAX]; /* the piece of `tx` that the host takes next */
	int niov;
	struct console_kept own_kept, *kept; /* kept: own, or where it outlives this process */
	/* What a queue that was stopped still had to write, so that a pause loses nothing. */
	uint32_t rest_pos, rest_len;
	uint8_t rest[REST_MAX];
};

struct console_options {
	struct virtio_options virtio; /* first */
	struct char_options line;
};

static struct console *console_of(struct virtio_device *dev)
{
	return container_of(dev, struct console, dev);
}

/* True when nothing is left of a stopped queue. */
static bool send_rest(struct console *c)
{
	while (c->rest_pos < c->rest_len) {
		size_t n = char_output(c->host, c->rest + c->rest_pos, c->rest_len - c->rest_pos);

		if (!n)
			return false;
		c->rest_pos += (uint32_t)n;
	}
	c->rest_pos = c->rest_len = 0;
	return true;
}

/* The next piece of the chain in flight; a chain of many small buffers makes small pieces. */
static void take_piece(struct console *c)
{
	size_t len = MIN(chain_in_left(c->tx), (size_t)PIECE_MAX);
	int n;

	do {
		n = chain_iov_in(c->tx, len, c->iov, CHAR_IOV_MAX);
		len = (len + 1) / 2;
	} while (n == -E2BIG);
	c->niov = n > 0 ? char_iov_advance(c->iov, n, 0) : 0;
}

static size_t iov_bytes(const struct iovec *iov, int n)
{
	size_t sum = 0;

	for (int i = 0; i < n; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* So much of the chain in flight is written. */
static void note_written(struct console *c, struct queue *q, size_t n)
{
	const uint16_t at = queue_next_used(q);

	/* A process ends between two stores: first no number, then whose it is. */
	if (c->kept->at != at) {
		c->kept->written = 0;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		c->kept->at = at;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
	}
	c->kept->written += n;
	c->kept->total = char_written(c->host);
}

/* Behind what an earlier life has written of this chain. */
static void skip_written(struct console *c, struct queue *q)
{
	uint64_t n = c->kept->at == queue_next_used(q) ? c->kept->written : 0;

	if (n && chain_skip(c->tx, MIN(n, chain_in_left(c->tx))) < 0)
		log_guest(LOG_WARN, "%s: output may be printed twice", c->dev.id);
}

/* The driver has it back, at once where a life may end: then no more than this one is in flight. */
static void return_chain(struct console *c, struct queue *q)
{
	queue_push(q, c->tx);
	c->tx = NULL;
	if (c->dev.isolated)
		queue_publish(q);
	/* Who finds the number finds that the chain has gone. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	c->kept->written = 0;
}

/* Write out the chain in flight. 1: all of it, 0: the host is full, or it took as much as one call
 * may move. */
static int send_chain(struct console *c, struct queue *q, size_t *budget)
{
	while (c->niov || chain_in_left(c->tx)) {
		size_t all, taken;

		if (!*budget)
			return 0;
		if (!c->niov)
			take_piece(c);
		if (!c->niov)
			return 1;
		all = iov_bytes(c->iov, c->niov);
		taken = char_output_iov(c->host, c->iov, c->niov);
		note_written(c, q, taken);
		*budget -= MIN(*budget, taken);
		c->niov = char_iov_advance(c->iov, c->niov, taken);
		if (taken < all)
			return 0;
	}
	return 1;
}

/* Pop and write until empty or full. 1: more to do, 0: wait for a kick or for the host, -EPROTO. */
static int send_queue(struct console *c, struct queue *q)
{
	size_t budget = BYTES_PER_CALL;
	unsigned chains = queue_size(q);
	int r = 0;

	if (!send_rest(c))
		return 0;
	while (budget && chains) {
		if (!c->tx) {
			r = queue_pop(q, &c->tx);
			if (r <= 0)
				break;
			skip_written(c, q);
		}
		r = 0;
		if (!send_chain(c, q, &budget))
			break;
		return_chain(c, q);
		chains--;
	}
	queue_flush(q);
	return r < 0 ? r : !budget || !chains;
}

/* The host has room again, or the last call left more to do. */
static void on_output_ready(void *ctx)
{
	struct console *c = ctx;
	struct queue *q = c->dev.queues[QUEUE_TX];
	int r;

	if (!q) {
		send_rest(c);
		return;
	}
	r = queue_broken(q) ? 0 : send_queue(c, q);
	/* Empty: what the driver was told about kicks is from before these chains were taken. */
	if (r == 0 && !c->tx && queue_enable_kick(q))
		r = 1;
	if (r > 0)
		loop_timer_set(c->again, 1, 0);
	else if (r < 0)
		c->dev.broken(&c->dev);
}

/* The next receive buffer. When there is none the driver is asked to kick: 0 is final until it
 * does. */
static int pop_buffer(struct queue *q, struct chain **chain)
{
	int r = queue_pop(q, chain);

	if (r == 0 && queue_enable_kick(q))
		r = queue_pop(q, chain);
	return r;
}

/* Fill buffers of the receive queue; how many bytes found room. */
static size_t on_input(void *ctx, const uint8_t *data, size_t len)
{
	struct console *c = ctx;
	struct queue *q = c->dev.queues[QUEUE_RX];
	size_t done = 0;
	int r = 0;

	if (!q || queue_broken(q))
		return 0;
	/* Each round takes one chain and fills it as far as it goes; one without room goes back
	 * empty. As many as the ring holds, then others have their turn. */
	for (unsigned i = queue_size(q); i && done < len; i--) {
		struct chain *chain;
		size_t n;

		r = pop_buffer(q, &chain);
		if (r <= 0)
			break;
		n = MIN(chain_out_left(chain), len - done);
		if (n && chain_write(chain, data + done, n) == 0)
			done += n;
		queue_push(q, chain);
	}
	queue_flush(q);
	if (r > 0 && done < len)
		loop_timer_set(c->again, 1, 0);
	if (r < 0 && !c->in_handle)
		c->dev.broken(&c->dev);
	return done;
}

/* One call moved all that one call may. */
static void on_again(void *ctx)
{
	struct console *c = ctx;

	char_resume_input(c->host);
	on_output_ready(c);
}

static void on_resized(void *ctx, unsigned columns, unsigned rows)
{
	struct console *c = ctx;
	const uint16_t size[2] = { (uint16_t)columns, (uint16_t)rows };

	virtio_config_write(
		&c->dev.config, offsetof(struct console_config, cols), size, sizeof(size));
	if (c->live)
		c->dev.config_changed(&c->dev);
}

static void on_hang_up(void *ctx)
{
	struct console *c = ctx;

	c->dev.events->post(c->dev.events->ctx, VM_EVENT_HANG_UP, c->dev.id);
}

static int console_handle(struct virtio_device *dev, struct queue *q)
{
	struct console *c = console_of(dev);

	if (queue_index(q) == QUEUE_TX)
		return send_queue(c, q);
	c->in_handle = true;
	char_resume_input(c->host);
	c->in_handle = false;
	return queue_broken(q) ? -EPROTO : 0;
}

/* Keep what is left of the chain in flight, so that it can be given back. */
static void console_queue_stop(struct virtio_device *dev, struct queue *q)
{
	struct console *c = console_of(dev);
	size_t n;

	if (queue_index(q) != QUEUE_TX || !c->tx)
		return;
	for (int i = 0; i < c->niov; i++) {
		n = MIN(c->iov[i].iov_len, (size_t)(REST_MAX - c->rest_len));
		memcpy(c->rest + c->rest_len, c->iov[i].iov_base, n);
		c->rest_len += (uint32_t)n;
	}
	c->niov = 0;
	n = MIN(chain_in_left(c->tx), (size_t)(REST_MAX - c->rest_len));
	if (chain_read(c->tx, c->rest + c->rest_len, n) == 0)
		c->rest_len += (uint32_t)n;
	if (chain_in_left(c->tx))
		log_guest(LOG_WARN, "%s: output of a stopped queue is dropped", dev->id);
	return_chain(c, q);
	queue_flush(q);
}

/* Watch the line from now on, whether or not there is a driver. */
static int join_loop(struct console *c, struct loop *loop, struct error *err)
{
	const struct char_events events = {
		.input = on_input,
		.output_ready = on_output_ready,
		.resized = on_resized,
		.hang_up = on_hang_up,
		.ctx = c,
	};
	int r = loop_timer_add(loop, on_again, c, &c->again);

	if (!r)
		r = char_attach(c->host, loop, &events);
	if (r)
		return error_set(
			err, -r, "--console: cannot watch its descriptors: %s", strerror(-r));
	char_check_size(c->host);
	return 0;
}

static int console_create(struct virtio_device *dev, const struct device_env *env,
	const void *options, struct error *err)
{
	const struct console_options *o = options;
	struct console *c = console_of(dev);
	struct char_config config;
	int r = char_configure(&config, &o->line, CHAR_OFF, "--console", err);

	if (r)
		return r;
	c->kept = &c->own_kept;
	config.terminal = env->terminal;
	/* The quiet worker that the queues are on, too; a process has its own. */
	r = dev->isolated ? 0 : env->worker(env, dev->id, WORKER_QUIET, &c->worker, err);
	if (r)
		return r;
	r = char_open(&c->host, &config, "--console", err);
	if (r == 0 && c->worker)
		r = join_loop(c, worker_loop(c->worker), err);
	if (r)
		return r;
	c->live = true;
	for (unsigned i = 0; i < 2; i++)
		dev->syscalls[i] = char_syscalls(c->host, i);
	dev->forked_syscalls = char_attach_syscalls;
	return device_main_calls(env, char_main_syscalls(c->host), err);
}

/* --- a process of its own --- */

static void console_fds(const struct virtio_device *dev, void (*keep)(void *ctx, int fd), void *ctx)
{
	char_fds(((const struct console *)dev)->host, keep, ctx);
}

static int console_forked(struct virtio_device *dev, const struct virtio_life *life, struct error *err)
{
	struct console *c = console_of(dev);

	(void)err;
	c->kept = life->kept;
	char_go_on(c->host, c->kept->total);
	return 0;
}

static int console_begin(struct virtio_device *dev, struct loop *loop, struct error *err)
{
	return join_loop(console_of(dev), loop, err);
}

static void leave_loop(void *ctx)
{
	struct console *c = ctx;

	loop_remove(c->again);
	c->again = NULL;
	if (c->host)
		char_detach(c->host);
}

static void console_destroy(struct virtio_device *dev)
{
	struct console *c = console_of(dev);

	if (c->worker)
		worker_call(c->worker, leave_loop, c);
	char_close(c->host);
}

static const struct option_row console_rows[] = {
	VIRTIO_OPTION_ROWS("64"),
	CHAR_OPTION_ROWS(struct console_options, line, "off"),
	OPTION_ROWS_END,
};

static const struct option_group console_options = {
	.flag = "console",
	.json = "console",
	.kind = OPTION_ONE,
	.size = sizeof(struct console_options),
	.rows = console_rows,
	.bare = "mode",
	.help = "virtio console hvc0",
	.section = "Devices",
};

static const struct syscall_row console_syscalls[] = {
	{ SYSCALL(writev, "output from more than one piece of guest memory") },
	SYSCALL_END,
};

const struct virtio_type virtio_console_type = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000, /* simple communication controller, other */
	.features = VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE),
	.nqueues = QUEUES,
	.thread_suffix = "q",
	.size = sizeof(struct console),
	.config_size = sizeof(struct console_config),
	.options = &console_options,
	.syscalls = console_syscalls,
	.create = console_create,
	.handle = console_handle,
	.queue_stop = console_queue_stop,
	.may_fork = true,
	.may_post = 1u << VM_EVENT_HANG_UP,
	.fds = console_fds,
	.forked = console_forked,
	.begin = console_begin,
	.destroy = console_destroy,
};

static int console_row_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	const struct console_options *o = options;
	struct char_config config;
	int r = char_configure(&config, &o->line, CHAR_OFF, "--console", err);

	if (r)
		return r;
	*ret = NULL;
	if (config.mode == CHAR_OFF)
		return 0;
	r = virtio_create(ret, &virtio_console_row, &virtio_console_type, env, options, err);
	if (r == 0)
		(*ret)->cmdline = "console=hvc0";
	return r;
}

const struct device_type virtio_console_row = {
	.name = "virtio-console",
	.options = &console_options,
	.id_prefix = "_console",
	.shares_memory = virtio_shares_memory,
	.create = console_row_create,
};
