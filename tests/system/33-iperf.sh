#!/bin/bash
# Links under load, for correctness and not for speed: iperf3 in a Linux guest, each way and both at once, by TCP and UDP.
. "$(dirname "$0")/lib.sh"
# What is asked here is asked of devices, not of the CPU: not in an emulated host of another one, which has no such programs.
[ "$arch:${RIG:-}" != aarch64:1 ] || exit 0
in_own_network
ip link set lo up

# iperf_server ADDRESS: $port.
iperf_server() {
	port=$((20000 + RANDOM % 20000))
	iperf3 -s --forceflush -B "$1" -p $port >"$dir/iperf" 2>&1 &
	started="$started $!"
	wait_until "no iperf3 at port $port" grep -q listening "$dir/iperf"
}
loads() { echo "iperf:$port:$1,iperf:$port:$1:-R,iperf:$port:$1:--bidir,iperf:$port:$1:-P:4,iperf:$port:1:-u:-b:50M:-l:1000"; }

# over_tap RING MIB [,KEY=VALUE...]: our own worker, also where the host's kernel would do.
over_tap() {
	local ring=$1 mib=$2 keys=${3:-} packed=on checks programs=iperf3
	[ "$ring" = packed ] || packed=off
	[ -c /dev/net/tun ] || skip "no /dev/net/tun"
	ip tuntap add dev load0 mode tap vnet_hdr
	ip address add 10.91.0.1/24 dev load0
	ip link set load0 up
	trap 'clean_up; ip link del load0' EXIT
	iperf_server 10.91.0.1
	checks="address:eth0:10.91.0.2/24:10.91.0.1,$ring:eth0,$(loads "$mib"),ping:10.91.0.1,poweroff"
	boot 6.12 vmlinux "$checks" --net "tap=load0,vhost=off,packed=$packed$keys"
	ends 0
	guest_passed "$(count "$checks")"
}

# Passt copies addresses and the way out of an interface that has one; this one leads nowhere.
over_passt() {
	local mib=$1 checks programs=iperf3
	ip link add outside type dummy
	ip address add 192.0.2.2/24 dev outside
	ip link set outside up
	ip route add default via 192.0.2.1
	iperf_server 127.0.0.1
	checks="dhcp:eth0,$(loads "$mib"),poweroff"
	boot 6.12 vmlinux "$checks" --net user
	ends 0
	guest_passed "$(count "$checks")"
	wait_until "passt is still there" no_passt
}

t iperf_tap_packed over_tap packed 4
brief || t iperf_tap_split over_tap split 16
brief || t iperf_tap_mmio over_tap packed 16 ,transport=mmio
brief || t iperf_passt over_passt 4
