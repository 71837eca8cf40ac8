/*
 * Saving and loading by table. The stream of one object, all numbers little-endian:
 *
 *   name     u8 length, bytes
 *   version  u16
 *   field*   u8 length (not 0), name bytes, u8 type, u16 count, count elements of the type's width
 *   end      u8 0
 *   crc      u32, CRC-32C (Castagnoli, RFC 3720 appendix B.4) of everything before it
 *
 * A load walks the stream once, copying elements into a scratch copy of the object: the table says
 * what may come and how long it is, so a number of the stream is only ever compared, never used as
 * a length. After the end mark the checksum, the completeness and check() decide; then the table's
 * fields, and nothing else, are copied into the object.
 *
 * Owner of the object, paused: main, with vCPUs parked and workers drained.
 */
#include "vmm/state.h"

#include <errno.h>
#include <stdlib.h>

enum { NAME_MAX_LEN = 255 };

static const uint8_t widths[] = {
	[STATE_U8] = 1,
	[STATE_U16] = 2,
	[STATE_U32] = 4,
	[STATE_U64] = 8,
	[STATE_BOOL] = 1,
};
_Static_assert(sizeof(bool) == 1, "a bool is saved as its byte");

/* Four bits at a time: state is small, and 16 words stay in the cache. */
static uint32_t crc32c(const uint8_t *p, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000,
		0x105ec76f,
		0x20bd8ede,
		0x30e349b1,
		0x417b1dbc,
		0x5125dad3,
		0x61c69362,
		0x7198540d,
		0x82f63b78,
		0x92a8fc17,
		0xa24bb5a6,
		0xb21572c9,
		0xc38d26c4,
		0xd3d3e1ab,
		0xe330a81a,
		0xf36e6f75,
	};
	uint32_t crc = UINT32_MAX;

	for (; len--; p++) {
		crc = crc >> 4 ^ table[(crc ^ *p) & 15];
		crc = crc >> 4 ^ table[(crc ^ (uint32_t)*p >> 4) & 15];
	}
	return ~crc;
}

/* ---- saving ---- */

void state_writer_free(struct state_writer *w)
{
	if (!w)
		return;
	free(w->data);
	*w = (struct state_writer){ .data = NULL };
}

static void put_bytes(struct state_writer *w, const void *bytes, size_t len)
{
	size_t cap = w->cap ? w->cap : 512;
	uint8_t *data;

	if (w->error)
		return;
	while (cap - w->len < len) {
		if (cap > SIZE_MAX / 2) {
			w->error = -ENOMEM;
			return;
		}
		cap *= 2;
	}
	if (cap != w->cap) {
		data = realloc(w->data, cap);
		if (!data) {
			w->error = -ENOMEM;
			return;
		}
		w->data = data;
		w->cap = cap;
	}
	memcpy(w->data + w->len, bytes, len);
	w->len += len;
}

static void put_number(struct state_writer *w, uint64_t v, size_t width)
{
	uint8_t buf[8];

	put_le(buf, v, width);
	put_bytes(w, buf, width);
}

static void put_name(struct state_writer *w, const char *name)
{
	size_t len = strlen(name);

	if (!len || len > NAME_MAX_LEN)
		w->error = w->error ? w->error : -EINVAL;
	put_number(w, len, 1);
	put_bytes(w, name, len);
}

static const uint8_t *element(const struct state_field *f, const void *object, size_t i)
{
	return (const uint8_t *)object + f->offset + i * f->stride;
}

int state_save(struct state_writer *w, const struct state_desc *desc, const void *object)
{
	size_t start = w->len;

	put_name(w, desc->name);
	put_number(w, desc->version, 2);
	for (const struct state_field *f = desc->fields; f->name; f++) {
		put_name(w, f->name);
		put_number(w, f->type, 1);
		put_number(w, f->count, 2);
		for (size_t i = 0; i < f->count; i++)
			put_bytes(w, element(f, object, i), widths[f->type]);
	}
	put_number(w, 0, 1);
	if (!w->error)
		put_number(w, crc32c(w->data + start, w->len - start), 4);
	return w->error;
}

/* ---- loading ---- */

/* One load: the cursor, and what has been seen. */
struct load {
	const struct state_desc *desc;
	const uint8_t *data;
	size_t len, pos;
	uint8_t *scratch; /* a copy of the object, taking the fields of the stream */
	bool *seen;	  /* one per field of the table */
	uint16_t version;
	struct error *err;
};

static int bad(struct load *l, int code, const char *what)
{
	return error_set(l->err, code, "state of %s: %s; the file is damaged or not one of ours",
		l->desc->name, what);
}

/* The next `len` bytes, or NULL when the stream ends before. */
static const uint8_t *take(struct load *l, size_t len)
{
	const uint8_t *p = l->data + l->pos;

	if (len > l->len - l->pos)
		return NULL;
	l->pos += len;
	return p;
}

/*
 * A name of 0 to 255 bytes into buf, NUL-terminated; a NUL inside is refused so that names compare
 * as strings.
 */
static int take_name(struct load *l, char buf[NAME_MAX_LEN + 1])
{
	const uint8_t *len = take(l, 1);
	const uint8_t *name = len ? take(l, *len) : NULL;

	if (!name)
		return bad(l, EPROTO, "it ends too early");
	if (memchr(name, 0, *len))
		return bad(l, EPROTO, "a name has a zero byte");
	memcpy(buf, name, *len);
	buf[*len] = '\0';
	return 0;
}

