/*
 * A machine small enough for a test: RAM, two buses, an interrupt chip without KVM, a PCI root,
 * workers, and an echo device that copies what a chain has to read into what it has to write.
 * Included by one .c of a test program or fuzz target.
 */
#ifndef TESTS_UNIT_VIRTIO_RIG_H
#define TESTS_UNIT_VIRTIO_RIG_H

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/pci/pci.h"
#include "devices/virtio/chain.h"
#include "devices/virtio/front.h"

#define RIG __attribute__((unused)) static

enum { RIG_RAM = MIB, RIG_WORKERS = 8, ECHO_QUEUES = 3, ECHO_CONFIG = 24, ECHO_QUEUE_MAX = 16 };
enum { ECHO_F_ONE = 5 };
#define RIG_ECAM UINT64_C(0xe0000000)
#define RIG_MMIO32 UINT64_C(0xc0000000)
#define RIG_MMIO64 UINT64_C(0x4000000000)
#define RIG_MMIO UINT64_C(0xd0000000)

struct echo {
	struct virtio_device dev;
	uint32_t echoed;              /* saved */
	unsigned started, stopped, written;
	int start_error;
	bool lazy;                    /* leaves chains in the ring, as net rx does */
	unsigned handled;
	unsigned *destroyed;
};

struct echo_options {
	struct virtio_options virtio; /* first */
	int create_error;
	unsigned *destroyed;
};

struct rig {
	void *ram;
	bool shared;                  /* ram is seen by processes forked later */
	struct guest_mem *mem;
	struct bus *mmio, *pio;
	struct irqchip *irq;
	struct loop *main_loop;
	struct worker *workers[RIG_WORKERS];
	char names[RIG_WORKERS][32];
	unsigned nworkers;
	bool worker_fails;
	struct device_resources resources;
	struct pci_windows windows;
	struct device_node place;
	struct pci_root *pci;
	struct device *root, *dev;
	struct device_env env;
	struct echo_options options;
	struct error err;
};

static int echo_create(struct virtio_device *dev, const struct device_env *env, const void *options,
	struct error *err)
{
	const struct echo_options *o = options;
	uint8_t image[ECHO_CONFIG];

	(void)env;
	for (unsigned i = 0; i < sizeof(image); i++)
		image[i] = (uint8_t)(i + 1);
	virtio_config_write(&dev->config, 0, image, sizeof(image));
	dev->features |= VIRTIO_BIT(ECHO_F_ONE);
	((struct echo *)dev)->destroyed = o->destroyed;
	return o->create_error ? error_set(err, o->create_error, "echo: told to fail") : 0;
}

static int echo_queue_start(struct virtio_device *dev, struct queue *q)
{
	struct echo *e = (struct echo *)dev;

	(void)q;
	e->started++;
	return e->start_error;
}

static int echo_handle(struct virtio_device *dev, struct queue *q)
{
	struct echo *e = (struct echo *)dev;
	struct chain *c;

	__atomic_fetch_add(&e->handled, 1, __ATOMIC_RELAXED); /* queues have workers of their own */
	if (__atomic_load_n(&e->lazy, __ATOMIC_SEQ_CST))
		return 0;
	for (unsigned i = 0; i < queue_size(q); i++) {
		uint8_t byte;
		int r = queue_pop(q, &c);

		if (r <= 0)
			return r;
		while (chain_in_left(c) && chain_out_left(c))
			if (chain_read(c, &byte, 1) < 0 || chain_write(c, &byte, 1) < 0)
				break;
		__atomic_fetch_add(&e->echoed, 1, __ATOMIC_RELAXED);
		queue_push(q, c);
	}
	return 1;
}

static void echo_queue_stop(struct virtio_device *dev, struct queue *q)
{
	(void)q;
	((struct echo *)dev)->stopped++;
}

static void echo_config_written(struct virtio_device *dev, unsigned offset, unsigned len)
{
	(void)offset;
	(void)len;
	((struct echo *)dev)->written++;
}

static bool echo_config_writable(const struct virtio_device *dev, unsigned offset, unsigned len)
{
	(void)dev;
	return range_inside(offset, len, 8, 8);
}

static void echo_destroy(struct virtio_device *dev)
{
	struct echo *e = (struct echo *)dev;

	if (e->destroyed)
		++*e->destroyed;
}

static const struct state_field echo_fields[] = {
	STATE_FIELD(struct echo, echoed),
	STATE_END,
};

static const struct state_desc echo_state = {
	.name = "echo",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct echo),
	.fields = echo_fields,
};

