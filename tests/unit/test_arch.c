/*
 * What every CPU's code promises (vmm/arch.h): an address map without overlaps, and registers that can be saved and
 * loaded. The latter asks KVM, and is skipped where there is none.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

enum { RANGES_MAX = 32, BITS = 39 };

struct map {
	struct arch_range range[RANGES_MAX];
	unsigned n;
};

static void put(struct map *m, uint64_t base, uint64_t size)
{
	if (size)
		m->range[m->n++] = (struct arch_range){ base, size };
}

static void fill(struct map *m, struct arch_layout *l, uint64_t ram)
{
	struct error err = { "" };

	*m = (struct map){ .n = 0 };
	cr_assert_eq(arch_layout_fill(l, ram, BITS, &err), 0, "%s", err.text);
	for (unsigned i = 0; i < l->nram; i++)
		put(m, l->ram[i].base, l->ram[i].size);
	put(m, l->pci_mmio32.base, l->pci_mmio32.size);
	put(m, l->pci_mmio64.base, l->pci_mmio64.size);
	put(m, l->resources.mmio_next, l->resources.mmio_end - l->resources.mmio_next);
	for (const struct device_node *n = arch_platform; n->kind; n++)
		if (!n->pio)
			put(m, n->base, n->len);
}

static const uint64_t sizes[] = { 128ull << 20, 1ull << 30, 3ull << 30, (3ull << 30) + 4096, 4ull << 30, 100ull << 30 };

Test(arch, nothing_in_the_address_map_overlaps)
{
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct arch_layout l;
		struct map m;

		fill(&m, &l, sizes[s]);
		for (unsigned i = 0; i < m.n; i++) {
			cr_expect_leq(m.range[i].base + m.range[i].size, 1ull << BITS);
			for (unsigned k = 0; k < i; k++)
				cr_expect(m.range[i].base >= m.range[k].base + m.range[k].size ||
						m.range[k].base >= m.range[i].base + m.range[i].size,
					"%#llx and %#llx", (unsigned long long)m.range[i].base,
					(unsigned long long)m.range[k].base);
		}
	}
}

Test(arch, all_of_the_ram_asked_for_is_there)
{
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct arch_layout l;
		struct map m;
		uint64_t sum = 0;

		fill(&m, &l, sizes[s]);
		for (unsigned i = 0; i < l.nram; i++)
			sum += l.ram[i].size;
		cr_expect_eq(sum, sizes[s]);
	}
}

Test(arch, lines_of_platform_devices_are_not_free_for_others)
{
	struct arch_layout l;
	struct map m;

	fill(&m, &l, 1ull << 30);
	cr_assert_leq(l.resources.gsi_end, l.first_msi_gsi);
	for (const struct device_node *n = arch_platform; n->kind; n++)
		if (n->gsi != UINT32_MAX)
			cr_expect(n->gsi < l.resources.gsi_next || n->gsi >= l.resources.gsi_end, "%s", n->kind);
}

Test(arch, wired_routes_lie_below_the_messages)
{
	struct kvm_irq_routing_entry routes[ARCH_WIRED_ROUTES_MAX];
	unsigned n = arch_wired_routes(routes);
	struct arch_layout l;
	struct map m;

	fill(&m, &l, 1ull << 30);
	cr_assert(n > 0 && n <= ARCH_WIRED_ROUTES_MAX);
	for (unsigned i = 0; i < n; i++)
		cr_expect_lt(routes[i].gsi, l.first_msi_gsi);
}

Test(arch, memory_beyond_the_addresses_is_refused_with_a_sentence)
{
	struct arch_layout l;
	struct error err = { "" };

	cr_expect_eq(arch_layout_fill(&l, 1ull << BITS, BITS, &err), -EINVAL);
	cr_expect(strstr(err.text, "--memory"));
	cr_expect_eq(arch_layout_fill(&l, 4097, BITS, &err), -EINVAL);
}

struct machine {
	struct kvm kvm;
	struct arch_cpu_config cpus;
	struct arch_cpu_model *model;
	int vcpu;
};

static void machine_make(struct machine *m)
{
	struct error err = { "" };

	*m = (struct machine){ .cpus = { .boot = 1, .max = 1 }, .vcpu = -1 };
	if (kvm_open(&m->kvm, &err) < 0)
		cr_skip_test("no KVM here");
	cr_assert_eq(kvm_create_vm(&m->kvm, &err), 0, "%s", err.text);
	cr_assert_eq(arch_vm_init(&m->kvm, &m->cpus, &err), 0, "%s", err.text);
	cr_assert_eq(arch_cpu_model_create(&m->model, &m->kvm, &m->cpus, &err), 0, "%s", err.text);
	m->vcpu = kvm_create_vcpu(&m->kvm, 0, arch_cpu_id(m->model, 0), &err);
	cr_assert_geq(m->vcpu, 0, "%s", err.text);
	cr_assert_eq(arch_vcpu_init(&m->kvm, m->vcpu, 0, m->model, &err), 0, "%s", err.text);
}

static void machine_free(struct machine *m)
{
	close(m->vcpu);
	arch_cpu_model_free(m->model);
	kvm_close(&m->kvm);
}

Test(arch, saved_registers_load_again)
{
	struct state_writer w = { 0 };
	struct error err = { "" };
	struct machine m;

	machine_make(&m);
	cr_assert_eq(arch_vcpu_save(m.vcpu, &w), 0);
	struct state_reader r = { .data = w.data, .len = w.len };

	cr_assert_eq(arch_vcpu_load(m.vcpu, m.model, &r, &err), 0, "%s", err.text);
	cr_assert_eq(state_reader_finish(&r, &err), 0, "%s", err.text);
	state_writer_free(&w);
	machine_free(&m);
}

Test(arch, a_cut_or_changed_register_stream_is_refused)
{
	struct state_writer w = { 0 };
	struct error err = { "" };
	struct machine m;

	machine_make(&m);
	cr_assert_eq(arch_vcpu_save(m.vcpu, &w), 0);
	for (size_t len = 0; len < w.len; len += w.len / 7) {
		struct state_reader r = { .data = w.data, .len = len };

		cr_expect_lt(arch_vcpu_load(m.vcpu, m.model, &r, &err), 0, "cut at %zu", len);
	}
	for (size_t at = 0; at < w.len; at += w.len / 7) {
		struct state_reader r = { .data = w.data, .len = w.len };

		w.data[at] ^= 0x40;
		cr_expect_lt(arch_vcpu_load(m.vcpu, m.model, &r, &err), 0, "changed at %zu", at);
		w.data[at] ^= 0x40;
	}
	state_writer_free(&w);
	machine_free(&m);
}

Test(arch, the_interrupt_chip_can_be_reset_at_any_time)
{
	struct error err = { "" };
	struct machine m;

	machine_make(&m);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(arch_vm_reset(&m.kvm, &err), 0, "%s", err.text);
	machine_free(&m);
}
