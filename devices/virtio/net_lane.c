/*
 * One direction of a queue pair: the chains that were popped, its timer, when the driver is
 * interrupted, and how much may pass.
 *
 * Coalescing (virtio 1.3 §5.1.6.5.10): used buffers are published at the end of each batch, as
 * ever; the call for them waits until there are max_packets of them, or until the first has
 * waited for max_usecs. With 0 microseconds nothing waits. EVENT_IDX is looked at when the call
 * is due, so a driver that polled meanwhile is not disturbed (queue_call()).
 *
 * The timer is a timerfd made by main. It is not stopped when a call goes out early, since most
 * often the next batch wants it again: when it rings too soon it is set to what is due then. So
 * under load it costs one system call in max_usecs, not one per batch.
 *
 * Rate limits (vmm/rate.h) hold a lane up before a frame and are charged after it. A lane that is
 * held up mutes its link, or leaves frames in the ring's fifo, and sets the same timer.
 */
#include "devices/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

static const uint64_t second = UINT64_C(1000000000);

/* --- fifo --- */

struct net_slot *net_fifo_at(const struct net_fifo *f, unsigned i)
{
	return &f->slot[(f->head + i) & (f->size - 1)];
}

void net_fifo_drop_head(struct net_fifo *f)
{
	f->head = (f->head + 1) & (f->size - 1);
	f->count--;
}

/* --- timer --- */

/* Ring at `at` or before. */
static void arm(struct net_lane *l, uint64_t at)
{
	const struct itimerspec ts = { .it_value = { (time_t)(at / second), (long)(at % second) } };

	if (!at || (l->armed && l->armed <= at))
		return;
	l->armed = at;
	timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &ts, NULL);
}

static void account(struct net_lane *l)
{
	const struct queue_stats *s = queue_stats(l->queue);

	net_count(l->stats.kicks, l->kicks_before + s->kicks - l->stats.kicks);
	net_count(l->stats.interrupts, l->calls_before + s->calls - l->stats.interrupts);
}

static void call(struct net_lane *l)
{
	l->unrung = 0;
	l->call_at = 0;
	queue_call(l->queue);
	account(l);
}

static void on_timer(void *ctx)
{
	struct net_lane *l = ctx;
	uint64_t now = rate_now();

	l->armed = 0;
	if (!l->queue)
		return;
	if (l->call_at && l->call_at <= now)
		call(l);
	if (l->go_at && l->go_at <= now)
		net_lane_resume(l);
	arm(l, l->call_at);
	arm(l, l->go_at);
}

/* --- rate limits --- */

bool net_lane_may_go(struct net_lane *l)
{
	if (!rate_active(l->rate))
		return true;
	l->go_at = rate_ready(l->rate, rate_now());
	arm(l, l->go_at);
	return !l->go_at;
}

void net_lane_charge(struct net_lane *l, size_t bytes)
{
	if (rate_active(l->rate))
		rate_charge(l->rate, bytes, 1, rate_now());
}

void net_lane_resume(struct net_lane *l)
{
	l->go_at = 0;
	if (!l->queue)
		return;
	if (l == &l->pair->rx)
		net_rx_run(l->pair);
	else if (!l->pair->tx_running)
		net_tx_run(l->pair);
	net_lane_flush(l);
}

/* --- worker --- */

void net_lane_coalesce(struct net_lane *l, uint32_t usecs, uint32_t packets)
{
	uint64_t ns = (uint64_t)usecs * 1000;

	if (l->coal_ns == ns && l->coal_packets == packets)
		return;
	l->coal_ns = ns;
	l->coal_packets = packets;
	if (!l->queue)
		return;
	/* What waits under the old terms goes out now. */
	call(l);
	queue_hold_calls(l->queue, ns != 0);
}

void net_lane_flush(struct net_lane *l)
{
	queue_flush(l->queue);
	if (!l->coal_ns) {
		l->unrung = 0;
	} else if (l->unrung && l->coal_packets && l->unrung >= l->coal_packets) {
		call(l);
		return;
	} else if (l->unrung) {
		if (!l->call_at)
			l->call_at = rate_now() + l->coal_ns;
		arm(l, l->call_at);
	}
	account(l);
}

int net_lane_start(struct net_lane *l, struct queue *q)
{
	int r = loop_add_eventfd(queue_loop(q), l->timer_fd, on_timer, l, &l->timer);

	if (r)
		return r;
	l->queue = q;
	l->armed = l->call_at = l->go_at = 0;
	l->unrung = 0;
	l->kicks_before = l->stats.kicks;
	l->calls_before = l->stats.interrupts;
	queue_hold_calls(q, l->coal_ns != 0);
	return 0;
}

void net_lane_stop(struct net_lane *l)
{
	static const struct itimerspec never;

	queue_flush(l->queue);
	queue_hold_calls(l->queue, false);
	account(l);
	if (l->armed)
		timerfd_settime(l->timer_fd, 0, &never, NULL);
	loop_remove(l->timer);
	l->timer = NULL;
	l->queue = NULL;
	l->armed = l->call_at = l->go_at = 0;
}

/* --- main --- */

int net_lane_init(struct net_lane *l, struct net_pair *pair, unsigned queue_size)
{
	l->pair = pair;
	l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->timer_fd < 0)
		return -errno;
	for (l->fifo.size = 1; l->fifo.size < queue_size;)
		l->fifo.size *= 2;
	l->fifo.slot = calloc(l->fifo.size, sizeof(*l->fifo.slot));
	return l->fifo.slot ? 0 : -ENOMEM;
}

void net_lane_fini(struct net_lane *l)
{
	if (l->timer_fd >= 0)
		close(l->timer_fd);
	free(l->fifo.slot);
}
