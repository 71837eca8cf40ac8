/*
 * Options: the items that the command line and the JSON file fill, and how the program asks for
 * them.
 *
 * A slot is one group with its items. An item is the group's struct, filled with defaults when it
 * is made, plus one bit per row and origin: the bits decide who wins (the command line over the
 * file), what was given twice, which required key is missing, and what --print-config shows. Groups
 * are checked once in options_create(), so that a wrong table is found by the first run and by the
 * unit tests, not by a user.
 *
 * Main thread.
 */
#include "vmm/options_private.h"

#include <errno.h>
#include <stdlib.h>

struct option_slot *option_slot_find(const struct options *o, const char *flag, size_t len)
{
	for (size_t i = 0; i < o->nslots; i++) {
		const char *name = o->slots[i].group->flag;

		if (strlen(name) == len && !memcmp(name, flag, len))
			return (struct option_slot *)&o->slots[i];
	}
	return NULL;
}

const char *option_row_name(const struct option_row *row, enum option_origin origin)
{
	return origin == OPTION_FROM_JSON && row->json ? row->json : row->key;
}

int option_row_find(const struct option_group *group, const char *name, enum option_origin origin)
{
	for (int i = 0; group->rows[i].key; i++)
		if (!strcmp(option_row_name(&group->rows[i], origin), name))
			return i;
	return -1;
}

