/*
 * The calendar as arithmetic. A year is a leap year when 4 divides it, unless 100 does, unless 400
 * does; so the days before a year are 365 for each one plus the leap days among them.
 */
#include "devices/platform/rtc_time.h"

enum {
	DAY = 86400,
	HOUR = 3600,
	MINUTE = 60,
	DAYS_IN_400_YEARS = 146097,
};

static bool is_leap(unsigned year)
{
	return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static unsigned days_in_month(unsigned year, unsigned month)
{
	static const uint8_t days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

	return days[month - 1] + (month == 2 && is_leap(year));
}

/* The multiples of n below `year`, counting the year 0. */
static uint64_t multiples_before(unsigned year, unsigned n)
{
	return (year + n - 1) / n;
}

static uint64_t days_before_year(unsigned year)
{
	return UINT64_C(365) * year + multiples_before(year, 4) - multiples_before(year, 100) +
	       multiples_before(year, 400);
}

struct rtc_date rtc_date_of(uint64_t seconds)
{
	uint64_t days = seconds / DAY, of_day = seconds % DAY;
	/* With years of average length: right, or one off near a year's end. */
	unsigned year = (unsigned)(days * 400 / DAYS_IN_400_YEARS), month = 1;
	uint64_t weekday = (days + 6) % 7 + 1; /* day 0 is a Saturday */

	if (days_before_year(year) > days)
		year--;
	else if (days_before_year(year + 1) <= days)
		year++;
	days -= days_before_year(year);
	while (days >= days_in_month(year, month))
		days -= days_in_month(year, month++);
	return (struct rtc_date){
		.year = (uint16_t)year,
		.month = (uint8_t)month,
		.day = (uint8_t)(days + 1),
		.weekday = (uint8_t)weekday,
		.hour = (uint8_t)(of_day / HOUR),
		.minute = (uint8_t)(of_day % HOUR / MINUTE),
		.second = (uint8_t)(of_day % MINUTE),
	};
}

bool rtc_seconds_of(const struct rtc_date *d, uint64_t *ret)
{
	uint64_t days;

	if (d->year > 9999 || d->month < 1 || d->month > 12 || d->day < 1 ||
		d->day > days_in_month(d->year, d->month) || d->hour > 23 || d->minute > 59 ||
		d->second > 59)
		return false;
	days = days_before_year(d->year) + d->day - 1;
	for (unsigned month = 1; month < d->month; month++)
		days += days_in_month(d->year, month);
	*ret = days * DAY + d->hour * HOUR + d->minute * MINUTE + d->second;
	return true;
}
