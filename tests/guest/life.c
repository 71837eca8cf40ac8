/* How a machine ends and begins again. */
#include "tests/guest/blk.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

static void hello(void)
{
	char text[64] = "";

	arg_copy("text", text, sizeof(text));
	say("hello %s\n", text);
	check(cpu_command_line(boot_table()), "the loader's table is what it should be", "it is not");
}

/* The last bytes of RAM and the first that are none: those read as ones and take no write. */
static void edges(void)
{
	uint64_t end = PLACE_RAM + arg_u64("ram", 0);

	write64(end - 8, 0x1122334455667788);
	check_equal(read64(end - 8), 0x1122334455667788, "the last bytes of RAM hold what is written");
	write32(end, 1);
	check_equal(read32(end), 0xffffffff, "beyond RAM there is nothing");
	check_equal(read8(PLACE_WINDOW), 0xff, "the empty window of PCI reads as ones");
}

static void reset_once(void)
{
	char way[16] = "";

	arg_copy("by", way, sizeof(way));
	say("resetting\n");
	reset_by(way);
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
	if (*data < limit)
		reset_once();
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
	reset_by("");
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
	{ "edges", edges },
	{ "reset", reset_once },
	{ "reboots", reboots },
	{ "halt", halt_forever },
	{ "spin", spin_forever },
	{ "reset-loop", reset_loop },
	{ "busy", busy_forever },
	{ NULL, NULL },
};
