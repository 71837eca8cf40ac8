/*
 * Every device there is, one row each. The machine walks this table: flags, help, the sandbox,
 * state and firmware nodes follow from the rows. Platform devices are made where the CPU's list
 * (arch.h) puts them, the others for each time their flag is given.
 */
#include "devices/pci/pci.h"
#include "devices/platform/platform.h"
#include "devices/platform/serial.h"
#include "devices/virtio/console.h"
#include "devices/virtio/types.h"

const struct device_type *const device_types[] = {
	&pci_root_type,
	&ged_type,
	&gpio_pl061_type,
	&rtc_cmos_type,
	&rtc_pl031_type,
	&i8042_type,
	&pvpanic_type,
	&serial_16550_type,
	&serial_pl011_type,
	&virtio_console_row,
	&virtio_rng_row,
	&virtio_blk_row,
	&virtio_net_row,
	NULL,
};
