/* Each mistake on the command line gets one sentence with option, value and remedy. */
#include <criterion/criterion.h>

#include <errno.h>

#include "tests/unit/options_fixture.h"

static void refused(const char *line, const char *sentence)
{
	struct options *o = fixture_options();
	struct error err = { "" };
	int ret = fixture_parse(o, line, &err);

	cr_expect_lt(ret, 0, "%s is accepted", line);
	cr_expect_str_eq(err.text, sentence, "%s:\n  %s\n  %s", line, err.text, sentence);
	options_destroy(o);
}

Test(options_errors, an_unknown_option_names_the_nearest)
{
	refused("--dsk|path=/x", "--dsk: unknown option; did you mean --disk?");
	refused("--mermory=1G", "--mermory: unknown option; did you mean --memory?");
	refused("--init|x", "--init: unknown option; did you mean --initramfs?");
	refused("--frobnicate", "--frobnicate: unknown option; microvm --help lists all");
	refused("-kernel|x", "-kernel: unknown option; did you mean --kernel?");
	refused("-vx", "-x: unknown option; microvm --help lists all");
	refused("--verbose", "--verbose: unknown option; microvm --help lists all");
	refused("--=x", "--: unknown option; microvm --help lists all");
}

Test(options_errors, an_unknown_key_names_the_nearest_and_all)
{
	refused("--disk|pth=/x",
		"--disk pth=/x: unknown key 'pth'; did you mean 'path'? (keys: id, path, readonly, "
		"vhost_user, socket, num_queues, queue_size)");
	refused("--disk|path=/x,zebra",
		"--disk zebra: unknown key 'zebra' (keys: id, path, readonly, vhost_user, socket, "
		"num_queues, queue_size)");
	refused("--memory|siz", "--memory siz: unknown key 'siz'; did you mean 'size'? (keys: "
				"size, shared, hugepages, "
				"hugepage_size, prefault, thp, mergeable)");
	refused("--fs|tag=a,announce_submounts",
		"--fs announce_submounts: unknown key 'announce_submounts' (keys: tag, socket)");
	refused("--disk|path=/x,=5", "--disk =5: unknown key '' (keys: id, path, readonly, "
				     "vhost_user, socket, num_queues, "
				     "queue_size)");
}

Test(options_errors, numbers_outside_their_range_say_the_range)
{
	refused("--cpus|boot=0", "--cpus boot=0: must be 1 to 1024 vCPUs");
	refused("--cpus|1025", "--cpus 1025: must be 1 to 1024 vCPUs");
	refused("--cpus|boot=99999999999999999999",
		"--cpus boot=99999999999999999999: must be 1 to "
		"1024 vCPUs");
	refused("--cpus|boot=-1", "--cpus boot=-1: not a whole number; must be 1 to 1024 vCPUs");
	refused("--cpus|boot=2x", "--cpus boot=2x: not a whole number; must be 1 to 1024 vCPUs");
	refused("--cpus|boot= 2", "--cpus boot= 2: not a whole number; must be 1 to 1024 vCPUs");
	refused("--all|big=18446744073709551616",
		"--all big=18446744073709551616: must be 0 to 18446744073709551615");
	refused("--vsock|cid=4294967296,socket=x",
		"--vsock cid=4294967296: must be 3 to 4294967295");
}

Test(options_errors, sizes_that_overflow_are_refused)
{
	refused("--memory|size=99999999T", "--memory size=99999999T: too large; at most 8T");
	refused("--memory|size=16777216T", "--memory size=16777216T: too large; at most 8T");
	refused("--memory|size=18446744073709551616K",
		"--memory size=18446744073709551616K: too large; at most 8T");
	refused("--memory|size=4K", "--memory size=4K: too small; at least 1M");
	refused("--memory|size=0", "--memory size=0: too small; at least 1M");
	refused("--memory|size=1GB",
		"--memory size=1GB: not a size; write bytes, or a number with K, M, G or T");
	refused("--memory|size=-1",
		"--memory size=-1: not a size; write bytes, or a number with K, M, G or T");
	refused("--memory|size=G",
		"--memory size=G: not a size; write bytes, or a number with K, M, G or T");
	refused("--all|size=18446744073709551616",
		"--all size=18446744073709551616: too large; at most 18446744073709551615");
}

