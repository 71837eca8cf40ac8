# microvm: `make` builds build/microvm and installs nothing; `make demo` and `make check` install what they need.

HOST    := $(shell uname -m)
ARCH    ?= $(HOST)
# Also an ARCH that is in the environment for the sake of other builds ends here.
ifeq ($(wildcard arch/$(ARCH)/.),)
$(error ARCH=$(ARCH): there is no arch/$(ARCH); give $(patsubst arch/%/.,%,$(wildcard arch/*/.)))
endif
# A cross build has a place and a compiler of its own, and its test programs run under QEMU's user mode.
CROSS   := $(if $(filter-out $(HOST),$(ARCH)),$(ARCH)-linux-gnu-)
BUILD   ?= $(if $(CROSS),build/$(ARCH),build)
PREFIX  ?= /usr/local
VERSION := 0.1.0

CC      := $(CROSS)gcc
AR      := $(CROSS)ar
SHELL   := /bin/bash
OPT     ?= -O2
SAN     ?=
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	   -Wwrite-strings -Wvla -Wimplicit-fallthrough -Wno-missing-field-initializers
HARDEN  := -fstack-protector-strong -fcf-protection -ftrivial-auto-var-init=zero -fPIE \
	   -D_FORTIFY_SOURCE=2
ifeq ($(ARCH),aarch64)
HARDEN  := $(filter-out -fcf-protection,$(HARDEN)) -mbranch-protection=standard
endif
# ld 2.40 packs them for x86 only.
ifeq ($(ARCH),x86_64)
LDFLAGS += -Wl,-z,pack-relative-relocs
endif
ifneq ($(SAN),)
HARDEN  := -fPIE -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all
# It says at each fence that it does not see it: ours order the ring with the guest, of whom it knows nothing.
HARDEN  += $(if $(findstring thread,$(SAN)),-Wno-tsan)
OPT     := -O1
endif
CPPFLAGS += -D_GNU_SOURCE -I. -I$(BUILD)/include -DMICROVM_VERSION='"$(VERSION)"'
CFLAGS  += -std=gnu17 $(OPT) -g $(WARN) $(HARDEN) -fno-strict-aliasing -ffunction-sections \
	   -fdata-sections -fno-asynchronous-unwind-tables -pthread -MMD -MP
LDFLAGS += -pie -Wl,-z,relro,-z,now -Wl,--gc-sections -Wl,--as-needed -pthread
# Small libraries are linked in; libc is the shared one of the start path. Decompressors are loaded on demand
# (vmm/library.c).
LDLIBS  := -l:libjansson.a -l:liburing.a -l:libfdt.so.1

rooms   := vmm devices devices/virtio devices/pci devices/platform devices/host firmware arch arch/$(ARCH)
sources := $(wildcard $(addsuffix /*.c,$(rooms)))
objects := $(sources:%.c=$(BUILD)/%.o)
library := $(BUILD)/libmicrovm.a
headers := $(wildcard $(addsuffix /*.h,$(rooms)))

, := ,

# make V=1 shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $@)

all: $(BUILD)/microvm

$(BUILD)/microvm: $(BUILD)/vmm/main.o $(library)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(library): $(filter-out $(BUILD)/vmm/main.o,$(objects))
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# The manual page: its options come from the program's own table.
$(BUILD)/microvm.1: images/microvm.1.in $(BUILD)/microvm
	$(call say,MAN)
	$(Q)sed -e '/^@OPTIONS@$$/{r /dev/stdin' -e 'd}' -e 's/@VERSION@/$(VERSION)/' $< \
		< <($(RUN) $(BUILD)/microvm --print-man) > $@

install: $(BUILD)/microvm $(BUILD)/microvm.1
	install -D -m 755 -s --strip-program=$(CROSS)strip $(BUILD)/microvm $(DESTDIR)$(PREFIX)/bin/microvm
	install -D -m 644 $(BUILD)/microvm.1 $(DESTDIR)$(PREFIX)/share/man/man1/microvm.1

clean:
	rm -rf $(BUILD)

# --- tests -------------------------------------------------------------------------------------------------------------

# One Criterion program per tests/unit/test_*.c; `make unit T=test_queue` runs one.
# Those of test_x86_*.c, test_vm.c (its guests), test_arm64_gic.c and test_arm64_kvm.c are of one CPU's code.
T ?= $(filter-out $(if $(filter x86_64,$(ARCH)),test_arm64_gic test_arm64_kvm,test_x86_% test_vm),$(patsubst tests/unit/%.c,%,$(sort $(wildcard tests/unit/test_*.c))))
debian    := $(patsubst aarch64,arm64,$(ARCH))
hostroot  := $(or $(MICROVM_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/microvm)/hostroot/$(debian)
CRITERION := -lcriterion
export RUN := $(if $(CROSS),env QEMU_LD_PREFIX=$(hostroot) MICROVM_UNIT_PART=8 qemu-$(ARCH))
driver_objects := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/driver/*.c))
unit_programs  := $(addprefix $(BUILD)/unit/,$(T))
# What is looked at is the library; for what looks at it the compiler's first steps are enough.
$(BUILD)/tests/unit/%.o $(BUILD)/alone/%.o: OPT := -O1
# Where Criterion cannot be, a small runner takes its place (tests/unit/alone). Nor is it wanted under an emulator: it executes
# the program anew for each test, which there takes ten times as long as the test.
ALONE ?= $(if $(CROSS),1)
ifneq ($(ALONE),)
CPPFLAGS  += -Itests/unit/alone
CRITERION :=
unit_main := $(BUILD)/tests/unit/alone/runner.o
endif

$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(unit_main) $(driver_objects) $(library)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(filter-out %gc-sections,$(LDFLAGS)) -o $@ $^ $(LDLIBS) -l:libseccomp.a $(CRITERION)

unit-build: $(unit_programs)
unit: unit-build
	@tests/unit/run $(unit_programs)

# The same tests with the address and undefined-behaviour sanitizers.
# Not by Criterion: it executes the program anew for each test, and leak reports of whatever it calls look like its own.
unit-asan unit-asan-build:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN=address,undefined ALONE=1 $(subst -asan,,$@)

# Those that have threads, with ThreadSanitizer.
TSAN_T ?= $(shell cat tests/unit/alone/threads)
unit-tsan-build:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SAN=thread ALONE=1 T="$(TSAN_T)" unit-build
unit-tsan: unit-tsan-build
	@RUN=tests/unit/alone/tsan tests/unit/run $(addprefix $(BUILD)/tsan/unit/,$(TSAN_T))

# Reads of what nobody wrote, which the sanitizers do not see, and leaks: memcheck over what needs no second machine.
VALGRIND_T ?= $(filter-out $(shell awk '$$2 == "*" { print $$1 }' tests/unit/alone/not-in-valgrind),$(T))
unit-valgrind-build: $(addprefix $(BUILD)/alone/unit/,$(VALGRIND_T))
$(BUILD)/alone/unit/%: $(BUILD)/alone/tests/unit/%.o $(BUILD)/alone/tests/unit/alone/runner.o $(driver_objects) $(library)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(filter-out %gc-sections,$(LDFLAGS)) -o $@ $^ $(LDLIBS) -l:libseccomp.a
$(BUILD)/alone/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -Itests/unit/alone $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

unit-valgrind: unit-valgrind-build
	@RUN=tests/unit/alone/valgrind tests/unit/run $(addprefix $(BUILD)/alone/unit/,$(VALGRIND_T))

# libFuzzer programs, one per tests/fuzz/fuzz_*.c. `make fuzz SECONDS=60` runs each so long; `make fuzz-replay` only
# feeds them the corpus of the tree.
SECONDS_EACH = $(or $(SECONDS),30)
FUZZ     ?= $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
fuzzers  := $(addprefix $(BUILD)/fuzz/,$(FUZZ))

fuzz-build:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/clang CC=clang SAN=fuzzer-no-link,address,undefined fuzz-programs
fuzz-programs: $(fuzzers)
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(driver_objects) $(library)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) -fsanitize=fuzzer,address$(if $(filter afl-%,$(CC)),,$(,)undefined) -pthread -o $@ $^ $(LDLIBS)
fuzz: fuzz-build
	@tests/fuzz/run $(BUILD)/clang/fuzz $(SECONDS_EACH) $(FUZZ)
fuzz-replay: fuzz-build
	@tests/fuzz/run $(BUILD)/clang/fuzz 0 $(FUZZ)

# The same sources with AFL++ (package afl++), whose driver feeds them in persistent mode: `make fuzz-afl SECONDS=60`. AFL=
# names targets.
AFL ?= fuzz_queue_split fuzz_chain fuzz_blk fuzz_pci_config fuzz_qcow2 fuzz_elf
afl-build:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/afl CC=afl-clang-fast SAN=address FUZZ="$(AFL)" fuzz-programs
fuzz-afl: afl-build
	@tests/fuzz/afl $(BUILD)/afl/fuzz $(or $(SECONDS),4) $(AFL)

# So many machines one after the other in one process: descriptors, threads and memory must stay as they were.
CYCLES ?= 2000
soak:
	@$(MAKE) --no-print-directory unit-build T=test_vm
	@MICROVM_CYCLES=$(CYCLES) $(BUILD)/unit/test_vm --filter 'vm/one_machine*'

# Models of the protocols between threads, searched whole, and their mutants (package spin). SPIN=long: minutes.
spin:
	@tests/spin/run $(SPIN)

lint:
	@python3 tests/lint

check:
	@tests/check

-include $(wildcard tests/rig/rig.mk tests/guest/guest.mk tests/bench/bench.mk tests/fault/fault.mk tests/soak/soak.mk)
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.PHONY: all install clean unit unit-build unit-asan unit-asan-build unit-tsan unit-tsan-build unit-valgrind unit-valgrind-build fuzz fuzz-build fuzz-programs fuzz-replay fuzz-afl afl-build soak spin lint check
.PRECIOUS: $(BUILD)/tests/unit/%.o $(BUILD)/alone/%.o $(BUILD)/tests/fuzz/%.o $(BUILD)/%.o
.SECONDARY:
