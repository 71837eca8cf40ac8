/*
 * Compressed clusters (specification, "Compressed Clusters Descriptor"): raw deflate, or one frame
 * of zstd, at any byte of the file. They are only ever read; a write makes an ordinary cluster.
 *
 * All memory is taken at open: the packed bytes, the last cluster that was unpacked (a guest reads
 * one in several pieces), and what the library needs, zlib's by an allocator over a fixed piece.
 * So the owner of the queue allocates nothing, and a stream cannot make it: what comes out is
 * bounded by the cluster, and zstd unpacks straight into it, whatever window its frame claims.
 */
#include <errno.h>
#include <stdlib.h>

#define ZLIB_CONST /* zlib.h: next_in is a pointer to const */

#include <zlib.h>
#include <zstd.h>

#include "devices/host/qcow2.h"
#include "vmm/library.h"
#include "vmm/log.h"

enum { ARENA = 64 * KIB }; /* zlib's state is about 10 KiB, its window 32 */

struct qcow2_codec {
	uint8_t *packed, *cluster;
	uint64_t entry;               /* whose bytes `cluster` has; 0: nobody's */
	bool zstd;
	z_stream z;
	size_t arena_used;
	uint8_t *arena;
	ZSTD_DCtx *dctx;
	__typeof__(&inflateReset) reset;
	__typeof__(&inflate) inflate;
	__typeof__(&ZSTD_decompressDCtx) decompress;
	__typeof__(&ZSTD_findFrameCompressedSize) frame_size;
	__typeof__(&ZSTD_isError) is_error;
	__typeof__(&ZSTD_freeDCtx) free_dctx;
};

static void *arena_alloc(void *ctx, uInt items, uInt size)
{
	struct qcow2_codec *c = ctx;
	uint64_t n;

	if (mul_overflows(items, size, &n) || n > ARENA)
		return NULL;
	n = align_up(n, 16);
	if (n > ARENA - c->arena_used)
		return NULL;
	c->arena_used += n;
	return c->arena + c->arena_used - n;
}

static void arena_free(void *ctx, void *p)
{
	(void)ctx;
	(void)p;
}

/* Completes library_load()'s sentence. */
static const char PURPOSE[] = "to unpack compressed clusters of a qcow2 image";

static int start_zlib(struct qcow2_codec *c, struct error *err)
{
	void *lib = library_load("libz.so.1", "zlib1g", PURPOSE, err);

	if (!lib)
		return -ELIBACC;
	LIBRARY_SYMBOL(lib, inflateInit2_);
	c->reset = dlsym(lib, "inflateReset");
	c->inflate = dlsym(lib, "inflate");
	c->z.zalloc = arena_alloc;
	c->z.zfree = arena_free;
	c->z.opaque = c;
	/* Negative: no header (RFC 1951); the largest window takes streams made with any. */
	if (!lib_inflateInit2_ || !c->reset || !c->inflate ||
		lib_inflateInit2_(&c->z, -MAX_WBITS, ZLIB_VERSION, (int)sizeof(c->z)) != Z_OK)
		return library_missing("libz.so.1", "zlib1g", PURPOSE, err);
	return 0;
}

static int start_zstd(struct qcow2_codec *c, struct error *err)
{
	void *lib = library_load("libzstd.so.1", "libzstd1", PURPOSE, err);

	if (!lib)
		return -ELIBACC;
	LIBRARY_SYMBOL(lib, ZSTD_createDCtx);
	c->decompress = dlsym(lib, "ZSTD_decompressDCtx");
	c->frame_size = dlsym(lib, "ZSTD_findFrameCompressedSize");
	c->is_error = dlsym(lib, "ZSTD_isError");
	c->free_dctx = dlsym(lib, "ZSTD_freeDCtx");
	if (lib_ZSTD_createDCtx && c->decompress && c->frame_size && c->is_error && c->free_dctx)
		c->dctx = lib_ZSTD_createDCtx();
	if (!c->dctx)
		return library_missing("libzstd.so.1", "libzstd1", PURPOSE, err);
	return 0;
}

int qcow2_codec_create(struct qcow2 *img, struct error *err)
{
	struct qcow2_codec *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return error_set(err, ENOMEM, "out of memory");
	c->zstd = img->h.zstd;
	/* The descriptor can name two clusters of packed bytes; a sector more to align them. */
	c->packed = aligned_alloc(PAGE_4K, align_up(2 * img->cluster_size + QCOW2_SECTOR, PAGE_4K));
	c->cluster = aligned_alloc(PAGE_4K, align_up(img->cluster_size, PAGE_4K));
	c->arena = aligned_alloc(PAGE_4K, ARENA);
	r = c->packed && c->cluster && c->arena ? 0 : error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = c->zstd ? start_zstd(c, err) : start_zlib(c, err);
	if (r) {
		qcow2_codec_free(c);
		return r;
	}
	img->codec = c;
	return 0;
}

void qcow2_codec_free(struct qcow2_codec *c)
{
	if (!c)
		return;
	if (c->dctx)
		c->free_dctx(c->dctx);
	free(c->packed);
	free(c->cluster);
	free(c->arena);
	free(c);
}

/* A whole cluster must come out; what follows in the last sector is somebody else's. */
static int unpack_zlib(struct qcow2_codec *c, const uint8_t *in, size_t len, size_t size)
{
	int r;

	if (c->reset(&c->z) != Z_OK)
		return -EIO;
	c->z.next_in = in;
	c->z.avail_in = (uInt)len;
	c->z.next_out = c->cluster;
	c->z.avail_out = (uInt)size;
	r = c->inflate(&c->z, Z_FINISH);
	return (r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK) && !c->z.avail_out ? 0 : -EIO;
}

static int unpack_zstd(struct qcow2_codec *c, const uint8_t *in, size_t len, size_t size)
{
	size_t n = c->frame_size(in, len);

	if (c->is_error(n))
		return -EIO;
	n = c->decompress(c->dctx, c->cluster, size, in, n);
	return c->is_error(n) || n != size ? -EIO : 0;
}

int qcow2_codec_read(struct qcow2 *img, uint64_t entry, const uint8_t **ret)
{
	struct qcow2_codec *c = img->codec;
	uint64_t at, len, first;
	int r;

	if (!c) {
		log_guest(LOG_WARN, "a compressed cluster cannot be read: libz.so.1 is needed; apt install zlib1g");
		return -EIO;
	}
	if (c->entry == entry) {
		*ret = c->cluster;
		return 0;
	}
	r = qcow2_map_packed(img, entry, &at, &len);
	if (r)
		return r;
	c->entry = 0;
	first = at % QCOW2_SECTOR;
	r = qcow2_io(img, DISK_READ, at - first, c->packed, align_up(first + len, QCOW2_SECTOR));
	if (r)
		return r;
	r = c->zstd ? unpack_zstd(c, c->packed + first, len, img->cluster_size) :
		unpack_zlib(c, c->packed + first, len, img->cluster_size);
	if (r) {
		log_guest(LOG_WARN, "a compressed cluster of a qcow2 image is damaged; see what qemu-img check says");
		return r;
	}
	c->entry = entry;
	*ret = c->cluster;
	return 0;
}
