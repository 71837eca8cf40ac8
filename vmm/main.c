/*
 * microvm: options → machine → confinement → run. The stages of the sandbox are visible here, and
 * the only exit is the end of main().
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/check.h"
#include "vmm/jail.h"
#include "vmm/log.h"
#include "vmm/options_table.h"
#include "vmm/vm.h"

enum {
	HEAP_STEP = 512 * KIB,
	HEAP_LARGE = 64 * KIB,
	CONFIG_FILE_MAX = 4 * MIB,
	NAME_IN_SENTENCE_MAX = 200,
	FDS_KEPT_MAX = 64,
	FDS_LIMIT = 4096,
};

/*
 * A descriptor below 3 that is closed would be given to a file of ours, which a log line or the
 * terminal then hits.
 */
static void fill_standard_fds(void)
{
	struct pollfd p[] = { { .fd = STDIN_FILENO }, { .fd = STDOUT_FILENO }, { .fd = STDERR_FILENO } };

	/* One call for all three. open(2) gives the lowest number that is free. */
	if (poll(p, ARRAY_SIZE(p), 0) <= 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(p); i++)
		if ((p[i].revents & POLLNVAL) && open("/dev/null", O_RDWR) < 0)
			return;
}

static int complain(const struct error *err)
{
	log_error("%s", err->text);
	return 1;
}

static int read_config(struct options *o, const char *path, struct error *err)
{
	char *text = malloc(CONFIG_FILE_MAX + 1), name[NAME_IN_SENTENCE_MAX];
	int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		r = error_set(err, errno, "--config %s: %s; check the path", path, strerror(errno));
	else if (!text)
		r = error_set(err, ENOMEM, "out of memory for --config %s", path);
	while (r == 0 && n > 0 && len <= CONFIG_FILE_MAX) {
		n = read(fd, text + len, CONFIG_FILE_MAX + 1 - len);
		if (n < 0)
			r = error_set(err, errno, "--config %s: %s", path, strerror(errno));
		else
			len += (size_t)n;
	}
	if (r == 0 && len > CONFIG_FILE_MAX)
		r = error_set(err, EFBIG, "--config %s: larger than 4 MiB; is it the right file?", path);
	snprintf(name, sizeof(name), "--config %s", path);
	if (r == 0)
		r = options_parse_json(o, text, len, name, err);
	if (fd >= 0)
		close(fd);
	free(text);
	return r;
}

static int open_log(const char *path, struct error *err)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

	if (!path)
		return 0;
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		return error_set(err, errno, "--log-file %s: %s; check the path", path, strerror(errno));
	close(fd);
	return 0;
}

/* Keeps `fds`, n of them, ascending. */
static void insert_fd(int *fds, size_t n, int fd)
{
	for (; n > 0 && fds[n - 1] > fd; n--)
		fds[n] = fds[n - 1];
	fds[n] = fd;
}

/* fds that the caller handed over by number, ascending: --net fd=. */
static size_t handed_fds(const struct options *o, int *ret, size_t max)
{
	size_t n = 0;

	for (const struct device_type *const *t = device_types; *t; t++) {
		if (!(*t)->options || !(*t)->handed_fd)
			continue;
		for (unsigned i = 0; i < options_count(o, (*t)->options->flag); i++) {
			const void *options = options_get(o, (*t)->options->flag, i);
			int fd;

			for (unsigned k = 0; n < max && (fd = (*t)->handed_fd(options, k)) >= 0; k++)
				insert_fd(ret, n++, fd);
		}
	}
	return n;
}

static enum sandbox_mode sandbox_mode(const struct options *o)
{
	const struct options_choice *c = options_get(o, "seccomp", 0);

	return c->value == SECCOMP_FALSE ? SANDBOX_OFF : c->value == SECCOMP_LOG ? SANDBOX_LOG : SANDBOX_KILL;
}

