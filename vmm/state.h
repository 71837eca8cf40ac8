/*
 * One table saves and loads: the fields of a struct that the guest can know, by name.
 *
 * A `state_desc` names the thing, its version, the oldest version it still reads, and a const table
 * of fields. The stream of one object is: name, version, then (field name, type, count, bytes) in
 * table order, an end mark, and a CRC-32C over all of it. A stream is as hostile as a guest: every
 * length is bounded by the table before it is used, nothing is allocated from it, and an unknown,
 * duplicate, missing or leftover field fails with a sentence. A load first parses everything into a
 * scratch copy of the object's fields; only when all of it is right (and check() agrees) is the
 * object changed: all or nothing.
 *
 * Fields that came later say `since`; when an older stream lacks them they keep what the object
 * has.
 *
 * A field of a type without a wire form does not compile (STATE_TYPE has no default).
 */
#ifndef VMM_STATE_H
#define VMM_STATE_H

#include "vmm/error.h"

enum state_type { STATE_U8 = 1, STATE_U16, STATE_U32, STATE_U64, STATE_BOOL };

struct state_field {
	const char *name;
	uint32_t offset;
	uint16_t count;       /* 1, or the elements of an array */
	uint8_t type;         /* enum state_type */
	uint8_t since;        /* 0: from the first version on */
	uint32_t stride;      /* bytes from one element to the next: an array of structs is saved member by member */
};

struct state_desc {
	const char *name;     /* "virtio-blk" */
	uint16_t version, oldest;
	uint32_t object_size; /* sizeof the struct the offsets are in */
	const struct state_field *fields; /* name NULL ends */
	/*
	 * After a load, on the scratch object (only saved fields are meaningful, others are as in
	 * the live one).
	 */
	int (*check)(const void *object, struct error *err);
};

#define STATE_TYPE(x)                                                                              \
	_Generic((x), uint8_t: STATE_U8, uint16_t: STATE_U16, uint32_t: STATE_U32,                  \
		uint64_t: STATE_U64, bool: STATE_BOOL)
#define STATE_MEMBER(T, m) (((T *)0)->m)
/* A scalar member, an array member, and member m of each element of the array member a. */
#define STATE_FIELD(T, m)                                                                          \
	{ #m, offsetof(T, m), 1, STATE_TYPE(STATE_MEMBER(T, m)), 0, sizeof(STATE_MEMBER(T, m)) }
#define STATE_ARRAY(T, m)                                                                          \
	{ #m, offsetof(T, m), ARRAY_SIZE(STATE_MEMBER(T, m)), STATE_TYPE(STATE_MEMBER(T, m)[0]), 0, \
		sizeof(STATE_MEMBER(T, m)[0]) }
#define STATE_EACH(T, a, m)                                                                        \
	{ #a "." #m, offsetof(T, a) + offsetof(__typeof__(STATE_MEMBER(T, a)[0]), m),               \
		ARRAY_SIZE(STATE_MEMBER(T, a)), STATE_TYPE(STATE_MEMBER(T, a)[0].m), 0,             \
		sizeof(STATE_MEMBER(T, a)[0]) }
#define STATE_END { NULL, 0, 0, 0, 0, 0 }

/* A growing byte buffer for saving; a cursor for loading. */
struct state_writer {
	uint8_t *data;
	size_t len, cap;
	int error;            /* -ENOMEM sticks */
};

struct state_reader {
	const uint8_t *data;
	size_t len, pos;
};

void state_writer_free(struct state_writer *w);

int state_save(struct state_writer *w, const struct state_desc *desc, const void *object) NEEDS_CHECK;
int state_load(struct state_reader *r, const struct state_desc *desc, void *object,
	struct error *err) NEEDS_CHECK;
/* Leftover bytes are an error. */
int state_reader_finish(const struct state_reader *r, struct error *err) NEEDS_CHECK;

#endif
