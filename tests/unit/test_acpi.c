/*
 * The tables as an OS reads them, from the RSDP on; and the judgement of iasl: each table but the
 * RSDP, which it does not read from a file, is disassembled and compiled again, without an error or
 * a warning, to the same bytes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "firmware/acpi.h"

enum { AT = 0xe0000, ROOM = 0x20000, HEADER = 36 };

struct world {
	struct fw_machine m;
	uint8_t *ram;
	uint64_t rsdp;
	struct error err;
	char dir[64];
};

static const struct fw_node all_nodes[] = {
	{ "serial-16550", true, 0x3f8, 8, 4 },
	{ "rtc-cmos", true, 0x70, 2, UINT32_MAX },
	{ "i8042", true, 0x60, 5, UINT32_MAX },
	{ "pvpanic", true, 0x505, 1, UINT32_MAX },
	{ "ged", true, 0x600, ACPI_GED_LEN, 9 },
	{ "virtio-mmio", false, 0xd0000000, 0x200, 16 },
	{ "virtio-mmio", false, 0xd0001000, 0x200, 17 },
};

static void add_nodes(struct world *w, const struct fw_node *nodes, unsigned n)
{
	memcpy(w->m.nodes + w->m.nnodes, nodes, n * sizeof(*nodes));
	w->m.nnodes += n;
}

static void start(struct world *w, unsigned cpus)
{
	memset(w, 0, sizeof(*w));
	w->ram = calloc(1, ROOM);
	w->m = (struct fw_machine){
		.cpus = cpus, .cpus_max = cpus, .nram = 1, .ram[0] = { AT, ROOM, w->ram }
	};
}

static void full_machine(struct world *w)
{
	start(w, 4);
	add_nodes(w, all_nodes, ARRAY_SIZE(all_nodes));
	w->m.pci = (struct fw_pci){ .ecam_base = 0xe0000000,
		.buses = 1,
		.mmio32_base = 0xc0000000,
		.mmio32_size = 0x10000000,
		.mmio64_base = 0x4000000000,
		.mmio64_size = 0x4000000000,
		.pio_base = 0,
		.pio_size = 0x10000 };
}

static void build(struct world *w)
{
	int e = acpi_build(&w->m, AT, ROOM, &w->rsdp, &w->err);

	cr_assert_eq(e, 0, "%s", w->err.text);
	cr_assert_eq(w->rsdp, AT);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static void finish(struct world *w)
{
	if (*w->dir)
		nftw(w->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(w->ram);
}

static uint8_t *at_gpa(const struct world *w, uint64_t gpa, uint64_t len)
{
	uint8_t *p = fw_ram_at(&w->m, gpa, len);

	cr_assert_not_null(p, "a pointer to %#lx", (unsigned long)gpa);
	return p;
}

static bool sums_to_zero(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *p++);
	return !sum;
}

/* A table by its address: aligned, whole, with our name and a right checksum. */
static uint8_t *table_at(const struct world *w, uint64_t gpa)
{
	uint8_t *t = at_gpa(w, gpa, HEADER);

	cr_assert_eq(gpa % ACPI_ALIGN, 0);
	t = at_gpa(w, gpa, get_le32(t + 4));
	cr_assert(sums_to_zero(t, get_le32(t + 4)), "checksum of %.4s", (char *)t);
	cr_assert_arr_eq(t + 10, "MICROVMICROVM ", 14);
	return t;
}

static uint8_t *xsdt_of(const struct world *w)
{
	const uint8_t *rsdp = at_gpa(w, w->rsdp, 36);

	cr_assert_arr_eq(rsdp, "RSD PTR ", 8);
	cr_assert(sums_to_zero(rsdp, 20));
	cr_assert(sums_to_zero(rsdp, 36));
	cr_assert_eq(rsdp[15], 2);
	return table_at(w, get_le64(rsdp + 24));
}