/*
 * The usual soft limit is for programs that select(2); a machine with many queues needs more. Stage
 * 3 sets the last word.
 */
static void raise_file_limit(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur >= FDS_LIMIT)
		return;
	r.rlim_cur = MIN(r.rlim_max, (rlim_t)FDS_LIMIT);
	setrlimit(RLIMIT_NOFILE, &r);
}

static int run(const struct options *o)
{
	struct sandbox_confine_config confine = { .mode = sandbox_mode(o), .nofile = FDS_LIMIT };
	int keep[FDS_KEPT_MAX], status = 1;
	struct jail jail;
	struct vm *vm = NULL;
	struct error err;

	raise_file_limit();
	/* Stage 1: what nobody needs any more. */
	if (sandbox_early(keep, handed_fds(o, keep, FDS_KEPT_MAX), &err) < 0)
		return complain(&err);
	/* Stage 2: open everything. */
	if (options_count(o, "jail")) {
		if (jail_open(&jail, options_get(o, "jail", 0), &err) < 0)
			return complain(&err);
		confine.jail = &jail;
	}
	if (vm_create(&vm, o, confine.mode, &err) < 0)
		return complain(&err);
	if (options_switch(o, "show-sandbox")) {
		vm_show_sandbox(vm);
		vm_destroy(vm);
		return 0;
	}
	/*
	 * Stage 3: from here on only fds. Stage 4: each thread seals itself as its first line, main
	 * as the last.
	 */
	confine.ahead = &vm->ahead;
	confine.wait = vm_wait_ahead;
	confine.ctx = vm;
	confine.main = &vm->main_role;
	confine.fork = vm_fork;
	confine.how = ((const struct options_choice *)options_get(o, "sandbox", 0))->value;
	if (sandbox_confine(&confine, &err) < 0 || vm_start(vm, &err) < 0)
		complain(&err);
	else
		status = vm_run(vm);
	vm_destroy(vm);
	return status;
}

/* Switches that print something and end. -1: none of them was given. */
static int print_and_end(const struct options *o)
{
	static const struct {
		const char *flag;
		void (*print)(const struct options *);
	} prints[] = {
		{ "help", options_print_help },
		{ "print-man", options_print_man },
		{ "print-config", options_print_json },
	};

	if (options_switch(o, "version")) {
		puts("microvm " MICROVM_VERSION);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(prints); i++)
		if (options_switch(o, prints[i].flag)) {
			prints[i].print(o);
			return 0;
		}
	return options_switch(o, "check") ? check_host() : -1;
}

static void prepare_heap(void)
{
	/*
	 * One arena: a thread that allocates its first byte must not map memory for an arena of its
	 * own.
	 */
	mallopt(M_ARENA_MAX, 1);
	/* In few steps. */
	mallopt(M_TOP_PAD, HEAP_STEP);
	/* What is large is hardly touched: not between what is. */
	mallopt(M_MMAP_THRESHOLD, HEAP_LARGE);
}

int main(int argc, char **argv)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	struct options *o = NULL;
	struct error err;
	const char *config;
	int r, status;

	fill_standard_fds();
	prepare_heap();
	r = options_table_collect(groups, ARRAY_SIZE(groups), device_types);
	if (r == 0)
		r = options_create(&o, groups);
	if (r < 0)
		return complain(&(struct error){ "out of memory" });
	r = options_parse_argv(o, argc, argv, &err);
	config = r == 0 ? options_string(o, "config") : NULL;
	if (config)
		r = read_config(o, config, &err);
	if (r == 0)
		r = open_log(options_string(o, "log-file"), &err);
	if (r < 0) {
		status = complain(&err);
	} else {
		log_level = (enum log_level)MIN(LOG_NOTICE + options_switch(o, "v"), (unsigned)LOG_DEBUG);
		status = print_and_end(o);
		if (status < 0)
			status = argc == 1 ? (options_print_help(o), 1) : run(o);
	}
	options_destroy(o);
	return status;
}
