/*
 * Sweeps over the ports at which something is: all of the first 4096, in blocks of 256, with each class of values and width, single and as
 * strings (rep ins, rep outs), and the address port of PCI with numbers that lead nowhere. All 65536 ports once more are in the
 * test "ports". Left out: what ends the machine by design, and the line on which the guest prints.
 */
#include "tests/guest/attack.h"
#include "tests/guest/pci.h"
#include "tests/guest/values.h"

/* LIVELY: blocks in which something is; elsewhere one port in 16 will do. */
enum { LIVELY = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 0xc };
enum { BLOCK = 256, BLOCKS = 16, STRING = VALUE_CLASSES, KINDS, BYTES = 64 };

static bool dangerous(unsigned port, unsigned width)
{
	static const struct {
		uint16_t first, last;
	} ranges[] = { { 0x60, 0x64 }, { 0x600, 0x607 }, { 0x505, 0x505 }, { 0x3f8, 0x3ff }, { 0xcf8, 0xcff }, { 0x92, 0x92 } };

	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++)
		if (port <= ranges[i].last && port + width > ranges[i].first)
			return true;
	return false;
}

static void out_width(unsigned port, unsigned width, uint64_t v)
{
	if (width == 1)
		out8((uint16_t)port, (uint8_t)v);
	else if (width == 2)
		out16((uint16_t)port, (uint16_t)v);
	else
		out32((uint16_t)port, (uint32_t)v);
}

static void in_width(unsigned port, unsigned width)
{
	if (width == 1)
		in8((uint16_t)port);
	else if (width == 2)
		in16((uint16_t)port);
	else
		in32((uint16_t)port);
}

/* In and out of one buffer whose neighbours must not change. */
static void strings(struct target *t, unsigned port)
{
	const void *from = t->in + 16;
	void *to = t->out + BYTES;
	uint64_t n = BYTES / 4;

	fill(t->out, 0x77, 3 * BYTES);
	__asm__ volatile("rep insl" : "+D"(to), "+c"(n) : "d"((uint16_t)port) : "memory");
	n = 5;
	to = t->out + BYTES;
	__asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"((uint16_t)port) : "memory");
	n = BYTES;
	__asm__ volatile("rep outsb" : "+S"(from), "+c"(n) : "d"((uint16_t)port) : "memory");
	n = BYTES / 2;
	from = t->in + 1;
	__asm__ volatile("rep outsw" : "+S"(from), "+c"(n) : "d"((uint16_t)port) : "memory");
	for (unsigned i = 0; i < BYTES; i++)
		must(t->out[i] == 0x77 && t->out[2 * BYTES + i] == 0x77, "a string of port 0x%x is too long", port);
}

static void ports(struct target *t, unsigned i)
{
	unsigned block = i / KINDS, first = block * BLOCK, kind = i % KINDS, step = LIVELY >> block & 1 ? 1 : 16;

	for (unsigned port = first; kind == STRING && port < first + BLOCK; port += 4 * step)
		if (!dangerous(port, 4))
			strings(t, port);
	for (unsigned width = 1; kind != STRING && width <= 4; width *= 2)
		for (unsigned port = first; port < first + BLOCK; port += step) {
			if (kind == ZEROES)
				in_width(port, width);
			if (!dangerous(port, width))
				out_width(port, width, value_of((enum value_class)kind, width, port));
		}
}

static void ports_title(unsigned i, const char *part[2])
{
	static const char *const blocks[BLOCKS] = { "000_to_0ff", "100_to_1ff", "200_to_2ff", "300_to_3ff", "400_to_4ff",
		"cve_2016_1714_500_to_5ff", "600_to_6ff", "700_to_7ff", "800_to_8ff", "900_to_9ff", "a00_to_aff",
		"b00_to_bff", "c00_to_cff", "d00_to_dff", "e00_to_eff", "f00_to_fff" };

	part[0] = is_packed() || arg_is("transport", "mmio") ? NULL : blocks[i / KINDS];
	part[1] = i % KINDS == STRING ? "_strings" : value_class_name(i % KINDS);
}

const struct attack_set attack_ports = { "ports", BLOCKS * KINDS, ports_title, ports, NULL, 400 };

/* --- registers that would end the machine with the right value: every other one --- */

static void i8042(struct target *t)
{
	(void)t;
	for (unsigned v = 0; v < 256; v++) {
		out8(0x60, (uint8_t)v);
		/* 0xf0 to 0xff pulse output lines; line 0, low in these, resets. */
		if (!(v >= 0xf0 && !(v & 1)) && v != 0xd1)
			out8(PORT_I8042, (uint8_t)v);
		in8(PORT_I8042);
		in8(0x60);
	}
}

