/* Landlock without rules: landlock.c says what it is for. */
#ifndef VMM_LANDLOCK_H
#define VMM_LANDLOCK_H

#include <stdbool.h>

/*
 * Forbid the calling thread, and those it starts, all that this kernel's Landlock knows of. With
 * keep_remove files may still be removed (through directories that are open), with keep_signals
 * processes outside may still get signals. The version of the interface, or -errno: -EOPNOTSUPP and
 * -ENOSYS where the kernel has none. After no_new_privs; cannot be undone, and ends the right to
 * mount.
 */
int landlock_all(bool keep_remove, bool keep_signals);

enum { LANDLOCK_ABI_TRUNCATE = 3, LANDLOCK_ABI_NET = 4, LANDLOCK_ABI_SCOPES = 6 };

#endif
