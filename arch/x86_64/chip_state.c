/*
 * PIC, IOAPIC, interval timer and the paravirtual clock as one object with one table, saved and
 * loaded. Local APICs belong to their vCPUs (state.c).
 *
 * KVM's own structs are stable interfaces of the kernel, so their bytes are what the stream holds
 * (Documentation/virt/kvm/api.rst 4.26 KVM_GET_IRQCHIP, 4.72 KVM_GET_PIT2, 4.29 KVM_GET_CLOCK).
 * KVM bears any bytes in them; check() refuses those that no guest could have brought about and
 * that would move a chip or hand it numbers of another machine.
 *
 * Main, with vCPUs parked. The clock goes on from where it was: what passed meanwhile on the host
 * did not pass for the guest.
 */
#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "vmm/kvm.h"

enum { PIT_CHANNELS = 3, PIT_COUNT_MAX = 0x10000, PIC_INIT_LAST = 3 };

struct x86_chips {
	uint8_t pic_master[sizeof(struct kvm_pic_state)];
	uint8_t pic_slave[sizeof(struct kvm_pic_state)];
	uint8_t ioapic[sizeof(struct kvm_ioapic_state)];
	uint8_t pit[sizeof(struct kvm_pit_state2)];
	uint64_t clock_ns;
};

/* One chip: what KVM calls it, and where its bytes lie. */
static const struct chip {
	uint32_t id;
	size_t offset, size;
} chips[] = {
	{ KVM_IRQCHIP_PIC_MASTER, offsetof(struct x86_chips, pic_master), sizeof(struct kvm_pic_state) },
	{ KVM_IRQCHIP_PIC_SLAVE, offsetof(struct x86_chips, pic_slave), sizeof(struct kvm_pic_state) },
	{ KVM_IRQCHIP_IOAPIC, offsetof(struct x86_chips, ioapic), sizeof(struct kvm_ioapic_state) },
};

static int check_pic(const uint8_t *bytes, uint8_t elcr_mask, struct error *err)
{
	struct kvm_pic_state pic;

	memcpy(&pic, bytes, sizeof(pic));
	if (pic.elcr_mask != elcr_mask || pic.elcr & ~elcr_mask || pic.init_state > PIC_INIT_LAST)
		return error_set(err, EINVAL,
			"an interrupt controller (PIC) with level lines %#x of %#x, in state %u; the file is damaged",
			pic.elcr, pic.elcr_mask, pic.init_state);
	return 0;
}

static int check(const void *object, struct error *err)
{
	const struct x86_chips *s = object;
	struct kvm_ioapic_state ioapic;
	struct kvm_pit_state2 pit;
	int r = check_pic(s->pic_master, X86_ELCR_MASTER, err);

	if (r == 0)
		r = check_pic(s->pic_slave, X86_ELCR_SLAVE, err);
	if (r)
		return r;
	memcpy(&ioapic, s->ioapic, sizeof(ioapic));
	if (ioapic.base_address != X86_IOAPIC)
		return error_set(err, EINVAL, "the IOAPIC is at %#llx, must be at %#x; the file is damaged",
			(unsigned long long)ioapic.base_address, X86_IOAPIC);
	memcpy(&pit, s->pit, sizeof(pit));
	for (unsigned i = 0; i < PIT_CHANNELS; i++)
		if (pit.channels[i].count > PIT_COUNT_MAX)
			return error_set(err, EINVAL, "channel %u of the interval timer counts from %u; the file is damaged",
				i, pit.channels[i].count);
	if (s->clock_ns > INT64_MAX)
		return error_set(err, EINVAL, "the clock is at %llu ns; the file is damaged",
			(unsigned long long)s->clock_ns);
	return 0;
}

static const struct state_field fields[] = {
	STATE_ARRAY(struct x86_chips, pic_master),
	STATE_ARRAY(struct x86_chips, pic_slave),
	STATE_ARRAY(struct x86_chips, ioapic),
	STATE_ARRAY(struct x86_chips, pit),
	STATE_FIELD(struct x86_chips, clock_ns),
	STATE_END,
};

static const struct state_desc desc = {
	.name = "x86-chips",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct x86_chips),
	.fields = fields,
	.check = check,
};

int arch_vm_save(struct kvm *kvm, struct state_writer *w)
{
	struct x86_chips s = { .clock_ns = 0 };
	struct kvm_clock_data clock = { 0 };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(chips) && r == 0; i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i].id };

		r = kvm_ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, &chip);
		memcpy((uint8_t *)&s + chips[i].offset, &chip.chip, chips[i].size);
	}
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, s.pit);
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_GET_CLOCK, &clock);
	s.clock_ns = clock.clock;
	return r < 0 ? r : state_save(w, &desc, &s);
}

int arch_vm_load(struct kvm *kvm, struct state_reader *reader, struct error *err)
{
	struct x86_chips s = { .clock_ns = 0 };
	struct kvm_clock_data clock = { 0 };
	int r = state_load(reader, &desc, &s, err);

	if (r < 0)
		return r;
	clock.clock = s.clock_ns;
	r = kvm_ioctl(kvm->vm_fd, KVM_SET_CLOCK, &clock);
	for (size_t i = 0; i < ARRAY_SIZE(chips) && r == 0; i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i].id };

		memcpy(&chip.chip, (uint8_t *)&s + chips[i].offset, chips[i].size);
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip);
	}
	if (r == 0)
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, s.pit);
	return r < 0 ? error_set(err, -r, "KVM refuses the saved interrupt controllers and timers: %s", strerror(-r)) : 0;
}
