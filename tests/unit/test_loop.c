#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/worker.h"
#include "tests/unit/sealed.h"

struct seen {
	struct loop *loop;
	struct loop_source *source, *other;
	unsigned calls;
	int fd;
	pthread_t thread;
};

static void stop(void *ctx)
{
	struct seen *s = ctx;

	s->calls++;
	loop_stop(s->loop);
}

Test(loop, messages_run_in_order_and_before_the_end)
{
	struct seen s = { 0 };

	cr_assert_eq(loop_create(&s.loop, NULL), 0);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(loop_post(s.loop, stop, &s), 0);
	cr_assert_eq(loop_run(s.loop), 0);
	cr_assert_eq(s.calls, 3);
	loop_destroy(s.loop);
}

Test(loop, a_timer_fires_once_or_again_and_again)
{
	struct seen s = { 0 };

	cr_assert_eq(loop_create(&s.loop, NULL), 0);
	cr_assert_eq(loop_timer_add(s.loop, stop, &s, &s.source), 0);
	loop_timer_set(s.source, 1000, 0);
	cr_assert_eq(loop_run(s.loop), 0);
	cr_assert_eq(s.calls, 1);
	loop_destroy(s.loop);
}

static void remove_both(void *ctx)
{
	struct seen *s = ctx;

	s->calls++;
	loop_remove(s->source);
	loop_remove(s->other);
	loop_stop(s->loop);
}

Test(loop, a_source_removed_by_another_is_not_called_in_the_same_round)
{
	struct seen s = { 0 };
	int a = eventfd(1, EFD_NONBLOCK), b = eventfd(1, EFD_NONBLOCK);

	cr_assert_eq(loop_create(&s.loop, NULL), 0);
	cr_assert_eq(loop_add_eventfd(s.loop, a, remove_both, &s, &s.source), 0);
	cr_assert_eq(loop_add_eventfd(s.loop, b, remove_both, &s, &s.other), 0);
	cr_assert_eq(loop_run(s.loop), 0);
	cr_assert_eq(s.calls, 1);
	loop_destroy(s.loop);
	close(a);
	close(b);
}

static void ring_once_more(void *ctx)
{
	struct seen *s = ctx;

	if (s->calls++ == 0)
		cr_assert_eq(eventfd_write(s->fd, 1), 0);
	else
		loop_timer_set(s->other, 50000000, 0);
}

Test(loop, a_bell_is_heard_once_for_each_ring_and_keeps_its_count)
{
	struct seen s = { .fd = eventfd(1, EFD_NONBLOCK) };
	eventfd_t count;

	cr_assert_eq(loop_create(&s.loop, NULL), 0);
	cr_assert_eq(loop_timer_add(s.loop, stop, &s, &s.other), 0);
	cr_assert_eq(loop_add_bell(s.loop, s.fd, ring_once_more, &s, &s.source), 0);
	cr_assert_eq(loop_run(s.loop), 0);
	cr_assert_eq(s.calls, 3); /* with that of the timer */
	cr_assert_eq(eventfd_read(s.fd, &count), 0);
	cr_assert_eq(count, 2);
	loop_destroy(s.loop);
	close(s.fd);
}

static void hung_up(void *ctx, unsigned events)
{
	struct seen *s = ctx;

	s->calls += (events & LOOP_HANGUP) != 0;
	loop_modify(s->source, 0);
	loop_post(s->loop, stop, s);
}

Test(loop, a_muted_source_does_not_spin_on_a_dead_peer)
{
	struct seen s = { 0 };
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	close(pair[1]);
	cr_assert_eq(loop_create(&s.loop, NULL), 0);
	cr_assert_eq(loop_add(s.loop, pair[0], LOOP_READ, hung_up, &s, &s.source), 0);
	cr_assert_eq(loop_add(s.loop, pair[0], LOOP_READ, hung_up, &s, &s.other), -EEXIST);
	cr_assert_eq(loop_run(s.loop), 0);
	cr_assert_eq(s.calls, 2);
	loop_destroy(s.loop);
	close(pair[0]);
}

struct looker {
	struct loop *loop;
	unsigned calls, messages, seen;
};

static void count_message(void *ctx)
{
	((struct looker *)ctx)->messages++;
}

static bool look(void *ctx)
{
	struct looker *l = ctx;

	l->calls++;
	if (l->calls == 10)
		loop_post(l->loop, count_message, l);
	if (l->messages && !l->seen)
		l->seen = l->calls;
	if (l->calls == 20)
		loop_stop(l->loop);
	return l->calls < 15 || l->calls >= 20;
}

/* It is called before the loop sleeps; while it wants more the loop does not sleep, and the others have their turn. */
Test(loop, who_looks_keeps_the_loop_awake_and_does_not_starve_it, .timeout = 300)
{
	struct looker l = { 0 };
	struct loop_idle idle = { .fn = look, .ctx = &l };
	struct loop_source *timer;
	struct error err;

	cr_assert_eq(loop_create(&l.loop, &err), 0);
	cr_assert_eq(loop_timer_add(l.loop, count_message, &l, &timer), 0);
	loop_add_idle(l.loop, &idle);
	/* Woken by the timer alone once it does not want more. */
	loop_timer_set(timer, 50000000, 50000000);
	cr_assert_eq(loop_run(l.loop), 0);
	cr_assert_eq(l.calls, 20);
	cr_assert_eq(l.seen, 11);
	loop_remove_idle(l.loop, &idle);
	loop_remove_idle(l.loop, &idle);
	loop_stop(l.loop);
	cr_assert_eq(loop_run(l.loop), 0);
	cr_assert_eq(l.calls, 20);
	loop_destroy(l.loop);
}

static void note_thread(void *ctx)
{
	struct seen *s = ctx;

	s->thread = pthread_self();
	s->calls++;
}

Test(worker, a_call_runs_on_the_worker_and_is_done_on_return)
{
	struct seen s = { 0 };
	struct worker *w;
	struct error err;

	cr_assert_eq(worker_create(&w, "_disk0_q0", &err), 0);
	cr_assert_eq(worker_call(w, note_thread, &s), 0);
	cr_assert(pthread_equal(s.thread, pthread_self()), "before it runs: on the caller");
	cr_assert_eq(worker_run(w, SANDBOX_OFF, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < 1000; i++)
		cr_assert_eq(worker_call(w, note_thread, &s), 0);
	cr_assert_eq(s.calls, 1001);
	cr_assert_not(pthread_equal(s.thread, pthread_self()));
	worker_destroy(w);
}

Test(worker, under_its_filter_it_still_serves)
{
	struct seen s = { 0 };
	struct worker *w;
	struct error err;

	needs_filters();
#ifdef __SANITIZE_ADDRESS__
	cr_skip_test("the sanitizer's own system calls are not in any role");
#endif
	cr_assert_eq(worker_create(&w, "_test", &err), 0);
	cr_assert_eq(worker_run(w, SANDBOX_KILL, &err), 0, "%s", err.text);
	cr_assert_eq(worker_call(w, note_thread, &s), 0);
	cr_assert_eq(s.calls, 1);
	worker_destroy(w);
}
