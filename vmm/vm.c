/*
 * Building and tearing down a machine. The order is that of dependence: KVM, address map, memory,
 * interrupt chip, buses, vCPUs, devices, and last what lies in memory before the first instruction.
 * Destroying goes the other way round and takes whatever was built.
 */
#include "vmm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/image.h"
#include "vmm/log.h"
#include "vmm/options_table.h"

/* No host is so small that MEMORY_ANYWHERE would be too much for it. */
/* KVM_CAP_NR_VCPUS (api.rst 4.7): each KVM gives so many. */
enum { KVM_VCPUS_ALWAYS = 4 };

enum { MEMORY_OVERCOMMIT_MAX = 16, MEMORY_ANYWHERE = 1024 * MIB };

static int read_cpu_config(struct vm *vm, struct error *err)
{
	const struct options_cpus *o = options_get(vm->options, "cpus", 0);
	struct options_topology t;
	int r = options_cpus_topology(&t, o, err);

	vm->cpus = (struct arch_cpu_config){
		.boot = o->boot,
		.max = o->max ? o->max : o->boot,
		.nested = o->nested,
		.pmu = o->pmu,
		.max_phys_bits = o->max_phys_bits,
	};
	if (r == 0) {
		vm->cpus.threads = t.threads;
		vm->cpus.cores = t.cores;
		vm->cpus.dies = t.dies;
		vm->cpus.packages = t.packages;
	}
	return r;
}

static uint32_t choice(const struct vm *vm, const char *flag)
{
	const struct options_choice *c = options_get(vm->options, flag, 0);

	return c->value;
}

static int check_cpus(const struct vm *vm, struct error *err)
{
	const struct arch_cpu_config *c = &vm->cpus;
	unsigned host = MAX(c->boot, c->max) > KVM_VCPUS_ALWAYS ? kvm_max_vcpus(&vm->kvm) : KVM_VCPUS_ALWAYS;

	if (c->boot > host)
		return error_set(err, EINVAL, "--cpus boot=%u: KVM on this host gives a machine at most %u vCPUs", c->boot,
			host);
	if (c->max < c->boot)
		return error_set(err, EINVAL, "--cpus max=%u is less than boot=%u; give at least as many", c->max,
			c->boot);
	return 0;
}

/*
 * Memory that is never touched costs the host next to nothing, so a machine may well have more than
 * the host. But KVM keeps tables of some bytes for each page, and takes minutes and gigabytes for
 * sizes that were a slip of the finger.
 */
static int check_memory(uint64_t size, struct error *err)
{
	struct sysinfo host;
	uint64_t all;

	if (size <= MEMORY_ANYWHERE || sysinfo(&host) < 0)
		return 0;
	all = ((uint64_t)host.totalram + host.totalswap) * host.mem_unit;
	if (size / MEMORY_OVERCOMMIT_MAX <= all)
		return 0;
	return error_set(err, EINVAL, "--memory size: %llu GiB is more than %d times what this host has (%llu GiB with "
				      "swap); give less",
		(unsigned long long)(size / GIB), MEMORY_OVERCOMMIT_MAX, (unsigned long long)(all / GIB));
}

/* shared=auto: when a device needs it. */
static int choose_shared(const struct vm *vm, const struct options_memory *o, bool *ret, struct error *err)
{
	const char *flag = vm_devices_sharing(vm);

	if (flag && o->shared == OPTIONS_OFF)
		return error_set(err, EINVAL,
			"--memory shared=off: another process serves a device (--%s) and needs the guest's memory; "
			"leave shared out", flag);
	*ret = flag || o->shared == OPTIONS_ON;
	return 0;
}

static int add_memory(struct vm *vm, struct error *err)
{
	const struct options_memory *o = options_get(vm->options, "memory", 0);
	struct mem_config config = {
		.hugepages = o->hugepages,
		.hugepage_size = o->hugepage_size,
		.thp = o->thp,
		.prefault = o->prefault,
		.mergeable = o->mergeable,
	};
	unsigned bits = arch_phys_bits(vm->kvm.dev_fd);
	int r = check_memory(o->size, err);

	if (r == 0)
		r = choose_shared(vm, o, &config.shared, err);
	if (vm->cpus.max_phys_bits)
		bits = MIN(bits, vm->cpus.max_phys_bits);
	if (r == 0)
		r = arch_layout_fill(&vm->layout, o->size, bits, err);
	if (r == 0)
		r = mem_create(&vm->mem, err);
	for (unsigned i = 0; i < vm->layout.nram && r == 0; i++)
		r = mem_add_ram(vm->mem, vm->layout.ram[i].base, vm->layout.ram[i].size, &config, err);
	if (r == 0)
		r = kvm_attach_mem(&vm->kvm, vm->mem, err);
	vm->windows = (struct pci_windows){
		.mmio32_base = vm->layout.pci_mmio32.base,
		.mmio32_size = vm->layout.pci_mmio32.size,
		.mmio64_base = vm->layout.pci_mmio64.base,
		.mmio64_size = vm->layout.pci_mmio64.size,
	};
	return r;
}

