/*
 * Dates of the Gregorian calendar and seconds, without libc's help: gmtime_r() and timegm() look at
 * the time zone and may open its file, which no vCPU thread is allowed to. Any thread.
 */
#ifndef DEVICES_PLATFORM_RTC_TIME_H
#define DEVICES_PLATFORM_RTC_TIME_H

#include "vmm/util.h"

/* Seconds here count from 0000-01-01 00:00:00. */
#define RTC_SECONDS_TO_1970 (UINT64_C(719528) * 86400)
/* The years 0000 to 9999, all that four digits can show. */
#define RTC_SECONDS_END (UINT64_C(3652425) * 86400)

struct rtc_date {
	uint16_t year;	    /* 0 to 9999 */
	uint8_t month, day; /* from 1 */
	uint8_t weekday;    /* 1 Sunday to 7 Saturday; an output only */
	uint8_t hour, minute, second;
};

/* `seconds` is below RTC_SECONDS_END. */
struct rtc_date rtc_date_of(uint64_t seconds);
/* False, with *ret untouched, when there is no such date or time. */
bool rtc_seconds_of(const struct rtc_date *date, uint64_t *ret) NEEDS_CHECK;

#endif
