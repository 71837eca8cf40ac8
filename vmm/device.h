/*
 * The device contract: what the machine knows of a device, and what a device may reach.
 *
 * devices/table.c has one row per device type (`device_types[]`). The machine walks it: the rows'
 * option groups become flags; for each time a flag is given, and for each platform device of the
 * CPU's list (arch.h), create() is called on the main thread in stage 2 of the sandbox, when files
 * may still be opened. After stage 3 nothing is opened.
 *
 * A device can reach exactly what its device_env hands it. Register handlers run on vCPU threads;
 * queues and host I/O run on the device's worker.
 *
 * Order: create → start → (pause → save → resume)* → destroy. reset: vCPUs parked, workers drained;
 * back to power-on.
 */
#ifndef VMM_DEVICE_H
#define VMM_DEVICE_H

#include "vmm/bus.h"
#include "vmm/error.h"
#include "vmm/irq.h"
#include "vmm/mem.h"
#include "vmm/options.h"
#include "vmm/sandbox.h"
#include "vmm/state.h"
#include "vmm/worker.h"

struct device;
struct pci_root;
struct char_terminal;
struct rate;
struct process;

enum vm_event {
	VM_EVENT_POWEROFF,     /* the guest turned itself off */
	VM_EVENT_RESET,        /* the guest asked for a reset */
	VM_EVENT_TRIPLE_FAULT,
	VM_EVENT_PANIC,        /* pvpanic */
	VM_EVENT_HANG_UP,      /* the user's own way out: ^A x on the terminal */
	VM_EVENT_DEVICE_ERROR, /* a device lost its host side; `what` says which and how */
	/*
	 * A device holds what failed, which `what` names, until somebody helped: the machine
	 * pauses, its devices run on, and retry() is called when it goes on.
	 */
	VM_EVENT_PAUSE,
	VM_EVENT_VCPU_GONE,    /* a vCPU thread obeyed VCPU_STOP */
	VM_EVENT_FAILED,       /* a vCPU cannot go on (KVM_EXIT_INTERNAL_ERROR, ...); ends the machine with status 1 */
};

/* Tell main; any thread, never blocks. `what` is a short static or copied text, may be NULL. */
struct vm_events {
	void (*post)(void *ctx, enum vm_event event, const char *what);
	void *ctx;
};

/* An address range or line that the machine gave to a device, for firmware tables (ACPI, FDT). */
struct device_node {
	const char *kind;      /* "virtio-mmio", "serial-16550", ... the names firmware/machine.h knows */
	bool pio;
	uint64_t base, len;    /* len 0: none */
	uint32_t gsi;          /* UINT32_MAX: none */
};

/* Windows and lines that are free for devices of this CPU; devices take from it in create(). */
struct device_resources {
	uint64_t mmio_next, mmio_end;
	uint32_t gsi_next, gsi_end;
};
/* 0 with *ret_base aligned to `align`, or -ENOSPC. */
int device_take_mmio(struct device_resources *r, uint64_t len, uint64_t align, uint64_t *ret_base);
int device_take_gsi(struct device_resources *r, uint32_t *ret_gsi);

/* Where the machine lets PCI functions decode their BARs; size 0: no such window. */
struct pci_windows {
	uint64_t mmio32_base, mmio32_size;
	uint64_t mmio64_base, mmio64_size;
};

/*
 * Who else may live on a device's worker. All quiet devices of a machine share one, which is that
 * of a busy device where there is one, so that a small machine has few threads; the filter of that
 * thread has the rows of all of them.
 */
enum worker_share {
	WORKER_QUIET,
	WORKER_BUSY,  /* its own; it may serve the quiet ones too */
	WORKER_ALONE, /* its own, with its own rows alone */
};

