/*
 * JSON in and out: the configuration file, --print-config, and one group at a time for requests at
 * run time.
 *
 * ONE groups are objects, MANY groups arrays of objects, PLAIN groups a value, inside the object
 * `parent` when there is one ({"payload":{"kernel":"vmlinux"}}). null means unset everywhere. Names
 * are checked strictly: a member that nobody knows is a mistake that would otherwise be found by
 * its absence in the guest.
 *
 * The text is hostile as far as size and depth go: its length is bounded here, its depth by the
 * library (JSON_PARSER_MAX_DEPTH), the items of one array by OPTION_ITEMS_MAX, and duplicate names
 * are refused.
 *
 * What is printed gives, read again, the same print: a row is shown when it was given or has a
 * default.
 */
#include "vmm/options_private.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/log.h"

/* A value as the sentence shows it: compact, cut. */
static const char *show(json_t *value, char *buf, size_t size)
{
	size_t n = json_dumpb(value, buf, size - 1, JSON_ENCODE_ANY | JSON_COMPACT);

	buf[MIN(n, size - 1)] = '\0';
	if (n >= size)
		memcpy(buf + size - 4, "...", 4);
	return buf;
}

static int expect(json_t *value, json_type type, const char *what, struct error *err)
{
	char buf[48];

	if (json_typeof(value) == type)
		return 0;
	return error_set(err, EINVAL, "%s: must be %s", show(value, buf, sizeof(buf)), what);
}

static int row_from_json(const struct option_group *group, struct option_item *item, size_t row,
	json_t *value, struct error *err)
{
	const struct option_row *r = &group->rows[row];
	union option_field field = { .u64 = 0 };
	char buf[64];
	int ret;

	if (json_is_null(value))
		return 0;
	if (r->type == OPTION_STRING && json_is_string(value) && !json_string_length(value))
		return 0; /* as on the command line: empty is unset */
	ret = option_ops[r->type]->from_json(r, value, &field, err);
	if (ret)
		return error_prefix(err, ret, "%s", show(value, buf, sizeof(buf)));
	option_item_put(group, item, row, &field, OPTION_FROM_JSON);
	return 0;
}

int option_item_from_json(const struct option_group *group, struct option_item *item,
	json_t *object, struct error *err)
{
	const char *name;
	json_t *value;
	int ret = expect(object, JSON_OBJECT, "an object", err);

	if (ret)
		return ret;
	json_object_foreach(object, name, value)
	{
		int row = option_row_find(group, name, OPTION_FROM_JSON);

		if (row < 0)
			return option_unknown_key(group, name, OPTION_FROM_JSON, err);
		ret = row_from_json(group, item, (size_t)row, value, err);
		if (ret)
			return error_prefix(err, ret, "%s", name);
	}
	return option_item_finish(group, item, OPTION_FROM_JSON, err);
}

static int many_from_json(struct option_slot *slot, json_t *array, struct error *err)
{
	json_t *object;
	size_t i;
	int ret = expect(array, JSON_ARRAY, "an array of objects", err);

	if (ret)
		return ret;
	json_array_foreach(array, i, object)
	{
		struct option_item *item = option_item_new(slot->group);

		if (!item)
			return error_set(err, ENOMEM, "out of memory");
		ret = option_item_from_json(slot->group, item, object, err);
		if (ret)
			option_item_free(slot->group, item);
		else
			ret = option_slot_add(slot, item, OPTION_FROM_JSON, err);
		if (ret)
			return error_prefix(err, ret, "[%zu]", i);
	}
	return 0;
}

static int slot_from_json(struct option_slot *slot, json_t *value, struct error *err)
{
	if (json_is_null(value))
		return 0;
	if (slot->group->kind == OPTION_MANY)
		return many_from_json(slot, value, err);
	slot->given[OPTION_FROM_JSON]++;
	if (slot->group->kind == OPTION_PLAIN)
		return row_from_json(slot->group, slot->items[0], 0, value, err);
	return option_item_from_json(slot->group, slot->items[0], value, err);
}

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static struct option_slot *member_find(struct options *o, const char *parent, const char *name)
{
	for (size_t i = 0; i < o->nslots; i++) {
		const struct option_group *group = o->slots[i].group;

		if (group->kind != OPTION_SWITCH && group->json && same(group->parent, parent) &&
			!strcmp(group->json, name))
			return &o->slots[i];
	}
	return NULL;
}

static bool is_parent(const struct options *o, const char *name)
{
	for (size_t i = 0; i < o->nslots; i++)
		if (o->slots[i].group->parent && !strcmp(o->slots[i].group->parent, name))
			return true;
	return false;
}

