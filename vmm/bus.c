/*
 * A bus is a sorted table of ranges that vCPU threads search without a lock. A change copies the
 * table and publishes the copy with one store. The old table is freed when the next change comes
 * after a stop_world: changes on a running machine only happen while all vCPUs stand still
 * (bus_change), and then nobody can be inside an old table.
 */
#include "vmm/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/log.h"

struct table {
	struct table *older; /* replaced, maybe still read */
	unsigned n;
	struct bus_range range[];
};

struct notify {
	struct bus_notify n;
	bool in_kernel;
	struct notify *next;
};

struct bus {
	const char *name;
	bool pio;
	uint64_t last; /* highest address */
	_Atomic(struct table *) table;
	struct bus_hooks hooks;
	pthread_mutex_t lock;     /* guards notifies and the making of tables */
	struct notify *notifies;
	_Atomic unsigned soft;    /* notifies that the kernel does not serve */
};

int bus_create(struct bus **ret, const char *name, bool pio, uint64_t size)
{
	struct bus *bus = calloc(1, sizeof(*bus));
	struct table *t = calloc(1, sizeof(*t));

	if (!bus || !t) {
		free(bus);
		free(t);
		return -ENOMEM;
	}
	bus->name = name;
	bus->pio = pio;
	bus->last = size - 1;
	atomic_init(&bus->table, t);
	pthread_mutex_init(&bus->lock, NULL);
	*ret = bus;
	return 0;
}

static void free_older(struct table *t)
{
	while (t->older) {
		struct table *old = t->older;

		t->older = old->older;
		free(old);
	}
}

