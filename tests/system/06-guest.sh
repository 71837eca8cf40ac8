#!/bin/bash
# The bare-metal guests of a cross build (tests/guest), in the emulated host. Everything is emulated, so these are the ones that
# ask something of the CPU's own code, of each transport and of each ring format. `make guest` runs all of them, and with the
# sanitizers, where tests run on the machine that they were built for.
. "$(dirname "$0")/lib.sh"
case $microvm in
"$tree"/build/*/microvm) ;;
*) exit 0 ;;
esac
# With a GICv2 there are no messages, so no PCI devices.
grep -qs GICv2 /proc/interrupts && exit 0

# guest [OPTION...] NAME...: the cases whose names begin with it.
guest() {
	python3 "$tree/tests/guest/run" --program "$microvm" --guest "${microvm%/microvm}/guest/guest.Image" "$@" >"$dir/out" 2>&1 ||
		{ cp "$dir/out" "$dir/stderr"; fail "$(grep -a ' FAILED' "$dir/out" | head -n 3 | tr -s ' ' | tr '\n' ';')"; }
	grep -aq '^guest: [1-9][0-9]* passed' "$dir/out" || fail "none of them ran: $(tail -n 1 "$dir/out")"
}
# hostile TRANSPORT RING EACH: hostile drivers (tests/guest/attack.c), of each set the first and each EACH-th after it.
hostile() {
	guest --each "$3" "hostile $1 $2"
	grep -aqE '^guest: [1-9][0-9]+ passed' "$dir/out" || fail "few of them ran: $(tail -n 1 "$dir/out")"
}
unset TALLY

# The short list: that these guests run, and two of the hostile drivers.
! brief || t guest_sample guest hello 'SIGTERM ends' 'hostile register sweep mmio' 'hostile cve_2026'
brief || t guest_starts_and_ends guest hello 'exit after' 'reboot by' 'SIGTERM ends' 'memory edges'
brief || t guest_blk guest 'blk pci plain' 'blk pci packed,event_idx,indirect,in_order' 'blk mmio event_idx,indirect' \
	'blk mmio packed,in_order' 'blk readonly' 'blk data'
brief || t guest_registers guest registers pci
brief || t guest_chars guest 'rng pci split' 'rng mmio packed' 'console pci packed' 'console mmio split'
brief || t guest_net guest 'net tap pci split' 'net tap mmio packed'
brief || t guest_sweeps guest 'hostile register sweep' 'hostile config space sweep'
if brief; then
	t guest_hostile_pci_packed_some hostile pci packed 32
	t guest_hostile_mmio_split_some hostile mmio split 32
else
	t guest_hostile_pci_split hostile pci split 1
	t guest_hostile_pci_packed hostile pci packed 1
	t guest_hostile_mmio_split hostile mmio split 1
	t guest_hostile_mmio_packed hostile mmio packed 1
fi
