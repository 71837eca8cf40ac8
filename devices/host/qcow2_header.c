/*
 * The header of a qcow2 image and its extensions (specification, "Header" and "Header extensions"),
 * taken apart and judged on main at stage 2. Pure functions of bytes.
 *
 * Every number is hostile. Limits are those of the specification, and where it has none, QEMU's, so
 * that no image that QEMU can make is refused for its size. What the image asks for and we do not
 * have is refused by name: for a feature bit that nobody here knows, by the name that the image
 * brings along (the feature name table).
 */
#include <errno.h>

#include "devices/host/qcow2.h"

enum { FEATURE_ROW = 48, FEATURE_NAME = 46 };

int qcow2_header_cluster_bits(const uint8_t *sector, uint32_t *ret, struct error *err)
{
	uint32_t bits = get_be32(sector + QCOW2_H_CLUSTER_BITS);

	if (memcmp(sector, "QFI\xfb", 4))
		return error_set(err, EINVAL,
			"is not a qcow2 image; use format=raw, or check the path");
	if (bits < QCOW2_CLUSTER_BITS_MIN || bits > QCOW2_CLUSTER_BITS_MAX)
		return error_set(err, EINVAL,
			"the qcow2 header says cluster_bits=%u; 9 to 21 are possible, so the image is damaged",
			bits);
	*ret = bits;
	return 0;
}

static int damaged(struct error *err, const char *what)
{
	return error_set(err, EINVAL,
		"the qcow2 image is damaged: %s; see what qemu-img check says", what);
}

/* The name that the image gives to an incompatible feature; *ret is at most 46 bytes and a NUL. */
static bool feature_name(const uint8_t *table, size_t len, unsigned bit, char *ret)
{
	for (; len >= FEATURE_ROW; table += FEATURE_ROW, len -= FEATURE_ROW) {
		if (table[0] != 0 || table[1] != bit)
			continue;
		memcpy(ret, table + 2, FEATURE_NAME);
		ret[FEATURE_NAME] = 0;
		return ret[0] != 0;
	}
	return false;
}

static int check_features(const struct qcow2_header *h, const uint8_t *names, size_t names_len,
	bool readonly, struct error *err)
{
	uint64_t known = QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION, unknown = h->incompatible & ~known;
	char name[FEATURE_NAME + 1];

	if (unknown & QCOW2_EXTERNAL)
		return error_set(err, ENOTSUP,
			"the qcow2 image keeps its data in another file (external data file), which is not supported; use qemu-img convert");
	if (unknown & QCOW2_EXTENDED_L2)
		return error_set(err, ENOTSUP,
			"the qcow2 image has extended L2 entries (subclusters), which are not supported; use qemu-img convert -O qcow2 -o extended_l2=off");
	if (unknown) {
		unsigned bit = (unsigned)__builtin_ctzll(unknown);

		if (feature_name(names, names_len, bit, name))
			return error_set(err, ENOTSUP,
				"the qcow2 image needs the feature '%s' (incompatible bit %u), which is not supported; use qemu-img convert",
				name, bit);
		return error_set(err, ENOTSUP,
			"the qcow2 image needs an unknown feature (incompatible bit %u); use qemu-img convert",
			bit);
	}
	if (h->incompatible & QCOW2_CORRUPT && !readonly)
		return error_set(err, EINVAL,
			"the qcow2 image is marked corrupt and may not be written; repair it with qemu-img check -r all, or add readonly=on");
	return 0;
}

static int parse_extensions(struct qcow2_header *h, const uint8_t *buf, size_t end,
	const uint8_t **names, size_t *names_len, struct error *err)
{
	size_t at = h->length;

	while (at < end) {
		uint32_t type, len;

		if (end - at < 8)
			return damaged(err, "a header extension is cut off");
		type = get_be32(buf + at);
		len = get_be32(buf + at + 4);
		at += 8;
		if (type == QCOW2_EXT_END)
			break;
		if (len > end - at)
			return damaged(err, "a header extension is longer than its cluster");
		if (type == QCOW2_EXT_FORMAT) {
			if (len >= sizeof(h->format) || memchr(buf + at, 0, len))
				return damaged(err, "the format of the backing file is no name of a format");
			memcpy(h->format, buf + at, len);
			h->format[len] = 0;
		} else if (type == QCOW2_EXT_FEATURES) {
			*names = buf + at;
			*names_len = len;
		}
		at += MIN(align_up(len, 8), end - at);
	}
	return 0;
}

static int parse_backing(struct qcow2_header *h, const uint8_t *buf, size_t len, struct error *err)
{
	uint64_t at = get_be64(buf + QCOW2_H_BACKING);
	uint32_t n = get_be32(buf + QCOW2_H_BACKING_LEN);

	if (!at)
		return 0;
	if (!n || n > QCOW2_NAME_MAX)
		return damaged(err, "the name of its backing file has an impossible length");
	if (at < h->length || !range_inside(at, n, 0, len))
		return damaged(err, "the name of its backing file is not in the header's cluster");
	if (memchr(buf + at, 0, n))
		return damaged(err, "the name of its backing file contains a zero byte");
	memcpy(h->backing, buf + at, n);
	h->backing[n] = 0;
	return 0;
}

