/*
 * Unpacking kernels on the host, by libraries that are loaded when they are needed.
 *
 * One row per format: its magic, the library, the Debian package that has it, and a function that
 * finds its symbols and unpacks. Types and prototypes come from the libraries' headers, so that a
 * call through dlsym is checked by the compiler like any other; nothing is linked.
 *
 * A library stays loaded. After a reset the kernel is unpacked again, then perhaps in a sandbox in
 * which no file can be opened, and a dlopen of what is loaded opens none.
 *
 * The output is bounded by the caller and goes into one anonymous mapping: pages that nothing is
 * written to cost nothing, and huge pages make it a few faults instead of ten thousand.
 */
#include "firmware/decompress.h"

#define ZLIB_CONST /* zlib.h: next_in is a pointer to const */

#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include "vmm/library.h"

enum {
	LZ4_LEGACY_MAGIC = 0x184c2102,
	LZ4_LEGACY_BLOCK = 8 * MIB, /* lz4_Frame_format.md, "Legacy frame": of each block */
	HUGE_PAGE = 2 * MIB,
};

/* What liblzma may take; the dictionary of `xz -9` is 64 MiB, Linux uses 32 MiB at most. */
#define LZMA_MEMORY_MAX (UINT64_C(160) * MIB)

/* RFC 1952; 16 + 15: a gzip header, the largest window. zlib checks the CRC and the size. */
static int run_gzip(
	void *lib, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *ret_len)
{
	LIBRARY_SYMBOL(lib, inflateInit2_);
	LIBRARY_SYMBOL(lib, inflate);
	LIBRARY_SYMBOL(lib, inflateEnd);
	z_stream z = { .next_in = in, .next_out = out };
	int r;

	if (!lib_inflateInit2_ || !lib_inflate || !lib_inflateEnd)
		return -ELIBACC;
	if (len > UINT32_MAX || cap > UINT32_MAX)
		return -EBADMSG;
	z.avail_in = (uInt)len;
	z.avail_out = (uInt)cap;
	if (lib_inflateInit2_(&z, 16 + MAX_WBITS, ZLIB_VERSION, (int)sizeof(z)) != Z_OK)
		return -ENOMEM;
	r = lib_inflate(&z, Z_FINISH);
	*ret_len = cap - z.avail_out;
	lib_inflateEnd(&z);
	return r == Z_STREAM_END ? 0 : -EBADMSG;
}

/* RFC 8878. One frame, whose end is looked up first: ZSTD_decompress refuses bytes after it. */
static int run_zstd(
	void *lib, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *ret_len)
{
	LIBRARY_SYMBOL(lib, ZSTD_findFrameCompressedSize);
	LIBRARY_SYMBOL(lib, ZSTD_decompress);
	LIBRARY_SYMBOL(lib, ZSTD_isError);
	size_t n;

	if (!lib_ZSTD_findFrameCompressedSize || !lib_ZSTD_decompress || !lib_ZSTD_isError)
		return -ELIBACC;
	n = lib_ZSTD_findFrameCompressedSize(in, len);
	if (lib_ZSTD_isError(n))
		return -EBADMSG;
	n = lib_ZSTD_decompress(out, cap, in, n);
	if (lib_ZSTD_isError(n))
		return -EBADMSG;
	*ret_len = n;
	return 0;
}

/*
 * lz4_Frame_format.md, "Legacy frame": a magic, then blocks of a 32-bit size and that many bytes,
 * up to the end of the data. Linux puts the size of the whole behind them, 4 bytes: too few for a
 * block.
 */
static int run_lz4(
	void *lib, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *ret_len)
{
	LIBRARY_SYMBOL(lib, LZ4_decompress_safe);
	size_t at = 4, done = 0;

	if (!lib_LZ4_decompress_safe)
		return -ELIBACC;
	while (len - at > 4) {
		uint32_t size = get_le32(in + at);
		size_t room = MIN(cap - done, (size_t)LZ4_LEGACY_BLOCK);
		int n;

		at += 4;
		if (size == LZ4_LEGACY_MAGIC) /* frames may follow each other */
			continue;
		if (!size || size > len - at || size > INT32_MAX)
			return -EBADMSG;
		n = lib_LZ4_decompress_safe(
			(const char *)in + at, (char *)out + done, (int)size, (int)room);
		if (n <= 0)
			return -EBADMSG;
		at += size;
		done += (size_t)n;
	}
	*ret_len = done;
	return done ? 0 : -EBADMSG;
}

