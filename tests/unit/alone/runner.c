/*
 * Runs the tests of a program that was compiled with this folder's criterion.h: each in a fork of this process, which
 * stays single-threaded, so that what a test leaves behind ends with it. Output is shown only of those that fail. The
 * last line has the shape of Criterion's, and tests/unit/run reads both. Patterns as arguments choose tests, `suite/name` or
 * `--filter=suite/name`, or leave them out, `-suite/name`; other options of Criterion's are no concern of ours.
 */
#include "tests/unit/alone/criterion/criterion.h"

#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { JOBS = 2, TIMEOUT = 120, SKIPPED = 77 };

extern const struct alone_test *const __start_alone_tests[], *const __stop_alone_tests[];

struct running {
	const struct alone_test *test;
	pid_t pid;
	int out;
};

struct tally {
	unsigned passed, failed, skipped;
};

static void report(const char *file, int line, const char *what, const char *format, va_list ap)
{
	char text[512];

	vsnprintf(text, sizeof(text), format, ap);
	if (file)
		fprintf(stderr, "%s:%d: %s%s\n", file, line, what, text[2] ? text : "");
	else
		fprintf(stderr, "%s\n", text);
	fflush(NULL);
}

/* Where the count of failed expectations is: in the test's own process. */
static unsigned *expectations(void)
{
	static unsigned failed;

	return &failed;
}

void alone_failed(bool fatal, const char *file, int line, const char *what, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	report(file, line, what, format, ap);
	va_end(ap);
	__atomic_fetch_add(expectations(), 1, __ATOMIC_RELAXED);
	if (fatal)
		_exit(EXIT_FAILURE);
}

void alone_skip(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	report(NULL, 0, NULL, format, ap);
	va_end(ap);
	_exit(SKIPPED);
}

static const struct alone_test *suite_of(const struct alone_test *t)
{
	for (const struct alone_test *const *s = __start_alone_tests; s < __stop_alone_tests; s++)
		if (!(*s)->run && !strcmp((*s)->suite, t->suite))
			return *s;
	return NULL;
}

static void call(void (*fn)(void))
{
	if (fn)
		fn();
}

static void run(const struct alone_test *t, int out)
{
	const struct alone_test *suite = suite_of(t);
	double timeout = t->options.timeout;

	setpgid(0, 0);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	close(out);
	if (!timeout && suite)
		timeout = suite->options.timeout;
	/* What watches this run makes everything many times slower. */
	alarm(timeout > TIMEOUT ? (unsigned)timeout : TIMEOUT);
	if (suite)
		call(suite->options.init);
	call(t->options.init);
	t->run();
	call(t->options.fini);
	if (suite)
		call(suite->options.fini);
	/* By exit(), so that the sanitizer or valgrind has its say about the status. */
	exit(*expectations() ? EXIT_FAILURE : EXIT_SUCCESS);
}

static void show(const char *verdict, const struct running *r, int status)
{
	char text[4096];
	ssize_t n;

	printf("[%s] %s::%s", verdict, r->test->suite, r->test->name);
	if (WIFSIGNALED(status))
		printf(": %s", WTERMSIG(status) == SIGALRM ? "timed out" : strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) != SKIPPED)
		printf(": exit status %d", WEXITSTATUS(status));
	else
		printf(": ");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != SKIPPED)
		printf("\n");
	lseek(r->out, 0, SEEK_SET);
	fflush(stdout);
	while ((n = read(r->out, text, sizeof(text))) > 0)
		if (write(STDOUT_FILENO, text, (size_t)n) < 0)
			break;
}

static void finish(struct running *r, int status, struct tally *tally)
{
	/* What the test started and did not end. */
	kill(-r->pid, SIGKILL);
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS) {
		tally->passed++;
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		tally->skipped++;
		show("SKIP", r, status);
	} else {
		tally->failed++;
		show("FAIL", r, status);
	}
	close(r->out);
	*r = (struct running){ 0 };
}

static void start(struct running *r, const struct alone_test *t)
{
	r->test = t;
	r->out = memfd_create("out", 0);
	fflush(NULL);
	r->pid = fork();
	if (r->out < 0 || r->pid < 0) {
		perror("alone");
		exit(EXIT_FAILURE);
	}
	if (!r->pid)
		run(t, r->out);
}

static void wait_one(struct running *running, struct tally *tally)
{
	int status;
	pid_t pid = waitpid(-1, &status, 0);

	for (unsigned i = 0; i < JOBS; i++)
		if (pid > 0 && running[i].pid == pid)
			finish(&running[i], status, tally);
}

static bool wanted(const struct alone_test *t, char **patterns)
{
	char name[256];

	snprintf(name, sizeof(name), "%s/%s", t->suite, t->name);
	for (; t->run && *patterns; patterns++) {
		const char *pattern = *patterns;

		if (!strncmp(pattern, "--filter=", 9))
			pattern += 9;
		else if (!strncmp(pattern, "--", 2))
			continue;
		if (*pattern == '-' ? !fnmatch(pattern + 1, name, 0) : fnmatch(pattern, name, 0) != 0)
			return false;
	}
	return t->run != NULL;
}

int main(int argc, char **argv)
{
	struct running running[JOBS] = { 0 };
	struct tally tally = { 0 };
	unsigned busy = 0;

	(void)argc;
	for (const struct alone_test *const *t = __start_alone_tests; t < __stop_alone_tests; t++) {
		if (!wanted(*t, argv + 1))
			continue;
		if (busy == JOBS)
			wait_one(running, &tally);
		busy = 0;
		for (unsigned i = 0; i < JOBS; i++)
			busy += running[i].pid != 0;
		for (unsigned i = 0; i < JOBS; i++)
			if (!running[i].pid) {
				start(&running[i], *t);
				busy++;
				break;
			}
	}
	while (running[0].pid || running[1].pid)
		wait_one(running, &tally);
	printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0\n",
		tally.passed + tally.failed, tally.passed, tally.failed);
	return tally.failed != 0;
}
