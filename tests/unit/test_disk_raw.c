/*
 * The raw disk: what it refuses to open, that bytes arrive, and that the host's failures are told
 * and not hidden.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/host/disk_raw.h"
#include "devices/host/disk_slow.h"
#include "tests/unit/sealed.h"
#include "vmm/worker.h"

enum { SIZE = 4 * MIB, DEPTH = 8, MANY = 64 };

/* A temporary file with a disk on it, and what its callbacks saw. */
struct fixture {
	char path[64];
	struct disk *disk;
	struct disk_queue *queue;
	struct disk_request *done_rq[MANY];
	int done_result[MANY];
	unsigned ndone, nbatch;
};

static void on_done(void *ctx, struct disk_request *rq, int result)
{
	struct fixture *f = ctx;

	f->done_rq[f->ndone] = rq;
	f->done_result[f->ndone++] = result;
}

static void on_batch(void *ctx)
{
	((struct fixture *)ctx)->nbatch++;
}

static void file_make(struct fixture *f, off_t size)
{
	int fd;

	memset(f, 0, sizeof(*f));
	snprintf(f->path, sizeof(f->path), "/var/tmp/test-disk-XXXXXX");
	fd = mkstemp(f->path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, size), 0);
	close(fd);
}

/* First line of a test that is about rings alone. */
static void needs_ring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0) < 0)
		cr_skip_test("this kernel has no io_uring to give");
	io_uring_queue_exit(&ring);
}

static void disk_make(struct fixture *f, struct disk_raw_config config)
{
	const struct disk_events events = { .done = on_done, .batch_done = on_batch, .ctx = f };
	struct error err = { "" };

	file_make(f, SIZE);
	config.path = f->path;
	cr_assert_eq(disk_raw_open(&f->disk, &config, &err), 0, "%s", err.text);
	cr_assert_eq(f->disk->ops->queue_create(&f->queue, f->disk, DEPTH, &events, &err), 0, "%s",
		err.text);
	cr_assert_eq(f->disk->ops->queue_attach(f->queue, NULL), 0);
}

static void disk_free(struct fixture *f)
{
	if (f->queue) {
		f->disk->ops->queue_detach(f->queue);
		f->disk->ops->queue_destroy(f->queue);
	}
	if (f->disk)
		f->disk->ops->close(f->disk);
	unlink(f->path);
}

/* Start, send, wait; the result. */
static int run(struct fixture *f, struct disk_request *rq)
{
	unsigned before = f->ndone = 0;
	int r = f->disk->ops->start(f->queue, rq);

	if (r)
		return r;
	f->disk->ops->submit(f->queue);
	f->disk->ops->drain(f->queue);
	cr_assert_eq(f->ndone, before + 1);
	cr_assert_eq(f->done_rq[0], rq);
	return f->done_result[0];
}

static int transfer(struct fixture *f, enum disk_op op, uint64_t offset, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct disk_request rq = { .op = op, .offset = offset, .len = len, .iov = &iov,
		.iovcnt = 1 };

	return run(f, &rq);
}

static int open_path(const char *path, bool readonly, struct disk **ret, struct error *err)
{
	const struct disk_raw_config config = { .path = path, .readonly = readonly };

	return disk_raw_open(ret, &config, err);
}

Test(disk_raw, what_is_no_disk_is_refused_with_a_remedy)
{
	struct fixture f;
	struct error err;
	struct disk *d = NULL;

	cr_assert_eq(open_path("/nonexistent/disk", false, &d, &err), -ENOENT);
	cr_assert(strstr(err.text, "no such file"), "%s", err.text);
	cr_assert_eq(open_path("/tmp", false, &d, &err), -EISDIR);
	cr_assert(strstr(err.text, "is a directory"), "%s", err.text);
	cr_assert_eq(open_path("/tmp", true, &d, &err), -EISDIR);
	cr_assert_eq(open_path("/dev/null", false, &d, &err), -EINVAL);
	cr_assert(strstr(err.text, "neither a file nor"), "%s", err.text);

	file_make(&f, 0);
	cr_assert_eq(open_path(f.path, false, &d, &err), -EINVAL);
	cr_assert(strstr(err.text, "is empty"), "%s", err.text);
	cr_assert_eq(truncate(f.path, 1000), 0);
	cr_assert_eq(open_path(f.path, false, &d, &err), -EINVAL);
	cr_assert(strstr(err.text, "1000 bytes, which is not a multiple of 512"), "%s", err.text);
	unlink(f.path);

	cr_assert_eq(mkfifo(f.path, 0600), 0);
	cr_assert_eq(open_path(f.path, true, &d, &err), -EINVAL, "a FIFO must not hang the open");
	unlink(f.path);
	cr_assert_null(d);
}

Test(disk_raw, one_writer_or_many_readers)
{
	struct disk *a, *b, *c = NULL;
	struct fixture f;
	struct error err;

	file_make(&f, SIZE);
	cr_assert_eq(open_path(f.path, false, &a, &err), 0);
	cr_assert_eq(open_path(f.path, false, &c, &err), -EBUSY);
	cr_assert(strstr(err.text, "is in use by another machine"), "%s", err.text);
	cr_assert_eq(open_path(f.path, true, &c, &err), -EBUSY);
	a->ops->close(a);

	cr_assert_eq(open_path(f.path, true, &a, &err), 0, "the lock ends with the disk");
	cr_assert_eq(open_path(f.path, true, &b, &err), 0);
	cr_assert_eq(open_path(f.path, false, &c, &err), -EBUSY);
	a->ops->close(a);
	b->ops->close(b);
	unlink(f.path);
}

