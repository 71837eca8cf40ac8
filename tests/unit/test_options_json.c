/*
 * The JSON configuration: what clients send, what is refused, and that what is printed reads back
 * the same.
 */
#include <criterion/criterion.h>

#include <errno.h>

#include "tests/unit/options_fixture.h"

static struct options *parsed(const char *line, const char *json)
{
	struct options *o = fixture_options();
	struct error err = { "" };

	cr_assert_not_null(o, "a table is wrong");
	cr_assert_eq(fixture_parse(o, line, &err), 0, "%s: %s", line, err.text);
	if (json)
		cr_assert_eq(options_parse_json(o, json, strlen(json), "vm.json", &err), 0,
			"%s: %s", json, err.text);
	return o;
}

static void refused(const char *json, const char *sentence)
{
	struct options *o = fixture_options();
	struct error err = { "" };
	int ret = options_parse_json(o, json, strlen(json), "vm.json", &err);

	cr_expect_lt(ret, 0, "%s is accepted", json);
	cr_expect_str_eq(err.text, sentence, "%s:\n  %s\n  %s", json, err.text, sentence);
	options_destroy(o);
}

Test(options_json, the_configuration_that_libvirt_sends_parses)
{
	struct options *o = parsed("",
		"{\"console\":{\"mode\":\"Pty\"},\"serial\":{\"mode\":\"Socket\",\"socket\":\"/"
		"s\"},"
		"\"cpus\":{\"boot_vcpus\":2,\"max_vcpus\":4},\"memory\":{\"size\":1073741824},"
		"\"payload\":{\"kernel\":\"/"
		"vmlinux\",\"cmdline\":\"console=hvc0\",\"initramfs\":null},"
		"\"disks\":[{\"path\":\"/a\",\"readonly\":true},{\"path\":\"/b\"}],"
		"\"devices\":[{\"path\":\"/sys/bus/pci/devices/0000:01:00.0/\"}]}");
	const struct options_cpus *cpus = options_get(o, "cpus", 0);
	const struct options_memory *memory = options_get(o, "memory", 0);
	const struct fixture_char *serial = options_get(o, "serial", 0);
	const struct fixture_disk *disk = options_get(o, "disk", 0);

	cr_expect_eq(cpus->boot, 2);
	cr_expect_eq(cpus->max, 4);
	cr_expect_eq(memory->size, GIB);
	cr_expect_eq(serial->mode, MODE_SOCKET);
	cr_expect_str_eq(serial->socket, "/s");
	cr_expect_str_eq(options_string(o, "kernel"), "/vmlinux");
	cr_expect_null(options_string(o, "initramfs"));
	cr_assert_eq(options_count(o, "disk"), 2);
	cr_expect(disk->readonly);
	cr_expect_eq(options_count(o, "cpus"), 1);
	options_destroy(o);
}

Test(options_json, a_word_with_on_takes_a_bool_and_sizes_take_text)
{
	struct options *o = parsed("", "{\"memory\":{\"shared\":true,\"size\":\"2G\"}}");
	const struct options_memory *memory = options_get(o, "memory", 0);

	cr_expect_eq(memory->shared, OPTIONS_ON);
	cr_expect_eq(memory->size, 2 * GIB);
	options_destroy(o);
	o = parsed("", "{\"memory\":{\"shared\":false},\"seccomp\":false}");
	memory = options_get(o, "memory", 0);
	cr_expect_eq(memory->shared, OPTIONS_OFF);
	cr_expect_eq(((const struct options_choice *)options_get(o, "seccomp", 0))->value,
		SECCOMP_FALSE);
	options_destroy(o);
}

Test(options_json, null_and_empty_text_are_unset)
{
	struct options *o = parsed("",
		"{\"disks\":null,\"memory\":null,\"payload\":null,\"kernel_decompress\":null,"
		"\"alls\":[{\"number_json\":null,\"text_def\":\"\",\"mac\":null,\"list_def\":null}]"
		"}");
	const struct fixture_all *all = options_get(o, "all", 0);

	cr_expect_eq(options_count(o, "disk"), 0);
	cr_expect_eq(options_count(o, "memory"), 0);
	cr_expect_eq(all->number, 3);
	cr_expect_str_eq(all->text_def, "abc");
	cr_expect_eq(all->list_def.n, 3);
	options_destroy(o);
}