/* The table of that signature, or NULL; the DSDT by way of the FADT. */
static uint8_t *find(const struct world *w, const char *signature)
{
	const uint8_t *xsdt = xsdt_of(w);

	if (!strcmp(signature, "XSDT"))
		return xsdt_of(w);
	for (uint32_t i = HEADER; i < get_le32(xsdt + 4); i += 8) {
		uint8_t *t = table_at(w, get_le64(xsdt + i));

		if (!strcmp(signature, "DSDT") && !memcmp(t, "FACP", 4)) {
			cr_assert_eq(get_le32(t + 40), get_le64(t + 140));
			return table_at(w, get_le64(t + 140));
		}
		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static size_t read_file(const char *dir, const char *name, void *buf, size_t room)
{
	char path[128];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	cr_assert_not_null(f, "%s", path);
	n = fread(buf, 1, room, f);
	fclose(f);
	return n;
}

static void write_file(const char *dir, const char *name, const void *buf, size_t n)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "wb");
	cr_assert_not_null(f, "%s", path);
	cr_assert_eq(fwrite(buf, 1, n, f), n);
	fclose(f);
}

/* Run iasl in the world's folder; its output is the reason when it fails or complains. */
static void iasl(struct world *w, const char *args)
{
	char command[256], out[8192] = "";
	FILE *p;
	size_t n;

	snprintf(command, sizeof(command), "cd %s && iasl %s 2>&1", w->dir, args);
	p = popen(command, "r");
	n = fread(out, 1, sizeof(out) - 1, p);
	out[n] = 0;
	cr_assert_eq(pclose(p), 0, "%s: %s", command, out);
	cr_assert_null(strstr(out, "Error  "), "%s", out);
	cr_assert_null(strstr(out, "Warning  "), "%s", out);
	cr_assert_null(strstr(out, "Invalid"), "%s", out);
	cr_assert_null(strstr(out, "Could not"), "%s", out);
}

/* iasl signs what it compiles: creator id and revision, and so the checksum. */
static void mask_creator(uint8_t *t)
{
	t[9] = 0;
	memset(t + 28, 0, 8);
}

static void round_trip(struct world *w, const char *signature, const void *table, size_t len)
{
	static uint8_t was[ROOM], is[ROOM];
	char name[32], args[64];
	size_t n;

	if (!*w->dir)
		cr_assert_not_null(mkdtemp(strcpy(w->dir, "/tmp/test_acpi.XXXXXX")));
	snprintf(name, sizeof(name), "%s.dat", signature);
	write_file(w->dir, name, table, len);
	snprintf(args, sizeof(args), "-d %s.dat", signature);
	iasl(w, args);
	/* -oa: paths stay as they are written. */
	snprintf(args, sizeof(args), "-oa %s.dsl", signature);
	iasl(w, args);
	snprintf(name, sizeof(name), "%s.aml", signature);
	n = read_file(w->dir, name, is, sizeof(is));
	cr_assert_eq(n, len, "%s: %zu bytes, compiled again %zu", signature, len, n);
	memcpy(was, table, len);
	mask_creator(was);
	mask_creator(is);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(was[i], is[i], "%s: byte %zu: %02x %02x", signature, i, was[i], is[i]);
}

static void iasl_agrees(struct world *w)
{
	static const char *const signatures[] = { "XSDT", "FACP", "APIC", "MCFG", "DSDT" };

	for (size_t i = 0; i < ARRAY_SIZE(signatures); i++) {
		const uint8_t *t = find(w, signatures[i]);

		if (t)
			round_trip(w, signatures[i], t, get_le32(t + 4));
	}
}

/* The disassembled DSDT without its white space. */
static const char *dsdt_source(struct world *w)
{
	static char text[1 << 20];
	size_t n = read_file(w->dir, "DSDT.dsl", text, sizeof(text) - 1), out = 0;

	for (size_t i = 0; i < n; i++) {
		if (text[i] == '/' && text[i + 1] == '/')
			while (i < n && text[i] != '\n')
				i++;
		if (!strchr(" \t\n", text[i]))
			text[out++] = text[i];
	}
	text[out] = 0;
	return text;
}

