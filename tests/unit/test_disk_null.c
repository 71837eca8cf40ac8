/* The disk without a medium: it checks as every disk does, and completes whatever is sent. */
#include <criterion/criterion.h>
#include <errno.h>

#include "devices/host/disk.h"

enum { SIZE = MIB, DEPTH = 4 };

struct fixture {
	struct disk *disk;
	struct disk_queue *queue;
	struct disk_request again; /* started from inside the first done() */
	bool start_again;
	unsigned ndone, nbatch;
};

static void on_done(void *ctx, struct disk_request *rq, int result)
{
	struct fixture *f = ctx;

	(void)rq;
	cr_assert_eq(result, 0);
	f->ndone++;
	if (!f->start_again)
		return;
	f->start_again = false;
	f->again = (struct disk_request){ .op = DISK_FLUSH };
	cr_assert_eq(f->disk->ops->start(f->queue, &f->again), 0);
	f->disk->ops->submit(f->queue);
	cr_assert_eq(f->ndone, 1, "a submit() from inside does not nest");
}

static void on_batch(void *ctx)
{
	((struct fixture *)ctx)->nbatch++;
}

static void make(struct fixture *f, struct disk_null_config config)
{
	const struct disk_events events = { .done = on_done, .batch_done = on_batch, .ctx = f };
	struct error err = { "" };

	memset(f, 0, sizeof(*f));
	cr_assert_eq(disk_null_open(&f->disk, &config, &err), 0, "%s", err.text);
	cr_assert_eq(f->disk->ops->queue_create(&f->queue, f->disk, DEPTH, &events, &err), 0);
	cr_assert_eq(f->disk->ops->queue_attach(f->queue, NULL), 0);
}

static void unmake(struct fixture *f)
{
	f->disk->ops->queue_detach(f->queue);
	f->disk->ops->queue_destroy(f->queue);
	f->disk->ops->close(f->disk);
}

static uint8_t read_back(bool read_zeroes)
{
	uint8_t buf[1024];
	struct iovec iov[2] = { { buf, 512 }, { buf + 512, 512 } };
	struct disk_request rq = { .op = DISK_READ, .offset = SIZE - 1024, .len = 1024, .iov = iov, .iovcnt = 2 };
	struct fixture f;

	memset(buf, 0x5a, sizeof(buf));
	make(&f, (struct disk_null_config){ .size = SIZE, .read_zeroes = read_zeroes });
	cr_assert_eq(f.disk->ops->start(f.queue, &rq), 0);
	cr_assert_eq(f.ndone, 0, "nothing is done before submit()");
	f.disk->ops->submit(f.queue);
	cr_assert_eq(f.ndone, 1);
	cr_assert_eq(f.nbatch, 1);
	unmake(&f);
	for (size_t i = 1; i < sizeof(buf); i++)
		cr_assert_eq(buf[i], buf[0]);
	return buf[0];
}

Test(disk_null, reads_give_zeroes_or_leave_the_buffer_alone)
{
	cr_assert_eq(read_back(true), 0);
	cr_assert_eq(read_back(false), 0x5a);
}

Test(disk_null, a_batch_is_one_batch_and_the_depth_is_kept)
{
	struct disk_request rq[DEPTH + 1];
	struct fixture f;

	make(&f, (struct disk_null_config){ .size = SIZE });
	for (unsigned i = 0; i <= DEPTH; i++) {
		rq[i] = (struct disk_request){ .op = DISK_WRITE_ZEROES, .len = 512 };
		cr_assert_eq(f.disk->ops->start(f.queue, &rq[i]), i < DEPTH ? 0 : -EBUSY);
	}
	f.disk->ops->submit(f.queue);
	cr_assert_eq(f.ndone, DEPTH);
	cr_assert_eq(f.nbatch, 1);
	f.disk->ops->submit(f.queue);
	f.disk->ops->drain(f.queue);
	cr_assert_eq(f.nbatch, 1, "nothing sent, nothing told");
	unmake(&f);
}

Test(disk_null, what_is_started_by_done_is_done_too)
{
	struct disk_request rq = { .op = DISK_FLUSH };
	struct fixture f;

	make(&f, (struct disk_null_config){ .size = SIZE });
	f.start_again = true;
	cr_assert_eq(f.disk->ops->start(f.queue, &rq), 0);
	f.disk->ops->submit(f.queue);
	cr_assert_eq(f.ndone, 2);
	unmake(&f);
}

Test(disk_null, requests_are_checked_as_on_any_disk)
{
	static const struct {
		enum disk_op op;
		uint64_t offset, len;
		int rw, ro;
	} cases[] = {
		{ DISK_READ, SIZE, 512, -ERANGE, -ERANGE },
		{ DISK_READ, UINT64_MAX - 511, 1024, -ERANGE, -ERANGE },
		{ DISK_READ, 0, 0, -EINVAL, -EINVAL },
		{ DISK_READ, 1, 512, -EINVAL, -EINVAL },
		{ DISK_WRITE, SIZE - 512, 1024, -ERANGE, -EROFS },
		{ DISK_DISCARD, 0, 100, -EINVAL, -EROFS },
		{ DISK_FLUSH, 0, 0, 0, 0 },
	};
	struct fixture f;

	for (int ro = 0; ro < 2; ro++) {
		make(&f, (struct disk_null_config){ .size = SIZE, .readonly = ro });
		for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
			struct disk_request rq = { .op = cases[i].op, .offset = cases[i].offset, .len = cases[i].len };

			cr_assert_eq(f.disk->ops->start(f.queue, &rq), ro ? cases[i].ro : cases[i].rw, "%zu", i);
			f.disk->ops->drain(f.queue);
		}
		unmake(&f);
	}
}

Test(disk_null, a_size_that_is_no_disk_is_refused)
{
	static const uint64_t sizes[] = { 0, 1, 511, 513 };
	struct disk *d = NULL;
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		const struct disk_null_config config = { .size = sizes[i] };

		cr_assert_eq(disk_null_open(&d, &config, &err), -EINVAL);
		cr_assert(strstr(err.text, "multiple of 512"), "%s", err.text);
	}
	cr_assert_null(d);
}
