/* x86_64: ports, accesses to registers, time, and where a PC of ours has what. */
#ifndef TESTS_GUEST_X86_64_CPU_H
#define TESTS_GUEST_X86_64_CPU_H

#include <stdint.h>

/* arch/x86_64/layout.c, ARCHITECTURE.md */
enum place_of {
	PLACE_RAM = 0,
	PLACE_HOLE = 0xb0000000,
	PLACE_WINDOW = 0xd0000000,        /* in the middle of that for 32-bit BARs */
	PLACE_ECAM = 0xe8000000,
	PLACE_VIRTIO = 0xfe000000,
	PLACE_CHIP = 0xfec00000,          /* I/O APIC */
	PLACE_MESSAGES = 0xfee00000,      /* local APIC */
	PLACE_OF_KVM = 0xfffbc000,
};
enum { CONFIG_PORTS = 1 }; /* config space has them for a second door */

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

#endif
