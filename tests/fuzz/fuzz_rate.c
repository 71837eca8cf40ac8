/*
 * Limits of any size, in two levels, changed at any time, and users that charge what they like. Over any time no more passes
 * than the rate, one bucket, the burst and one operation (rate.h), a deadline is never in the past, and whoever waits for it
 * may go on in the end.
 */
#include "tests/fuzz/program.h"
#include "vmm/rate.h"

enum { OPS_MAX = 400 };

/* What a bucket may have let through since it was set, in units. */
struct watch {
	struct rate_limit limit;
	uint64_t since, passed, last;
};

static void set(struct rate *r, struct watch *w, const struct instruction *i, uint64_t now)
{
	w->limit = (struct rate_limit){ .size = i->value >> (i->at & 63), .one_time_burst = i->value & 0xff,
		.refill_ms = (i->at >> 6) % 1000 + 1u };
	w->since = now;
	w->passed = w->last = 0;
	rate_set(r, RATE_OPS, &w->limit);
}

/* Rounding of costs to 16 bits behind the point: a part in some thousand, and the pace of a fifth of a millisecond. */
static void judge(const struct watch *w, uint64_t now)
{
	long double ms, allowed;

	if (!w->limit.size)
		return;
	ms = (long double)(now - w->since) / 1e6L + 0.3L;
	allowed = (long double)w->limit.size * (1 + ms / (long double)w->limit.refill_ms);
	allowed = allowed * 1.01L + (long double)w->limit.one_time_burst + (long double)w->last + 1;
	MUST((long double)w->passed <= allowed);
}

static void charge(struct rate r[2], struct watch w[2], uint64_t n, uint64_t *now)
{
	/* Several turns: what is charged beyond what was there is paid back first. */
	for (unsigned turns = 0; turns < 8; turns++) {
		uint64_t when = rate_ready(&r[1], *now);

		if (when) {
			MUST(when > *now);
			if (when - *now > UINT64_C(1) << 50)
				return;	/* a fortnight: nobody waits for that */
			*now = when;
			continue;
		}
		rate_charge(&r[1], 0, n, *now);
		for (unsigned i = 0; i < 2; i++) {
			w[i].passed += n;
			w[i].last = MAX(w[i].last, n);
			judge(&w[i], *now);
		}
		return;
	}
	MUST(!"a deadline that comes leads on");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rate r[2];
	struct watch w[2] = { 0 };
	struct instruction i;
	uint64_t now = UINT64_C(1) << 40;

	rate_init(&r[0], NULL);
	rate_init(&r[1], &r[0]);
	for (unsigned n = 0; n < OPS_MAX && program_next(&data, &size, &i); n++) {
		if (i.op % 8 == 0)
			set(&r[i.op >> 3 & 1], &w[i.op >> 3 & 1], &i, now);
		else if (i.op % 8 == 1)
			now += i.value >> (i.at % 40 + 24);
		else
			charge(r, w, i.value % 1000 + 1, &now);
		MUST(rate_active(&r[1]) == (w[0].limit.size || w[1].limit.size));
	}
	return 0;
}
