#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "devices/platform/rtc_time.h"
#include "tests/unit/platform.h"

static const struct device_node place = { "rtc-cmos", true, 0x70, 2, UINT32_MAX };

enum { SET = 0x80, BINARY = 4, HOURS_24 = 2 };

static uint8_t get(struct platform_world *w, uint8_t reg)
{
	out8(w, 0x70, reg);
	return in8(w, 0x71);
}

static void put(struct platform_world *w, uint8_t reg, uint8_t v)
{
	out8(w, 0x70, reg);
	out8(w, 0x71, v);
}

static unsigned plain(uint8_t bcd)
{
	return 10U * (bcd >> 4) + (bcd & 15);
}

/* Hold the clock, set it in the format of `b`, let it go. Registers as the guest writes them. */
static void set_clock(struct platform_world *w, uint8_t b, const uint8_t regs[7])
{
	static const uint8_t at[7] = { 0x32, 9, 8, 7, 4, 2, 0 };

	put(w, 0xb, b | SET);
	for (unsigned i = 0; i < 7; i++)
		put(w, at[i], regs[i]);
	put(w, 0xb, b);
}
#define SET_CLOCK(w, b, ...) set_clock(w, b, (const uint8_t[7]){ __VA_ARGS__ })

/* Century, year, month, day, hour, minute; not the second, which runs. */
#define EXPECT_CLOCK(w, ...) expect_clock(w, (const uint8_t[6]){ __VA_ARGS__ }, __LINE__)
static void expect_clock(struct platform_world *w, const uint8_t regs[6], int line)
{
	static const uint8_t at[6] = { 0x32, 9, 8, 7, 4, 2 };

	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(get(w, at[i]), regs[i], "line %d: register %#x is %#x", line, at[i],
			get(w, at[i]));
}

/* ---- the calendar ---- */