static int notify_add(void *ctx, bool pio, const struct bus_notify *notify)
{
	return kvm_notify_add(&((struct vm *)ctx)->kvm, pio, notify);
}

static void notify_remove(void *ctx, bool pio, const struct bus_notify *notify)
{
	kvm_notify_remove(&((struct vm *)ctx)->kvm, pio, notify);
}

static int make_buses(struct vm *vm, struct error *err)
{
	const struct bus_hooks hooks = {
		.notify_add = notify_add,
		.notify_remove = notify_remove,
		.stop_world = vm_stop_world,
		.ctx = vm,
	};
	int r = bus_create(&vm->mmio, "mmio", false, 0);

	if (r == 0 && vm->layout.has_pio)
		r = bus_create(&vm->pio, "port", true, 0x10000);
	if (r == 0)
		r = irqchip_create(&vm->irq, &kvm_irq_ops, &vm->kvm, vm->layout.first_msi_gsi,
			vm->layout.max_gsi);
	if (r < 0)
		return error_set(err, -r, "out of memory for the buses");
	bus_set_hooks(vm->mmio, &hooks);
	if (vm->pio)
		bus_set_hooks(vm->pio, &hooks);
	return 0;
}

/*
 * In the order in which they disturb main least. The calls of these jobs take long and never let go
 * of a processor, so they keep threads of the kernel waiting that main waits for: first what needs
 * no machine, the rest when the memory is attached. While a network is made the kernel holds the
 * lock that a tap needs, so that main should have its taps by then.
 */
enum { ASIDE_MODEL, ASIDE_OTHERS, ASIDE_NETWORK };

static int model_aside(void *ctx, struct error *err)
{
	struct vm *vm = ctx;
	/* Main fills in the rest of its own meanwhile. */
	struct kvm kvm = { .dev_fd = vm->kvm.dev_fd, .vm_fd = -1 };

	return arch_cpu_model_create(&vm->model, &kvm, &vm->cpus, err);
}

/* Not where there was no thread to be had: main must not lose the host's files and network yet. */
static bool goes_ahead(const struct vm *vm)
{
	return vm->mode != SANDBOX_OFF && choice(vm, "sandbox") != SANDBOX_CONFINE_OFF &&
		!pthread_equal(pthread_self(), vm->main_thread);
}

static int others_aside(void *ctx, struct error *err)
{
	struct vm *vm = ctx;

	(void)err; /* what could not be had, stage 3 tries again and tells of */
	if (goes_ahead(vm))
		sandbox_ahead_others(&vm->ahead);
	return 0;
}

static int network_aside(void *ctx, struct error *err)
{
	struct vm *vm = ctx;

	(void)err; /* as above */
	if (goes_ahead(vm))
		sandbox_ahead_network(&vm->ahead);
	return 0;
}

static int make_vcpus(struct vm *vm, struct error *err)
{
	int r;

	if (vm->nvcpus)
		return 0;
	r = aside_wait(&vm->aside, ASIDE_MODEL, err);
	if (r < 0)
		return r;
	vm->vcpus = calloc(vm->cpus.boot, sizeof(*vm->vcpus));
	if (!vm->vcpus)
		return error_set(err, ENOMEM, "out of memory for %u vCPUs", vm->cpus.boot);
	for (unsigned i = 0; i < vm->cpus.boot; i++) {
		struct vcpu *v = &vm->vcpus[i];
		int fd = kvm_create_vcpu(&vm->kvm, i, arch_cpu_id(vm->model, i), err);

		if (fd < 0)
			return fd;
		r = vcpu_create(v, i, fd, vm->kvm.run_size, err);
		v->mmio = vm->mmio;
		v->pio = vm->pio;
		v->events = &vm->events;
		vm->nvcpus = i + 1;
		if (r == 0)
			r = arch_vcpu_init(&vm->kvm, fd, i, vm->model, err);
		if (r < 0)
			return r;
	}
	return vcpu_install_signal(err);
}

