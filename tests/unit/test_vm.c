/*
 * The machine's life on /dev/kvm with guests of a few instructions: how it ends, resets, pauses, and what holds it still. Skipped where
 * there is no KVM.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/kernel_images.h"
#include "vmm/options_table.h"
#include "vmm/vm.h"

/* LIVES_AT: RAM that nothing is loaded to again. */
enum { COUNTER_AT = IMG_KERNEL_GPA + IMG_TEXT_SIZE, LIVES_AT = 0x1800000, STEP_NS = 20000000, WAIT_STEPS = 500 };

/* 32-bit code at the PVH entry. The GED's registers are at port 0x600: sleep control is 0x604, reset 0x606. */
#define COUNT 0xff, 0x05, 0x00, 0x10, 0x00, 0x01 /* inc dword [COUNTER_AT] */
#define HALT 0xfa, 0xf4, 0xeb, 0xfd              /* cli; 1: hlt; jmp 1b */
static const uint8_t turns_off[] = { COUNT, 0x66, 0xba, 0x04, 0x06, 0xb0, 0x34, 0xee, HALT };
static const uint8_t resets[] = { COUNT, 0x66, 0xba, 0x06, 0x06, 0xb0, 'R', 0xee, HALT };
/* What Linux does: one way after the other, without waiting for the first. */
#define COUNT_LIVES 0xff, 0x05, 0x00, 0x00, 0x80, 0x01
static const uint8_t resets_thrice[] = { COUNT_LIVES, 0x66, 0xba, 0x06, 0x06, 0xb0, 'R', 0xee, 0xee, 0xb0, 0xfe, 0xe6, 0x64, 0xee, 0x0f, 0x0b };
static const uint8_t crashes[] = { 0x0f, 0x0b /* ud2, and no table of handlers */ };
static const uint8_t counts[] = { COUNT, 0xeb, 0xf8 };
static const uint8_t halts[] = { HALT };
/* 1: in al, 0x80 (nobody is there); inc; jmp 1b: always on its way out of the guest or back */
static const uint8_t exits[] = { 0xe4, 0x80, COUNT, 0xeb, 0xf6 };

struct life {
	struct vm *vm;
	struct options *options;
	struct error err;
	char kernel[64];
	struct loop_source *timer;
	void (*act)(struct life *l);
	unsigned step;
	uint32_t seen, lives;
	bool done;
};

static void need_kvm(void)
{
	struct error err;
	struct kvm kvm;

	if (kvm_open(&kvm, &err) < 0)
		cr_skip_test("%s", err.text);
	kvm_close(&kvm);
}

static void write_kernel(struct life *l, const uint8_t *code, size_t len)
{
	static uint8_t elf[IMG_ELF_SIZE];
	int fd;

	img_elf(elf, true);
	memcpy(elf + IMG_TEXT_OFFSET + (IMG_PVH_ENTRY - IMG_KERNEL_GPA), code, len);
	memset(elf + IMG_DATA_OFFSET, 0, 4);
	strcpy(l->kernel, "/tmp/test_vm_XXXXXX");
	fd = mkstemp(l->kernel);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, elf, sizeof(elf)), sizeof(elf));
	close(fd);
}

static void make(struct life *l, const uint8_t *code, size_t len, const char *on_reset, const char *cpus)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	const char *argv[] = { "microvm", "--kernel", l->kernel, "--memory", "size=32M", "--serial", "null", "--cpus", cpus,
		"--on-reset", on_reset };

	write_kernel(l, code, len);
	cr_assert_eq(options_table_collect(groups, ARRAY_SIZE(groups), device_types), 0);
	cr_assert_eq(options_create(&l->options, groups), 0);
	cr_assert_eq(options_parse_argv(l->options, ARRAY_SIZE(argv), (char **)argv, &l->err), 0, "%s", l->err.text);
	cr_assert_eq(vm_create(&l->vm, l->options, SANDBOX_OFF, &l->err), 0, "%s", l->err.text);
}

static void on_timer(void *ctx)
{
	struct life *l = ctx;

	cr_assert_lt(l->step, WAIT_STEPS, "it hangs");
	l->act(l);
	l->step++;
}

