/*
 * The groups of --rate-group: limits that several devices share. A group may have a parent, named
 * before it; one that is the parent of all others, or that all devices name, is the machine's.
 */
#ifndef VMM_RATE_GROUP_H
#define VMM_RATE_GROUP_H

#include "vmm/options.h"
#include "vmm/rate.h"

struct rate_groups;

extern const struct option_group rate_group_options;

/* Main, before devices are made; they hold pointers into it, so it is freed after them. */
int rate_groups_create(struct rate_groups **ret, const struct options *options,
	struct error *err) NEEDS_CHECK;
/* Takes NULL. */
void rate_groups_destroy(struct rate_groups *groups);
/* NULL: there is none of that name. Takes NULL. */
struct rate *rate_groups_find(struct rate_groups *groups, const char *name);

#endif
