/*
 * From options and the CPU's platform list to devices, by walking device_types[]; and the workers
 * that the devices ask for.
 *
 * Quiet devices live on one worker, that of a disk where there is one: a machine with a disk and a
 * network link has two workers, not three.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "vmm/log.h"
#include "vmm/options_table.h"
#include "vmm/rate_group.h"
#include "vmm/vm.h"

static int make_worker(const struct device_env *env, const char *name, enum worker_share share,
	struct worker **ret, struct error *err)
{
	struct vm *vm = env->machine;
	int r;

	if (vm->shared && (share == WORKER_QUIET || (share == WORKER_BUSY && vm->shared_is_free))) {
		*ret = vm->shared;
		if (share == WORKER_BUSY) {
			worker_rename(*ret, name);
			vm->shared_is_free = false;
		}
		return 0;
	}
	if (vm->nworkers == VM_WORKERS_MAX)
		return error_set(err, ENOSPC, "%s: at most %d device threads", name, VM_WORKERS_MAX);
	r = worker_create(ret, name, err);
	if (r < 0)
		return r;
	vm->workers[vm->nworkers++] = *ret;
	if (!vm->shared && share != WORKER_ALONE) {
		vm->shared = *ret;
		vm->shared_is_free = share == WORKER_QUIET;
	}
	return 0;
}

static int add_process(const struct device_env *env, struct process *process, struct error *err)
{
	struct vm *vm = env->machine;

	if (vm->state != VM_CREATED)
		return error_set(err, EBUSY, "%s: isolation=process: only devices that the machine starts with have processes "
			"of their own; say isolation=thread", env->id);
	if (vm->nprocesses == VM_PROCESSES_MAX)
		return error_set(err, ENOSPC, "%s: at most %d devices have processes of their own; say isolation=thread",
			env->id, VM_PROCESSES_MAX);
	vm->processes[vm->nprocesses++] = process;
	return 0;
}

/* What the kernel would share with a child: a vCPU's page. Others say so where they make it. */
static void hide_from_children(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		madvise(vm->vcpus[i].run, vm->vcpus[i].run_size, MADV_DONTFORK);
}

int vm_fork(void *ctx, const struct sandbox_confine_config *confine, struct error *err)
{
	struct vm *vm = ctx;
	int r;

	if (!vm->nprocesses)
		return 0;
	/* What a second thread has locked in this moment would stay so in a child. */
	aside_end(&vm->aside);
	hide_from_children(vm);
	mem_forked(vm->mem);
	r = process_fork_all(vm->processes, vm->nprocesses, vm->mode, confine, err);
	for (unsigned i = 0; i < vm->nprocesses && r == 0; i++)
		r = process_watch(vm->processes[i], vm->loop, err);
	return r;
}

static bool isolates(const struct vm *vm)
{
	return ((const struct options_choice *)options_get(vm->options, "isolation", 0))->value == ISOLATION_PROCESS;
}

static int find_rate_group(const struct device_env *env, const char *name, struct rate **ret,
	struct error *err)
{
	struct vm *vm = env->machine;
	struct rate *found = rate_groups_find(vm->rate_groups, name);

	if (!found)
		return error_set(err, ENOENT,
			"rate_group=%s: there is no such group; add --rate-group name=%s", name, name);
	*ret = found;
	return 0;
}

static int main_calls(const struct device_env *env, const struct syscall_row *table)
{
	struct vm *vm = env->machine;

	return table ? sandbox_role_add(&vm->main_role, table) : 0;
}

