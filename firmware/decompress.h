/*
 * Unpacking on the host what kernels are packed with: gzip, zstd, lz4 (legacy frames), xz, lzma.
 *
 * The libraries are loaded on demand, so that a start with an uncompressed kernel does not pay for
 * them, and a host without one of them can still do everything else.
 */
#ifndef FIRMWARE_DECOMPRESS_H
#define FIRMWARE_DECOMPRESS_H

#include "vmm/error.h"

/* Unpack into out[0..cap); *ret_len is what came out. -EBADMSG: damaged, or more than `cap`. */
typedef int decompress_fn(
	void *lib, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *ret_len);

struct decompress_format {
	const char *name, *soname, *package;
	uint8_t magic[6];
	uint8_t magic_len;
	decompress_fn *run;
};

/* All formats; the last row has no name. */
extern const struct decompress_format decompress_formats[];

/* A scratch buffer of its own mapping. */
struct decompressed {
	uint8_t *data;
	size_t len, mapped;
};

/* The format whose magic the bytes begin with, NULL when there is none. Never loads a library. */
const struct decompress_format *decompress_find(const uint8_t *in, size_t len);

/*
 * Unpack the stream that `in` begins with; bytes after its end are ignored. At most `cap` bytes
 * come out, and only pages that are written take memory. -EBADMSG: damaged or larger than `cap`;
 * -ELIBACC: the library is not installed, the sentence names the package. *e has no prefix.
 */
int decompress_run(struct decompressed *ret, const struct decompress_format *format,
	const uint8_t *in, size_t len, size_t cap, struct error *e) NEEDS_CHECK;

/* Takes a zeroed one. */
void decompress_free(struct decompressed *d);

#endif
