/* virtio over PCI (virtio 1.2 §4.1), driven through config space and BAR as a guest does. */
#include <criterion/criterion.h>

#include "tests/unit/virtio_rig.h"

static struct rig rig;
static struct front *f;
static struct pci_function *fn;

static void setup(void)
{
	rig_init(&rig);
	cr_assert_eq(rig_echo(&rig, VIRTIO_TRANSPORT_PCI), 0, "%s", rig.err.text);
	f = rig_front(&rig);
	fn = f->transport;
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(pci, .init = setup, .fini = teardown);

/* Offset of the virtio capability of a type (§4.1.4). */
static unsigned find(unsigned type)
{
	for (unsigned at = fn->config[0x34]; at; at = fn->config[at + 1])
		if (fn->config[at] == 9 && fn->config[at + 3] == type)
			return at;
	return 0;
}

static uint64_t at(unsigned type)
{
	return fn->bar[0].mapped + get_le32(fn->config + find(type) + 8);
}

enum { COMMON = 1, NOTIFY, ISR, DEVICE, WINDOW };

static uint64_t get(unsigned reg, unsigned len)
{
	return rig_read(rig.mmio, at(COMMON) + reg, len);
}

static void put(unsigned reg, uint64_t v, unsigned len)
{
	rig_write(rig.mmio, at(COMMON) + reg, v, len);
}

static void drive(void)
{
	put(0x14, 1, 1);
	put(0x14, 3, 1);
	put(0x08, 1, 4);
	put(0x0c, 1, 4);
	put(0x08, 0, 4);
	put(0x0c, 0, 4);
	put(0x14, 0xb, 1);
	put(0x10, 0, 2);
	for (unsigned i = 0; i < 2; i++) {
		put(0x16, i, 2);
		put(0x18, 8, 2);
		put(0x1a, i + 1, 2);
		put(0x20, rig_desc(i), 8);
		put(0x28, rig_avail(i), 4);
		put(0x2c, 0, 4);
		put(0x30, rig_used(i), 4);
		put(0x1c, 1, 2);
	}
	put(0x14, 0xf, 1);
}

static int vector_fd(unsigned i)
{
	return irq_fd(pci_msix_source(fn, i));
}

Test(pci, the_capabilities_lie_inside_the_bar)
{
	static const unsigned len[] = { [COMMON] = 0x38, [NOTIFY] = 4 * ECHO_QUEUES, [ISR] = 1,
		[DEVICE] = ECHO_CONFIG };

	for (unsigned type = COMMON; type <= DEVICE; type++) {
		unsigned cap = find(type);

		cr_assert_neq(cap, 0, "type %u", type);
		cr_assert_eq(fn->config[cap + 4], 0, "BAR 0");
		cr_assert_eq(get_le32(fn->config + cap + 12), len[type], "type %u", type);
		cr_assert(range_inside(
			get_le32(fn->config + cap + 8), len[type], 0, fn->bar[0].size));
	}
	cr_assert_eq(get_le32(fn->config + find(NOTIFY) + 16), 4, "multiplier");
	cr_assert_eq(fn->config[find(NOTIFY) + 2], 20);
	cr_assert_eq(fn->config[find(WINDOW) + 2], 20);
}

Test(pci, a_driver_gets_its_chain_echoed_on_its_own_vector)
{
	rig_put(&rig, 1, 0, 0xabcd);
	drive();
	cr_assert_eq(get(0x14, 1), 0xf);
	cr_assert_eq(rig_reply(&rig, 1, 0), 0xabcd);
	cr_assert(rig_rang(vector_fd(2), 0));
	cr_assert(!rig_rang(vector_fd(1), 0));
}

Test(pci, notify_rings_at_any_width_and_follows_the_bar)
{
	uint64_t old = at(NOTIFY);
	uint32_t high = (uint32_t)(fn->bar[0].mapped >> 32),
		 low = (uint32_t)fn->bar[0].mapped + 0x100000;

	drive();
	for (unsigned len = 1; len <= 8; len *= 2) {
		rig_write(rig.mmio, old + 4, 1, len);
		cr_assert(rig_rang(f->q[1].kick_fd, 0), "%u bytes", len);
	}
	pci_config_write(rig.pci, fn->devfn, 0x10, &low, 4);
	pci_config_write(rig.pci, fn->devfn, 0x14, &high, 4);
	rig_write(rig.mmio, old, 0, 2);
	cr_assert(!rig_rang(f->q[0].kick_fd, 0), "the old place is silent");
	cr_assert_neq(at(NOTIFY), old);
	rig_write(rig.mmio, at(NOTIFY), 0, 2);
	cr_assert(rig_rang(f->q[0].kick_fd, 0));
	rig_write(rig.mmio, at(NOTIFY) + 4 * ECHO_QUEUES, 0, 2);
	rig_write(rig.mmio, at(NOTIFY) + 1, 0, 2);
	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		cr_assert(!rig_rang(f->q[i].kick_fd, 0));
}

static struct {
	unsigned n;
	uint64_t addr[16];
} kernel;

static int kernel_add(void *ctx, bool pio, const struct bus_notify *n)
{
	(void)ctx, (void)pio;
	for (unsigned i = 0; i < kernel.n; i++)
		cr_assert_neq(kernel.addr[i], n->addr, "registered twice");
	cr_assert_eq(n->len, 0);
	kernel.addr[kernel.n++] = n->addr;
	return 0;
}

static void kernel_remove(void *ctx, bool pio, const struct bus_notify *n)
{
	(void)ctx, (void)pio;
	for (unsigned i = 0; i < kernel.n; i++)
		if (kernel.addr[i] == n->addr) {
			kernel.addr[i] = kernel.addr[--kernel.n];
			return;
		}
	cr_assert(false, "was not there");
}

Test(pci, ioeventfds_exist_exactly_while_the_bar_is_decoded)
{
	static const struct bus_hooks hooks = { .notify_add = kernel_add,
		.notify_remove = kernel_remove };
	uint16_t off = 0, on = 2;

	pci_config_write(rig.pci, fn->devfn, 4, &off, 2);
	bus_set_hooks(rig.mmio, &hooks);
	kernel.n = 0;
	for (unsigned i = 0; i < 3; i++) {
		pci_config_write(rig.pci, fn->devfn, 4, &on, 2);
		cr_assert_eq(kernel.n, ECHO_QUEUES);
		cr_assert_eq(kernel.addr[0] & 0xfff, 0);
		pci_config_write(rig.pci, fn->devfn, 4, &off, 2);
		cr_assert_eq(kernel.n, 0);
	}
	pci_config_write(rig.pci, fn->devfn, 4, &on, 2);
	drive();
	put(0x14, 0, 1);
	cr_assert_eq(kernel.n, ECHO_QUEUES, "queues starting and stopping do not touch them");
	rig_fini(&rig);
	cr_assert_eq(kernel.n, 0);
	setup();
}

Test(pci, common_fields_take_their_own_width_only)
{
	put(0x14, 1, 1);
	put(0x14, 3, 2);
	put(0x14, 3, 4);
	put(0x10, UINT64_MAX, 8);
	cr_assert_eq(get(0x14, 1), 1);
	cr_assert_eq(get(0x10, 2), VIRTIO_NO_VECTOR);
	cr_assert_eq(get(0x12, 2), ECHO_QUEUES);
	cr_assert_eq(get(0x12, 1), 0);
	cr_assert_eq(get(0x12, 4), 0);
	cr_assert_eq(get(0x11, 2), 0);
	cr_assert_eq(get(0x00, 8), 0);
	put(0x16, 1, 1);
	cr_assert_eq(get(0x16, 2), 0);
	put(0x20, UINT64_C(0x1122334455667788), 8);
	cr_assert_eq(get(0x20, 8), UINT64_C(0x1122334455667788));
	cr_assert_eq(get(0x24, 4), 0x11223344);
	cr_assert_eq(get(0x22, 2), 0);
	cr_assert_eq(get(0x24, 8), 0, "half of one and half of the next");
}

Test(pci, read_only_fields_stay)
{
	put(0x04, 5, 4);
	put(0x12, 5, 2);
	put(0x15, 5, 1);
	put(0x1e, 5, 2);
	cr_assert_eq(get(0x12, 2), ECHO_QUEUES);
	cr_assert_eq(get(0x1e, 2), 0);
	put(0x16, 2, 2);
	cr_assert_eq(get(0x1e, 2), 2);
	put(0x16, ECHO_QUEUES, 2);
	cr_assert_eq(get(0x18, 2), 0);
	cr_assert_eq(get(0x1e, 2), 0);
}

Test(pci, features_come_by_words)
{
	put(0, 1, 4);
	cr_assert_eq(get(4, 4), (uint32_t)(f->dev->offered >> 32));
	put(0, 0x80000001, 4);
	cr_assert_eq(get(4, 4), 0);
	put(8, 1, 4);
	put(0xc, 0x15, 4);
	cr_assert_eq(get(0xc, 4), 0x15);
	put(8, 0, 4);
	cr_assert_eq(get(0xc, 4), 0);
}

Test(pci, a_vector_out_of_range_reads_back_no_vector)
{
	put(0x10, ECHO_QUEUES + 1, 2);
	cr_assert_eq(get(0x10, 2), VIRTIO_NO_VECTOR);
	put(0x10, ECHO_QUEUES, 2);
	cr_assert_eq(get(0x10, 2), ECHO_QUEUES);
	put(0x1a, 0x1234, 2);
	cr_assert_eq(get(0x1a, 2), VIRTIO_NO_VECTOR);
	put(0x1a, 2, 2);
	cr_assert_eq(get(0x1a, 2), 2);
	put(0x1a, VIRTIO_NO_VECTOR, 2);
	cr_assert_eq(get(0x1a, 2), VIRTIO_NO_VECTOR);
}

Test(pci, queue_enable_takes_1_only)
{
	drive();
	put(0x16, 0, 2);
	put(0x1c, 0, 2);
	cr_assert_eq(get(0x1c, 2), 1);
	cr_assert_eq(rig_echo_device(&rig)->stopped, 0);
	put(0x16, 2, 2);
	put(0x1c, 2, 2);
	cr_assert_eq(get(0x1c, 2), 0);
}

Test(pci, isr_says_config_changed_once)
{
	drive();
	cr_assert_eq(rig_read(rig.mmio, at(ISR), 1), 0);
	f->dev->config_changed(f->dev);
	rig_main(&rig);
	cr_assert(rig_rang(vector_fd(0), 0));
	cr_assert_eq(rig_read(rig.mmio, at(ISR), 4), 0, "wider than the register");
	cr_assert_eq(rig_read(rig.mmio, at(ISR), 1), 2);
	cr_assert_eq(rig_read(rig.mmio, at(ISR), 1), 0);
}

Test(pci, device_config_reads_and_ends)
{
	cr_assert_eq(rig_read(rig.mmio, at(DEVICE) + 2, 2), 0x0403);
	cr_assert_eq(rig_read(rig.mmio, at(DEVICE) + ECHO_CONFIG - 1, 8), 0x18);
	cr_assert_eq(rig_read(rig.mmio, at(DEVICE) + 0xfc, 8), 0);
	rig_write(rig.mmio, at(DEVICE) + 8, 0x77, 1);
	cr_assert_eq(rig_read(rig.mmio, at(DEVICE) + 8, 1), 0x77);
}

Test(pci, gaps_of_the_bar_read_0)
{
	static const unsigned gaps[] = { 0x38, 0x101, 0x1ff, 0x300, 0xffc, 0x1400, 0x2800, 0x3ff8 };

	for (unsigned i = 0; i < ARRAY_SIZE(gaps); i++) {
		rig_write(rig.mmio, fn->bar[0].mapped + gaps[i], UINT64_MAX, 4);
		cr_assert_eq(rig_read(rig.mmio, fn->bar[0].mapped + gaps[i], 4), 0, "%#x", gaps[i]);
	}
}

static void window(uint8_t bar, uint32_t offset, uint32_t len)
{
	unsigned cap = find(WINDOW);

	pci_config_write(rig.pci, fn->devfn, cap + 4, &bar, 1);
	pci_config_write(rig.pci, fn->devfn, cap + 8, &offset, 4);
	pci_config_write(rig.pci, fn->devfn, cap + 12, &len, 4);
}

static uint32_t window_get(void)
{
	uint32_t v;

	pci_config_read(rig.pci, fn->devfn, find(WINDOW) + 16, &v, 4);
	return v;
}

static void window_put(uint32_t v)
{
	pci_config_write(rig.pci, fn->devfn, find(WINDOW) + 16, &v, 4);
}

Test(pci, the_window_reaches_the_bar_with_decoding_off_too)
{
	uint16_t off = 0;

	pci_config_write(rig.pci, fn->devfn, 4, &off, 2);
	window(0, 0x12, 2);
	cr_assert_eq(window_get() & 0xffff, ECHO_QUEUES);
	window(0, 0x14, 1);
	window_put(1);
	cr_assert_eq(front_status(f), 1);
	window(0, 0x200, 4);
	cr_assert_eq(window_get(), 0x04030201);
}

Test(pci, the_window_refuses_bad_bars_lengths_and_offsets)
{
	static const struct {
		uint8_t bar;
		uint32_t offset, len;
	} bad[] = { { 1, 0x14, 1 }, { 5, 0x14, 1 }, { 255, 0x14, 1 }, { 0, 0x14, 0 },
		{ 0, 0x14, 3 }, { 0, 0x14, 8 }, { 0, 0x14, UINT32_MAX }, { 0, 0x4000, 1 },
		{ 0, 0x3ffe, 4 }, { 0, UINT32_MAX, 1 }, { 0, 0xfffffffc, 4 }, { 0, 0x13, 2 } };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		window(bad[i].bar, bad[i].offset, bad[i].len);
		window_put(0x03030303);
		cr_assert_eq(front_status(f), 0, "%u", i);
		cr_assert_eq(window_get(), 0x03030303, "untouched, %u", i);
	}
}