static void has(const char *source, const char *part)
{
	cr_assert_not_null(strstr(source, part), "no %s", part);
}

static unsigned count(const char *source, const char *part)
{
	unsigned n = 0;

	while ((source = strstr(source, part))) {
		source += strlen(part);
		n++;
	}
	return n;
}

Test(acpi, iasl_compiles_the_tables_of_a_full_machine_to_the_same_bytes)
{
	struct world w;
	const char *s;

	full_machine(&w);
	build(&w);
	iasl_agrees(&w);
	s = dsdt_source(&w);
	has(s, "Name(_HID,EisaId(\"PNP0A08\")");
	has(s, "WordBusNumber(ResourceProducer,MinFixed,MaxFixed,PosDecode,0x0000,0x0000,0x0000,"
	       "0x0000,0x0001,");
	has(s, "IO(Decode16,0x0CF8,0x0CF8,0x01,0x08,)");
	has(s, "0x0000,0x0CF7,0x0000,0x0CF8,");
	has(s, "0x0D00,0xFFFF,0x0000,0xF300,");
	has(s, "0xC0000000,0xCFFFFFFF,0x00000000,0x10000000,");
	has(s, "0x0000004000000000,0x0000007FFFFFFFFF,0x0000000000000000,0x0000004000000000,");
	has(s, "Memory32Fixed(ReadWrite,0xE0000000,0x00100000,");
	has(s, "IO(Decode16,0x03F8,0x03F8,0x01,0x08,)Interrupt(ResourceConsumer,Edge,ActiveHigh,"
	       "Exclusive,,,)"
	       "{0x00000004,}");
	has(s, "Device(VR01){Name(_HID,\"LNRO0005\")Name(_UID,One)Name(_CCA,One)");
	has(s, "Memory32Fixed(ReadWrite,0xD0001000,0x00000200,)Interrupt(ResourceConsumer,Edge,"
	       "ActiveHigh,"
	       "Exclusive,,,){0x00000011,}");
	has(s, "OperationRegion(REGS,SystemIO,0x0600,0x04)Field(REGS,DWordAcc,NoLock,WriteAsZeros){"
	       "EVTS,32}");
	has(s, "Method(_EVT,1,Serialized){Local0=EVTS");
	has(s, "If((Local0&One)){Notify(\\_SB.PWRB,0x80)");
	has(s, "Name(\\_S5,Package(0x04){0x05,Zero,Zero,Zero})");
	cr_assert_eq(count(s, "\"ACPI0007\""), 4);
	cr_assert_eq(count(s, "\"QEMU0001\""), 1);
	cr_assert_eq(count(s, "\"PNP0B00\""), 1);
	finish(&w);
}

Test(acpi, iasl_compiles_the_tables_of_the_smallest_machine)
{
	const struct fw_node ged = { "ged", false, 0xfea00000, ACPI_GED_LEN, 9 };
	struct world w;
	const char *s;

	start(&w, 1);
	add_nodes(&w, &ged, 1);
	build(&w);
	cr_assert_null(find(&w, "MCFG"));
	iasl_agrees(&w);
	s = dsdt_source(&w);
	has(s, "OperationRegion(REGS,SystemMemory,0xFEA00000,0x04)");
	cr_assert_eq(count(s, "PCI0"), 0);
	finish(&w);
}