/* Edits (insert, delete, replace, swap of neighbours count 1, 1, 1, 2) between two short words. */
static unsigned distance(const char *a, const char *b)
{
	enum { WORD_MAX = 40 };
	unsigned row[WORD_MAX + 1];
	size_t na = strlen(a), nb = strlen(b);

	if (na > WORD_MAX || nb > WORD_MAX)
		return WORD_MAX;
	for (unsigned j = 0; j <= nb; j++)
		row[j] = j;
	for (unsigned i = 1; i <= na; i++) {
		unsigned corner = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= nb; j++) {
			unsigned replace = corner + (a[i - 1] != b[j - 1]);

			corner = row[j];
			row[j] = MIN(replace, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[nb];
}

void option_nearest_offer(struct option_nearest *n, const char *candidate)
{
	size_t len = strlen(n->word);
	unsigned reach = len < 3 ? 1 : len < 7 ? 2 : 3;
	unsigned d =
		len >= 3 && !strncmp(n->word, candidate, len) ? 1 : distance(n->word, candidate);

	/* A word of which nothing remains is not a slip. */
	if (d > reach || d >= len || (n->best && d >= n->distance))
		return;
	n->best = candidate;
	n->distance = d;
}

int option_unknown_key(const struct option_group *group, const char *name,
	enum option_origin origin, struct error *err)
{
	struct option_nearest nearest = { .word = name };
	char list[240] = "", guess[64] = "";
	size_t len = 0;

	for (const struct option_row *row = group->rows; row->key; row++) {
		const char *key = option_row_name(row, origin);

		option_nearest_offer(&nearest, key);
		if (len < sizeof(list))
			len += (size_t)snprintf(
				list + len, sizeof(list) - len, "%s%s", len ? ", " : "", key);
	}
	if (len >= sizeof(list))
		memcpy(list + sizeof(list) - 4, "...", 4);
	if (nearest.best)
		snprintf(guess, sizeof(guess), "; did you mean '%s'?", nearest.best);
	return error_set(err, EINVAL, "unknown key '%.40s'%s (keys: %s)", name, guess, list);
}

static void *field_at(const struct option_item *item, const struct option_row *row)
{
	return (char *)item->value + row->offset;
}

union option_field option_item_field(const struct option_item *item, const struct option_row *row)
{
	union option_field field = { .u64 = 0 };

	memcpy(&field, field_at(item, row), option_ops[row->type]->size);
	return field;
}

void option_item_put(const struct option_group *group, struct option_item *item, size_t row,
	union option_field *field, enum option_origin origin)
{
	const struct option_row *r = &group->rows[row];
	const struct option_ops *ops = option_ops[r->type];
	union option_field old = option_item_field(item, r);

	if (origin == OPTION_FROM_JSON && item->set[OPTION_FROM_ARGV] >> row & 1)
		old = *field;
	else
		memcpy(field_at(item, r), field, ops->size);
	if (ops->clear)
		ops->clear(&old);
	item->set[origin] |= UINT64_C(1) << row;
}

bool option_item_has(const struct option_group *group, const struct option_item *item, size_t row)
{
	uint64_t set = item->set[OPTION_FROM_JSON] | item->set[OPTION_FROM_ARGV];

	return group->rows[row].def || (set >> row & 1);
}

struct option_item *option_item_new(const struct option_group *group)
{
	struct option_item *item = calloc(1, sizeof(*item));

	if (!item)
		return NULL;
	item->value = calloc(1, group->size);
	for (const struct option_row *row = group->rows; item->value && row->key; row++) {
		union option_field field = { .u64 = 0 };

		if (!row->def)
			continue;
		if (option_ops[row->type]->from_text(row, row->def, &field, NULL)) {
			option_item_free(group, item);
			return NULL;
		}
		memcpy(field_at(item, row), &field, option_ops[row->type]->size);
	}
	if (item->value)
		return item;
	free(item);
	return NULL;
}

void option_item_free(const struct option_group *group, struct option_item *item)
{
	if (!item)
		return;
	for (const struct option_row *row = group->rows; row->key; row++) {
		union option_field field = option_item_field(item, row);

		if (option_ops[row->type]->clear)
			option_ops[row->type]->clear(&field);
	}
	free(item->value);
	free(item);
}

/*
 * `--serial file=/x`: a key with the name of a choice of the bare ENUM key selects it, unless that
 * key was given.
 */
static int imply_choice(const struct option_group *group, struct option_item *item,
	enum option_origin origin, struct error *err)
{
	int bare = group->bare ? option_row_find(group, group->bare, OPTION_FROM_ARGV) : -1;
	uint64_t explicit = item->set[origin] | item->set[OPTION_FROM_ARGV];
	union option_field field = { .u64 = 0 };
	const char *by = NULL;

	if (bare < 0 || group->rows[bare].type != OPTION_ENUM || (explicit >> bare & 1))
		return 0;
	for (int i = 0; group->rows[i].key; i++) {
		const struct option_row *row = &group->rows[i];
		int choice = option_choice(&group->rows[bare], row->key);

		if (choice < 0 || !(item->set[origin] >> i & 1) ||
			(row->type == OPTION_BOOL && !option_item_field(item, row).b))
			continue;
		if (by)
			return error_set(err, EINVAL,
				"%s= and %s= both choose the %s; give one of them", by, row->key,
				group->bare);
		by = row->key;
		field.u32 = (uint32_t)choice;
	}
	if (by)
		option_item_put(group, item, (size_t)bare, &field, origin);
	return 0;
}

int option_item_finish(const struct option_group *group, struct option_item *item,
	enum option_origin origin, struct error *err)
{
	int r = imply_choice(group, item, origin, err);

	for (size_t i = 0; !r && group->rows[i].key; i++) {
		const struct option_row *row = &group->rows[i];
		const char *name = option_row_name(row, origin);

		if (!row->required || option_item_has(group, item, i))
			continue;
		r = origin == OPTION_FROM_ARGV
			    ? error_set(err, EINVAL, "key '%s' is missing; add %s=%s", name, name,
				      option_ops[row->type]->name)
			    : error_set(err, EINVAL, "member \"%s\" is missing", name);
	}
	return r;
}

int option_slot_add(struct option_slot *slot, struct option_item *item, enum option_origin origin,
	struct error *err)
{
	struct option_item **items = NULL;
	unsigned at = origin == OPTION_FROM_JSON ? slot->njson : slot->nitems;

	if (slot->nitems < OPTION_ITEMS_MAX)
		items = reallocarray(slot->items, slot->nitems + 1, sizeof(struct option_item *));
	if (!items) {
		option_item_free(slot->group, item);
		if (slot->nitems == OPTION_ITEMS_MAX)
			return error_set(err, E2BIG, "too many; at most %d", OPTION_ITEMS_MAX);
		return error_set(err, ENOMEM, "out of memory");
	}
	memmove(items + at + 1, items + at, (slot->nitems - at) * sizeof(struct option_item *));
	items[at] = item;
	slot->items = items;
	slot->nitems++;
	slot->njson += origin == OPTION_FROM_JSON;
	slot->given[origin]++;
	return 0;
}

static bool row_is_sane(const struct option_group *group, const struct option_row *row)
{
	union option_field field = { .u64 = 0 };
	const struct option_ops *ops;

	if ((unsigned)row->type >= OPTION_TYPES || (row->type == OPTION_ENUM && !row->choices))
		return false;
	ops = option_ops[row->type];
	if (!range_inside(row->offset, ops->size, 0, group->size) || row->min > option_max(row))
		return false;
	if (row->def && ops->from_text(row, row->def, &field, NULL))
		return false;
	if (row->def && ops->clear)
		ops->clear(&field);
	return true;
}

/* What the rest of the parser relies on; false is a mistake in a table of ours. */
static bool group_is_sane(const struct option_group *group)
{
	size_t n = 0;

	if (!group->flag || !*group->flag)
		return false;
	if (group->kind == OPTION_SWITCH)
		return !group->rows;
	for (; group->rows && group->rows[n].key; n++)
		if (n == OPTION_ROWS_MAX || !row_is_sane(group, &group->rows[n]) ||
			option_row_find(group, group->rows[n].key, OPTION_FROM_ARGV) != (int)n)
			return false;
	if (!n || (group->kind == OPTION_PLAIN && n != 1) || (group->parent && !group->json))
		return false;
	return !group->bare || option_row_find(group, group->bare, OPTION_FROM_ARGV) >= 0;
}

int options_create(struct options **ret, const struct option_group *const *groups)
{
	struct options *o;
	size_t n = 0;

	while (groups[n])
		n++;
	o = calloc(1, sizeof(*o) + n * sizeof(o->slots[0]));
	if (!o)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct option_slot *slot = &o->slots[i];

		if (!group_is_sane(groups[i]) ||
			option_slot_find(o, groups[i]->flag, strlen(groups[i]->flag))) {
			options_destroy(o);
			return -EINVAL;
		}
		slot->group = groups[i];
		o->nslots++;
		if (groups[i]->kind == OPTION_MANY || groups[i]->kind == OPTION_SWITCH)
			continue;
		slot->items = calloc(1, sizeof(struct option_item *));
		if (slot->items)
			slot->items[0] = option_item_new(groups[i]);
		if (!slot->items || !slot->items[0]) {
			options_destroy(o);
			return -ENOMEM;
		}
		slot->nitems = 1;
	}
	*ret = o;
	return 0;
}

void options_destroy(struct options *o)
{
	if (!o)
		return;
	for (size_t i = 0; i < o->nslots; i++) {
		for (unsigned n = 0; n < o->slots[i].nitems; n++)
			option_item_free(o->slots[i].group, o->slots[i].items[n]);
		free(o->slots[i].items);
	}
	free(o);
}

unsigned options_count(const struct options *o, const char *flag)
{
	const struct option_slot *slot = option_slot_find(o, flag, strlen(flag));
	unsigned given = 0;

	if (slot)
		given = slot->given[OPTION_FROM_JSON] + slot->given[OPTION_FROM_ARGV];
	if (slot && (slot->group->kind == OPTION_ONE || slot->group->kind == OPTION_PLAIN))
		return MIN(given, 1);
	return given;
}

const void *options_get(const struct options *o, const char *flag, unsigned i)
{
	const struct option_slot *slot = option_slot_find(o, flag, strlen(flag));

	return slot && i < slot->nitems ? slot->items[i]->value : NULL;
}

const char *options_string(const struct options *o, const char *flag)
{
	const struct option_slot *slot = option_slot_find(o, flag, strlen(flag));
	const struct option_row *row = slot && slot->nitems ? slot->group->rows : NULL;

	if (!row || (row->type != OPTION_STRING && row->type != OPTION_PATH))
		return NULL;
	return option_item_field(slot->items[0], row).text;
}

unsigned options_switch(const struct options *o, const char *flag)
{
	const struct option_slot *slot = option_slot_find(o, flag, strlen(flag));

	return slot ? slot->given[OPTION_FROM_ARGV] : 0;
}
