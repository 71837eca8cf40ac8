/* See device.h. Failures of the rig itself abort: they are never what a test is about. */
#include "tests/driver/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "rig: %s\n", what);
	abort();
}

static void on_event(void *ctx, enum vm_event event, const char *what)
{
	struct rig *r = ctx;

	must(event == VM_EVENT_DEVICE_ERROR || event == VM_EVENT_PAUSE, "an event no device may post");
	*(event == VM_EVENT_PAUSE ? &r->npauses : &r->nevents) += 1;
	snprintf(r->event, sizeof(r->event), "%s", what ? what : "");
}

static void on_config_changed(struct virtio_device *dev)
{
	((struct rig *)dev->front)->config_changes++;
}

static void on_broken(struct virtio_device *dev)
{
	((struct rig *)dev->front)->broken = true;
}

/* The device's options as the command line would give them. */
static const void *parse(struct rig *r, const struct option_group *group, const char *text,
	struct error *err)
{
	const struct option_group *const groups[] = { group, NULL };
	char flag[32], value[512];
	char *argv[] = { (char *)"test", flag, value, NULL };

	snprintf(flag, sizeof(flag), "--%s", group->flag);
	snprintf(value, sizeof(value), "%s", text);
	must(options_create(&r->options, groups) == 0, "options_create");
	if (text[0] && options_parse_argv(r->options, 3, argv, err))
		return NULL;
	return options_get(r->options, group->flag, 0);
}

struct rig *rig_new(const struct virtio_type *type, const char *text, struct error *err)
{
	struct device_env env = { .id = "_dev0" };
	struct rig *r = calloc(1, sizeof(*r));
	const struct virtio_options *o;

	must(r, "no memory");
	must(loop_create(&r->loop, err) == 0, "loop_create");
	env.main_loop = r->loop;
	r->events = (struct vm_events){ .post = on_event, .ctx = r };
	o = parse(r, type->options, text, err);
	if (!o) {
		rig_free(r);
		return NULL;
	}
	r->dev = calloc(1, type->size);
	must(r->dev, "no memory");
	r->dev->type = type;
	snprintf(r->dev->id, sizeof(r->dev->id), "%s", env.id);
	r->dev->events = &r->events;
	r->dev->nqueues = type->nqueues;
	r->dev->queue_size = (uint16_t)o->queue_size;
	r->dev->config.size = type->config_size;
	r->dev->config_changed = on_config_changed;
	r->dev->broken = on_broken;
	r->dev->front = r;
	if (type->create(r->dev, &env, o, err)) {
		rig_free(r);
		return NULL;
	}
	r->dev->offered = type->features | r->dev->features;
	r->dev->features = 0;
	return r;
}

void rig_free(struct rig *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < RIG_QUEUES; i++)
		rig_stop(r, i);
	if (r->dev && r->dev->type->destroy)
		r->dev->type->destroy(r->dev);
	free(r->dev);
	loop_destroy(r->loop);
	options_destroy(r->options);
	free(r);
}

void rig_start(struct rig *r, unsigned i, uint16_t size, uint64_t features)
{
	struct harness *h = harness_new_closed(size, features);

	r->dev->features = features | VIRTIO_BIT(VIRTIO_F_VERSION_1);
	h->setup.index = (uint16_t)i;
	must(queue_open(&h->q, h->mem, &h->setup, 0) == 0, "queue_open");
	queue_set_loop(h->q, r->loop);
	r->h[i] = h;
	r->dev->queues[i] = h->q;
	if (r->dev->type->queue_start)
		must(r->dev->type->queue_start(r->dev, h->q) == 0, "queue_start");
}

int rig_kick(struct rig *r, unsigned i)
{
	int ret = r->dev->type->handle(r->dev, r->h[i]->q);

	queue_flush(r->h[i]->q);
	return ret;
}

void rig_stop(struct rig *r, unsigned i)
{
	struct harness *h = r->h[i];

	if (!h)
		return;
	if (r->dev->type->queue_stop)
		r->dev->type->queue_stop(r->dev, h->q);
	queue_flush(h->q);
	must(queue_in_flight(h->q) == 0, "a chain was never returned");
	must(queue_stats(h->q)->popped == queue_stats(h->q)->returned,
		"popped and returned differ");
	r->dev->queues[i] = NULL;
	r->h[i] = NULL;
	harness_free(h);
}

static void stop_loop(void *ctx)
{
	loop_stop(ctx);
}

void rig_run(struct rig *r, unsigned ms)
{
	struct loop_source *timer;

	must(loop_timer_add(r->loop, stop_loop, r->loop, &timer) == 0, "loop_timer_add");
	loop_timer_set(timer, ms ? (uint64_t)ms * 1000000 : 1, 0);
	must(loop_run(r->loop) == 0, "loop_run");
	loop_remove(timer);
}

struct input {
	const uint8_t *data;
	size_t len;
};

static uint32_t eat(struct input *in, size_t n)
{
	uint32_t v = 0;

	n = MIN(n, in->len);
	memcpy(&v, in->data, n);
	in->data += n;
	in->len -= n;
	return v;
}

/* Mostly inside RAM, sometimes across a border or in the hole; mostly short. */
static struct vd_seg eat_seg(struct input *in)
{
	static const uint64_t base[] = { HARNESS_DATA, HARNESS_DATA, HARNESS_HIGH - 64,
		HARNESS_HOLE - 64, HARNESS_FAR };
	static const uint32_t lengths[] = { 1, 12, 16, 512, 1, 4096 };
	uint8_t kind = (uint8_t)eat(in, 1);
	struct vd_seg seg = { .addr = base[kind % ARRAY_SIZE(base)] + eat(in, 2) };

	seg.len = kind & 0x80 ? eat(in, 2) : lengths[(kind >> 3) % ARRAY_SIZE(lengths)];
	return seg;
}

void rig_fuzz(struct rig *r, unsigned i, const uint8_t *data, size_t len)
{
	struct harness *h = r->h[i];
	struct input in = { data, len };
	struct vd_seg segs[HARNESS_TABLE_LEN];
	uint32_t used;
	void *cookie;

	memcpy(harness_at(h, HARNESS_DATA), data, MIN(len, (size_t)0x10000));
	while (in.len) {
		uint8_t shape = (uint8_t)eat(&in, 1);
		unsigned nin = shape & 3, nout = (shape >> 2) & 3;

		for (unsigned k = 0; k < nin + nout; k++)
			segs[k] = eat_seg(&in);
		if (nin + nout)
			vd_add(&h->vd, segs, nin, nout, NULL);
		if (shape & 0x10)
			continue;
		vd_kick(&h->vd);
		if (rig_kick(r, i) < 0)
			return;
		while (vd_poll(&h->vd, &cookie, &used) > 0)
			;
	}
	vd_kick(&h->vd);
	rig_kick(r, i);
}
