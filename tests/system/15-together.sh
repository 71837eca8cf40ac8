#!/bin/bash
# The short list's machines: each value of the long list's matrix (kernel series and form, transport, ring, number of vCPUs, console,
# kind of disk and of network, way to end) is in one of them, and each machine asks as much as it can, because in an emulated host
# a boot takes a minute. The other files ask one thing at a time.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"
brief || exit 0
grep -qs GICv2 /proc/interrupts && exit 0
# Before we are in a namespace of our own.
[ "$arch" != x86_64 ] || [ -c /dev/vhost-net ] || load vhost_net
in_own_network
[ -c /dev/net/tun ] || { t together skip "no /dev/net/tun"; exit 0; }
ip link set lo up
# What passt takes addresses and the default route from.
ip link add outside type dummy
ip address add 192.0.2.2/24 dev outside
ip link set outside up
ip route add default via 192.0.2.1
# Disks that one machine leaves to the next.
left=$(mktemp -d "${TMPDIR:-/tmp}/system.XXXXXX")
chmod 777 "$left"
trap 'rm -rf "$left"' EXIT

own_kernel() { grep -aq "guest: begin $1[.]" "$dir/serial" || fail "another kernel ran"; }

# Reset and come back; a raw disk, one that is read-only, an overlay; passt, as an ordinary user; every system call in the filters;
# the power button.
pci_packed() {
	local checks before all=transport=pci,packed=on seen
	seen=$(violations)
	dd if=/dev/urandom of="$left/a" bs=1M count=32 2>/dev/null
	dd if=/dev/urandom of="$left/base" bs=1M count=16 2>/dev/null
	dd if=/dev/urandom of="$scratch/b" bs=1M count=1 2>/dev/null
	cp "$left/base" "$scratch/base"
	cp "$scratch/b" "$scratch/b.copy"
	chmod 666 "$left"/* "$scratch"/b*
	before=$(stat -c %b "$left/a")
	mkdir "$scratch/www"
	noise "$scratch/www/file" 8
	serve "$scratch/www"
	checks="again:vda,cpus:1,memory:180:256,$tables,clock:$clock,date:$(date +%s),virtio:5:pci,virtio:1:mmio,packed:vda,packed:vdb"
	checks="$checks,blk:vda,many:vda,zeroes:vda,discard:vda,mark:vda:kept,marked:vda:kept,serial:vda:disk-1,queues:vda:1"
	checks="$checks,writeback:vda,ro:vdb,size:vdb:2048,zeroes:vdc,discard:vdc,mark:vdc:over,rng,write:hvc0"
	checks="$checks,dhcp:eth0,packed:eth0,fetch:$port:file:$md5,mac:eth0:02-00-00-00-00-7f,button,poweroff"
	without_rights
	boot 6.12 vmlinux "$checks" --seccomp=log --on-reset=reboot --rng transport=mmio --console "file=$scratch/hvc,$all" \
		--disk "path=$left/a,serial=disk-1,$all" "path=$scratch/b,readonly=on,$all" "path=$left/base,overlay=$left/over" \
		--net "user,mac=02:00:00:00:00:7f,$all"
	wait_for "$scratch/serial" 'waiting for the power button'
	sleep 1
	kill -USR1 "$pid"
	ends 0
	guest_passed "$(count "$checks")"
	own_kernel 6.12
	two_boots || fail "it was not reset"
	! grep -aq 'module ' "$dir/serial" || fail "the second boot found less than the first"
	grep -q 'hello from the guest on hvc0' "$scratch/hvc" || fail "nothing came over virtio-console"
	marked "$left/a" kept
	[ "$(stat -c %s "$left/a")" = 33554432 ] || fail "the file's size changed"
	[ $(($(stat -c %b "$left/a") * 4)) -lt "$before" ] || fail "$before blocks before, $(stat -c %b "$left/a") after"
	cmp "$scratch/b" "$scratch/b.copy" || fail "the read-only disk changed"
	cmp "$left/base" "$scratch/base" || fail "the base of the overlay was written"
	wait_until "passt is still there" no_passt
	[ "$(violations)" = "$seen" ] || fail "$(dmesg | grep 'type=1326' | tail -n 1)"
}

# The disks of the machine before; taps, one of them moved by the host's kernel; a reset that ends it, or a panic.
mmio_split_4cpu() {
	local checks all=transport=mmio,packed=off more=() end=panic worker
	[ -s "$left/over" ] || skip "the machine before left no disks"
	cp "$left/over" "$scratch/over"
	local over
	over=$(md5sum <"$scratch/over")
	mkdir "$scratch/www"
	noise "$scratch/www/file" 8
	serve "$scratch/www" 0.0.0.0
	tap guest0 10.77.0.1
	checks="cpus:4,$tables,clock:$clock,split:vda,marked:vda:kept,blk:vda,many:vda,marked:vdb:over,mark:vdc:gone,marked:vdc:gone,rng"
	checks="$checks,write:hvc0,address:eth0:10.77.0.2/24:10.77.0.1,split:eth0,ping:10.77.0.1,fetch:$port:file:$md5,mtu:eth0:1400"
	if [ "$arch" = x86_64 ]; then
		end=reboot words=reboot=k
		[ -c /dev/vhost-net ] || fail "no /dev/vhost-net"
		tap vhost0 10.87.0.1
		checks="$checks,address:eth1:10.87.0.2/24:10.87.0.1,split:eth1,ping:10.87.0.1,fetch:$port:file:$md5"
		more=("tap=vhost0,vhost=on,transport=mmio")
	fi
	boot 6.1 vmlinux "$checks,$end" --cpus boot=4 --on-reset=exit -v --rng "$all" --console "file=$scratch/hvc,$all" \
		--disk "path=$left/a,direct=on,$all" "path=$left/base,overlay=$left/over,$all" \
		"path=$scratch/over,format=qcow2,backing_files=on,ephemeral=on,$all" \
		--net "tap=guest0,mtu=1400,vhost=off,$all" "${more[@]}"
	if [ ${#more[@]} -gt 0 ]; then
		wait_for "$scratch/serial" 'guest: ok ping:10.87.0.1'
		grep -q "served by the kernel's vhost" "$dir/stderr" || fail "not by vhost: $(tail -n 3 "$dir/stderr")"
		worker=$(sed -n "s/.*\(_net[0-9]*\): served by the kernel.*/\1/p" "$dir/stderr" | head -n 1)
		begin_to_sleep vhost0 "$worker"
		wait_until "the second file did not arrive" second_file
		has_slept vhost0 "$worker"
	fi
	ends 0
	guest_passed "$(count "$checks,$end")"
	own_kernel 6.1
	[ "$end" = reboot ] || grep -aq 'Kernel panic' "$dir/serial" || fail "there was no panic"
	grep -q 'hello from the guest on hvc0' "$scratch/hvc" || fail "nothing came over virtio-console"
	[ "$(md5sum <"$scratch/over")" = "$over" ] || fail "the ephemeral disk's image was written"
	ip link show guest0 >/dev/null || fail "the tap is gone: it was not ours to remove"
}
second_file() {
	[ "$(grep -ac 'guest: ok fetch' "$scratch/serial")" -ge 2 ] || { kill -0 "$pid" || fail "it ended before"; false; }
}

