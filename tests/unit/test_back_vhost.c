/*
 * virtio-net whose data queues the kernel's vhost serves: what the kernel is told and when, what the
 * control queue does meanwhile, and a kernel that refuses. The kernel and the taps are played.
 */
#include <criterion/criterion.h>

#include "devices/virtio/net.h"
#include "devices/virtio/types.h"
#include "tests/unit/vhost_kernel.h"
#include "vmm/log.h"

enum { SOON_MS = 5000, TAP = 1000, PAIRS = 2, CTRL = 2 * PAIRS, FEW = 2 };

static struct rig rig;
static struct front *f;
static struct net *net;

/* A tap that only keeps what it is told. */
static struct played {
	struct link link;
	bool attached, listening, off;
	unsigned offloads;
} taps[PAIRS];

static unsigned npairs;
static bool no_tap, no_header;
static enum net_vhost_mode mode;
static const char *needs;

static struct played *tap_of(struct link *l)
{
	return container_of(l, struct played, link);
}

static int tap_attach(struct link *l, struct loop *loop, const struct link_events *events)
{
	(void)loop;
	(void)events;
	tap_of(l)->attached = true;
	return 0;
}

static void tap_listen(struct link *l, bool on)
{
	tap_of(l)->listening = on;
}

static void tap_detach(struct link *l)
{
	tap_of(l)->attached = false;
}

static int tap_set_offload(struct link *l, unsigned offloads)
{
	tap_of(l)->offloads = offloads;
	return 0;
}

static int tap_enable(struct link *l, bool on)
{
	tap_of(l)->off = !on;
	return 0;
}

static void tap_close(struct link *l)
{
	(void)l;
}

static const struct link_ops tap_ops = { .attach = tap_attach, .listen = tap_listen, .detach = tap_detach,
	.set_offload = tap_set_offload, .enable = tap_enable, .close = tap_close };

static int create(struct virtio_device *dev, const struct device_env *env, const void *options, struct error *err)
{
	struct net *n = container_of(dev, struct net, dev);
	struct link *links[PAIRS];
	const struct net_setup setup = { .links = links, .npairs = npairs };
	int r;

	(void)env;
	(void)options;
	for (unsigned i = 0; i < npairs; i++) {
		taps[i].link = (struct link){ .ops = &tap_ops, .up = true, .is_tap = !no_tap, .tap_header = !no_header,
			.tap_fd = TAP + (int)i, .offloads = LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4 };
		links[i] = &taps[i].link;
	}
	memcpy(n->mac, "\x02\x01\x02\x03\x04\x05", 6);
	r = net_init(n, &setup, err);
	return r ? r : net_vhost_setup(n, mode, needs, err);
}

static int make(unsigned pairs)
{
	static struct virtio_type type;
	int r;

	npairs = pairs;
	type = virtio_net_type;
	type.create = create;
	r = virtio_create(&rig.dev, &virtio_net_row, &type, &rig.env, &rig.options, &rig.err);
	if (r)
		return r;
	f = rig_front(&rig);
	net = container_of(f->dev, struct net, dev);
	return rig.root->ops->start(rig.root, &rig.err);
}

