/* Named groups of limits, from options. */
#include <criterion/criterion.h>

#include "vmm/rate_group.h"

static struct options *parse(int n, const char *const *values)
{
	static const struct option_group *const groups[] = { &rate_group_options, NULL };
	char *argv[16] = { (char *)"test" };
	struct options *o;
	struct error err;
	int argc = 1;

	for (int i = 0; i < n; i++) {
		argv[argc++] = (char *)"--rate-group";
		argv[argc++] = (char *)values[i];
	}
	cr_assert_eq(options_create(&o, groups), 0);
	cr_assert_eq(options_parse_argv(o, argc, argv, &err), 0, "%s", err.text);
	return o;
}

Test(rate_group, groups_nest_and_are_found_by_name)
{
	const char *const values[] = { "name=vm,ops_size=10,ops_refill_time=1000",
		"name=disks,parent=vm,bw_size=1M,bw_refill_time=100", "name=free" };
	struct options *o = parse(3, values);
	struct rate_groups *g;
	struct error err;

	cr_assert_eq(rate_groups_create(&g, o, &err), 0, "%s", err.text);
	cr_assert_eq(rate_groups_find(g, "disks")->parent, rate_groups_find(g, "vm"));
	cr_assert(rate_active(rate_groups_find(g, "vm")));
	cr_assert_not(rate_active(rate_groups_find(g, "free")));
	cr_assert_null(rate_groups_find(g, "disk"));
	cr_assert_null(rate_groups_find(NULL, "vm"));
	rate_groups_destroy(g);
	options_destroy(o);
}

Test(rate_group, what_cannot_be_is_refused_with_a_sentence)
{
	static const struct {
		const char *values[2];
		const char *want;
	} bad[] = {
		{ { "name=a", "name=a" }, "there are two" },
		{ { "name=a,parent=b", "name=b" }, "stands before it" },
		{ { "name=a,parent=a", "name=b" }, "stands before it" },
		{ { "name=a,bw_size=5", "name=b" }, "bw_refill_time" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct options *o = parse(2, bad[i].values);
		struct rate_groups *g = NULL;
		struct error err = { "" };

		cr_assert_neq(rate_groups_create(&g, o, &err), 0);
		cr_assert(strstr(err.text, bad[i].want), "%s", err.text);
		cr_assert_null(g);
		options_destroy(o);
	}
}
