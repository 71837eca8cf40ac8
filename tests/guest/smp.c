/* The second vCPU: it is started as the architecture says, and from then on only writes to memory. */
#include "tests/guest/smp.h"

enum { GOOD_SHARE = 61, BAD_SHARE = 6 };

static struct {
	bool alive, go, resting;
	unsigned n;
	struct flip flip[FLIPS_MAX];
	uint64_t rounds;
} shared;

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

static void put(const struct flip *f, uint64_t v)
{
	switch (f->width) {
	case 1:
		*(volatile uint8_t *)f->at = (uint8_t)v;
		break;
	case 2:
		*(volatile uint16_t *)f->at = (uint16_t)v;
		break;
	case 4:
		*(volatile uint32_t *)f->at = (uint32_t)v;
		break;
	default:
		*(volatile uint64_t *)f->at = v;
		break;
	}
}

/* Long enough that the other processors see the value: two stores at once would be one for them. */
static void rest(uint64_t turns)
{
	while (turns--)
		relax();
}

void guest_ap(void)
{
	STORE(shared.alive, true);
	for (;;) {
		if (!LOAD(shared.go)) {
			STORE(shared.resting, true);
			relax();
			continue;
		}
		STORE(shared.resting, false);
		for (unsigned i = 0; i < shared.n; i++)
			put(&shared.flip[i], shared.flip[i].b);
		rest(shared.rounds * 5 % BAD_SHARE);
		for (unsigned i = 0; i < shared.n; i++)
			put(&shared.flip[i], shared.flip[i].a);
		/* Good for most of the time, or every request fails at the first look. */
		rest(shared.rounds * 7 % GOOD_SHARE);
		STORE(shared.rounds, shared.rounds + 1);
	}
}

static bool becomes(const bool *flag)
{
	uint64_t start = cycles();

	while (!LOAD(*flag))
		if (cycles() - start > PATIENCE)
			return false;
		else
			relax();
	return true;
}

bool smp_start(void)
{
	if (LOAD(shared.alive))
		return true;
	cpu_start_second();
	return becomes(&shared.alive);
}

void flip_begin(const struct flip *flips, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		shared.flip[i] = flips[i];
	shared.n = n;
	shared.rounds = 0;
	STORE(shared.resting, false);
	STORE(shared.go, true);
	while (!LOAD(shared.rounds))
		relax();
}

void flip_end(void)
{
	STORE(shared.go, false);
	STORE(shared.resting, false);
	while (!LOAD(shared.resting))
		relax();
}

uint64_t flip_rounds(void)
{
	return LOAD(shared.rounds);
}
