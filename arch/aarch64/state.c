/*
 * The registers of a vCPU as one object with one table, saved and loaded.
 *
 * KVM lists the registers that a vCPU has (KVM_GET_REG_LIST); their ids are a stable interface of
 * the kernel and say how long each value is. The stream holds the ids and the values one behind the
 * other. A vCPU takes exactly the registers that it has: one more or one fewer is another processor
 * or kernel, and nothing is written then. Loading goes in the list's order. ID registers and others
 * that describe the host refuse a foreign value: what KVM refuses must be equal to what the vCPU
 * has already, or the load fails.
 *
 * Main; vCPU parked.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/aarch64/arm64.h"
#include "vmm/kvm.h"

enum { REGS_MAX = 1024, VALUES_MAX = 32768, REG_MAX = 256 };

struct arm64_state {
	uint32_t nregs, mp_state;
	uint64_t id[REGS_MAX];
	uint8_t value[VALUES_MAX];
	uint8_t events[sizeof(struct kvm_vcpu_events)];
};

static size_t reg_size(uint64_t id)
{
	return (size_t)1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
}

static int compare_ids(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The ids in ascending order; freed by the caller. NULL: out of memory. */
static uint64_t *sorted_ids(const struct arm64_state *s)
{
	uint64_t *sorted = malloc(sizeof(s->id));

	if (!sorted)
		return NULL;
	memcpy(sorted, s->id, sizeof(s->id));
	qsort(sorted, s->nregs, sizeof(*sorted), compare_ids);
	return sorted;
}

static int check_ids(const struct arm64_state *s, struct error *err)
{
	uint64_t *sorted = sorted_ids(s);
	int r = 0;

	if (!sorted)
		return error_set(err, ENOMEM, "out of memory for a vCPU's state");
	for (uint32_t i = 1; i < s->nregs && r == 0; i++)
		if (sorted[i] == sorted[i - 1])
			r = error_set(err, EINVAL, "vcpu: register %#llx was saved twice; the file is damaged",
				(unsigned long long)sorted[i]);
	free(sorted);
	return r;
}

static int check(const void *object, struct error *err)
{
	const struct arm64_state *s = object;
	size_t total = 0;

	if (s->nregs > REGS_MAX)
		return error_set(err, EINVAL, "vcpu: %u registers are more than %d", s->nregs, REGS_MAX);
	for (uint32_t i = 0; i < s->nregs; i++) {
		if ((s->id[i] & KVM_REG_ARCH_MASK) != KVM_REG_ARM64 || reg_size(s->id[i]) > REG_MAX)
			return error_set(err, EINVAL, "vcpu: %#llx is not a register of this processor",
				(unsigned long long)s->id[i]);
		total += reg_size(s->id[i]);
	}
	if (total > VALUES_MAX)
		return error_set(err, EINVAL, "vcpu: the saved registers take %zu bytes, more than %d", total, VALUES_MAX);
	if (s->mp_state != KVM_MP_STATE_RUNNABLE && s->mp_state != KVM_MP_STATE_STOPPED)
		return error_set(err, EINVAL, "vcpu: state %u is not one KVM knows here", s->mp_state);
	return check_ids(s, err);
}

static const struct state_field fields[] = {
	STATE_FIELD(struct arm64_state, nregs),
	STATE_FIELD(struct arm64_state, mp_state),
	STATE_ARRAY(struct arm64_state, id),
	STATE_ARRAY(struct arm64_state, value),
	STATE_ARRAY(struct arm64_state, events),
	STATE_END,
};

static const struct state_desc desc = {
	.name = "arm64-vcpu",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct arm64_state),
	.fields = fields,
	.check = check,
};

static int list_registers(int vcpu_fd, struct arm64_state *s)
{
	struct kvm_reg_list *list = malloc(sizeof(*list) + sizeof(s->id));
	int r;

	if (!list)
		return -ENOMEM;
	list->n = REGS_MAX;
	r = kvm_ioctl(vcpu_fd, KVM_GET_REG_LIST, list); /* -E2BIG: more than fit */
	if (r == 0) {
		s->nregs = (uint32_t)list->n;
		memcpy(s->id, list->reg, s->nregs * sizeof(s->id[0]));
	}
	free(list);
	return r;
}

