/*
 * The part of a virtqueue (virtio 1.2 §2.6 to §2.8) that does not depend on the ring's format: the
 * pool of chains, the accounts, IN_ORDER, and when to interrupt. queue_split.c and queue_packed.c
 * read and write the rings.
 *
 * A chain lives in three states: in the pool; in flight (popped, its head marked busy); pushed.
 * With IN_ORDER (§2.7.9, §2.8.9) a pushed chain still waits until all popped before it are pushed;
 * then a used entry is written for each, in the order popped. Writing one for each is always
 * allowed, and each chain's length stays exact.
 *
 * The pool is a list of chains that came back, last in first out so that the warm one goes next,
 * and behind it a frontier of chains never used: a queue whose driver keeps four requests in flight
 * touches four chains.
 *
 * Owner: one worker. No locks, no allocation after queue_open().
 */
#include "devices/virtio/queue.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices/virtio/queue_hot.h"
#include "devices/virtio/virtio.h"
#include "vmm/log.h"

enum { LINE = 64 };

const struct syscall_row queue_syscalls[] = {
	{ SYSCALL(write, "ring the call eventfd: one interrupt per batch") },
	{ SYSCALL(madvise, "give back the memory of a queue that stopped", SYSCALL_ARG_EQ(2, MADV_DONTNEED)) },
	SYSCALL_END,
};

/* Whether the rings are RAM is found out by mapping them. */
static int check_setup(const struct queue_setup *s)
{
	bool packed = s->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	/* Size and alignment of the parts: §2.7, §2.8.10.1 */
	uint64_t desc_len = 16 * (uint64_t)s->size;
	uint64_t avail_len = packed ? 4 : 6 + 2 * (uint64_t)s->size;
	uint64_t used_len = packed ? 4 : 6 + 8 * (uint64_t)s->size;

	if (!s->size || s->size > VIRTIO_QUEUE_SIZE_MAX || (!packed && !is_pow2(s->size)))
		return -EINVAL;
	if (!is_aligned(s->desc, 16) || !is_aligned(s->avail, packed ? 4 : 2) || !is_aligned(s->used, 4))
		return -EINVAL;
	if (ranges_overlap(s->desc, desc_len, s->avail, avail_len) ||
		ranges_overlap(s->desc, desc_len, s->used, used_len) ||
		ranges_overlap(s->avail, avail_len, s->used, used_len))
		return -EINVAL;
	if (packed && ((s->next_avail & ~PVRING_WRAP) >= s->size || (s->next_used & ~PVRING_WRAP) >= s->size))
		return -EINVAL;
	return 0;
}

/* Reserve `len` bytes at the end of a layout; returns where they begin. */
static size_t place(size_t *end, size_t len)
{
	size_t at = align_up(*end, LINE);

	*end = at + len;
	return at;
}

static uint8_t *map(size_t bytes)
{
	void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return base == MAP_FAILED ? NULL : base;
}

/* One mapping, or the front of a room: the queue, its arrays, the device's own bytes, the pool. */
static struct queue *alloc_queue(unsigned size, size_t priv_size, const struct queue_room *room)
{
	size_t iov_max = size + IOV_EXTRA;
	size_t chain_bytes = align_up(sizeof(struct chain) + iov_max * sizeof(struct iovec), LINE);
	size_t end = sizeof(struct queue);
	size_t busy = place(&end, size * sizeof(bool));
	size_t order = place(&end, size * sizeof(struct chain *));
	size_t table = place(&end, size * sizeof(struct vring_desc));
	size_t priv = place(&end, priv_size);
	size_t pool = place(&end, size * chain_bytes);
	/* Behind the pool, where they are touched only when there is a record. */
	size_t replay = place(&end, size * sizeof(uint16_t));
	size_t free_slot = place(&end, size * sizeof(uint16_t));
	uint8_t *base = !room ? map(end) : end <= room->bytes ? room->base : NULL;
	struct queue *q = (struct queue *)base;

