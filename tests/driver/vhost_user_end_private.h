/* The inside of the back end of vhost_user_end.h: packed rings have a file of their own. */
#ifndef TESTS_DRIVER_VHOST_USER_END_PRIVATE_H
#define TESTS_DRIVER_VHOST_USER_END_PRIVATE_H

#include "tests/driver/vhost_user_end.h"

enum { QUEUES = 8, REGIONS = 16, FDS = 8, PENDING = 256, NEXT = 1, WRITE = 2, INDIRECT = 4 };

struct end_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct end_ring {
	unsigned num;
	struct end_desc *desc;
	uint16_t *avail; /* flags, idx, ring */
	uint8_t *used;
	uint16_t last_avail;
	int kick, call;
	bool enabled;
	struct vhost_user_split_region *region;
	uint64_t counter;
	struct vhost_user_packed_region *packed;
	uint16_t packed_avail, packed_used; /* offset, and the wrap counter in bit 15; used: as told */
	uint16_t pending[PENDING]; /* split: heads; packed: entries of the region */
	unsigned npending;
};

struct end_region {
	struct vhost_user_region at;
	uint8_t *host;
};

struct end {
	struct end_config c;
	int sock, disk, own;
	uint64_t sectors, features, protocol;
	struct end_region regions[REGIONS];
	unsigned nregions;
	struct end_ring ring[QUEUES];
	uint8_t *inflight;
	struct vhost_user_inflight area;
	uint8_t wce;
	unsigned requests;
	uint32_t random;
	int fds[FDS];
	unsigned nfds;
};

void end_must(bool ok, const char *what);
/* The host's pointer to an address that it was told of. */
void *end_find(struct end *e, uint64_t addr, uint64_t len, bool user);
void end_die_at(struct end *e, enum end_death where);
/* The request that n descriptors hold; bytes written. */
uint32_t end_do_disk(struct end *e, const struct end_desc *d, unsigned n);
void end_call(const struct end_ring *q);

/* vhost_user_end_packed.c: what split rings have, section "Inflight I/O tracking". */
bool end_packed_pop(struct end_ring *q);
void end_packed_complete(struct end *e, struct end_ring *q, unsigned pending);
void end_packed_recover(struct end_ring *q, void *region, uint16_t size);
void end_packed_set_base(struct end_ring *q, uint32_t num);
uint32_t end_packed_base(const struct end_ring *q);

#endif
