/*
 * Two words carry the protocol of vcpu.h. `want` is main's: it stores, counts `asked` up, wakes and
 * kicks. `still` is the vCPU's: it stores "moving", then looks at `want` once more. With a full
 * fence between the store and the look on both sides (Dekker), one of the two sees the other:
 * either main waits for the vCPU, or the vCPU sees what main wants before it moves.
 */
#include "vmm/vcpu.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/log.h"

enum { VCPU_STACK = 128 * KIB, VCPU_SIGNAL = 34 /* SIGRTMIN, a constant here so that a row can name it */ };

const struct syscall_row vcpu_syscalls[] = {
	{ SYSCALL(ioctl, "run the guest", SYSCALL_ARG_EQ(1, KVM_RUN)) },
	{ SYSCALL(ppoll, "is an interrupt pending behind a mask") },
	{ SYSCALL(rt_sigreturn, "return from the signal that kicks a vCPU") },
	SYSCALL_END,
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void on_kick(int signal)
{
	(void)signal; /* leaving KVM_RUN is all it is for */
}

int vcpu_install_signal(struct error *err)
{
	struct sigaction action = { .sa_handler = on_kick };

	if (sigaction(VCPU_SIGNAL, &action, NULL) < 0)
		return error_set(err, errno, "cannot install the signal that kicks vCPUs: %s", strerror(errno));
	return 0;
}

int vcpu_create(struct vcpu *v, unsigned index, int fd, size_t run_size, struct error *err)
{
	void *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	*v = (struct vcpu){ .index = index, .fd = fd, .run_size = run_size, .still = VCPU_STANDS, .want = VCPU_PARK };
	if (run == MAP_FAILED)
		return error_set(err, errno, "cannot map vCPU %u: %s", index, strerror(errno));
	v->run = run;
	return 0;
}

void vcpu_destroy(struct vcpu *v)
{
	if (!v->run_size)
		return;
	if (v->run)
		munmap(v->run, v->run_size);
	close(v->fd);
	*v = (struct vcpu){ 0 };
}

static void stand(struct vcpu *v)
{
	/* Release: all the handler did so far is seen by main once it sees the thread still. */
	atomic_store_explicit(&v->still, VCPU_STANDS, memory_order_release);
	futex_wake(&v->still);
}

/* What main wants, once it is not (any more) to stand still; the thread moves when it returns. */
static uint32_t wait_until_let_go(struct vcpu *v)
{
	uint32_t want, asked;

	for (;;) {
		/*
		 * Acquire pairs with vcpu_ask: what main changed while we stood is seen before we
		 * go on.
		 */
		while (asked = atomic_load(&v->asked),
			(want = atomic_load_explicit(&v->want, memory_order_acquire)) == VCPU_PARK) {
			if (atomic_load_explicit(&v->still, memory_order_relaxed) != VCPU_STANDS)
				stand(v);
			futex_wait(&v->asked, asked);
		}
		/*
		 * Pairs with the fence in vcpu_ask: main sees us moving and waits, or we see that
		 * it asked before.
		 */
		atomic_store(&v->still, VCPU_MOVES);
		atomic_thread_fence(memory_order_seq_cst);
		if (atomic_load(&v->want) == want)
			return want;
	}
}

void vcpu_wait_begin(struct vcpu *v)
{
	/* Before it stands: who sees it still sees this too. */
	atomic_store_explicit(&v->midway, true, memory_order_relaxed);
	stand(v);
}

void vcpu_wait_end(struct vcpu *v)
{
	wait_until_let_go(v);
	/* Main reads it of a vCPU that it holds, and now nobody holds us. */
	atomic_store_explicit(&v->midway, false, memory_order_relaxed);
}

void vcpu_new_life(struct vcpu *v)
{
	atomic_fetch_add(&v->life, 1);
}

static void handle_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	/* String instructions come as `count` accesses of one port. */
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(v->pio, run->io.port, data, run->io.size);
		else
			bus_read(v->pio, run->io.port, data, run->io.size);
	}
}

static void handle_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	unsigned len = MIN(run->mmio.len, (uint32_t)sizeof(run->mmio.data));

	if (run->mmio.is_write)
		bus_write(v->mmio, run->mmio.phys_addr, run->mmio.data, len);
	else
		bus_read(v->mmio, run->mmio.phys_addr, run->mmio.data, len);
}

