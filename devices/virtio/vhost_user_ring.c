/*
 * The rings of a device that a vhost-user back end serves.
 *
 *   started   the driver wants it served, and its setup is here
 *   sent      the back end of this connection has it; lost with the connection
 *
 * Where a ring goes on: a back end that is asked to stop answers with the positions
 * (GET_VRING_BASE), once it has finished what it began. When it ends without being asked, a split
 * ring goes on at its used index, which is in guest memory, and a packed one where the in-flight
 * buffer says (section "Inflight I/O tracking"). What was in flight the next back end finds in that
 * buffer, which is the same for all of them until the driver resets the device.
 *
 * A device whose requests end in any order, with a back end that does not track them, cannot be
 * gone on with when any were open: some may be done, and nobody knows which. Then the driver is
 * told to reset.
 *
 * The buffer is not mapped but read, since its owner could make it shorter at any time.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "devices/virtio/vhost_user.h"
#include "vmm/log.h"
#include "vmm/rate.h"

enum { DRAIN_STEP_NS = 500 * 1000, PACKED_EVENT = 4 };

static bool is_packed(const struct vhost_user_ring *ring)
{
	return ring->setup.features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
}

/* virtio 1.2 §2.7, §2.8.10: places and sizes of its parts. */
static bool in_ram(const struct guest_mem *mem, const struct queue_setup *s)
{
	bool packed = s->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	size_t avail = packed ? PACKED_EVENT : 6 + 2 * (size_t)s->size;
	size_t used = packed ? PACKED_EVENT : 6 + 8 * (size_t)s->size;

	return mem_map(mem, gpa(s->desc), 16 * (size_t)s->size, 16) &&
		mem_map(mem, gpa(s->avail), avail, packed ? 4 : 2) && mem_map(mem, gpa(s->used), used, 4);
}

static uint16_t read_idx(const struct vhost_user *vu, uint64_t ring)
{
	uint16_t idx = 0;

	/* It was in RAM when the ring was started, and memory does not go while one runs. */
	return mem_read(vu->dev->mem, gpa(ring + 2), &idx, sizeof(idx)) < 0 ? 0 : idx;
}

static bool send_state(struct vhost_user *vu, enum vhost_user_request request, unsigned i, uint32_t num)
{
	struct vhost_user_msg m;

	vhost_user_begin(&m, request, sizeof(m.body.state));
	m.body.state = (struct vhost_user_state){ i, num };
	return vhost_user_send(vu, &m, NULL, 0);
}

static bool send_fd(struct vhost_user *vu, enum vhost_user_request request, unsigned i, int fd)
{
	struct vhost_user_msg m;

	vhost_user_begin(&m, request, sizeof(m.body.u64));
	m.body.u64 = i;
	return vhost_user_send(vu, &m, &fd, 1);
}

static bool send_addresses(struct vhost_user *vu, const struct queue_setup *s)
{
	struct vhost_user_msg m;

	vhost_user_begin(&m, VHOST_USER_SET_VRING_ADDR, sizeof(m.body.addr));
	m.body.addr = (struct vhost_user_addr){
		.index = s->index,
		.desc = vhost_user_address(s->desc),
		.avail = vhost_user_address(s->avail),
		.used = vhost_user_address(s->used),
	};
	return vhost_user_send(vu, &m, NULL, 0);
}

static uint16_t packed_flags(void *ctx, unsigned offset)
{
	const struct vhost_user_ring *ring = ((void **)ctx)[0];
	const struct guest_mem *mem = ((void **)ctx)[1];
	uint16_t flags = 0;

	return mem_read(mem, gpa(ring->setup.desc + 16 * (uint64_t)offset + 14), &flags, sizeof(flags)) < 0 ? 0 : flags;
}

/* What the in-flight buffer says of a ring; -errno: nothing that can be believed. */
static int look(struct vhost_user *vu, struct vhost_user_ring *ring)
{
	size_t stride = vu->inflight_fd < 0 ? 0 : vu->inflight.size / vu->inflight.num_queues;
	size_t len = MIN(stride, vu->look_len);
	off_t at = (off_t)(vu->inflight.offset + stride * ring->setup.index);
	void *where[] = { ring, vu->dev->mem };

	if (!len || pread(vu->inflight_fd, vu->look, len, at) != (ssize_t)len)
		return -ENODATA;
	return is_packed(ring) ? vhost_user_look_packed(&ring->setup, vu->look, len, packed_flags, where) :
		vhost_user_look_split(&ring->setup, vu->look, len, read_idx(vu, ring->setup.used));
}

