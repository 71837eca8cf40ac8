/* Where a PC has nothing, or something that is no device of ours. */
#include "tests/guest/attack.h"

const struct attack_place cpu_places[PLACES] = {
	{ "hole_below_the_pci_window", 0xbffffff0, 0xc0000000, true },
	{ "hole_in_the_middle", 0xb0000ff8, 0xb0001008, true },
	{ "end_of_the_pci_window", 0xe7fffff0, 0xe8000000, true },
	{ "config_space_of_no_function", 0xe80ff000, 0xe80ff010, true },
	{ "behind_config_space", 0xe80ffff0, 0xe8100010, false },
	{ "last_slots_of_virtio_mmio", 0xfebffff0, 0xfec00000, true },
	{ "behind_the_ioapic", 0xfec01000, 0xfec01010, true },
	{ "timers_of_other_machines", 0xfed00000, 0xfed00020, true },
	{ "tpm_of_other_machines", 0xfed40000, 0xfed40040, true },
	{ "behind_the_local_apic", 0xfee01000, 0xfee01010, true },
	{ "above_6_gib", 0x180000000, 0x180000010, true },
	{ "below_8_gib", 0x1fffffff0, 0x1fffffff8, true },
};
