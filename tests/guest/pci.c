/* PCI config space; pci.h says how. */
#include "tests/guest/pci.h"

enum { BAR_64BIT = 4, BAR_FLAGS = 15 };

uint64_t pci_ecam(unsigned devfn, unsigned at)
{
	return arg_u64("ecam", (uint64_t)PLACE_ECAM) + ((uint64_t)devfn << 12) + at;
}

int pci_find(uint16_t vendor, uint16_t device, unsigned n)
{
	uint32_t id = (uint32_t)device << 16 | vendor;

	for (unsigned devfn = 0; devfn < PCI_DEVFNS; devfn += 8)
		if (pci_read32(devfn, PCI_VENDOR) == id && !n--)
			return (int)devfn;
	return -1;
}

unsigned pci_capability(unsigned devfn, uint8_t id, unsigned after)
{
	unsigned at = pci_read8(devfn, after ? after + 1 : PCI_CAPABILITIES);

	/* A list of a config space of 256 bytes has at most 48 members. */
	for (unsigned i = 0; at && i < 48; i++) {
		if (pci_read8(devfn, at) == id)
			return at;
		at = pci_read8(devfn, at + 1);
	}
	return 0;
}

uint64_t pci_bar(unsigned devfn, unsigned bar)
{
	uint32_t lo = pci_read32(devfn, PCI_BAR0 + 4 * bar);
	uint64_t hi = lo & BAR_64BIT ? pci_read32(devfn, PCI_BAR0 + 4 * bar + 4) : 0;

	return hi << 32 | (lo & ~(uint32_t)BAR_FLAGS);
}

void pci_bar_set(unsigned devfn, unsigned bar, uint64_t base)
{
	uint32_t lo = pci_read32(devfn, PCI_BAR0 + 4 * bar);

	pci_write32(devfn, PCI_BAR0 + 4 * bar, (uint32_t)base);
	if (lo & BAR_64BIT)
		pci_write32(devfn, PCI_BAR0 + 4 * bar + 4, (uint32_t)(base >> 32));
}

uint64_t pci_bar_size(unsigned devfn, unsigned bar)
{
	uint16_t command = pci_read16(devfn, PCI_COMMAND);
	uint64_t base = pci_bar(devfn, bar), ones;

	pci_write16(devfn, PCI_COMMAND, 0);
	pci_bar_set(devfn, bar, UINT64_MAX);
	ones = pci_bar(devfn, bar);
	if (!(pci_read32(devfn, PCI_BAR0 + 4 * bar) & BAR_64BIT) && ones)
		ones |= UINT64_C(0xffffffff) << 32;
	pci_bar_set(devfn, bar, base);
	pci_write16(devfn, PCI_COMMAND, command);
	return ~ones + 1;
}