Test(options_errors, a_missing_value_says_so)
{
	refused("--kernel", "--kernel: a value is missing; see microvm --help");
	refused("--kernel|--disk|path=x", "--kernel: a value is missing; see microvm --help");
	refused("--kernel|-v",
		"--kernel: a value is missing; write --kernel=-v if that is the value");
	refused("--disk", "--disk: a value is missing; see microvm --help");
	refused("--disk|path", "--disk path: a value is missing; write path=PATH");
	refused("--disk|path=", "--disk path=: empty; give a path, or leave it out");
	refused("--kernel=", "--kernel : empty; give a path, or leave it out");
	refused("--on-reset", "--on-reset: a value is missing; see microvm --help");
}

Test(options_errors, a_missing_required_key_says_so)
{
	refused("--vsock|cid=3", "--vsock cid=3: key 'socket' is missing; add socket=PATH");
	refused("--vsock|", "--vsock : key 'cid' is missing; add cid=NUMBER");
	refused("--fs|tag=,socket=/s", "--fs tag=,socket=/s: key 'tag' is missing; add tag=TEXT");
}

Test(options_errors, what_is_given_twice_is_refused)
{
	refused("--memory|size=1G|--memory|thp=off",
		"--memory: given twice; give it once, with all its keys in one comma list");
	refused("--kernel|a|--kernel=b", "--kernel: given twice; give it once");
	refused("--disk|path=/x,path=/y",
		"--disk path=/y: key 'path' is given twice; give it once");
	refused("--disk|readonly,readonly=off",
		"--disk readonly=off: key 'readonly' is given twice; give it once");
	refused("--disk|path=/x,id=,id=", "--disk id=: key 'id' is given twice; give it once");
	refused("--serial|tty,pty", "--serial pty: key 'mode' is given twice; give it once");
}

Test(options_errors, stray_words_are_refused)
{
	refused("vmlinux", "'vmlinux': unexpected word; options begin with --");
	refused("-", "'-': unexpected word; options begin with --");
	refused("--|vmlinux", "'vmlinux': unexpected word; options begin with --");
	refused("--kernel|a|b",
		"--kernel: takes one value, but 'b' is a second one; join keys with commas");
	refused("--disk|path=a|-v|path=b", "'path=b': unexpected word; options begin with --");
	refused("--help=1", "--help: takes no value, but '1' is given");
}

Test(options_errors, lists_must_be_well_formed)
{
	refused("--disk|path=a,", "--disk : an empty entry; remove the extra comma");
	refused("--disk|,path=a", "--disk : an empty entry; remove the extra comma");
	refused("--disk|path=\"a", "--disk: a double quote is not closed");
	refused("--all|list=[1,2", "--all: '[' without ']'; put the value in double quotes");
	refused("--all|list=1]", "--all: ']' without '['; put the value in double quotes");
	refused("--all|list=[1,]", "--all list=[1,]: not a list of numbers; write it like [0,2-4]");
	refused("--all|list=[1]2", "--all list=[1]2: not a list of numbers; write it like [0,2-4]");
	refused("--all|list=[2-]", "--all list=[2-]: not a list of numbers; write it like [0,2-4]");
	refused("--all|list=[4-2]", "--all list=[4-2]: a range must go upwards, as in 2-4");
	refused("--all|list=[5-100]", "--all list=[5-100]: must be 0 to 99");
	refused("--all|list=[99999999999999999999]",
		"--all list=[99999999999999999999]: must be 0 to 99");
	refused("--all|list_def=[0-4294967295]",
		"--all list_def=[0-4294967295]: too many numbers; at most 4096");
	refused("--all|list_def=[0-4000,0-4000]",
		"--all list_def=[0-4000,0-4000]: too many numbers; at most 4096");
}

Test(options_errors, words_must_be_among_the_choices)
{
	refused("--on-reset|halt", "--on-reset halt: must be one of reboot, exit");
	refused("--seccomp|maybe", "--seccomp maybe: must be one of true, false, log");
	refused("--disk|readonly=maybe", "--disk readonly=maybe: must be on or off");
	refused("--serial|tyt", "--serial tyt: must be one of off, null, tty, pty, file, socket");
	refused("--serial|soket=/x",
		"--serial soket=/x: unknown key 'soket'; did you mean 'socket'? (keys: mode, file, "
		"socket)");
	refused("--serial|file=/a,socket=/b", "--serial file=/a,socket=/b: file= and socket= both "
					      "choose the mode; give one of them");
}