Test(disk_raw, the_lock_of_a_disk_with_a_ring_ends_with_it_too)
{
	struct disk_raw_config config = { 0 };
	struct fixture f;
	struct error err;

	disk_make(&f, (struct disk_raw_config){ 0 });
	config.path = f.path;
	for (int i = 0; i < 20; i++) {
		const struct disk_events events = { .done = on_done, .batch_done = on_batch,
			.ctx = &f };

		f.disk->ops->queue_destroy(f.queue);
		f.disk->ops->close(f.disk);
		cr_assert_eq(disk_raw_open(&f.disk, &config, &err), 0, "%d: %s", i, err.text);
		cr_assert_eq(f.disk->ops->queue_create(&f.queue, f.disk, DEPTH, &events, &err), 0);
	}
	disk_free(&f);
}

/* Somebody still has the open file: a forked child here, the kernel's remains of an io_uring in life. */
Test(disk_raw, a_closed_disk_lets_go_of_its_lock_whoever_still_has_the_file)
{
	struct disk *d;
	struct fixture f;
	struct error err;
	pid_t child;

	file_make(&f, SIZE);
	cr_assert_eq(open_path(f.path, false, &d, &err), 0);
	child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	d->ops->close(d);
	cr_assert_eq(open_path(f.path, false, &d, &err), 0, "%s", err.text);
	d->ops->close(d);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	unlink(f.path);
}

Test(disk_raw, the_lock_of_a_machine_that_was_killed_is_waited_for)
{
	const struct disk_events events = { .done = on_done, .batch_done = on_batch };
	struct disk *d;
	struct fixture f;
	struct error err;

	file_make(&f, SIZE);
	for (int i = 0; i < 10; i++) {
		struct disk_queue *q;
		int go[2];
		pid_t child;
		char x;

		cr_assert_eq(pipe(go), 0);
		child = fork();
		if (!child) {
			if (open_path(f.path, false, &d, &err) || d->ops->queue_create(&q, d, DEPTH, &events, &err) ||
				write(go[1], "x", 1) != 1)
				_exit(1);
			pause();
			_exit(0);
		}
		cr_assert_eq(read(go[0], &x, 1), 1);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		cr_assert_eq(open_path(f.path, false, &d, &err), 0, "%d: %s", i, err.text);
		d->ops->close(d);
		close(go[0]);
		close(go[1]);
	}
	unlink(f.path);
}

Test(disk_raw, an_older_lock_names_its_process)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct disk *d = NULL;
	struct fixture f;
	struct error err;
	char want[32];
	int fd, go[2];
	pid_t child;

	file_make(&f, SIZE);
	cr_assert_eq(pipe(go), 0);
	child = fork();
	if (!child) {
		fd = open(f.path, O_RDWR);
		if (fd < 0 || fcntl(fd, F_SETLK, &lock) || write(go[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	cr_assert_eq(read(go[0], want, 1), 1);
	cr_assert_eq(open_path(f.path, false, &d, &err), -EBUSY);
	snprintf(want, sizeof(want), "(process %d)", child);
	cr_assert(strstr(err.text, want), "%s", err.text);
	kill(child, SIGKILL);
	unlink(f.path);
}

static void bytes_arrive(struct disk_raw_config config)
{
	static uint8_t out[64 * KIB], in[64 * KIB];
	struct iovec iov[3] = { { out, 512 }, { out + 512, 1024 }, { out + 1536, 2560 } };
	struct disk_request rq = { .op = DISK_WRITE, .offset = 8192, .len = 4096, .iov = iov,
		.iovcnt = 3 };
	struct fixture f;

	disk_make(&f, config);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 256);
	cr_assert_eq(run(&f, &rq), 0);
	cr_assert_geq(f.nbatch, 1);
	cr_assert_eq(transfer(&f, DISK_READ, 8192, in, 4096), 0);
	cr_assert_eq(memcmp(in, out, 4096), 0);
	cr_assert_eq(transfer(&f, DISK_WRITE, SIZE - sizeof(out), out, sizeof(out)), 0);
	cr_assert_eq(transfer(&f, DISK_READ, SIZE - sizeof(out), in, sizeof(in)), 0);
	cr_assert_eq(memcmp(in, out, sizeof(in)), 0);
	cr_assert_eq(transfer(&f, DISK_READ, 0, in, 8192), 0);
	for (int i = 0; i < 8192; i++)
		cr_assert_eq(in[i], 0);
	rq = (struct disk_request){ .op = DISK_FLUSH };
	cr_assert_eq(run(&f, &rq), 0);
	disk_free(&f);
}

Test(disk_raw, bytes_arrive_through_the_ring)
{
	bytes_arrive((struct disk_raw_config){ 0 });
}

/* The flags of a ring are newer or older; what it does is the same. */
Test(disk_raw, bytes_arrive_through_the_rings_of_older_kernels)
{
	for (unsigned level = 1; level <= 2; level++)
		bytes_arrive((struct disk_raw_config){ .ring_level = level });
	/* None is left: as without io_uring. */
	bytes_arrive((struct disk_raw_config){ .ring_level = 3 });
}

/* In registered buffers, across their border, and outside of them; also after an entry was used in another way. */
static void fixed_bytes_arrive(bool direct)
{
	enum { LEN = 64 * KIB, HALF = LEN / 2 };
	static uint8_t mem[LEN] __attribute__((aligned(4096))), other[LEN] __attribute__((aligned(4096)));
	static const unsigned at[] = { 0, HALF - 4096, HALF - 2048, HALF, LEN - 4096 };
	const struct iovec fixed[] = { { mem, HALF }, { mem + HALF, HALF } };
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ .fixed = fixed, .nfixed = 2, .direct = direct });
	for (unsigned round = 0; round < 4; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
			struct disk_request flush = { .op = DISK_FLUSH };

			memset(mem, 0, LEN);
			memset(mem + at[i], (int)(1 + i + 16 * round), 4096);
			cr_assert_eq(transfer(&f, DISK_WRITE, 4096 * i, mem + at[i], 4096), 0);
			cr_assert_eq(run(&f, &flush), 0);
			memset(mem, 0, LEN);
			cr_assert_eq(transfer(&f, DISK_READ, 4096 * i, other, 4096), 0);
			cr_assert_eq(transfer(&f, DISK_READ, 4096 * i, mem + at[i], 4096), 0);
			cr_assert_eq(memcmp(mem + at[i], other, 4096), 0);
			for (unsigned k = 0; k < LEN; k++)
				cr_assert_eq(mem[k], k - at[i] < 4096 ? 1 + i + 16 * round : 0);
		}
	}
	disk_free(&f);
}

