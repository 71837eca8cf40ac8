/* The device tree as a guest decodes it (libfdt), and as the device tree compiler judges it. */
#include "firmware/fdt.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <libfdt.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/platform/gpio_pl061.h"
#include "tests/unit/arm64_images.h"

/* The rooms may not include each other; this is where they meet. */
_Static_assert((int)PL061_POWER_LINE == (int)FDT_POWER_LINE, "power key");

enum { AT = A64_RAM + 2 * MIB };

static struct fw_machine m;
static struct fdt_options o;
static struct error e;
static const void *fdt;
static size_t len;

static void init(void)
{
	m = a64_machine(16 * MIB);
	o = a64_gicv3();
	e.text[0] = 0;
}

TestSuite(fdt, .init = init, .timeout = 300);

static void build(void)
{
	cr_assert_eq(fdt_build(&m, &o, AT, 64 * KIB, &len, &e), 0, "%s", e.text);
	fdt = fw_ram_at(&m, AT, len);
	cr_assert_eq(fdt_check_full(fdt, len), 0);
	cr_assert_eq(fdt_totalsize(fdt), len);
}

static int node(const char *path)
{
	int n = fdt_path_offset(fdt, path);

	cr_assert_geq(n, 0, "%s: %s", path, fdt_strerror(n));
	return n;
}

static const char *text(const char *path, const char *name)
{
	const char *v = fdt_getprop(fdt, node(path), name, NULL);

	cr_assert_not_null(v, "%s %s", path, name);
	return v;
}

static bool has(const char *path, const char *name)
{
	return fdt_getprop(fdt, node(path), name, NULL);
}

/* The property is exactly these cells. */
static void cells(const char *path, const char *name, const uint32_t *want, size_t n)
{
	int bytes = -1;
	const fdt32_t *v = fdt_getprop(fdt, node(path), name, &bytes);

	cr_assert_eq(bytes, (int)(n * 4), "%s %s: %d bytes", path, name, bytes);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(fdt32_ld(v + i), want[i], "%s %s cell %zu: %#x", path, name, i, fdt32_ld(v + i));
}
#define CELLS(path, name, ...)                                                                                         \
	cells(path, name, (const uint32_t[]){ __VA_ARGS__ }, ARRAY_SIZE(((const uint32_t[]){ __VA_ARGS__ })))

Test(fdt, memory_cpus_and_psci_are_told)
{
	m.ram[1] = (struct fw_ram){ .gpa = 4 * GIB, .size = 3 * GIB };
	m.nram = 2;
	build();
	CELLS("/memory@40000000", "reg", 0, 0x40000000, 0, 16 * MIB, 1, 0, 0, 0xc0000000);
	cr_assert_str_eq(text("/memory@40000000", "device_type"), "memory");
	CELLS("/cpus/cpu@2", "reg", 0, 2);
	CELLS("/cpus/cpu@100000100", "reg", 1, 0x100);
	cr_assert_str_eq(text("/cpus/cpu@0", "enable-method"), "psci");
	cr_assert_str_eq(text("/psci", "method"), "hvc");
	cr_assert_geq(fdt_stringlist_search(fdt, node("/psci"), "compatible", "arm,psci-0.2"), 1);
	m.cpus = 2;
	o.psci_smc = true;
	build();
	cr_assert_lt(fdt_path_offset(fdt, "/cpus/cpu@2"), 0, "no more than there are");
	cr_assert_str_eq(text("/psci", "method"), "smc");
}

/* The CPU that a node of the map stands for. */
static void leads_to(const char *path, const char *cpu)
{
	int bytes;
	const fdt32_t *handle = fdt_getprop(fdt, node(path), "cpu", &bytes);

	cr_assert_eq(bytes, 4, "%s", path);
	cr_expect_eq(fdt_node_offset_by_phandle(fdt, fdt32_ld(handle)), node(cpu), "%s", path);
}

