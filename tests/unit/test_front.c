/*
 * The register rules of virtio 1.2 §2.1, §2.2, §3.1: what sticks, what is frozen, what the back
 * gets to see.
 */
#include <criterion/criterion.h>

#include "tests/unit/virtio_rig.h"

enum {
	ACK = VIRTIO_S_ACKNOWLEDGE,
	DRV = VIRTIO_S_DRIVER,
	OK = VIRTIO_S_DRIVER_OK,
	FOK = VIRTIO_S_FEATURES_OK
};

/* A back end that writes down what it is told. */
struct mock {
	struct back back;
	struct queue_setup last[VIRTIO_QUEUES_MAX];
	bool running[VIRTIO_QUEUES_MAX];
	unsigned starts, stops;
	int start_error;
	uint16_t stop_avail, stop_used;
	uint64_t features;
	const struct front *watched;
	uint8_t status_at_stop;
};

static int mock_features(struct back *b, uint64_t features)
{
	((struct mock *)b)->features = features;
	return 0;
}

static int mock_start(struct back *b, const struct queue_setup *setup)
{
	struct mock *m = (struct mock *)b;

	m->starts++;
	if (m->start_error)
		return m->start_error;
	cr_assert(!m->running[setup->index], "started twice");
	m->running[setup->index] = true;
	m->last[setup->index] = *setup;
	return 0;
}

static int mock_stop(struct back *b, unsigned index, struct queue_setup *ret)
{
	struct mock *m = (struct mock *)b;

	m->stops++;
	m->running[index] = false;
	if (m->watched)
		m->status_at_stop = m->watched->status;
	ret->next_avail = m->stop_avail;
	ret->next_used = m->stop_used;
	return 0;
}

static void mock_config(struct back *b, unsigned offset, unsigned len)
{
	(void)b, (void)offset, (void)len;
}

static int mock_save(struct back *b, struct state_writer *w)
{
	(void)b, (void)w;
	return 0;
}

static int mock_load(struct back *b, struct state_reader *r, struct error *err)
{
	(void)b, (void)r, (void)err;
	return 0;
}

static const struct back_ops mock_ops = { mock_features, mock_start, mock_stop, mock_config,
	mock_save, mock_load, NULL };

static struct rig rig;
static struct mock mock;
static struct back *real;
static struct front *f;

static void make(enum virtio_transport_kind kind)
{
	rig_init(&rig);
	cr_assert_eq(rig_echo(&rig, kind), 0, "%s", rig.err.text);
	f = rig_front(&rig);
	memset(&mock, 0, sizeof(mock));
	mock.back = (struct back){ &mock_ops, f->dev };
	real = f->back;
	f->back = &mock.back;
}

static void setup(void)
{
	make(VIRTIO_TRANSPORT_PCI);
}

static void teardown(void)
{
	front_reset(f);
	f->back = real;
	rig_fini(&rig);
}

TestSuite(front, .init = setup, .fini = teardown);

static void choose(uint64_t features)
{
	front_set_status(f, ACK | DRV);
	front_set_driver_features(f, 0, (uint32_t)features);
	front_set_driver_features(f, 1, (uint32_t)(features >> 32));
	front_set_status(f, ACK | DRV | FOK);
}

Test(front, offers_the_types_bits_and_those_of_the_rings)
{
	cr_assert_eq(front_device_features(f),
		VIRTIO_BIT(ECHO_F_ONE) | VIRTIO_BIT(VIRTIO_F_VERSION_1) |
			VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) |
			VIRTIO_BIT(VIRTIO_F_RING_PACKED));
}

Test(front, features_ok_is_refused_for_a_bit_that_is_not_offered)
{
	choose(RIG_SPLIT | VIRTIO_BIT(7));
	cr_assert_eq(front_status(f), ACK | DRV);
}

Test(front, features_ok_is_refused_without_version_1)
{
	choose(VIRTIO_BIT(ECHO_F_ONE));
	cr_assert_eq(front_status(f), ACK | DRV);
}

