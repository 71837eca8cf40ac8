/*
 * One table of options: the command line, the JSON configuration, --help, the man page and
 * --print-config all come from its rows.
 *
 * A group is one flag ("--disk") and one JSON member ("disks"). Its rows are the keys of a comma
 * list, each with a type, a range, a default, a unit and a line of help, and each stored at an
 * offset of the group's struct. Groups of devices stand in the device's own file and come here
 * through device_types[]; the rest are in options_table.c.
 *
 * Grammar: `--opt VALUE`, `--opt=VALUE`; value = comma list of key=value; "..." quotes commas;
 * [...] nests lists; an empty value leaves the default; bool on|off|true|false or nothing; sizes
 * take K, M, G, T (powers of 1024); integer lists [0,2-4]; a word without '=' is a bool key set to
 * on, or the value of the group's bare key. A `many` flag takes one or more values until the next
 * flag, and may be repeated.
 *
 * A key named like a choice of the bare ENUM key selects that choice: `--serial file=/x` is
 * mode=file. What the command line gives wins over the JSON file, key by key and in either order of
 * the two calls; devices of a `many` flag stand after those of the file. An empty value is no
 * value, except that a PATH refuses it.
 *
 * All functions: main thread, before anything runs.
 */
#ifndef VMM_OPTIONS_H
#define VMM_OPTIONS_H

#include "vmm/error.h"

enum option_type {
	OPTION_BOOL,   /* bool */
	OPTION_U32,    /* uint32_t */
	OPTION_U64,    /* uint64_t */
	OPTION_SIZE,   /* uint64_t bytes; 512M */
	OPTION_STRING, /* char * (owned), NULL when unset */
	OPTION_PATH,   /* char *, as STRING; shown as PATH in help; "" is an error */
	OPTION_ENUM,   /* uint32_t index into `choices` */
	OPTION_MAC,    /* struct option_mac */
	OPTION_INTS,   /* struct option_ints: [0,2-4] */
};

struct option_mac {
	uint8_t bytes[6];
	bool set;
};

struct option_ints {
	uint32_t *v;
	uint32_t n;
};

struct option_row {
	const char *key;             /* on the command line */
	const char *json;            /* in JSON; NULL: as key */
	enum option_type type;
	uint32_t offset;
	uint64_t min, max;           /* of numbers and sizes; both 0: the whole type */
	const char *def;             /* as one would type it; NULL: unset, 0, off */
	const char *unit;            /* "bytes", "vCPUs"; NULL: none */
	const char *const *choices;  /* NULL-terminated, for ENUM */
	const char *help;            /* one line, no full stop */
	bool required;
};

enum option_kind {
	OPTION_ONE,   /* at most once; JSON object */
	OPTION_MANY,  /* several; JSON array of objects */
	/* --kernel PATH: one row, the whole argument is its value; JSON: `json` of `parent` */
	OPTION_PLAIN,
	OPTION_SWITCH,/* --version: no value; never in JSON */
};

struct option_group {
	const char *flag;       /* "disk" */
	const char *json;       /* "disks"; NULL: command line only */
	const char *parent;     /* PLAIN: the JSON object it sits in ("payload"); NULL: top level */
	enum option_kind kind;
	size_t size;            /* of the struct that the rows' offsets are in */
	const struct option_row *rows; /* key NULL ends; SWITCH: NULL */
	const char *bare;       /* key that a word without '=' sets when it is no bool key; NULL: none */
	const char *help;       /* one line */
	const char *section;    /* heading in --help and man page: "Machine", "Devices", "Sandbox", "Tools" */
	bool always;            /* ONE: the machine has it even when the flag is not given; --print-config shows it */
};

#define OPTION_ROWS_END { NULL, NULL, 0, 0, 0, 0, NULL, NULL, NULL, NULL, false }

struct options;

/* `groups`: NULL-terminated array of pointers to const groups. */
int options_create(struct options **ret, const struct option_group *const *groups) NEEDS_CHECK;
void options_destroy(struct options *o);

/* argv[0] is skipped. Unknown flags and keys fail with the nearest known one in the sentence. */
int options_parse_argv(struct options *o, int argc, char *const *argv, struct error *err) NEEDS_CHECK;
/*
 * A JSON object with the groups' json names; `name` is the file, for sentences. Unknown members
 * fail (native face).
 */
int options_parse_json(struct options *o, const char *text, size_t len, const char *name,
	struct error *err) NEEDS_CHECK;

/*
 * How often the flag was given, and its i-th struct. ONE and PLAIN give their defaults when the
 * flag was not given (i = 0).
 */
unsigned options_count(const struct options *o, const char *flag);
const void *options_get(const struct options *o, const char *flag, unsigned i);
/* PLAIN with a string row: the string or NULL. */
const char *options_string(const struct options *o, const char *flag);
/* SWITCH: how often it was given. */
unsigned options_switch(const struct options *o, const char *flag);

/* Text to stdout. */
void options_print_help(const struct options *o);
void options_print_json(const struct options *o);
/* The OPTIONS section of the man page (mdoc/man macros), used by the build. */
void options_print_man(const struct options *o);

#endif
