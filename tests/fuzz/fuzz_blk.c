/*
 * Any driver against virtio-blk on a small file. Whatever it does, every head comes back once (the
 * rig aborts otherwise), and nothing outside of the disk is touched: the file keeps its size.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/virtio/blk.h"
#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum { SIZE = 64 * KIB, QUEUE = 16 };

/*
 * A new file each time: the kernel lets go of the lock of the last one only some time after it was
 * closed.
 */
static int disk_fd(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, SIZE))
		abort();
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint64_t rings[] = { 0, VD_F_PACKED, VD_F_INDIRECT | VD_F_EVENT_IDX,
		VD_F_PACKED | VD_F_IN_ORDER };
	struct error err = { "" };
	struct rig *r;
	struct blk *blk;
	struct stat st;
	char text[96];
	int fd;

	log_level = LOG_ERROR;
	if (len < 2)
		return 0;
	fd = disk_fd();
	snprintf(text, sizeof(text), "path=/proc/self/fd/%d,queue_size=%u%s", fd, QUEUE,
		data[0] & 0x10 ? ",readonly" : "");
	r = rig_new(&virtio_blk_type, text, &err);
	if (!r) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	blk = container_of(r->dev, struct blk, dev);
	blk->writeback = data[0] >> 7;
	rig_start(r, 0, QUEUE, r->dev->offered | rings[data[0] & 3]);
	rig_fuzz(r, 0, data + 1, len - 1);
	rig_free(r);
	if (fstat(fd, &st) || st.st_size != SIZE)
		abort();
	close(fd);
	return 0;
}