Test(options_json, the_command_line_wins_key_by_key_whichever_is_read_first)
{
	static const char json[] =
		"{\"memory\":{\"size\":1073741824,\"prefault\":true},\"payload\":{\"kernel\":\"j\"}"
		","
		"\"serial\":{\"file\":\"/j\"},\"disks\":[{\"path\":\"j\"}],\"on_reset\":\"exit\"}";
	static const char line[] = "--memory|size=2G|--kernel|a|--serial|tty|--disk|path=a";

	for (int first = 0; first < 2; first++) {
		struct options *o = parsed(first ? line : "", json);
		struct error err = { "" };
		const struct options_memory *memory;
		const struct fixture_char *serial;

		if (!first)
			cr_assert_eq(fixture_parse(o, line, &err), 0, "%s", err.text);
		memory = options_get(o, "memory", 0);
		serial = options_get(o, "serial", 0);
		cr_expect_eq(memory->size, 2 * GIB);
		cr_expect(memory->prefault);
		cr_expect_str_eq(options_string(o, "kernel"), "a");
		cr_expect_eq(serial->mode, MODE_TTY);
		cr_expect_str_eq(serial->file, "/j");
		cr_assert_eq(options_count(o, "disk"), 2);
		cr_expect_str_eq(
			((const struct fixture_disk *)options_get(o, "disk", 0))->path, "j");
		cr_expect_str_eq(
			((const struct fixture_disk *)options_get(o, "disk", 1))->path, "a");
		cr_expect_eq(options_count(o, "kernel"), 1);
		options_destroy(o);
	}
}

Test(options_json, a_key_named_like_a_choice_selects_it_here_too)
{
	struct options *o = parsed("", "{\"console\":{\"file\":\"/x\"}}");

	cr_expect_eq(((const struct fixture_char *)options_get(o, "console", 0))->mode, MODE_FILE);
	options_destroy(o);
}

Test(options_json, mistakes_get_a_sentence_with_their_place)
{
	refused("", "vm.json: empty; must be a JSON object");
	refused("[]", "vm.json: []: must be an object");
	refused("{\"disks\":{}}", "vm.json: disks: {}: must be an array of objects");
	refused("{\"disks\":[5]}", "vm.json: disks: [0]: 5: must be an object");
	refused("{\"cpus\":[]}", "vm.json: cpus: []: must be an object");
	refused("{\"payload\":3}", "vm.json: payload: 3: must be an object");
	refused("{\"disks\":[{\"path\":\"/x\"},{\"pth\":\"/x\"}]}",
		"vm.json: disks: [1]: unknown key 'pth'; did you mean 'path'? (keys: id, path, "
		"readonly, vhost_user, vhost_socket, num_queues, queue_size)");
	refused("{\"disk\":[]}", "vm.json: disk: unknown member; did you mean \"disks\"?");
	refused("{\"paylod\":{}}", "vm.json: paylod: unknown member; did you mean \"payload\"?");
	refused("{\"payload\":{\"kernal\":\"\"}}",
		"vm.json: payload: kernal: unknown member; did you mean \"kernel\"?");
	refused("{\"kernel\":\"x\"}", "vm.json: kernel: belongs into the object \"payload\"");
	refused("{\"config\":\"x\"}", "vm.json: config: unknown member; microvm --help lists all");
	refused("{\"help\":true}", "vm.json: help: unknown member; microvm --help lists all");
	refused("{\"cpus\":{\"boot_vcpus\":0}}",
		"vm.json: cpus: boot_vcpus: 0: must be 1 to 1024 vCPUs");
	refused("{\"cpus\":{\"boot_vcpus\":-1}}",
		"vm.json: cpus: boot_vcpus: -1: must be 1 to 1024 vCPUs");
	refused("{\"cpus\":{\"boot_vcpus\":1.0}}",
		"vm.json: cpus: boot_vcpus: 1.0: not a whole number; must be 1 to 1024 vCPUs");
	refused("{\"memory\":{\"size\":-5}}",
		"vm.json: memory: size: -5: not a size; write bytes, or text like \"512M\"");
	refused("{\"memory\":{\"size\":9223372036854775807}}",
		"vm.json: memory: size: 9223372036854775807: too large; at most 8T");
	refused("{\"memory\":{\"thp\":\"on\"}}",
		"vm.json: memory: thp: \"on\": must be true or false");
	refused("{\"on_reset\":5}", "vm.json: on_reset: 5: must be one of reboot, exit");
	refused("{\"payload\":{\"kernel\":\"\"}}",
		"vm.json: payload: kernel: \"\": empty; give a path, or leave it out");
	refused("{\"payload\":{\"cmdline\":[]}}",
		"vm.json: payload: cmdline: []: must be a string");
	refused("{\"vsock\":{\"cid\":5}}", "vm.json: vsock: member \"socket\" is missing");
	refused("{\"alls\":[{\"list\":5}]}",
		"vm.json: alls: [0]: list: 5: must be an array of numbers");
	refused("{\"alls\":[{\"list\":[5,100]}]}",
		"vm.json: alls: [0]: list: [5,100]: must be 0 to 99");
	refused("{\"alls\":[{\"mac\":\"ff:ff:ff:ff:ff:ff\"}]}",
		"vm.json: alls: [0]: mac: \"ff:ff:ff:ff:ff:ff\": a multicast address; the first "
		"byte "
		"must be even, such as 02");
}

/* The sentence after the place is the library's own. */
static void refused_as(const char *json, size_t len, const char *part)
{
	struct options *o = fixture_options();
	struct error err = { "" };

	cr_expect_lt(options_parse_json(o, json, len, "vm.json", &err), 0);
	cr_expect_not_null(strstr(err.text, part), "%s", err.text);
	options_destroy(o);
}

