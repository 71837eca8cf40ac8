/*
 * Inside of the qcow2 disk (QEMU's docs/interop/qcow2.txt, "the specification" in these files),
 * shared by its parts:
 *
 *   qcow2_header.c      the header and its extensions, checked
 *   qcow2_open.c        from a header to an image: tables, limits, what is refused
 *   qcow2_repair.c      reference counts made anew
 *   qcow2_cache.c       blocking reads and writes of metadata; a bounded cache of table slices
 *   qcow2_refcount.c    reference counts of all widths
 *   qcow2_alloc.c       host clusters taken and given back
 *   qcow2_map.c         guest offset → host offset, and its changes
 *   qcow2_commit.c      the order in which metadata goes to the file
 *   qcow2_compressed.c  compressed clusters
 *   qcow2_fetch.c       tables that requests wait for while others go on
 *   qcow2_request.c     requests: order, reads, flush;  qcow2_write.c: writes, zeroes, discards
 *   qcow2_log.c         what a process must leave to the next;  qcow2_forked.c: that one
 *   qcow2_create.c      a new image over a base
 *   disk_qcow2.c        the ops of the disk;  disk_open.c: disks by the user's words
 *
 * An image is a disk over a disk: its bytes, data and metadata, go through the queues of the file
 * below. Data is asynchronous, and so are the tables that reads and writes need to begin. All other
 * metadata is read and written by the owner of the queue, which waits for it, on a queue of its
 * own: so tables are never seen half-changed.
 */
#ifndef DEVICES_HOST_QCOW2_H
#define DEVICES_HOST_QCOW2_H

#include "devices/host/disk.h"

enum {
	QCOW2_SECTOR = 512,
	QCOW2_CLUSTER_BITS_MIN = 9, QCOW2_CLUSTER_BITS_MAX = 21,
	QCOW2_NAME_MAX = 1023,        /* specification, Header: backing_file_size */
	QCOW2_SLICE_MAX = 4096,       /* bytes of a table read at once */
	QCOW2_L2_CACHE = 1 * MIB, QCOW2_REFCOUNT_CACHE = 256 * KIB,
	QCOW2_L1_MAX = 32 * MIB,      /* bytes; QEMU's own limits, so no image of its is refused */
	QCOW2_REFTABLE_MAX = 8 * MIB,
	QCOW2_SNAPSHOTS_MAX = 65536,
	QCOW2_CHAIN_MAX = 16,         /* images in a backing chain */
	QCOW2_FREES = 4096,
	QCOW2_IOV_MAX = 1024,
};

/* Host offsets have 56 bits (specification, Cluster mapping). */
#define QCOW2_HOST_END (UINT64_C(1) << 56)

/* incompatible_features */
enum { QCOW2_DIRTY = 1, QCOW2_CORRUPT = 2, QCOW2_EXTERNAL = 4, QCOW2_COMPRESSION = 8,
	QCOW2_EXTENDED_L2 = 16 };

/* Where the fields of the header are, bytes. */
enum {
	QCOW2_H_VERSION = 4, QCOW2_H_BACKING = 8, QCOW2_H_BACKING_LEN = 16, QCOW2_H_CLUSTER_BITS = 20,
	QCOW2_H_SIZE = 24, QCOW2_H_CRYPT = 32, QCOW2_H_L1_SIZE = 36, QCOW2_H_L1 = 40, QCOW2_H_REFTABLE = 48,
	QCOW2_H_REFTABLE_CLUSTERS = 56, QCOW2_H_NSNAPSHOTS = 60, QCOW2_H_SNAPSHOTS = 64, QCOW2_H_V2_LEN = 72,
	QCOW2_H_INCOMPATIBLE = 72,
	QCOW2_H_COMPATIBLE = 80, QCOW2_H_AUTOCLEAR = 88, QCOW2_H_REFCOUNT_ORDER = 96, QCOW2_H_LENGTH = 100,
	QCOW2_H_COMPRESSION = 104, QCOW2_H_V3_LEN = 104,
};
enum { QCOW2_EXT_END = 0, QCOW2_EXT_FEATURES = 0x6803f857 };
#define QCOW2_EXT_FORMAT UINT32_C(0xe2792aca)

