#!/bin/bash
# Unit tests of a cross build that need what an emulator of single programs lacks: KVM, io_uring, filters of system calls.
# Where tests run on the machine that they were built for, `make unit` has done all of it.
. "$(dirname "$0")/lib.sh"
case $microvm in
"$tree"/build/*/microvm) ;;
*) exit 0 ;;
esac

# program NAME: all of its tests, none left out but for a reason that holds on any machine of this CPU.
program() {
	"${microvm%/microvm}/unit/$1" --jobs=2 --verbose >"$dir/out" 2>&1 || fail "$(grep -a '^\[FAIL\]' "$dir/out" | head -n 3)"
	! grep -a '^\[SKIP\].*\(no KVM\|io_uring\|no system call filters\)' "$dir/out" >"$dir/why" || exit 1
	grep -aq 'Synthesis:.*Passing: [1-9]' "$dir/out" || fail "it ran no test"
}

for name in arch arm64_kvm disk_raw link_passt loop sandbox; do
	t "unit_$name" program "test_$name"
done
