#!/bin/bash
# All system calls of a machine with every device are in the filters: with --seccomp=log the kernel logs one that is not.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"

every_device() {
	need_root
	local before after checks=blk:vda,discard:vda,rng,write:hvc0,dhcp:eth0,reboot
	need_route
	before=$(violations)
	truncate -s 16M "$scratch/a"
	boot 6.12 vmlinux $checks --seccomp=log --cpus boot=2 --on-reset=reboot --disk "path=$scratch/a" --net user \
		--rng transport=mmio --console "file=$scratch/hvc"
	wait_until "no second boot" two_boots
	kill -TERM "$pid"
	ends 0
	keep_serial
	! grep -aq 'guest: not ok' "$dir/serial" || fail "$(grep -a 'guest: not ok' "$dir/serial" | head -n 1)"
	after=$(violations)
	[ "$before" = "$after" ] || fail "$(dmesg | grep 'type=1326' | tail -n 1)"
}

brief || t seccomp_log_names_no_system_call every_device
