#!/bin/bash
# Hostile drivers on bare metal (tests/guest/attack.c) against a cross build, in the emulated host: on the long list each case, on
# the short one some of each set. `make guest` runs all of them where tests run on the machine that they were built for, and
# with the sanitizers.
. "$(dirname "$0")/lib.sh"
case $microvm in
"$tree"/build/*/microvm) ;;
*) exit 0 ;;
esac
# With a GICv2 there are no messages, so no PCI devices.
grep -qs GICv2 /proc/interrupts && exit 0

# hostile TRANSPORT RING EACH
hostile() {
	unset TALLY
	python3 "$tree/tests/guest/run" --program "$microvm" --guest "${microvm%/microvm}/guest/guest.Image" --each "$3" \
		"hostile $1 $2" >"$dir/out" 2>&1 ||
		{ cp "$dir/out" "$dir/stderr"; fail "$(grep -a ' FAILED' "$dir/out" | head -n 3 | tr -s ' ' | tr '\n' ';')"; }
	grep -aqE '^guest: [1-9][0-9]+ passed' "$dir/out" || fail "few of them ran: $(tail -n 1 "$dir/out")"
}

if brief; then
	t guest_hostile_pci_packed_some hostile pci packed 32
	t guest_hostile_mmio_split_some hostile mmio split 32
else
	t guest_hostile_pci_split hostile pci split 1
	t guest_hostile_pci_packed hostile pci packed 1
	t guest_hostile_mmio_split hostile mmio split 1
	t guest_hostile_mmio_packed hostile mmio packed 1
fi
