/* virtio-rng: buffers come back filled, and no request takes more than its share. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum { QUEUE = 64 };

static struct rig *make(const char *text)
{
	struct error err = { "" };
	struct rig *r;

	log_level = LOG_ERROR;
	r = rig_new(&virtio_rng_type, text, &err);
	cr_assert(r, "%s", err.text);
	rig_start(r, 0, QUEUE, VD_F_INDIRECT);
	return r;
}

/* One buffer of these pieces; how much of it came back filled. */
static uint32_t ask(struct rig *r, struct vd_seg *segs, unsigned n)
{
	uint32_t used = 0;
	void *cookie;

	cr_assert(vd_add(&r->h[0]->vd, segs, 0, n, r));
	vd_kick(&r->h[0]->vd);
	cr_assert_geq(rig_kick(r, 0), 0);
	cr_assert_eq(vd_poll(&r->h[0]->vd, &cookie, &used), 1);
	return used;
}

static unsigned distinct(const uint8_t *p, size_t len)
{
	bool seen[256] = { false };
	unsigned n = 0;

	for (size_t i = 0; i < len; i++) {
		n += !seen[p[i]];
		seen[p[i]] = true;
	}
	return n;
}

Test(rng, a_buffer_in_pieces_is_filled_to_its_end_and_not_beyond)
{
	struct vd_seg segs[3] = { { HARNESS_DATA, 1000 }, { HARNESS_HIGH - 500, 1000 }, {
		HARNESS_FAR, 1 } };
	struct rig *r = make("");
	uint8_t *first = harness_at(r->h[0], HARNESS_DATA);

	cr_assert_eq(ask(r, segs, 3), 2001);
	cr_assert_gt(distinct(first, 1000), 100);
	cr_assert_gt(distinct(harness_at(r->h[0], HARNESS_HIGH), 500), 100, "across two regions");
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(first[1000 + i], 0);
	rig_free(r);
}

Test(rng, one_request_is_bounded)
{
	struct vd_seg big = { HARNESS_HIGH, HARNESS_REGION }, fine[16];
	struct rig *r = make("");
	uint32_t n;

	cr_assert_eq(ask(r, &big, 1), 64 * KIB);
	for (int i = 0; i < 16; i++)
		fine[i] = (struct vd_seg){ HARNESS_HIGH - 1 + (uint64_t)i * 4, 2 };
	fine[1].addr = HARNESS_HIGH + 4096;
	n = ask(r, fine, 16);
	cr_assert(n && n <= 32, "17 pieces after the region border is cut: %u bytes", n);
	rig_free(r);
}

Test(rng, a_request_without_room_comes_back_empty)
{
	struct vd_seg seg = { HARNESS_DATA, 16 };
	uint32_t used = 1;
	void *cookie;
	struct rig *r = make("");

	cr_assert(vd_add(&r->h[0]->vd, &seg, 1, 0, r));
	vd_kick(&r->h[0]->vd);
	cr_assert_geq(rig_kick(r, 0), 0);
	cr_assert_eq(vd_poll(&r->h[0]->vd, &cookie, &used), 1);
	cr_assert_eq(used, 0);
	rig_free(r);
}

Test(rng, a_source_that_ends_is_followed_by_the_kernels)
{
	struct vd_seg seg = { HARNESS_DATA, 1000 };
	char path[] = "/tmp/test-rng-XXXXXX", text[64];
	int fd = mkstemp(path);
	struct rig *r;

	cr_assert_eq(write(fd, "0123456789", 10), 10);
	close(fd);
	snprintf(text, sizeof(text), "src=%s", path);
	r = make(text);
	cr_assert_eq(ask(r, &seg, 1), 1000);
	cr_assert_eq(memcmp(harness_at(r->h[0], HARNESS_DATA), "0123456789", 10), 0);
	cr_assert_gt(distinct((uint8_t *)harness_at(r->h[0], HARNESS_DATA) + 10, 990), 100);
	rig_free(r);
	unlink(path);
}

Test(rng, a_source_that_is_none_is_refused)
{
	struct error err;

	cr_assert_null(rig_new(&virtio_rng_type, "src=/nonexistent", &err));
	cr_assert(strstr(err.text, "--rng src=/nonexistent: No such file"), "%s", err.text);
	cr_assert_null(rig_new(&virtio_rng_type, "src=/tmp", &err));
	cr_assert(strstr(err.text, "is a directory"), "%s", err.text);
}