# Consoles on sockets; several queues of a disk and of a tap that goes down and up again; a tap of our own; a triple fault, or a halt.
pci_split_4cpu_4queues() {
	local checks all=transport=pci,packed=off form=bzimage end=reboot status=1 programs=ethtool talk other last=()
	[ "$arch" = x86_64 ] || form=gzip end=halt status=0 last=('wait:System halted')
	truncate -s 64M "$scratch/a"
	mkdir "$scratch/www"
	noise "$scratch/www/file" 8
	tap guest1 10.79.0.1 multi_queue
	serve "$scratch/www" 10.79.0.1
	checks="cpus:4,virtio:5:pci,split:vda,queues:vda:4,blk:vda,many:vda,mark:vda:here,rng,address:eth0:10.79.0.2/24:10.79.0.1"
	checks="$checks,pairs:eth0:4,gather:eth0:50:32,gather:eth0:100:16:0x2,ping:10.79.0.1,fetch:$port:file:$md5,carrier:eth0:0"
	checks="$checks,carrier:eth0:1,ping:10.79.0.1,address:eth1:10.78.0.2/24:10.78.0.1,ping:10.78.0.1,lines:$tty,lines:hvc0,$end"
	[ $end = halt ] || words=reboot=t
	serial=socket=$scratch/s boot 6.12 $form "$checks" --cpus boot=4 --on-reset=exit -v --rng "$all" \
		--console "socket=$scratch/h,$all" --disk "path=$scratch/a,num_queues=4,$all" \
		--net "tap=guest1,num_queues=8,vhost=off,$all" "tap=ours0,$all"
	# What the guest says while nobody listens is lost: these clients are there from the start.
	"$tests/expect.py" --log "$dir/hvc" --patience "$patience" --socket "$scratch/h" 'wait:guest: reading hvc0' \
		'send:bye\r' 'wait:guest: heard bye' 2>"$dir/hvc.why" &
	other=$!
	"$tests/expect.py" --log "$dir/first" --patience "$((patience * 3))" --socket "$scratch/s" "wait:guest: reading $tty" \
		'send:first\r' 'wait:guest: heard first' close 2>"$dir/why" &
	talk=$!
	started="$started $other $talk"
	wait_until "no tap ours0" ip link show ours0
	ip address add 10.78.0.1/24 dev ours0
	ip link set ours0 up
	wait_for "$dir/first" 'guest: ok fetch'
	ip link set guest1 down
	wait_for "$dir/first" 'guest: ok carrier:eth0:0'
	ip link set guest1 up
	wait $talk || exit 1
	# A second client goes on where the first one left.
	expect --log "$dir/second" --socket "$scratch/s" 'send:second\r' 'wait:guest: heard second' 'send:bye\r' \
		'wait:guest: end [0-9]+ ok 0 not ok\s' "${last[@]}"
	wait $other || fail "on hvc0: $(cat "$dir/hvc.why")"
	if [ $end = halt ]; then
		sleep 2
		kill -0 "$pid" || fail "it ended by itself"
		kill -TERM "$pid"
	fi
	ends $status
	cat "$dir/first" "$dir/second" >"$scratch/serial"
	guest_passed "$(count "$checks")"
	own_kernel 6.12
	marked "$scratch/a" here
	[ ! -e "$scratch/s" ] && [ ! -e "$scratch/h" ] || fail "a socket was left behind"
	! ip link show ours0 2>/dev/null || fail "the tap that we made stayed"
	grep -q '_net[0-9]*: received .* 0 refused' "$dir/stderr" || fail "a command was refused: $(tail -n 3 "$dir/stderr")"
}

