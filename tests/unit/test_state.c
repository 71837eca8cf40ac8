/*
 * The state stream: round trips, and that whatever is wrong with a stream leaves the object as it
 * was.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>

#include "vmm/state.h"

struct ring {
	uint64_t base;
	uint16_t size;
	bool on;
};

struct thing {
	void *pointer; /* never saved */
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	bool flag;
	uint32_t words[5];
	bool flags[3];
	struct ring rings[4];
	uint32_t later; /* since version 3 */
};

static int check(const void *object, struct error *err)
{
	const struct thing *t = object;

	if (t->u16 > 5000)
		return error_set(err, ERANGE, "u16 is %u, at most 5000", t->u16);
	return 0;
}

#define FIELDS                                                                                     \
	STATE_FIELD(struct thing, u8), STATE_FIELD(struct thing, u16),                             \
		STATE_FIELD(struct thing, u32), STATE_FIELD(struct thing, u64),                    \
		STATE_FIELD(struct thing, flag), STATE_ARRAY(struct thing, words),                 \
		STATE_ARRAY(struct thing, flags), STATE_EACH(struct thing, rings, base),           \
		STATE_EACH(struct thing, rings, size), STATE_EACH(struct thing, rings, on)
#define LATER                                                                                      \
	{                                                                                          \
		"later", offsetof(struct thing, later), 1, STATE_U32, 3, sizeof(uint32_t)          \
	}

static const struct state_field fields_v2[] = { FIELDS, STATE_END };
static const struct state_field fields_v3[] = { FIELDS, LATER, STATE_END };
static const struct state_field fields_first[] = { STATE_FIELD(struct thing, u8), STATE_END };
static const struct state_field fields_two[] = { STATE_FIELD(struct thing, u8),
	STATE_FIELD(struct thing, u32), STATE_END };
static const struct state_field fields_twice[] = { STATE_FIELD(struct thing, u8),
	STATE_FIELD(struct thing, u8), STATE_END };
static const struct state_field fields_short[] = {
	{ "words", offsetof(struct thing, words), 4, STATE_U32, 0, 4 }, STATE_END
};
static const struct state_field fields_words[] = { STATE_ARRAY(struct thing, words), STATE_END };
static const struct state_field fields_retyped[] = {
	{ "words", offsetof(struct thing, words), 5, STATE_U16, 0, 4 }, STATE_END
};
static const struct state_field fields_reordered[] = { STATE_FIELD(struct thing, u32),
	STATE_FIELD(struct thing, u8), STATE_END };

#define DESC(fields_, version_, oldest_)                                                           \
	&(const struct state_desc)                                                                 \
	{                                                                                          \
		"thing", version_, oldest_, sizeof(struct thing), fields_, check                   \
	}

static struct thing filled(void)
{
	struct thing t;

	memset(&t, 0, sizeof(t));
	t.pointer = &t;
	t.u8 = 0xa1;
	t.u16 = 0x1234;
	t.u32 = 0xdeadbeef;
	t.u64 = UINT64_MAX - 1;
	t.flag = true;
	t.flags[1] = true;
	t.later = 77;
	for (unsigned i = 0; i < 5; i++)
		t.words[i] = 0x01010101 * i;
	for (unsigned i = 0; i < 4; i++) {
		t.rings[i].base = UINT64_C(0x1122334455667788) + i;
		t.rings[i].size = (uint16_t)(1 << i);
		t.rings[i].on = i & 1;
	}
	return t;
}

static struct state_writer saved(const struct state_desc *desc, const struct thing *t)
{
	struct state_writer w = { .data = NULL };

	cr_assert_eq(state_save(&w, desc, t), 0);
	return w;
}

