/* The MMIO register block of virtio 1.2 §4.2.2, driven through the bus as a guest does. */
#include <criterion/criterion.h>

#include "tests/unit/virtio_rig.h"

static struct rig rig;
static struct front *f;
static uint64_t base;

static void setup(void)
{
	rig_init(&rig);
	cr_assert_eq(rig_echo(&rig, VIRTIO_TRANSPORT_MMIO), 0, "%s", rig.err.text);
	f = rig_front(&rig);
	base = f->device.nodes[0].base;
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(mmio, .init = setup, .fini = teardown);

static uint32_t get(unsigned reg)
{
	return (uint32_t)rig_read(rig.mmio, base + reg, 4);
}

static void put(unsigned reg, uint32_t v)
{
	rig_write(rig.mmio, base + reg, v, 4);
}

static void drive(void)
{
	put(0x70, 1);
	put(0x70, 3);
	put(0x24, 1);
	put(0x20, 1); /* VERSION_1 */
	put(0x24, 0);
	put(0x20, 0);
	put(0x70, 0xb);
	for (unsigned i = 0; i < 2; i++) {
		put(0x30, i);
		put(0x38, 8);
		put(0x80, (uint32_t)rig_desc(i));
		put(0x84, 0);
		put(0x90, (uint32_t)rig_avail(i));
		put(0xa0, (uint32_t)rig_used(i));
		put(0x44, 1);
	}
	put(0x70, 0xf);
}

static int line(void)
{
	return f->tops->call_fd(f->transport, 0);
}

Test(mmio, the_block_says_what_it_is)
{
	cr_assert_str_eq(f->device.nodes[0].kind, "virtio-mmio");
	cr_assert_eq(f->device.nodes[0].len, 0x200);
	cr_assert_eq(f->device.nodes[0].gsi, 5);
	cr_assert_eq(rig.resources.mmio_next, RIG_MMIO + PAGE_4K);
	cr_assert_eq(get(0x00), 0x74726976);
	cr_assert_eq(get(0x04), 2);
	cr_assert_eq(get(0x08), VIRTIO_ID_RNG);
	cr_assert_eq(get(0x34), ECHO_QUEUE_MAX);
	cr_assert_eq(get(0xb0), UINT32_MAX);
	cr_assert_eq(get(0xb4), UINT32_MAX);
}

Test(mmio, features_come_in_two_words_and_no_third)
{
	put(0x14, 0);
	cr_assert_eq(get(0x10), (uint32_t)f->dev->offered);
	put(0x14, 1);
	cr_assert_eq(get(0x10), (uint32_t)(f->dev->offered >> 32));
	put(0x14, 2);
	cr_assert_eq(get(0x10), 0);
	put(0x24, 2);
	put(0x20, UINT32_MAX);
	cr_assert_eq(front_driver_features(f), 0);
}

Test(mmio, a_driver_gets_its_chain_echoed)
{
	rig_put(&rig, 0, 0, 0xfeedf00d);
	drive();
	cr_assert_eq(get(0x70), 0xf);
	cr_assert_eq(rig_used_idx(&rig, 0), 1, "what lay there before DRIVER_OK");
	cr_assert_eq(rig_reply(&rig, 0, 0), 0xfeedf00d);
	cr_assert(rig_rang(line(), 0));
	cr_assert_eq(get(0x60), 1);
}

Test(mmio, notify_rings_the_queue_written)
{
	drive();
	put(0x50, 1);
	cr_assert(rig_rang(f->q[1].kick_fd, 0));
	cr_assert(!rig_rang(f->q[0].kick_fd, 0));
	put(0x50, 77);
	put(0x50, 0x10001);
	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		cr_assert(!rig_rang(f->q[i].kick_fd, 0));
}

Test(mmio, queue_ready_0_stops_a_queue_and_reads_0)
{
	drive();
	put(0x30, 0);
	cr_assert_eq(get(0x44), 1);
	put(0x44, 0);
	cr_assert_eq(get(0x44), 0);
	cr_assert_eq(rig_echo_device(&rig)->stopped, 1);
	cr_assert_null(f->dev->queues[0]);
}

Test(mmio, a_queue_out_of_range_reads_0_and_takes_nothing)
{
	put(0x30, ECHO_QUEUES);
	cr_assert_eq(get(0x34), 0);
	put(0x44, 1);
	cr_assert_eq(get(0x44), 0);
	put(0x30, UINT32_MAX);
	put(0x38, 8);
	cr_assert_eq(get(0x34), 0);
}

Test(mmio, odd_widths_and_offsets_do_nothing)
{
	put(0x70, 1);
	rig_write(rig.mmio, base + 0x70, 3, 1);
	rig_write(rig.mmio, base + 0x70, 3, 2);
	rig_write(rig.mmio, base + 0x6e, 3 << 16, 4);
	rig_write(rig.mmio, base + 0x70, 3, 8);
	cr_assert_eq(get(0x70), 1);
	cr_assert_eq(rig_read(rig.mmio, base, 8), 0);
	cr_assert_eq(rig_read(rig.mmio, base, 1), 0);
	cr_assert_eq(rig_read(rig.mmio, base + 2, 4), 0);
	cr_assert_eq(get(0x54), 0);
	put(0x0, 5);
	cr_assert_eq(get(0x0), 0x74726976);
}

Test(mmio, write_only_registers_read_0)
{
	static const unsigned regs[] = { 0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x90,
		0xa0 };

	drive();
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		cr_assert_eq(get(regs[i]), 0, "%#x", regs[i]);
}

Test(mmio, config_space_takes_every_width_and_ends_where_it_ends)
{
	cr_assert_eq(rig_read(rig.mmio, base + 0x100, 8), UINT64_C(0x0807060504030201));
	cr_assert_eq(rig_read(rig.mmio, base + 0x103, 2), 0x0504);
	cr_assert_eq(rig_read(rig.mmio, base + 0x100 + ECHO_CONFIG, 8), 0);
	cr_assert_eq(rig_read(rig.mmio, base + 0x1f8, 8), 0);
	cr_assert_eq(rig_read(rig.mmio, base + 0x200, 4), 0xffffffff, "past the window");
	rig_write(rig.mmio, base + 0x108, 0x1234, 2);
	cr_assert_eq(rig_read(rig.mmio, base + 0x108, 2), 0x1234);
	cr_assert_eq(rig_echo_device(&rig)->written, 1);
	rig_write(rig.mmio, base + 0x100, 0, 4);
	cr_assert_eq(rig_read(rig.mmio, base + 0x100, 4), 0x04030201);
}

Test(mmio, a_config_change_is_seen_in_generation_and_status_until_acknowledged)
{
	uint32_t generation = get(0xfc);
	uint8_t byte = 9;

	drive();
	virtio_config_write(&f->dev->config, 0, &byte, 1);
	f->dev->config_changed(f->dev);
	rig_main(&rig);
	cr_assert_neq(get(0xfc), generation);
	cr_assert(rig_rang(line(), 0));
	cr_assert_eq(get(0x60), 3);
	put(0x64, 1);
	cr_assert_eq(get(0x60), 3, "bit 0 stays while the driver runs");
	put(0x64, 2);
	cr_assert_eq(get(0x60), 1);
	put(0x70, 0);
	cr_assert_eq(get(0x60), 0);
}

Test(mmio, a_ring_outside_ram_needs_a_reset)
{
	put(0x70, 3);
	put(0x24, 1);
	put(0x20, 1);
	put(0x70, 0xb);
	put(0x38, 8);
	put(0x80, (uint32_t)RIG_MMIO);
	put(0x90, RIG_RAM - 4);
	put(0xa0, (uint32_t)rig_used(0));
	put(0x44, 1);
	put(0x70, 0xf);
	cr_assert_eq(get(0x70), 0x4f);
	cr_assert_eq(get(0x60) & 2, 2);
	put(0x70, 0);
	drive();
	cr_assert_eq(get(0x70), 0xf);
}

Test(mmio, save_and_load_keep_selectors_and_rings)
{
	struct state_writer w = { 0 };
	struct state_reader r;

	drive();
	rig_put(&rig, 1, 0, 7);
	rig.dev->ops->pause(rig.dev);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(rig_used_idx(&rig, 1), 1);
	rig.dev->ops->pause(rig.dev);
	put(0x30, 1);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	rig.dev->ops->reset(rig.dev);
	cr_assert_eq(get(0x70), 0);
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "%s", rig.err.text);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(get(0x70), 0xf);
	cr_assert_eq(get(0x44), 1, "queue 1 is selected");
	rig_put(&rig, 1, 1, 8);
	rig.dev->ops->pause(rig.dev);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(rig_used_idx(&rig, 1), 2, "it went on after the first, not again from it");
	cr_assert_eq(rig_reply(&rig, 1, 1), 8);
	cr_assert_eq(rig_echo_device(&rig)->echoed, 2);
	state_writer_free(&w);
}
