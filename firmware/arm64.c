/*
 * From an arm64 kernel file to the first instruction: unpack it if it is packed, check the header
 * of the Image, find room for kernel, device tree and initramfs, and write them.
 *
 * The headers are hostile: each field is read once and checked there. text_offset is bounded by 2
 * MiB, as all kernels have it, and image_size by RAM, so that no sum wraps.
 *
 * Runs on the main thread while no vCPU runs.
 */
#include "firmware/arm64.h"

#include <ctype.h>
#include <errno.h>

#include "firmware/decompress.h"
#include "firmware/identify.h"

enum { /* booting.rst, "4. Call the kernel image" */
	IMAGE_TEXT_OFFSET = 8,
	IMAGE_SIZE = 16,
	IMAGE_FLAGS = 24,
	IMAGE_MAGIC = 56,
	IMAGE_PE_OFFSET = 60,
	IMAGE_HEADER = 64,
	IMAGE_MAGIC_VALUE = 0x644d5241,
	FLAG_BIG_ENDIAN = 1,
	TEXT_OFFSET_OLD = 0x80000, /* of kernels that give no image_size */
	BASE_ALIGN = 2 * MIB,
	DTB_REACH = 512 * MIB,
};
#define INITRAMFS_REACH (32 * GIB)

enum { /* drivers/firmware/efi/libstub/zboot-header.S */
	ZBOOT_TYPE = 4,
	ZBOOT_PAYLOAD = 8,
	ZBOOT_PAYLOAD_SIZE = 12,
	ZBOOT_METHOD = 24,
	ZBOOT_HEADER = 64,
	ZBOOT_METHOD_MAX = 16,
};

enum { /* Microsoft PE format, "COFF File Header", "Section Table" */
	PE_SECTIONS = 6,
	PE_OPTIONAL_SIZE = 20,
	PE_HEADER = 24,
	PE_SECTION = 40,
	PE_RAW_SIZE = 16,
	PE_RAW_OFFSET = 20,
};

enum {
	UNPACKED_MAX = 512 * MIB,
	UNPACK_DEPTH = 2, /* gzip around zboot */
};

static const struct identify_machine this_machine = { .cpu = "aarch64", .give = "an arm64 Image, packed or not" };

/* A checked header. */
struct image {
	uint64_t text_offset, size;
};

/* Where everything goes. */
struct places {
	const struct fw_ram *ram;
	uint64_t kernel, dtb, initramfs;
};

static bool is_image(const struct fw_image *f)
{
	return f->len >= IMAGE_HEADER && get_le32(f->data + IMAGE_MAGIC) == IMAGE_MAGIC_VALUE;
}

static bool is_zboot(const struct fw_image *f)
{
	return f->len >= ZBOOT_HEADER && !memcmp(f->data, "MZ", 2) && !memcmp(f->data + ZBOOT_TYPE, "zimg", 4);
}

static int truncated(const struct fw_image *f, uint64_t want, struct error *e)
{
	return error_set(e, EBADMSG, "--kernel %s: is truncated: it has %zu bytes of at least %llu; fetch it again",
		f->path, f->len, (unsigned long long)want);
}

/* What packed the payload, as the header says it, for a sentence. */
static void method_name(char *name, const struct fw_image *f)
{
	unsigned n = 0;

	for (; n < ZBOOT_METHOD_MAX - 1 && isalnum(f->data[ZBOOT_METHOD + n]); n++)
		name[n] = (char)f->data[ZBOOT_METHOD + n];
	name[n] = '\0';
}

/* The payload of a zboot file, and what unpacks it. */
static int open_zboot(struct fw_image *payload, const struct decompress_format **format, const struct fw_image *f,
	struct error *e)
{
	uint64_t offset = get_le32(f->data + ZBOOT_PAYLOAD), len = get_le32(f->data + ZBOOT_PAYLOAD_SIZE);
	char name[ZBOOT_METHOD_MAX];

	if (!range_inside(offset, len, 0, f->len))
		return truncated(f, offset + len, e);
	if (offset < ZBOOT_HEADER || !len)
		return error_set(e, EBADMSG, "--kernel %s: is damaged: its header names no payload; fetch it again",
			f->path);
	*payload = (struct fw_image){ f->path, f->data + offset, len };
	*format = decompress_find(payload->data, len);
	if (*format)
		return 0;
	method_name(name, f);
	return error_set(e, ENOEXEC,
		"--kernel %s: is packed with \"%s\", which is not known here; give the Image that it was made of",
		f->path, name);
}

/*
 * Peel what is packed. *image is the innermost then, its bytes in *held or the file's own. A new
 * layer takes the place of the old one, so that at most two are in memory at a time.
 */
