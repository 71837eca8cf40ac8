#include "vmm/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_LINES = 10, LIMIT_WINDOW_MS = 5000, LINE_MAX_BYTES = 1024 };

enum log_level log_level = LOG_NOTICE;

static const char *const level_name[] = {
	[LOG_ERROR] = "error",
	[LOG_WARN] = "warning",
	[LOG_NOTICE] = "note",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	va_list ap;
	int head, n;

	if (level > log_level)
		return;
	head = snprintf(line, sizeof(line), "microvm: %s: ", level_name[level]);
	va_start(ap, fmt);
	n = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	n = MIN(head + n, (int)sizeof(line) - 2);
	for (int i = head; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	/* A log that cannot be written must not stop the machine. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

int log_permit(struct log_limit *limit)
{
	struct timespec ts;
	int64_t now, start;
	unsigned n;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	start = atomic_load_explicit(&limit->window_start_ms, memory_order_relaxed);
	if ((!start || now - start >= LIMIT_WINDOW_MS) &&
		atomic_compare_exchange_strong(&limit->window_start_ms, &start, now)) {
		n = atomic_exchange(&limit->count, 1);
		if (n > LIMIT_LINES)
			log_write(LOG_WARN, "%u similar lines were left out", n - LIMIT_LINES);
		return 1;
	}
	return atomic_fetch_add(&limit->count, 1) < LIMIT_LINES;
}
