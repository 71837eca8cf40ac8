# The bare-metal guest and what it tests: `make guest`. G=... names cases (tests/guest/run --list).
# A guest of another CPU is made here, and runs in the emulated host of tests/rig (tests/system/06-guest.sh).
guest_elf     := $(BUILD)/guest/guest.elf
guest_rooms   := tests/guest tests/guest/$(ARCH)
guest_sources := $(wildcard $(addsuffix /*.c,$(guest_rooms))) tests/driver/vdriver.c
guest_objects := $(guest_sources:%.c=$(BUILD)/guest/%.o) $(BUILD)/guest/tests/guest/$(ARCH)/start.o
GUEST_CFLAGS  := -std=gnu17 -O2 -g -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
		 -fno-strict-aliasing -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns \
		 $(WARN) -I. -Itests/guest/$(ARCH) -MMD -MP
ifeq ($(ARCH),x86_64)
GUEST_CFLAGS  += -mno-red-zone -fcf-protection=none
guest_file    := $(guest_elf)
else
GUEST_CFLAGS  += -mgeneral-regs-only -mno-outline-atomics -mbranch-protection=none
guest_file    := $(BUILD)/guest/guest.Image
endif

$(BUILD)/guest/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(BUILD)/guest/%.o: %.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(guest_elf): $(guest_objects) tests/guest/$(ARCH)/link.ld
	$(call say,LINK)
	$(Q)$(CC) -static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-Wl,-T,tests/guest/$(ARCH)/link.ld -o $@ $(guest_objects)

$(BUILD)/guest/guest.Image: $(guest_elf)
	$(call say,COPY)
	$(Q)$(CROSS)objcopy -O binary $< $@

# A program of the host's beside the guest: the back end of vhost-user that unit tests have, too.
back_end := $(BUILD)/guest/back-end
$(back_end): $(BUILD)/tests/guest/host/back_end.o $(BUILD)/tests/driver/vhost_user_end.o \
		$(BUILD)/tests/driver/vhost_user_end_packed.o $(library)
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

guest-build: $(guest_file) $(back_end)
G ?=
ifeq ($(CROSS),)
# Half of the hostile machines run against the sanitizers' build, too.
guest: $(BUILD)/microvm $(guest_file) $(back_end) guest-sanitized
	@tests/guest/run --program $(BUILD)/microvm --sanitized $(BUILD)/asan/microvm --guest $(guest_file) $(G)
guest-sanitized:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN=address,undefined all
else
guest: $(BUILD)/microvm $(guest_file)
	@$(inside) tests/system/run tests/system/06-guest.sh
endif

# What threads call against the rows of their roles; needs strace.
sandbox-test: $(BUILD)/microvm $(guest_file) $(back_end)
	@tests/sandbox/run --program $(BUILD)/microvm --guest $(guest_file)

.PHONY: guest guest-build guest-sanitized sandbox-test