Test(front, features_ok_is_refused_without_a_bit_that_the_device_cannot_do_without)
{
	f->dev->required = VIRTIO_BIT(ECHO_F_ONE);
	choose(RIG_SPLIT);
	cr_assert_eq(front_status(f), ACK | DRV);
	choose(RIG_SPLIT | VIRTIO_BIT(ECHO_F_ONE));
	cr_assert_eq(front_status(f), ACK | DRV | FOK);
}

Test(front, features_are_frozen_by_features_ok)
{
	choose(RIG_SPLIT);
	front_set_driver_features(f, 0, UINT32_MAX);
	cr_assert_eq(front_driver_features(f), RIG_SPLIT);
	front_set_driver_features(f, 7, UINT32_MAX);
	cr_assert_eq(front_driver_features(f), RIG_SPLIT);
}

Test(front, status_bits_cannot_be_cleared_but_by_reset)
{
	choose(RIG_SPLIT);
	front_set_status(f, ACK);
	cr_assert_eq(front_status(f), ACK | DRV | FOK);
	front_set_status(f, 0);
	cr_assert_eq(front_status(f), 0);
}

Test(front, the_driver_cannot_set_needs_reset_or_unknown_bits)
{
	front_set_status(f, ACK | VIRTIO_S_NEEDS_RESET | 0x30);
	cr_assert_eq(front_status(f), ACK);
}

Test(front, driver_ok_needs_features_ok)
{
	front_set_status(f, ACK | DRV | OK);
	cr_assert_eq(front_status(f), ACK | DRV);
	cr_assert_eq(mock.starts, 0);
}

Test(front, the_back_gets_the_choice_and_the_enabled_queues_at_driver_ok)
{
	rig_drive(&rig, 2, RIG_SPLIT | VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
	cr_assert_eq(mock.features, RIG_SPLIT | VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
	cr_assert_eq(mock.starts, 2);
	cr_assert_eq(mock.last[1].size, 8);
	cr_assert_eq(mock.last[1].desc, rig_desc(1));
	cr_assert_eq(mock.last[1].avail, rig_avail(1));
	cr_assert_eq(mock.last[1].used, rig_used(1));
	cr_assert_eq(mock.last[1].next_avail, 0);
	cr_assert_eq(mock.last[1].kick_fd, f->q[1].kick_fd);
	cr_assert_geq(mock.last[1].call_fd, 0);
	cr_assert(!mock.running[2], "not enabled");
}

Test(front, a_packed_ring_starts_with_its_wrap_counters_at_one)
{
	rig_drive(&rig, 1, RIG_SPLIT | VIRTIO_BIT(VIRTIO_F_RING_PACKED));
	cr_assert_eq(mock.last[0].next_avail, 0x8000);
	cr_assert_eq(mock.last[0].next_used, 0x8000);
}

Test(front, double_driver_ok_starts_nothing_twice)
{
	rig_drive(&rig, 1, RIG_SPLIT);
	front_set_status(f, ACK | DRV | FOK | OK);
	cr_assert_eq(mock.starts, 1);
}

Test(front, a_queue_enabled_after_driver_ok_starts_too)
{
	rig_drive(&rig, 0, RIG_SPLIT);
	front_queue_write(f, 1, FRONT_Q_SIZE, 4);
	front_queue_write(f, 1, FRONT_Q_ENABLE, 1);
	cr_assert(mock.running[1]);
}

Test(front, registers_of_an_enabled_queue_are_frozen)
{
	rig_drive(&rig, 1, RIG_SPLIT);
	for (unsigned reg = 0; reg < FRONT_Q_MAX; reg++)
		if (reg != FRONT_Q_ENABLE)
			front_queue_write(f, 0, reg, 0x40);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_SIZE), 8);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_DESC_LO), rig_desc(0));
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_DESC_HI), 0);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_USED_LO), rig_used(0));
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_VECTOR), 1);
	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	cr_assert_eq(mock.starts, 1, "enabled twice is enabled once");
}

