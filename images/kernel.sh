#!/bin/sh
# Fetch a Debian kernel without installing it and take it apart: kernel.sh SERIES[-cloud], e.g. 6.1, 6.12, 6.12-cloud.
#
# Prints the folder, which holds `release` (its name as uname -r gives it), `vmlinuz` as Debian ships it, `vmlinux`
# unpacked from that, `config`, and lib/modules/RELEASE with module indexes. 6.1 is bookworm's, 6.12 backports'. On
# aarch64 Debian ships the kernel unpacked: `vmlinux` is the same Image, and `vmlinuz` one that gzip has packed.
. "$(dirname "$0")/lib.sh"

[ $# = 1 ] || die "usage: $0 SERIES[-cloud], e.g. 6.12"
series=${1%-cloud}
meta=linux-image-$debian
[ "$series" = "$1" ] || meta=linux-image-cloud-$debian
name=$1
[ $debian = amd64 ] || name=$1-$debian
link=$cache/kernel/$name
if [ -s "$link/release" ]; then
	readlink -f "$link"
	exit
fi

apt_setup
# The newest version of the meta package whose kernel is of this series; apt lists the newest first.
package=$($apt_cache show "$meta" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' |
	grep "^linux-image-$(printf %s "$series" | sed 's/\./\\./g')[.]" | head -n 1) || true
[ -n "$package" ] || die "no $meta of series $series in the package lists; is bookworm-backports enabled? (make deps)"

mkdir -p "$cache/kernel"
work=$(mktemp -d "$cache/kernel/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "fetching $package"
(cd "$work" && $apt_get -qq -o APT::Sandbox::User= download "$package" >&2)
# What no virtual machine has stays out: it is most of the size.
mkdir "$work/out"
dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -x -C "$work/out" --no-same-owner \
	--exclude='*/sound' --exclude='*/drivers/media' --exclude='*/drivers/net/wireless' --exclude='*/drivers/staging' \
	--exclude='*/drivers/gpu/drm/amd' --exclude='*/drivers/gpu/drm/nouveau' --exclude='*/drivers/gpu/drm/i915' \
	--exclude='*/drivers/gpu/drm/radeon' --exclude='*/drivers/infiniband' --exclude='*/usr/share/doc'
cd "$work/out" || exit
release=${package#linux-image-}
mv "boot/vmlinuz-$release" vmlinuz
mv "boot/config-$release" config
rm -rf boot usr
[ -d lib/modules ] || die "$package holds no modules"
depmod -b "$PWD" "$release"

# What decompresses itself on x86 does not on ARM (Documentation/arch/arm64/booting.rst): there the file is the Image.
take_image() {
	[ "$(od -An -t x1 -j 56 -N 4 vmlinuz | tr -d ' ')" = 41524d64 ] || die "$package: the kernel is no arm64 Image"
	mv vmlinuz vmlinux
	gzip -1 -c vmlinux >vmlinuz
}

# A bzImage says where its compressed payload lies: Documentation/arch/x86/boot.rst, payload_offset and payload_length,
# counted from the end of the setup sectors. The last four bytes are the unpacked size, no part of the stream.
number() { od -An -t "u$2" -j "$1" -N "$2" vmlinuz | tr -d ' '; }
unpack_bzimage() {
	start=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
	length=$(($(number 588 4) - 4))
	tail -c +$((start + 1)) vmlinuz | head -c "$length" >payload
	case $(od -An -t x1 -N 4 payload | tr -d ' ') in
	28b52ffd) zstd -qdc payload >vmlinux ;;
	02214c18) lz4 -qdc payload >vmlinux ;;
	fd377a58) xz -dc payload >vmlinux ;;
	1f8b*) gzip -dc payload >vmlinux ;;
	*) die "$package: the kernel's compression is unknown to this script" ;;
	esac
	rm payload
	[ "$(od -An -t x1 -N 4 vmlinux | tr -d ' ')" = 7f454c46 ] || die "$package: what was unpacked is no ELF file"
}

case $arch in
x86_64) unpack_bzimage ;;
aarch64) take_image ;;
esac
echo "$release" >release
cd "$cache/kernel" || exit
rm -rf "$release"
mv "$work/out" "$release"
ln -sfn "$release" "$name"
readlink -f "$link"
