/*
 * Inside of the tap link, shared by its two parts: link_tap.c is the owner's, link_tap_open.c
 * main's.
 */
#ifndef DEVICES_HOST_LINK_TAP_H
#define DEVICES_HOST_LINK_TAP_H

#include "devices/host/link.h"
#include "devices/host/link_watch.h"

struct tap_ring;

struct tap {
	struct link link;            /* first */
	int fd;                      /* const */
	bool has_header;             /* const; frames carry a vnet header */
	struct tap_ring *ring;       /* owner; NULL: a system call per frame */
	struct loop_source *source;  /* owner */
	struct link_events events;   /* owner */
	bool listening, blocked;     /* owner */
	bool disabled;               /* owner; this queue of the interface is detached from it */
	bool gone;                   /* owner; the interface was removed, this fd is dead */
	struct link_watch *watch;    /* main; NULL: of another queue, or it cannot be watched */
	int told_fd;                 /* const; rings when main has heard of the interface; -1: never */
	struct loop_source *told_source; /* owner */
	_Atomic int told;            /* what it heard: enum link_watch_state */
	uint8_t spill;               /* owner; a frame that reaches here was too long */
};

extern const struct link_ops link_tap_ops;
/* Of every tap's owner; of one with several queues; main's. */
extern const struct syscall_row link_tap_syscalls[], link_tap_pairs_syscalls[], link_tap_main_syscalls[],
	link_tap_watch_syscalls[];

/*
 * link_tap_ring.c: a ring for the frames of the tap `fd`, which is O_NONBLOCK. Main, stage 2.
 * -errno: this kernel gives none that is good for it.
 */
int tap_ring_create(struct tap_ring **ret, int fd) NEEDS_CHECK;
/*
 * writev() or readv() of each frame, in order; a result is what the system call would have
 * returned, or -errno. How many have one: less than n when the kernel is short of memory. One
 * thread at a time.
 */
unsigned tap_ring_send(struct tap_ring *r, struct link_frame *f, unsigned n);
unsigned tap_ring_recv(struct tap_ring *r, struct link_frame *f, unsigned n);
/* A new process: the ring that main made is not there; another one in its place. */
int tap_ring_renew(struct tap_ring *r, int fd) NEEDS_CHECK;
extern const struct syscall_row tap_ring_forked_syscalls[];
/* Main. Takes NULL. */
void tap_ring_destroy(struct tap_ring *r);
/* Instead of one system call per frame. */
extern const struct syscall_row tap_ring_syscalls[], tap_plain_syscalls[];

#endif
