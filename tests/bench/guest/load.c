/* What the loads share: the list of cases. */
#include "tests/bench/guest/load.h"

#include "tests/guest/tests.h"

enum { LIST_MAX = 512 };

/* The number at *p, up to the next ':' or ','. */
static uint64_t number(const char **p)
{
	uint64_t v = 0;

	while (**p >= '0' && **p <= '9')
		v = v * 10 + (uint64_t)(*(*p)++ - '0');
	if (**p == ':')
		(*p)++;
	return v;
}

static void word(const char **p, char *to, size_t size)
{
	size_t n = 0;

	while (**p && **p != ':' && **p != ',') {
		if (n + 1 < size)
			to[n++] = **p;
		(*p)++;
	}
	to[n] = 0;
	if (**p == ':')
		(*p)++;
}

const char *load_list(void)
{
	static char list[LIST_MAX];

	arg_copy("cases", list, sizeof(list));
	return list;
}

bool load_next(const char **list, struct load_case *ret)
{
	if (!**list)
		return false;
	word(list, ret->op, sizeof(ret->op));
	ret->size = (uint32_t)number(list);
	ret->depth = (unsigned)number(list);
	ret->queues = (unsigned)number(list);
	ret->requests = number(list);
	if (**list == ',')
		(*list)++;
	return true;
}

static const struct guest_test loads[] = { { "blk", blk_load }, { "net", net_load }, { 0 } };
const struct guest_test *const guest_tests[] = { loads, NULL };
const struct guest_test *const cpu_tests[] = { NULL };
