/*
 * Base address registers (PCI Local Bus 3.0 §6.2.5.1). The registers are ordinary masked config
 * bytes: the mask is what sizing reads back after writing ones, with decoding on or off. What is
 * decoded follows the registers in one place: sync() compares, for every BAR of every function,
 * where the registers want it with where it is mapped, first unmaps all that have to leave and then
 * maps all that can come. So a swap of two places works, and a BAR that was refused because its
 * place was taken comes up when the place becomes free.
 *
 * A BAR outside the windows, over RAM or over another device is not decoded; the guest finds
 * nothing there.
 */
#include "devices/pci/pci.h"

#include <errno.h>

#include "devices/pci/root.h"
#include "vmm/log.h"

enum { BAR_MEMORY_64 = 0x4, BAR_PREFETCH = 0x8, BAR_FLAGS = 0xf };

void pci_bar_add(struct pci_function *fn, unsigned bar, uint64_t size, bool prefetch)
{
	unsigned at = PCI_BAR0 + 4 * bar;
	uint64_t mask = ~(size - 1);

	fn->bar[bar].size = size;
	fn->bar[bar].is64 = true;
	fn->bar[bar].prefetch = prefetch;
	put_le32(fn->config + at, BAR_MEMORY_64 | (prefetch ? BAR_PREFETCH : 0));
	pci_config_writable(fn, at, &mask, sizeof(mask));
}

static uint64_t programmed(const struct pci_function *fn, unsigned bar)
{
	return get_le64(fn->config + PCI_BAR0 + 4 * bar) & ~(uint64_t)BAR_FLAGS;
}

static void program(struct pci_function *fn, unsigned bar, uint64_t base)
{
	uint8_t *reg = fn->config + PCI_BAR0 + 4 * bar;

	put_le64(reg, base | (get_le64(reg) & BAR_FLAGS));
	fn->bar[bar].base = base;
}

static bool decoding(const struct pci_function *fn)
{
	return fn->config[PCI_COMMAND] & PCI_COMMAND_MEMORY;
}

/* Where the registers put the BAR, PCI_NOWHERE when decoding is off. */
static uint64_t wanted(const struct pci_function *fn, const struct pci_bar *bar)
{
	return bar->size && decoding(fn) ? bar->base : PCI_NOWHERE;
}

/* Half of a sizing probe: all the ones the mask lets through, in either half. Not worth a line. */
static bool is_probe(const struct pci_bar *bar)
{
	uint32_t low = (uint32_t)~(bar->size - 1);

	return bar->base >> 32 == UINT32_MAX || (low && (uint32_t)bar->base == low);
}

static bool over_ram(const struct guest_mem *mem, uint64_t base, uint64_t size)
{
	for (unsigned i = 0; mem && i < mem_region_count(mem); i++)
		if (ranges_overlap(base, size, mem_region(mem, i)->gpa, mem_region(mem, i)->size))
			return true;
	return false;
}

/* NULL when the BAR may lie there, else why not. */
static const char *refusal(const struct pci_root *root, uint64_t base, uint64_t size)
{
	const struct pci_windows *w = &root->windows;

	if (!range_inside(base, size, w->mmio32_base, w->mmio32_size) &&
		!range_inside(base, size, w->mmio64_base, w->mmio64_size))
		return "outside the windows of the root";
	if (over_ram(root->mem, base, size))
		return "over RAM";
	if (!bus_is_free(root->mmio, base, size))
		return "over another device";
	return NULL;
}

static void bar_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct pci_bar *bar = ctx;

	bar->fn->ops->bar_read(bar->fn, (unsigned)(bar - bar->fn->bar), offset, data, len);
}

static void bar_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct pci_bar *bar = ctx;

	bar->fn->ops->bar_write(bar->fn, (unsigned)(bar - bar->fn->bar), offset, data, len);
}

static const struct bus_ops bar_bus_ops = { .read = bar_read, .write = bar_write };

static void unmap(struct pci_function *fn, struct pci_bar *bar)
{
	unsigned i = (unsigned)(bar - fn->bar);
	int r;

	/*
	 * Notifies leave before the range: whoever takes the place next must find its addresses
	 * free.
	 */
	if (fn->ops->bar_moved)
		fn->ops->bar_moved(fn, i, bar->mapped, PCI_NOWHERE);
	r = bus_remove(fn->root->mmio, bar->mapped);
	if (r < 0)
		log_guest(LOG_WARN, "%s: BAR %u stays at %#llx: %s", fn->name, i,
			(unsigned long long)bar->mapped, strerror(-r));
	else
		bar->mapped = PCI_NOWHERE;
}

