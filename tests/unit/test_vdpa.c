/*
 * vDPA devices behind our front: what is asked of them, what the guest is offered, how they start,
 * stop and go on, and devices that lie or refuse. The kernel is played.
 */
#include <criterion/criterion.h>
#include <stdio.h>

#include "devices/virtio/types.h"
#include "devices/virtio/vdpa.h"
#include "tests/unit/vhost_kernel.h"
#include "vmm/log.h"

enum { SOON_MS = 5000, CONFIG = 24, QUEUES = 2, BLK_F_FLUSH = 9 };

static struct rig rig;
static struct front *f;
static struct kernel_device *d;

static const struct option_group group = { .flag = "disk" };
static const struct device_type row = { .name = "virtio-blk", .options = &group, .id_prefix = "_disk" };

static int make(void)
{
	int r = vdpa_create(&rig.dev, &row, VIRTIO_ID_BLK, "/dev/vhost-vdpa-7", &rig.options.virtio, &rig.env,
		&rig.err);

	if (r)
		return r;
	f = rig_front(&rig);
	return rig.root->ops->start(rig.root, &rig.err);
}

static void setup(void)
{
	log_level = LOG_ERROR;
	kernel_init();
	kernel.id = VIRTIO_ID_BLK;
	kernel.queues = QUEUES;
	kernel.vring_num = 256;
	kernel.config_size = CONFIG;
	kernel.features = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM) |
		VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(BLK_F_FLUSH) |
		VIRTIO_BIT(VIRTIO_F_RING_RESET);
	kernel.backend_features = VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_MSG_V2) | VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_BATCH);
	d = &kernel.device[0];
	for (unsigned i = 0; i < CONFIG; i++)
		d->config[i] = (uint8_t)(i + 1);
	rig_init(&rig);
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(vdpa, .init = setup, .fini = teardown);

static void can_be_suspended(void)
{
	kernel.backend_features |= VIRTIO_BIT(VDPA_BACKEND_F_SUSPEND) | VIRTIO_BIT(VDPA_BACKEND_F_RESUME) |
		VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_PERSIST);
}

static void drive(void)
{
	rig_drive(&rig, QUEUES, f->dev->offered & ~VIRTIO_BIT(VIRTIO_F_RING_PACKED));
}

static bool needs_reset(void)
{
	rig_main(&rig);
	return front_status(f) & VIRTIO_S_NEEDS_RESET;
}

static void set_index(uint64_t ring, uint16_t index)
{
	put_le16((uint8_t *)rig.ram + ring + 2, index);
}

static const uint8_t ALL_OK = VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK;

Test(vdpa, the_guest_sees_what_the_device_has_and_we_can_pass_on)
{
	uint8_t config[CONFIG];

	cr_assert_eq(make(), 0, "%s", rig.err.text);
	cr_assert_eq(f->dev->nqueues, QUEUES);
	cr_assert_eq(f->dev->queue_size, ECHO_QUEUE_MAX);
	cr_assert_eq(f->dev->offered, VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX) |
		VIRTIO_BIT(BLK_F_FLUSH));
	front_config_read(f, 0, config, sizeof(config));
	cr_assert_eq(memcmp(config, d->config, CONFIG), 0);
	/* All of RAM, one to one, and before any driver came. */
	cr_assert_eq(d->nmaps, 1);
	cr_assert_eq(d->map[0].iova, 0);
	cr_assert_eq(d->map[0].size, RIG_RAM);
	cr_assert_eq(d->map[0].uaddr, (uintptr_t)rig.ram);
	cr_assert_eq(d->map[0].perm, VHOST_ACCESS_RW);
	cr_assert_eq(d->batches, 1);
}

Test(vdpa, rings_are_small_enough_for_the_device)
{
	kernel.vring_num = 9;
	cr_assert_eq(make(), 0);
	cr_assert_eq(f->dev->queue_size, 8);
}