/* CVE-2017-16845: a PS/2 queue whose read and write places disagree. There is no queue here to fill. */
static void i8042_data(struct target *t)
{
	(void)t;
	for (unsigned i = 0; i < 1024; i++)
		out8(0x60, (uint8_t)i);
	for (unsigned i = 0; i < 1024; i++)
		in8(0x60);
}

static void ged(struct target *t)
{
	(void)t;
	for (unsigned v = 0; v < 256; v++) {
		if (!(v & 0x20)) /* SLP_EN */
			out8(PORT_GED_SLEEP, (uint8_t)v);
		if (v != 'R') /* acpi_ged.h */
			out8(PORT_GED_RESET, (uint8_t)v);
		out8(0x605, (uint8_t)v);
		out8(0x607, (uint8_t)v);
		out32(PORT_GED_EVENTS, v * 0x01010101u);
	}
	must(in32(PORT_GED_EVENTS) == 0, "an event is pending");
}

static void pvpanic(struct target *t)
{
	(void)t;
	for (unsigned v = 0; v < 256; v += 8)
		out8(PORT_PVPANIC, (uint8_t)v); /* bits 0 to 2 mean something */
}

static void cmos(struct target *t)
{
	(void)t;
	for (unsigned index = 0; index < 256; index++)
		for (unsigned v = 0; v < 256; v += 51) {
			out8(PORT_CMOS_INDEX, (uint8_t)index);
			out8(PORT_CMOS_DATA, (uint8_t)v);
			in8(PORT_CMOS_DATA);
			in8(PORT_CMOS_INDEX);
		}
	out8(PORT_CMOS_INDEX, 0);
}

/* All but the data register, whose bytes are this text; then as it was. */
static void serial(struct target *t)
{
	uint8_t lcr = in8(PORT_COM1 + 3), mcr = in8(PORT_COM1 + 4), ier = in8(PORT_COM1 + 1);

	(void)t;
	for (unsigned reg = 1; reg < 8; reg++)
		for (unsigned v = 0; v < 256; v += 5) {
			out8((uint16_t)(PORT_COM1 + reg), (uint8_t)v);
			in8((uint16_t)(PORT_COM1 + reg));
			in8(PORT_COM1);
		}
	out8(PORT_COM1 + 3, lcr);
	out8(PORT_COM1 + 4, mcr);
	out8(PORT_COM1 + 2, 0);
	out8(PORT_COM1 + 1, ier);
}

/* SR-01 from inside: what is looped back has to fit somewhere. */
static void serial_loop(struct target *t)
{
	uint8_t mcr = in8(PORT_COM1 + 4);

	(void)t;
	out8(PORT_COM1 + 4, (uint8_t)(mcr | 0x10));
	for (unsigned i = 0; i < 4096; i++)
		out8(PORT_COM1, (uint8_t)i);
	for (unsigned i = 0; i < 64; i++)
		in8(PORT_COM1);
	out8(PORT_COM1 + 2, 7);
	out8(PORT_COM1 + 4, mcr);
	out8(PORT_COM1 + 2, 0);
}

static void no_bus(struct target *t)
{
	static const uint32_t addresses[] = { 0x80010000, 0x80ff0000, 0x80000001, 0x80000003, 0x8000ff00, 0x8000fffc, 0xffffffff,
		0x7fffffff, 0xff000000, 0x80f80000, 0x00000000 };

	for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++)
		for (unsigned width = 1; width <= 4; width *= 2)
			for (unsigned at = 0; at < 8; at++) {
				out32(PORT_PCI_ADDRESS, addresses[i]);
				in_width(PORT_PCI_ADDRESS + at, width);
				out_width(PORT_PCI_ADDRESS + at, width, 0xffffffff);
			}
	out32(PORT_PCI_ADDRESS, 0);
	must(t->v.pci && pci_read16(t->v.devfn, PCI_VENDOR) == 0x1af4, "config space is gone");
}

static const struct {
	const char *name;
	void (*run)(struct target *t);
} devices[] = {
	{ "keyboard_controller_all_commands", i8042 },
	{ "cve_2017_16845_keyboard_data", i8042_data },
	{ "event_device_all_values", ged },
	{ "pvpanic_reserved_bits", pvpanic },
	{ "clock_all_indices", cmos },
	{ "serial_all_registers", serial },
	{ "sr01_serial_loops_back", serial_loop },
	{ "pc10_config_address_of_nothing", no_bus },
};

static void device(struct target *t, unsigned i)
{
	devices[i].run(t);
}

static void device_title(unsigned i, const char *part[2])
{
	part[0] = is_packed() || arg_is("transport", "mmio") ? NULL : devices[i].name;
}

const struct attack_set attack_platform = { "platform", ARRAY_SIZE(devices), device_title, device, NULL, 400 };
