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

t nvme_every_request_of_a_disk every_request
brief || t nvme_guest_writes_reads_flushes_and_discards guest_uses_it
