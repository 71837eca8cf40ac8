/*
 * Groups like those of devices, for tests and fuzz targets of the option parser: one with every
 * type, and the flags that published command lines use.
 */
#ifndef TESTS_UNIT_OPTIONS_FIXTURE_H
#define TESTS_UNIT_OPTIONS_FIXTURE_H

#include <stdlib.h>

#include "vmm/options_private.h"
#include "vmm/options_table.h"

enum fixture_mode { MODE_OFF, MODE_NULL, MODE_TTY, MODE_PTY, MODE_FILE, MODE_SOCKET };
static const char *const fixture_modes[] = { "off", "null", "tty", "pty", "file", "socket", NULL };
static const char *const fixture_shared[] = { "auto", "on", "off", NULL };

struct fixture_all {
	bool flag;
	uint32_t number;
	uint64_t big, size, size_def;
	char *text, *text_def, *path;
	uint32_t word;
	struct option_mac mac;
	struct option_ints list, list_def;
};

#define ALL(m) offsetof(struct fixture_all, m)
static const struct option_row fixture_all_rows[] = {
	{ "flag", NULL, OPTION_BOOL, ALL(flag), 0, 0, NULL, NULL, NULL, "A flag", false },
	{ "number", "number_json", OPTION_U32, ALL(number), 2, 9, "3", "things", NULL, "A number", false },
	{ "big", NULL, OPTION_U64, ALL(big), 0, 0, NULL, NULL, NULL, "A big number", false },
	{ "size", NULL, OPTION_SIZE, ALL(size), 4096, 0, NULL, "bytes", NULL, "A size", false },
	{ "size_def", NULL, OPTION_SIZE, ALL(size_def), 0, 0, "3G", "bytes", NULL, "A size", false },
	{ "text", NULL, OPTION_STRING, ALL(text), 0, 0, NULL, NULL, NULL, "A text", false },
	{ "text_def", NULL, OPTION_STRING, ALL(text_def), 0, 0, "abc", NULL, NULL, "A text", false },
	{ "path", NULL, OPTION_PATH, ALL(path), 0, 0, NULL, NULL, NULL, "A path", false },
	{ "word", NULL, OPTION_ENUM, ALL(word), 0, 0, "auto", NULL, fixture_shared, "A word", false },
	{ "mac", NULL, OPTION_MAC, ALL(mac), 0, 0, NULL, NULL, NULL, "An address", false },
	{ "list", NULL, OPTION_INTS, ALL(list), 0, 99, NULL, NULL, NULL, "Numbers", false },
	{ "list_def", NULL, OPTION_INTS, ALL(list_def), 0, 0, "[1,3-4]", NULL, NULL, "Numbers", false },
	OPTION_ROWS_END
};
static const struct option_group fixture_all_group = {
	.flag = "all", .json = "alls", .kind = OPTION_MANY, .size = sizeof(struct fixture_all),
	.rows = fixture_all_rows, .help = "Every type", .section = "Devices",
};
static const struct option_group fixture_one_group = {
	.flag = "one", .json = "one", .kind = OPTION_ONE, .size = sizeof(struct fixture_all),
	.rows = fixture_all_rows, .bare = "word", .help = "Every type, once", .section = "Devices",
};

struct fixture_disk {
	char *path, *id, *socket;
	bool readonly, vhost_user;
	uint32_t num_queues, queue_size;
};
#define DISK(m) offsetof(struct fixture_disk, m)
static const struct option_row fixture_disk_rows[] = {
	{ .key = "id", .type = OPTION_STRING, .offset = DISK(id), .help = "Name" },
	{ .key = "path", .type = OPTION_PATH, .offset = DISK(path), .help = "Image" },
	{ .key = "readonly", .type = OPTION_BOOL, .offset = DISK(readonly), .help = "No writes" },
	{ .key = "vhost_user", .type = OPTION_BOOL, .offset = DISK(vhost_user), .help = "Elsewhere" },
	{ .key = "socket", .json = "vhost_socket", .type = OPTION_PATH, .offset = DISK(socket),
		.help = "Its socket" },
	{ .key = "num_queues", .type = OPTION_U32, .offset = DISK(num_queues), .min = 1, .max = 64,
		.def = "1", .help = "Queues" },
	{ .key = "queue_size", .type = OPTION_U32, .offset = DISK(queue_size), .min = 2,
		.max = 32768, .def = "128", .unit = "entries", .help = "Entries of each queue" },
	OPTION_ROWS_END
};
static const struct option_group fixture_disk_group = {
	.flag = "disk", .json = "disks", .kind = OPTION_MANY, .size = sizeof(struct fixture_disk),
	.rows = fixture_disk_rows, .help = "A disk", .section = "Devices",
};

