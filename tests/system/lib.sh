# shellcheck shell=bash
# What the system tests share. Sourced by tests/system/*.sh, which tests/system/run starts.
#
# A test file calls `t NAME FUNCTION [ARG...]` for each of its tests. The function runs in a subshell with `set -eu` in
# a folder of its own ($dir), and passes when it returns 0; `fail WHY` and `skip WHY` end it. A machine is started by
# `machine OPTION...`, its serial console goes to $dir/serial unless the options say otherwise, its own messages to
# $dir/stderr. Nothing here fails because a machine is slow: $patience (seconds) finds what hangs.

set -u
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(cd "$tests/../.." && pwd)
images=$tree/images
microvm=${MICROVM:-$tree/build/microvm}
# A CPU that emulates a CPU, beside other work.
patience=${SYSTEM_PATIENCE:-${RIG:+900}}
patience=${patience:-300}
logs=${SYSTEM_LOGS:-$tree/build/system${MICROVM_ARCH:+-$MICROVM_ARCH}}
results=${SYSTEM_RESULTS:-/dev/null}
name=
# What tests know of the CPU: the serial port, how the machine describes itself, the kernel's clock.
arch=${MICROVM_ARCH:-$(uname -m)}
case $arch in
aarch64) tty=ttyAMA0 tables=devicetree clock=arch_sys_counter ;;
*) tty=ttyS0 tables=acpi clock=kvm-clock ;;
esac
PATH=$PATH:/usr/sbin:/sbin

# host_runs_kernels: true when KVM runs a guest's kernel on the CPU itself. Some hosts have a /dev/kvm that emulates it,
# a thousand times slower; `--check` measures that.
host_runs_kernels() {
	[ "$arch" = "$(uname -m)" ] || return 1
	[ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
	if [ -x "$microvm" ]; then
		case $("$microvm" --check 2>/dev/null | sed -n 's/.*guest kernel code: //p') in
		"hardware speed"*) return 0 ;;
		emulated*) return 1 ;;
		esac
	fi
	[ "$arch" = aarch64 ] || grep -qwE 'svm|vmx' /proc/cpuinfo
}

now() { date +%s%3N; }

fail() {
	printf '%s\n' "$*" >"$dir/why"
	exit 1
}
skip() {
	printf '%s\n' "$*" >"$dir/why"
	exit 77
}

# Does $SYSTEM_ONLY, a list of patterns, name this test?
wanted() {
	local pattern
	set -f
	# shellcheck disable=SC2254
	for pattern in ${SYSTEM_ONLY:-*}; do
		case $name in $pattern) set +f; return 0 ;; esac
	done
	set +f
	return 1
}

# `brief || t ...`: a test that $SYSTEM_BRIEF leaves out, because another one asks the same of another transport, ring or
# mode. For an emulated CPU beside one of our own. SYSTEM_BRIEF=rig: in the rig only.
brief() { [ -n "${SYSTEM_BRIEF:-}" ] && { [ "$SYSTEM_BRIEF" != rig ] || [ -n "${RIG:-}" ]; }; }

# Runs one test; says `ok NAME SECONDS`, `not ok NAME WHY` or `skip NAME WHY`.
t() {
	name=$1
	shift
	wanted || return 0
	dir=$logs/$name
	rm -rf "$dir"
	mkdir -p "$dir"
	# Guests' disks and sockets: memory, where the rig's logs would go over a slow wire.
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/system.XXXXXX")
	chmod 777 "$scratch"
	local start rc took seconds why
	start=$(now)
	(
		set -eu
		trap clean_up EXIT
		"$@"
	) >"$dir/stdout" 2>&1 </dev/null
	rc=$?
	took=$(($(now) - start))
	seconds=$((took / 1000)).$((took % 1000 / 100))
	rm -rf "$scratch"
	why=$(cat "$dir/why" 2>/dev/null)
	case $rc in
	0) echo "ok $name $seconds" ;;
	77) echo "skip $name $why" ;;
	*)
		echo "not ok $name ${why:-$(tail -n 1 "$dir/stdout")} ($seconds s)"
		for log in stdout stderr serial; do
			[ -s "$dir/$log" ] && tail -n 12 "$dir/$log" | sed "s/^/    $log: /"
		done
		;;
	esac | tee -a "$results"
}

# Whatever a test started ends with it.
clean_up() {
	local p
	for p in ${started:-}; do
		kill -KILL "$p" 2>/dev/null || true
		wait "$p" 2>/dev/null || true
	done
	keep_serial
}
started=

