/*
 * Config space of a function (PCI Local Bus 3.0 §6.1, §6.7): an image and a write mask of the same
 * size. Everything that is not in the mask is read-only by construction, so no register needs code
 * to be refused; a few are noticed after the write (BARs and command by bars.c, MSI-X control by
 * msix.c, the function's own capabilities by its ops).
 *
 * vCPU threads under the root's lock; set-up by main before the function is attached.
 */
#include "devices/pci/pci.h"

#include <errno.h>
#include <stdlib.h>

#include "devices/pci/root.h"

void pci_function_init(struct pci_function *fn, const char *name,
	const struct pci_function_ops *ops, const struct pci_identity *id)
{
	static const uint16_t command =
		PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF;
	static const uint8_t line = 0xff;

	fn->name = name;
	fn->ops = ops;
	fn->next_cap = PCI_HEADER_END;
	put_le16(fn->config + PCI_VENDOR, id->vendor);
	put_le16(fn->config + PCI_DEVICE, id->device);
	fn->config[PCI_REVISION] = id->revision;
	put_le(fn->config + PCI_CLASS, id->class_code, 3);
	put_le16(fn->config + PCI_SUBVENDOR, id->subvendor);
	put_le16(fn->config + PCI_SUBDEVICE, id->subdevice);
	pci_config_writable(fn, PCI_COMMAND, &command, sizeof(command));
	/* Scratch for software: there is no INTx, the pin register stays 0. */
	pci_config_writable(fn, PCI_INTERRUPT_LINE, &line, sizeof(line));
	for (unsigned i = 0; i < PCI_BARS; i++)
		fn->bar[i] =
			(struct pci_bar){ .home = PCI_NOWHERE, .mapped = PCI_NOWHERE, .fn = fn };
}

unsigned pci_cap_add(struct pci_function *fn, uint8_t id, const void *body, unsigned len)
{
	unsigned at = fn->next_cap;

	if (len < 2 || len > PCI_CAPS_END - at)
		return 0;
	fn->config[at] = id;
	memcpy(fn->config + at + 2, body, len - 2);
	fn->config[fn->last_cap ? fn->last_cap + 1 : PCI_CAPABILITIES] = (uint8_t)at;
	fn->config[PCI_STATUS] |= PCI_STATUS_CAPS;
	fn->last_cap = at;
	fn->next_cap = (unsigned)align_up(at + len, 4);
	return at;
}

void pci_config_writable(struct pci_function *fn, unsigned offset, const void *mask, unsigned len)
{
	const uint8_t *m = mask;

	for (unsigned i = 0; i < len; i++)
		fn->mask[offset + i] |= m[i];
}

void pci_config_read(
	struct pci_root *root, unsigned devfn, unsigned offset, void *data, unsigned len)
{
	struct pci_function *fn;
	uint8_t *out = data;

	memset(data, 0xff, len);
	if (offset >= PCI_CONFIG_SIZE)
		return;
	len = MIN(len, PCI_CONFIG_SIZE - offset);
	pthread_mutex_lock(&root->lock);
	fn = pci_function_at(root, devfn);
	if (fn) {
		if (fn->ops->config_reading)
			fn->ops->config_reading(fn, offset, len);
		memcpy(out, fn->config + offset, len);
	}
	pthread_mutex_unlock(&root->lock);
}

static bool write_locked(
	struct pci_function *fn, unsigned offset, const uint8_t *data, unsigned len)
{
	for (unsigned i = offset; i < offset + len; i++) {
		uint8_t mask = fn->mask[i];

		fn->config[i] = (uint8_t)((fn->config[i] & ~mask) | (data[i - offset] & mask));
	}
	pci_msix_control_written(fn, offset, len);
	if (fn->ops->config_written)
		fn->ops->config_written(fn, offset, len);
	return pci_bars_written(fn, offset, len);
}

void pci_config_write(struct pci_root *root, unsigned devfn, unsigned offset, const void *data,
	unsigned len)
{
	struct pci_function *fn;
	bool moved = false;

	if (offset >= PCI_CONFIG_SIZE)
		return;
	len = MIN(len, PCI_CONFIG_SIZE - offset);
	pthread_mutex_lock(&root->lock);
	fn = pci_function_at(root, devfn);
	if (fn)
		moved = write_locked(fn, offset, data, len);
	pthread_mutex_unlock(&root->lock);
	if (moved)
		pci_bars_sync(root);
}

bool pci_function_power_on(struct pci_function *fn)
{
	bool moved;

	pthread_mutex_lock(&fn->root->lock);
	/* No writable bit is set at power-on: what is left is the read-only image. */
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		fn->config[i] &= (uint8_t)~fn->mask[i];
	pci_bars_reset(fn);
	pci_msix_control_written(fn, 0, PCI_CONFIG_SIZE);
	moved = pci_bars_written(fn, 0, PCI_CONFIG_SIZE);
	pthread_mutex_unlock(&fn->root->lock);
	pci_msix_reset(fn);
	return moved;
}

void pci_function_reset(struct pci_function *fn)
{
	if (fn->root && pci_function_power_on(fn))
		pci_bars_sync(fn->root);
}

/*
 * A stream's image is compared with the live one before a bit of it is taken, so it is loaded
 * beside it.
 */
struct config_image {
	uint8_t config[PCI_CONFIG_SIZE];
};

static const struct state_field config_fields[] = {
	STATE_ARRAY(struct config_image, config),
	STATE_END,
};

const struct state_desc pci_config_state = {
	.name = "pci-config",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct config_image),
	.fields = config_fields,
};

int pci_function_save(struct pci_function *fn, struct state_writer *w)
{
	struct config_image *image = malloc(sizeof(*image));
	int r;

	if (!image)
		return -ENOMEM;
	memcpy(image->config, fn->config, sizeof(image->config));
	r = state_save(w, &pci_config_state, image);
	free(image);
	return r;
}

static int image_take(struct pci_function *fn, const struct config_image *image, struct error *err)
{
	bool moved;

	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if ((image->config[i] ^ fn->config[i]) & ~fn->mask[i])
			return error_set(err, EINVAL,
				"%s: the saved PCI config space differs at byte "
				"%#x, which is not the guest's to change; the machine must be made "
				"with the options it was saved with",
				fn->name, i);
	pthread_mutex_lock(&fn->root->lock);
	memcpy(fn->config, image->config, sizeof(image->config));
	pci_msix_control_written(fn, 0, PCI_CONFIG_SIZE);
	moved = pci_bars_written(fn, 0, PCI_CONFIG_SIZE);
	pthread_mutex_unlock(&fn->root->lock);
	return moved ? pci_bars_sync(fn->root) : 0;
}

int pci_function_load(struct pci_function *fn, struct state_reader *r, struct error *err)
{
	struct config_image *image = malloc(sizeof(*image));
	int ret;

	if (!image)
		return error_set(
			err, ENOMEM, "%s: out of memory for a saved config space", fn->name);
	memcpy(image->config, fn->config, sizeof(image->config));
	ret = state_load(r, &pci_config_state, image, err);
	if (ret == 0)
		ret = image_take(fn, image, err);
	free(image);
	return ret;
}
