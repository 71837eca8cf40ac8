/*
 * Inside of the root complex, for the files of devices/pci only.
 *
 * One mutex guards config spaces, BAR records and the port address. It is never held across
 * bus_change(): another vCPU may stand in a config handler and wait for it, and the world would not
 * come to rest. So a config write changes registers under the lock, lets it go, and then brings the
 * bus in line with the registers (pci_bars_sync), which may be done by anybody, any number of
 * times. Order: stillness of bus_change, then this lock, then the lock of an MSI-X table.
 */
#ifndef DEVICES_PCI_ROOT_H
#define DEVICES_PCI_ROOT_H

#include <pthread.h>

#include "devices/pci/pci.h"

/* Offsets of the type 0 header (PCI 3.0 §6.1). */
enum pci_reg {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09,
	PCI_BAR0 = 0x10,
	PCI_SUBVENDOR = 0x2c,
	PCI_SUBDEVICE = 0x2e,
	PCI_CAPABILITIES = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_HEADER_END = 0x40,
	PCI_CAPS_END = 0x100,
};

enum {
	PCI_COMMAND_MEMORY = 1 << 1,
	PCI_COMMAND_MASTER = 1 << 2,
	PCI_COMMAND_INTX_OFF = 1 << 10,
	PCI_STATUS_CAPS = 1 << 4,
};

struct pci_root {
	struct device device;         /* first */
	struct bus *mmio, *pio;       /* const; pio may be NULL */
	const struct guest_mem *mem;  /* const; NULL in tests */
	struct pci_root **slot_of_env; /* const */
	struct pci_windows windows;   /* const */
	bool ecam_added, ports_added; /* main */
	pthread_mutex_t lock;
	struct pci_function *slot[PCI_SLOTS]; /* lock */
	uint32_t address;             /* lock; 0xCF8 */
	struct pci_function bridge;   /* lock; 00:00.0 */
};

struct pci_function *pci_function_at(struct pci_root *root, unsigned devfn);
/* Registers of pci_function_reset(), without the bus: true when pci_bars_sync() has to follow. */
bool pci_function_power_on(struct pci_function *fn);

/*
 * The guest wrote [offset, offset + len): take BAR registers over into the records. True when the
 * bus has to follow (pci_bars_sync, after the lock is let go). Lock held.
 */
bool pci_bars_written(struct pci_function *fn, unsigned offset, unsigned len);
/* One transaction that makes the bus what the registers of all functions say. Lock not held. */
int pci_bars_sync(struct pci_root *root);
/* BAR registers get what pci_assign_bars chose. Lock held. */
void pci_bars_reset(struct pci_function *fn);
/* Nothing of the function is decoded any more. Lock not held. */
void pci_bars_drop(struct pci_function *fn);

#endif