/* Exit status of the machine, while `act` (may be NULL) is called every STEP_NS on main's loop. */
static int live(struct life *l, void (*act)(struct life *l))
{
	int status;

	l->act = act;
	if (act) {
		cr_assert_eq(loop_timer_add(l->vm->loop, on_timer, l, &l->timer), 0);
		loop_timer_set(l->timer, STEP_NS, STEP_NS);
	}
	cr_assert_eq(vm_start(l->vm, &l->err), 0, "%s", l->err.text);
	status = vm_run(l->vm);
	cr_assert_eq(mem_read(l->vm->mem, gpa(LIVES_AT), &l->lives, sizeof(l->lives)), 0);
	vm_destroy(l->vm);
	options_destroy(l->options);
	unlink(l->kernel);
	return status;
}

#define MAKE(l, code, on_reset, cpus) make(&(l), code, sizeof(code), on_reset, cpus)

static uint32_t counter(struct life *l)
{
	uint32_t v;

	cr_assert_eq(mem_read(l->vm->mem, gpa(COUNTER_AT), &v, sizeof(v)), 0);
	return v;
}

static void end(struct life *l)
{
	l->done = true;
	kill(getpid(), SIGTERM);
}

Test(vm, a_guest_that_turns_off_ends_with_0)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, turns_off, "reboot", "boot=1");
	cr_assert_eq(live(&l, NULL), 0);
}

Test(vm, a_reset_ends_the_machine_when_asked_to_and_a_crash_is_an_error)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, resets, "exit", "boot=1");
	cr_assert_eq(live(&l, NULL), 0);
	l = (struct life){ 0 };
	MAKE(l, crashes, "exit", "boot=1");
	cr_assert_eq(live(&l, NULL), 1);
}

Test(vm, a_guest_that_resets_for_ever_is_given_up)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, resets, "reboot", "boot=1");
	cr_assert_eq(live(&l, NULL), 1);
	l = (struct life){ 0 };
	MAKE(l, crashes, "reboot", "boot=2");
	cr_assert_eq(live(&l, NULL), 1);
}

/*
 * Each life asks for a reset in several ways; were each of them one, twenty resets would be five lives.
 * The last way is a crash, which may be under way inside KVM when the reset for the first way holds the vCPU.
 */
Test(vm, what_was_wished_before_a_reset_is_forgotten)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, resets_thrice, "reboot", "boot=1");
	cr_assert_eq(live(&l, NULL), 1);
	cr_assert_eq(l.lives, 21, "20 resets, %u lives", l.lives);
}

static void signal_once(struct life *l)
{
	if (l->step == 2)
		end(l);
}

Test(vm, a_signal_ends_a_guest_that_halts_counts_or_exits)
{
	static const struct { const uint8_t *code; size_t len; } guests[] = {
		{ halts, sizeof(halts) }, { counts, sizeof(counts) }, { exits, sizeof(exits) } };

	need_kvm();
	for (size_t i = 0; i < ARRAY_SIZE(guests); i++) {
		struct life l = { 0 };

		make(&l, guests[i].code, guests[i].len, "reboot", "boot=2");
		cr_assert_eq(live(&l, signal_once), 0);
	}
}

Test(vm, a_signal_that_comes_before_the_start_is_not_lost)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, counts, "reboot", "boot=1");
	kill(getpid(), SIGHUP);
	cr_assert_eq(live(&l, NULL), 0);
}

/* More vCPUs than the inbox has places, all gone at once. */
Test(vm, many_vcpus_end)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, halts, "reboot", "boot=48");
	cr_assert_eq(live(&l, signal_once), 0);
}

/* Paused at step 1, looked at until 4, resumed, and ended when it has moved on. */
static void pause_and_resume(struct life *l)
{
	struct vm *vm = l->vm;

	switch (l->step) {
	case 0:
		if (!counter(l))
			l->step--;
		break;
	case 1:
		cr_assert_eq(vm_resume(vm), -EBUSY, "it runs");
		cr_assert_eq(vm_pause(vm), 0);
		cr_assert_eq(vm_pause(vm), -EBUSY);
		cr_assert_eq(vm->state, VM_PAUSED);
		l->seen = counter(l);
		break;
	case 4:
		cr_assert_eq(counter(l), l->seen, "a paused guest does not move");
		cr_assert_eq(vm_resume(vm), 0);
		break;
	default:
		if (l->step > 4 && counter(l) != l->seen && !l->done)
			end(l);
	}
}

Test(vm, a_paused_guest_stands_still_and_goes_on)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, counts, "reboot", "boot=1");
	cr_assert_eq(live(&l, pause_and_resume), 0);
	l = (struct life){ 0 };
	MAKE(l, exits, "reboot", "boot=2");
	cr_assert_eq(live(&l, pause_and_resume), 0);
}

/* A device whose host fails: it holds a request until it is tried again. */
static struct {
	struct device dev;
	unsigned held, retried, paused;
	bool fails_again;
	struct vm *vm;
} stuck;

