/*
 * What the files of the option parser share: the table of types, and one parsed struct ("item") of
 * a group.
 *
 * options.c owns items and looks things up; options_types.c is the table of types, with those in
 * options_number.c; options_parse.c reads the command line, options_json.c reads and writes JSON,
 * options_help.c prints help and the man page. A request that brings one device at run time
 * (hot-plug) is option_item_new() + option_item_from_json() on that device's group.
 */
#ifndef VMM_OPTIONS_PRIVATE_H
#define VMM_OPTIONS_PRIVATE_H

#include <jansson.h>
#include <stdio.h>

#include "vmm/options.h"

enum {
	OPTION_ROWS_MAX = 64,               /* bits of option_item.set */
	OPTION_ITEMS_MAX = 1024,            /* of one MANY flag */
	OPTION_INTS_MAX = 4096,             /* numbers in one list */
	OPTION_SIZE_TEXT = 24,              /* for option_format_size() */
	OPTIONS_JSON_MAX = 4 * 1024 * 1024, /* bytes of one JSON text */
};

/* Any field that a row can store; big enough to parse into before the struct is touched. */
union option_field {
	bool b;
	uint32_t u32;
	uint64_t u64;
	char *text;
	struct option_mac mac;
	struct option_ints ints;
};

/*
 * One type of option. The from_ functions fill `ret` (and own nothing on failure) with a sentence
 * that says what is wrong with the value; the caller puts option and value before it. An empty text
 * never comes here, but for PATH.
 */
struct option_ops {
	const char *name;           /* placeholder in help */
	size_t size;
	int (*from_text)(const struct option_row *row, const char *text, union option_field *ret,
		struct error *err);
	int (*from_json)(const struct option_row *row, json_t *value, union option_field *ret,
		struct error *err);
	json_t *(*to_json)(const struct option_row *row, const union option_field *field);
	void (*clear)(union option_field *field); /* NULL: owns nothing */
};

/* Indexed by enum option_type. */
extern const struct option_ops *const option_ops[];
extern const struct option_ops option_ops_u32, option_ops_u64, option_ops_size, option_ops_ints;
enum { OPTION_TYPES = OPTION_INTS + 1 };

/* "512M": the largest unit that leaves no rest. */
const char *option_format_size(char buf[OPTION_SIZE_TEXT], uint64_t bytes);
/* Largest value of a number row: its max, or its type's. */
uint64_t option_max(const struct option_row *row);
/* Index into the row's choices; "on" and "true", "off" and "false" are the same word. -1: none. */
int option_choice(const struct option_row *row, const char *word);
/* BOOL, or an ENUM that has "on": a key that can stand alone. */
bool option_can_stand_alone(const struct option_row *row);

/* Later origins win. */
enum option_origin { OPTION_FROM_JSON, OPTION_FROM_ARGV, OPTION_ORIGINS };

struct option_item {
	void *value;                     /* group->size bytes */
	uint64_t set[OPTION_ORIGINS];    /* rows that each origin has given; bit = index of the row */
};

/*
 * With defaults. NULL: no memory, or (-EINVAL of the table, found by options_create) a wrong
 * default.
 */
struct option_item *option_item_new(const struct option_group *group);
void option_item_free(const struct option_group *group, struct option_item *item);
/* Move `field` into the struct, unless a later origin was there first. Takes what field owns. */
void option_item_put(const struct option_group *group, struct option_item *item, size_t row,
	union option_field *field, enum option_origin origin);
/* A copy of the field's bytes; what it points to stays the item's. */
union option_field option_item_field(const struct option_item *item, const struct option_row *row);
/* Was the row given, or does it have a default? */
bool option_item_has(const struct option_group *group, const struct option_item *item, size_t row);
/* After the last key of one origin: the choice that a key implies, and required keys. */
int option_item_finish(const struct option_group *group, struct option_item *item,
	enum option_origin origin, struct error *err);
/* `object` is a JSON object; the whole of it, with option_item_finish(). */
int option_item_from_json(const struct option_group *group, struct option_item *item,
	json_t *object, struct error *err);
json_t *option_item_to_json(const struct option_group *group, const struct option_item *item);

/* One group and what was given for it. ONE and PLAIN always have their one item. */
struct option_slot {
	const struct option_group *group;
	struct option_item **items;
	unsigned nitems;
	unsigned njson;     /* MANY: the first so many came from JSON */
	unsigned given[OPTION_ORIGINS];
};

struct options {
	size_t nslots;
	struct option_slot slots[];
};

struct option_slot *option_slot_find(const struct options *o, const char *flag, size_t len);
/* Takes `item` in every case. */
int option_slot_add(struct option_slot *slot, struct option_item *item, enum option_origin origin,
	struct error *err);

/* The name of a row where `origin` reads it. */
const char *option_row_name(const struct option_row *row, enum option_origin origin);
/* Index of the row, or -1. */
int option_row_find(const struct option_group *group, const char *name, enum option_origin origin);
/* "unknown key 'pth'; did you mean 'path'? (keys: ...)", -EINVAL. */
int option_unknown_key(const struct option_group *group, const char *name,
	enum option_origin origin, struct error *err);

/*
 * Offer candidates; `best` is then the nearest to `word` within reach of a slip of the fingers, or
 * NULL.
 */
struct option_nearest {
	const char *word;
	const char *best;
	unsigned distance;
};
void option_nearest_offer(struct option_nearest *n, const char *candidate);

/*
 * What the public printers print, to any stream; and the configuration as JSON (NULL: no memory).
 */
void options_write_help(const struct options *o, FILE *out);
void options_write_man(const struct options *o, FILE *out);
json_t *options_to_json(const struct options *o);

#endif