static int unpack(struct fw_image *image, struct decompressed *held, const char **held_in,
	const struct fw_image *kernel, struct error *e)
{
	*image = *kernel;
	for (unsigned depth = 0; depth < UNPACK_DEPTH && !is_image(image); depth++) {
		const struct decompress_format *format;
		struct fw_image payload = *image;
		struct decompressed d = { 0 };
		int r;

		if (is_zboot(image)) {
			r = open_zboot(&payload, &format, image, e);
			if (r)
				return r;
		} else {
			format = decompress_find(image->data, image->len);
			if (!format)
				return 0;
		}
		r = decompress_run(&d, format, payload.data, payload.len, UNPACKED_MAX, e);
		if (r)
			return error_prefix(e, r, "--kernel %s: cannot be unpacked", kernel->path);
		decompress_free(held);
		*held = d;
		*held_in = format->name;
		*image = (struct fw_image){ kernel->path, d.data, d.len };
	}
	return 0;
}

/*
 * An Image that is an EFI program too says in its section table how long the file is; that of
 * others is not known. A table that is not inside the file says as much.
 */
static int check_file_size(const struct fw_image *f, struct error *e)
{
	uint64_t pe = get_le32(f->data + IMAGE_PE_OFFSET), table, want = 0;
	unsigned n;

	if (memcmp(f->data, "MZ", 2) || !pe)
		return 0;
	if (!range_inside(pe, PE_HEADER, 0, f->len))
		return truncated(f, pe + PE_HEADER, e);
	if (memcmp(f->data + pe, "PE\0\0", 4))
		return 0;
	n = get_le16(f->data + pe + PE_SECTIONS);
	table = pe + PE_HEADER + get_le16(f->data + pe + PE_OPTIONAL_SIZE);
	if (!range_inside(table, n * (uint64_t)PE_SECTION, 0, f->len))
		return truncated(f, table + n * (uint64_t)PE_SECTION, e);
	for (const uint8_t *s = f->data + table; n--; s += PE_SECTION) {
		uint64_t end = (uint64_t)get_le32(s + PE_RAW_OFFSET) + get_le32(s + PE_RAW_SIZE);

		want = MAX(want, end);
	}
	return want > f->len ? truncated(f, want, e) : 0;
}

static int parse_image(struct image *ret, const struct fw_image *f, struct error *e)
{
	struct image i = {
		.text_offset = get_le64(f->data + IMAGE_TEXT_OFFSET),
		.size = get_le64(f->data + IMAGE_SIZE),
	};

	if (get_le64(f->data + IMAGE_FLAGS) & FLAG_BIG_ENDIAN)
		return error_set(e, ENOEXEC,
			"--kernel %s: is a big-endian kernel; build it with CONFIG_CPU_LITTLE_ENDIAN", f->path);
	if (!i.size) { /* before 3.17; text_offset is then in the kernel's own byte order */
		i.text_offset = TEXT_OFFSET_OLD;
		i.size = f->len;
	}
	if (i.text_offset >= BASE_ALIGN || !is_aligned(i.text_offset, PAGE_4K))
		return error_set(e, EBADMSG,
			"--kernel %s: is damaged: text_offset is 0x%llx, not pages below 2 MiB; fetch it again",
			f->path, (unsigned long long)i.text_offset);
	if (i.size < f->len)
		return error_set(e, EBADMSG,
			"--kernel %s: is damaged: its header says %llu bytes, it has %zu; fetch it again", f->path,
			(unsigned long long)i.size, f->len);
	*ret = i;
	return check_file_size(f, e);
}

/* The highest page-aligned place for `len` bytes in [start, end); 0: none. */
static uint64_t highest(uint64_t start, uint64_t end, uint64_t len)
{
	uint64_t at;

	if (end < start || end - start < len)
		return 0;
	at = align_down(end - len, PAGE_4K);
	return at >= start ? at : 0;
}

/* What a range of RAM lacks. */
enum fit { FITS, NO_KERNEL, NO_INITRAMFS };

/* All of it into `ram`, the device tree below `end`. */
static enum fit fit_below(struct places *p, const struct fw_ram *ram, uint64_t end, const struct image *i,
	uint64_t initramfs_len)
{
	uint64_t base = align_up(ram->gpa, BASE_ALIGN), kernel = base + i->text_offset, dtb, limit;

	/* By subtraction: the size is the header's word alone. */
	if (base < ram->gpa || kernel >= end || end - kernel < i->size)
		return NO_KERNEL;
	dtb = align_down(end, BASE_ALIGN) - FDT_ROOM;
	if (dtb < kernel + i->size || dtb > end)
		return NO_KERNEL;
	*p = (struct places){ .ram = ram, .kernel = kernel, .dtb = dtb };
	if (!initramfs_len)
		return FITS;
	limit = align_down(kernel, GIB) + INITRAMFS_REACH;
	p->initramfs = highest(kernel + i->size, MIN(dtb, limit), initramfs_len);
	return p->initramfs ? FITS : NO_INITRAMFS;
}

