/*
 * A writer of AML, the bytecode of ACPI's DSDT (ACPI 6.5 chapter 20), into a buffer of the caller.
 *
 * Terms are appended in the order in which they stand in ASL. What has a length of its own - a
 * scope, a device, a method, a package, a resource template - is opened by aml_*_begin() and closed
 * by aml_end(): everything written in between is its content, to any depth up to AML_DEPTH_MAX. The
 * length field in front is made when it is closed, in its shortest form, so the bytes are the ones
 * a compiler would write.
 *
 * Nothing is ever written outside the buffer. The first failure sticks in `error` and turns every
 * later call into nothing; a caller checks once, with aml_finish(). Main thread; any number of
 * writers at a time.
 */
#ifndef FIRMWARE_AML_H
#define FIRMWARE_AML_H

#include "vmm/util.h"

enum { AML_DEPTH_MAX = 16 };

struct aml {
	uint8_t *buf;
	size_t room, len;
	int error; /* 0, -ENOSPC the buffer is full, -EINVAL a term that cannot be written */
	unsigned depth;
	struct aml_open {
		size_t start;  /* where the length field goes */
		bool template; /* resource template: gets an end tag and its byte count */
	} open[AML_DEPTH_MAX];
};

void aml_init(struct aml *a, void *buf, size_t room);
/* 0 with *ret_len set to the bytes written; else the first error, also when something is still
 * open. */
int aml_finish(const struct aml *a, size_t *ret_len) NEEDS_CHECK;

/* Break the writer, for what a caller cannot express; the first error (-errno) stays. */
void aml_fail(struct aml *a, int error);
/* Bytes as they are; for the descriptors of resource templates. */
void aml_bytes(struct aml *a, const void *bytes, size_t n);

/* Opcodes that take plain terms after them (§20.3); given to aml_op(). */
enum aml_op {
	AML_NULL_NAME = 0x00, /* in a target's place: store nowhere */
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_STORE = 0x70,  /* source, target */
	AML_AND = 0x7b,	   /* operand, operand, target */
	AML_NOTIFY = 0x86, /* object, value */
	AML_RETURN = 0xa4, /* value */
};

/* One term. `path`: "\\_SB.PCI0", "^FOO", "BAR"; segments of 1 to 4 characters are padded with '_'.
 */
void aml_op(struct aml *a, enum aml_op op);
void aml_path(struct aml *a, const char *path);
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* "PNP0A08" as the 32-bit number it is compressed to (§19.3.4, EISAID). */
void aml_eisaid(struct aml *a, const char *id);

/* Name (path, ...): the object is the term written next; the helpers write both. */
void aml_name(struct aml *a, const char *path);
void aml_name_int(struct aml *a, const char *path, uint64_t v);
void aml_name_string(struct aml *a, const char *path, const char *s);
void aml_name_eisaid(struct aml *a, const char *path, const char *id);

void aml_scope_begin(struct aml *a, const char *path);
void aml_device_begin(struct aml *a, const char *path);
/* `args` 0 to 7. */
void aml_method_begin(struct aml *a, const char *path, unsigned args, bool serialized);
void aml_package_begin(struct aml *a, uint8_t elements);
/* The predicate is the first term inside. */
void aml_if_begin(struct aml *a);
void aml_end(struct aml *a);

enum aml_space { AML_SYSTEM_MEMORY = 0, AML_SYSTEM_IO = 1 };
enum aml_access { AML_BYTE_ACCESS = 1, AML_WORD_ACCESS = 2, AML_DWORD_ACCESS = 3 };

void aml_region(struct aml *a, const char *path, enum aml_space space, uint64_t base, uint64_t len);
/* Field (region, access, NoLock, WriteAsZeros). Its units are written inside. */
void aml_field_begin(struct aml *a, const char *region, enum aml_access access);
/* `bits` below 64. */
void aml_field_unit(struct aml *a, const char *name, unsigned bits);

/* ResourceTemplate as the object of Name (_CRS, ...); descriptors (§6.4) are written inside. */
void aml_resources_begin(struct aml *a);
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
/* A fixed range: 32-bit descriptor when it lies below 4 GiB, 64-bit otherwise. */
void aml_res_memory(struct aml *a, uint64_t base, uint64_t len);
/* ResourceConsumer, edge-triggered, active-high, exclusive. */
void aml_res_edge_interrupt(struct aml *a, uint32_t gsi);
/* Windows that a bridge hands on (ResourceProducer); len is not 0. */
void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t len);
void aml_res_io_window(struct aml *a, uint32_t base, uint32_t len);
void aml_res_memory_window(struct aml *a, uint64_t base, uint64_t len);

#endif
