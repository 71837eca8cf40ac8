/* Platform devices at the PC's places: RTC and CMOS RAM, i8042, GED, pvpanic, the memory map; and all ports together. */
#include "tests/guest/lib.h"
#include "tests/guest/tests.h"
#include "tests/guest/values.h"

enum { RTC_SECONDS = 0, RTC_YEAR = 9, RTC_B = 0x0b, RTC_D = 0x0d, B_BINARY = 4, D_VALID = 0x80 };

static uint8_t cmos(uint8_t reg)
{
	out8(PORT_CMOS_INDEX, reg);
	return in8(PORT_CMOS_DATA);
}

static unsigned rtc_number(uint8_t reg, bool binary)
{
	uint8_t v = cmos(reg);

	return binary ? v : (v >> 4) * 10u + (v & 15);
}

/* MC146818A data sheet */
static void rtc(void)
{
	bool binary = cmos(RTC_B) & B_BINARY;
	unsigned second, first = rtc_number(RTC_SECONDS, binary);
	uint64_t start = cycles();

	check(cmos(RTC_D) & D_VALID, "the clock's battery is good", "register D is 0x%x", cmos(RTC_D));
	check_equal(rtc_number(RTC_YEAR, binary), arg_u64("year", 0), "the clock has the host's year");
	do {
		second = rtc_number(RTC_SECONDS, binary);
	} while (second == first && cycles() - start < PATIENCE);
	check(second == (first + 1) % 60, "the clock ticks", "%u after %u", second, first);
}

static void i8042(void)
{
	/* Status: neither buffer full, or a guest kernel waits for it. */
	check(!(in8(PORT_I8042) & 2), "the keyboard controller takes commands", "status 0x%x", in8(PORT_I8042));
	check_equal(in32(PORT_GED_EVENTS), 0, "no ACPI event is pending");
	out8(PORT_GED_SLEEP, 0x14); /* S5 without SLP_EN */
	check(true, "a sleep type without SLP_EN does nothing", "-");
	out8(PORT_GED_RESET, 0);
	check(true, "a wrong reset value does nothing", "-");
}

/* Ports that end the machine or mute this text. */
static bool dangerous(unsigned port, unsigned width)
{
	static const struct {
		uint16_t first, last;
	} ranges[] = { { 0x60, 0x64 }, { 0x600, 0x607 }, { 0x505, 0x505 }, { 0x3f8, 0x3ff }, { 0xcf9, 0xcf9 },
		{ 0xf4, 0xf4 }, { 0x92, 0x92 } };

	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++)
		if (port <= ranges[i].last && port + width > ranges[i].first)
			return true;
	return false;
}

static void ports(void)
{
	for (unsigned port = 0; port < 0x10000; port++) {
		in8((uint16_t)port);
		if (!dangerous(port, 1))
			out8((uint16_t)port, (uint8_t)value_of(port % VALUE_CLASSES, 1, port));
	}
	check(true, "all ports take bytes", "-");
	/* An access that leaves the last port is the CPU's to refuse. */
	for (unsigned port = 0; port < 0xffff; port++) {
		in16((uint16_t)port);
		if (!dangerous(port, 2))
			out16((uint16_t)port, (uint16_t)value_of((port + 1) % VALUE_CLASSES, 2, port));
	}
	check(true, "all ports take words", "-");
	for (unsigned port = 0; port < 0xfffd; port++) {
		in32((uint16_t)port);
		if (!dangerous(port, 4))
			out32((uint16_t)port, (uint32_t)value_of((port + 2) % VALUE_CLASSES, 4, port));
	}
	check(true, "all ports take double words", "-");
	check_equal(in8(0x2f8), 0xff, "a port without a device reads as ones");
	check_equal(in32(0xe000), 0xffffffff, "a port without a device reads as ones in all bytes");
}

/* The memory map of the start info: all of RAM and nothing that is not. */
static void memory(void)
{
	const struct hvm_start_info *info = boot_table();
	const struct hvm_memmap_entry *map = (const struct hvm_memmap_entry *)info->memmap_paddr;
	uint64_t ram = 0, last = 0;
	bool sorted = true;

	for (unsigned i = 0; i < info->memmap_entries; i++) {
		sorted &= map[i].addr >= last;
		last = map[i].addr + map[i].size;
		if (map[i].type == 1)
			ram += map[i].size;
	}
	check(info->memmap_entries != 0, "there is a memory map", "it is empty");
	check(sorted, "the memory map is sorted and does not overlap itself", "it does not");
	check(ram <= arg_u64("ram", 0) && ram >= arg_u64("ram", 0) - (1 << 20), "the memory map has all RAM",
		"%lu bytes", (unsigned long)ram);
}

static void panic(void)
{
	check(in8(PORT_PVPANIC) & 1, "pvpanic offers the panic event", "0x%x", in8(PORT_PVPANIC));
	say("panicking\n");
	out8(PORT_PVPANIC, 1);
}

const struct guest_test platform_tests[] = {
	{ "rtc", rtc },
	{ "i8042", i8042 },
	{ "ports", ports },
	{ "memory", memory },
	{ "panic", panic },
	{ NULL, NULL },
};
