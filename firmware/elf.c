/*
 * ELF64 kernels for x86_64 (System V ABI, chapters 4 and 5). A kernel is loaded by the physical
 * addresses of its PT_LOAD headers and entered by its Xen PHYS32_ENTRY note (PVH) or, without one,
 * at e_entry, which in a vmlinux is the physical address of the 64-bit entry point.
 *
 * The file is hostile. Every header is copied into a local once and checked there; what elf_parse
 * returns holds without another look at the file, and elf_load only compares it with the RAM that
 * there is. Nothing is written before all of it has been checked.
 */
#include "firmware/elf.h"

#include <elf.h>
#include <errno.h>

_Static_assert(sizeof(Elf64_Ehdr) == 64 && sizeof(Elf64_Phdr) == 56, "ELF-64, figures 4-3 and 5-1");

enum {
	/* public/elfnote.h of Xen */
	XEN_ELFNOTE_PHYS32_ENTRY = 18,
	/* Notes of a kernel take a few hundred bytes; a longer segment is only searched this far.
	 */
	NOTES_MAX = 64 * KIB,
};

static const struct {
	uint16_t machine;
	const char *name;
} machines[] = {
	{ EM_386, "i386" },
	{ EM_AARCH64, "aarch64" },
	{ EM_ARM, "arm" },
	{ EM_RISCV, "riscv64" },
	{ EM_PPC64, "ppc64" },
	{ EM_S390, "s390x" },
	{ EM_MIPS, "mips" },
	{ 258, "loongarch64" },
};

bool elf_match(const uint8_t *file, size_t len)
{
	return len >= SELFMAG && !memcmp(file, ELFMAG, SELFMAG);
}

static int damaged(struct error *e, const char *path, const char *what)
{
	return error_set(e, EBADMSG, "--kernel %s: damaged ELF file: %s; fetch or build it again",
		path, what);
}

static int wrong_machine(struct error *e, const char *path, unsigned machine)
{
	for (size_t i = 0; i < ARRAY_SIZE(machines); i++)
		if (machines[i].machine == machine)
			return error_set(e, ENOEXEC,
				"--kernel %s: is a kernel for %s; this host runs x86_64", path,
				machines[i].name);
	return error_set(e, ENOEXEC,
		"--kernel %s: is a kernel for ELF machine %u; this host runs x86_64", path,
		machine);
}

/* e_machine lies at the same place in files of 32 and 64 bit, so a foreign one is named first. */
static int check_header(const Elf64_Ehdr *h, const char *path, struct error *e)
{
	if (h->e_ident[EI_DATA] != ELFDATA2LSB)
		return error_set(e, ENOEXEC,
			"--kernel %s: is a big-endian ELF file; this host runs x86_64", path);
	if (h->e_machine != EM_X86_64)
		return wrong_machine(e, path, h->e_machine);
	if (h->e_ident[EI_CLASS] != ELFCLASS64)
		return error_set(e, ENOEXEC,
			"--kernel %s: is a 32-bit ELF file; give a 64-bit vmlinux", path);
	if (h->e_type == ET_REL)
		return error_set(e, ENOEXEC,
			"--kernel %s: is an object file or a kernel module; give a vmlinux or "
			"bzImage",
			path);
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return error_set(e, ENOEXEC,
			"--kernel %s: is an ELF file of type %u, not a kernel; give a vmlinux or "
			"bzImage",
			path, h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr))
		return damaged(e, path, "its program headers have the wrong size");
	if (!h->e_phnum || h->e_phnum > ELF_PHDRS_MAX)
		return damaged(e, path, "it has no program headers, or far too many");
	return 0;
}

static int add_segment(
	struct elf_kernel *k, const Elf64_Phdr *p, size_t len, const char *path, struct error *e)
{
	if (p->p_filesz > p->p_memsz)
		return damaged(e, path, "a segment is larger in the file than in memory");
	if (!range_inside(p->p_offset, p->p_filesz, 0, len))
		return error_set(e, EBADMSG,
			"--kernel %s: is truncated: a segment ends past the %zu bytes of the file; "
			"fetch it again",
			path, len);
	if (!p->p_memsz)
		return 0;
	if (!range_inside(p->p_paddr, p->p_memsz, FW_KERNEL_MIN, FW_IDENTITY_SIZE - FW_KERNEL_MIN))
		return error_set(e, EBADMSG,
			"--kernel %s: wants to lie at 0x%llx; a kernel must lie between 1 MiB and "
			"4 GiB",
			path, (unsigned long long)p->p_paddr);
	for (unsigned i = 0; i < k->nsegments; i++)
		if (ranges_overlap(
			    p->p_paddr, p->p_memsz, k->segments[i].gpa, k->segments[i].memsz))
			return damaged(e, path, "its segments overlap in memory");
	if (k->nsegments == ELF_SEGMENTS_MAX)
		return damaged(e, path, "it has too many segments");
	k->segments[k->nsegments++] = (struct elf_segment){
		.offset = p->p_offset,
		.filesz = p->p_filesz,
		.gpa = p->p_paddr,
		.memsz = p->p_memsz,
	};
	k->start = MIN(k->start, p->p_paddr);
	k->end = MAX(k->end, p->p_paddr + p->p_memsz);
	return 0;
}

