/*
 * Any stream to each unpacker: no more than the cap comes out, a failure says why, and bytes of the
 * input end where it ends. A first byte picks the cap; where no magic is, one is put in.
 */
#include <errno.h>
#include <stdlib.h>

#include "firmware/decompress.h"
#include "tests/fuzz/program.h"
#include "vmm/log.h"

enum { INPUT_MAX = 64 * KIB };

static void unpack(const struct decompress_format *f, const uint8_t *in, size_t len, size_t cap)
{
	struct decompressed d = { 0 };
	struct error e = { "" };
	int r = decompress_run(&d, f, in, len, cap, &e);

	MUST(r == 0 || e.text[0]);
	if (r == 0) {
		MUST(d.len <= cap);
		/* All of it is there. */
		for (size_t i = 0; i < d.len; i += PAGE_4K)
			(void)*(volatile const uint8_t *)(d.data + i);
	}
	decompress_free(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct decompress_format *f;
	size_t cap;
	uint8_t *in;

	log_level = LOG_ERROR;
	if (len < 8 || len > INPUT_MAX)
		return 0;
	cap = (size_t)1 << (data[0] % 23);
	len--;
	/* A copy of just this length, for the sanitizer. */
	in = malloc(len);
	MUST(in);
	memcpy(in, data + 1, len);
	f = decompress_find(in, len);
	if (!f) {
		f = &decompress_formats[data[0] / 23 % 5];
		memcpy(in, f->magic, MIN(len, (size_t)f->magic_len));
	}
	unpack(f, in, len, cap);
	free(in);
	return 0;
}