Test(disk_raw, bytes_arrive_through_registered_buffers)
{
	needs_ring();
	fixed_bytes_arrive(false);
}

Test(disk_raw, bytes_arrive_through_registered_buffers_past_the_page_cache)
{
	needs_ring();
	fixed_bytes_arrive(true);
}

/* Its disk opens, and its queue cannot be made, for a reason that has this in it. */
static void no_fixed_queue(struct disk_raw_config config, bool as_nobody, int code, const char *reason)
{
	static uint8_t mem[MIB] __attribute__((aligned(4096)));
	const struct iovec fixed = { mem, sizeof(mem) };
	const struct disk_events events = { .done = on_done, .batch_done = on_batch };
	struct disk_queue *q = NULL;
	struct error err = { "" };
	struct fixture f;

	file_make(&f, SIZE);
	config.path = f.path;
	config.fixed = &fixed;
	config.nfixed = 1;
	cr_assert_eq(disk_raw_open(&f.disk, &config, &err), 0, "%s", err.text);
	if (as_nobody && geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0);
	cr_assert_eq(f.disk->ops->queue_create(&q, f.disk, DEPTH, &events, &err), code);
	cr_assert_null(q);
	cr_assert(strstr(err.text, reason), "%s", err.text);
	f.disk->ops->close(f.disk);
	cr_assert_eq(seteuid(getuid()), 0);
	unlink(f.path);
}

Test(disk_raw, buffers_that_may_not_be_locked_are_an_error_with_its_remedy)
{
	needs_ring();
	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ 64 * KIB, 64 * KIB }), 0);
	/* Root may lock what it likes. */
	no_fixed_queue((struct disk_raw_config){ 0 }, true, -ENOMEM, "ulimit -l");
}

Test(disk_raw, buffers_cannot_be_registered_without_io_uring)
{
	no_fixed_queue((struct disk_raw_config){ .plain = true }, false, -ENOTSUP, "io_uring");
}

Test(disk_raw, bytes_arrive_through_plain_system_calls)
{
	bytes_arrive((struct disk_raw_config){ .plain = true });
}

Test(disk_raw, a_batch_larger_than_the_depth_is_refused_and_nothing_is_lost)
{
	static uint8_t buf[DEPTH][512], in[DEPTH * 512];
	struct disk_request rq[DEPTH], more = { .op = DISK_FLUSH };
	struct iovec iov[DEPTH];
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ 0 });
	for (unsigned i = 0; i < DEPTH; i++) {
		memset(buf[i], (int)i + 1, 512);
		iov[i] = (struct iovec){ buf[i], 512 };
		rq[i] = (struct disk_request){ .op = DISK_WRITE, .offset = i * 512, .len = 512,
			.iov = &iov[i], .iovcnt = 1 };
		cr_assert_eq(f.disk->ops->start(f.queue, &rq[i]), 0);
	}
	cr_assert_eq(f.disk->ops->start(f.queue, &more), -EBUSY);
	cr_assert_eq(f.ndone, 0, "nothing is sent before submit()");
	f.disk->ops->submit(f.queue);
	f.disk->ops->drain(f.queue);
	cr_assert_eq(f.ndone, DEPTH);
	cr_assert_leq(f.nbatch, DEPTH);
	for (unsigned i = 0; i < DEPTH; i++)
		cr_assert_eq(f.done_result[i], 0);
	cr_assert_eq(transfer(&f, DISK_READ, 0, in, sizeof(in)), 0);
	cr_assert_eq(memcmp(in, buf, sizeof(in)), 0);
	disk_free(&f);
}

