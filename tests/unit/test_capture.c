/*
 * Captured frames: what a file holds, read back by a reader of our own and by tcpdump where that is
 * installed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/host/capture.h"
#include "tests/unit/pcapng.h"
#include "vmm/log.h"

static char folder[] = "/tmp/captureXXXXXX", path[64], second[64];

static void setup(void)
{
	log_level = LOG_ERROR;
	cr_assert(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/c", folder);
	snprintf(second, sizeof(second), "%s/c.1", folder);
}

static void teardown(void)
{
	unlink(path);
	unlink(second);
	rmdir(folder);
}

TestSuite(capture, .init = setup, .fini = teardown);

static bool forks;

static struct capture *start(const char *filter, uint64_t size, unsigned lanes)
{
	const struct capture_config config = { .path = path, .filter = filter, .size = size,
		.name = "_net0", .lanes = lanes, .on = true, .forks = forks };
	struct capture *c = NULL;
	struct error err = { "" };

	cr_assert_eq(capture_open(&c, &config, &err), 0, "%s", err.text);
	return c;
}

/* An Ethernet frame with an IPv4 header and UDP to `port`, in three pieces behind `skip` bytes. */
static void frame(struct capture *c, unsigned lane, bool sent, uint16_t port, size_t len)
{
	static _Thread_local uint8_t bytes[70000];
	size_t skip = sent ? 0 : 12;
	uint8_t *p = bytes + skip;
	struct iovec iov[3] = { { bytes, 5 }, { bytes + 5, 20 }, { bytes + 25, sizeof(bytes) - 25 } };

	memset(bytes, 0, skip + len);
	memcpy(p, "\2\0\0\0\0\1\2\0\0\0\0\2\x08\0\x45", 15);
	p[16] = (uint8_t)((len - 14) >> 8);
	p[17] = (uint8_t)(len - 14);
	p[22] = 64;
	p[23] = 17;
	p[36] = (uint8_t)(port >> 8);
	p[37] = (uint8_t)port;
	p[38] = (uint8_t)((len - 34) >> 8);
	p[39] = (uint8_t)(len - 34);
	capture_frame(c, lane, sent, iov, 3, skip, len);
}

Test(capture, frames_are_in_the_file_with_their_direction)
{
	struct capture *c = start(NULL, 0, 2);
	struct seen s;

	frame(c, 0, true, 80, 60);
	frame(c, 1, false, 80, 61);
	frame(c, 0, false, 80, 1514);
	frame(c, 0, true, 80, 65535);
	capture_close(c);
	s = read_back(path);
	cr_assert_eq(s.packets, 4);
	cr_assert_eq(s.inbound, 2);
	cr_assert_eq(s.bytes, 60 + 61 + 1514 + 65535);
	cr_assert_eq(s.statistics, 1);
	cr_assert_eq(s.dropped, 0);
}

static int lines_of(const char *command)
{
	char line[512];
	FILE *f = popen(command, "r");
	int n = 0;

	cr_assert(f);
	while (fgets(line, sizeof(line), f))
		n++;
	cr_assert_eq(pclose(f), 0);
	return n;
}

Test(capture, tcpdump_reads_it)
{
	struct capture *c;
	char command[160];

	if (system("PATH=$PATH:/usr/sbin command -v tcpdump >/dev/null"))
		cr_skip_test("tcpdump is not installed");
	c = start(NULL, 0, 1);
	for (uint16_t i = 0; i < 30; i++)
		frame(c, 0, i & 1, 1000 + i, 60 + i);
	capture_close(c);
	snprintf(command, sizeof(command), "PATH=$PATH:/usr/sbin tcpdump -nr %s udp 2>/dev/null", path);
	cr_assert_eq(lines_of(command), 30);
	snprintf(command, sizeof(command),
		"PATH=$PATH:/usr/sbin tcpdump -nr %s udp port 1007 2>/dev/null", path);
	cr_assert_eq(lines_of(command), 1);
}

Test(capture, only_what_the_filter_takes_is_there)
{
	const struct capture_config bad = { .path = path, .filter = "port potato", .name = "x",
		.lanes = 1 };
	struct capture *c = NULL;
	struct error err = { "" };
	struct seen s;

	if (capture_open(&c, &bad, &err) == -ELIBACC)
		cr_skip_test("%s", err.text);
	cr_assert(strstr(err.text, "as for tcpdump"), "%s", err.text);
	c = start("udp port 53 and greater 100", 0, 1);
	frame(c, 0, true, 53, 200);
	frame(c, 0, true, 53, 80);
	frame(c, 0, true, 54, 200);
	frame(c, 0, false, 53, 1000);
	capture_close(c);
	s = read_back(path);
	cr_assert_eq(s.packets, 2);
	cr_assert_eq(s.bytes, 1200);
}

Test(capture, a_writer_that_does_not_follow_costs_frames_of_the_file_only)
{
	struct capture *c = start(NULL, 0, 1);
	unsigned n = 3000;
	struct seen s;

	for (unsigned i = 0; i < n; i++)
		frame(c, 0, true, 1, 1514);
	cr_assert_gt(capture_dropped(c), 0);
	capture_close(c);
	s = read_back(path);
	cr_assert_gt(s.packets, 500);
	cr_assert_eq(s.packets + s.dropped, n);
}

