/*
 * A table of what people give as --kernel by mistake. The offsets and bytes are those of the
 * formats' own specifications; the first row that matches is told. Pure; main thread.
 */
#include "firmware/identify.h"

#include <errno.h>

enum remedy {
	DO,        /* what the row says */
	GIVE,      /* the machine's own kinds of kernel */
	FOR_CPU,   /* a host of that CPU */
};

static const struct known_file {
	size_t offset;
	const char *magic;
	size_t len;
	const char *is;
	enum remedy remedy;
	const char *what;  /* DO: the remedy; FOR_CPU: its name */
	const char *start; /* besides: the file begins with these 4 bytes; NULL: anything */
} known_files[] = {
	{ 4, "zimg", 4, "a compressed EFI kernel (zboot)", GIVE },
	{ 56, "ARM\x64", 4, "a kernel for aarch64", FOR_CPU, "aarch64" },
	{ 56, "RSC\x05", 4, "a kernel for riscv64", FOR_CPU, "riscv64" },
	{ 0x202, "HdrS", 4, "a bzImage, a kernel for x86_64", FOR_CPU, "x86_64" },
	{ 18, "\x3e\0", 2, "an ELF file for x86_64", FOR_CPU, "x86_64", "\x7f" "ELF" },
	{ 18, "\xb7\0", 2, "an ELF file for aarch64", FOR_CPU, "aarch64", "\x7f" "ELF" },
	{ 0, "\x7f" "ELF", 4, "an ELF file for another CPU", GIVE },
	{ 0, "MZ", 2, "an EFI program without a Linux kernel header", GIVE },
	{ 0, "\x1f\x8b", 2, "a gzip file", DO, "unpack it first: gunzip" },
	{ 0, "\x28\xb5\x2f\xfd", 4, "a zstd file", DO, "unpack it first: unzstd" },
	{ 0, "\xfd\x37zXZ", 6, "an xz file", DO, "unpack it first: unxz" },
	{ 0, "\x02\x21\x4c\x18", 4, "an lz4 file", DO, "unpack it first: unlz4" },
	{ 0, "\x04\x22\x4d\x18", 4, "an lz4 file", DO, "unpack it first: unlz4" },
	{ 0, "BZh", 3, "a bzip2 file", DO, "unpack it first: bunzip2" },
	{ 0, "070701", 6, "a cpio archive", DO, "give it to --initramfs" },
	{ 0, "070702", 6, "a cpio archive", DO, "give it to --initramfs" },
	{ 0, "QFI\xfb", 4, "a qcow2 disk image", DO, "give it to --disk" },
	{ 0, "hsqs", 4, "a squashfs image", DO, "give it to --disk" },
	{ 0, "KDMV", 4, "a VMDK disk image", DO, "convert it to raw and give it to --disk" },
	{ 0x8001, "CD001", 5, "a CD image", DO, "give it to --disk" },
	{ 0x438, "\x53\xef", 2, "an ext4 file system", DO, "give it to --disk" },
	{ 0, "#!", 2, "a script", GIVE },
	{ 0, "\x27\x05\x19\x56", 4, "a U-Boot image", GIVE },
	{ 0, "\xd0\x0d\xfe\xed", 4, "a device tree", GIVE },
	{ 0, "!<arch>\n", 8, "a Debian package or archive", DO, "take the kernel out of it" },
	{ 510, "\x55\xaa", 2, "a boot sector or disk image", DO, "give it to --disk" },
};

static bool matches(const struct known_file *k, const struct fw_image *file)
{
	if (!range_inside(k->offset, k->len, 0, file->len) || memcmp(file->data + k->offset, k->magic, k->len))
		return false;
	return !k->start || !memcmp(file->data, k->start, 4);
}

int identify_refuse(const struct fw_image *kernel, const char *held_in, const struct identify_machine *machine,
	struct error *e)
{
	const char *holds = held_in ? "holds" : "is";

	for (size_t i = 0; i < ARRAY_SIZE(known_files); i++) {
		const struct known_file *k = &known_files[i];

		if (!matches(k, kernel))
			continue;
		if (k->remedy == FOR_CPU && !strcmp(k->what, machine->cpu))
			return error_set(e, ENOEXEC, "--kernel %s: %s %s, which cannot be loaded as it is; give %s",
				kernel->path, holds, k->is, machine->give);
		if (k->remedy == FOR_CPU)
			return error_set(e, ENOEXEC, "--kernel %s: %s %s; this host runs %s", kernel->path, holds,
				k->is, machine->cpu);
		if (k->remedy == GIVE)
			return error_set(e, ENOEXEC, "--kernel %s: %s %s; give %s for %s", kernel->path, holds, k->is,
				machine->give, machine->cpu);
		return error_set(e, ENOEXEC, "--kernel %s: %s %s; %s", kernel->path, holds, k->is, k->what);
	}
	if (held_in)
		return error_set(e, ENOEXEC, "--kernel %s: is a %s file without a kernel for %s in it; give %s",
			kernel->path, held_in, machine->cpu, machine->give);
	return error_set(e, ENOEXEC, "--kernel %s: is not a kernel; give %s", kernel->path, machine->give);
}
