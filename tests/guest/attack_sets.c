/* All hostile cases, theme by theme. Their order is their number: a machine that crashed goes on behind the case. */
#include "tests/guest/attack.h"

extern const struct attack_set attack_chain;

const struct attack_set *const attack_sets[] = {
	&attack_chain,
	NULL,
};
