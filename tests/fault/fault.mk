# The fault matrix: `make fault`. F=... names cells ("qcow2: ENOSPC"; tests/fault/run --list).
F ?=
fault: $(BUILD)/microvm $(guest_file)
	@tests/fault/run --program $(BUILD)/microvm --guest $(guest_file) $(if $(F),"$(F)")
.PHONY: fault
