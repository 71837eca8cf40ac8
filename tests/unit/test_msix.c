/*
 * MSI-X: the table takes what the specification allows, masks hold interrupts back and lose none.
 */
#include <criterion/criterion.h>

#include "tests/unit/virtio_rig.h"

enum { TABLE = 0x2000, PBA = 0x3000, VECTORS = ECHO_QUEUES + 1 };

/* What the interrupt chip was told. */
static struct irq_msi_route routes[256];
static unsigned nroutes, nwired, publishes;
static int route_error;

static int chip_wire(void *ctx, int fd, unsigned gsi, bool on)
{
	(void)ctx, (void)fd, (void)gsi;
	nwired += on ? 1 : -1u;
	return 0;
}

static int chip_routes(void *ctx, const struct irq_msi_route *list, unsigned n)
{
	(void)ctx;
	memcpy(routes, list, n * sizeof(*list));
	nroutes = n;
	publishes++;
	return route_error;
}

static const struct irq_chip_ops chip_ops = { chip_wire, chip_routes };

static struct rig rig;
static struct pci_function *fn;
static unsigned cap;

static void setup(void)
{
	rig_init(&rig);
	irqchip_destroy(rig.irq);
	cr_assert_eq(irqchip_create(&rig.irq, &chip_ops, NULL, 24, 256), 0);
	rig.env.irq = rig.irq;
	nroutes = nwired = publishes = 0;
	route_error = 0;
	cr_assert_eq(rig_echo(&rig, VIRTIO_TRANSPORT_PCI), 0, "%s", rig.err.text);
	fn = rig_front(&rig)->transport;
	for (cap = fn->config[0x34]; cap && fn->config[cap] != 0x11; cap = fn->config[cap + 1])
		;
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(msix, .init = setup, .fini = teardown);

static uint64_t at(uint64_t offset)
{
	return fn->bar[0].mapped + offset;
}

static void control(uint16_t v)
{
	pci_config_write(rig.pci, fn->devfn, cap + 2, &v, 2);
}

static void entry(unsigned i, uint64_t addr, uint32_t data, uint32_t ctl)
{
	rig_write(rig.mmio, at(TABLE + 16 * i), addr, 8);
	rig_write(rig.mmio, at(TABLE + 16 * i + 8), data | (uint64_t)ctl << 32, 8);
}

static void raise_vector(unsigned i)
{
	irq_raise(pci_msix_source(fn, i));
}

static bool pending(unsigned i)
{
	return rig_read(rig.mmio, at(PBA), 8) >> i & 1;
}

Test(msix, the_capability_has_a_vector_per_queue_and_one_for_config)
{
	cr_assert_neq(cap, 0);
	cr_assert_eq(get_le16(fn->config + cap + 2), VECTORS - 1);
	cr_assert_eq(get_le32(fn->config + cap + 4), TABLE);
	cr_assert_eq(get_le32(fn->config + cap + 8), PBA);
	cr_assert_null(pci_msix_source(fn, VECTORS));
	cr_assert_null(pci_msix_source(fn, VIRTIO_NO_VECTOR));
}

Test(msix, vectors_are_masked_at_power_on)
{
	control(0x8000);
	for (unsigned i = 0; i < VECTORS; i++)
		cr_assert_eq(rig_read(rig.mmio, at(TABLE + 16 * i + 12), 4), 1);
	cr_assert_eq(nwired, 0);
}

Test(msix, a_message_is_routed_once_enabled_and_unmasked)
{
	entry(1, 0xfee01000, 0x4041, 0);
	cr_assert_eq(nroutes, 0, "not enabled");
	control(0x8000);
	cr_assert_eq(nroutes, 1);
	cr_assert_eq(nwired, 1);
	cr_assert_eq(routes[0].addr, 0xfee01000);
	cr_assert_eq(routes[0].data, 0x4041);
	cr_assert_eq(routes[0].devid, fn->devfn);
}

Test(msix, enabling_many_publishes_once)
{
	for (unsigned i = 0; i < VECTORS; i++)
		entry(i, 0xfee00000, 0x40 + i, 0);
	publishes = 0;
	control(0x8000);
	cr_assert_eq(nroutes, VECTORS);
	cr_assert_eq(publishes, 1);
}

Test(msix, the_mask_bit_holds_an_interrupt_and_the_pba_shows_it)
{
	control(0x8000);
	entry(2, 0xfee00000, 0x42, 0);
	cr_assert(!pending(2));
	rig_write(rig.mmio, at(TABLE + 16 * 2 + 12), 1, 4);
	cr_assert_eq(nwired, 0);
	raise_vector(2);
	raise_vector(2);
	cr_assert(pending(2) && !pending(1));
	cr_assert_eq(rig_read(rig.mmio, at(PBA), 4), 4);
	cr_assert_eq(rig_read(rig.mmio, at(PBA + 4), 4), 0);
	rig_write(rig.mmio, at(TABLE + 16 * 2 + 12), 0, 4);
	cr_assert_eq(nwired, 1, "the chip takes the waiting ring now");
}

Test(msix, the_function_mask_holds_all)
{
	control(0x8000);
	entry(0, 0xfee00000, 0x40, 0);
	entry(1, 0xfee00000, 0x41, 0);
	control(0xc000);
	cr_assert_eq(nwired, 0);
	raise_vector(1);
	cr_assert(pending(1));
	control(0x8000);
	cr_assert_eq(nwired, 2);
}

Test(msix, odd_accesses_do_nothing)
{
	entry(0, 0x1122334455667788, 0x99aabbcc, 1);
	rig_write(rig.mmio, at(TABLE), 0, 1);
	rig_write(rig.mmio, at(TABLE), 0, 2);
	rig_write(rig.mmio, at(TABLE + 2), 0, 4);
	rig_write(rig.mmio, at(TABLE + 4), 0, 8);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE), 8), UINT64_C(0x1122334455667788));
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 8), 8), UINT64_C(0x0000000199aabbcc));
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 4), 4), 0x11223344);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 1), 4), 0);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 4), 8), 0);
}

