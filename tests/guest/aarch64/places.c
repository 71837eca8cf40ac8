/* Where an ARM machine has nothing, or something that is no device of ours. */
#include "tests/guest/attack.h"

const struct attack_place cpu_places[PLACES] = {
	{ "address_0", 0, 0x10, true },
	{ "hole_below_the_interrupt_controller", 0x07fffff0, 0x08000000, true },
	{ "behind_the_gpio", 0x09030000, 0x09030010, true },
	{ "last_slots_of_virtio_mmio", 0x0afffff0, 0x0b000000, true },
	{ "hole_in_the_middle", 0x0b000ff8, 0x0b001008, true },
	{ "hole_below_the_pci_window", 0x0ffffff0, 0x10000000, true },
	{ "end_of_the_pci_window", 0x3efffff0, 0x3f000000, true },
	{ "config_space_of_no_function", 0x3f0ff000, 0x3f0ff010, true },
	{ "behind_config_space", 0x3f0ffff0, 0x3f100010, false },
	{ "below_ram", 0x3ffffff0, 0x40000000, true },
	{ "above_6_gib", 0x180000000, 0x180000010, true },
	{ "below_8_gib", 0x1fffffff0, 0x1fffffff8, true },
};
