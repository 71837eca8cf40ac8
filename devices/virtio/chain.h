/*
 * One descriptor chain as device code sees it: bytes to read, then bytes to write, with a cursor in
 * each.
 *
 * A chain is a private copy: descriptors were fetched once, checked, and turned into iovecs (guest
 * RAM only). Bytes behind the iovecs may still change under us: chain_read() copies, so check the
 * copy.
 *
 * What each request of a busy device passes through is inline (chain_inline.h): a header of a known
 * length in one piece, data in one piece, a status byte. Everything else is a call.
 */
#ifndef DEVICES_VIRTIO_CHAIN_H
#define DEVICES_VIRTIO_CHAIN_H

#include <sys/uio.h>

#include "vmm/util.h"

struct chain;

/* Bytes left before the cursor's end, on the readable and the writable side. */
static inline size_t chain_in_left(const struct chain *c);
static inline size_t chain_out_left(const struct chain *c);

/* 0, or -ENODATA / -ENOSPC when less than `len` is left (then nothing moved). */
static inline int chain_read(struct chain *c, void *buf, size_t len) NEEDS_CHECK;
/*
 * The next `len` bytes, or all that is left of a side, not 0: where they are, when they are one
 * whole buffer of the driver's, with the cursor behind them; false: they are not, and nothing
 * moved. The driver may write there meanwhile: load_u32() and the like, once for each field.
 */
static inline bool chain_read_whole(struct chain *c, size_t len, void **ret) NEEDS_CHECK;
static inline bool chain_in_whole(struct chain *c, void **ret) NEEDS_CHECK;
static inline bool chain_out_whole(struct chain *c, void **ret) NEEDS_CHECK;
int chain_write(struct chain *c, const void *buf, size_t len) NEEDS_CHECK;
int chain_skip(struct chain *c, size_t len) NEEDS_CHECK;

/*
 * The next `len` bytes of a side as iovecs, for the kernel to fill or drain without a copy; the
 * cursor moves past them. Returns the number of iovecs, -ENODATA/-ENOSPC (too few bytes), -E2BIG
 * (more than `max`); on error nothing moved. On the writable side they count as written only by
 * chain_wrote().
 */
static inline int chain_iov_in(struct chain *c, size_t len, struct iovec *iov, int max) NEEDS_CHECK;
static inline int chain_iov_out(struct chain *c, size_t len, struct iovec *iov, int max) NEEDS_CHECK;
/*
 * `len` bytes of what chain_iov_out handed out hold data now (counted from the first not yet
 * counted).
 */
static inline void chain_wrote(struct chain *c, size_t len);
/*
 * The last `len` bytes of the writable side are cut off for a trailer (blk status byte): they are
 * no longer part of chain_out_left(), and chain_write_tail() fills them, all of them at once. Once
 * per chain; -ENOSPC. What lies before the trailer and was not counted as written by then is
 * zeroed, so that the used length covers the whole writable side (§2.7.8.2); above 1 MiB it is left
 * alone and the used length ends where counting ended. So call chain_wrote() first.
 */
static inline int chain_reserve_tail(struct chain *c, size_t len) NEEDS_CHECK;
void chain_write_tail(struct chain *c, const void *buf, size_t len);
/*
 * chain_wrote() of `len` bytes, all that were handed out or none, and the one byte of trailer: how
 * most requests end. The quick one does it when nothing is unusual, else nothing and returns false.
 */
void chain_finish(struct chain *c, size_t len, uint8_t status);
static inline bool chain_finish_quick(struct chain *c, size_t len, uint8_t status) NEEDS_CHECK;
/* What queue_push() reports. */
static inline uint32_t chain_written(const struct chain *c);

/*
 * Both cursors back to where they were after queue_pop() and chain_reserve_tail(), to do the same
 * once more. Something writable was handed out or kept for a trailer, and nothing counted as
 * written.
 */
void chain_rewind(struct chain *c);

/* A word of the device's own per chain, e.g. its request: NULL after pop. */
void chain_set_user(struct chain *c, void *user);
void *chain_user(const struct chain *c);

#include "devices/virtio/chain_inline.h"

#endif
