/*
 * The PC's clock and its 128 bytes of memory (Motorola MC146818A data sheet, "Address Map" and
 * "Registers"; the century at 0x32 is where ACPI's FADT says it is). An index port and a data port.
 *
 * The clock is the host's CLOCK_REALTIME, in UTC, plus an offset that the guest makes when it sets
 * the time. While the guest holds the clock (SET in register B) the time registers are plain
 * memory; letting go makes the offset from them. A write without holding changes that one field
 * of the running time. A date that does not exist changes nothing.
 *
 * Alarm and periodic interrupts do not exist: there is no line. Their registers are memory.
 *
 * vCPU threads, under one mutex that is held for a few instructions.
 */
#include <errno.h>
#include <time.h>

#include "devices/platform/platform.h"
#include "devices/platform/rtc_time.h"

enum {
	INDEX_PORT = 0,
	PLACE_LEN = 2,
	RAM_SIZE = 128,
	INDEX_MASK = 0x7f, /* bit 7 masks the NMI of a real board */

	SECONDS = 0x00,
	MINUTES = 0x02,
	HOURS = 0x04,
	WEEKDAY = 0x06,
	DAY = 0x07,
	MONTH = 0x08,
	YEAR = 0x09,
	CENTURY = 0x32,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c, /* interrupt flags: none */
	REG_D = 0x0d,

	A_UPDATE_IN_PROGRESS = 0x80,
	A_POWER_ON = 0x26, /* 32768 Hz, 1024 Hz */
	B_SET = 0x80,
	B_RESET_CLEARS = 0x78, /* PIE, AIE, UIE, SQWE */
	B_BINARY = 0x04,
	B_24_HOURS = 0x02,
	D_VALID_RAM_AND_TIME = 0x80,
	HOURS_PM = 0x80,

	UPDATE_NS = 244000, /* UIP is set this long before the time changes */
	SECOND_NS = 1000000000,
};

/* What the guest can know. */
struct rtc_state {
	uint8_t index;
	uint8_t ram[RAM_SIZE]; /* time registers: only meaningful while SET */
	uint64_t offset;       /* signed seconds from the host's clock to the guest's */
};

struct rtc {
	struct platform platform;
	struct rtc_state s; /* platform.lock */
};

/* One look at the clock, so that what is computed from it agrees. */
struct moment {
	int64_t host;	/* seconds of CLOCK_REALTIME */
	uint32_t ns;	/* of the second */
	uint64_t guest; /* as rtc_time.h counts */
};

static struct moment look(const struct rtc_state *s)
{
	struct timespec ts = { 0 };
	int64_t guest;

	clock_gettime(CLOCK_REALTIME, &ts);
	guest = (int64_t)ts.tv_sec + (int64_t)RTC_SECONDS_TO_1970 + (int64_t)s->offset;
	return (struct moment){
		.host = ts.tv_sec,
		.ns = (uint32_t)ts.tv_nsec,
		.guest = guest < 0 ? 0 : (uint64_t)guest % RTC_SECONDS_END,
	};
}

static uint8_t encode(uint8_t b, unsigned v)
{
	return (uint8_t)(b & B_BINARY ? v : v / 10 << 4 | v % 10);
}

/* False when the byte is no number in BCD. */
static bool decode(uint8_t b, uint8_t byte, uint8_t *ret)
{
	if (!(b & B_BINARY) && ((byte & 0xf) > 9 || byte >> 4 > 9))
		return false;
	*ret = b & B_BINARY ? byte : (uint8_t)(10 * (byte >> 4) + (byte & 0xf));
	return true;
}

/* 12-hour form: 12 AM is midnight, 12 PM noon. */
static uint8_t encode_hours(uint8_t b, unsigned hour)
{
	if (b & B_24_HOURS)
		return encode(b, hour);
	return encode(b, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0);
}

