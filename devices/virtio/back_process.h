/*
 * A device whose workers live in a process of their own (vmm/process.h), which is killed and
 * started again without the driver noticing more than a stall.
 *
 *   back_process.c        in the machine: the back of the front, which asks the process
 *   back_process_life.c   in the process: the workers and the device, asked by the former
 *
 * The two share the desk, a piece of memory that outlives each life of the process, and two
 * eventfds. A call is filled in, numbered and rung for; the caller, a vCPU or main under the lock
 * of the front, sleeps on the number of the last answer. So nobody needs a new system call, and
 * after the fork no descriptor travels: a queue's kick fd and all the transport's interrupts are
 * among those that the process kept. A call that was under way when the process died lies there
 * still, and the next life carries it out: each can be carried out twice.
 *
 * What a life needs of the one before it stands on the desk too: features, config space, which
 * queues run and where they began, what is in flight in each (queue_record.h), and the device's own
 * state, written anew after each command of the driver's.
 *
 * The process may be taken over by its guest. All it can write to is the desk, and all that main
 * believes of the desk harms that device only: a number, an error, two ring indices that the next
 * queue_open() checks, config space that only the guest reads (nobody waits for long on its
 * sequence count), a line for the log, a pause of its machine or the end of it where the device may
 * wish for that (a guest can power off by itself), a state that is parsed before it is passed on.
 * The other way round, a new life believes nothing either: its predecessor had the desk.
 */
#ifndef DEVICES_VIRTIO_BACK_PROCESS_H
#define DEVICES_VIRTIO_BACK_PROCESS_H

#include <pthread.h>
#include <stdatomic.h>

#include "devices/virtio/back.h"
#include "devices/virtio/queue_record.h"
#include "vmm/process.h"

enum desk_call {
	DESK_FEATURES = 1,
	DESK_START,
	DESK_STOP,
	DESK_CONFIG,
	DESK_RESET,
	DESK_SAVE,
	DESK_LOAD,
};

enum desk_notice { DESK_CONFIG_CHANGED = 1, DESK_BROKEN = 2, DESK_EVENT = 4 };

/* What a process may post to the machine; DESK_EVENT << n says that the n-th is on the desk. */
enum desk_event { DESK_EVENT_ERROR, DESK_EVENT_PAUSE, DESK_EVENT_HANG_UP, DESK_EVENTS };
extern const enum vm_event desk_events[DESK_EVENTS];

enum { DESK_STATE_MAX = 16 * KIB, DESK_EVENT_MAX = 96 };

struct desk_state {
	uint32_t len;            /* 0: none */
	uint8_t bytes[DESK_STATE_MAX];
};

struct desk_queue {
	struct queue_setup setup;/* as it was started; its indices where it stopped */
	uint32_t running;
};

struct desk {
	/* one call at a time */
	_Atomic uint32_t asked;  /* its number, once it is filled in */
	_Atomic uint32_t answered; /* a futex: the number of the last one that was carried out */
	uint32_t kind;           /* enum desk_call */
	uint32_t offset, len;    /* CONFIG: what the driver wrote */
	uint64_t features;       /* FEATURES */
	struct queue_setup setup;/* START, STOP: index; its indices are the answer of STOP */
	struct desk_state load;  /* LOAD */
	int32_t result;

	/* what the process says */
	_Atomic uint32_t notices;/* set of enum desk_notice */
	char event[DESK_EVENTS][DESK_EVENT_MAX];

	struct virtio_image config; /* of the device, for both and for all lives */
	struct virtio_hold hold;

	/* what a life tells the next one */
	uint32_t lives;
	uint64_t chosen;         /* features */
	uint32_t state_at;       /* which of the two is whole */
	struct desk_state state[2];
	uint8_t kept[VIRTIO_KEPT_MAX];
	struct desk_queue queue[VIRTIO_QUEUES_MAX];
	/* then a record for each queue */
};

struct back_process {
	struct back back;        /* first */
	struct process *process; /* const */
	struct desk *desk;       /* const */
	struct back *inner;      /* const; the workers, served in the process only */
	int bell, notice;        /* const; eventfds to the process and from it */
	unsigned patience_ms;    /* const; for an answer, before the process is started anew */

	uint32_t asked;          /* main and vCPUs, under the front's lock */
	_Atomic bool gone;       /* nobody will answer any more */

	pthread_mutex_t lock;    /* taking notices, against the reset that makes them void */
	struct loop_source *source; /* main */
	int64_t second;          /* main; of the last notice */
	unsigned notices;        /* main; in that second */
	uint8_t copy[DESK_STATE_MAX]; /* front's lock; what was fetched from the desk, once */

	/* a life of the process */
	bool resumed;            /* calls wait for that */
	struct vm_events events;
	struct state_writer writer;
};

/* The main() of a life. */
void back_process_life(void *ctx, int tomb);
struct queue_record *back_process_record(const struct back_process *bp, unsigned queue);

#endif
