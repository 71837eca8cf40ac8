/* Serial port with a PL011 (uart_pl011.c), at the place that the CPU's platform list gives it. */
#include "devices/host/char.h"
#include "devices/platform/serial.h"
#include "devices/platform/uart_pl011.h"

static int serial_pl011_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	int r = serial_create(ret, &serial_pl011_type, &uart_pl011, env, options, err);

	if (r == 0 && *ret)
		(*ret)->cmdline = "console=ttyAMA0";
	return r;
}

const struct device_type serial_pl011_type = {
	.name = "serial-pl011",
	.options = &serial_options,
	.id_prefix = "_serial",
	.state = &pl011_state,
	.create = serial_pl011_create,
};
