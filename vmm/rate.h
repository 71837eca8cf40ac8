/*
 * Rate limits that nest. A limit has a bucket for bytes and one for operations, and a parent
 * whose limits hold as well: a device's, a group's that several devices share, one for the whole
 * machine.
 *
 *   if ((when = rate_ready(r, now)))  wait until `when`
 *   else { move something; rate_charge(r, bytes, 1, now); }
 *
 * A bucket holds `size` and refills evenly, `size` in `refill_ms`. What is charged may take it
 * below empty, once: the next one then waits until that is paid back. So the size of an
 * operation need not be known beforehand, none is too large to ever pass, and over any time no
 * more than the rate, one bucket and one operation per user pass. The waiting is paced:
 * deadlines are exact, at most a fifth of a millisecond of the rate is saved up before the next
 * goes.
 *
 * Users are threads of their own: everything is atomic, nothing locks. Buckets may lie in memory
 * that processes share (rate_share); the limits' tree, which is pointers, is each one's own. Times
 * are nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef VMM_RATE_H
#define VMM_RATE_H

#include <stdatomic.h>

#include "vmm/options.h"
#include "vmm/util.h"

enum rate_kind { RATE_BYTES, RATE_OPS, RATE_KINDS };

struct rate_limit {
	uint64_t size;           /* 0: no limit */
	uint64_t one_time_burst; /* on top of the bucket, never refilled */
	uint64_t refill_ms;      /* of a whole bucket */
};

struct rate_bucket {             /* rate.c's own */
	_Atomic uint64_t full_at;        /* ns; when it is full again if nobody charges */
	_Atomic uint64_t unit_cost;      /* ns per unit, 16 bits behind the point; 0: no limit */
	_Atomic uint64_t capacity;       /* ns that a whole bucket takes */
	_Atomic uint64_t burst;          /* units left of the one-time burst */
};

struct rate {
	struct rate *parent;             /* const; NULL: none */
	struct rate_bucket *shared;      /* const; RATE_KINDS of them, instead of `own`; NULL */
	struct rate_bucket own[RATE_KINDS];
};

/* Main, before anybody uses it; the parent outlives it. No limits yet. */
void rate_init(struct rate *r, struct rate *parent);
/*
 * Its buckets are in this zeroed memory from now on. Who writes there what he likes makes others of
 * the limit wait, or lets them pass, and no more. Main, right after rate_init().
 */
enum { RATE_SHARED_BYTES = RATE_KINDS * sizeof(struct rate_bucket) };
void rate_share(struct rate *r, void *memory);
/*
 * Change a limit; main, at any time. Who waits for a deadline of before asks again by then, unless
 * told to.
 */
void rate_set(struct rate *r, enum rate_kind kind, const struct rate_limit *limit);
/* Does any limit of it or its parents hold? Without, rate_ready() is always 0. Any thread. */
bool rate_active(const struct rate *r);
/* 0: go on; else the time at which to ask again. Any thread. */
uint64_t rate_ready(const struct rate *r, uint64_t now);
void rate_charge(struct rate *r, uint64_t bytes, uint64_t ops, uint64_t now);
uint64_t rate_now(void);

/* The options for it, of a device or of a group. */
struct rate_options {
	uint64_t bw_size, bw_burst, bw_refill, ops_size, ops_burst, ops_refill;
};
#define RATE_ROW(T, m, key_, type_, field_, unit_, help_)                                          \
	{ .key = key_, .type = type_, .offset = offsetof(T, m.field_), .unit = unit_, .help = help_ }
#define RATE_OPTION_ROWS(T, m)                                                                     \
	RATE_ROW(T, m, "bw_size", OPTION_SIZE, bw_size, "bytes",                                   \
		"limit: so many bytes in bw_refill_time"),                                         \
	RATE_ROW(T, m, "bw_one_time_burst", OPTION_SIZE, bw_burst, "bytes",                        \
		"bytes on top of that, once"),                                                     \
	RATE_ROW(T, m, "bw_refill_time", OPTION_U64, bw_refill, "ms", "time for bw_size"),         \
	RATE_ROW(T, m, "ops_size", OPTION_U64, ops_size, "operations",                             \
		"limit: so many operations in ops_refill_time"),                                   \
	RATE_ROW(T, m, "ops_one_time_burst", OPTION_U64, ops_burst, "operations",                  \
		"operations on top of that, once"),                                                \
	RATE_ROW(T, m, "ops_refill_time", OPTION_U64, ops_refill, "ms", "time for ops_size")
/* Checks the options of flag `flag` and sets the limits. Main. */
int rate_configure(struct rate *r, const struct rate_options *o, const char *flag,
	struct error *err) NEEDS_CHECK;

/* Of a device: limits of its own, within those of a group. See device_rate() in device.h. */
struct rate_device_options {
	struct rate_options own;
	char *group;
};
#define RATE_DEVICE_OPTION_ROWS(T, m)                                                              \
	RATE_OPTION_ROWS(T, m.own),                                                                \
	{ .key = "rate_group", .type = OPTION_STRING, .offset = offsetof(T, m.group),              \
		.help = "group of --rate-group whose limits hold as well" }

#endif
