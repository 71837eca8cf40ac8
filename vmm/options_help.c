/*
 * --help and the OPTIONS part of the man page, written from the same rows that the parser reads.
 *
 * Each group is one paragraph: how the flag is written, its line of help, and for lists one line
 * per key with what it takes, its range and its default. Help is laid out in 80 columns; the man
 * page leaves layout to man(7).
 *
 * Main thread, before anything runs; writes to the given stream only.
 */
#include "vmm/options_private.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>

enum { COLUMNS = 79, FLAG_INDENT = 2, KEY_INDENT = 6, TEXT_INDENT = 30, CHOICES_MAX = 22 };

/* A short text that is put together from pieces; what does not fit is cut. */
struct text {
	char buf[640];
	size_t len;
};

static void PRINTF_LIKE(2, 3) text_add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, sizeof(t->buf) - t->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len = MIN(t->len + (size_t)n, sizeof(t->buf) - 1);
}

static void add_choices(struct text *t, const struct option_row *row, const char *between)
{
	for (size_t i = 0; row->choices[i]; i++)
		text_add(t, "%s%s", i ? between : "", row->choices[i]);
}

/* What stands for the value: SIZE, or a|b|c when the choices are few. */
static void add_placeholder(struct text *t, const struct option_row *row)
{
	struct text choices = { .len = 0 };

	if (row->type == OPTION_ENUM)
		add_choices(&choices, row, "|");
	if (choices.len && choices.len <= CHOICES_MAX)
		text_add(t, "%s", choices.buf);
	else if (row->type == OPTION_ENUM)
		for (const char *c = row->key; *c; c++)
			text_add(t, "%c", toupper((unsigned char)*c));
	else
		text_add(t, "%s", option_ops[row->type]->name);
}

static void add_number(struct text *t, const struct option_row *row, uint64_t v)
{
	char buf[OPTION_SIZE_TEXT];

	if (row->type == OPTION_SIZE)
		text_add(t, "%s", option_format_size(buf, v));
	else
		text_add(t, "%" PRIu64, v);
}

static void add_range(struct text *t, const struct option_row *row, const char *gap)
{
	const char *unit = row->unit;

	if (row->min && row->max) {
		text_add(t, "%s", gap);
		add_number(t, row, row->min);
		text_add(t, " to ");
		add_number(t, row, row->max);
	} else if (row->min || row->max) {
		text_add(t, "%s%s ", gap, row->min ? "at least" : "at most");
		add_number(t, row, row->min ? row->min : row->max);
	} else if (unit) {
		text_add(t, "%sin %s", gap, unit);
	}
	if (unit && (row->min || row->max) && row->type != OPTION_SIZE)
		text_add(t, " %s", unit);
}

/* The line of help, and in brackets what the value must be. */
static void add_description(
	struct text *t, const struct option_group *group, const struct option_row *row)
{
	struct text facts = { .len = 0 }, choices = { .len = 0 };
	bool bare = group->bare && !strcmp(group->bare, row->key);

	text_add(t, "%s", group->kind == OPTION_PLAIN ? group->help : row->help);
	if (row->required)
		text_add(&facts, "; required");
	add_range(&facts, row, "; ");
	if (row->type == OPTION_ENUM)
		add_choices(&choices, row, ", ");
	if (choices.len > CHOICES_MAX)
		text_add(&facts, "; one of %s", choices.buf);
	if (row->def)
		text_add(&facts, "; default %s", row->def);
	if (bare)
		text_add(&facts, "; '%s=' may be left out", row->key);
	if (facts.len)
		text_add(t, " (%s)", facts.buf + 2);
}

/* How a flag is written. */
static void add_usage(struct text *t, const struct option_group *group)
{
	bool letter = !group->flag[1];
	const char *more = group->kind == OPTION_MANY ? " ..." : "";

	text_add(t, "%s%s", letter ? "-" : "--", group->flag);
	if (group->kind == OPTION_SWITCH) {
		if (!strcmp(group->flag, "help"))
			text_add(t, ", -h");
		if (!strcmp(group->flag, "version"))
			text_add(t, ", -V");
	} else if (group->kind == OPTION_PLAIN) {
		bool alone = group->rows->type == OPTION_BOOL;

		text_add(t, alone ? "[=" : " ");
		add_placeholder(t, group->rows);
		text_add(t, alone ? "]" : "");
	} else if (group->bare) {
		int row = option_row_find(group, group->bare, OPTION_FROM_ARGV);

		text_add(t, " ");
		add_placeholder(t, &group->rows[row]);
		text_add(t, "|KEY=VALUE,...%s", more);
	} else {
		text_add(t, " KEY=VALUE,...%s", more);
	}
}

/*
 * Words of `text` from column `at` on (the cursor is there), wrapped to lines that begin at
 * `indent`.
 */
