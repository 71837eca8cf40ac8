/*
 * The console with rings and buffers that the input wrote, kicks, and input from the host. Whatever the driver does, each
 * head that was taken is given back once the queues are stopped.
 *
 * Input: one byte of features, one byte of how much host input there is, then an image of the rings and tables.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/host/char.h"
#include "devices/virtio/console.h"
#include "tests/driver/harness.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RX, TX, SIZE = 16, HEADER = 2, DESC_BYTES = 16 * SIZE, RING_BYTES = 160, TURNS = 64 };

struct options {
	struct virtio_options virtio;
	struct char_options line;
};

struct rig {
	struct harness *h[2];
	struct worker *worker;
	struct virtio_device *dev;
	struct vm_events events;
	struct device_env env;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static int give_worker(const struct device_env *env, const char *name, enum worker_share share, struct worker **ret,
	struct error *err)
{
	(void)name, (void)share, (void)err;
	*ret = ((struct rig *)env->machine)->worker;
	return 0;
}

static void nothing(struct virtio_device *dev)
{
	(void)dev;
}

static void post(void *ctx, enum vm_event event, const char *what)
{
	(void)ctx, (void)event, (void)what;
}

/* stdin is a pipe with `input` bytes in it, stdout one that takes 64 KiB and is never read. */
static void standard_io(uint8_t input, int reader[1])
{
	static const uint8_t keys[256 * 32];
	int in[2], out[2];

	must(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC));
	must(write(in[1], keys, input * 32u) == (ssize_t)(input * 32u));
	dup2(in[0], STDIN_FILENO);
	dup2(out[1], STDOUT_FILENO);
	close(in[0]), close(in[1]), close(out[1]);
	reader[0] = out[0];
}

static void device_new(struct rig *r)
{
	const struct options o = { .line = { .mode = CHAR_TTY } };
	struct error err;

	must(!worker_create(&r->worker, "_quiet", &err));
	r->events.post = post;
	r->env = (struct device_env){
		.id = "_console0", .events = &r->events, .worker = give_worker, .machine = r,
	};
	r->dev = calloc(1, virtio_console_type.size);
	r->dev->type = &virtio_console_type;
	r->dev->events = &r->events;
	r->dev->config.size = virtio_console_type.config_size;
	r->dev->config_changed = r->dev->broken = nothing;
	must(!virtio_console_type.create(r->dev, &r->env, &o, &err));
}

/* The image lies over descriptors, available ring and the first indirect tables, one queue after the other. */
static void rings_from(struct rig *r, const uint8_t **data, size_t *left, unsigned i)
{
	const struct {
		uint64_t at;
		size_t len;
	} part[] = { { HARNESS_DESC, DESC_BYTES }, { HARNESS_AVAIL, RING_BYTES }, { HARNESS_TABLES, 256 } };

	for (size_t k = 0; k < ARRAY_SIZE(part); k++) {
		size_t n = MIN(*left, part[k].len);
		uint8_t *to = harness_at(r->h[i], part[k].at);

		memset(to, 0, part[k].len);
		memcpy(to, *data, n);
		*data += n;
		*left -= n;
	}
	memset(harness_at(r->h[i], HARNESS_USED), 0, RING_BYTES);
}

static void serve(struct rig *r, unsigned i)
{
	struct queue *q = r->h[i]->q;

	for (unsigned turn = 0; turn < TURNS && !queue_broken(q); turn++) {
		queue_disable_kick(q);
		if (virtio_console_type.handle(r->dev, q) != 1)
			break;
	}
	queue_flush(q);
	(void)!queue_enable_kick(q);
}

static void stop(void *ctx)
{
	loop_stop(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig r;
	struct loop *loop;
	uint64_t features;
	size_t left = size - HEADER;
	int reader[1];

	if (size < HEADER)
		return 0;
	features = (data[0] & 1 ? VD_F_PACKED : 0) | (data[0] & 2 ? VD_F_EVENT_IDX : 0) |
		(data[0] & 4 ? VD_F_INDIRECT : 0) | (data[0] & 8 ? VD_F_IN_ORDER : 0);
	standard_io(data[1], reader);
	data += HEADER;
	device_new(&r);
	for (unsigned i = 0; i < 2; i++) {
		if (!r.h[i])
			r.h[i] = harness_new_closed(SIZE, 0);
		r.h[i]->setup.index = (uint16_t)i;
		r.h[i]->setup.features = features | VD_F_VERSION_1;
		r.h[i]->setup.next_avail = r.h[i]->setup.next_used = features & VD_F_PACKED ? 0x8000 : 0;
		rings_from(&r, &data, &left, i);
		must(!queue_open(&r.h[i]->q, r.h[i]->mem, &r.h[i]->setup, 0));
		r.dev->queues[i] = r.h[i]->q;
	}
	loop = worker_loop(r.worker);
	serve(&r, RX);
	serve(&r, TX);
	/* One round: input from the pipe. */
	must(!loop_post(loop, stop, loop));
	must(!loop_run(loop));
	for (unsigned i = 0; i < 2; i++) {
		virtio_console_type.queue_stop(r.dev, r.h[i]->q);
		r.dev->queues[i] = NULL;
		must(queue_in_flight(r.h[i]->q) == 0);
		queue_close(r.h[i]->q, NULL);
		r.h[i]->q = NULL;
	}
	virtio_console_type.destroy(r.dev);
	worker_destroy(r.worker);
	free(r.dev);
	close(reader[0]);
	return 0;
}
