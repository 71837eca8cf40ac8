/* Bytes in and out: virtio-rng, virtio-console and the 16550 (its data sheet, PC16550D). */
#include "tests/guest/tests.h"
#include "tests/guest/vio.h"

enum { RNG_LEN = 64, RNG_BIG = 65536, CONSOLE_RX = 0, CONSOLE_TX = 1, BUFFER = 256, RX_BUFFERS = 4 };

static void rng(void)
{
	static struct vio v;
	uint8_t *a, *b, *big;
	uint32_t len = 0, sum = 0;

	if (!check(vio_find(&v, VIO_RNG, 0), "a source of entropy is found", "no virtio device of this kind"))
		return;
	if (!check(vio_negotiate(&v, vio_ring_features()) && vio_queue(&v, 0, 16), "it starts", "status 0x%x",
			vio_status(&v)))
		return;
	vio_ready(&v);
	a = dma(RNG_LEN, 16);
	b = dma(RNG_LEN, 16);
	big = dma(RNG_BIG, 16);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN) }, 0, 1, &len) && len == RNG_LEN,
		"a buffer is filled", "%u bytes", len);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(b, RNG_LEN) }, 0, 1, &len) && len == RNG_LEN,
		"a second buffer is filled", "%u bytes", len);
	check(!same_bytes(a, b, RNG_LEN), "two buffers differ", "they are equal");
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(big, 100), vio_seg(big + 100, RNG_BIG - 100) }, 0, 2,
			&len) && len > 0 && len <= RNG_BIG, "a large buffer in pieces gets some", "%u bytes", len);
	for (uint32_t i = 0; i < len; i++)
		sum += big[i];
	check(sum / len > 100 && sum / len < 155, "random bytes have the mean of random bytes", "%u", sum / len);
	for (uint64_t i = arg_u64("rounds", 0); i; i--)
		if (!vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN) }, 0, 1, &len) || len != RNG_LEN) {
			check(false, "each of many buffers is filled", "%u bytes, %u to go", len, (unsigned)i);
			break;
		}
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN), vio_seg(b, RNG_LEN) }, 1, 1, &len) ||
			(vio_status(&v) & VIO_NEEDS_RESET), "a buffer the device may not write ends somehow", "no answer");
	check(vio_negotiate(&v, vio_ring_features()) && vio_queue(&v, 0, 16), "it starts again", "status 0x%x",
		vio_status(&v));
	vio_ready(&v);
	check(vio_transfer(&v, 0, (struct vd_seg[]){ vio_seg(a, RNG_LEN) }, 0, 1, &len) && len == RNG_LEN,
		"a buffer is filled after a reset", "%u bytes", len);
}

static void give_rx(struct vio *v, uint8_t *buffer)
{
	const struct vd_seg seg = vio_seg(buffer, BUFFER);

	vd_add(&v->queue[CONSOLE_RX].vd, &seg, 0, 1, buffer);
	vd_kick(&v->queue[CONSOLE_RX].vd);
}

/* Sends count= bytes of the host back to it. */
static void console(void)
{
	static struct vio v;
	uint64_t left = arg_u64("count", 16);
	uint8_t *rx, *tx;
	uint32_t len;
	void *got;

	if (!check(vio_find(&v, VIO_CONSOLE, 0), "a console is found", "no virtio device of this kind"))
		return;
	if (!check(vio_negotiate(&v, vio_ring_features()) && vio_queue(&v, CONSOLE_RX, 16) &&
			vio_queue(&v, CONSOLE_TX, 16), "it starts", "status 0x%x", vio_status(&v)))
		return;
	vio_ready(&v);
	rx = dma(RX_BUFFERS * BUFFER, 16);
	tx = dma(BUFFER, 16);
	for (unsigned i = 0; i < RX_BUFFERS; i++)
		give_rx(&v, rx + i * BUFFER);
	say("listening\n");
	while (left) {
		struct vd_seg out[2];

		if (vio_wait(&v.queue[CONSOLE_RX], &got, &len) != 1 || !len || len > BUFFER)
			break;
		__builtin_memcpy(tx, got, len);
		give_rx(&v, got);
		/* In two descriptors where there is enough for two. */
		out[0] = vio_seg(tx, 1);
		out[1] = vio_seg(tx + 1, len - 1);
		if (!vio_transfer(&v, CONSOLE_TX, out, len > 1 ? 2 : 1, 0, NULL))
			break;
		left -= len < left ? len : left;
	}
	check(!left, "all bytes came and went", "%lu are missing", (unsigned long)left);
}

const struct guest_test char_tests[] = {
	{ "rng", rng },
	{ "console", console },
	{ NULL, NULL },
};