Test(fdt, the_topology_is_a_map_of_the_cpus)
{
	build();
	cr_expect_lt(fdt_path_offset(fdt, "/cpus/cpu-map"), 0, "nothing was said");
	o.topology = (struct fdt_topology){ .threads = 2, .cores = 1, .clusters = 1, .sockets = 2 };
	build();
	leads_to("/cpus/cpu-map/socket0/cluster0/core0/thread0", "/cpus/cpu@0");
	leads_to("/cpus/cpu-map/socket0/cluster0/core0/thread1", "/cpus/cpu@1");
	leads_to("/cpus/cpu-map/socket1/cluster0/core0/thread0", "/cpus/cpu@2");
	leads_to("/cpus/cpu-map/socket1/cluster0/core0/thread1", "/cpus/cpu@100000100");
	o.topology = (struct fdt_topology){ .threads = 1, .cores = 2, .clusters = 2, .sockets = 1 };
	build();
	leads_to("/cpus/cpu-map/socket0/cluster0/core1", "/cpus/cpu@1");
	leads_to("/cpus/cpu-map/socket0/cluster1/core0", "/cpus/cpu@2");
	cr_expect_lt(fdt_path_offset(fdt, "/cpus/cpu-map/socket0/cluster0/core0/thread0"), 0);
	m.cpus = 3; /* of four that there may be later */
	build();
	leads_to("/cpus/cpu-map/socket0/cluster1/core0", "/cpus/cpu@2");
	cr_expect_lt(fdt_path_offset(fdt, "/cpus/cpu-map/socket0/cluster1/core1"), 0);
}

Test(fdt, gicv3_with_its_serves_the_timer_and_pci)
{
	build();
	cr_assert_str_eq(text("/interrupt-controller@8000000", "compatible"), "arm,gic-v3");
	CELLS("/interrupt-controller@8000000", "reg", 0, 0x8000000, 0, 0x10000, 0, 0x80a0000, 0, 0x80000);
	cr_assert_str_eq(text("/interrupt-controller@8000000/msi-controller@8080000", "compatible"), "arm,gic-v3-its");
	CELLS("/interrupt-controller@8000000/msi-controller@8080000", "reg", 0, 0x8080000, 0, 0x20000);
	CELLS("/timer", "interrupts", 1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4);
	CELLS("/pcie@3f000000", "msi-map", 0,
		fdt_get_phandle(fdt, node("/interrupt-controller@8000000/msi-controller@8080000")), 0, 0x10000);
	CELLS("/", "interrupt-parent", fdt_get_phandle(fdt, node("/interrupt-controller@8000000")));
	cr_assert_not(has("/pcie@3f000000", "msi-parent"));
	cr_assert_lt(fdt_path_offset(fdt, "/pmu"), 0);
	o.pmu = true;
	o.its.size = 0;
	build();
	CELLS("/pmu", "interrupts", 1, 7, 4);
	cr_assert_not(has("/pcie@3f000000", "msi-map"), "no map to a controller that is not there");
	cr_assert_lt(fdt_subnode_offset(fdt, node("/interrupt-controller@8000000"), "msi-controller"), 0);
}

Test(fdt, gicv2_tells_which_cpus_a_private_interrupt_is_for)
{
	o = a64_gicv2();
	build();
	cr_assert_str_eq(text("/interrupt-controller@8000000", "compatible"), "arm,cortex-a15-gic");
	CELLS("/timer", "interrupts", 1, 13, 0xf04, 1, 14, 0xf04, 1, 11, 0xf04, 1, 10, 0xf04);
	CELLS("/pcie@3f000000", "msi-parent",
		fdt_get_phandle(fdt, node("/interrupt-controller@8000000/v2m@8020000")));
	cr_assert_not(has("/pcie@3f000000", "msi-map"));
	CELLS("/interrupt-controller@8000000/v2m@8020000", "arm,msi-base-spi", 128);
	CELLS("/interrupt-controller@8000000/v2m@8020000", "arm,msi-num-spis", 64);
}

