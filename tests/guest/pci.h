/*
 * PCI config space, bus 0 only, by ECAM (PCI Express 4.0 §7.2.2) and by the CPU's other door, if it has one: the ports of x86
 * (PCI 3.0 §3.2.2.3.2). pci_read*() and pci_write*() are of the CPU's folder, and take that one.
 */
#ifndef TESTS_GUEST_PCI_H
#define TESTS_GUEST_PCI_H

#include "tests/guest/lib.h"

enum pci_reg {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_HEADER = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBVENDOR = 0x2c,
	PCI_CAPABILITIES = 0x34,
	PCI_COMMAND_IO = 1,
	PCI_COMMAND_MEMORY = 2,
	PCI_COMMAND_MASTER = 4,
	PCI_CAP_VENDOR = 0x09,
	PCI_CAP_MSIX = 0x11,
	PCI_DEVFNS = 256,
};

/* `at` below 256. */
uint8_t pci_read8(unsigned devfn, unsigned at);
uint16_t pci_read16(unsigned devfn, unsigned at);
uint32_t pci_read32(unsigned devfn, unsigned at);
void pci_write8(unsigned devfn, unsigned at, uint8_t v);
void pci_write16(unsigned devfn, unsigned at, uint16_t v);
void pci_write32(unsigned devfn, unsigned at, uint32_t v);

/* Checks what the CPU's doors to config space say of a virtio function. */
void pci_check_doors(unsigned devfn);

/* Where ECAM has it; ecam= on the command line moves it. */
uint64_t pci_ecam(unsigned devfn, unsigned at);

/* The n-th function with this vendor and device; -1: none. */
int pci_find(uint16_t vendor, uint16_t device, unsigned n);
/* The capability after `after` (0: the first) with this id; 0: none. */
unsigned pci_capability(unsigned devfn, uint8_t id, unsigned after);

/* Base of a memory BAR, 32 or 64 bits. */
uint64_t pci_bar(unsigned devfn, unsigned bar);
void pci_bar_set(unsigned devfn, unsigned bar, uint64_t base);
/* By writing ones with decoding off; puts all back. */
uint64_t pci_bar_size(unsigned devfn, unsigned bar);

#endif
