/*
 * The chip keeps every MSI source's message and hands the whole list to the machine when one
 * changes, because that is what KVM takes (KVM_SET_GSI_ROUTING replaces the table). A source is
 * wired (irqfd) exactly while it has a message and is not masked; unwired, its eventfd keeps the
 * rings, and wiring it again delivers one: KVM looks at the eventfd when an irqfd is assigned.
 */
#include "vmm/irq.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct irq_source {
	struct irqchip *chip;
	bool msi;
	int fd;           /* const */
	unsigned gsi;     /* lock; MSI: 0 until the first message */
	bool wired;       /* lock */
	bool wire_later;  /* lock; at the end of the batch, when its route is published */
	struct irq_msi_route route;
	bool has_route;
	struct irq_source *next;
};

struct irqchip {
	const struct irq_chip_ops *ops;
	void *ctx;
	unsigned first_msi_gsi, max_gsi;
	pthread_mutex_t lock;     /* guards all below and the sources */
	struct irq_source *sources;
	uint8_t *gsi_taken;       /* of MSI gsis, from first_msi_gsi */
	struct irq_msi_route *scratch;
	unsigned batch;
	bool stale;               /* routes changed inside a batch */
};

int irqchip_create(struct irqchip **ret, const struct irq_chip_ops *ops, void *ctx, unsigned first_msi_gsi,
	unsigned max_gsi)
{
	struct irqchip *chip = calloc(1, sizeof(*chip));
	unsigned n = max_gsi - first_msi_gsi;

	if (!chip)
		return -ENOMEM;
	chip->ops = ops;
	chip->ctx = ctx;
	chip->first_msi_gsi = first_msi_gsi;
	chip->max_gsi = max_gsi;
	pthread_mutex_init(&chip->lock, NULL);
	chip->gsi_taken = calloc(n + 1, 1); /* n may be 0 */
	/* Not cleared: as long as the table is short, most of its pages are never touched. */
	chip->scratch = malloc((n + 1) * sizeof(*chip->scratch));
	if (!chip->gsi_taken || !chip->scratch) {
		irqchip_destroy(chip);
		return -ENOMEM;
	}
	*ret = chip;
	return 0;
}

void irqchip_destroy(struct irqchip *chip)
{
	if (!chip)
		return;
	pthread_mutex_destroy(&chip->lock);
	free(chip->gsi_taken);
	free(chip->scratch);
	free(chip);
}

static int source_new(struct irq_source **ret, struct irqchip *chip, struct error *err)
{
	struct irq_source *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set(err, ENOMEM, "out of memory for an interrupt");
	s->chip = chip;
	s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->fd < 0) {
		int e = errno;

		free(s);
		return error_set(err, e, "no more file descriptors for interrupts: %s; raise ulimit -n", strerror(e));
	}
	*ret = s;
	return 0;
}

static void link_source(struct irq_source *s)
{
	s->next = s->chip->sources;
	s->chip->sources = s;
}

static int wire(struct irq_source *s, bool on)
{
	struct irqchip *chip = s->chip;
	int r;

	if (s->wired == on)
		return 0;
	r = chip->ops ? chip->ops->wire(chip->ctx, s->fd, s->gsi, on) : 0;
	if (r == 0)
		s->wired = on;
	return r;
}

int irq_line_create(struct irq_source **ret, struct irqchip *chip, unsigned gsi, struct error *err)
{
	struct irq_source *s;
	int r = source_new(&s, chip, err);

	if (r < 0)
		return r;
	s->gsi = gsi;
	pthread_mutex_lock(&chip->lock);
	r = wire(s, true);
	if (r == 0)
		link_source(s);
	pthread_mutex_unlock(&chip->lock);
	if (r < 0) {
		close(s->fd);
		free(s);
		return error_set(err, -r, "cannot wire interrupt line %u: %s", gsi, strerror(-r));
	}
	*ret = s;
	return 0;
}

int irq_msi_create(struct irq_source **ret, struct irqchip *chip, uint32_t devid, struct error *err)
{
	struct irq_source *s;
	int r = source_new(&s, chip, err);

	if (r < 0)
		return r;
	s->msi = true;
	s->route.devid = devid;
	pthread_mutex_lock(&chip->lock);
	link_source(s);
	pthread_mutex_unlock(&chip->lock);
	*ret = s;
	return 0;
}

