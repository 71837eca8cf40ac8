/*
 * Every row of the real device table in one machine without KVM: made by vm_devices_create() from a command line, driven over its buses
 * as a guest would, paused, saved, and loaded into a second machine of the same shape.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/rounds.h"
#include "vmm/options_table.h"
#include "vmm/vm.h"

enum { RAM = 4 * MIB, DISK = MIB, QUEUE = 8, VIRTIO_BLK = 2, WAIT_MS = 5000 };
enum { ACK = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
#define PACKED_BIT (UINT64_C(1) << 34)
#define EVENT_IDX_BIT (UINT64_C(1) << 29)

struct machine {
	struct vm vm;
	struct options *options;
	struct error err;
};

/* What both machines of a test share: the guest's memory and the disk. */
struct shared {
	uint8_t *ram;
	char disk[2][64];
	bool tap;
};

static void on_event(void *ctx, enum vm_event event, const char *what)
{
	(void)ctx;
	cr_assert_eq(event, VM_EVENT_DEVICE_ERROR, "event %d: %s", event, what);
}

static void share(struct shared *s)
{
	s->ram = aligned_alloc(PAGE_4K, RAM);
	memset(s->ram, 0, RAM);
	for (unsigned i = 0; i < 2; i++) {
		int fd;

		snprintf(s->disk[i], sizeof(s->disk[i]), "/tmp/test_device_table_XXXXXX");
		fd = mkstemp(s->disk[i]);
		cr_assert_geq(fd, 0);
		cr_assert_eq(ftruncate(fd, DISK), 0);
		close(fd);
	}
	/* Taps of our own, in a namespace of our own. */
	s->tap = unshare(CLONE_NEWNET) == 0 && access("/dev/net/tun", R_OK | W_OK) == 0;
}

static void unshare_all(struct shared *s)
{
	for (unsigned i = 0; i < 2; i++)
		unlink(s->disk[i]);
	free(s->ram);
}

static void parse(struct machine *m, const struct shared *s)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	char disk[2][128];
	const char *argv[] = { "microvm", "--serial", "null", "--console", "null", "--rng", "queue_size=16", "--disk", disk[0],
		disk[1], "--net", "tap=mvtable0,mac=02:00:00:00:00:01", "tap=mvtable1,transport=mmio,mac=02:00:00:00:00:02" };
	int argc = (int)ARRAY_SIZE(argv) - (s->tap ? 0 : 3);

	snprintf(disk[0], sizeof(disk[0]), "path=%s,serial=one,num_queues=2", s->disk[0]);
	snprintf(disk[1], sizeof(disk[1]), "path=%s,transport=mmio", s->disk[1]);
	cr_assert_eq(options_table_collect(groups, ARRAY_SIZE(groups), device_types), 0);
	cr_assert_eq(options_create(&m->options, groups), 0);
	cr_assert_eq(options_parse_argv(m->options, argc, (char **)argv, &m->err), 0, "%s", m->err.text);
}

static void start(struct machine *m, const struct shared *s)
{
	struct vm *vm = &m->vm;
	int r;

	*m = (struct machine){ .vm = { .mode = SANDBOX_OFF, .main_thread = pthread_self(), .state = VM_CREATED } };
	parse(m, s);
	vm->options = m->options;
	vm->events = (struct vm_events){ on_event, m };
	r = arch_layout_fill(&vm->layout, RAM, 40, &m->err);
	r = r ? r : mem_create(&vm->mem, &m->err);
	r = r ? r : mem_add_borrowed(vm->mem, 0, RAM, s->ram);
	r = r ? r : bus_create(&vm->mmio, "mmio", false, 0);
	r = r ? r : bus_create(&vm->pio, "port", true, 0x10000);
	r = r ? r : irqchip_create(&vm->irq, NULL, NULL, vm->layout.first_msi_gsi, vm->layout.max_gsi);
	r = r ? r : loop_create(&vm->loop, &m->err);
	vm->windows = (struct pci_windows){
		.mmio32_base = vm->layout.pci_mmio32.base,
		.mmio32_size = vm->layout.pci_mmio32.size,
		.mmio64_base = vm->layout.pci_mmio64.base,
		.mmio64_size = vm->layout.pci_mmio64.size,
	};
	r = r ? r : vm_devices_create(vm, &m->err);
	cr_assert_eq(r, 0, "%s", m->err.text);
	for (unsigned i = 0; i < vm->nworkers; i++)
		cr_assert_eq(worker_run(vm->workers[i], SANDBOX_OFF, &m->err), 0, "%s", m->err.text);
}

