/*
 * A saved virtio device from a hostile file, over both transports: the stream that a driven device
 * saves, with bytes of it changed and every checksum made right, loaded into a live device. What is
 * refused must leave a device that can be reset and driven; what is accepted keeps the rules of
 * the front, runs over whatever rings it names, and saves again. The input: one byte that picks
 * transport and rings, then patches of three bytes, offset and value.
 */
#include "tests/fuzz/transport.h"

enum { OBJECTS_MAX = 8, PATCH_BYTES = 3 };

static uint32_t crc32c(const uint8_t *p, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (; len--; p++) {
		crc ^= *p;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

/* Where the object that begins at `pos` of a good stream has its checksum (vmm/state.c). */
static size_t crc_of(const struct state_writer *w, size_t pos)
{
	static const uint8_t widths[] = {
		[STATE_U8] = 1, [STATE_U16] = 2, [STATE_U32] = 4, [STATE_U64] = 8, [STATE_BOOL] = 1
	};

	pos += 1u + w->data[pos] + 2u;
	while (w->data[pos]) {
		pos += 1u + w->data[pos];
		pos += 3u + (size_t)widths[w->data[pos]] * get_le16(w->data + pos + 1);
	}
	return pos + 1;
}

static void patch(struct state_writer *w, const uint8_t *data, size_t size)
{
	size_t crc[OBJECTS_MAX], n = 0, start = 0;

	for (size_t pos = 0; pos < w->len && n < OBJECTS_MAX; pos = crc[n++] + 4)
		crc[n] = crc_of(w, pos);
	for (; size >= PATCH_BYTES; data += PATCH_BYTES, size -= PATCH_BYTES)
		w->data[get_le16(data) % w->len] = data[2];
	for (size_t i = 0; i < n; start = crc[i++] + 4)
		put_le32(w->data + crc[i], crc32c(w->data + start, crc[i] - start));
}

/* A device whose state is loaded comes from a machine that is paused and stays so until all is. */
static void load(struct rig *rig, const struct state_writer *w)
{
	struct state_reader r = { w->data, w->len, 0 };
	struct state_writer again = { 0 };

	rig->dev->ops->pause(rig->dev);
	rig->dev->ops->reset(rig->dev);
	if (rig->dev->ops->load(rig->dev, &r, &rig->err) < 0) {
		MUST(rig->err.text[0]);
		rig->dev->ops->reset(rig->dev);
		return;
	}
	MUST(rig->dev->ops->save(rig->dev, &again) == 0);
	state_writer_free(&again);
	rig->dev->ops->resume(rig->dev);
	check_front(rig_front(rig));
	rig_main(rig);
	check_front(rig_front(rig));
	rig->dev->ops->reset(rig->dev);
	check_front(rig_front(rig));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state_writer w = { 0 };
	struct rig rig;

	log_level = LOG_ERROR;
	if (!size)
		return 0;
	rig_init(&rig);
	MUST(rig_echo(&rig, data[0] & 1 ? VIRTIO_TRANSPORT_PCI : VIRTIO_TRANSPORT_MMIO) == 0);
	rig_drive(&rig, data[0] >> 1 & 3, RIG_SPLIT | (data[0] & 8 ? VIRTIO_BIT(VIRTIO_F_RING_PACKED) : 0));
	rig.dev->ops->pause(rig.dev);
	MUST(rig.dev->ops->save(rig.dev, &w) == 0);
	patch(&w, data + 1, size - 1);
	load(&rig, &w);
	/* Usable by the next driver whatever came before. */
	rig_drive(&rig, 1, RIG_SPLIT);
	MUST(rig_front(&rig)->status & VIRTIO_S_DRIVER_OK);
	state_writer_free(&w);
	rig_fini(&rig);
	return 0;
}