static void setup(void)
{
	log_level = LOG_ERROR;
	memset(taps, 0, sizeof(taps));
	no_tap = no_header = false;
	mode = NET_VHOST_AUTO;
	needs = NULL;
	kernel_init();
	rig_init(&rig);
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(vhost, .init = setup, .fini = teardown);

static struct kernel_ring *ring(unsigned queue)
{
	return &kernel.device[queue / 2].ring[queue % 2];
}

/* All queues but the control queue when `data_only`. */
static void drive(unsigned queues)
{
	rig_drive(&rig, queues, f->dev->offered & ~VIRTIO_BIT(VIRTIO_F_RING_PACKED));
}

static bool needs_reset(void)
{
	rig_main(&rig);
	return front_status(f) & VIRTIO_S_NEEDS_RESET;
}

Test(vhost, the_kernel_is_told_all_about_a_ring)
{
	cr_assert_eq(make(1), 0, "%s", rig.err.text);
	drive(2);
	for (unsigned i = 0; i < 2; i++) {
		const struct kernel_ring *r = ring(i);

		cr_assert_eq(r->num, 8);
		cr_assert_eq(r->base, 0);
		cr_assert_eq(r->addr.desc_user_addr, (uintptr_t)rig.ram + rig_desc(i));
		cr_assert_eq(r->addr.avail_user_addr, (uintptr_t)rig.ram + rig_avail(i));
		cr_assert_eq(r->addr.used_user_addr, (uintptr_t)rig.ram + rig_used(i));
		cr_assert_eq(r->kick, f->q[i].kick_fd);
		cr_assert_eq(r->call, f->tops->call_fd(f->transport, i));
		cr_assert_geq(r->err, 0);
		cr_assert_eq(r->backend, TAP);
		/* What lay there before is looked at. */
		cr_assert(rig_rang(f->q[i].kick_fd, 0));
	}
	cr_assert_eq(kernel.device[0].nregions, 1);
	cr_assert_eq(kernel.device[0].region[0].userspace_addr, (uintptr_t)rig.ram);
	cr_assert_eq(kernel.device[0].region[0].memory_size, RIG_RAM);
	/* Offloads are the tap's; frames are not ours to hear of. */
	cr_assert(taps[0].attached && !taps[0].listening);
	cr_assert_eq(taps[0].offloads, LINK_OFFLOAD_CSUM | LINK_OFFLOAD_TSO4);
}

Test(vhost, nothing_of_the_kernel_is_ours_before_a_driver_comes)
{
	cr_assert_eq(make(1), 0);
	cr_assert_not(kernel.device[0].owned);
	drive(2);
	cr_assert(kernel.device[0].owned);
}

Test(vhost, what_the_kernel_cannot_do_is_not_offered)
{
	cr_assert_eq(make(1), 0);
	cr_assert(f->dev->offered & VIRTIO_BIT(NET_F_MRG_RXBUF));
	cr_assert(f->dev->offered & VIRTIO_BIT(NET_F_CTRL_VQ));
	cr_assert_not(f->dev->offered & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
	cr_assert_not(f->dev->offered & VIRTIO_BIT(NET_F_NOTF_COAL));
	cr_assert_not(f->dev->offered & VIRTIO_BIT(NET_F_VQ_NOTF_COAL));
	rig.dev->ops->destroy(rig.dev);
	rig.dev = NULL;
	kernel.features &= ~VIRTIO_BIT(NET_F_MRG_RXBUF);
	rig.env.id = "_net1";
	cr_assert_eq(make(1), 0);
	cr_assert_not(f->dev->offered & VIRTIO_BIT(NET_F_MRG_RXBUF));
	drive(2);
	/* The driver's bits of the link are not for the kernel. */
	cr_assert_not(kernel.device[1].features & VIRTIO_BIT(NET_F_CSUM));
	cr_assert(kernel.device[1].features & VIRTIO_BIT(VIRTIO_F_VERSION_1));
	cr_assert_not(kernel.device[1].features & UINT64_C(1) << VHOST_NET_F_VIRTIO_NET_HDR);
}

Test(vhost, a_tap_without_headers_gets_them_from_the_kernel)
{
	no_header = true;
	cr_assert_eq(make(1), 0);
	drive(2);
	cr_assert(kernel.device[0].features & UINT64_C(1) << VHOST_NET_F_VIRTIO_NET_HDR);
}

Test(vhost, a_pause_takes_the_tap_away_and_a_ring_goes_on_where_the_kernel_stopped)
{
	cr_assert_eq(make(1), 0);
	drive(2);
	ring(0)->base_at_stop = 5;
	put_le16((uint8_t *)rig.ram + rig_used(0) + 2, 4);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(ring(0)->backend, -1);
	cr_assert_eq(ring(0)->kick, -1);
	cr_assert_eq(f->q[0].next_avail, 5);
	cr_assert_eq(f->q[0].next_used, 4);
	cr_assert_not(taps[0].attached);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(ring(0)->base, 5);
	cr_assert_eq(ring(0)->backend, TAP);
}

Test(vhost, when_the_kernel_does_not_say_where_it_was_the_used_ring_does)
{
	cr_assert_eq(make(1), 0);
	drive(2);
	put_le16((uint8_t *)rig.ram + rig_used(1) + 2, 7);
	kernel.refuse = VHOST_GET_VRING_BASE;
	kernel.refuse_with = EINVAL;
	kernel.refuse_after = 1;
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(f->q[1].next_avail, 7);
	cr_assert_eq(f->q[1].next_used, 7);
}

Test(vhost, state_goes_round)
{
	struct state_writer w = { 0 };
	struct state_reader r;

	cr_assert_eq(make(1), 0);
	drive(3);
	ring(1)->base_at_stop = 3;
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	rig.dev->ops->reset(rig.dev);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "%s", rig.err.text);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(ring(1)->base, 3);
	cr_assert_eq(ring(1)->backend, TAP);
	state_writer_free(&w);
}

/* Queue 0 alone, without a vector, its descriptors at `desc`. */
static void drive_one(uint64_t desc)
{
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
	front_set_driver_features(f, 1, 1);
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
	front_queue_write(f, 0, FRONT_Q_SIZE, 8);
	front_queue_write(f, 0, FRONT_Q_DESC_LO, (uint32_t)desc);
	front_queue_write(f, 0, FRONT_Q_AVAIL_LO, (uint32_t)rig_avail(0));
	front_queue_write(f, 0, FRONT_Q_USED_LO, (uint32_t)rig_used(0));
	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	front_set_status(f, front_status(f) | VIRTIO_S_DRIVER_OK);
}

Test(vhost, a_driver_that_polls_has_no_call_fd)
{
	cr_assert_eq(make(1), 0);
	drive_one(rig_desc(0));
	cr_assert_eq(ring(0)->call, -1);
	cr_assert_eq(ring(0)->backend, TAP);
}

Test(vhost, a_ring_outside_ram_is_refused_before_the_kernel_hears_of_it)
{
	cr_assert_eq(make(1), 0);
	drive_one(RIG_RAM - 16);
	cr_assert(needs_reset());
	cr_assert_eq(ring(0)->addr.desc_user_addr, 0);
	cr_assert_eq(ring(0)->backend, -1);
	cr_assert_eq(ring(0)->kick, -1);
}

/* Whatever is refused, the device asks for a reset, and after that it works. */
static const struct {
	unsigned long request;
	int with;
} refusals[] = {
	{ VHOST_SET_OWNER, ENOMEM },
	{ VHOST_SET_MEM_TABLE, E2BIG },
	{ VHOST_SET_FEATURES, EOPNOTSUPP },
	{ VHOST_SET_VRING_NUM, EINVAL },
	{ VHOST_SET_VRING_BASE, EBUSY },
	{ VHOST_SET_VRING_ADDR, EFAULT },
	{ VHOST_SET_VRING_CALL, EBADF },
	{ VHOST_SET_VRING_KICK, EBADF },
	{ VHOST_SET_VRING_ERR, EBADF },
	{ VHOST_NET_SET_BACKEND, EBUSY },
};

Test(vhost, a_kernel_that_refuses_costs_a_reset_and_no_more)
{
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		cr_assert_eq(make(1), 0);
		kernel.refuse = refusals[i].request;
		kernel.refuse_with = refusals[i].with;
		drive(2);
		cr_assert(needs_reset(), "%zu", i);
		cr_assert_eq(ring(0)->backend, -1, "%zu", i);
		kernel.refuse = 0;
		front_set_status(f, 0);
		drive(2);
		cr_assert_not(needs_reset(), "%zu", i);
		cr_assert_eq(ring(0)->backend, TAP, "%zu", i);
		cr_assert_eq(ring(1)->backend, TAP, "%zu", i);
		front_set_status(f, 0);
		cr_assert_eq(ring(0)->backend, -1, "%zu", i);
		teardown();
		setup();
	}
}

