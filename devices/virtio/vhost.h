/*
 * The kernel's vhost, as far as vhost-net (back_vhost.c) and vhost-vdpa (back_vdpa.c) have it in
 * common: rings are described to it in the words of struct queue_setup, and it tells where it was
 * when it stops (uapi linux/vhost.h).
 *
 * What the kernel answers is checked like a guest's numbers where it may come from a device or a
 * program behind it (VDUSE).
 */
#ifndef DEVICES_VIRTIO_VHOST_H
#define DEVICES_VIRTIO_VHOST_H

#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"

/* Behind virtio.h: it makes macros of names that are an enum's there, with the same values. */
#include <linux/vhost.h>

/*
 * vhost_kernel.c: the system calls, alone in a file, so that a unit test can be the kernel. 0
 * (open: an fd) or -errno. Main; and the worker of the device, whose rows name the requests.
 */
int vhost_open(const char *path) NEEDS_CHECK;
int vhost_call(int fd, unsigned long request, const void *arg);
int vhost_message(int fd, const void *msg, size_t len) NEEDS_CHECK;

/* Ring addresses: ours of the guest's memory, or the guest's own, that an IOMMU translates. */
enum vhost_addresses { VHOST_HOST_ADDRESSES, VHOST_GUEST_ADDRESSES };

/*
 * Size, place, indices and eventfds of ring `ring` of the device, as `s` has them; nothing runs
 * yet. -EFAULT: a ring is not wholly in RAM; or what the kernel says. Worker.
 */
int vhost_ring_set(int fd, unsigned ring, const struct queue_setup *s, const struct guest_mem *mem,
	enum vhost_addresses addresses) NEEDS_CHECK;
/*
 * Where a stopped ring goes on: next_avail and next_used of `ret`. When the kernel does not say,
 * what the used ring says, from where a split ring can be taken up again. -errno: `ret` is as it
 * was.
 */
int vhost_ring_base(int fd, unsigned ring, const struct queue_setup *s, const struct guest_mem *mem,
	struct queue_setup *ret);
/* The same for a device that is gone from the ring: the used ring's word alone. */
int vhost_ring_used(const struct queue_setup *s, const struct guest_mem *mem, struct queue_setup *ret);
/* The kernel forgets the eventfds of a ring that was stopped. */
void vhost_ring_forget(int fd, unsigned ring);
/* Look at the ring: chains may lie there already. */
void vhost_ring_kick(const struct queue_setup *s);

/* A row of a role: SYSCALL() of an ioctl with this request. */
#define VHOST_ROW(request, why) { SYSCALL(ioctl, why, SYSCALL_ARG_EQ(1, request)) }
/* What the calls above ask of the kernel, for the owner's table. */
#define VHOST_RING_ROWS                                                                            \
	VHOST_ROW(VHOST_SET_VRING_NUM, "vhost: size of a ring"),                                   \
	VHOST_ROW(VHOST_SET_VRING_BASE, "vhost: where a ring begins"),                             \
	VHOST_ROW(VHOST_GET_VRING_BASE, "vhost: where a ring stopped"),                            \
	VHOST_ROW(VHOST_SET_VRING_ADDR, "vhost: where a ring lies"),                               \
	VHOST_ROW(VHOST_SET_VRING_KICK, "vhost: the eventfd that the guest rings"),                \
	VHOST_ROW(VHOST_SET_VRING_CALL, "vhost: the eventfd that interrupts the guest")

#endif
