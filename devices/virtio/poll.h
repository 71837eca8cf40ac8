/*
 * How long to look for the next event before sleeping: a policy without a clock of its own, so that
 * it can be tested. One for each kind of wait of a queue; its worker owns it.
 *
 * Sleeping costs the guest an exit and both sides a wake-up; looking costs the host's CPU. So one
 * looks only where events follow each other within `max`, for a few times the gap that is usual,
 * and not again for a while where that was in vain:
 *
 *   - Nothing is looked for before one event came soon after another, nor after one that came late:
 *     an idle queue costs at most one window, and then nothing.
 *   - A look in vain doubles the number of short gaps that must be slept through before the next
 *     try, up to 63; one that found something halves it. Whatever a guest does, it costs at most
 *     `max` for each event, and where looking never helps a 64th of that.
 *   - A CPU that was taken away meanwhile has other work: that counts as the worst look in vain.
 */
#ifndef DEVICES_VIRTIO_POLL_H
#define DEVICES_VIRTIO_POLL_H

#include <stdint.h>

#include "vmm/util.h"

struct poll {
	uint64_t max;     /* const; ns. 0: never */
	uint64_t window;  /* ns; of the next look */
	uint64_t typical; /* ns; gap between events that were found, smoothed */
	unsigned skip;    /* short gaps to sleep through after the last look in vain */
	unsigned wait;    /* of those, still to come */
};

enum { POLL_SKIP_MAX = 63 };

static inline struct poll poll_begin(uint64_t max_ns)
{
	return (struct poll){ .max = max_ns };
}

/* How long to look now; 0: not at all. */
static inline uint64_t poll_window(const struct poll *p)
{
	return p->window;
}

/* The look found something after so long. */
void poll_hit(struct poll *p, uint64_t gap_ns);
/* It did not. */
void poll_miss(struct poll *p);
/* The CPU was taken away meanwhile. */
void poll_stolen(struct poll *p);
/* Asleep without, or after, a look; so long after the last event the next one was there. */
void poll_slept(struct poll *p, uint64_t gap_ns);

#endif
