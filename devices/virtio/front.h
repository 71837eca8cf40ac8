/*
 * The front: the register state of one virtio device, checked, with the vCPU threads that write it.
 *
 * Transports (PCI §4.1, MMIO §4.2) decode addresses and call front_*; the front keeps the status
 * machine (§3.1), feature selection and per-queue registers, and at DRIVER_OK (or a later queue
 * enable) hands the back a frozen copy of each enabled queue. After that register writes change
 * nothing the back sees; only a reset frees the copy.
 *
 * One mutex per front guards the fields marked lock; vCPUs contend for it only while they program
 * the device. Config reads and kicks take no lock.
 */
#ifndef DEVICES_VIRTIO_FRONT_H
#define DEVICES_VIRTIO_FRONT_H

#include <pthread.h>

#include "devices/virtio/back.h"
#include "devices/virtio/virtio.h"

/*
 * What the transport does for the front. There is no call to switch kicks on or off: a transport
 * rings a queue's kick fd at the queue's address for as long as it decodes that address. A change
 * of the bus needs all vCPUs at rest, and one of them may wait for the front's lock. Rings before
 * DRIVER_OK stay in the eventfd, where nobody looks.
 */
struct transport_ops {
	/*
	 * eventfd that interrupts the guest for queue i with the vector the driver chose; -1: none.
	 * Called at queue start, lock held.
	 */
	int (*call_fd)(void *transport, unsigned queue);
	/*
	 * The i-th of all eventfds that call_fd() may ever name, -1 behind the last. Main, before
	 * the machine runs.
	 */
	int (*irq_fd)(void *transport, unsigned i);
	/*
	 * Interrupt: the config image changed, or the device needs a reset. Main or vCPU thread,
	 * lock held.
	 */
	void (*config_irq)(void *transport);
	/* The driver reset the device: selectors and interrupt status. Lock held. */
	void (*reset)(void *transport);
	/*
	 * Power-on state of what lies beyond the device's own registers (PCI config space, MSI-X);
	 * NULL: nothing. vCPUs parked.
	 */
	void (*power_on)(void *transport);
	/* vCPUs parked, main. */
	int (*save)(void *transport, struct state_writer *w);
	int (*load)(void *transport, struct state_reader *r, struct error *err);
	void (*destroy)(void *transport);
};

struct front_post;

struct front_queue { /* what the driver programs; lock */
	uint16_t size, vector;
	bool enabled;      /* by the driver */
	bool running;      /* handed to the back */
	uint64_t desc, avail, used;
	uint16_t next_avail,
		next_used; /* of the next start: fresh at enable, then the last stop's */
	int kick_fd;       /* const */
};

struct front {
	struct device device;                /* what the machine sees; first */
	const struct transport_ops *tops;    /* const */
	void *transport;                     /* const */
	struct virtio_device *dev;           /* const; the worker's side */
	struct back *back;                   /* const */
	struct loop *main_loop;              /* const */
	pthread_mutex_t lock;
	uint8_t status;                      /* lock; read without by reads of the register */
	uint64_t driver_features;            /* lock */
	struct front_queue q[VIRTIO_QUEUES_MAX]; /* lock */
	uint16_t config_vector;              /* lock */
	_Atomic uint32_t epoch;              /* counts resets; written under lock */
	struct front_post *post;             /* const; messages of workers on their way to main */
};

/* Registers, for transports. vCPU threads. Out-of-range queues read 0 and ignore writes. */
uint64_t front_device_features(const struct front *f);
void front_set_driver_features(struct front *f, unsigned word, uint32_t value);
uint8_t front_status(const struct front *f);
/*
 * §3.1, §2.1.1: 0 resets; bits are not cleared otherwise; FEATURES_OK is refused when the choice is
 * not ours.
 */
void front_set_status(struct front *f, uint8_t status);
enum front_queue_reg {
	FRONT_Q_SIZE,
	FRONT_Q_DESC_LO,
	FRONT_Q_DESC_HI,
	FRONT_Q_AVAIL_LO,
	FRONT_Q_AVAIL_HI,
	FRONT_Q_USED_LO,
	FRONT_Q_USED_HI,
	FRONT_Q_ENABLE,
	FRONT_Q_VECTOR,
	FRONT_Q_MAX
};
uint32_t front_queue_read(const struct front *f, unsigned queue, enum front_queue_reg reg);
void front_queue_write(struct front *f, unsigned queue, enum front_queue_reg reg, uint32_t value);
void front_config_read(const struct front *f, unsigned offset, void *data, unsigned len);
void front_config_write(struct front *f, unsigned offset, const void *data, unsigned len);
/* A kick that came as a register write because no ioeventfd caught it. */
void front_kick(struct front *f, unsigned queue);

extern const struct state_desc front_state;

/* For create.c and the transports; each takes the lock. */
/* Stop every queue and clear all that the driver set: status 0. */
void front_reset(struct front *f);
/*
 * Stop every running queue, keeping its indices; start those again that the driver enabled. Main,
 * vCPUs parked.
 */
void front_stop(struct front *f);
void front_restart(struct front *f);
/*
 * A worker found the device broken at `epoch`: NEEDS_RESET and an interrupt, unless there was a
 * reset since.
 */
void front_break(struct front *f, uint32_t epoch);
/* A worker changed the config image: tell a running driver. */
void front_config_changed(struct front *f);
uint64_t front_driver_features(const struct front *f);
uint16_t front_config_vector(const struct front *f);
void front_set_config_vector(struct front *f, uint16_t vector);

/*
 * All feature bits of a device: its type's, what create() put into dev->features or dev->offered,
 * and those of the rings.
 */
uint64_t front_offer(const struct virtio_device *dev, const struct virtio_options *options);

/* Transports attach themselves to a front: set tops and transport, register ranges. Main. */
int transport_pci_create(struct front *f, const struct device_env *env,
	struct error *err) NEEDS_CHECK;
int transport_mmio_create(struct front *f, const struct device_env *env,
	struct error *err) NEEDS_CHECK;

#endif
