/*
 * Where guest and host meet in a test that has stages: a disk of its own, which nothing happens to. Sector 1 says how far
 * the guest is, sector 0 how far it may go, sector 2 what it counted (tests/fault/cell.py has the other side).
 */
#ifndef TESTS_GUEST_MEET_H
#define TESTS_GUEST_MEET_H

#include "tests/guest/blk.h"

struct meeting {
	struct blk b;
	uint8_t *page;
};

/* The n-th disk. Its memory outlives dma_reset(). false: printed why. */
bool meet_open(struct meeting *m, unsigned n);
/* Leave `len` bytes of counts, say that stage `at` is done, and wait until the host says so too. It ends what hangs. */
void meet_host(struct meeting *m, uint32_t at, const void *counts, size_t len);

#endif
