/* The bare-metal guest's small library; lib.h says what it is for. */
#include "tests/guest/lib.h"

#include <stdarg.h>

#include "tests/guest/tests.h"

enum { DMA_SIZE = 8 << 20, LINE_MAX = 256 };

/* The guest is one program on one CPU: what it knows is here. */
static struct {
	const void *boot;
	const char *cmdline;
	unsigned failed;
	size_t dma_used, dma_kept;
} guest;

static uint8_t dma_bytes[DMA_SIZE] __attribute__((aligned(4096)));

static void put_text(const char *s)
{
	while (*s)
		cpu_put(*s++);
}

static void put_number(uint64_t v, unsigned base)
{
	char digits[24];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n--)
		cpu_put(digits[n]);
}

static void put_signed(int64_t v)
{
	if (v < 0)
		cpu_put('-');
	put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10);
}

void say_args(const char *f, va_list ap)
{
	for (; *f; f++) {
		bool wide;

		if (*f != '%') {
			cpu_put(*f);
			continue;
		}
		wide = *++f == 'l';
		f += wide;
		switch (*f) {
		case 's':
			put_text(va_arg(ap, const char *));
			break;
		case 'c':
			cpu_put((char)va_arg(ap, int));
			break;
		case 'd':
			put_signed(wide ? va_arg(ap, long) : va_arg(ap, int));
			break;
		case 'u':
			put_number(wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), 10);
			break;
		case 'x':
			put_number(wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), 16);
			break;
		default:
			cpu_put('?');
			break;
		}
	}
}

void say(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	say_args(format, ap);
	va_end(ap);
}

bool check(bool holds, const char *name, const char *reason, ...)
{
	va_list ap;

	if (holds) {
		say("ok %s\n", name);
		return true;
	}
	say("not ok %s: ", name);
	va_start(ap, reason);
	say_args(reason, ap);
	va_end(ap);
	say("\n");
	guest.failed++;
	return false;
}

bool check_equal(uint64_t found, uint64_t expected, const char *name)
{
	return check(found == expected, name, "found 0x%lx, expected 0x%lx", found, expected);
}

void skip(const char *name, const char *reason)
{
	say("skip %s: %s\n", name, reason);
}

bool same(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

bool same_bytes(const void *a, const void *b, size_t len)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < len; i++)
		if (x[i] != y[i])
			return false;
	return true;
}

void fill(void *to, uint8_t value, size_t len)
{
	memset(to, value, len);
}

static uint8_t pattern_byte(size_t i, uint32_t seed)
{
	uint32_t v = ((uint32_t)i + seed * 0x9e3779b1u) * 0x85ebca6bu;

	return (uint8_t)(v >> 24 ^ v >> 9);
}

void pattern(void *to, size_t len, uint32_t seed)
{
	uint8_t *p = to;

	for (size_t i = 0; i < len; i++)
		p[i] = pattern_byte(i, seed);
}

bool is_pattern(const void *at, size_t len, uint32_t seed)
{
	const uint8_t *p = at;

	for (size_t i = 0; i < len; i++)
		if (p[i] != pattern_byte(i, seed))
			return false;
	return true;
}

/* The word of the command line that begins with `key` and then ends or has '='; its value or "". NULL: not there. */
static const char *arg(const char *key)
{
	const char *p = guest.cmdline;

	while (*p) {
		const char *k = key;

		while (*p == ' ')
			p++;
		for (; *k && *p == *k; p++)
			k++;
		if (!*k && (*p == '=' || *p == ' ' || !*p))
			return *p == '=' ? p + 1 : p;
		while (*p && *p != ' ')
			p++;
	}
	return NULL;
}

bool arg_given(const char *key)
{
	return arg(key);
}

bool arg_copy(const char *key, char *buf, size_t size)
{
	const char *v = arg(key);
	size_t n = 0;

	if (!v)
		return false;
	while (v[n] && v[n] != ' ' && n + 1 < size) {
		buf[n] = v[n];
		n++;
	}
	buf[n] = '\0';
	return true;
}

bool arg_is(const char *key, const char *value)
{
	char buf[64];

	return arg_copy(key, buf, sizeof(buf)) && same(buf, value);
}

uint64_t arg_u64(const char *key, uint64_t otherwise)
{
	const char *v = arg(key);
	unsigned base = 10;
	uint64_t n = 0;

	if (!v || *v == ' ' || !*v)
		return otherwise;
	if (v[0] == '0' && v[1] == 'x') {
		base = 16;
		v += 2;
	}
	for (; *v && *v != ' '; v++)
		n = n * base + (uint64_t)(*v <= '9' ? *v - '0' : (*v | 0x20) - 'a' + 10);
	return n;
}

const void *boot_table(void)
{
	return guest.boot;
}

void *dma(size_t size, size_t align)
{
	size_t at = (guest.dma_used + align - 1) & ~(align - 1);

	if (at + size > DMA_SIZE) {
		check(false, "memory for devices", "%lu bytes are not enough", (unsigned long)DMA_SIZE);
		power_off();
	}
	guest.dma_used = at + size;
	fill(dma_bytes + at, 0, size);
	return dma_bytes + at;
}

void dma_reset(void)
{
	guest.dma_used = guest.dma_kept;
}

void dma_keep(void)
{
	guest.dma_kept = guest.dma_used;
}

/* start.S: from an exception, on a stack of its own; what was interrupted is lost. */
void guest_exception(uint64_t vector, uint64_t code, uint64_t at, uint64_t address)
{
	say("\nnot ok no exception: vector %lu, code 0x%lx, at 0x%lx, address 0x%lx\n", vector, code, at, address);
	say("done %u failed\n", guest.failed + 1);
	power_off();
}

static const struct guest_test *find_test(const struct guest_test *const *list, const char *name)
{
	for (; *list; list++)
		for (const struct guest_test *t = *list; t->name; t++)
			if (same(t->name, name))
				return t;
	return NULL;
}

/* start.S */
void guest_main(const void *boot)
{
	const struct guest_test *test;
	const char *cmdline = cpu_command_line(boot);
	char name[LINE_MAX] = "";

	guest.boot = boot;
	guest.cmdline = cmdline ? cmdline : "";
	arg_copy("test", name, sizeof(name));
	test = find_test(guest_tests, name);
	if (!test)
		test = find_test(cpu_tests, name);
	if (!check(test != NULL, "the test is known", "test=%s", name))
		power_off();
	test->run();
	say("done %u failed\n", guest.failed);
	power_off();
}
