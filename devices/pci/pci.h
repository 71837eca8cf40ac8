/*
 * A PCI Express root complex with one bus (PCI Express Base 4.0; PCI Local Bus 3.0 §6), and what a
 * function on it gives.
 *
 * Config space of a function is an image of 4096 bytes with a write mask beside it: a bit that is
 * not in the mask cannot be changed by the guest; writes beyond the mask have no effect. What must
 * react to a write (command register, BARs, MSI-X control, a vendor capability) is noticed by
 * offset after the masked write. The guest reaches it by ECAM and, on CPUs with ports, by
 * 0xCF8/0xCFC.
 *
 * BARs are placed once by the root (pci_assign_bars) before the guest starts, as firmware would.
 * The guest may move them: a move is a transaction on the bus (bus_change): check, reserve, switch
 * ranges and notifies, release; when the new place is not free or not inside the windows the
 * function is not decoded there and a line is logged, and the old place is gone as the guest asked.
 * Decoding follows the command register's memory and I/O bits.
 */
#ifndef DEVICES_PCI_PCI_H
#define DEVICES_PCI_PCI_H

#include "vmm/device.h"

enum {
	PCI_CONFIG_SIZE = 4096,
	PCI_BARS = 6,
	PCI_SLOTS = 32,
	PCI_MSIX_MAX = 2048,
};

struct pci_function;
struct pci_msix;

struct pci_function_ops {
	/* Memory BAR access by the guest; vCPU thread. `offset` + len lie inside the BAR. */
	void (*bar_read)(
		struct pci_function *fn, unsigned bar, uint64_t offset, void *data, unsigned len);
	void (*bar_write)(struct pci_function *fn, unsigned bar, uint64_t offset, const void *data,
		unsigned len);
	/*
	 * The BAR is decoded at `base` from now on, or (base UINT64_MAX) nowhere: move notifies
	 * here. Inside a bus change, with the root's lock held: no config access from here. Comes
	 * as (old, nowhere), then (nowhere, new). May be NULL.
	 */
	void (*bar_moved)(struct pci_function *fn, unsigned bar, uint64_t old_base, uint64_t base);
	/*
	 * After a masked write to config space [offset, offset + len); before a read of it. The
	 * root's lock is held. May be NULL.
	 */
	void (*config_written)(struct pci_function *fn, unsigned offset, unsigned len);
	void (*config_reading)(struct pci_function *fn, unsigned offset, unsigned len);
};

struct pci_bar {
	uint64_t size;       /* power of two; 0: not there */
	uint64_t home;       /* where pci_assign_bars put it; PCI_NOWHERE: not yet */
	uint64_t base;       /* what the guest programmed */
	uint64_t mapped;     /* where it is decoded; PCI_NOWHERE: nowhere */
	bool is64, prefetch;
	struct pci_function *fn; /* const */
};
#define PCI_NOWHERE UINT64_MAX

/* Embedded in a function. */
struct pci_function {
	const struct pci_function_ops *ops;
	struct pci_root *root;
	const char *name;
	uint8_t devfn;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t mask[PCI_CONFIG_SIZE];
	struct pci_bar bar[PCI_BARS];
	struct pci_msix *msix; /* NULL: none */
	unsigned next_cap;     /* first free byte for a capability */
	unsigned last_cap;     /* offset of the last capability, 0: none */
};

struct pci_identity {
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code;   /* 24 bits */
	uint8_t revision;
};

/* Zeroed `fn` gets its header (type 0). Set-up, main. */
void pci_function_init(struct pci_function *fn, const char *name,
	const struct pci_function_ops *ops, const struct pci_identity *id);
/* Memory BAR, 64 bit, `size` a power of two from 4096 up. */
void pci_bar_add(struct pci_function *fn, unsigned bar, uint64_t size, bool prefetch);
/*
 * Appends a capability of `len` bytes (header included; `body` is what follows id and next).
 * Returns its offset, 0 when full.
 */
unsigned pci_cap_add(struct pci_function *fn, uint8_t id, const void *body, unsigned len);
/* Let the guest write [offset, offset + len) where `mask` has ones. */
void pci_config_writable(struct pci_function *fn, unsigned offset, const void *mask, unsigned len);

/*
 * MSI-X (PCI 3.0 §6.8.2) with table and PBA in BAR `bar` at `table` and `pba`; the function passes
 * accesses of these ranges to pci_msix_read and pci_msix_write. The function is attached already
 * (its devfn names the sender). Vectors' eventfds exist from creation on and stay the same for
 * life.
 */
int pci_msix_create(struct pci_function *fn, struct irqchip *irq, unsigned vectors, unsigned bar,
	uint32_t table, uint32_t pba, struct error *err) NEEDS_CHECK;
void pci_msix_destroy(struct pci_function *fn);
/* True when the offset was the table's or the PBA's. */
bool pci_msix_read(
	struct pci_function *fn, unsigned bar, uint64_t offset, void *data, unsigned len);
bool pci_msix_write(
	struct pci_function *fn, unsigned bar, uint64_t offset, const void *data, unsigned len);
/* The source behind a vector; NULL when there is no such vector. */
struct irq_source *pci_msix_source(struct pci_function *fn, unsigned vector);
void pci_msix_reset(struct pci_function *fn);
/* Of 16 vectors; a stream has as many of them as cover the table. */
extern const struct state_desc pci_msix_state;
int pci_msix_save(struct pci_function *fn, struct state_writer *w);
/* After pci_function_load, which brings the enable and mask bits. */
int pci_msix_load(struct pci_function *fn, struct state_reader *r, struct error *err);
/* The control word in config space was written (for the root; its lock is held). */
void pci_msix_control_written(struct pci_function *fn, unsigned offset, unsigned len);

/* Put the function into a free slot (devfn < 0: any). Main. -ENOSPC */
int pci_attach(
	struct pci_root *root, struct pci_function *fn, int slot, struct error *err) NEEDS_CHECK;
void pci_detach(struct pci_function *fn);
/*
 * Config registers as after power-on and as firmware leaves them: BARs where pci_assign_bars put
 * them and decoded, or, before it was called, decoding off. vCPUs parked.
 */
void pci_function_reset(struct pci_function *fn);
/*
 * The config image. A load refuses a stream whose read-only bits are not ours. vCPUs parked, main.
 */
extern const struct state_desc pci_config_state;
int pci_function_save(struct pci_function *fn, struct state_writer *w);
int pci_function_load(struct pci_function *fn, struct state_reader *r, struct error *err);
/*
 * All BARs of all functions; then memory decoding is switched on, as firmware leaves it. Main,
 * before the guest runs.
 */
int pci_assign_bars(struct pci_root *root, struct error *err) NEEDS_CHECK;

/* For tests and the config ports: one access, any width; offsets past the space read ones. */
void pci_config_read(
	struct pci_root *root, unsigned devfn, unsigned offset, void *data, unsigned len);
void pci_config_write(
	struct pci_root *root, unsigned devfn, unsigned offset, const void *data, unsigned len);

/*
 * "pci-root", platform: env->place is the ECAM (len: 1 MiB for its one bus), env->pci_windows the
 * room for BARs. Puts itself into *env->pci_slot. Its start() places all BARs. It is destroyed
 * after every function on it.
 */
extern const struct device_type pci_root_type;

#endif
