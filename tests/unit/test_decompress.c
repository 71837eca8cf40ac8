/*
 * Unpacking: what each library packed comes back, with the size that Linux puts behind it; damage,
 * bombs and a missing library end in a sentence. The packers are loaded like the unpackers are.
 */
#include "firmware/decompress.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

enum { PLAIN = 300000, ROOM = 2 * PLAIN };

#define SYMBOL(lib, name) __typeof__(&name) lib_##name = dlsym(lib, #name)

static uint8_t plain[PLAIN], packed[ROOM];
static size_t packed_len;
static struct decompressed d;
static struct error e;

/* Text that packs well in part only, and x86 calls for the BCJ filter to change. */
static void make_plain(void)
{
	uint32_t x = 1;

	for (size_t i = 0; i < sizeof(plain); i++) {
		x = x * 1103515245 + 12345;
		plain[i] = (i / 64) % 3 ? (uint8_t)(i / 64) : (uint8_t)(x >> 16);
		if (i % 37 == 0)
			plain[i] = 0xe8;
	}
}

static void *library(const char *soname)
{
	void *lib = dlopen(soname, RTLD_NOW);

	cr_assert(lib, "%s", dlerror());
	return lib;
}

static void pack_gzip(void)
{
	void *lib = library("libz.so.1");
	SYMBOL(lib, deflateInit2_);
	SYMBOL(lib, deflate);
	SYMBOL(lib, deflateEnd);
	z_stream z = { .next_in = plain, .avail_in = PLAIN, .next_out = packed, .avail_out = ROOM };

	lib_deflateInit2_(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, sizeof(z));
	cr_assert_eq(lib_deflate(&z, Z_FINISH), Z_STREAM_END);
	packed_len = ROOM - z.avail_out;
	lib_deflateEnd(&z);
}

static void pack_zstd(void)
{
	SYMBOL(library("libzstd.so.1"), ZSTD_compress);

	packed_len = lib_ZSTD_compress(packed, ROOM, plain, PLAIN, 5);
}

/* Two blocks: the first of 8 MiB in a real file, here of whatever length. */
static void pack_lz4(void)
{
	SYMBOL(library("liblz4.so.1"), LZ4_compress_default);
	static const int cuts[] = { 0, 200000, PLAIN };

	put_le32(packed, 0x184c2102);
	packed_len = 4;
	for (int i = 0; i < 2; i++) {
		int n = lib_LZ4_compress_default((char *)plain + cuts[i],
			(char *)packed + packed_len + 4, cuts[i + 1] - cuts[i],
			(int)(ROOM - packed_len - 4));

		cr_assert_gt(n, 0);
		put_le32(packed + packed_len, (uint32_t)n);
		packed_len += 4 + (size_t)n;
	}
}

/* As scripts/xz_wrap.sh of Linux does: BCJ x86 before LZMA2, CRC32. */
static void pack_xz(void)
{
	void *lib = library("liblzma.so.5");
	SYMBOL(lib, lzma_stream_buffer_encode);
	SYMBOL(lib, lzma_lzma_preset);
	lzma_options_lzma options;
	lzma_filter filters[] = { { LZMA_FILTER_X86, NULL }, { LZMA_FILTER_LZMA2, &options },
		{ LZMA_VLI_UNKNOWN, NULL } };

	cr_assert_not(lib_lzma_lzma_preset(&options, 6));
	packed_len = 0;
	cr_assert_eq(lib_lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, plain, PLAIN,
			     packed, &packed_len, ROOM),
		LZMA_OK);
}

static void pack_lzma(void)
{
	void *lib = library("liblzma.so.5");
	SYMBOL(lib, lzma_alone_encoder);
	SYMBOL(lib, lzma_lzma_preset);
	SYMBOL(lib, lzma_code);
	SYMBOL(lib, lzma_end);
	lzma_options_lzma options;
	lzma_stream z = LZMA_STREAM_INIT;

	cr_assert_not(lib_lzma_lzma_preset(&options, 6));
	cr_assert_eq(lib_lzma_alone_encoder(&z, &options), LZMA_OK);
	z.next_in = plain;
	z.avail_in = PLAIN;
	z.next_out = packed;
	z.avail_out = ROOM;
	cr_assert_eq(lib_lzma_code(&z, LZMA_FINISH), LZMA_STREAM_END);
	packed_len = ROOM - z.avail_out;
	lib_lzma_end(&z);
}

static const struct {
	const char *name;
	void (*pack)(void);
} packers[] = {
	{ "gzip", pack_gzip },
	{ "zstd", pack_zstd },
	{ "lz4", pack_lz4 },
	{ "xz", pack_xz },
	{ "lzma", pack_lzma },
};

