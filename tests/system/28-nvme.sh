#!/bin/bash
# NVMe namespaces by their character device. The drive is the rig's; elsewhere one may hold somebody's data.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU.
[ "$arch" != aarch64 ] || ! brief || exit 0

guest_uses_it() {
	nvme_drive
	local checks=blk:vda,many:vda,zeroes:vda,discard:vda,blk:vda,mark:vda:kept,poweroff
	boot 6.12 vmlinux $checks --disk path=/dev/ng0n1
	ends 0
	guest_passed "$(count $checks)"
	! grep -q 'failed' "$dir/stderr" || fail "$(grep failed "$dir/stderr" | head -n 1)"
	on_nvme_drive kept
	checks=marked:vda:kept,poweroff
	boot 6.12 vmlinux $checks --disk path=/dev/ng0n1,readonly=on
	ends 0
	guest_passed "$(count $checks)"
}

every_request() {
	nvme_drive
	MICROVM_NVME_DISK=/dev/ng0n1 one_unit_test test_disk_nvme 'nvme/a_namespace_of_the_hosts'
}

# Its process is killed meanwhile, often enough that some of it is in flight.
a_process_serves_it() {
	nvme_drive
	local checks=many:vda,blk:vda,zeroes:vda,discard:vda,many:vda,mark:vda:lives,poweroff kills=0
	boot 6.12 vmlinux $checks --disk path=/dev/ng0n1,isolation=process
	wait_for "$scratch/serial" 'guest: begin'
	while [ $kills -lt 8 ] && kill -0 "$pid" 2>/dev/null; do
		! pkill -KILL -x _disk0_q0 || kills=$((kills + 1))
		sleep 0.5
	done
	ends 0
	guest_passed "$(count $checks)"
	on_nvme_drive lives
	[ $kills -gt 1 ] || fail "it was killed $kills times only"
	[ "$(grep -c 'was ended by signal 9; starting another' "$dir/stderr")" = $kills ] ||
		fail "$kills kills, and not as many lives: $(tail -n 2 "$dir/stderr")"
}

t nvme_every_request_of_a_disk every_request
t nvme_a_process_that_is_killed_loses_nothing a_process_serves_it
brief || t nvme_guest_writes_reads_flushes_and_discards guest_uses_it