static int load_header(struct load *l)
{
	const struct state_desc *desc = l->desc;
	char name[NAME_MAX_LEN + 1];
	const uint8_t *version;
	int r = take_name(l, name);

	if (r)
		return r;
	if (strcmp(name, desc->name))
		return error_set(l->err, EPROTO,
			"state of %s: found that of '%.40s'; restore with the same devices as when "
			"saving",
			desc->name, name);
	version = take(l, 2);
	if (!version)
		return bad(l, EPROTO, "it ends too early");
	l->version = get_le16(version);
	if (l->version > desc->version)
		return error_set(l->err, ENOTSUP,
			"state of %s: version %u is newer than %u; use the microvm that saved it, "
			"or newer",
			desc->name, l->version, desc->version);
	if (l->version < desc->oldest)
		return error_set(l->err, ENOTSUP,
			"state of %s: version %u is older than %u, the oldest that can be read; "
			"use "
			"the microvm that saved it",
			desc->name, l->version, desc->oldest);
	return 0;
}

static int load_elements(struct load *l, const struct state_field *f)
{
	size_t width = widths[f->type];
	const uint8_t *bytes = take(l, f->count * width);

	if (!bytes)
		return bad(l, EPROTO, "it ends too early");
	for (size_t i = 0; i < f->count; i++) {
		if (f->type == STATE_BOOL && bytes[i] > 1)
			return error_set(l->err, EPROTO,
				"state of %s: field '%s' is %u, must be 0 or 1; the file is "
				"damaged",
				l->desc->name, f->name, bytes[i]);
		memcpy(l->scratch + f->offset + i * f->stride, bytes + i * width, width);
	}
	return 0;
}

static int load_field(struct load *l, const char *name)
{
	const struct state_field *f = l->desc->fields;
	const uint8_t *head;

	while (f->name && strcmp(f->name, name))
		f++;
	if (!f->name || f->since > l->version)
		return error_set(l->err, EPROTO,
			"state of %s: unknown field '%.60s' in version %u; the file is damaged or "
			"not "
			"one of ours",
			l->desc->name, name, l->version);
	if (l->seen[f - l->desc->fields])
		return error_set(l->err, EPROTO,
			"state of %s: field '%s' comes twice; the file is damaged or not one of "
			"ours",
			l->desc->name, name);
	head = take(l, 3);
	if (!head)
		return bad(l, EPROTO, "it ends too early");
	if (head[0] != f->type || get_le16(head + 1) != f->count)
		return error_set(l->err, EPROTO,
			"state of %s: field '%s' has %u elements of type %u, must be %u of type "
			"%u; "
			"the file is damaged or not one of ours",
			l->desc->name, name, get_le16(head + 1), head[0], f->count, f->type);
	l->seen[f - l->desc->fields] = true;
	return load_elements(l, f);
}

/* Header, fields, end mark and checksum, into the scratch copy. */
static int load_stream(struct load *l)
{
	size_t start = l->pos, end;
	char name[NAME_MAX_LEN + 1] = "";
	const uint8_t *crc;
	int r = load_header(l);

	while (!r) {
		r = take_name(l, name);
		if (r || !*name)
			break;
		r = load_field(l, name);
	}
	if (r)
		return r;
	end = l->pos;
	crc = take(l, 4);
	if (!crc)
		return bad(l, EPROTO, "it ends too early");
	if (get_le32(crc) != crc32c(l->data + start, end - start))
		return bad(l, EPROTO, "the checksum is wrong");
	for (const struct state_field *f = l->desc->fields; f->name; f++)
		if (!l->seen[f - l->desc->fields] && f->since <= l->version)
			return error_set(l->err, EPROTO,
				"state of %s: field '%s' is missing in version %u; the file is "
				"damaged "
				"or not one of ours",
				l->desc->name, f->name, l->version);
	return 0;
}

/* The only place that writes to the live object, and only fields that came. */
static void commit(const struct load *l, void *object)
{
	for (const struct state_field *f = l->desc->fields; f->name; f++)
		for (size_t i = 0; l->seen[f - l->desc->fields] && i < f->count; i++)
			memcpy((uint8_t *)object + f->offset + i * f->stride,
				element(f, l->scratch, i), widths[f->type]);
}

static size_t count_fields(const struct state_desc *desc)
{
	size_t n = 0;

	while (desc->fields[n].name)
		n++;
	return n;
}

int state_load(
	struct state_reader *r, const struct state_desc *desc, void *object, struct error *err)
{
	struct load l = {
		.desc = desc,
		.data = r->data,
		.len = r->len,
		.pos = r->pos,
		.err = err,
		.scratch = malloc(desc->object_size),
		.seen = calloc(count_fields(desc) + 1, sizeof(bool)),
	};
	int ret;

	if (!l.scratch || !l.seen) {
		ret = error_set(err, ENOMEM, "state of %s: out of memory", desc->name);
		goto out;
	}
	memcpy(l.scratch, object, desc->object_size);
	ret = load_stream(&l);
	if (!ret && desc->check) {
		ret = desc->check(l.scratch, err);
		if (ret)
			error_prefix(err, ret, "state of %s", desc->name);
	}
	if (ret)
		goto out;
	commit(&l, object);
	r->pos = l.pos;
out:
	free(l.scratch);
	free(l.seen);
	return ret;
}

int state_reader_finish(const struct state_reader *r, struct error *err)
{
	if (r->pos == r->len)
		return 0;
	return error_set(err, EPROTO,
		"state: %zu bytes are left after the last object; the file is damaged or not one "
		"of ours",
		r->len - r->pos);
}