/* The value of a PHYS32_ENTRY note: 4 bytes by its specification, 8 as Linux writes it. */
static void take_note(
	struct elf_kernel *k, const Elf64_Nhdr *n, const uint8_t *name, const uint8_t *desc)
{
	if (n->n_type != XEN_ELFNOTE_PHYS32_ENTRY || n->n_namesz != 4 || memcmp(name, "Xen", 4))
		return;
	if (n->n_descsz != 4 && n->n_descsz != 8)
		return;
	k->entry = get_le(desc, n->n_descsz);
	k->pvh = true;
}

/* Each round goes on by at least a note header, whatever the sizes in it claim. */
static void find_pvh_note(
	struct elf_kernel *k, const Elf64_Phdr *p, const uint8_t *file, size_t len)
{
	uint64_t align = p->p_align == 8 ? 8 : 4, at = 0, size;

	if (!range_inside(p->p_offset, p->p_filesz, 0, len))
		return;
	size = MIN(p->p_filesz, (uint64_t)NOTES_MAX);
	while (range_inside(at, sizeof(Elf64_Nhdr), 0, size)) {
		const uint8_t *note = file + p->p_offset + at;
		uint64_t desc, end;
		Elf64_Nhdr n;

		/* Two 32-bit sizes and 64-bit sums: nothing here can wrap. */
		memcpy(&n, note, sizeof(n));
		desc = align_up(sizeof(n) + (uint64_t)n.n_namesz, align);
		end = desc + n.n_descsz;
		if (!range_inside(at, end, 0, size))
			return;
		take_note(k, &n, note + sizeof(n), note + desc);
		at += align_up(end, align);
	}
}

static bool entry_is_inside(const struct elf_kernel *k)
{
	for (unsigned i = 0; i < k->nsegments; i++)
		if (range_inside(k->entry, 1, k->segments[i].gpa, k->segments[i].memsz))
			return true;
	return false;
}

static int parse_phdrs(struct elf_kernel *k, const Elf64_Ehdr *h, const uint8_t *file, size_t len,
	const char *path, struct error *e)
{
	if (!range_inside(h->e_phoff, (uint64_t)h->e_phnum * sizeof(Elf64_Phdr), 0, len))
		return error_set(e, EBADMSG,
			"--kernel %s: is truncated: its program headers lie past the %zu bytes of "
			"the "
			"file; fetch it again",
			path, len);
	for (unsigned i = 0; i < h->e_phnum; i++) {
		Elf64_Phdr p;
		int r;

		memcpy(&p, file + h->e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type == PT_INTERP)
			return error_set(e, ENOEXEC,
				"--kernel %s: is a program, not a kernel; give a vmlinux or "
				"bzImage",
				path);
		if (p.p_type == PT_NOTE)
			find_pvh_note(k, &p, file, len);
		if (p.p_type != PT_LOAD)
			continue;
		r = add_segment(k, &p, len, path, e);
		if (r)
			return r;
	}
	return 0;
}

int elf_parse(
	struct elf_kernel *ret, const uint8_t *file, size_t len, const char *path, struct error *e)
{
	struct elf_kernel k = { .start = UINT64_MAX };
	Elf64_Ehdr h;
	int r;

	if (len < sizeof(h))
		return error_set(e, EBADMSG,
			"--kernel %s: is truncated: %zu bytes do not hold an ELF header; fetch it "
			"again",
			path, len);
	memcpy(&h, file, sizeof(h));
	r = check_header(&h, path, e);
	if (r)
		return r;
	k.entry = h.e_entry;
	r = parse_phdrs(&k, &h, file, len, path, e);
	if (r)
		return r;
	if (!k.nsegments)
		return damaged(e, path, "it has nothing to load");
	if (!entry_is_inside(&k))
		return damaged(e, path, "its entry point lies outside of what it loads");
	*ret = k;
	return 0;
}

int elf_load(const struct elf_kernel *k, const struct fw_machine *m, const uint8_t *file,
	const char *path, bool fresh_ram, struct error *e)
{
	uint8_t *host[ELF_SEGMENTS_MAX];

	for (unsigned i = 0; i < k->nsegments; i++) {
		const struct elf_segment *s = &k->segments[i];

		host[i] = fw_ram_at(m, s->gpa, s->memsz);
		if (!host[i])
			return error_set(e, ENOMEM,
				"--kernel %s: lies at 0x%llx to 0x%llx, which is not all memory of "
				"the "
				"guest; give --memory size=%lluM or more",
				path, (unsigned long long)k->start, (unsigned long long)k->end,
				(unsigned long long)loader_mib(k->end));
	}
	for (unsigned i = 0; i < k->nsegments; i++) {
		const struct elf_segment *s = &k->segments[i];

		memcpy(host[i], file + s->offset, s->filesz);
		if (!fresh_ram)
			memset(host[i] + s->filesz, 0, s->memsz - s->filesz);
	}
	return 0;
}
