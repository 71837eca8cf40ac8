/*
 * The floor of the network bench: the same frames written to a tap by write(2) alone, no guest. One line of JSON.
 *
 *   net_floor TAP SIZE REQUESTS
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <x86intrin.h>

enum { HEADER = 12, FRAME_MAX = 65535, TYPE_NONE = 0x88b5 };

static int send_frames(int fd, const uint8_t *frame, size_t size, uint64_t n)
{
	while (n--)
		if (write(fd, frame, HEADER + size) < 0)
			return -1;
	return 0;
}

int main(int argc, char **argv)
{
	static uint8_t frame[HEADER + FRAME_MAX] = { [HEADER] = 2, [HEADER + 5] = 0x11, [HEADER + 6] = 2, [HEADER + 11] = 0x22,
		[HEADER + 12] = TYPE_NONE >> 8, [HEADER + 13] = TYPE_NONE & 0xff };
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	size_t size = argc > 3 ? strtoul(argv[2], NULL, 10) : 0;
	uint64_t n = argc > 3 ? strtoull(argv[3], NULL, 10) : 0, before, after;
	int header = HEADER, fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (size < 60 || size > FRAME_MAX) {
		fputs("usage: net_floor TAP SIZE REQUESTS\n", stderr);
		return 2;
	}
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", argv[1]);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
		send_frames(fd, frame, size, n / 10 + 1) < 0) {
		perror(argv[1]);
		return 1;
	}
	before = __rdtsc();
	if (send_frames(fd, frame, size, n) < 0) {
		perror(argv[1]);
		return 1;
	}
	after = __rdtsc();
	printf("{\"device\":\"floor\",\"op\":\"send\",\"size\":%zu,\"ok\":1,\"requests\":%llu,\"cycles\":%llu}\n", size,
		(unsigned long long)n, (unsigned long long)(after - before));
	return 0;
}
