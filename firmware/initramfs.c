/*
 * The initramfs. boot.rst asks for "as high as possible" below initrd_addr_max; below 4 GiB
 * besides, because both boot protocols hand 32-bit addresses to some kernels, and our page tables
 * end there.
 *
 * Two gaps per RAM range are looked at, the highest first: above the kernel and below it. The
 * kernel takes a little room after its end for tables that it makes before it reads what it was
 * given.
 */
#include "firmware/initramfs.h"

#include <errno.h>

enum { KERNEL_ROOM = 2 * MIB };

/* The highest page-aligned place for `len` bytes in [start, end); 0: none. */
static uint64_t highest(uint64_t start, uint64_t end, uint64_t len)
{
	uint64_t gpa;

	start = MAX(start, (uint64_t)FW_KERNEL_MIN);
	if (end < start || end - start < len)
		return 0;
	gpa = align_down(end - len, PAGE_4K);
	return gpa >= start ? gpa : 0;
}

static uint64_t place(
	const struct fw_machine *m, uint64_t len, uint64_t limit, const struct loader_kernel *k)
{
	uint64_t kernel_end = align_up(k->gpa + k->len + KERNEL_ROOM, PAGE_4K);

	for (unsigned i = m->nram; i-- > 0;) {
		uint64_t start = m->ram[i].gpa;
		uint64_t end = MIN(start + m->ram[i].size, limit);
		uint64_t gpa = highest(MAX(start, kernel_end), end, len);

		if (!gpa)
			gpa = highest(start, MIN(end, k->gpa), len);
		if (gpa)
			return gpa;
	}
	return 0;
}

static int too_large(const struct fw_machine *m, const struct fw_image *image, uint64_t limit,
	const struct loader_kernel *k, struct error *e)
{
	uint64_t ram = 0, need;

	for (unsigned i = 0; i < m->nram; i++)
		ram += m->ram[i].size;
	need = k->gpa + k->len + KERNEL_ROOM + image->len;
	/* More memory helps only where a kernel may look for it. */
	if (need >= limit || need <= ram)
		return error_set(e, ENOMEM,
			"--initramfs %s: is %llu MiB; it must lie below %llu MiB, where so much is "
			"not "
			"free in one piece; make it smaller",
			image->path, (unsigned long long)loader_mib(image->len),
			(unsigned long long)(limit / MIB));
	return error_set(e, ENOMEM,
		"--initramfs %s: is %llu MiB and does not fit beside the kernel into %llu MiB; "
		"give "
		"--memory size=%lluM or more",
		image->path, (unsigned long long)loader_mib(image->len),
		(unsigned long long)(ram / MIB), (unsigned long long)loader_mib(need));
}

int initramfs_load(uint64_t *ret_gpa, const struct fw_machine *m, const struct fw_image *image,
	const struct loader_kernel *k, struct error *e)
{
	uint64_t limit = MIN(k->initrd_max, FW_IDENTITY_SIZE - 1) + 1, gpa;

	if (!image->len)
		return error_set(e, EINVAL,
			"--initramfs %s: is empty; leave the option out or check the path",
			image->path);
	gpa = place(m, image->len, limit, k);
	if (!gpa)
		return too_large(m, image, limit, k, e);
	memcpy(fw_ram_at(m, gpa, image->len), image->data, image->len);
	*ret_gpa = gpa;
	return 0;
}
