/*
 * The device tree of any machine of aarch64. It is refused with a sentence, or it is one that libfdt finds whole, within its
 * room, and with the command line that was given.
 */
#include <libfdt.h>

#include "firmware/fdt.h"
#include "tests/fuzz/machine.h"
#include "vmm/log.h"

enum { AT = 0x40000000, ROOM = 256 * KIB, GUARD = 64, LINE = 300 };

static const char *const kinds[] = { "serial-pl011", "rtc-pl031", "gpio-pl061", "virtio-mmio", "pvpanic", "pci-root", "other" };

static struct fdt_range take_range(struct input *in)
{
	struct fdt_range r = { .base = take_place(in) };

	r.size = take_place(in);
	return r;
}

static void take_options(struct input *in, struct fdt_options *o)
{
	uint8_t how = (uint8_t)take(in, 1);

	o->gic = how & 1 ? FDT_GIC_V3 : FDT_GIC_V2;
	o->psci_smc = how & 2;
	o->pmu = how & 4;
	o->dist = take_range(in);
	o->cpu = take_range(in);
	if (how & 8)
		o->its = take_range(in);
	if (how & 16)
		o->v2m = (struct fdt_v2m){ take_range(in), (uint32_t)take(in, 4), (uint32_t)take(in, 4) };
	if (how & 32)
		o->initramfs = take_range(in);
	if (how & 64) {
		o->topology.threads = (uint32_t)take(in, 1);
		o->topology.cores = (uint32_t)take(in, 1);
		o->topology.clusters = (uint32_t)take(in, 1);
		o->topology.sockets = (uint32_t)take(in, 1);
	}
	o->rng_seed_len = take(in, 1) % (FDT_SEED_MAX + 1);
	o->kaslr_seed = take(in, 8);
}

static void judge(const uint8_t *fdt, size_t len, size_t room, const char *line)
{
	const char *told;
	int chosen;

	MUST(len <= room && fdt_check_full(fdt, len) == 0 && fdt_totalsize(fdt) == len);
	chosen = fdt_path_offset(fdt, "/chosen");
	MUST(chosen >= 0);
	told = fdt_getprop(fdt, chosen, "bootargs", NULL);
	MUST(told ? !strcmp(told, line) : !*line);
	MUST(fdt_path_offset(fdt, "/cpus") >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static _Alignas(8) uint8_t ram[ROOM + GUARD];
	static uint64_t mpidr[FW_CPUS_MAX];
	char line[LINE + 1] = "";
	struct fw_machine m = { .nram = 1, .ram[0] = { AT, ROOM + GUARD, ram }, .cmdline = line };
	struct fdt_options o = { .mpidr = mpidr };
	size_t room = (size_t)ROOM >> take(&in, 1) % 12, len = 0;
	struct error err = { "" };

	log_level = LOG_ERROR - 1;
	memset(ram, 0x5a, sizeof(ram));
	take_options(&in, &o);
	take_machine(&in, &m, kinds, ARRAY_SIZE(kinds));
	for (unsigned i = 0; i < m.cpus_max; i++)
		mpidr[i] = (uint64_t)(i / 16) << 8 | i % 16;
	memcpy(line, in.data, MIN(in.left, (size_t)LINE));
	if (fdt_build(&m, &o, AT, room, &len, &err) == 0)
		judge(ram, len, room, line);
	else
		MUST(err.text[0]);
	for (size_t i = room; i < sizeof(ram); i++)
		MUST(ram[i] == 0x5a);
	return 0;
}