Test(front, enable_is_refused_before_features_ok_and_for_bad_sizes)
{
	static const uint32_t bad[] = { 0, 3, 5, 32, 0x10000, 0x10008 };

	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_ENABLE), 0, "before FEATURES_OK");
	choose(RIG_SPLIT);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		front_queue_write(f, 0, FRONT_Q_SIZE, bad[i]);
		front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
		cr_assert_eq(front_queue_read(f, 0, FRONT_Q_ENABLE), 0, "size %u", bad[i]);
	}
	front_queue_write(f, 0, FRONT_Q_SIZE, 16);
	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_ENABLE), 1);
}

Test(front, a_packed_queue_may_have_any_size_up_to_the_largest)
{
	choose(RIG_SPLIT | VIRTIO_BIT(VIRTIO_F_RING_PACKED));
	front_queue_write(f, 0, FRONT_Q_SIZE, 17);
	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_ENABLE), 0);
	front_queue_write(f, 0, FRONT_Q_SIZE, 5);
	front_queue_write(f, 0, FRONT_Q_ENABLE, 1);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_ENABLE), 1);
}

Test(front, queues_out_of_range_read_0_and_ignore_writes)
{
	choose(RIG_SPLIT);
	for (unsigned reg = 0; reg < FRONT_Q_MAX; reg++) {
		front_queue_write(f, ECHO_QUEUES, reg, 1);
		front_queue_write(f, UINT32_MAX, reg, 1);
		cr_assert_eq(front_queue_read(f, ECHO_QUEUES, reg), 0);
		cr_assert_eq(front_queue_read(f, 0xffff, reg), 0);
	}
	front_set_status(f, ACK | DRV | FOK | OK);
	cr_assert_eq(mock.starts, 0);
}

Test(front, a_queue_that_cannot_start_is_needs_reset_and_a_config_interrupt)
{
	front_set_config_vector(f, 0);
	mock.start_error = -EFAULT;
	rig_drive(&rig, 2, RIG_SPLIT);
	cr_assert(front_status(f) & VIRTIO_S_NEEDS_RESET);
	cr_assert_eq(mock.starts, 1, "the second is not tried");
	cr_assert(rig_rang(irq_fd(pci_msix_source(f->transport, 0)), 0));
	front_queue_write(f, 2, FRONT_Q_ENABLE, 1);
	cr_assert_eq(mock.starts, 1, "only a reset helps");
	front_set_status(f, 0);
	mock.start_error = 0;
	rig_drive(&rig, 1, RIG_SPLIT);
	cr_assert_eq(front_status(f), ACK | DRV | FOK | OK);
}

Test(front, failed_stops_the_queues_and_only_reset_leads_out)
{
	rig_drive(&rig, 2, RIG_SPLIT);
	front_set_status(f, ACK | DRV | FOK | OK | VIRTIO_S_FAILED);
	cr_assert_eq(mock.stops, 2);
	cr_assert(front_status(f) & VIRTIO_S_FAILED);
	front_set_status(f, ACK | DRV | FOK | OK);
	cr_assert_eq(mock.starts, 2);
	front_set_status(f, 0);
	cr_assert_eq(front_status(f), 0);
}

Test(front, reset_stops_the_queues_before_the_status_reads_0)
{
	rig_drive(&rig, 2, RIG_SPLIT);
	mock.watched = f;
	front_set_status(f, 0);
	cr_assert_eq(mock.stops, 2);
	cr_assert(mock.status_at_stop & OK, "0 was readable while a queue ran");
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_SIZE), ECHO_QUEUE_MAX);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_ENABLE), 0);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_DESC_LO), 0);
	cr_assert_eq(front_queue_read(f, 0, FRONT_Q_VECTOR), VIRTIO_NO_VECTOR);
	cr_assert_eq(front_driver_features(f), 0);
}

Test(front, pause_keeps_the_indices_and_resume_goes_on_there)
{
	rig_drive(&rig, 1, RIG_SPLIT);
	mock.stop_avail = 77;
	mock.stop_used = 76;
	rig.dev->ops->pause(rig.dev);
	cr_assert(!mock.running[0]);
	rig.dev->ops->resume(rig.dev);
	cr_assert(mock.running[0]);
	cr_assert_eq(mock.last[0].next_avail, 77);
	cr_assert_eq(mock.last[0].next_used, 76);
	cr_assert_eq(mock.last[0].features, RIG_SPLIT);
	front_set_status(f, 0);
	rig_drive(&rig, 1, RIG_SPLIT);
	cr_assert_eq(mock.last[0].next_avail, 0, "a reset forgets them");
}

