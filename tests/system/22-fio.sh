#!/bin/bash
# Disks under load, for correctness and not for speed: fio in a Linux guest mixes random reads and writes, 32 deep, on all disks at
# once, and verifies each block by its checksum; then the host compares what the guest sees with what is in the files.
. "$(dirname "$0")/lib.sh"
# What is asked here is asked of devices, not of the CPU: not in an emulated host of another one, which has no such programs.
[ "$arch:${RIG:-}" != aarch64:1 ] || exit 0

# The guest's words about disk $1 and the first $mib MiB of $2, or of the bytes that the image $2 stands for, agree.
agrees() {
	local said bytes=$2
	case $2 in
	*.qcow2)
		qemu-img check -q -f qcow2 "$2" >"$dir/check" 2>&1 || fail "qemu-img check $2: $(tail -n 3 "$dir/check")"
		bytes=${2%.qcow2}.raw
		qemu-img convert -f qcow2 -O raw "$2" "$bytes"
		;;
	esac
	# Past the host's cache of a drive whose character device took the writes, or which was opened with O_DIRECT.
	dd if="$bytes" of="$scratch/read" bs=1M count="$mib" iflag=direct 2>/dev/null
	said=$(tr -d '\r' <"$dir/serial" | sed -n "s/^guest: sum $1 //p")
	[ "$said" = "$(md5sum <"$scratch/read" | cut -d ' ' -f 1)" ] || fail "the guest's $1 is not what $2 holds"
	! cmp -s "$scratch/read" "$scratch/before" || fail "nobody wrote to $2"
}

# A drive whose I/O takes its time: the rig's. Elsewhere it may hold somebody's data, and a file has to do.
drive() {
	direct=$scratch/direct
	cp "$scratch/before" "$direct"
	[ -n "${RIG:-}" ] || return 0
	modprobe -d "$("$images/kernel.sh" 6.12)" nvme || fail "no driver for NVMe in the host's kernel"
	wait_until "the rig has no NVMe drive" test -b /dev/nvme0n1
	direct=/dev/nvme0n1
	dd if="$scratch/before" of="$direct" bs=1M oflag=direct 2>/dev/null
}

# mixed MIB LOAD CPUS [OPTION...]: disks of MIB MiB, all but LOAD of it left alone; vda raw and cached, vdb raw and direct,
# vdc qcow2.
mixed() {
	local mib=$1 load=$2 cpus=$3 checks direct programs=fio memory=384M q=num_queues=$3
	shift 3
	dd if=/dev/urandom of="$scratch/before" bs=1M count="$mib" 2>/dev/null
	cp "$scratch/before" "$scratch/cached"
	drive
	qemu-img convert -f raw -O qcow2 -o cluster_size=16k "$scratch/before" "$scratch/image.qcow2"
	checks="packed:vda,split:vdb,packed:vdc,fio:$load:vda:vdb:vdc${more:+:vdd:vde},sum:vda:$mib,sum:vdb:$mib,sum:vdc:$mib"
	checks="$checks${more:+,split:vdd,sum:vdd:$mib,sum:vde:$mib},poweroff"
	boot 6.12 vmlinux "$checks" --cpus "boot=$cpus" --disk "path=$scratch/cached,packed=on,$q" \
		--disk "path=$direct,direct=on,packed=off,$q" --disk "path=$scratch/image.qcow2,format=qcow2,packed=on" "$@"
	ends 0
	guest_passed "$(count "$checks")"
	agrees vda "$scratch/cached"
	agrees vdb "$direct"
	agrees vdc "$scratch/image.qcow2"
}

# Empty clusters to allocate in a second image, and a base that has to stay as it was under a third; two queues.
mixed_on_more_disks() {
	local mib=32 more=1
	qemu-img create -q -f qcow2 -o lazy_refcounts=on "$scratch/empty.qcow2" ${mib}M
	dd if=/dev/urandom of="$scratch/base" bs=1M count=$mib 2>/dev/null
	cp "$scratch/base" "$scratch/copy"
	mixed $mib 24 2 --disk "path=$scratch/empty.qcow2,format=qcow2,packed=off,direct=on" \
		--disk "path=$scratch/base,overlay=$scratch/over.qcow2"
	agrees vdd "$scratch/empty.qcow2"
	agrees vde "$scratch/over.qcow2"
	cmp "$scratch/base" "$scratch/copy" || fail "the base was written"
}

# The disks on virtio-mmio; all the driver's ring formats the other way round.
mixed_on_mmio() {
	local mib=16
	dd if=/dev/urandom of="$scratch/before" bs=1M count=$mib 2>/dev/null
	cp "$scratch/before" "$scratch/a"
	local checks="split:vda,fio:12:vda,sum:vda:$mib,poweroff" programs=fio memory=384M
	boot 6.12 vmlinux "$checks" --disk "path=$scratch/a,packed=off,transport=mmio"
	ends 0
	guest_passed "$(count "$checks")"
	agrees vda "$scratch/a"
}

t fio_verifies_raw_direct_and_qcow2 mixed 6 1 1
brief || t fio_verifies_more_disks_on_2_queues mixed_on_more_disks
brief || t fio_verifies_a_disk_on_mmio mixed_on_mmio
