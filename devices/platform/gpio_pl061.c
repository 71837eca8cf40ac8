/*
 * The PrimeCell GPIO PL061 (Arm DDI 0190B): eight lines, of which one is wired: to the power
 * button.
 *
 * The button is held down until the guest has seen it: a press raises the line, and the first read
 * of the line's data that finds it high lets go of it. A key driver, which wants to read the line
 * some milliseconds after the interrupt (debouncing) and to hear of both edges, sees a press and a
 * release, however slow it is, and no timer is needed. A press before the driver is there waits for
 * it.
 *
 * How the causes ring the line of the chip: primecell.h.
 *
 * vCPU threads read and write registers, main presses the button; one mutex, held for a few
 * instructions.
 */
#include "devices/platform/gpio_pl061.h"

#include <errno.h>

#include "devices/platform/platform.h"
#include "devices/platform/primecell.h"

enum { PL061_ID = 0x00041061, POWER = 1 << PL061_POWER_LINE };

/*
 * §3.2, table 3-1. Offsets below REG_DIR are all the data register: address bits 2 to 9 choose the
 * lines (§3.3.1).
 */
enum pl061_reg {
	REG_DIR = 0x400,
	REG_IS = 0x404,
	REG_IBE = 0x408,
	REG_IEV = 0x40c,
	REG_IE = 0x410,
	REG_RIS = 0x414,
	REG_MIS = 0x418,
	REG_IC = 0x41c,
	REG_AFSEL = 0x420,
};

enum { DATA_LINES_SHIFT = 2 };

/* What the guest can know; one bit per line. */
struct pl061_state {
	uint8_t data;  /* what the guest drives */
	uint8_t input; /* what the board drives: the button */
	uint8_t dir;   /* 1: the guest drives it */
	uint8_t is, ibe, iev, ie;
	uint8_t edges; /* edges that were seen and not cleared */
	uint8_t afsel;
};

struct pl061 {
	struct platform platform;
	struct pl061_state s; /* platform.lock */
	uint8_t pending;      /* platform.lock; the causes that the line was last told of */
};

static struct pl061 *pl061_of(struct device *dev)
{
	return container_of(dev, struct pl061, platform.device);
}

static uint8_t levels(const struct pl061_state *s)
{
	return (s->data & s->dir) | (s->input & ~s->dir);
}

/* §2.3: a line interrupts while it has its level, or since it had its edge. */
static uint8_t raw(const struct pl061_state *s)
{
	return (s->is & ~(levels(s) ^ s->iev)) | (s->edges & ~s->is);
}

/* True: the line wants an edge. With lock. */
static bool update_line(struct pl061 *g)
{
	uint8_t now = raw(&g->s) & g->s.ie;
	bool edge = primecell_edge(g->pending, now);

	g->pending = now;
	return edge;
}

/* After anything that may change levels(), which were `was`. */
static void note_edges(struct pl061_state *s, uint8_t was)
{
	uint8_t now = levels(s), changed = was ^ now;

	s->edges |= changed & (s->ibe | ~(now ^ s->iev)) & ~s->is;
}

static void set_input(struct pl061_state *s, uint8_t input)
{
	uint8_t was = levels(s);

	s->input = input;
	note_edges(s, was);
}

static uint8_t read_data(struct pl061_state *s, uint8_t lines)
{
	uint8_t v = levels(s) & lines;

	if (v & s->input & ~s->dir & POWER)
		set_input(s, s->input & ~POWER);
	return v;
}

static uint32_t reg_read(struct pl061_state *s, uint64_t offset)
{
	uint32_t id;

	if (primecell_id(PL061_ID, offset, &id))
		return id;
	if (offset < REG_DIR)
		return read_data(s, (uint8_t)(offset >> DATA_LINES_SHIFT));
	switch (offset) {
	case REG_DIR:
		return s->dir;
	case REG_IS:
		return s->is;
	case REG_IBE:
		return s->ibe;
	case REG_IEV:
		return s->iev;
	case REG_IE:
		return s->ie;
	case REG_RIS:
		return raw(s);
	case REG_MIS:
		return raw(s) & s->ie;
	case REG_AFSEL:
		return s->afsel;
	}
	return 0;
}

static void reg_write(struct pl061_state *s, uint64_t offset, uint8_t v)
{
	uint8_t was = levels(s), lines = (uint8_t)(offset >> DATA_LINES_SHIFT);

	switch (offset) {
	case 0 ... REG_DIR - 1:
		s->data = (s->data & ~lines) | (v & lines);
		break;
	case REG_DIR:
		s->dir = v;
		break;
	case REG_IS:
		s->is = v;
		s->edges &= (uint8_t)~v;
		break;
	case REG_IBE:
		s->ibe = v;
		break;
	case REG_IEV:
		s->iev = v;
		break;
	case REG_IE:
		s->ie = v;
		break;
	case REG_IC:
		s->edges &= (uint8_t)~v;
		break;
	case REG_AFSEL:
		s->afsel = v;
		break;
	}
	note_edges(s, was);
}

