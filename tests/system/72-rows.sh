#!/bin/bash
# What threads call against the rows of their roles (tests/sandbox), for a CPU that is not this host's: in the emulated host.
# Where tests run on the machine that they were built for, `make sandbox-test` does it.
. "$(dirname "$0")/lib.sh"
case $microvm in
"$tree"/build/*/microvm) ;;
*) exit 0 ;;
esac
# It takes minutes there.
brief && exit 0
# With a GICv2 the same rows would be looked at again.
grep -qs GICv2 /proc/interrupts && exit 0

rows() {
	python3 "$tree/tests/sandbox/run" --program "$microvm" --guest "${microvm%/microvm}/guest/guest.Image" >"$dir/out" 2>&1 ||
		{ cp "$dir/out" "$dir/stderr"; fail "$(grep -aE ' fail|never used|no row|is used' "$dir/out" | head -n 5 | tr -s ' ' | tr '\n' ';')"; }
	grep -aq '^sandbox: [1-9][0-9]* passed' "$dir/out" || fail "none of them ran: $(tail -n 1 "$dir/out")"
}
unset TALLY

t sandbox_rows rows
