/*
 * The words of vhost-user (QEMU, docs/interop/vhost-user.rst): messages between a front end, which
 * we are, and a back end, a program that serves virtqueues in shared memory. All numbers are in the
 * host's byte order. Everything here is pure; what comes from the peer is judged here and nowhere
 * else.
 *
 *   header (request, flags, size) and `size` bytes of payload; descriptors beside them
 *
 * "Section" below names a heading of that document.
 */
#ifndef DEVICES_VIRTIO_VHOST_USER_MSG_H
#define DEVICES_VIRTIO_VHOST_USER_MSG_H

#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"

/* Section "Front-end message types", as far as we send them */
enum vhost_user_request {
	VHOST_USER_NONE = 0,
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_NET_SET_MTU = 20,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
};

/* Section "Back-end message types" */
enum { VHOST_USER_BACKEND_CONFIG_CHANGE = 2 };

/* Section "Communication": the feature bit that says that there are protocol features */
enum { VHOST_USER_F_PROTOCOL_FEATURES = 30 };

/* Section "Protocol features", bit numbers */
enum {
	VHOST_USER_PROTOCOL_MQ = 0,
	VHOST_USER_PROTOCOL_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_MTU = 4,
	VHOST_USER_PROTOCOL_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_CONFIG = 9,
	VHOST_USER_PROTOCOL_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_MEM_SLOTS = 15,
};

/* Section "Header" */
enum {
	VHOST_USER_VERSION = 1,
	VHOST_USER_VERSION_MASK = 3,
	VHOST_USER_REPLY = 4,
	VHOST_USER_NEED_REPLY = 8,
};

enum {
	VHOST_USER_REGIONS_MAX = 8,  /* of a memory table, and so descriptors of a message */
};

struct vhost_user_header {
	uint32_t request, flags, size;
};
_Static_assert(sizeof(struct vhost_user_header) == 12, "section Header");

/*
 * Section "A vring state description"; of a packed ring num is two positions, see vhost_user_base
 */
struct vhost_user_state {
	uint32_t index, num;
};
_Static_assert(sizeof(struct vhost_user_state) == 8, "section A vring state description");

/* Section "A vring address description"; addresses are user addresses */
struct vhost_user_addr {
	uint32_t index, flags;
	uint64_t desc, used, avail, log;
};
_Static_assert(sizeof(struct vhost_user_addr) == 40, "section A vring address description");

/* Section "Memory regions description" */
struct vhost_user_region {
	uint64_t guest, size, user, offset;
};
_Static_assert(sizeof(struct vhost_user_region) == 32, "section Memory regions description");

struct vhost_user_memory {
	uint32_t n, padding;
	struct vhost_user_region region[VHOST_USER_REGIONS_MAX];
};
_Static_assert(sizeof(struct vhost_user_memory) == 264, "section Memory regions description");

/* Section "Single memory region description" */
struct vhost_user_slot {
	uint64_t padding;
	struct vhost_user_region region;
};
_Static_assert(sizeof(struct vhost_user_slot) == 40, "section Single memory region description");

/* Section "Virtio device config space" */
struct vhost_user_config {
	uint32_t offset, size, flags;
	uint8_t bytes[VIRTIO_CONFIG_MAX];
};
enum { VHOST_USER_CONFIG_HEADER = offsetof(struct vhost_user_config, bytes) };
_Static_assert(VHOST_USER_CONFIG_HEADER == 12, "section Virtio device config space");

/* Section "Inflight description"; all who speak it send the struct's padding with it */
struct vhost_user_inflight {
	uint64_t size, offset;
	uint16_t num_queues, queue_size;
	uint32_t padding;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct vhost_user_inflight) == 24, "section Inflight description");
enum { VHOST_USER_INFLIGHT_MIN = offsetof(struct vhost_user_inflight, padding) };

