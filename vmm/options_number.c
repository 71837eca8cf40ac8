/*
 * The types of option that are numbers: 32 and 64 bits, sizes with a unit letter, and lists of
 * numbers with ranges.
 *
 * Text is decimal. Whatever does not fit into 64 bits is an error, never a smaller number. JSON has
 * integers; sizes may also be text ("512M"), and numbers above 2^63 - 1, which the JSON library
 * does not hold, are text in both directions.
 *
 * Main thread; values come from the user or from a file, and are believed in nothing.
 */
#include "vmm/options_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static const char size_units[] = "KMGT";

const char *option_format_size(char buf[OPTION_SIZE_TEXT], uint64_t bytes)
{
	unsigned unit = 0;

	while (bytes && !(bytes % 1024) && unit < sizeof(size_units) - 1) {
		bytes /= 1024;
		unit++;
	}
	if (unit)
		snprintf(buf, OPTION_SIZE_TEXT, "%" PRIu64 "%c", bytes, size_units[unit - 1]);
	else
		snprintf(buf, OPTION_SIZE_TEXT, "%" PRIu64, bytes);
	return buf;
}

uint64_t option_max(const struct option_row *row)
{
	if (row->max)
		return row->max;
	return row->type == OPTION_U32 || row->type == OPTION_INTS ? UINT32_MAX : UINT64_MAX;
}

/* The sentence for a number outside its row's range, or one that is none (`what` says so). */
static int range_error(const struct option_row *row, const char *what, struct error *err)
{
	const char *unit = row->unit ? row->unit : "";
	const char *gap = row->unit ? " " : "";

	return error_set(err, *what ? EINVAL : ERANGE, "%smust be %" PRIu64 " to %" PRIu64 "%s%s",
		what, row->min, option_max(row), gap, unit);
}

static int size_range_error(const struct option_row *row, bool large, struct error *err)
{
	char buf[OPTION_SIZE_TEXT];

	if (large)
		return error_set(err, ERANGE, "too large; at most %s",
			option_format_size(buf, option_max(row)));
	return error_set(err, ERANGE, "too small; at least %s", option_format_size(buf, row->min));
}

/*
 * Decimal digits at *text, which is moved past them. -EINVAL: there are none. -ERANGE: more than 64
 * bits.
 */
static int take_digits(const char **text, uint64_t *ret)
{
	const char *p = *text;
	uint64_t v = 0;
	bool over = false;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		over |= mul_overflows(v, 10, &v) || add_overflows(v, (uint64_t)(*p - '0'), &v);
	*text = p;
	*ret = v;
	return over ? -ERANGE : 0;
}

static int number_from_text(
	const struct option_row *row, const char *text, uint64_t *ret, struct error *err)
{
	uint64_t v = 0;
	int r = take_digits(&text, &v);

	if (r == -EINVAL || *text)
		return range_error(row, "not a whole number; ", err);
	if (r || v < row->min || v > option_max(row))
		return range_error(row, "", err);
	*ret = v;
	return 0;
}

static int number_from_json(
	const struct option_row *row, json_t *value, uint64_t *ret, struct error *err)
{
	if (json_is_string(value) && row->type == OPTION_U64)
		return number_from_text(row, json_string_value(value), ret, err);
	if (!json_is_integer(value))
		return range_error(row, "not a whole number; ", err);
	json_int_t v = json_integer_value(value);
	if (v < 0 || (uint64_t)v < row->min || (uint64_t)v > option_max(row))
		return range_error(row, "", err);
	*ret = (uint64_t)v;
	return 0;
}

static json_t *number_to_json(uint64_t v)
{
	char buf[OPTION_SIZE_TEXT];

	if (v <= INT64_MAX)
		return json_integer((json_int_t)v);
	snprintf(buf, sizeof(buf), "%" PRIu64, v);
	return json_string(buf);
}

static int u32_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	uint64_t v = 0;
	int r = number_from_text(row, text, &v, err);

	if (!r)
		ret->u32 = (uint32_t)v;
	return r;
}

static int u32_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	uint64_t v = 0;
	int r = number_from_json(row, value, &v, err);

	if (!r)
		ret->u32 = (uint32_t)v;
	return r;
}

static json_t *u32_to_json(const struct option_row *row, const union option_field *field)
{
	(void)row;
	return json_integer(field->u32);
}

static int u64_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	return number_from_text(row, text, &ret->u64, err);
}

static int u64_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	return number_from_json(row, value, &ret->u64, err);
}

static json_t *u64_to_json(const struct option_row *row, const union option_field *field)
{
	(void)row;
	return number_to_json(field->u64);
}

static json_t *size_to_json(const struct option_row *row, const union option_field *field)
{
	return u64_to_json(row, field);
}

