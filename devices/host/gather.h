/*
 * How many completions to wait for by one system call where many requests are in flight: a policy
 * without a clock of its own, so that it can be tested. One per queue of a disk; its owner's.
 *
 * A disk that has many requests ends them a few at a time. To take each few as they come costs a
 * system call for them and one for those that the driver sends in their place; a wait for a quarter
 * of what is in flight leaves the disk three quarters to work on and costs one call for all. It
 * begins when the first ones have come, since other disks end all they have at once and then none
 * for a while, and lasts a few times as long as it usually takes, GATHER_NS at most.
 *
 * Where a quarter does not come in that time, that was a wait in vain, and the next times are
 * passed over: one, then three, up to 63; each that paid halves their number.
 */
#ifndef DEVICES_HOST_GATHER_H
#define DEVICES_HOST_GATHER_H

#include <stdint.h>

#include "vmm/util.h"

enum {
	GATHER_LEAST = 32,      /* in flight; fewer are not worth it */
	GATHER_PART = 4,        /* of those in flight, one in so many is waited for */
	GATHER_NS = 500000,     /* at most; so long whatever else lives on the thread may wait */
	GATHER_NS_LEAST = 16000,
	GATHER_USUAL = 4,       /* who takes so many times as long as usual is still awaited */
	GATHER_SKIP_MAX = 63,
};

struct gathering {
	unsigned skip; /* chances to pass over after the last wait in vain */
	unsigned wait; /* of those, still to come */
	uint64_t gap;  /* ns from one completion to the next, smoothed; 0: not known */
};

/* How many to wait for now; 0: do not wait. Each question is a chance. */
unsigned gather_want(struct gathering *g, unsigned in_flight);
/* How long, ns. */
uint64_t gather_patience(const struct gathering *g, unsigned want);
/* So many had come when the wait ended, after so long. */
void gather_got(struct gathering *g, unsigned want, unsigned got, uint64_t took_ns);

#endif
