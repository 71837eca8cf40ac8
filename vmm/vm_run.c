/*
 * The running machine: main's loop, what reaches it (signals, events), and the states it goes
 * through.
 *
 * An event never acts where it happens. A vCPU that sees the guest turn itself off posts and goes
 * on into KVM_RUN; main holds all vCPUs and then does what the event asks for.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/vm.h"

/* A guest that resets more often than this is broken, and would burn the host's CPU for ever. */
enum { RESETS_MAX = 20, RESETS_WINDOW_S = 60 };

const struct syscall_row vm_main_syscalls[] = {
	{ SYSCALL(futex, "locks, and waiting until a vCPU stands still") },
	{ SYSCALL(clock_gettime, "limit the rate of log lines and resets, where the vDSO cannot") },
	{ SYSCALL(exit_group, "the process ends") },
	{ SYSCALL(tgkill, "kick a vCPU out of the guest", SYSCALL_ARG_PID(0)) },
	{ SYSCALL(mmap, "memory for unpacking the kernel again at a reset; no file, never executable",
		SYSCALL_ARG_MASKED(4, UINT32_MAX, UINT32_MAX)) },
	{ SYSCALL(munmap, "give that memory back") },
	{ SYSCALL(madvise, "large pages for what is unpacked", SYSCALL_ARG_EQ(2, MADV_HUGEPAGE)) },
	{ SYSCALL(brk, "memory for unpacking the kernel again at a reset") },
	{ SYSCALL(pread64, "read the kernel again at a reset") },
	{ SYSCALL(close, "shut down") },
	SYSCALL_END,
};

static void ask_all(struct vm *vm, enum vcpu_want want)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_ask(&vm->vcpus[i], want);
}

void vm_hold(struct vm *vm)
{
	if (vm->holds++)
		return;
	/*
	 * Also those that were asked to stop: one that waited for main inside an exit goes on in
	 * its handler before it stops.
	 */
	ask_all(vm, VCPU_PARK);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_wait_still(&vm->vcpus[i]);
}

void vm_release(struct vm *vm)
{
	if (vm->holds && --vm->holds)
		return;
	/* A machine that is paused keeps its vCPUs. */
	if (vm->state == VM_RUNNING)
		ask_all(vm, VCPU_RUN);
	else if (vm->state == VM_STOPPING)
		ask_all(vm, VCPU_STOP);
}

/* Does a held vCPU stand inside an exit? Its registers are not to be read or written then. */
static bool any_midway(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (atomic_load(&vm->vcpus[i].midway))
			return true;
	return false;
}

struct stillness {
	struct vm *vm;
	int (*fn)(void *arg);
	void *arg;
	int ret;
};

static void in_stillness(void *ctx)
{
	struct stillness *s = ctx;

	vm_hold(s->vm);
	s->ret = s->fn(s->arg);
	vm_release(s->vm);
}

static struct vcpu *self(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (vm->vcpus[i].started && pthread_equal(vm->vcpus[i].thread, pthread_self()))
			return &vm->vcpus[i];
	return NULL;
}

int vm_stop_world(void *ctx, int (*fn)(void *arg), void *arg)
{
	struct stillness s = { .vm = ctx, .fn = fn, .arg = arg };
	struct vcpu *v;

	if (pthread_equal(s.vm->main_thread, pthread_self())) {
		in_stillness(&s);
		return s.ret;
	}
	v = self(s.vm);
	if (!v)
		return -EPERM;
	/* Main may be holding vCPUs already: while we wait for it we count as still. */
	vcpu_wait_begin(v);
	if (loop_call(s.vm->loop, in_stillness, &s) < 0)
		s.ret = -EAGAIN;
	vcpu_wait_end(v);
	return s.ret;
}