static int size_check(
	const struct option_row *row, uint64_t v, union option_field *ret, struct error *err)
{
	if (v < row->min || v > option_max(row))
		return size_range_error(row, v > option_max(row), err);
	ret->u64 = v;
	return 0;
}

static int size_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	static const char units[] = "KMGTkmgt";
	uint64_t v = 0;
	int r = take_digits(&text, &v);
	const char *unit = *text ? strchr(units, *text) : NULL;

	if (r == -EINVAL || (*text && (!unit || text[1])))
		return error_set(
			err, EINVAL, "not a size; write bytes, or a number with K, M, G or T");
	if (unit)
		for (long n = (unit - units) % 4; n >= 0 && !r; n--)
			r = mul_overflows(v, 1024, &v) ? -ERANGE : 0;
	return r ? size_range_error(row, true, err) : size_check(row, v, ret, err);
}

static int size_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	if (json_is_string(value))
		return size_from_text(row, json_string_value(value), ret, err);
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return error_set(err, EINVAL, "not a size; write bytes, or text like \"512M\"");
	return size_check(row, (uint64_t)json_integer_value(value), ret, err);
}

static void ints_clear(union option_field *field)
{
	free(field->ints.v);
	field->ints = (struct option_ints){ NULL, 0 };
}

/*
 * Append first..last (one number when they are equal). The count is bounded before memory is asked
 * for.
 */
static int ints_add(const struct option_row *row, struct option_ints *list, uint64_t first,
	uint64_t last, struct error *err)
{
	uint32_t *v;

	if (first < row->min || last > option_max(row))
		return range_error(row, "", err);
	if (first > last)
		return error_set(err, EINVAL, "a range must go upwards, as in 2-4");
	if (last - first >= OPTION_INTS_MAX - list->n)
		return error_set(err, E2BIG, "too many numbers; at most %d", OPTION_INTS_MAX);
	v = reallocarray(list->v, list->n + (last - first) + 1, sizeof(*v));
	if (!v)
		return error_set(err, ENOMEM, "out of memory");
	list->v = v;
	for (uint64_t i = first; i <= last; i++)
		list->v[list->n++] = (uint32_t)i;
	return 0;
}

/* One "N" or "N-M" at *text, which is moved past it. */
static int ints_take(const struct option_row *row, const char **text, struct option_ints *list,
	struct error *err)
{
	uint64_t first = 0, last = 0;
	int r = take_digits(text, &first);

	last = first;
	if (!r && **text == '-') {
		++*text;
		r = take_digits(text, &last);
	}
	if (r == -EINVAL)
		return error_set(err, EINVAL, "not a list of numbers; write it like [0,2-4]");
	if (r)
		return range_error(row, "", err);
	return ints_add(row, list, first, last, err);
}

static int ints_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	union option_field list = { .ints = { NULL, 0 } };
	bool bracket = *text == '[';
	int r = 0;

	text += bracket;
	if (!(bracket && *text == ']'))
		r = ints_take(row, &text, &list.ints, err);
	while (!r && *text == ',') {
		text++;
		r = ints_take(row, &text, &list.ints, err);
	}
	if (!r && strcmp(text, bracket ? "]" : ""))
		r = error_set(err, EINVAL, "not a list of numbers; write it like [0,2-4]");
	if (r)
		ints_clear(&list);
	else
		*ret = list;
	return r;
}

static int ints_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	union option_field list = { .ints = { NULL, 0 } };
	uint64_t v = 0;
	size_t i;
	json_t *member;
	int r = json_is_array(value) ? 0 : error_set(err, EINVAL, "must be an array of numbers");

	json_array_foreach(value, i, member)
	{
		r = number_from_json(row, member, &v, err);
		if (!r)
			r = ints_add(row, &list.ints, v, v, err);
		if (r)
			break;
	}
	if (r)
		ints_clear(&list);
	else
		*ret = list;
	return r;
}

static json_t *ints_to_json(const struct option_row *row, const union option_field *field)
{
	json_t *array = json_array();

	(void)row;
	for (uint32_t i = 0; i < field->ints.n; i++)
		if (json_array_append_new(array, json_integer(field->ints.v[i]))) {
			json_decref(array);
			return NULL;
		}
	return array;
}

#define NUMBER_TYPE(type_, name_, member_, clear_)                                                 \
	const struct option_ops option_ops_##type_ = { name_,                                      \
		sizeof(((union option_field *)0)->member_), type_##_from_text, type_##_from_json,  \
		type_##_to_json, clear_ }

NUMBER_TYPE(u32, "NUMBER", u32, NULL);
NUMBER_TYPE(u64, "NUMBER", u64, NULL);
NUMBER_TYPE(size, "SIZE", u64, NULL);
NUMBER_TYPE(ints, "[N,N-M]", ints, ints_clear);
