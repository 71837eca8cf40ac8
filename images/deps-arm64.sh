#!/bin/sh
# Install what a cross build for aarch64 and its tests need on a Debian 12 machine of another CPU, and only that: the
# compiler, the libraries' :arm64 packages, QEMU. Quick when everything is there. On an arm64 host deps.sh is enough.
#
# libcriterion-dev of two CPUs exclude each other (by what they depend on), so its library and the one it needs are
# unpacked into the cache instead, where the Makefile looks for them.
set -eu
cache=${MICROVM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/microvm}/arm64

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(uname -m)" != aarch64 ] || exit 0

packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross libseccomp-dev:arm64 liburing-dev:arm64 libjansson-dev:arm64
	libfdt1:arm64 libfdt-dev device-tree-compiler zlib1g:arm64 libzstd1:arm64 liblz4-1:arm64 liblzma5:arm64"
# QEMU's user mode for unit tests, its machine for real guests.
backports="qemu-user qemu-system-arm"
unpacked="libcriterion3 libnanomsg5 busybox-static"

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
foreign() { dpkg --print-foreign-architectures | grep -qx arm64; }
if [ "$*" != -- ] || ! foreign; then
	say "installing: $(echo "$*" | sed 's/ -- / /; s/^-- //; s/ --$//')"
	foreign || quietly $sudo dpkg --add-architecture arm64
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

[ ! -s "$cache/.done" ] || exit 0
mkdir -p "$cache"
work=$(mktemp -d "$cache/.work.XXXXXX")
trap 'rm -rf "$log" "$work"' EXIT
for package in $unpacked; do
	(cd "$work" && quietly apt-get -o APT::Sandbox::User= download "$package:arm64")
	dpkg-deb -x "$work/$package"_*.deb "$cache"
done
echo "$unpacked" >"$cache/.done"