/* An independent count: one day after the other. */
Test(rtc_time, every_day_of_ten_thousand_years_has_its_date_and_back)
{
	static const unsigned len[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	unsigned year = 0, month = 1, day = 1, weekday = 7;

	for (uint64_t s = 0; s < RTC_SECONDS_END; s += 86400) {
		struct rtc_date d = rtc_date_of(s), end = rtc_date_of(s + 86399);
		bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
		uint64_t back = 1;

		if (d.year != year || d.month != month || d.day != day || d.weekday != weekday ||
			d.hour || d.minute || d.second || end.day != day || end.hour != 23 ||
			end.minute != 59 || end.second != 59 || !rtc_seconds_of(&d, &back) ||
			back != s)
			cr_assert_fail("%04u-%02u-%02u", year, month, day);
		weekday = weekday % 7 + 1;
		if (++day > len[month - 1] + (month == 2 && leap)) {
			day = 1;
			if (++month > 12) {
				month = 1;
				year++;
			}
		}
	}
	cr_assert_eq(year, 10000);
}

Test(rtc_time, it_agrees_with_libc_and_not_with_the_time_zone)
{
	setenv("TZ", "Asia/Kathmandu", 1);
	tzset();
	for (int64_t t = -3000000000; t < 30000000000; t += 86400 * 31 + 4321) {
		struct rtc_date d = rtc_date_of((uint64_t)(t + (int64_t)RTC_SECONDS_TO_1970));
		time_t tt = t;
		struct tm tm;

		gmtime_r(&tt, &tm);
		cr_assert(d.year == tm.tm_year + 1900 && d.month == tm.tm_mon + 1 &&
				  d.day == tm.tm_mday && d.weekday == tm.tm_wday + 1 &&
				  d.hour == tm.tm_hour && d.minute == tm.tm_min &&
				  d.second == tm.tm_sec,
			"%lld", (long long)t);
	}
}

Test(rtc_time, a_date_that_does_not_exist_is_refused)
{
	static const struct rtc_date bad[] = {
		{ 2023, 2, 29, 1, 0, 0, 0 },
		{ 1900, 2, 29, 1, 0, 0, 0 },
		{ 2024, 2, 30, 1, 0, 0, 0 },
		{ 2024, 4, 31, 1, 0, 0, 0 },
		{ 2024, 0, 1, 1, 0, 0, 0 },
		{ 2024, 13, 1, 1, 0, 0, 0 },
		{ 2024, 1, 0, 1, 0, 0, 0 },
		{ 2024, 1, 1, 1, 24, 0, 0 },
		{ 2024, 1, 1, 1, 0, 60, 0 },
		{ 2024, 1, 1, 1, 0, 0, 60 },
		{ 10000, 1, 1, 1, 0, 0, 0 },
	};
	const struct rtc_date leap = { 2000, 2, 29, 1, 0, 0, 0 };
	uint64_t s = 77;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_not(rtc_seconds_of(&bad[i], &s), "%zu", i);
	cr_assert_eq(s, 77);
	cr_assert(rtc_seconds_of(&leap, &s));
}

/* ---- the device ---- */

Test(rtc, at_power_on_it_tells_the_host_s_time_in_utc)
{
	struct platform_world w;
	struct tm tm;
	time_t before, after;
	unsigned seconds, year, days;

	setenv("TZ", "America/St_Johns", 1);
	tzset();
	platform_start(&w, &rtc_cmos_type, &place);
	cr_assert_eq(get(&w, 0xb), HOURS_24);
	cr_assert_eq(get(&w, 0xd), 0x80);
	cr_assert_eq(get(&w, 0xa) & 0x7f, 0x26);
	/* Hold it, so that the second cannot turn between two registers. */
	before = time(NULL);
	put(&w, 0xb, HOURS_24 | SET);
	after = time(NULL);
	gmtime_r(&before, &tm);
	if (before != after)
		gmtime_r(&after, &tm);
	seconds = plain(get(&w, 0)) + 60 * plain(get(&w, 2)) + 3600 * plain(get(&w, 4));
	year = 100 * plain(get(&w, 0x32)) + plain(get(&w, 9));
	days = plain(get(&w, 7));
	cr_assert_leq((unsigned)(tm.tm_sec + 60 * tm.tm_min + 3600 * tm.tm_hour) - seconds, 1);
	cr_assert_eq(year, (unsigned)tm.tm_year + 1900);
	cr_assert_eq(plain(get(&w, 8)), (unsigned)tm.tm_mon + 1);
	cr_assert_eq(days, (unsigned)tm.tm_mday);
	cr_assert_eq(get(&w, 6), tm.tm_wday + 1);
	platform_finish(&w);
}

Test(rtc, the_guest_sets_the_clock_and_it_runs_from_there)
{
	struct platform_world w;
	const struct timespec second = { .tv_sec = 1, .tv_nsec = 50000000 };

	platform_start(&w, &rtc_cmos_type, &place);
	SET_CLOCK(&w, HOURS_24, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
	nanosleep(&second, NULL);
	EXPECT_CLOCK(&w, 0x20, 0x00, 0x01, 0x01, 0x00, 0x00);
	cr_assert_leq(get(&w, 0), 0x20);
	cr_assert_eq(get(&w, 6), 7, "1 January 2000 was a Saturday");
	platform_finish(&w);
}

Test(rtc, leap_days_follow_the_century)
{
	static const struct {
		uint8_t century, year, month, day;
	} after_28_february[] = {
		{ 0x19, 0x00, 3, 1 },
		{ 0x20, 0x00, 2, 0x29 },
		{ 0x20, 0x24, 2, 0x29 },
		{ 0x21, 0x00, 3, 1 },
	};
	struct platform_world w;
	const struct timespec second = { .tv_sec = 1, .tv_nsec = 50000000 };

	platform_start(&w, &rtc_cmos_type, &place);
	for (size_t i = 0; i < ARRAY_SIZE(after_28_february); i++) {
		uint8_t century = after_28_february[i].century, year = after_28_february[i].year;

		SET_CLOCK(&w, HOURS_24, century, year, 0x02, 0x28, 0x23, 0x59, 0x59);
		nanosleep(&second, NULL);
		EXPECT_CLOCK(&w, century, year, after_28_february[i].month,
			after_28_february[i].day, 0, 0);
	}
	platform_finish(&w);
}

Test(rtc, hours_show_in_all_four_formats)
{
	static const struct {
		uint8_t bcd24, bcd12, bin24, bin12;
	} hours[] = {
		{ 0x00, 0x12, 0, 12 },
		{ 0x01, 0x01, 1, 1 },
		{ 0x11, 0x11, 11, 11 },
		{ 0x12, 0x92, 12, 0x80 + 12 },
		{ 0x13, 0x81, 13, 0x80 + 1 },
		{ 0x23, 0x91, 23, 0x80 + 11 },
	};
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	for (size_t i = 0; i < ARRAY_SIZE(hours); i++) {
		const uint8_t shown[4] = { hours[i].bcd12, hours[i].bcd24, hours[i].bin12,
			hours[i].bin24 };

		/* Set in each format, read in each. */
		for (unsigned from = 0; from < 4; from++) {
			uint8_t b = (uint8_t)(from << 1);

			if (b & BINARY)
				SET_CLOCK(&w, b, 20, 24, 11, 30, shown[from], 45, 10);
			else
				SET_CLOCK(&w, b, 0x20, 0x24, 0x11, 0x30, shown[from], 0x45, 0x10);
			for (unsigned to = 0; to < 4; to++) {
				put(&w, 0xb, (uint8_t)(to << 1));
				if (to & 2)
					EXPECT_CLOCK(&w, 20, 24, 11, 30, shown[to], 45);
				else
					EXPECT_CLOCK(&w, 0x20, 0x24, 0x11, 0x30, shown[to], 0x45);
			}
		}
	}
	platform_finish(&w);
}

Test(rtc, a_held_clock_keeps_what_is_written_until_it_is_let_go)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	put(&w, 0xb, HOURS_24 | SET);
	put(&w, 0, 0xff);
	cr_assert_eq(get(&w, 0), 0xff, "plain memory meanwhile");
	cr_assert_not(get(&w, 0xa) & 0x80, "no update meanwhile");
	put(&w, 0, 0x30);
	put(&w, 0xb, HOURS_24);
	cr_assert_eq(get(&w, 0) & 0xf0, 0x30);
	platform_finish(&w);
}

Test(rtc, a_date_that_does_not_exist_leaves_the_clock_as_it_was)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	SET_CLOCK(&w, HOURS_24, 0x20, 0x23, 0x02, 0x10, 0x12, 0x00, 0x00);
	SET_CLOCK(&w, HOURS_24, 0x20, 0x23, 0x02, 0x29, 0x12, 0x00, 0x00);
	EXPECT_CLOCK(&w, 0x20, 0x23, 0x02, 0x10, 0x12, 0x00);
	SET_CLOCK(&w, HOURS_24, 0x20, 0x23, 0x1a, 0x10, 0x12, 0x00, 0x00);
	EXPECT_CLOCK(&w, 0x20, 0x23, 0x02, 0x10, 0x12, 0x00);
	SET_CLOCK(&w, BINARY | HOURS_24, 200, 23, 2, 10, 13, 0, 0);
	EXPECT_CLOCK(&w, 20, 23, 2, 10, 12, 0);
	SET_CLOCK(&w, BINARY | HOURS_24, 20, 255, 2, 10, 13, 0, 0);
	EXPECT_CLOCK(&w, 20, 23, 2, 10, 12, 0);
	SET_CLOCK(&w, 0, 0x20, 0x23, 0x02, 0x10, 0x13, 0x00, 0x00);
	EXPECT_CLOCK(&w, 0x20, 0x23, 0x02, 0x10, 0x92, 0x00);
	SET_CLOCK(&w, 0, 0x20, 0x23, 0x02, 0x10, 0x00, 0x00, 0x00);
	EXPECT_CLOCK(&w, 0x20, 0x23, 0x02, 0x10, 0x92, 0x00);
	platform_finish(&w);
}