Test(vdpa, packed_rings_only_when_it_can_be_suspended)
{
	can_be_suspended();
	cr_assert_eq(make(), 0);
	cr_assert(f->dev->offered & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
}

Test(vdpa, it_starts_when_all_rings_are_described)
{
	cr_assert_eq(make(), 0);
	drive();
	cr_assert_eq(d->status, ALL_OK);
	cr_assert_eq(d->features, f->dev->offered | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM));
	cr_assert_geq(d->config_call, 0);
	for (unsigned i = 0; i < QUEUES; i++) {
		const struct kernel_ring *r = &d->ring[i];

		cr_assert_eq(r->num, 8);
		cr_assert_eq(r->addr.desc_user_addr, rig_desc(i), "the guest's address, not ours");
		cr_assert_eq(r->addr.avail_user_addr, rig_avail(i));
		cr_assert_eq(r->addr.used_user_addr, rig_used(i));
		cr_assert_eq(r->kick, f->q[i].kick_fd);
		cr_assert_eq(r->call, f->tops->call_fd(f->transport, i));
		cr_assert_eq(r->enabled, 1);
		cr_assert(rig_rang(r->kick, 0), "what lies there already is looked at");
	}
	front_set_status(f, 0);
	cr_assert_eq(d->status, 0);
}

Test(vdpa, a_pause_suspends_it_and_it_goes_on_as_it_was)
{
	can_be_suspended();
	cr_assert_eq(make(), 0);
	drive();
	d->ring[0].base_at_stop = 3;
	d->ring[1].base_at_stop = 9;
	set_index(rig_used(1), 8);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(d->suspends, 1);
	cr_assert_eq(f->q[0].next_avail, 3);
	cr_assert_eq(f->q[1].next_avail, 9);
	cr_assert_eq(f->q[1].next_used, 8);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(d->resumes, 1);
	cr_assert_eq(d->resets, 0);
	cr_assert_eq(d->status, ALL_OK);
	cr_assert_not(needs_reset());
}

Test(vdpa, both_indices_of_a_packed_ring_come_and_go_in_one_word)
{
	can_be_suspended();
	kernel.backend_features &= ~VIRTIO_BIT(VDPA_BACKEND_F_RESUME);
	cr_assert_eq(make(), 0);
	rig_drive(&rig, QUEUES, f->dev->offered);
	cr_assert_eq(d->ring[0].base, 0x80008000);
	d->ring[0].base_at_stop = 0x00028003;
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(f->q[0].next_avail, 0x8003);
	cr_assert_eq(f->q[0].next_used, 2);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(d->ring[0].base, 0x00028003);
	/* Where such a ring was nothing else tells. */
	kernel.refuse = VHOST_GET_VRING_BASE;
	kernel.refuse_with = EIO;
	d->ring[0].base_at_stop = 0x00058006;
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(f->q[0].next_avail, 0x8003);
}

Test(vdpa, without_resume_it_is_reset_and_goes_on_behind_what_it_did)
{
	can_be_suspended();
	kernel.backend_features &= ~VIRTIO_BIT(VDPA_BACKEND_F_RESUME);
	cr_assert_eq(make(), 0);
	drive();
	d->ring[0].base_at_stop = 3;
	rig.dev->ops->pause(rig.dev);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(d->resets, 1);
	cr_assert_eq(d->ring[0].base, 3);
	cr_assert_eq(d->status, ALL_OK);
	cr_assert_eq(d->nmaps, 1, "maps persist: nothing was mapped twice, nothing lost");
}

Test(vdpa, what_cannot_be_suspended_is_drained_reset_and_mapped_again)
{
	cr_assert_eq(make(), 0);
	drive();
	set_index(rig_avail(0), 6);
	set_index(rig_used(0), 6);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(d->status, 0);
	cr_assert_eq(d->nmaps, 0);
	cr_assert_eq(f->q[0].next_avail, 6);
	cr_assert_eq(f->q[0].next_used, 6);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(d->nmaps, 1);
	cr_assert_eq(d->ring[0].base, 6);
	cr_assert_eq(d->status, ALL_OK);
}