static const struct virtio_type echo_type = {
	.name = "virtio-echo",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0xff0000,
	.nqueues = ECHO_QUEUES,
	.queues_per_worker = 2,
	.share = WORKER_BUSY,
	.thread_suffix = "qp",
	.size = sizeof(struct echo),
	.config_size = ECHO_CONFIG,
	.state = &echo_state,
	.create = echo_create,
	.queue_start = echo_queue_start,
	.handle = echo_handle,
	.queue_stop = echo_queue_stop,
	.config_written = echo_config_written,
	.config_writable = echo_config_writable,
	.destroy = echo_destroy,
};

static const struct device_type echo_row = { .name = "virtio-echo", .id_prefix = "_echo" };

static int rig_worker(const struct device_env *env, const char *name, enum worker_share share,
	struct worker **ret, struct error *err)
{
	struct rig *rig = env->machine;
	int r;

	(void)share;
	if (rig->worker_fails || rig->nworkers == RIG_WORKERS)
		return error_set(err, EMFILE, "the rig has no worker left");
	r = worker_create(&rig->workers[rig->nworkers], name, err);
	if (r < 0)
		return r;
	strncpy(rig->names[rig->nworkers], name, sizeof(rig->names[0]) - 1);
	*ret = rig->workers[rig->nworkers++];
	return 0;
}

/* Takes rig->mem as it is now. */
RIG void rig_make_root(struct rig *rig)
{
	rig->env.id = "_pci0";
	rig->env.mem = rig->mem;
	rig->env.pci = NULL;
	rig->env.place = &rig->place;
	if (pci_root_type.create(&rig->root, &rig->env, NULL, &rig->err) < 0)
		abort();
	rig->env.pci = rig->pci;
	rig->env.place = NULL;
	rig->env.id = "_echo0";
}

/* Aborts when the rig itself cannot be made. */
RIG void rig_make(struct rig *rig, bool shared)
{
	int r;

	memset(rig, 0, sizeof(*rig));
	rig->shared = shared;
	rig->ram = shared ? mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) :
		aligned_alloc(PAGE_4K, RIG_RAM);
	if (!rig->ram || rig->ram == MAP_FAILED)
		abort();
	memset(rig->ram, 0, RIG_RAM);
	r = mem_create(&rig->mem, NULL);
	r = r ? r : mem_add_borrowed(rig->mem, 0, RIG_RAM, rig->ram);
	r = r ? r : bus_create(&rig->mmio, "mmio", false, 0);
	r = r ? r : bus_create(&rig->pio, "pio", true, 0x10000);
	r = r ? r : irqchip_create(&rig->irq, NULL, NULL, 24, 256);
	r = r ? r : loop_create(&rig->main_loop, NULL);
	rig->resources = (struct device_resources){ RIG_MMIO, RIG_MMIO + MIB, 5, 16 };
	rig->windows = (struct pci_windows){ RIG_MMIO32, MIB, RIG_MMIO64, GIB };
	rig->place = (struct device_node){ "pci-root", false, RIG_ECAM, MIB, UINT32_MAX };
	rig->options.virtio.queue_size = ECHO_QUEUE_MAX;
	rig->options.virtio.packed = true;
	rig->env = (struct device_env){
		.mmio = rig->mmio,
		.pio = rig->pio,
		.irq = rig->irq,
		.pci_slot = &rig->pci,
		.pci_windows = &rig->windows,
		.resources = &rig->resources,
		.main_loop = rig->main_loop,
		.worker = rig_worker,
		.machine = rig };
	if (r < 0)
		abort();
	rig_make_root(rig);
}

RIG void rig_init(struct rig *rig)
{
	rig_make(rig, false);
}

/* Make the echo device and let the root place its BAR. */
RIG int rig_echo(struct rig *rig, enum virtio_transport_kind transport)
{
	int r;

	rig->options.virtio.transport = transport;
	r = virtio_create(&rig->dev, &echo_row, &echo_type, &rig->env, &rig->options, &rig->err);
	return r < 0 ? r : rig->root->ops->start(rig->root, &rig->err);
}

/* Deliver what was posted to main. A stopped loop does just that each time it is run. */
RIG void rig_main(struct rig *rig)
{
	loop_stop(rig->main_loop);
	if (loop_run(rig->main_loop) < 0)
		abort();
}

RIG void rig_run_workers(struct rig *rig)
{
	for (unsigned i = 0; i < rig->nworkers; i++)
		if (worker_run(rig->workers[i], SANDBOX_OFF, &rig->err) < 0)
			abort();
}

