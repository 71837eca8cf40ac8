/*
 * A qcow2 disk whose tables come late: requests that need none of them go on, those that do wait and lose nothing.
 */
#include "tests/unit/qcow2_rig.h"

enum {
	CLUSTER = 4096,
	REACH = CLUSTER / 8 * CLUSTER, /* bytes of the guest's disk that one table describes */
	TABLES = 4,
	HELD_MAX = 32,
};

/* What is not in memory does not come before somebody collects it. */
static const struct disk_config past_the_cache = { .format = DISK_FORMAT_QCOW2, .direct = true };

/* The file below, whose reads of tables are held back, or fail. */
static struct {
	const struct disk_ops *real;
	struct qcow2 *img;
	bool holds, fails;
	unsigned table_reads;
	unsigned nheld;
	struct disk_queue *queue[HELD_MAX];
	struct disk_request *rq[HELD_MAX];
} late;

static bool is_table(const struct disk_request *rq)
{
	for (uint64_t i = 0; rq->op == DISK_READ && i < late.img->l1.entries; i++)
		if ((qcow2_table_get(&late.img->l1, i) & QCOW2_OFFSET) == rq->offset)
			return true;
	return false;
}

static int late_start(struct disk_queue *q, struct disk_request *rq)
{
	if (!is_table(rq))
		return late.real->start(q, rq);
	late.table_reads++;
	if (late.fails)
		return -EIO;
	if (!late.holds)
		return late.real->start(q, rq);
	cr_assert_lt(late.nheld, (unsigned)HELD_MAX);
	late.queue[late.nheld] = q;
	late.rq[late.nheld++] = rq;
	return 0;
}

static void release(void)
{
	late.holds = false;
	for (unsigned i = 0; i < late.nheld; i++) {
		cr_assert_eq(late.real->start(late.queue[i], late.rq[i]), 0);
		late.real->submit(late.queue[i]);
	}
	late.nheld = 0;
}

/* A disk with data under each table, opened anew, and only the first table in its cache. */
static void setup(struct rig *r)
{
	static struct disk_ops ops;
	static uint8_t buf[CLUSTER] __attribute__((aligned(CLUSTER)));

	rig_needs_qemu();
	rig_init(r);
	cr_assert_eq(rig_sh(r, "qemu-img create -f qcow2 -o cluster_size=%d %s %d", CLUSTER, r->path, TABLES * REACH), 0);
	rig_open(r, past_the_cache);
	for (unsigned t = 0; t < TABLES; t++)
		for (unsigned c = 0; c < 4; c++) {
			uint64_t at = t * REACH + c * CLUSTER;

			rig_fill(r, buf, CLUSTER);
			memcpy(r->model + at, buf, CLUSTER);
			cr_assert_eq(rig_transfer(r, DISK_WRITE, at, buf, CLUSTER), 0);
		}
	rig_close(r);
	rig_open(r, past_the_cache);
	late.img = container_of(r->disk, struct qcow2, disk);
	late.real = late.img->file->ops;
	ops = *late.real;
	ops.start = late_start;
	late.img->file->ops = &ops;
	cr_assert_eq(rig_transfer(r, DISK_READ, 0, buf, CLUSTER), 0);
	late.table_reads = 0;
	r->ndone = 0;
}

static void teardown(struct rig *r)
{
	rig_close(r);
	rig_open(r, past_the_cache);
	rig_verify(r);
	rig_close(r);
	rig_judge(r, r->path);
	rig_free(r);
}

struct piece {
	struct disk_request rq;
	struct iovec iov;
	uint8_t buf[CLUSTER] __attribute__((aligned(CLUSTER)));
};

static void begin(struct rig *r, struct piece *p, enum disk_op op, uint64_t at)
{
	p->iov = (struct iovec){ p->buf, CLUSTER };
	p->rq = (struct disk_request){ .op = op, .offset = at, .len = CLUSTER, .iov = &p->iov, .iovcnt = 1 };
	cr_assert_eq(r->disk->ops->start(r->queue, &p->rq), 0);
	r->disk->ops->submit(r->queue);
}

/* Until so many are done; what is held back never is. */
static void wait_for(struct rig *r, unsigned n)
{
	for (int ms = 0; ms < 10000 && r->ndone < n; ms++)
		if (!r->disk->ops->poll(r->queue))
			usleep(1000);
	cr_assert_eq(r->ndone, n);
}

static void finish(struct rig *r, unsigned n)
{
	release();
	r->disk->ops->drain(r->queue);
	cr_assert_eq(r->ndone, n);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(r->result[i], 0);
}

static struct piece a, b, c, d;

static bool as_model(const struct rig *r, const struct piece *p)
{
	return !memcmp(p->buf, r->model + p->rq.offset, CLUSTER);
}