/* Under the lock. */
static bool has_room(const struct vm_inbox *in, enum vm_event event)
{
	if (event == VM_EVENT_DEVICE_ERROR)
		return in->count < VM_EVENTS_MAX - VM_EVENTS_SPARE;
	for (unsigned i = 0; i < in->count; i++)
		if (in->entry[(in->head + i) % VM_EVENTS_MAX].event == event)
			return false;
	return in->count < VM_EVENTS_MAX;
}

static void post_event(void *ctx, enum vm_event event, const char *what)
{
	struct vm *vm = ctx;
	struct vm_inbox *in = &vm->inbox;
	const uint64_t one = 1;

	pthread_mutex_lock(&in->lock);
	if (event == VM_EVENT_VCPU_GONE) {
		in->gone++;
	} else if (has_room(in, event)) {
		struct vm_event_entry *e = &in->entry[(in->head + in->count++) % VM_EVENTS_MAX];

		e->event = event;
		snprintf(e->what, sizeof(e->what), "%s", what ? what : "");
	}
	pthread_mutex_unlock(&in->lock);
	if (write(in->fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: main is woken as it is */
}

void vm_stop(struct vm *vm, int status)
{
	if (vm->state == VM_STOPPING || vm->state == VM_DEAD)
		return;
	vm->state = VM_STOPPING;
	vm->status = status;
	/*
	 * Main's loop goes on until the last vCPU is gone: one may be waiting for main in
	 * vm_stop_world().
	 */
	ask_all(vm, VCPU_STOP);
}

static void vcpu_gone(struct vm *vm)
{
	if (++vm->gone < vm->nvcpus)
		return;
	vm->state = VM_DEAD;
	loop_stop(vm->loop);
}

static bool resets_too_often(struct vm *vm)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (ts.tv_sec - vm->resets.window_start >= RESETS_WINDOW_S) {
		vm->resets.window_start = ts.tv_sec;
		vm->resets.count = 0;
	}
	return ++vm->resets.count > RESETS_MAX;
}

/*
 * A guest that wants a reset tries several ways in a row; what it asked for before the reset is not
 * for its next life.
 */
static void forget_wishes(struct vm_inbox *in)
{
	unsigned kept = 0;

	pthread_mutex_lock(&in->lock);
	for (unsigned i = 0; i < in->count; i++) {
		struct vm_event_entry e = in->entry[(in->head + i) % VM_EVENTS_MAX];

		if (e.event != VM_EVENT_RESET && e.event != VM_EVENT_TRIPLE_FAULT && e.event != VM_EVENT_POWEROFF)
			in->entry[(in->head + kept++) % VM_EVENTS_MAX] = e;
	}
	in->count = kept;
	pthread_mutex_unlock(&in->lock);
}

static void reboot(void *ctx)
{
	struct vm *vm = ctx;
	struct error err;

	vm->resets.posted = false;
	vm->resets.after_resume = vm->state == VM_PAUSED;
	if (vm->state != VM_RUNNING)
		return;
	vm_hold(vm);
	if (any_midway(vm)) {
		/* Its own message is in the loop, or comes soon: after that. */
		vm_release(vm);
		vm->resets.posted = true;
		if (loop_post(vm->loop, reboot, vm) < 0)
			vm_stop(vm, 1);
		return;
	}
	forget_wishes(&vm->inbox);
	if (vm_reset_machine(vm, &err) < 0) {
		log_error("the machine cannot be reset: %s", err.text);
		vm_stop(vm, 1);
	}
	vm_release(vm);
}

static void reset(struct vm *vm, int exit_status)
{
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return;
	if (!vm->reboot) {
		vm_stop(vm, exit_status);
		return;
	}
	/* The life that ends may wish again while its reset waits. */
	if (vm->resets.posted || vm->resets.after_resume)
		return;
	if (resets_too_often(vm)) {
		log_error("the guest was reset more than %d times in %d seconds; giving up", RESETS_MAX,
			RESETS_WINDOW_S);
		vm_stop(vm, 1);
		return;
	}
	reboot(vm);
}

static bool any_held(const struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->held && d->ops->held(d))
			return true;
	return false;
}