	if (!base)
		return NULL;
	q->mapped_bytes = end;
	q->in_room = room != NULL;
	q->chain_bytes = chain_bytes;
	q->busy = (bool *)(base + busy);
	q->order = (struct chain **)(base + order);
	q->table = base + table;
	q->priv = base + priv;
	q->pool = base + pool;
	q->replay = (uint16_t *)(base + replay);
	q->free_slot = (uint16_t *)(base + free_slot);
	return q;
}

static void free_queue(struct queue *q)
{
	/* Zeroes for the next one in this room: a private mapping that is not locked. */
	if (q->in_room)
		madvise(q, q->mapped_bytes, MADV_DONTNEED);
	else
		munmap(q, q->mapped_bytes);
}

int queue_room_create(struct queue_room *ret, unsigned n, unsigned size)
{
	/* As alloc_queue() lays it out, each part rounded up. */
	size_t chain_bytes = align_up(sizeof(struct chain) + (size + IOV_EXTRA) * sizeof(struct iovec), LINE);
	size_t each = sizeof(struct queue) + size * (sizeof(bool) + 2 * sizeof(uint16_t) +
		sizeof(struct chain *) + sizeof(struct vring_desc) + chain_bytes) + 10 * LINE;
	uint8_t *base;

	each = align_up(each, PAGE_4K);
	base = map(n * each);
	if (!base)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		ret[i] = (struct queue_room){ base + i * each, each };
	return 0;
}

void queue_room_free(struct queue_room *room, unsigned n)
{
	if (n && room[0].base)
		munmap(room[0].base, n * room[0].bytes);
}

/* A map that fails leaves a generation that is never the present one: it is tried again. */
static bool map_rings(struct queue *q)
{
	bool ok = q->packed ? packed_map(q) : split_map(q);

	q->generation = mem_generation(q->mem) - !ok;
	return ok;
}

bool queue_map_again(struct queue *q)
{
	bool ok = map_rings(q);

	if (!ok)
		queue_break(q, "its ring is no longer in RAM");
	return ok;
}

int queue_open(struct queue **ret, struct guest_mem *mem, const struct queue_setup *setup, size_t priv_size)
{
	return queue_open_in(ret, NULL, mem, setup, priv_size);
}

int queue_open_in(struct queue **ret, const struct queue_room *room, struct guest_mem *mem,
	const struct queue_setup *setup, size_t priv_size)
{
	int r = check_setup(setup);
	struct queue *q;

	if (r < 0)
		return r;
	q = alloc_queue(setup->size, priv_size, room);
	if (!q)
		return -ENOMEM;
	q->mem = mem;
	q->ram = mem_head(mem)->ram;
	q->setup = *setup;
	q->size = setup->size;
	q->mask = setup->size - 1;
	q->packed = setup->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	q->event_idx = setup->features & VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
	q->table_max = setup->features & VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) ? q->size : 0;
	q->in_order = q->noted = setup->features & VIRTIO_BIT(VIRTIO_F_IN_ORDER);
	q->next_avail = setup->next_avail;
	q->next_used = setup->next_used;
	q->avail_seen = setup->next_avail;
	if (q->packed) {
		q->avail_state = pvring_avail(setup->next_avail & PVRING_WRAP);
		q->used_state = pvring_used(setup->next_used & PVRING_WRAP);
		q->next_avail &= (uint16_t)~PVRING_WRAP;
		q->next_used &= (uint16_t)~PVRING_WRAP;
	}
	if (!map_rings(q)) {
		free_queue(q);
		return -EFAULT;
	}
	*ret = q;
	return 0;
}

uint16_t queue_next_used(const struct queue *q)
{
	return q->packed && q->used_state == pvring_used(true) ? q->next_used | PVRING_WRAP : q->next_used;
}

void queue_close(struct queue *q, struct queue_setup *ret)
{
	if (!q)
		return;
	assert(!queue_in_flight(q));
	queue_call(q);
	if (ret) {
		ret->next_avail = q->next_avail;
		ret->next_used = queue_next_used(q);
		if (q->packed && q->avail_state == pvring_avail(true))
			ret->next_avail |= PVRING_WRAP;
	}
	free_queue(q);
}

unsigned queue_index(const struct queue *q)
{
	return q->setup.index;
}

unsigned queue_size(const struct queue *q)
{
	return q->size;
}

