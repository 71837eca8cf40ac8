/* Rate limits: how much passes in which time, on a clock of the test's own. */
#include <criterion/criterion.h>
#include <pthread.h>

#include "vmm/rate.h"

static const uint64_t ms = 1000000, second = UINT64_C(1000000000);

static void limit(struct rate *r, enum rate_kind kind, uint64_t size, uint64_t burst, uint64_t refill)
{
	const struct rate_limit l = { size, burst, refill };

	rate_set(r, kind, &l);
}

/* Units that pass from `from` to `until` in steps of `each`, never idle; *gap: the longest wait. */
static uint64_t pass(struct rate *r, enum rate_kind kind, uint64_t each, uint64_t from, uint64_t until,
	uint64_t *gap)
{
	uint64_t sum = 0, now = from, when;

	*gap = 0;
	while (now < until) {
		when = rate_ready(r, now);
		if (when) {
			cr_assert_gt(when, now);
			*gap = MAX(*gap, when - now);
			now = when;
			continue;
		}
		rate_charge(r, kind == RATE_BYTES ? each : 1, kind == RATE_OPS ? each : 1, now);
		sum += each;
	}
	return sum;
}

Test(rate, without_limits_everything_passes)
{
	struct rate r;

	rate_init(&r, NULL);
	cr_assert_not(rate_active(&r));
	rate_charge(&r, UINT64_MAX, UINT64_MAX, 1);
	cr_assert_eq(rate_ready(&r, 1), 0);
	cr_assert_eq(rate_ready(NULL, 1), 0);
}

Test(rate, a_long_time_passes_the_rate_and_one_bucket)
{
	static const uint64_t each[] = { 1, 60, 1514, 65536, 1 << 20 };
	uint64_t now = rate_now(), gap;

	for (size_t i = 0; i < ARRAY_SIZE(each); i++) {
		struct rate r;
		uint64_t sum, want = 10 * 1000000;

		rate_init(&r, NULL);
		limit(&r, RATE_BYTES, 100000, 0, 100); /* a million a second */
		sum = pass(&r, RATE_BYTES, each[i], now, now + 10 * second, &gap);
		cr_assert_geq(sum, want - want / 100, "%zu: %lu", i, sum);
		cr_assert_leq(sum, want + 100000 + 2 * each[i], "%zu: %lu", i, sum);
	}
}

Test(rate, waiting_is_as_long_as_the_operation_takes_and_not_longer)
{
	uint64_t now = rate_now(), gap;
	struct rate r;

	rate_init(&r, NULL);
	limit(&r, RATE_BYTES, 12500000, 0, 100); /* a gigabit a second in buckets of 100 ms */
	pass(&r, RATE_BYTES, 1514, now, now + second, &gap);
	cr_assert_leq(gap, ms, "a wait of %lu ns for a frame of 12 us", gap);
	rate_init(&r, NULL);
	limit(&r, RATE_OPS, 1000, 0, 1000);
	pass(&r, RATE_OPS, 1, now, now + 3 * second, &gap);
	cr_assert_leq(gap, 2 * ms);
}

Test(rate, the_one_time_burst_passes_once)
{
	uint64_t now = rate_now(), gap, sum;
	struct rate r;

	rate_init(&r, NULL);
	limit(&r, RATE_OPS, 10, 500, 1000);
	sum = pass(&r, RATE_OPS, 1, now, now + ms, &gap);
	cr_assert(sum >= 510 && sum <= 512, "%lu", sum);
	sum = pass(&r, RATE_OPS, 1, now + 10 * second, now + 10 * second + ms, &gap);
	cr_assert(sum >= 10 && sum <= 12, "%lu", sum);
}

Test(rate, both_kinds_hold)
{
	uint64_t now = rate_now(), gap;
	struct rate r;

	rate_init(&r, NULL);
	limit(&r, RATE_BYTES, 1000000, 0, 1000);
	limit(&r, RATE_OPS, 100, 0, 1000);
	cr_assert_leq(pass(&r, RATE_BYTES, 10, now, now + 10 * second, &gap), 11100 + 100);
	cr_assert_leq(pass(&r, RATE_BYTES, 100000, now + 60 * second, now + 70 * second, &gap), 11200000);
}

