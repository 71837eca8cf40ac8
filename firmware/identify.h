/*
 * What a file is that was given as --kernel and is not one for this machine: told by its content,
 * with what to do about it, in the same words on every CPU.
 */
#ifndef FIRMWARE_IDENTIFY_H
#define FIRMWARE_IDENTIFY_H

#include "firmware/loader.h"

/* The machine that looks for a kernel. */
struct identify_machine {
	const char *cpu;  /* "x86_64" */
	const char *give; /* the kinds of kernel it takes: "a vmlinux or bzImage" */
};

/*
 * -ENOEXEC with a sentence in *e. The caller has tried all that it can load. `held_in` says what
 * the bytes were taken out of ("gzip"), NULL: they are the file itself.
 */
int identify_refuse(const struct fw_image *kernel, const char *held_in, const struct identify_machine *machine,
	struct error *e);

#endif
