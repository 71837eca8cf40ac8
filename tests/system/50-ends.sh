#!/bin/bash
# How a machine ends: by the guest's will, by its failure, by the user's.
. "$(dirname "$0")/lib.sh"

tiny() { "$tests/tiny.py" "$1" "$scratch/tiny"; }

# reset_by WAY STATUS: with --on-reset=exit a reset ends the program; a triple fault is a failure of the guest.
reset_by() {
	words="${1:+reboot=$1}" boot 6.12 vmlinux reboot --on-reset=exit
	ends "$2"
	guest_passed 0
}

# With --on-reset=reboot the guest starts again from its images.
resets_and_comes_back() {
	local boots=3
	truncate -s 1M "$scratch/a"
	boot 6.12 vmlinux sleep:1,reboot --cpus boot=2 --on-reset=reboot --disk "path=$scratch/a" \
		--console "file=$scratch/hvc"
	wait_until "no boot number $boots" boots_enough
	kill -TERM "$pid"
	ends 0
	keep_serial
	! grep -aqE 'guest: not ok|module ' "$dir/serial" || fail "a later boot found less than the first"
}
boots_enough() { [ "$(grep -ac 'guest: begin' "$scratch/serial")" -ge "$boots" ]; }

panics() {
	boot 6.12 vmlinux panic --on-reset=exit
	ends 0
	grep -qi 'panic' "$dir/stderr" || fail "the log does not tell of the panic: $(cat "$dir/stderr")"
}

# hangs CHECK PATTERN CPUS: a guest that does nothing more, or nothing else, is ended by a signal.
hangs() {
	boot 6.12 vmlinux "$1" --cpus "boot=$3"
	wait_for "$scratch/serial" "$2"
	sleep 2
	kill -0 "$pid" || fail "it ended by itself"
	kill -TERM "$pid"
	ends 0
}

power_button() {
	boot 6.12 vmlinux button,poweroff
	wait_for "$scratch/serial" 'waiting for the power button'
	sleep 1
	kill -USR1 "$pid"
	ends 0
	guest_passed 1
}

# Without a device for it, nobody but the guest hears of a panic; the reset that follows is ours to carry out.
panic_resets() {
	boot 6.12 vmlinux panic --on-reset=exit
	ends 0
	grep -aq 'Kernel panic' "$scratch/serial" || fail "there was no panic"
}

# What KVM cannot tell us how to emulate.
odd_access_ends() {
	tiny crash
	machine --kernel "$scratch/tiny" --serial off
	ends 1
	grep -q 'cannot be emulated' "$dir/stderr" || fail "the log does not tell why: $(cat "$dir/stderr")"
}

triple_fault_ends() {
	tiny crash
	machine --kernel "$scratch/tiny" --serial off --on-reset=exit
	ends 1
	grep -qi 'triple' "$dir/stderr" || fail "the log does not tell why: $(cat "$dir/stderr")"
}

reset_loop_is_broken() {
	tiny reset
	machine --kernel "$scratch/tiny" --serial off --on-reset=reboot
	ends 1
	grep -qi 'giving up' "$dir/stderr" || fail "the log does not tell why: $(cat "$dir/stderr")"
}

# signal NAME: at many moments from the first on. Before the program could take it, the signal's own status counts.
signal() {
	local number delay rc
	number=$(kill -l "$1")
	tiny halt
	truncate -s 1M "$scratch/a"
	# A shell starts its background jobs with some signals ignored, and one that comes then is lost.
	as=(env "--default-signal=$1")
	for delay in 0 0.01 0.03 0.1 0.2 0.4 0.8 2; do
		machine --kernel "$scratch/tiny" --serial "socket=$scratch/s" --console "socket=$scratch/h" \
			--disk "path=$scratch/a" --net user
		wait_until "SIG$1 stays ignored" takes "$number"
		sleep $delay
		kill "-$1" "$pid"
		rc=0
		local end=$((SECONDS + patience))
		while kill -0 "$pid" 2>/dev/null; do
			[ $SECONDS -lt $end ] || fail "still there after $patience s, signal after $delay s"
			sleep 0.05
		done
		wait "$pid" || rc=$?
		# The last delay is long enough for any machine to have started.
		[ $rc = 0 ] || { [ $rc = $((128 + number)) ] && [ $delay != 2 ]; } ||
			fail "exit status $rc, signal after $delay s: $(cat "$dir/stderr")"
		[ ! -e "$scratch/s" ] && [ ! -e "$scratch/h" ] || fail "a socket is left, signal after $delay s"
		wait_until "passt is left, signal after $delay s" no_passt
	done
}

# takes NUMBER: the process that was started does not ignore the signal, or is gone.
takes() {
	local mask
	mask=$(sed -n 's/^SigIgn:\s*//p' "/proc/$pid/status" 2>/dev/null) || return 0
	[ -z "$mask" ] || [ $((0x$mask >> ($1 - 1) & 1)) = 0 ]
}

# Even where we can do nothing any more, no helper stays.
killed_hard() {
	need_route
	tiny halt
	machine --kernel "$scratch/tiny" --serial off --net user
	wait_until "passt did not start" has_passt
	kill -KILL "$pid"
	wait_until "passt is left" no_passt
}

case $arch in
aarch64)
	brief || t end_reset_by_psci reset_by "" 0
	brief || t end_panic_resets panic_resets
	t end_access_that_nobody_can_emulate odd_access_ends
	;;
*)
	brief || t end_reset_by_acpi reset_by a 0
	brief || t end_reset_by_keyboard_controller reset_by k 0
	brief || t end_reset_by_triple_fault reset_by t 1
	brief || t end_panic_is_reported panics
	t end_triple_fault_at_once triple_fault_ends
	;;
esac
brief || t end_reset_comes_back resets_and_comes_back
brief || t end_halted_guest_stops_on_sigterm hangs halt 'System halted' 1
brief || t end_spinning_guest_stops_on_sigterm hangs spin 'guest: spin' 2
brief || t end_power_button power_button
t end_reset_loop_is_broken reset_loop_is_broken
t end_sigterm_at_any_moment signal TERM
brief || t end_sigint_at_any_moment signal INT
brief || t end_sighup_at_any_moment signal HUP
t end_killed_hard_leaves_no_helper killed_hard