static void stuck_retry(struct device *dev)
{
	(void)dev;
	stuck.retried++;
	if (stuck.fails_again)
		stuck.vm->events.post(stuck.vm->events.ctx, VM_EVENT_PAUSE, "it failed again");
	else
		stuck.held = 0;
	stuck.fails_again = false;
}

static unsigned stuck_held(struct device *dev)
{
	(void)dev;
	return stuck.held;
}

static void stuck_pause(struct device *dev)
{
	(void)dev;
	stuck.paused++;
	stuck.held = 0;
}

static void stuck_destroy(struct device *dev)
{
	(void)dev;
}

static const struct device_ops stuck_ops = { .retry = stuck_retry, .held = stuck_held, .pause = stuck_pause,
	.destroy = stuck_destroy };

static void add_stuck(struct life *l, bool fails_again)
{
	memset(&stuck, 0, sizeof(stuck));
	stuck.dev.ops = &stuck_ops;
	stuck.dev.next = l->vm->devices;
	stuck.fails_again = fails_again;
	stuck.vm = l->vm;
	l->vm->devices = &stuck.dev;
}

static void tell(struct life *l)
{
	l->vm->events.post(l->vm->events.ctx, VM_EVENT_PAUSE, "a write failed");
}

/* Told at step 1 without anything held, at 2 with; a signal at 5 and, since it fails again, at 8. */
static void stuck_and_helped(struct life *l)
{
	struct vm *vm = l->vm;

	if (l->step == 0 && !counter(l))
		l->step--;
	else if (l->step == 1)
		tell(l);
	else if (l->step == 2) {
		cr_assert_eq(vm->state, VM_RUNNING, "nothing is held any more");
		stuck.held = 1;
		tell(l);
	} else if (l->step == 4 || l->step == 7) {
		cr_assert_eq(vm->state, VM_PAUSED);
		l->seen = counter(l);
	} else if (l->step == 5 || l->step == 8) {
		cr_assert_eq(counter(l), l->seen, "a paused guest does not move");
		kill(getpid(), SIGUSR2);
	} else if (l->step >= 10 && counter(l) != l->seen && !l->done) {
		cr_assert_eq(vm->state, VM_RUNNING);
		cr_assert_eq(stuck.paused, 0, "its queues ran on");
		kill(getpid(), SIGUSR2); /* of no effect */
		end(l);
	}
}

Test(vm, a_device_that_is_stuck_pauses_the_machine_until_a_signal)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, exits, "reboot", "boot=2");
	add_stuck(&l, true);
	cr_assert_eq(live(&l, stuck_and_helped), 0);
	cr_assert_eq(stuck.retried, 2);
}

static void pause_what_is_stuck(struct life *l)
{
	if (l->step == 1) {
		stuck.held = 1;
		tell(l);
	} else if (l->step == 3) {
		cr_assert_eq(l->vm->state, VM_PAUSED);
		cr_assert_eq(vm_pause(l->vm), 0, "to be looked at: its devices too");
		cr_assert_eq(stuck.paused, 1);
		cr_assert_eq(vm_pause(l->vm), -EBUSY);
		cr_assert_eq(vm_resume(l->vm), 0);
		cr_assert_eq(stuck.retried, 0);
	} else if (l->step == 4) {
		end(l);
	}
}

Test(vm, what_is_stuck_can_be_paused_wholly)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, exits, "reboot", "boot=2");
	add_stuck(&l, false);
	cr_assert_eq(live(&l, pause_what_is_stuck), 0);
}

/* Its wish for a reset comes when it is paused already. */
static void reset_when_stuck(struct life *l)
{
	struct vm *vm = l->vm;

	if (l->step == 1) {
		stuck.held = 1;
		tell(l);
		vm->events.post(vm->events.ctx, VM_EVENT_RESET, NULL);
	} else if (l->step == 3) {
		cr_assert_eq(vm->state, VM_PAUSED);
		cr_assert_eq(vm->resets.count, 1);
		cr_assert_eq(mem_write(vm->mem, gpa(COUNTER_AT), &(uint32_t){ UINT32_MAX / 2 }, 4), 0);
		kill(getpid(), SIGUSR2);
	} else if (l->step > 4 && !l->done) {
		cr_assert_lt(counter(l), UINT32_MAX / 2, "it began anew");
		end(l);
	}
}

Test(vm, a_reset_waits_for_the_end_of_a_pause)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, exits, "reboot", "boot=1");
	add_stuck(&l, false);
	cr_assert_eq(live(&l, reset_when_stuck), 0);
}