static int unknown_member(
	const struct options *o, const char *parent, const char *name, struct error *err)
{
	struct option_nearest nearest = { .word = name };

	for (size_t i = 0; i < o->nslots; i++) {
		const struct option_group *group = o->slots[i].group;

		if (group->kind == OPTION_SWITCH || !group->json)
			continue;
		if (!parent && !strcmp(group->json, name))
			return error_set(err, EINVAL, "%s: belongs into the object \"%s\"", name,
				group->parent);
		if (same(group->parent, parent))
			option_nearest_offer(&nearest, group->json);
		else if (!parent)
			option_nearest_offer(&nearest, group->parent);
	}
	if (nearest.best)
		return error_set(err, EINVAL, "%.40s: unknown member; did you mean \"%s\"?", name,
			nearest.best);
	return error_set(err, EINVAL, "%.40s: unknown member; microvm --help lists all", name);
}

/* The members of the whole object (parent NULL) or of one parent object in it. */
static int members_from_json(
	struct options *o, const char *parent, json_t *object, struct error *err)
{
	const char *name;
	json_t *value;
	int ret = expect(object, JSON_OBJECT, "an object", err);

	if (ret)
		return ret;
	json_object_foreach(object, name, value)
	{
		struct option_slot *slot = member_find(o, parent, name);

		if (slot)
			ret = slot_from_json(slot, value, err);
		else if (parent || !is_parent(o, name))
			return unknown_member(o, parent, name, err);
		else if (!json_is_null(value))
			ret = members_from_json(o, name, value, err);
		if (ret)
			return error_prefix(err, ret, "%s", name);
	}
	return 0;
}

int options_parse_json(
	struct options *o, const char *text, size_t len, const char *name, struct error *err)
{
	json_error_t wrong;
	json_t *root;
	int ret;

	if (!len)
		return error_set(err, EINVAL, "%s: empty; must be a JSON object", name);
	if (len > OPTIONS_JSON_MAX)
		return error_set(err, EFBIG, "%s: too large; at most 4M of JSON", name);
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &wrong);
	if (!root)
		return error_set(err, EINVAL, "%s: not valid JSON in line %d, column %d: %s", name,
			wrong.line, wrong.column, wrong.text);
	ret = members_from_json(o, NULL, root, err);
	json_decref(root);
	return ret ? error_prefix(err, ret, "%s", name) : 0;
}

/* ---- out ---- */

json_t *option_item_to_json(const struct option_group *group, const struct option_item *item)
{
	json_t *object = json_object();

	for (size_t i = 0; object && group->rows[i].key; i++) {
		const struct option_row *row = &group->rows[i];
		union option_field field = option_item_field(item, row);

		if (option_item_has(group, item, i) &&
			json_object_set_new(object, option_row_name(row, OPTION_FROM_JSON),
				option_ops[row->type]->to_json(row, &field))) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

static json_t *many_to_json(const struct option_slot *slot)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < slot->nitems; i++)
		if (json_array_append_new(
			    array, option_item_to_json(slot->group, slot->items[i]))) {
			json_decref(array);
			return NULL;
		}
	return array;
}

/* Is there something to show: given, there anyway, or with a default? */
static bool slot_is_shown(const struct option_slot *slot)
{
	const struct option_group *group = slot->group;

	if (group->kind == OPTION_SWITCH || !group->json)
		return false;
	if (group->kind == OPTION_MANY)
		return slot->nitems;
	if (group->kind == OPTION_PLAIN)
		return option_item_has(group, slot->items[0], 0);
	return group->always || slot->given[OPTION_FROM_JSON] || slot->given[OPTION_FROM_ARGV];
}

static json_t *slot_to_json(const struct option_slot *slot)
{
	const struct option_row *row = slot->group->rows;
	union option_field field;

	if (slot->group->kind == OPTION_MANY)
		return many_to_json(slot);
	if (slot->group->kind == OPTION_ONE)
		return option_item_to_json(slot->group, slot->items[0]);
	field = option_item_field(slot->items[0], row);
	return option_ops[row->type]->to_json(row, &field);
}

/*
 * The object that `parent` names inside root (borrowed), made when it is not there; root itself for
 * NULL.
 */
static json_t *parent_object(json_t *root, const char *parent)
{
	json_t *object = parent ? json_object_get(root, parent) : root;

	if (object)
		return object;
	object = json_object();
	return json_object_set_new(root, parent, object) ? NULL : object;
}

json_t *options_to_json(const struct options *o)
{
	json_t *root = json_object();

	for (size_t i = 0; root && i < o->nslots; i++) {
		const struct option_slot *slot = &o->slots[i];
		json_t *object;

		if (!slot_is_shown(slot))
			continue;
		object = parent_object(root, slot->group->parent);
		if (!object || json_object_set_new(object, slot->group->json, slot_to_json(slot))) {
			json_decref(root);
			return NULL;
		}
	}
	return root;
}

void options_print_json(const struct options *o)
{
	json_t *root = options_to_json(o);
	char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;

	if (text)
		puts(text);
	else
		log_error("--print-config: out of memory");
	free(text);
	json_decref(root);
}