static enum fit fit(struct places *p, const struct fw_ram *ram, const struct image *i, uint64_t initramfs_len)
{
	uint64_t end = ram->gpa + ram->size;
	enum fit f = fit_below(p, ram, MIN(end, align_up(ram->gpa, BASE_ALIGN) + DTB_REACH), i, initramfs_len);

	return f == FITS ? f : fit_below(p, ram, end, i, initramfs_len);
}

static int does_not_fit(const struct fw_image *kernel, const struct fw_image *initramfs, const struct image *i,
	bool has_kernel, struct error *e)
{
	uint64_t need = loader_mib(i->text_offset) + loader_mib(i->size) + FDT_ROOM / MIB + BASE_ALIGN / MIB;

	if (i->size > INITRAMFS_REACH)
		return error_set(e, EBADMSG, "--kernel %s: is damaged: its header asks for %llu bytes; fetch it again",
			kernel->path, (unsigned long long)i->size);
	if (!has_kernel)
		return error_set(e, ENOMEM,
			"--kernel %s: takes %llu MiB of memory, and its device tree some more, which the guest does "
			"not have in one piece; give --memory size=%lluM or more", kernel->path,
			(unsigned long long)loader_mib(i->size), (unsigned long long)need);
	need += loader_mib(initramfs->len);
	if (need > INITRAMFS_REACH / MIB)
		return error_set(e, ENOMEM,
			"--initramfs %s: is %llu MiB; a kernel takes 32 GiB at most together with it; make it smaller",
			initramfs->path, (unsigned long long)loader_mib(initramfs->len));
	return error_set(e, ENOMEM,
		"--initramfs %s: is %llu MiB and does not fit beside the kernel; give --memory size=%lluM or more",
		initramfs->path, (unsigned long long)loader_mib(initramfs->len), (unsigned long long)need);
}

static int place(struct places *p, const struct fw_machine *m, const struct image *i, const struct fw_image *kernel,
	const struct fw_image *initramfs, struct error *e)
{
	bool has_kernel = false;

	for (unsigned n = 0; n < m->nram; n++) {
		enum fit f = fit(p, &m->ram[n], i, initramfs ? initramfs->len : 0);

		if (f == FITS)
			return 0;
		has_kernel |= f == NO_INITRAMFS;
	}
	return does_not_fit(kernel, initramfs, i, has_kernel, e);
}

/* The Image `f` and the rest into RAM. */
static int load_image(struct fw_entry64 *ret, const struct fw_machine *m, const struct fw_image *f,
	const struct fw_image *initramfs, const struct fdt_options *fdt, struct error *e)
{
	struct fdt_options o = *fdt;
	struct places p = { 0 };
	struct image i = { 0 };
	size_t dtb_len;
	int r = parse_image(&i, f, e);

	if (!r)
		r = place(&p, m, &i, f, initramfs, e);
	if (r)
		return r;
	memcpy(p.ram->host + (p.kernel - p.ram->gpa), f->data, f->len);
	o.initramfs = (struct fdt_range){ 0 };
	if (initramfs) {
		memcpy(p.ram->host + (p.initramfs - p.ram->gpa), initramfs->data, initramfs->len);
		o.initramfs = (struct fdt_range){ p.initramfs, initramfs->len };
	}
	r = fdt_build(m, &o, p.dtb, FDT_ROOM, &dtb_len, e);
	if (r)
		return r;
	*ret = (struct fw_entry64){
		.pc = p.kernel,
		.x0 = p.dtb,
		.kernel_gpa = p.kernel,
		.kernel_len = i.size,
		.initramfs_gpa = o.initramfs.base,
		.initramfs_len = o.initramfs.size,
		.dtb_len = dtb_len,
	};
	return 0;
}

int arm64_load(struct fw_entry64 *ret, const struct fw_machine *m, const struct fw_image *kernel,
	const struct fw_image *initramfs, const struct fdt_options *fdt, struct error *e)
{
	struct decompressed held = { 0 };
	const char *held_in = NULL;
	struct fw_image image;
	int r;

	if (!kernel->len)
		return error_set(e, ENOEXEC, "--kernel %s: is empty; fetch or build it again", kernel->path);
	if (initramfs && !initramfs->len)
		return error_set(e, EINVAL, "--initramfs %s: is empty; leave the option out or check the path",
			initramfs->path);
	r = unpack(&image, &held, &held_in, kernel, e);
	if (!r)
		r = is_image(&image) ? load_image(ret, m, &image, initramfs, fdt, e)
				     : identify_refuse(&image, held_in, &this_machine, e);
	decompress_free(&held);
	return r;
}
