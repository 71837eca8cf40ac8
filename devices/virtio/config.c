/*
 * The config space image (virtio 1.2 §2.5): bytes that a worker writes and vCPU threads read,
 * without a lock. A sequence counter is odd while a write is under way; a reader that saw it odd or
 * changed reads again. Half of the counter is the generation of §2.5.1, so a driver that reads a
 * field in two accesses sees that it changed between them.
 *
 * The worker and a vCPU thread (guest writes) may write at the same time: who turns the counter odd
 * goes first, the other waits the few stores.
 */
#include "devices/virtio/virtio.h"

/* Of looks at a shared image whose writer may be dead, or worse: some hundred microseconds. */
enum { SHARED_TRIES = 20000 };

static struct virtio_image *image_of(const struct virtio_config *c)
{
	return c->shared ? c->shared : (struct virtio_image *)&c->own;
}

void virtio_config_read(const struct virtio_config *c, unsigned offset, void *data, unsigned len)
{
	const struct virtio_image *image = image_of(c);
	uint8_t *out = data;
	uint32_t before, after;
	unsigned tries = 0;

	do {
		/* Ordered before the bytes below: pairs with the release that ends a write. */
		before = atomic_load_explicit(&image->seq, memory_order_acquire);
		memset(out, 0, len);
		for (unsigned i = 0; i < len && offset < c->size && i < c->size - offset; i++)
			out[i] = atomic_load_explicit(&image->bytes[offset + i], memory_order_relaxed);
		/*
		 * The bytes above are ordered before the second look; a writer's odd count comes
		 * before its bytes.
		 */
		atomic_thread_fence(memory_order_acquire);
		after = atomic_load_explicit(&image->seq, memory_order_relaxed);
	} while (((before & 1) || before != after) && !(c->shared && ++tries == SHARED_TRIES));
}

/* The even count that was there before we made it odd. */
static uint32_t begin_write(const struct virtio_config *c, struct virtio_image *image)
{
	uint32_t seq = atomic_load_explicit(&image->seq, memory_order_relaxed);
	unsigned tries = 0;

	do {
		/* It stays odd: who made it so is gone, and his write becomes ours. */
		if (c->shared && ++tries == SHARED_TRIES)
			return seq & ~UINT32_C(1);
		seq &= ~UINT32_C(1);
	} while (!atomic_compare_exchange_weak_explicit(&image->seq, &seq, seq + 1, memory_order_acquire,
		memory_order_relaxed));
	return seq;
}

void virtio_config_write(struct virtio_config *c, unsigned offset, const void *data, unsigned len)
{
	struct virtio_image *image = image_of(c);
	const uint8_t *in = data;
	uint32_t seq;

	if (offset >= c->size)
		return;
	len = MIN(len, c->size - offset);
	seq = begin_write(c, image);
	/* The odd count is ordered before the bytes, for the reader's second look. */
	atomic_thread_fence(memory_order_release);
	for (unsigned i = 0; i < len; i++)
		atomic_store_explicit(&image->bytes[offset + i], in[i], memory_order_relaxed);
	/* The bytes are ordered before the even count that readers acquire. */
	atomic_store_explicit(&image->seq, seq + 2, memory_order_release);
}

uint32_t virtio_config_generation(const struct virtio_config *c)
{
	return atomic_load_explicit(&image_of(c)->seq, memory_order_acquire) >> 1;
}