/* Entries of L1 and L2 tables. */
#define QCOW2_COPIED (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_ZERO UINT64_C(1)
#define QCOW2_OFFSET UINT64_C(0x00fffffffffffe00)

/* Numbers on disk are big-endian. */
static inline uint16_t get_be16(const void *p)
{
	return __builtin_bswap16(get_le16(p));
}

static inline uint32_t get_be32(const void *p)
{
	return __builtin_bswap32(get_le32(p));
}

static inline uint64_t get_be64(const void *p)
{
	return __builtin_bswap64(get_le64(p));
}

static inline void put_be32(void *p, uint32_t v)
{
	put_le32(p, __builtin_bswap32(v));
}

static inline void put_be64(void *p, uint64_t v)
{
	put_le64(p, __builtin_bswap64(v));
}

struct qcow2_header {
	uint32_t version, cluster_bits, l1_size, reftable_clusters, nsnapshots, refcount_order, length;
	uint64_t size, l1, reftable, snapshots, incompatible, autoclear;
	bool zstd;
	char backing[QCOW2_NAME_MAX + 1]; /* "" without one */
	char format[16];                  /* of the backing file, "" when the image does not say */
};

struct qcow2;

struct qcow2_slice {
	uint64_t at;                  /* file offset; 0: empty, since the header is there */
	uint32_t used;
	bool dirty;
};

struct qcow2_cache {
	uint8_t *data;
	struct qcow2_slice *slices;
	uint32_t slice_size, sets, clock, ndirty;
	bool ordered;                 /* L2: dirty slices wait for what they point to */
};

/* Clusters of the file. */
struct qcow2_run {
	uint64_t first, count;
	bool fresh;                   /* never held anything: reads as zeroes */
};

/* Clusters that hold metadata, as a hash set: filled at open, grows by what is allocated. */
struct qcow2_set {
	uint64_t *slots;              /* cluster number; 0: empty, since the header is there */
	uint64_t capacity, n;
};

/* A table of big-endian entries of 64 bits, whole in memory; [lo, hi) is not yet in the file. */
struct qcow2_table {
	uint8_t *data;
	uint64_t at, entries, capacity, lo, hi;
};

/* What tables in memory say and the file does not say yet; see qcow2_log.c. */
struct qcow2_log;

/* One per image; see qcow2_compressed.c. */
struct qcow2_codec;

/* Made by main, then of the one thread that owns the queue, but for what is const. */
struct qcow2 {
	struct disk disk;             /* first */
	struct disk_info info;        /* const */
	struct qcow2_header h;        /* const but for the place of the refcount table */
	struct disk *file;            /* const */
	struct disk *backing;         /* const; NULL without one */
	uint64_t backing_size;        /* const */
	uint64_t cluster_size;        /* const */
	uint64_t file_end;            /* const; what a block device can hold, else QCOW2_HOST_END */
	bool grows;                   /* const; what lies past the end of the file reads as zeroes */
	uint64_t per_block;           /* const; refcounts in a refcount block */

	uint64_t meta_writes;         /* how often metadata in the file or its cache was replaced */
	struct disk_queue *meta;      /* NULL while nobody may read or write metadata */
	int meta_result;
	unsigned queues;              /* main */
	struct qcow2_table l1, reftable;
	struct qcow2_cache l2_cache, refcount_cache;
	struct qcow2_run *fixed;      /* sorted: header, tables of fixed place, snapshots */
	size_t nfixed;
	struct qcow2_set tables;      /* clusters of L2 tables and refcount blocks */
	/* clusters from `frontier` on were never used; `scan`: where to look below it */
	uint64_t frontier, scan;
	/* dropped by tables that are not in the file yet */
	struct qcow2_run frees[QCOW2_FREES];
	unsigned nfrees;
	uint8_t *scratch;             /* a cluster */
	struct qcow2_codec *codec;    /* NULL: compressed clusters cannot be read */
	struct qcow2_log *log;        /* const; NULL: nobody goes on after this process */
	bool replaying;               /* what the log says is being done: nothing is noted, nothing given back */
};

enum qcow2_kind { QCOW2_UNALLOCATED, QCOW2_ZEROES, QCOW2_DATA, QCOW2_PACKED };

