/* An NVMe namespace as a disk, by commands through its character device: disk_nvme.c. */
#ifndef DEVICES_HOST_DISK_NVME_H
#define DEVICES_HOST_DISK_NVME_H

#include "devices/host/disk_raw.h"

/* Is that the generic character device of an NVMe namespace? Does not open it. Main, stage 2. */
bool disk_nvme_is(const char *path);
/*
 * Main, stage 2; the lock is that of a raw disk. Of the config `path` and `readonly` count: it is
 * always direct. The sentence in `err` does not repeat the path.
 */
int disk_nvme_open(struct disk **ret, const struct disk_raw_config *config, struct error *err) NEEDS_CHECK;

/* What follows is disk_nvme.c's own, and for tests. */
struct nvme_disk {
	struct raw_disk raw;            /* first */
	uint32_t nsid;                  /* const */
	uint32_t block;                 /* const; bytes */
	uint32_t max_transfer;          /* const; bytes of one command, a multiple of `block` */
};
void nvme_init(struct nvme_disk *n);
/* What Identify said, 4096 bytes each: of the namespace, of the controller. */
int nvme_describe(struct nvme_disk *n, const uint8_t *ns, const uint8_t *ctrl, bool readonly,
	struct error *err) NEEDS_CHECK;
void nvme_to_sqe(const struct raw_disk *d, struct disk_request *rq, const struct raw_op *op,
	struct io_uring_sqe *sqe);
bool nvme_result(const struct raw_disk *d, struct disk_request *rq, ssize_t *res);

#endif