/*
 * vCPUs are held and devices run: those have requests that they can neither end nor give back. What
 * failed may have been tried again since it was told.
 */
static void pause_stuck(void *ctx)
{
	struct vm *vm = ctx;

	if (vm->state != VM_RUNNING || !any_held(vm))
		return;
	vm_hold(vm);
	if (any_midway(vm)) {
		/* Its own message is in the loop, or comes soon: after that. */
		vm_release(vm);
		if (loop_post(vm->loop, pause_stuck, vm) < 0)
			log_error("the machine cannot be paused: out of messages");
		return;
	}
	vm->state = VM_PAUSED;
	vm->stuck = true;
	log_warn("the machine is paused; SIGUSR2 lets it go on and tries again what failed");
}

static void handle_event(struct vm *vm, const struct vm_event_entry *e)
{
	switch (e->event) {
	case VM_EVENT_POWEROFF:
		log_info("the guest turned itself off");
		vm_stop(vm, 0);
		break;
	case VM_EVENT_RESET:
		log_info("the guest asked for a reset");
		reset(vm, 0);
		break;
	case VM_EVENT_TRIPLE_FAULT:
		log_warn("the guest crashed (triple fault)%s", vm->reboot ? "; resetting it" : "");
		reset(vm, 1);
		break;
	case VM_EVENT_PANIC:
		log_warn("the guest's kernel reports: %s", e->what);
		break;
	case VM_EVENT_HANG_UP:
		log_info("ended from the terminal");
		vm_stop(vm, 0);
		break;
	case VM_EVENT_DEVICE_ERROR:
		log_warn("%s", e->what);
		break;
	case VM_EVENT_PAUSE:
		log_warn("%s", e->what);
		pause_stuck(vm);
		break;
	case VM_EVENT_VCPU_GONE:
		vcpu_gone(vm);
		break;
	case VM_EVENT_FAILED:
		log_error("the machine cannot go on: %s", e->what);
		vm_stop(vm, 1);
		break;
	}
}

static bool take_event(struct vm_inbox *in, struct vm_event_entry *ret)
{
	bool any;

	pthread_mutex_lock(&in->lock);
	any = in->count > 0 || in->gone > 0;
	if (in->gone > 0) {
		*ret = (struct vm_event_entry){ .event = VM_EVENT_VCPU_GONE };
		in->gone--;
	} else if (any) {
		*ret = in->entry[in->head];
		in->head = (in->head + 1) % VM_EVENTS_MAX;
		in->count--;
	}
	pthread_mutex_unlock(&in->lock);
	return any;
}

static void on_inbox(void *ctx)
{
	struct vm *vm = ctx;
	struct vm_event_entry e;

	while (take_event(&vm->inbox, &e))
		handle_event(vm, &e);
}

static void press_power_button(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->power_button)
			d->ops->power_button(d);
}