static bool decode_hours(uint8_t b, uint8_t byte, uint8_t *ret)
{
	uint8_t hour;

	if (b & B_24_HOURS)
		return decode(b, byte, ret);
	if (!decode(b, byte & ~HOURS_PM, &hour) || hour < 1 || hour > 12)
		return false;
	*ret = hour % 12 + (byte & HOURS_PM ? 12 : 0);
	return true;
}

static void show_time(struct rtc_state *s, uint64_t seconds)
{
	struct rtc_date d = rtc_date_of(seconds);
	uint8_t b = s->ram[REG_B];

	s->ram[SECONDS] = encode(b, d.second);
	s->ram[MINUTES] = encode(b, d.minute);
	s->ram[HOURS] = encode_hours(b, d.hour);
	s->ram[WEEKDAY] = d.weekday;
	s->ram[DAY] = encode(b, d.day);
	s->ram[MONTH] = encode(b, d.month);
	s->ram[YEAR] = encode(b, d.year % 100);
	s->ram[CENTURY] = encode(b, d.year / 100);
}

/* The time registers become the time at moment `m`. The weekday follows from the date. */
static void set_time(struct rtc_state *s, const struct moment *m)
{
	uint8_t b = s->ram[REG_B], century = 0, year = 0;
	struct rtc_date d = { 0 };
	uint64_t seconds;

	if (!decode(b, s->ram[SECONDS], &d.second) || !decode(b, s->ram[MINUTES], &d.minute) ||
		!decode_hours(b, s->ram[HOURS], &d.hour) || !decode(b, s->ram[DAY], &d.day) ||
		!decode(b, s->ram[MONTH], &d.month) || !decode(b, s->ram[YEAR], &year) ||
		!decode(b, s->ram[CENTURY], &century) || year > 99 || century > 99)
		return;
	d.year = (uint16_t)(100 * century + year);
	if (rtc_seconds_of(&d, &seconds))
		s->offset = seconds - RTC_SECONDS_TO_1970 - (uint64_t)m->host;
}

static bool is_time(uint8_t reg)
{
	return reg == CENTURY || (reg <= YEAR && (reg >= WEEKDAY || reg == SECONDS ||
							 reg == MINUTES || reg == HOURS));
}

static uint8_t read_register(struct rtc_state *s, uint8_t reg)
{
	struct moment m;

	if (reg == REG_C)
		return 0;
	if (reg == REG_D)
		return D_VALID_RAM_AND_TIME;
	if (s->ram[REG_B] & B_SET || (reg != REG_A && !is_time(reg)))
		return s->ram[reg];
	m = look(s);
	if (reg == REG_A)
		return s->ram[REG_A] | (m.ns >= SECOND_NS - UPDATE_NS ? A_UPDATE_IN_PROGRESS : 0);
	show_time(s, m.guest);
	return s->ram[reg];
}

/* Register B: holding the clock keeps the time in its registers, letting go takes it from them. */
static void write_control(struct rtc_state *s, uint8_t v)
{
	struct moment m = look(s);
	bool held = s->ram[REG_B] & B_SET, hold = v & B_SET;

	if (!held && hold)
		show_time(s, m.guest);
	s->ram[REG_B] = v;
	if (held && !hold)
		set_time(s, &m);
}

static void write_register(struct rtc_state *s, uint8_t reg, uint8_t v)
{
	struct moment m;

	if (reg == REG_B) {
		write_control(s, v);
	} else if (reg == REG_A) {
		s->ram[REG_A] = v & ~A_UPDATE_IN_PROGRESS;
	} else if (is_time(reg) && !(s->ram[REG_B] & B_SET)) {
		m = look(s);
		show_time(s, m.guest);
		s->ram[reg] = v;
		set_time(s, &m);
	} else if (reg != REG_C && reg != REG_D) {
		s->ram[reg] = v;
	}
}

