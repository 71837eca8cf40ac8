/*
 * From a chain's descriptors to iovecs, one after the other, with the reasons for those that are
 * refused: the walk of chains that are not common (queue_hot.h), and of indirect tables. Owner of
 * the queue.
 */
#include <errno.h>

#include "devices/virtio/queue_private.h"

/*
 * Of a chain as long as the queue each descriptor has its iovec; IOV_EXTRA are for region borders.
 * Where a buffer lies in one region, that is the first place where the next one is looked for.
 */
static int add_iov(struct queue *q, const struct chain *c, const struct gather *g, unsigned before, uint64_t addr,
	uint32_t len)
{
	int room = (int)(1 + IOV_EXTRA - ((unsigned)(g->next - c->iov) - before));

	for (const struct mem_ram *r = mem_head(q->mem)->ram; r->size; r++) {
		void *at = mem_in(r, gpa(addr), len);

		if (!at)
			continue;
		q->ram = r;
		*g->next = (struct iovec){ at, len };
		return 1;
	}
	return mem_iov(q->mem, gpa(addr), len, g->next, room);
}

const char *gather_add(struct queue *q, const struct chain *c, struct gather *g, unsigned before, uint64_t addr,
	uint32_t len, bool writable)
{
	int n;

	if (!len)
		return "a descriptor of length 0";
	if (g->side && !writable)
		return "a readable descriptor after a writable one";
	if (!g->side && writable) {
		g->side = VRING_DESC_WRITE;
		g->border = g->next;
		g->in = g->total;
	}
	n = add_iov(q, c, g, before, addr, len);
	if (n < 0)
		return n == -E2BIG ? "a chain over too many memory regions" : "a buffer that is not RAM";
	g->next += n;
	g->total += len;
	return NULL;
}

const struct mem_ram *queue_find_ram(const struct queue *q, uint64_t addr, uint32_t len)
{
	const struct mem_ram *r = mem_head(q->mem)->ram;

	while (r->size && !mem_holds(r, gpa(addr), len))
		r++;
	return r;
}

static bool bad_table(const struct queue *q, uint32_t len)
{
	return !len || len % sizeof(struct vring_desc) || len / sizeof(struct vring_desc) > q->size;
}

/*
 * §2.7.5.3: a chain is no longer than the queue, so a table that is longer is refused. Descriptors
 * are read in place, each once, as those of the ring are; where the table lies across two regions,
 * or odd, it is copied first.
 */
const void *queue_find_table(struct queue *q, uint64_t addr, uint32_t len)
{
	const void *whole;

	if (!q->table_max || bad_table(q, len))
		return NULL;
	whole = mem_map(q->mem, gpa(addr), len, sizeof(uint64_t));
	if (whole)
		return whole;
	return mem_read(q->mem, gpa(addr), q->table, len) < 0 ? NULL : q->table;
}

const char *queue_no_table(const struct queue *q, uint32_t len)
{
	if (!q->table_max)
		return "an indirect descriptor without the feature";
	if (bad_table(q, len))
		return "an indirect table of a bad length";
	return "an indirect table that is not RAM";
}
