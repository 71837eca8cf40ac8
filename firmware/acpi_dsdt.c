/*
 * The DSDT: the devices that no bus can enumerate, for the OS to find and to know what they occupy.
 *
 *   \_SB.C000 ...  processors that are there at boot
 *   \_SB.PCI0      PCI root with its windows; \_SB.MRES keeps the OS off the ECAM
 *   \_SB.COM0 ...  one device per machine node, from the rows below
 *   \_SB.GED_      turns its interrupt into a notification of \_SB.PWRB (ACPI 6.5 §5.6.9)
 *   \_S5_          the sleep type that means power-off
 *
 * Pure function of the machine description; main thread.
 */
#include "firmware/acpi.h"

#include <errno.h>
#include <stdio.h>

#include "firmware/aml.h"

enum {
	PCI_CONFIG_PORTS = 0xcf8,
	PCI_CONFIG_PORTS_LEN = 8,
	IO_SPACE = 0x10000,
	ECAM_BUS_SHIFT = 20,
	PCI_BUSES_MAX = 256,
	NOTIFY_BUTTON_PRESSED = 0x80, /* §5.6.6, control method power button */
};

/* What a kind of node is called and announced as. The name's %X counts the nodes of that kind. */
struct node_row {
	const char *kind, *name, *hid;
	bool dma; /* reads guest memory: says that it does so coherently, §6.2.17 */
};

static const struct node_row node_rows[] = {
	{ "serial-16550", "COM%X", "PNP0501" },
	{ "rtc-cmos", "RTC%X", "PNP0B00" },
	{ "pvpanic", "PVP%X", "QEMU0001" },
	{ "virtio-mmio", "VR%02X", "LNRO0005", .dma = true },
};

static void put_hid(struct aml *a, const char *hid)
{
	if (!strncmp(hid, "PNP", 3))
		aml_name_eisaid(a, "_HID", hid);
	else
		aml_name_string(a, "_HID", hid);
}

static void put_crs(struct aml *a, const struct fw_node *node)
{
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	if (!node->pio)
		aml_res_memory(a, node->base, node->len);
	else if (range_inside(node->base, node->len, 0, IO_SPACE) && node->len &&
		 node->len <= UINT8_MAX)
		aml_res_io(a, (uint16_t)node->base, (uint8_t)node->len);
	else
		aml_fail(a, -EINVAL);
	if (node->gsi != UINT32_MAX)
		aml_res_edge_interrupt(a, node->gsi);
	aml_end(a);
}

static void put_nodes(struct aml *a, const struct fw_machine *m, const struct node_row *row)
{
	const struct fw_node *node;
	char name[16];

	for (unsigned i = 0; (node = fw_node(m, row->kind, i)); i++) {
		snprintf(name, sizeof(name), row->name, i);
		aml_device_begin(a, name);
		put_hid(a, row->hid);
		aml_name_int(a, "_UID", i);
		if (row->dma)
			aml_name_int(a, "_CCA", 1);
		put_crs(a, node);
		aml_end(a);
	}
}

static void put_processors(struct aml *a, unsigned cpus)
{
	char name[16];

	for (unsigned i = 0; i < cpus; i++) {
		snprintf(name, sizeof(name), "C%03X", i);
		aml_device_begin(a, name);
		put_hid(a, "ACPI0007");
		aml_name_int(a, "_UID", i);
		aml_end(a);
	}
}

static void put_io_window(struct aml *a, uint64_t start, uint64_t end)
{
	if (start < end)
		aml_res_io_window(a, (uint32_t)start, (uint32_t)(end - start));
}

/* The I/O window without the config ports, which belong to the root itself. */
static void put_io_windows(struct aml *a, const struct fw_pci *pci)
{
	uint64_t end = pci->pio_base + pci->pio_size,
		 after = PCI_CONFIG_PORTS + PCI_CONFIG_PORTS_LEN;

	if (!pci->pio_size)
		return;
	if (!range_inside(pci->pio_base, pci->pio_size, 0, IO_SPACE)) {
		aml_fail(a, -EINVAL);
		return;
	}
	aml_res_io(a, PCI_CONFIG_PORTS, PCI_CONFIG_PORTS_LEN);
	put_io_window(a, pci->pio_base, MIN(end, PCI_CONFIG_PORTS));
	put_io_window(a, MAX(pci->pio_base, after), end);
}