static const struct decompress_format *find(const char *name)
{
	const struct decompress_format *f = decompress_formats;

	while (f->name && strcmp(f->name, name))
		f++;
	cr_assert(f->name, "no row for %s", name);
	return f;
}

/* A copy of exactly `len` bytes, so that a sanitizer sees a read beyond. */
static int run(const struct decompress_format *f, size_t len, size_t cap)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, packed, len);
	e.text[0] = 0;
	r = decompress_run(&d, f, copy, len, cap, &e);
	free(copy);
	if (r) {
		cr_assert_null(d.data, "an output is touched on failure");
		cr_assert(e.text[0], "no sentence");
	}
	return r;
}

TestSuite(decompress, .init = make_plain, .timeout = 300);

Test(decompress, what_was_packed_comes_back)
{
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		packers[i].pack();
		cr_assert_eq(decompress_find(packed, packed_len), find(packers[i].name));
		cr_assert_eq(run(find(packers[i].name), packed_len, PLAIN), 0, "%s", e.text);
		cr_assert_eq(d.len, PLAIN, "%s", packers[i].name);
		cr_assert(!memcmp(d.data, plain, PLAIN), "%s", packers[i].name);
		decompress_free(&d);
	}
}

Test(decompress, the_size_behind_the_stream_is_no_part_of_it)
{
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		packers[i].pack();
		put_le32(packed + packed_len, PLAIN);
		cr_assert_eq(run(find(packers[i].name), packed_len + 4, PLAIN), 0, "%s", e.text);
		cr_assert_eq(d.len, PLAIN, "%s", packers[i].name);
		decompress_free(&d);
	}
}

Test(decompress, more_than_the_limit_never_comes_out)
{
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		packers[i].pack();
		cr_assert_eq(run(find(packers[i].name), packed_len, PLAIN - 1), -EBADMSG, "%s",
			packers[i].name);
		cr_assert_eq(
			run(find(packers[i].name), packed_len, 0), -EBADMSG, "%s", packers[i].name);
	}
}

Test(decompress, every_truncation_is_damage)
{
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		packers[i].pack();
		for (size_t len = 0; len < packed_len; len += len < 64 ? 1 : 9973) {
			int r = run(find(packers[i].name), len, PLAIN);

			cr_assert_eq(r, -EBADMSG, "%s accepts %zu bytes", packers[i].name, len);
		}
	}
}

Test(decompress, lz4_blocks_that_lie_about_their_size_are_damage)
{
	static const uint32_t lies[] = { 0, 0x7fffffff, 0x80000000, 0xffffffff };

	pack_lz4();
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		put_le32(packed + 4, lies[i]);
		cr_assert_eq(run(find("lz4"), packed_len, PLAIN), -EBADMSG);
	}
}

Test(decompress, checksums_of_the_formats_that_have_one_are_checked)
{
	pack_gzip();
	packed[packed_len - 8] ^= 1;
	cr_assert_eq(run(find("gzip"), packed_len, PLAIN), -EBADMSG);
	cr_assert(strstr(e.text, "the gzip data is damaged"), "%s", e.text);
	pack_xz();
	packed[packed_len / 2] ^= 1;
	cr_assert_eq(run(find("xz"), packed_len, PLAIN), -EBADMSG);
}

Test(decompress, a_missing_library_names_the_package)
{
	struct decompress_format f = *find("zstd");

	pack_zstd();
	f.soname = "libzstd-not-there.so.1";
	cr_assert_eq(run(&f, packed_len, PLAIN), -ELIBACC);
	cr_assert(strstr(e.text, "apt install libzstd1"), "%s", e.text);
}

Test(decompress, a_library_without_the_symbols_counts_as_missing)
{
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		struct decompress_format f = *find(packers[i].name);

		packers[i].pack();
		f.soname = "libc.so.6";
		cr_assert_eq(run(&f, packed_len, PLAIN), -ELIBACC, "%s", f.name);
	}
}

Test(decompress, unknown_or_short_bytes_have_no_format)
{
	cr_assert_null(decompress_find((const uint8_t *)"BZh91AY&SY", 10));
	cr_assert_null(decompress_find((const uint8_t *)"\x28\xb5\x2f", 3));
	cr_assert_null(decompress_find((const uint8_t *)"", 0));
}

Test(decompress, nothing_can_be_freed_and_freed_again)
{
	decompress_free(&d);
	pack_lz4();
	cr_assert_eq(run(find("lz4"), packed_len, PLAIN), 0);
	decompress_free(&d);
	decompress_free(&d);
	cr_assert_null(d.data);
}
