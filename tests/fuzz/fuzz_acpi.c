/*
 * ACPI tables of any machine. They are refused with a sentence, or they are whole: within their room, with lengths and sums
 * that a guest can follow from the RSDP on (ACPI 6.5 §5.2).
 */
#include <stdlib.h>

#include "firmware/acpi.h"
#include "tests/fuzz/machine.h"
#include "vmm/log.h"

enum { AT = 0xe0000, ROOM = 0x20000, HEADER = 36, RSDP_LEN = 36, GUARD = 64 };

static const char *const kinds[] = { "serial-16550", "rtc-cmos", "i8042", "pvpanic", "virtio-mmio", "ged", "none of these" };

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

static const uint8_t *table(const struct fw_machine *m, uint64_t at, uint64_t room)
{
	const uint8_t *p = fw_ram_at(m, at, HEADER);
	uint32_t len;

	MUST(p && at >= AT);
	len = get_le32(p + 4);
	MUST(len >= HEADER && range_inside(at, len, AT, room) && sum(p, len) == 0);
	return p;
}

static void follow(const struct fw_machine *m, uint64_t rsdp, uint64_t room)
{
	const uint8_t *p = fw_ram_at(m, rsdp, RSDP_LEN), *xsdt;

	MUST(rsdp == AT && p && !memcmp(p, "RSD PTR ", 8) && sum(p, 20) == 0 && sum(p, RSDP_LEN) == 0);
	xsdt = table(m, get_le64(p + 24), room);
	MUST(!memcmp(xsdt, "XSDT", 4) && (get_le32(xsdt + 4) - HEADER) % 8 == 0);
	for (uint32_t i = HEADER; i < get_le32(xsdt + 4); i += 8) {
		const uint8_t *t = table(m, get_le64(xsdt + i), room);

		if (!memcmp(t, "FACP", 4))
			MUST(!memcmp(table(m, get_le64(t + 140), room), "DSDT", 4));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static uint8_t ram[ROOM + GUARD];
	static uint32_t ids[FW_CPUS_MAX];
	struct fw_machine m = { .nram = 1, .ram[0] = { AT, ROOM + GUARD, ram }, .cmdline = "" };
	uint64_t room = ROOM >> take(&in, 1) % 8, rsdp = 0;
	struct error err = { "" };

	log_level = LOG_ERROR - 1;
	memset(ram, 0x5a, sizeof(ram));
	take_machine(&in, &m, kinds, ARRAY_SIZE(kinds));
	for (unsigned i = 0; i < m.cpus_max; i++)
		ids[i] = 3 * i;
	m.cpu_ids = m.cpus & 1 ? ids : NULL;
	if (acpi_build(&m, AT, room, &rsdp, &err) == 0)
		follow(&m, rsdp, room);
	else
		MUST(err.text[0]);
	for (size_t i = room; i < sizeof(ram); i++)
		MUST(ram[i] == 0x5a);
	return 0;
}
