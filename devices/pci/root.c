/*
 * The root complex: bus 0 with 32 slots, a host bridge in the first, and two ways to config space:
 * ECAM (PCI Express Base 4.0 §7.2.2: 4 KiB per function) and, where the CPU has ports,
 * configuration mechanism #1 (PCI Local Bus 3.0 §3.2.2.3.2: an address at 0xCF8, four bytes of data
 * at 0xCFC). Whatever is absent reads as ones and ignores writes.
 *
 * The host bridge says it is Red Hat's generic PCIe host (1b36:0008): that one is in the public id
 * list as a bridge without registers, and no guest driver binds to it, which an id of a real
 * chipset would bring.
 */
#include "devices/pci/pci.h"

#include <errno.h>
#include <stdlib.h>

#include "devices/pci/root.h"

enum {
	ECAM_FUNCTION_SHIFT = 12,
	ECAM_FUNCTIONS = 256,
	PORT_ADDRESS = 0xcf8,
	PORT_DATA = 4,           /* offset of 0xCFC */
	PORTS = 8,
};
#define ADDRESS_ENABLE (UINT32_C(1) << 31)

struct pci_function *pci_function_at(struct pci_root *root, unsigned devfn)
{
	/* Functions are single: number 0 of their slot. */
	return devfn < ECAM_FUNCTIONS && !(devfn & 7) ? root->slot[devfn >> 3] : NULL;
}

static void ecam_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	pci_config_read(ctx, (unsigned)(offset >> ECAM_FUNCTION_SHIFT),
		offset & (PCI_CONFIG_SIZE - 1), data, len);
}

static void ecam_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	pci_config_write(ctx, (unsigned)(offset >> ECAM_FUNCTION_SHIFT),
		offset & (PCI_CONFIG_SIZE - 1), data, len);
}

static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/*
 * What a data port access reaches; false: nothing (disabled, another bus, or the access leaves the
 * data port).
 */
static bool port_target(
	struct pci_root *root, uint64_t offset, unsigned len, unsigned *devfn, unsigned *reg)
{
	uint32_t address;

	pthread_mutex_lock(&root->lock);
	address = root->address;
	pthread_mutex_unlock(&root->lock);
	if (offset < PORT_DATA || offset + len > PORTS)
		return false;
	if (!(address & ADDRESS_ENABLE) || (address >> 16 & 0xff))
		return false;
	*devfn = address >> 8 & 0xff;
	*reg = (address & 0xfc) + (unsigned)(offset - PORT_DATA);
	return true;
}

static void port_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct pci_root *root = ctx;
	unsigned devfn, reg;

	memset(data, 0xff, len);
	if (offset == 0 && len == 4) {
		pthread_mutex_lock(&root->lock);
		put_le32(data, root->address);
		pthread_mutex_unlock(&root->lock);
	} else if (port_target(root, offset, len, &devfn, &reg)) {
		pci_config_read(root, devfn, reg, data, len);
	}
}

static void port_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct pci_root *root = ctx;
	unsigned devfn, reg;

	if (offset == 0 && len == 4) {
		pthread_mutex_lock(&root->lock);
		root->address = get_le32(data) & ~UINT32_C(0x7f000003);
		pthread_mutex_unlock(&root->lock);
	} else if (port_target(root, offset, len, &devfn, &reg)) {
		pci_config_write(root, devfn, reg, data, len);
	}
}

static const struct bus_ops port_ops = { .read = port_read, .write = port_write };

int pci_attach(struct pci_root *root, struct pci_function *fn, int slot, struct error *err)
{
	int at = slot;

	if (slot >= PCI_SLOTS)
		return error_set(err, EINVAL, "%s: there is no PCI slot %d; slots are 1 to %d",
			fn->name, slot, PCI_SLOTS - 1);
	for (at = slot < 0 ? 0 : slot; slot < 0 && at < PCI_SLOTS && root->slot[at]; at++)
		;
	if (at == PCI_SLOTS)
		return error_set(err, ENOSPC,
			"%s: all %d PCI slots are taken; give the machine fewer PCI "
			"devices, or some transport=mmio",
			fn->name, PCI_SLOTS);
	if (root->slot[at])
		return error_set(err, ENOSPC, "%s: PCI slot %d is taken by %s; choose another",
			fn->name, at, root->slot[at]->name);
	pthread_mutex_lock(&root->lock);
	fn->root = root;
	fn->devfn = (uint8_t)(at << 3);
	root->slot[at] = fn;
	pthread_mutex_unlock(&root->lock);
	return 0;
}

void pci_detach(struct pci_function *fn)
{
	struct pci_root *root = fn->root;

	if (!root)
		return;
	pci_bars_drop(fn);
	pthread_mutex_lock(&root->lock);
	root->slot[fn->devfn >> 3] = NULL;
	fn->root = NULL;
	pthread_mutex_unlock(&root->lock);
}

static int root_start(struct device *dev, struct error *err)
{
	return pci_assign_bars((struct pci_root *)dev, err);
}