/* One message: what is built, and what has come so far. */
struct vhost_user_msg {
	struct vhost_user_header head;
	union {
		uint64_t u64;
		struct vhost_user_state state;
		struct vhost_user_addr addr;
		struct vhost_user_memory memory;
		struct vhost_user_slot slot;
		struct vhost_user_config config;
		struct vhost_user_inflight inflight;
	} __attribute__((packed, aligned(4))) body;
} __attribute__((packed, aligned(4)));
_Static_assert(offsetof(struct vhost_user_msg, body) == 12, "section Message Specification");

/* Section "Inflight I/O tracking": DescStateSplit, QueueRegionSplit */
struct vhost_user_split_desc {
	uint8_t inflight, padding[5];
	uint16_t next;
	uint64_t counter;
};
_Static_assert(sizeof(struct vhost_user_split_desc) == 16, "section Inflight I/O tracking");

struct vhost_user_split_region {
	uint64_t features;
	uint16_t version, desc_num, last_batch_head, used_idx;
	struct vhost_user_split_desc desc[];
};
_Static_assert(sizeof(struct vhost_user_split_region) == 16, "section Inflight I/O tracking");

/* Section "Inflight I/O tracking": DescStatePacked, QueueRegionPacked */
struct vhost_user_packed_desc {
	uint8_t inflight, padding;
	uint16_t next, last, num;
	uint64_t counter;
	uint16_t id, flags;
	uint32_t len;
	uint64_t addr;
};
_Static_assert(sizeof(struct vhost_user_packed_desc) == 32, "section Inflight I/O tracking");

struct vhost_user_packed_region {
	uint64_t features;
	uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
	uint8_t used_wrap, old_used_wrap, padding[7];
	struct vhost_user_packed_desc desc[];
};
_Static_assert(offsetof(struct vhost_user_packed_region, desc) == 32, "section Inflight I/O tracking");

/* Begin a message whose payload has `size` bytes, all zero. */
void vhost_user_begin(struct vhost_user_msg *m, enum vhost_user_request request, uint32_t size);
/* Bytes of the whole message. */
size_t vhost_user_length(const struct vhost_user_msg *m);

/*
 * Guest memory as the peer is told of it: our own addresses are nobody's business, so the user
 * address of a guest address is that plus a constant.
 */
uint64_t vhost_user_address(uint64_t gpa);
struct vhost_user_region vhost_user_region_of(const struct mem_region *r);

/*
 * Is this header one that may come now? `request`: what we wait for the reply of. -EPROTO: no;
 * then nothing may be read any more.
 */
int vhost_user_reply_header(const struct vhost_user_header *h, enum vhost_user_request request) NEEDS_CHECK;
/*
 * And the whole reply, with its payload and as many descriptors as came; `asked` is what we sent.
 * -EPROTO: not what the section says of it.
 */
int vhost_user_reply(const struct vhost_user_msg *m, const struct vhost_user_msg *asked, unsigned nfds) NEEDS_CHECK;
/* The same for the header of a request that the back end makes on its own channel. */
int vhost_user_backend_header(const struct vhost_user_header *h) NEEDS_CHECK;

/* The u32 of GET_ and SET_VRING_BASE (sections "Vring descriptor indices"), and back. */
uint32_t vhost_user_base(const struct queue_setup *q);
void vhost_user_set_base(struct queue_setup *q, uint32_t num);

/* Bytes of one queue's region of the in-flight buffer, at least. */
size_t vhost_user_inflight_bytes(unsigned queue_size, bool packed);
/*
 * A back end is gone: where does the next one go on, and how many requests did it leave, as the
 * region `bytes` of queue `q` says? A split ring's `used_idx` is that of the ring; of a packed one
 * `flags_at` gives the flags of the descriptor at an offset. Fills next_avail and next_used. The
 * number, or -EPROTO: nonsense, and nothing is filled.
 */
int vhost_user_look_split(struct queue_setup *q, const void *bytes, size_t len, uint16_t used_idx);
int vhost_user_look_packed(struct queue_setup *q, const void *bytes, size_t len,
	uint16_t (*flags_at)(void *ctx, unsigned offset), void *ctx);

#endif