static int create_one(struct vm *vm, const struct device_type *type, const void *options,
	const struct device_node *place, struct error *err)
{
	char id[DEVICE_ID_MAX];
	const struct device_env env = {
		.id = id,
		.mem = vm->mem,
		.mmio = vm->mmio,
		.pio = vm->pio,
		.irq = vm->irq,
		.pci = vm->pci,
		.pci_slot = &vm->pci,
		.pci_windows = &vm->windows,
		.resources = &vm->layout.resources,
		.place = place,
		.terminal = &vm->terminal,
		.events = &vm->events,
		.main_loop = vm->loop,
		.worker = make_worker,
		.isolate = isolates(vm),
		.process = add_process,
		.rate_group = find_rate_group,
		.main_calls = main_calls,
		.machine = vm,
	};
	struct device *dev = NULL, **end = &vm->devices;
	/*
	 * Users see these numbers in thread names: devices that they did not ask for do not count.
	 */
	bool counted = type->id_prefix && !type->always && !place;
	int r;

	if (counted)
		snprintf(id, sizeof(id), "%s%u", type->id_prefix, vm->next_id);
	else
		snprintf(id, sizeof(id), "%s", type->id_prefix ? type->id_prefix : type->name);
	r = type->create(&dev, &env, options, err);
	if (r < 0 || !dev)
		return r;
	if (counted)
		vm->next_id++;
	for (; *end; end = &(*end)->next)
		if (!strcmp((*end)->id, dev->id)) {
			r = error_set(err, EEXIST, "two devices are called '%s'; give each its own id=", dev->id);
			dev->ops->destroy(dev);
			return r;
		}
	*end = dev;
	return 0;
}

static const struct device_type *find_type(const char *name)
{
	for (const struct device_type *const *t = device_types; *t; t++)
		if (!strcmp((*t)->name, name))
			return *t;
	return NULL;
}

static bool is_platform(const struct device_type *type)
{
	for (const struct device_node *n = arch_platform; n->kind; n++)
		if (!strcmp(n->kind, type->name))
			return true;
	return false;
}

static int create_platform(struct vm *vm, struct error *err)
{
	for (const struct device_node *n = arch_platform; n->kind; n++) {
		const struct device_type *type = find_type(n->kind);
		const void *options = NULL;
		int r;

		if (!type)
			return error_set(err, ENOSYS, "platform device %s is not in this program", n->kind);
		if (type->options)
			options = options_get(vm->options, type->options->flag, 0);
		r = create_one(vm, type, options, n, err);
		if (r < 0)
			return r;
	}
	return 0;
}

const char *vm_devices_sharing(const struct vm *vm)
{
	if (isolates(vm))
		return "isolation";
	for (const struct device_type *const *t = device_types; *t; t++) {
		unsigned n = (*t)->options && (*t)->shares_memory ?
			options_count(vm->options, (*t)->options->flag) : 0;

		for (unsigned i = 0; i < n; i++)
			if ((*t)->shares_memory(options_get(vm->options, (*t)->options->flag, i)))
				return (*t)->options->flag;
	}
	return NULL;
}

int vm_devices_create(struct vm *vm, struct error *err)
{
	int r = rate_groups_create(&vm->rate_groups, vm->options, err);

	if (r == 0)
		r = create_platform(vm, err);
	for (const struct device_type *const *t = device_types; *t && r == 0; t++) {
		const struct device_type *type = *t;
		unsigned n;

		if (!type->options || is_platform(type))
			continue;
		n = options_count(vm->options, type->options->flag);
		if (!n && type->always)
			n = 1;
		for (unsigned i = 0; i < n && r == 0; i++)
			r = create_one(vm, type, options_get(vm->options, type->options->flag, i), NULL, err);
	}
	for (struct device *d = vm->devices; d && r == 0; d = d->next)
		if (d->ops->start)
			r = d->ops->start(d, err);
	return r;
}

void vm_devices_destroy(struct vm *vm)
{
	/* What is in flight is drained by the worker it belongs to, under that worker's filter. */
	for (struct device *d = vm->devices; d && vm->state != VM_CREATED; d = d->next)
		if (d->ops->pause)
			d->ops->pause(d);
	/*
	 * Threads next: a device may be freed when nobody runs its code. Their messages to main die
	 * with the loop.
	 */
	for (unsigned i = 0; i < vm->nworkers; i++)
		worker_stop(vm->workers[i]);
	/* In reverse: the PCI root was made first and must outlive its functions. */
	while (vm->devices) {
		struct device **last = &vm->devices, *d;

		while ((*last)->next)
			last = &(*last)->next;
		d = *last;
		*last = NULL;
		d->ops->destroy(d);
	}
	for (unsigned i = 0; i < vm->nworkers; i++)
		worker_destroy(vm->workers[i]);
	vm->nworkers = 0;
	rate_groups_destroy(vm->rate_groups);
	vm->rate_groups = NULL;
}
