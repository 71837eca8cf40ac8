#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/bus.h"

struct echo {
	uint64_t offset;
	unsigned len, reads, writes;
	uint8_t data[8];
};

static void echo_read(void *ctx, uint64_t offset, void *data, unsigned len)
{
	struct echo *e = ctx;

	e->offset = offset;
	e->len = len;
	e->reads++;
	memset(data, 0x5a, len);
}

static void echo_write(void *ctx, uint64_t offset, const void *data, unsigned len)
{
	struct echo *e = ctx;

	e->offset = offset;
	e->len = len;
	e->writes++;
	memcpy(e->data, data, len);
}

static const struct bus_ops echo_ops = { echo_read, echo_write };

static struct bus *with_range(struct echo *e, uint64_t start, uint64_t len)
{
	struct bus *bus;

	cr_assert_eq(bus_create(&bus, "test", false, 0), 0);
	cr_assert_eq(bus_add(bus, &(struct bus_range){ start, len, &echo_ops, e, "echo" }), 0);
	return bus;
}

Test(bus, an_access_lies_wholly_inside_one_range)
{
	struct echo e = { 0 };
	struct bus *bus = with_range(&e, 0x1000, 0x10);
	uint64_t v = 0;

	cr_assert(bus_read(bus, 0x1008, &v, 8));
	cr_assert_eq(e.offset, 8);
	cr_assert_eq(v, 0x5a5a5a5a5a5a5a5a);
	cr_assert_not(bus_read(bus, 0x1009, &v, 8));
	cr_assert_eq(v, UINT64_MAX, "nobody answers: all ones");
	cr_assert_not(bus_read(bus, 0xfff, &v, 2));
	cr_assert_not(bus_write(bus, 0x1010, &v, 1));
	cr_assert_not(bus_write(bus, UINT64_MAX, &v, 8));
	cr_assert_eq(e.writes, 0);
	bus_destroy(bus);
}

Test(bus, ranges_do_not_overlap_and_stay_inside_the_bus)
{
	struct echo e = { 0 };
	struct bus *bus = with_range(&e, 0x1000, 0x10), *ports;
	struct bus_range r = { 0x100f, 1, &echo_ops, &e, "x" };

	cr_assert_eq(bus_add(bus, &r), -EEXIST);
	r.start = 0x1010;
	cr_assert_eq(bus_add(bus, &r), 0);
	r.len = 0;
	cr_assert_eq(bus_add(bus, &r), -EINVAL);
	r = (struct bus_range){ UINT64_MAX, 2, &echo_ops, &e, "wraps" };
	cr_assert_eq(bus_add(bus, &r), -EINVAL);
	cr_assert_eq(bus_create(&ports, "port", true, 0x10000), 0);
	r = (struct bus_range){ 0xffff, 2, &echo_ops, &e, "past the ports" };
	cr_assert_eq(bus_add(ports, &r), -EINVAL);
	cr_assert_eq(bus_remove(bus, 0x1000), 0);
	cr_assert_eq(bus_remove(bus, 0x1000), -ENOENT);
	cr_assert(bus_is_free(bus, 0x1000, 0x10));
	cr_assert_not(bus_is_free(bus, 0x1000, 0x11));
	bus_destroy(bus);
	bus_destroy(ports);
}

Test(bus, every_one_of_many_ranges_is_found)
{
	static struct echo e[200];
	struct bus *bus;
	uint32_t v = 7;

	cr_assert_eq(bus_create(&bus, "test", false, 0), 0);
	for (unsigned i = 0; i < 200; i++) {
		unsigned at = i * 37 % 200;

		cr_assert_eq(bus_add(bus, &(struct bus_range){ at * 0x100, 0x80, &echo_ops, &e[at], "e" }), 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		cr_assert(bus_write(bus, i * 0x100 + 0x7c, &v, 4));
		cr_assert_eq(e[i].writes, 1);
		cr_assert_not(bus_write(bus, i * 0x100 + 0x80, &v, 4));
	}
	bus_destroy(bus);
}

static uint64_t count_of(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

Test(bus, a_notify_rings_on_its_width_and_value_only)
{
	struct echo e = { 0 };
	struct bus *bus = with_range(&e, 0x1000, 0x100);
	int fd = eventfd(0, EFD_NONBLOCK);
	struct bus_notify n = { .addr = 0x1050, .len = 4, .match = true, .value = 3, .fd = fd };
	uint32_t three = 3, four = 4;

	cr_assert_eq(bus_notify_add(bus, &n), 0);
	bus_write(bus, 0x1050, &three, 4);
	cr_assert_eq(count_of(fd), 1);
	cr_assert_eq(e.writes, 0, "a notify does not reach the device");
	bus_write(bus, 0x1050, &four, 4);
	bus_write(bus, 0x1050, &three, 2);
	cr_assert_eq(count_of(fd), 0);
	cr_assert_eq(e.writes, 2);
	bus_notify_remove(bus, &n);
	bus_write(bus, 0x1050, &three, 4);
	cr_assert_eq(count_of(fd), 0);
	close(fd);
	bus_destroy(bus);
}

static int stopped;

static int stop_world(void *ctx, int (*fn)(void *), void *arg)
{
	(void)ctx;
	stopped++;
	return fn(arg);
}

static int move(void *arg)
{
	struct bus *bus = arg;
	struct bus_range r = { 0x2000, 0x10, &echo_ops, NULL, "moved" };

	return bus_remove(bus, 0x1000) || bus_add(bus, &r);
}

Test(bus, a_change_stops_the_world_once)
{
	struct echo e = { 0 };
	struct bus *bus = with_range(&e, 0x1000, 0x10);

	bus_set_hooks(bus, &(struct bus_hooks){ .stop_world = stop_world });
	cr_assert_eq(bus_change(bus, move, bus), 0);
	cr_assert_eq(stopped, 1);
	cr_assert(bus_is_free(bus, 0x1000, 0x10));
	cr_assert_not(bus_is_free(bus, 0x2000, 0x10));
	bus_destroy(bus);
}
