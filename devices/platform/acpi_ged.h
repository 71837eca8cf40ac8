/*
 * Registers of the event device ("ged"), as offsets from its place. firmware/acpi.h says the same
 * of the tables; the rooms may not include each other, so a unit test holds the two together.
 */
#ifndef DEVICES_PLATFORM_ACPI_GED_H
#define DEVICES_PLATFORM_ACPI_GED_H

enum {
	GED_EVENTS = 0,	       /* 32 bits; reading a byte clears it */
	GED_SLEEP_CONTROL = 4, /* 8 bits, ACPI 6.5 §4.8.3.7 */
	GED_SLEEP_STATUS = 5,  /* 8 bits, ACPI 6.5 §4.8.3.7 */
	GED_RESET = 6,	       /* 8 bits, the FADT's RESET_REG */
	GED_LEN = 8,

	GED_EVENT_POWER_BUTTON = 1,
	GED_RESET_VALUE = 'R',
	GED_SLEEP_TYPE_S5 = 5,
	GED_SLEEP_ENABLE = 1 << 5,
	GED_SLEEP_TYPE_SHIFT = 2,
	GED_SLEEP_TYPE_MASK = 7,
};

#endif