/* xz with whatever filters (Linux: BCJ x86 and LZMA2), and the older lzma format. */
static int run_lzma(
	void *lib, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *ret_len)
{
	LIBRARY_SYMBOL(lib, lzma_auto_decoder);
	LIBRARY_SYMBOL(lib, lzma_code);
	LIBRARY_SYMBOL(lib, lzma_end);
	lzma_stream z = LZMA_STREAM_INIT;
	lzma_ret r;

	if (!lib_lzma_auto_decoder || !lib_lzma_code || !lib_lzma_end)
		return -ELIBACC;
	if (lib_lzma_auto_decoder(&z, LZMA_MEMORY_MAX, 0) != LZMA_OK)
		return -ENOMEM;
	z.next_in = in;
	z.avail_in = len;
	z.next_out = out;
	z.avail_out = cap;
	r = lib_lzma_code(&z, LZMA_RUN);
	*ret_len = cap - z.avail_out;
	lib_lzma_end(&z);
	return r == LZMA_STREAM_END ? 0 : -EBADMSG;
}

const struct decompress_format decompress_formats[] = {
	{ "gzip", "libz.so.1", "zlib1g", { 0x1f, 0x8b }, 2, run_gzip },
	{ "zstd", "libzstd.so.1", "libzstd1", { 0x28, 0xb5, 0x2f, 0xfd }, 4, run_zstd },
	{ "lz4", "liblz4.so.1", "liblz4-1", { 0x02, 0x21, 0x4c, 0x18 }, 4, run_lz4 },
	{ "xz", "liblzma.so.5", "liblzma5", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, run_lzma },
	{ "lzma", "liblzma.so.5", "liblzma5", { 0x5d, 0, 0 }, 3, run_lzma },
	{ NULL },
};

const struct decompress_format *decompress_find(const uint8_t *in, size_t len)
{
	for (const struct decompress_format *f = decompress_formats; f->name; f++)
		if (len >= f->magic_len && !memcmp(in, f->magic, f->magic_len))
			return f;
	return NULL;
}

static int map_scratch(struct decompressed *d, size_t cap, struct error *e)
{
	d->mapped = align_up(MAX(cap, (size_t)1), HUGE_PAGE);
	d->data = mmap(NULL, d->mapped, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->data == MAP_FAILED) {
		d->data = NULL;
		return error_set(e, errno, "no memory to unpack %llu MiB; free some on this host",
			(unsigned long long)(d->mapped / MIB));
	}
	/* For speed alone: where it fails, the pages are small. */
	madvise(d->data, d->mapped, MADV_HUGEPAGE);
	return 0;
}

/* Completes library_load()'s sentence. */
static const char PURPOSE[] = "to unpack it";

int decompress_run(struct decompressed *ret, const struct decompress_format *format,
	const uint8_t *in, size_t len, size_t cap, struct error *e)
{
	struct decompressed d = { 0 };
	void *lib;
	int r;

	if (len < format->magic_len)
		return error_set(e, EBADMSG, "the %s data is truncated", format->name);
	lib = library_load(format->soname, format->package, PURPOSE, e);
	if (!lib)
		return -ELIBACC;
	r = map_scratch(&d, cap, e);
	if (r)
		return r;
	r = format->run(lib, in, len, d.data, cap, &d.len);
	if (r) {
		decompress_free(&d);
		if (r == -ELIBACC)
			return library_missing(format->soname, format->package, PURPOSE, e);
		if (r == -ENOMEM)
			return error_set(e, ENOMEM,
				"no memory to unpack the %s data; free some on "
				"this host",
				format->name);
		return error_set(e, EBADMSG, "the %s data is damaged", format->name);
	}
	*ret = d;
	return 0;
}

void decompress_free(struct decompressed *d)
{
	if (d->data)
		munmap(d->data, d->mapped);
	*d = (struct decompressed){ 0 };
}