Test(qcow2_fetch, a_read_whose_table_comes_late_is_overtaken)
{
	struct rig r;

	setup(&r);
	late.holds = true;
	begin(&r, &a, DISK_READ, 1 * REACH);
	begin(&r, &b, DISK_READ, CLUSTER);
	rig_fill(&r, c.buf, CLUSTER);
	memcpy(r.model + 2 * CLUSTER, c.buf, CLUSTER);
	begin(&r, &c, DISK_WRITE, 2 * CLUSTER);
	wait_for(&r, 2);
	cr_assert(r.done_rq[0] != &a.rq && r.done_rq[1] != &a.rq);
	cr_assert(as_model(&r, &b));
	finish(&r, 3);
	cr_assert_eq(r.done_rq[2], &a.rq);
	cr_assert(as_model(&r, &a));
	teardown(&r);
}

Test(qcow2_fetch, a_write_whose_table_comes_late_is_overtaken_but_not_where_it_writes)
{
	struct rig r;

	setup(&r);
	late.holds = true;
	rig_fill(&r, a.buf, CLUSTER);
	memcpy(r.model + 2 * REACH, a.buf, CLUSTER);
	begin(&r, &a, DISK_WRITE, 2 * REACH);
	begin(&r, &b, DISK_READ, 2 * REACH);
	begin(&r, &c, DISK_READ, 0);
	wait_for(&r, 1);
	cr_assert_eq(r.done_rq[0], &c.rq);
	finish(&r, 3);
	cr_assert(as_model(&r, &b), "the younger read has what was written");
	teardown(&r);
}

Test(qcow2_fetch, a_table_is_read_once_for_all_who_wait_for_it)
{
	struct rig r;

	setup(&r);
	late.holds = true;
	begin(&r, &a, DISK_READ, 1 * REACH);
	begin(&r, &b, DISK_READ, 1 * REACH + CLUSTER);
	begin(&r, &c, DISK_READ, 1 * REACH + 2 * CLUSTER);
	begin(&r, &d, DISK_READ, 3 * REACH);
	cr_assert_eq(late.nheld, 2, "two tables at the same time");
	finish(&r, 4);
	cr_assert_eq(late.table_reads, 2);
	cr_assert(as_model(&r, &a) && as_model(&r, &b) && as_model(&r, &c) && as_model(&r, &d));
	teardown(&r);
}

Test(qcow2_fetch, a_table_that_cannot_be_read_fails_its_request_and_no_other)
{
	struct rig r;

	setup(&r);
	late.fails = true;
	begin(&r, &a, DISK_READ, 1 * REACH);
	begin(&r, &b, DISK_READ, CLUSTER);
	r.disk->ops->drain(r.queue);
	cr_assert_eq(r.ndone, 2);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(r.result[i], r.done_rq[i] == &a.rq ? -EIO : 0);
	late.fails = false;
	r.ndone = 0;
	begin(&r, &a, DISK_READ, 1 * REACH);
	finish(&r, 1);
	cr_assert(as_model(&r, &a));
	teardown(&r);
}

/* What the table says changes while it is on its way: the older one is not taken. */
Test(qcow2_fetch, a_table_that_changes_on_its_way_is_read_again)
{
	struct rig r;

	static uint8_t nowhere[CLUSTER] __attribute__((aligned(CLUSTER)));
	struct iovec elsewhere = { nowhere, CLUSTER };
	int fd;

	setup(&r);
	late.holds = true;
	begin(&r, &a, DISK_READ, 1 * REACH + 64 * CLUSTER);
	cr_assert_eq(late.nheld, 1);
	/* The table as it is now, in a read that ends when the change is in the file. */
	fd = open(r.path, O_RDONLY);
	cr_assert_eq(pread(fd, late.rq[0]->iov->iov_base, CLUSTER, (off_t)late.rq[0]->offset), CLUSTER);
	close(fd);
	late.rq[0]->iov = &elsewhere;
	late.holds = false;
	{
		struct qcow2_run run;
		int err = qcow2_alloc(late.img, 1, &run);

		cr_assert_eq(err, 0);
		rig_fill(&r, b.buf, CLUSTER);
		cr_assert_eq(qcow2_io(late.img, DISK_WRITE, run.first * CLUSTER, b.buf, CLUSTER), 0);
		cr_assert_eq(qcow2_map_link(late.img, 1 * REACH + 64 * CLUSTER, run.first, 1), 0);
		cr_assert_eq(qcow2_commit(late.img), 0);
		memcpy(r.model + 1 * REACH + 64 * CLUSTER, b.buf, CLUSTER);
	}
	for (uint32_t i = 0; i < late.img->l2_cache.sets * 4; i++)
		late.img->l2_cache.slices[i] = (struct qcow2_slice){ 0 }; /* it gave way to others */
	release();
	r.disk->ops->drain(r.queue);
	cr_assert_eq(r.ndone, 1);
	cr_assert_eq(r.result[0], 0);
	cr_assert(as_model(&r, &a));
	teardown(&r);
}