static void root_reset(struct device *dev)
{
	struct pci_root *root = (struct pci_root *)dev;

	pthread_mutex_lock(&root->lock);
	root->address = 0;
	pthread_mutex_unlock(&root->lock);
	pci_function_reset(&root->bridge);
}

static const struct state_field root_fields[] = {
	STATE_FIELD(struct pci_root, address),
	STATE_END,
};

static int root_check(const void *object, struct error *err)
{
	const struct pci_root *root = object;

	if (root->address & UINT32_C(0x7f000003))
		return error_set(err, EINVAL,
			"the saved PCI config address %#x has reserved bits; the file "
			"is damaged",
			root->address);
	return 0;
}

static const struct state_desc root_state = {
	.name = "pci-root",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct pci_root),
	.fields = root_fields,
	.check = root_check,
};

static int root_save(struct device *dev, struct state_writer *w)
{
	struct pci_root *root = (struct pci_root *)dev;
	int r = state_save(w, &root_state, root);

	return r < 0 ? r : pci_function_save(&root->bridge, w);
}

static int root_load_parts(struct device *dev, struct state_reader *r, struct error *err)
{
	struct pci_root *root = (struct pci_root *)dev;
	int ret = state_load(r, &root_state, root, err);

	return ret < 0 ? ret : pci_function_load(&root->bridge, r, err);
}

static int root_load(struct device *dev, struct state_reader *r, struct error *err)
{
	return device_load_all(dev, root_load_parts, r, err);
}

static void root_destroy(struct device *dev)
{
	struct pci_root *root = (struct pci_root *)dev;

	/*
	 * Functions that outlive the root are let go here, so that their own pci_detach finds
	 * nothing to do.
	 */
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (root->slot[i])
			pci_detach(root->slot[i]);
	if (root->ecam_added)
		bus_remove(root->mmio, dev->nodes[0].base);
	if (root->ports_added)
		bus_remove(root->pio, PORT_ADDRESS);
	if (root->slot_of_env && *root->slot_of_env == root)
		*root->slot_of_env = NULL;
	pthread_mutex_destroy(&root->lock);
	free(root);
}

static const struct device_ops root_ops = {
	.start = root_start,
	.reset = root_reset,
	.save = root_save,
	.load = root_load,
	.destroy = root_destroy,
};

static const struct pci_function_ops bridge_ops = { .bar_read = NULL };

static const struct pci_identity bridge_id = {
	.vendor = 0x1b36,
	.device = 0x0008,
	.subvendor = 0x1af4,
	.subdevice = 0x1100,
	.class_code = 0x060000, /* bridge, host */
};

static int root_register(struct pci_root *root, struct error *err)
{
	const struct device_node *node = &root->device.nodes[0];
	const struct bus_range ecam = { node->base, node->len, &ecam_ops, root, "pci-ecam" };
	const struct bus_range ports = { PORT_ADDRESS, PORTS, &port_ops, root, "pci-ports" };
	int r = bus_add(root->mmio, &ecam);

	if (r < 0)
		return error_set(err, -r, "pci-root: its config window at %#llx is taken",
			(unsigned long long)node->base);
	root->ecam_added = true;
	r = root->pio ? bus_add(root->pio, &ports) : 0;
	if (r < 0)
		return error_set(err, -r, "pci-root: its ports at %#x are taken", PORT_ADDRESS);
	root->ports_added = root->pio;
	return pci_attach(root, &root->bridge, 0, err);
}

static int root_create(struct device **ret, const struct device_env *env, const void *options,
	struct error *err)
{
	struct pci_root *root;
	int r;

	(void)options;
	if (!env->place || !env->place->len)
		return error_set(err, EINVAL, "pci-root: the machine gave it no config window");
	root = calloc(1, sizeof(*root));
	if (!root)
		return error_set(err, ENOMEM, "pci-root: out of memory");
	root->device.type = &pci_root_type;
	root->device.ops = &root_ops;
	strncpy(root->device.id, env->id ? env->id : "pci", DEVICE_ID_MAX - 1);
	root->device.nodes[0] = (struct device_node){ "pci-root", false, env->place->base,
		env->place->len, UINT32_MAX };
	root->mmio = env->mmio;
	root->pio = env->pio;
	root->mem = env->mem;
	if (env->pci_windows)
		root->windows = *env->pci_windows;
	pthread_mutex_init(&root->lock, NULL);
	pci_function_init(&root->bridge, "pci-root", &bridge_ops, &bridge_id);
	r = root_register(root, err);
	if (r < 0) {
		root_destroy(&root->device);
		return r;
	}
	root->slot_of_env = env->pci_slot;
	if (env->pci_slot)
		*env->pci_slot = root;
	*ret = &root->device;
	return 0;
}

const struct device_type pci_root_type = {
	.name = "pci-root",
	.id_prefix = "_pci",
	.state = &root_state,
	.create = root_create,
};
