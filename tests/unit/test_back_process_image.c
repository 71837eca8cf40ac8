/*
 * A qcow2 image in a process of its own, killed under load: what was answered is there although nothing was flushed, and the
 * image has neither errors nor leaks.
 */
#include "tests/unit/process_disk.h"

#include <errno.h>
#include <stdarg.h>


static const char *image_options = "cluster_size=4k";

static int __attribute__((format(printf, 1, 2))) sh(const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return system(text);
}

static void image(void)
{
	if (system("qemu-img --version >/dev/null 2>&1"))
		cr_skip_test("no qemu-img here; apt install qemu-utils");
	cr_assert_eq(sh("qemu-img create -q -f qcow2 -o %s %s %d", image_options, path, BLOCKS * BLOCK), 0);
}

/* Of a copy: main still has the lock. */
static void judge(void)
{
	char raw[80];

	snprintf(raw, sizeof(raw), "%s.raw", path);
	cr_assert_eq(sh("cp %s %s.copy", path, path), 0);
	cr_assert_eq(sh("qemu-img check -f qcow2 %s.copy >%s.log 2>&1 || { cat %s.log >&2; false; }", path, path, path), 0);
	cr_assert_eq(sh("qemu-img convert -f qcow2 -O raw %s.copy %s", path, raw), 0);
	check_content(raw);
	sh("rm -f %s.raw %s.log %s.copy", path, path, path);
}

static void survives(const char *options, const char *with, uint64_t features, unsigned times)
{
	image_options = options;
	make_image = image;
	zeroes = 15;
	disk(with, PRIG_DEATHS);
	srand(21);
	prig_drive(1, features | VIRTIO_BIT(BLK_F_FLUSH) | VIRTIO_BIT(BLK_F_WRITE_ZEROES));
	for (unsigned round = 0; round < times; round++) {
		/* Most of what is written is never flushed. */
		flushes = round % 4 ? 0 : 3;
		kill_under_load(1, 1);
	}
	finish(1);
	cr_assert_gt(prig_back()->desk->lives, times / 2);
	front_set_status(prig_front(), 0);
	judge();
	end();
}

Test(back_process_image, kills_lose_nothing_that_was_answered, .timeout = 600)
{
	survives("cluster_size=4k", ",format=qcow2", VD_F_EVENT_IDX, 60);
}

Test(back_process_image, nor_a_part_of_a_cluster, .timeout = 600)
{
	survives("cluster_size=64k", ",format=qcow2", VD_F_PACKED, 60);
}

Test(back_process_image, nor_with_counts_of_one_bit, .timeout = 600)
{
	survives("cluster_size=512,refcount_bits=1", ",format=qcow2", VD_F_EVENT_IDX, 40);
}

Test(back_process_image, nor_past_the_page_cache, .timeout = 600)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_DIRECT, 0600);

	if (fd < 0)
		cr_skip_test("no direct I/O in /tmp");
	close(fd);
	survives("cluster_size=4k", ",format=qcow2,direct=on", VD_F_EVENT_IDX, 30);
}

Test(back_process_image, an_overlay_that_dies_with_the_machine_has_lives_too, .timeout = 600)
{
	make_image = NULL;
	zeroes = 10;
	flushes = 1;
	disk(",ephemeral=on", PRIG_DEATHS);
	srand(22);
	prig_drive(1, VIRTIO_BIT(BLK_F_FLUSH) | VIRTIO_BIT(BLK_F_WRITE_ZEROES));
	run_for(1, 0.02);
	kill_under_load(1, 20);
	finish(1);
	front_set_status(prig_front(), 0);
	/* The base is as it was. */
	memset(content, 0, sizeof(content));
	check_file();
	end();
}

/* --- what one life leaves to the next is hostile --- */

static void *log_of(void)
{
	return ((struct blk *)prig_front()->dev)->disk->pages;
}

Test(back_process_image, a_log_full_of_nonsense_ends_in_a_device_that_failed, .timeout = 600)
{
	make_image = image;
	image_options = "cluster_size=4k";
	flushes = zeroes = 0;
	for (unsigned round = 0; round < 20; round++) {
		uint8_t *bytes;
		int pid;

		disk(",format=qcow2", 3);
		srand(round);
		prig_drive(1, 0);
		run_for(1, 0.01);
		pid = prig_worker();
		kill(pid, SIGSTOP);
		bytes = log_of();
		/* Some of it only, or all. */
		for (unsigned i = 0; i < (round % 2 ? 40u : 64 * KIB); i++)
			bytes[round % 2 ? (unsigned)rand() % 200 : i] = (uint8_t)rand();
		bytes[4] = 1; /* it has begun */
		kill(pid, SIGKILL);
		for (unsigned i = 0; i < 100 && kill(pid, 0) == 0; i++)
			usleep(1000);
		prig_main(20000);
		front_set_status(prig_front(), 0);
		end();
	}
}
