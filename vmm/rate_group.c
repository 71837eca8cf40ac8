/*
 * The table of named rate limits; main makes it once and owns it. Each has a page for its buckets,
 * which no child has unless its device is of the group (process_see() in process.h).
 */
#include "vmm/rate_group.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct group_options {
	char *name, *parent;
	struct rate_options rate;
};

struct group {
	char *name;
	void *page;
	struct rate rate;
};

struct rate_groups {
	unsigned n;
	struct group group[];
};

static const struct option_row rows[] = {
	{ .key = "name", .type = OPTION_STRING, .offset = offsetof(struct group_options, name),
		.required = true, .help = "what devices call it in rate_group=" },
	{ .key = "parent", .type = OPTION_STRING, .offset = offsetof(struct group_options, parent),
		.help = "group before this one whose limits hold as well" },
	RATE_OPTION_ROWS(struct group_options, rate),
	OPTION_ROWS_END
};

const struct option_group rate_group_options = {
	.flag = "rate-group",
	.json = "rate_groups",
	.kind = OPTION_MANY,
	.size = sizeof(struct group_options),
	.rows = rows,
	.help = "a limit that several devices share",
	.section = "Machine",
};

struct rate *rate_groups_find(struct rate_groups *groups, const char *name)
{
	for (unsigned i = 0; groups && i < groups->n; i++)
		if (!strcmp(groups->group[i].name, name))
			return &groups->group[i].rate;
	return NULL;
}

static int add(struct rate_groups *groups, const struct group_options *o, struct error *err)
{
	struct group *g = &groups->group[groups->n];
	struct rate *parent = NULL;

	if (rate_groups_find(groups, o->name))
		return error_set(err, EEXIST, "--rate-group name=%s: there are two; give each its own name",
			o->name);
	if (o->parent) {
		parent = rate_groups_find(groups, o->parent);
		if (!parent)
			return error_set(err, ENOENT,
				"--rate-group name=%s,parent=%s: no such group stands before it", o->name,
				o->parent);
	}
	g->name = strdup(o->name);
	if (!g->name)
		return error_set(err, ENOMEM, "out of memory");
	groups->n++;
	g->page = mmap(NULL, PAGE_4K, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->page == MAP_FAILED || madvise(g->page, PAGE_4K, MADV_DONTFORK))
		return error_set(err, errno, "--rate-group name=%s: no memory for it: %s", o->name, strerror(errno));
	rate_init(&g->rate, parent);
	rate_share(&g->rate, g->page);
	return rate_configure(&g->rate, &o->rate, "rate-group", err);
}

int rate_groups_create(struct rate_groups **ret, const struct options *options, struct error *err)
{
	unsigned n = options_count(options, rate_group_options.flag);
	struct rate_groups *groups = calloc(1, sizeof(*groups) + n * sizeof(groups->group[0]));
	int r = 0;

	if (!groups)
		return error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < n && !r; i++)
		r = add(groups, options_get(options, rate_group_options.flag, i), err);
	if (r)
		rate_groups_destroy(groups);
	else
		*ret = groups;
	return r;
}

void rate_groups_destroy(struct rate_groups *groups)
{
	for (unsigned i = 0; groups && i < groups->n; i++) {
		free(groups->group[i].name);
		if (groups->group[i].page != MAP_FAILED)
			munmap(groups->group[i].page, PAGE_4K);
	}
	free(groups);
}
