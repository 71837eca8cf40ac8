#!/bin/bash
# --net tap=,vhost=: the host's kernel moves the frames. No thread of ours wakes for them.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
# What is asked here is asked of devices and the host's kernel, not of the CPU; the short list has it in another machine.
brief && exit 0
# Before we are in a namespace of our own; the tests' own kernel has its modules in the cache.
[ -c /dev/vhost-net ] || load vhost_net
in_own_network
[ -c /dev/net/tun ] || { t net_vhost skip "no /dev/net/tun"; exit 0; }
[ -c /dev/vhost-net ] || { t net_vhost skip "no /dev/vhost-net"; exit 0; }
ip link set lo up

# over_vhost TRANSPORT SERIES
over_vhost() {
	local checks
	tap vhost0 10.87.0.1
	mkdir "$scratch/www"
	noise "$scratch/www/file" 16
	serve "$scratch/www" 10.87.0.1
	checks="address:eth0:10.87.0.2/24:10.87.0.1,split:eth0,ping:10.87.0.1,fetch:$port:file:$md5,poweroff"
	# Quiet devices, the serial port among them, live with the disk then.
	boot "$2" vmlinux "$checks" --disk null=1M --net "tap=vhost0,vhost=on,transport=$1" -v
	wait_for "$scratch/serial" 'guest: ok ping'
	grep -q "served by the kernel's vhost" "$dir/stderr" || fail "not by vhost: $(tail -n 3 "$dir/stderr")"
	begin_to_sleep vhost0 _net
	wait_for "$scratch/serial" 'guest: ok fetch'
	has_slept vhost0 _net
	ends 0
	guest_passed "$(count "$checks")"
}

# Four pairs, which the driver takes into use one command later, and twice; the tap goes down and comes up.
several_queues() {
	local checks
	tap vhost1 10.89.0.1 multi_queue
	mkdir "$scratch/www"
	noise "$scratch/www/file" 8
	serve "$scratch/www" 10.89.0.1
	checks="rebind:eth0,address:eth0:10.89.0.2/24:10.89.0.1,pairs:eth0:4,ping:10.89.0.1,fetch:$port:file:$md5"
	checks="$checks,carrier:eth0:0,carrier:eth0:1,ping:10.89.0.1,poweroff"
	boot 6.12 vmlinux "$checks" --cpus boot=4 --net tap=vhost1,num_queues=8,vhost=on -v
	wait_for "$scratch/serial" 'guest: ok fetch'
	ip link set vhost1 down
	wait_for "$scratch/serial" 'guest: ok carrier:eth0:0'
	ip link set vhost1 up
	ends 0
	guest_passed "$(count "$checks")"
	grep -q ' 0 refused' "$dir/stderr" || fail "a command was refused: $(tail -n 3 "$dir/stderr")"
}

# Confined as an ordinary user, with auto; a capture needs the frames, and takes them without a word.
ordinary_user() {
	local checks=address:eth0:10.90.0.2/24:10.90.0.1,ping:10.90.0.1,poweroff
	need_root
	tap vhost2 10.90.0.1 user nobody
	chmod 666 /dev/vhost-net
	without_rights
	boot 6.12 vmlinux $checks --net tap=vhost2 -v
	ends 0
	guest_passed "$(count $checks)"
	grep -q "served by the kernel's vhost" "$dir/stderr" || fail "not by vhost: $(grep vhost "$dir/stderr")"
	boot 6.12 vmlinux $checks --net "tap=vhost2,capture=$scratch/frames.pcapng" -v
	ends 0
	guest_passed "$(count $checks)"
	grep -q "served by us.*capture= needs that" "$dir/stderr" || fail "by whom? $(grep vhost "$dir/stderr")"
}

t net_vhost_pci_16m_and_our_worker_sleeps over_vhost pci 6.12
t net_vhost_mmio_16m_and_our_worker_sleeps over_vhost mmio 6.1
t net_vhost_several_queues_and_down_and_up several_queues
t net_vhost_ordinary_user_and_auto ordinary_user
