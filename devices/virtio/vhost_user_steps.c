/*
 * What is agreed with a vhost-user back end, in order:
 *
 *   features → protocol features → queues, slots → owner → its channel → config space   (known)
 *   → the driver's features → memory → ring sizes → in-flight buffer                     (ready)
 *   → rings
 *
 * Each step is done or not (a bit of vu->done); after each event the first that is not done, and
 * whose condition holds, is taken. What lies behind "known" waits for the driver. A driver that
 * begins anew, or memory that changes, makes steps undone again.
 *
 * Ring sizes go early, all of them, since some back ends count on it before the first ring comes;
 * each ring says its own again. A later back end must offer what the first did: until the driver
 * has chosen all that was offered to it, afterwards what it chose. One that does not is left, and
 * looked for again.
 */
#include <errno.h>
#include <unistd.h>

#include "devices/virtio/vhost_user.h"
#include "vmm/log.h"

#define PROTOCOL_KNOWN                                                                             \
	(VIRTIO_BIT(VHOST_USER_PROTOCOL_MQ) | VIRTIO_BIT(VHOST_USER_PROTOCOL_REPLY_ACK) |           \
		VIRTIO_BIT(VHOST_USER_PROTOCOL_MTU) | VIRTIO_BIT(VHOST_USER_PROTOCOL_BACKEND_REQ) |    \
		VIRTIO_BIT(VHOST_USER_PROTOCOL_CONFIG) | VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD) | \
		VIRTIO_BIT(VHOST_USER_PROTOCOL_RESET_DEVICE) | VIRTIO_BIT(VHOST_USER_PROTOCOL_MEM_SLOTS))
#define RING_FEATURES                                                                              \
	(VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_VERSION_1) | \
		VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(VIRTIO_F_IN_ORDER))

/* A request without payload, and with a u64. */
static bool ask(struct vhost_user *vu, enum vhost_user_request request, vhost_user_take_fn *take)
{
	struct vhost_user_msg m;

	vhost_user_begin(&m, request, 0);
	return take ? vhost_user_ask(vu, &m, NULL, 0, take) : vhost_user_send(vu, &m, NULL, 0);
}

static bool tell(struct vhost_user *vu, enum vhost_user_request request, uint64_t value)
{
	struct vhost_user_msg m;

	vhost_user_begin(&m, request, sizeof(m.body.u64));
	m.body.u64 = value;
	return vhost_user_send(vu, &m, NULL, 0);
}

static const char *take_ack(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	(void)vu;
	return reply->body.u64 ? "refuses what it is told" : NULL;
}

/* With an acknowledgement where that is agreed (section "REPLY_ACK"). */
bool vhost_user_tell_sure(struct vhost_user *vu, struct vhost_user_msg *m, const int *fds, unsigned nfds)
{
	if (!vhost_user_agreed(vu, VHOST_USER_PROTOCOL_REPLY_ACK))
		return vhost_user_send(vu, m, fds, nfds);
	m->head.flags |= VHOST_USER_NEED_REPLY;
	return vhost_user_ask(vu, m, fds, nfds, take_ack);
}

static const char *take_features(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	uint64_t need = vu->driver ? vu->chosen & vu->promised : vu->promised;

	vu->features = reply->body.u64;
	if (vu->met && (need & ~vu->features))
		return "offers fewer features than the one before it, and the guest uses them";
	return vu->features & VIRTIO_BIT(VIRTIO_F_VERSION_1) ? NULL : "does not know virtio 1.0";
}

static bool get_features(struct vhost_user *vu)
{
	return ask(vu, VHOST_USER_GET_FEATURES, take_features);
}

static bool has_protocol(const struct vhost_user *vu)
{
	return vu->features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES);
}

static const char *take_protocol(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	uint64_t wanted = PROTOCOL_KNOWN;

	if (!vu->kind->inflight)
		wanted &= ~VIRTIO_BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD);
	if (!vu->kind->config_came)
		wanted &= ~VIRTIO_BIT(VHOST_USER_PROTOCOL_CONFIG);
	vu->protocol = reply->body.u64 & wanted;
	log_info("%s: the program at %s offers 0x%llx, and 0x%llx of the protocol", vu->dev->id, vu->path,
		(unsigned long long)vu->features, (unsigned long long)reply->body.u64);
	return vu->promised_protocol & ~vu->protocol ? "knows less of the protocol than the one before it" : NULL;
}

static bool get_protocol(struct vhost_user *vu)
{
	return ask(vu, VHOST_USER_GET_PROTOCOL_FEATURES, take_protocol);
}

static bool set_protocol(struct vhost_user *vu)
{
	return tell(vu, VHOST_USER_SET_PROTOCOL_FEATURES, vu->protocol);
}

static bool can_config(const struct vhost_user *vu)
{
	return vu->kind->config_came;
}

static bool has_queue_num(const struct vhost_user *vu)
{
	return vhost_user_agreed(vu, VHOST_USER_PROTOCOL_MQ);
}

static const char *take_queue_num(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	/* Of network devices some count pairs and some queues. */
	unsigned need = vu->kind->pairs ? vu->nrings / 2 : vu->nrings;

	return reply->body.u64 < need ? "serves fewer queues; give a smaller num_queues" : NULL;
}