Test(rate, children_share_what_the_parent_has)
{
	struct rate machine, group, dev[4];
	uint64_t now = rate_now(), t, sum[4] = { 0 };

	rate_init(&machine, NULL);
	rate_init(&group, &machine);
	for (int i = 0; i < 4; i++)
		rate_init(&dev[i], &group);
	limit(&machine, RATE_OPS, 1000, 0, 1000);
	limit(&group, RATE_OPS, 500, 0, 1000);
	limit(&dev[0], RATE_OPS, 10, 0, 1000);
	cr_assert(rate_active(&dev[1]));
	for (t = now; t < now + 10 * second; t += ms / 10)
		for (int i = 0; i < 4; i++)
			if (!rate_ready(&dev[i], t)) {
				rate_charge(&dev[i], 1, 1, t);
				sum[i]++;
			}
	cr_assert_leq(sum[0], 10 * 10 + 12);
	cr_assert_leq(sum[0] + sum[1] + sum[2] + sum[3], 5000 + 510);
	cr_assert_geq(sum[0] + sum[1] + sum[2] + sum[3], 4900);
	cr_assert_eq(rate_ready(&machine, t), 0, "the machine's own limit is not reached");
}

Test(rate, a_change_holds_at_once)
{
	uint64_t now = rate_now(), gap;
	struct rate r;

	rate_init(&r, NULL);
	limit(&r, RATE_OPS, 1, 0, 24 * 3600 * 1000);
	pass(&r, RATE_OPS, 1, now, now + ms, &gap);
	cr_assert_gt(rate_ready(&r, now), now + 3600 * second);
	limit(&r, RATE_OPS, 1000, 0, 1000);
	cr_assert_leq(rate_ready(&r, now), rate_now() + second);
	limit(&r, RATE_OPS, 0, 0, 0);
	cr_assert_eq(rate_ready(&r, now), 0);
}

Test(rate, numbers_at_the_edge_do_not_wrap)
{
	static const uint64_t sizes[] = { 1, 2, UINT32_MAX, UINT64_MAX / 2, UINT64_MAX };
	static const uint64_t refills[] = { 1, 1000, 24 * 3600 * 1000, UINT64_MAX };
	uint64_t now = rate_now();

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		for (size_t k = 0; k < ARRAY_SIZE(refills); k++) {
			struct rate r;
			uint64_t when;

			rate_init(&r, NULL);
			limit(&r, RATE_BYTES, sizes[i], 0, refills[k]);
			rate_charge(&r, UINT64_MAX, 1, now);
			when = rate_ready(&r, now);
			cr_assert(!when || (when > now && when < now + 32 * 24 * 3600 * second));
			cr_assert_eq(rate_ready(&r, now + 32 * 24 * 3600 * second), 0);
		}
}

struct user {
	struct rate *rate;
	uint64_t until, passed;
};

static void *use(void *arg)
{
	struct user *u = arg;
	uint64_t now;

	while ((now = rate_now()) < u->until)
		if (!rate_ready(u->rate, now)) {
			rate_charge(u->rate, 1, 1, now);
			u->passed++;
		}
	return NULL;
}

Test(rate, threads_together_pass_no_more_than_one_would)
{
	struct user u[4];
	pthread_t thread[4];
	uint64_t start = rate_now(), sum = 0, end;
	struct rate r;

	rate_init(&r, NULL);
	limit(&r, RATE_OPS, 100, 0, 10); /* ten thousand a second */
	for (int i = 0; i < 4; i++) {
		u[i] = (struct user){ &r, start + 300 * ms, 0 };
		cr_assert_eq(pthread_create(&thread[i], NULL, use, &u[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		sum += u[i].passed;
	}
	end = rate_now();
	/* One bucket, the rate, and an operation of each at each moment of emptiness. */
	cr_assert_leq(sum, 100 + (end - start) / (second / 10000) + 4 * 100, "%lu", sum);
	cr_assert_gt(sum, 100);
}

Test(rate, bad_options_are_refused_with_a_sentence)
{
	struct error err = { "" };
	struct rate r;

	rate_init(&r, NULL);
	cr_assert_neq(rate_configure(&r, &(struct rate_options){ .bw_size = 1 }, "net", &err), 0);
	cr_assert(strstr(err.text, "bw_refill_time"), "%s", err.text);
	cr_assert_neq(rate_configure(&r, &(struct rate_options){ .ops_burst = 1 }, "net", &err), 0);
	cr_assert(strstr(err.text, "ops_size"), "%s", err.text);
	cr_assert_neq(rate_configure(&r, &(struct rate_options){ .bw_size = 1,
		.bw_refill = UINT64_MAX }, "net", &err), 0);
	cr_assert(strstr(err.text, "a day"), "%s", err.text);
	cr_assert_eq(rate_configure(&r, &(struct rate_options){ .bw_size = 1, .bw_refill = 1 }, "net",
		&err), 0);
	cr_assert(rate_active(&r));
}