static void finish(struct machine *m)
{
	struct vm *vm = &m->vm;

	vm_devices_destroy(vm);
	irqchip_destroy(vm->irq);
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
	loop_destroy(vm->loop);
	mem_destroy(vm->mem);
	options_destroy(m->options);
}

/* ---- options ---- */

static void check_row(const struct option_group *g, const struct option_row *row)
{
	/* The one value of a plain flag is explained with the flag. */
	const char *help = g->kind == OPTION_PLAIN ? g->help : row->help;

	cr_assert(help && strlen(help) > 4, "--%s %s: help", g->flag, row->key);
	cr_assert_neq(help[strlen(help) - 1], '.', "--%s %s: %s", g->flag, row->key, help);
	cr_assert_null(strchr(help, '\n'));
	cr_assert_lt(row->offset, g->size, "--%s %s", g->flag, row->key);
	cr_assert(row->min <= row->max || !row->max, "--%s %s: %lu to %lu", g->flag, row->key,
		(unsigned long)row->min, (unsigned long)row->max);
	if (row->type == OPTION_ENUM)
		cr_assert(row->choices && row->choices[0], "--%s %s", g->flag, row->key);
	for (const struct option_row *other = g->rows; other != row; other++)
		cr_assert_str_neq(other->key, row->key, "--%s has it twice", g->flag);
}

Test(device_table, every_option_of_the_program_explains_itself)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	struct options *o;
	unsigned rows = 0;

	cr_assert_eq(options_table_collect(groups, ARRAY_SIZE(groups), device_types), 0);
	/* Parses every default too. */
	cr_assert_eq(options_create(&o, groups), 0);
	options_destroy(o);
	for (const struct option_group **g = groups; *g; g++) {
		cr_assert((*g)->flag && (*g)->flag[0], "a flag");
		cr_assert((*g)->help && (*g)->section, "--%s", (*g)->flag);
		for (const struct option_group **other = groups; other != g; other++) {
			cr_assert_str_neq((*other)->flag, (*g)->flag);
			cr_assert(!(*g)->json || !(*other)->json || strcmp((*other)->json, (*g)->json) ||
					(*other)->parent != (*g)->parent,
				"JSON member %s twice", (*g)->json);
		}
		for (const struct option_row *row = (*g)->rows; row && row->key; row++, rows++)
			check_row(*g, row);
	}
	cr_assert_gt(rows, 30);
}

Test(device_table, every_row_has_what_the_machine_needs_of_it)
{
	for (const struct device_type *const *t = device_types; *t; t++) {
		cr_assert((*t)->name && (*t)->create, "row %td", t - device_types);
		for (const struct device_type *const *other = device_types; other != t; other++)
			cr_assert_str_neq((*other)->name, (*t)->name);
		for (const struct state_field *f = (*t)->state ? (*t)->state->fields : NULL; f && f->name; f++)
			cr_assert_leq(f->offset + f->stride * (f->count - 1u), (*t)->state->object_size, "%s: %s",
				(*t)->name, f->name);
	}
}

/* ---- a driver for all of them ---- */

static uint64_t get(struct bus *bus, uint64_t addr, unsigned len)
{
	uint8_t data[8] = { 0 };

	cr_assert(bus_read(bus, addr, data, len), "nobody at %#lx", (unsigned long)addr);
	return get_le(data, len);
}

static void put(struct bus *bus, uint64_t addr, uint64_t value, unsigned len)
{
	uint8_t data[8];

	put_le64(data, value);
	cr_assert(bus_write(bus, addr, data, len), "nobody at %#lx", (unsigned long)addr);
}

/* Rings and buffers of one queue, a page each from 1 MiB on; `place` counts over all queues of the machine. */
struct ring {
	uint64_t desc, avail, used, data;
	uint64_t notify;
	unsigned notify_len;
	uint64_t notify_value;
};

static struct ring ring_at(unsigned place)
{
	uint64_t at = MIB + 4 * PAGE_4K * (uint64_t)place;