Test(rtc, one_field_of_the_running_clock_can_be_set)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	SET_CLOCK(&w, HOURS_24, 0x20, 0x24, 0x03, 0x31, 0x12, 0x00, 0x00);
	put(&w, 4, 0x07);
	EXPECT_CLOCK(&w, 0x20, 0x24, 0x03, 0x31, 0x07, 0x00);
	put(&w, 8, 0x02); /* there is no 31 February */
	EXPECT_CLOCK(&w, 0x20, 0x24, 0x03, 0x31, 0x07, 0x00);
	put(&w, 0x32, 0x21);
	EXPECT_CLOCK(&w, 0x21, 0x24, 0x03, 0x31, 0x07, 0x00);
	platform_finish(&w);
}

Test(rtc, both_ends_of_the_years_hold)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	SET_CLOCK(&w, HOURS_24, 0x00, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
	EXPECT_CLOCK(&w, 0x00, 0x00, 0x01, 0x01, 0x00, 0x00);
	SET_CLOCK(&w, HOURS_24, 0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x30);
	EXPECT_CLOCK(&w, 0x99, 0x99, 0x12, 0x31, 0x23, 0x59);
	SET_CLOCK(&w, HOURS_24, 0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
	nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 50000000 }, NULL);
	EXPECT_CLOCK(&w, 0x00, 0x00, 0x01, 0x01, 0x00, 0x00);
	platform_finish(&w);
}

