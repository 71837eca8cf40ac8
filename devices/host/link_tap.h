/*
 * Inside of the tap link, shared by its two parts: link_tap.c is the owner's, link_tap_open.c
 * main's.
 */
#ifndef DEVICES_HOST_LINK_TAP_H
#define DEVICES_HOST_LINK_TAP_H

#include "devices/host/link.h"
#include "devices/host/link_watch.h"

struct tap {
	struct link link;            /* first */
	int fd;                      /* const */
	bool has_header;             /* const; frames carry a vnet header */
	struct loop_source *source;  /* owner */
	struct link_events events;   /* owner */
	bool listening, blocked;     /* owner */
	bool disabled;               /* owner; this queue of the interface is detached from it */
	bool gone;                   /* owner; the interface was removed, this fd is dead */
	struct link_watch *watch;    /* const; NULL: of another queue, or it cannot be watched */
	uint8_t spill;               /* owner; a frame that reaches here was too long */
};

extern const struct link_ops link_tap_ops;
/* Of every tap's owner; of one whose interface is watched; of one with several queues. */
extern const struct syscall_row link_tap_syscalls[], link_tap_watch_syscalls[], link_tap_pairs_syscalls[];

#endif
