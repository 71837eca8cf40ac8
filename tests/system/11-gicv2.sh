#!/bin/bash
# What is different on an ARM host whose interrupt controller is a GICv2: few vCPUs, and messages of PCI devices by way of a v2m
# frame.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
grep -qs GICv2 /proc/interrupts || exit 0

# four_cpus TRANSPORT
four_cpus() {
	truncate -s 64M "$scratch/a"
	local checks="cpus:4,devicetree,virtio:2:$1,blk:vda,rng,mark:vda:here,poweroff"
	boot 6.12 vmlinux "$checks" --cpus boot=4 --disk "path=$scratch/a,transport=$1,num_queues=4" --rng "transport=$1"
	ends 0
	guest_passed "$(count "$checks")"
	[ "$(head -n 1 "$scratch/a" | tr -d '\0')" = here ] || fail "the guest's mark is not on the disk"
}
# Two lives of the machine, so that the controller is reset too.
comes_back() {
	boot 6.12 vmlinux rng,reboot --cpus boot=2 --rng transport=pci
	wait_until "no second boot" two_boots
	kill -TERM "$pid"
	ends 0
}
button() {
	boot 6.12 vmlinux button,poweroff --rng transport=mmio
	wait_for "$scratch/serial" 'waiting for the power button'
	sleep 1
	kill -USR1 "$pid"
	ends 0
	guest_passed 1
}

# refused PATTERN OPTION...
refused() {
	local pattern=$1 rc=0
	shift
	"$tests/tiny.py" halt "$scratch/tiny"
	"$microvm" --kernel "$scratch/tiny" --serial off "$@" 2>"$dir/stderr" || rc=$?
	[ $rc = 1 ] || fail "exit status $rc, not 1: $(head -c 300 "$dir/stderr")"
	grep -q "$pattern" "$dir/stderr" || fail "no '$pattern' in: $(cat "$dir/stderr")"
}

# Two lives of a machine with devices on both transports: the short list's.
together() {
	local checks="again:vda,cpus:4,devicetree,virtio:1:pci,virtio:2:mmio,blk:vda,blk:vdb,rng,mark:vdb:here,poweroff"
	truncate -s 64M "$scratch/a" "$scratch/b"
	boot 6.12 vmlinux "$checks" --cpus boot=4 --on-reset=reboot --disk "path=$scratch/a,transport=pci,num_queues=4" \
		"path=$scratch/b,transport=mmio,num_queues=4" --rng transport=mmio
	ends 0
	guest_passed "$(count "$checks")"
	two_boots || fail "it was not reset"
	marked "$scratch/b" here
}

! brief || t gicv2_pci_and_mmio_4cpu_reset together
brief || t gicv2_mmio_4cpu four_cpus mmio
brief || t gicv2_pci_4cpu four_cpus pci
brief || t gicv2_reset_comes_back comes_back
brief || t gicv2_power_button button
t gicv2_takes_eight_vcpus_at_most refused 'at most 8 vCPUs' --cpus boot=9 --rng transport=mmio
