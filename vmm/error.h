/*
 * One human sentence about what went wrong during set-up, written where it went wrong.
 *
 * Set-up functions take a `struct error *` beside returning -errno. The sentence names the option,
 * the value and what the user can do; it carries no prefix, no final newline. Whoever decides to
 * give up prints it once (main). Run-time paths (after the first KVM_RUN) return -errno only.
 */
#ifndef VMM_ERROR_H
#define VMM_ERROR_H

#include "vmm/util.h"

struct error {
	char text[512];
};

/* Fill `e` (may be NULL) and return -code; code is a positive errno. Any thread. */
int error_set(struct error *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/*
 * Put "context: " before the sentence that is already there. Returns `ret` so that a caller can end
 * with it.
 */
int error_prefix(struct error *e, int ret, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
