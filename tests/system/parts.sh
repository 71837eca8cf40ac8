# shellcheck shell=bash
# What more than one of the test files needs around a machine: back ends, disks of the host's kernel, networks, a conversation.
# Sourced after lib.sh.

# The tests' own kernel has its modules in the cache, also where the host's folder has none for it.
load() { modprobe -a "$@" 2>/dev/null || modprobe -a -d "$("$images/kernel.sh" 6.12)" "$@" 2>/dev/null || true; }

# serve_by PROGRAM...: start a back end of vhost-user, and wait for its socket; $served.
serve_by() {
	rm -f "$scratch/socket"
	"$@" 2>>"$dir/back-end" &
	served=$!
	started="$started $served"
	wait_until "nobody listens at the socket" test -S "$scratch/socket"
}

# serve_vhost_user_by_qemu FILE: with two queues, at $scratch/socket.
serve_vhost_user_by_qemu() {
	command -v qemu-storage-daemon >/dev/null || skip "qemu-storage-daemon is not installed (qemu-utils)"
	serve_by qemu-storage-daemon --blockdev "driver=file,node-name=file,filename=$1" \
		--blockdev driver=raw,node-name=disk,file=file \
		--export "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=$scratch/socket,writable=on,num-queues=2"
}

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

# /dev/nullb0 with 256 zones, made by the host's kernel: in the rig only.
zoned_disk() {
	[ -n "${RIG:-}" ] || skip "loads null_blk: in the rig only"
	modprobe -d "$("$images/kernel.sh" 6.12)" null_blk nr_devices=1 gb=1 zoned=1 zone_size=4 zone_nr_conv=1 \
		memory_backed=1 zone_max_open=4 || fail "no null_blk in the host's kernel"
	wait_until "null_blk makes no disk" test -b /dev/nullb0
}

# /dev/ng0n1: the rig's drive.
nvme_drive() {
	[ -n "${RIG:-}" ] || skip "overwrites a namespace: in the rig only"
	modprobe -d "$("$images/kernel.sh" 6.12)" nvme || fail "no driver for NVMe in the host's kernel"
	wait_until "the rig has no NVMe drive" test -c /dev/ng0n1
}
# The word $1 is on the drive, for whoever reads it as a block device, past what the host has cached of it.
on_nvme_drive() {
	dd if=/dev/nvme0n1 iflag=direct bs=4096 count=1 >"$scratch/first" 2>"$dir/dd" || fail "$(tail -n 1 "$dir/dd")"
	[ "$(head -n 1 "$scratch/first" | tr -d '\0')" = "$1" ] ||
		fail "not on the drive: $(head -c 16 "$scratch/first" | od -c | head -n 1)"
}

# tap NAME ADDRESS [WORD...]: one that is there before the machine; it goes with the test.
taps=
tap() {
	local name=$1 address=$2
	shift 2
	ip tuntap add dev "$name" mode tap vnet_hdr "$@"
	ip address add "$address/24" dev "$name"
	ip link set "$name" up
	taps="$taps $name"
	trap 'clean_up; for n in $taps; do ip link del $n; done' EXIT
}

# How often the machine's network workers named $1... have been woken up to now.
wakes() {
	cat /proc/"$pid"/task/*/status |
		awk -v name="^$1" '/^Name:/ { ours = $2 ~ name } /^voluntary/ && ours { n += $2 } END { print n + 0 }'
}
packets() { awk -v name="$1:" '$1 == name { print $3 + $11 }' /proc/net/dev; }

# Between two calls the interface $1 has moved a file, and our worker named $2... has slept.
begin_to_sleep() {
	woken=$(wakes "$2") moved=$(packets "$1")
	[ "$woken" -gt 0 ] || fail "no thread named $2"
}
has_slept() {
	woken=$(($(wakes "$2") - woken)) moved=$(($(packets "$1") - moved))
	echo "$moved frames, $woken wakes of our worker"
	[ "$moved" -gt 250 ] || fail "only $moved frames: too few to tell"
	# The driver's commands and the host's word about the interface are what it wakes for.
	[ $((woken * 50)) -lt "$moved" ] || fail "our worker woke $woken times for $moved frames"
}

# An audit record of type SECCOMP is 1326 (linux/audit.h); on a terminal of its own no daemon takes it.
violations() { dmesg | grep -c 'type=1326' || true; }

expect() { "$tests/expect.py" --patience "$patience" "$@" 2>"$dir/why" || exit 1; }

two_boots() { [ "$(grep -ac 'guest: begin' "$scratch/serial")" -ge 2 ]; }

# The guest's mark $2 lies at the start of the file $1.
marked() { [ "$(head -n 1 "$1" | tr -d '\0')" = "$2" ] || fail "the guest's mark is not on the disk"; }
