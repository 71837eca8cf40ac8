# Dependencies, images, real guests and the demo. Included by the Makefile.

# What scripts must know when the guests are of another CPU.
inside := $(if $(CROSS),MICROVM_ARCH=$(ARCH) MICROVM=$(abspath $(BUILD))/microvm)

# Installs what the build and the tests need, and only that (Debian 12, root or sudo).
deps:
	@images/deps.sh
	@$(if $(CROSS),images/deps-$(patsubst aarch64,arm64,$(ARCH)).sh)

# What the tests and the demo boot; kept in a cache outside the tree, so only the first time takes long.
images:
	@images/initramfs.sh test 6.1
	@images/initramfs.sh test 6.12
	@images/initramfs.sh boot 6.12
	@images/rootdisk.sh

# Real Linux guests. SYSTEM_ONLY='net_*' picks by name. ARCH=aarch64 on a host of another CPU: always in the rig.
system: all $(BUILD)/guest/back-end $(if $(CROSS),unit-build guest-build) $(addprefix $(BUILD)/unit/,test_blk_zoned test_disk_nvme)
	@$(inside) tests/system/run

# These two start from nothing: what they need is made in order, also with -j.
demo demo-shell:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all
	@$(inside) $(MAKE) --no-print-directory images >/dev/null
	@$(inside) tests/demo $(if $(filter demo-shell,$@),--shell)

.PHONY: deps images system demo demo-shell
