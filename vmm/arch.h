/*
 * The CPU contract: everything that differs between x86_64 and aarch64. One folder under arch/
 * implements all of it; nothing outside arch/ knows which.
 *
 * Main thread unless a line says otherwise. `kvm` fds come from vmm/kvm.h.
 */
#ifndef VMM_ARCH_H
#define VMM_ARCH_H

#include "vmm/device.h"
#include "vmm/error.h"
#include "vmm/mem.h"

struct kvm;
struct vcpu;
struct kvm_run;

extern const char arch_name[];           /* "x86_64" */
extern const uint32_t arch_audit;        /* its system calls to seccomp: AUDIT_ARCH_X86_64 */

/* KVM extensions the machine cannot do without; cap 0 ends. For set-up and --check. */
struct arch_cap {
	int cap;
	const char *name, *why;
};
extern const struct arch_cap arch_caps[];

struct arch_range {
	uint64_t base, size;
};

/*
 * The address map for `ram` bytes of RAM: RAM ranges in order, PCI windows, room for MMIO devices,
 * free lines.
 */
struct arch_layout {
	struct arch_range ram[4];
	unsigned nram;
	struct arch_range ecam;       /* one bus: 1 MiB */
	struct arch_range pci_mmio32, pci_mmio64, pci_pio;
	struct device_resources resources;
	unsigned first_msi_gsi, max_gsi;
	bool has_pio;
};
int arch_layout_fill(struct arch_layout *ret, uint64_t ram, unsigned phys_bits, struct error *err) NEEDS_CHECK;
/* Bits of a guest's physical address; `dev_fd` is /dev/kvm. */
unsigned arch_phys_bits(int dev_fd);
/* What KVM_CREATE_VM takes. */
unsigned long arch_vm_type(int dev_fd);

/*
 * The platform devices of this CPU, by the name of their row in device_types[] and their place.
 * kind NULL ends.
 */
extern const struct device_node arch_platform[];

/* What the user chose about CPUs (group "cpus"), as the CPU code sees it. */
struct arch_cpu_config {
	uint32_t boot, max;
	uint32_t threads, cores, dies, packages; /* topology; all 0: each vCPU a core */
	bool nested;
	bool pmu;                     /* performance counters */
	uint32_t max_phys_bits;
};

/*
 * Interrupt chip and the like; after KVM_CREATE_VM, before vCPUs. What it must keep it hangs into
 * kvm->arch.
 */
struct arch_vm;
int arch_vm_init(struct kvm *kvm, const struct arch_cpu_config *cpus, struct error *err) NEEDS_CHECK;
/* Takes NULL; after the vCPUs, before the VM is closed. */
void arch_vm_free(struct arch_vm *vm);
/* Can lines be wired only when all vCPUs are there? */
extern const bool arch_vcpus_before_lines;

/*
 * The routes of wired lines, which KVM wants repeated with every new table of MSI routes. Returns
 * how many; any thread.
 */
struct kvm_irq_routing_entry;
enum { ARCH_WIRED_ROUTES_MAX = 128 };
unsigned arch_wired_routes(struct kvm_irq_routing_entry *ret);
/*
 * The route of a message, as KVM wants it for this chip. -EINVAL: it takes no such message. Any
 * thread.
 */
struct irq_msi_route;
int arch_msi_route(struct kvm_irq_routing_entry *ret, const struct arch_vm *vm,
	const struct irq_msi_route *route);
/* Interrupt chip and timers as after power-on; vCPUs parked. */
int arch_vm_reset(struct kvm *kvm, struct error *err) NEEDS_CHECK;
/*
 * Interrupt chip, timers and clocks of the VM, both directions; vCPUs parked. Saving comes before
 * the guest's memory is saved, since a chip may keep tables there and brings them up to date.
 * Loading comes after memory and all vCPUs have been loaded and before MSI routes are set. A load
 * that fails for what the stream says changes nothing; one that KVM refuses leaves a machine that
 * only arch_vm_reset() makes whole.
 */