Test(vhost, a_table_of_memory_that_is_too_long_for_the_kernel_is_found_at_the_start)
{
	static uint8_t more[3 * PAGE_4K] __attribute__((aligned(PAGE_4K)));

	kernel.max_regions = FEW;
	cr_assert_eq(make(1), 0);
	cr_assert_eq(mem_add_borrowed(rig.mem, 16 * MIB, PAGE_4K, more), 0);
	drive(2);
	cr_assert_eq(kernel.device[0].nregions, FEW);
	/* Memory that comes later is refused as a whole. */
	cr_assert_eq(mem_add_borrowed(rig.mem, 32 * MIB, PAGE_4K, more + PAGE_4K), -E2BIG);
	cr_assert_eq(kernel.device[0].nregions, FEW);
	kernel.max_regions = FEW + 1;
	cr_assert_eq(mem_add_borrowed(rig.mem, 48 * MIB, PAGE_4K, more + PAGE_4K), 0);
	cr_assert_eq(kernel.device[0].nregions, FEW + 1);
	cr_assert_eq(kernel.device[0].region[FEW].guest_phys_addr, 48 * MIB);
	/* Nor does the device hear of it when it is gone. */
	rig.dev->ops->destroy(rig.dev);
	rig.dev = NULL;
	cr_assert_eq(mem_add_borrowed(rig.mem, 64 * MIB, PAGE_4K, more + 2 * PAGE_4K), 0);
}