struct device_env {
	const char *id;              /* "_disk0"; copied into the device */
	struct guest_mem *mem;
	struct bus *mmio, *pio;      /* pio: NULL where the CPU has none */
	struct irqchip *irq;
	struct pci_root *pci;        /* what an earlier PCI root device of this machine put in *pci_slot */
	struct pci_root **pci_slot;
	const struct pci_windows *pci_windows; /* for the PCI root; NULL: none */
	struct device_resources *resources;
	const struct device_node *place; /* platform devices: where the CPU's list puts it; else NULL */
	/*
	 * The machine's slot for who has taken this process's terminal, NULL while it is free
	 * (devices/host/char.h).
	 */
	struct char_terminal **terminal;
	const struct vm_events *events;
	struct loop *main_loop;      /* for messages to main only: loop_post() */
	/*
	 * A worker for this device, with thread name `name` unless it is shared. Valid until the
	 * machine ends; started by the machine after stage 3.
	 */
	int (*worker)(const struct device_env *env, const char *name, enum worker_share share,
		struct worker **ret, struct error *err);
	/* --isolation=process: devices that can shall have a process of their own. */
	bool isolate;
	/*
	 * The machine makes this process's filters, forks it in stage 3 and watches it; the device
	 * destroys it. NULL: the caller does.
	 */
	int (*process)(const struct device_env *env, struct process *process, struct error *err);
	/*
	 * The limits of --rate-group `name`, valid until the machine ends; an error's sentence when
	 * there is none. NULL: this machine has no groups.
	 */
	int (*rate_group)(const struct device_env *env, const char *name, struct rate **ret,
		struct error *err);
	/*
	 * What main does for this device once the machine runs, at the latest when it destroys it.
	 * May be NULL.
	 */
	int (*main_calls)(const struct device_env *env, const struct syscall_row *table);
	void *machine;               /* for worker(), rate_group() and main_calls() only */
};

/*
 * The limits that these options of flag `flag` ask for, in *ret. Main, in create(): the same
 * options may make several.
 */
struct rate_device_options;
int device_rate(struct rate *ret, const struct device_env *env, const struct rate_device_options *o,
	const char *flag, struct error *err) NEEDS_CHECK;

/* main_calls() for who has a struct error. */
int device_main_calls(const struct device_env *env, const struct syscall_row *table, struct error *err) NEEDS_CHECK;

struct device_ops {
	/*
	 * Stage 2 → 3 boundary: everything is opened, workers run, vCPUs not yet. May be NULL like
	 * all below.
	 */
	int (*start)(struct device *dev, struct error *err);
	void (*pause)(struct device *dev);   /* returns when nothing is in flight */
	void (*resume)(struct device *dev);
	/* After VM_EVENT_PAUSE: try again, without waiting; how many requests are held now. */
	void (*retry)(struct device *dev);
	unsigned (*held)(struct device *dev);
	void (*reset)(struct device *dev);
	int (*save)(struct device *dev, struct state_writer *w);
	int (*load)(struct device *dev, struct state_reader *r, struct error *err);
	void (*power_button)(struct device *dev);
	void (*destroy)(struct device *dev); /* half-built objects too; frees dev */
};

enum { DEVICE_ID_MAX = 32, DEVICE_NODES_MAX = 2 };

/* Embedded first in every device. */
struct device {
	const struct device_type *type;
	const struct device_ops *ops;
	char id[DEVICE_ID_MAX];
	struct device_node nodes[DEVICE_NODES_MAX];
	/*
	 * Words for a kernel whose user gave no command line, "key=..."; of each key the first
	 * device has its say. NULL: none.
	 */
	const char *cmdline;
	struct device *next;
};

/*
 * Those words of all devices of the list, with spaces between; cut short when `size` is too small.
 */
void device_cmdline(const struct device *list, char *buf, size_t size);

struct device_type {
	const char *name;                   /* "virtio-blk", "serial-16550" */
	const struct option_group *options; /* its flag; NULL: platform only */
	const char *id_prefix;              /* "_disk": ids count up over all devices of the machine */
	bool always;                        /* one is made even when the flag is not given (with its defaults) */
	const struct state_desc *state;     /* for the tests that walk the table; NULL: stateless */
	/*
	 * The i-th fd that these options hand over by number (fd=), or -1 behind the last; NULL:
	 * never. Such fds survive sandbox_early().
	 */
	int (*handed_fd)(const void *options, unsigned i);
	/*
	 * Somebody outside this process serves a device with these options, so guest memory must
	 * be a memfd that can be handed over (mem.h). Main, before memory is made; pure. NULL:
	 * never.
	 */
	bool (*shares_memory)(const void *options);
	/* *ret is NULL after 0 when the options turn the device off. */
	int (*create)(struct device **ret, const struct device_env *env, const void *options,
		struct error *err);
};

/*
 * For a load() that reads several objects: `parts` reads them; when it fails, what it took by then
 * is undone by loading what dev->ops->save() gave before, and the reader stands where it stood.
 * Main, device paused.
 */
int device_load_all(struct device *dev, int (*parts)(struct device *dev, struct state_reader *r, struct error *err),
	struct state_reader *r, struct error *err) NEEDS_CHECK;

/* devices/table.c; name NULL ends. */
extern const struct device_type *const device_types[];

#endif
