/* Work beside main: vmm/aside.h. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "vmm/aside.h"

struct work {
	pthread_t by;
	atomic_bool go;
	int order, *clock;
};

static int note(void *ctx, struct error *err)
{
	struct work *w = ctx;

	(void)err;
	w->by = pthread_self();
	w->order = ++*w->clock;
	return 0;
}

static int wait_then_note(void *ctx, struct error *err)
{
	struct work *w = ctx;

	while (!atomic_load(&w->go))
		usleep(100);
	return note(ctx, err);
}

static int fail(void *ctx, struct error *err)
{
	return error_set(err, EIO, "%s", (const char *)ctx);
}

Test(aside, jobs_run_in_order_on_another_thread, .timeout = 600)
{
	struct aside a = { 0 };
	int clock = 0;
	struct work w[3] = { { .clock = &clock }, { .clock = &clock }, { .clock = &clock } };

	aside_add(&a, note, &w[0]);
	aside_add(&a, note, &w[1]);
	aside_start(&a);
	aside_add(&a, note, &w[2]);
	cr_assert_eq(aside_wait(&a, 2, NULL), 0);
	aside_end(&a);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(w[i].order, i + 1);
		cr_assert_not(pthread_equal(w[i].by, pthread_self()));
	}
}

Test(aside, main_waits_for_one_job_and_not_for_the_next, .timeout = 600)
{
	struct aside a = { 0 };
	int clock = 0;
	struct work first = { .clock = &clock }, second = { .clock = &clock };

	aside_add(&a, note, &first);
	aside_add(&a, wait_then_note, &second);
	aside_start(&a);
	cr_assert_eq(aside_wait(&a, 0, NULL), 0);
	cr_assert_eq(first.order, 1);
	cr_assert_eq(second.order, 0);
	atomic_store(&second.go, true);
	cr_assert_eq(aside_wait(&a, 1, NULL), 0);
	cr_assert_eq(second.order, 2);
	aside_end(&a);
}

Test(aside, each_job_has_its_own_result_and_sentence, .timeout = 600)
{
	struct aside a = { 0 };
	char first[] = "the first", third[] = "the third";
	struct error err = { "untouched" };
	int clock = 0;
	struct work w = { .clock = &clock };

	aside_add(&a, fail, first);
	aside_add(&a, note, &w);
	aside_add(&a, fail, third);
	aside_start(&a);
	cr_assert_eq(aside_wait(&a, 1, &err), 0);
	cr_assert_str_eq(err.text, "untouched");
	cr_assert_eq(aside_wait(&a, 2, &err), -EIO);
	cr_assert_str_eq(err.text, "the third");
	cr_assert_eq(aside_wait(&a, 0, &err), -EIO, "again, and in any order");
	cr_assert_str_eq(err.text, "the first");
	aside_end(&a);
}

Test(aside, without_a_thread_main_does_what_it_waits_for, .timeout = 600)
{
	struct aside a = { 0 };
	int clock = 0;
	struct work w[2] = { { .clock = &clock }, { .clock = &clock } };

	aside_add(&a, note, &w[0]);
	aside_add(&a, note, &w[1]);
	cr_assert_eq(aside_wait(&a, 0, NULL), 0);
	cr_assert_eq(w[1].order, 0, "nobody waited for the second");
	cr_assert_eq(aside_wait(&a, 1, NULL), 0);
	cr_assert(pthread_equal(w[1].by, pthread_self()));
	cr_assert_eq(w[1].order, 2);
	aside_end(&a);
}

Test(aside, closed_it_ends_by_itself_when_it_is_through, .timeout = 600)
{
	struct aside a = { 0 };
	int clock = 0;
	struct work w[2] = { { .clock = &clock }, { .clock = &clock } };

	aside_add(&a, note, &w[0]);
	aside_start(&a);
	aside_add(&a, wait_then_note, &w[1]);
	aside_close(&a);
	aside_close(&a);
	atomic_store(&w[1].go, true);
	/* Not aside_end(), which would close it too. */
	cr_assert_eq(pthread_join(a.thread, NULL), 0);
	cr_assert_eq(w[1].order, 2, "what was added before is done");
	cr_assert_eq(aside_wait(&a, 1, NULL), 0);
}

Test(aside, the_end_waits_for_what_was_begun, .timeout = 600)
{
	struct aside a = { 0 };
	int clock = 0;
	struct work w = { .clock = &clock };

	aside_start(&a);
	aside_add(&a, note, &w);
	aside_end(&a);
	cr_assert_eq(w.order, 1);
	aside_end(&a);
}
