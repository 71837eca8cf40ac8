/*
 * Terms and scopes of AML (ACPI 6.5 §20.2). A package's length field, PkgLength, counts itself and
 * has 1 to 4 bytes depending on its value (§20.2.4). So a scope leaves no room for it: when the
 * scope ends its content is complete, and is moved up by the bytes that the field turns out to
 * need. Outer scopes remember offsets before the moved bytes only, so nesting disturbs nothing.
 */
#include "firmware/aml.h"

#include <errno.h>

enum {
	ZERO_OP = 0x00,
	ONE_OP = 0x01,
	NAME_OP = 0x08,
	BYTE_PREFIX = 0x0a,
	WORD_PREFIX = 0x0b,
	DWORD_PREFIX = 0x0c,
	STRING_PREFIX = 0x0d,
	QWORD_PREFIX = 0x0e,
	SCOPE_OP = 0x10,
	BUFFER_OP = 0x11,
	PACKAGE_OP = 0x12,
	METHOD_OP = 0x14,
	DUAL_NAME_PREFIX = 0x2e,
	MULTI_NAME_PREFIX = 0x2f,
	EXT_OP_PREFIX = 0x5b,
	IF_OP = 0xa0,
	EXT_REGION_OP = 0x80,
	EXT_FIELD_OP = 0x81,
	EXT_DEVICE_OP = 0x82,

	END_TAG = 0x79,		     /* §6.4.2.9 */
	FIELD_WRITE_AS_ZEROS = 0x40, /* UpdateRule 2, bits 5 and 6 of FieldFlags */
	METHOD_SERIALIZED = 0x08,
	PATH_SEGMENTS_MAX = 8,
	SEGMENT = 4,
	INT_MAX_BYTES = 9,
	PKG_LENGTH_MAX_BYTES = 4,
};

void aml_init(struct aml *a, void *buf, size_t room)
{
	*a = (struct aml){ .buf = buf, .room = room };
}

int aml_finish(const struct aml *a, size_t *ret_len)
{
	if (a->error)
		return a->error;
	if (a->depth)
		return -EINVAL;
	*ret_len = a->len;
	return 0;
}

void aml_fail(struct aml *a, int error)
{
	if (!a->error)
		a->error = error;
}

void aml_bytes(struct aml *a, const void *bytes, size_t n)
{
	if (a->error)
		return;
	if (n > a->room - a->len) {
		aml_fail(a, -ENOSPC);
		return;
	}
	memcpy(a->buf + a->len, bytes, n);
	a->len += n;
}

static void put_byte(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, 1);
}

/* Make room at `at` for bytes that precede what was written there. */
static void insert(struct aml *a, size_t at, const void *bytes, size_t n)
{
	if (a->error)
		return;
	if (n > a->room - a->len) {
		aml_fail(a, -ENOSPC);
		return;
	}
	memmove(a->buf + at + n, a->buf + at, a->len - at);
	memcpy(a->buf + at, bytes, n);
	a->len += n;
}

/* §20.2.3 ComputationalData: the shortest form. */
static size_t encode_int(uint8_t out[INT_MAX_BYTES], uint64_t v)
{
	size_t bytes = v <= UINT8_MAX ? 1 : v <= UINT16_MAX ? 2 : v <= UINT32_MAX ? 4 : 8;

	if (v <= 1) {
		out[0] = v ? ONE_OP : ZERO_OP;
		return 1;
	}
	out[0] = bytes == 1   ? BYTE_PREFIX
		 : bytes == 2 ? WORD_PREFIX
		 : bytes == 4 ? DWORD_PREFIX
			      : QWORD_PREFIX;
	put_le(out + 1, v, bytes);
	return 1 + bytes;
}

/* §20.2.4: `content` bytes follow the field. 0 when there is no form for so many. */
static size_t encode_pkg_length(uint8_t out[PKG_LENGTH_MAX_BYTES], size_t content)
{
	uint64_t total;

	if (content + 1 < 64) {
		out[0] = (uint8_t)(content + 1);
		return 1;
	}
	for (unsigned more = 1; more < PKG_LENGTH_MAX_BYTES; more++) {
		total = content + 1 + more;
		if (total >> (4 + 8 * more))
			continue;
		out[0] = (uint8_t)(more << 6 | (total & 0xf));
		put_le(out + 1, total >> 4, more);
		return 1 + more;
	}
	return 0;
}

static void begin(struct aml *a, bool template)
{
	if (a->error)
		return;
	if (a->depth == AML_DEPTH_MAX) {
		aml_fail(a, -EINVAL);
		return;
	}
	a->open[a->depth++] = (struct aml_open){ .start = a->len, .template = template };
}

void aml_end(struct aml *a)
{
	static const uint8_t end_tag[2] = { END_TAG, 0 }; /* checksum 0: not used */
	uint8_t field[INT_MAX_BYTES];
	struct aml_open *o;
	size_t n;

	if (a->error)
		return;
	if (!a->depth) {
		aml_fail(a, -EINVAL);
		return;
	}
	o = &a->open[--a->depth];
	if (o->template) {
		aml_bytes(a, end_tag, sizeof(end_tag));
		n = encode_int(field, a->len - o->start);
		insert(a, o->start, field, n);
	}
	n = encode_pkg_length(field, a->len - o->start);
	if (!n)
		aml_fail(a, -ENOSPC);
	insert(a, o->start, field, n);
}

