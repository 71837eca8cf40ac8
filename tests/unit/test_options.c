/* The command line: grammar, published recipes, and a sentence for each mistake. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "tests/unit/options_fixture.h"

static struct options *parsed(const char *line)
{
	struct options *o = fixture_options();
	struct error err = { "" };

	cr_assert_not_null(o, "a table is wrong");
	cr_assert_eq(fixture_parse(o, line, &err), 0, "%s: %s", line, err.text);
	return o;
}

Test(options, nothing_given_leaves_the_defaults)
{
	struct options *o = parsed("");
	const struct options_cpus *cpus = options_get(o, "cpus", 0);
	const struct options_memory *memory = options_get(o, "memory", 0);
	const struct options_choice *seccomp = options_get(o, "seccomp", 0);

	cr_expect_eq(options_count(o, "cpus"), 0);
	cr_expect_eq(cpus->boot, 1);
	cr_expect_eq(cpus->max, 0);
	cr_expect_null(cpus->topology);
	cr_expect_eq(memory->size, 512 * MIB);
	cr_expect_eq(memory->shared, OPTIONS_AUTO);
	cr_expect(memory->thp && !memory->prefault);
	cr_expect_eq(seccomp->value, SECCOMP_TRUE);
	cr_expect_null(options_string(o, "kernel"));
	cr_expect_eq(options_count(o, "disk"), 0);
	cr_expect_null(options_get(o, "disk", 0));
	cr_expect_eq(options_switch(o, "v"), 0);
	options_destroy(o);
	options_destroy(NULL);
}

Test(options, a_name_that_is_no_flag_has_nothing)
{
	struct options *o = parsed("");

	cr_expect_eq(options_count(o, "nothing"), 0);
	cr_expect_null(options_get(o, "nothing", 0));
	cr_expect_null(options_string(o, "nothing"));
	cr_expect_null(options_string(o, "on-reset"));
	cr_expect_eq(options_switch(o, "nothing"), 0);
	options_destroy(o);
}

Test(options, the_command_of_the_readme_parses)
{
	struct options *o =
		parsed("--kernel|vmlinux|--disk|path=debian.raw|--net|user|--cpus|boot=2|"
		       "--memory|size=1G");
	const struct fixture_net *net = options_get(o, "net", 0);
	const struct fixture_disk *disk = options_get(o, "disk", 0);
	const struct options_cpus *cpus = options_get(o, "cpus", 0);
	const struct options_memory *memory = options_get(o, "memory", 0);

	cr_expect_str_eq(options_string(o, "kernel"), "vmlinux");
	cr_expect_str_eq(disk->path, "debian.raw");
	cr_expect_eq(disk->queue_size, 128);
	cr_expect_eq(net->mode, 1);
	cr_expect_eq(cpus->boot, 2);
	cr_expect_eq(memory->size, GIB);
	options_destroy(o);
}

Test(options, the_recipe_of_ubicloud_parses)
{
	struct options *o = parsed("-v|--api-socket|path=/vm/ch.sock|--kernel|/opt/fw|--disk|path=/"
				   "vm/0.raw,readonly=on|"
				   "vhost_user=true,socket=/vm/"
				   "vhost.sock,num_queues=4,queue_size=256|path=/vm/cloudinit|"
				   "--console|off|--serial|file=/vm/"
				   "serial.log|--cpus|boot=4,topology=2:2:1:1|--memory|"
				   "size=8G,hugepages=on,hugepage_size=1G|--net|mac=02:00:00:00:00:"
				   "01,tap=nc0,ip=,mask=,"
				   "num_queues=9|--device|path=/sys/bus/pci/devices/0000:01:00.0/");
	const struct fixture_disk *disk = options_get(o, "disk", 1);
	const struct fixture_net *net = options_get(o, "net", 0);
	const struct fixture_char *serial = options_get(o, "serial", 0);
	const struct fixture_misc *device = options_get(o, "device", 0);

	cr_expect_eq(options_count(o, "disk"), 3);
	cr_expect(disk->vhost_user);
	cr_expect_str_eq(disk->socket, "/vm/vhost.sock");
	cr_expect_eq(disk->queue_size, 256);
	cr_expect_null(net->ip);
	cr_expect_eq(net->num_queues, 9);
	cr_expect_eq(net->mac.bytes[5], 1);
	cr_expect_eq(serial->mode, MODE_FILE);
	cr_expect_str_eq(serial->file, "/vm/serial.log");
	cr_expect_str_eq(device->text, "/sys/bus/pci/devices/0000:01:00.0/");
	cr_expect_eq(options_switch(o, "v"), 1);
	options_destroy(o);
}

Test(options, the_recipe_of_microvm_nix_parses)
{
	struct options *o = parsed(
		"--cpus|boot=1|--watchdog|--kernel|/nix/vmlinux|--initramfs|/nix/initrd|--cmdline|"
		"earlyprintk=ttyS0 console=ttyS0,115200 reboot=t \"x\" --|--seccomp|true|--memory|"
		"mergeable=on,shared=on,size=512M|--platform|oem_strings=[io.systemd.credential:a="
		"b,c]|"
		"--console|null|--serial|tty|--vsock|cid=3,socket=notify.vsock|--balloon|"
		"size=0M,free_page_reporting=on|--disk|path=/"
		"a,readonly=on|--fs|tag=ro-store,socket=s|"
		"--api-socket|ctl.sock|--net|tap=vm-a,mac=02:00:00:00:00:02|"
		"fd=[3],mac=02:00:00:00:00:03");
	const struct fixture_misc *platform = options_get(o, "platform", 0);
	const struct fixture_misc *api = options_get(o, "api-socket", 0);
	const struct fixture_misc *watchdog = options_get(o, "watchdog", 0);
	const struct fixture_net *net = options_get(o, "net", 1);
	const struct options_memory *memory = options_get(o, "memory", 0);

	cr_expect_str_eq(options_string(o, "cmdline"),
		"earlyprintk=ttyS0 console=ttyS0,115200 reboot=t \"x\" --");
	cr_expect_str_eq(platform->text, "[io.systemd.credential:a=b,c]");
	cr_expect_str_eq(api->text, "ctl.sock");
	cr_expect(watchdog->on);
	cr_expect_eq(net->fds.n, 1);
	cr_expect_eq(net->fds.v[0], 3);
	cr_expect_eq(memory->shared, OPTIONS_ON);
	options_destroy(o);
}

Test(options, the_recipes_of_virtink_kata_and_old_releases_parse)
{
	options_destroy(parsed("--console|pty|--serial|tty|--cpus|boot=2,topology=1:2:1:1|"
			       "--disk|id=a,path=/a|id=b,path=/b"));
	options_destroy(parsed("--api-socket|/run/clh.sock|-vvvv|--seccomp|false"));
	options_destroy(parsed("--disk|path=/a|--disk|path=/b|--disk=path=/c|path=/d"));
}

Test(options, a_many_flag_keeps_order_over_words_and_repeats)
{
	struct options *o = parsed("--disk|path=1|path=2|--cpus|3|--disk=path=3|path=4");

	cr_assert_eq(options_count(o, "disk"), 4);
	for (unsigned i = 0; i < 4; i++) {
		const struct fixture_disk *disk = options_get(o, "disk", i);

		cr_expect_eq(atoi(disk->path), (int)i + 1);
	}
	cr_expect_null(options_get(o, "disk", 4));
	options_destroy(o);
}

Test(options, switches_count_in_every_spelling)
{
	struct options *o = parsed("-v|-vv|--v|-h|-V");

	cr_expect_eq(options_switch(o, "v"), 4);
	cr_expect_eq(options_switch(o, "help"), 1);
	cr_expect_eq(options_switch(o, "version"), 1);
	options_destroy(o);
	o = parsed("--help|--version|--check|--print-config|--show-sandbox|--print-man|-hvV");
	cr_expect_eq(options_switch(o, "help"), 2);
	cr_expect_eq(options_switch(o, "print-man"), 1);
	options_destroy(o);
}

Test(options, quotes_and_brackets_keep_commas)
{
	struct options *o = parsed("--all|text=\"a,b=[c\",list=[0,2-4],path=/x=y,text_def=a\"b\"c");
	const struct fixture_all *all = options_get(o, "all", 0);

	cr_expect_str_eq(all->text, "a,b=[c");
	cr_expect_str_eq(all->path, "/x=y");
	cr_expect_str_eq(all->text_def, "abc");
	cr_assert_eq(all->list.n, 4);
	cr_expect_eq(all->list.v[0], 0);
	cr_expect_eq(all->list.v[1], 2);
	cr_expect_eq(all->list.v[3], 4);
	options_destroy(o);
}

Test(options, an_empty_value_leaves_the_default)
{
	struct options *o = parsed("--all|flag=,number=,size_def=,text_def=,mac=,list_def=,word=|");
	const struct fixture_all *all = options_get(o, "all", 0);

	cr_assert_eq(options_count(o, "all"), 2);
	for (unsigned i = 0; i < 2; i++) {
		all = options_get(o, "all", i);
		cr_expect(!all->flag && !all->mac.set);
		cr_expect_eq(all->number, 3);
		cr_expect_eq(all->size_def, 3 * GIB);
		cr_expect_str_eq(all->text_def, "abc");
		cr_expect_eq(all->list_def.n, 3);
		cr_expect_eq(all->list_def.v[2], 4);
	}
	options_destroy(o);
}

Test(options, an_empty_list_replaces_the_default)
{
	struct options *o = parsed("--all|list_def=[]|list_def=7|list_def=9,list=[5]");

	cr_expect_eq(((const struct fixture_all *)options_get(o, "all", 0))->list_def.n, 0);
	cr_expect_eq(((const struct fixture_all *)options_get(o, "all", 1))->list_def.v[0], 7);
	options_destroy(o);
}

Test(options, bools_take_all_their_words)
{
	static const struct {
		const char *line;
		bool on;
	} cases[] = {
		{ "--disk|readonly", true },
		{ "--disk|readonly=on", true },
		{ "--disk|readonly=true", true },
		{ "--disk|readonly=On", true },
		{ "--disk|readonly=off", false },
		{ "--disk|readonly=FALSE", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct options *o = parsed(cases[i].line);
		const struct fixture_disk *disk = options_get(o, "disk", 0);

		cr_expect_eq(disk->readonly, cases[i].on, "%s", cases[i].line);
		options_destroy(o);
	}
}

Test(options, sizes_take_powers_of_1024)
{
	static const struct {
		const char *line;
		uint64_t size;
	} cases[] = {
		{ "--all|size=4096", 4096 },
		{ "--all|size=5K", 5120 },
		{ "--all|size=7m", 7 * MIB },
		{ "--all|size=2G", 2 * GIB },
		{ "--all|size=3T", 3072 * GIB },
		{ "--all|size=18446744073709551615", UINT64_MAX },
		{ "--all|size=16777215T", UINT64_C(16777215) << 40 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct options *o = parsed(cases[i].line);
		const struct fixture_all *all = options_get(o, "all", 0);

		cr_expect_eq(all->size, cases[i].size, "%s", cases[i].line);
		options_destroy(o);
	}
}

Test(options, a_key_named_like_a_choice_selects_it_unless_the_choice_is_given)
{
	static const struct {
		const char *line;
		uint32_t mode;
	} cases[] = {
		{ "--serial|tty", MODE_TTY },
		{ "--serial|mode=pty", MODE_PTY },
		{ "--serial|file=/x", MODE_FILE },
		{ "--serial|socket=/x", MODE_SOCKET },
		{ "--serial|file=/x,mode=tty", MODE_TTY },
		{ "--serial|tty,file=/x", MODE_TTY },
		{ "--serial|file,file=/x", MODE_FILE },
		{ "--serial=Off", MODE_OFF },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct options *o = parsed(cases[i].line);

		cr_expect_eq(((const struct fixture_char *)options_get(o, "serial", 0))->mode,
			cases[i].mode, "%s", cases[i].line);
		options_destroy(o);
	}
}

Test(options, a_word_alone_is_a_path_and_the_end_mark_ends)
{
	struct options *o = parsed("--kernel|-|--cmdline=-x --y=z|--watchdog=off|--disk|path=a|--");

	cr_expect_str_eq(options_string(o, "kernel"), "-");
	cr_expect_str_eq(options_string(o, "cmdline"), "-x --y=z");
	cr_expect_not(((const struct fixture_misc *)options_get(o, "watchdog", 0))->on);
	options_destroy(o);
}
