/* bzImage: the packed kernel of x86, unpacked here or by itself in the guest (boot.rst). */
#ifndef FIRMWARE_BZIMAGE_H
#define FIRMWARE_BZIMAGE_H

#include "firmware/decompress.h"
#include "firmware/loader.h"

/* The setup header of a file, checked against the size of the file. */
struct bzimage {
	uint16_t version;
	uint64_t setup_size;	       /* where the protected-mode part begins */
	uint64_t payload, payload_len; /* in the file; 0, 0 when the header has none */
	uint64_t init_size, pref_address, alignment;
	bool relocatable, has_entry64;
	uint32_t initrd_max, cmdline_max;
};

/* Has the file the magic numbers of a bzImage? */
bool bzimage_match(const uint8_t *file, size_t len);

/* Read the header. -ENOEXEC: too old; -EBADMSG: truncated or damaged. */
int bzimage_parse(struct bzimage *ret, const struct fw_image *file, struct error *e) NEEDS_CHECK;

/*
 * Unpack the payload. -EOPNOTSUPP: no payload, or packed in a way that is not known here; -ELIBACC:
 * the library is missing; -EBADMSG: damaged. The sentence has no "--kernel path" in front of it.
 */
int bzimage_unpack(struct decompressed *ret, const struct bzimage *b, const struct fw_image *file,
	struct error *e) NEEDS_CHECK;

/* Load the packed kernel for its own 64-bit entry. -ENOMEM, or -ENOEXEC when it has none. */
int bzimage_load(struct loader_kernel *ret, const struct bzimage *b, const struct fw_machine *m,
	const struct fw_image *file, struct error *e) NEEDS_CHECK;

#endif
