/* All tests of the guest. */
#include "tests/guest/tests.h"

#include <stddef.h>

const struct guest_test *const guest_tests[] = {
	life_tests,
	pci_tests,
	regs_tests,
	blk_tests,
	blk_away_tests,
	net_tests,
	char_tests,
	fault_tests,
	hostile_tests,
	attack_tests,
	NULL,
};