Test(acpi, iasl_compiles_the_tables_of_the_largest_machine)
{
	struct world w;

	full_machine(&w);
	w.m.cpus = w.m.cpus_max = FW_CPUS_MAX;
	w.m.pci.buses = 256;
	w.m.pci.ecam_base = 0x100000000;
	w.m.pci.pio_base = 0x1000;
	w.m.pci.pio_size = 0x1000;
	while (w.m.nnodes < FW_NODES_MAX) {
		struct fw_node n = { "virtio-mmio", false, 0x1000000000 + 0x1000 * w.m.nnodes,
			0x200, w.m.nnodes + 10 };

		add_nodes(&w, &n, 1);
	}
	build(&w);
	iasl_agrees(&w);
	has(dsdt_source(&w), "0x1000,0x1FFF,0x0000,0x1000,");
	cr_assert_eq(count(dsdt_source(&w), "WordIO"), 1);
	cr_assert_eq(find(&w, "MCFG")[36 + 8 + 11], 255);
	finish(&w);
}

Test(acpi, the_fadt_says_reduced_hardware_with_sleep_and_reset_registers)
{
	struct world w;
	const uint8_t *t;

	full_machine(&w);
	build(&w);
	t = find(&w, "FACP");
	cr_assert_eq(t[8], 6);
	cr_assert_eq(get_le32(t + 112) & (1 << 20 | 1 << 10 | 1 << 5 | 1 << 4),
		1 << 20 | 1 << 10 | 1 << 5 | 1 << 4);
	cr_assert_eq(get_le16(t + 109), 1 << 2 | 1 << 4, "no VGA, no ASPM; a CMOS clock; no 8042");
	cr_assert_eq(t[108], 0x32, "the century is in CMOS");
	cr_assert_arr_eq(t + 116, "\x01\x08\x00\x01\x06\x06\0\0\0\0\0\0", 12);
	cr_assert_eq(t[128], ACPI_GED_RESET_VALUE);
	cr_assert_arr_eq(t + 244, "\x01\x08\x00\x01\x04\x06\0\0\0\0\0\0", 12);
	cr_assert_arr_eq(t + 256, "\x01\x08\x00\x01\x05\x06\0\0\0\0\0\0", 12);
	for (unsigned i = 46; i < 96; i++)
		cr_assert_eq(t[i], 0, "no fixed hardware at %u", i);
	finish(&w);
}

Test(acpi, a_machine_without_clock_or_event_device_does_not_promise_them)
{
	struct world w;
	const uint8_t *t;

	start(&w, 1);
	build(&w);
	t = find(&w, "FACP");
	cr_assert(get_le16(t + 109) & 1 << 5);
	cr_assert_eq(t[108], 0);
	cr_assert_not(get_le32(t + 112) & 1 << 10);
	for (unsigned i = 244; i < 268; i++)
		cr_assert_eq(t[i], 0);
	iasl_agrees(&w);
	cr_assert_eq(count(dsdt_source(&w), "_S5"), 0);
	finish(&w);
}

static unsigned madt_entries(const uint8_t *t, uint8_t type, uint32_t flags, unsigned flags_at)
{
	uint32_t len = get_le32(t + 4), n = 0;

	for (uint32_t i = 44; i < len; i += t[i + 1]) {
		cr_assert_geq(t[i + 1], 2);
		cr_assert_leq(i + t[i + 1], len);
		n += t[i] == type && get_le32(t + i + flags_at) == flags;
	}
	return n;
}

Test(acpi, vcpus_past_254_are_x2apic_entries_and_later_ones_are_online_capable)
{
	struct world w;
	const uint8_t *t;

	start(&w, 200);
	w.m.cpus_max = 300;
	build(&w);
	t = find(&w, "APIC");
	cr_assert_eq(madt_entries(t, 0, 1, 4), 200);
	cr_assert_eq(madt_entries(t, 0, 2, 4), 55);
	cr_assert_eq(madt_entries(t, 9, 2, 8), 45);
	cr_assert_eq(madt_entries(t, 9, 255, 4), 0 + 1, "the first of them has id 255");
	cr_assert_eq(madt_entries(t, 1, 0xfec00000, 4), 1);
	cr_assert_eq(madt_entries(t, 2, 0, 0), 0, "no overrides");
	finish(&w);
}

