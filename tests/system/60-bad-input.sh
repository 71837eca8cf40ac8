#!/bin/bash
# Bad input: exit status 1, one sentence that names the option, the value and what to do, and nothing half-made.
. "$(dirname "$0")/lib.sh"

# bad PATTERN OPTION...: PATTERN (extended, any case) must be in the one line on stderr.
bad() {
	local pattern=$1 rc=0
	shift
	timeout "$patience" "${before[@]}" "$microvm" "$@" >"$dir/out" 2>"$dir/stderr" || rc=$?
	[ $rc = 1 ] || fail "exit status $rc, not 1: $*: $(head -c 300 "$dir/stderr")"
	[ "$(wc -l <"$dir/stderr")" = 1 ] || fail "not one line: $*: $(head -n 5 "$dir/stderr")"
	grep -qiE -e "$pattern" "$dir/stderr" || fail "no '$pattern' in: $(cat "$dir/stderr")"
	[ ! -s "$dir/out" ] || fail "something on stdout: $*: $(head -n 2 "$dir/out")"
}
before=()
tiny() { "$tests/tiny.py" halt "$scratch/tiny"; }
# A machine that would start, and one more thing that is wrong with it. Its socket must not stay.
but() {
	local pattern=$1
	shift
	[ -e "$scratch/tiny" ] || tiny
	bad "$pattern" --kernel "$scratch/tiny" --serial "socket=$scratch/s" "$@"
	[ ! -e "$scratch/s" ] || fail "the socket of a machine that never was stayed: $*"
}

kernels() {
	local vmlinux bzimage
	vmlinux=$(kernel 6.12 vmlinux)
	bzimage=$(kernel 6.12 bzimage)
	bad '--kernel' --serial off
	bad '--kernel.*/nonexistent/k.*no such file' --kernel /nonexistent/k --serial off
	bad "--kernel.*$scratch.*directory" --kernel "$scratch" --serial off
	: >"$scratch/empty"
	bad '--kernel.*empty' --kernel "$scratch/empty" --serial off
	echo 'this is no kernel, whatever its name says' >"$scratch/text"
	bad '--kernel.*text' --kernel "$scratch/text" --serial off
	# Of the other CPU.
	local other=aarch64
	[ "$arch" = x86_64 ] || other=x86_64
	"$tests/tiny.py" halt "$scratch/other" $other
	bad '--kernel.*other' --kernel "$scratch/other" --serial off
	for n in 3 60 4000 1000000; do
		head -c $n "$vmlinux" >"$scratch/short"
		bad '--kernel.*short' --kernel "$scratch/short" --serial off
		head -c $n "$bzimage" >"$scratch/short"
		bad '--kernel.*short' --kernel "$scratch/short" --serial off
	done
}

memory_and_cpus() {
	but '--initramfs.*/nonexistent/i' --initramfs /nonexistent/i
	truncate -s 512M "$scratch/initramfs"
	but '--initramfs.*memory' --initramfs "$scratch/initramfs" --memory size=256M
	but '--cpus.*0' --cpus boot=0
	but '--cpus.*100000' --cpus boot=100000
	but '--memory.*99999999999G' --memory size=99999999999G
	but '--memory.*18446744073709551616' --memory size=18446744073709551616
	but '--memory.*lots' --memory size=lots
	but '--memory' --memory size=0
	but '--memory.*4097' --memory size=4097
	bad '(--memory|--kernel).*memory' --kernel "$(kernel 6.12 vmlinux)" --memory size=16M --serial off
}

options() {
	but '--disc.*--disk' --disc path=/x
	but 'readonyl.*readonly' --disk path=/x,readonyl=on
	but 'nonsense' nonsense
	but '--on-reset.*maybe' --on-reset=maybe
	but '--disk.*path' --disk readonly=on
	but '--config.*/nonexistent/c' --config /nonexistent/c
	echo '{ "payload": { "kernel": ' >"$scratch/config"
	but '--config.*config' --config "$scratch/config"
}

disks() {
	but '--disk.*/nonexistent/d.*no such file' --disk path=/nonexistent/d
	but "--disk.*$scratch.*directory" --disk "path=$scratch"
	truncate -s 1000 "$scratch/odd"
	but '--disk.*odd.*512' --disk "path=$scratch/odd"
	truncate -s 1M "$scratch/a"
	# Locked by another machine, for writing; two readers may share.
	machine --kernel "$scratch/tiny" --serial off --disk "path=$scratch/a"
	wait_until "the first machine took no lock" locked "$scratch/a"
	but '--disk.*/a.*(lock|use)' --disk "path=$scratch/a"
	but '--disk.*/a.*(lock|use)' --disk "path=$scratch/a,readonly=on"
	kill -TERM "$pid"
	ends 0
}
# Some process holds a lock on file $1.
locked() { grep -q ":$(stat -c %i "$1") " /proc/locks; }

consoles() {
	tiny
	bad '--(console|serial).*(terminal|tty)' --kernel "$scratch/tiny" --serial tty --console tty
	but '--console.*/nonexistent/f' --console file=/nonexistent/f
	: >"$scratch/taken"
	but '--console.*taken' --console "socket=$scratch/taken"
	[ -f "$scratch/taken" ] || fail "a file that was not ours is gone"
}

net() {
	but '--net.*02:00:00:00:00:zz' --net user,mac=02:00:00:00:00:zz
	before=(env PATH=/nonexistent)
	but 'passt' --net user
	before=()
	but '--net.*averyveryverylongname' --net tap=averyveryverylongname
}

# A tap that nobody gave this user, and one that another machine has.
tap_not_ours() {
	need_root
	tiny
	before=(unshare -n setpriv --reuid 65534 --regid 65534 --clear-groups)
	but '--net.*guest9' --net tap=guest9
}

kvm_missing() {
	need_root
	tiny
	before=(unshare -m sh -c 'mount -t tmpfs none /dev && exec "$@"' sh)
	bad '/dev/kvm' --kernel "$scratch/tiny" --serial off
	mknod "$scratch/kvm" c 10 232
	chmod 600 "$scratch/kvm"
	before=(unshare -m sh -c 'mount --bind "$0" /dev/kvm && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
		"$scratch/kvm")
	bad '/dev/kvm.*(permission|right|group)' --kernel "$scratch/tiny" --serial off
}

t bad_kernels kernels
t bad_memory_and_cpus memory_and_cpus
t bad_options options
t bad_disks disks
t bad_consoles consoles
t bad_net net
t bad_tap_not_ours tap_not_ours
t bad_kvm_missing_or_forbidden kvm_missing
