/*
 * State streams from a hostile file. Each input is loaded as it is, and once more with the checksum
 * made right, so that what is behind the checksum is reached. A refused stream must leave the
 * object untouched; an accepted one must save and load again.
 */
#include <stdlib.h>

#include "vmm/state.h"

struct ring {
	uint64_t base;
	uint16_t size;
	bool on;
};

struct thing {
	uint8_t u8;
	uint16_t u16;
	bool flag;
	uint32_t words[3];
	struct ring rings[2];
	uint64_t later;
};

static int check(const void *object, struct error *err)
{
	const struct thing *t = object;

	return t->u16 > 1000 ? error_set(err, 34, "u16 is too large") : 0;
}

static const struct state_field fields[] = { STATE_FIELD(struct thing, u8),
	STATE_FIELD(struct thing, u16), STATE_FIELD(struct thing, flag),
	STATE_ARRAY(struct thing, words), STATE_EACH(struct thing, rings, base),
	STATE_EACH(struct thing, rings, size), STATE_EACH(struct thing, rings, on),
	{ "later", offsetof(struct thing, later), 1, STATE_U64, 2, 8 }, STATE_END };
static const struct state_desc desc = { "thing", 2, 1, sizeof(struct thing), fields, check };

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

static void again(const struct thing *t)
{
	struct state_writer w = { .data = NULL };
	struct state_reader r;
	struct thing back;
	struct error err;

	memset(&back, 0, sizeof(back));
	if (state_save(&w, &desc, t))
		abort();
	r = (struct state_reader){ .data = w.data, .len = w.len };
	if (state_load(&r, &desc, &back, &err) || state_reader_finish(&r, &err) ||
		memcmp(&back, t, sizeof(back)))
		abort();
	state_writer_free(&w);
}

static void load(const uint8_t *data, size_t len)
{
	struct state_reader r = { .data = data, .len = len };
	struct thing t, before;
	struct error err;

	memset(&t, 0, sizeof(t));
	before = t;
	if (!state_load(&r, &desc, &t, &err))
		again(&t);
	else if (memcmp(&t, &before, sizeof(t)) || r.pos)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *right;

	load(data, size);
	if (size < 4)
		return 0;
	right = malloc(size);
	if (!right)
		return 0;
	memcpy(right, data, size);
	put_le32(right + size - 4, crc32c(right, size - 4));
	load(right, size);
	free(right);
	return 0;
}