static void wrap(FILE *out, const char *text, int at, int indent)
{
	bool first = true;

	while (*text) {
		int word = (int)strcspn(text, " ");

		if (!first && at + 1 + word > COLUMNS) {
			fprintf(out, "\n%*s", indent, "");
			at = indent;
			first = true;
		}
		at += fprintf(out, "%s%.*s", first ? "" : " ", word, text);
		first = false;
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

/* `left` at `indent`, then `text` in its column, on the next line when left is too wide. */
static void help_line(FILE *out, int indent, const char *left, const char *text)
{
	int at = fprintf(out, "%*s%s", indent, "", left);

	if (at + 2 > TEXT_INDENT)
		fprintf(out, "\n%*s", TEXT_INDENT, "");
	else
		fprintf(out, "%*s", TEXT_INDENT - at, "");
	wrap(out, text, TEXT_INDENT, TEXT_INDENT);
}

static void help_group(FILE *out, const struct option_group *group)
{
	struct text left = { .len = 0 }, right = { .len = 0 };

	add_usage(&left, group);
	if (group->kind == OPTION_PLAIN)
		add_description(&right, group, group->rows);
	else
		text_add(&right, "%s", group->help);
	help_line(out, FLAG_INDENT, left.buf, right.buf);
	if (group->kind == OPTION_SWITCH || group->kind == OPTION_PLAIN)
		return;
	for (const struct option_row *row = group->rows; row->key; row++) {
		struct text key = { .len = 0 }, text = { .len = 0 };

		text_add(&key, "%s=", row->key);
		add_placeholder(&key, row);
		add_description(&text, group, row);
		help_line(out, KEY_INDENT, key.buf, text.buf);
	}
}

static const char *section_of(const struct option_slot *slot)
{
	return slot->group->section ? slot->group->section : "Options";
}

/* Is slot i the first of its section? */
static bool opens_section(const struct options *o, size_t i)
{
	for (size_t j = 0; j < i; j++)
		if (!strcmp(section_of(&o->slots[j]), section_of(&o->slots[i])))
			return false;
	return true;
}

/* All groups, by section in the order in which sections first appear. */
static void each_group(const struct options *o, FILE *out, void (*section)(FILE *, const char *),
	void (*group)(FILE *, const struct option_group *))
{
	for (size_t i = 0; i < o->nslots; i++) {
		if (!opens_section(o, i))
			continue;
		section(out, section_of(&o->slots[i]));
		for (size_t j = i; j < o->nslots; j++)
			if (!strcmp(section_of(&o->slots[i]), section_of(&o->slots[j])))
				group(out, o->slots[j].group);
	}
}

static void help_section(FILE *out, const char *name)
{
	fprintf(out, "\n%s:\n", name);
}

void options_write_help(const struct options *o, FILE *out)
{
	fputs("Usage: microvm [OPTION]...\n"
	      "Run a virtual machine.\n"
	      "\n"
	      "  microvm --kernel vmlinux --disk path=debian.raw --memory size=1G\n"
	      "\n"
	      "Write --option VALUE or --option=VALUE. KEY=VALUE,... is one comma list: double\n"
	      "quotes keep a comma, an empty value leaves the default, an on|off key alone is\n"
	      "on. Where \"...\" follows, several lists may follow, and the option may be\n"
	      "repeated. Sizes take K, M, G and T.\n",
		out);
	each_group(o, out, help_section, help_group);
}

void options_print_help(const struct options *o)
{
	options_write_help(o, stdout);
}

/* ---- man(7) ---- */

/*
 * Text of ours as roff: no line begins with a request, minus signs can be copied, backslashes are
 * seen.
 */
static void roff(FILE *out, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text; text++) {
		if (*text == '-')
			fputs("\\-", out);
		else if (*text == '\\')
			fputs("\\e", out);
		else
			fputc(*text, out);
	}
}

static void man_entry(FILE *out, const char *left, const char *text)
{
	fputs(".TP\n\\fB", out);
	roff(out, left);
	fputs("\\fR\n", out);
	roff(out, text);
	fputc('\n', out);
}

static void man_section(FILE *out, const char *name)
{
	fputs(".SS \"", out);
	roff(out, name);
	fputs("\"\n", out);
}

static void man_group(FILE *out, const struct option_group *group)
{
	struct text left = { .len = 0 }, right = { .len = 0 };

	add_usage(&left, group);
	if (group->kind == OPTION_PLAIN)
		add_description(&right, group, group->rows);
	else
		text_add(&right, "%s", group->help);
	man_entry(out, left.buf, right.buf);
	if (group->kind == OPTION_SWITCH || group->kind == OPTION_PLAIN)
		return;
	fputs(".RS\n", out);
	for (const struct option_row *row = group->rows; row->key; row++) {
		struct text key = { .len = 0 }, text = { .len = 0 };

		text_add(&key, "%s=", row->key);
		add_placeholder(&key, row);
		add_description(&text, group, row);
		man_entry(out, key.buf, text.buf);
	}
	fputs(".RE\n", out);
}

void options_write_man(const struct options *o, FILE *out)
{
	fputs(".SH OPTIONS\n", out);
	each_group(o, out, man_section, man_group);
}

void options_print_man(const struct options *o)
{
	options_write_man(o, stdout);
}
