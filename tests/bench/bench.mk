# make bench: the figures of start-up and size, all sides in one run, into tests/bench/RESULTS.md; then what a disk
# request costs, counted, a line of JSON per case.
bench_dir := $(BUILD)/bench

$(bench_dir)/start: tests/bench/start.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu17 -O2 $(WARN) -o $@ $< -lseccomp

$(bench_dir)/floor: tests/bench/floor.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu17 -O2 $(WARN) -o $@ $<

$(bench_dir)/tiny.elf: tests/bench/tiny.S tests/bench/tiny.ld
	@mkdir -p $(@D)
	$(CC) -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=4096 -T tests/bench/tiny.ld -o $@ $<

$(bench_dir)/tiny.bin: $(bench_dir)/tiny.elf
	objcopy -O binary -j .text $< $@

# The load of the I/O bench: a bare-metal guest for any monitor that enters PVH kernels.
load_objects := $(addprefix $(BUILD)/guest/tests/,bench/guest/load.o bench/guest/blk.o bench/guest/net.o \
	guest/lib.o guest/vio.o guest/pci.o guest/blk.o guest/smp.o \
	guest/x86_64/cpu.o guest/x86_64/start.o driver/vdriver.o)
$(bench_dir)/load.elf: $(load_objects) tests/guest/x86_64/link.ld
	@mkdir -p $(@D)
	$(CC) -static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-Wl,-T,tests/guest/x86_64/link.ld -o $@ $(load_objects)

$(bench_dir)/io_floor: tests/bench/io_floor.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu17 -O2 $(WARN) -o $@ $< -l:liburing.a

$(bench_dir)/net_flood: tests/bench/net_flood.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu17 -O2 $(WARN) -o $@ $<

# The device's code as the program has it, with the driver of the tests at the other end.
$(bench_dir)/%_bench: $(BUILD)/tests/bench/%_bench.o $(driver_objects) $(library)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(filter-out %gc-sections,$(LDFLAGS)) -o $@ $^ $(LDLIBS)

bench-build: $(BUILD)/microvm $(addprefix $(bench_dir)/,start floor tiny.elf tiny.bin load.elf io_floor net_flood queue_bench blk_bench)

$(bench_dir)/user: tests/bench/user.S
	@mkdir -p $(@D)
	$(CC) -nostdlib -static -no-pie -Wl,--build-id=none -o $@ $<

# What can be counted alike on both CPUs: in the rig of each.
bench-counts: $(BUILD)/microvm $(bench_dir)/start $(bench_dir)/user
	@$(inside) tests/rig/run tests/bench/counts --build $(BUILD) --out /out/counts.json
	@cp build/rig$(if $(CROSS),-$(ARCH))/out/counts.json $(bench_dir)/counts.json

bench: bench-build $(guest_elf)
	@tests/bench/run --build $(BUILD) --results tests/bench/RESULTS.md
	@tests/bench/instructions --build $(BUILD)
	@tests/bench/isolation --build $(BUILD)
	@$(MAKE) --no-print-directory bench-counts
ifeq ($(HOST),x86_64)
	@$(MAKE) --no-print-directory ARCH=aarch64 deps bench-counts
	@tests/bench/counts --results tests/bench/RESULTS.md x86_64=$(bench_dir)/counts.json \
		aarch64=build/aarch64/bench/counts.json
endif

# The data path, against QEMU and the plain io_uring floor, into tests/bench/IO.md and io.svg.
bench-io: bench-build
	@tests/bench/io --build $(BUILD) --results tests/bench
.PHONY: bench bench-io bench-build bench-counts
