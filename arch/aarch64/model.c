/*
 * What the guest's processor is: the kind KVM prefers on this host, with the optional features that
 * cost nothing when they are not used. ID registers come from KVM, which hides what it does not
 * give.
 *
 * Performance counters only when asked for: they let a guest watch its neighbours. Virtual EL2
 * (nesting) is not offered.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"
#include "vmm/log.h"

struct feature {
	int cap, with;      /* KVM extensions that must be there; 0: none */
	unsigned bit[2];    /* of struct kvm_vcpu_init */
	const char *name;
};

static const struct feature features[] = {
	{ KVM_CAP_ARM_PSCI_0_2, 0, { KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PSCI_0_2 }, "PSCI" },
	/* KVM takes both keys of pointer authentication or none. */
	{ KVM_CAP_ARM_PTRAUTH_ADDRESS, KVM_CAP_ARM_PTRAUTH_GENERIC,
		{ KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC }, "pointer authentication" },
	{ KVM_CAP_ARM_SVE, 0, { KVM_ARM_VCPU_SVE, KVM_ARM_VCPU_SVE }, "scalable vectors" },
};

/* Wishes that cannot be fulfilled. */
static int check_wishes(const struct kvm *kvm, const struct arch_cpu_config *c, struct error *err)
{
	if (c->nested)
		return error_set(err, EINVAL, "--cpus nested=on: guests on aarch64 cannot run virtual machines; leave it off");
	if (c->pmu && kvm_check(kvm, KVM_CAP_ARM_PMU_V3) <= 0)
		return error_set(err, ENODEV,
			"--cpus pmu=on: KVM on this host has no performance counters for a guest; leave it off");
	return 0;
}

static void choose_features(struct arch_cpu_model *m, const struct kvm *kvm)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];

		if (!kvm_check(kvm, f->cap) || (f->with && !kvm_check(kvm, f->with)))
			continue;
		m->init.features[0] |= UINT32_C(1) << f->bit[0] | UINT32_C(1) << f->bit[1];
		log_debug("the guest's processor has %s", f->name);
	}
	if (m->config.pmu)
		m->init.features[0] |= UINT32_C(1) << KVM_ARM_VCPU_PMU_V3;
	m->finalize_sve = m->init.features[0] & UINT32_C(1) << KVM_ARM_VCPU_SVE;
}

int arch_cpu_model_create(struct arch_cpu_model **ret, struct kvm *kvm, const struct arch_cpu_config *cpus,
	struct error *err)
{
	struct arch_cpu_model *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return error_set(err, ENOMEM, "out of memory for the CPU model");
	r = check_wishes(kvm, cpus, err);
	if (r < 0) {
		free(m);
		return r;
	}
	m->config = *cpus;
	choose_features(m, kvm);
	*ret = m;
	return 0;
}

void arch_cpu_model_free(struct arch_cpu_model *model)
{
	free(model);
}

/* KVM makes the affinity in MPIDR_EL1 from this number, see arm64_mpidr(). */
uint32_t arch_cpu_id(const struct arch_cpu_model *model, unsigned index)
{
	(void)model;
	return index;
}

/* KVM names the processor's kind, and takes no other; its features are the model's. */
static int find_target(struct arch_cpu_model *m, const struct kvm *kvm, struct error *err)
{
	struct kvm_vcpu_init preferred = { 0 };
	int r = kvm_ioctl(kvm->vm_fd, KVM_ARM_PREFERRED_TARGET, &preferred);

	m->init.target = preferred.target;
	return r < 0 ? error_set(err, -r, "KVM does not know this processor: %s", strerror(-r)) : 0;
}

int arch_vcpu_init(struct kvm *kvm, int vcpu_fd, unsigned index, struct arch_cpu_model *model, struct error *err)
{
	int sve = KVM_ARM_VCPU_SVE, r = index == 0 ? find_target(model, kvm, err) : 0;
	struct kvm_vcpu_init init = model->init;

	if (r < 0)
		return r;
	if (index)
		init.features[0] |= UINT32_C(1) << KVM_ARM_VCPU_POWER_OFF;
	r = kvm_ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init);
	/* Once for a vCPU's life: KVM then knows the vector length and has the registers. */
	if (r == 0 && model->finalize_sve)
		r = kvm_ioctl(vcpu_fd, KVM_ARM_VCPU_FINALIZE, &sve);
	if (r < 0)
		return error_set(err, -r, "KVM refuses the features of vCPU %u: %s", index, strerror(-r));
	/*
	 * The GIC wants to see every vCPU before it is made ready, and to be ready before the first
	 * of them runs.
	 */
	return index + 1 == model->config.boot ? arm64_gic_ready(kvm->arch, err) : 0;
}
