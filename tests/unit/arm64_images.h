/* arm64 kernels made up for tests, and a machine of some RAM with all that a device tree can describe. */
#ifndef TESTS_ARM64_IMAGES_H
#define TESTS_ARM64_IMAGES_H

#include <stdlib.h>
#include <sys/mman.h>

#include "firmware/arm64.h"

enum {
	A64_RAM = 0x40000000,
	A64_FILE = 0x3000,        /* bytes of an Image */
	A64_TEXT_OFFSET = 8,
	A64_IMAGE_SIZE = 16,
	A64_FLAGS = 24,
	A64_MAGIC = 56,
	A64_PE = 60,
	A64_PE_AT = 0x40,
	A64_SECTIONS = A64_PE_AT + 24 + 0xa0,
	A64_ZBOOT_PAYLOAD = 0x200,
};

static const uint64_t a64_mpidr[] = { 0, 1, 2, 0x100000100 };

static inline struct fw_machine a64_machine(uint64_t size)
{
	struct fw_machine m = {
		.nram = 1,
		.cpus = 4,
		.cpus_max = 4,
		.cmdline = "console=ttyAMA0 quiet",
		.pci = {
			.ecam_base = 0x3f000000,
			.buses = 1,
			.mmio32_base = 0x10000000,
			.mmio32_size = 0x2eff0000,
			.mmio64_base = UINT64_C(0x8000000000),
			.mmio64_size = UINT64_C(0x8000000000),
			.pio_base = 0x3eff0000,
			.pio_size = 0x10000,
		},
		.nodes = {
			{ "pci-root", false, 0x3f000000, MIB, UINT32_MAX },
			{ "serial-pl011", false, 0x9000000, PAGE_4K, 1 },
			{ "rtc-pl031", false, 0x9010000, PAGE_4K, UINT32_MAX },
			{ "gpio-pl061", false, 0x9030000, PAGE_4K, 7 },
			{ "ged", true, 0x600, 8, 9 },
			{ "virtio-mmio", false, 0xa000000, 0x200, 16 },
			{ "virtio-mmio", false, 0xa000200, 0x200, 17 },
			{ "pvpanic", false, 0x9070000, 2, UINT32_MAX },
		},
		.nnodes = 8,
	};

	m.ram[0] = (struct fw_ram){ .gpa = A64_RAM, .size = size };
	m.ram[0].host = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m.ram[0].host == MAP_FAILED)
		abort();
	return m;
}

static inline struct fdt_options a64_gicv3(void)
{
	return (struct fdt_options){
		.gic = FDT_GIC_V3,
		.dist = { 0x8000000, 0x10000 },
		.cpu = { 0x80a0000, 4 * 0x20000 },
		.its = { 0x8080000, 0x20000 },
		.mpidr = a64_mpidr,
		.rng_seed = { 1, 2, 3 },
		.rng_seed_len = 32,
		.kaslr_seed = UINT64_C(0x0123456789abcdef),
	};
}

static inline struct fdt_options a64_gicv2(void)
{
	return (struct fdt_options){
		.gic = FDT_GIC_V2,
		.dist = { 0x8000000, 0x10000 },
		.cpu = { 0x8010000, 0x10000 },
		.v2m = { { 0x8020000, 0x1000 }, 128, 64 },
		.mpidr = a64_mpidr,
	};
}

/* A kernel of 3 pages that takes 8 MiB, with a PE header whose one section ends where the file does. */
static inline void a64_image(uint8_t f[static A64_FILE])
{
	memset(f, 0xd5, A64_FILE);
	memset(f, 0, 0x200);
	memcpy(f, "MZ", 2);
	put_le64(f + A64_IMAGE_SIZE, 8 * MIB);
	put_le64(f + A64_FLAGS, 0xa);
	memcpy(f + A64_MAGIC, "ARM\x64", 4);
	put_le32(f + A64_PE, A64_PE_AT);
	memcpy(f + A64_PE_AT, "PE\0\0", 4);
	put_le16(f + A64_PE_AT + 4, 0xaa64);
	put_le16(f + A64_PE_AT + 6, 1);
	put_le16(f + A64_PE_AT + 20, 0xa0);
	put_le32(f + A64_SECTIONS + 16, A64_FILE - 0x1000);
	put_le32(f + A64_SECTIONS + 20, 0x1000);
}

/* The caller frees it. */
static inline uint8_t *a64_zboot(size_t *ret_len, const void *payload, size_t len, const char *method)
{
	uint8_t *f = calloc(1, A64_ZBOOT_PAYLOAD + len + 64);

	if (!f)
		abort();
	memcpy(f, "MZ\0\0zimg", 8);
	put_le32(f + 8, A64_ZBOOT_PAYLOAD);
	put_le32(f + 12, (uint32_t)len);
	strncpy((char *)f + 24, method, 31);
	memcpy(f + A64_ZBOOT_PAYLOAD, payload, len);
	*ret_len = A64_ZBOOT_PAYLOAD + len + 64;
	return f;
}

#endif
