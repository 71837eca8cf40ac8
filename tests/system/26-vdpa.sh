#!/bin/bash
# --disk vdpa=: a disk that another program serves by VDUSE (qemu-storage-daemon), as hardware with virtio rings would.
. "$(dirname "$0")/lib.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU.
[ "$arch" != aarch64 ] || ! brief || exit 0

# The tests' own kernel has its modules in the cache, also where the host's folder has none for it.
load() { modprobe -a "$@" 2>/dev/null || modprobe -a -d "$("$images/kernel.sh" 6.12)" "$@" 2>/dev/null || true; }

# vduse_disk FILE: serve it; $node is the device for us. The module virtio_vdpa is not loaded, so vhost_vdpa gets it.
vduse_disk() {
	need_root
	load vduse vhost_vdpa
	[ -c /dev/vduse/control ] || skip "this kernel has no VDUSE"
	command -v vdpa >/dev/null || skip "vdpa (iproute2) is not installed"
	command -v qemu-storage-daemon >/dev/null || skip "qemu-storage-daemon is not installed"
	trap 'vdpa dev del served || true; clean_up' EXIT
	qemu-storage-daemon --blockdev "driver=file,filename=$1,node-name=file" \
		--export type=vduse-blk,id=disk,node-name=file,name=served,writable=on,num-queues=2 >"$dir/daemon" 2>&1 &
	pid=$!
	started="$started $pid"
	wait_until "no /dev/vduse/served" test -e /dev/vduse/served
	vdpa dev add name served mgmtdev vduse
	wait_until "no /dev/vhost-vdpa-*" found_node
}
found_node() {
	local n
	for n in /sys/bus/vdpa/devices/served/vhost-vdpa-*; do
		node=/dev/${n##*/}
	done
	[ -c "$node" ]
}

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
