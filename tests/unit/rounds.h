/*
 * How long loops are run where each instruction takes many times as long: under valgrind and under an emulator the same code is
 * looked at for other mistakes, or by another compiler, and a part of the rounds shows those as well. $MICROVM_UNIT_PART=N, set by
 * what runs the program there, asks for an N-th of them.
 */
#ifndef TESTS_UNIT_ROUNDS_H
#define TESTS_UNIT_ROUNDS_H

#include <stdlib.h>

/* At least one of n. Any thread. */
static inline unsigned rounds(unsigned n)
{
	const char *text = getenv("MICROVM_UNIT_PART");
	unsigned part = text ? (unsigned)strtoul(text, NULL, 10) : 1;

	return part > 1 && n > part ? n / part : n;
}

#endif
