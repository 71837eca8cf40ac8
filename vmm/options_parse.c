/*
 * The command line: a walk over argv that finds the group of each flag, and a splitter for
 * `key=value,key=value`.
 *
 * The splitter cuts a private copy of the argument in place: commas divide entries unless they
 * stand inside "..." or [...]; the quotes themselves go away, the brackets stay for the list types
 * to read. The first '=' outside quotes divides key and value. The value of a PLAIN flag (--kernel,
 * --cmdline) is not split: commas, quotes and '=' mean nothing there.
 *
 * A word is a value unless it begins with '-' and is longer than that; `--flag=-x` gives any value.
 * There are no abbreviations and no free words: a typing mistake must not start another machine
 * than the one that was meant.
 */
#include "vmm/options_private.h"

#include <errno.h>
#include <stdlib.h>

/* ---- key=value,... ---- */

struct entry {
	char *key; /* NULL: a word without '=' */
	char *value;
};

/* Cut the next entry off *rest (NULL afterwards when it was the last). */
static int entry_take(char **rest, struct entry *ret, struct error *err)
{
	char *in = *rest, *out = *rest, *start = *rest, *equals = NULL;
	bool quoted = false;
	unsigned depth = 0;

	for (; *in && (quoted || depth || *in != ','); in++) {
		if (*in == '"') {
			quoted = !quoted;
			continue;
		}
		if (*in == '=' && !quoted && !equals)
			equals = out;
		if (*in == ']' && !quoted && !depth--)
			return error_set(
				err, EINVAL, "']' without '['; put the value in double quotes");
		depth += *in == '[' && !quoted;
		*out++ = *in;
	}
	if (quoted)
		return error_set(err, EINVAL, "a double quote is not closed");
	if (depth)
		return error_set(err, EINVAL, "'[' without ']'; put the value in double quotes");
	*rest = *in ? in + 1 : NULL;
	*out = '\0';
	if (equals)
		*equals = '\0';
	ret->key = equals ? start : NULL;
	ret->value = equals ? equals + 1 : start;
	return 0;
}

static int set_text(const struct option_group *group, struct option_item *item, int row,
	const char *text, struct error *err)
{
	const struct option_row *r = &group->rows[row];
	union option_field field = { .u64 = 0 };
	int ret;

	if (!*text && r->type != OPTION_PATH)
		return 0; /* empty: the default stays */
	ret = option_ops[r->type]->from_text(r, text, &field, err);
	if (!ret)
		option_item_put(group, item, (size_t)row, &field, OPTION_FROM_ARGV);
	return ret;
}

/* A word without '=': a key that can stand alone, else a value of the bare key. */
static int word_row(const struct option_group *group, const char **word, struct error *err)
{
	int row = option_row_find(group, *word, OPTION_FROM_ARGV);
	int bare = group->bare ? option_row_find(group, group->bare, OPTION_FROM_ARGV) : -1;
	const struct option_row *b = bare < 0 ? NULL : &group->rows[bare];

	/* `--serial file` chooses a mode although there is a key of that name. */
	if (b && b->type == OPTION_ENUM && option_choice(b, *word) >= 0)
		return bare;
	if (row >= 0 && option_can_stand_alone(&group->rows[row])) {
		*word = "on";
		return row;
	}
	if (row >= 0)
		return error_set(err, EINVAL, "a value is missing; write %s=%s", *word,
			option_ops[group->rows[row].type]->name);
	if (!b)
		return option_unknown_key(group, *word, OPTION_FROM_ARGV, err);
	return bare;
}

/* The bare key did not take the word: was it meant as a key? */
static int bare_error(
	const struct option_group *group, const char *word, int ret, struct error *err)
{
	struct option_nearest nearest = { .word = word };

	for (const struct option_row *row = group->rows; row->key; row++)
		option_nearest_offer(&nearest, row->key);
	return nearest.best ? option_unknown_key(group, word, OPTION_FROM_ARGV, err) : ret;
}

