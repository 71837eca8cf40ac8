/* All hostile cases, theme by theme. Their order is their number: a machine that crashed goes on behind the case. */
#include "tests/guest/attack.h"

extern const struct attack_set attack_chain, attack_ring, attack_wrap, attack_place, attack_size, attack_status, attack_features,
	attack_moment, attack_blk, attack_frame, attack_buffer, attack_bytes,
	attack_race, attack_registers, attack_places, attack_bars, attack_motion, attack_window, attack_space, attack_quiet;

const struct attack_set *const attack_sets[] = {
	&attack_chain,
	&attack_ring,
	&attack_wrap,
	&attack_place,
	&attack_size,
	&attack_status,
	&attack_features,
	&attack_moment,
	&attack_blk,
	&attack_frame,
	&attack_buffer,
	&attack_bytes,
	&attack_race,
	&attack_registers,
	&attack_places,
	&attack_bars,
	&attack_motion,
	&attack_window,
	&attack_space,
	&attack_quiet,
	NULL,
};