/* Read the bit for three seconds' worth of updates: it must be seen clear right after it was set.
 */
Test(rtc, the_update_bit_comes_before_the_second_turns_and_goes)
{
	struct platform_world w;
	struct timespec ts;
	bool seen = false, wrong = false;

	platform_start(&w, &rtc_cmos_type, &place);
	for (unsigned tries = 0; tries < 5 && !seen; tries++) {
		clock_gettime(CLOCK_REALTIME, &ts);
		nanosleep(&(struct timespec){ .tv_nsec = 999000000 - MIN(ts.tv_nsec, 998000000) },
			NULL);
		do {
			struct timespec after;
			bool uip;

			clock_gettime(CLOCK_REALTIME, &ts);
			uip = get(&w, 0xa) & 0x80;
			clock_gettime(CLOCK_REALTIME, &after);
			seen |= uip;
			wrong |= uip && ts.tv_sec == after.tv_sec && after.tv_nsec < 999756000;
			wrong |= !uip && ts.tv_sec == after.tv_sec && ts.tv_nsec >= 999756000;
		} while (ts.tv_nsec > 500000000);
	}
	cr_assert(seen);
	cr_assert_not(wrong);
	platform_finish(&w);
}

Test(rtc, memory_keeps_what_is_written_and_read_only_registers_do_not)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	put(&w, 0xb, HOURS_24);
	for (unsigned i = 0xe; i < 128; i++)
		if (i != 0x32)
			put(&w, (uint8_t)i, (uint8_t)(i ^ 0x55));
	put(&w, 1, 0x11);
	put(&w, 3, 0x22);
	put(&w, 5, 0xc0);
	put(&w, 0xa, 0xff);
	put(&w, 0xc, 0xff);
	put(&w, 0xd, 0x00);
	for (unsigned i = 0xe; i < 128; i++)
		if (i != 0x32)
			cr_assert_eq(get(&w, (uint8_t)i), i ^ 0x55);
	cr_assert_eq(get(&w, 1), 0x11);
	cr_assert_eq(get(&w, 3), 0x22);
	cr_assert_eq(get(&w, 5), 0xc0);
	cr_assert_eq(get(&w, 0xa) & 0x7f, 0x7f);
	cr_assert_eq(get(&w, 0xc), 0, "no interrupt happens");
	cr_assert_eq(get(&w, 0xd), 0x80);
	platform_finish(&w);
}

Test(rtc, the_nmi_bit_of_the_index_is_ignored_and_the_index_not_read)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	put(&w, 0x80 | 0x40, 0x77);
	cr_assert_eq(get(&w, 0x40), 0x77);
	cr_assert_eq(in8(&w, 0x70), 0xff);
	platform_finish(&w);
}

Test(rtc, a_two_byte_access_is_index_and_data)
{
	struct platform_world w;
	const uint8_t write[2] = { 0x40, 0x99 };
	uint8_t read[2];

	platform_start(&w, &rtc_cmos_type, &place);
	cr_assert(bus_write(w.bus, 0x70, write, 2));
	cr_assert_eq(get(&w, 0x40), 0x99);
	cr_assert(bus_read(w.bus, 0x70, read, 2));
	cr_assert_eq(read[0], 0xff);
	cr_assert_eq(read[1], 0x99);
	platform_finish(&w);
}

