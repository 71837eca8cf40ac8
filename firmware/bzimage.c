/*
 * bzImage (Documentation/arch/x86/boot.rst of Linux). The file is a real-mode part, of which only
 * the setup header at 0x1f1 matters here, then a protected-mode part: a decompressor with the
 * packed kernel, the payload, inside. From protocol 2.08 the header tells where the payload lies,
 * so that it can be unpacked here; from 2.12 it tells whether the decompressor has a 64-bit entry.
 *
 * The header is hostile: each field is read once into struct bzimage and checked there. What it
 * says about memory (init_size, pref_address, kernel_alignment) is compared with RAM before a byte
 * is written, in sums that cannot wrap: 32-bit fields, and pref_address bounded by 4 GiB first.
 */
#include "firmware/bzimage.h"

#include <errno.h>

#include "firmware/bootparams.h"

enum {
	SECTOR = 512,
	SETUP_SECTS_DEFAULT = 4, /* boot.rst: "0 means 4" */
	VERSION_MIN = 0x0206,
	VERSION_PAYLOAD = 0x0208,
	VERSION_INIT_SIZE = 0x020a,
	VERSION_XLOADFLAGS = 0x020c,
	ENTRY64 = 0x200, /* from the start of the protected-mode part */
	UNPACKED_MAX = 512 * MIB,
	PARAGRAPH = 16,
};

bool bzimage_match(const uint8_t *file, size_t len)
{
	return len >= BP_HEADER_MAX && get_le16(file + BP_BOOT_FLAG_16) == BP_BOOT_FLAG_VALUE &&
	       get_le32(file + BP_MAGIC) == BP_MAGIC_VALUE;
}

static int truncated(const struct fw_image *file, uint64_t want, struct error *e)
{
	return error_set(e, EBADMSG,
		"--kernel %s: is truncated: it has %zu bytes of at least %llu; fetch it again",
		file->path, file->len, (unsigned long long)want);
}

static void read_memory_fields(struct bzimage *b, const uint8_t *h)
{
	b->initrd_max = get_le32(h + BP_INITRD_MAX);
	b->cmdline_max = get_le32(h + BP_CMDLINE_SIZE);
	b->alignment = get_le32(h + BP_KERNEL_ALIGNMENT);
	b->relocatable = h[BP_RELOCATABLE_8];
	if (b->version >= VERSION_INIT_SIZE) {
		b->pref_address = get_le64(h + BP_PREF_ADDRESS_64);
		b->init_size = get_le32(h + BP_INIT_SIZE);
	}
	if (b->version >= VERSION_XLOADFLAGS)
		b->has_entry64 = get_le16(h + BP_XLOADFLAGS_16) & BP_XLF_KERNEL_64;
}

static int read_payload(struct bzimage *b, const struct fw_image *file, struct error *e)
{
	uint64_t offset, len;

	if (b->version < VERSION_PAYLOAD)
		return 0;
	offset = get_le32(file->data + BP_PAYLOAD_OFFSET);
	len = get_le32(file->data + BP_PAYLOAD_LENGTH);
	if (!len)
		return 0;
	if (!range_inside(b->setup_size + offset, len, 0, file->len))
		return truncated(file, b->setup_size + offset + len, e);
	b->payload = b->setup_size + offset;
	b->payload_len = len;
	return 0;
}

int bzimage_parse(struct bzimage *ret, const struct fw_image *file, struct error *e)
{
	struct bzimage b = { .version = get_le16(file->data + BP_VERSION_16) };
	unsigned sectors = file->data[BP_SETUP_SECTS_8];
	uint64_t size;
	int r;

	if (b.version < VERSION_MIN)
		return error_set(e, ENOEXEC,
			"--kernel %s: speaks boot protocol %u.%02u, 2.06 is the oldest known here; "
			"give "
			"a newer kernel",
			file->path, b.version >> 8, b.version & 0xff);
	b.setup_size = ((sectors ? sectors : SETUP_SECTS_DEFAULT) + 1) * SECTOR;
	/* syssize counts paragraphs and may round up the last one. */
	size = b.setup_size + (uint64_t)get_le32(file->data + BP_SYSSIZE) * PARAGRAPH;
	if (file->len <= b.setup_size || file->len + PARAGRAPH <= size)
		return truncated(file, MAX(size, b.setup_size + 1), e);
	read_memory_fields(&b, file->data);
	r = read_payload(&b, file, e);
	if (r)
		return r;
	*ret = b;
	return 0;
}

