/* How a machine ends and begins again. */
#include "tests/guest/blk.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

static void hello(void)
{
	char text[64] = "";

	arg_copy("text", text, sizeof(text));
	say("hello %s\n", text);
	check(start_info()->magic == 0x336ec578, "the start info has its magic", "0x%x", start_info()->magic);
}

/* The memory map of the start info: all of RAM and nothing that is not. */
static void memory(void)
{
	const struct hvm_memmap_entry *map = (const struct hvm_memmap_entry *)start_info()->memmap_paddr;
	uint64_t ram = 0, last = 0;
	bool sorted = true;

	for (unsigned i = 0; i < start_info()->memmap_entries; i++) {
		sorted &= map[i].addr >= last;
		last = map[i].addr + map[i].size;
		if (map[i].type == 1)
			ram += map[i].size;
	}
	check(start_info()->memmap_entries != 0, "there is a memory map", "it is empty");
	check(sorted, "the memory map is sorted and does not overlap itself", "it does not");
	check(ram <= arg_u64("ram", 0) && ram >= arg_u64("ram", 0) - (1 << 20), "the memory map has all RAM",
		"%lu bytes", (unsigned long)ram);
}

/* The last bytes of RAM and the first that are none: those read as ones and take no write. */
static void edges(void)
{
	uint64_t end = arg_u64("ram", 0);

	write64(end - 8, 0x1122334455667788);
	check_equal(read64(end - 8), 0x1122334455667788, "the last bytes of RAM hold what is written");
	write32(end, 1);
	check_equal(read32(end), 0xffffffff, "beyond RAM there is nothing");
	check_equal(read8(0xd0000000), 0xff, "the hole below 4 GiB reads as ones");
}

static void reset_once(void)
{
	say("resetting\n");
	reset();
}

static void reset_by_acpi(void)
{
	say("resetting\n");
	out8(PORT_GED_RESET, 'R');
	for (;;)
		relax();
}

/* A counter in the first sector of the disk says how often this machine has started. */
static void reboots(void)
{
	static struct blk b;
	uint64_t limit = arg_u64("times", 3);
	uint32_t *data;

	if (!blk_open(&b, 0))
		return;
	data = dma(SECTOR, 16);
	if (!check_equal(blk_request(&b, 0, BLK_IN, 0, data, SECTOR, NULL), BLK_OK, "the counter is read"))
		return;
	say("start %u\n", ++*data);
	if (!check_equal(blk_request(&b, 0, BLK_OUT, 0, data, SECTOR, NULL), BLK_OK, "the counter is written"))
		return;
	/* With requests in flight and the device running: reset has to cope. */
	if (*data < limit && arg_is("by", "triple"))
		triple_fault();
	if (*data < limit && arg_is("by", "acpi"))
		reset_by_acpi();
	if (*data < limit)
		reset();
}

static void triple(void)
{
	say("falling\n");
	triple_fault();
}

static void panic(void)
{
	check(in8(PORT_PVPANIC) & 1, "pvpanic offers the panic event", "0x%x", in8(PORT_PVPANIC));
	say("panicking\n");
	out8(PORT_PVPANIC, 1);
}

static void halt_forever(void)
{
	say("halting\n");
	halt();
}

static void spin_forever(void)
{
	say("spinning\n");
	for (;;)
		relax();
}

/* Resets as fast as it can, for ever. */
static void reset_loop(void)
{
	say("start\n");
	reset();
}

/* A disk at work until somebody ends this machine. */
static void busy_forever(void)
{
	static struct blk b;
	uint8_t *data;

	if (!blk_open(&b, 0))
		return;
	data = dma(65536, 4096);
	say("working\n");
	for (uint64_t i = 0;; i++)
		if (blk_request(&b, 0, i & 1 ? BLK_IN : BLK_OUT, 8 * (i % 16), data, 65536, NULL) != BLK_OK)
			return;
}

const struct guest_test life_tests[] = {
	{ "hello", hello },
	{ "memory", memory },
	{ "edges", edges },
	{ "reset", reset_once },
	{ "reset-acpi", reset_by_acpi },
	{ "reboots", reboots },
	{ "triple", triple },
	{ "panic", panic },
	{ "halt", halt_forever },
	{ "spin", spin_forever },
	{ "reset-loop", reset_loop },
	{ "busy", busy_forever },
	{ NULL, NULL },
};
