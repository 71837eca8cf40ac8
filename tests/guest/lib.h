/*
 * What the bare-metal guest has instead of a C library and an operating system: MMIO, text on the serial line, the
 * command line, time, and the lines that the host-side runner reads. What depends on the CPU is in a folder of its name.
 *
 * A test program prints one line per property, "ok NAME" or "not ok NAME: reason", then "done N failed", and powers off.
 * Everything runs on one vCPU and polls.
 */
#ifndef TESTS_GUEST_LIB_H
#define TESTS_GUEST_LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Registers, time and addresses, from the CPU's own folder. */
#include "cpu.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Long enough for any answer of a device on a loaded host; it only ends tests that have failed. */
#define PATIENCE (UINT64_C(40) * 1000 * 1000 * 1000)

/* Text on the first serial line. %s %d %u %x %lu %lx %c only. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_args(const char *format, va_list ap);

/* "key=value" or "key" of the command line. */
bool arg_is(const char *key, const char *value);
bool arg_given(const char *key);
uint64_t arg_u64(const char *key, uint64_t otherwise);
/* Copies the value into buf; false when the key is not there. */
bool arg_copy(const char *key, char *buf, size_t size);

/* One property; the text after it is the reason when it does not hold. Returns `holds`. */
bool check(bool holds, const char *name, const char *reason, ...) __attribute__((format(printf, 3, 4)));
/* check() of two numbers. */
bool check_equal(uint64_t found, uint64_t expected, const char *name);
/* A property that this machine cannot show. */
void skip(const char *name, const char *reason);

bool same(const char *a, const char *b);
bool same_bytes(const void *a, const void *b, size_t len);
void fill(void *to, uint8_t value, size_t len);
/* Bytes that follow from seed and place, so that one in the wrong place is seen. */
void pattern(void *to, size_t len, uint32_t seed);
bool is_pattern(const void *at, size_t len, uint32_t seed);

/*
 * The CPU's own, in its cpu.c. The command line that the loader's table `boot` has, NULL: it has none, or is not the table
 * that it should be. Neither of the next three returns; reset_by() knows some ways by name, and takes the usual one for others.
 */
const char *cpu_command_line(const void *boot);
void cpu_put(char c);
/* Starts vCPU 1, which enters guest_ap(). */
void cpu_start_second(void);
void power_off(void) __attribute__((noreturn));
void reset_by(const char *way) __attribute__((noreturn));
void halt(void) __attribute__((noreturn));
/* What the loader gave start.S. */
const void *boot_table(void);

/* The device's memory: this much, aligned to `align` (a power of two), zeroed, never given back but all at once. */
void *dma(size_t size, size_t align);
void dma_reset(void);
/* What was taken until now outlives dma_reset(). */
void dma_keep(void);

/* The compiler calls these two; start.S calls the others. */
void *memset(void *to, int value, size_t len);
void *memcpy(void *to, const void *from, size_t len);
void guest_main(const void *boot);
void guest_exception(uint64_t vector, uint64_t code, uint64_t at, uint64_t address);

#endif
