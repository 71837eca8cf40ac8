#!/bin/bash
# qcow2 disks under a Linux guest: an overlay keeps what was written, an ephemeral disk forgets it, the base stays as it was.
. "$(dirname "$0")/lib.sh"

overlay_keeps_and_base_stays() {
	dd if=/dev/urandom of="$scratch/base" bs=1M count=16 2>/dev/null
	cp "$scratch/base" "$scratch/copy"
	local disk="path=$scratch/base,overlay=$scratch/over" checks=zeroes:vda,discard:vda,mark:vda:kept,poweroff
	boot 6.12 vmlinux $checks --disk "$disk"
	ends 0
	guest_passed "$(count $checks)"
	checks=marked:vda:kept,poweroff
	boot 6.12 vmlinux $checks --disk "$disk"
	ends 0
	guest_passed "$(count $checks)"
	cmp "$scratch/base" "$scratch/copy" || fail "the base was written"
	# The overlay is an image like any other: here under a second, nameless one.
	boot 6.12 vmlinux $checks --disk "path=$scratch/over,format=qcow2,backing_files=on,ephemeral=on"
	ends 0
	guest_passed "$(count $checks)"
}

ephemeral_forgets() {
	dd if=/dev/urandom of="$scratch/base" bs=1M count=16 2>/dev/null
	cp "$scratch/base" "$scratch/copy"
	local checks=mark:vda:gone,marked:vda:gone,poweroff
	boot 6.12 vmlinux $checks --disk "path=$scratch/base,ephemeral=on"
	ends 0
	guest_passed "$(count $checks)"
	cmp "$scratch/base" "$scratch/copy" || fail "the base was written"
}

brief || t qcow2_overlay_keeps_what_was_written_and_the_base_stays overlay_keeps_and_base_stays
brief || t qcow2_ephemeral_disk_forgets ephemeral_forgets
