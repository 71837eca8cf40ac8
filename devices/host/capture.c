/*
 * The rings, the writer, and the file format (draft-ietf-opsawg-pcapng-02).
 *
 *   lane 0: frames → ring ┐
 *   lane 1: frames → ring ┴→ writer → one block each, gathered in a buffer → pwrite
 *
 * A ring has one producer, the lane's owner, and one consumer, the writer: two counters that only
 * grow, each written by one side. A record is a struct record and its bytes, aligned to 8, and may
 * run around the end.
 *
 * Lanes may be in a process of their own: then rings and counters are in memory that it shares
 * with us, and nothing else is, not the files either. What a process has put into a ring whole is
 * written whether or not it lives. It may also put there what it likes: the writer keeps its own
 * place in each ring, and takes what is no record for the end of all that lies there.
 *
 * A file is a section header, one interface, then an enhanced packet block for each frame (§4.1 to
 * 4.3), and whenever the device stopped a block of statistics with what was dropped (§4.6). A frame
 * is as the guest and the host exchange it: a checksum may be left for later, a TCP segment be
 * larger than the MTU. An existing file is overwritten only when it is a capture already.
 */
#include "devices/host/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "devices/host/capture_filter.h"
#include "vmm/log.h"

enum {
	RING_BYTES = 1 * MIB,            /* a power of two */
	FRAME_MAX = 65535 + 14 + 4,
	BUFFER_BYTES = 256 * KIB,
	SIZE_MIN = 1 * MIB,              /* two files, each with room for a buffer and more */
	NAME_MAX_LEN = 32,
	FILES = 2,
};

/* §4; type and lengths of blocks, options 1 (end), if_name, if_tsresol, epb_flags, isb_ifdrop */
enum { BLOCK_SECTION = 0x0a0d0d0a, BLOCK_INTERFACE = 1, BLOCK_STATISTICS = 5, BLOCK_PACKET = 6,
	BYTE_ORDER_MAGIC = 0x1a2b3c4d };
enum { OPTION_END = 0, OPTION_IF_NAME = 2, OPTION_TSRESOL = 9, OPTION_FLAGS = 2, OPTION_IFDROP = 5 };
enum { INBOUND = 1, OUTBOUND = 2, LINKTYPE_ETHERNET = 1, NANOSECONDS = 9 };

struct record {
	uint64_t time;
	uint32_t len;
	uint32_t sent;
};
_Static_assert(sizeof(struct record) == 16, "records are aligned to 8");

/* What owner and writer share. */
struct ring {
	_Atomic uint64_t head;           /* written by the owner */
	_Atomic uint64_t tail;           /* written by the writer */
	_Atomic uint64_t dropped;        /* written by the owner */
	uint8_t bytes[RING_BYTES];
};

struct shared {
	_Atomic bool on, sleeping;
	struct ring ring[];
};

struct lane {
	uint64_t tail;                   /* writer */
	uint8_t *frame;                  /* owner; the frame in one piece */
};

struct capture {
	struct shared *shared;           /* const */
	size_t shared_bytes;             /* const */
	_Atomic bool failed;
	_Atomic uint64_t unwritten;      /* writer; frames that no file took */
	struct capture_filter *filter;   /* const; NULL: everything */
	uint64_t half;                   /* const; of a file; 0: no bound */
	char name[NAME_MAX_LEN];
	int fd[FILES];                   /* const; the second -1 without a bound */
	int wake_fd;                     /* const */
	struct loop *loop;               /* const once attached; the writer's */
	struct loop_source *wake;
	unsigned nlanes;
	unsigned file;                   /* writer; which of fd it writes to */
	uint64_t at;                     /* writer; how far */
	size_t used;                     /* writer; of buffer */
	uint8_t *buffer;
	struct lane lane[];
};

/* --- owner of a lane --- */

static void ring_copy_in(struct ring *l, uint64_t at, const void *from, size_t len)
{
	size_t off = at & (RING_BYTES - 1), upper = MIN(len, RING_BYTES - off);

	memcpy(l->bytes + off, from, upper);
	memcpy(l->bytes, (const uint8_t *)from + upper, len - upper);
}

static void ring_copy_out(const struct ring *l, uint64_t at, void *to, size_t len)
{
	size_t off = at & (RING_BYTES - 1), upper = MIN(len, RING_BYTES - off);

	memcpy(to, l->bytes + off, upper);
	memcpy((uint8_t *)to + upper, l->bytes, len - upper);
}

