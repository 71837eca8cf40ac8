/* Serial port with a 16550A (uart_16550.c), at the place that the CPU's platform list gives it. */
#include "devices/host/char.h"
#include "devices/platform/serial.h"
#include "devices/platform/uart_16550.h"

static int serial_16550_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	int r = serial_create(ret, &serial_16550_type, &uart_16550, env, options, err);

	if (r == 0 && *ret)
		(*ret)->cmdline = "console=ttyS0";
	return r;
}

const struct device_type serial_16550_type = {
	.name = "serial-16550",
	.options = &serial_options,
	.id_prefix = "_serial",
	.state = &uart_state,
	.create = serial_16550_create,
};
