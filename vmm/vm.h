/*
 * One virtual machine: everything it owns, and its lifecycle.
 *
 *   CREATED → RUNNING ⇄ PAUSED → DEAD     changed only by main
 *
 * vm_create() opens all that the options name (stage 2 of the sandbox); vm_start() runs after stage
 * 3 and starts workers and vCPUs, each sealed; vm_run() is main's loop until the machine is dead.
 * What must happen to the running machine comes to main as events (vm_events) or signals.
 *
 * Stillness: with the vCPUs held (vm_hold) none is inside a register handler and none will enter
 * one. Bus changes, pause and reset happen in it. A vCPU that needs a bus change asks main and
 * waits, standing still meanwhile.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <pthread.h>

#include "vmm/arch.h"
#include "vmm/aside.h"
#include "vmm/device.h"
#include "vmm/kvm.h"
#include "vmm/options.h"
#include "vmm/process.h"
#include "vmm/sandbox.h"
#include "vmm/vcpu.h"

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_STOPPING, VM_DEAD };

enum {
	VM_WORKERS_MAX = 256,
	VM_PROCESSES_MAX = 64,
	VM_EVENTS_MAX = 32,
	VM_EVENTS_SPARE = 8,
	VM_EVENT_TEXT = 96,
	VM_CMDLINE_MAX = 128,
};

struct vm_event_entry {
	enum vm_event event;
	char what[VM_EVENT_TEXT];
};

/*
 * Events on their way to main; any thread puts, without allocating. What a guest can repeat never
 * crowds out what must arrive: each kind waits at most once, but for device errors, which leave
 * VM_EVENTS_SPARE places to the others, and vCPUs that are gone, which are counted.
 */
struct vm_inbox {
	pthread_mutex_t lock;
	struct vm_event_entry entry[VM_EVENTS_MAX]; /* lock */
	unsigned head, count;                       /* lock */
	unsigned gone;                              /* lock; vCPU threads that obeyed VCPU_STOP, not yet taken */
	int fd;                                     /* eventfd */
};

struct vm {
	const struct options *options;
	enum sandbox_mode mode;
	enum vm_state state;
	int status;                 /* exit status of the process, once DEAD */

	struct kvm kvm;
	struct guest_mem *mem;
	struct bus *mmio, *pio;
	struct irqchip *irq;
	struct arch_layout layout;
	struct arch_cpu_config cpus;
	struct arch_cpu_model *model;
	struct arch_boot_config boot_config;
	char cmdline[VM_CMDLINE_MAX]; /* of a user who gave none */
	struct arch_boot *boot;
	struct vcpu *vcpus;         /* [cpus.boot] */
	unsigned nvcpus;            /* made so far */
	unsigned holds;             /* vm_hold() not yet undone by vm_release(): they nest */
	unsigned gone;              /* vCPU threads that obeyed VCPU_STOP */

	struct device *devices;     /* in order of creation */
	unsigned next_id;           /* of automatic device ids */
	struct pci_root *pci;
	struct pci_windows windows;
	struct worker *workers[VM_WORKERS_MAX];
	unsigned nworkers;
	struct process *processes[VM_PROCESSES_MAX]; /* their devices' */
	unsigned nprocesses;
	struct worker *shared;      /* by quiet devices; NULL: there is none yet */
	bool shared_is_free;        /* no busy device has it */
	struct char_terminal *terminal;
	struct rate_groups *rate_groups; /* const once devices are made */

	struct loop *loop;
	pthread_t main_thread;
	int signal_fd;
	struct vm_inbox inbox;
	struct vm_events events;
	bool reboot;                /* --on-reset=reboot */
	struct {
		int64_t window_start;
		unsigned count;
		bool posted;            /* reboot() is on its way in the loop */
		bool after_resume;      /* the guest asked, and the machine was paused meanwhile */
	} resets;
	bool stuck;                 /* PAUSED for a device that holds what failed: the devices run */
	struct sandbox_role vcpu_role, main_role;
	struct sandbox_filter *vcpu_filter, *main_filter;
	struct aside aside;         /* until vm_start() */
	struct sandbox_ahead ahead; /* for sandbox_confine() */
};

/* Builds everything; on failure nothing is left. Main. */
int vm_create(struct vm **ret, const struct options *options, enum sandbox_mode mode, struct error *err) NEEDS_CHECK;
/* What sandbox_confine() waits with for vm->ahead; ctx is the machine. */
void vm_wait_ahead(void *ctx);
/* Takes NULL; threads must have ended (vm_run returned, or vm_start was never called). */
void vm_destroy(struct vm *vm);
/* For sandbox_confine_config.fork: the processes of devices that have one. */
int vm_fork(void *vm, const struct sandbox_confine_config *confine, struct error *err) NEEDS_CHECK;
/* After sandbox_confine(): worker threads, vCPU threads, main's own filter. */
int vm_start(struct vm *vm, struct error *err) NEEDS_CHECK;
/* Until the machine is dead. Returns the exit status of the process. */
int vm_run(struct vm *vm);

/* Everything as after power-on, images loaded again; vCPUs held. Main. */
int vm_reset_machine(struct vm *vm, struct error *err) NEEDS_CHECK;

/* vm_devices.c */
int vm_devices_create(struct vm *vm, struct error *err) NEEDS_CHECK;
/* The flag of a device whose options need shared memory, or NULL. Before memory is made. */
const char *vm_devices_sharing(const struct vm *vm);
void vm_devices_destroy(struct vm *vm);

/* vm_run.c; main */
void vm_hold(struct vm *vm);
void vm_release(struct vm *vm);
/*
 * Of a machine that is paused for a device: its devices too, which then give up what they hold.
 * -EBUSY: not running. -EAGAIN: a vCPU waits for main inside an exit; let the loop serve it and ask
 * again.
 */
int vm_pause(struct vm *vm);
int vm_resume(struct vm *vm);
int vm_events_init(struct vm *vm, struct error *err) NEEDS_CHECK;
int vm_stop_world(void *vm, int (*fn)(void *arg), void *arg);
/* Stop vCPUs, then the loop. */
void vm_stop(struct vm *vm, int status);

extern const struct syscall_row vm_main_syscalls[];

/* --show-sandbox: every role of the machine that these options describe. */
void vm_show_sandbox(const struct vm *vm);

#endif