Test(front, a_kick_counts_only_after_driver_ok_and_for_queues_that_exist)
{
	front_kick(f, 0);
	cr_assert(!rig_rang(f->q[0].kick_fd, 0));
	rig_drive(&rig, 1, RIG_SPLIT);
	front_kick(f, ECHO_QUEUES);
	front_kick(f, UINT32_MAX);
	front_kick(f, 0);
	cr_assert(rig_rang(f->q[0].kick_fd, 0));
}

Test(front, a_broken_device_is_needs_reset_on_main_and_only_in_that_life)
{
	rig_drive(&rig, 1, RIG_SPLIT);
	f->dev->broken(f->dev);
	f->dev->broken(f->dev);
	cr_assert_eq(front_status(f), ACK | DRV | FOK | OK, "not before main heard of it");
	rig_main(&rig);
	cr_assert(front_status(f) & VIRTIO_S_NEEDS_RESET);
	f->dev->broken(f->dev);
	front_set_status(f, 0);
	rig_drive(&rig, 1, RIG_SPLIT);
	rig_main(&rig);
	cr_assert_eq(
		front_status(f), ACK | DRV | FOK | OK, "the message was about the life before");
}

Test(front, a_message_outlives_its_device)
{
	rig_drive(&rig, 1, RIG_SPLIT);
	f->dev->broken(f->dev);
	f->dev->config_changed(f->dev);
	front_reset(f);
	f->back = real;
	rig.dev->ops->destroy(rig.dev);
	rig.dev = NULL;
	rig_main(&rig);
	cr_assert_eq(rig_echo(&rig, VIRTIO_TRANSPORT_PCI), 0);
	f = rig_front(&rig);
	real = f->back;
}

Test(front, a_config_change_interrupts_a_running_driver_only)
{
	int fd = irq_fd(pci_msix_source(f->transport, 0));

	front_set_config_vector(f, 0);
	f->dev->config_changed(f->dev);
	rig_main(&rig);
	cr_assert(!rig_rang(fd, 0));
	rig_drive(&rig, 0, RIG_SPLIT);
	f->dev->config_changed(f->dev);
	rig_main(&rig);
	cr_assert(rig_rang(fd, 0));
}

Test(front, config_writes_reach_only_what_is_writable)
{
	uint8_t b[8] = { 0 }, ones[8] = { 255, 255, 255, 255, 255, 255, 255, 255 };
	uint32_t generation = virtio_config_generation(&f->dev->config);

	front_config_write(f, 0, ones, 4);
	front_config_write(f, 6, ones, 4);
	front_config_write(f, ECHO_CONFIG - 2, ones, 4);
	front_config_write(f, UINT32_MAX, ones, 8);
	cr_assert_eq(virtio_config_generation(&f->dev->config), generation);
	front_config_write(f, 8, ones, 4);
	front_config_read(f, 6, b, 8);
	cr_assert_eq(get_le64(b), UINT64_C(0x0e0dffffffff0807));
	cr_assert_neq(virtio_config_generation(&f->dev->config), generation);
}

Test(front, config_reads_past_the_end_are_0)
{
	uint8_t b[8];

	memset(b, 0xaa, sizeof(b));
	front_config_read(f, ECHO_CONFIG - 2, b, 8);
	cr_assert_eq(get_le64(b), UINT64_C(0x1817));
	front_config_read(f, UINT32_MAX - 3, b, 8);
	cr_assert_eq(get_le64(b), 0);
}

Test(front, what_is_saved_is_loaded_and_runs_on)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	const uint8_t byte = 0x5a;

	rig_drive(&rig, 2, RIG_SPLIT);
	front_config_write(f, 9, &byte, 1);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), -EBUSY, "running");
	mock.stop_avail = mock.stop_used = 9;
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	teardown();

	setup();
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "%s", rig.err.text);
	cr_assert_eq(state_reader_finish(&r, &rig.err), 0, "%s", rig.err.text);
	cr_assert_eq(mock.starts, 0, "a loaded device is paused");
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(mock.starts, 2);
	cr_assert_eq(mock.last[1].next_avail, 9);
	cr_assert_eq(mock.last[1].desc, rig_desc(1));
	cr_assert_eq(mock.features, RIG_SPLIT);
	cr_assert_eq(front_status(f), ACK | DRV | FOK | OK);
	cr_assert_eq(f->dev->config.own.bytes[9], 0x5a);
	state_writer_free(&w);
}

