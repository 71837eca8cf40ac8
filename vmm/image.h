/*
 * A file that the user names, as private bytes: kernels and initramfs, read again at each reset.
 * Main thread.
 */
#ifndef VMM_IMAGE_H
#define VMM_IMAGE_H

#include "vmm/error.h"

struct image {
	uint8_t *data; /* a mapping of its own; NULL: nothing was read */
	size_t len;
};

/*
 * Read the first `size` bytes of `fd`, which image_size() gave. `option` and `path` are for the
 * sentence. On failure *ret is untouched.
 */
int image_read(struct image *ret, const char *option, const char *path, int fd, size_t size,
	struct error *err) NEEDS_CHECK;
/*
 * How large it is, asked once, in stage 2; an error if it is no regular file, empty, or larger than
 * 1 GiB.
 */
int image_size(size_t *ret, const char *option, const char *path, int fd, struct error *err) NEEDS_CHECK;
/* Takes a zeroed one. */
void image_drop(struct image *image);

#endif
