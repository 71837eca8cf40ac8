/* The bytes of single terms, and the limits of the writer. The tables as a whole are judged by iasl
 * in test_acpi.c. */
#include <criterion/criterion.h>
#include <errno.h>

#include "firmware/aml.h"

static void expect(const struct aml *a, const void *bytes, size_t n)
{
	size_t len;

	cr_assert_eq(aml_finish(a, &len), 0);
	cr_assert_eq(len, n, "%zu bytes, not %zu", len, n);
	cr_assert_arr_eq(a->buf, bytes, n);
}
#define EXPECT(a, ...)                                                                             \
	expect(a, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

Test(aml, an_integer_takes_its_shortest_form)
{
	uint8_t buf[64];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 2);
	aml_int(&a, 0xff);
	aml_int(&a, 0x100);
	aml_int(&a, 0x10000);
	aml_int(&a, 0x100000000);
	EXPECT(&a, 0, 1, 0x0a, 2, 0x0a, 0xff, 0x0b, 0, 1, 0x0c, 0, 0, 1, 0, 0x0e, 0, 0, 0, 0, 1, 0,
		0, 0);
}

Test(aml, a_path_is_padded_and_prefixed_by_its_number_of_segments)
{
	uint8_t buf[64];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	aml_path(&a, "GED");
	aml_path(&a, "\\_SB.PCI0");
	aml_path(&a, "^^A.B.C1");
	EXPECT(&a, 'G', 'E', 'D', '_', '\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0', '^', '^',
		0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '1', '_', '_');
}

Test(aml, an_id_is_compressed_as_the_specification_shows)
{
	uint8_t buf[8];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	aml_eisaid(&a, "PNP0A03");
	EXPECT(&a, 0x0c, 0x41, 0xd0, 0x0a, 0x03);
}

/* PkgLength at the border of each of its four sizes: the content is a string of `n` bytes in all.
 */
static void check_scope(size_t content, const uint8_t *field, size_t field_len)
{
	uint8_t *buf = calloc(1, content + 16);
	char *s = calloc(1, content + 1);
	struct aml a;
	size_t len;

	memset(s, 'x', content - 2);
	aml_init(&a, buf, content + 16);
	aml_if_begin(&a);
	aml_string(&a, s);
	aml_end(&a);
	cr_assert_eq(aml_finish(&a, &len), 0);
	cr_assert_eq(len, 1 + field_len + content);
	cr_assert_eq(buf[0], 0xa0);
	cr_assert_arr_eq(buf + 1, field, field_len);
	cr_assert_eq(buf[1 + field_len], 0x0d, "the content is moved whole");
	cr_assert_eq(buf[len - 2], 'x');
	cr_assert_eq(buf[len - 1], 0);
	free(s);
	free(buf);
}

Test(aml, a_length_field_counts_itself_at_each_border)
{
	check_scope(62, (const uint8_t[]){ 63 }, 1);
	check_scope(63, (const uint8_t[]){ 0x41, 0x04 }, 2);
	check_scope(4093, (const uint8_t[]){ 0x4f, 0xff }, 2);
	check_scope(4094, (const uint8_t[]){ 0x81, 0x00, 0x01 }, 3);
	check_scope(0xfffff - 3, (const uint8_t[]){ 0x8f, 0xff, 0xff }, 3);
	check_scope(0xfffff - 2, (const uint8_t[]){ 0xc1, 0x00, 0x00, 0x01 }, 4);
}

Test(aml, a_length_that_grows_inside_moves_what_is_around_it)
{
	uint8_t buf[256];
	char s[61] = { 0 };
	struct aml a;
	size_t len;

	memset(s, 'y', 60);
	aml_init(&a, buf, sizeof(buf));
	aml_scope_begin(&a, "\\_SB");
	aml_device_begin(&a, "DEV0");
	aml_name_string(&a, "TEXT", s);
	aml_end(&a);
	aml_device_begin(&a, "DEV1");
	aml_end(&a);
	aml_end(&a);
	cr_assert_eq(aml_finish(&a, &len), 0);
	/* DEV1: 5b 82 05 name. DEV0: 5b 82, 2 bytes, name, 08 TEXT 0d 60 bytes 00. Scope: 10, 2
	 * bytes, \_SB_. */
	cr_assert_eq(len, 1 + 2 + 5 + (2 + 2 + 4 + 1 + 4 + 1 + 61) + (2 + 1 + 4));
	cr_assert_eq(buf[1], 0x40 | ((len - 1) & 0xf));
	cr_assert_eq(buf[2], (len - 1) >> 4);
	cr_assert_arr_eq(buf + len - 7,
		"\x5b\x82\x05"
		"DEV1",
		7);
}