Test(rtc, every_access_of_every_width_is_answered)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	platform_sweep(&w);
	for (unsigned i = 0; i < 256; i++)
		for (unsigned v = 0; v < 256; v += 3) {
			put(&w, (uint8_t)i, (uint8_t)v);
			get(&w, (uint8_t)i);
		}
	platform_finish(&w);
}

Test(rtc, reset_keeps_time_and_memory_and_stops_interrupts)
{
	struct platform_world w;

	platform_start(&w, &rtc_cmos_type, &place);
	SET_CLOCK(&w, HOURS_24, 0x20, 0x30, 0x05, 0x06, 0x07, 0x08, 0x00);
	put(&w, 0x40, 0x12);
	put(&w, 0xb, HOURS_24 | SET | 0x78);
	put(&w, 2, 0x09);
	w.dev->ops->reset(w.dev);
	cr_assert_eq(get(&w, 0xb), HOURS_24);
	cr_assert_eq(get(&w, 0x40), 0x12);
	EXPECT_CLOCK(&w, 0x20, 0x30, 0x05, 0x06, 0x07, 0x09);
	platform_finish(&w);
}

Test(rtc, the_guest_s_time_survives_save_and_load)
{
	struct platform_world from, to;
	struct state_writer s;

	platform_start(&from, &rtc_cmos_type, &place);
	platform_start(&to, &rtc_cmos_type, &place);
	SET_CLOCK(&from, 0, 0x19, 0x85, 0x10, 0x26, 0x81, 0x21, 0x00);
	put(&from, 0x40, 0x42);
	out8(&from, 0x70, 0x40);
	s = platform_world_save(&from);
	cr_assert_eq(platform_world_load(&to, &s), 0, "%s", to.err.text);
	cr_assert_eq(in8(&to, 0x71), 0x42, "the index as well");
	EXPECT_CLOCK(&to, 0x19, 0x85, 0x10, 0x26, 0x81, 0x21);
	state_writer_free(&s);
	platform_finish(&from);
	platform_finish(&to);
}

/* The saved object as rtc_cmos.c lays it out; its description says whether that is still so. */
struct saved {
	uint8_t index;
	uint8_t ram[128];
	uint64_t offset;
};

static void expect_refused(struct platform_world *w, const struct saved *bad, const char *part)
{
	struct state_writer s = { 0 };

	cr_assert_eq(rtc_cmos_type.state->object_size, sizeof(*bad));
	cr_assert_eq(state_save(&s, rtc_cmos_type.state, bad), 0);
	cr_assert_eq(platform_world_load(w, &s), -EINVAL);
	cr_assert_not_null(strstr(w->err.text, part), "%s", w->err.text);
	state_writer_free(&s);
}

Test(rtc, a_saved_state_that_no_device_can_have_is_refused)
{
	struct platform_world w;
	struct saved bad = { .index = 128 };

	platform_start(&w, &rtc_cmos_type, &place);
	expect_refused(&w, &bad, "index 128");
	bad = (struct saved){ .ram[0xa] = 0x80 };
	expect_refused(&w, &bad, "read-only");
	bad = (struct saved){ .offset = INT64_MAX };
	expect_refused(&w, &bad, "seconds");
	bad = (struct saved){ .offset = (uint64_t)INT64_MIN };
	expect_refused(&w, &bad, "seconds");
	cr_assert_eq(get(&w, 0xb), HOURS_24, "the live one is as it was");
	platform_finish(&w);
}

static void *hammer(void *arg)
{
	struct platform_world *w = arg;

	for (unsigned i = 0; i < 20000; i++) {
		put(w, (uint8_t)(i * 7), (uint8_t)i);
		get(w, (uint8_t)i);
	}
	return NULL;
}

Test(rtc, vcpus_may_race)
{
	struct platform_world w;
	pthread_t thread[4];

	platform_start(&w, &rtc_cmos_type, &place);
	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, hammer, &w), 0);
	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	SET_CLOCK(&w, HOURS_24, 0x20, 0x24, 0x03, 0x31, 0x12, 0x00, 0x00);
	EXPECT_CLOCK(&w, 0x20, 0x24, 0x03, 0x31, 0x12, 0x00);
	platform_finish(&w);
}