Test(vdpa, a_device_that_never_finishes_is_not_waited_for_for_ever)
{
	cr_assert_eq(make(), 0);
	drive();
	set_index(rig_avail(0), 6);
	set_index(rig_used(0), 2);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(d->status, 0);
	cr_assert_eq(f->q[0].next_avail, 2, "what it did not return is taken again");
}

Test(vdpa, state_goes_round)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	uint8_t byte;

	can_be_suspended();
	cr_assert_eq(make(), 0);
	drive();
	d->ring[1].base_at_stop = 4;
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	r = (struct state_reader){ .data = w.data, .len = w.len };
	d->config[2] = 0x42;
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "%s", rig.err.text);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(d->ring[1].base, 4);
	front_config_read(f, 2, &byte, 1);
	cr_assert_eq(byte, 0x42, "its configuration is the device's, not the stream's");
	cr_assert_eq(d->status, ALL_OK);
	state_writer_free(&w);
}

Test(vdpa, a_queue_that_is_taken_back_alone_stops_the_device_and_not_the_vm)
{
	can_be_suspended();
	cr_assert_eq(make(), 0);
	drive();
	front_queue_write(f, 0, FRONT_Q_ENABLE, 0);
	cr_assert(d->suspended);
	/* Begun anew at 0, and not where it stopped: that needs a reset. */
	d->ring[0].base_at_stop = 5;
	front_queue_write(f, 0, FRONT_Q_DESC_LO, 0x70000);
	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	cr_assert(needs_reset());
	front_set_status(f, 0);
	drive();
	cr_assert_not(needs_reset());
	cr_assert_eq(d->status, ALL_OK);
}

Test(vdpa, a_change_of_its_configuration_reaches_the_guest)
{
	const uint64_t one = 1;
	uint8_t byte = 0;

	cr_assert_eq(make(), 0);
	rig_run_workers(&rig);
	drive();
	d->config[0] = 0x77;
	cr_assert_eq(write(d->config_call, &one, sizeof(one)), sizeof(one));
	for (int i = 0; i < SOON_MS && byte != 0x77; i++) {
		usleep(1000);
		front_config_read(f, 0, &byte, 1);
	}
	cr_assert_eq(byte, 0x77);
}

Test(vdpa, a_device_that_needs_a_reset_says_so_to_the_guest)
{
	const uint64_t one = 1;
	bool told = false;

	cr_assert_eq(make(), 0);
	rig_run_workers(&rig);
	drive();
	d->status |= VIRTIO_S_NEEDS_RESET;
	cr_assert_eq(write(d->config_call, &one, sizeof(one)), sizeof(one));
	for (int i = 0; i < SOON_MS && !told; i++) {
		usleep(1000);
		told = needs_reset();
	}
	cr_assert(told);
}

Test(vdpa, what_the_driver_writes_goes_to_the_device_which_may_not_take_it)
{
	uint8_t v = 0x99;

	cr_assert_eq(make(), 0);
	front_config_write(f, 3, &v, 1);
	cr_assert_eq(d->config[3], 0x99);
	kernel.refuse = VHOST_VDPA_SET_CONFIG;
	kernel.refuse_with = EINVAL;
	v = 0x11;
	front_config_write(f, 4, &v, 1);
	front_config_read(f, 4, &v, 1);
	cr_assert_eq(v, 5, "as the device has it");
}

static const struct {
	unsigned long request;
	int with;
} refusals[] = {
	{ VHOST_VDPA_SET_STATUS, EIO },
	{ VHOST_SET_FEATURES, EINVAL },
	{ VHOST_VDPA_SET_CONFIG_CALL, EBADF },
	{ VHOST_VDPA_GET_CONFIG, EIO },
	{ VHOST_SET_VRING_NUM, EINVAL },
	{ VHOST_SET_VRING_BASE, EBUSY },
	{ VHOST_SET_VRING_ADDR, EINVAL },
	{ VHOST_SET_VRING_CALL, EBADF },
	{ VHOST_SET_VRING_KICK, EBADF },
	{ VHOST_VDPA_SET_VRING_ENABLE, EINVAL },
};

