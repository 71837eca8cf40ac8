/* aarch64: accesses to registers, time, and where a machine of ours has what. */
#ifndef TESTS_GUEST_AARCH64_CPU_H
#define TESTS_GUEST_AARCH64_CPU_H

#include <stdint.h>

/* arch/aarch64/layout.c; all of it is fixed there, so that the device tree is asked for the command line alone. */
enum place_of {
	PLACE_RAM = 0x40000000,
	PLACE_HOLE = 0x0b000000,          /* behind the MMIO devices */
	PLACE_WINDOW = 0x20000000,        /* in the middle of that for 32-bit BARs */
	PLACE_ECAM = 0x3f000000,
	PLACE_VIRTIO = 0x0a000000,
	PLACE_CHIP = 0x08000000,          /* GIC distributor */
	PLACE_MESSAGES = 0x08090040,      /* GITS_TRANSLATER */
	PLACE_OF_KVM = 0x0c000000,        /* redistributors */
};
enum { CONFIG_PORTS = 0 };

/*
 * Device registers: one plain load or store each, the form that comes with a syndrome (Arm ARM D24.2.40, ISV). The map makes them
 * normal memory (start.S), so the barriers keep their order, also with that of rings.
 */
#define MMIO_ACCESS(bits, suffix, width)                                                           \
	static inline uint##bits##_t read##bits(uint64_t at)                                       \
	{                                                                                          \
		uint64_t v;                                                                        \
		__asm__ volatile("ldr" suffix " %" width "0, [%1]\n\tdmb osh" : "=r"(v) : "r"(at) : "memory");   \
		return (uint##bits##_t)v;                                                          \
	}                                                                                          \
	static inline void write##bits(uint64_t at, uint##bits##_t v)                              \
	{                                                                                          \
		__asm__ volatile("dmb osh\n\tstr" suffix " %" width "0, [%1]\n\tdmb osh"             \
				 : : "r"((uint64_t)v), "r"(at) : "memory");                        \
	}
MMIO_ACCESS(8, "b", "w")
MMIO_ACCESS(16, "h", "w")
MMIO_ACCESS(32, "", "w")
MMIO_ACCESS(64, "", "x")

static inline void relax(void)
{
	__asm__ volatile("yield" : : : "memory");
}

/* Nanoseconds of the virtual counter: as good as the cycles of a slow CPU. */
static inline uint64_t cycles(void)
{
	uint64_t count, hertz;

	__asm__ volatile("isb\n\tmrs %0, cntvct_el0\n\tmrs %1, cntfrq_el0" : "=r"(count), "=r"(hertz) : : "memory");
	return count / hertz * 1000000000 + count % hertz * 1000000000 / hertz;
}

#endif