Test(disk_raw, ranges_are_checked_without_wrapping)
{
	static uint8_t buf[1024];
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ 0 });
	cr_assert_eq(transfer(&f, DISK_READ, SIZE, buf, 512), -ERANGE);
	cr_assert_eq(transfer(&f, DISK_READ, SIZE - 512, buf, 1024), -ERANGE);
	cr_assert_eq(transfer(&f, DISK_READ, UINT64_MAX - 511, buf, 512), -ERANGE);
	cr_assert_eq(transfer(&f, DISK_WRITE, UINT64_MAX - 511, buf, 1024), -ERANGE);
	cr_assert_eq(transfer(&f, DISK_READ, 100, buf, 512), -EINVAL);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 100), -EINVAL);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 0), -EINVAL);
	cr_assert_eq(transfer(&f, DISK_DISCARD, SIZE, NULL, 512), -ERANGE);
	cr_assert_eq(transfer(&f, DISK_READ, SIZE - 512, buf, 512), 0);
	disk_free(&f);
}

Test(disk_raw, a_readonly_disk_takes_no_change)
{
	static uint8_t buf[512];
	struct disk_info info;
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ .readonly = true });
	f.disk->ops->info(f.disk, &info);
	cr_assert(info.readonly && !info.can_discard && !info.can_write_zeroes);
	cr_assert_eq(transfer(&f, DISK_WRITE, 0, buf, 512), -EROFS);
	cr_assert_eq(transfer(&f, DISK_DISCARD, 0, NULL, 512), -EROFS);
	cr_assert_eq(transfer(&f, DISK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 512), 0);
	disk_free(&f);
}

Test(disk_raw, who_polls_finds_completions_without_waiting)
{
	struct disk_request rq = { .op = DISK_FLUSH };
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ 0 });
	cr_assert_not(f.disk->ops->poll(f.queue), "nothing in flight, nothing found");
	cr_assert_eq(f.disk->ops->start(f.queue, &rq), 0);
	cr_assert_not(f.disk->ops->poll(f.queue), "nothing was sent");
	f.disk->ops->submit(f.queue);
	for (int ms = 0; ms < 60000 && !f.ndone; ms++)
		if (!f.disk->ops->poll(f.queue))
			usleep(1000);
	cr_assert_eq(f.ndone, 1);
	cr_assert_eq(f.done_result[0], 0);
	cr_assert_not(f.disk->ops->poll(f.queue));
	disk_free(&f);
}

/* Many reads past the page cache, by an owner that looks and sleeps as a worker does. */
static void all_of_many_come(struct disk_raw_config config)
{
	enum { PIECE = 4096 };
	const struct disk_events events = { .done = on_done, .batch_done = on_batch };
	static uint8_t buf[MANY][PIECE] __attribute__((aligned(PIECE)));
	static struct disk_request rq[MANY];
	static struct iovec iov[MANY];
	struct disk_events with_ctx = events;
	struct error err = { "" };
	struct fixture f;
	struct disk_queue *q;

	disk_make(&f, config);
	with_ctx.ctx = &f;
	for (unsigned i = 0; i < MANY; i++) {
		memset(buf[i], (int)i + 1, PIECE);
		cr_assert_eq(transfer(&f, DISK_WRITE, i * PIECE, buf[i], PIECE), 0);
		memset(buf[i], 0, PIECE);
	}
	f.ndone = 0;
	cr_assert_eq(f.disk->ops->queue_create(&q, f.disk, MANY, &with_ctx, &err), 0, "%s", err.text);
	cr_assert_eq(f.disk->ops->queue_attach(q, NULL), 0);
	cr_assert_not(f.disk->ops->gather(q), "nothing in flight, nothing to wait for");
	for (unsigned i = 0; i < MANY; i++) {
		iov[i] = (struct iovec){ buf[i], PIECE };
		rq[i] = (struct disk_request){ .op = DISK_READ, .offset = i * PIECE, .len = PIECE, .iov = &iov[i],
			.iovcnt = 1 };
		cr_assert_eq(f.disk->ops->start(q, &rq[i]), 0);
	}
	for (int ms = 0; ms < 60000 && f.ndone < MANY; ms++) {
		unsigned before = f.ndone;
		bool found = f.disk->ops->gather(q);

		cr_assert_eq(found, f.ndone > before);
		if (!found)
			usleep(1000);
	}
	cr_assert_eq(f.ndone, (unsigned)MANY);
	for (unsigned i = 0; i < MANY; i++) {
		cr_assert_eq(f.done_result[i], 0);
		cr_assert_eq(buf[i][PIECE - 1], (uint8_t)(i + 1));
	}
	f.disk->ops->queue_detach(q);
	f.disk->ops->queue_destroy(q);
	disk_free(&f);
}

Test(disk_raw, who_waits_for_a_part_of_many_gets_all_of_them)
{
	all_of_many_come((struct disk_raw_config){ .direct = true });
	all_of_many_come((struct disk_raw_config){ .direct = true, .ring_level = 2 });
	all_of_many_come((struct disk_raw_config){ .plain = true });
}

static void a_cut_file_is_an_error(bool plain)
{
	static uint8_t buf[8192];
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ .plain = plain });
	cr_assert_eq(truncate(f.path, 4096), 0);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 4096), 0);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 8192), -EIO, "half of it is not all of it");
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 4096), -ERANGE, "a disk that has lost bytes has none");
	disk_free(&f);
}

static int flush(struct fixture *f)
{
	struct disk_request rq = { .op = DISK_FLUSH };

	return run(f, &rq);
}

