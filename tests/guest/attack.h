/*
 * Hostile drivers: the frame around each case.
 *
 * A case begins with its device freshly started, does one bad thing, and says what must have come of it. The frame then
 * asks what must hold after every case: two other devices still serve, no byte changed that no driver gave away, and after a
 * reset the device itself serves again. What only the host can see (that the monitor lives, its processor time, its
 * memory, the length of its log) hostile.py judges, by the lines "case ..." and "ok ..." or "not ok ...".
 *
 * Cases are numbered through all sets, so that after a crash the next machine goes on with from=.
 */
#ifndef TESTS_GUEST_ATTACK_H
#define TESTS_GUEST_ATTACK_H

#include "tests/guest/vio.h"

enum { RING = 64, ARENA = 64 * 1024 };

enum target_kind { TARGET_BLK, TARGET_RNG, TARGET_NET_TX, TARGET_NET_RX, TARGET_CONSOLE_TX, TARGETS };

/* What must become of the device. A broken ring is told by NEEDS_RESET (virtio 1.2 §2.1.2). */
enum outcome { BREAKS, SERVES, EITHER };

struct target {
	struct vio v;
	enum target_kind kind;
	unsigned queue;       /* the one under attack */
	uint8_t *in, *out;    /* ARENA bytes that the device may read, and may write */
	uint8_t *behind;      /* pages behind `out`, which it may not write */
	uint64_t features;    /* beyond those of the rings */
};

struct attack_set {
	const char *name;
	unsigned count;
	/* The rest of the case's name, in up to two parts; NULL: there is no such case here (another ring format). */
	void (*title)(unsigned i, const char *part[2]);
	void (*run)(struct target *t, unsigned i);
	/* Which device it is made on; NULL: the disk. */
	enum target_kind (*on)(unsigned i);
	unsigned kicks;       /* of the heaviest case, for the bound on processor time; 0: a few */
};

extern const struct attack_set *const attack_sets[]; /* NULL ends; attack_sets.c */
extern const struct attack_set *const cpu_attack_sets[]; /* those of the CPU, behind the others */

/* Places around and between devices, for the set "place". */
struct attack_place {
	const char *name; /* NULL ends */
	uint64_t from, to;
	bool hole;        /* reads give ones */
};
enum { PLACES = 12 };
extern const struct attack_place cpu_places[PLACES];

/* The case has failed; the first reason is printed. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* fail() unless it holds. */
#define must(holds, ...)           \
	do {                       \
		if (!(holds))      \
			fail(__VA_ARGS__); \
	} while (0)

const char *target_name(enum target_kind kind);
/* Rings in fresh memory, the driver ready. false: it does not start. */
bool target_start(struct target *t);
/* Nobody wrote behind `out` since it was started. */
bool target_guarded(const struct target *t);
/* Up to FEATURES_OK with `features`, and no queue. */
bool target_negotiate(struct target *t, uint64_t features);
/* Serves a good request; after target_start() and as often as wished. */
bool target_serves(struct target *t);
/* Waits for the outcome, as long as patience lasts. */
void target_must(struct target *t, enum outcome outcome);

/* net: header and frame that ask for the host's address (RFC 826), to which it answers; how many bytes. */
unsigned target_arp(struct target *t, uint8_t *p);

bool is_packed(void);
uint64_t ram_end(void);
void pause_for(uint64_t turns);

/* A raw descriptor in the place `i` of the ring; packed: flags are made available, `next` is the buffer id. */
struct raw {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
enum { RAW_NEXT = 1, RAW_WRITE = 2, RAW_INDIRECT = 4, RAW_AVAIL = 128, RAW_USED = 32768 };

void raw_put(struct target *t, unsigned i, struct raw d);
/* Split: heads 0 to n - 1 as they are named; packed: the first descriptor, which was put without its flags, gets them. */
void raw_expose(struct target *t, const uint16_t *heads, unsigned n);
/* Split: the ring's index; packed: how many places from 0 on were used (in one round). */
unsigned raw_used(const struct target *t);
/* The length of the used entry `i`. */
uint32_t raw_used_len(const struct target *t, unsigned i);
/* A good request of this device in the places from `at` on; how many it takes. */
unsigned raw_request(struct target *t, unsigned at);
/* Waits until that many are used. */
bool raw_comes_back(struct target *t, unsigned n);
/* Sets the available index (split). */
void raw_index(struct target *t, uint16_t index);

#endif