Test(fdt, pci_windows_are_what_the_bus_and_the_cpu_see)
{
	build();
	CELLS("/pcie@3f000000", "reg", 0, 0x3f000000, 0, MIB);
	CELLS("/pcie@3f000000", "bus-range", 0, 0);
	CELLS("/pcie@3f000000", "ranges",
		0x01000000, 0, 0, 0, 0x3eff0000, 0, 0x10000,
		0x02000000, 0, 0x10000000, 0, 0x10000000, 0, 0x2eff0000,
		0x03000000, 0x80, 0, 0x80, 0, 0x80, 0);
	cr_assert(has("/pcie@3f000000", "dma-coherent"));
	m.pci.pio_size = 0;
	m.pci.mmio64_size = 0;
	build();
	CELLS("/pcie@3f000000", "ranges", 0x02000000, 0, 0x10000000, 0, 0x10000000, 0, 0x2eff0000);
	m.pci.ecam_base = 0;
	build();
	cr_assert_lt(fdt_path_offset(fdt, "/pcie@3f000000"), 0);
}

Test(fdt, each_device_has_its_registers_line_and_clock)
{
	uint32_t clock;

	build();
	clock = fdt_get_phandle(fdt, node("/apb-pclk"));
	CELLS("/serial@9000000", "reg", 0, 0x9000000, 0, 0x1000);
	CELLS("/serial@9000000", "interrupts", 0, 1, 1);
	CELLS("/serial@9000000", "clocks", clock, clock);
	cr_assert_eq(fdt_stringlist_search(fdt, node("/serial@9000000"), "clock-names", "apb_pclk"), 1);
	cr_assert_eq(fdt_stringlist_search(fdt, node("/serial@9000000"), "compatible", "arm,primecell"), 1);
	cr_assert_not(has("/rtc@9010000", "interrupts"), "it has no line");
	CELLS("/virtio_mmio@a000000", "interrupts", 0, 16, 1);
	CELLS("/virtio_mmio@a000200", "reg", 0, 0xa000200, 0, 0x200);
	cr_assert(has("/virtio_mmio@a000200", "dma-coherent"));
	CELLS("/gpio-keys/power-button", "gpios", fdt_get_phandle(fdt, node("/gpio@9030000")), FDT_POWER_LINE, 0);
	CELLS("/gpio-keys/power-button", "linux,code", 116);
	cr_assert_str_eq(text("/pvpanic@9070000", "compatible"), "qemu,pvpanic-mmio");
	cr_assert_lt(fdt_path_offset(fdt, "/ged@600"), 0, "I/O ports are not of this machine");
}

Test(fdt, chosen_has_command_line_console_initramfs_and_seeds)
{
	const uint8_t *seed;
	int n;

	o.initramfs = (struct fdt_range){ 0x140000000, 0x1234 };
	build();
	cr_assert_str_eq(text("/chosen", "bootargs"), "console=ttyAMA0 quiet");
	cr_assert_geq(fdt_path_offset(fdt, text("/chosen", "stdout-path")), 0, "it names a node");
	cr_assert_str_eq(text("/chosen", "stdout-path"), "/serial@9000000");
	CELLS("/chosen", "linux,initrd-start", 1, 0x40000000);
	CELLS("/chosen", "linux,initrd-end", 1, 0x40001234);
	CELLS("/chosen", "kaslr-seed", 0x01234567, 0x89abcdef);
	seed = fdt_getprop(fdt, node("/chosen"), "rng-seed", &n);
	cr_assert_eq(n, 32);
	cr_assert_eq(memcmp(seed, o.rng_seed, 32), 0);
	o.initramfs.size = o.rng_seed_len = o.kaslr_seed = 0;
	m.nnodes = 1;
	m.cmdline = NULL;
	build();
	cr_assert_str_eq(text("/chosen", "bootargs"), "");
	cr_assert_not(has("/chosen", "linux,initrd-start"));
	cr_assert_not(has("/chosen", "rng-seed"));
	cr_assert_not(has("/chosen", "kaslr-seed"));
	cr_assert_not(has("/chosen", "stdout-path"));
	cr_assert_lt(fdt_path_offset(fdt, "/gpio-keys"), 0);
}