/* Before a flush says that all is well; and once the host has said that it means the new size. */
static void a_cut_file_shows_at_the_next_flush(bool plain)
{
	static uint8_t buf[512];
	struct fixture f;
	uint64_t size;

	disk_make(&f, (struct disk_raw_config){ .plain = plain });
	cr_assert_eq(flush(&f), 0);
	cr_assert_eq(truncate(f.path, 4096), 0);
	cr_assert_eq(transfer(&f, DISK_WRITE, 65536, buf, 512), 0, "which makes it longer, but not as long");
	cr_assert_eq(flush(&f), -EIO);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 512), -ERANGE);
	cr_assert_eq(f.disk->ops->resize(f.disk, &size), 0);
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 512), 0);
	cr_assert_eq(flush(&f), -ENOTRECOVERABLE, "what is lost is lost");
	disk_free(&f);
}

Test(disk_raw, bytes_that_were_cut_off_never_count_as_stable)
{
	a_cut_file_shows_at_the_next_flush(false);
	a_cut_file_shows_at_the_next_flush(true);
}

/* An image grows by its writes; that it was cut must show before one of them hides it. */
Test(disk_raw, a_cut_image_does_not_grow_again)
{
	static uint8_t buf[4096];
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ .image = true });
	cr_assert_eq(transfer(&f, DISK_WRITE, SIZE, buf, 4096), 0);
	cr_assert_eq(transfer(&f, DISK_WRITE, SIZE + 4096, buf, 4096), 0);
	cr_assert_eq(flush(&f), 0);
	cr_assert_eq(truncate(f.path, SIZE + 4096), 0);
	cr_assert_eq(transfer(&f, DISK_WRITE, SIZE + 8192, buf, 4096), -EIO);
	cr_assert_eq(flush(&f), -ENOTRECOVERABLE);
	disk_free(&f);
}

Test(disk_raw, bk_08_a_short_read_is_never_success)
{
	a_cut_file_is_an_error(false);
	a_cut_file_is_an_error(true);
}

static void zeroes_and_holes(struct disk_raw_config config)
{
	static uint8_t buf[256 * KIB], in[256 * KIB];
	struct disk_request rq;
	struct fixture f;

	disk_make(&f, config);
	memset(buf, 0xaa, sizeof(buf));
	for (int unmap = 0; unmap < 2; unmap++) {
		cr_assert_eq(transfer(&f, DISK_WRITE, 0, buf, sizeof(buf)), 0);
		rq = (struct disk_request){ .op = DISK_WRITE_ZEROES, .offset = 512,
			.len = 200 * KIB,
			.unmap = unmap, .sync = true };
		cr_assert_eq(run(&f, &rq), 0);
		cr_assert_eq(transfer(&f, DISK_READ, 0, in, sizeof(in)), 0);
		for (size_t i = 0; i < sizeof(in); i++)
			cr_assert_eq(in[i], i >= 512 && i < 512 + 200 * KIB ? 0 : 0xaa, "byte %zu",
				i);
	}
	rq = (struct disk_request){ .op = DISK_DISCARD, .offset = 0, .len = 4096 };
	cr_assert_eq(run(&f, &rq), 0);
	disk_free(&f);
}

Test(disk_raw, zeroing_touches_the_range_and_nothing_else)
{
	zeroes_and_holes((struct disk_raw_config){ 0 });
	zeroes_and_holes((struct disk_raw_config){ .plain = true });
}

Test(disk_raw, a_file_that_cannot_zero_is_zeroed_by_hand)
{
	static uint8_t buf[256 * KIB], in[256 * KIB];
	struct disk_request rq = { .op = DISK_WRITE_ZEROES, .offset = 512, .len = 200 * KIB };
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ 0 });
	atomic_store(&((struct raw_disk *)f.disk)->no_zero_range, true);
	memset(buf, 0xaa, sizeof(buf));
	cr_assert_eq(transfer(&f, DISK_WRITE, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(run(&f, &rq), 0);
	cr_assert_eq(transfer(&f, DISK_READ, 0, in, sizeof(in)), 0);
	for (size_t i = 0; i < sizeof(in); i++)
		cr_assert_eq(in[i], i >= 512 && i < 512 + 200 * KIB ? 0 : 0xaa, "byte %zu", i);
	disk_free(&f);
}

Test(disk_raw, memory_that_direct_io_cannot_take_still_works)
{
	static uint8_t raw[16 * KIB] __attribute__((aligned(4096))), in[16 * KIB];
	const struct disk_raw_config config = { .direct = true, .path = "" };
	struct disk_raw_config probe = config;
	struct fixture f;
	struct error err;

	file_make(&f, SIZE);
	probe.path = f.path;
	if (disk_raw_open(&f.disk, &probe, &err)) {
		unlink(f.path);
		cr_skip_test("no direct I/O in /var/tmp: %s", err.text);
	}
	disk_free(&f);

	disk_make(&f, config);
	for (size_t i = 0; i < sizeof(raw); i++)
		raw[i] = (uint8_t)(i * 13);
	cr_assert_eq(transfer(&f, DISK_WRITE, 0, raw, 8192), 0, "aligned");
	cr_assert_eq(transfer(&f, DISK_WRITE, 8192 + 512, raw + 3, 1536), 0, "odd address");
	cr_assert_eq(transfer(&f, DISK_READ, 0, in + 1, 8192), 0);
	cr_assert_eq(memcmp(in + 1, raw, 8192), 0);
	cr_assert_eq(transfer(&f, DISK_READ, 8192 + 512, in + 7, 1536), 0);
	cr_assert_eq(memcmp(in + 7, raw + 3, 1536), 0);
	disk_free(&f);
}

/* In plain mode each call takes the fd anew, so a pipe put in its place makes fdatasync fail. */
Test(disk_raw, a_failed_flush_is_remembered)
{
	static uint8_t buf[512];
	struct disk_request flush = { .op = DISK_FLUSH };
	struct iovec iov = { buf, 512 };
	struct disk_request write = { .op = DISK_WRITE, .sync = true, .len = 512, .iov = &iov,
		.iovcnt = 1 };
	int saved, pipes[2], fd;
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ .plain = true });
	cr_assert_eq(run(&f, &flush), 0);
	fd = ((struct raw_disk *)f.disk)->fd;
	saved = dup(fd);
	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(dup2(pipes[1], fd), fd);
	cr_assert_eq(run(&f, &flush), -ENOTRECOVERABLE);
	cr_assert_eq(dup2(saved, fd), fd);
	cr_assert_eq(run(&f, &flush), -ENOTRECOVERABLE, "the kernel has forgotten; we have not");
	cr_assert_eq(run(&f, &write), -ENOTRECOVERABLE, "a write that promises to be stable cannot");
	cr_assert_eq(transfer(&f, DISK_READ, 0, buf, 512), 0);
	close(saved);
	disk_free(&f);
}