unsigned queue_in_flight(const struct queue *q)
{
	return (unsigned)(q->stats.popped - q->stats.returned);
}

bool queue_broken(const struct queue *q)
{
	return q->broken;
}

void *queue_priv(const struct queue *q)
{
	return q->priv;
}

const struct queue_stats *queue_stats(const struct queue *q)
{
	return &q->stats;
}

void queue_set_loop(struct queue *q, struct loop *loop)
{
	q->loop = loop;
}

struct loop *queue_loop(const struct queue *q)
{
	return q->loop;
}

void queue_kicked(struct queue *q)
{
	queue_count(q->stats.kicks, 1);
}

/* The one line about a broken ring: later calls find `broken` set and say nothing. */
int queue_break(struct queue *q, const char *why)
{
	if (!q->broken)
		log_guest(LOG_WARN, "queue %u is broken until a reset: %s", q->setup.index, why);
	q->broken = q->unusual = true;
	return -EPROTO;
}

struct chain *queue_take_fresh(struct queue *q)
{
	struct chain *c = (struct chain *)(q->pool + q->fresh * q->chain_bytes);

	assert(q->fresh < q->size);
	q->fresh++;
	c->mem = q->mem;
	return c;
}

static unsigned order_slot(const struct queue *q, unsigned i)
{
	unsigned slot = (unsigned)q->order_head + i;

	return slot >= q->size ? slot - q->size : slot;
}

void queue_account_noted(struct queue *q, struct chain *c)
{
	if (q->in_order) {
		c->done = false;
		q->order[order_slot(q, q->order_len++)] = c;
	}
	if (q->record)
		queue_note_popped(q, c);
}

/*
 * Nothing of it was handed out: back with length 0, so that the driver finds its head again.
 */
int queue_refuse(struct queue *q, struct chain *c, const char *why)
{
	chain_start_empty(c);
	if (q->noted)
		queue_account_noted(q, c);
	queue_count(q->stats.popped, 1);
	queue_count(q->stats.malformed, 1);
	queue_push(q, c);
	queue_flush(q);
	return queue_break(q, why);
}

static __attribute__((noinline)) int pop_seldom(struct queue *q, struct chain **ret, unsigned max)
{
	if (!queue_rings_ready(q) || q->broken)
		return -EPROTO;
	if (q->unusual)
		return queue_replay(q, ret);
	return q->packed ? packed_pop(q, ret, max) : split_pop(q, ret, max);
}

int queue_pop_batch(struct queue *q, struct chain **ret, unsigned max)
{
	if (seldom(mem_generation(q->mem) != q->generation || q->unusual))
		return pop_seldom(q, ret, max);
	return q->packed ? packed_pop(q, ret, max) : split_pop(q, ret, max);
}

int queue_pop(struct queue *q, struct chain **ret)
{
	return queue_pop_batch(q, ret, 1);
}

void queue_unpop(struct queue *q, struct chain *c)
{
	/*
	 * A malformed chain behind it was consumed, so it is not the last any more; and nobody will
	 * pop it again.
	 */
	if (q->broken) {
		chain_start_empty(c);
		queue_push(q, c);
		return;
	}
	q->busy[c->head] = false;
	if (q->in_order)
		q->order_len--;
	queue_count(q->stats.popped, -1);
	if (q->record && queue_note_unpopped(q, c))
		; /* its place in the ring is behind us */
	else if (q->packed)
		packed_unpop(q, c);
	else
		split_unpop(q);
	queue_untake(q, c);
}

/* Write the used entry, not yet visible to the driver, and free the chain. */
static inline void put(struct queue *q, struct chain *c)
{
	if (q->packed)
		packed_put(q, &c, 1);
	else
		split_put(q, &c, 1);
}

/* There is no ring to write to. */
static void put_nowhere(struct queue *q, struct chain *c)
{
	queue_release(q->busy, &q->free, c);
	queue_count(q->stats.returned, 1);
}

/* The used entry first, so that what the record says is done can be published. */
static inline void put_noted(struct queue *q, struct chain *c, bool ready)
{
	const uint16_t head = c->head, ndesc = c->ndesc;

	if (!ready) {
		put_nowhere(q, c);
		return;
	}
	put(q, c);
	if (q->record)
		queue_note_put(q, head, ndesc);
}