/* Bit by bit: shares nothing with the table in state.c. */
static uint32_t crc_slow(const uint8_t *p, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (; len--; p++) {
		crc ^= *p;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

/* The stream must be refused with `sentence` (NULL: any) and change neither object nor cursor. */
static void refused(
	const uint8_t *data, size_t len, const struct state_desc *desc, const char *sentence)
{
	struct state_reader r = { .data = data, .len = len };
	struct thing t, before;
	struct error err = { "" };

	memset(&t, 0x5a, sizeof(t));
	t.flag = false;
	memset(t.flags, 0, sizeof(t.flags));
	before = t;
	cr_expect_lt(state_load(&r, desc, &t, &err), 0, "%s", sentence ? sentence : "accepted");
	cr_expect_eq(memcmp(&t, &before, sizeof(t)), 0, "%s: the object was changed", err.text);
	cr_expect_eq(r.pos, 0);
	cr_expect_neq(*err.text, '\0');
	if (sentence)
		cr_expect_str_eq(err.text, sentence, "%s", err.text);
}

/* Save by one description, refuse by another. */
static void refused_by(
	const struct state_desc *from, const struct state_desc *to, const char *sentence)
{
	struct thing t = filled();
	struct state_writer w = saved(from, &t);

	refused(w.data, w.len, to, sentence);
	state_writer_free(&w);
}

Test(state, the_slow_checksum_of_this_test_is_crc32c)
{
	cr_expect_eq(crc_slow((const uint8_t *)"123456789", 9), 0xe3069283);
}

Test(state, every_type_survives_a_round_trip)
{
	struct thing t = filled(), back;
	struct state_writer w = saved(DESC(fields_v3, 3, 2), &t);
	struct state_reader r = { .data = w.data, .len = w.len };
	struct error err = { "" };

	memset(&back, 0, sizeof(back));
	back.pointer = &w;
	cr_assert_eq(state_load(&r, DESC(fields_v3, 3, 2), &back, &err), 0, "%s", err.text);
	cr_expect_eq(state_reader_finish(&r, &err), 0);
	cr_expect_eq(back.pointer, &w, "what is no field is left alone");
	back.pointer = t.pointer;
	cr_expect_eq(memcmp(&t, &back, sizeof(t)), 0);
	state_writer_free(&w);
	cr_expect_null(w.data);
	state_writer_free(&w);
	state_writer_free(NULL);
}

Test(state, the_stream_has_the_bytes_that_are_written_down)
{
	static const uint8_t wanted[] = { 5, 't', 'h', 'i', 'n', 'g', 2, 0, 2, 'u', '8', 1, 1, 0,
		0xa1, 3, 'u', '3', '2', 3, 1, 0, 0xef, 0xbe, 0xad, 0xde, 0 };
	struct thing t = filled();
	struct state_writer w = saved(DESC(fields_two, 2, 2), &t);

	cr_assert_eq(w.len, sizeof(wanted) + 4);
	cr_expect_eq(memcmp(w.data, wanted, sizeof(wanted)), 0);
	cr_expect_eq(get_le32(w.data + sizeof(wanted)), crc_slow(wanted, sizeof(wanted)));
	state_writer_free(&w);
}

Test(state, objects_follow_one_another)
{
	struct thing t = filled(), a = { .u8 = 0 }, b = { .u8 = 0 };
	struct state_writer w = saved(DESC(fields_first, 1, 1), &t);
	struct state_reader r;
	struct error err = { "" };

	for (int i = 0; i < 200; i++)
		cr_assert_eq(state_save(&w, DESC(fields_two, 1, 1), &t), 0);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_expect_eq(state_load(&r, DESC(fields_first, 1, 1), &a, &err), 0);
	cr_expect_eq(a.u8, 0xa1);
	cr_expect_eq(state_reader_finish(&r, &err), -EPROTO);
	cr_expect_not_null(strstr(err.text, "bytes are left after the last object"));
	for (int i = 0; i < 200; i++)
		cr_assert_eq(state_load(&r, DESC(fields_two, 1, 1), &b, &err), 0, "%s", err.text);
	cr_expect_eq(b.u32, 0xdeadbeef);
	cr_expect_eq(state_reader_finish(&r, &err), 0);
	state_writer_free(&w);
}

Test(state, a_stream_cut_at_any_byte_is_refused)
{
	struct thing t = filled();
	struct state_writer w = saved(DESC(fields_v3, 3, 2), &t);

	for (size_t len = 0; len < w.len; len++) {
		/* Exactly `len` bytes, so that the sanitizer sees a read past them. */
		uint8_t *cut = malloc(len ? len : 1);

		memcpy(cut, w.data, len);
		refused(cut, len, DESC(fields_v3, 3, 2), NULL);
		free(cut);
	}
	state_writer_free(&w);
}

Test(state, any_flipped_bit_is_refused)
{
	struct thing t = filled();
	struct state_writer w = saved(DESC(fields_v3, 3, 2), &t);

	for (size_t bit = 0; bit < w.len * 8; bit++) {
		w.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		refused(w.data, w.len, DESC(fields_v3, 3, 2), NULL);
		w.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	state_writer_free(&w);
}

Test(state, unknown_missing_duplicate_and_misshapen_fields_are_refused)
{
	refused_by(DESC(fields_two, 2, 2), DESC(fields_first, 2, 2),
		"state of thing: unknown field 'u32' in version 2; the file is damaged or not one "
		"of ours");
	refused_by(DESC(fields_first, 2, 2), DESC(fields_two, 2, 2),
		"state of thing: field 'u32' is missing in version 2; the file is damaged or not "
		"one "
		"of ours");
	refused_by(DESC(fields_twice, 2, 2), DESC(fields_first, 2, 2),
		"state of thing: field 'u8' comes twice; the file is damaged or not one of ours");
	refused_by(DESC(fields_short, 2, 2), DESC(fields_words, 2, 2),
		"state of thing: field 'words' has 4 elements of type 3, must be 5 of type 3; the "
		"file "
		"is damaged or not one of ours");
	refused_by(DESC(fields_retyped, 2, 2), DESC(fields_words, 2, 2),
		"state of thing: field 'words' has 5 elements of type 2, must be 5 of type 3; the "
		"file "
		"is damaged or not one of ours");
}

Test(state, order_within_an_object_does_not_matter)
{
	struct thing t = filled(), back = { .u8 = 0 };
	struct state_writer w = saved(DESC(fields_reordered, 2, 2), &t);
	struct state_reader r = { .data = w.data, .len = w.len };
	struct error err = { "" };

	cr_expect_eq(state_load(&r, DESC(fields_two, 2, 2), &back, &err), 0, "%s", err.text);
	cr_expect_eq(back.u32, t.u32);
	state_writer_free(&w);
}

Test(state, another_device_or_version_is_refused_by_name)
{
	struct state_desc other = *DESC(fields_first, 2, 2);

	other.name = "other";
	refused_by(&other, DESC(fields_first, 2, 2),
		"state of thing: found that of 'other'; restore with the same devices as when "
		"saving");
	refused_by(DESC(fields_first, 4, 1), DESC(fields_first, 3, 1),
		"state of thing: version 4 is newer than 3; use the microvm that saved it, or "
		"newer");
	refused_by(DESC(fields_first, 1, 1), DESC(fields_first, 3, 2),
		"state of thing: version 1 is older than 2, the oldest that can be read; use the "
		"microvm that saved it");
}

Test(state, a_field_that_came_later_keeps_its_value_with_an_older_stream)
{
	struct thing t = filled(), back = { .later = 5 };
	struct state_writer w = saved(DESC(fields_v2, 2, 2), &t);
	struct state_reader r = { .data = w.data, .len = w.len };
	struct error err = { "" };

	cr_expect_eq(state_load(&r, DESC(fields_v3, 3, 2), &back, &err), 0, "%s", err.text);
	cr_expect_eq(back.later, 5);
	cr_expect_eq(back.u32, t.u32);
	state_writer_free(&w);
	refused_by(DESC(fields_v2, 3, 2), DESC(fields_v3, 3, 2),
		"state of thing: field 'later' is missing in version 3; the file is damaged or not "
		"one "
		"of ours");
	refused_by(DESC(fields_v3, 2, 2), DESC(fields_v3, 3, 2),
		"state of thing: unknown field 'later' in version 2; the file is damaged or not "
		"one of "
		"ours");
}

Test(state, what_check_refuses_changes_nothing)
{
	struct thing t = filled();
	struct state_writer w;

	t.u16 = 5001;
	w = saved(DESC(fields_v3, 3, 2), &t);
	refused(w.data, w.len, DESC(fields_v3, 3, 2), "state of thing: u16 is 5001, at most 5000");
	state_writer_free(&w);
}

/* A stream with a right checksum around `body`. */
static void refused_body(
	const void *body, size_t len, const struct state_desc *desc, const char *sentence)
{
	uint8_t data[256];

	cr_assert_leq(len + 4, sizeof(data));
	memcpy(data, body, len);
	put_le32(data + len, crc_slow(data, len));
	refused(data, len + 4, desc, sentence);
}

#define REFUSED_BODY(body, desc, sentence) refused_body(body, sizeof(body) - 1, desc, sentence)

Test(state, a_right_checksum_does_not_make_a_wrong_stream_right)
{
	static const struct state_field flag[] = { STATE_FIELD(struct thing, flag), STATE_END };

	REFUSED_BODY("\5thing\2\0\4flag\5\1\0\2\0", DESC(flag, 2, 2),
		"state of thing: field 'flag' is 2, must be 0 or 1; the file is damaged");
	REFUSED_BODY("\5thi\0g\2\0\0", DESC(flag, 2, 2),
		"state of thing: a name has a zero byte; the file is damaged or not one of ours");
	REFUSED_BODY("\0\2\0\0", DESC(flag, 2, 2),
		"state of thing: found that of ''; restore with the same devices as when saving");
	REFUSED_BODY("\5thing\2\0\377flag", DESC(flag, 2, 2),
		"state of thing: it ends too early; the file is damaged or not one of ours");
}

Test(state, cve_2013_4151_a_count_larger_than_the_array_is_refused)
{
	static const struct state_field flag[] = { STATE_FIELD(struct thing, flag), STATE_END };

	REFUSED_BODY("\5thing\2\0\4flag\5\377\377\0\0", DESC(flag, 2, 2),
		"state of thing: field 'flag' has 65535 elements of type 5, must be 1 of type 5; "
		"the "
		"file is damaged or not one of ours");
	REFUSED_BODY("\5thing\2\0\5words\3\6\0" "111122223333444455556666\0", DESC(fields_words, 2, 2),
		"state of thing: field 'words' has 6 elements of type 3, must be 5 of type 3; the "
		"file is damaged or not one of ours");
}

Test(state, cve_2023_50711_a_count_without_so_much_behind_it_is_refused)
{
	REFUSED_BODY("\5thing\2\0\5words\3\5\0" "111122223333", DESC(fields_words, 2, 2),
		"state of thing: it ends too early; the file is damaged or not one of ours");
}

Test(state, a_writer_that_failed_stays_failed)
{
	struct thing t = filled();
	struct state_writer w = { .error = -ENOMEM };

	cr_expect_eq(state_save(&w, DESC(fields_first, 1, 1), &t), -ENOMEM);
	cr_expect_eq(w.len, 0);
	state_writer_free(&w);
}

Test(state, a_table_with_a_name_that_cannot_be_written_is_refused)
{
	static const struct state_field nameless[] = {
		{ "", offsetof(struct thing, u8), 1, STATE_U8, 0, 1 }, STATE_END
	};
	struct thing t = filled();
	struct state_writer w = { .data = NULL };

	cr_expect_eq(state_save(&w, DESC(nameless, 1, 1), &t), -EINVAL);
	state_writer_free(&w);
}
