#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/mem.h"

enum { LOW = 0x10000, HIGH_AT = 0x100000, PART = 0x4000 };

static uint8_t low[LOW], high[PART], next_to_high[PART];

/* RAM at [0, 64K), a hole, then two adjacent regions from 1 MiB. */
static struct guest_mem *map(void)
{
	struct guest_mem *mem;

	cr_assert_eq(mem_create(&mem, NULL), 0);
	cr_assert_eq(mem_add_borrowed(mem, HIGH_AT + PART, PART, next_to_high), 0);
	cr_assert_eq(mem_add_borrowed(mem, 0, LOW, low), 0);
	cr_assert_eq(mem_add_borrowed(mem, HIGH_AT, PART, high), 0);
	return mem;
}

Test(mem, a_range_must_be_ram_to_its_last_byte)
{
	static const struct {
		uint64_t at;
		size_t len;
		int want;
	} cases[] = {
		{ 0, LOW, 0 },
		{ 0, LOW + 1, -EFAULT },
		{ LOW - 1, 2, -EFAULT },
		{ LOW, 1, -EFAULT },
		{ HIGH_AT - 1, 2, -EFAULT },
		{ HIGH_AT, 2 * PART, 0 },
		{ HIGH_AT + PART - 1, 2, 0 },
		{ HIGH_AT + PART, PART + 1, -EFAULT },
		{ UINT64_MAX, 1, -EFAULT },
		{ UINT64_MAX - 255, 512, -EFAULT },
		{ 0xffffffffffffff00, 0x200, -EFAULT },
		{ 0, SIZE_MAX, -EFAULT },
	};
	struct guest_mem *mem = map();
	struct iovec iov[4];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r = mem_iov(mem, gpa(cases[i].at), cases[i].len, iov, 4);

		cr_expect(cases[i].want < 0 ? r == cases[i].want : r > 0, "case %zu gave %d", i, r);
	}
	mem_destroy(mem);
}

Test(mem, a_range_over_two_regions_is_two_iovecs_and_one_copy)
{
	struct guest_mem *mem = map();
	struct iovec iov[2];
	uint8_t in[16], out[16];

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i + 1);
	cr_assert_eq(mem_write(mem, gpa(HIGH_AT + PART - 8), in, sizeof(in)), 0);
	cr_assert_arr_eq(high + PART - 8, in, 8);
	cr_assert_arr_eq(next_to_high, in + 8, 8);
	cr_assert_eq(mem_read(mem, gpa(HIGH_AT + PART - 8), out, sizeof(out)), 0);
	cr_assert_arr_eq(out, in, sizeof(in));
	cr_assert_eq(mem_iov(mem, gpa(HIGH_AT + PART - 8), 16, iov, 2), 2);
	cr_assert_eq(mem_iov(mem, gpa(HIGH_AT + PART - 8), 16, iov, 1), -E2BIG);
	cr_assert_null(mem_map(mem, gpa(HIGH_AT + PART - 8), 16, 8), "a ring may not span regions");
	cr_assert_not_null(mem_map(mem, gpa(HIGH_AT + 8), 16, 8));
	cr_assert_null(mem_map(mem, gpa(HIGH_AT + 4), 16, 8), "misaligned");
	mem_destroy(mem);
}

Test(mem, a_failed_write_changes_nothing)
{
	struct guest_mem *mem = map();
	uint8_t bytes[2] = { 0xaa, 0xaa };

	low[LOW - 1] = 0x55;
	cr_assert_eq(mem_write(mem, gpa(LOW - 1), bytes, 2), -EFAULT);
	cr_assert_eq(low[LOW - 1], 0x55);
	mem_destroy(mem);
}

Test(mem, overlapping_regions_are_refused)
{
	struct guest_mem *mem = map();
	uint32_t generation = mem_generation(mem);

	cr_assert_eq(mem_add_borrowed(mem, LOW - PAGE_4K, PAGE_4K, low), -EINVAL);
	cr_assert_eq(mem_generation(mem), generation);
	cr_assert_eq(mem_region_count(mem), 3);
	mem_destroy(mem);
}