Test(msix, past_the_table_there_is_nothing)
{
	rig_write(rig.mmio, at(TABLE + 16 * VECTORS), UINT64_MAX, 8);
	rig_write(rig.mmio, at(TABLE + 16 * VECTORS - 4), UINT64_MAX, 8);
	rig_write(rig.mmio, at(TABLE + 0xff8), UINT64_MAX, 8);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 16 * VECTORS), 8), 0);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 16 * VECTORS - 4), 4), 1);
	cr_assert_eq(rig_read(rig.mmio, at(PBA + 8), 8), 0);
}

Test(msix, reserved_bits_and_the_pba_are_read_only)
{
	rig_write(rig.mmio, at(TABLE + 12), UINT32_MAX, 4);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 12), 4), 1);
	rig_write(rig.mmio, at(PBA), UINT64_MAX, 8);
	cr_assert_eq(rig_read(rig.mmio, at(PBA), 8), 0);
}

Test(msix, a_message_changed_while_live_is_routed_anew_and_only_then)
{
	control(0x8000);
	entry(0, 0xfee00000, 0x40, 0);
	publishes = 0;
	rig_write(rig.mmio, at(TABLE + 8), 0x50, 4);
	cr_assert_eq(routes[0].data, 0x50);
	rig_write(rig.mmio, at(TABLE + 8), 0x50, 4);
	cr_assert_eq(publishes, 1);
}

Test(msix, a_route_the_host_refuses_leaves_the_vector_silent_until_it_is_tried_again)
{
	control(0x8000);
	route_error = -EINVAL;
	entry(0, UINT64_C(0xffffffff00000000), 0x40, 0);
	cr_assert_eq(nwired, 0);
	route_error = 0;
	entry(0, 0xfee00000, 0x40, 0);
	cr_assert_eq(nwired, 1);
	cr_assert_eq(routes[0].addr, 0xfee00000);
}

Test(msix, reset_masks_and_silences_all)
{
	control(0x8000);
	entry(0, 0xfee00000, 0x40, 0);
	pci_function_reset(fn);
	cr_assert_eq(nwired, 0);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 12), 4), 1);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE), 8), 0);
	cr_assert_eq(get_le16(fn->config + cap + 2) >> 14, 0);
}

Test(msix, a_saved_table_comes_back_with_what_waits)
{
	struct state_writer w = { 0 };
	struct state_reader r;
	uint64_t count;

	control(0x8000);
	entry(1, 0xfee01000, 0x41, 0);
	entry(3, 0xfee03000, 0x43, 1);
	raise_vector(3);
	cr_assert_eq(pci_function_save(fn, &w), 0);
	cr_assert_eq(pci_msix_save(fn, &w), 0);
	pci_function_reset(fn);
	cr_assert_eq(read(irq_fd(pci_msix_source(fn, 3)), &count, 8), 8);
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(pci_function_load(fn, &r, &rig.err), 0, "%s", rig.err.text);
	cr_assert_eq(pci_msix_load(fn, &r, &rig.err), 0, "%s", rig.err.text);
	cr_assert_eq(state_reader_finish(&r, &rig.err), 0);
	cr_assert_eq(nwired, 1);
	cr_assert_eq(routes[0].addr, 0xfee01000);
	cr_assert_eq(rig_read(rig.mmio, at(TABLE + 16 * 3), 8), 0xfee03000);
	cr_assert(pending(3));
	state_writer_free(&w);
}