Test(options_errors, addresses_must_be_unicast_and_complete)
{
	static const char form[] = "not a MAC address; write xx:xx:xx:xx:xx:xx";
	static const char *const wrong[] = { "02:00:00:00:00", "02:00:00:00:00:0", "2:0:0:0:0:0",
		"02-00-00-00-00-01", "02:00:00:00:00:01:", "02:00:00:00:00:0g", "x" };
	char line[64], sentence[128];

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		snprintf(line, sizeof(line), "--net|mac=%s", wrong[i]);
		snprintf(sentence, sizeof(sentence), "--net mac=%s: %s", wrong[i], form);
		refused(line, sentence);
	}
	refused("--net|mac=01:00:00:00:00:01", "--net mac=01:00:00:00:00:01: a multicast address; "
					       "the first byte must be even, such as 02");
}

Test(options_errors, text_that_json_cannot_say_is_refused)
{
	refused("--kernel|\xff",
		"--kernel \xff: not UTF-8 text, which the configuration has to be");
}

Test(options_errors, the_number_of_devices_is_bounded)
{
	char *argv[OPTION_ITEMS_MAX + 3] = { (char *)"microvm", (char *)"--disk" };
	struct options *o = fixture_options();
	struct error err = { "" };

	for (int i = 2; i < OPTION_ITEMS_MAX + 3; i++)
		argv[i] = (char *)"path=/x";
	cr_expect_eq(options_parse_argv(o, OPTION_ITEMS_MAX + 3, argv, &err), -E2BIG);
	cr_expect_str_eq(err.text, "--disk: too many; at most 1024");
	options_destroy(o);
}

Test(options_errors, a_wrong_table_is_refused_at_once)
{
	static const struct option_row outside[] = {
		{ .key = "a", .type = OPTION_U64, .offset = 4 }, OPTION_ROWS_END
	};
	static const struct option_row twice[] = { { .key = "a", .type = OPTION_BOOL },
		{ .key = "a", .type = OPTION_BOOL }, OPTION_ROWS_END };
	static const struct option_row no_choices[] = { { .key = "a", .type = OPTION_ENUM },
		OPTION_ROWS_END };
	static const struct option_row wrong_default[] = {
		{ .key = "a", .type = OPTION_U32, .min = 2, .def = "1" }, OPTION_ROWS_END
	};
	static const struct option_row fine[] = { { .key = "a", .type = OPTION_BOOL },
		{ .key = "b", .type = OPTION_BOOL }, OPTION_ROWS_END };
	static const struct option_row empty[] = { OPTION_ROWS_END };
	static const struct option_group groups[] = {
		{ .flag = "x", .kind = OPTION_ONE, .size = 8, .rows = outside },
		{ .flag = "x", .kind = OPTION_ONE, .size = 8, .rows = twice },
		{ .flag = "x", .kind = OPTION_ONE, .size = 8, .rows = no_choices },
		{ .flag = "x", .kind = OPTION_ONE, .size = 8, .rows = wrong_default },
		{ .flag = "x", .kind = OPTION_PLAIN, .size = 8, .rows = fine },
		{ .flag = "x", .kind = OPTION_ONE, .size = 8, .rows = empty },
		{ .flag = "x", .kind = OPTION_ONE, .size = 8, .rows = fine, .bare = "c" },
		{ .flag = "x", .kind = OPTION_SWITCH, .rows = fine },
		{ .flag = "x", .kind = OPTION_ONE, .size = 8 },
		{ .flag = "", .kind = OPTION_SWITCH },
	};
	static const struct option_group good = { .flag = "x", .kind = OPTION_SWITCH };
	struct options *o = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
		const struct option_group *list[] = { &groups[i], NULL };

		cr_expect_eq(options_create(&o, list), -EINVAL, "group %zu", i);
	}
	cr_expect_eq(
		options_create(&o, (const struct option_group *[]){ &good, &good, NULL }), -EINVAL);
	cr_expect_eq(options_create(&o, (const struct option_group *[]){ &good, NULL }), 0);
	options_destroy(o);
}
