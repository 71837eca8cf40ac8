/*
 * The other end of vhost-user: a back end that serves a disk or echoes frames, for tests of the
 * front end. It is the body of a child process, so that it can be killed at any moment, and it can
 * be told to misbehave.
 *
 * Written from QEMU's docs/interop/vhost-user.rst, apart from the front end: it shares nothing but
 * the structs of the wire. It serves split rings, with in-flight tracking, and completes requests
 * in an order of its own.
 */
#ifndef TESTS_DRIVER_VHOST_USER_END_H
#define TESTS_DRIVER_VHOST_USER_END_H

#include <sys/types.h>

#include "devices/virtio/vhost_user_msg.h"

/* Where it kills itself, after `dies_after` requests. */
enum end_death {
	END_LIVES,
	END_DIES_POPPED,     /* it took the request */
	END_DIES_DONE,       /* the data is there, the driver has not heard of it */
	END_DIES_USED,       /* the driver has heard, the in-flight buffer has not */
};

/* What it does instead of answering `bad_request`. */
enum end_manners {
	END_GOOD,
	END_HANGS,           /* nothing, and nothing afterwards */
	END_GARBLES,         /* bytes that are no message */
	END_LIES,            /* a size that is larger than what follows it, and than any message */
	END_WRONG,           /* a reply to something else */
	END_CLOSES,
	END_PIECES,          /* answers everything a byte at a time; that is allowed */
};

struct end_config {
	const char *path;    /* of the socket */
	bool connects;       /* to it; else it listens, which happens before end_start() returns */
	const char *disk;    /* a file of as many sectors; NULL: frames are sent back */
	uint64_t features, protocol;
	unsigned queues;
	unsigned depth;      /* requests that it lets pile up before it completes any; 0: none */
	enum end_death death;
	unsigned dies_after;
	enum end_manners manners;
	enum vhost_user_request bad_request;
	bool slow_stop;      /* answers GET_VRING_BASE before what it took is done */
	int change_fd;       /* an eventfd: when it is rung the disk is 8 sectors larger; 0: none */
	uint32_t seed;
};

/* All that this back end can. */
uint64_t end_features(void);
uint64_t end_protocol(void);

/* From this process: serves one front end after the other, until it is killed. */
void end_run(const struct end_config *config) __attribute__((noreturn));
/* In a child. Aborts when it cannot be started. */
pid_t end_start(const struct end_config *config);
/* Kill it, and wait until it is gone. */
void end_kill(pid_t pid);
/* Wait until it has ended by itself. */
void end_wait(pid_t pid);

#endif
