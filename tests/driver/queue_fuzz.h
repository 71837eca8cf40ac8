/*
 * The engine of fuzz_queue_split and fuzz_queue_packed: the input is a program of small operations by a driver that
 * writes what it likes into its rings and a device that pops, uses and returns chains in any order. Aborts when an
 * invariant of queue.h does not hold.
 */
#ifndef TESTS_DRIVER_QUEUE_FUZZ_H
#define TESTS_DRIVER_QUEUE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* `features` on top of those the input chooses. */
void queue_fuzz(const uint8_t *data, size_t size, uint64_t features);

#endif
