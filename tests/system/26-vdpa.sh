#!/bin/bash
# --disk vdpa=: a disk that another program serves by VDUSE (qemu-storage-daemon), as hardware with virtio rings would.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU; the short list has it in another machine.
brief && exit 0

disk_of_another_program() {
	truncate -s 32M "$scratch/disk"
	vduse_disk "$scratch/disk"
	local checks=queues:vda:2,blk:vda,rebind:vda,many:vda,mark:vda:kept,poweroff
	boot 6.12 vmlinux $checks --cpus boot=2 --disk "vdpa=$node" -v
	ends 0
	guest_passed "$(count $checks)"
	[ "$(head -c 4 "$scratch/disk")" = kept ] || fail "the other program's file has not what the guest wrote"
	# The next machine, with the other transport.
	checks=marked:vda:kept,blk:vda,poweroff
	boot 6.12 vmlinux $checks --disk "vdpa=$node,transport=mmio"
	ends 0
	guest_passed "$(count $checks)"
	# A device can be opened once; what it is must fit.
	exec 7<>"$node"
	machine --kernel /nowhere --disk "vdpa=$node"
	ends 1
	grep -q "in use by another" "$dir/stderr" || fail "a busy device: $(tail -n 1 "$dir/stderr")"
	exec 7>&-
	machine --kernel /nowhere --net "vdpa=$node"
	ends 1
	grep -q "give it to --disk" "$dir/stderr" || fail "a disk for --net: $(tail -n 1 "$dir/stderr")"
}

t vdpa_disk_of_another_program disk_of_another_program