Test(vhost, a_broken_ring_takes_all_taps_away_and_asks_for_a_reset)
{
	const uint64_t one = 1;
	bool broken = false;

	cr_assert_eq(make(1), 0);
	rig_run_workers(&rig);
	drive(2);
	cr_assert_eq(write(ring(0)->err, &one, sizeof(one)), sizeof(one));
	for (int i = 0; i < SOON_MS && !broken; i++) {
		usleep(1000);
		broken = needs_reset();
	}
	cr_assert(broken);
	cr_assert_eq(ring(0)->backend, -1);
	cr_assert_eq(ring(1)->backend, -1);
	front_set_status(f, 0);
	drive(2);
	cr_assert_eq(ring(0)->backend, TAP);
}

/* A command to set so many pairs, in the control queue's ring as its `n`-th entry; the answer. */
static uint8_t set_pairs(uint16_t n, uint16_t pairs)
{
	uint8_t *ram = rig.ram, *desc = ram + rig_desc(CTRL), *avail = ram + rig_avail(CTRL), *buf = ram + 0x90000;

	memcpy(buf, "\x04\x00", 2); /* §5.1.6.5.5 */
	put_le16(buf + 2, pairs);
	buf[4] = 0x55;
	put_le64(desc, 0x90000);
	put_le32(desc + 8, 4);
	put_le16(desc + 12, 1);
	put_le16(desc + 14, 1);
	put_le64(desc + 16, 0x90004);
	put_le32(desc + 24, 1);
	put_le16(desc + 28, 2);
	put_le16(avail + 4 + 2 * (n % 8), 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	put_le16(avail + 2, (uint16_t)(n + 1));
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	front_kick(f, CTRL);
	for (int i = 0; i < SOON_MS && rig_used_idx(&rig, CTRL) != n + 1; i++)
		usleep(1000);
	return buf[4];
}

static bool attached_when_given;

static void watch_backend(unsigned device, unsigned queue, int fd)
{
	(void)queue;
	/* Linux refuses a tap that is not attached to its interface, given or taken. */
	attached_when_given = attached_when_given && !taps[device].off;
	(void)fd;
}

Test(vhost, pairs_get_their_taps_as_the_driver_takes_them_into_use)
{
	cr_assert_eq(make(PAIRS), 0);
	attached_when_given = true;
	kernel.on_backend = watch_backend;
	rig_run_workers(&rig);
	cr_assert_eq(rig.nworkers, 1, "no frame passes a worker: one is enough");
	drive(2 * PAIRS + 1);
	cr_assert_eq(ring(1)->backend, TAP);
	cr_assert_eq(ring(2)->backend, -1);
	cr_assert_eq(ring(3)->backend, -1);
	cr_assert_eq(ring(2)->num, 8);

	cr_assert_eq(set_pairs(0, 2), NET_ACK_OK);
	cr_assert_eq(ring(2)->backend, TAP + 1);
	cr_assert_eq(ring(3)->backend, TAP + 1);
	cr_assert_not(taps[1].off);

	cr_assert_eq(set_pairs(1, 1), NET_ACK_OK);
	cr_assert_eq(ring(2)->backend, -1);
	cr_assert(taps[1].off);
	cr_assert(attached_when_given);
	cr_assert_eq(set_pairs(2, 3), NET_ACK_ERR);
}

Test(vhost, a_reset_has_one_pair_again)
{
	cr_assert_eq(make(PAIRS), 0);
	rig_run_workers(&rig);
	drive(2 * PAIRS + 1);
	cr_assert_eq(set_pairs(0, 2), NET_ACK_OK);
	front_set_status(f, 0);
	cr_assert_eq(ring(2)->backend, -1);
	cr_assert(taps[1].off);
	memset((uint8_t *)rig.ram + rig_avail(CTRL), 0, 4);
	memset((uint8_t *)rig.ram + rig_used(CTRL), 0, 4);
	drive(2 * PAIRS + 1);
	cr_assert_eq(ring(0)->backend, TAP);
	cr_assert_eq(ring(2)->backend, -1);
}

Test(vhost, a_tap_that_the_kernel_refuses_later_breaks_the_device)
{
	bool broken = false;

	cr_assert_eq(make(PAIRS), 0);
	rig_run_workers(&rig);
	drive(2 * PAIRS + 1);
	kernel.refuse = VHOST_NET_SET_BACKEND;
	kernel.refuse_with = EINVAL;
	set_pairs(0, 2);
	for (int i = 0; i < SOON_MS && !broken; i++) {
		usleep(1000);
		broken = needs_reset();
	}
	cr_assert(broken);
	cr_assert_eq(ring(0)->backend, -1);
}

/* --- who serves --- */

Test(vhost, auto_goes_without_it_where_there_is_none)
{
	kernel.open_says = -ENOENT;
	cr_assert_eq(make(1), 0);
	cr_assert_null(net->vhost);
	cr_assert(f->dev->offered & VIRTIO_BIT(NET_F_NOTF_COAL));
	cr_assert(f->dev->offered & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
}

Test(vhost, auto_goes_without_it_when_frames_are_needed_here)
{
	needs = "capture=";
	cr_assert_eq(make(1), 0);
	cr_assert_eq(kernel.ndevices, 0);
	cr_assert_null(net->vhost);
}

Test(vhost, off_is_off)
{
	mode = NET_VHOST_OFF;
	cr_assert_eq(make(1), 0);
	cr_assert_eq(kernel.ndevices, 0);
}

Test(vhost, a_limit_cannot_be_set_where_no_frame_passes)
{
	const struct rate_limit limit = { .size = 1, .refill_ms = 1 };

	cr_assert_eq(make(1), 0);
	cr_assert_eq(net_set_rate(net, true, RATE_OPS, &limit), -EBUSY);
}

static void refused(const char *want)
{
	cr_assert_lt(make(1), 0);
	cr_assert(strstr(rig.err.text, want), "%s", rig.err.text);
	cr_assert(strstr(rig.err.text, "vhost=off"), "%s", rig.err.text);
	rig.err.text[0] = 0;
	rig.dev = NULL;
}

Test(vhost, on_says_why_it_cannot_be_and_what_to_do)
{
	mode = NET_VHOST_ON;
	needs = "a rate limit";
	refused("a rate limit needs this program to see each frame");
	needs = NULL;
	no_tap = true;
	refused("a network that is no tap");
	no_tap = false;
	kernel.open_says = -ENOENT;
	refused("modprobe vhost_net");
	kernel.open_says = -EACCES;
	refused("no right to use /dev/vhost-net");
	kernel.open_says = -EMFILE;
	refused("/dev/vhost-net: Too many open files");
	kernel.open_says = 0;
	kernel.features = 0;
	refused("too old");
	kernel.refuse = VHOST_GET_FEATURES;
	kernel.refuse_with = ENOTTY;
	refused("does not say what it can do");
}