static void on_signal(void *ctx, unsigned events)
{
	struct vm *vm = ctx;
	struct signalfd_siginfo info;
	int r;

	(void)events;
	if (read(vm->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGUSR1:
		log_info("pressing the power button");
		press_power_button(vm);
		break;
	case SIGUSR2:
		r = vm_resume(vm);
		log_info("%s", r ? "SIGUSR2: the machine is not paused" : "the machine goes on");
		break;
	default:
		log_info("ended by signal %u", info.ssi_signo);
		vm_stop(vm, 0);
		break;
	}
}

static bool ignored(int signal)
{
	struct sigaction now;

	return sigaction(signal, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

/*
 * Early in stage 2: from here on a signal finds the machine in a state that it can be
 * ended from.
 */
static int watch_signals(struct vm *vm, struct error *err)
{
	static const int always[] = { SIGTERM, SIGUSR1, SIGUSR2 }, unless_ignored[] = { SIGINT, SIGQUIT, SIGHUP };
	struct loop_source *source;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		sigaddset(&set, always[i]);
	/*
	 * nohup(1), and a shell's background jobs, which ^C is not meant for: a blocked signal
	 * would come although it is ignored.
	 */
	for (size_t i = 0; i < ARRAY_SIZE(unless_ignored); i++)
		if (!ignored(unless_ignored[i]))
			sigaddset(&set, unless_ignored[i]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* A write past ulimit -f is an error of that write. */
	signal(SIGXFSZ, SIG_IGN);
	vm->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (vm->signal_fd < 0 || loop_add(vm->loop, vm->signal_fd, LOOP_READ, on_signal, vm, &source) < 0)
		return error_set(err, errno, "cannot watch for signals: %s", strerror(errno));
	return 0;
}

int vm_events_init(struct vm *vm, struct error *err)
{
	struct loop_source *source;
	int r;

	vm->events = (struct vm_events){ .post = post_event, .ctx = vm };
	pthread_mutex_init(&vm->inbox.lock, NULL);
	r = loop_create(&vm->loop, err);
	if (r < 0)
		return r;
	vm->inbox.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->inbox.fd < 0 || loop_add_eventfd(vm->loop, vm->inbox.fd, on_inbox, vm, &source) < 0)
		return error_set(err, errno, "cannot watch for events: %s; raise ulimit -n", strerror(errno));
	return watch_signals(vm, err);
}

int vm_start(struct vm *vm, struct error *err)
{
	int r = 0;

	loop_seal(vm->loop);
	aside_close(&vm->aside);
	/* First those that will have most to do; they are let go when all the others are there. */
	for (unsigned i = 0; i < vm->nvcpus && r == 0; i++) {
		vm->vcpus[i].filter = vm->vcpu_filter;
		r = vcpu_start(&vm->vcpus[i], err);
	}
	for (unsigned i = 0; i < vm->nworkers && r == 0; i++)
		r = worker_run(vm->workers[i], vm->mode, err);
	if (r == 0)
		r = sandbox_seal(vm->main_filter, err);
	/* The last thread that is not confined: it was told to end, and has had the time. */
	aside_end(&vm->aside);
	if (r < 0) {
		for (unsigned i = 0; i < vm->nvcpus; i++) {
			vcpu_ask(&vm->vcpus[i], VCPU_STOP);
			vcpu_join(&vm->vcpus[i]);
		}
		return r;
	}
	vm->state = VM_RUNNING;
	vm_release(vm);
	return 0;
}

int vm_run(struct vm *vm)
{
	int r = loop_run(vm->loop);

	if (r < 0) {
		log_error("the event loop of main ended: %s", strerror(-r));
		vm->status = 1;
	}
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_join(&vm->vcpus[i]);
	return vm->status;
}

static void pause_devices(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->pause)
			d->ops->pause(d);
}

int vm_pause(struct vm *vm)
{
	if (vm->state == VM_PAUSED && vm->stuck) {
		vm->stuck = false;
		pause_devices(vm);
		return 0;
	}
	if (vm->state != VM_RUNNING)
		return -EBUSY;
	vm_hold(vm);
	if (any_midway(vm)) {
		vm_release(vm);
		return -EAGAIN;
	}
	vm->state = VM_PAUSED;
	pause_devices(vm);
	return 0;
}

int vm_resume(struct vm *vm)
{
	if (vm->state != VM_PAUSED)
		return -EBUSY;
	for (struct device *d = vm->devices; d; d = d->next) {
		void (*go_on)(struct device *dev) = vm->stuck ? d->ops->retry : d->ops->resume;

		if (go_on)
			go_on(d);
	}
	vm->stuck = false;
	vm->state = VM_RUNNING;
	vm_release(vm);
	if (vm->resets.after_resume)
		reboot(vm);
	return 0;
}