static void pl061_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct pl061 *g = container_of(ctx, struct pl061, platform);
	uint32_t v = 0;
	bool edge;

	pthread_mutex_lock(&g->platform.lock);
	if (primecell_register(offset))
		v = reg_read(&g->s, offset);
	edge = update_line(g);
	pthread_mutex_unlock(&g->platform.lock);
	if (edge)
		irq_raise(g->platform.irq);
	put_le(data, v, len);
}

static void pl061_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct pl061 *g = container_of(ctx, struct pl061, platform);
	bool edge;

	pthread_mutex_lock(&g->platform.lock);
	if (primecell_register(offset))
		reg_write(&g->s, offset, (uint8_t)get_le(data, len));
	edge = update_line(g);
	pthread_mutex_unlock(&g->platform.lock);
	if (edge)
		irq_raise(g->platform.irq);
}

static const struct bus_ops pl061_bus_ops = { .read = pl061_read, .write = pl061_write };

static void pl061_power_button(struct device *dev)
{
	struct pl061 *g = pl061_of(dev);
	bool edge;

	pthread_mutex_lock(&g->platform.lock);
	set_input(&g->s, g->s.input | POWER);
	edge = update_line(g);
	pthread_mutex_unlock(&g->platform.lock);
	if (edge)
		irq_raise(g->platform.irq);
}

/* The edge of a cause that was saved may be lost. One too many finds nothing. */
static void pl061_resume(struct device *dev)
{
	struct pl061 *g = pl061_of(dev);
	bool pending;

	pthread_mutex_lock(&g->platform.lock);
	pending = g->pending;
	pthread_mutex_unlock(&g->platform.lock);
	if (pending)
		irq_raise(g->platform.irq);
}

static void pl061_reset(struct device *dev)
{
	struct pl061 *g = pl061_of(dev);

	pthread_mutex_lock(&g->platform.lock);
	g->s = (struct pl061_state){ 0 };
	g->pending = 0;
	pthread_mutex_unlock(&g->platform.lock);
}

static int pl061_check(const void *object, struct error *err)
{
	const struct pl061_state *s = object;

	if (s->input & ~POWER)
		return error_set(err, EINVAL, "gpio-pl061: the saved state has inputs %#x that are not wired", s->input);
	if (s->edges & s->is)
		return error_set(err, EINVAL, "gpio-pl061: the saved state has edges on lines that have none");
	return 0;
}

static const struct state_field pl061_fields[] = {
	STATE_FIELD(struct pl061_state, data),
	STATE_FIELD(struct pl061_state, input),
	STATE_FIELD(struct pl061_state, dir),
	STATE_FIELD(struct pl061_state, is),
	STATE_FIELD(struct pl061_state, ibe),
	STATE_FIELD(struct pl061_state, iev),
	STATE_FIELD(struct pl061_state, ie),
	STATE_FIELD(struct pl061_state, edges),
	STATE_FIELD(struct pl061_state, afsel),
	STATE_END,
};

static const struct state_desc pl061_state = {
	.name = "gpio-pl061",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct pl061_state),
	.fields = pl061_fields,
	.check = pl061_check,
};

static const struct device_ops pl061_ops = {
	.resume = pl061_resume,
	.reset = pl061_reset,
	.save = platform_save,
	.load = platform_load,
	.power_button = pl061_power_button,
	.destroy = platform_destroy,
};

/* Nobody is rung before the interrupt chip has its state: resume does. */
static void pl061_loaded(struct platform *p)
{
	(void)update_line(container_of(p, struct pl061, platform));
}

static const struct platform_kind pl061_kind = {
	.type = &gpio_pl061_type,
	.ops = &pl061_ops,
	.size = sizeof(struct pl061),
	.len = PRIMECELL_LEN,
	.wired = true,
	.regs = offsetof(struct pl061, s),
	.loaded = pl061_loaded,
	.range = { { 0, PRIMECELL_LEN, &pl061_bus_ops } },
};

static int pl061_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	(void)options;
	return platform_make(ret, &pl061_kind, env, err);
}

const struct device_type gpio_pl061_type = {
	.name = "gpio-pl061",
	.id_prefix = "_gpio",
	.state = &pl061_state,
	.create = pl061_create,
};
