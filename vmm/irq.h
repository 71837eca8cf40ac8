/*
 * Interrupts as eventfds.
 *
 * Whoever interrupts the guest writes to an eventfd; the irqchip wires that eventfd to a wired line
 * (GSI) or to an MSI message. A queue's owner is handed the bare fd (its "call fd"), so that a
 * thread, a process, the kernel's vhost or a test can be the one who rings it. With KVM the wire is
 * an irqfd; without KVM (unit tests, fuzzers) there is none and the test polls the fd.
 *
 * A masked or unrouted source keeps its rings in the eventfd; it delivers one interrupt when it is
 * unmasked.
 *
 * irq_source_* calls: main, or vCPU threads (they serialise inside). irq_raise: any thread.
 */
#ifndef VMM_IRQ_H
#define VMM_IRQ_H

#include "vmm/error.h"

struct irqchip;
struct irq_source;

struct irq_msi_route {
	unsigned gsi;
	uint64_t addr;
	uint32_t data;
	uint32_t devid; /* PCI requester id, for chips that want it (ITS) */
};

/* The machine's side; NULL ops make a chip for tests. Called with the chip's lock held. */
struct irq_chip_ops {
	int (*wire)(void *ctx, int fd, unsigned gsi, bool on);
	/* The complete list of MSI routes; gsi is chosen by the chip from `first_msi_gsi` up. */
	int (*routes)(void *ctx, const struct irq_msi_route *routes, unsigned n);
};

int irqchip_create(struct irqchip **ret, const struct irq_chip_ops *ops, void *ctx,
	unsigned first_msi_gsi, unsigned max_gsi) NEEDS_CHECK;
void irqchip_destroy(struct irqchip *chip);

/* A wired, edge-triggered line, ready at once. */
int irq_line_create(struct irq_source **ret, struct irqchip *chip, unsigned gsi, struct error *err) NEEDS_CHECK;
/*
 * An MSI source, masked and without a message until irq_msi_set.
 */
int irq_msi_create(struct irq_source **ret, struct irqchip *chip, uint32_t devid, struct error *err) NEEDS_CHECK;
/* Takes NULL. */
void irq_destroy(struct irq_source *source);

/* The eventfd behind the source; owned by it. */
int irq_fd(const struct irq_source *source);
void irq_raise(struct irq_source *source);

/* Message and mask of an MSI source. -ENOSPC when the host has no route left. */
int irq_msi_set(struct irq_source *source, uint64_t addr, uint32_t data, bool masked);
/* Is a ring waiting behind a masked source? (MSI-X pending bit) */
bool irq_pending(const struct irq_source *source);

/*
 * Between begin and end routes are collected and set once (an MSI-X table of n vectors, a restore).
 */
void irqchip_batch_begin(struct irqchip *chip);
int irqchip_batch_end(struct irqchip *chip);

#endif