/* With IN_ORDER or a record, or when the rings must be mapped again and perhaps cannot. */
static __attribute__((noinline)) void push_seldom(struct queue *q, struct chain *c)
{
	bool ready = queue_rings_ready(q);

	if (!q->in_order) {
		put_noted(q, c, ready);
		return;
	}
	c->done = true;
	while (q->order_len && q->order[q->order_head]->done) {
		put_noted(q, q->order[q->order_head], ready);
		q->order_head = (uint16_t)order_slot(q, 1);
		q->order_len--;
	}
}

void queue_push(struct queue *q, struct chain *c)
{
	if (seldom(q->noted || mem_generation(q->mem) != q->generation))
		push_seldom(q, c);
	else
		put(q, c);
}

void queue_push_batch(struct queue *q, struct chain **chains, unsigned n)
{
	if (seldom(q->noted || mem_generation(q->mem) != q->generation))
		for (unsigned i = 0; i < n; i++)
			push_seldom(q, chains[i]);
	else if (q->packed)
		packed_put(q, chains, n);
	else
		split_put(q, chains, n);
}

static void publish(struct queue *q)
{
	if (q->record)
		queue_note_publishing(q);
	if (q->packed)
		packed_publish(q);
	else
		split_publish(q);
	if (q->record)
		queue_note_published(q);
}

int queue_call(struct queue *q)
{
	static const uint64_t one = 1;
	bool wants;

	if (!(q->unrung || q->pending) || !queue_rings_ready(q))
		return 0;
	if (q->pending)
		publish(q);
	wants = q->packed ? packed_wants_call(q) : split_wants_call(q);
	q->unrung = 0;
	if (!wants || q->setup.call_fd < 0) {
		queue_count(q->stats.calls_suppressed, 1);
		return 0;
	}
	/*
	 * EAGAIN: the counter is full, so the interrupt is pending anyway. Nothing else can fail on
	 * an eventfd of ours.
	 */
	if (write(q->setup.call_fd, &one, sizeof(one)) < 0)
		return 0;
	queue_count(q->stats.calls, 1);
	return 1;
}

void queue_publish(struct queue *q)
{
	if (q->pending && queue_rings_ready(q))
		publish(q);
}

int queue_flush(struct queue *q)
{
	if (!(q->pending || q->unrung) || !queue_rings_ready(q))
		return 0;
	queue_publish(q);
	return q->hold_calls && q->unrung <= q->size / 2 ? 0 : queue_call(q);
}

void queue_hold_calls(struct queue *q, bool on)
{
	q->hold_calls = on;
	if (!on)
		queue_call(q);
}

void queue_dirty_ring(struct queue *q, const void *ring, size_t each, unsigned first, unsigned count)
{
	const uint8_t *base = ring;
	unsigned upper = MIN(count, q->size - first);

	mem_dirty_host(q->mem, base + first * each, upper * each);
	mem_dirty_host(q->mem, base, (count - upper) * each);
}

bool queue_has_avail(struct queue *q)
{
	if (!queue_rings_ready(q))
		return false;
	if (q->unusual)
		return !q->broken;
	return q->packed ? packed_has_avail(q) : split_has_avail(q);
}

void queue_disable_kick(struct queue *q)
{
	if (!queue_rings_ready(q))
		return;
	if (q->packed)
		packed_disable_kick(q);
	else
		split_disable_kick(q);
}

void queue_disarm_kick(struct queue *q)
{
	if (!queue_rings_ready(q))
		return;
	if (q->packed)
		packed_disarm_kick(q);
	else
		split_disarm_kick(q);
}

bool queue_enable_kick(struct queue *q)
{
	if (!queue_rings_ready(q) || q->broken)
		return false;
	if (q->packed)
		packed_enable_kick(q);
	else
		split_enable_kick(q);
	/*
	 * The event (or flag) just written before the ring read again: the driver stores its ring
	 * entry, fences, and loads the event. So either it sees that we want a kick, or we see its
	 * entry here.
	 */
	ring_fence();
	return queue_has_avail(q);
}