Test(capture, it_can_be_switched_while_it_runs)
{
	struct capture *c = start(NULL, 0, 1);

	capture_switch(c, false);
	frame(c, 0, true, 1, 100);
	capture_switch(c, true);
	frame(c, 0, true, 1, 101);
	capture_switch(c, false);
	frame(c, 0, true, 1, 102);
	capture_close(c);
	cr_assert_eq(read_back(path).bytes, 101);
	capture_frame(NULL, 0, true, NULL, 0, 0, 0);
}

struct traffic {
	struct capture *c;
	unsigned lane;
	struct loop *loop;
};

static void *run_writer(void *arg)
{
	cr_assert_eq(loop_run(arg), 0);
	return NULL;
}

enum { FRAMES = 1500 };

static void *make_traffic(void *arg)
{
	struct traffic *t = arg;

	for (unsigned i = 0; i < FRAMES; i++)
		frame(t->c, t->lane, i & 1, (uint16_t)i, 60 + i % 500);
	return NULL;
}

Test(capture, lanes_and_the_writer_run_at_the_same_time)
{
	struct capture *c = start(NULL, 0, 3);
	struct traffic t[3];
	pthread_t writer, thread[3];
	struct loop *loop;
	struct error err;
	uint64_t dropped;

	cr_assert_eq(loop_create(&loop, &err), 0);
	cr_assert_eq(capture_attach(c, loop), 0);
	pthread_create(&writer, NULL, run_writer, loop);
	for (unsigned i = 0; i < 3; i++) {
		t[i] = (struct traffic){ c, i, loop };
		pthread_create(&thread[i], NULL, make_traffic, &t[i]);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	capture_sync(c);
	loop_stop(loop);
	pthread_join(writer, NULL);
	dropped = capture_dropped(c);
	capture_close(c);
	loop_destroy(loop);
	cr_assert_eq(read_back(path).packets + dropped, 3 * FRAMES);
}

Test(capture, a_bound_keeps_the_latest_in_two_whole_files)
{
	struct capture *c;
	struct loop *loop;
	struct error err;
	struct stat a, b;
	pthread_t writer;
	struct seen s;

	cr_assert_eq(loop_create(&loop, &err), 0);
	c = start(NULL, 1 << 20, 1);
	cr_assert_eq(capture_attach(c, loop), 0);
	pthread_create(&writer, NULL, run_writer, loop);
	for (unsigned i = 0; i < 4000; i++) {
		frame(c, 0, true, 1, 1514);
		if (i % 256 == 255)
			usleep(2000); /* let it write: more than one round of the files */
	}
	capture_sync(c);
	loop_stop(loop);
	pthread_join(writer, NULL);
	capture_close(c);
	loop_destroy(loop);
	cr_assert_eq(stat(path, &a), 0);
	cr_assert_eq(stat(second, &b), 0);
	cr_assert_leq(a.st_size, 1 << 19);
	cr_assert_leq(b.st_size, 1 << 19);
	s = read_back(path);
	cr_assert_gt(s.packets + read_back(second).packets, 300);
	cr_assert_eq(s.statistics + read_back(second).statistics, 1);
}

Test(capture, what_is_no_capture_is_not_written_over)
{
	const struct capture_config config = { .path = path, .name = "x", .lanes = 1 };
	struct capture *c = NULL;
	struct error err = { "" };
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	cr_assert_eq(write(fd, "precious", 8), 8);
	close(fd);
	cr_assert_neq(capture_open(&c, &config, &err), 0);
	cr_assert(strstr(err.text, "no capture"), "%s", err.text);
	unlink(path);
	capture_close(start(NULL, 0, 1));
	capture_close(start(NULL, 0, 1)); /* over one of ours */
	cr_assert_eq(mkdir(second, 0700), 0);
	cr_assert_neq(capture_open(&c, &(struct capture_config){ .path = second, .name = "x",
		.lanes = 1 }, &err), 0);
	rmdir(second);
	cr_assert_neq(capture_open(&c, &(struct capture_config){ .path = path, .size = 1000,
		.name = "x", .lanes = 1 }, &err), 0);
	cr_assert(strstr(err.text, "at least 1M"), "%s", err.text);
}

/* --- lanes in a process of their own --- */

Test(capture, a_ring_full_of_nonsense_makes_no_broken_file)
{
	struct capture *c;
	size_t bytes, written = 0;
	uint8_t *pages;

	forks = true;
	c = start(NULL, 0, 2);
	pages = capture_pages(c, &bytes);
	srand(3);
	for (unsigned round = 0; round < 60; round++) {
		for (unsigned i = 0; i < 5; i++)
			frame(c, i % 2, i % 3, 80, 60 + (unsigned)rand() % 1400);
		/* Counters, the first records, or all. */
		for (unsigned i = 0; i < (round % 3 ? 20 : 2000); i++)
			pages[(size_t)rand() % (round % 3 == 2 ? 64 : round % 3 ? 8 * KIB : bytes)] = (uint8_t)rand();
		capture_close(c);
		written += read_back(path).packets;
		c = start(NULL, 0, 2);
		pages = capture_pages(c, &bytes);
	}
	capture_close(c);
	cr_assert_gt(written, 0, "some of it was sound");
}
