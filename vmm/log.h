/*
 * Lines for the operator, to stderr. Quiet by default: errors, warnings, and the little a user must
 * be told (notice: the path of a pty); -v adds info, -vv debug.
 *
 * A line is one write(2), so lines of different threads never mix. What a guest can cause at will
 * goes through log_guest(), which lets at most ten lines in five seconds through per call site and
 * then says how many it swallowed. Any thread; safe after the sandbox is sealed (write and
 * clock_gettime only).
 */
#ifndef VMM_LOG_H
#define VMM_LOG_H

#include <stdatomic.h>

#include "vmm/util.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTICE, LOG_INFO, LOG_DEBUG };

/*
 * The one mutable file-scope variable of the program that is not const; set by main before any
 * thread.
 */
extern enum log_level log_level;

struct log_limit {
	_Atomic int64_t window_start_ms;
	_Atomic unsigned count;
};

/* Control bytes of the formatted text are printed as '?': text can come from a guest or a file. */
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* 1 when this line may be printed; may print a line about lines that were swallowed. */
int log_permit(struct log_limit *limit);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_notice(...) log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)                                                                              \
	do {                                                                                       \
		if (log_level >= LOG_INFO)                                                         \
			log_write(LOG_INFO, __VA_ARGS__);                                          \
	} while (0)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_level >= LOG_DEBUG)                                                        \
			log_write(LOG_DEBUG, __VA_ARGS__);                                         \
	} while (0)

/* For everything a guest can trigger. */
#define log_guest(level, ...)                                                                      \
	do {                                                                                       \
		static struct log_limit limit_;                                                    \
		if (log_level >= (level) && log_permit(&limit_))                                   \
			log_write(level, __VA_ARGS__);                                             \
	} while (0)

#endif