static int vcpus_before_lines(struct vm *vm, struct error *err)
{
	return arch_vcpus_before_lines ? make_vcpus(vm, err) : 0;
}

static int open_image(const char *option, const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return error_set(err, errno, "--%s %s: %s; check the path", option, path, strerror(errno));
	return fd;
}

static int load_images(struct vm *vm, struct error *err)
{
	struct arch_boot_config *b = &vm->boot_config;

	b->kernel_path = options_string(vm->options, "kernel");
	b->initramfs_path = options_string(vm->options, "initramfs");
	device_cmdline(vm->devices, vm->cmdline, sizeof(vm->cmdline));
	b->cmdline = options_string(vm->options, "cmdline");
	if (!b->cmdline)
		b->cmdline = vm->cmdline;
	b->keep_compressed = choice(vm, "kernel-decompress") == DECOMPRESS_GUEST;
	b->mem = vm->mem;
	b->vm = vm->kvm.arch;
	b->layout = &vm->layout;
	b->cpus = &vm->cpus;
	b->model = vm->model;
	b->devices = vm->devices;
	b->fresh_ram = true;
	if (!b->kernel_path)
		return error_set(err, EINVAL, "no kernel given; name one with --kernel PATH");
	b->kernel_fd = open_image("kernel", b->kernel_path, err);
	if (b->kernel_fd < 0)
		return b->kernel_fd;
	if (image_size(&b->kernel_size, "kernel", b->kernel_path, b->kernel_fd, err) < 0)
		return -EINVAL;
	if (b->initramfs_path) {
		b->initramfs_fd = open_image("initramfs", b->initramfs_path, err);
		if (b->initramfs_fd < 0)
			return b->initramfs_fd;
		if (image_size(&b->initramfs_size, "initramfs", b->initramfs_path, b->initramfs_fd, err) < 0)
			return -EINVAL;
	}
	return arch_boot_load(&vm->boot, b, err);
}

static int reset_vcpus(struct vm *vm, struct error *err)
{
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		int r = arch_vcpu_reset(vm->vcpus[i].fd, i, vm->model, vm->boot, err);

		if (r < 0)
			return r;
		vcpu_new_life(&vm->vcpus[i]);
	}
	return 0;
}

/*
 * What main and vCPUs do whatever the devices are; those add what main does for them
 * (device_env.main_calls).
 */
static int make_roles(struct vm *vm, struct error *err)
{
	const struct syscall_row *const vcpu[] = { sandbox_thread_syscalls, vcpu_syscalls, kvm_wiring_syscalls,
		kvm_vcpu_syscalls, arch_vcpu_syscalls };
	const struct syscall_row *const main[] = { loop_syscalls, vm_main_syscalls,
		kvm_wiring_syscalls, kvm_main_syscalls, arch_main_syscalls };
	int r = 0;

	vm->vcpu_role.name = "vcpu";
	vm->main_role.name = "main";
	for (size_t i = 0; i < ARRAY_SIZE(vcpu) && r == 0; i++)
		r = sandbox_role_add(&vm->vcpu_role, vcpu[i]);
	for (size_t i = 0; i < ARRAY_SIZE(main) && r == 0; i++)
		r = sandbox_role_add(&vm->main_role, main[i]);
	return r < 0 ? error_set(err, -r, "a sandbox role has too many tables") : 0;
}

/* When all devices are there, which have their say in main's role too. */
static int make_filters(struct vm *vm, struct error *err)
{
	int r = vm->nprocesses ? sandbox_role_add(&vm->vcpu_role, process_caller_syscalls) : 0;

	if (r < 0)
		return error_set(err, -r, "a sandbox role has too many tables");
	r = sandbox_filter_build(&vm->vcpu_filter, &vm->vcpu_role, vm->mode, err);
	if (r == 0)
		r = sandbox_filter_build(&vm->main_filter, &vm->main_role, vm->mode, err);
	for (unsigned i = 0; i < vm->nprocesses && r == 0; i++)
		r = process_make_filters(vm->processes[i], vm->mode, err);
	return r;
}

