/*
 * The load of the I/O bench: a driver in ring 3 that keeps a number of requests in flight on each queue and prints one line
 * of JSON per case. It knows no monitor: over PCI or MMIO, it boots in any that enters PVH kernels.
 *
 *   test=blk|net
 *   cases=OP:SIZE:DEPTH:QUEUES:REQUESTS[,...]
 *   calls=1       ask for interrupts, which nobody takes; otherwise the driver polls and asks for none
 *
 * Times are of the time stamp counter. What is counted is what the driver sees: requests, and the kicks it made.
 */
#ifndef TESTS_BENCH_GUEST_LOAD_H
#define TESTS_BENCH_GUEST_LOAD_H

#include "tests/guest/vio.h"

enum {
	LOAD_DATA = 64 << 20, /* where the data of requests lie; the machine has RAM up to LOAD_DATA_END */
	LOAD_DATA_END = 448 << 20,
};

struct load_case {
	char op[16];
	uint32_t size;
	unsigned depth, queues;
	uint64_t requests;
};

/* cases= of the command line, for load_next(). */
const char *load_list(void);
/* The case at *list, which moves on. false: there is none. */
bool load_next(const char **list, struct load_case *ret);

void blk_load(void);
void net_load(void);

#endif
