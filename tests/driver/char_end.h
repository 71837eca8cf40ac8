/* A character host with a loop on a thread of its own, and an owner that can be told how much it takes. */
#ifndef TESTS_DRIVER_CHAR_END_H
#define TESTS_DRIVER_CHAR_END_H

#include <pthread.h>
#include <stdatomic.h>

#include "devices/host/char.h"

enum { CHAR_END_MAX = 64 * 1024, CHAR_END_PATIENCE_MS = 5000 };

struct char_end {
	struct loop *loop;
	pthread_t thread;
	bool runs;
	struct char_host *host;
	pthread_mutex_t lock;
	uint8_t got[CHAR_END_MAX]; /* lock */
	size_t ngot;               /* lock */
	size_t allowed;            /* lock; input() takes no more than this in all */
	_Atomic unsigned calls, ready, hang_ups, sizes, columns, rows;
};

/* 0 or what char_open() said. `allowed`: how many bytes are taken until char_end_allow(). */
int char_end_open(struct char_end *e, const struct char_config *config, size_t allowed, struct error *err);
/* Stops the loop; the host goes too. Also after a failed open. */
void char_end_close(struct char_end *e);
size_t char_end_output(struct char_end *e, const void *data, size_t len);
void char_end_allow(struct char_end *e, size_t more);
size_t char_end_got(struct char_end *e);
/* Wait until `n` bytes are there; false when they do not come. */
bool char_end_wait(struct char_end *e, size_t n);
/* Wait until *v is at least n. */
bool char_end_wait_for(_Atomic unsigned *v, unsigned n);
uint64_t char_end_dropped(struct char_end *e);

#endif
