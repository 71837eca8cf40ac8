/*
 * The PrimeCell real time clock PL031 (Arm DDI 0224C): seconds since 1970 in 32 bits.
 *
 * The clock is the host's CLOCK_REALTIME plus an offset that the guest makes when it sets the time.
 * It always runs, as if firmware had started it. There is no alarm: the match register is memory
 * and its interrupt never comes, so firmware is told of no line even where the place has one, and
 * drivers offer no alarm.
 *
 * vCPU threads, under one mutex that is held for a few instructions.
 */
#include <errno.h>
#include <time.h>

#include "devices/platform/platform.h"
#include "devices/platform/primecell.h"

enum { PL031_ID = 0x00041031 };

/* §3.2, table 3-1. */
enum pl031_reg {
	REG_DR = 0x00,
	REG_MR = 0x04,
	REG_LR = 0x08,
	REG_CR = 0x0c,
	REG_IMSC = 0x10,
};

enum { CR_START = 1, IMSC_MASK = 1 };

/* What the guest can know. */
struct pl031_state {
	uint32_t offset; /* from the host's seconds to the guest's, modulo 2^32 */
	uint32_t match, load, imsc;
};

struct pl031 {
	struct platform platform;
	struct pl031_state s; /* platform.lock */
};

static uint32_t host_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint32_t)now.tv_sec;
}

static uint32_t reg_read(const struct pl031_state *s, uint64_t offset)
{
	uint32_t id;

	if (primecell_id(PL031_ID, offset, &id))
		return id;
	switch (offset) {
	case REG_DR:
		return host_seconds() + s->offset;
	case REG_MR:
		return s->match;
	case REG_LR:
		return s->load;
	case REG_CR:
		return CR_START;
	case REG_IMSC:
		return s->imsc;
	}
	return 0; /* RIS and MIS among them */
}

static void reg_write(struct pl031_state *s, uint64_t offset, uint32_t v)
{
	switch (offset) {
	case REG_MR:
		s->match = v;
		break;
	case REG_LR:
		s->load = v;
		s->offset = v - host_seconds();
		break;
	case REG_IMSC:
		s->imsc = v & IMSC_MASK;
		break;
	}
}

static void pl031_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct pl031 *rtc = container_of(ctx, struct pl031, platform);
	uint32_t v = 0;

	pthread_mutex_lock(&rtc->platform.lock);
	if (primecell_register(offset))
		v = reg_read(&rtc->s, offset);
	pthread_mutex_unlock(&rtc->platform.lock);
	put_le(data, v, len);
}

static void pl031_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct pl031 *rtc = container_of(ctx, struct pl031, platform);

	pthread_mutex_lock(&rtc->platform.lock);
	if (primecell_register(offset))
		reg_write(&rtc->s, offset, (uint32_t)get_le(data, len));
	pthread_mutex_unlock(&rtc->platform.lock);
}

static const struct bus_ops pl031_bus_ops = { .read = pl031_read, .write = pl031_write };

/* The clock has a battery. */
static void pl031_reset(struct device *dev)
{
	struct pl031 *rtc = container_of(dev, struct pl031, platform.device);

	pthread_mutex_lock(&rtc->platform.lock);
	rtc->s = (struct pl031_state){ .offset = rtc->s.offset };
	pthread_mutex_unlock(&rtc->platform.lock);
}

static int pl031_check(const void *object, struct error *err)
{
	const struct pl031_state *s = object;

	if (s->imsc & ~(uint32_t)IMSC_MASK)
		return error_set(err, EINVAL, "rtc-pl031: the saved state has interrupt mask %#x", s->imsc);
	return 0;
}

static const struct state_field pl031_fields[] = {
	STATE_FIELD(struct pl031_state, offset),
	STATE_FIELD(struct pl031_state, match),
	STATE_FIELD(struct pl031_state, load),
	STATE_FIELD(struct pl031_state, imsc),
	STATE_END,
};

static const struct state_desc pl031_state = {
	.name = "rtc-pl031",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct pl031_state),
	.fields = pl031_fields,
	.check = pl031_check,
};

static const struct device_ops pl031_ops = {
	.reset = pl031_reset,
	.save = platform_save,
	.load = platform_load,
	.destroy = platform_destroy,
};

static const struct platform_kind pl031_kind = {
	.type = &rtc_pl031_type,
	.ops = &pl031_ops,
	.size = sizeof(struct pl031),
	.len = PRIMECELL_LEN,
	.regs = offsetof(struct pl031, s),
	.range = { { 0, PRIMECELL_LEN, &pl031_bus_ops } },
};

static int pl031_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	int r = platform_make(ret, &pl031_kind, env, err);

	(void)options;
	if (r == 0)
		(*ret)->nodes[0].gsi = UINT32_MAX;
	return r;
}

const struct device_type rtc_pl031_type = {
	.name = "rtc-pl031",
	.id_prefix = "_rtc",
	.state = &pl031_state,
	.create = pl031_create,
};
