/*
 * The policy of poll.h. All is arithmetic on gaps that were measured; whoever can choose them, the
 * guest, gains no more than the header says.
 */
#include "devices/virtio/poll.h"

enum {
	/* Of a gap that was slept through, the wake-up may be the larger part. */
	WAKE_UP_SHARE = 4,
	/* The window in gaps: who takes three times as long as usual is still awaited. */
	WINDOW_GAPS = 4,
	SMOOTH = 8,
};

void poll_hit(struct poll *p, uint64_t gap)
{
	const uint64_t least = p->max / 8;

	p->typical = p->typical ? p->typical - p->typical / SMOOTH + gap / SMOOTH : gap;
	p->window = MIN(MAX(WINDOW_GAPS * p->typical, least), p->max);
	p->skip /= 2;
}

void poll_miss(struct poll *p)
{
	p->skip = MIN(2 * p->skip + 1, (unsigned)POLL_SKIP_MAX);
	p->wait = p->skip;
	p->window = p->typical = 0;
}

void poll_stolen(struct poll *p)
{
	p->skip = POLL_SKIP_MAX;
	poll_miss(p);
}

void poll_slept(struct poll *p, uint64_t gap)
{
	p->window = 0;
	if (gap / WAKE_UP_SHARE > p->max)
		return;
	if (p->wait)
		p->wait--;
	else
		p->window = p->max;
}
