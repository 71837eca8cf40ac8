/*
 * The floor of the I/O bench: the same reads and writes by plain io_uring, one ring, no guest. What any monitor takes beyond
 * it per request is its own.
 *
 *   io_floor PATH OP SIZE DEPTH REQUESTS [direct]     one line of JSON, as the guest's load prints it
 *
 * Registered file, a batch for each io_uring_enter, completions drained in one go: what a program does that has nothing else to do.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

enum { DEPTH_MAX = 256 };

static struct io_uring ring;
static uint8_t *buffer[DEPTH_MAX];
static uint64_t blocks, next_block, state = 12345, failed;

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "io_floor: %s: %s\n", what, strerror(-r));
	exit(1);
}

static uint64_t block(int sequential)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (sequential ? next_block++ : state) % blocks;
}

static void put(const char *op, uint32_t size, unsigned i)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	uint64_t at = block(!strcmp(op, "seqread")) * size;

	if (!strcmp(op, "write"))
		io_uring_prep_write(sqe, 0, buffer[i], size, at);
	else
		io_uring_prep_read(sqe, 0, buffer[i], size, at);
	sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = i;
}

static void run(const char *op, uint32_t size, unsigned depth, uint64_t requests)
{
	uint64_t started = 0, done = 0;

	while (started < depth && started < requests)
		put(op, size, (unsigned)started++);
	while (done < requests) {
		struct io_uring_cqe *cqe;
		unsigned head, n = 0;

		must(io_uring_submit_and_wait(&ring, 1), "submit");
		io_uring_for_each_cqe(&ring, head, cqe) {
			failed += cqe->res != (int)size;
			n++;
			if (started < requests) {
				put(op, size, (unsigned)cqe->user_data);
				started++;
			}
		}
		io_uring_cq_advance(&ring, n);
		done += n;
	}
}

int main(int argc, char **argv)
{
	const char *op = argc > 5 ? argv[2] : "";
	uint32_t size = argc > 5 ? (uint32_t)atoi(argv[3]) : 0;
	unsigned depth = argc > 5 ? (unsigned)atoi(argv[4]) : 0;
	uint64_t requests = argc > 5 ? strtoull(argv[5], NULL, 10) : 0, before, after;
	int direct = argc > 6 ? O_DIRECT : 0, fd;
	struct io_uring_params p = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL };
	struct stat st;

	if (!size || !depth || depth > DEPTH_MAX) {
		fputs("usage: io_floor PATH read|write|seqread SIZE DEPTH REQUESTS [direct]\n", stderr);
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CLOEXEC | direct);
	if (fd < 0 || fstat(fd, &st) < 0) {
		perror(argv[1]);
		return 1;
	}
	blocks = (uint64_t)st.st_size / size;
	for (unsigned i = 0; i < depth; i++)
		if (posix_memalign((void **)&buffer[i], 4096, size))
			return 1;
		else
			memset(buffer[i], (int)i, size);
	must(io_uring_queue_init_params(DEPTH_MAX, &ring, &p), "io_uring");
	must(io_uring_register_files(&ring, &fd, 1), "register the file");
	run(op, size, depth, requests / 10 + 1);
	before = __rdtsc();
	run(op, size, depth, requests);
	after = __rdtsc();
	printf("{\"device\":\"floor\",\"op\":\"%s\",\"size\":%u,\"depth\":%u,\"queues\":1,\"ok\":%d,\"requests\":%llu,"
	       "\"failed\":%llu,\"cycles\":%llu}\n",
		op, size, depth, !failed, (unsigned long long)requests, (unsigned long long)failed,
		(unsigned long long)(after - before));
	return 0;
}