Test(fdt, what_cannot_be_described_is_refused)
{
	m.cpus = 9;
	o = a64_gicv2();
	cr_assert_eq(fdt_build(&m, &o, AT, 64 * KIB, &len, &e), -EINVAL);
	cr_assert(strstr(e.text, "--cpus boot=9"), "%s", e.text);
	init();
	o.cpu.size = 0;
	cr_assert_eq(fdt_build(&m, &o, AT, 64 * KIB, &len, &e), -EINVAL);
	init();
	m.cpus = 0;
	cr_assert_eq(fdt_build(&m, &o, AT, 64 * KIB, &len, &e), -EINVAL);
	init();
	o.rng_seed_len = FDT_SEED_MAX + 1;
	cr_assert_eq(fdt_build(&m, &o, AT, 64 * KIB, &len, &e), -EINVAL);
	init();
	cr_assert_eq(fdt_build(&m, &o, AT + 4, 64 * KIB, &len, &e), -ENOMEM);
	cr_assert_eq(fdt_build(&m, &o, A64_RAM + 16 * MIB - PAGE_4K, 64 * KIB, &len, &e), -ENOMEM);
}

Test(fdt, a_tree_that_does_not_fit_is_refused_and_nothing_beyond_is_written)
{
	uint8_t *at = fw_ram_at(&m, AT, 64 * KIB);
	size_t full;

	build();
	full = len;
	for (size_t room = 0; room < full; room += 4) {
		memset(at, 0xee, 64 * KIB);
		cr_assert_eq(fdt_build(&m, &o, AT, room, &len, &e), -ENOSPC, "%zu bytes", room);
		for (size_t i = room; i < full; i++)
			cr_assert_eq(at[i], 0xee);
		cr_assert(strstr(e.text, "does not fit"), "%s", e.text);
	}
	cr_assert_eq(len, full, "the result is untouched");
}

Test(fdt, the_most_that_a_machine_may_have_fits)
{
	static uint64_t mpidr[FW_CPUS_MAX];

	m.cpus = m.cpus_max = FW_CPUS_MAX;
	for (unsigned i = 0; i < FW_CPUS_MAX; i++)
		mpidr[i] = (i / 16) << 8 | i % 16;
	o.mpidr = mpidr;
	m.nram = FW_RAM_MAX;
	for (unsigned i = 1; i < FW_RAM_MAX; i++)
		m.ram[i] = (struct fw_ram){ i * 4 * GIB, GIB, NULL };
	for (m.nnodes = 0; m.nnodes < FW_NODES_MAX; m.nnodes++)
		m.nodes[m.nnodes] = (struct fw_node){ "virtio-mmio", false, 0xa000000 + m.nnodes * 0x200, 0x200, m.nnodes };
	cr_assert_eq(fdt_build(&m, &o, AT, FDT_ROOM, &len, &e), 0, "%s", e.text);
	cr_assert_leq(len, FDT_ROOM);
}

/* The tree through dtc with all its checks; what it says is in `said`. */
static int dtc(char *said, size_t room)
{
	char dtb[] = "/tmp/test_fdt.XXXXXX", command[128];
	int fd = mkstemp(dtb), status;
	size_t n;
	FILE *p;

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, fdt, len), (ssize_t)len);
	close(fd);
	snprintf(command, sizeof(command), "dtc -I dtb -O dts -o /dev/null %s 2>&1", dtb);
	p = popen(command, "r");
	cr_assert_not_null(p);
	n = fread(said, 1, room - 1, p);
	said[n] = '\0';
	status = pclose(p);
	unlink(dtb);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(fdt, the_device_tree_compiler_has_nothing_to_say)
{
	char said[4096];

	o.pmu = true;
	o.initramfs = (struct fdt_range){ A64_RAM, MIB };
	build();
	cr_assert_eq(dtc(said, sizeof(said)), 0, "%s", said);
	cr_assert_str_eq(said, "");
	o = a64_gicv2();
	build();
	cr_assert_eq(dtc(said, sizeof(said)), 0, "%s", said);
	cr_assert_str_eq(said, "");
}
