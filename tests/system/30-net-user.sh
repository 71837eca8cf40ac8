#!/bin/bash
# --net user: an address by DHCP and the host's web server, without any right on the host.
. "$(dirname "$0")/lib.sh"

# fetch SERIES TRANSPORT RING MIB [OPTION...]
fetch() {
	local series=$1 transport=$2 ring=$3 mib=$4 packed=on checks
	shift 4
	need_route
	[ "$ring" = packed ] || packed=off
	mkdir "$scratch/www"
	noise "$scratch/www/file" "$mib"
	serve "$scratch/www"
	checks="dhcp:eth0,$ring:eth0,fetch:$port:file:$md5,mac:eth0:02-00-00-00-00-7f,poweroff"
	without_rights
	boot "$series" vmlinux "$checks" \
		--net "user,mac=02:00:00:00:00:7f,transport=$transport,packed=$packed" "$@"
	ends 0
	guest_passed "$(count "$checks")"
	wait_until "passt is still there" no_passt
}

brief || t net_user_pci_packed_fetches_8m fetch 6.12 pci packed 8
brief || t net_user_mmio_split_4cpu_fetches_8m fetch 6.1 mmio split 8 --cpus boot=4
