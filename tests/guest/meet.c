/* Guest and host, stage by stage: meet.h. */
#include "tests/guest/meet.h"

enum { GO = 0, AT = 1, COUNTS = 2, TRY_US = 500 };

bool meet_open(struct meeting *m, unsigned n)
{
	if (!blk_open(&m->b, n))
		return false;
	m->page = dma(SECTOR, SECTOR);
	dma_keep();
	return true;
}

static void tell(struct meeting *m, uint64_t sector, const void *data, size_t len)
{
	fill(m->page, 0, SECTOR);
	__builtin_memcpy(m->page, data, len);
	check_equal(blk_request(&m->b, 0, BLK_OUT, sector, m->page, SECTOR, NULL), BLK_OK, "the host hears the guest");
}

void meet_host(struct meeting *m, uint32_t at, const void *counts, size_t len)
{
	tell(m, COUNTS, counts, len);
	tell(m, AT, &at, sizeof(at));
	for (;;) {
		uint64_t start = cycles();

		if (blk_request(&m->b, 0, BLK_IN, GO, m->page, SECTOR, NULL) != BLK_OK || *(uint32_t *)m->page >= at)
			return;
		while (cycles() - start < TRY_US * UINT64_C(1000))
			relax();
	}
}
