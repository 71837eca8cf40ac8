/*
 * What the bare-metal guest has instead of a C library and an operating system: ports, MMIO, text on the serial line,
 * the command line, time, and the lines that the host-side runner reads.
 *
 * A test program prints one line per property, "ok NAME" or "not ok NAME: reason", then "done N failed", and powers off.
 * Everything runs on one vCPU at CPL 3 and polls.
 */
#ifndef TESTS_GUEST_LIB_H
#define TESTS_GUEST_LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Linux, docs of the PVH protocol: public/arch-x86/hvm/start_info.h of Xen, version 1 */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};
struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

enum port {
	PORT_I8042 = 0x64,
	PORT_CMOS_INDEX = 0x70,
	PORT_CMOS_DATA = 0x71,
	PORT_COM1 = 0x3f8,
	PORT_PVPANIC = 0x505,
	PORT_GED_EVENTS = 0x600,
	PORT_GED_SLEEP = 0x604,
	PORT_GED_RESET = 0x606,
	PORT_PCI_ADDRESS = 0xcf8,
	PORT_PCI_DATA = 0xcfc,
	PORT_DEBUG_EXIT = 0xf4, /* QEMU's isa-debug-exit */
};

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* Device registers: one plain mov each, the form that every instruction emulator knows. */
#define MMIO_ACCESS(bits, suffix, reg)                                                              \
	static inline uint##bits##_t read##bits(uint64_t at)                                       \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		__asm__ volatile("mov" suffix " (%1), %0" : "=" reg(v) : "r"(at) : "memory");      \
		return v;                                                                          \
	}                                                                                          \
	static inline void write##bits(uint64_t at, uint##bits##_t v)                              \
	{                                                                                          \
		__asm__ volatile("mov" suffix " %0, (%1)" : : reg(v), "r"(at) : "memory");         \
	}
MMIO_ACCESS(8, "b", "q")
MMIO_ACCESS(16, "w", "r")
MMIO_ACCESS(32, "l", "r")
MMIO_ACCESS(64, "q", "r")

static inline void relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline uint64_t cycles(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

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

const struct hvm_start_info *start_info(void);

/* Neither of the three returns. */
void power_off(void) __attribute__((noreturn));
void reset(void) __attribute__((noreturn));
void halt(void) __attribute__((noreturn));
void triple_fault(void) __attribute__((noreturn));

/* The device's memory: this much, aligned to `align` (a power of two), zeroed, never given back but all at once. */
void *dma(size_t size, size_t align);
void dma_reset(void);
/* What was taken until now outlives dma_reset(). */
void dma_keep(void);

/* The compiler calls these two; start.S calls the others. */
void *memset(void *to, int value, size_t len);
void *memcpy(void *to, const void *from, size_t len);
void guest_main(const struct hvm_start_info *info);
void guest_exception(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2);

#endif
