/*
 * What a network device counted, for main: frames, bytes, what was dropped and why, kicks and
 * interrupts, per queue. Each counter is written by the owner of its queue alone, by relaxed
 * stores, and read here by relaxed loads: each is right, a set of them is of about one moment.
 */
#include "devices/virtio/net.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "vmm/log.h"

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

static const char *const reasons[NET_DROPS] = {
	[NET_DROP_MALFORMED] = "malformed",
	[NET_DROP_LINK] = "link down",
	[NET_DROP_SPOOF] = "foreign source address",
	[NET_DROP_SIZE] = "too large for the buffers",
	[NET_DROP_FILTER] = "filtered",
};

int net_stats_read(const struct net *net, unsigned queue, struct net_stats *ret)
{
	const struct net_pair *p;
	const struct net_stats *s;

	if (queue / 2 >= net->npairs)
		return -ENOENT;
	p = &net->pairs[queue / 2];
	s = queue % 2 ? &p->tx.stats : &p->rx.stats;
	ret->frames = LOAD(s->frames);
	ret->bytes = LOAD(s->bytes);
	for (unsigned i = 0; i < NET_DROPS; i++)
		ret->dropped[i] = LOAD(s->dropped[i]);
	ret->kicks = LOAD(s->kicks);
	ret->interrupts = LOAD(s->interrupts);
	return 0;
}

static void add(struct net_stats *sum, const struct net_stats *s)
{
	sum->frames += s->frames;
	sum->bytes += s->bytes;
	for (unsigned i = 0; i < NET_DROPS; i++)
		sum->dropped[i] += s->dropped[i];
	sum->kicks += s->kicks;
	sum->interrupts += s->interrupts;
}

/* "12 frames, 900 bytes, 3 kicks, 2 interrupts, dropped 1 (malformed)" */
static void describe(const struct net_stats *s, char *buf, size_t size)
{
	size_t n = (size_t)snprintf(buf, size,
		"%" PRIu64 " frames, %" PRIu64 " bytes, %" PRIu64 " kicks, %" PRIu64 " interrupts",
		s->frames, s->bytes, s->kicks, s->interrupts);

	for (unsigned i = 0; i < NET_DROPS && n < size; i++)
		if (s->dropped[i])
			n += (size_t)snprintf(buf + n, size - n, ", dropped %" PRIu64 " (%s)",
				s->dropped[i], reasons[i]);
}

void net_stats_log(const struct net *net)
{
	struct net_stats sum[2] = { { 0 } }, one;
	char text[2][320];

	if (net->vhost) {
		log_info("%s: the kernel moved its frames; %" PRIu64 " commands, %" PRIu64 " refused", net->dev.id,
			LOAD(net->ctrl.commands), LOAD(net->ctrl.refused));
		return;
	}
	for (unsigned q = 0; net_stats_read(net, q, &one) == 0; q++)
		add(&sum[q % 2], &one);
	describe(&sum[0], text[0], sizeof(text[0]));
	describe(&sum[1], text[1], sizeof(text[1]));
	log_info("%s: received %s; sent %s; %" PRIu64 " commands, %" PRIu64 " refused", net->dev.id,
		text[0], text[1], LOAD(net->ctrl.commands), LOAD(net->ctrl.refused));
}
