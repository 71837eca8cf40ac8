/* What only this CPU's machine has: nothing that the guest tests beyond the devices of both. */
#include "tests/guest/tests.h"

#include "tests/guest/attack.h"

const struct guest_test *const cpu_tests[] = { NULL };

const struct attack_set *const cpu_attack_sets[] = { NULL };