Test(disk_raw_op, a_short_transfer_goes_on_where_it_stopped)
{
	struct iovec iov[3] = { { (void *)0x1000, 512 }, { (void *)0x3000, 512 }, { (void *)0x5000,
		1024 } };
	struct disk_request rq = { .op = DISK_READ, .offset = 4096, .len = 2048, .iov = iov,
		.iovcnt = 3 };
	struct raw_disk d = { .file_align = 512, .mem_align = 512 };
	struct raw_op op;
	int result;

	raw_op_begin(&d, &rq);
	cr_assert_eq(raw_op_result(&d, &rq, 700, &result), RAW_AGAIN);
	op = raw_op_next(&d, &rq);
	cr_assert_eq(op.offset, 4096 + 700);
	cr_assert_eq(op.len, 2048 - 700);
	cr_assert_eq(op.iovcnt, 2);
	cr_assert_eq((uintptr_t)op.iov[0].iov_base, 0x3000 + 700 - 512);
	cr_assert_eq(op.iov[0].iov_len, 1024 - 700);
	cr_assert_eq(raw_op_result(&d, &rq, 0, &result), RAW_DONE);
	cr_assert_eq(result, -EIO);
}

Test(disk_raw_op, a_sync_write_ends_with_a_flush)
{
	struct iovec iov = { (void *)0x1000, 512 };
	struct disk_request rq = { .op = DISK_WRITE, .sync = true, .len = 512, .iov = &iov,
		.iovcnt = 1 };
	struct raw_disk d = { .file_align = 512, .mem_align = 512 };
	int result;

	raw_op_begin(&d, &rq);
	cr_assert_eq(raw_op_next(&d, &rq).kind, OP_WRITE);
	cr_assert_eq(raw_op_result(&d, &rq, 512, &result), RAW_AGAIN);
	cr_assert_eq(raw_op_next(&d, &rq).kind, OP_SYNC);
	cr_assert_eq(raw_op_result(&d, &rq, 0, &result), RAW_DONE);
	cr_assert_eq(result, 0);
	cr_assert_not(d.own_kept.flush_failed);
}

Test(disk_raw_op, interruptions_without_progress_end)
{
	struct iovec iov = { (void *)0x1000, 512 };
	struct disk_request rq = { .op = DISK_READ, .len = 512, .iov = &iov, .iovcnt = 1 };
	struct raw_disk d = { .file_align = 512, .mem_align = 512 };
	int result, turns = 0;

	raw_op_begin(&d, &rq);
	while (raw_op_result(&d, &rq, -EINTR, &result) == RAW_AGAIN)
		cr_assert_lt(++turns, 1000);
	cr_assert_eq(result, -EINTR);
}

Test(disk_raw_op, direct_io_that_is_refused_for_alignment_goes_through_the_page_cache)
{
	struct iovec iov = { (void *)0x1000, 4096 };
	struct disk_request rq = { .op = DISK_READ, .len = 4096, .iov = &iov, .iovcnt = 1 };
	struct raw_disk d = { .direct = true, .file_align = 512, .mem_align = 512 };
	int result;

	raw_op_begin(&d, &rq);
	cr_assert_eq(raw_op_next(&d, &rq).file, FILE_MAIN);
	cr_assert_eq(raw_op_result(&d, &rq, -EINVAL, &result), RAW_AGAIN);
	cr_assert_eq(raw_op_next(&d, &rq).file, FILE_BUFFERED);
	cr_assert_eq(raw_op_result(&d, &rq, -EINVAL, &result), RAW_DONE);
	cr_assert_eq(result, -EINVAL);
}

