/*
 * --jail: what an orchestrator that starts us as root wants us to become. Its places are opened
 * with the machine's files, in stage 2, and entered in stage 3; nothing is made or mounted.
 */
#ifndef VMM_JAIL_H
#define VMM_JAIL_H

#include <sys/types.h>

#include "vmm/error.h"

/* --jail; all 0 and NULL: none was asked for. */
struct options_jail {
	uint32_t uid, gid;
	char *cgroup, *netns, *root;
};

struct jail {
	uid_t uid;
	gid_t gid;
	int cgroup_fd, netns_fd, root_fd; /* -1: not asked for */
};

/*
 * Open what the options name. No path may hold a symbolic link or "..": who can plant one must not
 * choose where root goes. -EPERM for who is not root. Takes nothing on failure. Main, stage 2.
 */
int jail_open(struct jail *ret, const struct options_jail *options, struct error *err) NEEDS_CHECK;
void jail_close(struct jail *jail);

/*
 * Cgroup, network and root, with all rights still there. Closes the fds. Stage 3, before the
 * namespaces.
 */
int jail_enter(struct jail *jail, struct error *err) NEEDS_CHECK;
/* User and groups. Stage 3, after the namespaces. Nothing without a uid. */
int jail_become(const struct jail *jail, struct error *err) NEEDS_CHECK;

#endif
