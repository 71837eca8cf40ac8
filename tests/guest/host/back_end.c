/*
 * back-end SOCKET DISK QUEUES [connect]: a vhost-user back end with in-flight tracking (tests/driver/vhost_user_end.h), to
 * be killed. It listens, or connects.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/driver/vhost_user_end.h"

int main(int argc, char **argv)
{
	struct end_config c = { .features = end_features() | VIRTIO_BIT(VIRTIO_F_RING_PACKED),
		.protocol = end_protocol(), .depth = 8, .seed = 1 };

	if (argc < 4) {
		fprintf(stderr, "usage: %s SOCKET DISK QUEUES [connect]\n", argv[0]);
		return 2;
	}
	c.path = argv[1];
	c.disk = argv[2];
	c.queues = (unsigned)strtoul(argv[3], NULL, 10);
	c.connects = argc > 4;
	end_run(&c);
}