void bus_destroy(struct bus *bus)
{
	struct table *t;

	if (!bus)
		return;
	while (bus->notifies)
		bus_notify_remove(bus, &bus->notifies->n);
	t = atomic_load(&bus->table);
	free_older(t);
	free(t);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

void bus_set_hooks(struct bus *bus, const struct bus_hooks *hooks)
{
	bus->hooks = *hooks;
}

static struct table *table_with_room(const struct table *old, unsigned n)
{
	struct table *t = malloc(sizeof(*t) + n * sizeof(t->range[0]));

	if (t)
		*t = (struct table){ .older = (struct table *)old, .n = n };
	return t;
}

static bool table_free(const struct table *t, uint64_t start, uint64_t len)
{
	for (unsigned i = 0; i < t->n; i++)
		if (ranges_overlap(start, len, t->range[i].start, t->range[i].len))
			return false;
	return true;
}

bool bus_is_free(const struct bus *bus, uint64_t start, uint64_t len)
{
	return table_free(atomic_load_explicit(&bus->table, memory_order_acquire), start, len);
}

int bus_add(struct bus *bus, const struct bus_range *range)
{
	struct table *old, *new = NULL;
	uint64_t end;
	unsigned at = 0;
	int r = 0;

	if (!range->len || add_overflows(range->start, range->len - 1, &end) || end > bus->last)
		return -EINVAL;
	pthread_mutex_lock(&bus->lock);
	old = atomic_load(&bus->table);
	if (!table_free(old, range->start, range->len))
		r = -EEXIST;
	else if (!(new = table_with_room(old, old->n + 1)))
		r = -ENOMEM;
	if (r == 0) {
		while (at < old->n && old->range[at].start < range->start)
			at++;
		memcpy(new->range, old->range, at * sizeof(*range));
		new->range[at] = *range;
		memcpy(new->range + at + 1, old->range + at, (old->n - at) * sizeof(*range));
		/*
		 * The table's contents are ordered before its pointer; readers load it with
		 * acquire.
		 */
		atomic_store_explicit(&bus->table, new, memory_order_release);
	}
	pthread_mutex_unlock(&bus->lock);
	return r;
}

int bus_remove(struct bus *bus, uint64_t start)
{
	struct table *old, *new;
	unsigned at = 0;
	int r = 0;

	pthread_mutex_lock(&bus->lock);
	old = atomic_load(&bus->table);
	while (at < old->n && old->range[at].start != start)
		at++;
	if (at == old->n) {
		r = -ENOENT;
	} else if (!(new = table_with_room(old, old->n - 1))) {
		r = -ENOMEM;
	} else {
		memcpy(new->range, old->range, at * sizeof(new->range[0]));
		memcpy(new->range + at, old->range + at + 1, (new->n - at) * sizeof(new->range[0]));
		/* As in bus_add: contents before pointer. */
		atomic_store_explicit(&bus->table, new, memory_order_release);
	}
	pthread_mutex_unlock(&bus->lock);
	return r;
}

int bus_notify_add(struct bus *bus, const struct bus_notify *notify)
{
	struct notify *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->n = *notify;
	n->in_kernel = bus->hooks.notify_add &&
		bus->hooks.notify_add(bus->hooks.ctx, bus->pio, notify) == 0;
	pthread_mutex_lock(&bus->lock);
	n->next = bus->notifies;
	bus->notifies = n;
	pthread_mutex_unlock(&bus->lock);
	if (!n->in_kernel)
		atomic_fetch_add(&bus->soft, 1);
	return 0;
}

static bool same_notify(const struct bus_notify *a, const struct bus_notify *b)
{
	return a->addr == b->addr && a->fd == b->fd && a->match == b->match && a->value == b->value;
}

void bus_notify_remove(struct bus *bus, const struct bus_notify *notify)
{
	struct notify **p, *n;

	pthread_mutex_lock(&bus->lock);
	for (p = &bus->notifies; *p && !same_notify(&(*p)->n, notify); p = &(*p)->next)
		;
	n = *p;
	if (n)
		*p = n->next;
	pthread_mutex_unlock(&bus->lock);
	if (!n)
		return;
	if (n->in_kernel)
		bus->hooks.notify_remove(bus->hooks.ctx, bus->pio, &n->n);
	else
		atomic_fetch_sub(&bus->soft, 1);
	free(n);
}

struct change {
	struct bus *bus;
	int (*fn)(void *arg);
	void *arg;
};

static int change_in_stillness(void *arg)
{
	struct change *c = arg;
	int r = c->fn(c->arg);

	/*
	 * vCPUs stand outside their handlers; the caller's own looks the table up again at its next
	 * access.
	 */
	pthread_mutex_lock(&c->bus->lock);
	free_older(atomic_load(&c->bus->table));
	pthread_mutex_unlock(&c->bus->lock);
	return r;
}

int bus_change(struct bus *bus, int (*fn)(void *arg), void *arg)
{
	struct change c = { bus, fn, arg };

	if (!bus->hooks.stop_world)
		return fn(arg);
	return bus->hooks.stop_world(bus->hooks.ctx, change_in_stillness, &c);
}

/*
 * The range that holds all of [addr, addr + len), copied: the table may be replaced while the
 * handler runs.
 */
static bool find_range(struct bus *bus, uint64_t addr, unsigned len, struct bus_range *ret)
{
	const struct table *t = atomic_load_explicit(&bus->table, memory_order_acquire);
	unsigned low = 0, high = t->n;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (t->range[mid].start <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low || !range_inside(addr, len, t->range[low - 1].start, t->range[low - 1].len))
		return false;
	*ret = t->range[low - 1];
	return true;
}

bool bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len)
{
	struct bus_range r;

	memset(data, 0xff, len);
	if (!find_range(bus, addr, len, &r) || !r.ops->read) {
		log_guest(LOG_DEBUG, "%s: read of %u bytes at %#llx: nobody is there", bus->name, len,
			(unsigned long long)addr);
		return false;
	}
	r.ops->read(r.ctx, addr - r.start, data, len);
	return true;
}

static bool ring_soft(struct bus *bus, uint64_t addr, const void *data, unsigned len)
{
	const uint64_t one = 1;
	bool rang = false;

	pthread_mutex_lock(&bus->lock);
	for (struct notify *n = bus->notifies; n && !rang; n = n->next) {
		if (n->in_kernel || n->n.addr != addr || (n->n.len && n->n.len != len))
			continue;
		if (n->n.match && n->n.value != get_le(data, len))
			continue;
		rang = write(n->n.fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
	}
	pthread_mutex_unlock(&bus->lock);
	return rang;
}

bool bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len)
{
	struct bus_range r;

	if (atomic_load_explicit(&bus->soft, memory_order_relaxed) && ring_soft(bus, addr, data, len))
		return true;
	if (!find_range(bus, addr, len, &r) || !r.ops->write) {
		log_guest(LOG_DEBUG, "%s: write of %u bytes at %#llx: nobody is there", bus->name, len,
			(unsigned long long)addr);
		return false;
	}
	r.ops->write(r.ctx, addr - r.start, data, len);
	return true;
}
