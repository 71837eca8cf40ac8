/*
 * Config space through ECAM and ports: masks, absent functions, straddling accesses, capabilities.
 */
#include <criterion/criterion.h>

#include "tests/unit/virtio_rig.h"

static struct rig rig;

static void setup(void)
{
	rig_init(&rig);
	cr_assert_eq(rig_echo(&rig, VIRTIO_TRANSPORT_PCI), 0, "%s", rig.err.text);
}

static void teardown(void)
{
	rig_fini(&rig);
}

TestSuite(pci_config, .init = setup, .fini = teardown);

enum { SLOT = 1 };

static uint64_t ecam(unsigned slot, unsigned reg)
{
	return RIG_ECAM + ((uint64_t)slot << 15) + reg;
}

static uint64_t get(unsigned slot, unsigned reg, unsigned len)
{
	return rig_read(rig.mmio, ecam(slot, reg), len);
}

static void put(unsigned slot, unsigned reg, uint64_t v, unsigned len)
{
	rig_write(rig.mmio, ecam(slot, reg), v, len);
}

Test(pci_config, slot_0_is_a_host_bridge)
{
	cr_assert_eq(get(0, 0, 4), 0x00081b36);
	cr_assert_eq(get(0, 8, 4) >> 8, 0x060000);
	cr_assert_eq(get(0, 0x0e, 1), 0, "one function, type 0");
}

Test(pci_config, a_virtio_device_is_modern_and_has_no_intx)
{
	cr_assert_eq(get(SLOT, 0, 4), 0x10441af4);
	cr_assert_eq(get(SLOT, 8, 1), 1);
	cr_assert_eq(get(SLOT, 8, 4) >> 8, 0xff0000);
	cr_assert_eq(get(SLOT, 0x3d, 1), 0);
	cr_assert(get(SLOT, 0x2e, 2) >= 0x40);
}

Test(pci_config, what_is_absent_reads_ones_and_ignores_writes)
{
	cr_assert_eq(get(2, 0, 4), 0xffffffff);
	cr_assert_eq(rig_read(rig.mmio, ecam(SLOT, 0) + PAGE_4K, 4), 0xffffffff, "function 1");
	cr_assert_eq(rig_read(rig.mmio, RIG_ECAM + MIB - 8, 8), UINT64_MAX);
	put(2, 4, 0xffff, 2);
	rig_write(rig.mmio, RIG_ECAM + MIB - 8, 0, 8);
}

Test(pci_config, read_only_bits_stay_whatever_is_written)
{
	uint8_t before[PCI_CONFIG_SIZE], ones = 0xff;
	struct pci_function *fn = rig_front(&rig)->transport;

	memcpy(before, fn->config, sizeof(before));
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		pci_config_write(rig.pci, SLOT << 3, i, &ones, 1);
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		cr_assert_eq((before[i] ^ fn->config[i]) & ~fn->mask[i], 0, "byte %#x", i);
	cr_assert_eq(get(SLOT, 4, 2), 0x0406, "memory, master, INTx off");
	cr_assert_eq(get(SLOT, 0, 4), 0x10441af4);
}

Test(pci_config, any_width_at_any_offset_gives_the_same_bytes)
{
	uint8_t whole[256], part[8];

	for (unsigned i = 0; i < 256; i++)
		whole[i] = (uint8_t)get(SLOT, i, 1);
	for (unsigned i = 0; i < 248; i++)
		for (unsigned len = 1; len <= 8; len *= 2) {
			put_le64(part, get(SLOT, i, len));
			cr_assert_arr_eq(part, whole + i, len, "%u bytes at %#x", len, i);
		}
}

Test(pci_config, an_access_across_the_end_of_a_function_reads_ones_there)
{
	cr_assert_eq(get(0, PCI_CONFIG_SIZE - 4, 8), UINT64_C(0xffffffff00000000));
	put(0, PCI_CONFIG_SIZE - 2, UINT64_MAX, 8);
	cr_assert_eq(get(SLOT, 0, 4), 0x10441af4);
}

Test(pci_config, the_capability_list_is_sound)
{
	unsigned at = (unsigned)get(SLOT, 0x34, 1), n = 0;
	bool vendor = false, msix = false;

	cr_assert(get(SLOT, 6, 2) & 0x10);
	while (at) {
		cr_assert(is_aligned(at, 4) && at >= 0x40);
		cr_assert_lt(n++, 48, "a loop");
		vendor |= get(SLOT, at, 1) == 0x09;
		msix |= get(SLOT, at, 1) == 0x11;
		at = (unsigned)get(SLOT, at + 1, 1);
	}
	cr_assert(vendor && msix);
	cr_assert_eq(get(0, 6, 2) & 0x10, 0, "the bridge has none");
}

