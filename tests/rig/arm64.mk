# aarch64 from a host of another CPU. Included by the Makefile; needs ARCH=aarch64.

deps-arm64:
	@images/deps-arm64.sh

# Real guests, on a host with a GICv3 and on one with a GICv2.
system-arm64: all
	@tests/rig/run-arm64 $(BUILD)/microvm tests/rig/guests-arm64
	@tests/rig/run-arm64 -g 2 $(BUILD)/microvm tests/rig/guests-arm64

.PHONY: deps-arm64 system-arm64