	cr_assert_leq(at + 4 * PAGE_4K, RAM);
	return (struct ring){ at, at + PAGE_4K, at + 2 * PAGE_4K, at + 3 * PAGE_4K, 0, 0, 0 };
}

static void descriptor(uint8_t *ram, const struct ring *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags)
{
	uint8_t *d = ram + r->desc + 16 * i;

	put_le64(d, addr);
	put_le32(d + 8, len);
	put_le16(d + 12, flags);
	put_le16(d + 14, (uint16_t)(i + 1));
}

/* One buffer that suits the queue: a read of sector 0 for a disk, something to write into or to read for the others. */
static void offer(struct bus *mmio, uint8_t *ram, const struct ring *r, bool disk, bool out)
{
	uint16_t idx = get_le16(ram + r->avail + 2);

	if (disk) {
		memset(ram + r->data, 0, 16);
		descriptor(ram, r, 0, r->data, 16, 1);
		descriptor(ram, r, 1, r->data + 16, 512, 1 | 2);
		descriptor(ram, r, 2, r->data + 1024, 1, 2);
		ram[r->data + 1024] = 0xee;
	} else {
		descriptor(ram, r, 0, r->data, 256, out ? 0 : 2);
	}
	put_le16(ram + r->avail + 4 + 2 * (idx % QUEUE), 0);
	/* The entry before the idx that a worker may be reading, and that before the kick. */
	__atomic_store_n((uint16_t *)(ram + r->avail + 2), (uint16_t)(idx + 1), __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	put(mmio, r->notify, r->notify_value, r->notify_len);
}

static bool wait_used(const uint8_t *ram, const struct ring *r, uint16_t n)
{
	for (unsigned ms = 0; ms < WAIT_MS; ms++) {
		if (__atomic_load_n((const uint16_t *)(ram + r->used + 2), __ATOMIC_ACQUIRE) == n)
			return true;
		usleep(1000);
	}
	return false;
}

/* What was driven, for another look after the load. */
struct driven {
	struct ring ring;
	unsigned id;
	bool answers; /* uses each buffer at once */
};

struct driver {
	struct machine *m;
	uint8_t *ram;
	struct driven queue[64];
	unsigned n;
};

static void drive_queue(struct driver *d, unsigned id, unsigned index, struct ring r)
{
	bool disk = id == VIRTIO_BLK;
	struct driven *q = &d->queue[d->n++];

	*q = (struct driven){ r, id, disk || id == 4 /* rng */ };
	offer(d->m->vm.mmio, d->ram, &r, disk, index % 2);
	if (q->answers)
		cr_assert(wait_used(d->ram, &r, 1), "device %u queue %u does not answer", id, index);
}

/* Virtio 1.2 §4.1.4: where the common and the notify structure of a function lie; 0: no virtio function. */
struct places {
	uint64_t common, notify, msix;
	uint32_t multiplier;
};

static uint64_t bar_address(struct bus *mmio, uint64_t ecam, unsigned bar)
{
	uint64_t low = get(mmio, ecam + 0x10 + 4 * bar, 4);

	return (low & ~15u) | ((low & 6) == 4 ? get(mmio, ecam + 0x14 + 4 * bar, 4) << 32 : 0);
}

static bool find_places(struct places *p, struct bus *mmio, uint64_t ecam)
{
	*p = (struct places){ 0 };
	if (get(mmio, ecam, 2) != 0x1af4)
		return false;
	for (uint64_t at = get(mmio, ecam + 0x34, 1); at; at = get(mmio, ecam + at + 1, 1)) {
		unsigned kind = (unsigned)get(mmio, ecam + at, 1), type = (unsigned)get(mmio, ecam + at + 3, 1);

		if (kind == 0x11) {
			uint32_t table = (uint32_t)get(mmio, ecam + at + 4, 4);

			p->msix = bar_address(mmio, ecam, table & 7) + (table & ~7u);
			put(mmio, ecam + at + 2, 0x8000, 2);
		}
		if (kind != 9 || type > 2)
			continue;
		*(type == 1 ? &p->common : &p->notify) = bar_address(mmio, ecam, (unsigned)get(mmio, ecam + at + 4, 1)) +
			get(mmio, ecam + at + 8, 4);
		if (type == 2)
			p->multiplier = (uint32_t)get(mmio, ecam + at + 16, 4);
	}
	return p->common && p->notify && p->msix;
}

static void drive_pci(struct driver *d, uint64_t ecam)
{
	struct bus *mmio = d->m->vm.mmio;
	uint64_t features;
	struct places p;
	unsigned id;

	if (!find_places(&p, mmio, ecam))
		return;
	id = (unsigned)get(mmio, ecam + 2, 2) - 0x1040;
	put(mmio, ecam + 4, 6, 2);
	put(mmio, p.common + 0x14, ACK | DRIVER, 1);
	put(mmio, p.common + 0, 1, 4);
	features = get(mmio, p.common + 4, 4) << 32;
	put(mmio, p.common + 0, 0, 4);
	features = (features | get(mmio, p.common + 4, 4)) & ~(PACKED_BIT | EVENT_IDX_BIT);
	for (unsigned half = 0; half < 2; half++) {
		put(mmio, p.common + 8, half, 4);
		put(mmio, p.common + 0xc, features >> 32 * half & UINT32_MAX, 4);
	}
	put(mmio, p.common + 0x14, ACK | DRIVER | FEATURES_OK, 1);
	cr_assert_eq(get(mmio, p.common + 0x14, 1), ACK | DRIVER | FEATURES_OK);
	put(mmio, p.msix, 0xfee00000, 4);
	put(mmio, p.msix + 8, 0x41 + id, 4);
	put(mmio, p.msix + 12, 0, 4);
	put(mmio, p.common + 0x10, 0, 2);
	for (unsigned pass = 0; pass < 2; pass++) {
		unsigned place = d->n;

		for (unsigned i = 0; i < get(mmio, p.common + 0x12, 2); i++) {
			struct ring r = ring_at(place + i);

			put(mmio, p.common + 0x16, i, 2);
			r.notify = p.notify + get(mmio, p.common + 0x1e, 2) * p.multiplier;
			r.notify_len = 2;
			r.notify_value = i;
			if (pass) {
				drive_queue(d, id, i, r);
				continue;
			}
			put(mmio, p.common + 0x18, QUEUE, 2);
			put(mmio, p.common + 0x1a, 0, 2);
			put(mmio, p.common + 0x20, r.desc, 8);
			put(mmio, p.common + 0x28, r.avail, 8);
			put(mmio, p.common + 0x30, r.used, 8);
			put(mmio, p.common + 0x1c, 1, 2);
		}
		if (!pass)
			put(mmio, p.common + 0x14, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
	}
}

/* §4.2.2 */
static void drive_mmio(struct driver *d, uint64_t base)
{
	struct bus *mmio = d->m->vm.mmio;
	unsigned id = (unsigned)get(mmio, base + 8, 4), n = id == VIRTIO_BLK ? 1 : 2, place = d->n;

	cr_assert_eq(get(mmio, base, 4), 0x74726976, "\"virt\"");
	put(mmio, base + 0x70, ACK | DRIVER, 4);
	for (unsigned half = 0; half < 2; half++) {
		uint32_t all;

		put(mmio, base + 0x14, half, 4);
		all = (uint32_t)get(mmio, base + 0x10, 4);
		put(mmio, base + 0x24, half, 4);
		put(mmio, base + 0x20, all & ~(uint32_t)((PACKED_BIT | EVENT_IDX_BIT) >> 32 * half), 4);
	}
	put(mmio, base + 0x70, ACK | DRIVER | FEATURES_OK, 4);
	for (unsigned i = 0; i < n; i++) {
		struct ring r = ring_at(place + i);

		put(mmio, base + 0x30, i, 4);
		put(mmio, base + 0x38, QUEUE, 4);
		put(mmio, base + 0x80, r.desc, 4);
		put(mmio, base + 0x90, r.avail, 4);
		put(mmio, base + 0xa0, r.used, 4);
		put(mmio, base + 0x44, 1, 4);
	}
	put(mmio, base + 0x70, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 4);
	for (unsigned i = 0; i < n; i++) {
		struct ring r = ring_at(place + i);

		r.notify = base + 0x50;
		r.notify_len = 4;
		r.notify_value = i;
		drive_queue(d, id, i, r);
	}
}

static void drive_platform(struct bus *pio, const struct device_node *n)
{
	if (!strcmp(n->kind, "serial-16550")) {
		static const uint8_t registers[][2] = { { 3, 0x83 }, { 0, 3 }, { 1, 1 }, { 3, 0x1b }, { 1, 5 }, { 2, 0xc7 },
			{ 4, 0x0b }, { 7, 0x5a } };

		for (size_t i = 0; i < ARRAY_SIZE(registers); i++)
			put(pio, n->base + registers[i][0], registers[i][1], 1);
	}
	for (unsigned i = 0; !strcmp(n->kind, "rtc-cmos") && i < 3; i++) {
		static const uint8_t alarm[] = { 0x01, 0x03, 0x05 };

		put(pio, n->base, alarm[i], 1);
		put(pio, n->base + 1, 0x11 + i, 1);
		put(pio, n->base, 0x60 + i, 1);
		put(pio, n->base + 1, 0xa0 + i, 1);
	}
}

static void drive(struct driver *d, struct machine *m, uint8_t *ram)
{
	struct vm *vm = &m->vm;

	*d = (struct driver){ .m = m, .ram = ram };
	put(vm->pio, 0xcf8, 0x80000044, 4);
	for (unsigned slot = 0; slot < 32; slot++)
		drive_pci(d, vm->layout.ecam.base + ((uint64_t)slot << 15));
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		for (size_t i = 0; i < DEVICE_NODES_MAX && dev->nodes[i].kind; i++) {
			if (!strcmp(dev->nodes[i].kind, "virtio-mmio"))
				drive_mmio(d, dev->nodes[i].base);
			else if (dev->nodes[i].pio)
				drive_platform(vm->pio, &dev->nodes[i]);
			if (dev->ops->power_button)
				dev->ops->power_button(dev);
		}
}

/* ---- save and load ---- */

static void save(struct device *dev, struct state_writer *w)
{
	*w = (struct state_writer){ 0 };
	if (dev->ops->save)
		cr_assert_eq(dev->ops->save(dev, w), 0, "%s", dev->id);
}

static int load(struct device *dev, const uint8_t *data, size_t len, struct error *err)
{
	struct state_reader r = { .data = data, .len = len };
	int ret = dev->ops->load(dev, &r, err);

	return ret < 0 ? ret : state_reader_finish(&r, err);
}

static void pause_all(struct machine *m)
{
	for (struct device *d = m->vm.devices; d; d = d->next)
		if (d->ops->pause)
			d->ops->pause(d);
}

static struct state_writer *save_all(struct machine *m, unsigned *ret_n)
{
	struct state_writer *w;
	unsigned n = 0;

	for (struct device *d = m->vm.devices; d; d = d->next)
		n++;
	w = calloc(n, sizeof(*w));
	*ret_n = n;
	n = 0;
	for (struct device *d = m->vm.devices; d; d = d->next)
		save(d, &w[n++]);
	return w;
}

static void free_all(struct state_writer *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		state_writer_free(&w[i]);
	free(w);
}

static void same(const struct state_writer *a, const struct state_writer *b, const char *id, const char *when)
{
	cr_assert_eq(a->len, b->len, "%s %s", id, when);
	for (size_t i = 0; i < a->len; i++)
		cr_assert_eq(a->data[i], b->data[i], "%s %s: byte %zu is %#x, then %#x", id, when, i, a->data[i], b->data[i]);
}

/* The table has the rows of every CPU; a platform device of another one has no place here. */
static bool of_this_cpu(const struct device_type *type)
{
	for (const struct device_node *n = arch_platform; n->kind; n++)
		if (!strcmp(n->kind, type->name))
			return true;
	if (!type->options)
		return false;
	for (const struct device_type *const *t = device_types; *t; t++)
		for (const struct device_node *n = arch_platform; n->kind; n++)
			if (!strcmp(n->kind, (*t)->name) && (*t)->options == type->options)
				return false; /* a serial port of another CPU shares the flag */
	return true;
}

Test(device_table, there_is_one_of_each_kind_here)
{
	struct shared s;
	struct machine m;

	share(&s);
	start(&m, &s);
	for (const struct device_type *const *t = device_types; *t; t++) {
		unsigned n = 0;

		for (struct device *d = m.vm.devices; d; d = d->next)
			n += d->type == *t;
		cr_assert(n > 0 || !of_this_cpu(*t) || (!s.tap && !strcmp((*t)->name, "virtio-net")), "no %s", (*t)->name);
	}
	for (struct device *d = m.vm.devices; d; d = d->next)
		cr_assert(!d->type->state || (d->ops->save && d->ops->load), "%s has a state but no verbs", d->id);
	finish(&m);
	unshare_all(&s);
}

Test(device_table, every_device_goes_on_in_another_machine_where_it_stopped)
{
	struct state_writer *before, *after;
	struct machine first, second;
	struct driver d;
	struct shared s;
	unsigned n, i = 0, answers = 0;

	share(&s);
	start(&first, &s);
	drive(&d, &first, s.ram);
	pause_all(&first);
	before = save_all(&first, &n);
	finish(&first);

	start(&second, &s);
	for (struct device *dev = second.vm.devices; dev; dev = dev->next, i++)
		if (dev->ops->load)
			cr_assert_eq(load(dev, before[i].data, before[i].len, &second.err), 0, "%s: %s", dev->id,
				second.err.text);
	after = save_all(&second, &n);
	i = 0;
	for (struct device *dev = second.vm.devices; dev; dev = dev->next, i++)
		if (strcmp(dev->type->name, "rtc-cmos"))
			same(&before[i], &after[i], dev->id, "saved again");
	for (struct device *dev = second.vm.devices; dev; dev = dev->next)
		if (dev->ops->resume)
			dev->ops->resume(dev);
	for (unsigned q = 0; q < d.n; q++) {
		const struct ring *r = &d.queue[q].ring;

		if (!d.queue[q].answers)
			continue;
		answers++;
		offer(second.vm.mmio, s.ram, r, d.queue[q].id == VIRTIO_BLK, false);
		cr_assert(wait_used(s.ram, r, 2), "queue %u of kind %u does not go on", q, d.queue[q].id);
		cr_assert(d.queue[q].id != VIRTIO_BLK || s.ram[r->data + 1024] == 0, "the read failed");
	}
	cr_assert_geq(answers, 4, "two queues of one disk, another disk, the random numbers");
	pause_all(&second);
	finish(&second);
	free_all(before, n);
	free_all(after, n);
	unshare_all(&s);
}

enum { PLACES = 1000 };

/* Loads of a stream that is cut at, or has a bit flipped in, about PLACES places of it. `fresh`: what the device saves when nothing was loaded. */
static void hostile(struct device *dev, const struct state_writer *w, const struct state_writer *fresh)
{
	size_t step = 1 + w->len / rounds(PLACES);
	struct state_writer now;
	struct error err;

	for (size_t len = 0; len < w->len; len += step) {
		uint8_t *copy = malloc(len + 1);

		memcpy(copy, w->data, len);
		err.text[0] = '\0';
		cr_assert_lt(load(dev, copy, len, &err), 0, "%s: cut at %zu of %zu", dev->id, len, w->len);
		cr_assert_gt(strlen(err.text), 20, "%s: cut at %zu: '%s'", dev->id, len, err.text);
		free(copy);
	}
	save(dev, &now);
	same(fresh, &now, dev->id, "after streams that were cut");
	state_writer_free(&now);
	for (size_t bit = 0; bit < 8 * w->len; bit += 8 * step + 1) {
		w->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		err.text[0] = '\0';
		cr_assert_lt(load(dev, w->data, w->len, &err), 0, "%s: bit %zu flipped", dev->id, bit);
		cr_assert_gt(strlen(err.text), 20, "%s: bit %zu flipped: '%s'", dev->id, bit, err.text);
		w->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	save(dev, &now);
	same(fresh, &now, dev->id, "after streams that were flipped");
	state_writer_free(&now);
}

Test(device_table, a_stream_that_is_cut_or_flipped_is_refused_and_changes_nothing)
{
	struct state_writer *w, *fresh;
	struct machine first, second;
	struct driver d;
	struct shared s;
	unsigned n, i = 0;

	share(&s);
	start(&first, &s);
	drive(&d, &first, s.ram);
	pause_all(&first);
	w = save_all(&first, &n);
	finish(&first);
	start(&second, &s);
	fresh = save_all(&second, &n);
	for (struct device *dev = second.vm.devices; dev; dev = dev->next, i++)
		if (dev->ops->load)
			hostile(dev, &w[i], &fresh[i]);
	finish(&second);
	free_all(w, n);
	free_all(fresh, n);
	unshare_all(&s);
}
