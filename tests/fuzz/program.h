/*
 * A fuzz input read as a program: one instruction is an opcode, a width, an offset and a value. An
 * input ends where no whole instruction is left.
 */
#ifndef TESTS_FUZZ_PROGRAM_H
#define TESTS_FUZZ_PROGRAM_H

#include "vmm/util.h"

struct instruction {
	uint8_t op;
	uint8_t len;      /* 1, 2, 4 or 8 */
	uint16_t at;
	uint64_t value;
};

enum { INSTRUCTION_BYTES = 12, PROGRAM_MAX = 512 };

static inline bool program_next(const uint8_t **data, size_t *size, struct instruction *ret)
{
	const uint8_t *p = *data;

	if (*size < INSTRUCTION_BYTES)
		return false;
	*ret = (struct instruction){ p[0], (uint8_t)(1u << (p[1] & 3)), get_le16(p + 2), get_le64(p + 4) };
	*data += INSTRUCTION_BYTES;
	*size -= INSTRUCTION_BYTES;
	return true;
}

#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x))                                                                          \
			__builtin_trap();                                                          \
	} while (0)

#endif