static int parse_v3(struct qcow2_header *h, const uint8_t *buf, size_t len, struct error *err)
{
	h->incompatible = get_be64(buf + QCOW2_H_INCOMPATIBLE);
	h->autoclear = get_be64(buf + QCOW2_H_AUTOCLEAR);
	h->refcount_order = get_be32(buf + QCOW2_H_REFCOUNT_ORDER);
	h->length = get_be32(buf + QCOW2_H_LENGTH);
	if (h->length < QCOW2_H_V3_LEN || h->length > len || h->length % 8)
		return damaged(err, "its header has an impossible length");
	if (h->refcount_order > 6)
		return damaged(err, "its refcount_order is larger than 6");
	if (h->incompatible & QCOW2_COMPRESSION) {
		if (h->length <= QCOW2_H_COMPRESSION || buf[QCOW2_H_COMPRESSION] != 1)
			return error_set(err, ENOTSUP,
				"the qcow2 image is compressed by an unknown method; zlib and zstd are supported");
		h->zstd = true;
	} else if (h->length > QCOW2_H_COMPRESSION && buf[QCOW2_H_COMPRESSION]) {
		return damaged(err, "it names a method of compression without the feature bit");
	}
	return 0;
}

/* Tables: aligned, in bounds of what memory we give them. */
static int check_tables(const struct qcow2_header *h, struct error *err)
{
	uint64_t mask = (UINT64_C(1) << h->cluster_bits) - 1;
	unsigned l2_span = 2 * h->cluster_bits - 3; /* bits of guest address below an L1 entry */
	uint64_t need = (h->size >> l2_span) + !!(h->size & ((UINT64_C(1) << l2_span) - 1));

	if ((h->l1 | h->reftable) & mask || (h->nsnapshots && h->snapshots & mask))
		return damaged(err, "a table does not start at a cluster");
	if (!h->l1 || !h->reftable || !h->reftable_clusters)
		return damaged(err, "it has no L1 table or no refcount table");
	if (need > QCOW2_L1_MAX / 8 || h->l1_size > QCOW2_L1_MAX / 8)
		return error_set(err, EFBIG,
			"the qcow2 image needs an L1 table of more than 32 MiB; use larger clusters");
	if (h->l1_size < need)
		return damaged(err, "its L1 table is too short for its size");
	if ((uint64_t)h->reftable_clusters << h->cluster_bits > QCOW2_REFTABLE_MAX)
		return damaged(err, "its refcount table is larger than 8 MiB");
	if (h->nsnapshots > QCOW2_SNAPSHOTS_MAX)
		return damaged(err, "it has more than 65536 snapshots");
	return 0;
}

int qcow2_header_parse(struct qcow2_header *ret, const uint8_t *buf, size_t len, bool readonly,
	struct error *err)
{
	struct qcow2_header h = { .refcount_order = 4, .length = QCOW2_H_V2_LEN };
	const uint8_t *names = NULL;
	size_t names_len = 0, end;
	int r;

	if (len < QCOW2_SECTOR)
		return damaged(err, "it ends in its header");
	r = qcow2_header_cluster_bits(buf, &h.cluster_bits, err);
	if (r)
		return r;
	h.version = get_be32(buf + QCOW2_H_VERSION);
	if (h.version != 2 && h.version != 3)
		return error_set(err, ENOTSUP,
			"is a qcow2 image of version %u; 2 and 3 are supported, use qemu-img convert",
			h.version);
	if (get_be32(buf + QCOW2_H_CRYPT))
		return error_set(err, ENOTSUP,
			"the qcow2 image is encrypted, which is not supported; use qemu-img convert");
	h.size = get_be64(buf + QCOW2_H_SIZE);
	h.l1_size = get_be32(buf + QCOW2_H_L1_SIZE);
	h.l1 = get_be64(buf + QCOW2_H_L1);
	h.reftable = get_be64(buf + QCOW2_H_REFTABLE);
	h.reftable_clusters = get_be32(buf + QCOW2_H_REFTABLE_CLUSTERS);
	h.nsnapshots = get_be32(buf + QCOW2_H_NSNAPSHOTS);
	h.snapshots = get_be64(buf + QCOW2_H_SNAPSHOTS);
	r = h.version == 3 ? parse_v3(&h, buf, len, err) : 0;
	if (r == 0)
		r = parse_backing(&h, buf, len, err);
	if (r)
		return r;
	end = h.backing[0] ? get_be64(buf + QCOW2_H_BACKING) : len;
	r = parse_extensions(&h, buf, end, &names, &names_len, err);
	if (r == 0)
		r = check_features(&h, names, names_len, readonly, err);
	if (r == 0 && (!h.size || h.size % QCOW2_SECTOR || h.size > INT64_MAX))
		r = error_set(err, EINVAL,
			"the qcow2 image has a size of %llu bytes; a multiple of 512 above 0 is expected",
			(unsigned long long)h.size);
	if (r == 0)
		r = check_tables(&h, err);
	if (r == 0)
		*ret = h;
	return r;
}