/* What a stretch of the guest's disk is. */
struct qcow2_extent {
	enum qcow2_kind kind;
	bool in_place;                /* DATA that only this disk refers to */
	uint64_t len;
	uint64_t host;                /* DATA: offset in the file */
	uint64_t entry;               /* PACKED: of the one cluster */
};

/*
 * qcow2_header.c. `buf` is the first cluster, or as much as there is. Judges what can be said
 * without the file. `cluster_bits` alone first, from the first sector: how much to read.
 */
int qcow2_header_cluster_bits(const uint8_t *sector, uint32_t *ret, struct error *err);
int qcow2_header_parse(struct qcow2_header *ret, const uint8_t *buf, size_t len, bool readonly,
	struct error *err);

/* qcow2_open.c; main. Take the tables in; `meta` is a queue of the file. */
int qcow2_open_tables(struct qcow2 *img, struct error *err);
void qcow2_free_tables(struct qcow2 *img);

/*
 * qcow2_repair.c; main, tables taken in, or a new process. Count again what an unclean end left
 * uncounted.
 */
int qcow2_repair(struct qcow2 *img, struct error *err);

/* qcow2_cache.c. Blocks; 0 or -errno. Offset and length are multiples of a sector. */
int qcow2_io(struct qcow2 *img, enum disk_op op, uint64_t offset, void *buf, uint64_t len);
int qcow2_meta_create(struct qcow2 *img, struct disk_queue **ret, struct error *err);
int qcow2_cache_init(struct qcow2_cache *c, uint64_t bytes, uint64_t cluster_size, bool ordered);
void qcow2_cache_free(struct qcow2_cache *c);
/* The slice that holds the byte at `offset`; valid until the next call. NULL: *err says why. */
uint8_t *qcow2_cache_get(struct qcow2 *img, struct qcow2_cache *c, uint64_t offset, int *err);
bool qcow2_cache_has(const struct qcow2_cache *c, uint64_t at);
/* Take in a slice that was read otherwise, where one can give way that is in the file. */
void qcow2_cache_put(struct qcow2_cache *c, uint64_t at, const uint8_t *data);
void qcow2_cache_touch(struct qcow2_cache *c, const uint8_t *slice); /* it was changed */
int qcow2_cache_write(struct qcow2 *img, struct qcow2_cache *c);
void qcow2_cache_forget(struct qcow2 *img, struct qcow2_cache *c, uint64_t offset, uint64_t len);
int qcow2_table_write(struct qcow2 *img, struct qcow2_table *t);
void qcow2_table_set(struct qcow2_table *t, uint64_t i, uint64_t v);
static inline uint64_t qcow2_table_get(const struct qcow2_table *t, uint64_t i)
{
	return get_be64(t->data + i * 8);
}

/* qcow2_refcount.c */
uint64_t qcow2_refcount_read(const uint8_t *block, uint64_t i, unsigned order);
void qcow2_refcount_write(uint8_t *block, uint64_t i, unsigned order, uint64_t v);
int qcow2_refcount_get(struct qcow2 *img, uint64_t cluster, uint64_t *ret);
/* There must be a block. */
int qcow2_refcount_set(struct qcow2 *img, uint64_t cluster, uint64_t v);
/* By +1 or -1; there must be a block. -ERANGE: it does not fit, the image is damaged. */
int qcow2_refcount_add(struct qcow2 *img, uint64_t cluster, int delta);
/* Have a block for the cluster at the frontier; moves the frontier when one had to be made. */
int qcow2_refcount_cover_frontier(struct qcow2 *img);
/* Have a block for a cluster below the frontier; a new one is made at the frontier. */
int qcow2_refcount_cover(struct qcow2 *img, uint64_t cluster);

/* qcow2_alloc.c */
bool qcow2_is_meta(const struct qcow2 *img, uint64_t cluster);
int qcow2_set_add(struct qcow2_set *s, uint64_t cluster); /* -EEXIST, -ENOSPC */
/* At least one and at most `want` clusters in a row, counted once each. */
int qcow2_alloc(struct qcow2 *img, uint64_t want, struct qcow2_run *ret);
/* Give back what no table ever referred to. */
void qcow2_free_now(struct qcow2 *img, uint64_t first, uint64_t count);
/* Give back what a table referred to until a moment ago: after the next commit. */
void qcow2_free_later(struct qcow2 *img, uint64_t first, uint64_t count);
void qcow2_free_settle(struct qcow2 *img);