static void put_pci(struct aml *a, const struct fw_pci *pci)
{
	if (!pci->ecam_base)
		return;
	if (!pci->buses || pci->buses > PCI_BUSES_MAX) {
		aml_fail(a, -EINVAL);
		return;
	}
	aml_device_begin(a, "PCI0");
	aml_name_eisaid(a, "_HID", "PNP0A08");
	aml_name_eisaid(a, "_CID", "PNP0A03");
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_BBN", 0);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_res_bus_window(a, 0, (uint16_t)pci->buses);
	put_io_windows(a, pci);
	if (pci->mmio32_size)
		aml_res_memory_window(a, pci->mmio32_base, pci->mmio32_size);
	if (pci->mmio64_size)
		aml_res_memory_window(a, pci->mmio64_base, pci->mmio64_size);
	aml_end(a);
	aml_end(a);

	/* PCI Firmware Specification 3.3 §4.1.2: the ECAM is reserved by a motherboard resource,
	 * not by the root. */
	aml_device_begin(a, "MRES");
	aml_name_eisaid(a, "_HID", "PNP0C02");
	aml_name_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_res_memory(a, pci->ecam_base, (uint64_t)pci->buses << ECAM_BUS_SHIFT);
	aml_end(a);
	aml_end(a);
}

/* Called with the interrupt's number when it rings: fetch and clear what happened, and tell whom it
 * concerns. */
static void put_event_method(struct aml *a)
{
	aml_method_begin(a, "_EVT", 1, true);
	aml_op(a, AML_STORE);
	aml_path(a, "EVTS");
	aml_op(a, AML_LOCAL0);
	aml_if_begin(a);
	aml_op(a, AML_AND);
	aml_op(a, AML_LOCAL0);
	aml_int(a, ACPI_GED_EVENT_POWER_BUTTON);
	aml_op(a, AML_NULL_NAME);
	aml_op(a, AML_NOTIFY);
	aml_path(a, "\\_SB.PWRB");
	aml_int(a, NOTIFY_BUTTON_PRESSED);
	aml_end(a);
	aml_end(a);
}

static void put_ged(struct aml *a, const struct fw_node *ged)
{
	aml_device_begin(a, "PWRB");
	aml_name_eisaid(a, "_HID", "PNP0C0C");
	aml_name_int(a, "_UID", 0);
	aml_end(a);

	aml_device_begin(a, "GED");
	put_hid(a, "ACPI0013");
	aml_name_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources_begin(a);
	aml_res_edge_interrupt(a, ged->gsi);
	aml_end(a);
	aml_region(a, "REGS", ged->pio ? AML_SYSTEM_IO : AML_SYSTEM_MEMORY,
		ged->base + ACPI_GED_EVENTS, sizeof(uint32_t));
	aml_field_begin(a, "REGS", AML_DWORD_ACCESS);
	aml_field_unit(a, "EVTS", 32);
	aml_end(a);
	put_event_method(a);
	aml_end(a);
}

/* §7.4.2: only the first element counts where sleep registers take the place of PM1 blocks. */
static void put_s5(struct aml *a)
{
	aml_name(a, "\\_S5");
	aml_package_begin(a, 4);
	aml_int(a, ACPI_GED_SLEEP_TYPE_S5);
	for (unsigned i = 1; i < 4; i++)
		aml_int(a, 0);
	aml_end(a);
}

int acpi_dsdt_write(const struct fw_machine *m, void *buf, size_t room, size_t *ret_len)
{
	const struct fw_node *ged = fw_node(m, "ged", 0);
	struct aml a;

	aml_init(&a, buf, room);
	aml_scope_begin(&a, "\\_SB");
	put_processors(&a, m->cpus);
	put_pci(&a, &m->pci);
	for (size_t i = 0; i < ARRAY_SIZE(node_rows); i++)
		put_nodes(&a, m, &node_rows[i]);
	if (ged && ged->gsi != UINT32_MAX)
		put_ged(&a, ged);
	aml_end(&a);
	if (ged)
		put_s5(&a);
	return aml_finish(&a, ret_len);
}