Test(pci_config, a_full_list_refuses_one_more)
{
	static struct pci_function fn;
	static const struct pci_function_ops ops;
	const struct pci_identity id = { 1, 2, 3, 4, 5, 6 };
	uint8_t body[62] = { 0 };
	unsigned n = 0;

	pci_function_init(&fn, "full", &ops, &id);
	while (pci_cap_add(&fn, 9, body, 64))
		n++;
	cr_assert_eq(n, 3);
	cr_assert_eq(pci_cap_add(&fn, 9, body, 1), 0);
}

static void port_address(uint32_t v)
{
	rig_write(rig.pio, 0xcf8, v, 4);
}

Test(pci_config, ports_reach_the_same_registers)
{
	port_address(0x80000000 | SLOT << 11);
	cr_assert_eq(rig_read(rig.pio, 0xcfc, 4), 0x10441af4);
	cr_assert_eq(rig_read(rig.pio, 0xcfe, 2), 0x1044);
	cr_assert_eq(rig_read(rig.pio, 0xcff, 1), 0x10);
	port_address(0x80000000 | SLOT << 11 | 0x3c);
	rig_write(rig.pio, 0xcfc, 0xab, 1);
	cr_assert_eq(get(SLOT, 0x3c, 1), 0xab);
	cr_assert_eq(rig_read(rig.pio, 0xcf8, 4), 0x80000000 | SLOT << 11 | 0x3c);
}

Test(pci_config, the_address_port_takes_32_bits_only)
{
	port_address(0x80000000);
	rig_write(rig.pio, 0xcf8, 0, 1);
	rig_write(rig.pio, 0xcfa, 0, 2);
	cr_assert_eq(rig_read(rig.pio, 0xcf8, 4), 0x80000000);
	cr_assert_eq(rig_read(rig.pio, 0xcf8, 2), 0xffff);
	port_address(UINT32_MAX);
	cr_assert_eq(rig_read(rig.pio, 0xcf8, 4), 0x80fffffc, "reserved bits read 0");
}

Test(pci_config, ports_off_another_bus_or_across_the_pair_reach_nothing)
{
	port_address(SLOT << 11);
	cr_assert_eq(rig_read(rig.pio, 0xcfc, 4), 0xffffffff);
	port_address(0x80010000 | SLOT << 11);
	cr_assert_eq(rig_read(rig.pio, 0xcfc, 4), 0xffffffff);
	port_address(0x80000000 | SLOT << 11 | 1 << 8);
	cr_assert_eq(rig_read(rig.pio, 0xcfc, 4), 0xffffffff);
	port_address(0x80000000 | SLOT << 11);
	cr_assert_eq(rig_read(rig.pio, 0xcfa, 4), 0xffffffff);
	cr_assert_eq(rig_read(rig.pio, 0xcf8, 8), UINT64_MAX);
	rig_write(rig.pio, 0xcf8, UINT64_MAX, 8);
	cr_assert_eq(rig_read(rig.pio, 0xcfd, 4), 0xffffffff, "past the ports");
}

Test(pci_config, a_taken_slot_and_a_33rd_function_are_refused)
{
	static struct pci_function fn[PCI_SLOTS];
	static const struct pci_function_ops ops;
	const struct pci_identity id = { 1, 2, 3, 4, 5, 6 };

	for (unsigned i = 0; i < PCI_SLOTS; i++)
		pci_function_init(&fn[i], "filler", &ops, &id);
	cr_assert_eq(pci_attach(rig.pci, &fn[0], SLOT, &rig.err), -ENOSPC);
	cr_assert_eq(pci_attach(rig.pci, &fn[0], 32, &rig.err), -EINVAL);
	for (unsigned i = 2; i < PCI_SLOTS; i++)
		cr_assert_eq(pci_attach(rig.pci, &fn[i], -1, &rig.err), 0);
	cr_assert_eq(pci_attach(rig.pci, &fn[0], -1, &rig.err), -ENOSPC);
	for (unsigned i = 2; i < PCI_SLOTS; i++)
		pci_detach(&fn[i]);
	cr_assert_eq(get(2, 0, 4), 0xffffffff);
}

Test(pci_config, the_root_saves_and_loads_and_refuses_other_hardware)
{
	struct pci_function *fn = rig_front(&rig)->transport;
	struct state_writer w = { 0 };
	struct state_reader r;

	port_address(0x80000044);
	cr_assert_eq(rig.root->ops->save(rig.root, &w), 0);
	cr_assert_eq(pci_function_save(fn, &w), 0);
	port_address(0);
	r = (struct state_reader){ w.data, w.len, 0 };
	cr_assert_eq(rig.root->ops->load(rig.root, &r, &rig.err), 0, "%s", rig.err.text);
	cr_assert_eq(rig_read(rig.pio, 0xcf8, 4), 0x80000044);
	fn->config[2] ^= 1;
	cr_assert_eq(pci_function_load(fn, &r, &rig.err), -EINVAL);
	cr_assert(strstr(rig.err.text, "0x2"));
	fn->config[2] ^= 1;
	state_writer_free(&w);
}
