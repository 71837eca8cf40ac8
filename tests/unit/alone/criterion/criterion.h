/*
 * What the unit tests use of Criterion, for runs in which Criterion itself cannot be: it hands its tests to fresh
 * processes through memory at a fixed address, where ThreadSanitizer has its shadow, and under valgrind each of them
 * would start valgrind anew. With this folder first in the include path a test's source compiles unchanged; runner.c
 * runs each test in a fork of its own.
 */
#ifndef TESTS_UNIT_ALONE_CRITERION_H
#define TESTS_UNIT_ALONE_CRITERION_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct alone_options {
	void (*init)(void), (*fini)(void);
	double timeout;			/* seconds; 0: the runner's own */
};

/* One per Test() and one, without run, per TestSuite(). */
struct alone_test {
	const char *suite, *name;
	void (*run)(void);
	struct alone_options options;
};

/* The linker gathers the pointers; the names of the section's ends are its own. */
#define ALONE_TEST_(id, ...) \
	static const struct alone_test id = { __VA_ARGS__ }; \
	static const struct alone_test *const id##_entry __attribute__((section("alone_tests"), used)) = &id

#define Test(category, title, ...) \
	static void category##_##title##_run(void); \
	ALONE_TEST_(category##_##title##_test, #category, #title, category##_##title##_run, { __VA_ARGS__ }); \
	static void category##_##title##_run(void)

#define TestSuite(category, ...) \
	ALONE_TEST_(category##_suite, #category, NULL, NULL, { __VA_ARGS__ })

/* A check that failed: says where, and ends the test's process if it is fatal. Any thread. */
__attribute__((format(printf, 5, 6)))
void alone_failed(bool fatal, const char *file, int line, const char *what, const char *format, ...);
/* Ends the test's process: it was left out, and why. */
__attribute__((format(printf, 1, 2), noreturn))
void alone_skip(const char *format, ...);

#define ALONE_CHECK_(fatal, what, holds, ...) \
	((holds) ? (void)0 : alone_failed(fatal, __FILE__, __LINE__, what, ": " __VA_ARGS__))

#define cr_assert(c, ...)		ALONE_CHECK_(true, #c, c, __VA_ARGS__)
#define cr_assert_not(c, ...)		ALONE_CHECK_(true, "not " #c, !(c), __VA_ARGS__)
#define cr_assert_fail(...)		ALONE_CHECK_(true, "failed", false, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)		ALONE_CHECK_(true, #a " == " #b, (a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...)	ALONE_CHECK_(true, #a " != " #b, (a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...)		ALONE_CHECK_(true, #a " < " #b, (a) < (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...)	ALONE_CHECK_(true, #a " <= " #b, (a) <= (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...)		ALONE_CHECK_(true, #a " > " #b, (a) > (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...)	ALONE_CHECK_(true, #a " >= " #b, (a) >= (b), __VA_ARGS__)
#define cr_assert_null(p, ...)		ALONE_CHECK_(true, #p " is null", (p) == NULL, __VA_ARGS__)
#define cr_assert_not_null(p, ...)	ALONE_CHECK_(true, #p " is not null", (p) != NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)	ALONE_CHECK_(true, #a " is " #b, !strcmp(a, b), __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)	ALONE_CHECK_(true, #a " is not " #b, strcmp(a, b), __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)	ALONE_CHECK_(true, #a " is " #b, !memcmp(a, b, n), __VA_ARGS__)
#define cr_expect(c, ...)		ALONE_CHECK_(false, #c, c, __VA_ARGS__)
#define cr_expect_not(c, ...)		ALONE_CHECK_(false, "not " #c, !(c), __VA_ARGS__)
#define cr_expect_eq(a, b, ...)		ALONE_CHECK_(false, #a " == " #b, (a) == (b), __VA_ARGS__)
#define cr_expect_neq(a, b, ...)	ALONE_CHECK_(false, #a " != " #b, (a) != (b), __VA_ARGS__)
#define cr_expect_lt(a, b, ...)		ALONE_CHECK_(false, #a " < " #b, (a) < (b), __VA_ARGS__)
#define cr_expect_leq(a, b, ...)	ALONE_CHECK_(false, #a " <= " #b, (a) <= (b), __VA_ARGS__)
#define cr_expect_gt(a, b, ...)		ALONE_CHECK_(false, #a " > " #b, (a) > (b), __VA_ARGS__)
#define cr_expect_geq(a, b, ...)	ALONE_CHECK_(false, #a " >= " #b, (a) >= (b), __VA_ARGS__)
#define cr_expect_null(p, ...)		ALONE_CHECK_(false, #p " is null", (p) == NULL, __VA_ARGS__)
#define cr_expect_not_null(p, ...)	ALONE_CHECK_(false, #p " is not null", (p) != NULL, __VA_ARGS__)
#define cr_log_info(...)		(printf("[----] " __VA_ARGS__), putchar(10))
#define cr_expect_arr_eq(a, b, n, ...)	ALONE_CHECK_(false, #a " is " #b, !memcmp(a, b, n), __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)	ALONE_CHECK_(false, #a " is " #b, !strcmp(a, b), __VA_ARGS__)
#define cr_skip_test(...)		alone_skip(__VA_ARGS__)

#endif
