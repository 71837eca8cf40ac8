/* The machine's own options, the list of all groups, and the texts that are made from them. */
#include <criterion/criterion.h>

#include <errno.h>

#include "tests/unit/options_fixture.h"

static char *written(void (*write)(const struct options *, FILE *))
{
	struct options *o = fixture_options();
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	cr_assert_not_null(o, "a table is wrong");
	write(o, f);
	fclose(f);
	options_destroy(o);
	return text;
}

Test(options_table, devices_come_once_between_machine_and_tools)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	unsigned serial = 0, n = 0;

	cr_assert_eq(options_table_collect(groups, OPTIONS_TABLE_MAX, fixture_types), 0);
	for (; groups[n]; n++)
		serial += groups[n] == &fixture_serial_group;
	cr_expect_eq(serial, 1);
	cr_expect_str_eq(groups[0]->flag, "kernel");
	cr_expect_str_eq(groups[n - 1]->flag, "print-man");
	cr_expect_eq(options_table_collect(groups, n + 1, fixture_types), 0);
	cr_expect_null(groups[n]);
	for (size_t max = 0; max <= n; max++)
		cr_expect_eq(options_table_collect(groups, max, fixture_types), -ENOSPC);
}

Test(options_table, a_row_without_name_ends_the_types_too)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	const struct device_type *const types[] = {
		fixture_types[0], &(const struct device_type){ .options = &fixture_net_group },
		fixture_types[2], NULL };

	cr_assert_eq(options_table_collect(groups, OPTIONS_TABLE_MAX, types), 0);
	for (unsigned n = 0; groups[n]; n++)
		cr_expect(groups[n] != &fixture_net_group && groups[n] != &fixture_serial_group);
}

Test(options_table, help_has_each_flag_key_range_and_default_in_80_columns)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	char *help = written(options_write_help), word[128];

	cr_assert_eq(options_table_collect(groups, OPTIONS_TABLE_MAX, fixture_types), 0);
	for (unsigned n = 0; groups[n]; n++) {
		const char *at;

		snprintf(word, sizeof(word), "\n  %s%s", groups[n]->flag[1] ? "--" : "-",
			groups[n]->flag);
		at = strstr(help, word);
		cr_assert_not_null(at, "%s", word);
		if (groups[n]->kind == OPTION_PLAIN || groups[n]->kind == OPTION_SWITCH)
			continue;
		for (const struct option_row *row = groups[n]->rows; row->key; row++) {
			snprintf(word, sizeof(word), "\n      %s=", row->key);
			at = strstr(at, word);
			cr_assert_not_null(at, "--%s %s", groups[n]->flag, row->key);
		}
	}
	for (const char *line = help; *line; line += strcspn(line, "\n") + 1) {
		cr_expect_leq(strcspn(line, "\n"), 79, "%.100s", line);
		cr_expect(line[0] == '\n' || line[strcspn(line, "\n") - 1] != ' ', "%.80s", line);
	}
	free(help);
}

Test(options_table, help_says_what_a_value_must_be)
{
	static const char *const parts[] = {
		"\nMachine:\n", "\nBoot:\n", "\nSandbox:\n", "\nDevices:\n",
		"  --kernel PATH               Kernel to start: vmlinux, or a bzImage\n",
		"  --help, -h                  Print this, and end\n", "  --version, -V ",
		"  --cpus NUMBER|KEY=VALUE,...\n", "  --disk KEY=VALUE,... ...    A disk\n",
		"      boot=NUMBER             CPUs that the guest starts with (1 to 1024 vCPUs;\n"
		"                              default 1; 'boot=' may be left out)\n",
		"      size=SIZE               How much (1M to 8T; default 512M; 'size='",
		"      size_def=SIZE           A size (in bytes; default 3G)\n",
		"      thp=on|off ", "      shared=auto|on|off ", "  --watchdog[=on|off]",
		"  --kernel-decompress host|guest\n", "KASLR", "(required; at least 3)",
		"  --serial MODE|KEY=VALUE,...\n",
		"      mode=MODE               Where bytes go (one of off, null, tty, pty, file,\n",
		"      list=[N,N-M] ",
		"      mtu=NUMBER              Largest packet (68 to 65535 bytes)\n",
	};
	char *help = written(options_write_help);

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		cr_expect_not_null(strstr(help, parts[i]), "%s\n%s", parts[i], help);
	free(help);
}

Test(options_table, the_man_page_has_each_flag_and_key)
{
	const struct option_group *groups[OPTIONS_TABLE_MAX];
	char *man = written(options_write_man);
	int depth = 0;

	cr_assert_eq(options_table_collect(groups, OPTIONS_TABLE_MAX, fixture_types), 0);
	cr_expect_eq(strncmp(man, ".SH OPTIONS\n.SS \"", 17), 0);
	cr_expect_not_null(strstr(man, ".TP\n\\fB\\-\\-on\\-reset reboot|exit\\fR\n"));
	cr_expect_not_null(strstr(man, ".RS\n.TP\n\\fBboot=NUMBER\\fR\n"));
	for (const char *line = man; *line; line += strcspn(line, "\n") + 1) {
		depth += !strncmp(line, ".RS\n", 4) - !strncmp(line, ".RE\n", 4);
		cr_expect(depth == 0 || depth == 1);
		cr_expect(*line != '\'');
		cr_expect(*line != '.' || strchr("RST", line[1]), "%.20s", line);
	}
	cr_expect_eq(depth, 0);
	free(man);
}

Test(options_table, a_topology_makes_all_vcpus)
{
	struct options_cpus cpus = { .boot = 2, .max = 8 };
	struct options_topology t = { 9, 9, 9, 9 };
	struct error err;
	static const char *const wrong[] = { "", "2", "2:2:2", "2:2:2:1:1", "2:2:2:1 ", "a:b:c:d",
		"2:2:1:1", "0:2:2:2", "2:-2:-2:1", "::::", "2:2:2:99999", "9999:9999:9999:9999" };

	cr_expect_eq(options_cpus_topology(&t, &cpus, &err), 0);
	cr_expect(!t.threads && !t.cores && !t.dies && !t.packages);
	cpus.topology = (char *)"2:4:1:1";
	cr_expect_eq(options_cpus_topology(&t, &cpus, &err), 0);
	cr_expect(t.threads == 2 && t.cores == 4 && t.dies == 1 && t.packages == 1);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		cpus.topology = (char *)wrong[i];
		cr_expect_eq(options_cpus_topology(&t, &cpus, &err), -EINVAL, "%s", wrong[i]);
		cr_expect_eq(t.threads, 2);
	}
	cpus.topology = (char *)"2:2:1:1";
	cr_expect_eq(options_cpus_topology(&t, &cpus, &err), -EINVAL);
	cr_expect_str_eq(err.text, "--cpus topology=2:2:1:1: makes 4 vCPUs, but there are 8; change "
				   "it, boot= or max=");
	cpus = (struct options_cpus){ .boot = 4, .max = 2 };
	cr_expect_eq(options_cpus_topology(&t, &cpus, &err), -EINVAL);
	cr_expect_str_eq(err.text, "--cpus max=2: fewer than boot=4; raise it, or leave it out");
}