Test(mem, the_dirty_log_has_each_page_written_and_no_other)
{
	struct guest_mem *mem = map();
	uint64_t bits[1];
	uint8_t two[2] = { 0 };

	cr_assert_eq(mem_write(mem, gpa(0), two, 2), 0, "before the log");
	cr_assert_eq(mem_dirty_start(mem, NULL), 0);
	cr_assert_eq(mem_write(mem, gpa(PAGE_4K * 2 - 1), two, 2), 0);
	mem_dirty_host(mem, low + 5 * PAGE_4K, 1);
	cr_assert_eq(mem_dirty_fetch(mem, 0, bits), 0);
	cr_assert_eq(bits[0], (1u << 1) | (1u << 2) | (1u << 5));
	cr_assert_eq(mem_dirty_fetch(mem, 0, bits), 0);
	cr_assert_eq(bits[0], 0, "fetch clears");
	mem_dirty_stop(mem);
	cr_assert_eq(mem_dirty_fetch(mem, 0, bits), -EINVAL);
	mem_destroy(mem);
}

struct recorder {
	struct mem_listener listener;
	uint64_t sum;
	bool refuse;
};

static int record(struct mem_listener *self, const struct mem_region *region, struct error *err)
{
	struct recorder *r = container_of(self, struct recorder, listener);

	if (r->refuse)
		return error_set(err, ENOSPC, "full");
	r->sum += region->size;
	return 0;
}

Test(mem, listeners_hear_of_regions_before_and_after)
{
	struct guest_mem *mem = map();
	struct recorder r = { .listener = { .add = record } };
	const struct mem_config config = { .shared = true };
	struct error err;

	cr_assert_eq(mem_listen(mem, &r.listener, &err), 0);
	cr_assert_eq(r.sum, LOW + 2 * PART);
	cr_assert_eq(mem_add_ram(mem, GIB, MIB, &config, &err), 0, "%s", err.text);
	cr_assert_eq(r.sum, LOW + 2 * PART + MIB);
	r.refuse = true;
	cr_assert_eq(mem_add_ram(mem, 2 * GIB, MIB, &config, &err), -ENOSPC);
	cr_assert_eq(mem_region_count(mem), 4, "what a listener refuses is not there");
	cr_assert_eq(mem_add_ram(mem, 3 * GIB, 100, &config, &err), -EINVAL);
	mem_destroy(mem);
}

static uint8_t *ram_of(struct guest_mem **mem, bool shared)
{
	const struct mem_config config = { .shared = shared };

	cr_assert_eq(mem_create(mem, NULL), 0);
	cr_assert_eq(mem_add_ram(*mem, 0, LOW, &config, NULL), 0);
	((volatile uint8_t *)mem_region(*mem, 0)->host)[0] = 1;
	((volatile uint8_t *)mem_region(*mem, 0)->host)[LOW - 1] = 1;
	return mem_region(*mem, 0)->host;
}

/* A sanitizer reports the signal in its own way and ends the process by itself. */
static bool ends_who_touches(volatile uint8_t *at, bool write)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0) {
		if (write)
			*at = 1;
		else
			(void)*at;
		_exit(0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

Test(mem, nobody_writes_behind_ram)
{
	struct guest_mem *mem;
	uint8_t *ram = ram_of(&mem, false);

	cr_assert(!ends_who_touches(ram + LOW - 1, true));
	cr_assert(ends_who_touches(ram + LOW, true));
	mem_destroy(mem);
}

Test(mem, nobody_reads_before_ram)
{
	struct guest_mem *mem;
	uint8_t *ram = ram_of(&mem, false);

	cr_assert(!ends_who_touches(ram, false));
	cr_assert(ends_who_touches(ram - 1, false));
	mem_destroy(mem);
}

Test(mem, nobody_writes_behind_shared_ram)
{
	struct guest_mem *mem;
	uint8_t *ram = ram_of(&mem, true);

	cr_assert(ends_who_touches(ram + LOW, true));
	mem_destroy(mem);
}

Test(mem, there_is_no_dirty_log_where_other_processes_write)
{
	struct guest_mem *mem;
	struct error err;

	cr_assert_eq(mem_create(&mem, &err), 0);
	mem_forked(mem);
	cr_assert_eq(mem_dirty_start(mem, &err), -EOPNOTSUPP);
	cr_assert(strstr(err.text, "isolation=thread"));
	mem_destroy(mem);
}
