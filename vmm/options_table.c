/*
 * The groups of options that belong to the machine: CPUs, memory, what to boot, the sandbox, and
 * the tools that print something and end. Every row is type, range, default, unit and help; nothing
 * else of the program parses them.
 */
#include "vmm/options_table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "vmm/jail.h"
#include "vmm/rate_group.h"

static const char machine[] = "Machine";
static const char boot[] = "Boot";
static const char sandbox[] = "Sandbox";
static const char tools[] = "Configuration and tools";

static const struct option_row cpus_rows[] = {
	{ .key = "boot", .json = "boot_vcpus", .type = OPTION_U32,
		.offset = offsetof(struct options_cpus, boot), .min = 1, .max = 1024, .def = "1",
		.unit = "vCPUs", .help = "CPUs that the guest starts with" },
	{ .key = "max", .json = "max_vcpus", .type = OPTION_U32,
		.offset = offsetof(struct options_cpus, max), .max = 1024, .unit = "vCPUs",
		.help = "CPUs that it can have later; 0: as many as it starts with" },
	{ .key = "topology", .type = OPTION_STRING,
		.offset = offsetof(struct options_cpus, topology),
		.help = "threads per core:cores per die:dies per package:packages, such as "
			"2:4:1:1; without it each vCPU is a core" },
	{ .key = "nested", .type = OPTION_BOOL, .offset = offsetof(struct options_cpus, nested),
		.def = "off", .help = "The guest may run virtual machines itself" },
	{ .key = "pmu", .type = OPTION_BOOL, .offset = offsetof(struct options_cpus, pmu),
		.def = "off", .help = "Performance counters; a guest can watch its neighbours by them" },
	{ .key = "max_phys_bits", .type = OPTION_U32,
		.offset = offsetof(struct options_cpus, max_phys_bits), .max = 52, .unit = "bits",
		.help = "Width of physical addresses; 0: what the host has" },
	OPTION_ROWS_END
};
static const struct option_group cpus = {
	.flag = "cpus", .json = "cpus", .kind = OPTION_ONE, .size = sizeof(struct options_cpus),
	.rows = cpus_rows, .bare = "boot", .help = "CPUs of the guest", .section = machine,
	.always = true,
};

static const char *const auto_choices[] = { "auto", "on", "off", NULL };
static const struct option_row memory_rows[] = {
	{ .key = "size", .type = OPTION_SIZE, .offset = offsetof(struct options_memory, size),
		.min = MIB, .max = 8 * 1024 * GIB, .def = "512M", .unit = "bytes",
		.help = "How much" },
	{ .key = "shared", .type = OPTION_ENUM, .offset = offsetof(struct options_memory, shared),
		.choices = auto_choices, .def = "auto",
		.help = "Memory that other processes can map; auto: when a device needs it" },
	{ .key = "hugepages", .type = OPTION_BOOL,
		.offset = offsetof(struct options_memory, hugepages), .def = "off",
		.help = "Take memory from the host's reserved huge pages" },
	{ .key = "hugepage_size", .type = OPTION_SIZE,
		.offset = offsetof(struct options_memory, hugepage_size), .max = GIB,
		.unit = "bytes", .help = "Size of those pages; 0: the host's default" },
	{ .key = "prefault", .type = OPTION_BOOL,
		.offset = offsetof(struct options_memory, prefault), .def = "off",
		.help = "Take all memory from the host at start" },
	{ .key = "thp", .type = OPTION_BOOL, .offset = offsetof(struct options_memory, thp),
		.def = "on", .help = "Let the host use transparent huge pages" },
	{ .key = "mergeable", .type = OPTION_BOOL,
		.offset = offsetof(struct options_memory, mergeable), .def = "off",
		.help = "Let the host merge equal pages; guests can then observe each other" },
	OPTION_ROWS_END
};
static const struct option_group memory = {
	.flag = "memory", .json = "memory", .kind = OPTION_ONE,
	.size = sizeof(struct options_memory), .rows = memory_rows, .bare = "size",
	.help = "Memory of the guest", .section = machine, .always = true,
};

#define TEXT_ROWS(name, type_)                                                                     \
	static const struct option_row name##_rows[] = {                                           \
		{ .key = #name, .type = type_, .offset = offsetof(struct options_text, value) },   \
		OPTION_ROWS_END                                                                    \
	}

TEXT_ROWS(kernel, OPTION_PATH);
static const struct option_group kernel = {
	.flag = "kernel", .json = "kernel", .parent = "payload", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_text), .rows = kernel_rows, .section = boot,
	.help = "Kernel to start: vmlinux, or a bzImage",
};