static bool is_segment_char(char c, bool first)
{
	return (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

/* One NameSeg from *path, which is left after it; false when there is none. */
static bool read_segment(char out[SEGMENT], const char **path)
{
	unsigned n = 0;

	memset(out, '_', SEGMENT);
	while (n < SEGMENT && is_segment_char(**path, !n))
		out[n++] = *(*path)++;
	return n;
}

static void put_segment(struct aml *a, const char *name)
{
	char segment[SEGMENT];

	if (!read_segment(segment, &name) || *name) {
		aml_fail(a, -EINVAL);
		return;
	}
	aml_bytes(a, segment, SEGMENT);
}

/* §20.2.2 NameString. */
void aml_path(struct aml *a, const char *path)
{
	char segment[PATH_SEGMENTS_MAX][SEGMENT];
	unsigned n = 0;

	if (*path == '\\')
		put_byte(a, (uint8_t)*path++);
	while (*path == '^')
		put_byte(a, (uint8_t)*path++);
	do {
		if (n == PATH_SEGMENTS_MAX || !read_segment(segment[n++], &path)) {
			aml_fail(a, -EINVAL);
			return;
		}
	} while (*path == '.' && path++);
	if (*path) {
		aml_fail(a, -EINVAL);
		return;
	}
	if (n == 2) {
		put_byte(a, DUAL_NAME_PREFIX);
	} else if (n > 2) {
		put_byte(a, MULTI_NAME_PREFIX);
		put_byte(a, (uint8_t)n);
	}
	aml_bytes(a, segment, n * SEGMENT);
}

void aml_op(struct aml *a, enum aml_op op)
{
	put_byte(a, (uint8_t)op);
}

void aml_int(struct aml *a, uint64_t v)
{
	uint8_t bytes[INT_MAX_BYTES];

	aml_bytes(a, bytes, encode_int(bytes, v));
}

void aml_string(struct aml *a, const char *s)
{
	for (const char *c = s; *c; c++)
		if ((unsigned char)*c > 0x7f)
			aml_fail(a, -EINVAL); /* §20.2.3: AsciiChar only */
	put_byte(a, STRING_PREFIX);
	aml_bytes(a, s, strlen(s) + 1);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void aml_eisaid(struct aml *a, const char *id)
{
	uint8_t bytes[5] = { DWORD_PREFIX };
	uint32_t v = 0;

	if (strlen(id) != 7) {
		aml_fail(a, -EINVAL);
		return;
	}
	for (unsigned i = 0; i < 7; i++) {
		bool letter = i < 3;

		if (letter ? id[i] < 'A' || id[i] > 'Z' : hex_digit(id[i]) < 0) {
			aml_fail(a, -EINVAL);
			return;
		}
		v = letter ? v << 5 | (uint32_t)(id[i] - 'A' + 1)
			   : v << 4 | (uint32_t)hex_digit(id[i]);
	}
	/* The identifier is big-endian in memory. */
	put_le32(bytes + 1, __builtin_bswap32(v));
	aml_bytes(a, bytes, sizeof(bytes));
}

void aml_name(struct aml *a, const char *path)
{
	put_byte(a, NAME_OP);
	aml_path(a, path);
}

void aml_name_int(struct aml *a, const char *path, uint64_t v)
{
	aml_name(a, path);
	aml_int(a, v);
}

void aml_name_string(struct aml *a, const char *path, const char *s)
{
	aml_name(a, path);
	aml_string(a, s);
}

void aml_name_eisaid(struct aml *a, const char *path, const char *id)
{
	aml_name(a, path);
	aml_eisaid(a, id);
}

void aml_scope_begin(struct aml *a, const char *path)
{
	put_byte(a, SCOPE_OP);
	begin(a, false);
	aml_path(a, path);
}

void aml_device_begin(struct aml *a, const char *path)
{
	put_byte(a, EXT_OP_PREFIX);
	put_byte(a, EXT_DEVICE_OP);
	begin(a, false);
	aml_path(a, path);
}

void aml_method_begin(struct aml *a, const char *path, unsigned args, bool serialized)
{
	if (args > 7)
		aml_fail(a, -EINVAL);
	put_byte(a, METHOD_OP);
	begin(a, false);
	aml_path(a, path);
	put_byte(a, (uint8_t)(args | (serialized ? METHOD_SERIALIZED : 0)));
}

void aml_package_begin(struct aml *a, uint8_t elements)
{
	put_byte(a, PACKAGE_OP);
	begin(a, false);
	put_byte(a, elements);
}

void aml_if_begin(struct aml *a)
{
	put_byte(a, IF_OP);
	begin(a, false);
}

void aml_region(struct aml *a, const char *path, enum aml_space space, uint64_t base, uint64_t len)
{
	put_byte(a, EXT_OP_PREFIX);
	put_byte(a, EXT_REGION_OP);
	aml_path(a, path);
	put_byte(a, (uint8_t)space);
	aml_int(a, base);
	aml_int(a, len);
}

void aml_field_begin(struct aml *a, const char *region, enum aml_access access)
{
	put_byte(a, EXT_OP_PREFIX);
	put_byte(a, EXT_FIELD_OP);
	begin(a, false);
	aml_path(a, region);
	put_byte(a, (uint8_t)(access | FIELD_WRITE_AS_ZEROS));
}

/* §20.2.5.2: NamedField is a bare NameSeg and a PkgLength that counts bits and not itself. */
void aml_field_unit(struct aml *a, const char *name, unsigned bits)
{
	if (!bits || bits >= 64) {
		aml_fail(a, -EINVAL);
		return;
	}
	put_segment(a, name);
	put_byte(a, (uint8_t)bits);
}

void aml_resources_begin(struct aml *a)
{
	put_byte(a, BUFFER_OP);
	begin(a, true);
}
