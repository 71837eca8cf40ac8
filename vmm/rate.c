/*
 * Token buckets as times. A bucket is one number: the time at which it will be full again.
 * Charging moves that into the future, by the time that the rate takes for what was charged;
 * waiting is letting the clock catch up. So there is nothing to refill, no timer and no lock:
 * one compare-and-swap for a charge, two loads for a question.
 *
 *   tokens now = capacity - (full_at - now)      all in nanoseconds of the rate
 *
 * Numbers come from the user: sizes and times are bounded in rate_configure(), products are 128
 * bits wide.
 */
#include "vmm/rate.h"

#include <errno.h>
#include <inttypes.h>
#include <time.h>

enum { POINT = 16, SLACK_NS = 200000, REFILL_MS_MAX = 24 * 3600 * 1000,
	DEBT_DAYS_MAX = 30 };

#define LOAD(x) atomic_load_explicit(&(x), memory_order_relaxed)
#define STORE(x, v) atomic_store_explicit(&(x), v, memory_order_relaxed)

uint64_t rate_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void rate_init(struct rate *r, struct rate *parent)
{
	memset(r, 0, sizeof(*r));
	r->parent = parent;
}

void rate_share(struct rate *r, void *memory)
{
	r->shared = memory;
}

static struct rate_bucket *bucket_of(const struct rate *r, unsigned kind)
{
	return (r->shared ? r->shared : (struct rate_bucket *)(uintptr_t)r->own) + kind;
}

void rate_set(struct rate *r, enum rate_kind kind, const struct rate_limit *limit)
{
	struct rate_bucket *b = bucket_of(r, kind);
	uint64_t capacity = MIN(limit->refill_ms, (uint64_t)REFILL_MS_MAX) * 1000000;
	uint64_t latest = rate_now() + capacity, cost = 0;

	if (limit->size && capacity)
		cost = (uint64_t)(((unsigned __int128)capacity << POINT) / limit->size);
	STORE(b->capacity, capacity);
	STORE(b->burst, limit->one_time_burst);
	/* An old debt is paid at the new rate at the latest. */
	if (LOAD(b->full_at) > latest)
		STORE(b->full_at, latest);
	STORE(b->unit_cost, limit->size && capacity ? MAX(cost, UINT64_C(1)) : 0);
}

bool rate_active(const struct rate *r)
{
	for (; r; r = r->parent)
		for (unsigned i = 0; i < RATE_KINDS; i++)
			if (LOAD(bucket_of(r, i)->unit_cost))
				return true;
	return false;
}

static uint64_t bucket_ready(const struct rate_bucket *b, uint64_t now)
{
	uint64_t full_at, capacity, empty_until;

	if (!LOAD(b->unit_cost) || LOAD(b->burst))
		return 0;
	full_at = LOAD(b->full_at);
	capacity = LOAD(b->capacity);
	if (full_at <= now || full_at - now < capacity)
		return 0;
	empty_until = full_at - capacity;
	/* A little is saved up, so that a fast rate does not mean a timer for each frame. */
	return empty_until + MIN(capacity / 8, (uint64_t)SLACK_NS) + 1;
}

uint64_t rate_ready(const struct rate *r, uint64_t now)
{
	uint64_t latest = 0;

	for (; r; r = r->parent)
		for (unsigned i = 0; i < RATE_KINDS; i++) {
			uint64_t when = bucket_ready(bucket_of(r, i), now);

			latest = MAX(latest, when);
		}
	return latest;
}

/* What the one-time burst does not cover. */
static uint64_t after_burst(struct rate_bucket *b, uint64_t units)
{
	uint64_t left = LOAD(b->burst);

	while (left) {
		uint64_t n = MIN(left, units);

		if (atomic_compare_exchange_weak_explicit(&b->burst, &left, left - n,
				memory_order_relaxed, memory_order_relaxed))
			return units - n;
	}
	return units;
}

static void bucket_charge(struct rate_bucket *b, uint64_t units, uint64_t now)
{
	uint64_t unit_cost = LOAD(b->unit_cost), cost, full_at;
	unsigned __int128 wide;

	if (!unit_cost)
		return;
	units = after_burst(b, units);
	wide = (unsigned __int128)units * unit_cost >> POINT;
	/* A single debt is bounded, so that times do not wrap. */
	cost = (uint64_t)MIN(wide, (unsigned __int128)DEBT_DAYS_MAX * REFILL_MS_MAX * 1000000);
	full_at = LOAD(b->full_at);
	while (!atomic_compare_exchange_weak_explicit(&b->full_at, &full_at,
		MAX(full_at, now) + cost, memory_order_relaxed, memory_order_relaxed))
		;
}

void rate_charge(struct rate *r, uint64_t bytes, uint64_t ops, uint64_t now)
{
	for (; r; r = r->parent) {
		bucket_charge(bucket_of(r, RATE_BYTES), bytes, now);
		bucket_charge(bucket_of(r, RATE_OPS), ops, now);
	}
}

static int check(const struct rate_limit *l, const char *flag, const char *key, struct error *err)
{
	if (l->size && !l->refill_ms)
		return error_set(err, EINVAL,
			"--%s %s_size=%" PRIu64 ": in which time? give %s_refill_time=MS as well", flag,
			key, l->size, key);
	if (!l->size && (l->refill_ms || l->one_time_burst))
		return error_set(err, EINVAL,
			"--%s: %s_refill_time and %s_one_time_burst need %s_size=", flag, key, key, key);
	if (l->refill_ms > REFILL_MS_MAX)
		return error_set(err, EINVAL,
			"--%s %s_refill_time=%" PRIu64 ": longer than a day (%d ms); give both a "
			"smaller size and a shorter time", flag, key, l->refill_ms, REFILL_MS_MAX);
	return 0;
}

int rate_configure(struct rate *r, const struct rate_options *o, const char *flag, struct error *err)
{
	const struct rate_limit bw = { o->bw_size, o->bw_burst, o->bw_refill };
	const struct rate_limit ops = { o->ops_size, o->ops_burst, o->ops_refill };
	int ret = check(&bw, flag, "bw", err);

	if (!ret)
		ret = check(&ops, flag, "ops", err);
	if (ret)
		return ret;
	rate_set(r, RATE_BYTES, &bw);
	rate_set(r, RATE_OPS, &ops);
	return 0;
}
