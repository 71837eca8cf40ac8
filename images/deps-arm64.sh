#!/bin/sh
# Install what a cross build for aarch64 and its tests need on a Debian 12 machine of another CPU, and only that: the
# compiler, the libraries' :arm64 packages, QEMU. Quick when everything is there. On an arm64 host deps.sh is enough.
#
# libcriterion-dev of two CPUs exclude each other (by what they depend on), so its library and those that it needs are
# in the root that hostroot.sh unpacks into the cache, where the Makefile looks for them.
MICROVM_ARCH=aarch64
export MICROVM_ARCH
. "$(dirname "$0")/lib.sh"

[ -n "$foreign" ] || exit 0

packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross libseccomp-dev:arm64 liburing-dev:arm64 libjansson-dev:arm64
	libfdt1:arm64 libfdt-dev mmdebstrap uidmap"
# QEMU's user mode for unit tests, its machine for real guests.
backports="qemu-user qemu-system-arm"

missing() {
	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
	done
}

# word splitting is meant: lists of names
# shellcheck disable=SC2046,SC2086
set -- $(missing $packages) -- $(missing $backports)
sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || [ "$*" = -- ] || die "packages are missing: $* ; run as root, or install sudo"
	sudo=sudo
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
	"$@" >"$log" 2>&1 || { cat "$log" >&2; die "failed: $*"; }
}
# Never at the price of a package that is there: --no-remove.
install() {
	quietly $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-remove --no-install-recommends "$@"
}
known() { dpkg --print-foreign-architectures | grep -qx arm64; }
if [ "$*" != -- ] || ! known; then
	say "installing: $(echo "$*" | sed 's/ -- / /; s/^-- //; s/ --$//')"
	known || quietly $sudo dpkg --add-architecture arm64
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
fi

"$images/hostroot.sh" >/dev/null
