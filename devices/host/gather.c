/*
 * The policy of gather.h. The guest chooses how many requests are in flight and the disk when they
 * end; neither gains more by it than the header says.
 */
#include "devices/host/gather.h"

unsigned gather_want(struct gathering *g, unsigned in_flight)
{
	if (in_flight < GATHER_LEAST)
		return 0;
	if (g->wait) {
		g->wait--;
		return 0;
	}
	return in_flight / GATHER_PART;
}

uint64_t gather_patience(const struct gathering *g, unsigned want)
{
	if (!g->gap)
		return GATHER_NS;
	return MIN(MAX(GATHER_USUAL * g->gap * want, (uint64_t)GATHER_NS_LEAST), (uint64_t)GATHER_NS);
}

void gather_got(struct gathering *g, unsigned want, unsigned got, uint64_t took_ns)
{
	/* A few that are late do not make it a wait in vain. */
	if (got > want / 2) {
		const uint64_t gap = took_ns / got + 1;

		g->gap = g->gap ? (g->gap + gap) / 2 : gap;
		g->skip /= 2;
		return;
	}
	/* Perhaps it has become slower. */
	g->gap = MIN(g->gap + g->gap / 2, (uint64_t)GATHER_NS);
	g->skip = MIN(2 * g->skip + 1, (unsigned)GATHER_SKIP_MAX);
	g->wait = g->skip;
}
