/*
 * The types of option: for each, how it is read from text and from JSON, how it is written as JSON,
 * and what help calls it. One const table, indexed by enum option_type; everything else of the
 * parser walks it. Types that are numbers are in options_number.c.
 *
 * JSON has the types of the Cloud Hypervisor configuration. All text is UTF-8: whatever comes by
 * the command line must be expressible in the JSON that --print-config writes.
 *
 * Main thread; values come from the user or from a file, and are believed in nothing.
 */
#include "vmm/options_private.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>

int option_choice(const struct option_row *row, const char *word)
{
	static const char *const same[][2] = {
		{ "on", "true" },
		{ "true", "on" },
		{ "off", "false" },
		{ "false", "off" },
	};

	for (int i = 0; row->choices && row->choices[i]; i++)
		if (!strcasecmp(row->choices[i], word))
			return i;
	for (size_t s = 0; s < ARRAY_SIZE(same); s++)
		for (int i = 0; row->choices && row->choices[i]; i++)
			if (!strcasecmp(same[s][0], word) && !strcmp(same[s][1], row->choices[i]))
				return i;
	return -1;
}

bool option_can_stand_alone(const struct option_row *row)
{
	return row->type == OPTION_BOOL ||
	       (row->type == OPTION_ENUM && option_choice(row, "on") >= 0);
}

static int bool_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	bool on = !strcasecmp(text, "on") || !strcasecmp(text, "true");

	(void)row;
	if (!on && strcasecmp(text, "off") && strcasecmp(text, "false"))
		return error_set(err, EINVAL, "must be on or off");
	ret->b = on;
	return 0;
}

static int bool_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	(void)row;
	if (!json_is_boolean(value))
		return error_set(err, EINVAL, "must be true or false");
	ret->b = json_is_true(value);
	return 0;
}

static json_t *bool_to_json(const struct option_row *row, const union option_field *field)
{
	(void)row;
	return json_boolean(field->b);
}

static int text_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	json_t *probe;

	if (!*text && row->type == OPTION_PATH)
		return error_set(err, EINVAL, "empty; give a path, or leave it out");
	probe = json_string(text);
	if (!probe)
		return error_set(err, EILSEQ, "not UTF-8 text, which the configuration has to be");
	json_decref(probe);
	ret->text = strdup(text);
	return ret->text ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int text_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	if (!json_is_string(value))
		return error_set(err, EINVAL, "must be a string");
	return text_from_text(row, json_string_value(value), ret, err);
}

static json_t *text_to_json(const struct option_row *row, const union option_field *field)
{
	(void)row;
	return json_string(field->text);
}

static void text_clear(union option_field *field)
{
	free(field->text);
	field->text = NULL;
}

static int enum_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	char list[256] = "";
	size_t len = 0;
	int i = option_choice(row, text);

	if (i >= 0) {
		ret->u32 = (uint32_t)i;
		return 0;
	}
	for (i = 0; row->choices[i] && len < sizeof(list); i++)
		len += (size_t)snprintf(
			list + len, sizeof(list) - len, "%s%s", i ? ", " : "", row->choices[i]);
	return error_set(err, EINVAL, "must be one of %s", list);
}

/* An ENUM with on and off was a bool once, or is one in other configurations. */
static int enum_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	if (json_is_boolean(value))
		return enum_from_text(row, json_is_true(value) ? "on" : "off", ret, err);
	return enum_from_text(row, json_is_string(value) ? json_string_value(value) : "", ret, err);
}

static json_t *enum_to_json(const struct option_row *row, const union option_field *field)
{
	return json_string(row->choices[field->u32]);
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdefABCDEF";
	const char *p = c ? strchr(digits, c) : NULL;

	if (!p)
		return -1;
	return (int)(p - digits < 16 ? p - digits : p - digits - 6);
}

static int mac_from_text(
	const struct option_row *row, const char *text, union option_field *ret, struct error *err)
{
	struct option_mac mac = { .set = true };

	(void)row;
	for (size_t i = 0; i < sizeof(mac.bytes); i++, text += 3) {
		int high = hex_digit(text[0]);
		int low = high < 0 ? -1 : hex_digit(text[1]);

		if (low < 0 || text[2] != (i == sizeof(mac.bytes) - 1 ? '\0' : ':'))
			return error_set(err, EINVAL, "not a MAC address; write xx:xx:xx:xx:xx:xx");
		mac.bytes[i] = (uint8_t)(high << 4 | low);
	}
	if (mac.bytes[0] & 1)
		return error_set(err, EINVAL,
			"a multicast address; the first byte must be even, such as 02");
	ret->mac = mac;
	return 0;
}

static int mac_from_json(
	const struct option_row *row, json_t *value, union option_field *ret, struct error *err)
{
	return mac_from_text(row, json_is_string(value) ? json_string_value(value) : "", ret, err);
}

static json_t *mac_to_json(const struct option_row *row, const union option_field *field)
{
	const uint8_t *b = field->mac.bytes;
	char buf[18];

	(void)row;
	if (!field->mac.set)
		return json_null();
	snprintf(buf, sizeof(buf), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4],
		b[5]);
	return json_string(buf);
}

#define TEXT_TYPE(type_, name_, member_, clear_)                                                   \
	static const struct option_ops type_##_ops = { name_,                                      \
		sizeof(((union option_field *)0)->member_), type_##_from_text, type_##_from_json,  \
		type_##_to_json, clear_ }

TEXT_TYPE(bool, "on|off", b, NULL);
TEXT_TYPE(enum, "WORD", u32, NULL);
TEXT_TYPE(mac, "MAC", mac, NULL);
static const struct option_ops string_ops = { "TEXT", sizeof(char *), text_from_text,
	text_from_json, text_to_json, text_clear };
static const struct option_ops path_ops = { "PATH", sizeof(char *), text_from_text, text_from_json,
	text_to_json, text_clear };

const struct option_ops *const option_ops[] = {
	[OPTION_BOOL] = &bool_ops,
	[OPTION_U32] = &option_ops_u32,
	[OPTION_U64] = &option_ops_u64,
	[OPTION_SIZE] = &option_ops_size,
	[OPTION_STRING] = &string_ops,
	[OPTION_PATH] = &path_ops,
	[OPTION_ENUM] = &enum_ops,
	[OPTION_MAC] = &mac_ops,
	[OPTION_INTS] = &option_ops_ints,
};
_Static_assert(ARRAY_SIZE(option_ops) == OPTION_TYPES, "each type has its row");
