#!/bin/bash
# Debian's kernels boot in every form, on every transport, with every kind of ring, and find the machine that was asked
# for; what they write is on the disk, and what is read-only stays as it was.
. "$(dirname "$0")/lib.sh"
# The short list has them with more devices each.
brief && exit 0

# full SERIES FORM CPUS TRANSPORT RING QUEUES [OPTION...]
full() {
	local series=$1 form=$2 cpus=$3 transport=$4 ring=$5 queues=$6 packed=on checks before
	shift 6
	[ "$ring" = packed ] || packed=off
	truncate -s 64M "$scratch/a"
	dd if=/dev/urandom of="$scratch/b" bs=1M count=1 2>/dev/null
	before=$(md5sum <"$scratch/b")
	checks="cpus:$cpus,memory:180:256,$tables,clock:$clock,date:$(date +%s),virtio:4:$transport,$ring:vda,$ring:vdb"
	checks="$checks,blk:vda,many:vda,mark:vda:$name,marked:vda:$name,serial:vda:disk-$cpus,queues:vda:$queues"
	checks="$checks,writeback:vda,ro:vdb,size:vdb:2048,rng,write:hvc0,poweroff"
	boot "$series" "$form" "$checks" --cpus "boot=$cpus" "$@" \
		--disk "path=$scratch/a,serial=disk-$cpus,num_queues=$queues,transport=$transport,packed=$packed" \
		"path=$scratch/b,readonly=on,transport=$transport,packed=$packed" \
		--rng "transport=$transport,packed=$packed" \
		--console "file=$scratch/hvc,transport=$transport,packed=$packed"
	ends 0
	guest_passed "$(count "$checks")"
	grep -aq "guest: begin ${series}[.]" "$dir/serial" || fail "another kernel ran"
	[ "$(head -n 1 "$scratch/a" | tr -d '\0')" = "$name" ] || fail "the guest's mark is not on the disk"
	[ "$(md5sum <"$scratch/b")" = "$before" ] || fail "the read-only disk changed"
	grep -q 'hello from the guest on hvc0' "$scratch/hvc" || fail "nothing came over virtio-console"
}

case $arch in
aarch64)
	t image_6.12_pci_packed_1cpu full 6.12 vmlinux 1 pci packed 1
	t image_6.1_mmio_split_4cpu full 6.1 vmlinux 4 mmio split 1
	t gzip_6.12_pci_split_4cpu_4queues full 6.12 gzip 4 pci split 4
	t gzip_6.12_mmio_packed_1cpu full 6.12 gzip 1 mmio packed 1
	;;
*)
	t vmlinux_6.12_pci_packed_1cpu full 6.12 vmlinux 1 pci packed 1
	t vmlinux_6.1_mmio_split_4cpu full 6.1 vmlinux 4 mmio split 1
	t bzimage_6.12_pci_split_4cpu_4queues full 6.12 bzimage 4 pci split 4
	t bzimage_6.1_mmio_packed_1cpu full 6.1 bzimage 1 mmio packed 1
	t bzimage_6.12_unpacked_by_the_guest full 6.12 bzimage 1 pci packed 1 --kernel-decompress guest
	t bzimage_6.1_unpacked_by_the_guest full 6.1 bzimage 1 pci split 1 --kernel-decompress guest
	;;
esac