static int entry_apply(const struct option_group *group, struct option_item *item,
	const struct entry *entry, uint64_t *seen, struct error *err)
{
	const char *value = entry->value;
	int ret, row;

	if (!entry->key && !*value)
		return error_set(err, EINVAL, "an empty entry; remove the extra comma");
	row = entry->key ? option_row_find(group, entry->key, OPTION_FROM_ARGV)
			 : word_row(group, &value, err);
	if (row < 0 && entry->key)
		return option_unknown_key(group, entry->key, OPTION_FROM_ARGV, err);
	if (row < 0)
		return row;
	if (*seen >> row & 1)
		return error_set(
			err, EINVAL, "key '%s' is given twice; give it once", group->rows[row].key);
	*seen |= UINT64_C(1) << row;
	ret = set_text(group, item, row, value, err);
	if (ret && !entry->key)
		ret = bare_error(group, value, ret, err);
	return ret;
}

static int list_parse(
	const struct option_group *group, struct option_item *item, char *text, struct error *err)
{
	struct entry entry = { NULL, NULL };
	uint64_t seen = 0;
	int ret;

	while (text) {
		ret = entry_take(&text, &entry, err);
		if (ret)
			return error_prefix(err, ret, "--%s", group->flag);
		ret = entry_apply(group, item, &entry, &seen, err);
		if (ret)
			return error_prefix(err, ret, "--%s %.60s%s%.80s", group->flag,
				entry.key ? entry.key : "", entry.key ? "=" : "", entry.value);
	}
	return 0;
}

/* The whole argument of a ONE or MANY flag. */
static int item_parse(const struct option_group *group, struct option_item *item, const char *text,
	struct error *err)
{
	char *copy;
	int ret = 0;

	if (*text) {
		copy = strdup(text);
		if (!copy)
			return error_set(err, ENOMEM, "--%s: out of memory", group->flag);
		ret = list_parse(group, item, copy, err);
		free(copy);
		if (ret)
			return ret;
	}
	ret = option_item_finish(group, item, OPTION_FROM_ARGV, err);
	return ret ? error_prefix(err, ret, "--%s %.100s", group->flag, text) : 0;
}

static int many_parse(struct option_slot *slot, const char *text, struct error *err)
{
	struct option_item *item = option_item_new(slot->group);
	int ret;

	if (!item)
		return error_set(err, ENOMEM, "--%s: out of memory", slot->group->flag);
	ret = item_parse(slot->group, item, text, err);
	if (ret) {
		option_item_free(slot->group, item);
		return ret;
	}
	ret = option_slot_add(slot, item, OPTION_FROM_ARGV, err);
	return ret ? error_prefix(err, ret, "--%s", slot->group->flag) : 0;
}

static int plain_parse(struct option_slot *slot, const char *text, struct error *err)
{
	int ret = set_text(slot->group, slot->items[0], 0, text, err);

	return ret ? error_prefix(err, ret, "--%s %.80s", slot->group->flag, text) : 0;
}

/* ---- the walk ---- */

struct walk {
	struct options *o;
	char *const *argv;
	int argc, i;        /* i: the next argument to look at */
	const char *before; /* the flag that took one value just now; for the sentence about a second */
};

/* The next argument when it can be a value, moving on; else NULL. */
static const char *take_word(struct walk *w)
{
	const char *arg = w->i < w->argc ? w->argv[w->i] : NULL;

	if (!arg || (arg[0] == '-' && arg[1]))
		return NULL;
	w->i++;
	return arg;
}

static int missing_value(const struct walk *w, const struct option_group *group, struct error *err)
{
	const char *next = w->i < w->argc ? w->argv[w->i] : NULL;

	if (next && strncmp(next, "--", 2))
		return error_set(err, EINVAL,
			"--%s: a value is missing; write --%s=%.80s if that is the value",
			group->flag, group->flag, next);
	return error_set(err, EINVAL, "--%s: a value is missing; see microvm --help", group->flag);
}

static int walk_many(struct walk *w, struct option_slot *slot, const char *value, struct error *err)
{
	if (!value)
		value = take_word(w);
	if (!value)
		return missing_value(w, slot->group, err);
	for (; value; value = take_word(w)) {
		int ret = many_parse(slot, value, err);

		if (ret)
			return ret;
	}
	return 0;
}

