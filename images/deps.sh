#!/bin/sh
# Install what the build and the tests need on Debian 12, and only that. Quick when everything is there.
. "$(dirname "$0")/lib.sh"

# The build.
packages="build-essential pkg-config libseccomp-dev liburing-dev libjansson-dev libfdt-dev zlib1g-dev libzstd-dev
	liblz4-dev liblzma-dev"
# `--net user` at run time.
packages="$packages passt"
# Tests: unit tests, fuzzers, the compilers that judge our tables (ASL, device tree), system call counts, protocol models,
# memcheck, AFL++.
packages="$packages libcriterion-dev clang libclang-rt-14-dev acpica-tools device-tree-compiler strace spin python3 git
	ethtool tcpdump valgrind afl++ fio iperf3"
# Images: Debian's kernels and a Debian disk, made without root.
packages="$packages mmdebstrap uidmap busybox-static cpio kmod e2fsprogs xz-utils zstd lz4 iproute2 procps"
# The nested rig, and QEMU's own judgement of disk images, from backports.
native=$(dpkg --print-architecture)
case $native in
arm64) backports="qemu-system-arm qemu-utils" ;;
*) backports="qemu-system-x86 qemu-utils" ;;
esac
missing() {
	for package in "$@"; do
		# One line for each architecture that it is there for; another CPU's does not count.
		dpkg-query -W -f '${Architecture} ${db:Status-Status}\n' "$package" 2>/dev/null |
			grep -qxE "(all|$native) installed" || echo "$package"
	done
}

case $(. /etc/os-release && echo "$ID $VERSION_ID") in
"debian 12") ;;
*) say "this machine is not Debian 12; the packages needed are: $(echo $packages $backports)" ;;
esac

# word splitting is meant: lists of names
# shellcheck disable=SC2046,SC2086
set -- $(missing $packages) -- $(missing $backports)
[ "$*" != -- ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "packages are missing: $* ; run as root, or install sudo"
	sudo=sudo
fi
say "installing: $(echo "$*" | sed 's/ -- / /; s/^-- //; s/ --$//')"
if ! backports_known; then
	file=/etc/apt/sources.list.d/microvm-backports.sources
	text=$(backports_source)
	printf '%s\n' "$text" | $sudo tee "$file" >/dev/null
	say "enabled bookworm-backports in $file"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
	"$@" >"$log" 2>&1 || { cat "$log" >&2; die "failed: $*"; }
}
install() {
	quietly $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}
quietly $sudo apt-get update
main=
while [ "$1" != -- ]; do
	main="$main $1"
	shift
done
shift
# shellcheck disable=SC2086
[ -z "$main" ] || install $main
[ $# = 0 ] || install -t bookworm-backports "$@"