static void pause_for_good(struct life *l)
{
	if (l->step == 1)
		cr_assert_eq(vm_pause(l->vm), 0);
	if (l->step == 2)
		end(l);
}

Test(vm, a_paused_machine_can_be_ended)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, exits, "reboot", "boot=2");
	cr_assert_eq(live(&l, pause_for_good), 0);
}

static int nothing(void *arg)
{
	return ++*(int *)arg;
}

/* Held twice at step 1, let go once at 2, again at 4; a stop of the world in between changes nothing. */
static void hold_twice(struct life *l)
{
	int calls = 0;

	switch (l->step) {
	case 1:
		vm_hold(l->vm);
		vm_hold(l->vm);
		l->seen = counter(l);
		break;
	case 2:
		vm_release(l->vm);
		cr_assert_eq(vm_stop_world(l->vm, nothing, &calls), 1);
		break;
	case 4:
		cr_assert_eq(counter(l), l->seen, "held by the first");
		vm_release(l->vm);
		break;
	default:
		if (l->step > 4 && counter(l) != l->seen && !l->done)
			end(l);
	}
}

Test(vm, holds_nest)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, counts, "reboot", "boot=1");
	cr_assert_eq(live(&l, hold_twice), 0);
}

/* A thousand times in and out, as fast as it goes: no kick is lost on the way. */
static void hold_often(struct life *l)
{
	if (l->done)
		return;
	for (unsigned i = 0; i < 1000; i++) {
		vm_hold(l->vm);
		l->seen = counter(l);
		cr_assert_eq(counter(l), l->seen);
		vm_release(l->vm);
	}
	end(l);
}

Test(vm, holding_it_often_loses_no_kick)
{
	struct life l = { 0 };

	need_kvm();
	MAKE(l, exits, "reboot", "boot=2");
	cr_assert_eq(live(&l, hold_often), 0);
}

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	cr_assert(d, "%s", path);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static long resident_pages(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	cr_assert(f);
	cr_assert_eq(fscanf(f, "%*d %ld", &pages), 1);
	fclose(f);
	return pages;
}

static void live_and_die(unsigned times)
{
	while (times--) {
		struct life l = { 0 };

		MAKE(l, turns_off, "reboot", "boot=2");
		cr_assert_eq(live(&l, NULL), 0);
	}
}

/* The first ones fill caches: the allocator's, thread stacks. MICROVM_CYCLES: how many more. */
Test(vm, one_machine_after_the_other_leaves_nothing_behind)
{
	const char *cycles = getenv("MICROVM_CYCLES");
	/* A sanitizer's quarantine and its history grow. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	const bool remembers_freed = true;
#else
	const bool remembers_freed = false;
#endif
	unsigned fds, threads;
	long pages;

	need_kvm();
	live_and_die(10);
	fds = entries("/proc/self/fd");
	threads = entries("/proc/self/task");
	pages = resident_pages();
	live_and_die(cycles ? (unsigned)atoi(cycles) : 30);
	cr_assert_eq(entries("/proc/self/fd"), fds);
	cr_assert_eq(entries("/proc/self/task"), threads);
	/* One page lost in each of 200 lives would be seen. */
	if (!remembers_freed)
		cr_assert_leq(resident_pages(), pages + 128, "%ld pages, then %ld", pages, resident_pages());
}

Test(vm, what_cannot_be_made_is_a_sentence_and_leaves_nothing)
{
	static const char *const cpus[] = { "boot=2,topology=1:3:1:1", "boot=1,max=2,topology=1:1:1:1" };

	need_kvm();
	for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
		const struct option_group *groups[OPTIONS_TABLE_MAX];
		const char *argv[] = { "microvm", "--kernel", "/nonexistent", "--cpus", cpus[i] };
		struct life l = { 0 };
		int before = dup(0), after;

		close(before);
		cr_assert_eq(options_table_collect(groups, ARRAY_SIZE(groups), device_types), 0);
		cr_assert_eq(options_create(&l.options, groups), 0);
		cr_assert_eq(options_parse_argv(l.options, ARRAY_SIZE(argv), (char **)argv, &l.err), 0);
		cr_assert_lt(vm_create(&l.vm, l.options, SANDBOX_OFF, &l.err), 0);
		cr_assert(strstr(l.err.text, "topology"), "%s", l.err.text);
		options_destroy(l.options);
		after = dup(0);
		close(after);
		cr_assert_eq(before, after, "a descriptor is left");
	}
}