Test(disk_raw_op, a_discard_that_the_file_cannot_do_is_no_error_but_zeroing_is_done)
{
	struct disk_request rq = { .op = DISK_DISCARD, .len = 4096 };
	struct raw_disk d = { .file_align = 512, .mem_align = 512 };
	int result;

	raw_op_begin(&d, &rq);
	cr_assert_eq(raw_op_result(&d, &rq, -EOPNOTSUPP, &result), RAW_DONE);
	cr_assert_eq(result, 0);
	rq = (struct disk_request){ .op = DISK_WRITE_ZEROES, .len = 4096 };
	raw_op_begin(&d, &rq);
	cr_assert_eq(raw_op_result(&d, &rq, -EOPNOTSUPP, &result), RAW_AGAIN);
	cr_assert_eq(raw_op_next(&d, &rq).kind, OP_ZEROES);
	cr_assert_eq(raw_op_result(&d, &rq, -ENOSPC, &result), RAW_DONE);
	cr_assert_eq(result, -ENOSPC);
}

/* The owner's thread: everything below runs on it. */
struct owner {
	struct fixture f;
	struct loop *loop;
	struct disk_request flush[DEPTH];
	unsigned waves;
	long switches;
};

static void owner_done(void *ctx, struct disk_request *rq, int result)
{
	struct owner *o = ctx;

	(void)rq;
	cr_assert_eq(result, 0);
	__atomic_fetch_add(&o->f.ndone, 1, __ATOMIC_RELAXED);
}

/* A second wave is started from inside the callback, as a device does that had more waiting. */
static void owner_batch(void *ctx)
{
	struct owner *o = ctx;

	if (o->f.ndone < DEPTH || o->waves++)
		return;
	for (unsigned i = 0; i < DEPTH; i++)
		cr_assert_eq(o->f.disk->ops->start(o->f.queue, &o->flush[i]), 0);
	o->f.disk->ops->submit(o->f.queue);
}

static void owner_begin(void *ctx)
{
	struct owner *o = ctx;

	cr_assert_eq(o->f.disk->ops->queue_attach(o->f.queue, o->loop), 0);
	for (unsigned i = 0; i < DEPTH; i++) {
		o->flush[i] = (struct disk_request){ .op = DISK_FLUSH };
		cr_assert_eq(o->f.disk->ops->start(o->f.queue, &o->flush[i]), 0);
	}
	o->f.disk->ops->submit(o->f.queue);
}

static void owner_count(void *ctx)
{
	struct rusage use;

	getrusage(RUSAGE_THREAD, &use);
	((struct owner *)ctx)->switches = use.ru_nvcsw;
}

static void owner_end(void *ctx)
{
	struct owner *o = ctx;

	o->f.disk->ops->queue_detach(o->f.queue);
}

static void *owner_main(void *ctx)
{
	loop_run(((struct owner *)ctx)->loop);
	return NULL;
}

static void completions_wake_the_loop(bool plain)
{
	const struct disk_raw_config config = { .plain = plain };
	struct owner o = { .loop = NULL };
	struct disk_events events = { .done = owner_done, .batch_done = owner_batch, .ctx = &o };
	struct error err;
	pthread_t thread;
	unsigned done = 0;
	long before;

	disk_make(&o.f, config);
	o.f.disk->ops->queue_destroy(o.f.queue);
	cr_assert_eq(o.f.disk->ops->queue_create(&o.f.queue, o.f.disk, DEPTH, &events, &err), 0);
	cr_assert_eq(loop_create(&o.loop, &err), 0);
	cr_assert_eq(pthread_create(&thread, NULL, owner_main, &o), 0);
	cr_assert_eq(loop_call(o.loop, owner_begin, &o), 0);
	for (int ms = 0; ms < 5000 && done < 2 * DEPTH; ms++) {
		usleep(1000);
		done = __atomic_load_n(&o.f.ndone, __ATOMIC_RELAXED);
	}
	cr_assert_eq(done, 2 * DEPTH);
	loop_call(o.loop, owner_count, &o);
	before = o.switches;
	usleep(100 * 1000);
	loop_call(o.loop, owner_count, &o);
	cr_assert_leq(o.switches - before, 4, "an idle queue must not wake its loop");
	loop_call(o.loop, owner_end, &o);
	loop_stop(o.loop);
	pthread_join(thread, NULL);
	loop_destroy(o.loop);
	o.f.disk->ops->queue_destroy(o.f.queue);
	o.f.disk->ops->close(o.f.disk);
	unlink(o.f.path);
}

Test(disk_raw, completions_wake_the_loop_that_owns_the_ring)
{
	completions_wake_the_loop(false);
}

Test(disk_raw, without_a_ring_the_owner_sees_the_same)
{
	completions_wake_the_loop(true);
}