/* qcow2_commit.c */
bool qcow2_commit_needed(const struct qcow2 *img);
int qcow2_commit(struct qcow2 *img);
/* Also what was given back; nothing is left to write. */
int qcow2_settle(struct qcow2 *img);

/* qcow2_map.c. -EIO: the tables make no sense there. */
int qcow2_map(struct qcow2 *img, uint64_t offset, uint64_t len, struct qcow2_extent *ret);
/*
 * Where in the file the first slice of a table is that the range needs and the cache does not have.
 * 0: none, or nothing that makes sense.
 */
uint64_t qcow2_map_missing(const struct qcow2 *img, uint64_t offset, uint64_t len);
/*
 * Let `count` guest clusters from the one at `offset` on be the host's clusters from `first` on.
 * What cannot be linked is given back.
 */
int qcow2_map_link(struct qcow2 *img, uint64_t offset, uint64_t first, uint64_t count);
/*
 * Whole clusters read as zeroes from now on, or for a discard at least need not keep their bytes.
 * `keep`: they stay allocated. *ret of them are done, up to the end of a slice of the table.
 * -EOPNOTSUPP: this version cannot say it, write zeroes.
 */
int qcow2_map_zero(struct qcow2 *img, uint64_t offset, uint64_t count, bool keep, uint64_t *ret);
/* Where a compressed cluster's bytes are. -EIO: not inside of the file. */
int qcow2_map_packed(const struct qcow2 *img, uint64_t entry, uint64_t *offset, uint64_t *len);

/*
 * qcow2_log.c. Owner, but for create and free: main. In memory of the disk's `pages`. link and
 * zero: before a request is answered that changed the map so; 0, or what the commit said that made
 * room.
 */
int qcow2_log_create(struct qcow2 *img, struct error *err) NEEDS_CHECK;
void qcow2_log_free(struct qcow2 *img);
int qcow2_log_link(struct qcow2 *img, uint64_t offset, uint64_t first, uint64_t count);
int qcow2_log_zero(struct qcow2 *img, uint64_t offset, uint64_t count, bool keep);
/* All that the tables in memory say is in the file. */
void qcow2_log_clear(struct qcow2 *img);
/* The first process asks once: is the file as main has taken it in? */
bool qcow2_log_begin(struct qcow2 *img);
/* Do what is noted, on tables that were taken in anew. */
int qcow2_log_replay(struct qcow2 *img) NEEDS_CHECK;

/* qcow2_forked.c; of disk_ops */
void qcow2_fds(const struct disk *d, void (*keep)(void *ctx, int fd), void *ctx);
void qcow2_forked(struct disk *d, void *kept);
int qcow2_queue_forked(struct disk_queue *q, int tomb);
extern const struct syscall_row qcow2_forked_syscalls[];

/* qcow2_compressed.c */
int qcow2_codec_create(struct qcow2 *img, struct error *err); /* main, stage 2: loads a library */
void qcow2_codec_free(struct qcow2_codec *codec);
/* The cluster that `entry` describes; valid until the next call. */
int qcow2_codec_read(struct qcow2 *img, uint64_t entry, const uint8_t **ret);

/* qcow2_create.c; main. A new image at `path`, which must not exist, with a backing file. */
struct qcow2_base {
	const char *path, *format;
	uint64_t size;
};
int qcow2_create(const char *path, const struct qcow2_base *base, struct error *err);
int qcow2_create_fd(int fd, const struct qcow2_base *base, struct error *err);

/* qcow2_request.c; the disk_queue half of the ops, as disk.h describes them. */
int qcow2_queue_create(struct disk_queue **ret, struct disk *d, unsigned depth,
	const struct disk_events *events, struct error *err);
void qcow2_queue_destroy(struct disk_queue *q);
int qcow2_queue_attach(struct disk_queue *q, struct loop *loop);
void qcow2_queue_detach(struct disk_queue *q);
int qcow2_queue_start(struct disk_queue *q, struct disk_request *rq);
void qcow2_queue_submit(struct disk_queue *q);
bool qcow2_queue_poll(struct disk_queue *q);
bool qcow2_queue_gather(struct disk_queue *q);
void qcow2_queue_drain(struct disk_queue *q);

#endif
