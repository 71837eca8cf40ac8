/* What only this CPU's machine has: its tests. */
#include "tests/guest/tests.h"

#include "tests/guest/attack.h"

extern const struct guest_test platform_tests[];

const struct guest_test *const cpu_tests[] = {
	platform_tests,
	NULL,
};

const struct attack_set *const cpu_attack_sets[] = { NULL };