/* A two-byte access is index and data in one, as the ISA bus makes of it. */
static void rtc_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct rtc *rtc = container_of(ctx, struct rtc, platform);
	uint8_t *bytes = data;

	pthread_mutex_lock(&rtc->platform.lock);
	/* The index port cannot be read. */
	for (unsigned i = 0; i < len; i++)
		bytes[i] = offset + i == INDEX_PORT ? 0xff : read_register(&rtc->s, rtc->s.index);
	pthread_mutex_unlock(&rtc->platform.lock);
}

static void rtc_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct rtc *rtc = container_of(ctx, struct rtc, platform);
	const uint8_t *bytes = data;

	pthread_mutex_lock(&rtc->platform.lock);
	for (unsigned i = 0; i < len; i++) {
		if (offset + i == INDEX_PORT)
			rtc->s.index = bytes[i] & INDEX_MASK;
		else
			write_register(&rtc->s, rtc->s.index, bytes[i]);
	}
	pthread_mutex_unlock(&rtc->platform.lock);
}

static const struct bus_ops rtc_bus_ops = { .read = rtc_read, .write = rtc_write };

/* Clock and memory have a battery. A clock that was left held goes on, as firmware would see to. */
static void rtc_reset(struct device *dev)
{
	struct rtc *rtc = container_of(dev, struct rtc, platform.device);

	pthread_mutex_lock(&rtc->platform.lock);
	rtc->s.index = 0;
	write_control(&rtc->s, rtc->s.ram[REG_B] & ~(B_SET | B_RESET_CLEARS));
	pthread_mutex_unlock(&rtc->platform.lock);
}

static int rtc_check(const void *object, struct error *err)
{
	const struct rtc_state *s = object;
	uint64_t magnitude = s->offset >> 63 ? -s->offset : s->offset;

	if (s->index > INDEX_MASK)
		return error_set(err, EINVAL, "rtc-cmos: the saved state has index %u", s->index);
	if (s->ram[REG_A] & A_UPDATE_IN_PROGRESS)
		return error_set(err, EINVAL, "rtc-cmos: the saved state has a read-only bit set");
	/* So that adding the host's time cannot overflow. */
	if (magnitude > 2 * RTC_SECONDS_END)
		return error_set(err, EINVAL, "rtc-cmos: the saved state is off by %lld seconds",
			(long long)s->offset);
	return 0;
}

static const struct state_field rtc_fields[] = {
	STATE_FIELD(struct rtc_state, index),
	STATE_ARRAY(struct rtc_state, ram),
	STATE_FIELD(struct rtc_state, offset),
	STATE_END,
};

static const struct state_desc rtc_state = {
	.name = "rtc-cmos",
	.version = 1,
	.oldest = 1,
	.object_size = sizeof(struct rtc_state),
	.fields = rtc_fields,
	.check = rtc_check,
};

static const struct device_ops rtc_ops = {
	.reset = rtc_reset,
	.save = platform_save,
	.load = platform_load,
	.destroy = platform_destroy,
};

static void rtc_power_on(struct platform *p)
{
	struct rtc *rtc = container_of(p, struct rtc, platform);

	rtc->s.ram[REG_A] = A_POWER_ON;
	rtc->s.ram[REG_B] = B_24_HOURS;
}

static const struct platform_kind rtc_kind = {
	.type = &rtc_cmos_type,
	.ops = &rtc_ops,
	.size = sizeof(struct rtc),
	.len = PLACE_LEN,
	.power_on = rtc_power_on,
	.regs = offsetof(struct rtc, s),
	.range = { { 0, PLACE_LEN, &rtc_bus_ops } },
};

static int rtc_create(
	struct device **ret, const struct device_env *env, const void *options, struct error *err)
{
	(void)options;
	return platform_make(ret, &rtc_kind, env, err);
}

const struct device_type rtc_cmos_type = {
	.name = "rtc-cmos",
	.id_prefix = "_rtc",
	.state = &rtc_state,
	.create = rtc_create,
};