/*
 * How much will come out stands in the last 4 bytes of the payload: gzip ends with it, behind the
 * other formats the kernel build puts it (scripts/Makefile.lib, "size_append").
 */
int bzimage_unpack(struct decompressed *ret, const struct bzimage *b, const struct fw_image *file,
	struct error *e)
{
	const struct decompress_format *format;
	const uint8_t *payload = file->data + b->payload;
	uint32_t size;

	if (b->payload_len <= sizeof(size))
		return error_set(e, EOPNOTSUPP, "its header names no payload");
	format = decompress_find(payload, b->payload_len);
	if (!format)
		return error_set(e, EOPNOTSUPP, "it is packed in an unknown way");
	size = get_le32(payload + b->payload_len - sizeof(size));
	if (!size || size > UNPACKED_MAX)
		return error_set(e, EBADMSG, "the %s data is damaged: its size is given as %u",
			format->name, size);
	return decompress_run(ret, format, payload, b->payload_len, size, e);
}

/* Is there RAM for the kernel at `gpa`, in one piece and where the page tables reach? */
static uint8_t *ram_for(const struct fw_machine *m, uint64_t gpa, uint64_t len)
{
	if (!range_inside(gpa, len, FW_KERNEL_MIN, FW_IDENTITY_SIZE - FW_KERNEL_MIN))
		return NULL;
	return fw_ram_at(m, gpa, len);
}

/* Where it prefers to be, or as low as it may where a small guest has no RAM there. */
static uint8_t *place(
	uint64_t *ret_gpa, const struct bzimage *b, const struct fw_machine *m, uint64_t len)
{
	uint8_t *host = ram_for(m, b->pref_address, len);

	*ret_gpa = b->pref_address;
	if (host || !b->relocatable)
		return host;
	*ret_gpa = align_up(FW_KERNEL_MIN, b->alignment);
	return ram_for(m, *ret_gpa, len);
}

static int check_placement(const struct bzimage *b, const char *path, struct error *e)
{
	if (!b->has_entry64)
		return error_set(e, ENOEXEC,
			"--kernel %s: its decompressor has no 64-bit entry; give a 64-bit kernel "
			"of "
			"Linux 3.8 or later",
			path);
	if (!is_pow2(b->alignment))
		return error_set(e, EBADMSG,
			"--kernel %s: is damaged: kernel_alignment is 0x%llx, not a power of two; "
			"fetch "
			"it again",
			path, (unsigned long long)b->alignment);
	if (!is_aligned(b->pref_address, PAGE_4K))
		return error_set(e, EBADMSG,
			"--kernel %s: is damaged: pref_address is 0x%llx; fetch it again", path,
			(unsigned long long)b->pref_address);
	return 0;
}

int bzimage_load(struct loader_kernel *ret, const struct bzimage *b, const struct fw_machine *m,
	const struct fw_image *file, struct error *e)
{
	uint64_t size = file->len - b->setup_size, len = MAX(b->init_size, size), gpa;
	uint8_t *host;
	int r;

	r = check_placement(b, file->path, e);
	if (r)
		return r;
	if (size <= ENTRY64)
		return truncated(file, b->setup_size + ENTRY64 + 1, e);
	host = place(&gpa, b, m, len);
	if (!host)
		return error_set(e, ENOMEM,
			"--kernel %s: needs %llu MiB of memory from 0x%llx on to unpack itself, "
			"which "
			"the guest does not have; give --memory size=%lluM or more",
			file->path, (unsigned long long)loader_mib(len), (unsigned long long)gpa,
			(unsigned long long)(loader_mib(len) + loader_mib(gpa)));
	memcpy(host, file->data + b->setup_size, size);
	*ret = (struct loader_kernel){
		.kind = FW_ENTRY_LINUX64,
		.ip = gpa + ENTRY64,
		.gpa = gpa,
		.len = len,
		.initrd_max = b->initrd_max,
		.cmdline_max = b->cmdline_max,
		.header = file->data,
		.header_len = file->len,
	};
	return 0;
}
