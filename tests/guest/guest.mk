# The bare-metal guest and what it tests: `make guest`. G=... names cases (tests/guest/run --list).
# They are x86_64 code: of another CPU `make system` starts Linux guests, and there are none of these.
ifneq ($(ARCH),x86_64)
guest guest-build:
	@echo "guest: skipped: the bare-metal guests are x86_64 code, this build is for $(ARCH)"
	@[ -z "$${TALLY:-}" ] || echo "0 0 1" >>"$$TALLY"
else
guest_elf     := $(BUILD)/guest/guest.elf
guest_sources := $(wildcard tests/guest/*.c) tests/driver/vdriver.c
guest_objects := $(guest_sources:%.c=$(BUILD)/guest/%.o) $(BUILD)/guest/tests/guest/start.o
GUEST_CFLAGS  := -std=gnu17 -O2 -g -ffreestanding -fno-pic -fno-pie -mno-red-zone -fno-stack-protector \
		 -fcf-protection=none -fno-strict-aliasing -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns \
		 $(WARN) -I. -MMD -MP

$(BUILD)/guest/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(BUILD)/guest/%.o: %.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(guest_elf): $(guest_objects) tests/guest/link.ld
	$(call say,LINK)
	$(Q)$(CC) -static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-Wl,-T,tests/guest/link.ld -o $@ $(guest_objects)

guest-build: $(guest_elf)
G ?=
# Half of the hostile machines run against the sanitizers' build, too.
guest: $(BUILD)/microvm $(guest_elf) guest-sanitized
	@tests/guest/run --program $(BUILD)/microvm --sanitized $(BUILD)/asan/microvm --guest $(guest_elf) $(G)
guest-sanitized:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN=address,undefined all
endif

# What threads call against the rows of their roles; needs strace.
sandbox-test: $(BUILD)/microvm $(guest_elf)
	@tests/sandbox/run --program $(BUILD)/microvm --guest $(guest_elf)

.PHONY: guest guest-build guest-sanitized sandbox-test
