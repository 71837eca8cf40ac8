#include "tests/driver/char_end.h"

#include <signal.h>
#include <time.h>

static size_t on_input(void *ctx, const uint8_t *data, size_t len)
{
	struct char_end *e = ctx;
	size_t n;

	pthread_mutex_lock(&e->lock);
	n = MIN(len, e->allowed - e->ngot);
	n = MIN(n, CHAR_END_MAX - e->ngot);
	memcpy(e->got + e->ngot, data, n);
	e->ngot += n;
	pthread_mutex_unlock(&e->lock);
	atomic_fetch_add(&e->calls, 1);
	return n;
}

static void on_ready(void *ctx)
{
	atomic_fetch_add(&((struct char_end *)ctx)->ready, 1);
}

static void on_resized(void *ctx, unsigned columns, unsigned rows)
{
	struct char_end *e = ctx;

	atomic_store(&e->columns, columns);
	atomic_store(&e->rows, rows);
	atomic_fetch_add(&e->sizes, 1);
}

static void on_hang_up(void *ctx)
{
	atomic_fetch_add(&((struct char_end *)ctx)->hang_ups, 1);
}

static void *run(void *arg)
{
	loop_run(arg);
	return NULL;
}

int char_end_open(struct char_end *e, const struct char_config *config, size_t allowed, struct error *err)
{
	const struct char_events events = {
		.input = on_input, .output_ready = on_ready, .resized = on_resized, .hang_up = on_hang_up, .ctx = e,
	};
	int r;

	/* As the program does for all its threads. */
	signal(SIGPIPE, SIG_IGN);
	memset(e, 0, sizeof(*e));
	pthread_mutex_init(&e->lock, NULL);
	e->allowed = allowed;
	r = loop_create(&e->loop, err);
	if (!r)
		r = char_open(&e->host, config, "--serial", err);
	if (!r)
		r = char_attach(e->host, e->loop, &events);
	if (!r)
		char_check_size(e->host);
	if (!r)
		r = -pthread_create(&e->thread, NULL, run, e->loop);
	e->runs = !r;
	return r;
}

void char_end_close(struct char_end *e)
{
	if (e->runs) {
		loop_stop(e->loop);
		pthread_join(e->thread, NULL);
	}
	char_close(e->host);
	loop_destroy(e->loop);
	pthread_mutex_destroy(&e->lock);
}

struct output {
	struct char_end *e;
	const void *data;
	size_t len;
};

static void do_output(void *ctx)
{
	struct output *o = ctx;

	o->len = char_output(o->e->host, o->data, o->len);
}

size_t char_end_output(struct char_end *e, const void *data, size_t len)
{
	struct output o = { e, data, len };

	loop_call(e->loop, do_output, &o);
	return o.len;
}

static void do_resume(void *ctx)
{
	char_resume_input(((struct char_end *)ctx)->host);
}

void char_end_allow(struct char_end *e, size_t more)
{
	pthread_mutex_lock(&e->lock);
	e->allowed += more;
	pthread_mutex_unlock(&e->lock);
	loop_call(e->loop, do_resume, e);
}

size_t char_end_got(struct char_end *e)
{
	size_t n;

	pthread_mutex_lock(&e->lock);
	n = e->ngot;
	pthread_mutex_unlock(&e->lock);
	return n;
}

static void nap(void)
{
	nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
}

bool char_end_wait(struct char_end *e, size_t n)
{
	for (int i = 0; i < CHAR_END_PATIENCE_MS && char_end_got(e) < n; i++)
		nap();
	return char_end_got(e) >= n;
}

bool char_end_wait_for(_Atomic unsigned *v, unsigned n)
{
	for (int i = 0; i < CHAR_END_PATIENCE_MS && atomic_load(v) < n; i++)
		nap();
	return atomic_load(v) >= n;
}

static void do_dropped(void *ctx)
{
	struct output *o = ctx;

	o->len = char_dropped(o->e->host);
}

uint64_t char_end_dropped(struct char_end *e)
{
	struct output o = { .e = e };

	loop_call(e->loop, do_dropped, &o);
	return o.len;
}