Test(options_json, text_that_is_no_json_is_refused_with_its_place)
{
	static const char zero[] = "{\"payload\":{\"cmdline\":\"a\\u0000b\"}}";
	char *deep = malloc(100000), *large = calloc(1, OPTIONS_JSON_MAX + 1);

	refused_as("{\n\"cpus\":", 9, "vm.json: not valid JSON in line 2, column ");
	refused_as("{} x", 4, "not valid JSON in line 1");
	refused_as("{\"cpus\":{},\"cpus\":{}}", 21, "duplicate object key");
	refused_as("{\"memory\":{\"size\":9223372036854775808}}", 39, "too big integer");
	refused_as("{\"a\":\"\xff\"}", 9, "not valid JSON");
	refused_as(zero, sizeof(zero) - 1, "\\u0000");
	memset(deep, '[', 100000);
	refused_as(deep, 100000, "maximum parsing depth reached");
	refused_as(large, OPTIONS_JSON_MAX + 1, "vm.json: too large; at most 4M of JSON");
	free(deep);
	free(large);
}

Test(options_json, an_array_of_too_many_devices_is_refused)
{
	char *json = malloc(64 + 3 * OPTION_ITEMS_MAX + 3), *p = stpcpy(json, "{\"disks\":[{}");

	for (int i = 0; i < OPTION_ITEMS_MAX; i++)
		p = stpcpy(p, ",{}");
	strcpy(p, "]}");
	refused(json, "vm.json: disks: [1024]: too many; at most 1024");
	free(json);
}

Test(options_json, what_is_printed_reads_back_the_same)
{
	static const char *const lines[] = {
		"",
		"--kernel|vmlinux|--disk|path=a|path=b,readonly,id=x,num_queues=2|--net|user|--"
		"cpus|2|"
		"--memory|1G,shared,thp=off|--serial|file=/x|--cmdline|a \"b\" \\ "
		"\t\xc3\xa9|--watchdog",
		"--all|flag,number=9,big=18446744073709551615,size=9223372036854775808,text=t,path="
		"p,"
		"word=off,mac=02:aB:cd:ef:00:01,list=[0,2-4],list_def=[]|size=4K,flag=off|",
		"--vsock|cid=3,socket=/"
		"s|--on-reset|exit|--seccomp|log|--kernel-decompress|guest|--one|on",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct options *o = parsed(lines[i], NULL), *again;
		char *text = fixture_print(o), *text_again;

		cr_assert_not_null(text);
		again = parsed("", text);
		text_again = fixture_print(again);
		cr_expect_str_eq(text, text_again);
		for (const char *const *flag = (const char *const[]){ "disk", "net", "all", "one",
			     "vsock", "balloon", "console", "kernel", NULL };
			*flag; flag++)
			cr_expect_eq(
				options_count(o, *flag), options_count(again, *flag), "%s", *flag);
		free(text);
		free(text_again);
		options_destroy(o);
		options_destroy(again);
	}
}

Test(options_json, what_is_printed_is_what_is_in_effect)
{
	struct options *o = parsed("--kernel|k|--disk|path=a|--all|big=18446744073709551615", NULL);
	char *text = fixture_print(o);
	json_t *root = json_loads(text, 0, NULL);
	json_t *cpus = json_object_get(root, "cpus"), *memory = json_object_get(root, "memory");
	json_t *disk = json_array_get(json_object_get(root, "disks"), 0);
	json_t *all = json_array_get(json_object_get(root, "alls"), 0);

	cr_expect_eq(json_integer_value(json_object_get(cpus, "boot_vcpus")), 1);
	cr_expect_null(json_object_get(cpus, "topology"));
	cr_expect_eq(json_integer_value(json_object_get(memory, "size")), 512 * MIB);
	cr_expect_str_eq(json_string_value(json_object_get(memory, "shared")), "auto");
	cr_expect_str_eq(
		json_string_value(json_object_get(json_object_get(root, "payload"), "kernel")),
		"k");
	cr_expect_str_eq(json_string_value(json_object_get(root, "on_reset")), "reboot");
	cr_expect_eq(json_integer_value(json_object_get(disk, "queue_size")), 128);
	cr_expect_null(json_object_get(disk, "readonly"));
	cr_expect_str_eq(json_string_value(json_object_get(all, "big")), "18446744073709551615");
	cr_expect_not_null(json_object_get(root, "serial"), "it is there always");
	cr_expect_null(json_object_get(root, "balloon"), "nobody asked for one");
	cr_expect_null(json_object_get(root, "vsock"));
	json_decref(root);
	free(text);
	options_destroy(o);
}

Test(options_json, one_device_parses_by_itself)
{
	json_t *object = json_pack("{s:s, s:b}", "path", "/x", "readonly", 1);
	struct option_item *item = option_item_new(&fixture_disk_group);
	const struct fixture_disk *disk = item->value;
	struct error err = { "" };

	cr_expect_eq(option_item_from_json(&fixture_disk_group, item, object, &err), 0);
	cr_expect_str_eq(disk->path, "/x");
	cr_expect(disk->readonly);
	cr_expect_eq(disk->queue_size, 128);
	option_item_free(&fixture_disk_group, item);
	json_decref(object);
}