Test(vdpa, a_device_that_refuses_costs_a_reset_and_no_more)
{
	cr_assert_eq(make(), 0);
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		kernel.refuse = refusals[i].request;
		kernel.refuse_with = refusals[i].with;
		drive();
		cr_assert(needs_reset(), "%zu", i);
		cr_assert_not(d->status & VIRTIO_S_DRIVER_OK, "%zu", i);
		kernel.refuse = 0;
		front_set_status(f, 0);
		drive();
		cr_assert_not(needs_reset(), "%zu", i);
		cr_assert_eq(d->status, ALL_OK, "%zu", i);
		front_set_status(f, 0);
	}
}

Test(vdpa, a_device_that_does_not_take_the_features_is_not_started)
{
	cr_assert_eq(make(), 0);
	kernel.keeps_features = true;
	drive();
	cr_assert(needs_reset());
	cr_assert_eq(d->status & VIRTIO_S_DRIVER_OK, 0);
}

Test(vdpa, memory_that_comes_later_is_mapped_or_refused)
{
	static uint8_t more[2 * PAGE_4K] __attribute__((aligned(PAGE_4K)));

	kernel.range.last = 64 * MIB;
	cr_assert_eq(make(), 0);
	cr_assert_eq(mem_add_borrowed(rig.mem, 16 * MIB, PAGE_4K, more), 0);
	cr_assert_eq(d->nmaps, 2);
	cr_assert_eq(mem_add_borrowed(rig.mem, 128 * MIB, PAGE_4K, more + PAGE_4K), -ERANGE);
	kernel.lock_limit = RIG_RAM;
	cr_assert_eq(mem_add_borrowed(rig.mem, 32 * MIB, PAGE_4K, more + PAGE_4K), -ENOMEM);
	cr_assert_eq(d->nmaps, 2);
	/* A start maps what there is, and not what was refused. */
	kernel.lock_limit = UINT64_MAX;
	drive();
	rig.dev->ops->pause(rig.dev);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(d->nmaps, 2);
}

static void refused(const char *want)
{
	kernel.ndevices = 0;
	memset(d, 0, sizeof(*d));
	cr_assert_lt(make(), 0);
	cr_assert(strstr(rig.err.text, "--disk vdpa=/dev/vhost-vdpa-7: "), "%s", rig.err.text);
	cr_assert(strstr(rig.err.text, want), "%s", rig.err.text);
	rig.err.text[0] = 0;
	rig.dev = NULL;
}

Test(vdpa, what_is_none_or_the_wrong_one_is_refused_in_a_sentence)
{
	kernel.open_says = -ENOENT;
	refused("modprobe vhost_vdpa");
	kernel.open_says = -EBUSY;
	refused("in use by another");
	kernel.open_says = -EACCES;
	refused("no right");
	kernel.open_says = 0;
	kernel.id = 0;
	refused("is no vhost-vdpa device");
	kernel.id = VIRTIO_ID_NET;
	refused("give it to --net");
	kernel.id = 26;
	refused("type 26 (other)");
	kernel.id = VIRTIO_ID_BLK;
	kernel.backend_features = 0;
	refused("cannot map memory");
	kernel.backend_features = VIRTIO_BIT(VDPA_BACKEND_F_IOTLB_MSG_V2);
	kernel.features &= ~VIRTIO_BIT(VIRTIO_F_VERSION_1);
	refused("older than virtio 1");
	kernel.features |= VIRTIO_BIT(VIRTIO_F_VERSION_1);
}

