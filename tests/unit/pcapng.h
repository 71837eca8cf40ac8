/* A reader of capture files (pcapng) for tests: included by one .c of a test program. */
#ifndef TESTS_UNIT_PCAPNG_H
#define TESTS_UNIT_PCAPNG_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <unistd.h>

#include "vmm/util.h"

struct seen {
	unsigned packets, inbound;
	uint64_t bytes, dropped;
	unsigned statistics;
};

/* Every block of the file, whose lengths must agree at both ends. */
static struct seen read_back(const char *name)
{
	static uint8_t data[4 << 20];
	struct seen s = { 0 };
	int fd = open(name, O_RDONLY);
	size_t len, at = 0;

	cr_assert_geq(fd, 0);
	len = (size_t)read(fd, data, sizeof(data));
	close(fd);
	cr_assert_lt(len, sizeof(data));
	cr_assert_geq(len, 28);
	cr_assert_eq(get_le32(data), 0x0a0d0d0a);
	while (at < len) {
		uint32_t type = get_le32(data + at), n = get_le32(data + at + 4);

		cr_assert(n >= 12 && n % 4 == 0 && n <= len - at, "a block of %u at %zu", n, at);
		cr_assert_eq(get_le32(data + at + n - 4), n);
		if (type == 6) {
			s.packets++;
			s.bytes += get_le32(data + at + 20);
			s.inbound += get_le32(data + at + n - 12) == 1;
		}
		if (type == 5) {
			s.statistics++;
			s.dropped = get_le64(data + at + 24);
		}
		at += n;
	}
	return s;
}

#endif