TEXT_ROWS(initramfs, OPTION_PATH);
static const struct option_group initramfs = {
	.flag = "initramfs", .json = "initramfs", .parent = "payload", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_text), .rows = initramfs_rows, .section = boot,
	.help = "Initial RAM file system for the kernel",
};

TEXT_ROWS(cmdline, OPTION_STRING);
static const struct option_group cmdline = {
	.flag = "cmdline", .json = "cmdline", .parent = "payload", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_text), .rows = cmdline_rows, .section = boot,
	.help = "Command line of the kernel; without it, the console and the first disk as root",
};

#define CHOICE_ROWS(name, choices_, def_)                                                          \
	static const struct option_row name##_rows[] = {                                           \
		{ .key = #name, .type = OPTION_ENUM, .choices = choices_, .def = def_,             \
			.offset = offsetof(struct options_choice, value) },                        \
		OPTION_ROWS_END                                                                    \
	}

static const char *const decompress_choices[] = {
	[DECOMPRESS_HOST] = "host", [DECOMPRESS_GUEST] = "guest", NULL
};
CHOICE_ROWS(decompress, decompress_choices, "host");
static const struct option_group decompress = {
	.flag = "kernel-decompress", .json = "kernel_decompress", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_choice), .rows = decompress_rows, .section = boot,
	.help = "Who unpacks a bzImage: host starts faster; guest keeps KASLR, the random "
		"place of the kernel in memory, which only its own decompressor gives",
};

static const char *const on_reset_choices[] = {
	[ON_RESET_REBOOT] = "reboot", [ON_RESET_EXIT] = "exit", NULL
};
CHOICE_ROWS(on_reset, on_reset_choices, "reboot");
static const struct option_group on_reset = {
	.flag = "on-reset", .json = "on_reset", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_choice), .rows = on_reset_rows, .section = machine,
	.help = "What a reset by the guest does: start again, or end this program",
};

static const char *const seccomp_choices[] = {
	[SECCOMP_TRUE] = "true", [SECCOMP_FALSE] = "false", [SECCOMP_LOG] = "log", NULL
};
CHOICE_ROWS(seccomp, seccomp_choices, "true");
static const struct option_group seccomp = {
	.flag = "seccomp", .json = "seccomp", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_choice), .rows = seccomp_rows, .section = sandbox,
	.help = "System calls that no thread of ours needs: true ends the program, log lets "
		"them through and logs, false does not look",
};

static const char *const confine_choices[] = {
	[SANDBOX_CONFINE_AUTO] = "auto", [SANDBOX_CONFINE_STRICT] = "strict", [SANDBOX_CONFINE_OFF] = "off", NULL
};
static const struct option_row confine_rows[] = {
	{ .key = "sandbox", .type = OPTION_ENUM, .choices = confine_choices, .def = "auto",
		.offset = offsetof(struct options_choice, value) },
	OPTION_ROWS_END
};
static const struct option_group confine = {
	.flag = "sandbox", .json = "sandbox", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_choice), .rows = confine_rows, .section = sandbox,
	.help = "Namespaces, an empty root and Landlock: auto takes what this host gives and -v "
		"says what is missing, strict refuses to start without, off leaves them out",
};

static const char *const isolation_choices[] = {
	[ISOLATION_THREAD] = "thread", [ISOLATION_PROCESS] = "process", NULL
};
CHOICE_ROWS(isolation, isolation_choices, "thread");
static const struct option_group isolation = {
	.flag = "isolation", .json = "isolation", .kind = OPTION_PLAIN,
	.size = sizeof(struct options_choice), .rows = isolation_rows, .section = sandbox,
	.help = "Who serves devices: threads of this program, or, of each that can, a process of its own, which is "
		"started again when it dies; isolation= of a device wins",
};