static const char *const fixture_links[] = { "tap", "user", NULL };
struct fixture_net {
	uint32_t mode;
	char *tap, *ip, *mask, *id;
	struct option_mac mac;
	struct option_ints fds;
	uint32_t num_queues, mtu;
};
#define NET(m) offsetof(struct fixture_net, m)
static const struct option_row fixture_net_rows[] = {
	{ .key = "mode", .type = OPTION_ENUM, .offset = NET(mode), .choices = fixture_links,
		.def = "tap", .help = "Link" },
	{ .key = "tap", .type = OPTION_STRING, .offset = NET(tap), .help = "Interface" },
	{ .key = "ip", .type = OPTION_STRING, .offset = NET(ip), .help = "Address" },
	{ .key = "mask", .type = OPTION_STRING, .offset = NET(mask), .help = "Mask" },
	{ .key = "id", .type = OPTION_STRING, .offset = NET(id), .help = "Name" },
	{ .key = "mac", .type = OPTION_MAC, .offset = NET(mac), .help = "Address of the guest" },
	{ .key = "fd", .json = "fds", .type = OPTION_INTS, .offset = NET(fds), .help = "Open taps" },
	{ .key = "num_queues", .type = OPTION_U32, .offset = NET(num_queues), .min = 1, .max = 256,
		.def = "2", .help = "Queues" },
	{ .key = "mtu", .type = OPTION_U32, .offset = NET(mtu), .min = 68, .max = 65535,
		.unit = "bytes", .help = "Largest packet" },
	OPTION_ROWS_END
};
static const struct option_group fixture_net_group = {
	.flag = "net", .json = "net", .kind = OPTION_MANY, .size = sizeof(struct fixture_net),
	.rows = fixture_net_rows, .bare = "mode", .help = "A network card", .section = "Devices",
};

struct fixture_char {
	uint32_t mode;
	char *file, *socket;
};
#define CHAR(m) offsetof(struct fixture_char, m)
static const struct option_row fixture_char_rows[] = {
	{ .key = "mode", .type = OPTION_ENUM, .offset = CHAR(mode), .choices = fixture_modes,
		.def = "null", .help = "Where bytes go" },
	{ .key = "file", .type = OPTION_PATH, .offset = CHAR(file), .help = "File" },
	{ .key = "socket", .type = OPTION_PATH, .offset = CHAR(socket), .help = "Socket" },
	OPTION_ROWS_END
};
static const struct option_group fixture_serial_group = {
	.flag = "serial", .json = "serial", .kind = OPTION_ONE, .size = sizeof(struct fixture_char),
	.rows = fixture_char_rows, .bare = "mode", .help = "Serial line", .section = "Devices",
	.always = true,
};
static const struct option_group fixture_console_group = {
	.flag = "console", .json = "console", .kind = OPTION_ONE,
	.size = sizeof(struct fixture_char), .rows = fixture_char_rows, .bare = "mode",
	.help = "Console", .section = "Devices",
};

struct fixture_vsock {
	uint32_t cid;
	char *socket;
};
static const struct option_row fixture_vsock_rows[] = {
	{ .key = "cid", .type = OPTION_U32, .offset = offsetof(struct fixture_vsock, cid), .min = 3,
		.required = true, .help = "Address" },
	{ .key = "socket", .type = OPTION_PATH, .offset = offsetof(struct fixture_vsock, socket),
		.required = true, .help = "Socket on the host" },
	OPTION_ROWS_END
};
static const struct option_group fixture_vsock_group = {
	.flag = "vsock", .json = "vsock", .kind = OPTION_ONE, .size = sizeof(struct fixture_vsock),
	.rows = fixture_vsock_rows, .help = "Sockets to the host", .section = "Devices",
};