static void map(struct pci_function *fn, struct pci_bar *bar, uint64_t base)
{
	const struct bus_range range = { base, bar->size, &bar_bus_ops, bar, fn->name };
	unsigned i = (unsigned)(bar - fn->bar);
	const char *why = refusal(fn->root, base, bar->size);

	if (!why && bus_add(fn->root->mmio, &range) < 0)
		why = "where the bus has no room for it";
	if (why) {
		if (!is_probe(bar))
			log_guest(LOG_WARN,
				"%s: the guest put BAR %u at %#llx, %s; it is not decoded",
				fn->name, i, (unsigned long long)base, why);
		return;
	}
	bar->mapped = base;
	if (fn->ops->bar_moved)
		fn->ops->bar_moved(fn, i, PCI_NOWHERE, base);
}

static int sync(void *arg)
{
	struct pci_root *root = arg;

	pthread_mutex_lock(&root->lock);
	for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
		struct pci_function *fn = root->slot[i / PCI_BARS];
		struct pci_bar *bar = fn ? &fn->bar[i % PCI_BARS] : NULL;

		if (fn && bar->mapped != PCI_NOWHERE && bar->mapped != wanted(fn, bar))
			unmap(fn, bar);
	}
	for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
		struct pci_function *fn = root->slot[i / PCI_BARS];
		struct pci_bar *bar = fn ? &fn->bar[i % PCI_BARS] : NULL;

		if (fn && bar->mapped == PCI_NOWHERE && wanted(fn, bar) != PCI_NOWHERE)
			map(fn, bar, wanted(fn, bar));
	}
	pthread_mutex_unlock(&root->lock);
	return 0;
}

int pci_bars_sync(struct pci_root *root)
{
	return bus_change(root->mmio, sync, root);
}

bool pci_bars_written(struct pci_function *fn, unsigned offset, unsigned len)
{
	bool moved = false;

	if (!ranges_overlap(offset, len, PCI_COMMAND, 2) &&
		!ranges_overlap(offset, len, PCI_BAR0, 4 * PCI_BARS))
		return false;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		if (!fn->bar[i].size)
			continue;
		fn->bar[i].base = programmed(fn, i);
		moved |= fn->bar[i].mapped != wanted(fn, &fn->bar[i]);
	}
	return moved;
}

void pci_bars_reset(struct pci_function *fn)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		if (!fn->bar[i].size)
			continue;
		program(fn, i, fn->bar[i].home == PCI_NOWHERE ? 0 : fn->bar[i].home);
		if (fn->bar[i].home != PCI_NOWHERE)
			fn->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
	}
}

static int drop(void *arg)
{
	struct pci_function *fn = arg;

	pthread_mutex_lock(&fn->root->lock);
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (fn->bar[i].mapped != PCI_NOWHERE)
			unmap(fn, &fn->bar[i]);
	pthread_mutex_unlock(&fn->root->lock);
	return 0;
}

void pci_bars_drop(struct pci_function *fn)
{
	bool any = false;

	for (unsigned i = 0; i < PCI_BARS; i++)
		any |= fn->bar[i].mapped != PCI_NOWHERE;
	if (any)
		bus_change(fn->root->mmio, drop, fn);
}

/* Room for `size` bytes at or after *next, inside the window; PCI_NOWHERE when there is none. */
static uint64_t take(uint64_t *next, uint64_t base, uint64_t window, uint64_t size)
{
	uint64_t at = align_up(*next, size);

	if (at < *next || !range_inside(at, size, base, window))
		return PCI_NOWHERE;
	*next = at + size;
	return at;
}

int pci_assign_bars(struct pci_root *root, struct error *err)
{
	const struct pci_windows *w = &root->windows;
	uint64_t next32 = w->mmio32_base, next64 = w->mmio64_base;

	for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
		struct pci_function *fn = root->slot[i / PCI_BARS];
		struct pci_bar *bar = fn ? &fn->bar[i % PCI_BARS] : NULL;

		if (!fn || !bar->size)
			continue;
		bar->home = PCI_NOWHERE;
		if (bar->is64)
			bar->home = take(&next64, w->mmio64_base, w->mmio64_size, bar->size);
		if (bar->home == PCI_NOWHERE)
			bar->home = take(&next32, w->mmio32_base, w->mmio32_size, bar->size);
		if (bar->home == PCI_NOWHERE)
			return error_set(err, ENOSPC,
				"%s: no room for %llu bytes in the PCI windows; "
				"give the machine fewer PCI devices, or some transport=mmio",
				fn->name, (unsigned long long)bar->size);
	}
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (root->slot[i])
			pci_function_power_on(root->slot[i]);
	return pci_bars_sync(root);
}
