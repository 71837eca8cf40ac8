/*
 * A qcow2 disk beside a model of what must be on it, and QEMU's own tools as the judge of its file.
 */
#ifndef TESTS_UNIT_QCOW2_RIG_H
#define TESTS_UNIT_QCOW2_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/host/disk_open.h"
#include "devices/host/qcow2.h"

enum { RIG_DEPTH = 16, RIG_MANY = 8 };

struct rig {
	char dir[64], path[96];
	struct disk *disk;
	struct disk_queue *queue;
	struct disk_info info;
	uint8_t *model;               /* the guest's disk as it must be */
	uint64_t size;
	unsigned ndone;
	struct disk_request *done_rq[RIG_MANY];
	int result[RIG_MANY];
	uint32_t seed;
};

/* A command of the shell; its exit status. Output goes to the log of the folder. */
static inline int rig_sh(struct rig *r, const char *fmt, ...)
{
	char cmd[2048];
	int n = snprintf(cmd, sizeof(cmd), "exec >>%s/log 2>&1; ", r->dir), status;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd + n, sizeof(cmd) - (size_t)n, fmt, ap);
	va_end(ap);
	status = system(cmd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	strcpy(r->dir, "/var/tmp/test-qcow2-XXXXXX");
	cr_assert_not_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/disk", r->dir);
	r->seed = 1;
}

static inline void rig_needs_qemu(void)
{
	if (system("qemu-img --version >/dev/null 2>&1"))
		cr_skip_test("no qemu-img here; apt install qemu-utils");
}

static inline void rig_on_done(void *ctx, struct disk_request *rq, int result)
{
	struct rig *r = ctx;

	cr_assert_lt(r->ndone, (unsigned)RIG_MANY);
	r->done_rq[r->ndone] = rq;
	r->result[r->ndone++] = result;
}

static inline void rig_on_batch(void *ctx)
{
	(void)ctx;
}

static inline int rig_open_config(struct rig *r, const struct disk_config *config, struct error *err)
{
	const struct disk_events events = { .done = rig_on_done, .batch_done = rig_on_batch, .ctx = r };
	int res = disk_open(&r->disk, config, err);

	if (res)
		return res;
	r->disk->ops->info(r->disk, &r->info);
	res = r->disk->ops->queue_create(&r->queue, r->disk, RIG_DEPTH, &events, err);
	if (res)
		return res;
	cr_assert_eq(r->disk->ops->queue_attach(r->queue, NULL), 0);
	return 0;
}

static inline void rig_open(struct rig *r, struct disk_config config)
{
	struct error err = { "" };

	if (!config.path)
		config.path = r->path;
	cr_assert_eq(rig_open_config(r, &config, &err), 0, "%s", err.text);
	if (!r->model) {
		r->size = r->info.size;
		r->model = calloc(1, r->size);
	}
	cr_assert_eq(r->info.size, r->size);
}

/* As at the end of a machine. */
static inline void rig_close(struct rig *r)
{
	if (r->queue) {
		r->disk->ops->drain(r->queue);
		r->disk->ops->queue_detach(r->queue);
		r->disk->ops->queue_destroy(r->queue);
	}
	if (r->disk)
		r->disk->ops->close(r->disk);
	r->queue = NULL;
	r->disk = NULL;
}

static inline void rig_free(struct rig *r)
{
	rig_close(r);
	free(r->model);
	cr_assert_eq(rig_sh(r, "rm -rf %s", r->dir), 0);
}

static inline int rig_run(struct rig *r, struct disk_request *rq)
{
	int res;

	r->ndone = 0;
	res = r->disk->ops->start(r->queue, rq);
	if (res)
		return res;
	cr_assert_eq(r->ndone, 0, "done is never called from inside start()");
	r->disk->ops->submit(r->queue);
	r->disk->ops->drain(r->queue);
	cr_assert_eq(r->ndone, 1);
	return r->result[0];
}

static inline int rig_transfer(struct rig *r, enum disk_op op, uint64_t offset, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct disk_request rq = { .op = op, .offset = offset, .len = len, .iov = &iov, .iovcnt = 1 };

	return rig_run(r, &rq);
}

static inline int rig_range(struct rig *r, enum disk_op op, uint64_t offset, uint64_t len, bool unmap)
{
	struct disk_request rq = { .op = op, .offset = offset, .len = len, .unmap = unmap };

	return rig_run(r, &rq);
}

static inline uint32_t rig_random(struct rig *r, uint32_t below)
{
	r->seed = r->seed * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(r->seed >> 4) * below >> 28);
}

static inline void rig_fill(struct rig *r, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)rig_random(r, 256);
}