struct fixture_misc {
	char *text, *other;
	bool on;
	uint64_t size;
};
#define MISC(m) offsetof(struct fixture_misc, m)
static const struct option_row fixture_fs_rows[] = {
	{ .key = "tag", .type = OPTION_STRING, .offset = MISC(text), .required = true, .help = "Tag" },
	{ .key = "socket", .type = OPTION_PATH, .offset = MISC(other), .help = "Socket" },
	OPTION_ROWS_END
};
static const struct option_group fixture_fs_group = {
	.flag = "fs", .json = "fs", .kind = OPTION_MANY, .size = sizeof(struct fixture_misc),
	.rows = fixture_fs_rows, .help = "A shared folder", .section = "Devices",
};
static const struct option_row fixture_path_rows[] = {
	{ .key = "path", .type = OPTION_PATH, .offset = MISC(text), .help = "Path" },
	OPTION_ROWS_END
};
static const struct option_group fixture_device_group = {
	.flag = "device", .json = "devices", .kind = OPTION_MANY,
	.size = sizeof(struct fixture_misc), .rows = fixture_path_rows,
	.help = "A device of the host", .section = "Devices",
};
static const struct option_group fixture_api_group = {
	.flag = "api-socket", .kind = OPTION_ONE, .size = sizeof(struct fixture_misc),
	.rows = fixture_path_rows, .bare = "path", .help = "Control socket", .section = "Control",
};
static const struct option_row fixture_platform_rows[] = {
	{ .key = "oem_strings", .type = OPTION_STRING, .offset = MISC(text), .help = "Strings" },
	OPTION_ROWS_END
};
static const struct option_group fixture_platform_group = {
	.flag = "platform", .json = "platform", .kind = OPTION_ONE,
	.size = sizeof(struct fixture_misc), .rows = fixture_platform_rows, .help = "Firmware data",
	.section = "Machine",
};
static const struct option_row fixture_balloon_rows[] = {
	{ .key = "size", .type = OPTION_SIZE, .offset = MISC(size), .help = "Size" },
	{ .key = "free_page_reporting", .type = OPTION_BOOL, .offset = MISC(on), .help = "Give back" },
	OPTION_ROWS_END
};
static const struct option_group fixture_balloon_group = {
	.flag = "balloon", .json = "balloon", .kind = OPTION_ONE,
	.size = sizeof(struct fixture_misc), .rows = fixture_balloon_rows, .help = "Balloon",
	.section = "Devices",
};
static const struct option_row fixture_watchdog_rows[] = {
	{ .key = "watchdog", .type = OPTION_BOOL, .offset = MISC(on) },
	OPTION_ROWS_END
};
static const struct option_group fixture_watchdog_group = {
	.flag = "watchdog", .json = "watchdog", .kind = OPTION_PLAIN,
	.size = sizeof(struct fixture_misc), .rows = fixture_watchdog_rows, .help = "Watchdog",
	.section = "Devices",
};

#define TYPE_ROW(group) &(const struct device_type){ .name = #group, .options = &fixture_##group##_group }
/* console and serial twice: groups that two types share are listed once. */
static const struct device_type *const fixture_types[] = {
	TYPE_ROW(disk), TYPE_ROW(net), TYPE_ROW(serial), TYPE_ROW(console), TYPE_ROW(serial),
	&(const struct device_type){ .name = "platform-only" }, TYPE_ROW(vsock), TYPE_ROW(fs),
	TYPE_ROW(device), TYPE_ROW(api), TYPE_ROW(platform), TYPE_ROW(balloon), TYPE_ROW(watchdog),
	TYPE_ROW(all), TYPE_ROW(one), NULL,
};

/* The machine's groups and those above; NULL when the tables are wrong. */
static inline struct options *fixture_options(void)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	struct options *o = NULL;

	if (options_table_collect(groups, OPTIONS_TABLE_MAX, fixture_types) ||
		options_create(&o, groups))
		return NULL;
	return o;
}

enum { FIXTURE_ARGS_MAX = 48 };

/* Words of `line` divided by '|' as arguments; the result of the parse. */
static inline int fixture_parse(struct options *o, const char *line, struct error *err)
{
	char *copy = strdup(line), *save = NULL;
	char *argv[FIXTURE_ARGS_MAX] = { (char *)"microvm" };
	int argc = 1, ret;

	for (char *p = copy; p && argc < FIXTURE_ARGS_MAX; argc++) {
		argv[argc] = p;
		save = strchr(p, '|');
		if (save)
			*save++ = '\0';
		p = save;
	}
	ret = options_parse_argv(o, *line ? argc : 1, argv, err);
	free(copy);
	return ret;
}

/* The configuration as text; free() it. */
static inline char *fixture_print(const struct options *o)
{
	json_t *root = options_to_json(o);
	char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;

	json_decref(root);
	return text;
}

#endif