int arch_vcpu_save(int vcpu_fd, struct state_writer *w)
{
	struct arm64_state *s = calloc(1, sizeof(*s));
	struct kvm_mp_state mp = { 0 };
	size_t at = 0;
	int r = s ? list_registers(vcpu_fd, s) : -ENOMEM;

	for (uint32_t i = 0; r == 0 && i < s->nregs; i++) {
		size_t size = reg_size(s->id[i]);

		r = size <= VALUES_MAX - at ? arm64_get_reg(vcpu_fd, s->id[i], s->value + at) : -E2BIG;
		at += size;
	}
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, s->events);
	if (r == 0)
		r = kvm_ioctl(vcpu_fd, KVM_GET_MP_STATE, &mp);
	if (r == 0) {
		s->mp_state = mp.mp_state;
		r = state_save(w, &desc, s);
	}
	free(s);
	return r;
}

static int foreign(uint64_t id, const char *whose, struct error *err)
{
	return error_set(err, EINVAL,
		"register %#llx is one that only the %s has; use a host of the same kind and kernel",
		(unsigned long long)id, whose);
}

/* Both lists are sorted and without repetition: walk them side by side. */
static int compare_lists(const uint64_t *saved, uint32_t nsaved, const uint64_t *here, uint32_t nhere,
	struct error *err)
{
	for (uint32_t i = 0; i < nsaved || i < nhere; i++) {
		if (i == nhere || (i < nsaved && saved[i] < here[i]))
			return foreign(saved[i], "saved vCPU", err);
		if (i == nsaved || here[i] < saved[i])
			return foreign(here[i], "vCPU of this host", err);
	}
	return 0;
}

/* Has the vCPU the registers of the stream, all of them, and no others? */
static int check_fit(int vcpu_fd, const struct arm64_state *s, struct error *err)
{
	struct arm64_state *mine = calloc(1, sizeof(*mine));
	uint64_t *saved = sorted_ids(s), *here = NULL;
	int r = mine && saved ? list_registers(vcpu_fd, mine) : -ENOMEM;

	if (r == 0 && !(here = sorted_ids(mine)))
		r = -ENOMEM;
	r = r < 0 ? error_set(err, -r, "KVM does not tell the registers of a vCPU: %s", strerror(-r)) :
		    compare_lists(saved, s->nregs, here, mine->nregs, err);
	free(here);
	free(saved);
	free(mine);
	return r;
}

static int load_registers(int vcpu_fd, const struct arm64_state *s, struct error *err)
{
	uint8_t now[REG_MAX];
	size_t at = 0;

	for (uint32_t i = 0; i < s->nregs; i++) {
		size_t size = reg_size(s->id[i]);
		int r = arm64_set_reg(vcpu_fd, s->id[i], s->value + at);

		if (r < 0 && (arm64_get_reg(vcpu_fd, s->id[i], now) < 0 || memcmp(now, s->value + at, size)))
			return error_set(err, -r,
				"register %#llx of the saved vCPU does not fit this host's processor (%s); "
				"use a host of the same kind and kernel",
				(unsigned long long)s->id[i], strerror(-r));
		at += size;
	}
	return 0;
}

int arch_vcpu_load(int vcpu_fd, const struct arch_cpu_model *model, struct state_reader *reader, struct error *err)
{
	struct arm64_state *s = calloc(1, sizeof(*s));
	int r = s ? state_load(reader, &desc, s, err) : error_set(err, ENOMEM, "out of memory for a vCPU's state");

	(void)model;
	if (r == 0)
		r = check_fit(vcpu_fd, s, err);
	if (r == 0)
		r = load_registers(vcpu_fd, s, err);
	if (r == 0) {
		struct kvm_mp_state mp = { .mp_state = s->mp_state };

		r = kvm_ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, s->events);
		if (r == 0)
			r = kvm_ioctl(vcpu_fd, KVM_SET_MP_STATE, &mp);
		if (r < 0)
			r = error_set(err, -r, "KVM refuses the saved state of a vCPU: %s", strerror(-r));
	}
	free(s);
	return r;
}
