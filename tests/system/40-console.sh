#!/bin/bash
# Consoles: tty, pty, socket (file is what all other tests use), both ways, on the serial line and on virtio-console.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/parts.sh"

# The options of a guest that runs checks $1, for tests that start the program themselves.
guest() {
	guest_options=(--kernel "$(kernel 6.12 vmlinux)" --initramfs "$("$images/initramfs.sh" test 6.12)" --memory size=256M
		--cmdline "console=$tty quiet run=$1")
}

serial_on_tty() {
	guest lines:$tty,poweroff
	expect --log "$dir/serial" --run raw "wait:guest: reading $tty" 'send:one two\r' 'wait:guest: heard one two' \
		'send:bye\r' 'wait:guest: ok lines' end:0 restored \
		-- "$microvm" "${guest_options[@]}" --serial tty
}

console_on_tty_with_window() {
	# Linux takes a console's size only from a change of it.
	guest lines:hvc0,window:hvc0:40x100,poweroff
	expect --log "$dir/hvc" --run raw 'wait:guest: reading hvc0' 'send:on hvc\r' \
		'wait:guest: heard on hvc' size:40x100 'send:bye\r' 'wait:guest: heard bye' end:0 restored \
		-- "$microvm" "${guest_options[@]}" --serial "file=$scratch/serial" --console tty
	guest_passed 2
}

left_by_keys() {
	guest lines:$tty,poweroff
	expect --log "$dir/serial" --run raw "wait:guest: reading $tty" 'send:\x01x' end:0 restored \
		-- "$microvm" "${guest_options[@]}" --serial tty
}

left_by_signal() {
	guest lines:$tty,poweroff
	expect --log "$dir/serial" --run raw "signal:$1" end:0 restored \
		-- "$microvm" "${guest_options[@]}" --serial tty
}

on_socket() {
	serial=socket=$scratch/s boot 6.12 vmlinux lines:$tty,lines:hvc0,poweroff --console "socket=$scratch/h"
	# What the guest says while nobody listens is lost: this client is there from the start.
	"$tests/expect.py" --log "$dir/hvc" --patience "$patience" --socket "$scratch/h" 'wait:guest: reading hvc0' \
		'send:bye\r' 'wait:guest: heard bye' 2>"$dir/hvc.why" &
	local other=$!
	expect --log "$dir/serial" --socket "$scratch/s" "wait:guest: reading $tty" 'send:first\r' \
		'wait:guest: heard first' close
	# A second client goes on where the first one left.
	expect --log "$dir/serial2" --socket "$scratch/s" 'send:second\r' 'wait:guest: heard second' 'send:bye\r' \
		'wait:guest: heard bye'
	wait $other || fail "on hvc0: $(cat "$dir/hvc.why")"
	ends 0
	[ ! -e "$scratch/s" ] && [ ! -e "$scratch/h" ] || fail "a socket was left behind"
}

on_pty() {
	serial=pty boot 6.12 vmlinux lines:$tty,poweroff
	wait_for "$dir/stderr" '/dev/pts/[0-9]+'
	expect --log "$dir/serial" --open "$(grep -o '/dev/pts/[0-9]*' "$dir/stderr" | head -n 1)" \
		"wait:guest: reading $tty" 'send:hello\r' 'wait:guest: heard hello' 'send:bye\r' 'wait:guest: heard bye'
	ends 0
}

brief || t console_serial_on_tty serial_on_tty
brief || t console_virtio_on_tty_with_its_window console_on_tty_with_window
brief || t console_tty_left_by_keys left_by_keys
t console_tty_left_by_sigterm left_by_signal SIGTERM
brief || t console_tty_left_by_sighup left_by_signal SIGHUP
brief || t console_on_sockets on_socket
brief || t console_on_pty on_pty