/* 3 cores in each of 2 packages: the id's core field is 2 bits wide, and 3 is nobody's. */
Test(acpi, vcpus_have_the_ids_that_the_machine_gives_them)
{
	static const uint32_t ids[] = { 0, 1, 2, 4, 5, 6, 255, 4096 };
	struct world w;
	const uint8_t *t, *e;

	start(&w, ARRAY_SIZE(ids));
	w.m.cpu_ids = ids;
	build(&w);
	t = find(&w, "APIC");
	e = t + 44;
	for (unsigned i = 0; i < 6; i++, e += 8) {
		cr_assert_eq(e[0], 0, "a local APIC");
		cr_assert_eq(e[2], i, "the UID of the DSDT");
		cr_assert_eq(e[3], ids[i]);
		cr_assert_eq(get_le32(e + 4), 1);
	}
	for (unsigned i = 6; i < 8; i++, e += 16) {
		cr_assert_eq(e[0], 9, "an x2APIC");
		cr_assert_eq(get_le32(e + 4), ids[i]);
		cr_assert_eq(get_le32(e + 8), 1);
		cr_assert_eq(get_le32(e + 12), i, "the UID of the DSDT");
	}
	cr_assert_eq(madt_entries(t, 10, UINT32_MAX, 4), 1, "NMI for x2APICs too");
	finish(&w);
}

Test(acpi, every_room_too_small_is_a_sentence_and_nothing_is_written_past_it)
{
	struct world w;
	uint64_t rsdp = 5;
	unsigned fits = 0;

	full_machine(&w);
	for (uint64_t room = 0; room < 4096; room += 16) {
		int e;

		memset(w.ram, 0xee, ROOM);
		e = acpi_build(&w.m, AT, room, &rsdp, &w.err);
		cr_assert(e == 0 || (e == -ENOSPC && rsdp == 5 && strstr(w.err.text, "use fewer")),
			"%d", e);
		for (uint64_t i = room; i < ROOM; i++)
			cr_assert_eq(w.ram[i], 0xee, "room %lu", (unsigned long)room);
		if (!e) {
			fits++;
			rsdp = 5;
		}
	}
	cr_assert(fits > 0 && fits < 256);
	finish(&w);
}

Test(acpi, a_description_that_contradicts_itself_is_refused)
{
	struct world w;
	uint64_t rsdp = 5;

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		full_machine(&w);                                                                  \
		change;                                                                            \
		cr_assert_eq(acpi_build(&w.m, AT, ROOM, &rsdp, &w.err), -EINVAL, #change);         \
		cr_assert_gt(strlen(w.err.text), 20);                                              \
		cr_assert_eq(rsdp, 5);                                                             \
		finish(&w);                                                                        \
	} while (0)
	REFUSED(w.m.cpus = 0; w.m.cpus_max = 0);
	REFUSED(w.m.cpus_max = FW_CPUS_MAX + 1);
	REFUSED(w.m.nodes[0].len = 0);
	REFUSED(w.m.nodes[0].len = 256);
	REFUSED(w.m.nodes[0].base = 0xffff);
	REFUSED(w.m.nodes[4].len = 4);
	REFUSED(w.m.nodes[4].base = 0xffff);
	REFUSED(w.m.nodes[5].base = UINT64_MAX);
	REFUSED(w.m.nodes[5].len = 0);
	REFUSED(w.m.pci.buses = 0);
	REFUSED(w.m.pci.buses = 257);
	REFUSED(w.m.pci.pio_size = 0x10001);
	REFUSED(w.m.pci.mmio64_base = UINT64_MAX);
	REFUSED(w.m.ram[0].size = ROOM - 1);
	REFUSED(w.m.ram[0].gpa = AT + 64);
}

Test(acpi, building_again_gives_the_same_bytes)
{
	static uint8_t first[ROOM];
	struct world w;

	full_machine(&w);
	build(&w);
	memcpy(first, w.ram, ROOM);
	build(&w);
	cr_assert_arr_eq(first, w.ram, ROOM);
	finish(&w);
}
