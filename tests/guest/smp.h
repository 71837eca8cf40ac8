/* A second vCPU that rewrites memory while the first one drives devices: what a device reads twice it reads differently. */
#ifndef TESTS_GUEST_SMP_H
#define TESTS_GUEST_SMP_H

#include "tests/guest/lib.h"

enum { FLIPS_MAX = 6 };

/* A place of 1, 2, 4 or 8 bytes and the two values it takes in turn. */
struct flip {
	volatile void *at;
	uint8_t width;
	uint64_t a, b;
};

/* Starts vCPU 1, once. false: it does not come up. */
bool smp_start(void);
/* vCPU 1 flips these until flip_end(), which waits for it to let go. */
void flip_begin(const struct flip *flips, unsigned n);
void flip_end(void);
/* How often all places were written since flip_begin(). */
uint64_t flip_rounds(void);

/* start.S enters it on vCPU 1. */
void guest_ap(void);

#endif