static bool get_queue_num(struct vhost_user *vu)
{
	return ask(vu, VHOST_USER_GET_QUEUE_NUM, take_queue_num);
}

static bool has_slots(const struct vhost_user *vu)
{
	return vhost_user_agreed(vu, VHOST_USER_PROTOCOL_MEM_SLOTS);
}

static const char *take_slots(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	return reply->body.u64 < mem_region_count(vu->dev->mem) ?
		"has too few memory slots for this guest; give the guest less memory" : NULL;
}

static bool get_slots(struct vhost_user *vu)
{
	return ask(vu, VHOST_USER_GET_MAX_MEM_SLOTS, take_slots);
}

static bool set_owner(struct vhost_user *vu)
{
	return ask(vu, VHOST_USER_SET_OWNER, NULL);
}

/* Only for config spaces: nothing else is asked of us. */
static bool has_channel(const struct vhost_user *vu)
{
	return can_config(vu) && vhost_user_agreed(vu, VHOST_USER_PROTOCOL_BACKEND_REQ);
}

static bool give_channel(struct vhost_user *vu)
{
	struct vhost_user_msg m;
	bool sent;
	int fd;

	if (vhost_user_own_channel(vu, &fd) < 0) {
		vhost_user_lose(vu, "cannot be given a channel of its own");
		return false;
	}
	vhost_user_begin(&m, VHOST_USER_SET_BACKEND_REQ_FD, 0);
	sent = vhost_user_tell_sure(vu, &m, &fd, 1);
	close(fd);
	return sent;
}

static const char *take_config(struct vhost_user *vu, const struct vhost_user_msg *reply)
{
	struct virtio_device *dev = vu->dev;
	uint8_t bytes[VIRTIO_CONFIG_MAX];
	bool changed;

	if (reply->head.size < VHOST_USER_CONFIG_HEADER)
		return "does not give its config space";
	memcpy(bytes, reply->body.config.bytes, dev->config.size);
	/* What the driver wrote is newer than what a back end begins with. */
	for (unsigned i = 0; vu->config_written && i < dev->config.size; i++)
		if (dev->type->config_writable && dev->type->config_writable(dev, i, 1))
			virtio_config_read(&dev->config, i, &bytes[i], 1);
	changed = vu->kind->config_came(dev, bytes);
	if (changed && vu->met)
		dev->config_changed(dev);
	return NULL;
}

static bool get_config(struct vhost_user *vu)
{
	struct vhost_user_msg m;

	if (!vhost_user_agreed(vu, VHOST_USER_PROTOCOL_CONFIG)) {
		vhost_user_lose(vu, "does not give its config space");
		return false;
	}
	vu->config_stale = false;
	vhost_user_begin(&m, VHOST_USER_GET_CONFIG, VHOST_USER_CONFIG_HEADER + vu->dev->config.size);
	m.body.config.size = vu->dev->config.size;
	return vhost_user_ask(vu, &m, NULL, 0, take_config);
}

void vhost_user_write_config(struct vhost_user *vu, unsigned offset, unsigned len)
{
	struct vhost_user_msg m;

	if (!vhost_user_agreed(vu, VHOST_USER_PROTOCOL_CONFIG) || len > VIRTIO_CONFIG_MAX)
		return;
	vhost_user_begin(&m, VHOST_USER_SET_CONFIG, VHOST_USER_CONFIG_HEADER + len);
	m.body.config.offset = offset;
	m.body.config.size = len;
	virtio_config_read(&vu->dev->config, offset, m.body.config.bytes, len);
	vhost_user_send(vu, &m, NULL, 0);
}

static bool was_written(const struct vhost_user *vu)
{
	return vu->config_written;
}

static bool write_config_again(struct vhost_user *vu)
{
	struct virtio_device *dev = vu->dev;

	for (unsigned i = 0; i < dev->config.size && vu->fd >= 0; i++)
		if (dev->type->config_writable && dev->type->config_writable(dev, i, 1))
			vhost_user_write_config(vu, i, 1);
	return vu->fd >= 0;
}

static bool set_features(struct vhost_user *vu)
{
	uint64_t f = vu->chosen & vu->features;

	return tell(vu, VHOST_USER_SET_FEATURES, f | (vu->features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES)));
}

static bool has_mtu(const struct vhost_user *vu)
{
	return vu->mtu && (vu->chosen & VIRTIO_BIT(vu->kind->mtu_feature)) &&
		vhost_user_agreed(vu, VHOST_USER_PROTOCOL_MTU);
}

static bool set_mtu(struct vhost_user *vu)
{
	return tell(vu, VHOST_USER_NET_SET_MTU, vu->mtu);
}

/* Sizes that the rings may have; of those that run already, what they have. */
static bool set_sizes(struct vhost_user *vu)
{
	struct vhost_user_msg m;

	for (unsigned i = 0; i < vu->nrings; i++) {
		const struct vhost_user_ring *ring = &vu->ring[i];

		vhost_user_begin(&m, VHOST_USER_SET_VRING_NUM, sizeof(m.body.state));
		m.body.state = (struct vhost_user_state){ i, ring->started ? ring->setup.size : vu->dev->queue_size };
		if (!vhost_user_send(vu, &m, NULL, 0))
			return false;
	}
	return true;
}

