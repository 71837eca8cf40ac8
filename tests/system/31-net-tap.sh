#!/bin/bash
# --net tap=: an existing tap and one that we make; pings, and a file each way of size and offload.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
# The short list has a tap of either kind in another machine.
brief && exit 0
in_own_network
[ -c /dev/net/tun ] || { t net_tap skip "no /dev/net/tun"; exit 0; }
ip link set lo up

# over_tap SERIES TRANSPORT RING: with a tap that was there before.
over_tap() {
	local series=$1 transport=$2 ring=$3 packed=on checks
	[ "$ring" = packed ] || packed=off
	tap guest0 10.77.0.1
	mkdir "$scratch/www"
	noise "$scratch/www/file" 16
	serve "$scratch/www" 10.77.0.1
	checks="address:eth0:10.77.0.2/24:10.77.0.1,$ring:eth0,ping:10.77.0.1,fetch:$port:file:$md5,mtu:eth0:1400,poweroff"
	boot "$series" vmlinux "$checks" --net "tap=guest0,mtu=1400,transport=$transport,packed=$packed"
	ends 0
	guest_passed "$(count "$checks")"
	ip link show guest0 >/dev/null || fail "the tap is gone: it was not ours to remove"
}

# A tap that was not there is made, and goes with the machine.
made_by_us() {
	local checks=address:eth0:10.78.0.2/24:10.78.0.1,sleep:5,ping:10.78.0.1,poweroff
	boot 6.12 vmlinux $checks --net tap=ours0
	wait_until "no tap ours0" tap_of_a_living_machine
	ip address add 10.78.0.1/24 dev ours0
	ip link set ours0 up
	ends 0
	guest_passed 3
	! ip link show ours0 2>/dev/null || fail "the tap stayed"
}

# Four queue pairs, interrupts gathered, and a tap that its owner sets down and up again.
several_queues() {
	local checks programs=ethtool
	tap guest1 10.79.0.1 multi_queue
	mkdir "$scratch/www"
	noise "$scratch/www/file" 8
	serve "$scratch/www" 10.79.0.1
	checks="address:eth0:10.79.0.2/24:10.79.0.1,pairs:eth0:4,gather:eth0:50:32,gather:eth0:100:16:0x2"
	checks="$checks,ping:10.79.0.1,fetch:$port:file:$md5,carrier:eth0:0,carrier:eth0:1,ping:10.79.0.1,poweroff"
	boot 6.12 vmlinux "$checks" --cpus boot=4 --net tap=guest1,num_queues=8 -v
	wait_for "$scratch/serial" 'guest: ok fetch'
	ip link set guest1 down
	wait_for "$scratch/serial" 'guest: ok carrier:eth0:0'
	ip link set guest1 up
	ends 0
	guest_passed "$(count "$checks")"
	grep -q '_net0: received .* 0 refused' "$dir/stderr" || fail "a command was refused: $(tail -n 3 "$dir/stderr")"
}

tap_of_a_living_machine() {
	ip link show ours0 || { kill -0 "$pid" || fail "it ended: $(tail -n 1 "$dir/stderr")"; false; }
}

t net_tap_pci_packed_ping_and_16m over_tap 6.12 pci packed
t net_tap_mmio_split_ping_and_16m over_tap 6.1 mmio split
t net_tap_made_by_us_goes_with_us made_by_us
t net_tap_several_queues_gathered_and_down_and_up several_queues
