#include <criterion/criterion.h>
#include <errno.h>

#include "vmm/device.h"

Test(device, of_each_key_the_first_device_has_its_say)
{
	struct device second_disk = { .cmdline = "root=/dev/vdb ro" };
	struct device disk = { .cmdline = "root=/dev/vda rw", .next = &second_disk };
	struct device silent = { .next = &disk };
	struct device hvc = { .cmdline = "console=hvc0", .next = &silent };
	struct device serial = { .cmdline = "console=ttyS0", .next = &hvc };
	char line[64];

	device_cmdline(&serial, line, sizeof(line));
	cr_assert_str_eq(line, "console=ttyS0 root=/dev/vda rw");
	device_cmdline(&hvc, line, sizeof(line));
	cr_assert_str_eq(line, "console=hvc0 root=/dev/vda rw");
	device_cmdline(&hvc, line, 16);
	cr_assert_str_eq(line, "console=hvc0", "what does not fit is left out whole");
	device_cmdline(NULL, line, sizeof(line));
	cr_assert_str_eq(line, "");
}

Test(device, places_are_handed_out_until_there_are_none)
{
	struct device_resources r = { .mmio_next = 0x1100, .mmio_end = 0x4000, .gsi_next = 5, .gsi_end = 7 };
	uint64_t base = 0;
	uint32_t gsi = 0;

	cr_assert_eq(device_take_mmio(&r, 0x1000, 0x1000, &base), 0);
	cr_assert_eq(base, 0x2000);
	cr_assert_eq(device_take_mmio(&r, 0x1001, 0x1000, &base), -ENOSPC);
	cr_assert_eq(device_take_mmio(&r, 0x1000, 0x1000, &base), 0);
	cr_assert_eq(device_take_mmio(&r, 1, 1, &base), -ENOSPC);
	cr_assert_eq(device_take_mmio(&r, 0, 1, &base), -ENOSPC);
	cr_assert_eq(device_take_gsi(&r, &gsi), 0);
	cr_assert_eq(device_take_gsi(&r, &gsi), 0);
	cr_assert_eq(gsi, 6);
	cr_assert_eq(device_take_gsi(&r, &gsi), -ENOSPC);
}