/* Where a ring goes on whose back end is lost. False: that is not known. */
static bool recover(struct vhost_user *vu, struct vhost_user_ring *ring)
{
	int left;

	ring->left = 0;
	if (!ring->begun)
		return true;
	if (vu->inflight_fd >= 0) {
		left = look(vu, ring);
		ring->left = left > 0 ? (unsigned)left : 0;
		return left >= 0;
	}
	if (is_packed(ring))
		return false;
	ring->setup.next_avail = ring->setup.next_used = read_idx(vu, ring->setup.used);
	return !ring->unclear;
}

void vhost_user_lost_rings(struct vhost_user *vu)
{
	for (unsigned i = 0; i < vu->nrings; i++) {
		struct vhost_user_ring *ring = &vu->ring[i];

		/* What comes after this nobody has taken. */
		if (ring->sent && vu->kind->inflight && vu->inflight_fd < 0)
			ring->unclear = read_idx(vu, ring->setup.used) != read_idx(vu, ring->setup.avail);
		ring->sent = false;
	}
}

static bool recover_or_break(struct vhost_user *vu, struct vhost_user_ring *ring)
{
	if (recover(vu, ring))
		return true;
	log_guest(LOG_WARN, "%s: nobody knows which requests of queue %u are done; the device needs a reset",
		vu->dev->id, ring->setup.index);
	ring->started = false;
	vu->dev->broken(vu->dev);
	return false;
}

/* Section "Ring states": without protocol features a ring is enabled from the start. */
static bool send_enable(struct vhost_user *vu, unsigned i)
{
	return !(vu->features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES)) ||
		send_state(vu, VHOST_USER_SET_VRING_ENABLE, i, vu->ring[i].enabled);
}

static void send_ring(struct vhost_user *vu, unsigned i)
{
	struct vhost_user_ring *ring = &vu->ring[i];
	const struct queue_setup *s = &ring->setup;
	const uint64_t one = 1;

	if (!recover_or_break(vu, ring))
		return;
	ring->begun = true;
	ring->sent = send_state(vu, VHOST_USER_SET_VRING_NUM, i, s->size) && send_addresses(vu, s) &&
		send_state(vu, VHOST_USER_SET_VRING_BASE, i, vhost_user_base(s)) &&
		send_fd(vu, VHOST_USER_SET_VRING_CALL, i, s->call_fd < 0 ? vu->mute_fd : s->call_fd) &&
		send_fd(vu, VHOST_USER_SET_VRING_ERR, i, vu->err_fd) &&
		send_fd(vu, VHOST_USER_SET_VRING_KICK, i, s->kick_fd) && send_enable(vu, i);
	/*
	 * What the driver rang for before, nobody may have heard. The counter full: it rings as it
	 * is.
	 */
	if (ring->sent && write(s->kick_fd, &one, sizeof(one)) < 0)
		return;
}

void vhost_user_send_rings(struct vhost_user *vu)
{
	for (unsigned i = 0; i < vu->nrings && vu->fd >= 0; i++)
		if (vu->ring[i].started && !vu->ring[i].sent)
			send_ring(vu, i);
}

int vhost_user_start_ring(struct vhost_user *vu, const struct queue_setup *setup)
{
	struct vhost_user_ring *ring = &vu->ring[setup->index];

	if (!in_ram(vu->dev->mem, setup))
		return -EFAULT;
	ring->setup = *setup;
	ring->started = true;
	ring->sent = ring->begun = ring->unclear = false;
	ring->left = 0;
	vhost_user_advance(vu);
	return 0;
}

/* Has it finished what it began? Then both indices are where it stopped. */
static bool is_drained(const struct vhost_user *vu, const struct vhost_user_ring *ring)
{
	return ring->setup.next_avail ==
		(is_packed(ring) ? ring->setup.next_used : read_idx(vu, ring->setup.used));
}

static bool is_position(const struct vhost_user *vu, const struct vhost_user_ring *ring)
{
	const struct queue_setup *s = &ring->setup;

	if (is_packed(ring))
		return (s->next_avail & 0x7fff) < s->size && (s->next_used & 0x7fff) < s->size;
	return (uint16_t)(s->next_avail - read_idx(vu, s->used)) <= s->size;
}

