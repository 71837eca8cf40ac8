#!/bin/bash
# Zoned disks: those of the host reach the guest with their zones. The host's is made by its kernel, in the rig only.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU.
[ "$arch" != aarch64 ] || ! brief || exit 0

guest_sees_zones() {
	zoned_disk
	local checks=zoned:vda:256,poweroff
	programs=blkzone boot 6.12 vmlinux $checks --disk path=/dev/nullb0
	ends 0
	guest_passed "$(count $checks)"
	! grep -q 'failed' "$dir/stderr" || fail "a driver's mistake was called a failure of the host"
}

every_request() {
	zoned_disk
	MICROVM_ZONED_DISK=/dev/nullb0 one_unit_test test_blk_zoned 'blk_zoned/a_disk_of_the_hosts'
}

brief || t zoned_guest_writes_zones_in_order guest_sees_zones
t zoned_every_request_of_virtio every_request
