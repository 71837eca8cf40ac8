/*
 * Rings for the kernel's vhost (linux/vhost.h), by the worker of the device.
 *
 * Indices of a packed ring travel as two halves of one word, the used one above; of a split ring
 * only the avail index does, since the kernel reads the used index out of the ring.
 */
#include "devices/virtio/vhost.h"

#include <errno.h>
#include <unistd.h>

static bool is_packed(const struct queue_setup *s)
{
	return s->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
}

/* virtio 1.2 §2.7 and §2.8: each part of a ring with its length and alignment. */
struct part {
	uint64_t at;
	size_t len, align;
	void *host;
};

static void describe(const struct queue_setup *s, struct part part[3])
{
	bool packed = is_packed(s);

	part[0] = (struct part){ s->desc, 16 * (size_t)s->size, 16, NULL };
	part[1] = (struct part){ s->avail, packed ? 4 : 6 + 2 * (size_t)s->size, packed ? 4 : 2, NULL };
	part[2] = (struct part){ s->used, packed ? 4 : 6 + 8 * (size_t)s->size, 4, NULL };
}

static int set_addresses(int fd, unsigned ring, const struct queue_setup *s, const struct guest_mem *mem,
	enum vhost_addresses addresses)
{
	struct vhost_vring_addr addr = { .index = ring };
	struct part part[3];

	describe(s, part);
	for (unsigned i = 0; i < ARRAY_SIZE(part); i++) {
		part[i].host = mem_map(mem, gpa(part[i].at), part[i].len, part[i].align);
		if (!part[i].host)
			return -EFAULT;
		if (addresses == VHOST_HOST_ADDRESSES)
			part[i].at = (uintptr_t)part[i].host;
	}
	addr.desc_user_addr = part[0].at;
	addr.avail_user_addr = part[1].at;
	addr.used_user_addr = part[2].at;
	return vhost_call(fd, VHOST_SET_VRING_ADDR, &addr);
}

static int set_eventfds(int fd, unsigned ring, int kick, int call)
{
	const struct vhost_vring_file files[] = { { ring, kick }, { ring, call } };
	int r = vhost_call(fd, VHOST_SET_VRING_CALL, &files[1]);

	return r < 0 ? r : vhost_call(fd, VHOST_SET_VRING_KICK, &files[0]);
}

int vhost_ring_set(int fd, unsigned ring, const struct queue_setup *s, const struct guest_mem *mem,
	enum vhost_addresses addresses)
{
	const struct vhost_vring_state num = { ring, s->size };
	const struct vhost_vring_state base = { ring,
		is_packed(s) ? s->next_avail | (unsigned)s->next_used << 16 : s->next_avail };
	int r = vhost_call(fd, VHOST_SET_VRING_NUM, &num);

	if (r == 0)
		r = vhost_call(fd, VHOST_SET_VRING_BASE, &base);
	if (r == 0)
		r = set_addresses(fd, ring, s, mem, addresses);
	if (r == 0)
		r = set_eventfds(fd, ring, s->kick_fd, s->call_fd);
	return r;
}

int vhost_ring_used(const struct queue_setup *s, const struct guest_mem *mem, struct queue_setup *ret)
{
	uint8_t used[2];
	int r;

	/* A packed ring says nothing of the kind. */
	if (is_packed(s))
		return -ENOTSUP;
	r = mem_read(mem, gpa(s->used + 2), used, sizeof(used));
	if (r < 0)
		return r;
	/* Whatever was not returned is taken again. */
	ret->next_avail = ret->next_used = get_le16(used);
	return 0;
}

int vhost_ring_base(int fd, unsigned ring, const struct queue_setup *s, const struct guest_mem *mem,
	struct queue_setup *ret)
{
	struct vhost_vring_state base = { .index = ring };
	struct queue_setup found = *ret;
	int r = vhost_call(fd, VHOST_GET_VRING_BASE, &base);

	if (r == 0 && is_packed(s)) {
		ret->next_avail = (uint16_t)base.num;
		ret->next_used = (uint16_t)(base.num >> 16);
		return 0;
	}
	if (r < 0 && is_packed(s))
		return r;
	if (vhost_ring_used(s, mem, &found) < 0)
		return -EFAULT;
	ret->next_avail = r == 0 ? (uint16_t)base.num : found.next_avail;
	ret->next_used = found.next_used;
	return 0;
}

void vhost_ring_forget(int fd, unsigned ring)
{
	set_eventfds(fd, ring, -1, -1);
}

void vhost_ring_kick(const struct queue_setup *s)
{
	const uint64_t one = 1;

	if (write(s->kick_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it rings all the same */
}
