/*
 * Resource descriptors, the content of _CRS (ACPI 6.5 §6.4). Small ones have their length in the
 * tag; large ones have a 16-bit length that does not count the three bytes of tag and length.
 */
#include "firmware/aml.h"

#include <errno.h>

struct io_port { /* §6.4.2.5 I/O Port Descriptor */
	uint8_t tag, decode;
	uint16_t min, max;
	uint8_t align, len;
} __attribute__((packed));
_Static_assert(sizeof(struct io_port) == 8, "IO port descriptor");

struct memory32_fixed { /* §6.4.3.4 32-Bit Fixed Memory Range Descriptor */
	uint8_t tag;
	uint16_t length;
	uint8_t writable;
	uint32_t base, len;
} __attribute__((packed));
_Static_assert(sizeof(struct memory32_fixed) == 12, "fixed memory descriptor");

struct extended_interrupt { /* §6.4.3.6 Extended Interrupt Descriptor */
	uint8_t tag;
	uint16_t length;
	uint8_t flags, count;
	uint32_t gsi;
} __attribute__((packed));
_Static_assert(sizeof(struct extended_interrupt) == 9, "extended interrupt descriptor");

struct space_head { /* §6.4.3.5 Address Space Resource Descriptors, common part */
	uint8_t tag;
	uint16_t length;
	uint8_t type, flags, type_flags;
} __attribute__((packed));
_Static_assert(sizeof(struct space_head) == 6, "address space descriptor");

enum {
	TAG_IO = 0x47,
	TAG_MEMORY32_FIXED = 0x86,
	TAG_DWORD_SPACE = 0x87,
	TAG_WORD_SPACE = 0x88,
	TAG_EXTENDED_INTERRUPT = 0x89,
	TAG_QWORD_SPACE = 0x8a,
	LARGE_HEAD = 3,
	IO_DECODE16 = 1,
	INTERRUPT_CONSUMER = 1,
	INTERRUPT_EDGE = 2,
	SPACE_MEMORY = 0,
	SPACE_IO = 1,
	SPACE_BUS = 2,
	SPACE_CONSUMER = 1,
	SPACE_FIXED = 0x0c, /* neither end may move */
	MEMORY_WRITABLE = 1,
	IO_ENTIRE_RANGE = 3,
	SPACE_NUMBERS = 5, /* granularity, minimum, maximum, translation, length */
};

void aml_res_io(struct aml *a, uint16_t port, uint8_t len)
{
	struct io_port d = { TAG_IO, IO_DECODE16, port, port, 1, len };

	aml_bytes(a, &d, sizeof(d));
}

void aml_res_edge_interrupt(struct aml *a, uint32_t gsi)
{
	struct extended_interrupt d = { TAG_EXTENDED_INTERRUPT, sizeof(d) - LARGE_HEAD,
		INTERRUPT_CONSUMER | INTERRUPT_EDGE, 1, gsi };

	aml_bytes(a, &d, sizeof(d));
}

/* One of the three widths of address space descriptor; the caller knows that the numbers fit. */
static void put_space(struct aml *a, uint8_t tag, uint8_t width, const struct space_head *kind,
	uint64_t base, uint64_t len)
{
	const uint64_t number[SPACE_NUMBERS] = { 0, base, base + len - 1, 0, len };
	uint8_t d[sizeof(*kind) + SPACE_NUMBERS * sizeof(uint64_t)];
	struct space_head head = *kind;
	size_t size = sizeof(head) + SPACE_NUMBERS * width;

	head.tag = tag;
	head.length = (uint16_t)(size - LARGE_HEAD);
	memcpy(d, &head, sizeof(head));
	for (unsigned i = 0; i < SPACE_NUMBERS; i++)
		put_le(d + sizeof(head) + i * width, number[i], width);
	aml_bytes(a, d, size);
}

/* False, with the writer broken, when [base, base + len) is empty or goes past `top`. */
static bool check_range(struct aml *a, uint64_t base, uint64_t len, uint64_t top)
{
	if (len && base <= top && len - 1 <= top - base)
		return true;
	aml_fail(a, -EINVAL);
	return false;
}

void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t len)
{
	static const struct space_head kind = { .type = SPACE_BUS, .flags = SPACE_FIXED };

	if (check_range(a, first, len, UINT16_MAX))
		put_space(a, TAG_WORD_SPACE, sizeof(uint16_t), &kind, first, len);
}

void aml_res_io_window(struct aml *a, uint32_t base, uint32_t len)
{
	static const struct space_head kind = {
		.type = SPACE_IO, .flags = SPACE_FIXED, .type_flags = IO_ENTIRE_RANGE
	};

	if (!check_range(a, base, len, UINT32_MAX))
		return;
	if (len <= UINT16_MAX && base + (len - 1) <= UINT16_MAX)
		put_space(a, TAG_WORD_SPACE, sizeof(uint16_t), &kind, base, len);
	else
		put_space(a, TAG_DWORD_SPACE, sizeof(uint32_t), &kind, base, len);
}

void aml_res_memory_window(struct aml *a, uint64_t base, uint64_t len)
{
	static const struct space_head kind = {
		.type = SPACE_MEMORY, .flags = SPACE_FIXED, .type_flags = MEMORY_WRITABLE
	};

	if (!check_range(a, base, len, UINT64_MAX))
		return;
	if (len <= UINT32_MAX && base <= UINT32_MAX - (len - 1))
		put_space(a, TAG_DWORD_SPACE, sizeof(uint32_t), &kind, base, len);
	else
		put_space(a, TAG_QWORD_SPACE, sizeof(uint64_t), &kind, base, len);
}

void aml_res_memory(struct aml *a, uint64_t base, uint64_t len)
{
	static const struct space_head kind = { .type = SPACE_MEMORY,
		.flags = SPACE_FIXED | SPACE_CONSUMER,
		.type_flags = MEMORY_WRITABLE };
	struct memory32_fixed d = { TAG_MEMORY32_FIXED, sizeof(d) - LARGE_HEAD, MEMORY_WRITABLE,
		(uint32_t)base, (uint32_t)len };

	if (!check_range(a, base, len, UINT64_MAX))
		return;
	if (len <= UINT32_MAX && base <= UINT32_MAX - (len - 1))
		aml_bytes(a, &d, sizeof(d));
	else
		put_space(a, TAG_QWORD_SPACE, sizeof(uint64_t), &kind, base, len);
}