Test(vdpa, numbers_that_a_device_may_make_up_are_bounded)
{
	kernel.queues = VIRTIO_QUEUES_MAX + 1;
	refused("has 65 queues");
	kernel.queues = 0;
	refused("has 0 queues");
	kernel.queues = 1;
	kernel.vring_num = 1;
	refused("queues of 1 entries");
	kernel.vring_num = UINT16_MAX;
	kernel.config_size = UINT32_MAX;
	memset(d, 0, sizeof(*d));
	kernel.ndevices = 0;
	cr_assert_eq(make(), 0);
	cr_assert_eq(f->dev->config.size, VIRTIO_CONFIG_MAX);
}

Test(vdpa, memory_that_cannot_be_had_is_said_at_the_start)
{
	kernel.lock_limit = RIG_RAM - 1;
	refused("1 MiB cannot be locked");
	kernel.lock_limit = UINT64_MAX;
	kernel.range.last = RIG_RAM - 2;
	refused("reaches addresses from 0 to 0xffffe");
}

/* --- the flags that lead here --- */

/* What a row makes of "--FLAG text": 0 or its error, in rig.err. */
static int from_text(const struct device_type *type, const char *text, bool *shares)
{
	const struct option_group *const groups[] = { type->options, NULL };
	char flag[16], value[128];
	char *argv[] = { (char *)"test", flag, value, NULL };
	struct options *o = NULL;
	int r;

	snprintf(flag, sizeof(flag), "--%s", type->options->flag);
	snprintf(value, sizeof(value), "%s", text);
	cr_assert_eq(options_create(&o, groups), 0);
	cr_assert_eq(options_parse_argv(o, 3, argv, &rig.err), 0, "%s", rig.err.text);
	*shares = type->shares_memory(options_get(o, type->options->flag, 0));
	r = type->create(&rig.dev, &rig.env, options_get(o, type->options->flag, 0), &rig.err);
	options_destroy(o);
	return r;
}

Test(vdpa, a_disk_of_that_kind_has_nothing_of_ours)
{
	static const char *const others[] = { "path=/x", "null=1M", "readonly=on", "direct=on", "serial=s",
		"num_queues=2", "poll=5", "affinity=[0]", "overlay=/x", "ephemeral=on" };
	char text[128], want[64];
	bool shares;

	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		snprintf(text, sizeof(text), "vdpa=/dev/vhost-vdpa-0,%s", others[i]);
		snprintf(want, sizeof(want), "%.*s is the device's own business", (int)strcspn(others[i], "="), others[i]);
		cr_assert_eq(from_text(&virtio_blk_row, text, &shares), -EINVAL, "%s", text);
		cr_assert(strstr(rig.err.text, want), "%s", rig.err.text);
	}
	cr_assert_eq(from_text(&virtio_blk_row, "vdpa=/dev/vhost-vdpa-0", &shares), 0, "%s", rig.err.text);
	cr_assert(shares);
	cr_assert_eq(((struct front *)rig.dev)->dev->nqueues, QUEUES);
	cr_assert_str_eq(rig.dev->cmdline, "root=/dev/vda rw");
}

Test(vdpa, a_network_of_that_kind_has_nothing_of_ours)
{
	static const char *const others[] = { "tap=x", "user=on", "mac=02:00:00:00:00:01", "mtu=1400", "num_queues=4",
		"vhost=on", "capture=/x", "bw_size=1M", "rate_group=g", "anti_spoof=on" };
	char text[128], want[64];
	bool shares;

	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		snprintf(text, sizeof(text), "vdpa=/dev/vhost-vdpa-0,%s", others[i]);
		snprintf(want, sizeof(want), "%.*s is the device's own business", (int)strcspn(others[i], "="), others[i]);
		cr_assert_eq(from_text(&virtio_net_row, text, &shares), -EINVAL, "%s", text);
		cr_assert(strstr(rig.err.text, want), "%s", rig.err.text);
	}
	kernel.id = VIRTIO_ID_NET;
	cr_assert_eq(from_text(&virtio_net_row, "vdpa=/dev/vhost-vdpa-0", &shares), 0, "%s", rig.err.text);
	cr_assert(shares);
	cr_assert_lt(from_text(&virtio_net_row, "user=on,num_queues=3", &shares), 0);
	cr_assert_not(shares);
}