/* 1: go on; 0: this vCPU has nothing more to do. */
static int handle_exit(struct vcpu *v)
{
	char what[64];
	int r;

	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(v);
		return 1;
	case KVM_EXIT_MMIO:
		handle_mmio(v);
		return 1;
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
	case KVM_EXIT_UNKNOWN:
		return 1;
	case KVM_EXIT_SHUTDOWN:
		v->events->post(v->events->ctx, VM_EVENT_TRIPLE_FAULT, NULL);
		return 0;
	default:
		r = arch_vcpu_exit(v->fd, v->run, v->events);
		if (r >= 0)
			return r;
		snprintf(what, sizeof(what), "vcpu%u: KVM exit %u, suberror %u", v->index, v->run->exit_reason,
			v->run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? v->run->internal.suberror : 0);
		v->events->post(v->events->ctx, VM_EVENT_FAILED, what);
		return 0;
	}
}

/* The kernel and main look at it while the vCPU thread runs. */
static void set_immediate_exit(struct vcpu *v, uint8_t value)
{
	__atomic_store_n(&v->run->immediate_exit, value, __ATOMIC_RELAXED);
}

/* Between two KVM_RUN. Returns what main wants in the end: run or stop. */
static uint32_t obey(struct vcpu *v)
{
	/* Before `want` is looked at: main sets it again after it wrote a new `want`. */
	set_immediate_exit(v, 0);
	return wait_until_let_go(v);
}

/* True: kicked. False: this vCPU has nothing more to run until it is reset or stopped. */
static bool run(struct vcpu *v)
{
	char what[64];

	while (ioctl(v->fd, KVM_RUN, 0) == 0) {
		atomic_fetch_add_explicit(&v->exits, 1, memory_order_relaxed);
		if (!handle_exit(v))
			return false;
	}
	if (errno == EINTR || errno == EAGAIN)
		return true;
	snprintf(what, sizeof(what), "vcpu%u: KVM_RUN: %s", v->index, strerror(errno));
	v->events->post(v->events->ctx, VM_EVENT_FAILED, what);
	return false;
}

static void rest(struct vcpu *v)
{
	/* Before it stands: main resets only vCPUs that stand. */
	uint32_t life = atomic_load(&v->life), asked;

	stand(v);
	/*
	 * A hold that comes and goes is none of its business. The futex is the count: `want` may be
	 * as before when we look again, and a reset lies between.
	 */
	while (asked = atomic_load(&v->asked), atomic_load(&v->want) != VCPU_STOP && atomic_load(&v->life) == life)
		futex_wait(&v->asked, asked);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	char name[16];
	struct error err;

	/* By itself: from outside it would need /proc, which is gone after confinement. */
	snprintf(name, sizeof(name), "vcpu%u", v->index);
	prctl(PR_SET_NAME, name);
	atomic_store(&v->tid, (pid_t)syscall(SYS_gettid));
	if (sandbox_seal(v->filter, &err) < 0) {
		v->events->post(v->events->ctx, VM_EVENT_FAILED, err.text);
		rest(v);
	}
	while (obey(v) != VCPU_STOP)
		if (!run(v))
			rest(v);
	stand(v);
	v->events->post(v->events->ctx, VM_EVENT_VCPU_GONE, NULL);
	return NULL;
}

int vcpu_start(struct vcpu *v, struct error *err)
{
	sigset_t set;
	pthread_attr_t attr;
	int r;

	sigfillset(&set);
	sigdelset(&set, VCPU_SIGNAL);
	v->pid = getpid();
	pthread_attr_init(&attr);
	pthread_attr_setsigmask_np(&attr, &set);
	pthread_attr_setstacksize(&attr, VCPU_STACK);
	r = pthread_create(&v->thread, &attr, vcpu_main, v);
	pthread_attr_destroy(&attr);
	if (r)
		return error_set(err, r, "cannot start the thread of vCPU %u: %s; raise the limit of processes (ulimit -u)",
			v->index, strerror(r));
	v->started = true;
	return 0;
}

void vcpu_ask(struct vcpu *v, enum vcpu_want want)
{
	/* Release pairs with the acquire in obey(). */
	atomic_store_explicit(&v->want, want, memory_order_release);
	atomic_fetch_add(&v->asked, 1);
	atomic_thread_fence(memory_order_seq_cst); /* pairs with that in wait_until_let_go() */
	if (!v->started)
		return;
	futex_wake(&v->asked);
	if (want == VCPU_RUN)
		return;
	set_immediate_exit(v, 1);
	/*
	 * Not pthread_kill(), which asks for the process's id and blocks signals around it. No id
	 * yet: the thread has not looked at `want` either.
	 */
	if (atomic_load(&v->tid))
		syscall(SYS_tgkill, v->pid, atomic_load(&v->tid), VCPU_SIGNAL);
}

void vcpu_wait_still(struct vcpu *v)
{
	while (v->started && atomic_load_explicit(&v->still, memory_order_acquire) == VCPU_MOVES)
		futex_wait(&v->still, VCPU_MOVES);
}

void vcpu_join(struct vcpu *v)
{
	if (v->started)
		pthread_join(v->thread, NULL);
	v->started = false;
}
