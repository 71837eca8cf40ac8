# make bench: the figures of start-up and size, all sides in one run, into tests/bench/RESULTS.md.
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

bench-build: $(BUILD)/microvm $(addprefix $(bench_dir)/,start floor tiny.elf tiny.bin)

bench: bench-build
	@tests/bench/run --build $(BUILD) --results tests/bench/RESULTS.md
.PHONY: bench bench-build