/* First what the thread beside main needs, which has most to do. */
static int begin(struct vm *vm, struct error *err)
{
	int r = read_cpu_config(vm, err);

	if (r == 0)
		r = kvm_open(&vm->kvm, err);
	if (r == 0)
		r = check_cpus(vm, err);
	if (r == 0) {
		aside_add(&vm->aside, model_aside, vm);
		aside_start(&vm->aside);
	}
	return r;
}

static int make_machine(struct vm *vm, struct error *err)
{
	int r = kvm_create_vm(&vm->kvm, err);

	if (r == 0)
		r = add_memory(vm, err);
	if (r < 0)
		return r;
	aside_add(&vm->aside, others_aside, vm);
	aside_add(&vm->aside, network_aside, vm);
	return arch_vm_init(&vm->kvm, &vm->cpus, err);
}

int vm_create(struct vm **ret, const struct options *options, enum sandbox_mode mode, struct error *err)
{
	/* Each needs what those before it made. */
	static int (*const steps[])(struct vm *, struct error *) = { begin, vm_events_init, make_roles, make_machine,
		make_buses, vcpus_before_lines, vm_devices_create, make_filters, make_vcpus, load_images, reset_vcpus };
	struct vm *vm = calloc(1, sizeof(*vm));
	int r = 0;

	if (!vm)
		return error_set(err, ENOMEM, "out of memory");
	vm->options = options;
	vm->mode = mode;
	vm->main_thread = pthread_self();
	vm->kvm = (struct kvm){ .dev_fd = -1, .vm_fd = -1 };
	vm->boot_config.kernel_fd = vm->boot_config.initramfs_fd = vm->signal_fd = vm->inbox.fd = -1;
	sandbox_ahead_init(&vm->ahead);
	vm->reboot = choice(vm, "on-reset") == ON_RESET_REBOOT;
	for (size_t i = 0; i < ARRAY_SIZE(steps) && r == 0; i++)
		r = steps[i](vm, err);
	if (r < 0) {
		vm_destroy(vm);
		return r;
	}
	*ret = vm;
	return 0;
}

void vm_wait_ahead(void *ctx)
{
	struct vm *vm = ctx;

	(void)!aside_wait(&vm->aside, ASIDE_NETWORK, NULL);
	/*
	 * The thread lives until stage 3 has entered them. Where that will need a user namespace,
	 * main must be the only thread.
	 */
	if (!sandbox_ahead_complete(&vm->ahead))
		aside_end(&vm->aside);
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	aside_end(&vm->aside);
	vm_devices_destroy(vm);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_destroy(&vm->vcpus[i]);
	free(vm->vcpus);
	arch_boot_free(vm->boot);
	arch_cpu_model_free(vm->model);
	irqchip_destroy(vm->irq);
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
	kvm_close(&vm->kvm);
	mem_destroy(vm->mem);
	if (vm->boot_config.kernel_fd >= 0)
		close(vm->boot_config.kernel_fd);
	if (vm->boot_config.initramfs_fd >= 0)
		close(vm->boot_config.initramfs_fd);
	sandbox_filter_free(vm->vcpu_filter);
	sandbox_filter_free(vm->main_filter);
	sandbox_ahead_close(&vm->ahead);
	loop_destroy(vm->loop);
	if (vm->signal_fd >= 0)
		close(vm->signal_fd);
	if (vm->inbox.fd >= 0)
		close(vm->inbox.fd);
	pthread_mutex_destroy(&vm->inbox.lock);
	free(vm);
}

int vm_reset_machine(struct vm *vm, struct error *err)
{
	int r = arch_vm_reset(&vm->kvm, err);

	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->reset)
			d->ops->reset(d);
	arch_boot_free(vm->boot);
	vm->boot = NULL;
	vm->boot_config.fresh_ram = false;
	if (r == 0)
		r = arch_boot_load(&vm->boot, &vm->boot_config, err);
	return r < 0 ? r : reset_vcpus(vm, err);
}

void vm_show_sandbox(const struct vm *vm)
{
	sandbox_show(&vm->main_role);
	sandbox_show(&vm->vcpu_role);
	for (unsigned i = 0; i < vm->nworkers; i++)
		sandbox_show(worker_role(vm->workers[i]));
	for (unsigned i = 0; i < vm->nprocesses; i++) {
		sandbox_show(process_keeper_role(vm->processes[i]));
		for (unsigned k = 0; k < process_workers(vm->processes[i]); k++)
			sandbox_show(worker_role(process_worker_at(vm->processes[i], k)));
	}
}
