#!/bin/bash
# Disks: what the guest drops is given back to the host, data survives the machine, direct I/O works.
. "$(dirname "$0")/lib.sh"

discard_frees_the_hosts_blocks() {
	dd if=/dev/urandom of="$scratch/a" bs=1M count=32 2>/dev/null
	local before after checks=zeroes:vda,discard:vda,mark:vda:kept,poweroff
	before=$(stat -c %b "$scratch/a")
	boot 6.12 vmlinux $checks --disk "path=$scratch/a"
	ends 0
	guest_passed "$(count $checks)"
	after=$(stat -c %b "$scratch/a")
	[ "$(stat -c %s "$scratch/a")" = 33554432 ] || fail "the file's size changed"
	[ $((after * 4)) -lt "$before" ] || fail "$before blocks before, $after after"

	# The same disk in the next machine.
	checks=marked:vda:kept,poweroff
	boot 6.12 vmlinux $checks --disk "path=$scratch/a,direct=on"
	ends 0
	guest_passed "$(count $checks)"
}

brief || t disk_discard_frees_blocks_and_data_stays discard_frees_the_hosts_blocks
