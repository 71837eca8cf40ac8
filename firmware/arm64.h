/*
 * Kernel loader of an aarch64 guest (Documentation/arch/arm64/booting.rst of Linux).
 *
 * What a kernel file is, is told by its content:
 *   Image           taken as it is
 *   zboot           an EFI program with the packed Image inside ("zimg" behind MZ), unpacked on the
 *                   host
 *   Image.gz, .zst  and whatever else firmware/decompress.h knows, unpacked on the host; a zboot
 *                   may be inside
 *
 * Where things lie, in one range of RAM, the first that has room for all of them:
 *   the kernel      at its text_offset from the lowest 2 MiB boundary: kernels before 4.6 cannot
 *                   use RAM below it
 *   the device tree in 2 MiB of its own that end at the end of RAM, or 512 MiB above the kernel's
 *   boundary if that is
 *                   lower and all fits in there: kernels before 4.2 look no further
 *   the initramfs   as high as possible below the device tree, and within the 32 GiB from the GiB
 *                   boundary below the kernel on
 */
#ifndef FIRMWARE_ARM64_H
#define FIRMWARE_ARM64_H

#include "firmware/fdt.h"
#include "firmware/loader.h"

/*
 * Registers of the first vCPU: pc, x0, x1 to x3 zero; EL1, interrupts masked, MMU off. The rest
 * says what is where, and lies apart from each other in RAM.
 */
struct fw_entry64 {
	uint64_t pc, x0; /* x0: the device tree */
	uint64_t kernel_gpa, kernel_len; /* with what its header asks for beyond the file */
	uint64_t initramfs_gpa, initramfs_len;
	size_t dtb_len;
};

/*
 * Load `kernel` and `initramfs` (NULL: none) and build the device tree of `m` and `fdt`, whose
 * `initramfs` range is filled in here. No vCPU runs meanwhile. May be called again after a reset,
 * see loader_load() about opening files. -ENOEXEC: not a kernel for this machine; -EBADMSG: a
 * damaged one; -ENOMEM: it does not fit; -EINVAL; -ELIBACC: the library that unpacks it is not
 * installed; or an error of fdt_build(). Then *ret is untouched, RAM may be partly written, *e says
 * what to do.
 */
int arm64_load(struct fw_entry64 *ret, const struct fw_machine *m, const struct fw_image *kernel,
	const struct fw_image *initramfs, const struct fdt_options *fdt, struct error *e) NEEDS_CHECK;

#endif
