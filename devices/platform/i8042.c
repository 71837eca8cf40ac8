/*
 * What is left of the keyboard controller: its pulse on the processor's reset line (Intel 8042,
 * commands 0xF0 to 0xFF pulse output port bits that are 0 in the low nibble; bit 0 is reset). Linux
 * and others reboot by it when they find nothing better.
 *
 * There is no keyboard, and a probe should learn that without waiting. So the status always says
 * "output full, input empty": a driver that drains the output gives up after its buffer's 16 bytes,
 * where an empty output would let it send a self-test and wait half a second for the answer; and
 * who waits for an empty input before a command, as a reboot does, need not wait at all.
 *
 * No state; vCPU threads.
 */
#include "devices/platform/platform.h"

enum {
	DATA = 0,
	COMMAND = 4, /* write; read: status */
	PLACE_LEN = 5,
	STATUS_OUTPUT_FULL = 1 << 0,
	STATUS_SELF_TEST_PASSED = 1 << 2,
	PULSE = 0xf0,
	PULSE_NOT_RESET = 1 << 0,
};

static void data_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	(void)ctx, (void)offset;
	memset(data, 0xff, len);
}

static void data_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	(void)ctx, (void)offset, (void)data, (void)len;
}

static void status_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	(void)ctx, (void)offset;
	memset(data, STATUS_OUTPUT_FULL | STATUS_SELF_TEST_PASSED, len);
}

static void command_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct platform *p = ctx;
	uint8_t command = *(const uint8_t *)data;

	(void)offset, (void)len;
	if ((command & PULSE) == PULSE && !(command & PULSE_NOT_RESET))
		p->events->post(p->events->ctx, VM_EVENT_RESET, "i8042");
}

static const struct bus_ops data_ops = { .read = data_read, .write = data_write };
static const struct bus_ops command_ops = { .read = status_read, .write = command_write };

static const struct device_ops i8042_ops = { .destroy = platform_destroy };

/* The ports between data and command are others'. */
static const struct platform_kind i8042_kind = {
	.type = &i8042_type,
	.ops = &i8042_ops,
	.size = sizeof(struct platform),
	.len = PLACE_LEN,
	.range = { { DATA, 1, &data_ops }, { COMMAND, 1, &command_ops } },
};

static int i8042_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	(void)options;
	return platform_make(ret, &i8042_kind, env, err);
}

const struct device_type i8042_type = {
	.name = "i8042",
	.id_prefix = "_i8042",
	.create = i8042_create,
};
