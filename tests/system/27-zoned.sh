#!/bin/bash
# Zoned disks: those of the host reach the guest with their zones. The host's is made by its kernel, in the rig only.
. "$(dirname "$0")/lib.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU.
[ "$arch" != aarch64 ] || ! brief || exit 0

zoned_disk() {
	[ -n "${RIG:-}" ] || skip "loads null_blk: in the rig only"
	modprobe -d "$("$images/kernel.sh" 6.12)" null_blk nr_devices=1 gb=1 zoned=1 zone_size=4 zone_nr_conv=1 \
		memory_backed=1 zone_max_open=4 || fail "no null_blk in the host's kernel"
	wait_until "null_blk makes no disk" test -b /dev/nullb0
}

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

t zoned_guest_writes_zones_in_order guest_sees_zones
t zoned_every_request_of_virtio every_request