static int publish(struct irqchip *chip)
{
	unsigned n = 0;

	if (chip->batch) {
		chip->stale = true;
		return 0;
	}
	chip->stale = false;
	for (struct irq_source *s = chip->sources; s; s = s->next)
		if (s->has_route)
			chip->scratch[n++] = s->route;
	return chip->ops ? chip->ops->routes(chip->ctx, chip->scratch, n) : 0;
}

void irq_destroy(struct irq_source *s)
{
	struct irqchip *chip;
	struct irq_source **p;

	if (!s)
		return;
	chip = s->chip;
	pthread_mutex_lock(&chip->lock);
	wire(s, false);
	for (p = &chip->sources; *p && *p != s; p = &(*p)->next)
		;
	if (*p)
		*p = s->next;
	/*
	 * The dead route may stay in the kernel's table until the next change: no irqfd leads to
	 * it.
	 */
	if (s->has_route)
		chip->gsi_taken[s->gsi - chip->first_msi_gsi] = 0;
	pthread_mutex_unlock(&chip->lock);
	close(s->fd);
	free(s);
}

int irq_fd(const struct irq_source *s)
{
	return s->fd;
}

void irq_raise(struct irq_source *s)
{
	const uint64_t one = 1;

	if (write(s->fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: the interrupt is pending as it is */
}

static int take_gsi(struct irqchip *chip, unsigned *ret)
{
	for (unsigned i = 0; i < chip->max_gsi - chip->first_msi_gsi; i++) {
		if (chip->gsi_taken[i])
			continue;
		chip->gsi_taken[i] = 1;
		*ret = chip->first_msi_gsi + i;
		return 0;
	}
	return -ENOSPC;
}

static int msi_set_locked(struct irq_source *s, uint64_t addr, uint32_t data, bool masked)
{
	int r = 0;

	s->wire_later = false;
	if (masked)
		return wire(s, false);
	if (!s->has_route) {
		r = take_gsi(s->chip, &s->gsi);
		if (r < 0)
			return r;
		s->has_route = true;
		s->route.gsi = s->gsi;
		s->route.addr = ~addr; /* differs, so that it is published below */
	}
	if (s->route.addr != addr || s->route.data != data) {
		s->route.addr = addr;
		s->route.data = data;
		r = publish(s->chip);
	}
	if (r < 0) {
		/* A message that the host does not take must not spoil the table for all others. */
		wire(s, false);
		s->has_route = false;
		s->chip->gsi_taken[s->gsi - s->chip->first_msi_gsi] = 0;
		return r;
	}
	/*
	 * A ring that waits in the eventfd is delivered by the wiring itself: the route must be
	 * there by then.
	 */
	s->wire_later = s->chip->batch > 0;
	return s->wire_later ? 0 : wire(s, true);
}

int irq_msi_set(struct irq_source *s, uint64_t addr, uint32_t data, bool masked)
{
	int r;

	pthread_mutex_lock(&s->chip->lock);
	r = msi_set_locked(s, addr, data, masked);
	pthread_mutex_unlock(&s->chip->lock);
	return r;
}

bool irq_pending(const struct irq_source *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	const struct timespec now = { 0 };
	bool wired;

	pthread_mutex_lock(&s->chip->lock);
	wired = s->wired;
	pthread_mutex_unlock(&s->chip->lock);
	return !wired && ppoll(&p, 1, &now, NULL) == 1;
}

void irqchip_batch_begin(struct irqchip *chip)
{
	pthread_mutex_lock(&chip->lock);
	chip->batch++;
	pthread_mutex_unlock(&chip->lock);
}

int irqchip_batch_end(struct irqchip *chip)
{
	int r = 0;

	pthread_mutex_lock(&chip->lock);
	if (--chip->batch == 0) {
		if (chip->stale)
			r = publish(chip);
		for (struct irq_source *s = chip->sources; s && r == 0; s = s->next)
			if (s->wire_later) {
				s->wire_later = false;
				r = wire(s, true);
			}
	}
	pthread_mutex_unlock(&chip->lock);
	return r;
}