RIG void rig_fini(struct rig *rig)
{
	if (rig->dev)
		rig->dev->ops->destroy(rig->dev);
	rig_main(rig);
	if (rig->root)
		rig->root->ops->destroy(rig->root);
	for (unsigned i = 0; i < rig->nworkers; i++)
		worker_destroy(rig->workers[i]);
	loop_destroy(rig->main_loop);
	irqchip_destroy(rig->irq);
	bus_destroy(rig->mmio);
	bus_destroy(rig->pio);
	mem_destroy(rig->mem);
	rig->shared ? (void)munmap(rig->ram, RIG_RAM) : free(rig->ram);
}

RIG struct front *rig_front(struct rig *rig)
{
	return (struct front *)rig->dev;
}

RIG struct echo *rig_echo_device(struct rig *rig)
{
	return (struct echo *)rig_front(rig)->dev;
}

/* Has the eventfd been rung? Takes the rings. */
RIG bool rig_rang(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t count;

	return poll(&p, 1, timeout_ms) == 1 && read(fd, &count, sizeof(count)) == sizeof(count);
}

RIG uint64_t rig_read(struct bus *bus, uint64_t addr, unsigned len)
{
	uint8_t data[8] = { 0 };

	bus_read(bus, addr, data, len);
	return get_le(data, len);
}

RIG void rig_write(struct bus *bus, uint64_t addr, uint64_t value, unsigned len)
{
	uint8_t data[8];

	put_le64(data, value);
	bus_write(bus, addr, data, len);
}

/* Where queue i's split ring lies in RAM. */
RIG uint64_t rig_desc(unsigned i)
{
	return 0x10000 + 0x4000 * (uint64_t)i;
}

RIG uint64_t rig_avail(unsigned i)
{
	return rig_desc(i) + 0x1000;
}

RIG uint64_t rig_used(unsigned i)
{
	return rig_desc(i) + 0x2000;
}

/* Status machine up to DRIVER_OK by front_* calls, with queues 0 to n - 1 enabled. */
RIG void rig_drive(struct rig *rig, unsigned n, uint64_t features)
{
	struct front *f = rig_front(rig);

	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
	front_set_driver_features(f, 0, (uint32_t)features);
	front_set_driver_features(f, 1, (uint32_t)(features >> 32));
	front_set_status(f, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
	for (unsigned i = 0; i < n; i++) {
		front_queue_write(f, i, FRONT_Q_SIZE, 8);
		front_queue_write(f, i, FRONT_Q_DESC_LO, (uint32_t)rig_desc(i));
		front_queue_write(f, i, FRONT_Q_AVAIL_LO, (uint32_t)rig_avail(i));
		front_queue_write(f, i, FRONT_Q_USED_LO, (uint32_t)rig_used(i));
		front_queue_write(f, i, FRONT_Q_VECTOR, i + 1);
		front_queue_write(f, i, FRONT_Q_ENABLE, 1);
	}
	front_set_status(f, front_status(f) | VIRTIO_S_DRIVER_OK);
}
#define RIG_SPLIT VIRTIO_BIT(VIRTIO_F_VERSION_1)

/* One chain "in 4 bytes, out 4 bytes" in split queue i as its `n`-th available entry (n from 0). */
RIG void rig_put(struct rig *rig, unsigned i, uint16_t n, uint32_t word)
{
	uint8_t *ram = rig->ram, *desc = ram + rig_desc(i), *avail = ram + rig_avail(i);
	uint64_t buf = 0x80000 + 0x1000 * (uint64_t)i + 16 * (n % 4u);
	uint16_t head = (uint16_t)(2 * (n % 4u));

	put_le32(ram + buf, word);
	put_le32(ram + buf + 8, 0);
	put_le64(desc + 16 * head, buf);
	put_le32(desc + 16 * head + 8, 4);
	put_le16(desc + 16 * head + 12, 1); /* NEXT */
	put_le16(desc + 16 * head + 14, (uint16_t)(head + 1));
	put_le64(desc + 16 * (head + 1), buf + 8);
	put_le32(desc + 16 * (head + 1) + 8, 4);
	put_le16(desc + 16 * (head + 1) + 12, 2); /* WRITE */
	put_le16(avail + 4 + 2 * (n % 8u), head);
	/* The entry before the idx that a worker may be polling, and that before what the caller does next. */
	__atomic_store_n((uint16_t *)(avail + 2), (uint16_t)(n + 1), __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

RIG uint32_t rig_reply(struct rig *rig, unsigned i, uint16_t n)
{
	return get_le32((uint8_t *)rig->ram + 0x80000 + 0x1000 * (uint64_t)i + 16 * (n % 4u) + 8);
}

RIG uint16_t rig_used_idx(struct rig *rig, unsigned i)
{
	return __atomic_load_n(
		(uint16_t *)((uint8_t *)rig->ram + rig_used(i) + 2), __ATOMIC_ACQUIRE);
}

#endif
