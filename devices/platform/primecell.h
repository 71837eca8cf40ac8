/*
 * What Arm's PrimeCell peripherals have in common: 32-bit registers at multiples of 4 in one 4 KiB
 * page, the last eight of which say what it is (PrimeCell ID and peripheral ID), and an interrupt
 * output that is a level inside.
 *
 * The output rings an edge-triggered line. Software that looks at its masked interrupt status until
 * it is 0 misses nothing when the line gets an edge for each cause that comes, and when a cause
 * goes while another stays: a handler that served one of two and left is called again. An edge too
 * many finds no cause, which handlers expect.
 */
#ifndef DEVICES_PLATFORM_PRIMECELL_H
#define DEVICES_PLATFORM_PRIMECELL_H

#include "vmm/util.h"

enum { PRIMECELL_LEN = 0x1000, PRIMECELL_ID = 0xfe0 };

/*
 * The register at `offset` when it is one of the ID registers of the part whose peripheral ID is
 * `id`.
 */
static inline bool primecell_id(uint32_t id, uint64_t offset, uint32_t *ret)
{
	static const uint8_t cell[] = { 0x0d, 0xf0, 0x05, 0xb1 };
	unsigned n;

	if (offset < PRIMECELL_ID)
		return false;
	n = (unsigned)(offset - PRIMECELL_ID) / 4;
	*ret = n < 4 ? id >> 8 * n & 0xff : cell[n - 4];
	return true;
}

/* Does the line need an edge when the pending causes go from `was` to `now`? */
static inline bool primecell_edge(uint32_t was, uint32_t now)
{
	return (now & ~was) || (now && (was & ~now));
}

/*
 * Only the low bytes of a register are accessed: elsewhere there is nothing to read (0) or to
 * write.
 */
static inline bool primecell_register(uint64_t offset)
{
	return is_aligned(offset, 4);
}

#endif
