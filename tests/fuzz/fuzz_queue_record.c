/*
 * A record of what is in flight that says anything, over rings that say anything: taking it up is refused, or gives a
 * queue that hands out at most a ring of chains, each within guest memory, and takes them back.
 */
#include <stdlib.h>

#include "devices/virtio/queue_record.h"
#include "tests/driver/harness.h"
#include "vmm/log.h"

enum { RING = 16 };

#define MUST(x) ((x) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void lay(void *to, size_t room, const uint8_t **data, size_t *size, size_t most)
{
	size_t n = MIN(MIN(room, *size), most);

	memcpy(to, *data, n);
	*data += n;
	*size -= n;
}

static void use(struct harness *h, struct queue *q)
{
	struct chain *c[RING + 1];
	unsigned n = 0;
	uint8_t byte;

	for (; n <= RING && queue_pop(q, &c[n]) == 1; n++)
		while (chain_in_left(c[n]) && chain_read(c[n], &byte, 1) == 0)
			;
	MUST(n <= RING);
	if (n)
		queue_unpop(q, c[--n]);
	while (n) {
		n--;
		if (chain_out_left(c[n]))
			MUST(chain_write(c[n], "x", 1) == 0);
		queue_push(q, c[n]);
		queue_flush(q);
	}
	MUST(queue_stats(q)->popped == queue_stats(q)->returned);
	queue_close(q, &h->setup);
}

/* One for each choice of features, as new each time. */
static struct harness *fresh(unsigned choice)
{
	static struct harness *made[8];
	const uint64_t features = (choice & 1 ? VD_F_PACKED : 0) | (choice & 2 ? VD_F_INDIRECT : 0) |
		(choice & 4 ? VD_F_IN_ORDER : 0);
	struct harness *h = made[choice];
	struct vd_config c;

	if (!h)
		h = made[choice] = harness_new_closed(RING, features);
	c = h->vd.c;
	memset(h->host[0], 0, HARNESS_TABLES - HARNESS_LOW);
	MUST(vd_queue_init(&h->vd, &c));
	h->setup.next_avail = h->setup.next_used = choice & 1 ? 0x8000 : 0;
	return h;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct harness *h;
	struct queue_record *r;
	struct queue *q;

	if (!size)
		return 0;
	log_level = LOG_ERROR;
	h = fresh(*data & 7);
	r = calloc(1, queue_record_bytes(RING));
	MUST(r);
	data++;
	size--;
	for (unsigned i = 0; i < RING; i++)
		harness_add(h, i, 16, 1);
	queue_record_begin(r, &h->setup);
	lay(r, queue_record_bytes(RING), &data, &size, size / 2);
	lay(harness_at(h, HARNESS_DESC), 16 * RING, &data, &size, size / 2);
	lay(harness_at(h, HARNESS_USED), 6 + 8 * RING, &data, &size, size);
	MUST(queue_open(&q, h->mem, &h->setup, 0) == 0);
	if (queue_record_take_up(q, r) < 0)
		MUST(queue_broken(q));
	use(h, q);
	free(r);
	return 0;
}