struct lie {
	const char *name;
	void (*tell)(void);
};

static void lie_status(void) { f->status = 0x20; }
static void lie_ok(void) { f->status = OK; }
static void lie_features(void) { f->driver_features |= VIRTIO_BIT(50); }
static void lie_size(void) { f->q[0].size = 3; }
static void lie_large(void) { f->q[0].size = 1024; }
static void lie_queue(void) { f->q[ECHO_QUEUES].enabled = true; f->q[ECHO_QUEUES].size = 8; }

Test(front, a_stream_that_breaks_the_rules_is_refused_with_a_sentence)
{
	static const struct lie lies[] = { { "status", lie_status }, { "ok", lie_ok },
		{ "features", lie_features }, { "size", lie_size }, { "large", lie_large },
		{ "queue", lie_queue } };

	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct state_writer w = { 0 };
		struct state_reader r;

		front_reset(f);
		rig_drive(&rig, 1, RIG_SPLIT);
		rig.dev->ops->pause(rig.dev);
		lies[i].tell();
		cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
		f->q[ECHO_QUEUES].enabled = false;
		front_reset(f);
		r = (struct state_reader){ w.data, w.len, 0 };
		rig.err.text[0] = 0;
		cr_assert_lt(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "%s", lies[i].name);
		cr_assert_neq(rig.err.text[0], 0, "%s", lies[i].name);
		cr_assert_eq(front_status(f), 0, "%s", lies[i].name);
		cr_assert_eq(r.pos, 0, "%s", lies[i].name);
		state_writer_free(&w);
	}
}

Test(front, a_refused_load_leaves_a_paused_device_as_it_was)
{
	struct state_writer w = { 0 };
	struct state_reader r;

	rig_drive(&rig, 2, RIG_SPLIT);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	w.data[w.len - 1] ^= 1;
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_lt(rig.dev->ops->load(rig.dev, &r, &rig.err), 0);
	cr_assert_eq(front_status(f), ACK | DRV | FOK | OK);
	mock.starts = 0;
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(mock.starts, 2, "it goes on with what it had");
	state_writer_free(&w);
}

Test(front, a_device_that_fails_half_way_leaves_nothing)
{
	unsigned destroyed = 0;
	struct device *dev = NULL;

	rig.options.destroyed = &destroyed;
	rig.options.create_error = ENOENT;
	cr_assert_eq(virtio_create(&dev, &echo_row, &echo_type, &rig.env, &rig.options, &rig.err),
		-ENOENT);
	cr_assert_eq(destroyed, 1);
	rig.options.create_error = 0;
	rig.worker_fails = true;
	cr_assert_eq(virtio_create(&dev, &echo_row, &echo_type, &rig.env, &rig.options, &rig.err),
		-EMFILE);
	rig.worker_fails = false;
	rig.env.pci = NULL;
	cr_assert_eq(virtio_create(&dev, &echo_row, &echo_type, &rig.env, &rig.options, &rig.err),
		-ENODEV);
	rig.options.virtio.transport = VIRTIO_TRANSPORT_MMIO;
	rig.resources.gsi_next = rig.resources.gsi_end;
	cr_assert_eq(virtio_create(&dev, &echo_row, &echo_type, &rig.env, &rig.options, &rig.err),
		-ENOSPC);
	rig.options.virtio.queue_size = 100;
	cr_assert_eq(virtio_create(&dev, &echo_row, &echo_type, &rig.env, &rig.options, &rig.err),
		-EINVAL);
	cr_assert_null(dev);
	cr_assert_eq(destroyed, 4);
	rig.env.pci = rig.pci;
	rig.options.destroyed = NULL;
}
