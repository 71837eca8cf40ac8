/*
 * The command line: the input's lines are the arguments. What is accepted must print as JSON that
 * reads back and prints the same; what is refused must say why.
 */
#include "tests/unit/options_fixture.h"

enum { ARGS_MAX = 64 };

static void round_trip(const struct options *o)
{
	struct options *other = fixture_options();
	char *text = fixture_print(o), *text_again;
	struct error err = { "" };

	if (!other || !text || options_parse_json(other, text, strlen(text), "fuzz", &err))
		abort();
	text_again = fixture_print(other);
	if (!text_again || strcmp(text, text_again))
		abort();
	free(text);
	free(text_again);
	options_destroy(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[ARGS_MAX] = { (char *)"microvm" };
	char *copy = malloc(size + 1), *line = copy;
	struct options *o = fixture_options();
	struct error err = { "" };
	int argc = 1;

	if (!copy || !o)
		abort();
	memcpy(copy, data, size);
	copy[size] = '\0';
	while (line && argc < ARGS_MAX) {
		argv[argc++] = line;
		line = strchr(line, '\n');
		if (line)
			*line++ = '\0';
	}
	if (!options_parse_argv(o, argc, argv, &err))
		round_trip(o);
	else if (!*err.text)
		abort();
	options_destroy(o);
	free(copy);
	return 0;
}
