/*
 * The JSON configuration: what is accepted must print, read back and print the same; what is
 * refused must say why.
 */
#include "tests/unit/options_fixture.h"

static char *parse_and_print(const char *text, size_t len, bool must)
{
	struct options *o = fixture_options();
	struct error err = { "" };
	char *out = NULL;

	if (!o)
		abort();
	if (!options_parse_json(o, text, len, "fuzz", &err)) {
		out = fixture_print(o);
		if (!out)
			abort();
	} else if (must || !*err.text) {
		abort();
	}
	options_destroy(o);
	return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = parse_and_print((const char *)data, size, false);
	char *again;

	if (!text)
		return 0;
	again = parse_and_print(text, strlen(text), true);
	if (strcmp(text, again))
		abort();
	free(text);
	free(again);
	return 0;
}
