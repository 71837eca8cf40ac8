/*
 * Serial ports: what all of them share, and their rows for devices/table.c.
 *
 * A port is a chip (registers, a table of functions of them) in the middle of this plumbing:
 *
 *   vCPU threads → registers → chip → ring → worker → host side (devices/host/char.h)
 *                                   ← receive ←
 *
 * The chip is pure: its functions work on its struct and say in *todo what the port has to do. All
 * of them but init of the zeroed struct are called with the port's lock held. Output waits in the
 * ring of the chip's serial_flow and is written by the worker, which is rung only when the ring was
 * empty. Input stays with the host until the chip takes it: nothing overruns, nothing grows.
 * Nothing of the guest's doing makes a vCPU wait for the host's side of the line.
 *
 * The row whose place the CPU's platform list has answers --serial; the others make nothing of it.
 */
#ifndef DEVICES_PLATFORM_SERIAL_H
#define DEVICES_PLATFORM_SERIAL_H

#include "vmm/device.h"

extern const struct device_type serial_16550_type, serial_pl011_type;

enum { SERIAL_RING = 4096, SERIAL_STATE_MAX = 128 };

/* What the port has to do, added to *todo. */
enum {
	SERIAL_RAISE = 1,  /* give the line an edge */
	SERIAL_OUTPUT = 2, /* the ring is no longer empty */
	SERIAL_INPUT = 4,  /* input may go on */
};

/* The first member of each chip. All zero is empty. */
struct serial_flow {
	bool rx_paused; /* the last receive() took less than it was given */
	uint32_t ring_head, ring_len;
	uint8_t ring[SERIAL_RING];
};

static inline size_t serial_flow_room(const struct serial_flow *f)
{
	return SERIAL_RING - f->ring_len;
}
/* One byte of output; false when the ring is full. */
bool serial_flow_put(struct serial_flow *f, uint8_t byte, unsigned *todo);
/* Copy up to `max` bytes of output from the front, and say later how many of them are out. */
size_t serial_flow_peek(const struct serial_flow *f, uint8_t *data, size_t max);
void serial_flow_drop(struct serial_flow *f, size_t n);

struct serial_chip {
	size_t size;          /* of its struct; zeroed at the start */
	uint64_t registers;   /* bytes of them */
	void (*init)(void *chip); /* to power-on; NULL: all zero is that */
	void (*read)(void *chip, uint64_t offset, void *data, unsigned len, unsigned *todo);
	void (*write)(void *chip, uint64_t offset, const void *data, unsigned len, unsigned *todo);
	/* Bytes from the wire; returns how many fit, and sets rx_paused when that is not all. */
	size_t (*receive)(void *chip, const uint8_t *data, size_t len, unsigned *todo);
	/* The first n bytes of the ring are out: drop them. */
	void (*sent)(void *chip, size_t n, unsigned *todo);
	/* Back to power-on; output in the ring was sent before and stays. */
	void (*reset)(void *chip, unsigned *todo);
	/* Between the chip and the object of `state`, of SERIAL_STATE_MAX bytes at most. */
	const struct state_desc *state;
	void (*saved)(const void *chip, void *object);
	void (*loaded)(void *chip, const void *object, unsigned *todo);
};

/* --serial; one group for all rows. */
extern const struct option_group serial_options;

/* The create() of a row, with its chip. */
int serial_create(struct device **ret, const struct device_type *type, const struct serial_chip *chip,
	const struct device_env *env, const void *options, struct error *err);

#endif