Test(aml, a_resource_template_ends_and_tells_its_size)
{
	uint8_t buf[64];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	aml_resources_begin(&a);
	aml_res_io(&a, 0x70, 2);
	aml_res_edge_interrupt(&a, 5);
	aml_end(&a);
	EXPECT(&a, 0x11, 22, 0x0a, 19, 0x47, 1, 0x70, 0, 0x70, 0, 1, 2, 0x89, 6, 0, 3, 1, 5, 0, 0,
		0, 0x79, 0);
}

Test(aml, a_full_buffer_is_an_error_at_every_size_and_nothing_is_written_past_it)
{
	uint8_t buf[128];
	struct aml a;
	size_t len = 0, need = 0;

	for (size_t room = sizeof(buf) - 1; room != SIZE_MAX; room--) {
		int e;

		memset(buf, 0xee, sizeof(buf));
		aml_init(&a, buf, room);
		aml_scope_begin(&a, "\\_SB");
		aml_device_begin(&a, "DEV0");
		aml_name_eisaid(&a, "_HID", "PNP0C02");
		aml_name(&a, "_CRS");
		aml_resources_begin(&a);
		aml_res_memory(&a, 0x100000000, 0x1000);
		aml_end(&a);
		aml_end(&a);
		aml_end(&a);
		e = aml_finish(&a, &len);
		if (!need)
			need = len;
		cr_assert_eq(e, room >= need ? 0 : -ENOSPC, "room %zu", room);
		for (size_t i = room; i < sizeof(buf); i++)
			cr_assert_eq(buf[i], 0xee);
	}
	cr_assert_gt(need, 60);
}

Test(aml, what_cannot_be_written_is_an_error_that_stays)
{
	uint8_t buf[64];
	struct aml a;
	size_t len;

#define REFUSED(term)                                                                              \
	do {                                                                                       \
		aml_init(&a, buf, sizeof(buf));                                                    \
		term;                                                                              \
		aml_int(&a, 5);                                                                    \
		cr_assert_eq(aml_finish(&a, &len), -EINVAL, #term);                                \
	} while (0)
	REFUSED(aml_path(&a, ""));
	REFUSED(aml_path(&a, "TOOLONG"));
	REFUSED(aml_path(&a, "A."));
	REFUSED(aml_path(&a, "lower"));
	REFUSED(aml_path(&a, "1ABC"));
	REFUSED(aml_path(&a, "A.A.A.A.A.A.A.A.A"));
	REFUSED(aml_eisaid(&a, "PNP0A0"));
	REFUSED(aml_eisaid(&a, "PNP0a03"));
	REFUSED(aml_eisaid(&a, "pnp0A03"));
	REFUSED(aml_string(&a, "\xc3\xa4"));
	REFUSED(aml_end(&a));
	REFUSED(aml_method_begin(&a, "M", 8, false));
	REFUSED(aml_field_unit(&a, "F", 64));
	REFUSED(aml_field_unit(&a, "F.G", 8));
	REFUSED(aml_res_memory(&a, 5, 0));
	REFUSED(aml_res_memory(&a, UINT64_MAX, 2));
	REFUSED(aml_res_io_window(&a, UINT32_MAX, 2));
	REFUSED(aml_res_bus_window(&a, 0xffff, 2));
	REFUSED(for (unsigned i = 0; i <= AML_DEPTH_MAX; i++) aml_if_begin(&a));
}

Test(aml, a_scope_left_open_is_an_error)
{
	uint8_t buf[64];
	struct aml a;
	size_t len = 77;

	aml_init(&a, buf, sizeof(buf));
	aml_scope_begin(&a, "\\_SB");
	cr_assert_eq(aml_finish(&a, &len), -EINVAL);
	cr_assert_eq(len, 77);
}
