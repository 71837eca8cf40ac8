/*
 * Address -> device, for register accesses that leave the guest. One bus for MMIO, one for port I/O
 * (x86).
 *
 * Lookups come from vCPU threads, take no lock and see one consistent table: a change makes a new
 * table and publishes it, and the old one is freed at a time when no vCPU can be inside it. Changes
 * are made by main before the machine runs, or through bus_change(), which parks the vCPUs first
 * (the machine gives the hook).
 *
 * A whole access lies inside one range or it is refused: reads give all ones, writes are dropped,
 * once per kind a debug line. Handlers see offset, length (1, 2, 4 or 8) and bytes in guest order.
 *
 * A notify is an address whose write only rings an eventfd: with KVM an ioeventfd that never leaves
 * the kernel, without (tests, or KVM out of slots) a write to the eventfd by the bus itself.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include "vmm/error.h"

struct bus;

/*
 * Called on a vCPU thread. `len` bytes at `offset` of the range; never crosses the end of the
 * range.
 */
struct bus_ops {
	void (*read)(void *ctx, uint64_t offset, void *data, unsigned len);
	void (*write)(void *ctx, uint64_t offset, const void *data, unsigned len);
};

struct bus_range {
	uint64_t start, len;
	const struct bus_ops *ops;
	void *ctx;
	const char *name;
};

struct bus_notify {
	uint64_t addr;
	unsigned len;      /* 0: any width (KVM_CAP_IOEVENTFD_ANY_LENGTH), else 1, 2, 4, 8 */
	bool match;        /* only when the value written is `value` */
	uint64_t value;
	int fd;            /* eventfd; the caller's */
};

/* How the machine makes a notify cheap, and how it holds the vCPUs still. All members optional. */
struct bus_hooks {
	int (*notify_add)(void *ctx, bool pio, const struct bus_notify *notify);
	void (*notify_remove)(void *ctx, bool pio, const struct bus_notify *notify);
	/*
	 * Run fn(arg) while no vCPU is inside a handler but the caller's own; its return value
	 * comes back.
	 */
	int (*stop_world)(void *ctx, int (*fn)(void *arg), void *arg);
	void *ctx;
};

/* `size` is the first address past the bus (0: 2^64). */
int bus_create(struct bus **ret, const char *name, bool pio, uint64_t size) NEEDS_CHECK;
void bus_destroy(struct bus *bus);
void bus_set_hooks(struct bus *bus, const struct bus_hooks *hooks);

/*
 * -EEXIST when the range overlaps another, -EINVAL when empty or past the bus. Table changes: see
 * above.
 */
int bus_add(struct bus *bus, const struct bus_range *range) NEEDS_CHECK;
/* The range that starts at `start`; -ENOENT. */
int bus_remove(struct bus *bus, uint64_t start);
bool bus_is_free(const struct bus *bus, uint64_t start, uint64_t len);
int bus_notify_add(struct bus *bus, const struct bus_notify *notify) NEEDS_CHECK;
void bus_notify_remove(struct bus *bus, const struct bus_notify *notify);
/*
 * fn may add and remove ranges and notifies; vCPUs stand still meanwhile. From a vCPU thread or
 * main.
 */
int bus_change(struct bus *bus, int (*fn)(void *arg), void *arg);

/* From vCPU threads (and tests). False when nobody answered; a read then fills `data` with 0xff. */
bool bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len);
bool bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len);

#endif
