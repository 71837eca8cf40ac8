/* Where an initramfs goes: as high as it may, so that the kernel has all of low memory to itself.
 */
#ifndef FIRMWARE_INITRAMFS_H
#define FIRMWARE_INITRAMFS_H

#include "firmware/loader.h"

/*
 * Copy `image` into RAM, page aligned, not above k->initrd_max nor the identity map, not on the
 * kernel. *ret_gpa is its place. -ENOMEM with a sentence that has both sizes; -EINVAL when empty.
 */
int initramfs_load(uint64_t *ret_gpa, const struct fw_machine *m, const struct fw_image *image,
	const struct loader_kernel *k, struct error *e) NEEDS_CHECK;

#endif
