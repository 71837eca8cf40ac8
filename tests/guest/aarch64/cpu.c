/*
 * What an ARM machine does its own way: the command line from the device tree, text on the PL011, config space by ECAM alone, and
 * PSCI (Arm DEN 0022) by hvc for how a machine ends and how a second vCPU starts.
 */
#include "tests/guest/lib.h"
#include "tests/guest/pci.h"

enum { PL011_DATA = 0x09000000, VIRTIO_VENDOR = 0x1af4 };
enum { FDT_MAGIC = 0xd00dfeed, FDT_BEGIN_NODE = 1, FDT_END_NODE, FDT_PROP, FDT_NOP, FDT_END, FDT_MAX = 2 << 20 };
#define PSCI_CPU_ON 0xc4000003u
#define PSCI_SYSTEM_OFF 0x84000008u
#define PSCI_SYSTEM_RESET 0x84000009u

extern const char second_start[]; /* start.S */

void *memset(void *to, int value, size_t len)
{
	uint8_t *p = to;

	while (len && ((uint64_t)p & 7)) {
		*p++ = (uint8_t)value;
		len--;
	}
	for (; len >= 8; len -= 8, p += 8)
		*(uint64_t *)p = (uint8_t)value * 0x0101010101010101u;
	while (len--)
		*p++ = (uint8_t)value;
	return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
	const uint8_t *f = from;
	uint8_t *p = to;

	while (len--)
		*p++ = *f++;
	return to;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static size_t length(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

/* Devicetree Specification 0.4 §5.4: /chosen's bootargs, in the structure block, where it is the tree's alone. */
const char *cpu_command_line(const void *boot)
{
	const uint8_t *fdt = boot, *p, *end;
	unsigned depth = 0;
	bool chosen = false;

	if (!fdt || be32(fdt) != FDT_MAGIC || be32(fdt + 4) > FDT_MAX)
		return NULL;
	p = fdt + be32(fdt + 8);
	end = fdt + be32(fdt + 4);
	while (p < end) {
		uint32_t token = be32(p);

		p += 4;
		if (token == FDT_BEGIN_NODE) {
			if (++depth == 2)
				chosen = same((const char *)p, "chosen");
			p += (length((const char *)p) + 4) & ~3ul;
		} else if (token == FDT_END_NODE) {
			depth--;
		} else if (token == FDT_PROP) {
			const char *name = (const char *)fdt + be32(fdt + 12) + be32(p + 4);

			if (depth == 2 && chosen && same(name, "bootargs"))
				return (const char *)p + 8;
			p += 8 + ((be32(p) + 3) & ~3u);
		} else if (token != FDT_NOP) {
			break;
		}
	}
	return "";
}

void cpu_put(char c)
{
	write32(PL011_DATA, (uint8_t)c);
}

/* SMCCC: the arguments and the answer in x0 to x3, and nothing else is kept. */
static void psci(uint64_t function, uint64_t a, uint64_t b, uint64_t c)
{
	register uint64_t x0 __asm__("x0") = function, x1 __asm__("x1") = a, x2 __asm__("x2") = b, x3 __asm__("x3") = c;

	__asm__ volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : :
		"x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "memory");
}

void cpu_start_second(void)
{
	psci(PSCI_CPU_ON, 1, (uint64_t)second_start, 0);
}

void power_off(void)
{
	psci(PSCI_SYSTEM_OFF, 0, 0, 0);
	for (;;)
		relax();
}

void reset_by(const char *way)
{
	(void)way;
	psci(PSCI_SYSTEM_RESET, 0, 0, 0);
	for (;;)
		relax();
}

/* Interrupts are masked. */
void halt(void)
{
	for (;;)
		__asm__ volatile("wfi");
}

uint8_t pci_read8(unsigned devfn, unsigned at)
{
	return read8(pci_ecam(devfn, at));
}

uint16_t pci_read16(unsigned devfn, unsigned at)
{
	return read16(pci_ecam(devfn, at));
}

uint32_t pci_read32(unsigned devfn, unsigned at)
{
	return read32(pci_ecam(devfn, at));
}

void pci_write8(unsigned devfn, unsigned at, uint8_t v)
{
	write8(pci_ecam(devfn, at), v);
}

void pci_write16(unsigned devfn, unsigned at, uint16_t v)
{
	write16(pci_ecam(devfn, at), v);
}

void pci_write32(unsigned devfn, unsigned at, uint32_t v)
{
	write32(pci_ecam(devfn, at), v);
}

void pci_check_doors(unsigned devfn)
{
	pci_write16(devfn, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	check_equal(pci_read16(devfn, PCI_COMMAND) & 7, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, "the command register takes a write");
	pci_write32(devfn, PCI_VENDOR, 0);
	check_equal(pci_read16(devfn, PCI_VENDOR), VIRTIO_VENDOR, "ids take no write");
	check_equal(pci_read32(31 << 3 | 7, 0), 0xffffffff, "an absent function reads as ones by ECAM");
	check_equal(pci_read8(0, PCI_HEADER), 0, "there is a host bridge with a normal header");
}