static const char *take_base(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	struct vhost_user_ring *ring = &vu->ring[reply->body.state.index];

	ring->sent = false;
	vhost_user_set_base(&ring->setup, reply->body.state.num);
	return is_position(vu, ring) ? NULL : "stops where a ring cannot stop";
}

/* Section "GET_VRING_BASE" lets a back end answer before all it began is done; some do. */
static void drain(struct vhost_user *vu, const struct vhost_user_ring *ring, uint64_t end)
{
	const struct timespec wait = { .tv_nsec = DRAIN_STEP_NS };

	while (vu->fd >= 0 && !is_drained(vu, ring)) {
		struct pollfd p = { .fd = vu->fd, .events = POLLIN };

		if (rate_now() > end || ppoll(&p, 1, &wait, NULL) == 1)
			vhost_user_lose(vu, "stops with requests unfinished");
	}
}

/* True: it answered, and the indices are its. */
static bool ask_base(struct vhost_user *vu, struct vhost_user_ring *ring)
{
	const uint64_t end = rate_now() + UINT64_C(1000000) * VHOST_USER_STOP_MS;
	struct vhost_user_msg m;

	vhost_user_begin(&m, VHOST_USER_GET_VRING_BASE, sizeof(m.body.state));
	m.body.state.index = ring->setup.index;
	if (!vhost_user_ask(vu, &m, NULL, 0, take_base))
		return false;
	vu->asked_until = end;
	vhost_user_settle(vu);
	if (vu->fd >= 0)
		drain(vu, ring, end);
	return vu->fd >= 0;
}

void vhost_user_stop_ring(struct vhost_user *vu, unsigned index, struct queue_setup *ret)
{
	struct vhost_user_ring *ring = &vu->ring[index];

	if (!ring->started)
		return;
	/* A reply that is under way comes first; without the ring nobody need be asked. */
	if (ring->sent)
		vhost_user_settle(vu);
	ring->started = false;
	if (!ring->sent || !ask_base(vu, ring))
		recover_or_break(vu, ring);
	if (!is_packed(ring))
		ring->setup.next_used = ring->setup.next_avail;
	if (ret) {
		ret->next_avail = ring->setup.next_avail;
		ret->next_used = ring->setup.next_used;
	}
}

void vhost_user_use_pairs(struct vhost_user *vu, unsigned pairs)
{
	for (unsigned i = 0; i < vu->nrings; i++) {
		bool on = i / 2 < pairs;

		if (vu->ring[i].enabled == on)
			continue;
		vu->ring[i].enabled = on;
		if (vu->ring[i].sent)
			send_enable(vu, i);
	}
}

static const char *take_inflight(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	const struct vhost_user_inflight *got = &reply->body.inflight;
	bool packed = vu->chosen & VIRTIO_BIT(VIRTIO_F_RING_PACKED);

	if (got->size > VHOST_USER_INFLIGHT_MAX ||
		got->size / got->num_queues < vhost_user_inflight_bytes(got->queue_size, packed))
		return "gives an in-flight buffer of a wrong size";
	/* Any other file could let us wait for ever. */
	if (fcntl(vu->rx.fds[0], F_GET_SEALS) < 0)
		return "gives an in-flight buffer that is no memory";
	vu->inflight = *got;
	vu->inflight_fd = vu->rx.fds[0];
	vu->rx.fds[0] = -1;
	return NULL;
}

static void begin_inflight(const struct vhost_user *vu, struct vhost_user_msg *m, enum vhost_user_request request)
{
	vhost_user_begin(m, request, sizeof(m->body.inflight));
	m->body.inflight.num_queues = (uint16_t)vu->nrings;
	m->body.inflight.queue_size = vu->dev->queue_size;
}

bool vhost_user_get_inflight(struct vhost_user *vu)
{
	struct vhost_user_msg m;

	begin_inflight(vu, &m, VHOST_USER_GET_INFLIGHT_FD);
	return vhost_user_ask(vu, &m, NULL, 0, take_inflight);
}

bool vhost_user_set_inflight(struct vhost_user *vu)
{
	struct vhost_user_msg m;

	begin_inflight(vu, &m, VHOST_USER_SET_INFLIGHT_FD);
	m.body.inflight.size = vu->inflight.size;
	m.body.inflight.offset = vu->inflight.offset;
	return vhost_user_send(vu, &m, &vu->inflight_fd, 1);
}

void vhost_user_drop_inflight(struct vhost_user *vu)
{
	if (vu->inflight_fd >= 0)
		close(vu->inflight_fd);
	vu->inflight_fd = -1;
}