static void gather(uint8_t *to, const struct iovec *iov, int n, size_t skip, size_t len)
{
	for (int i = 0; i < n && len; i++) {
		size_t off = MIN(skip, iov[i].iov_len), k = MIN(len, iov[i].iov_len - off);

		memcpy(to, (const uint8_t *)iov[i].iov_base + off, k);
		skip -= off;
		to += k;
		len -= k;
	}
	memset(to, 0, len);
}

static void wake(struct capture *c)
{
	const uint64_t one = 1;

	if (write(c->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it wakes the writer all the same */
}

void capture_frame(struct capture *c, unsigned lane, bool sent, const struct iovec *iov, int n,
	size_t skip, size_t len)
{
	struct record r = { .len = (uint32_t)len, .sent = sent };
	struct ring *l;
	struct timespec ts;
	uint8_t *frame;
	uint64_t head, tail;

	if (!c || !atomic_load_explicit(&c->shared->on, memory_order_relaxed) || len > FRAME_MAX)
		return;
	l = &c->shared->ring[lane];
	frame = c->lane[lane].frame;
	gather(frame, iov, n, skip, len);
	if (!capture_filter_passes(c->filter, frame, len))
		return;
	head = atomic_load_explicit(&l->head, memory_order_relaxed);
	/* Acquire: the writer is done with what lies before its tail. */
	tail = atomic_load_explicit(&l->tail, memory_order_acquire);
	if (align_up(sizeof(r) + len, 8) > RING_BYTES - (head - tail)) {
		atomic_fetch_add_explicit(&l->dropped, 1, memory_order_relaxed);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	r.time = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	ring_copy_in(l, head, &r, sizeof(r));
	ring_copy_in(l, head + sizeof(r), frame, len);
	/*
	 * The record before the head, and the head before the look at `sleeping`: the writer says
	 * that it sleeps, then looks at all heads once more. So it sees ours, or we see it asleep.
	 */
	atomic_store_explicit(&l->head, head + align_up(sizeof(r) + len, 8), memory_order_seq_cst);
	if (atomic_load_explicit(&c->shared->sleeping, memory_order_seq_cst) &&
		atomic_exchange(&c->shared->sleeping, false))
		wake(c);
}

/* --- writer --- */

static void put(struct capture *c, const void *bytes, size_t len)
{
	memcpy(c->buffer + c->used, bytes, len);
	c->used += len;
}

static void put32(struct capture *c, uint32_t v)
{
	put(c, &v, sizeof(v));
}

static void put16x2(struct capture *c, uint16_t a, uint16_t b)
{
	put(c, &a, sizeof(a));
	put(c, &b, sizeof(b));
}

static void pad(struct capture *c)
{
	static const uint8_t zero[4];

	put(c, zero, (4 - c->used % 4) % 4);
}

/* §4.1 and 4.2; the buffer is empty. */
static void put_head(struct capture *c)
{
	uint16_t name = (uint16_t)strlen(c->name);
	uint32_t len = 20 + 4 + (uint32_t)align_up(name, 4) + 8 + 4;
	const uint8_t resolution[4] = { NANOSECONDS };

	put32(c, BLOCK_SECTION);
	put32(c, 28);
	put32(c, BYTE_ORDER_MAGIC);
	put16x2(c, 1, 0);
	put32(c, UINT32_MAX);
	put32(c, UINT32_MAX);
	put32(c, 28);

	put32(c, BLOCK_INTERFACE);
	put32(c, len);
	put16x2(c, LINKTYPE_ETHERNET, 0);
	put32(c, 0); /* frames are never cut */
	put16x2(c, OPTION_IF_NAME, name);
	put(c, c->name, name);
	pad(c);
	put16x2(c, OPTION_TSRESOL, 1);
	put(c, resolution, sizeof(resolution));
	put16x2(c, OPTION_END, 0);
	put32(c, len);
}

static void failed(struct capture *c)
{
	int why = errno;

	if (!atomic_exchange(&c->failed, true))
		log_warn("the capture of %s ends: its file cannot be written: %s", c->name, strerror(why));
	atomic_store(&c->shared->on, false);
}

/* What is in the buffer goes to the file, or nowhere. */
static void write_out(struct capture *c)
{
	size_t done = 0;

	while (done < c->used && !atomic_load(&c->failed)) {
		ssize_t n = pwrite(c->fd[c->file], c->buffer + done, c->used - done, (off_t)c->at);

		if (n <= 0) {
			failed(c);
			break;
		}
		done += (size_t)n;
		c->at += (uint64_t)n;
	}
	c->used = 0;
}

/* Before a block of `len` bytes: room in the buffer, and in the file. */
static void make_room(struct capture *c, size_t len)
{
	bool full = c->half && c->at + c->used + len > c->half;

	if (full || len > BUFFER_BYTES - c->used)
		write_out(c);
	if (!full || atomic_load(&c->failed))
		return;
	c->file ^= 1;
	c->at = 0;
	if (ftruncate(c->fd[c->file], 0))
		failed(c);
	put_head(c);
}

/* §4.3 */
static void put_packet(struct capture *c, const struct ring *l, uint64_t at, const struct record *r)
{
	uint32_t len = 28 + (uint32_t)align_up(r->len, 4) + 8 + 4 + 4;

	make_room(c, len);
	put32(c, BLOCK_PACKET);
	put32(c, len);
	put32(c, 0);
	put32(c, (uint32_t)(r->time >> 32));
	put32(c, (uint32_t)r->time);
	put32(c, r->len);
	put32(c, r->len);
	ring_copy_out(l, at, c->buffer + c->used, r->len);
	c->used += r->len;
	pad(c);
	put16x2(c, OPTION_FLAGS, 4);
	put32(c, r->sent ? OUTBOUND : INBOUND);
	put16x2(c, OPTION_END, 0);
	put32(c, len);
}

/* Bounded by what is there at the first look. */
static void drain_lane(struct capture *c, unsigned i)
{
	struct ring *l = &c->shared->ring[i];
	uint64_t *tail = &c->lane[i].tail, head = atomic_load_explicit(&l->head, memory_order_acquire);

	while (*tail != head) {
		struct record r = { 0 };

		if (head - *tail >= sizeof(r) && head - *tail <= RING_BYTES)
			ring_copy_out(l, *tail, &r, sizeof(r));
		if (!r.len || r.len > FRAME_MAX || align_up(sizeof(r) + r.len, 8) > head - *tail) {
			log_guest(LOG_WARN, "%s: its process put into the capture what is no frame", c->name);
			*tail = head;
		} else {
			put_packet(c, l, *tail + sizeof(r), &r);
			*tail += align_up(sizeof(r) + r.len, 8);
			if (atomic_load(&c->failed))
				atomic_fetch_add(&c->unwritten, 1);
		}
		/* Release: we have read what the owner may write over now. */
		atomic_store_explicit(&l->tail, *tail, memory_order_release);
	}
}

static void drain(struct capture *c)
{
	for (unsigned i = 0; i < c->nlanes; i++)
		drain_lane(c, i);
	write_out(c);
}

uint64_t capture_dropped(const struct capture *c)
{
	uint64_t sum = atomic_load(&c->unwritten);

	for (unsigned i = 0; i < c->nlanes; i++)
		sum += atomic_load(&c->shared->ring[i].dropped);
	return sum;
}

/* §4.6 */
static void put_statistics(struct capture *c)
{
	uint64_t dropped = capture_dropped(c);

	make_room(c, 40);
	put32(c, BLOCK_STATISTICS);
	put32(c, 40);
	put32(c, 0);
	put32(c, 0);
	put32(c, 0);
	put16x2(c, OPTION_IFDROP, sizeof(dropped));
	put(c, &dropped, sizeof(dropped));
	put16x2(c, OPTION_END, 0);
	put32(c, 40);
}

static void finish(struct capture *c)
{
	drain(c);
	put_statistics(c);
	write_out(c);
}

static void on_sync(void *ctx)
{
	finish(ctx);
}

static bool anything(struct capture *c)
{
	for (unsigned i = 0; i < c->nlanes; i++)
		if (atomic_load(&c->shared->ring[i].head) != c->lane[i].tail)
			return true;
	return false;
}

static void on_wake(void *ctx)
{
	struct capture *c = ctx;

	drain(c);
	atomic_store(&c->shared->sleeping, true);
	/* See capture_frame(). */
	if (anything(c) && atomic_exchange(&c->shared->sleeping, false))
		wake(c);
}

/* --- main --- */

void capture_switch(struct capture *c, bool on)
{
	if (c && !atomic_load(&c->failed))
		atomic_store(&c->shared->on, on);
}

void capture_sync(struct capture *c)
{
	if (c && c->loop)
		loop_post(c->loop, on_sync, c);
}

int capture_attach(struct capture *c, struct loop *loop)
{
	c->loop = loop;
	return loop_add_eventfd(loop, c->wake_fd, on_wake, c, &c->wake);
}

static int open_file(const char *path, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	struct stat st;
	uint32_t first = 0;

	if (fd < 0)
		return error_set(err, errno, "capture=%s: %s; give a path that can be written", path,
			strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) ||
		(st.st_size && (pread(fd, &first, sizeof(first), 0) != sizeof(first) ||
			first != BLOCK_SECTION))) {
		close(fd);
		return error_set(err, EEXIST,
			"capture=%s: is there already and no capture; give another path", path);
	}
	if (ftruncate(fd, 0)) {
		int r = error_set(err, errno, "capture=%s: %s", path, strerror(errno));

		close(fd);
		return r;
	}
	return fd;
}

static int open_files(struct capture *c, const struct capture_config *config, struct error *err)
{
	char *second;

	c->fd[0] = open_file(config->path, err);
	if (c->fd[0] < 0 || !config->size)
		return MIN(c->fd[0], 0);
	if (asprintf(&second, "%s.1", config->path) < 0)
		return error_set(err, ENOMEM, "out of memory");
	c->fd[1] = open_file(second, err);
	free(second);
	return MIN(c->fd[1], 0);
}

/* Untouched pages of rings cost nothing. */
static int make_shared(struct capture *c, bool forks, struct error *err)
{
	size_t bytes = align_up(sizeof(struct shared) + c->nlanes * sizeof(struct ring), PAGE_4K);
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, (forks ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return error_set(err, ENOMEM, "out of memory for capturing");
	c->shared = at;
	c->shared_bytes = bytes;
	c->shared->sleeping = true;
	return forks && madvise(at, bytes, MADV_DONTFORK) ? error_set(err, errno, "madvise: %s", strerror(errno)) : 0;
}

void *capture_pages(const struct capture *c, size_t *ret_bytes)
{
	*ret_bytes = c->shared_bytes;
	return c->shared;
}

void capture_forked(struct capture *c)
{
	/* The writer is in another process, which hears of a stop by itself. */
	if (c)
		c->loop = NULL;
}

void capture_fds(const struct capture *c, void (*keep)(void *ctx, int fd), void *ctx)
{
	if (c)
		keep(ctx, c->wake_fd);
}

static int make_lanes(struct capture *c, struct error *err)
{
	c->buffer = malloc(BUFFER_BYTES);
	for (unsigned i = 0; i < c->nlanes; i++) {
		c->lane[i].frame = malloc(FRAME_MAX);
		if (!c->lane[i].frame)
			return error_set(err, ENOMEM, "out of memory for capturing");
	}
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!c->buffer || c->wake_fd < 0)
		return error_set(err, ENOMEM, "out of memory for capturing");
	put_head(c);
	write_out(c);
	return 0;
}

int capture_open(struct capture **ret, const struct capture_config *config, struct error *err)
{
	struct capture *c = calloc(1, sizeof(*c) + config->lanes * sizeof(c->lane[0]));
	int r = 0;

	if (!c)
		return error_set(err, ENOMEM, "out of memory for capturing");
	c->fd[0] = c->fd[1] = c->wake_fd = -1;
	c->nlanes = config->lanes;
	c->half = config->size / 2;
	snprintf(c->name, sizeof(c->name), "%s", config->name);
	if (config->size && config->size < SIZE_MIN)
		r = error_set(err, EINVAL, "capture_size: at least 1M, for the largest frames");
	if (!r && config->filter)
		r = capture_filter_compile(&c->filter, config->filter, err);
	if (!r)
		r = open_files(c, config, err);
	if (!r)
		r = make_shared(c, config->forks, err);
	if (!r)
		r = make_lanes(c, err);
	if (r) {
		capture_close(c);
		return r;
	}
	c->shared->on = config->on;
	*ret = c;
	return 0;
}

void capture_close(struct capture *c)
{
	if (!c)
		return;
	loop_remove(c->wake);
	if (c->wake_fd >= 0) {
		/* Attached, its thread has done it: main's may not write by then. */
		if (!c->loop)
			finish(c);
		close(c->wake_fd);
	}
	for (unsigned i = 0; i < FILES; i++)
		if (c->fd[i] >= 0)
			close(c->fd[i]);
	for (unsigned i = 0; i < c->nlanes; i++)
		free(c->lane[i].frame);
	if (c->shared)
		munmap(c->shared, c->shared_bytes);
	capture_filter_free(c->filter);
	free(c->buffer);
	free(c);
}
