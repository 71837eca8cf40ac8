#!/bin/bash
# The short list's machines with disks that another program or the host's kernel serves (see 15-together.sh).
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
brief || exit 0
# What is asked here is asked of devices and the host's kernel, not of the CPU.
[ "$arch" = x86_64 ] || exit 0
# A disk that one machine leaves to the next.
left=$(mktemp -d "${TMPDIR:-/tmp}/system.XXXXXX")
trap 'rm -rf "$left"' EXIT

# A back end of vhost-user that is killed all the while, and QEMU's; a disk of VDUSE, driven twice; a guest that is halted.
disks_of_others() {
	local program=$tree/build/${MICROVM_ARCH:+$MICROVM_ARCH/}guest/back-end kills=0
	local checks="cpus:2,queues:vda:2,zeroes:vda,blk:vda,mark:vda:qemu,marked:vda:qemu,queues:vdb:2,rebind:vdb,blk:vdb,mark:vdb:vdpa"
	checks="$checks,queues:vdc:2,blk:vdc,many:vdc,mark:vdc:ours,marked:vdc:ours,halt"
	[ -x "$program" ] || skip "no back end beside the guest (make guest-build)"
	truncate -s 64M "$scratch/a" "$scratch/c"
	truncate -s 32M "$left/vdpa"
	vduse_disk "$left/vdpa"
	serve_vhost_user_by_qemu "$scratch/a"
	mv "$scratch/socket" "$scratch/qemu"
	serve_by "$program" "$scratch/socket" "$scratch/c" 2
	boot 6.12 bzimage "$checks" --kernel-decompress guest --cpus boot=2 -v --disk "socket=$scratch/qemu,num_queues=2" "vdpa=$node" \
		"socket=$scratch/socket,num_queues=2"
	wait_for "$scratch/serial" 'guest: ok queues:vdc'
	until grep -aq 'guest: .*ok marked:vdc' "$scratch/serial"; do
		kill -0 "$pid" || fail "it ended by itself"
		sleep 1
		kill -KILL "$served"
		wait "$served" 2>/dev/null || true
		kills=$((kills + 1))
		serve_by "$program" "$scratch/socket" "$scratch/c" 2
	done
	wait_for "$scratch/serial" 'System halted'
	sleep 2
	kill -0 "$pid" || fail "it ended by itself"
	kill -TERM "$pid"
	ends 0
	guest_passed "$(count "$checks")"
	[ $kills -gt 1 ] || fail "it was killed $kills times only"
	marked "$scratch/a" qemu
	marked "$scratch/c" ours
	[ "$(head -c 4 "$left/vdpa")" = vdpa ] || fail "the other program's file has not what the guest wrote"
}

# Zoned, NVMe, and the VDUSE disk of the machine before with the other transport; a guest that spins.
disks_of_the_hosts_kernel() {
	local checks="cpus:2,zoned:vda:256,blk:vdb,many:vdb,zeroes:vdb,discard:vdb,mark:vdb:kept,marked:vdc:vdpa,blk:vdc,spin"
	[ -s "$left/vdpa" ] || skip "the machine before left no disk"
	zoned_disk
	nvme_drive
	vduse_disk "$left/vdpa"
	programs=blkzone boot 6.12 vmlinux "$checks" --cpus boot=2 --disk path=/dev/nullb0 path=/dev/ng0n1 "vdpa=$node,transport=mmio"
	wait_for "$scratch/serial" 'guest: spin'
	sleep 2
	kill -0 "$pid" || fail "it ended by itself"
	kill -TERM "$pid"
	ends 0
	guest_passed "$(count "$checks")"
	! grep -q 'failed' "$dir/stderr" || fail "$(grep failed "$dir/stderr" | head -n 1)"
	on_nvme_drive kept
}

t together_6.12_unpacked_by_the_guest_disks_of_others disks_of_others
t together_6.12_disks_of_the_hosts_kernel_spin disks_of_the_hosts_kernel