# What the threads of $pid are at, twice: for who wonders why nothing comes.
stuck() {
	local turn task
	for turn in 1 2; do
		for task in /proc/"$pid"/task/*; do
			printf 'thread %s: %s, in system call %s; %s\n' "$(cat "$task/comm")" "$(cat "$task/wchan")" "$(cat "$task/syscall")" \
				"$(grep -h voluntary_ctxt "$task/status" | tr -s '\t\n' '  ')"
		done
		sleep 2
	done >>"$dir/stderr" 2>&1
}

# wait_for FILE PATTERN: until a line of FILE matches, while process $pid lives.
wait_for() {
	local end=$((SECONDS + patience))
	until grep -aqE "$2" "$1" 2>/dev/null; do
		if ! kill -0 "$pid" 2>/dev/null; then
			# It may have written its last words between our two looks.
			grep -aqE "$2" "$1" 2>/dev/null && return 0
			fail "the program ended before '$2' was seen"
		fi
		[ $SECONDS -lt $end ] || { stuck; fail "no '$2' within $patience s"; }
		sleep 0.2
	done
}

# wait_until WHY COMMAND...: until it succeeds.
wait_until() {
	local why=$1 end=$((SECONDS + patience))
	shift
	until "$@" 2>/dev/null; do
		[ $SECONDS -lt $end ] || fail "$why: not within $patience s"
		sleep 0.2
	done
}

# ends STATUS: $pid ends by itself, with that status.
ends() {
	local end=$((SECONDS + patience)) rc=0
	while kill -0 "$pid" 2>/dev/null; do
		[ $SECONDS -lt $end ] || { stuck; fail "the program did not end within $patience s"; }
		sleep 0.2
	done
	wait "$pid" || rc=$?
	[ "$rc" = "$1" ] || fail "exit status $rc, not $1: $(tail -n 1 "$dir/stderr")"
}

# kernel SERIES FORM: the file of a Debian kernel: vmlinux, and as its CPU has it packed, bzimage or gzip.
kernel() {
	local folder
	folder=$("$images/kernel.sh" "$1")
	case $2 in
	vmlinux) echo "$folder/vmlinux" ;;
	bzimage | gzip) echo "$folder/vmlinuz" ;;
	esac
}

# From here on in this test the program runs as nobody, if we are root. The tree and the cache may lie where only we may
# go, so it gets copies.
as=()
without_rights() {
	[ "$(id -u)" = 0 ] || return 0
	cp "$microvm" "$scratch/microvm"
	microvm=$scratch/microvm
	copies=1
	as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
}
copies=
# reachable FILE: its path, or that of a copy for that user to read.
reachable() {
	[ -n "$copies" ] || { echo "$1"; return; }
	cp --sparse=always "$1" "$scratch/"
	chmod a+r "$scratch/${1##*/}"
	echo "$scratch/${1##*/}"
}

# machine OPTION...: start the program; $pid.
machine() {
	"${as[@]}" "$microvm" "$@" >"$dir/machine.out" 2>"$dir/stderr" &
	pid=$!
	started="$started $pid"
}

# boot SERIES FORM CHECKS [OPTION...]: a test guest on the serial console in $dir/serial, which is a file unless
# $serial says otherwise; $words are added to the kernel's command line; $programs of this machine come along.
boot() {
	local series=$1 form=$2 checks=$3
	shift 3
	machine --kernel "$(reachable "$(kernel "$series" "$form")")" \
		--initramfs "$(reachable "$("$images/initramfs.sh" test "$series" ${programs:-})")" \
		--cmdline "console=${console:-$tty} quiet panic=-1 net.ifnames=0 run=$checks ${words:-}" \
		--memory "size=${memory:-256M}" --serial "${serial:-file=$scratch/serial}" "$@"
}
# The serial log goes where logs are kept, however the test ends.
keep_serial() { cp "$scratch/serial" "$dir/serial" 2>/dev/null || true; }

# guest_passed N: the guest did N checks, and all went well.
guest_passed() {
	keep_serial
	local bad
	bad=$(grep -a 'guest: not ok' "$dir/serial" | tr -d '\r' | head -n 3 | tr '\n' ';') || true
	[ -z "$bad" ] || fail "$bad"
	grep -aq "guest: end $1 ok 0 not ok" "$dir/serial" ||
		fail "not $1 checks: $(grep -a 'guest: end' "$dir/serial" | tr -d '\r')"
}

# How many checks a list holds, the last word (poweroff and the like) not counted.
count() { echo "$1" | tr , '\n' | sed '$d' | wc -l; }

# A small web server for the guest: serve FOLDER; $port, reachable at 127.0.0.1 of the host.
serve() {
	local tries=0 server
	while [ $tries -lt 20 ]; do
		port=$((20000 + RANDOM % 20000))
		busybox httpd -f -p "${2:-127.0.0.1}:$port" -h "$1" >>"$dir/httpd" 2>&1 &
		server=$!
		sleep 0.5
		if kill -0 $server 2>/dev/null; then
			started="$started $server"
			return
		fi
		tries=$((tries + 1))
	done
	fail "no port for the web server"
}

# noise FILE MIB: random bytes, and their MD5 in $md5.
noise() {
	dd if=/dev/urandom of="$1" bs=1M count="$2" 2>/dev/null
	chmod 644 "$1"
	md5=$(md5sum <"$1" | cut -d ' ' -f 1)
}

# passt, by the number of its processes: tests run one after the other.
passts=$(pgrep -c '^passt' || true)
no_passt() { [ "$(pgrep -c '^passt' || true)" = "$passts" ]; }
has_passt() { [ "$(pgrep -c '^passt' || true)" -gt "$passts" ]; }

# one_unit_test PROGRAM TEST: of those that need a disk which the environment names.
one_unit_test() {
	"${microvm%/microvm}/unit/$1" --filter="$2" --verbose >"$dir/out" 2>&1 ||
		fail "$(grep -a '^\[----\]' "$dir/out" | head -n 5)"
	grep -aq 'Synthesis:.*Passing: 1' "$dir/out" || fail "it ran no test"
}

need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }
need_route() { ip route show default | grep -q . || skip "this host has no default route for passt to copy"; }

# For a whole test file: go on in a network namespace of our own, where interfaces that we make concern nobody.
in_own_network() {
	[ -n "${SYSTEM_OWN_NETWORK:-}" ] && return
	local how=(unshare -n)
	[ "$(id -u)" = 0 ] || how=(unshare -Urn)
	SYSTEM_OWN_NETWORK=1 exec "${how[@]}" "$0"
}