/* Every operation there is, on the calling thread. */
static void all_operations(void *ctx)
{
	static uint8_t buf[8192];
	struct fixture *f = ctx;
	struct disk_request rq = { .op = DISK_FLUSH };
	uint64_t size;

	cr_assert_eq(f->disk->ops->resize(f->disk, &size), 0);
	cr_assert_eq(size, SIZE);
	cr_assert_eq(transfer(f, DISK_WRITE, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(transfer(f, DISK_READ, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(run(f, &rq), 0);
	rq = (struct disk_request){ .op = DISK_DISCARD, .len = 4096 };
	cr_assert_eq(run(f, &rq), 0);
	rq = (struct disk_request){ .op = DISK_WRITE_ZEROES, .len = 4096, .sync = true };
	cr_assert_eq(run(f, &rq), 0);
	atomic_store(&((struct raw_disk *)f->disk)->no_zero_range, true);
	cr_assert_eq(run(f, &rq), 0);
}

/* What a worker has anyway, from the back: its allocator's. */
static const struct syscall_row allocator[] = {
	{ SYSCALL(mprotect, "an arena grows") },
	SYSCALL_END,
};

struct confined {
	struct fixture f;
	struct worker *worker;
};

static void confined_work(void *ctx)
{
	struct confined *c = ctx;

	cr_assert_eq(c->f.disk->ops->queue_attach(c->f.queue, worker_loop(c->worker)), 0);
	all_operations(&c->f);
	c->f.disk->ops->queue_detach(c->f.queue);
}

static void a_sealed_worker_does_all_of_it(struct disk_raw_config config)
{
	struct confined c = { 0 };
	struct disk_events events = { .done = on_done, .batch_done = on_batch, .ctx = &c.f };
	struct error err = { "" };

	disk_make(&c.f, config);
	/* A queue that nobody attached yet: the first one to do so is the worker. */
	c.f.disk->ops->queue_detach(c.f.queue);
	c.f.disk->ops->queue_destroy(c.f.queue);
	cr_assert_eq(c.f.disk->ops->queue_create(&c.f.queue, c.f.disk, DEPTH, &events, &err), 0);
	cr_assert_eq(worker_create(&c.worker, "_disk0_q0", &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(c.f.disk->syscalls); i++)
		cr_assert_eq(worker_allow(c.worker, c.f.disk->syscalls[i]), 0);
	cr_assert_eq(worker_allow(c.worker, allocator), 0);
	cr_assert_eq(worker_run(c.worker, SANDBOX_KILL, &err), 0, "%s", err.text);
	cr_assert_eq(worker_call(c.worker, confined_work, &c), 0);
	worker_destroy(c.worker);
	c.f.disk->ops->queue_destroy(c.f.queue);
	c.f.disk->ops->close(c.f.disk);
	unlink(c.f.path);
}

Test(disk_raw, its_system_calls_are_all_that_a_sealed_worker_needs)
{
	needs_filters();
	a_sealed_worker_does_all_of_it((struct disk_raw_config){ 0 });
	a_sealed_worker_does_all_of_it((struct disk_raw_config){ .plain = true });
	for (unsigned level = 1; level <= 3; level++)
		a_sealed_worker_does_all_of_it((struct disk_raw_config){ .ring_level = level });
}

/* The fd of this process's first io_uring; -1: none. */
static int ring_fd(void)
{
	char link[64], target[64];

	for (int fd = 3; fd < 256; fd++) {
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, target, sizeof(target) - 1);
		if (n > 0 && (target[n] = '\0', strstr(target, "[io_uring]")))
			return fd;
	}
	return -1;
}

Test(disk_raw, its_ring_takes_nothing_but_what_a_disk_needs)
{
	enum { REGISTER_EVENTFD = 4 };
	struct fixture f;
	int fd, event = -1;

	disk_make(&f, (struct disk_raw_config){ 0 });
	fd = ring_fd();
	if (fd < 0)
		cr_skip_test("this kernel has no io_uring to give");
	cr_assert_eq(syscall(SYS_io_uring_register, fd, REGISTER_EVENTFD, &event, 1), -1);
	cr_assert_eq(errno, EACCES);
	disk_free(&f);
}

/* What sysfs has of an eMMC, in files of our own. */
static void wears(struct fixture *f, const char *life, const char *eol, unsigned pre_eol, unsigned slc, unsigned mlc)
{
	struct raw_disk *d = (struct raw_disk *)f->disk;
	struct disk_slow job = { .op = DISK_GET_LIFETIME };
	const char *const text[] = { life, eol };
	int *const fd[] = { &d->life_fd, &d->eol_fd };

	for (int i = 0; i < 2; i++) {
		if (!text[i])
			continue;
		*fd[i] = memfd_create("attribute", MFD_CLOEXEC);
		cr_assert_eq(write(*fd[i], text[i], strlen(text[i])), (ssize_t)strlen(text[i]));
	}
	cr_assert_eq(f->disk->ops->slow(f->disk, &job), 0);
	cr_assert_eq(job.lifetime.pre_eol, pre_eol, "%s %s", life, eol);
	cr_assert_eq(job.lifetime.slc, slc, "%s", life);
	cr_assert_eq(job.lifetime.mlc, mlc, "%s", life);
	raw_slow_close(d);
	d->life_fd = d->eol_fd = -1;
}

Test(disk_raw_slow, the_lifetime_has_no_reserved_values)
{
	struct fixture f;

	disk_make(&f, (struct disk_raw_config){ 0 });
	wears(&f, "0x01 0x0b\n", "0x03\n", 3, 1, 11);
	wears(&f, "0x0c 0xff\n", "0x04\n", 0, 0, 0);
	wears(&f, "0x02\n", NULL, 0, 2, 0);
	wears(&f, "nonsense", "", 0, 0, 0);
	wears(&f, "0xffffffffffffffffffff -1\n", "-1\n", 0, 0, 0);
	disk_free(&f);
}

Test(disk_raw_slow, a_file_has_none_of_it)
{
	struct fixture f;
	struct disk_info info;

	disk_make(&f, (struct disk_raw_config){ 0 });
	f.disk->ops->info(f.disk, &info);
	cr_assert_not(info.can_secure_erase || info.has_lifetime || info.zoned.zone_size);
	disk_free(&f);
}