#define JAIL(key_, type_, help_, ...)                                                              \
	{ .key = #key_, .type = type_, .help = help_, .offset = offsetof(struct options_jail, key_), __VA_ARGS__ }
static const struct option_row jail_rows[] = {
	JAIL(uid, OPTION_U32, "user to become", .min = 1, .max = UINT32_MAX - 1),
	JAIL(gid, OPTION_U32, "group to become, its only one", .min = 1, .max = UINT32_MAX - 1),
	JAIL(cgroup, OPTION_PATH, "cgroup to enter, a directory below /sys/fs/cgroup"),
	JAIL(netns, OPTION_PATH, "network namespace to enter, /run/netns/NAME; without it, an empty one"),
	JAIL(root, OPTION_PATH, "directory that becomes the root; without it, an empty one"),
	OPTION_ROWS_END
};
static const struct option_group jail = {
	.flag = "jail", .json = "jail", .kind = OPTION_ONE, .size = sizeof(struct options_jail),
	.rows = jail_rows, .section = sandbox,
	.help = "For who starts this as root: what to become once everything is open",
};
static const struct option_group show_sandbox = {
	.flag = "show-sandbox", .kind = OPTION_SWITCH, .section = sandbox,
	.help = "Print which thread may make which system call, and why",
};

TEXT_ROWS(config, OPTION_PATH);
static const struct option_group config = {
	.flag = "config", .kind = OPTION_PLAIN, .size = sizeof(struct options_text),
	.rows = config_rows, .section = tools,
	.help = "JSON file with the configuration; options given here win over it",
};
static const struct option_group print_config = {
	.flag = "print-config", .kind = OPTION_SWITCH, .section = tools,
	.help = "Print the configuration as JSON for --config, and end",
};
static const struct option_group check = {
	.flag = "check", .kind = OPTION_SWITCH, .section = tools,
	.help = "Print what this host can do and what to do about the rest, and end",
};

TEXT_ROWS(log_file, OPTION_PATH);
static const struct option_group log_file = {
	.flag = "log-file", .kind = OPTION_PLAIN, .size = sizeof(struct options_text),
	.rows = log_file_rows, .section = tools, .help = "Write the log there, not to stderr",
};
static const struct option_group verbose = {
	.flag = "v", .kind = OPTION_SWITCH, .section = tools,
	.help = "Log more; -vv or -v -v logs everything",
};
static const struct option_group help = {
	.flag = "help", .kind = OPTION_SWITCH, .section = tools, .help = "Print this, and end",
};
static const struct option_group version = {
	.flag = "version", .kind = OPTION_SWITCH, .section = tools,
	.help = "Print the version, and end",
};
static const struct option_group print_man = {
	.flag = "print-man", .kind = OPTION_SWITCH, .section = tools,
	.help = "Print the options as a part of a man page, and end",
};

/* The order of --help; groups of devices come between the two. */
static const struct option_group *const first_groups[] = {
	&kernel, &initramfs, &cmdline, &decompress, &cpus, &memory, &on_reset, &rate_group_options,
};
static const struct option_group *const last_groups[] = {
	&confine, &jail, &isolation, &seccomp, &show_sandbox, &config, &print_config, &check, &log_file, &verbose,
	&help, &version, &print_man,
};

struct list {
	const struct option_group **groups;
	size_t n, max;
};

/* Room for the NULL at the end is kept. */
static int list_add(struct list *list, const struct option_group *group)
{
	for (size_t i = 0; i < list->n; i++)
		if (list->groups[i] == group)
			return 0;
	if (list->n + 1 >= list->max)
		return -ENOSPC;
	list->groups[list->n++] = group;
	return 0;
}

int options_table_collect(const struct option_group **ret, size_t max,
	const struct device_type *const *types)
{
	struct list list = { .groups = ret, .n = 0, .max = max };
	int r = max ? 0 : -ENOSPC;

	for (size_t i = 0; !r && i < ARRAY_SIZE(first_groups); i++)
		r = list_add(&list, first_groups[i]);
	for (; !r && *types && (*types)->name; types++)
		if ((*types)->options)
			r = list_add(&list, (*types)->options);
	for (size_t i = 0; !r && i < ARRAY_SIZE(last_groups); i++)
		r = list_add(&list, last_groups[i]);
	if (!r)
		ret[list.n] = NULL;
	return r;
}

int options_cpus_topology(struct options_topology *ret, const struct options_cpus *c,
	struct error *err)
{
	uint32_t n[4] = { 0 };
	uint64_t product = 1;
	uint32_t want = MAX(c->boot, c->max);
	const char *p = c->topology;

	if (c->max && c->max < c->boot)
		return error_set(err, EINVAL,
			"--cpus max=%" PRIu32 ": fewer than boot=%" PRIu32
			"; raise it, or leave it out", c->max, c->boot);
	for (size_t i = 0; p && i < ARRAY_SIZE(n); i++) {
		size_t digits = strspn(p, "0123456789");

		if (!digits || digits > 4 || p[digits] != (i == 3 ? '\0' : ':'))
			return error_set(err, EINVAL,
				"--cpus topology=%.40s: not a topology; write four numbers like "
				"2:4:1:1 (threads:cores:dies:packages)", c->topology);
		for (; digits--; p++)
			n[i] = n[i] * 10 + (uint32_t)(*p - '0');
		p++;
		product *= n[i];
	}
	if (c->topology && product != want)
		return error_set(err, EINVAL,
			"--cpus topology=%.40s: makes %" PRIu64 " vCPUs, but there are %" PRIu32
			"; change it, boot= or max=", c->topology, product, want);
	*ret = (struct options_topology){ n[0], n[1], n[2], n[3] };
	return 0;
}