static int walk_single(
	struct walk *w, struct option_slot *slot, const char *value, struct error *err)
{
	const struct option_group *group = slot->group;

	if (slot->given[OPTION_FROM_ARGV]++)
		return error_set(err, EINVAL, "--%s: given twice; give it once%s", group->flag,
			group->kind == OPTION_ONE ? ", with all its keys in one comma list" : "");
	if (!value)
		value = take_word(w);
	if (!value && group->kind == OPTION_PLAIN && group->rows->type == OPTION_BOOL)
		value = "on";
	if (!value)
		return missing_value(w, group, err);
	w->before = group->flag;
	return group->kind == OPTION_PLAIN ? plain_parse(slot, value, err)
					   : item_parse(group, slot->items[0], value, err);
}

static int unknown_flag(const struct options *o, const char *arg, size_t len, struct error *err)
{
	char word[64];
	struct option_nearest nearest = { .word = word };

	snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), arg);
	for (size_t i = 0; i < o->nslots; i++)
		option_nearest_offer(&nearest, o->slots[i].group->flag);
	if (nearest.best)
		return error_set(err, EINVAL, "--%s: unknown option; did you mean %s%s?", word,
			nearest.best[1] ? "--" : "-", nearest.best);
	return error_set(err, EINVAL, "--%s: unknown option; microvm --help lists all", word);
}

static int walk_long(struct walk *w, const char *name, struct error *err)
{
	size_t len = strcspn(name, "=");
	const char *value = name[len] ? name + len + 1 : NULL;
	struct option_slot *slot = option_slot_find(w->o, name, len);

	if (!slot)
		return unknown_flag(w->o, name, len, err);
	if (slot->group->kind == OPTION_MANY)
		return walk_many(w, slot, value, err);
	if (slot->group->kind != OPTION_SWITCH)
		return walk_single(w, slot, value, err);
	if (value)
		return error_set(err, EINVAL, "--%s: takes no value, but '%.80s' is given",
			slot->group->flag, value);
	slot->given[OPTION_FROM_ARGV]++;
	return 0;
}

/* -h, -V, and each letter that is itself a switch: -v, -vv. */
static int walk_short(struct walk *w, const char *letters, struct error *err)
{
	static const char *const names[] = { ['h'] = "help", ['V'] = "version" };

	if (letters[1] && option_slot_find(w->o, letters, strcspn(letters, "=")))
		return error_set(err, EINVAL, "-%.80s: unknown option; did you mean --%.80s?",
			letters, letters);
	for (; *letters; letters++) {
		unsigned char c = (unsigned char)*letters;
		const char *name = c < ARRAY_SIZE(names) ? names[c] : NULL;
		struct option_slot *slot = name ? option_slot_find(w->o, name, strlen(name))
						: option_slot_find(w->o, letters, 1);

		if (!slot || slot->group->kind != OPTION_SWITCH)
			return error_set(err, EINVAL,
				"-%c: unknown option; microvm --help lists all", *letters);
		slot->given[OPTION_FROM_ARGV]++;
	}
	return 0;
}

static int stray_word(const struct walk *w, const char *word, struct error *err)
{
	if (w->before)
		return error_set(err, EINVAL,
			"--%s: takes one value, but '%.80s' is a second one; join keys with commas",
			w->before, word);
	return error_set(err, EINVAL, "'%.80s': unexpected word; options begin with --", word);
}

int options_parse_argv(struct options *o, int argc, char *const *argv, struct error *err)
{
	struct walk w = { .o = o, .argv = argv, .argc = argc, .i = 1 };
	bool ended = false;

	while (w.i < argc) {
		const char *arg = argv[w.i++];
		int ret;

		if (!ended && !strcmp(arg, "--")) {
			ended = true;
			w.before = NULL;
			continue;
		}
		if (ended || arg[0] != '-' || !arg[1]) {
			ret = stray_word(&w, arg, err);
		} else {
			w.before = NULL;
			ret = arg[1] == '-' ? walk_long(&w, arg + 2, err)
					    : walk_short(&w, arg + 1, err);
		}
		if (ret)
			return ret;
	}
	return 0;
}