static bool has_inflight(const struct vhost_user *vu)
{
	return vhost_user_agreed(vu, VHOST_USER_PROTOCOL_INFLIGHT_SHMFD);
}

static bool lacks_inflight(const struct vhost_user *vu)
{
	return has_inflight(vu) && vu->inflight_fd < 0;
}

enum { ONCE = 0, AGAIN = 1 };

/* In order; a step's bit in vu->done is its place here. */
static const struct step {
	bool (*when)(const struct vhost_user *vu); /* NULL: always */
	bool (*take)(struct vhost_user *vu);       /* false: the connection is lost */
	bool of_driver;                            /* only once the driver has chosen */
	bool again;                                /* whenever `when` says so */
} steps[] = {
	{ NULL, get_features, false, ONCE },
	{ has_protocol, get_protocol, false, ONCE },
	{ has_protocol, set_protocol, false, ONCE },
	{ has_queue_num, get_queue_num, false, ONCE },
	{ has_slots, get_slots, false, ONCE },
	{ NULL, set_owner, false, ONCE },
	{ has_channel, give_channel, false, ONCE },
	{ can_config, get_config, false, ONCE },
	{ was_written, write_config_again, false, ONCE },
	{ NULL, set_features, true, ONCE },
	{ has_mtu, set_mtu, true, ONCE },
	{ vhost_user_memory_differs, vhost_user_tell_memory, true, AGAIN },
	{ NULL, set_sizes, true, ONCE },
	{ lacks_inflight, vhost_user_get_inflight, true, AGAIN },
	{ has_inflight, vhost_user_set_inflight, true, ONCE },
};
_Static_assert(ARRAY_SIZE(steps) < 32, "vu->done has so many bits");

static uint32_t bit_of(const struct step *s)
{
	return UINT32_C(1) << (s - steps);
}

static const struct step *next_step(const struct vhost_user *vu)
{
	for (const struct step *s = steps; s < steps + ARRAY_SIZE(steps); s++) {
		if (s->of_driver && !vu->driver)
			return NULL;
		if ((s->again || !(vu->done & bit_of(s))) && (!s->when || s->when(vu)))
			return s;
	}
	return NULL;
}

void vhost_user_steps_begin(struct vhost_user *vu)
{
	vu->done = 0;
	vu->asked_step = 0;
	vu->protocol = 0;
	vu->config_stale = false;
	vhost_user_forget_memory(vu);
}

bool vhost_user_ready(const struct vhost_user *vu)
{
	return vu->fd >= 0 && vu->driver && !vu->asked_step && !next_step(vu);
}

static bool waits(const struct vhost_user *vu)
{
	return vu->fd < 0 || vu->asked.head.request != VHOST_USER_NONE;
}

void vhost_user_advance(struct vhost_user *vu)
{
	const struct step *s;

	while (!waits(vu) && (s = next_step(vu))) {
		if (!s->take(vu))
			return;
		if (waits(vu))
			vu->asked_step = bit_of(s);
		else
			vu->done |= bit_of(s);
	}
	if (waits(vu))
		return;
	if (vu->driver)
		vhost_user_send_rings(vu);
	if (vu->away && vu->fd >= 0) {
		log_info("%s: the program at %s serves it again", vu->dev->id, vu->path);
		vu->away = vu->told = vu->told_bad = false;
	}
	if (vu->config_stale && can_config(vu))
		get_config(vu);
}

/* What lies behind the driver's choice is to be done anew; a reply under way counts for nothing. */
static void of_driver_anew(struct vhost_user *vu)
{
	for (const struct step *s = steps; s < steps + ARRAY_SIZE(steps); s++) {
		if (!s->of_driver)
			continue;
		vu->done &= ~bit_of(s);
		vu->asked_step &= ~bit_of(s);
	}
}

void vhost_user_driver(struct vhost_user *vu, bool there, uint64_t features)
{
	bool changed = vu->driver != there || vu->chosen != features;
	bool gone = vu->driver && !there;

	vu->driver = there;
	vu->chosen = features;
	if (gone)
		vhost_user_drop_inflight(vu);
	if (gone && vhost_user_agreed(vu, VHOST_USER_PROTOCOL_RESET_DEVICE))
		ask(vu, VHOST_USER_RESET_DEVICE, NULL);
	if (changed)
		of_driver_anew(vu);
	vhost_user_advance(vu);
}

uint64_t vhost_user_offer(const struct vhost_user *vu, uint64_t want)
{
	uint64_t theirs = vu->kind->known | RING_FEATURES, allowed = vu->features;

	/*
	 * Where a packed ring goes on after a back end was lost stands nowhere but in the in-flight
	 * buffer; of a split ring the used index tells.
	 */
	if (!has_inflight(vu))
		allowed &= ~VIRTIO_BIT(VIRTIO_F_RING_PACKED);
	return want & (allowed | ~theirs);
}
