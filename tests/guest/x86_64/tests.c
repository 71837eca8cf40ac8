/* What only a PC has: its tests, and its sets of hostile cases. */
#include "tests/guest/tests.h"

#include "tests/guest/attack.h"

extern const struct guest_test platform_tests[], serial_tests[];
extern const struct attack_set attack_ports, attack_platform;

const struct guest_test *const cpu_tests[] = {
	platform_tests,
	serial_tests,
	NULL,
};

const struct attack_set *const cpu_attack_sets[] = {
	&attack_ports,
	&attack_platform,
	NULL,
};
