# Whole processes that come and go, in each way there is: `make soak-processes`. CYCLES=2000 for the long one.
soak-processes: $(BUILD)/microvm $(guest_file)
	@tests/soak/run --program $(BUILD)/microvm --guest $(guest_file) --cycles $(if $(filter file,$(origin CYCLES)),56,$(CYCLES))
.PHONY: soak-processes
