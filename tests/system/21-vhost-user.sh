#!/bin/bash
# Linux on disks that another program serves over vhost-user.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU; the short list has it in another machine.
brief && exit 0

on_qemus_storage_daemon() {
	local checks="queues:vda:2,zeroes:vda,blk:vda,many:vda,mark:vda:$name,marked:vda:$name,poweroff"
	truncate -s 64M "$scratch/a"
	serve_vhost_user_by_qemu "$scratch/a"
	# Linux takes one queue for each CPU.
	boot 6.12 vmlinux "$checks" --cpus boot=2 --disk "socket=$scratch/socket,num_queues=2"
	ends 0
	guest_passed "$(count "$checks")"
	[ "$(head -n 1 "$scratch/a" | tr -d '\0')" = "$name" ] || fail "the guest's mark is not on the disk"
}

# A back end that keeps track of what is in flight, killed all the while: the guest hears nothing of it.
on_one_that_is_killed() {
	local program=$tree/build/${MICROVM_ARCH:+$MICROVM_ARCH/}guest/back-end kills=0
	local checks="blk:vda,many:vda,many:vda,mark:vda:$name,marked:vda:$name,poweroff"
	[ -x "$program" ] || skip "no back end beside the guest (make guest-build)"
	truncate -s 64M "$scratch/a"
	serve_by "$program" "$scratch/socket" "$scratch/a" 2
	boot 6.12 vmlinux "$checks" --disk "socket=$scratch/socket,num_queues=2"
	wait_for "$scratch/serial" 'guest: begin'
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		kill -KILL "$served"
		wait "$served" 2>/dev/null || true
		kills=$((kills + 1))
		serve_by "$program" "$scratch/socket" "$scratch/a" 2
	done
	ends 0
	guest_passed "$(count "$checks")"
	[ $kills -gt 1 ] || fail "it was killed $kills times only"
	[ "$(head -n 1 "$scratch/a" | tr -d '\0')" = "$name" ] || fail "the guest's mark is not on the disk"
}

t vhost_user_disk_of_qemu on_qemus_storage_daemon
t vhost_user_disk_killed on_one_that_is_killed