/* All of the disk is as the model says. */
static inline void rig_verify(struct rig *r)
{
	static uint8_t buf[256 * KIB];

	for (uint64_t at = 0; at < r->size; at += sizeof(buf)) {
		size_t n = MIN(sizeof(buf), r->size - at);

		memset(buf, 0xee, n);
		cr_assert_eq(rig_transfer(r, DISK_READ, at, buf, n), 0);
		for (size_t i = 0; i < n; i++)
			cr_assert_eq(buf[i], r->model[at + i], "byte %llu: %02x, not %02x",
				(unsigned long long)(at + i), buf[i], r->model[at + i]);
	}
}

static inline void rig_show_log(struct rig *r)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "tail -n 30 %s/log", r->dir);
	cr_assert_geq(system(cmd), 0);
}

/* qemu-img finds neither errors nor leaks, and the same bytes. */
static inline void rig_judge(struct rig *r, const char *path)
{
	char raw[96];
	FILE *f;
	int res = rig_sh(r, "qemu-img check -U -f qcow2 %s", path);

	if (res)
		rig_show_log(r);
	cr_assert_eq(res, 0, "qemu-img check: %d", res);
	snprintf(raw, sizeof(raw), "%s/model", r->dir);
	f = fopen(raw, "w");
	cr_assert_eq(fwrite(r->model, 1, r->size, f), r->size);
	fclose(f);
	res = rig_sh(r, "qemu-img compare -U -f qcow2 -F raw %s %s", path, raw);
	if (res)
		rig_show_log(r);
	cr_assert_eq(res, 0, "qemu-img compare: %d", res);
}

/* Random requests, several in flight, and what they do to the model. */
static inline void rig_random_ops(struct rig *r, unsigned n, uint32_t max)
{
	static uint8_t buf[RIG_MANY][256 * KIB];

	max = MIN(max, (uint32_t)(256 * KIB));
	while (n) {
		struct disk_request rq[RIG_MANY];
		struct iovec iov[RIG_MANY][3];
		unsigned batch = 1 + rig_random(r, RIG_MANY);

		r->ndone = 0;
		for (unsigned i = 0; i < batch; i++) {
			/* No two of a batch overlap, but they may share a cluster. */
			uint64_t slot = r->size / batch / 512, first = slot * i;
			uint64_t at = (first + rig_random(r, (uint32_t)slot)) * 512;
			uint64_t want = 512 + rig_random(r, max / 512) * 512, len = MIN(want, (first + slot) * 512 - at);
			uint32_t kind = rig_random(r, 10);
			uint64_t cut = len / 3;

			if (rig_random(r, 4) == 0 && i) { /* next to the one before */
				uint64_t after = rq[i - 1].offset + rq[i - 1].len;

				if (rq[i - 1].op != DISK_FLUSH && after + len <= (first + slot) * 512)
					at = after;
			}
			iov[i][0] = (struct iovec){ buf[i], cut };
			iov[i][1] = (struct iovec){ buf[i] + cut, cut };
			iov[i][2] = (struct iovec){ buf[i] + 2 * cut, len - 2 * cut };
			rq[i] = (struct disk_request){ .offset = at, .len = len, .iov = iov[i], .iovcnt = 3 };
			rq[i].sync = rig_random(r, 16) == 0;
			if (kind < 5) {
				rq[i].op = DISK_WRITE;
				rig_fill(r, buf[i], len);
				memcpy(r->model + at, buf[i], len);
			} else if (kind < 7) {
				rq[i].op = DISK_READ;
			} else if (kind == 7) {
				rq[i].op = DISK_WRITE_ZEROES;
				rq[i].unmap = rig_random(r, 2);
				memset(r->model + at, 0, len);
			} else if (kind == 8) {
				rq[i].op = DISK_DISCARD;
			} else {
				rq[i] = (struct disk_request){ .op = DISK_FLUSH };
			}
			{
				int started = r->disk->ops->start(r->queue, &rq[i]);

				cr_assert_eq(started, 0, "start: %d", started);
			}
		}
		r->disk->ops->submit(r->queue);
		r->disk->ops->drain(r->queue);
		cr_assert_eq(r->ndone, batch);
		for (unsigned i = 0; i < batch; i++)
			cr_assert_eq(r->result[i], 0, "%d", r->result[i]);
		for (unsigned i = 0; i < batch; i++) {
			if (rq[i].op == DISK_READ)
				cr_assert_eq(memcmp(buf[i], r->model + rq[i].offset, rq[i].len), 0);
			/* A discard leaves old bytes or zeroes; what it was is now what the disk says. */
			if (rq[i].op == DISK_DISCARD) {
				for (uint64_t at = rq[i].offset, end = at + rq[i].len; at < end; at += 512) {
					uint8_t sector[512];
					static const uint8_t zero[512];

					unsigned keep = r->ndone;

					cr_assert_eq(rig_transfer(r, DISK_READ, at, sector, 512), 0);
					r->ndone = keep;
					cr_assert(!memcmp(sector, r->model + at, 512) || !memcmp(sector, zero, 512));
					memcpy(r->model + at, sector, 512);
				}
			}
		}
		n -= MIN(n, batch);
	}
}

#endif
