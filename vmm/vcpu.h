/*
 * One thread per vCPU.
 *
 * A vCPU is asked for one of three things (`want`): run, park, stop. To be heard it is kicked:
 * immediate_exit is set and a signal sent, so that it leaves KVM_RUN, or does not enter it,
 * whichever comes first. It parks only between two KVM_RUN, when the exit before has been
 * completed: its registers are then consistent.
 *
 * `still` says that the thread is not inside a register handler and will not go on in one before it
 * is let go: it is parked, resting, not yet started, gone, or waiting for main in the middle of an
 * exit. Only in the last case (`midway`) are its registers not to be touched: KVM finishes the
 * instruction at the next KVM_RUN. A thread that is held may say for a moment that it moves, while
 * it looks whether it is: so main waits for `still` once, and afterwards asks `midway` alone.
 *
 * A vCPU whose guest has crashed or turned the machine off rests: it runs again only in a new life,
 * which a reset begins.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/bus.h"
#include "vmm/device.h"
#include "vmm/sandbox.h"

enum vcpu_want { VCPU_RUN, VCPU_PARK, VCPU_STOP };
enum vcpu_still { VCPU_MOVES, VCPU_STANDS };

struct kvm_run;

struct vcpu {
	/* const after vcpu_create */
	unsigned index;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	struct bus *mmio, *pio;
	const struct vm_events *events;
	const struct sandbox_filter *filter;
	/* shared */
	_Atomic uint32_t want;        /* enum vcpu_want; written by main */
	_Atomic uint32_t asked;       /* counts vcpu_ask(); a futex */
	_Atomic uint32_t still;       /* enum vcpu_still; written by the vCPU, a futex */
	_Atomic bool midway;          /* inside an exit, waiting for main; written by the vCPU before it stands */
	_Atomic uint32_t life;        /* counts resets; written by main while the vCPU stands */
	_Atomic uint64_t exits;       /* to user space, for statistics */
	/* main */
	pthread_t thread;
	bool started;
	pid_t pid;              /* const once started */
	_Atomic pid_t tid;      /* 0 until the thread runs */
};

/* Fills *ret from a new vCPU fd; the fd becomes its own. Main. */
int vcpu_create(struct vcpu *v, unsigned index, int fd, size_t run_size, struct error *err) NEEDS_CHECK;
/* Not while the thread runs. Zeroed ones are fine. */
void vcpu_destroy(struct vcpu *v);

/* The signal that kicks; installed once by main before the first vCPU. */
int vcpu_install_signal(struct error *err) NEEDS_CHECK;

/* Start the thread, parked. */
int vcpu_start(struct vcpu *v, struct error *err) NEEDS_CHECK;
/* Ask; returns at once. */
void vcpu_ask(struct vcpu *v, enum vcpu_want want);
/* Wait until it is still. Main. */
void vcpu_wait_still(struct vcpu *v);
/* After VCPU_STOP: wait for the thread's end. Main. */
void vcpu_join(struct vcpu *v);

/* Reset: a vCPU that rests runs again when it is let go. Main, vCPUs held. */
void vcpu_new_life(struct vcpu *v);

/*
 * The calling vCPU thread is about to wait for main inside an exit, and goes on again: that returns
 * only when main does not hold the vCPUs, for the reason of that wait or another.
 */
void vcpu_wait_begin(struct vcpu *v);
void vcpu_wait_end(struct vcpu *v);

extern const struct syscall_row vcpu_syscalls[];

#endif
