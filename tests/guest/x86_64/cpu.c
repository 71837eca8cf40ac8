/*
 * What a PC does its own way: text on COM1, config space by ports, how a machine ends, and how a second vCPU starts (Intel
 * SDM vol. 3 §9.4.4.1: INIT, then a startup IPI whose vector is the page of its first instruction).
 */
#include "tests/guest/lib.h"
#include "tests/guest/pci.h"

enum { ASK_HALT = 0x68616c74, ASK_TRIPLE = 0x74726970 }; /* start.S */
enum { LAPIC_ICR = PLACE_MESSAGES + 0x300, LAPIC_ICR_HIGH = PLACE_MESSAGES + 0x310, INIT = 0x4500, STARTUP = 0x4600, AP_PAGE = 9,
	AP_ID = 1, START_INFO_MAGIC = 0x336ec578 };

extern const uint8_t ap_begin[], ap_end[]; /* start.S */

void *memset(void *to, int value, size_t len)
{
	void *ret = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(len) : "a"(value) : "memory");
	return ret;
}

void *memcpy(void *to, const void *from, size_t len)
{
	void *ret = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
	return ret;
}

const char *cpu_command_line(const void *boot)
{
	const struct hvm_start_info *info = boot;

	return info->magic == START_INFO_MAGIC ? (const char *)info->cmdline_paddr : NULL;
}

void cpu_put(char c)
{
	out8(PORT_COM1, (uint8_t)c);
}

void cpu_start_second(void)
{
	__builtin_memcpy((void *)((uint64_t)AP_PAGE << 12), ap_begin, (size_t)(ap_end - ap_begin));
	write32(LAPIC_ICR_HIGH, AP_ID << 24);
	write32(LAPIC_ICR, INIT);
	write32(LAPIC_ICR_HIGH, AP_ID << 24);
	write32(LAPIC_ICR, STARTUP | AP_PAGE);
}

void power_off(void)
{
	enum { S5_ENABLE = 5 << 2 | 1 << 5 }; /* ACPI 6.5 §4.8.3.7: sleep type, SLP_EN */

	out8(PORT_GED_SLEEP, S5_ENABLE);
	out8(PORT_DEBUG_EXIT, 0);
	for (;;)
		relax();
}

static void __attribute__((noreturn)) triple_fault(void)
{
	__asm__ volatile("ud2" : : "a"(ASK_TRIPLE) : "memory");
	__builtin_unreachable();
}

void reset_by(const char *way)
{
	if (same(way, "triple"))
		triple_fault();
	if (same(way, "acpi"))
		out8(PORT_GED_RESET, 'R');
	else
		out8(PORT_I8042, 0xfe);
	for (;;)
		relax();
}

void halt(void)
{
	__asm__ volatile("ud2" : : "a"(ASK_HALT) : "memory");
	__builtin_unreachable();
}

static uint16_t select(unsigned devfn, unsigned at)
{
	out32(PORT_PCI_ADDRESS, 0x80000000u | devfn << 8 | (at & 0xfc));
	return (uint16_t)(PORT_PCI_DATA + (at & 3));
}

uint8_t pci_read8(unsigned devfn, unsigned at)
{
	return in8(select(devfn, at));
}

uint16_t pci_read16(unsigned devfn, unsigned at)
{
	return in16(select(devfn, at));
}

uint32_t pci_read32(unsigned devfn, unsigned at)
{
	return in32(select(devfn, at));
}

void pci_write8(unsigned devfn, unsigned at, uint8_t v)
{
	out8(select(devfn, at), v);
}

void pci_write16(unsigned devfn, unsigned at, uint16_t v)
{
	out16(select(devfn, at), v);
}

void pci_write32(unsigned devfn, unsigned at, uint32_t v)
{
	out32(select(devfn, at), v);
}

void pci_check_doors(unsigned devfn)
{
	bool agree = true;

	for (unsigned at = 0; at < 256; at += 4)
		agree &= pci_read32(devfn, at) == read32(pci_ecam(devfn, at));
	for (unsigned at = 0; at < 64; at++)
		agree &= pci_read8(devfn, at) == read8(pci_ecam(devfn, at));
	for (unsigned at = 0; at < 64; at += 2)
		agree &= pci_read16(devfn, at) == read16(pci_ecam(devfn, at));
	check(agree, "ports and ECAM show the same config space", "they differ");
	pci_write16(devfn, PCI_COMMAND, PCI_COMMAND_MEMORY);
	check_equal(read16(pci_ecam(devfn, PCI_COMMAND)) & 7, PCI_COMMAND_MEMORY, "a write by ports is seen by ECAM");
	write16(pci_ecam(devfn, PCI_COMMAND), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	check_equal(pci_read16(devfn, PCI_COMMAND) & 7, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
		"a write by ECAM is seen by ports");
	pci_write32(devfn, PCI_VENDOR, 0);
	check_equal(pci_read16(devfn, PCI_VENDOR), 0x1af4, "ids take no write");
	check_equal(pci_read32(31 << 3 | 7, 0), 0xffffffff, "an absent function reads as ones by ports");
	check_equal(read32(pci_ecam(31 << 3 | 7, 0)), 0xffffffff, "an absent function reads as ones by ECAM");
	out32(PORT_PCI_ADDRESS, 0x80000000u | 5 << 16);
	check_equal(in32(PORT_PCI_DATA), 0xffffffff, "an absent bus reads as ones");
	out32(PORT_PCI_ADDRESS, 0);
	check_equal(in32(PORT_PCI_DATA), 0xffffffff, "the data port reads as ones while disabled");
	check_equal(pci_read8(0, PCI_HEADER), 0, "there is a host bridge with a normal header");
}