int arch_vm_save(struct kvm *kvm, struct state_writer *w) NEEDS_CHECK;
int arch_vm_load(struct kvm *kvm, struct state_reader *r, struct error *err) NEEDS_CHECK;

/*
 * Per VM: what all vCPUs share (CPUID and MSR lists). Freed with NULL allowed. Made of what
 * /dev/kvm tells, beside main, which makes the VM meanwhile: of `kvm` only dev_fd may be looked at.
 */
struct arch_cpu_model;
int arch_cpu_model_create(struct arch_cpu_model **ret, struct kvm *kvm, const struct arch_cpu_config *cpus,
	struct error *err) NEEDS_CHECK;
void arch_cpu_model_free(struct arch_cpu_model *model);
/*
 * What KVM_CREATE_VCPU, firmware tables and the CPU itself call vCPU `index`; ascending, with gaps
 * where the topology has them.
 */
uint32_t arch_cpu_id(const struct arch_cpu_model *model, unsigned index);
/* Features, MSRs, local interrupt controller of one new vCPU. Main, in ascending order of index. */
int arch_vcpu_init(struct kvm *kvm, int vcpu_fd, unsigned index, struct arch_cpu_model *model,
	struct error *err) NEEDS_CHECK;

/*
 * Loads kernel, initramfs, command line and firmware tables into memory. Called at boot and again
 * at each reset.
 */
struct arch_boot_config {
	struct guest_mem *mem;
	const struct arch_vm *vm;
	const struct arch_layout *layout;
	const struct arch_cpu_config *cpus;
	const struct arch_cpu_model *model;
	int kernel_fd, initramfs_fd;  /* initramfs -1: none */
	size_t kernel_size, initramfs_size; /* image_size() */
	const char *kernel_path, *initramfs_path; /* for sentences */
	const char *cmdline;
	bool keep_compressed;         /* --kernel's guest decompressor by choice */
	bool fresh_ram;               /* all zero yet: the first boot */
	const struct device *devices; /* list; their nodes go into the tables */
};
struct arch_boot;                     /* where the vCPUs start */
int arch_boot_load(struct arch_boot **ret, const struct arch_boot_config *config, struct error *err) NEEDS_CHECK;
void arch_boot_free(struct arch_boot *boot);
/*
 * Registers of a vCPU at power-on: the first one at the kernel's entry, the others waiting for it.
 * vCPU parked.
 */
int arch_vcpu_reset(int vcpu_fd, unsigned index, const struct arch_cpu_model *model,
	const struct arch_boot *boot, struct error *err) NEEDS_CHECK;

/*
 * An exit that vcpu.c does not know. Returns 1: handled, go on; 0: stop this vCPU (an event was
 * posted); -errno. vCPU thread.
 */
int arch_vcpu_exit(int vcpu_fd, struct kvm_run *run, const struct vm_events *events);

/* Registers of a vCPU, both directions; vCPU parked. */
int arch_vcpu_save(int vcpu_fd, struct state_writer *w);
int arch_vcpu_load(int vcpu_fd, const struct arch_cpu_model *model, struct state_reader *r, struct error *err);

/* The 20-instruction probe guest of --check: its code, and how it is entered. */
struct arch_probe {
	const uint8_t *code;
	size_t len;
	uint64_t load_at;
	uint64_t instructions;       /* kernel-mode instructions it executes before it leaves */
};
extern const struct arch_probe arch_probe;
int arch_probe_enter(struct kvm *kvm, int vcpu_fd, struct error *err) NEEDS_CHECK;

/* System calls the CPU code makes on vCPU threads beyond KVM_RUN. */
extern const struct syscall_row arch_vcpu_syscalls[];
/* Those of main, once the machine runs: KVM's registers and chips at a reset. */
extern const struct syscall_row arch_main_syscalls[];

#endif
