/* Values that sweeps write, by class: what a register's handler may take for a size, a sign, an index, an address. */
#ifndef TESTS_GUEST_VALUES_H
#define TESTS_GUEST_VALUES_H

#include "tests/guest/lib.h"

enum value_class { ZEROES, ONE, ONES, SIGN_BITS, LARGEST_SIGNED, PATTERN, VALUE_CLASSES };

static inline const char *value_class_name(unsigned class)
{
	static const char *const names[VALUE_CLASSES] = { "_zeroes", "_one", "_ones", "_sign_bits",
		"_largest_signed", "_pattern" };

	return names[class];
}

/* For an access of `width` bytes at `at`. */
static inline uint64_t value_of(enum value_class class, unsigned width, uint64_t at)
{
	uint64_t sign = UINT64_C(1) << (8 * width - 1);

	switch (class) {
	case ZEROES:
		return 0;
	case ONE:
		return 1;
	case ONES:
		return UINT64_MAX;
	case SIGN_BITS:
		return sign;
	case LARGEST_SIGNED:
		return sign - 1;
	default:
		return (at + 1) * 0x9e3779b97f4a7c15u;
	}
}

/* MMIO of 1, 2, 4 or 8 bytes. */
static inline void write_width(uint64_t at, unsigned width, uint64_t v)
{
	switch (width) {
	case 1:
		write8(at, (uint8_t)v);
		break;
	case 2:
		write16(at, (uint16_t)v);
		break;
	case 4:
		write32(at, (uint32_t)v);
		break;
	default:
		write64(at, v);
		break;
	}
}

static inline uint64_t read_width(uint64_t at, unsigned width)
{
	return width == 1 ? read8(at) : width == 2 ? read16(at) : width == 4 ? read32(at) : read64(at);
}

#endif