# On a terminal; a panic that the machine hears of.
mmio_packed_on_tty() {
	local checks="cpus:1,virtio:4:mmio,packed:vda,packed:eth0,blk:vda,mark:vda:here,marked:vda:here,rng,write:hvc0" all=transport=mmio,packed=on
	checks="$checks,address:eth0:10.76.0.2/24:10.76.0.1,ping:10.76.0.1,lines:$tty,panic"
	truncate -s 64M "$scratch/a"
	tap guest2 10.76.0.1
	expect --log "$dir/serial" --run raw "wait:guest: reading $tty" 'send:one two\r' 'wait:guest: heard one two' 'send:bye\r' end:0 restored \
		-- "$microvm" --kernel "$(kernel 6.1 bzimage)" --initramfs "$("$images/initramfs.sh" test 6.1)" --memory size=256M \
		--cmdline "console=$tty quiet panic=-1 net.ifnames=0 run=$checks" --serial tty --on-reset=exit --rng "$all" \
		--console "file=$scratch/hvc,$all" --disk "path=$scratch/a,$all" --net "tap=guest2,vhost=off,$all"
	guest_passed "$(count "$checks")"
	own_kernel 6.1
	grep -q 'reports: panicked' "$dir/serial" || fail "the log does not tell of the panic"
	marked "$scratch/a" here
	grep -q 'hello from the guest on hvc0' "$scratch/hvc" || fail "nothing came over virtio-console"
}

t together_6.12_pci_packed_1cpu_reset_seccomp_button pci_packed
t together_6.1_mmio_split_4cpu_taps mmio_split_4cpu
t together_6.12_pci_split_4cpu_4queues_sockets pci_split_4cpu_4queues
[ "$arch" = x86_64 ] || exit 0
t together_6.1_mmio_packed_1cpu_tty_panic mmio_packed_on_tty
