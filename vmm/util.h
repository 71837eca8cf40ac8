/*
 * Small helpers that every room may use: arithmetic that says what it means, and bytes in wire
 * order.
 *
 * Guest-supplied numbers are added and multiplied only through the *_overflows helpers; a
 * hand-spelled `% 2` or `& PAGE_SIZE` test is how others went wrong.
 */
#ifndef VMM_UTIL_H
#define VMM_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NEEDS_CHECK __attribute__((warn_unused_result))

enum {
	KIB = 1024,
	MIB = 1024 * 1024,
	PAGE_4K = 4096,
	GUEST_PAGE_SHIFT = 12,
};
#define GIB (UINT64_C(1) << 30)

/* True when a + b or a * b does not fit; *ret is only meaningful when false is returned. */
static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *ret)
{
	return __builtin_add_overflow(a, b, ret);
}

static inline bool mul_overflows(uint64_t a, uint64_t b, uint64_t *ret)
{
	return __builtin_mul_overflow(a, b, ret);
}

static inline bool is_pow2(uint64_t v)
{
	return v && !(v & (v - 1));
}

/*
 * `align` is a power of two in the three below; align_up wraps to 0 past the top, so bound v first.
 */
static inline bool is_aligned(uint64_t v, uint64_t align)
{
	return !(v & (align - 1));
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

/* Is [a, a + alen) inside [b, b + blen)? Never wraps. */
static inline bool range_inside(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a >= b && alen <= blen && a - b <= blen - alen;
}

/* Do the two ranges share a byte? Empty ranges share none. */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && (a >= b ? a - b < blen : b - a < alen);
}

/* Little-endian loads and stores at any alignment; every host we build for is little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hosts are little-endian");

static inline uint16_t get_le16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t get_le32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t get_le64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

/* The same of memory that another may write meanwhile: one load each, whatever the compiler is. */
static inline uint32_t load_u32(const void *p)
{
	return ((const volatile struct { uint32_t v; } __attribute__((packed)) *)p)->v;
}

static inline uint64_t load_u64(const void *p)
{
	return ((const volatile struct { uint64_t v; } __attribute__((packed)) *)p)->v;
}

static inline void put_le16(void *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put_le32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void put_le64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* A register of `len` bytes read or written as an integer; len is 1 to 8. */
static inline uint64_t get_le(const void *p, size_t len)
{
	uint64_t v = 0;
	memcpy(&v, p, MIN(len, sizeof(v)));
	return v;
}

static inline void put_le(void *p, uint64_t v, size_t len)
{
	memcpy(p, &v, MIN(len, sizeof(v)));
}

#endif
