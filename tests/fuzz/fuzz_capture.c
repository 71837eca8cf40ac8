/*
 * Frames of any length and shape into a capture, on two lanes, switched off and on. The file is pcapng as its draft has it:
 * blocks whose lengths agree at both ends and fill the file, a section header first, frames after an interface, and each
 * frame's bytes as they were handed over.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/host/capture.h"
#include "tests/fuzz/program.h"
#include "vmm/log.h"

enum { LANES = 2, FRAMES_MAX = 64, BUFFER = 70000, SECTION = 0x0a0d0d0a, INTERFACE = 1, PACKET = 6 };

static uint8_t byte_of(size_t i, uint8_t seed)
{
	return (uint8_t)(i * 7 + seed);
}

static bool is_frame(const uint8_t *p, size_t len)
{
	for (size_t i = 1; i < len; i++)
		if (p[i] != byte_of(i, p[0]))
			return false;
	return true;
}

static unsigned judge(const uint8_t *file, size_t size)
{
	unsigned packets = 0, interfaces = 0;

	MUST(size >= 28 && get_le32(file) == SECTION && get_le32(file + 8) == 0x1a2b3c4d);
	for (size_t at = 0; at < size;) {
		uint32_t type, len;

		MUST(size - at >= 12);
		type = get_le32(file + at);
		len = get_le32(file + at + 4);
		MUST(len >= 12 && len % 4 == 0 && len <= size - at && get_le32(file + at + len - 4) == len);
		interfaces += type == INTERFACE;
		if (type == PACKET) {
			uint32_t captured = get_le32(file + at + 20);

			MUST(interfaces && get_le32(file + at + 8) < interfaces && len >= 32 && captured <= len - 32);
			MUST(captured <= get_le32(file + at + 24) && is_frame(file + at + 28, captured));
			packets++;
		}
		at += len;
	}
	return packets;
}

static bool frame(struct capture *c, const struct instruction *i)
{
	static uint8_t buffer[BUFFER];
	struct iovec iov[4];
	size_t skip = i->op >> 4, len = i->value % (BUFFER - 16), at = 0;
	int n = 0;

	for (size_t b = 0; b < skip + len; b++)
		buffer[b] = byte_of(b - skip, i->len);
	/* In up to four pieces, of which some are empty. */
	for (; n < 3; n++) {
		iov[n] = (struct iovec){ buffer + at, MIN(skip + len - at, (size_t)(i->value >> (16 + 12 * n)) & 0xfff) };
		at += iov[n].iov_len;
	}
	iov[n++] = (struct iovec){ buffer + at, skip + len - at };
	capture_frame(c, i->at % LANES, i->at & 2, iov, n, skip, len);
	return len > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[] = "/dev/shm/fuzz_capture.XXXXXX";
	struct capture_config config = { .path = path, .name = "fuzz", .lanes = LANES, .on = true };
	unsigned offered = 0, found;
	struct instruction i;
	struct capture *c;
	struct error err;
	struct stat st;
	uint64_t lost;
	void *file;
	int fd = mkstemp(path);

	log_level = LOG_ERROR - 1;
	MUST(fd >= 0 && capture_open(&c, &config, &err) == 0);
	for (unsigned n = 0; n < FRAMES_MAX && program_next(&data, &size, &i); n++) {
		if (i.op % 16 == 0)
			capture_switch(c, i.at & 1);
		else if (frame(c, &i))
			offered++;
	}
	capture_switch(c, true);
	capture_sync(c);
	lost = capture_dropped(c);
	capture_close(c);
	MUST(fstat(fd, &st) == 0 && st.st_size > 0);
	file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	MUST(file != MAP_FAILED);
	found = judge(file, (size_t)st.st_size);
	MUST(found + lost <= offered + FRAMES_MAX);
	munmap(file, (size_t)st.st_size);
	close(fd);
	unlink(path);
	return 0;
}
