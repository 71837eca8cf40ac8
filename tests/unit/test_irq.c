#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#include "vmm/irq.h"

enum { FIRST = 24, LIMIT = 28, BAD_DATA = 0xbad };

struct fake {
	unsigned tables_when_wired;
	unsigned tables, nroutes, wired;
	struct irq_msi_route last[8];
	int refuse;
};

static int wire(void *ctx, int fd, unsigned gsi, bool on)
{
	struct fake *f = ctx;

	(void)fd;
	(void)gsi;
	f->wired += on ? 1 : -1u;
	f->tables_when_wired = f->tables;
	return f->refuse;
}

static int routes(void *ctx, const struct irq_msi_route *route, unsigned n)
{
	struct fake *f = ctx;

	f->tables++;
	for (unsigned i = 0; i < n; i++)
		if (route[i].data == BAD_DATA)
			return -EINVAL;
	f->nroutes = n;
	memcpy(f->last, route, n * sizeof(*route));
	return 0;
}

static const struct irq_chip_ops ops = { wire, routes };

static struct irqchip *chip(struct fake *f)
{
	struct irqchip *c;

	cr_assert_eq(irqchip_create(&c, &ops, f, FIRST, LIMIT), 0);
	return c;
}

Test(irq, a_masked_source_keeps_its_ring)
{
	struct fake f = { 0 };
	struct irqchip *c = chip(&f);
	struct irq_source *s;

	cr_assert_eq(irq_msi_create(&s, c, 0, NULL), 0);
	irq_raise(s);
	cr_assert(irq_pending(s));
	cr_assert_eq(f.wired, 0);
	cr_assert_eq(irq_msi_set(s, 0xfee00000, 0x41, false), 0);
	cr_assert_eq(f.wired, 1);
	cr_assert_not(irq_pending(s), "unmasked: the chip has it");
	cr_assert_eq(irq_msi_set(s, 0xfee00000, 0x41, true), 0);
	cr_assert_eq(f.wired, 0);
	irq_destroy(s);
	irqchip_destroy(c);
}

Test(irq, routes_are_published_only_when_they_change)
{
	struct fake f = { 0 };
	struct irqchip *c = chip(&f);
	struct irq_source *s;

	cr_assert_eq(irq_msi_create(&s, c, 8, NULL), 0);
	cr_assert_eq(irq_msi_set(s, 0xfee00000, 0x41, false), 0);
	cr_assert_eq(irq_msi_set(s, 0xfee00000, 0x41, true), 0);
	cr_assert_eq(irq_msi_set(s, 0xfee00000, 0x41, false), 0);
	cr_assert_eq(f.tables, 1);
	cr_assert_eq(irq_msi_set(s, 0xfee01000, 0x42, false), 0);
	cr_assert_eq(f.tables, 2);
	cr_assert_eq(f.last[0].gsi, FIRST);
	cr_assert_eq(f.last[0].addr, 0xfee01000);
	cr_assert_eq(f.last[0].devid, 8);
	irq_destroy(s);
	irqchip_destroy(c);
}

Test(irq, a_batch_publishes_once)
{
	struct fake f = { 0 };
	struct irqchip *c = chip(&f);
	struct irq_source *s[3];

	irqchip_batch_begin(c);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(irq_msi_create(&s[i], c, 0, NULL), 0);
		cr_assert_eq(irq_msi_set(s[i], 0xfee00000, i, false), 0);
	}
	cr_assert_eq(f.tables, 0);
	cr_assert_eq(f.wired, 0, "a ring that waits would be lost without its route");
	cr_assert_eq(irq_msi_set(s[1], 0xfee00000, 1, true), 0);
	cr_assert_eq(irqchip_batch_end(c), 0);
	cr_assert_eq(f.tables, 1);
	cr_assert_eq(f.nroutes, 3);
	cr_assert_eq(f.wired, 2);
	cr_assert_eq(f.tables_when_wired, 1);
	for (unsigned i = 0; i < 3; i++)
		irq_destroy(s[i]);
	irqchip_destroy(c);
}

Test(irq, a_message_that_the_host_refuses_does_not_spoil_the_others)
{
	struct fake f = { 0 };
	struct irqchip *c = chip(&f);
	struct irq_source *s[2];

	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(irq_msi_create(&s[i], c, 0, NULL), 0);
	cr_assert_eq(irq_msi_set(s[0], 0xfee00000, BAD_DATA, false), -EINVAL);
	cr_assert_eq(f.wired, 0);
	cr_assert_eq(irq_msi_set(s[1], 0xfee00000, 1, false), 0);
	cr_assert_eq(f.nroutes, 1);
	cr_assert_eq(irq_msi_set(s[0], 0xfee00000, 2, false), 0, "a good one is taken later");
	cr_assert_eq(f.nroutes, 2);
	cr_assert_eq(f.wired, 2);
	for (unsigned i = 0; i < 2; i++)
		irq_destroy(s[i]);
	irqchip_destroy(c);
}

Test(irq, when_routes_run_out_it_says_so_and_freed_ones_come_back)
{
	struct fake f = { 0 };
	struct irqchip *c = chip(&f);
	struct irq_source *s[LIMIT - FIRST + 1];

	for (unsigned i = 0; i <= LIMIT - FIRST; i++) {
		int want = i < LIMIT - FIRST ? 0 : -ENOSPC;

		cr_assert_eq(irq_msi_create(&s[i], c, 0, NULL), 0);
		cr_assert_eq(irq_msi_set(s[i], 0xfee00000, i, false), want);
	}
	irq_destroy(s[0]);
	cr_assert_eq(irq_msi_set(s[LIMIT - FIRST], 0xfee00000, 9, false), 0);
	for (unsigned i = 1; i <= LIMIT - FIRST; i++)
		irq_destroy(s[i]);
	irqchip_destroy(c);
}

Test(irq, a_line_is_wired_at_once)
{
	struct fake f = { 0 };
	struct irqchip *c = chip(&f);
	struct irq_source *s;
	struct error err;

	cr_assert_eq(irq_line_create(&s, c, 4, &err), 0);
	cr_assert_eq(f.wired, 1);
	irq_destroy(s);
	cr_assert_eq(f.wired, 0);
	f.refuse = -EBUSY;
	cr_assert_eq(irq_line_create(&s, c, 4, &err), -EBUSY);
	irqchip_destroy(c);
}