Test(pci, a_kick_through_the_window_rings)
{
	drive();
	window(0, 0x1004, 2);
	window_put(1);
	cr_assert(rig_rang(f->q[1].kick_fd, 0));
}

Test(pci, machine_reset_is_power_on)
{
	drive();
	window(0, 4, 4);
	rig.dev->ops->reset(rig.dev);
	cr_assert_eq(front_status(f), 0);
	cr_assert_eq(get(0x14, 1), 0, "decoded, where firmware put it");
	cr_assert_eq(get(0x16, 2), 0);
	cr_assert_eq(get_le32(fn->config + find(WINDOW) + 12), 0);
	cr_assert_null(f->dev->queues[0]);
}

Test(pci, save_and_load_bring_back_a_running_device)
{
	struct state_writer w = { 0 };
	struct state_reader r;

	drive();
	rig_put(&rig, 0, 0, 1);
	rig.dev->ops->pause(rig.dev);
	cr_assert_eq(rig.dev->ops->save(rig.dev, &w), 0);
	for (size_t cut = 0; cut < w.len; cut += 97) {
		r = (struct state_reader){ w.data, cut, 0 };
		cr_assert_lt(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "cut at %zu", cut);
	}
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(rig.dev->ops->load(rig.dev, &r, &rig.err), 0, "%s", rig.err.text);
	rig.dev->ops->resume(rig.dev);
	cr_assert_eq(get(0x14, 1), 0xf);
	cr_assert_eq(rig_used_idx(&rig, 0), 1);
	cr_assert_eq(rig_reply(&rig, 0, 0), 1);
	cr_assert(rig_rang(vector_fd(1), 0));
	state_writer_free(&w);
}
