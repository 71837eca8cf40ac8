/*
 * From a kernel file to the first instruction: find out what the file is, have it loaded, then put
 * the command line, the initramfs and the boot data of its protocol beside it.
 *
 * Runs on the main thread while no vCPU runs: at start, and again for a guest that resets.
 */
#include "firmware/loader.h"

#include <errno.h>

#include "firmware/bootparams.h"
#include "firmware/bzimage.h"
#include "firmware/elf.h"
#include "firmware/identify.h"
#include "firmware/initramfs.h"
#include "firmware/pvh.h"

static const struct identify_machine this_machine = { .cpu = "x86_64", .give = "a vmlinux or bzImage" };

/* Enter an ELF that lies in `file`; of a bzImage that held it come the limits in *ret. */
static int load_elf(struct loader_kernel *ret, const struct elf_kernel *elf,
	const struct fw_machine *m, const uint8_t *file, const char *path, bool fresh_ram,
	struct error *e)
{
	int r = elf_load(elf, m, file, path, fresh_ram, e);

	if (r)
		return r;
	ret->kind = elf->pvh ? FW_ENTRY_PVH : FW_ENTRY_LINUX64;
	ret->ip = elf->entry;
	ret->gpa = elf->start;
	ret->len = elf->end - elf->start;
	return 0;
}

/*
 * Unpack and enter what is inside. 1: it cannot be entered that way and may boot by itself, *e says
 * why. A damaged payload is an error: the guest's own decompressor would only halt later.
 */
static int load_unpacked(struct loader_kernel *ret, const struct bzimage *b,
	const struct fw_machine *m, const struct fw_image *kernel, bool fresh_ram, struct error *e)
{
	struct decompressed d = { 0 };
	struct elf_kernel elf;
	int r = bzimage_unpack(&d, b, kernel, e);

	if (r == -EOPNOTSUPP || r == -ELIBACC)
		return 1;
	if (r)
		return error_prefix(e, r, "--kernel %s: cannot be unpacked", kernel->path);
	if (!elf_match(d.data, d.len)) {
		error_set(e, ENOEXEC, "it holds no ELF kernel");
		r = 1;
	} else {
		r = elf_parse(&elf, d.data, d.len, kernel->path, e);
		if (!r)
			r = load_elf(ret, &elf, m, d.data, kernel->path, fresh_ram, e);
	}
	decompress_free(&d);
	return r;
}

static int load_bzimage(struct loader_kernel *ret, const struct fw_machine *m,
	const struct fw_image *kernel, const struct loader_options *opts, struct error *e)
{
	struct bzimage b;
	int r = bzimage_parse(&b, kernel, e);

	if (r)
		return r;
	if (!opts->keep_compressed) {
		ret->initrd_max = b.initrd_max;
		ret->cmdline_max = b.cmdline_max;
		ret->header = kernel->data;
		ret->header_len = kernel->len;
		r = load_unpacked(ret, &b, m, kernel, opts->fresh_ram, e);
		if (r <= 0)
			return r;
		if (!b.has_entry64)
			return error_prefix(e, -ENOEXEC,
				"--kernel %s: has no 64-bit entry and cannot be unpacked here",
				kernel->path);
		log_warn("--kernel %s: is unpacked in the guest, which is slower: %s", kernel->path,
			e->text);
	}
	return bzimage_load(ret, &b, m, kernel, e);
}

static int load_kernel(struct loader_kernel *ret, const struct fw_machine *m,
	const struct fw_image *kernel, const struct loader_options *opts, struct error *e)
{
	struct elf_kernel elf;
	int r;

	if (!kernel->len)
		return error_set(
			e, ENOEXEC, "--kernel %s: is empty; fetch or build it again", kernel->path);
	if (bzimage_match(kernel->data, kernel->len))
		return load_bzimage(ret, m, kernel, opts, e);
	if (!elf_match(kernel->data, kernel->len))
		return identify_refuse(kernel, NULL, &this_machine, e);
	r = elf_parse(&elf, kernel->data, kernel->len, kernel->path, e);
	if (r)
		return r;
	ret->initrd_max = UINT32_MAX;
	ret->cmdline_max = LOADER_CMDLINE_MAX;
	return load_elf(ret, &elf, m, kernel->data, kernel->path, opts->fresh_ram, e);
}

/* The kernel's limit counts, but not further than what the low map has room for. */
static int write_cmdline(const struct fw_machine *m, const struct loader_kernel *k, struct error *e)
{
	const char *cmdline = m->cmdline ? m->cmdline : "";
	size_t len = strlen(cmdline);
	size_t max = MIN(k->cmdline_max, (uint32_t)FW_LOW_CMDLINE_SIZE - 1);

	if (len > max)
		return error_set(e, E2BIG,
			"--cmdline: has %zu characters, this kernel takes %zu; make it shorter",
			len, max);
	memcpy(fw_ram_at(m, FW_LOW_CMDLINE, len + 1), cmdline, len + 1);
	return 0;
}

static int write_boot_data(struct fw_entry *entry, const struct fw_machine *m,
	const struct loader_kernel *k, const struct fw_image *initramfs,
	const struct loader_options *opts, struct error *e)
{
	int r = write_cmdline(m, k, e);

	if (r)
		return r;
	if (initramfs) {
		r = initramfs_load(&entry->initramfs_gpa, m, initramfs, k, e);
		if (r)
			return r;
		entry->initramfs_len = initramfs->len;
	}
	bootparams_write_gdt(entry, m);
	if (k->kind == FW_ENTRY_PVH) {
		pvh_write(entry, m, opts->rsdp);
	} else {
		bootparams_write(entry, m, k, opts->rsdp);
		bootparams_write_page_tables(entry, m);
	}
	return 0;
}

int loader_load(struct fw_entry *ret, const struct fw_machine *m, const struct fw_image *kernel,
	const struct fw_image *initramfs, const struct loader_options *opts, struct error *e)
{
	struct loader_kernel k = { 0 };
	struct fw_entry entry;
	struct error mine; /* the reason of a fallback is logged even when the caller wants none */
	int r;

	if (!e)
		e = &mine;
	if (!fw_ram_at(m, 0, FW_LOW_RAM_END))
		return error_set(e, ENOMEM, "--memory: is less than 1 MiB; give size=128M or more");
	r = load_kernel(&k, m, kernel, opts, e);
	if (r)
		return r;
	entry = (struct fw_entry){
		.kind = k.kind,
		.ip = k.ip,
		.kernel_gpa = k.gpa,
		.kernel_len = k.len,
	};
	r = write_boot_data(&entry, m, &k, initramfs, opts, e);
	if (r)
		return r;
	*ret = entry;
	return 0;
}
